"""How long an audit will take, measured on a few batches; and what can be done within a number of minutes."""
from __future__ import annotations

import dataclasses
import json
import time

import numpy as np

from kitlib import attacks
from kitlib.attacks import Attack
from kitlib.audit.resume import Resume
from kitlib.audit.subject import ON_ALL, Effort, Subject, batch_for, suite
from kitlib.models import predict_logits

KEPT = 0.5          # share of the images that PGD is expected not to turn
SPARE = 0.8         # of the time that is given is planned for
TRACES = 24         # functions that TensorFlow compiles in an audit
FEWEST_CW = 15
OTHER = 20.0        # seconds for the undefended model, copies, pictures
# What is done less of where time is short, one after the other; no number is ever raised.
CUTS = (
    {"targets": 4, "targeted_steps": 60, "cw_images": 20, "sweep_images": 200},
    {"images": 500, "targets": 4, "apgd_steps": 60},
    {"images": 300, "targets": 3, "apgd_steps": 40, "targeted_steps": 40, "cw_images": 15, "sweep_images": 100,
     "first_images": 50},
    {"images": 150, "steps": 30, "apgd_steps": 30, "targeted_steps": 30, "first_queries": 100, "first_images": 30},
    {"images": 100, "steps": 20, "apgd_steps": 20, "targeted_steps": 20, "targets": 2, "cw_steps": 50,
     "sweep_images": 50},
    {"images": 60, "steps": 15, "apgd_steps": 15, "targets": 1, "cw_images": 8, "cw_searches": 4, "queries": 300},
    {"images": 30, "steps": 10, "apgd_steps": 10, "targeted_steps": 10, "cw_images": 4, "sweep_images": 20,
     "first_images": 10},
)


@dataclasses.dataclass(frozen=True)
class Pace:
    """Seconds that this model takes on this machine: for one image forward, for one with its gradient, and until
    TensorFlow has compiled an attack."""

    forward: float
    gradient: float
    compiling: float


def pace_of(subject: Subject) -> Pace:
    """Measured on a few batches."""
    model, count = subject.target.model, min(batch_for(subject.images.shape[1:]), len(subject.images))
    images, labels = subject.images[:count], subject.labels[:count].astype(np.int32)
    fgsm = subject.attack(attacks.FGSM)
    first, again = (_seconds(lambda: attacks.run(fgsm, model, images, labels)) for _ in range(2))
    predict_logits(model, images, count)
    forward = _seconds(lambda: predict_logits(model, images, count))
    return Pace(forward / count, again / count, max(0.0, first - again))


