"""What tells a leaked label, a clamp or a slip of the evaluation from robustness: the controls of both papers' figures.

    controls.random_label(model, images, labels, eps=0.5)        # whose label does the network say?
    controls.mended(model, images, labels, eps=0.5)              # which of its mistakes does the attack repair?
    controls.readings(model, images, labels, controls.units(1))  # rival readings of "FGSM", side by side
    controls.clamps(model, images, labels, IMAGENET)             # paper B's clamp and tanh, without any attack

model: Keras, pixels to logits. images: float32, N x H x W x C, in [0, 1]. labels: int N. Every eps is in pixels.
box: the lowest and the highest pixel that a step may lead to (numbers, or one a channel); None: not clipped.
"""
from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping

import keras
import numpy as np
import tensorflow as tf

from kitlib.attacks.base import logits_of, loss_of
from kitlib.attacks.driver import in_batches, input_gradients
from kitlib.base.settings import KitError
from kitlib.evaluation.accuracy import Accuracy
from kitlib.models import Normalisation, copy_weights, in_float32, pixels_to_logits, predict_logits

BATCH = 128
BOX = (0.0, 1.0)


# --- one step, in the open

def direction(model, images, labels, *, towards: bool = False, training: bool = False) -> np.ndarray:
    """The sign of the gradient of the cross-entropy for the pixels: float32 like `images`, each entry -1, 0 or 1.

    towards: of the negated loss, as a targeted attack on `labels` follows it. training: the model is called in
    training mode; what that changes in it (batch-norm statistics, random generators) is put back.
    """
    model = pixels_to_logits(model, images)
    with unchanged(model):
        gradients = input_gradients(model, functools.partial(loss_of, "ce"), images, labels, targeted=towards,
                                    training=training, batch_size=BATCH)
    return np.sign(gradients)


def stepped(images, signs, eps: float, box=BOX) -> np.ndarray:
    """images + eps * signs, clipped to the box: FGSM, where `signs` is its `direction`."""
    moved = images + np.float32(eps) * signs
    return moved if box is None else np.clip(moved, *box)


def predictions(model, images, training: bool = False) -> np.ndarray:
    """Classes, int N. training: in training mode, in batches of 128; the model is unchanged afterwards."""
    if not training:
        return predict_logits(model, images).argmax(1)
    model = pixels_to_logits(model, images)
    with unchanged(model):
        return in_batches(logits_of(model, training=True), images, batch_size=BATCH).argmax(1)


@contextlib.contextmanager
def unchanged(model) -> Iterator[None]:
    """Put back what passes in training mode change: batch-norm statistics and the state of random generators."""
    before = [(variable, variable.numpy()) for variable in model.non_trainable_variables]
    try:
        yield
    finally:
        for variable, value in before:
            variable.assign(value)


# --- the leak, isolated

def random_labels(labels, classes: int, seed: int = 0) -> np.ndarray:
    """A label for each image, drawn from all classes alike, whatever the image shows."""
    return np.random.default_rng(seed).integers(0, classes, len(labels))


def random_label(model, images, labels, eps: float, box=BOX, seed: int = 0) -> dict[str, Accuracy]:
    """FGSM made with a random label. If the label leaks through the step, the network names the random one.

    The accuracy is of all images; the two shares are of those whose random label is not the true one. An attack with
    true labels is the same step, so nothing differs from it but the label that goes in.
    """
    drawn = random_labels(labels, predict_logits(model, images[:1]).shape[-1], seed)
    said = predictions(model, stepped(images, direction(model, images, drawn), eps, box))
    differ = drawn != labels
    return {"accuracy": Accuracy.of(said == labels),
            "names the random label": Accuracy.of((said == drawn)[differ]),
            "names the true label": Accuracy.of((said == labels)[differ])}


def mended(model, images, labels, eps: float, box=BOX) -> dict[str, Accuracy]:
    """Of the images that the model gets wrong clean, how many it gets right under FGSM with true and predicted labels.

    An attack knows no more than the network does. With the true label it does, and can put a mistake right.
    Raises KitError where the model makes no mistake.
    """
    clean = predictions(model, images)
    wrong = clean != labels
    if not wrong.any():
        raise KitError(f"the model is right on all {len(labels)} images: there is no mistake to mend; give more images")
    given = {"true labels": labels, "predicted labels": clean}
    images, truth = images[wrong], labels[wrong]
    steps = {name: stepped(images, direction(model, images, each[wrong]), eps, box) for name, each in given.items()}
    return {name: Accuracy.of(predictions(model, moved) == truth) for name, moved in steps.items()}


def swapped(model, images, labels, eps: float, box=BOX) -> dict[str, Accuracy]:
    """Each image gets the next one's FGSM step. Whose label does the model say? Of pairs with two labels only.

    Raises KitError where all labels are alike.
    """
    differ = labels != np.roll(labels, 1)
    if not differ.any():
        raise KitError("all images have one label: a swapped perturbation cannot tell whose label is said")
    others = np.roll(direction(model, images, labels), 1, axis=0)[differ]
    said = predictions(model, stepped(images[differ], others, eps, box))
    return {"the image's": Accuracy.of(said == labels[differ]),
            "the perturbation's": Accuracy.of(said == np.roll(labels, 1)[differ])}


