"""A detector of adversarial images, and an attacker who knows it.

Feature squeezing (Xu, Evans & Qi 2018, arXiv:1704.01155): squeeze an image (fewer grey levels, a median) and ask the
model again. A clean image keeps its answer; an adversarial one, which rests on small differences between pixels, often
does not.

    detector = detection.Detector.of(model, SQUEEZERS).calibrated(clean_validation_images, false_positive_rate=0.05)
    predictions, alarms = detector.examine(images)
"""
from __future__ import annotations

import dataclasses
import functools

import keras
import numpy as np

from kitlib import attacks
from kitlib.attacks import InBall
from kitlib.attacks.checks import check_images, check_model
from kitlib.base.settings import KitError
from kitlib.evaluation import defences
from kitlib.evaluation.defences import Defence
from kitlib.models import as_pixels, exact_float32, from_pixels, in_float32, predict_logits, softmax

# Two of the kinds of squeezers that the paper joins (section V.C); its third, non-local means, takes longer than the
# model itself and so is no choice for live use.
SQUEEZERS = ({"name": "bit_depth", "bits": 3}, {"name": "median", "window": 3})


@dataclasses.dataclass(frozen=True, eq=False)
class Detector:
    """A classifier watched by feature squeezing.

    model: pixels to logits. squeezers: one or more. threshold: an image whose score lies above it raises an
    alarm; infinite until `calibrated`.
    """

    model: keras.Model
    squeezers: tuple[Defence, ...]
    threshold: float = np.inf

    @classmethod
    def of(cls, model: keras.Model, squeezers=SQUEEZERS) -> Detector:
        """squeezers: settings as `kitlib.evaluation.defences.read` takes them. Raises KitError where there is none."""
        read = tuple(defences.read(settings, "squeezer") for settings in squeezers)
        if not read:
            raise KitError("a detector needs at least one squeezer")
        return cls(from_pixels(in_float32(model)), read)

    def calibrated(self, images, false_positive_rate: float = 0.05) -> Detector:
        """The same detector with the lowest threshold at which at most this share of `images` raise an alarm.

        images: clean, and used for nothing else: validation images. Raises KitError for an impossible share, for bad
        images, and for a model that returns no logits of two classes or more.
        """
        if not 0 < false_positive_rate < 1:
            raise KitError(f"the false-positive rate must lie between 0 and 1, not be {false_positive_rate}")
        images = np.asarray(images)
        scores = np.sort(self.score(images)[1])
        check_model(self.model, as_pixels(images[:8]).numpy())
        allowed = int(false_positive_rate * len(scores) + 1e-9)     # alarms; 0.07 x 100 is not quite 7
        return dataclasses.replace(self, threshold=float(scores[-1 - allowed]))

    def score(self, images, batch_size: int = 256) -> tuple[np.ndarray, np.ndarray]:
        """(predictions, scores) of pixels, N x H x W x C; one pass of the model and one for each squeezer.

        A score is the largest L1 distance, over the squeezers, between the probabilities for the image and for
        the squeezed image: from 0 to 2 (section V of the paper, its joint detector). images: float32 in [0, 1], or
        uint8.
        """
        images = np.asarray(images)
        check_images(images[:1] / np.float32(255) if images.dtype == np.uint8 else images, "detector")
        probabilities = softmax(predict_logits(self._stacked, images, batch_size))
        distances = np.abs(probabilities[:, 1:] - probabilities[:, :1]).sum(-1)
        return probabilities[:, 0].argmax(-1), distances.max(-1)

    def examine(self, images, batch_size: int = 256) -> tuple[np.ndarray, np.ndarray]:
        """(predictions, alarms): what the model answers, and whether the detector objects (bool N)."""
        predictions, scores = self.score(images, batch_size)
        return predictions, scores > self.threshold

    @functools.cached_property
    def _stacked(self) -> keras.Model:
        """Pixels to logits N x (1 + squeezers) x classes: of the image, then of each squeezed image."""
        return _side_by_side(self.model, [defences.deployed(self.model, squeezer) for squeezer in self.squeezers])

    @exact_float32()
    def surrogate(self) -> keras.Model:
        """What an attacker who knows the detector differentiates: pixels to log-probabilities, N x (classes + 1),
        averaged over the image and its squeezed copies, with straight-through gradients (BPDA) for the squeezers.

        Its cross-entropy towards a target is the mean of -log p_k(target) over the copies k: a last column, which is
        no class, holds what the means lack to a probability of one. As each p_k lies within 2 (1 - p_k(target)) <=
        -2 log p_k(target) of certainty in L1, that loss times twice the number of copies bounds the detector's score
        from above: driving it down fools the model and silences the detector.
        """
        squeezed = [defences.wrap(self.model, squeezer, adaptive=True) for squeezer in self.squeezers]
        stacked = _side_by_side(self.model, squeezed)
        log_probabilities = keras.ops.log_softmax(stacked.outputs[0], axis=-1)
        means = keras.ops.mean(log_probabilities, axis=1)
        rest = 1 - keras.ops.sum(keras.ops.exp(means), axis=1, keepdims=True)
        rest = keras.ops.log(keras.ops.maximum(rest, 1e-12))
        logits = keras.ops.concatenate([means, rest], axis=1)
        return keras.Model(stacked.inputs[0], logits, name="surrogate")


def evade(detector: Detector, images, labels, attack: InBall, targets: int = 2, seed: int = 0,
          batch_size: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """The adaptive attack: fool the model without raising an alarm (after Carlini & Wagner 2017, arXiv:1705.07263,
    and He et al. 2017, arXiv:1706.04701, who broke feature squeezing so).

    attack: an attack in a ball, such as PGD. It is run on the model alone, which is enough for some images; then,
    targeted, on the detector's `surrogate`, towards each of the `targets` wrong classes that the model finds most
    likely. An image is left alone once it evades.
    images: float32, N x H x W x C, in [0, 1]. labels: int N, the true classes.

    Returns (adversarial images, evaded): `evaded`, bool N, says which are misclassified without an alarm. An
    image that never does is the last one tried. Raises KitError for an attack that cannot be targeted.
    """
    targeted = attacks.read({**attack.model_dump(), "targeted": True, "labels": "true"}, "evade, targeted")
    surrogate = detector.surrogate()
    logits = predict_logits(detector.model, images, batch_size)
    logits[np.arange(len(labels)), labels] = -np.inf
    ranked = np.argsort(-logits, axis=1)[:, :min(targets, logits.shape[1] - 1)]
    found, evaded = np.array(images), np.zeros(len(labels), bool)
    tries = [(attack, detector.model, labels), *((targeted, surrogate, wanted) for wanted in ranked.T)]
    for each, model, given in tries:
        left = np.flatnonzero(~evaded)
        if len(left) == 0:
            break
        result = attacks.run(each, model, images[left], given[left], batch_size=batch_size, seed=seed)
        predictions, alarms = detector.examine(result.images, batch_size)
        found[left], evaded[left] = result.images, (predictions != labels[left]) & ~alarms
    return found, evaded


@exact_float32()
def _side_by_side(model: keras.Model, squeezed: list[keras.Model]) -> keras.Model:
    pixels = keras.Input(model.input_shape[1:], name="pixels")
    for number, each in enumerate(squeezed):
        each.name = f"squeezed_{number}"  # Keras wants the names of parts to differ
    return keras.Model(pixels, keras.ops.stack([each(pixels) for each in (model, *squeezed)], axis=1))
