"""What the published records say of a paper's figures, over all seeds that there are."""
from __future__ import annotations

import functools
from pathlib import Path

from kitlib.base.settings import KitError
from kitlib.evaluation import cell
from kitlib.experiments import aggregates, experiment, results, verdicts
from kitlib.experiments.results import Results
from kitlib.experiments.runs import fingerprint_of
from kitlib.experiments.settings import Experiment

Entries = dict[int, verdicts.PaperEntry]    # of one figure, by seed


def of_paper(letter: str, figures: Path) -> dict[str, list[Entries]]:
    """By experiment, for each figure of a paper its entries by seed.

    Counted are figures/<experiment>/results.json and, of published sweeps, the records of the same settings; where
    there are two of a seed, the first. Experiments without a record are left out.
    Raises KitError where a record is damaged.
    """
    found = {name: _by_seed(name, figures) for name in experiment.of_paper(letter)}
    return {name: [{seed: entry for seed, each in by_seed.items() for entry in each.paper if entry.id == first.id}
                   for first in next(iter(by_seed.values())).paper]
            for name, by_seed in found.items() if by_seed}


def _by_seed(name: str, figures: Path) -> dict[int, Results]:
    path = figures / name / "results.json"
    if not path.exists():
        return {}
    first = record(path)
    found = {first.seed: first}
    for path in sorted(figures.glob(f"sweeps/*/records/{name}/*/seed*.json")):
        other = record(path)
        if other.profile == first.profile and _settings(other) == _settings(first):
            found.setdefault(other.seed, other)
    return dict(sorted(found.items()))


def record(path: Path) -> Results:
    """A published results.json, see `judged_by_current_file`; read once as long as the file does not change."""
    if not path.exists():
        raise KitError(f"there is no record {path}: `kitlib publish` makes it of a finished run")
    return _record(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _record(path: Path, _changed: int) -> Results:
    return judged_by_current_file(results.read(path))


def _settings(found: Results) -> str:
    """Of the experiment that a record holds; its own stamp where this version knows other settings."""
    try:
        return fingerprint_of(Experiment.read(found.experiment, "the record"))
    except KitError:
        return found.fingerprint


def judged_by_current_file(found: Results) -> Results:
    """Results with the prose, the margin and the rivals that the experiment's file has now, where its settings are
    still those that they were made with; else as they are."""
    try:
        now = experiment.load(found.experiment["name"], found.profile)
    except KitError:    # there is no such file any more, or no such profile in it
        return found
    if fingerprint_of(now) != _settings(found):
        return found
    return results.judged_anew(found, now.model_dump(mode="json"), now.stands_in, f"the record of {now.name}")


def measured(entries: Entries) -> str:
    """What was measured as published: over seeds, or of the one run there is."""
    if len(entries) == 1:
        return cell(next(iter(entries.values())).as_published)
    spread = aggregates.Spread.of({seed: each.as_published.accuracy for seed, each in entries.items()})
    return f"{aggregates.cell(spread)} runs of {next(iter(entries.values())).images} images"
