"""audit.json: its schema, and the folder of an audit (record, pictures)."""
from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pydantic
from matplotlib.figure import Figure

from kitlib import plots
from kitlib.attacks.base import NORM_NAMES, Norm, written
from kitlib.audit.checks import CHECKS, Check, Finding, Outcome, of_claim
from kitlib.audit.gradients import LINE
from kitlib.audit.loading import LoadingRecord
from kitlib.audit.measure import Measurements
from kitlib.audit.proof import Proof, prove
from kitlib.audit.resume import FILE
from kitlib.audit.subject import Effort
from kitlib.audit.verdict import Verdict, judge
from kitlib.base.files import read_json, sha256, write_json
from kitlib.base.machine import environment
from kitlib.base.settings import KitError, Settings
from kitlib.evaluation import Measured, cell, guessing
from kitlib.models import predict_logits, softmax

PICTURES = {
    "adversarial": "Images that the strongest attack turns: clean, the perturbation, and the image attacked",
    "sweep": "Accuracy under PGD against epsilon, with 95 % intervals",
    "line": "Loss on the way along FGSM's step: where it falls again before the end, the model answers that step alone",
}

# What its folder holds; the last while it is under way.
FILES = {"audit.json", "report.html", *(f"figures/{name}.png" for name in PICTURES), FILE}
SCHEMAS = (1, 2)        # that can be read
CLASSES = 20            # in a table, at most


class CheckRecord(Settings):
    """One check and what it found."""

    number: int
    name: str
    title: str
    outcome: Outcome
    measured: str
    threshold: str
    source: str
    means: str
    casts_doubt: bool = pydantic.Field(validation_alias=pydantic.AliasChoices("casts_doubt", "matters"))
    values: dict[str, Any]

    @classmethod
    def of(cls, check: Check, found: Finding) -> CheckRecord:
        texts = {name: getattr(check, name) for name in ("number", "name", "title", "threshold", "source", "means")}
        return cls(**texts, outcome=found.outcome, measured=found.measured, casts_doubt=found.casts_doubt,
                   values=found.values)


class AttackRecord(Measured):
    """Accuracy under one attack within eps; linf is the largest change of any pixel, l2 the largest distance of any
    image (None in records of schema 1)."""

    attack: str
    settings: dict[str, Any]
    linf: float
    l2: float | None = None
    seconds: float


class ClassRecord(Settings):
    """The images of one class: right without attack, and under every attack."""

    name: str
    clean: Measured
    worst_case: Measured


class AuditRecord(Settings):
    """Everything that an audit found: the verdict, the report and the tables are made from it.

    model, data: what was judged and on what, in words. model_sha256: of its file, where there is one. target: how
    input range and output were found out. class_order: how the data's classes are matched to the model's outputs.
    sweep: accuracy under PGD by eps. own: accuracies under the claim's own attacks. classes: the rarest first. planned:
    seconds that it was expected to take, and cut: what was cut to fit a number of minutes. proved: what is certain.
    loading: of pictures in a folder, whether another way to load them would do better.
    """

    schema_version: Literal[1, 2] = 2
    model: str
    model_sha256: str | None
    data: str
    synthetic: bool
    class_names: tuple[str, ...]
    class_order: str
    takes: str
    returns: str
    eps: float
    norm: Norm = "linf"
    claim: float | None
    quick: bool
    seed: int
    effort: Effort
    command: str | None
    environment: dict[str, Any]
    date: str
    seconds: float
    chance: float
    clean: Measured
    attacks: dict[str, AttackRecord]
    own: dict[str, AttackRecord]
    worst_case: Measured
    sweep: dict[str, Measured]
    checks: tuple[CheckRecord, ...]
    verdict: Verdict
    loading: LoadingRecord | None = None
    classes: tuple[ClassRecord, ...] = ()
    planned: float | None = None
    cut: tuple[str, ...] = ()
    proved: Proof | None = None

    @property
    def eps_written(self) -> str:
        """The epsilon with its norm, as people write it."""
        return f"{NORM_NAMES[self.norm]}, eps {written(self.norm, self.eps)}"


