"""results.json: its schema, the verdicts on a paper's figures, and the tables made from it."""
from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from kitlib.attacks import InBall
from kitlib.base.files import read_json, write_json, write_text
from kitlib.base.machine import environment
from kitlib.base.settings import KitError, Settings
from kitlib.data import Dataset
from kitlib.evaluation import Evaluation, Measured, cell, confusion, recalls
from kitlib.experiments.runs import Run, fingerprint_of
from kitlib.experiments.settings import ComparisonSettings, Experiment, PaperFigure


class UnderAttack(Measured):
    """Accuracy under one attack, with its scores (kitlib.evaluation.SCORES) and settings.

    mean_l2 is None where the attack turned no image, relative_robustness where none was right before.
    """

    relative_robustness: float | None
    success_rate: float
    mean_l2: float | None
    max_linf: float
    seconds: float
    attack: str
    settings: dict


class ModelResults(Settings):
    """One model on the test images. `worst_case`: per image over clean and every
    as-defined attack up to the headline's epsilon.
    `transferred`: the baseline's adversarial images shown to this model (None for the baseline)."""

    clean: Measured
    attacks: dict[str, UnderAttack]
    combined: Measured | None
    worst_case: Measured
    transferred: dict[str, Measured] | None = None
    recall: dict[str, dict[str, Measured]]
    confusion: dict[str, list[list[int]]]


class PaperEntry(Settings):
    """One figure of the paper, in per cent, against what was measured.

    verdict is None where the run stands in for the paper's data and cannot judge the figure.
    """

    id: str
    paper: float
    as_published: Measured
    as_defined: Measured
    control: Measured | None
    verdict: Literal["reproduced", "explained", "not reproduced"] | None
    why: str


class Results(Settings):
    """The record of one run: everything that tables, README and reports are made from.

    In version 1 the worst case was taken over attacks of larger epsilons too.
    """

    schema_version: Literal[2] = 2
    experiment: dict
    profile: str
    seed: int
    fingerprint: str
    synthetic: bool
    source: str
    data: dict
    environment: dict
    precision: dict[str, str]
    seconds: dict[str, float]
    models: dict[Literal["baseline", "defended"], ModelResults]
    paper: tuple[PaperEntry, ...]


def model_results(evaluation: Evaluation, experiment: Experiment, class_names, transferred=None) -> ModelResults:
    """What results.json says of one evaluated model.

    transferred: the baseline's adversarial images judged by this model, {attack: Accuracy}.
    """
    predictions = {"clean": evaluation.clean_predictions}
    predictions |= {name: result.predictions for name, result in evaluation.attacked.items()}
    record = evaluation.record()
    published = list(experiment.attacks.as_published)
    return ModelResults(
        clean=record.pop("clean"), attacks=record,
        combined=evaluation.combined(published).record() if published else None,
        worst_case=evaluation.worst(experiment.attacks.within(experiment.evaluation.headline)).record(),
        transferred=transferred and {name: accuracy.record() for name, accuracy in transferred.items()},
        recall={name: recalls(evaluation.labels[: len(p)], p, class_names) for name, p in predictions.items()},
        confusion={name: confusion(evaluation.labels[: len(p)], p, len(class_names)).tolist()
                   for name, p in predictions.items()},
    )


def measured_for(results: ModelResults, attack: str) -> Measured:
    """The measurement that an attack's name, "clean", "combined" or "worst case" stands for."""
    if attack == "clean":
        return results.clean
    if attack == "combined":
        return results.combined
    if attack == "worst case":
        return results.worst_case
    return results.attacks[attack]


def judge_figure(figure: PaperFigure, results: dict[str, ModelResults], stands_in: bool) -> PaperEntry:
    """Compare one figure of the paper with the measurements that answer it, and say why."""
    model = results[figure.model]
    published = measured_for(model, figure.attack)
    defined = measured_for(model, figure.as_defined)
    control = measured_for(model, figure.control) if figure.control else None
    verdict = None if stands_in else _verdict(figure, published, control)
    return PaperEntry(
        id=figure.id, paper=figure.paper, as_published=_plain(published), as_defined=_plain(defined),
        control=control and _plain(control), verdict=verdict,
        why=_why(figure, published, defined, control, stands_in),
    )


