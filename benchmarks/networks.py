"""The data and the networks that the benchmarks attack: trained here, briefly, and kept."""
from __future__ import annotations

import functools

import keras
import numpy as np

from benchmarks.common import folder
from kitlib import data, models, training
from kitlib.base.settings import KitError

# Enough training to attack, in minutes on two cores. The second is fast adversarial training (Wong et al. 2020,
# arXiv:2001.03994) at 8/255.
IMAGES = 12_000
TRAINING = {
    "undefended": training.TrainingSettings(epochs=5, schedule="one_cycle", precision="float32"),
    "adversarially trained": training.TrainingSettings(
        method="fgsm_rs", epochs=4, schedule="one_cycle", precision="float32"),
}


@functools.cache
def dataset(images: int | None = IMAGES) -> data.Dataset:
    """CIFAR-10 with so many training images (None: all) where the data folder has it, else the embedded digits; the
    benchmark says which."""
    try:
        return data.load(data.DataSettings(name="cifar10", limits={"train": images}), seed=0)
    except KitError as error:
        print(f"CIFAR-10 is not there ({error}); the embedded digits instead, on which ratios differ")
        return data.load(data.DataSettings(name="digits"), seed=0)


def network(dataset: data.Dataset) -> keras.Model:
    """`even_deeper_cnn` with 32-32-64-64-128-128 filters, untrained."""
    settings = models.ModelSettings(name="even_deeper_cnn")
    return models.build(settings, dataset.images.shape[1:], len(dataset.class_names), seed=0)


def trained(kind: str, dataset: data.Dataset) -> keras.Model:
    """The network, trained as TRAINING says; read from the benchmark folder if it is there."""
    name = f"{dataset.name}-{kind.replace(' ', '-')}"
    path = folder() / f"{name}.keras"
    if path.exists():
        return models.load(path)
    net = network(dataset)
    training.train(net, dataset, TRAINING[kind], folder() / f"checkpoints-{name}", seed=0)
    models.save(net, path)
    return net


def test_images(dataset: data.Dataset, count: int) -> tuple[np.ndarray, np.ndarray]:
    return dataset.part("test", count, seed=0)
