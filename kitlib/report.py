"""report.html: one self-contained page about an audit or a run, made from their records and pictures alone."""
from __future__ import annotations

import base64
import dataclasses
import functools
import shlex
from pathlib import Path

from kitlib import audit, results
from kitlib import experiment as experiments
from kitlib.files import write_text
from kitlib.settings import KitError, format_epsilon

import jinja2

TEMPLATES = Path(__file__).parent / "templates"
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


@dataclasses.dataclass(frozen=True)
class Table:
    """Cells are text; a cell of the column named `marked` gets a colour by its first word."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: str | None = None

    @classmethod
    def of(cls, frame, marked: str | None = None) -> Table:
        return cls(tuple(frame.columns), tuple(tuple(map(str, row)) for row in frame.itertuples(index=False)), marked)


@dataclasses.dataclass(frozen=True)
class Picture:
    """uri: the PNG itself as a data URI, or where it lies."""

    caption: str
    uri: str


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading with words, facts (name and value), a command to copy, tables and pictures under it.

    links: text and address, in the site's pages only, as a report is one file.
    """

    title: str
    words: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    command: str | None = None
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    links: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class Page:
    """A report. verdicts: (kind, sentence) each; they stand at the top."""

    title: str
    subtitle: str
    verdicts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]


def render(page: Page) -> str:
    """The page as HTML; everything in it is escaped."""
    return environment().get_template("report.html").render(page=page)


@functools.cache
def environment() -> jinja2.Environment:
    return jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True,
                              lstrip_blocks=True, undefined=jinja2.StrictUndefined)


