"""results.json: its schema, what of it answers a paper's figures, and the tables made from it."""
from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from kitlib.attacks import CarliniWagnerL2, DeepFool, InBall
from kitlib.base.files import read_json, write_json, write_text
from kitlib.base.machine import environment
from kitlib.base.settings import KitError, Settings
from kitlib.data import Dataset
from kitlib.evaluation import Evaluation, Measured, cell, confusion, recalls
from kitlib.experiments import verdicts
from kitlib.experiments.runs import Run, fingerprint_of
from kitlib.experiments.settings import PAPER_IMAGES, RESERVED, ComparisonSettings, Experiment, PaperFigure
from kitlib.experiments.verdicts import Answer, PaperEntry

Which = Literal["baseline", "defended"]
NEAREST = {kind.model_fields["name"].default for kind in (CarliniWagnerL2, DeepFool)}


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


class Results(Settings):
    """The record of one run: everything that tables, README and reports are made from.

    In version 1 the worst case was taken over attacks of larger epsilons too. Verdicts are made from the numbers
    whenever a record is read.
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
    models: dict[Which, ModelResults]
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
                   for name, p in predictions.items()})


def measured_for(results: ModelResults, attack: str) -> Measured:
    """The measurement that an attack's name, "clean", "combined" or "worst case" stands for."""
    combined = {"combined": results.combined} if results.combined else {}
    return {**results.attacks, **combined, "clean": results.clean, "worst case": results.worst_case}[attack]


def judge_figure(figure: PaperFigure, results: dict[Which, ModelResults], stands_in: bool, *, margin: float = 3.0,
                 paper_images: int | None = None, published: Collection[str] = ()) -> PaperEntry:
    """The measurements of one run that answer a figure of the paper, with the verdict of this run alone.

    margin, paper_images: as in the experiment. published: the as-published attacks that "combined" is over.
    """
    model = results[figure.model]
    found = measured_for(model, figure.attack)
    images = min(found.count, model.clean.count)    # of combined images each counts once
    entry = PaperEntry(
        id=figure.id, paper=figure.paper, paper_images=figure.paper_images or paper_images or images, margin=margin,
        images=images, as_published=_plain(found), as_defined=answer(model, figure.as_defined),
        defined_by=figure.as_defined, one_answer=_one_answer(model, figure.attack, published), mechanism=figure.flaw,
        control=_plain(measured_for(model, figure.control)) if figure.control else None, control_is=figure.control_is,
        rivals={name: _plain(measured_for(model, attack)) if attack else None
                for name, attack in figure.rivals.items()})
    return entry if stands_in else verdicts.with_verdict(entry)


def _plain(measured: Measured) -> Measured:
    return Measured(**measured.model_dump(include=set(Measured.model_fields)))


def answer(results: ModelResults, attack: str) -> Answer:
    """As `measured_for`, with distance and success where the attack looks for the nearest adversarial image."""
    measured = measured_for(results, attack)
    plain = _plain(measured).model_dump()
    if isinstance(measured, UnderAttack) and measured.settings.get("name") in NEAREST:
        return Answer(**plain, mean_l2=measured.mean_l2, success_rate=measured.success_rate)
    return Answer(**plain)


def _one_answer(model: ModelResults, attack: str, published: Collection[str]) -> bool:
    """Whether the model gave nearly all images the same answer, though they are of several classes."""
    matrices = [model.confusion[name] for name in (published if attack == "combined" else [attack])
                if name in model.confusion]
    if not matrices:
        return False
    matrix = np.sum(matrices, axis=0)
    answers, labels = matrix.sum(0).max() / matrix.sum(), matrix.sum(1).max() / matrix.sum()
    return bool(answers >= verdicts.ONE_ANSWER > labels)


def paper_entries(experiment: dict, models: dict[Which, ModelResults], stands_in: bool) -> tuple[PaperEntry, ...]:
    """The figures of a paper that an experiment (as a record holds it) answers, judged by the numbers of one run.

    Raises KitError where the experiment names a figure or a measurement that cannot be read.
    """
    figures = [PaperFigure.read(each, f"figure of experiment {experiment['name']}")
               for each in experiment.get("paper_figures", ())]
    how = {"margin": experiment.get("margin", 3.0), "published": experiment["attacks"].get("as_published", {}),
           "paper_images": experiment.get("paper_images") or PAPER_IMAGES.get(experiment.get("paper", ""))}
    return tuple(judge_figure(figure, models, stands_in, **how) for figure in figures
                 if all(name in models[figure.model].attacks for name in figure.named() if name not in RESERVED))


