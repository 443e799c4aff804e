"""What README.md and RESULTS.md show of the records in figures/: their tables, and the numbers in their prose."""
from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from kitlib import audit
from kitlib.base.files import read_json
from kitlib.base.settings import KitError, choose, format_epsilon, suggestion
from kitlib.evaluation import cell
from kitlib.experiments import evidence, experiment, results, sweeps, verdicts
from kitlib.experiments.report import attribution
from kitlib.experiments.results import Results, as_markdown
from kitlib.experiments.settings import ComparisonSettings, Experiment, lessons, threat_of

FILES = ("README.md", "RESULTS.md")
RISE = 0.03     # of the accuracy under attack above the clean one, which paper A's experiments 2 to 4 show


def fill_in(text: str, figures: Path) -> str:
    """`text` with what stands between marks and '<!-- end -->' made anew from the records in `figures`.

    A mark is <!-- KIND: WORDS -->; `MAKERS` has the kinds, and what each makes.
    Raises KitError for an unknown kind, and where a record or a key is missing.
    """
    def made(match: re.Match) -> str:
        maker = choose(match["kind"], MAKERS, "mark of a document")
        return f"{match['mark']}{maker(figures, match['words'].strip())}<!-- end -->"

    return re.sub(r"(?P<mark><!-- (?P<kind>[a-z]+): (?P<words>[^>]*?) -->).*?<!-- end -->", made, text, flags=re.DOTALL)


def _read(figures: Path, name: str) -> Results:
    return evidence.record(figures / name / "results.json")


def _table(rows: list[dict] | pd.DataFrame, heading: str = "") -> str:
    table = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(rows)
    return f"\n{heading}{as_markdown(table)}"


# --- the claims of a paper

def claims(figures: Path, letter: str) -> str:
    """Each figure of a paper: claim, protocol, seeds, measured, difference, verdict, mechanism, rivals."""
    found = evidence.of_paper(letter, figures)
    rows, numbers = [], iter(range(1, 1000))
    for name in experiment.of_paper(letter):
        for entries in found.get(name, []):
            rows.append({"claim": f"{letter}{next(numbers)}", **_claim(figures, name, entries)})
        if name not in found:
            rows.append({"claim": f"{letter}{next(numbers)}", "figure": name, "seeds": "no record"})
    return _table(pd.DataFrame(rows).fillna(""))


def _claim(figures: Path, name: str, entries: dict[int, verdicts.PaperEntry]) -> dict:
    first, verdict = next(iter(entries.values())), verdicts.judge(list(entries.values()))
    low, high = verdict.interval
    return {
        "figure": f"{first.id} (`{name}`)", "paper, %": f"{first.paper:g} of {first.paper_images}",
        "measured as published, %": evidence.measured(entries), "seeds": ", ".join(map(str, entries)),
        "measured minus paper, points": f"{verdict.difference:+.1f} [{low:+.1f}, {high:+.1f}]",
        "verdict": str(verdict) + (f" ({verdict.reason})" if verdict.reason else ""),
        "standard attack": _standard(first),
        "mechanism and its control":
            f"{first.mechanism}; {first.control_is}: {cell(first.control)}" if first.control else "",
        "rivals": _rivals(figures, name, first)}


def _rivals(figures: Path, name: str, entry: verdicts.PaperEntry) -> str:
    """The rivals that the experiment names; of paper A's FGSM also which other readings come within the margin of the
    figure, on any network whose controls are published (on its first test images)."""
    named = verdicts.rivals_in_words(entry) if entry.mechanism else ""
    attack: dict = next(iter(_read(figures, name).experiment["attacks"]["as_published"].values()), {})
    found = _readings(figures, f"{attack.get('eps', 0):g}") if entry.defined_by != "clean" else {}
    if not found:
        return named
    near = [f"{reading} ({100 * share:.1f})" for reading, share in found.items()
            if abs(100 * share - entry.paper) <= entry.margin and "/ true labels /" not in reading]
    return f"of {len(found)} readings tried within {entry.margin:g} points: {'; '.join(near) or 'none'}"