def on_grey(model, images, labels, eps: float, box=BOX) -> Accuracy:
    """How often the model says an image's label where it sees the image's FGSM step alone, over mid-grey."""
    grey = np.full_like(images, 0.5)
    return Accuracy.of(predictions(model, stepped(grey, direction(model, images, labels), eps, box)) == labels)


# --- rival readings of paper A

def units(eps: float, std: float = 0.5) -> dict[str, float]:
    """What an epsilon of the paper may be measured in -> its size in pixels. std: of the normalisation."""
    return {"normalised values": eps * std, "pixels in [0, 1]": eps, "pixels in 0 to 255": eps / 255,
            "1/255 of normalised values": eps * std / 255}


def readings(model, images, labels, epsilons: Mapping[str, float], *, box=BOX, mean: float = 0.5,
             training_part: tuple | None = None, seed: int = 0) -> dict[str, dict[str, Accuracy]]:
    """Accuracy under each reading of "tested with FGSM": {reading: {name of the epsilon: Accuracy}}.

    epsilons: {name: size in pixels}. mean: of the normalisation, whose zero a literal clamp to [-eps, eps] keeps.
    training_part: (images, labels) of the training part, for the reading "judged on training images".
    The gradient does not depend on eps, so each reading takes one backward pass an image and a forward one an eps.
    """
    clean = predictions(model, images)
    drawn = random_labels(labels, predict_logits(model, images[:1]).shape[-1], seed)
    up = direction(model, images, labels)

    def row(signs, seen=images, truth=labels, literal=False, training=False) -> dict[str, Accuracy]:
        boxes = {name: (mean - eps, mean + eps) if literal else box for name, eps in epsilons.items()}
        return {name: Accuracy.of(predictions(model, stepped(seen, signs, eps, boxes[name]), training) == truth)
                for name, eps in epsilons.items()}

    found = {
        "true labels": row(up),
        "predicted labels": row(direction(model, images, clean)),
        "random labels": row(direction(model, images, drawn)),
        "sign flipped": row(-up),
        "targeted at the label": row(direction(model, images, labels, towards=True)),
        "clamped to [-eps, eps]": row(up, literal=True),
        "judged in training mode": row(direction(model, images, labels, training=True), training=True)}
    if training_part is not None:
        seen, truth = training_part
        found["judged on training images"] = row(direction(model, seen, truth), seen, truth)
    return found


def nearest(found: Mapping[str, Accuracy], share: float) -> tuple[str, float]:
    """Of a row of `readings` the epsilon whose accuracy is nearest to `share`, and the difference (a share, signed)."""
    name = min(found, key=lambda each: abs(found[each].value - share))
    return name, found[name].value - share


# --- paper B's clamp and tanh, without any attack

def clamped(images, normalisation: Normalisation) -> np.ndarray:
    """The *normalised* values clamped to [0, 1], in pixels: darker than the mean becomes the mean."""
    return normalisation.to_pixels(np.clip(normalisation.to_normalised(images), 0, 1))


def squashed(images, normalisation: Normalisation) -> np.ndarray:
    """The tanh of the normalised values, in pixels."""
    return normalisation.to_pixels(np.tanh(normalisation.to_normalised(images)))


def clamps(model, images, labels, normalisation: Normalisation) -> dict[str, dict[str, Accuracy]]:
    """Accuracy on clean, clamped and tanh images: {change: {statistics: Accuracy}}.

    "stored": the batch-norm statistics of the training. "re-estimated": those of the changed images themselves, their
    labels unused (Schneider et al. 2020, arXiv:2006.16971, section 3). A model without batch norm has the first only.
    """
    model, found = in_float32(model), {}
    changed = {"nothing": images, "clamp": clamped(images, normalisation), "tanh": squashed(images, normalisation)}
    for name, seen in changed.items():
        found[name] = {"stored": Accuracy.of(predictions(model, seen) == labels)}
        if _kinds(model, keras.layers.BatchNormalization):
            adapted = re_estimated(model, seen)
            found[name]["re-estimated"] = Accuracy.of(predictions(adapted, seen) == labels)
    return found


def re_estimated(model, images) -> keras.Model:
    """A copy of the model whose batch-norm statistics are those of `images`: means over batches of 128.

    Dropout is off while they are taken. Raises KitError for a model without batch norm.
    """
    copy = keras.models.clone_model(model)
    copy_weights(model, copy)
    norms = _kinds(copy, keras.layers.BatchNormalization)
    if not norms:
        raise KitError(f"the model '{model.name}' has no batch norm, so it has no statistics to estimate again")
    for layer in _kinds(copy, keras.layers.Dropout):
        layer.rate = 0.0
    usual = [layer.momentum for layer in norms]
    for number, first in enumerate(range(0, len(images), BATCH)):
        for layer in norms:
            layer.momentum = number / (number + 1)      # the plain mean of all batches so far
        copy(tf.constant(images[first:first + BATCH], tf.float32), training=True)
    for layer, momentum in zip(norms, usual, strict=True):
        layer.momentum = momentum
    return copy


def _kinds(model, kind) -> list:
    return [layer for layer in model._flatten_layers() if isinstance(layer, kind)]
