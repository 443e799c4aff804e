"""What the checks measure, each thing once: attacks on the judged model, controls, gradients, the split."""
from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from kitlib import attacks
from kitlib.attacks import Attack
from kitlib.attacks.base import input_gradient, logits_of, margin
from kitlib.attacks.checks import check_labels
from kitlib.audit import surrogate
from kitlib.base import digests
from kitlib.base.settings import KitError, Settings, first_few, format_epsilon
from kitlib.data import similarity
from kitlib.evaluation import Accuracy, along
from kitlib.models import Normalisation, as_pixels, predict_logits, softmax
from kitlib.models.bpda import Averaged, straight_through
from kitlib.models.reading import Target

BATCH = 128             # images at a time, if they are of 64 x 64 x 3; fewer of larger ones, so that memory holds them
SMALLEST_BATCH = 8
SHOWN = 8               # adversarial images kept of each attack, for pictures
LARGE = 0.5             # L-inf distance at which every image can be made solid grey
SWEEP = (0.0, 0.25, 0.5, 1.0, 2.0)      # parts of eps
PASSES = 5
EOT_PASSES = 16         # of a random model: their mean is attacked, their most frequent answer judged
LINE = tuple(np.linspace(0, 1, 9).round(3).tolist())
CONTROLS = 64           # images on which the claim's attacks are run with eps = 0
OUR_CONTROLS = 16       # and the audit's, which are known to do nothing then
FEWEST_CW = 15          # C&W L2, the dearest attack for a deep network, gets a tenth of the images, or so many
UNDEFENDED_IMAGES = 5000
REFERENCES = 1000       # training images that tell how far apart nearest images usually are


class Effort(Settings):
    """How much is done. images: judged. steps: of PGD. queries: of Square. targets: likeliest other classes
    that the targeted attack is led to. cw_images (at most), cw_searches, cw_steps: of C&W L2."""

    images: int
    steps: int
    apgd_steps: int
    queries: int
    targets: int
    cw_images: int
    cw_searches: int
    cw_steps: int


QUICK = Effort(images=100, steps=30, apgd_steps=30, queries=300, targets=0, cw_images=15, cw_searches=6,
               cw_steps=100)
FULL = Effort(images=1000, steps=40, apgd_steps=100, queries=5000, targets=3, cw_images=100, cw_searches=6,
              cw_steps=100)


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is judged, at which eps (L-inf, in pixels), and what else is known of it.

    images: float32 N x H x W x C in [0, 1]; labels: int N. claim: the robust accuracy that is claimed, a share.
    own_attacks: the attacks that the claim was measured with. undefended: the same kind of model without defence
    (where None, a small one is trained). train_images, train_labels: what the model was trained on.
    robust_history: PGD accuracy on a fixed batch after each epoch of training; kept_epoch: which was kept.
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

    def __post_init__(self):
        if not 0 < self.eps <= 1:
            raise KitError(f"eps must be above 0 and at most 1, in pixels such as 8/255, not {self.eps:g}")
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


@dataclasses.dataclass(frozen=True)
class Attacked:
    """What one attack left. right: bool N, judged anew on the attacked images (`Measurements.answers`).

    linf: largest change of any pixel; low, high: smallest and largest pixel; finite: no NaN or infinity.
    turned, images: places of the first few images where the attack turned a right answer, and these images attacked.
    """

    attack: Attack
    right: np.ndarray
    linf: float
    low: float
    high: float
    finite: bool
    seconds: float
    turned: np.ndarray
    images: np.ndarray

    @property
    def accuracy(self) -> Accuracy:
        return Accuracy.of(self.right)