class Audit:
    """A finished audit: `record`, and the measurements behind it, for pictures and a closer look."""

    def __init__(self, record: AuditRecord, measurements: Measurements):
        self.record, self.measurements = record, measurements

    @property
    def verdict(self) -> Verdict:
        return self.record.verdict

    def check(self, name: str) -> CheckRecord:
        return next(each for each in self.record.checks if each.name == name)

    def flagged(self) -> list[str]:
        """Names of the checks that flag something."""
        return [each.name for each in self.record.checks if each.outcome == "flag"]

    def write(self, folder: Path) -> None:
        """audit.json and figures/ in `folder`."""
        write_json(folder / "audit.json", self.record.model_dump(mode="json"))
        for name, figure in self.pictures().items():
            plots.keep(figure, folder / "figures" / f"{name}.png", self.record.synthetic)

    def pictures(self) -> dict[str, Figure]:
        """The figures of `PICTURES` that there is something to show in."""
        makers = {"adversarial": self._adversarial, "sweep": self._sweep, "line": self._line}
        made = {name: maker() for name, maker in makers.items()}
        return {name: figure for name, figure in made.items() if figure is not None}

    def _adversarial(self) -> Figure | None:
        m = self.measurements
        name, found = m.strongest
        rows = found.turned[:4]
        if len(rows) == 0:
            return None
        clean, titles, right = m.images[rows], {}, {}
        for key, images in (("clean", clean), (name, found.images[:4])):
            probabilities = softmax(predict_logits(m.model, images))
            said = probabilities.argmax(1)
            titles[key] = [f"{plots.short(m.subject.class_names[s])} {100 * p:.0f} %"
                           for s, p in zip(said, probabilities.max(1), strict=True)]
            right[key] = list(said == m.labels[rows])
        return plots.attack_grid(clean, {name: found.images[:4]}, titles, right)

    def _sweep(self) -> Figure:
        found = self.measurements.sweep
        curve = {"PGD": [each.accuracy for each in found.values()]}
        figure = plots.epsilon_curve(curve, list(found), self.record.chance, marked=self.record.eps)
        self._show_small_epsilons(figure.axes[0], list(found))
        return figure

    def _show_small_epsilons(self, axes, sizes) -> None:
        """The last epsilon is so much larger than the others that a linear axis would show nothing of these."""
        places = [255 * size for size in sizes]
        axes.set_xscale("symlog", linthresh=places[1], linscale=0.5)
        in_pixels = self.record.norm == "linf"
        axes.set_xticks(places, [f"{place if in_pixels else place / 255:.3g}" for place in places])
        axes.set_xticks([], minor=True)
        if not in_pixels:
            axes.set_xlabel("epsilon, L2 distance in pixels")

    def _line(self) -> Figure:
        _, losses = self.measurements.along_the_step
        figure = plots.loss_along({"judged model": losses}, LINE, 255 * self.record.eps)
        if self.record.norm == "l2":
            figure.axes[0].set_xlabel(f"share k of the perturbation (k = 1 is {self.record.eps_written})")
        return figure


def run(measurements: Measurements, *, model: str, data: str, class_order: str = "as given", synthetic: bool = False,
        quick: bool = False, command: str | None = None, model_sha256: str | None = None,
        loading: LoadingRecord | None = None) -> Audit:
    """Make all nineteen checks and the verdict.

    model, data, class_order, command, loading: what the record says of them.
    """
    m, started, findings = measurements, time.perf_counter(), []
    m.say(f"{len(m.ensemble)} attacks within eps are done")       # first, as they are worth most
    for check in CHECKS:
        found = check.function(m)
        findings.append((check, found))
        m.say(f"[{check.number:2}/{len(CHECKS)}] {found.outcome:<11} {check.title}")
    subject, proved = m.subject, prove(m)
    caution = f"; {loading.sentence}" if loading and loading.sentence else ""
    record = AuditRecord(
        model=model, model_sha256=model_sha256, data=data + caution, synthetic=synthetic,
        class_names=tuple(map(str, subject.class_names)),
        class_order=class_order, takes=subject.target.takes, returns=subject.target.returns, eps=subject.eps,
        norm=subject.norm, claim=subject.claim, quick=quick, seed=m.seed, effort=m.effort, command=command,
        environment=environment(),
        date=time.strftime("%Y-%m-%d", time.gmtime()), seconds=round(time.perf_counter() - started, 1),
        chance=guessing(m.labels), clean=Measured.of(m.clean),
        attacks={name: _attack(each) for name, each in m.ensemble.items()},
        own={name: _attack(each) for name, each in m.own.items()}, worst_case=Measured.of(m.survivors),
        sweep={subject.written(size): Measured.of(each.right) for size, each in m.sweep.items()},
        checks=tuple(CheckRecord.of(check, found) for check, found in findings),
        verdict=judge(m, findings, proved), classes=_classes(m), proved=proved,
        planned=None if m.plan is None else round(m.plan.seconds, 1), cut=() if m.plan is None else m.plan.cut,
        loading=loading)
    return Audit(record, m)


