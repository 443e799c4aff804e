"""The data and the networks that the benchmarks attack: trained here, briefly, and kept."""
from __future__ import annotations

from benchmarks.common import folder
from kitlib import models
from kitlib.attacks import PGD
from kitlib.data import DataSettings, load
from kitlib.settings import KitError

import keras
import numpy as np
import tensorflow as tf

# One step of fast adversarial training (Wong et al. 2020, arXiv:2001.03994) at 8/255.
FAST = PGD(eps="8/255", step="10/255", steps=1, random_start=True, keep="last")


# How many images and epochs each network is trained on: enough to attack, in minutes on two cores.
TRAINING = {"plain": (12_000, 5), "robust": (10_000, 4)}


def data():
    """CIFAR-10 where the data folder has it, else the embedded digits; the benchmark says which."""
    try:
        return load(DataSettings(name="cifar10"), seed=0)
    except KitError as error:
        print(f"CIFAR-10 is not there ({error}); the embedded digits instead, on which ratios differ")
        return load(DataSettings(name="digits"), seed=0)


def network(dataset):
    """`even_deeper_cnn` with 32-32-64-64-128-128 filters, untrained."""
    settings = models.ModelSettings(name="even_deeper_cnn")
    return models.build(settings, dataset.images.shape[1:], len(dataset.class_names), seed=0)


class FastTraining(keras.Model):
    """Trains `network` on images one attack step away from the clean ones."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def call(self, images, training=False):
        return self.network(images, training=training)

    def train_step(self, batch):
        images, labels = batch
        return super().train_step((FAST.perturb(self.network, images, labels), labels))


def trained(kind: str, dataset) -> keras.Model:
    """The network, trained `plain` or `robust` on some images; read from the benchmark folder if there."""
    images, epochs = TRAINING[kind]
    path = folder() / f"{dataset.name}-{kind}-{images}x{epochs}.keras"
    if path.exists():
        return models.load(path)
    net = network(dataset)
    pixels, labels = dataset.part("train", images, seed=0)
    trainer = FastTraining(net) if kind == "robust" else net
    steps = epochs * -(-len(pixels) // 128)
    rate = keras.optimizers.schedules.CosineDecay(1e-4, steps, warmup_target=1e-3, warmup_steps=steps // 5)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trainer.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    batches = tf.data.Dataset.from_tensor_slices((pixels, labels)).shuffle(len(pixels), seed=0).batch(128)
    trainer.fit(batches, epochs=epochs, verbose=2)
    models.save(net, path)
    return net


def test_images(dataset, count: int) -> tuple[np.ndarray, np.ndarray]:
    return dataset.part("test", count, seed=0)
