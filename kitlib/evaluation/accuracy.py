"""How right a model is: accuracies with counts and intervals, scores, confusion matrices."""
from __future__ import annotations

import dataclasses

import keras
import numpy as np
from scipy.stats import norm
from sklearn.metrics import confusion_matrix

from kitlib.attacks import Attack, AttackResult, Clean, read, run
from kitlib.attacks.checks import as_array, check_run, check_whole
from kitlib.base.settings import KitError, Settings, choose
from kitlib.models import predict_logits

CONFIDENCE = 0.95


def wilson(share: float, number: int) -> tuple[float, float]:
    """Wilson score interval at 95 % of a share of `number` (Wilson 1927)."""
    squared = norm.ppf((1 + CONFIDENCE) / 2) ** 2
    centre = share + squared / (2 * number)
    half = (squared * (share * (1 - share) / number + squared / (4 * number**2))) ** 0.5
    low, high = ((centre + side * half) / (1 + squared / number) for side in (-1, 1))
    return max(0.0, float(low)), min(1.0, float(high))


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """`correct` of `count` answers; in records always with its 95 % Wilson interval.

    images: of how many images the answers are (None: one answer an image). Answers on versions of one image go
    together, so the interval is no narrower than that of so many images.
    """

    correct: int
    count: int
    images: int | None = None

    @classmethod
    def of(cls, right: np.ndarray) -> Accuracy:
        """From one truth value an image."""
        if len(right) == 0:
            raise KitError("accuracy of no images: the part of the data that is judged is empty")
        return cls(int(np.sum(right)), len(right))

    @property
    def value(self) -> float:
        return self.correct / self.count

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.value, self.images or self.count)

    def record(self) -> dict:
        low, high = self.interval
        return {"accuracy": self.value, "correct": self.correct, "count": self.count, "interval": [low, high]}

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.1f} % ({self.correct}/{self.count}, 95 % interval {100 * low:.1f}-{100 * high:.1f})"


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One model on one set of images, clean and under each of several attacks.

    An attack may have been made on the first images only; its count says so.
    """

    labels: np.ndarray
    clean_predictions: np.ndarray
    attacked: dict[str, AttackResult]

    @property
    def clean(self) -> Accuracy:
        return Accuracy.of(self.clean_predictions == self.labels)

    def right(self, name: str) -> np.ndarray:
        """Of each attacked image, whether the model is still right."""
        predictions = self.attacked[name].predictions
        return predictions == self.labels[: len(predictions)]

    def under(self, name: str) -> Accuracy:
        return Accuracy.of(self.right(name))

    def combined(self, names) -> Accuracy:
        """All adversarial images of these attacks together, as paper B's last column counts them."""
        right = [self.right(name) for name in names]
        return dataclasses.replace(Accuracy.of(np.concatenate(right)), images=max(map(len, right)))

    def worst(self, names) -> Accuracy:
        """An image counts only if it is right clean and under every one of these attacks."""
        survived = [self.clean_predictions == self.labels, *(self.right(name) for name in names)]
        count = min(map(len, survived))     # those that every attack was made on
        return Accuracy.of(np.logical_and.reduce([right[:count] for right in survived]))

    def scores(self, name: str) -> dict[str, float | None]:
        """Robustness scores of one attack; see `SCORES` for their definitions."""
        result, survived = self.attacked[name], self.right(name)
        right = (self.clean_predictions == self.labels)[: len(survived)]
        turned = right & ~survived
        return {
            "relative_robustness": float(survived.mean() / right.mean()) if right.any() else None,
            "success_rate": float(turned.sum() / max(right.sum(), 1)),
            "mean_l2": float(result.l2[turned].mean()) if turned.any() else None,
            "max_linf": float(np.max(result.linf))}

    def record(self) -> dict:
        rows = {"clean": self.clean.record()}
        for name, result in self.attacked.items():
            rows[name] = {
                **self.under(name).record(), **self.scores(name),
                "seconds": round(result.seconds, 3),
                "attack": str(result.attack), "settings": result.attack.model_dump(mode="json")}
        return rows


SCORES = {
    "accuracy": "share of images classified rightly (clean, or after the attack)",
    "relative_robustness": "accuracy under attack divided by clean accuracy; 1 means that the attack does nothing",
    "success_rate": "share of the rightly classified images that the attack turns wrong",
    "mean_l2": "mean Euclidean distance over the images that the attack turned wrong",
    "max_linf": "largest change of any pixel in any image",
    "worst case": "share of images that are right clean and under every attack up to the headline's epsilon",
    "combined": "accuracy over the adversarial images of all published attacks together (paper B's last column)",
}


