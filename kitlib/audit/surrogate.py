"""A small undefended network to compare with, where nobody brought one."""
from __future__ import annotations

import dataclasses

import keras
import numpy as np
from keras import layers

from kitlib.models import Normalisation

SIDE = 32           # larger images are pooled to about this side
EPOCHS = 60
STEPS = 400         # of training, at most
BATCH = 64


@dataclasses.dataclass(frozen=True)
class Undefended:
    """A model without defence, with images and labels that it knows, and what it is in words."""

    model: keras.Model
    images: np.ndarray
    labels: np.ndarray
    what: str


def train(images: np.ndarray, labels: np.ndarray, classes: int, seed: int) -> keras.Model:
    """A small CNN, trained plainly on `images` (float32, N x H x W x C, in [0, 1]) for seconds.

    It need not generalise: attacks are tried on the very images it knows.
    """
    keras.utils.set_random_seed(seed)
    model = _network(images.shape[1:], classes)
    model.compile(keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    batch = min(BATCH, len(images))
    epochs = max(1, min(EPOCHS, STEPS * batch // len(images)))
    model.fit(images, labels, batch_size=batch, epochs=epochs, verbose=0)
    return model


def _network(shape, classes: int) -> keras.Model:
    pixels = keras.Input(shape, name="pixels")
    x = Normalisation().layer()(pixels)
    pool = min(shape[:2]) // SIDE
    x = layers.AveragePooling2D(pool)(x) if pool > 1 else x
    for width in (16, 32):
        x = layers.Conv2D(width, 3, padding="same", strides=2, activation="relu")(x)
    x = layers.Dense(64, activation="relu")(layers.Flatten()(x))
    return keras.Model(pixels, layers.Dense(classes, name="logits")(x), name="undefended")