def picture(path: Path, caption: str) -> Picture:
    """A PNG with its caption. Raises KitError where it cannot be read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise KitError(f"{path} cannot be read ({error.strerror})") from None
    return Picture(caption, "data:image/png;base64," + base64.b64encode(content).decode("ascii"))


def _pictures(folder: Path, captions: dict[str, str]) -> tuple[Picture, ...]:
    """The PNGs of a folder: those with a caption first, in its order, then the others by name."""
    there = {path.stem: path for path in sorted(folder.glob("[!.]*.png"))}
    order = [name for name in captions if name in there] + [name for name in there if name not in captions]
    return tuple(picture(there[name], caption_of(name, captions)) for name in order)


def caption_of(name: str, captions: dict[str, str] = CAPTIONS) -> str:
    return captions.get(name, name.replace("_", " ").capitalize())


# --- an audit

def write_audit(folder: Path) -> Path:
    """report.html beside the audit.json and figures/ of `folder`; returns its path."""
    record = audit.read(folder / "audit.json")
    path = folder / "report.html"
    write_text(path, render(audit_page(record, _pictures(folder / "figures", audit.PICTURES))))
    return path


def audit_page(record: audit.AuditRecord, pictures: tuple[Picture, ...] = ()) -> Page:
    mark = "SYNTHETIC data. " if record.synthetic else ""
    sections = (
        Section("What was asked", facts=_asked(record)),
        Section("What was flagged", words=_flags(record)),
        Section("Accuracy under each attack", words=(
            "Accuracy in per cent, its 95 % interval, and the number of images. Every attack was made against this "
            "very model; an image counts in the worst case only if it is right without attack and under each of "
            "them.",),
            tables=(Table.of(audit.attack_table(record)),), pictures=pictures),
        Section("The nineteen checks", tables=(_checks(record),)),
        Section("What each check asks", tables=(_questions(record),)),
        _repeat(record.environment, record.command, ("Date", record.date), ("Time taken", f"{record.seconds:.0f} s")),
    )
    return Page(f"Is this robustness real? {record.model}", f"{mark}{record.data}",
                ((record.verdict.kind, record.verdict.sentence),), sections)


def _flags(record: audit.AuditRecord) -> tuple[str, ...]:
    reasons = tuple(reason[:1].upper() + reason[1:] + "." for reason in record.verdict.reasons)
    return reasons or ("No check flagged anything.",)


def _asked(record: audit.AuditRecord) -> tuple[tuple[str, str], ...]:
    claim = "none" if record.claim is None else f"{100 * record.claim:.1f} %"
    return (
        ("Model", record.model), ("Images", f"{record.clean.count} of: {record.data}"),
        ("Threat model", f"L-inf, eps {format_epsilon(record.eps)}, pixels in [0, 1]; the attacker knows the model"),
        ("Claimed robust accuracy", claim), ("The model takes", record.takes), ("It returns", record.returns),
        ("Classes", record.class_order), ("Guessing would get", f"{100 * record.chance:.1f} %"),
        ("Effort", f"{'quick' if record.quick else 'full'}: {_listed(record.effort.model_dump())}"),
    )


def _listed(values: dict) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())


def _checks(record: audit.AuditRecord) -> Table:
    rows = tuple((str(each.number), each.title, each.outcome, each.measured,
                  each.means if each.outcome == "flag" else "") for each in record.checks)
    return Table(("", "check", "outcome", "measured", "what a flag means, and what next"), rows, marked="outcome")


def _questions(record: audit.AuditRecord) -> Table:
    rows = tuple((str(each.number), each.title, each.threshold, each.means, each.source) for each in record.checks)
    return Table(("", "check", "threshold", "a flag means", "source"), rows)


def _repeat(environment: dict, command: str | None, *further: tuple[str, str]) -> Section:
    facts = [("Python", environment.get("python", "")), ("Packages", _listed(environment.get("versions", {}))),
             ("Machine", f"{environment.get('system', '')}, {environment.get('processor', '')}, "
                         f"{environment.get('cores', '')} cores"),
             ("GPUs", ", ".join(environment.get("gpus", [])) or "none"),
             ("Judged in", environment.get("judged_in", "float32")), *further]
    return Section("Versions, hardware, and how to repeat it", facts=tuple(facts), command=command)


# --- a run

def write_run(folder: Path, out: Path | None = None) -> Path:
    """report.html in the folder of a run (or in that of its published results), or at `out`; returns its path.

    Raises KitError where results.json is missing or damaged.
    """
    found = results.read(folder / "results.json")
    audits = {path.parent.name: audit.read(path) for path in sorted(folder.glob("audit/*/audit.json"))
              if audit.is_of_its_model(path.parent)}
    path = out or folder / "report.html"
    write_text(path, render(run_page(found, _pictures(folder / "figures" if (folder / "figures").is_dir() else folder,
                                                      CAPTIONS), audits)))
    return path


def run_page(found: results.Results, pictures: tuple[Picture, ...] = (), audits: dict | None = None) -> Page:
    experiment, audits = found.experiment, audits or {}
    verdicts = tuple((record.verdict.kind, f"{which}: {record.verdict.sentence}") for which, record in audits.items())
    own = "" if experiment["name"] in experiments.names() else ".yaml"      # asked for by its file, wherever that lies
    asked = f"{shlex.quote(experiment['name'] + own)} --profile {found.profile} --seed {found.seed}"
    command = f"python -m kitlib reproduce {asked}\npython -m kitlib report {asked}"
    sections = (
        Section("What was asked", words=(experiment["summary"],), facts=(
            ("Data", found.source), ("Images", _counts(found.data)), ("Network", experiment["model"]["name"]),
            ("Baseline", experiment["baseline"]["method"]), ("Defended", experiment["defended"]["method"]))),
        *_against_the_paper(found),
        Section("Accuracy under every attack", words=(
            "Accuracy in per cent, its 95 % interval, and the number of test images.",),
            tables=(Table.of(results.accuracy_table(found)),)),
        *(Section(f"Audit of the {which} model", words=_flags(record), tables=(_checks(record),))
          for which, record in audits.items()),
        Section("Pictures", pictures=pictures),
        Section("Choices that the paper leaves open", facts=tuple(experiment.get("choices", {}).items())),
        _repeat(found.environment, command, ("Time of both trainings", f"{sum(found.seconds.values()):.0f} s")),
    )
    return Page(experiment["title"], results.heading(found), verdicts,
                tuple(section for section in sections if _says_something(section)))


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


def _counts(data: dict) -> str:
    return ", ".join(f"{part} {sum(counts.values()):,}" for part, counts in data["counts"].items())
