"""Training data as a stream of batches: a pure function of the examples, the seed and the epoch.

So a training that goes on after a kill sees the same batches as one that was never stopped.
"""
from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np
import tensorflow as tf

from kitlib.models import as_pixels
from kitlib.training.settings import Augmentation


class Examples:
    """Clean training images (uint8) and, behind them, any number of float32 variants of all of them.

    images: uint8 N,H,W,C of the whole data set; labels: int N; indices: which of them are trained on.
    variants: arrays len(indices),H,W,C of pixels, read batch by batch (so they may be memory-mapped).
    """

    def __init__(self, images, labels, indices, variants: Sequence[np.ndarray] = ()):
        self.images, self.labels, self.indices, self.variants = images, labels, indices, variants

    def __len__(self) -> int:
        return len(self.indices) * (1 + len(self.variants))

    def read(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images (uint8, or pixels where there are variants) and int32 labels of these examples."""
        kinds, positions = np.divmod(numbers, len(self.indices))
        places = self.indices[positions]
        labels = self.labels[places].astype(np.int32)
        if not self.variants:
            return self.images[places], labels
        pixels = np.empty((len(numbers), *self.images.shape[1:]), np.float32)
        pixels[kinds == 0] = self.images[places[kinds == 0]] / np.float32(255)
        for kind, variant in enumerate(self.variants, start=1):
            pixels[kinds == kind] = variant[positions[kinds == kind]]
        return pixels, labels


def training_batches(
    examples: Examples, batch_size: int, augmentation: Augmentation, seed: int, first_epoch: int = 0
) -> tf.data.Dataset:
    """Endless batches (pixels, labels) from the start of `first_epoch` on; what is left over is dropped."""
    shape = examples.images.shape[1:]
    kind = tf.float32 if examples.variants else tf.uint8
    stream = tf.data.Dataset.from_generator(lambda: _shuffled(examples, batch_size, seed, first_epoch),
                                            output_signature=(
                                                tf.TensorSpec((batch_size, *shape), kind),
                                                tf.TensorSpec((batch_size,), tf.int32),
                                                tf.TensorSpec((2,), tf.int32)))

    def prepare(images, labels, step_seed):
        pixels = as_pixels(images)
        return (augment(pixels, augmentation, step_seed) if augmentation.active else pixels), labels

    return stream.map(prepare, num_parallel_calls=2, deterministic=True).prefetch(2)


def _shuffled(examples: Examples, batch_size: int, seed: int, first_epoch: int) -> Iterator[tuple]:
    for epoch in count(first_epoch):
        generator = np.random.default_rng([seed, epoch])
        order = generator.permutation(len(examples))
        for start in range(0, len(order) - batch_size + 1, batch_size):
            step_seed = generator.integers(0, 2**31, 2, dtype=np.int32)
            yield *examples.read(order[start : start + batch_size]), step_seed


def validation_batches(images, labels, indices, batch_size: int) -> tf.data.Dataset:
    """All of `indices` once, in order, as (pixels, labels)."""

    def read():
        for start in range(0, len(indices), batch_size):
            places = indices[start : start + batch_size]
            yield images[places], labels[places].astype(np.int32)

    signature = (tf.TensorSpec((None, *images.shape[1:]), tf.uint8), tf.TensorSpec((None,), tf.int32))
    stream = tf.data.Dataset.from_generator(read, output_signature=signature)
    stream = stream.apply(tf.data.experimental.assert_cardinality(-(-len(indices) // batch_size)))
    return stream.map(lambda images, labels: (as_pixels(images), labels)).prefetch(2)


def augment(pixels: tf.Tensor, settings: Augmentation, seed: tf.Tensor) -> tf.Tensor:
    """Flip, rotate and shift each image at random; `seed` (two integers) decides how."""
    draws = tf.random.stateless_uniform((4, tf.shape(pixels)[0]), seed, -1.0, 1.0)
    if settings.flip:
        pixels = tf.where(draws[0][:, None, None, None] < 0, pixels[:, :, ::-1], pixels)
    if settings.rotation or settings.shift:
        angles = draws[1] * (settings.rotation * math.pi / 180)
        shifts = tf.round(draws[2:] * (settings.shift + 0.499))
        pixels = tf.clip_by_value(_rotate_and_shift(pixels, angles, shifts), 0.0, 1.0)
    return pixels


def _rotate_and_shift(pixels: tf.Tensor, angles: tf.Tensor, shifts: tf.Tensor) -> tf.Tensor:
    height, width = pixels.shape[1:3]
    cosine, sine, zero = tf.cos(angles), tf.sin(angles), tf.zeros_like(angles)
    across = ((width - 1) * (1 - cosine) + (height - 1) * sine) / 2 + shifts[0]
    down = ((height - 1) * (1 - cosine) - (width - 1) * sine) / 2 + shifts[1]
    transforms = tf.stack([cosine, -sine, across, sine, cosine, down, zero, zero], axis=1)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=pixels, transforms=transforms, output_shape=(height, width), fill_value=0.0,
        interpolation="BILINEAR", fill_mode="REFLECT")
