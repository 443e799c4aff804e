"""report.html: one self-contained page, made from records and pictures alone; here that of an audit."""
from __future__ import annotations

import base64
import dataclasses
import functools
from pathlib import Path

import jinja2

from kitlib import __version__
from kitlib.audit.budget import in_words
from kitlib.audit.checks import percent
from kitlib.audit.proof import both_sides
from kitlib.audit.record import PICTURES, AuditRecord, attack_table, class_table, read
from kitlib.base.files import write_text
from kitlib.base.settings import KitError

TEMPLATES = Path(__file__).parent / "templates"


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


def pictures_in(folder: Path, captions: dict[str, str]) -> tuple[Picture, ...]:
    """The PNGs of a folder: those with a caption first, in its order, then the others by name."""
    there = {path.stem: path for path in sorted(folder.glob("[!.]*.png"))}
    order = [name for name in captions if name in there] + [name for name in there if name not in captions]
    return tuple(picture(there[name], caption_of(name, captions)) for name in order)


def caption_of(name: str, captions: dict[str, str]) -> str:
    return captions.get(name, name.replace("_", " ").capitalize())


def write_audit(folder: Path) -> Path:
    """report.html beside the audit.json and figures/ of `folder`; returns its path."""
    record = read(folder / "audit.json")
    path = folder / "report.html"
    write_text(path, render(audit_page(record, pictures_in(folder / "figures", PICTURES))))
    return path


def audit_page(record: AuditRecord, pictures: tuple[Picture, ...] = ()) -> Page:
    mark = "SYNTHETIC data. " if record.synthetic else ""
    sections = (
        Section("What was asked", facts=_asked(record)),
        Section("What was flagged", words=flags(record)),
        *([Section("What would change the verdict", words=_sentences(record.verdict.changes))]
          if record.verdict.changes else []),
        Section("Accuracy under each attack", words=(
            "Accuracy in per cent, its 95 % interval, and the number of images. Every attack was made against this "
            "very model; an image counts in the worst case only if it is right without attack and under each of "
            "them. Attacks named 'PGD, then ...' go on with the images that PGD did not turn.",),
            tables=(Table.of(attack_table(record)),), pictures=pictures),
        *_by_class(record),
        Section("The nineteen checks", tables=(checks(record),)),
        Section("What each check asks", tables=(_questions(record),)),
        Section("Time", facts=_times(record)),
        repeat(record.environment, record.command, ("Date", record.date), ("To cite this audit", citation(record))))
    return Page(f"Is this robustness real? {record.model}", f"{mark}{record.data}",
                ((record.verdict.kind, record.verdict.sentence),), sections)


def _by_class(record: AuditRecord) -> tuple[Section, ...]:
    if not record.classes:      # a record of schema 1
        return ()
    shown = class_table(record)
    words = ["The rarest class first. Few images of a class make its interval wide."]
    if len(shown) < len(record.classes):
        words.append(f"{len(record.classes) - len(shown)} more classes are in audit.json.")
    return (Section("Class by class", words=tuple(words), tables=(Table.of(shown),)),)


def _times(record: AuditRecord) -> tuple[tuple[str, str], ...]:
    """The whole, what was planned and cut, and each attack's share, the longest first."""
    facts = [("Time taken", in_words(record.seconds))]
    facts += [("Expected beforehand", in_words(record.planned))] if record.planned is not None else []
    facts += [("Cut to fit the time given", "; ".join(record.cut))] if record.cut else []
    longest = sorted({**record.attacks, **record.own}.items(), key=lambda each: -each[1].seconds)
    return (*facts, *((name, in_words(each.seconds)) for name, each in longest if each.seconds >= 1))


def citation(record: AuditRecord) -> str:
    digest = f" (SHA-256 {record.model_sha256[:16]})" if record.model_sha256 else ""
    return (f"kitlib {__version__}, audit of {record.model}{digest}, {record.eps_written}, {record.clean.count} "
            f"images, seed {record.seed}, {record.date}.")


def flags(record: AuditRecord) -> tuple[str, ...]:
    return _sentences(record.verdict.reasons) or ("No check flagged anything.",)


def _sentences(clauses: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{clause[:1].upper()}{clause[1:]}." for clause in clauses)


def _asked(record: AuditRecord) -> tuple[tuple[str, str], ...]:
    claim = "none" if record.claim is None else percent(record.claim)
    return (("Model", record.model), ("Images", f"{record.clean.count} of: {record.data}"),
            ("Threat model", f"{record.eps_written}, pixels in [0, 1]; the attacker knows the model"),
            ("Claimed robust accuracy", claim), ("Robust accuracy on these images", _both_sides(record)),
            ("The model takes", record.takes), ("It returns", record.returns),
            ("Classes", record.class_order), ("Guessing would get", percent(record.chance)),
            ("Effort", f"{'quick' if record.quick else 'full'}: {_listed(record.effort.model_dump())}"))


def _both_sides(record: AuditRecord) -> str:
    if record.proved is None:
        return f"at most {percent(record.worst_case.accuracy)} (attacked); nothing is proved"
    return both_sides(record.proved, record.worst_case.accuracy)


def _listed(values: dict) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())


def checks(record: AuditRecord) -> Table:
    rows = tuple((str(each.number), each.title, each.outcome, each.measured,
                  each.means if each.outcome == "flag" else "") for each in record.checks)
    return Table(("", "check", "outcome", "measured", "what a flag means, and what next"), rows, marked="outcome")


def _questions(record: AuditRecord) -> Table:
    rows = tuple((str(each.number), each.title, each.threshold, each.means, each.source) for each in record.checks)
    return Table(("", "check", "threshold", "a flag means", "source"), rows)


def repeat(environment: dict, command: str | None, *further: tuple[str, str]) -> Section:
    facts = [("Python", environment.get("python", "")), ("Packages", _listed(environment.get("versions", {}))),
             ("Machine", f"{environment.get('system', '')}, {environment.get('processor', '')}, "
                         f"{environment.get('cores', '')} cores"),
             ("GPUs", ", ".join(environment.get("gpus", [])) or "none"),
             ("Judged in", environment.get("judged_in", "float32")), *further]
    return Section("Versions, hardware, and how to repeat it", facts=tuple(facts), command=command)