def batch_for(shape) -> int:
    """How many images of this shape (H, W, C) go through a model at a time."""
    return max(SMALLEST_BATCH, min(BATCH, BATCH * 64 * 64 * 3 // int(np.prod(shape))))


class Measurements:
    """Everything the checks look at, measured when it is first asked for.

    say: gets a line before each longer piece of work. progress: show a bar within each attack.
    """

    def __init__(self, subject: Subject, effort: Effort, seed: int = 0, say: Callable[[str], None] = lambda line: None,
                 progress: bool = False):
        self.subject, self.effort, self.seed, self.say, self.progress = subject, effort, seed, say, progress
        self.model = subject.target.model
        self.images, self.labels = subject.images, subject.labels.astype(np.int32)
        self.batch = batch_for(self.images.shape[1:])
        self._under: dict[str, Attacked] = {}

    # --- the attacks

    @functools.cached_property
    def clean_logits(self) -> np.ndarray:
        return predict_logits(self.model, self.images, self.batch)

    @functools.cached_property
    def clean(self) -> np.ndarray:
        """Which images are right without attack."""
        once = self.clean_logits.argmax(1)
        return (self.answers(self.images) if self.random else once) == self.labels

    def answers(self, images) -> np.ndarray:
        """The class that the judged model gives each image. Of a random model it is the most frequent one of several
        passes: over many attacks, each judged by a pass of its own, chance alone would turn most images once."""
        passes = EOT_PASSES if self.random else 1
        logits = (predict_logits(self.model, images, self.batch) for _ in range(passes))
        return sum(np.eye(self.subject.target.classes, dtype=int)[each.argmax(1)] for each in logits).argmax(1)

    def attacked(self, attack: Attack, on=None, model=None, targets=None) -> Attacked:
        """Attack (where given, another `model` or a stand-in for it), and judge what comes out by the judged model.

        on: indices of images; all where None. targets: where the attack is targeted.
        """
        rows = np.arange(len(self.labels)) if on is None else on
        clean, labels = self.images[rows], self.labels[rows]
        result = self._run(attack, model or self.model, clean, labels if targets is None else targets[rows])
        finite = np.isfinite(result.images).all()
        right = self.answers(result.images) == labels
        turned = np.flatnonzero(self.clean[rows] & ~right)[:SHOWN]
        return Attacked(
            attack=attack, right=right, linf=float(result.linf.max()), finite=bool(finite),
            low=float(result.images.min()), high=float(result.images.max()), seconds=result.seconds,
            turned=rows[turned], images=result.images[turned].copy(),
        )

    def _run(self, attack: Attack, model, images, labels, keep_images: bool = True) -> attacks.AttackResult:
        return attacks.run(attack, model, images, labels, batch_size=self.batch, seed=self.seed,
                           keep_images=keep_images, progress=self.progress)

    @functools.cached_property
    def suite(self) -> dict[str, Attack]:
        """The audit's attacks within eps, by the name that tables show."""
        eps, steps, more = self.subject.eps, self.effort.steps, self.effort.apgd_steps
        title = self.second_loss.upper() if self.second_loss == "dlr" else self.second_loss
        return {
            "noise": attacks.Noise(eps=eps, kind="sign"),
            "FGSM": attacks.FGSM(eps=eps),
            "PGD": attacks.PGD(eps=eps, steps=steps, stop_early=True),
            "PGD, doubled": attacks.PGD(eps=eps, steps=2 * steps, restarts=2, stop_early=True),
            "APGD cross-entropy": attacks.APGD(eps=eps, steps=more, stop_early=True),
            f"APGD {title}": attacks.APGD(eps=eps, steps=more, loss=self.second_loss, stop_early=True),
            "C&W margin (L-inf)": attacks.PGD(eps=eps, steps=more, loss="margin", stop_early=True),
        }

    @property
    def second_loss(self) -> str:
        """The loss of the second APGD: DLR, or with two classes, where there is no third logit, the margin."""
        return "dlr" if self.subject.target.classes > 2 else "margin"

    def under(self, name: str) -> Attacked:
        """What the attack of that name in the suite left."""
        if name not in self._under:
            self.say(str(self.suite[name]))
            self._under[name] = self.attacked(self.suite[name])
        return self._under[name]

    @property
    def pgd(self) -> Attacked:
        """The plain gradient attack that the sanity checks are about: PGD on the cross-entropy."""
        return self.under("PGD")

    @property
    def pgd_doubled(self) -> Attacked:
        return self.under("PGD, doubled")

    @property
    def fgsm(self) -> Attacked:
        return self.under("FGSM")

    @property
    def noise(self) -> Attacked:
        return self.under("noise")

    # Two attacks take thousands of passes an image, and go on with what PGD left: on the others they cannot change the
    # worst case (Croce & Hein 2020, section 6, run the attacks of AutoAttack so). None where PGD left nothing.

    @functools.cached_property
    def square(self) -> Attacked | None:
        """Square on the images that PGD left; those that PGD turned count as turned."""
        return self._square_on(self.pgd.right, "PGD left") if self.pgd.right.any() else None

    @functools.cached_property
    def square_alone(self) -> np.ndarray:
        """Which images are right under Square: it attacks those that PGD turned, too."""
        turned = ~self.pgd.right
        rest = self._square_on(turned, "PGD turned").right if turned.any() else turned
        return rest if self.square is None else rest | self.square.right

    def _square_on(self, which: np.ndarray, what: str) -> Attacked:
        attack = attacks.Square(eps=self.subject.eps, steps=self.effort.queries)
        self.say(f"{attack}, on the {which.sum()} images that {what}")
        return self._among(which, attack)

    @functools.cached_property
    def targeted(self) -> Attacked | None:
        """APGD led to each of the likeliest other classes (as Croce & Hein 2020, section 4, do; but with the margin to
        that class for a loss, where they have a targeted DLR), as `square`."""
        left, tries = self.pgd.right, []
        attack = attacks.APGD(eps=self.subject.eps, steps=self.effort.apgd_steps, loss="margin", targeted=True,
                              stop_early=True)
        others = np.where(np.eye(self.clean_logits.shape[1], dtype=bool)[self.labels], -np.inf, self.clean_logits)
        order = np.argsort(-others, axis=1, kind="stable").astype(np.int32)
        for rank in range(min(self.effort.targets, self.subject.target.classes - 1)):
            if left.any():
                self.say(f"{attack}, target {rank + 1}, on the {left.sum()} images left")
                tries.append(self._among(left, attack, targets=order[:, rank]))
                left = tries[-1].right
        return _together(tries) if tries else None

    def _among(self, which: np.ndarray, attack: Attack, targets=None) -> Attacked:
        """Attack those of all images (bool N) alone; the others count as wrong."""
        found = self.attacked(attack, on=np.flatnonzero(which), targets=targets)
        right = np.zeros_like(which)
        right[which] = found.right
        return dataclasses.replace(found, right=right)

    @functools.cached_property
    def leaks(self) -> dict[float, tuple[Attacked, Attacked]]:
        """FGSM with true and with predicted labels, at eps, its multiples and half of the pixel range."""
        found = {}
        for eps in sorted({self.subject.eps, min(4 * self.subject.eps, LARGE), LARGE}):
            self.say(f"FGSM {format_epsilon(eps)} with true and with predicted labels")
            found[eps] = tuple(
                self.attacked(attacks.FGSM(eps=eps, labels=labels)) for labels in ("true", "predicted"))
        return found

    @functools.cached_property
    def step_on_grey(self) -> np.ndarray:
        """FGSM's step for the true label, at half of the pixel range and not clipped, laid over plain grey: is the
        answer the label of the image that the step was made for? Bool N."""
        unclipped = attacks.PaperAFGSM(eps=LARGE, normalisation=Normalisation(mean=0, std=1), clip=None)
        stepped = self._run(unclipped, self.model, self.images, self.labels)
        on_grey = np.clip(0.5 + stepped.images - self.images, 0, 1)
        return self.answers(on_grey) == self.labels

    @functools.cached_property
    def sweep(self) -> dict[float, Attacked]:
        """PGD at parts and multiples of eps, and at half of the pixel range."""
        sizes = sorted({min(part * self.subject.eps, LARGE) for part in SWEEP} | {LARGE})
        self.say(f"PGD at {', '.join(format_epsilon(size) for size in sizes)}")

        def at(size: float) -> Attacked:
            if size == self.subject.eps:
                return self.pgd
            # At 0 no step changes anything, so none is taken.
            pgd = self.suite["PGD"].model_copy(update={"eps": size})
            return self.attacked(pgd if size else attacks.Noise(eps=0.0))

        return {size: at(size) for size in sizes}

    @functools.cached_property
    def ensemble(self) -> dict[str, Attacked]:
        """Every attack within eps, by the name that tables show: the worst case is taken over them."""
        found = {name: self.under(name) for name in self.suite}
        targeted = self.targeted if self.subject.target.classes > 2 else None
        others = {"PGD, then APGD targeted": targeted, "PGD, then Square": self.square,
                  "transferred PGD": self.transferred, "BPDA": self.bpda, "EOT": self.eot}
        return found | {name: each for name, each in others.items() if each is not None}

    @property
    def strongest(self) -> tuple[str, Attacked]:
        """The attack of the ensemble that leaves least, with its name."""
        return min(self.ensemble.items(), key=lambda entry: entry[1].right.mean())

    @functools.cached_property
    def without_doubling(self) -> np.ndarray:
        """Which images are right under every attack of the suite, and Square, but the doubled PGD."""
        others = [self.under(name) for name in self.suite if name != "PGD, doubled"]
        return np.logical_and.reduce([each.right for each in [*others, self.square] if each is not None])

    @functools.cached_property
    def survivors(self) -> np.ndarray:
        """Which images are right clean and under every attack of the ensemble."""
        return np.logical_and.reduce([self.clean, *(each.right for each in self.ensemble.values())])

    @functools.cached_property
    def own(self) -> dict[str, Attacked]:
        """The attacks that the claim was measured with, as they are."""
        found = {}
        for name, attack in self.subject.own_attacks.items():
            self.say(f"the claim's own: {attack}")
            found[name] = self.attacked(attack)
        return found

    @functools.cached_property
    def own_doubled(self) -> dict[str, Attacked]:
        """Those of them that take steps within a ball, with twice the steps."""
        doubled = {name: attack.model_copy(update={"steps": 2 * attack.steps})
                   for name, attack in self.subject.own_attacks.items()
                   if isinstance(attack, attacks.InBall) and getattr(attack, "steps", 0)}
        return {name: self.attacked(attack) for name, attack in doubled.items()}

    @functools.cached_property
    def controls(self) -> dict[str, tuple[int, int, float]]:
        """Attacks with eps = 0: how many answers they change, of how many images, and the largest change of a pixel."""
        self.say("controls: the attacks with eps = 0")
        return {name: self._control(self.suite[name].model_copy(update={"eps": 0.0}), OUR_CONTROLS)
                for name in ("FGSM", "PGD", "APGD cross-entropy")}

    @functools.cached_property
    def own_controls(self) -> dict[str, tuple[int, int, float]]:
        """The same of the attacks that the claim was measured with."""
        return {name: self._control(attack.control(), CONTROLS) for name, attack in self.subject.own_attacks.items()}

    def _control(self, attack: Attack, most: int) -> tuple[int, int, float]:
        count = min(most, len(self.labels))
        after = self.attacked(attack, on=np.arange(count))
        return int((after.right != self.clean[:count]).sum()), count, after.linf

    # --- other models

    @functools.cached_property
    def undefended(self) -> surrogate.Undefended:
        subject = self.subject
        if subject.undefended is not None:
            return surrogate.Undefended(subject.undefended, self.images, self.labels, "the undefended model given")
        images, labels, known = subject.train_images, subject.train_labels, "training"
        if images is None or labels is None:
            images, labels, known = self.images, self.labels, "judged"
        chosen = np.random.default_rng(self.seed).permutation(len(images))[:UNDEFENDED_IMAGES]
        what = f"a small network trained on {len(chosen):,} {known} images"
        self.say(f"an undefended model to compare with: {what}")
        images, labels = as_pixels(images[chosen]).numpy(), labels[chosen].astype(np.int32)
        model = surrogate.train(images, labels, subject.target.classes, self.seed)
        few = slice(0, len(self.images))
        return surrogate.Undefended(model, images[few], labels[few], what)

    @functools.cached_property
    def transferred(self) -> Attacked:
        """PGD made on the undefended model, shown to the judged one."""
        self.say("PGD carried over from an undefended model")
        attack = self.suite["PGD"].model_copy(update={"stop_early": False})
        return self.attacked(attack, model=self.undefended.model)

    @functools.cached_property
    def undefended_clean(self) -> Accuracy:
        """Accuracy of the undefended model on the judged images."""
        return Accuracy.of(predict_logits(self.undefended.model, self.images, self.batch).argmax(1) == self.labels)

    @functools.cached_property
    def undefended_under_pgd(self) -> tuple[Accuracy, Accuracy, Accuracy]:
        """Accuracy of the undefended model on its own images: without attack, and under the same PGD at eps and at half
        of the pixel range."""
        known = self.undefended
        found = [predict_logits(known.model, known.images, self.batch).argmax(1) == known.labels]
        for eps in (self.subject.eps, LARGE):
            attack = self.suite["PGD"].model_copy(update={"eps": eps})
            found.append(~self._run(attack, known.model, known.images, known.labels, keep_images=False).fooled)
        return tuple(map(Accuracy.of, found))

    @functools.cached_property
    def carlini_wagner(self) -> attacks.AttackResult | None:
        """C&W L2 on the first rightly classified images; None where there are none."""
        effort = self.effort
        rows = np.flatnonzero(self.clean)[: min(effort.cw_images, max(FEWEST_CW, len(self.labels) // 10))]
        # A pixel of 0 or 1 stands at 7 in tanh space: 100 steps of 0.1 get as far as the authors' 1,000 of 0.01.
        attack = attacks.CarliniWagnerL2(search_steps=effort.cw_searches, steps=effort.cw_steps, learning_rate=0.1,
                                         constant=1.0)
        if len(rows) == 0:
            return None
        self.say(str(attack))
        return self._run(attack, self.model, self.images[rows], self.labels[rows])

    @functools.cached_property
    def rounded(self) -> np.ndarray:
        """For which images the largest probability is rounded to 1: no gradient is left if only that is known."""
        return softmax(self.clean_logits).max(1) >= 1 - np.finfo(np.float32).eps

    # --- gradients and randomness

    @functools.cached_property
    def no_gradient(self) -> np.ndarray:
        """For which images the gradient of the cross-entropy is zero, or no number, in every pixel."""
        def losses(labels, logits):
            return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)

        return (self._gradients(losses) == 0).all((1, 2, 3))

    @functools.cached_property
    def climbs(self) -> np.ndarray:
        """For which rightly classified images a small step along the gradient's sign raises the margin loss more
        than a step of the same size with random signs."""
        rows = self.clean
        images, labels, step = self.images[rows], self.labels[rows], self.subject.eps / 4
        signs = np.sign(self._gradients(margin)[rows])
        random = np.random.default_rng(self.seed).choice(np.float32([-1, 1]), size=images.shape)
        moved = (np.clip(images + np.float32(step) * way, 0, 1) for way in (signs, random))
        uphill, sideways = (margin(labels, predict_logits(self.model, each, self.batch)).numpy() for each in moved)
        return uphill > sideways

    def _gradients(self, loss: Callable) -> np.ndarray:
        """For the pixels, as the attacks take them: 0 where it is no number."""
        def gradient(images, labels):
            return input_gradient(logits_of(self.model), loss, images, labels, targeted=False)

        signature = [tf.TensorSpec([None, *self.images.shape[1:]]), tf.TensorSpec([None], tf.int32)]
        # Called through its concrete function, as TensorFlow would take one line's functions for one that retraces.
        compiled = tf.function(gradient, input_signature=signature, autograph=False).get_concrete_function()
        parts = range(0, len(self.labels), self.batch)
        batches = ((self.images[i:i + self.batch], self.labels[i:i + self.batch]) for i in parts)
        return np.concatenate([compiled(*map(tf.constant, batch)).numpy() for batch in batches])

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
        return self.spread_of_passes["inference"] > 1e-4

    @functools.cached_property
    def eot(self) -> Attacked | None:
        """PGD on the mean of several passes, where the model is random; through its layers without gradient, too
        (Athalye et al. 2018, section 4, combine EOT and BPDA so)."""
        if not self.random:
            return None
        self.say(f"the model is random: PGD on the mean of {EOT_PASSES} passes (EOT)")
        attack = self.suite["PGD"].model_copy(update={"stop_early": False, "keep": "last"})
        return self.attacked(attack, model=Averaged(self.blocked[0] if self.blocked else self.model, EOT_PASSES))

    @functools.cached_property
    def blocked(self) -> tuple[keras.Model, list[str]] | None:
        """The model with its non-differentiable layers differentiated as the identity, and their names."""
        return straight_through(self.model, self.images[:2])

    @functools.cached_property
    def bpda(self) -> Attacked | None:
        """PGD on that stand-in, judged by the model itself; None where there is none."""
        if self.blocked is None:
            return None
        self.say(f"layers without gradient ({', '.join(self.blocked[1])}): PGD through them (BPDA)")
        return self.attacked(self.suite["PGD"], model=self.blocked[0])

    @functools.cached_property
    def along_the_step(self) -> tuple[np.ndarray, np.ndarray]:
        """At image + k * delta, one row a k of LINE, where delta is FGSM's step: right or wrong (bool 9 x N), and
        the cross-entropy (float 9 x N)."""
        found = self._run(self.fgsm.attack, self.model, self.images, self.labels)
        step = found.images - self.images
        return along(self.model, self.images, self.labels, step, LINE, self.batch)

    # --- the data

    @functools.cached_property
    def copies(self) -> tuple[np.ndarray, np.ndarray, float] | None:
        """For each judged image: is an exact copy of it among the training images; its distance (1 - correlation)
        to the nearest of these. And the distance that is usual between nearest images.

        What is usual is also asked of the training images, as the judged ones cannot tell where most of them are
        copies; and the larger median counts, as the training images alone cannot tell where they hold many twins.
        """
        if self.subject.train_images is None:
            return None
        self.say(f"copies of the judged images among {len(self.subject.train_images):,} training images")
        ours, theirs = (np.rint(255 * x).astype(np.uint8) if x.dtype != np.uint8 else x
                        for x in (self.images, self.subject.train_images))
        known = {digests.of_arrays([image]) for image in theirs}
        exact = np.array([digests.of_arrays([image]) in known for image in ours])
        side = min(similarity.SIDE, ours.shape[1])
        mine, others = similarity.unit_vectors(ours, side), similarity.unit_vectors(theirs, side)
        distance = _nearest(mine, others)
        some = np.random.default_rng(self.seed).permutation(len(others))[:REFERENCES]
        among = _nearest(others[some], others, itself=some) if len(others) > 1 else distance
        return exact, distance, float(max(np.median(distance), np.median(among)))


def _together(tries: list[Attacked]) -> Attacked:
    """One attack that was tried again on what each try left."""
    best = max(tries, key=lambda each: len(each.turned))
    return dataclasses.replace(
        best, right=tries[-1].right, linf=max(each.linf for each in tries), low=min(each.low for each in tries),
        high=max(each.high for each in tries), finite=all(each.finite for each in tries),
        seconds=sum(each.seconds for each in tries))


def _nearest(vectors: np.ndarray, others: np.ndarray, itself: np.ndarray | None = None) -> np.ndarray:
    """The distance (1 - correlation) of each vector to the nearest of the others. itself: its own place among them,
    which does not count."""
    closest = np.full(len(vectors), -1.0, np.float32)
    for first in range(0, len(others), similarity.ROWS):
        alike = vectors @ others[first:first + similarity.ROWS].T
        if itself is not None:
            inside = np.flatnonzero((first <= itself) & (itself < first + similarity.ROWS))
            alike[inside, itself[inside] - first] = -1
        closest = np.maximum(closest, alike.max(1))
    return 1 - closest
