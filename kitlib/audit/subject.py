"""What is judged, under which threat model, and how much is done to judge it."""
from __future__ import annotations

import dataclasses

import keras
import numpy as np

from kitlib import attacks
from kitlib.attacks import Attack
from kitlib.attacks.base import Norm, written
from kitlib.attacks.checks import check_labels
from kitlib.base import digests
from kitlib.base.settings import KitError, Settings, first_few
from kitlib.models.reading import Target

BATCH = 128             # images at a time, if they are of 64 x 64 x 3; fewer of larger ones, so that memory holds them
SMALLEST_BATCH = 8
ON_ALL = ("noise", "FGSM", "PGD")       # the suite's other attacks go on with the images that PGD did not turn


class Effort(Settings):
    """How much is done. images: judged. steps: of PGD. apgd_steps: of each APGD; targeted_steps (None: as many) of the
    targeted one, which is led to the `targets` likeliest other classes (all of them where there are no more). queries:
    of Square where gradients are in doubt, else first_queries on first_images. sweep_images: of the sweep over
    epsilon. cw_images (at most), cw_searches, cw_steps: of C&W L2."""

    images: int
    steps: int
    apgd_steps: int
    queries: int
    targets: int
    cw_images: int
    cw_searches: int
    cw_steps: int
    targeted_steps: int | None = None
    first_queries: int = 300
    first_images: int = 100
    sweep_images: int = 500


QUICK = Effort(images=100, steps=30, apgd_steps=30, queries=300, targets=3, cw_images=15, cw_searches=6, cw_steps=100,
               first_queries=100, first_images=30, sweep_images=100)
FULL = Effort(images=1000, steps=40, apgd_steps=100, queries=5000, targets=9, targeted_steps=75, cw_images=50,
              cw_searches=6, cw_steps=100)


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is judged, at which eps (in pixels: L-inf, or the L2 distance), and what else is known of it.

    images: float32 N x H x W x C in [0, 1]; labels: int N. claim: the robust accuracy that is claimed, a share.
    own_attacks: the attacks that the claim was measured with. undefended: the same kind of model without defence
    (where None, a small one is trained). train_images, train_labels: what the model was trained on.
    robust_history: PGD accuracy on a fixed batch after each epoch of training; kept_epoch: which was kept.
    Raises KitError where these do not fit each other.
    """

    target: Target
    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    eps: float
    claim: float | None = None
    own_attacks: dict[str, Attack] = dataclasses.field(default_factory=dict)
    undefended: keras.Model | None = None
    train_images: np.ndarray | None = None
    train_labels: np.ndarray | None = None
    robust_history: tuple[float, ...] = ()
    kept_epoch: int | None = None
    norm: Norm = "linf"

    def __post_init__(self):
        if self.norm == "linf" and not 0 < self.eps <= 1:
            raise KitError(f"eps must be above 0 and at most 1, in pixels such as 8/255, not {self.eps:g}")
        if not 0 < self.eps < np.inf:
            raise KitError(f"an L2 eps must be above 0, in pixels such as 0.5, not {self.eps:g}")
        if self.claim is not None and not 0 <= self.claim <= 1:
            raise KitError(f"the claimed robust accuracy is a share from 0 to 1, such as 0.82, not {self.claim:g}")
        for name, attack in self.own_attacks.items():
            if attack.targeted:
                raise KitError(f"the claim's own attack '{name}' is targeted, which needs targets and not labels: give "
                               "its untargeted form (the audit makes a targeted attack of its own)")
        classes = self.target.classes
        if len(self.class_names) != classes:
            raise KitError(f"the model has {classes} outputs, but the data have {len(self.class_names)} classes "
                           f"({first_few(self.class_names)})")
        self._check(self.images, self.labels, "to judge with")
        self._check(self.train_images, self.train_labels, "of the training data")

    def _check(self, images, labels, what: str) -> None:
        if images is not None and images.shape[1:] != self.images.shape[1:]:
            raise KitError(f"the images {what} are of {images.shape[1:]}, those to judge with of "
                           f"{self.images.shape[1:]}")
        if images is None or labels is None:
            return
        if not len(images):
            raise KitError(f"there are no images {what}")
        check_labels(labels, len(images), self.target.classes, targeted=False, where=f"images {what}")

    @property
    def grey(self) -> float:
        """The distance within which every image can be made solid grey."""
        return 0.5 if self.norm == "linf" else 0.5 * float(np.sqrt(np.prod(self.images.shape[1:])))

    def attack(self, family: type[attacks.InBall], **fields) -> attacks.InBall:
        """An attack within eps."""
        return family(eps=self.eps, norm=self.norm, **fields)

    def written(self, eps: float) -> str:
        """An epsilon of the threat model as people write it."""
        return written(self.norm, eps)

    def digest(self, *settings) -> str:
        """Of everything that the measurements depend on: weights and wiring of the models, data, and the settings."""
        known = (self.target.as_given, self.undefended)
        arrays = [weight for model in known if model is not None for weight in model.get_weights()]
        data = [each for each in (self.images, self.labels, self.train_images) if each is not None]
        said = [_wiring(self.target.as_given), self.target.takes, self.target.returns, self.eps, self.norm,
                sorted(f"{name}: {attack!r}" for name, attack in self.own_attacks.items()), *map(str, settings)]
        return digests.of_json([digests.of_arrays([*arrays, *data]), said])


def suite(subject: Subject, effort: Effort) -> dict[str, Attack]:
    """The audit's attacks within eps, by the name that tables show.

    The second APGD follows DLR, or with two classes, where there is no third logit, the margin.
    """
    attack, steps, more = subject.attack, effort.steps, effort.apgd_steps
    second = "DLR" if subject.target.classes > 2 else "margin"
    return {
        "noise": attack(attacks.Noise, kind="sign"),
        "FGSM": attack(attacks.FGSM),
        "PGD": attack(attacks.PGD, steps=steps, stop_early=True),
        "APGD cross-entropy": attack(attacks.APGD, steps=more, stop_early=True),
        f"APGD {second}": attack(attacks.APGD, steps=more, loss=second.lower(), stop_early=True),
        "C&W margin (L-inf)" if subject.norm == "linf" else "PGD margin":
            attack(attacks.PGD, steps=steps, loss="margin", stop_early=True),
        "PGD, doubled": attack(attacks.PGD, steps=2 * steps, restarts=2, stop_early=True)}


def _wiring(model) -> str:
    try:
        return digests.of_json(model.get_config())
    except NotImplementedError:     # a model of code
        return type(model).__qualname__


def batch_for(shape) -> int:
    """How many images of this shape (H, W, C) go through a model at a time."""
    return max(SMALLEST_BATCH, min(BATCH, BATCH * 64 * 64 * 3 // int(np.prod(shape))))