def _plain(measured: Measured) -> Measured:
    return Measured(**measured.model_dump(include=set(Measured.model_fields)))


def _verdict(figure: PaperFigure, published: Measured, control: Measured | None) -> str:
    """`reproduced` where the as-published protocol comes to the figure, `explained` where it does so only by
    a flaw that the control isolates, else `not reproduced`."""
    if not published.agrees_with(figure.paper / 100):
        return "not reproduced"
    return "explained" if control and _isolates(figure, published, control) else "reproduced"


def _isolates(figure: PaperFigure, published: Measured, control: Measured) -> bool:
    """The flaw alone does what the attack does; or without it the run comes out otherwise, and not at the figure."""
    same = control.agrees_with(published.accuracy)
    return same if figure.control_is == "flaw alone" else not (same or control.agrees_with(figure.paper / 100))


def _why(figure, published, defined, control, stands_in: bool) -> str:
    gap = 100 * published.accuracy - figure.paper
    parts = [f"as published {100 * published.accuracy:.1f} % ({gap:+.1f} points from the paper)"]
    if figure.as_defined != figure.attack:
        parts.append(f"{figure.as_defined} leaves {100 * defined.accuracy:.1f} %")
    if control:
        parts.append(f"{figure.flaw}: '{figure.control}' ({figure.control_is}) gives {100 * control.accuracy:.1f} %")
    if stands_in:
        parts.append("other data than the paper's, so no verdict")
    return "; ".join(parts)


def collect(run: Run, dataset: Dataset, models: dict[str, ModelResults]) -> Results:
    """Everything that is known of a run once both of its models have been evaluated."""
    experiment = run.experiment
    records = {name: run.read_record(name) for name in ("data", "baseline", "defended")}
    return Results(
        experiment=experiment.model_dump(mode="json"), profile=run.profile, seed=run.seed,
        fingerprint=run.fingerprint, synthetic=dataset.synthetic, source=dataset.source,
        data=records["data"]["report"], environment=environment(),
        precision={name: records[name]["precision"] for name in models},
        seconds={f"training {name}": records[name]["seconds"] for name in models},
        models=models,
        paper=tuple(judge_figure(figure, models, experiment.stands_in) for figure in experiment.paper_figures),
    )


def write(results: Results, folder: Path) -> list[Path]:
    """results.json and its tables as Markdown and CSV; returns all of them."""
    write_json(folder / "results.json", results.model_dump(mode="json"))
    tables = {"accuracy": accuracy_table(results), "paper": paper_table(results)}
    written = [path for name, table in tables.items() for path in write_table(table, folder / "tables" / name)]
    return [folder / "results.json", *written]


def write_table(table: pd.DataFrame, path: Path) -> list[Path]:
    """A table as `path`.md and `path`.csv, without its index; returns both."""
    texts = {".md": as_markdown(table), ".csv": table.to_csv(index=False)}
    written = {path.with_name(path.name + ending): text for ending, text in texts.items()}
    for file, text in written.items():
        write_text(file, text)
    return list(written)


def read(path: Path) -> Results:
    """Raises KitError where the file is missing, damaged, of an older schema, or does not follow it."""
    content = read_json(path)
    if isinstance(content, dict) and content.get("schema_version") == 1:
        raise KitError(f"{path} has schema_version 1, whose worst case meant something else: run notebook "
                       "05_evaluation.ipynb again")
    return Results.read(content, str(path))


def of_run(run: Run, path: Path | None = None) -> Results:
    """The results of a run, with the title, the choices and other prose that its experiment has now.

    path: of its record, where that does not lie in the run's folder.
    Raises KitError where they are missing, damaged, or made with other settings or figures of the paper.
    """
    own, path = path is None, path or run.need("results.json")
    found = read(path)
    if own:
        run.refuse_other_data(path, found.data.get("identity"), "run its notebooks again")
    if not _answers(found, run):
        raise KitError(f"{path} belongs to other settings than experiment '{run.experiment.name}' has now: run its "
                       "notebooks again")
    return found.model_copy(update={"experiment": run.experiment.model_dump(mode="json")})


def answers(run: Run, path: Path) -> bool:
    """Whether the record `path` is of the run's settings. Raises KitError where it is damaged."""
    return _answers(read(path), run)


