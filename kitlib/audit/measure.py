"""`Measurements`: everything that the checks look at, measured when it is first asked for, each thing once.

One topic a file: judged.py (one attack on the judged model), gradients.py, ensemble.py (the attacks within eps); here
the controls: other epsilons, wrong labels, the claim's own attacks, an undefended model.
"""
from __future__ import annotations

import dataclasses
import functools

import numpy as np

from kitlib import attacks
from kitlib.attacks import Attack
from kitlib.audit import surrogate
from kitlib.audit.budget import cw_count
from kitlib.audit.copies import nearest_training_images
from kitlib.audit.ensemble import Ensemble, right_under_all
from kitlib.audit.gradients import LINE
from kitlib.audit.judged import Attacked
from kitlib.audit.subject import ON_ALL
from kitlib.evaluation import Accuracy, along
from kitlib.models import as_pixels, predict_logits

SWEEP = (0.0, 0.25, 0.5, 1.0, 2.0)      # parts of eps
FAR = 4                 # times eps: far beyond the threat model
CONTROLS = 64           # images on which the claim's attacks are run with eps = 0
OUR_CONTROLS = 16       # and the audit's, which are known to do nothing then
UNDEFENDED_IMAGES = 5000


@dataclasses.dataclass(frozen=True)
class Leak:
    """FGSM at one eps with true labels, with predicted ones, and with a random wrong one for each image. named: bool N,
    whether the model answers that wrong label then."""

    true: Attacked
    predicted: Attacked
    named: np.ndarray


@dataclasses.dataclass(frozen=True)
class Distances:
    """C&W L2 on some images. rows: which; found: bool, whether it succeeded; l2, linf: the distances."""

    rows: np.ndarray
    found: np.ndarray
    l2: np.ndarray
    linf: np.ndarray
    seconds: float


