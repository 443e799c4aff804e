"""report.html of a run: the paper against what was measured, audits, pictures, choices, and how to repeat it."""
from __future__ import annotations

import shlex
from pathlib import Path

from kitlib import audit
from kitlib.audit.report import Page, Picture, Section, Table, checks, flags, pictures_in, render, repeat
from kitlib.base.files import write_text
from kitlib.experiments import experiment as experiments
from kitlib.experiments import results

# Pictures that the notebooks leave, in the order of the page; others follow by name.
CAPTIONS = {
    "accuracy": "Accuracy of both models under every attack, with 95 % intervals",
    "adversarial_images": "Adversarial images of the attacks as defined, made against the baseline",
    "published_images": "Adversarial images of the attacks as published, and of a control without perturbation",
    "baseline_sweep": "Accuracy of the baseline against epsilon",
    "defended_sweep": "Accuracy of the defended model against epsilon",
    "confusion": "Confusion matrices: baseline above, defended below",
    "baseline_confusion": "Confusion matrix of the baseline on clean images",
    "baseline_curves": "Training of the baseline",
    "defended_curves": "Training of the defended model",
    "samples": "Images of each class",
    "class_counts": "Images of each class in each part of the data",
    "paper_a": "Paper A: its claims, the same rerun as published, and accuracies under the attacks as defined",
    "paper_b": "Paper B: its claims, the same rerun as published, and accuracies under the attacks as defined",
}


ATTRIBUTIONS = {"iq_othnccd": (
    "CT slices: Alyasriy and Al-Huseiny, The IQ-OTH/NCCD lung cancer dataset, Mendeley Data, doi:10.17632/bhmdr45bh2, "
    "CC BY 4.0; resized, and attacked where it says so.")}


def write_run(folder: Path, out: Path | None = None) -> Path:
    """report.html in the folder of a run (or in that of its published results), or at `out`; returns its path.

    Raises KitError where results.json is missing or damaged.
    """
    found = results.read(folder / "results.json")
    audits = {path.parent.name: audit.read(path) for path in sorted(folder.glob("audit/*/audit.json"))
              if audit.is_of_its_model(path.parent)}
    path = out or folder / "report.html"
    write_text(path, render(run_page(found, pictures_in(folder / "figures" if (folder / "figures").is_dir() else folder,
                                                      CAPTIONS), audits)))
    return path


def run_page(found: results.Results, pictures: tuple[Picture, ...] = (), audits: dict | None = None) -> Page:
    experiment, audits = found.experiment, audits or {}
    verdicts = tuple((record.verdict.kind, f"{which}: {record.verdict.sentence}") for which, record in audits.items())
    own = "" if experiment["name"] in experiments.names() else ".yaml"      # asked for by its file, wherever that lies
    asked = f"{shlex.quote(experiment['name'] + own)} --profile {found.profile} --seed {found.seed}"
    counts = ", ".join(f"{part} {sum(each.values()):,}" for part, each in found.data["counts"].items())
    command = f"python -m kitlib reproduce {asked}\npython -m kitlib report {asked}"
    sections = (
        Section("What was asked", words=(experiment["summary"],), facts=(
            ("Data", found.source), ("Images", counts), ("Network", experiment["model"]["name"]),
            ("Baseline", experiment["baseline"]["method"]), ("Defended", experiment["defended"]["method"]))),
        *_against_the_paper(found),
        Section("Accuracy under every attack", words=(
            "Accuracy in per cent, its 95 % interval, and the number of test images.",),
            tables=(Table.of(results.accuracy_table(found)),)),
        *(Section(f"Audit of the {which} model", words=flags(record), tables=(checks(record),))
          for which, record in audits.items()),
        Section("Pictures", words=(attribution(experiment),) if pictures and attribution(experiment) else (),
                pictures=pictures),
        Section("Choices that the paper leaves open", facts=tuple(experiment.get("choices", {}).items())),
        repeat(found.environment, command, ("Time of both trainings", f"{sum(found.seconds.values()):.0f} s")))
    return Page(experiment["title"], results.heading(found), verdicts,
                tuple(section for section in sections if _says_something(section)))


def attribution(experiment: dict) -> str:
    """What must stand beside pictures of an experiment's data (as a record holds it); empty where nothing must."""
    return ATTRIBUTIONS.get(experiment["data"]["name"], "")


def _against_the_paper(found: results.Results) -> tuple[Section, ...]:
    if not found.paper:
        return ()
    return (Section("The paper against what was measured", words=(
        "As published follows the paper's own recipe, flaws included. As defined is the attack as its inventors "
        "define it, in the valid pixel box, made against the very model that is judged.",),
        tables=(Table.of(results.paper_table(found), marked="verdict"),)),)


def _says_something(section: Section) -> bool:
    return bool(section.words or section.facts or section.command or section.pictures
                or any(table.rows for table in section.tables))
