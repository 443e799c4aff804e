"""What the model's gradients and repeated passes look like."""
from __future__ import annotations

import functools
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from kitlib.attacks.base import input_gradient, logits_of, margin
from kitlib.audit.judged import Judged
from kitlib.models import predict_logits, softmax
from kitlib.models.bpda import straight_through

PASSES = 5
AGREE = 1e-4        # between passes over the same input; a model whose passes differ by more is random


class Gradients(Judged):
    """Gradients for the pixels, and how the outputs for the same images differ."""

    @functools.cached_property
    def rounded(self) -> np.ndarray:
        """For which images the largest probability is rounded to 1: no gradient is there if only that is known."""
        return softmax(self.clean_logits).max(1) >= 1 - np.finfo(np.float32).eps

    @functools.cached_property
    def no_gradient(self) -> np.ndarray:
        """For which images the gradient of the cross-entropy is zero, or no number, in every pixel."""
        def losses(labels, logits):
            return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)

        return (self._gradients(losses) == 0).all((1, 2, 3))

    @functools.cached_property
    def climbs(self) -> np.ndarray:
        """For which rightly classified images a small step along the gradient raises the margin loss more than a
        random one of the same size."""
        rows = self.clean
        images, labels = self.images[rows], self.labels[rows]
        random = np.random.default_rng(self.seed).choice(np.float32([-1, 1]), size=images.shape)
        moved = (np.clip(images + self._step(way), 0, 1) for way in (self._gradients(margin)[rows], random))
        uphill, sideways = (margin(labels, predict_logits(self.model, each, self.batch)).numpy() for each in moved)
        return uphill > sideways

    def _step(self, way: np.ndarray) -> np.ndarray:
        """A quarter of eps along the way, in the threat model's norm."""
        if self.subject.norm == "linf":
            unit = np.sign(way)
        else:
            way = way / np.maximum(np.abs(way).max((1, 2, 3), keepdims=True), np.finfo(np.float32).tiny)
            unit = way / np.maximum(np.sqrt((way**2).sum((1, 2, 3), keepdims=True)), np.finfo(np.float32).tiny)
        return np.float32(self.subject.eps / 4) * unit

    def _gradients(self, loss: Callable) -> np.ndarray:
        """For the pixels, as the attacks take them: 0 where it is no number."""
        def gradient(images, labels):
            return input_gradient(logits_of(self.model), loss, images, labels, targeted=False)

        signature = [tf.TensorSpec([None, *self.images.shape[1:]]), tf.TensorSpec([None], tf.int32)]
        # Called through its concrete function, as TensorFlow would take one line's functions for one that retraces.
        compiled = tf.function(gradient, input_signature=signature, autograph=False).get_concrete_function()
        parts = range(0, len(self.labels), self.batch)
        batches = ((self.images[i:i + self.batch], self.labels[i:i + self.batch]) for i in parts)
        return np.concatenate([compiled(*map(tf.constant, batch)).numpy() for batch in batches])

    @functools.cached_property
    def spread_of_passes(self) -> dict[str, float]:
        """Largest difference between outputs for the same images, relative to the largest output: of five passes in
        inference mode, of five called plainly as `model(images)`, and of images asked together and one by one."""
        images, given = tf.constant(self.images[:16]), self.subject.target.model

        def infer(some):
            return np.asarray(given(some, training=False), np.float32)

        def spread(outputs):
            largest = max(np.abs(outputs).max(), np.finfo(np.float32).tiny)
            return float((np.max(outputs, 0) - np.min(outputs, 0)).max() / largest)

        singly = np.concatenate([infer(images[place:place + 1]) for place in range(len(images))])
        return {"inference": spread([infer(images) for _ in range(PASSES)]),
                "plain": spread([np.asarray(given(images), np.float32) for _ in range(PASSES)]),
                "alone": spread([infer(images), singly])}

    @property
    def random(self) -> bool:
        """Whether the model's passes over the same images differ."""
        return self.spread_of_passes["inference"] > AGREE

    @functools.cached_property
    def blocked(self) -> tuple[keras.Model, list[str]] | None:
        """The model with its non-differentiable layers differentiated as the identity, and their names."""
        return straight_through(self.model, self.images[:2])