def _classes(m: Measurements) -> tuple[ClassRecord, ...]:
    """One entry a class that has images, the rarest first."""
    names, counts = m.subject.class_names, np.bincount(m.labels, minlength=len(m.subject.class_names))
    order = [label for label in np.argsort(counts, kind="stable") if counts[label]]
    return tuple(ClassRecord(name=str(names[label]), clean=Measured.of(m.clean[m.labels == label]),
                             worst_case=Measured.of(m.survivors[m.labels == label])) for label in order)


def _attack(each) -> AttackRecord:
    return AttackRecord(**each.accuracy.record(), attack=str(each.attack), settings=each.attack.model_dump(mode="json"),
                        linf=each.linf, l2=each.l2, seconds=round(each.seconds, 2))


def read(path: Path) -> AuditRecord:
    """Raises KitError where the file is missing, damaged, of a schema that is not known, or does not follow it."""
    content = _content(path)
    version = content.get("schema_version")
    if version not in SCHEMAS:
        raise KitError(f"{path} is of schema version {version}; this kitlib reads {' and '.join(map(str, SCHEMAS))}: "
                       "audit the model again")
    return AuditRecord.read(content, str(path))


def _content(path: Path) -> dict:
    content = read_json(path)
    if not isinstance(content, dict):
        raise KitError(f"{path} holds a {type(content).__name__} in place of the record of an audit: delete it and "
                       "audit the model again")
    return content


def is_of_its_model(folder: Path) -> bool:
    """Whether an audit judged the model that the run has now (as far as it is there). folder: of the run,
    audit/<model>."""
    model = folder.parent.parent / "models" / f"{folder.name}.keras"
    return not model.exists() or _content(folder / "audit.json").get("model_sha256") == sha256(model)


def attack_table(record: AuditRecord) -> pd.DataFrame:
    """One row an attack: accuracy in per cent with interval and count, what it was, and its time."""
    rows: list[tuple[str, Measured, str, float | None]] = [("no attack", record.clean, "", None)]
    rows += [(name, each, each.attack, each.seconds) for name, each in record.attacks.items()]
    rows += [("worst case", record.worst_case, "right under every attack", None)]
    rows += [("proved, at least", record.proved.proved, record.proved.method, None)] if record.proved else []
    rows += [(of_claim(name), each, each.attack, each.seconds) for name, each in record.own.items()]
    return pd.DataFrame([
        {"under": name, "accuracy, %": cell(measured), "seconds": "" if seconds is None else f"{seconds:.1f}",
         "attack": attack} for name, measured, attack, seconds in rows])


def class_table(record: AuditRecord) -> pd.DataFrame:
    """One row a class, the rarest first: how many images, and which share is right without and under every attack."""
    return pd.DataFrame([
        {"class": each.name, "images": each.clean.count, "no attack, %": cell(each.clean),
         "worst case, %": cell(each.worst_case)} for each in record.classes[:CLASSES]])


def check_table(record: AuditRecord) -> pd.DataFrame:
    """One row a check."""
    return pd.DataFrame([{"": each.number, "check": each.title, "outcome": each.outcome, "measured": each.measured}
                         for each in record.checks])
