"""What an experiment may say about training."""
from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic

from kitlib import attacks
from kitlib.attacks import Attack
from kitlib.base.settings import Epsilon, Settings


def _attack(value: Any) -> attacks.Attack:
    """Read a training attack; iterated ones end at their last step, as their papers train with them."""
    if isinstance(value, dict) and value.get("name") in ("pgd", "mim"):
        value = {"keep": "last", **value}
    attack = value if isinstance(value, attacks.Attack) else attacks.read(value, where="training attack")
    if attack.targeted:
        raise ValueError("a targeted attack cannot be trained on: it would lead to the true labels")
    return attack


TrainingAttack = Annotated[pydantic.SerializeAsAny[attacks.Attack], pydantic.BeforeValidator(_attack)]

ADVERSARIAL = ("fgsm", "mixed", "static", "fgsm_rs", "free", "pgd", "trades")
_ONE_ATTACK = ("fgsm", "fgsm_rs", "pgd", "trades")
# Options that only some methods look at.
_METHODS_OF = {
    "temperature": ("plain", "distilled"), "clean_share": ("fgsm", "mixed"), "replays": ("free",), "beta": ("trades",),
    "attack_mode": ("mixed", *_ONE_ATTACK),
    "label_smoothing": ("plain", "mixed", "static", "fgsm_rs", "pgd", "trades"),
}


class Augmentation(Settings):
    """Random changes of each training image, drawn anew in each epoch.

    flip: left-right, for half of the images. rotation: uniform within +- this many degrees.
    shift: uniform within +- this many pixels in each direction. What turns up at the border is
    the image reflected.
    """

    flip: bool = False
    rotation: Annotated[float, pydantic.Field(ge=0, le=180)] = 0.0
    shift: Annotated[int, pydantic.Field(ge=0)] = 0

    @property
    def active(self) -> bool:
        return self.flip or self.rotation > 0 or self.shift > 0


class RobustCheck(Settings):
    """PGD on one fixed batch after each epoch: `attack`, judged by its last step as a training attack is, or 10 steps
    at the training's eps, judged by the best.

    A fall of `robust_accuracy` by more than 20 points from one epoch to the next is flagged as
    catastrophic overfitting (Wong et al. 2020, arXiv:2001.03994, section 5); `stop` ends the
    training there, and `keep: best_robust` goes back to the epoch before.
    """

    part: Literal["train", "validation"] = "train"
    images: Annotated[int, pydantic.Field(ge=1)] = 128
    attack: TrainingAttack | None = None
    stop: bool = False