def collect(run: Run, dataset: Dataset, models: dict[Which, ModelResults]) -> Results:
    """Everything that is known of a run once both of its models have been evaluated."""
    experiment = run.experiment
    records = {name: run.read_record(name) for name in ("data", "baseline", "defended")}
    return Results(experiment=experiment.model_dump(mode="json"), profile=run.profile, seed=run.seed,
                   fingerprint=run.fingerprint, synthetic=dataset.synthetic, source=dataset.source,
                   data=records["data"]["report"], environment=environment(),
                   precision={name: records[name]["precision"] for name in models},
                   seconds={f"training {name}": records[name]["seconds"] for name in models},
                   models=models, paper=paper_entries(experiment.model_dump(mode="json"), models, experiment.stands_in))


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
    if not isinstance(content, dict) or not isinstance(content.get("paper"), list):
        return Results.read(content, str(path))
    stands_in = any(isinstance(entry, dict) and entry.get("verdict") is None for entry in content["paper"])
    found = Results.read(content | {"paper": ()}, str(path))
    return judged_anew(found, found.experiment, stands_in, path)


def judged_anew(found: Results, experiment: dict, stands_in: bool, path: Path | str) -> Results:
    """Results with the verdicts that their numbers give for the figures of `experiment` (as a record holds it).

    path: of the record, for the message. Raises KitError where the experiment names what was not measured.
    """
    try:
        paper = paper_entries(experiment, found.models, stands_in)
    except (AttributeError, KeyError, TypeError) as error:
        raise KitError(f"{path} is damaged: its experiment does not say what was measured ({error!r}): run notebook "
                       "05_evaluation.ipynb again") from None
    return found.model_copy(update={"experiment": experiment, "paper": paper})


def of_run(run: Run, path: Path | None = None) -> Results:
    """The results of a run, with the title, the choices and other prose that its experiment has now.

    path: of its record, where that does not lie in the run's folder.
    Raises KitError where they are missing, damaged, or made with other settings or figures of the paper.
    """
    own, path = path is None, path or run.need("results.json")
    found = read(path)
    if own:
        run.refuse_other_data(path, found.data.get("identity"), "run its notebooks again")
    if not is_current(found, run):
        raise KitError(f"{path} belongs to other settings than experiment '{run.experiment.name}' has now: run its "
                       "notebooks again")
    return judged_anew(found, run.experiment.model_dump(mode="json"), run.experiment.stands_in, path)


def is_current(found: Results, run: Run) -> bool:
    """Whether results are of the run's settings and figures of the paper. A setting that the kit did not have yet when
    they were made has its default there, so that a new one makes nothing out of date."""
    try:
        then = Experiment.read(found.experiment, "the record")
    except KitError:    # of a version that knew other settings
        return False
    figures = [{each.id: each.asks() for each in experiment.paper_figures} for experiment in (then, run.experiment)]
    return fingerprint_of(then) == run.fingerprint and figures[0] == figures[1]


def accuracy_table(results: Results) -> pd.DataFrame:
    """One row an attack, one column a model; cells are per cent with the interval and the count, or of attacks that
    look for the nearest adversarial image its distance and the share that they turn."""
    rows = rows_of(results)
    table = {"under": list(rows)}
    for name, model in results.models.items():
        table[name] = [verdicts.cell(answer(model, key)) for key in rows.values()]
    return pd.DataFrame(table)


def rows_of(results: Results) -> dict[str, str]:
    """The rows of the table of accuracies, in its order: what they are called -> the key for `measured_for`."""
    rows = {"clean": "clean", **{name: name for name in results.models["baseline"].attacks}}
    if results.models["baseline"].combined:
        rows["combined (as published)"] = "combined"
    return rows | {f"worst case (untargeted, up to {results.experiment['evaluation']['headline']})": "worst case"}


def paper_table(results: Results) -> pd.DataFrame:
    """One row a figure of the paper."""
    return pd.DataFrame([
        {
            "figure": entry.id, "paper": f"{entry.paper:.2f}",
            "as published": cell(entry.as_published), "as defined": verdicts.cell(entry.as_defined),
            "verdict": entry.verdict or "(other data)", "why": entry.why}
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
        row = {"compared_model": name, "clean": cell(Measured(**record["clean"]))}
        row["carried over"] = _percent(record["carried_over"])
        row[f"{comparison.headline}, naive"] = _percent(record["naive"])
        for attack, found in record["attacks"].items():
            if isinstance(comparison.attacks[attack], InBall):
                row[attack] = _percent(found)
            else:
                row[f"{attack}: distance (success)"] = _distance(found)
        row["worst case"] = cell(Measured(**record["worst_case"]))
        rows.append(row | {part: f"{record[part]['times_plain']:.1f} x" for part in ("training", "inference")})
    return pd.DataFrame(rows)


def _percent(record: dict) -> str:
    return f"{100 * record['accuracy']:.1f}"


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