def _seconds(work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def expected(effort: Effort, subject: Subject, pace: Pace) -> dict[str, float]:
    """Seconds by measurement, in the order of their worth: about, as nobody knows yet what PGD turns."""
    images = min(effort.images, len(subject.images))
    kept = KEPT * images
    targets = min(effort.targets, subject.target.classes - 1) if subject.target.classes > 2 else 0
    own = sum(3 * _passes(attack) for attack in subject.own_attacks.values())
    gradients = {
        "clean": images, "noise": images, "FGSM": 2 * images, "PGD": effort.steps * (images + kept) / 2,
        "8 bits": effort.steps * (images - kept) / 2,
        "targeted": targets * (effort.targeted_steps or effort.apgd_steps) * kept,
        **{name: _passes(attack) * kept for name, attack in suite(subject, effort).items() if name not in ON_ALL},
        "sweep": 2 * effort.steps * min(images, effort.sweep_images), "own": own * images, "leaks": 10 * images,
        "cw": cw_count(effort, images) * effort.cw_searches * effort.cw_steps}
    if subject.undefended is not None:      # a large one, most likely
        gradients["undefended"] = 2 * effort.steps * images
    square = effort.first_queries * min(kept, effort.first_images) * pace.forward
    rest = {"Square": square, "other": OTHER + TRACES * pace.compiling}
    return {name: passes * pace.gradient for name, passes in gradients.items()} | rest


def cw_count(effort: Effort, images: int) -> int:
    """On how many images C&W L2 is made, the dearest attack for a deep network: a tenth, or a few."""
    return min(images, effort.cw_images, max(FEWEST_CW, images // 10))


def _passes(attack: Attack) -> int:
    return max(1, attack.length) * attack.rounds


@dataclasses.dataclass
class Plan:
    """Subject and effort as they fit the time; expected: seconds by measurement; pace; cut: in words, what was cut to
    fit; minutes: what was given."""

    subject: Subject
    effort: Effort
    expected: dict[str, float]
    pace: Pace
    cut: tuple[str, ...] = ()
    minutes: float | None = None

    def __post_init__(self):
        self._started = time.perf_counter()
        self._now, self._since, self._done = "", 0.0, {}

    def __str__(self) -> str:
        return f"this will take about {in_words(self.seconds)}" + (
            f" ({'; '.join(self.cut)}, to fit {self.minutes:g} minutes)" if self.cut else "")

    @property
    def seconds(self) -> float:
        return sum(self.expected.values())

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self._started

    def begin(self, name: str) -> str:
        """Note that a measurement begins; in words, how much time is left."""
        if name != self._now:
            self._done[self._now] = self._done.get(self._now, 0.0) + self.elapsed - self._since
            self._now, self._since = name, self.elapsed
        return f"about {in_words(self.left())} left"

    def left(self) -> float:
        """Seconds still to go: what is ahead, as slow or fast as what is behind turned out to be."""
        done = [name for name in self._done if name != self._now and name in self.expected]
        behind, took = (sum(times[name] for name in done) for times in (self.expected, self._done))
        ahead = sum(seconds for name, seconds in self.expected.items() if name not in done)
        speed = np.clip(took / behind, 0.3, 4) if behind > 0.1 * self.seconds else 1.0
        return float(max(0.0, ahead * speed - (self.elapsed - self._since)))

    def spare(self) -> float | None:
        """Seconds that nothing is planned for; None where any number of minutes may be spent."""
        return None if self.minutes is None else max(0.0, 60 * self.minutes - self.elapsed - self.left())


def plan(subject: Subject, effort: Effort, minutes: float | None = None, resume: Resume | None = None) -> Plan:
    """Measure the model's pace, and say how long an audit takes; where `minutes` are given, cut it to fit them.

    resume: of an audit that was killed, which goes on with the cuts that it had, however fast the machine is now.
    """
    pace = pace_of(subject)
    fitted = effort if minutes is None else _fitted(subject, effort, pace, minutes, resume or Resume())
    seconds = expected(fitted, subject, pace)
    first = dataclasses.replace(subject, images=subject.images[:fitted.images], labels=subject.labels[:fitted.images])
    return Plan(first, fitted, seconds, pace, _cut(effort, fitted), minutes)


def _fitted(subject: Subject, effort: Effort, pace: Pace, minutes: float, resume: Resume) -> Effort:
    """The effort, with as few of the cuts as bring it down to the time that may be planned."""
    key = f"cut to fit {minutes:g} minutes"
    known = resume.recall(key)
    if known is not None:
        return Effort.read(json.loads(str(known["effort"])), "resume.npz")
    for cut in CUTS:
        if sum(expected(effort, subject, pace).values()) <= SPARE * 60 * minutes:
            break
        effort = effort.model_copy(update={
            name: least for name, least in cut.items()
            if getattr(effort, name) is None or getattr(effort, name) > least})
    resume.keep(key, {"effort": effort.model_dump_json()})
    return effort


def _cut(before: Effort, after: Effort) -> tuple[str, ...]:
    changed = (name for name in type(before).model_fields if getattr(before, name) != getattr(after, name))
    return tuple(f"{name.replace('_', ' ')} {getattr(before, name)} -> {getattr(after, name)}" for name in changed)


def in_words(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
