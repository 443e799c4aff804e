"""What a finished run leaves in figures/: record, tables, pictures, audits and models; and each paper on one page."""
from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from matplotlib.figure import Figure

from kitlib import audit, plots
from kitlib.base.files import atomic_folder, read_json, write_json
from kitlib.base.places import NOTEBOOKS
from kitlib.base.settings import KitError
from kitlib.experiments import evidence, experiment, pretrained, results, verdicts
from kitlib.experiments.results import Results
from kitlib.experiments.runs import Run

LARGEST = 2 * 2**20     # bytes of a record, table, picture or report that is copied


@dataclasses.dataclass(frozen=True)
class Published:
    """The folder that a run was published in, and what was left out: {file or model: why}."""

    folder: Path
    left_out: dict[str, str]

    @property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


def publish(run: Run, figures: Path) -> Published:
    """Make figures/<experiment> anew from a run that notebook 05 has finished.

    It gets results.json, tables/ and records/ of the notebooks, the pictures, audit/<model>/ with the record and the
    report of each audit, and models/ (pretrained.py): no data, and no file above LARGEST. What the folder held
    before is gone; where anything fails it stays as it was. A second call makes the same files.
    Raises KitError where the run is not finished, of other settings than the experiment has now, or made with models
    that were taken from the repository.
    """
    found, target = _finished(run), figures / run.experiment.name
    room = pretrained.IN_ALL - pretrained.size_of(figures, without=target.name)
    with atomic_folder(target) as folder:
        write_json(folder / "results.json", found.model_dump(mode="json"))
        left_out = _copy(run, folder, found.fingerprint)
        left_out |= pretrained.keep(run, found, folder / "models", room)
        left_out |= _audits_lost(target, folder)
    return Published(target, left_out)


def _finished(run: Run) -> Results:
    found = results.of_run(run)
    for name in found.models:
        if pretrained.is_pretrained(run, name):
            raise KitError(f"the {name} model of {run.folder} was taken from the repository (python -m kitlib "
                           "pretrained): only runs that trained their models are published")
    return found


def _copy(run: Run, folder: Path, fingerprint: str) -> dict[str, str]:
    """Copy what is small and up to date; returns what was left out, and why."""
    left_out, stale = {}, _owned_by_stale_records(run, fingerprint)
    for path in _files(run):
        name = str(path.relative_to(run.folder))
        if path.stat().st_size > LARGEST:
            left_out[name] = f"larger than {LARGEST / 1e6:.1f} MB"
        elif path.parent.name == "records" and not _is_of(read_json(path), fingerprint):
            left_out[name] = "of other settings than results.json"
        elif path.parent.name in ("figures", "tables") and _names(stale, f"{path.parent.name}/{path.stem}"):
            left_out[name] = "of a notebook whose record is of other settings than results.json"
        elif path.parent.parent.name == "audit" and not audit.is_of_its_model(path.parent):
            left_out[name] = "the audit of a model that has been trained again since"
        else:
            target = folder / (path.name if path.parent.name == "figures" else name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    return left_out


def _audits_lost(before: Path, now: Path) -> dict[str, str]:
    """The audits that were published before and that the run does not have, which no notebook makes."""
    audits = [str(path.parent.relative_to(before)) for path in before.glob("audit/*/audit.json")]
    return {name: "published before, and not made in this run: python -m kitlib audit --run"
            for name in sorted(audits) if not (now / name).exists()}


def _is_of(record, fingerprint: str) -> bool:
    return isinstance(record, dict) and record.get("fingerprint") == fingerprint


def _owned_by_stale_records(run: Run, fingerprint: str) -> str:
    """The names of the files of the records that are left out, as each of them lists them. Of a record that lists none
    the text of its notebook, where they are named."""
    named = []
    for path in sorted(run.folder.glob("records/[!.]*.json")):
        record, lesson = read_json(path), NOTEBOOKS / f"{path.stem}.ipynb"
        if isinstance(record, dict) and not _is_of(record, fingerprint):
            listed = record.get("files")
            named.append("\n".join(map(str, listed)) if isinstance(listed, list)
                         else lesson.read_text(encoding="utf-8") if lesson.is_file() else "")
    return "\n".join(named)


def _names(text: str, name: str) -> bool:
    return re.search(rf"{re.escape(name)}\b", text) is not None


def _files(run: Run) -> Iterable[Path]:
    """The pictures lie at the top of the published folder; reports hold their own pictures."""
    for pattern in ("figures/[!.]*.png", "tables/[!.]*.md", "tables/[!.]*.csv", "records/[!.]*.json",
                    "audit/*/audit.json", "audit/*/report.html"):
        yield from sorted(run.folder.glob(pattern))


# --- a paper on one page

def draw_papers(figures: Path) -> list[Path]:
    """figures/paper_a.png and paper_b.png, from the records in `figures` alone; returns those drawn.

    Each shows the paper's figures as claimed, as published and under the standard attack, of the first seed, and the
    verdict over all seeds. A paper without a record is left out. Raises KitError where a record is damaged.
    """
    drawn = []
    for letter in "AB":
        found = evidence.of_paper(letter, figures)
        if found:
            drawn.append(figures / f"paper_{letter.lower()}.png")
            missing = [name for name in experiment.of_paper(letter) if name not in found]
            plots.keep(_drawn(letter, found, missing, figures), drawn[-1])
    return drawn


def _drawn(letter: str, found: dict[str, list[evidence.Entries]], missing: list[str], figures: Path) -> Figure:
    first = {name: results.read(figures / name / "results.json") for name in found}
    ids = [entries[first[name].seed].id for name, of_one in found.items() for entries in of_one]
    rows, guessing = {}, []
    for name, of_one in found.items():
        for entries in of_one:
            entry = entries[first[name].seed]
            label = (f"{name}: " if ids.count(entry.id) > 1 else "") + _label(entry)
            verdict = verdicts.judge(list(entries.values()))
            rows[label] = entry.model_copy(update={"verdict": verdict.kind, "explained_by": verdict.explained_by})
            guessing.append(_guessing(first[name]))
    return plots.claims(rows, guessing, f"Paper {letter}: claimed, rerun, and under standard attacks",
                        _scale(first, missing))


def _label(entry: verdicts.PaperEntry) -> str:
    """What the row of a figure of the paper says: which one it is, and the standard attack beside it."""
    if entry.defined_by == "clean":
        return entry.id
    success = entry.as_defined.success_rate
    turned = "" if success is None else f", success {100 * success:.0f} %"
    return f"{entry.id}\nstandard attack: {entry.defined_by}{turned}"


def _guessing(found: Results) -> float:
    """The share of the commonest class among the judged images: what always answering it would get."""
    counts = [each.count for each in found.models["baseline"].recall["clean"].values()]
    return max(counts) / sum(counts)


def _scale(found: dict[str, Results], missing: list[str]) -> str:
    """What a reader must know of the runs: those that are not at the paper's scale, and those that are missing."""
    smaller = [f"{name}: profile {each.profile} (not the paper's scale), seed {each.seed}"
               for name, each in found.items() if each.profile != "full"]
    synthetic = [f"{name}: SYNTHETIC data" for name, each in found.items() if each.synthetic]
    absent = [f"no record yet of {', '.join(missing)}"] if missing else []
    return "\n".join(smaller + synthetic + absent)