def _readings(figures: Path, eps: str) -> dict[str, float]:
    """Accuracies under the rival readings of paper A's FGSM, by network, reading and unit of epsilon."""
    return {f"`{path.parts[-3]}/{model}` / {reading} / {unit}": each["accuracy"]
            for path in sorted(figures.glob("[!.]*/records/controls.json"))
            for model, found in read_json(path)["models"].items()
            for reading, units in found.get("readings", {}).get(eps, {}).items() for unit, each in units.items()}


def _standard(entry: verdicts.PaperEntry) -> str:
    named = "worst case, untargeted" if entry.defined_by == "worst case" else entry.defined_by
    return "" if named == "clean" else f"{named}: {verdicts.cell(entry.as_defined)}"


def deviations(figures: Path, letter: str) -> str:
    """What the papers leave open, what was chosen, and why, as the experiments' files say it."""
    loaded = [experiment.load(name, "full") for name in experiment.of_paper(letter)]
    rows: dict[tuple[str, str], list[str]] = {}
    for each in loaded:
        for what, why in each.choices.items():
            rows.setdefault((what, " ".join(why.split())), []).append(each.name)
    return _table([{"what": what, "choice and reason": why, "experiments": ", ".join(names)}
                   for (what, why), names in rows.items()])


def controls(figures: Path, letter: str) -> str:
    """The controls that were measured on the published networks of a paper (records/controls.json): what isolates a
    mechanism, and behind a fold the rival readings of the paper's figures by what epsilon may be measured in."""
    rows, readings = [], []
    for path in sorted(figures.glob("[!.]*/records/controls.json")):
        name = path.parts[-3]
        if _read(figures, name).experiment["paper"] != letter:
            continue
        for model, found in read_json(path)["models"].items():
            rows += [{"network": f"`{name}/{model}`", "control": " / ".join(what), "accuracy or share": _accuracy(each)}
                     for what, each in _accuracies_in({key: each for key, each in found.items() if key != "readings"})]
            readings += [{"network": f"`{name}/{model}`", "epsilon": size, "reading": reading,
                          **{unit: f"{100 * each['accuracy']:.1f}" for unit, each in by_unit.items()}}
                         for size, of_one in found.get("readings", {}).items() for reading, by_unit in of_one.items()]
    if not rows:
        return "\nNo record of such controls is published yet.\n"
    fold = _table(readings, "<details><summary>Accuracy in per cent under each reading, by what epsilon is measured in"
                            "</summary>\n\n") + "\n</details>\n" if readings else ""
    return _table(rows) + fold


def specifications(figures: Path, name: str) -> str:
    """Every setting that was tried for a paper, figures/specifications/NAME.json, with what came out on the validation
    part and on the test part; sorted by the validation part, as a choice would be."""
    found = read_json(figures / "specifications" / f"{name}.json")
    rows = [{**{choice: "none" if value is None else str(value) for choice, value in row["settings"].items()},
             **{f"{under}, {part}": f"{100 * row[part][under]['accuracy']:.1f}"
                for part in ("validation", "test") for under in ("clean", "FGSM")},
             "PGD 8/255, test": f"{100 * row['test']['PGD 8/255']['accuracy']:.1f}"}
            for row in sorted(found["rows"], key=_rise, reverse=True)]
    images = found["rows"][0]["test"]["clean"]["count"]
    risen: dict[str, list[bool]] = {}
    for row in found["rows"]:
        risen.setdefault(row["settings"]["eps unit"], []).append(_rise(row, "test") >= RISE)
    by_unit = "; ".join(f"{sum(each)} of {len(each)} with {unit}" for unit, each in risen.items())
    return (f"\n{len(rows)} settings, drawn at random from {found['combinations']} combinations before any was trained "
            f"({found['experiment']}, profile {found['profile']}, one seed, {images} test images). **Under FGSM the "
            f"network is at least {100 * RISE:g} points above its clean accuracy in {sum(map(sum, risen.values()))} of "
            f"{len(rows)}**, by what epsilon is measured in: {by_unit}.\n\n"
            "<details><summary>Every setting, in per cent</summary>\n\n"
            f"{as_markdown(pd.DataFrame(rows))}\n</details>\n")


def _rise(row: dict, part: str = "validation") -> float:
    """How far the accuracy under FGSM lies above the clean one, a share."""
    return row[part]["FGSM"]["accuracy"] - row[part]["clean"]["accuracy"]