def evaluate(
    model: keras.Model, images: np.ndarray, labels: np.ndarray, attacks: dict[str, Attack],
    *, limits: dict[str, int] | None = None, batch_size: int = 128, seed: int = 0, progress: bool = True,
) -> Evaluation:
    """Judge `model` in float32 on clean images and under each attack, made against this very model.

    images: N x H x W x C pixels in [0, 1]; labels: N class indices. The adversarial images are kept.
    limits: by the attack's name, how many of the images (the first ones) it is made on; the others on all.
    Raises KitError as `attacks.run` does, and for a targeted attack: what it reaches is no accuracy.
    """
    limits, images = limits or {}, as_array(images, "images to evaluate")
    if not isinstance(attacks, dict):
        raise KitError("attacks is a mapping from names to attacks, such as {'PGD': attacks.read(...)}")
    for name, most in limits.items():
        if most is not None:
            check_whole(f"limits: {name}", most, 1)
        choose(name, attacks, "attack")
    for name, attack in attacks.items():
        check_run(attack, batch_size, seed)
        if attack.targeted:
            raise KitError(f"'{name}' is targeted, but accuracy is judged by attacks that lead away from the true "
                           "label; run it with `attacks.run` and the targets")
    clean = run(Clean(), model, images, labels, batch_size=batch_size, keep_images=False).predictions
    attacked = {
        name: run(attack, model, images[: limits.get(name)], labels[: limits.get(name)],
                  batch_size=batch_size, seed=seed, progress=progress)
        for name, attack in attacks.items()}
    return Evaluation(labels, clean, attacked)


def along(model: keras.Model, images: np.ndarray, labels: np.ndarray, perturbation: np.ndarray, shares,
          batch_size: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """At images + share * perturbation, for each share: whether the model is right (bool, len(shares) x N), and its
    cross-entropy (float32, len(shares) x N).

    A one-step attack assumes that the loss rises all the way. Where it falls back before the end, the model has
    learnt to answer that one step (Kim et al. 2020, arXiv:2010.01799, section 3).
    """
    moved = (images + np.float32(share) * perturbation for share in shares)
    logits = np.stack([predict_logits(model, each, batch_size) for each in moved])
    everywhere = np.broadcast_to(labels, logits.shape[:2])
    losses = keras.losses.sparse_categorical_crossentropy(everywhere, logits, from_logits=True)
    return logits.argmax(2) == everywhere, keras.ops.convert_to_numpy(losses)


def sweep(model: keras.Model, images: np.ndarray, labels: np.ndarray, attack: dict, epsilons, *,
          seed: int = 0) -> list[Accuracy]:
    """Accuracy under one attack at each epsilon, in pixels. attack: its settings but for `eps`, its name included."""
    made = (read(attack | {"eps": eps}) for eps in epsilons)
    results = (run(each, model, images, labels, seed=seed, keep_images=False) for each in made)
    return [Accuracy.of(~result.fooled) for result in results]


def confusion(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """classes x classes counts: rows are true classes, columns predictions."""
    return confusion_matrix(labels, predictions, labels=np.arange(classes))


def recalls(labels: np.ndarray, predictions: np.ndarray, class_names) -> dict[str, dict]:
    """Recall of each class that has images, with count and interval."""
    return {
        name: Accuracy.of(predictions[labels == index] == index).record()
        for index, name in enumerate(class_names) if np.any(labels == index)}


def guessing(labels: np.ndarray) -> float:
    """Accuracy of always naming the most frequent class."""
    return float(np.bincount(labels).max() / len(labels))


class Measured(Settings):
    """An accuracy as a share, its count, and its 95 % Wilson interval."""

    accuracy: float
    correct: int
    count: int
    interval: tuple[float, float]

    @classmethod
    def of(cls, right: np.ndarray) -> Measured:
        """From one truth value an image."""
        return cls(**Accuracy.of(right).record())


def cell(measured: Measured) -> str:
    """An accuracy in per cent with its 95 % interval and its count."""
    low, high = measured.interval
    return f"{100 * measured.accuracy:.1f} [{100 * low:.1f}, {100 * high:.1f}] of {measured.count}"
