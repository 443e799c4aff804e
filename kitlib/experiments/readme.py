"""What the README shows of the records in figures/: its tables and the numbers in its prose."""
from __future__ import annotations

import re
from pathlib import Path

from kitlib.base.files import read_json
from kitlib.base.settings import KitError, suggestion
from kitlib.experiments import results, sweeps
from kitlib.experiments.results import as_markdown


def fill_in(text: str, figures: Path) -> str:
    """`text` with what stands between marks and '<!-- end -->' made anew from the records in `figures`.

    <!-- results: NAME --> is the experiment's heading and its table of the paper's figures, or of accuracies where the
    paper has none; <!-- sweep: NAME --> likewise, of a published sweep, and of accuracies only those that its pictures
    show. <!-- value: FILE A / B / C --> is the accuracy under keys A, B, C of a JSON record, with its count, and
    <!-- minutes: FILE A / B / C --> the seconds there, in minutes.
    Raises KitError where a record or a key is missing.
    """
    makers = {
        r"results: ([\w. -]+?)": lambda name: f"\n{_run(results.read(figures / name / 'results.json'))}",
        r"sweep: ([\w. -]+?)": lambda name: f"\n{_sweep(sweeps.read(figures / 'sweeps' / name / 'aggregate.json'))}",
        r"value: (\S+) ([^>]+?)": lambda file, keys: _accuracy(_value(figures / file, keys)),
        r"minutes: (\S+) ([^>]+?)": lambda file, keys: f"{_value(figures / file, keys) / 60:.0f} minutes",
    }
    for mark, make in makers.items():
        text = re.sub(
            rf"(<!-- {mark} -->).*?<!-- end -->",
            lambda match, make=make: f"{match[1]}{make(*match.groups()[1:])}<!-- end -->", text, flags=re.DOTALL)
    return text


def _run(found: results.Results) -> str:
    table = results.paper_table(found) if found.paper else results.accuracy_table(found)
    return f"**{results.heading(found)}**\n\n{as_markdown(table)}"


def _sweep(found: sweeps.Aggregate) -> str:
    table = sweeps.paper_table(found.groups)
    if table.empty:
        table = sweeps.accuracy_table(found.groups)
        table = table[table["under"].isin([row for group in found.groups for row in group.headline])]
    return f"**{sweeps.heading(found)}**\n\n{sweeps.LEGEND}\n\n{as_markdown(table)}"


def _value(path: Path, keys: str):
    value = read_json(path)
    for key in keys.split(" / "):
        known = value if isinstance(value, dict) else {}
        if key not in known:
            raise KitError(f"{path} has no '{key}' of '{keys}'{suggestion(key, known)}")
        value = value[key]
    return value


def _accuracy(found: dict) -> str:
    return f"{100 * found['accuracy']:.1f} % ({found['correct']} of {found['count']})"