def _accuracies_in(found: dict, above: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], dict]]:
    """Every accuracy in nested mappings, by its keys."""
    inner = {(*above, key): each for key, each in found.items() if isinstance(each, dict)}
    return [pair for keys, each in inner.items()
            for pair in ([(keys, each)] if "count" in each else _accuracies_in(each, keys))]


# --- accuracies

def run(figures: Path, name: str) -> str:
    """Heading of an experiment and its table of the paper's figures, or of accuracies where the paper has none."""
    found = _read(figures, name)
    table = results.paper_table(found) if found.paper else results.accuracy_table(found)
    return f"\n**{results.heading(found)}**\n\n{as_markdown(table)}"


def accuracies(figures: Path, name: str) -> str:
    """Heading of an experiment and its accuracies, behind a fold."""
    found = _read(figures, name)
    table = as_markdown(results.accuracy_table(found))
    return f"\n<details><summary>{results.heading(found)}</summary>\n\n{table}\n</details>\n"


def sweep(figures: Path, name: str) -> str:
    """Heading of a published sweep and its table of the paper's figures, else of the accuracies that its pictures
    show."""
    found = sweeps.read(figures / "sweeps" / name / "aggregate.json")
    table = sweeps.paper_table(found.groups)
    if table.empty:
        table = sweeps.accuracy_table(found.groups)
        table = table[table["under"].isin([row for group in found.groups for row in group.headline])]
    return f"\n**{sweeps.heading(found)}**\n\n{sweeps.LEGEND}\n\n{as_markdown(table)}"


def comparison(figures: Path, words: str) -> str:
    """The table of compared models. words: experiment, then the record that holds them."""
    name, record = words.split()
    found = _read(figures, name)
    settings = ComparisonSettings.read(found.experiment["comparison"], f"comparison of {name}")
    judged = _inner(read_json(figures / name / "records" / f"{record}.json"), "compared_models", figures / name)
    return _table(results.comparison_table(judged, settings))


def worst(figures: Path, words: str) -> str:
    """The worst case of a published model, NAME/MODEL, by its audit; without one by its record, and then that no
    targeted attack is in it."""
    row = _worst_case(figures, *words.split("/"))
    return f"at most {_accuracy(row['worst case'].model_dump())} ({row['attacks']})"


def worsts(figures: Path, _: str) -> str:
    """The worst case of every published defended model."""
    names = sorted(path.parent.name for path in figures.glob("[!.]*/results.json"))
    rows = [{"model": f"`{name}/defended`", **_worst_case(figures, name, "defended")} for name in names]
    return _table([row | {"worst case": cell(row["worst case"])} for row in rows])


def _worst_case(figures: Path, name: str, model: str) -> dict:
    path = figures / name / "audit" / model / "audit.json"
    if path.exists():
        found = audit.read(path)
        targeted = "" if any("targeted" in attack for attack in found.attacks) else "; no targeted attack"
        return {"eps": format_epsilon(found.eps), "worst case": found.worst_case,
                "attacks": f"audit: {', '.join(found.attacks)}{targeted}", "verdict of the audit": found.verdict.kind}
    record = _read(figures, name)
    headline = record.experiment["evaluation"]["headline"]
    suite = Experiment.read(record.experiment, name).attacks
    return {"eps": format_epsilon(threat_of(suite.as_defined, headline).eps),
            "worst case": choose(model, record.models, "model").worst_case,
            "attacks": f"no audit; {', '.join(suite.within(headline))}; no targeted attack, which may lower it",
            "verdict of the audit": ""}


# --- pictures, machines, commands

def picture(figures: Path, words: str) -> str:
    """A picture of a run, FILE ALT, with the attribution that pictures of CT slices need."""
    file, _, alt = words.partition(" ")
    if not (figures / file).is_file():
        raise KitError(f"there is no picture {figures / file}: make it, or take its mark out of the document")
    record = figures / file.split("/")[0] / "results.json"
    source = attribution(read_json(record)["experiment"]) if record.exists() else ""
    return f"\n![{alt}](figures/{file})\n" + (f"\n*{source}*\n" if source else "")