def _answers(found: Results, run: Run) -> bool:
    """Whether results are of the run's settings and figures of the paper. A setting that the kit did not have yet when
    they were made has its default there, so that a new one makes nothing out of date."""
    try:
        then = Experiment.read(found.experiment, "the record")
    except KitError:    # of a version that knew other settings
        return False
    figures = [{each.id: each for each in experiment.paper_figures} for experiment in (then, run.experiment)]
    return fingerprint_of(then) == run.fingerprint and figures[0] == figures[1]


def accuracy_table(results: Results) -> pd.DataFrame:
    """One row an attack, one column a model; cells are per cent with the interval and the count."""
    rows = rows_of(results)
    table = {"under": list(rows)}
    for name, model in results.models.items():
        table[name] = [cell(measured_for(model, key)) for key in rows.values()]
    return pd.DataFrame(table)


def rows_of(results: Results) -> dict[str, str]:
    """The rows of the table of accuracies, in its order: what they are called -> the key for `measured_for`."""
    rows = {"clean": "clean", **{name: name for name in results.models["baseline"].attacks}}
    if results.models["baseline"].combined:
        rows["combined (as published)"] = "combined"
    return rows | {f"worst case (up to {results.experiment['evaluation']['headline']})": "worst case"}


def paper_table(results: Results) -> pd.DataFrame:
    """One row a figure of the paper."""
    return pd.DataFrame([
        {
            "figure": entry.id, "paper": f"{entry.paper:.2f}",
            "as published": cell(entry.as_published), "as defined": cell(entry.as_defined),
            "verdict": entry.verdict or "(other data)", "why": entry.why,
        }
        for entry in results.paper
    ], columns=["figure", "paper", "as published", "as defined", "verdict", "why"])


def comparison_table(records: dict[str, dict], comparison: ComparisonSettings) -> pd.DataFrame:
    """One row a compared model, all as text. records: as kitlib.experiments.comparison.judged
    gives them, by name.

    Accuracies in per cent, clean and worst case with their 95 % interval; of attacks without an epsilon the mean
    distance over the images that they turned, and their success rate; costs as times the baseline's.
    """
    rows = []
    for name, record in records.items():
        row = {"compared_model": name, "clean": _with_interval(record["clean"])}
        row["carried over"] = _percent(record["carried_over"])
        row[f"{comparison.headline}, naive"] = _percent(record["naive"])
        for attack, found in record["attacks"].items():
            if isinstance(comparison.attacks[attack], InBall):
                row[attack] = _percent(found)
            else:
                row[f"{attack}: distance (success)"] = _distance(found)
        row["worst case"] = _with_interval(record["worst_case"])
        rows.append(row | {part: f"{record[part]['times_plain']:.1f} x" for part in ("training", "inference")})
    return pd.DataFrame(rows)


def _percent(record: dict) -> str:
    return f"{100 * record['accuracy']:.1f}"


def _with_interval(record: dict) -> str:
    low, high = record["interval"]
    return f"{_percent(record)} [{100 * low:.1f}, {100 * high:.1f}] of {record['count']}"


def _distance(record: dict) -> str:
    distance = "-" if record["mean_l2"] is None else f"{record['mean_l2']:.2f}"
    return f"{distance} ({100 * record['success_rate']:.0f} %)"


def as_markdown(table: pd.DataFrame) -> str:
    """A GitHub-flavoured Markdown table, its numbers to four digits."""
    lines = ["| " + " | ".join(map(_as_cell, row)) + " |" for row in (table.columns, *table.values)]
    lines.insert(1, "|" + " --- |" * len(table.columns))
    return "\n".join(lines) + "\n"


def _as_cell(value) -> str:
    if not isinstance(value, float):
        return " ".join(str(value).split()).replace("|", "\\|")
    return "" if np.isnan(value) else f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"


def heading(results: Results) -> str:
    """What the numbers of a run are about, in one line; synthetic data are always marked."""
    mark = "SYNTHETIC data, " if results.synthetic else ""
    name, model, data = (results.experiment[key] for key in ("name", "model", "data"))
    how = f"{mark}profile {results.profile}, seed {results.seed}, {model['name']} at {data['size']} px"
    return f"{name} ({how}): {results.experiment['title']}"