class TrainingSettings(Settings):
    """How a model is trained. An option that would change nothing is refused, unless it has its default value.

    method: plain, or one of
        fgsm     clean and FGSM images in each batch (paper A; Goodfellow et al. 2015, arXiv:1412.6572)
        mixed    clean images and those of every attack in `attacks`, made anew for each batch (paper B)
        static   the same, but made once, on a baseline that was trained before
        fgsm_rs  FGSM from a random start (Wong et al. 2020, arXiv:2001.03994)
        free     each batch `replays` times, one backward pass serving weights and images
                 (Shafahi et al. 2019, arXiv:1904.12843); an epoch takes `replays` times as long
        pgd      PGD images only (Madry et al. 2018, arXiv:1706.06083)
        trades   clean loss + `beta` x divergence between clean and attacked (Zhang et al. 2019,
                 arXiv:1901.08573)
        distilled  defensive distillation (Papernot et al. 2016, arXiv:1511.04508): the targets are what a
                 teacher, trained plainly at the same `temperature`, says to the same images
    temperature: of plain and distilled: logits are divided by it in training, and only there.
    label_smoothing: share of each target that goes to all classes alike (Szegedy et al. 2016, arXiv:1512.00567, section
        7), in the loss of the weights and not in that of the attacks. fgsm and free take both from one backward pass,
        distilled has soft targets already.
    eps: size of the perturbation in pixels (L-inf), from which the attack follows where `attacks`
        does not give it; free has no other. Beside `attacks` it may only repeat theirs, unless the robust check
        takes it.
    attacks: the training attack of fgsm, fgsm_rs, pgd and trades (exactly one; trades takes eps, step
        and steps from it), the attacks of mixed and static (one or more).
    clean_share: weight of the clean images in the loss; None means 0.5 for fgsm, equal weights for
        mixed, none for the others. 0 is adversarial only.
    attack_mode: whether attacks see the network as it trains (dropout on, batch norm with the batch's
        own statistics) or as it is judged; None means training for fgsm, fgsm_rs and free, as their
        authors do, and inference for the others; free and static have no choice.
    inference_mode_after: from this many epochs on, train the network in inference mode (batch norm
        uses and keeps its moving statistics): paper B's code does so after its first epoch, because
        it never returns from model.eval().
    weight_decay: decoupled from the gradient (Loshchilov & Hutter 2019, arXiv:1711.05101): each update takes rate x
        decay of the weights off them. In PyTorch's SGD a decay d goes through the momentum m, which makes it
        d / (1 - m) here.
    schedule: of the learning rate, over the whole training: constant; cosine to zero; one_cycle (up
        for two fifths, then down to zero); steps (a tenth at one half and at three quarters).
    keep: the weights of the last epoch, of the best by validation accuracy, or of the best by the
        robust check. patience: stop after so many epochs without a better one.
    precision: auto takes bfloat16 where this machine is fast at it. The model stays float32 to the
        outside: its weights, its file, its judging.
    deterministic: bit-equal repetition; slower on a GPU, and holds for the rest of the process.
    """

    method: Literal["plain", "fgsm", "mixed", "static", "fgsm_rs", "free", "pgd", "trades", "distilled"] = "plain"
    epochs: Annotated[int, pydantic.Field(ge=1)] = 10
    batch_size: Annotated[int, pydantic.Field(ge=1)] = 128
    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: Annotated[float, pydantic.Field(gt=0)] = 1e-3
    momentum: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, pydantic.Field(ge=0)] = 0.0
    schedule: Literal["constant", "cosine", "one_cycle", "steps"] = "constant"
    augmentation: Augmentation = Augmentation()
    class_weights: bool = False

    temperature: Annotated[float, pydantic.Field(gt=0, le=1000)] = 1.0
    label_smoothing: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.0
    eps: Epsilon = 8 / 255
    attacks: tuple[TrainingAttack, ...] = ()
    clean_share: Annotated[float, pydantic.Field(ge=0, lt=1)] | None = None
    attack_mode: Literal["training", "inference"] | None = None
    replays: Annotated[int, pydantic.Field(ge=1)] = 8
    beta: Annotated[float, pydantic.Field(gt=0)] = 6.0
    inference_mode_after: Annotated[int, pydantic.Field(ge=0)] | None = None

    keep: Literal["last", "best", "best_robust"] = "last"
    patience: Annotated[int, pydantic.Field(ge=1)] | None = None
    robust_check: RobustCheck | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    deterministic: bool = False

    @pydantic.model_validator(mode="after")
    def _consistent(self):
        if self.attacks and self.method in ("plain", "free", "distilled"):
            raise ValueError(f"method {self.method} takes no attacks")
        if len(self.attacks) > 1 and self.method in _ONE_ATTACK:
            raise ValueError(f"method {self.method} takes one attack")
        if not self.attacks and self.method in ("mixed", "static"):
            raise ValueError(f"method {self.method} needs attacks")
        if self.method == "trades" and self.attacks and self.attacks[0].name != "pgd":
            raise ValueError("method trades takes eps, norm, step and steps from an attack pgd")
        if self.keep == "best_robust" and self.robust_check is None:
            raise ValueError("keep: best_robust needs a robust_check")
        return self

    @pydantic.model_validator(mode="after")
    def _nothing_is_ignored(self):
        """What was set cannot be told from what a record or a base wrote out, so default values may stand anywhere."""
        for name, methods in _METHODS_OF.items():
            if self._is_set(name) and self.method not in methods:
                named = f"method{'s' * (len(methods) > 1)} {' and '.join(methods)}"
                raise ValueError(f"{name} is for {named}, not {self.method}: leave it out")
        if self.method == "trades" and self.attacks:
            ignored = [name for name in ("random_start", "restarts", "loss", "labels", "stop_early")
                       if getattr(self.attacks[0], name) != type(self.attacks[0]).model_fields[name].default]
            if ignored:
                raise ValueError("method trades climbs the divergence, from a start of its own: leave out "
                                 f"{' and '.join(ignored)} of its attack")
        if self._is_set("momentum") and self.optimizer != "sgd":
            raise ValueError(f"momentum is for optimizer sgd, not {self.optimizer}: leave it out")
        if self._is_set("eps") and not self._uses_eps():
            instead = "change that of `attacks`" if self.attacks else "leave it out"
            raise ValueError(f"eps changes nothing in this training of method {self.method}: {instead}")
        return self

    def _is_set(self, name: str) -> bool:
        return getattr(self, name) != type(self).model_fields[name].default

    def _uses_eps(self) -> bool:
        """Whether an attack follows from `eps`, or has the same."""
        if self.robust_check and self.robust_check.attack is None:
            return True
        if self.attacks:
            return self.eps in [getattr(attack, "eps", None) for attack in self.attacks]
        return self.adversarial

    @property
    def adversarial(self) -> bool:
        return self.method in ADVERSARIAL

    @property
    def needs_baseline(self) -> bool:
        """Whether another trained model takes part: it makes the images of static, or teaches distilled."""
        return self.method in ("static", "distilled")

    def training_attacks(self) -> tuple[Attack, ...]:
        """`attacks`, or the method's own at `eps`."""
        if self.attacks or self.method in ("plain", "free", "distilled"):
            return self.attacks
        if self.method == "fgsm":
            return (attacks.read({"name": "fgsm", "eps": self.eps, "labels": "true"}),)
        if self.method == "fgsm_rs":
            return (_pgd(self.eps, step=1.25 * self.eps, steps=1),)
        return (_pgd(self.eps, step=self.eps / 4, steps=10),)

    def share_of_clean(self) -> float:
        """`clean_share`, or the method's own."""
        if self.clean_share is not None:
            return self.clean_share
        return {"fgsm": 0.5, "mixed": 1 / (1 + len(self.attacks))}.get(self.method, 0.0)

    def check_attack(self) -> Attack:
        """The attack of the robust check."""
        trained_on = [attack.eps for attack in self.attacks if isinstance(attack, attacks.InBall)]
        eps = self.eps if self._is_set("eps") or not trained_on else max(trained_on)
        return (self.robust_check and self.robust_check.attack) or _pgd(eps, step=eps / 4, steps=10, keep="best")

    def sees_training_mode(self) -> bool:
        """Whether the training attacks see dropout and batch norm as in training."""
        if self.attack_mode is None:
            return self.method in ("fgsm", "fgsm_rs", "free")
        return self.attack_mode == "training"


def _pgd(eps: float, step: float, steps: int, keep: str = "last") -> attacks.Attack:
    return attacks.read({"name": "pgd", "eps": eps, "step": step, "steps": steps, "random_start": True, "keep": keep})