def compute(figures: Path, _: str) -> str:
    """Seconds and machine of every published run."""
    rows = []
    for path in sorted(figures.glob("[!.]*/results.json")):
        found = results.read(path)
        machine, minutes = found.environment, {k: f"{v / 60:.0f}" for k, v in found.seconds.items()}
        rows.append({
            "experiment": f"`{path.parent.name}`", "seed": found.seed, "baseline, min": minutes["training baseline"],
            "defended, min": minutes["training defended"],
            "trained in": ", ".join(sorted(set(found.precision.values()))),
            "machine": f"{machine['processor']}, {machine['cores']} cores, " + (", ".join(machine["gpus"]) or "no GPU"),
            "TensorFlow": machine["versions"]["tensorflow"]})
    return _table(rows)


def commands(figures: Path, _: str) -> str:
    """The one command that repeats each table."""
    runs = [results.read(path) for path in sorted(figures.glob("[!.]*/results.json"))]
    rows = [{"table": f"`{found.experiment['name']}`",
             "command": f"`make reproduce EXPERIMENT={found.experiment['name']} PROFILE={found.profile} "
                        f"SEED={found.seed}`"} for found in runs]
    rows += [{"table": f"`{path.parent.parent.parent.name}/{path.parent.name}` audited",
              "command": f"`{audit.read(path).command}`"} for path in sorted(figures.glob("[!.]*/audit/*/audit.json"))]
    rows += [{"table": f"sweep `{path.parent.name}`", "command": f"`make sweep FILE={path.parent.name}`"}
             for path in sorted(figures.glob("sweeps/*/aggregate.json"))]
    return _table(rows)


def course(figures: Path, _: str) -> str:
    """The notebooks, each with the question and the time that its first cell says."""
    return _table([_lesson(path) for path in lessons()])


def _lesson(path: Path) -> dict:
    first = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
    patterns = {
        "title": r"^# \d+ · (.+)", "question": r"\*\*Question\.\*\* ([^\n]+)",
        "takes": r"\*\*Takes\*\* (.+?)(?: with the defaults[^.]*| on two cores[^.]*|, [^.]*)?\.(?=\s|$)"}
    parts = {part: found[1] for part, pattern in patterns.items() if (found := re.search(pattern, first))}
    if missing := [part for part in patterns if part not in parts]:
        raise KitError(f"{path}: its first cell has no {missing[0]}: it must begin with '# 1 · Title', and have "
                       "**Question.** and **Takes**")
    return {"notebook": f"[{path.name[:2]} {parts['title']}](notebooks/{path.name})",
            "question": parts["question"], "takes": parts["takes"]}


# --- single numbers

def value(figures: Path, words: str) -> str:
    """FILE A / B / C: the accuracy under keys A, B, C of a JSON record, with its count."""
    return _accuracy(_value(figures, words))


def minutes(figures: Path, words: str) -> str:
    """FILE A / B / C: the seconds there, in minutes."""
    return f"{_value(figures, words) / 60:.0f} minutes"


def verdict(figures: Path, letter: str) -> str:
    """How many figures of a paper have which verdict."""
    kinds = [verdicts.judge(list(entries.values())).kind
             for of_one in evidence.of_paper(letter, figures).values() for entries in of_one]
    counts = {kind: kinds.count(kind) for kind in ("compatible", "incompatible", "inconclusive")}
    return f"{len(kinds)} figures: " + ", ".join(f"{count} {kind}" for kind, count in counts.items())


def _value(figures: Path, words: str):
    file, _, keys = words.partition(" ")
    found = read_json(figures / file)
    for key in keys.split(" / "):
        found = _inner(found, key, f"{figures / file}, '{keys}'")
    return found


def _inner(found, key: str, where):
    """Older records call compared models contenders."""
    known = found if isinstance(found, dict) else {}
    key = "contenders" if key == "compared_models" and key not in known else key
    if key not in known:
        raise KitError(f"{where} has no '{key}'{suggestion(key, known)}")
    return known[key]


def _accuracy(found: dict) -> str:
    return f"{100 * found['accuracy']:.1f} % ({found['correct']} of {found['count']})"


MAKERS: dict[str, Callable[[Path, str], str]] = {
    "accuracies": accuracies, "claims": claims, "commands": commands, "comparison": comparison, "compute": compute,
    "controls": controls, "deviations": deviations, "minutes": minutes, "notebooks": course, "picture": picture,
    "results": run, "specifications": specifications, "sweep": sweep, "value": value, "verdicts": verdict,
    "worst": worst, "worsts": worsts}
