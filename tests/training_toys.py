"""A data set, a network and settings so small that a training of them takes a second."""
from __future__ import annotations

from pathlib import Path

import keras
import numpy as np

from kitlib import models
from kitlib.data import Dataset
from kitlib.training import TrainingSettings

SHAPE = (8, 8, 3)
FGSM = {"name": "fgsm", "eps": "8/255"}
PGD = {"name": "pgd", "eps": "8/255", "step": "2/255", "steps": 3}


def toy_data(train=96, validation=30, classes=3, seed=0) -> Dataset:
    """Noise with one channel brighter: easy, and not learnt at once."""
    generator = np.random.default_rng(seed)
    count = train + validation
    labels = (np.arange(count) % classes).astype(np.int32)
    images = generator.integers(0, 120, (count, *SHAPE)).astype(np.uint8)
    images[np.arange(count), ..., labels % 3] += 40
    split = {"train": np.arange(train), "validation": np.arange(train, count), "test": np.arange(train, count)}
    return Dataset("toy", images, labels, tuple("abcdefgh"[:classes]), split, "made up for a test")


def network(dropout=0.0, batch_norm=False, classes=3, seed=1, filters=4) -> keras.Model:
    keras.utils.set_random_seed(seed)
    pixels = keras.Input(SHAPE, name="pixels")
    x = models.Normalisation().layer()(pixels)
    x = keras.layers.Conv2D(filters, 3, strides=2, activation="relu")(x)
    x = keras.layers.BatchNormalization(momentum=0.9)(x) if batch_norm else x
    x = keras.layers.Dropout(dropout)(x) if dropout else x
    x = keras.layers.Dense(8, activation="relu")(keras.layers.Flatten()(x))
    return keras.Model(pixels, keras.layers.Dense(classes, name="logits")(x))


def checkpoint_in(folder: Path) -> Path:
    """The checkpoint of the only training in a folder; it may not be there yet."""
    found = list(folder.glob("*/checkpoint.npz"))
    assert len(found) < 2
    return found[0] if found else folder / "none yet"


def settings(**values) -> TrainingSettings:
    return TrainingSettings.read({"epochs": 2, "batch_size": 16, "learning_rate": 0.01, **values}, "a test")
