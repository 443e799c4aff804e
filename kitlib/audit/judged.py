"""One attack on the judged model, and what the model answers then."""
from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from kitlib import attacks
from kitlib.attacks import Attack
from kitlib.audit.budget import Plan
from kitlib.audit.resume import Resume
from kitlib.audit.subject import Effort, Subject, batch_for
from kitlib.base import digests
from kitlib.evaluation import Accuracy
from kitlib.models import predict_logits

SHOWN = 8               # adversarial images kept of each attack, for pictures
PASSES = 5
AGREE = 1e-4            # between passes over the same input; a model whose passes differ by more is random
EOT_PASSES = 16         # of a random model: their mean is attacked, their most frequent answer judged
_NUMBERS = ("linf", "l2", "low", "high", "finite", "seconds")


@dataclasses.dataclass(frozen=True)
class Attacked:
    """The outcome of one attack. right: bool N, judged anew on the attacked images (`Judged.answers`).

    linf, l2: largest change of any pixel, largest Euclidean distance of any image; low, high: smallest and largest
    pixel; finite: no NaN or infinity. turned, images: places of a few images, of as many classes as possible, where the
    attack turned a right answer, and these images attacked.
    """

    attack: Attack
    right: np.ndarray
    linf: float
    l2: float
    low: float
    high: float
    finite: bool
    seconds: float
    turned: np.ndarray
    images: np.ndarray

    @property
    def accuracy(self) -> Accuracy:
        return Accuracy.of(self.right)

    def size(self, norm: str) -> float:
        """The largest perturbation in this norm."""
        return self.l2 if norm == "l2" else self.linf

    def arrays(self) -> dict[str, np.ndarray]:
        """All but the attack, as arrays to keep."""
        return {"right": self.right, "turned": self.turned, "images": self.images,
                "numbers": np.array([float(getattr(self, name)) for name in _NUMBERS])}

    @classmethod
    def of_arrays(cls, attack: Attack, kept: dict[str, np.ndarray]) -> Attacked:
        numbers = dict(zip(_NUMBERS, kept["numbers"].tolist(), strict=True))
        return cls(attack, kept["right"], **numbers | {"finite": bool(numbers["finite"])}, turned=kept["turned"],
                   images=kept["images"])


class Judged:
    """The judged model, its answers, and attacks on it.

    say: gets a line before each longer piece of work. progress: show a bar within each attack. resume: outcomes that
    an audit that was killed had measured. plan: how long each measurement is expected to take.
    """

    def __init__(self, subject: Subject, effort: Effort, seed: int = 0, say: Callable[[str], None] = lambda line: None,
                 progress: bool = False, resume: Resume | None = None, plan: Plan | None = None):
        self.subject, self.effort, self.seed, self.progress = subject, effort, seed, progress
        self.say, self.resume, self.plan = say, resume or Resume(), plan
        self.model = subject.target.model
        self.images, self.labels = subject.images, subject.labels.astype(np.int32)
        self.batch = batch_for(self.images.shape[1:])

    def begin(self, name: str, line: str) -> None:
        """Say what is measured next and, where there is a plan, how much time is left."""
        self.say(line if self.plan is None else f"{line} ({self.plan.begin(name)})")

    @functools.cached_property
    def spread_of_passes(self) -> dict[str, float]:
        """Largest difference between outputs for the same images, relative to the largest output: of five passes in
        inference mode, of five called plainly as `model(images)`, and of images asked together and one by one."""
        images, given = tf.constant(self.images[:16]), self.subject.target.model

        def infer(some):
            return np.asarray(given(some, training=False), np.float32)

        def spread(outputs):
            largest = max(np.abs(outputs).max(), np.finfo(np.float32).tiny)
            return float((np.max(outputs, 0) - np.min(outputs, 0)).max() / largest)

        singly = np.concatenate([infer(images[place:place + 1]) for place in range(len(images))])
        return {"inference": spread([infer(images) for _ in range(PASSES)]),
                "plain": spread([np.asarray(given(images), np.float32) for _ in range(PASSES)]),
                "alone": spread([infer(images), singly])}

    @property
    def random(self) -> bool:
        """Whether the model's passes over the same images differ."""
        return self.spread_of_passes["inference"] > AGREE

    @functools.cached_property
    def clean_logits(self) -> np.ndarray:
        return predict_logits(self.model, self.images, self.batch)

    @functools.cached_property
    def clean_answers(self) -> np.ndarray:
        return self.answers(self.images) if self.random else self.clean_logits.argmax(1)

    @functools.cached_property
    def clean(self) -> np.ndarray:
        """Which images are right without attack."""
        return self.clean_answers == self.labels

    def answers(self, images) -> np.ndarray:
        """The class that the judged model gives each image. Of a random model it is the most frequent one of several
        passes: over many attacks, each judged by a pass of its own, chance alone would turn most images once."""
        passes = EOT_PASSES if self.random else 1
        logits = (predict_logits(self.model, images, self.batch) for _ in range(passes))
        return sum(np.eye(self.subject.target.classes, dtype=int)[each.argmax(1)] for each in logits).argmax(1)

    def attacked(self, attack: Attack, on=None, model=None, targets=None, through: str = "") -> Attacked:
        """Attack (where given, another `model` or a stand-in for it, named `through`), and judge what comes out by the
        judged model. An outcome that is known from before is not measured again.

        on: indices of images; all where None. targets: where the attack is targeted.
        """
        rows = np.arange(len(self.labels)) if on is None else on
        aims = self.labels[rows] if targets is None else targets[rows]
        key = digests.of_json([type(attack).__qualname__, attack.model_dump(mode="json"), through,
                               digests.of_arrays([rows, aims])])[:16]
        known = self.resume.recall(key)
        if known is not None:
            return Attacked.of_arrays(attack, known)
        found = self._judge(self.run_attack(attack, model or self.model, self.images[rows], aims), rows)
        self.resume.keep(key, found.arrays())
        return found

    def _judge(self, result: attacks.AttackResult, rows) -> Attacked:
        images = result.kept_images
        right = self.answers(images) == self.labels[rows]
        turned = _of_several_classes(np.flatnonzero(self.clean[rows] & ~right), self.labels[rows])[:SHOWN]
        return Attacked(
            attack=result.attack, right=right, linf=float(result.linf.max()), l2=float(result.l2.max()),
            finite=bool(np.isfinite(images).all()), low=float(images.min()),
            high=float(images.max()), seconds=result.seconds, turned=rows[turned],
            images=images[turned].copy())

    def run_attack(self, attack: Attack, model, images, labels, keep_images: bool = True) -> attacks.AttackResult:
        """Attack any model as this audit does."""
        return attacks.run(attack, model, images, labels, batch_size=self.batch, seed=self.seed,
                           keep_images=keep_images, progress=self.progress)

    def attacked_among(self, which: np.ndarray, attack: Attack, targets=None) -> Attacked:
        """Attack those of all images (bool N) alone; the others do not count as right."""
        found = self.attacked(attack, on=np.flatnonzero(which), targets=targets)
        right = np.zeros_like(which)
        right[which] = found.right
        return dataclasses.replace(found, right=right)


def _of_several_classes(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The same rows: first one of each class, then a second of each, and so on."""
    turns = [int((labels[rows[:place]] == labels[row]).sum()) for place, row in enumerate(rows)]
    return rows[np.argsort(turns, kind="stable")]