class Measurements(Ensemble):
    """Everything the checks look at; see `Judged` for its arguments."""

    # --- other epsilons

    @functools.cached_property
    def sweep(self) -> dict[float, Attacked]:
        """PGD at parts and multiples of eps, and where every image can be made grey, on the first images."""
        grey, count = self.subject.grey, min(self.effort.sweep_images, len(self.labels))
        sizes = sorted({min(part * self.subject.eps, grey) for part in SWEEP} | {grey})
        self.begin("sweep", f"PGD at {', '.join(map(self.subject.written, sizes))}")
        first = np.arange(count)

        def at(size: float) -> Attacked:
            if size == self.subject.eps:
                return dataclasses.replace(self.pgd, right=self.pgd.right[:count])
            # At 0 no step changes anything, so none is taken.
            pgd = self.suite["PGD"].model_copy(update={"eps": size})
            return self.attacked(pgd if size else attacks.Noise(eps=0.0), on=first)

        return {size: at(size) for size in sizes}

    # --- wrong labels

    @functools.cached_property
    def wrong_labels(self) -> np.ndarray:
        """For each image one of the other classes, at random."""
        classes = self.subject.target.classes
        away = np.random.default_rng(self.seed).integers(1, classes, len(self.labels))
        return ((self.labels + away) % classes).astype(np.int32)

    def named(self, attack: Attack) -> np.ndarray:
        """For which images the model answers the random wrong label that the attack was given as if it were the truth.

        Led away from that label, a sound model does not name it; one that reads the label from the step does.
        """
        found = self.run_attack(attack, self.model, self.images, self.wrong_labels)
        return self.answers(found.images) == self.wrong_labels

    @functools.cached_property
    def named_clean(self) -> np.ndarray:
        """The same of the images without attack."""
        return self.clean_answers == self.wrong_labels

    @functools.cached_property
    def leaks(self) -> dict[float, Leak]:
        """FGSM with true, predicted and random wrong labels at eps; and, for information, far beyond."""
        found, grey = {}, self.subject.grey
        for eps in sorted({self.subject.eps, min(FAR * self.subject.eps, grey), grey}):
            self.begin("leaks", f"FGSM {self.subject.written(eps)} with true, predicted and wrong labels")
            true, predicted = (attacks.FGSM(eps=eps, norm=self.subject.norm, labels=labels)
                               for labels in ("true", "predicted"))
            found[eps] = Leak(self.attacked(true), self.attacked(predicted), self.named(true))
        return found

    # --- the attacks that the claim was measured with

    @functools.cached_property
    def own(self) -> dict[str, Attacked]:
        """As they are."""
        found = {}
        for name, attack in self.subject.own_attacks.items():
            self.begin("own", f"the claim's own: {attack}")
            found[name] = self.attacked(attack)
        return found

    @functools.cached_property
    def own_doubled(self) -> dict[str, Attacked]:
        """Those of them that take steps within a ball, with twice the steps."""
        steps = {name: getattr(attack, "steps", 0) for name, attack in self.subject.own_attacks.items()
                 if isinstance(attack, attacks.InBall)}
        return {name: self.attacked(self.subject.own_attacks[name].model_copy(update={"steps": 2 * count}))
                for name, count in steps.items() if count}

    @functools.cached_property
    def own_named(self) -> dict[str, np.ndarray]:
        """`named` for those of them that take one step with true labels."""
        return {name: self.named(attack) for name, attack in self.subject.own_attacks.items()
                if attack.length == 1 and attack.labels == "true"}

    # --- eps = 0

    @functools.cached_property
    def controls(self) -> dict[str, tuple[int, int, float]]:
        """Attacks with eps = 0: how many answers they change, of how many images, and the largest change of a pixel."""
        self.begin("controls", "controls: the attacks with eps = 0")
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

    # --- an undefended model

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
        self.begin("other", f"an undefended model to compare with: {what}")
        images, labels = as_pixels(images[chosen]).numpy(), labels[chosen].astype(np.int32)
        model = surrogate.train(images, labels, subject.target.classes, self.seed)
        few = slice(0, len(self.images))
        return surrogate.Undefended(model, images[few], labels[few], what)

    @functools.cached_property
    def transferred(self) -> Attacked:
        """PGD made on the undefended model, shown to the judged one."""
        self.begin("undefended", "PGD carried over from an undefended model")
        attack = self.suite["PGD"].model_copy(update={"stop_early": False})
        return self.attacked(attack, model=self.undefended.model, through="undefended")

    @functools.cached_property
    def undefended_clean(self) -> Accuracy:
        """Accuracy of the undefended model on the judged images."""
        return Accuracy.of(predict_logits(self.undefended.model, self.images, self.batch).argmax(1) == self.labels)

    @functools.cached_property
    def undefended_under_pgd(self) -> tuple[Accuracy, Accuracy, Accuracy]:
        """Accuracy of the undefended model on its own images: without attack, and under the same PGD at eps and where
        every image can be made grey."""
        known = self.undefended
        found = [predict_logits(known.model, known.images, self.batch).argmax(1) == known.labels]
        for eps in (self.subject.eps, self.subject.grey):
            attack = self.suite["PGD"].model_copy(update={"eps": eps})
            found.append(~self.run_attack(attack, known.model, known.images, known.labels, keep_images=False).fooled)
        clean, at_eps, grey = map(Accuracy.of, found)
        return clean, at_eps, grey

    # --- the smallest perturbation, and a step

    @property
    def _cw(self) -> attacks.CarliniWagnerL2:
        # A pixel of 0 or 1 stands at 7 in tanh space: 100 steps of 0.1 get as far as the authors' 1,000 of 0.01.
        return attacks.CarliniWagnerL2(search_steps=self.effort.cw_searches, steps=self.effort.cw_steps,
                                       learning_rate=0.1, constant=1.0)

    @functools.cached_property
    def carlini_wagner(self) -> Distances | None:
        """C&W L2 on the first rightly classified images; None where there are none."""
        rows = np.flatnonzero(self.clean)[:cw_count(self.effort, len(self.labels))]
        if len(rows) == 0:
            return None
        known = self.resume.recall("carlini_wagner")
        if known is not None:
            return Distances(known["rows"], known["found"], known["l2"], known["linf"], float(known["seconds"]))
        self.begin("cw", str(self._cw))
        made = self.run_attack(self._cw, self.model, self.images[rows], self.labels[rows])
        found = Distances(rows, made.found, made.l2, made.linf, made.seconds)
        self.resume.keep("carlini_wagner", vars(found))
        return found

    @functools.cached_property
    def cw_within(self) -> Attacked | None:
        """Where the threat model is L2, C&W's images count that are within eps; those that it did not try are right."""
        found = self.carlini_wagner if self.subject.norm == "l2" else None
        if found is None or not self.pgd.right.any():
            return None
        within = found.found & (found.l2 <= self.subject.eps)
        right = self.pgd.right.copy()
        right[found.rows[within]] = False
        largest = {name: float(getattr(found, name)[within].max(initial=0.0)) for name in ("l2", "linf")}
        return Attacked(self._cw, right, **largest, low=0.0, high=1.0, finite=True,  # by its tanh
                        seconds=found.seconds, turned=np.empty(0, int), images=self.images[:0])

    @functools.cached_property
    def along_the_step(self) -> tuple[np.ndarray, np.ndarray]:
        """At image + k * delta, one row a k of LINE, where delta is FGSM's step: right or wrong (bool 9 x N), and
        the cross-entropy (float 9 x N)."""
        found = self.run_attack(self.fgsm.attack, self.model, self.images, self.labels)
        step = found.images - self.images
        return along(self.model, self.images, self.labels, step, LINE, self.batch)

    # --- the data

    @functools.cached_property
    def copies(self) -> tuple[np.ndarray, np.ndarray, float] | None:
        """See `nearest_training_images`; None without training images."""
        training = self.subject.train_images
        if training is None:
            return None
        self.begin("other", f"copies of the judged images among {len(training):,} training images")
        return nearest_training_images(self.images, training, self.seed)

    # --- all of them

    @functools.cached_property
    def ensemble(self) -> dict[str, Attacked]:
        """Every attack within eps, by the name that tables show: the worst case is taken over them."""
        first = [self.pgd, self.targeted]       # in the order of what they are worth, should the time run out
        found = {name if name in ON_ALL else f"PGD, then {name.removeprefix('PGD, ')}": self.under(name)
                 for name in self.suite}
        others = {"PGD in 8 bits": self.in_8_bits, "PGD, then APGD targeted": first[1], "PGD, then Square": self.square,
                  "PGD, then C&W L2": self.cw_within, "transferred PGD": self.transferred, "BPDA": self.bpda,
                  "EOT": self.eot}
        return {name: each for name, each in (found | others).items() if each is not None}

    @property
    def strongest(self) -> tuple[str, Attacked]:
        """The attack of the ensemble under which accuracy is lowest, with its name."""
        return min(self.ensemble.items(), key=lambda entry: entry[1].right.mean())

    @functools.cached_property
    def survivors(self) -> np.ndarray:
        """Which images are right clean and under every attack of the ensemble."""
        return self.clean & right_under_all(self.ensemble.values())
