"""What the model's gradients look like."""
from __future__ import annotations

import functools
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from kitlib import attacks
from kitlib.attacks.base import loss_of, margin
from kitlib.attacks.driver import input_gradients
from kitlib.audit.judged import Judged
from kitlib.models import predict_logits, softmax
from kitlib.models.bpda import straight_through

LINE = tuple(np.linspace(0, 1, 9).round(3).tolist())      # shares of FGSM's step at which the model is asked


class Gradients(Judged):
    """Gradients for the pixels."""

    @functools.cached_property
    def rounded(self) -> np.ndarray:
        """For which images the largest probability is rounded to 1: no gradient is there if only that is known."""
        return softmax(self.clean_logits).max(1) >= 1 - np.finfo(np.float32).eps

    @functools.cached_property
    def no_gradient(self) -> np.ndarray:
        """For which images the gradient of the cross-entropy is zero, or no number, in every pixel."""
        return (self._gradients(functools.partial(loss_of, "ce")) == 0).all((1, 2, 3))

    @functools.cached_property
    def climbs(self) -> np.ndarray:
        """For which rightly classified images a small step along the gradient raises the margin loss more than a
        random one of the same size."""
        rows = self.clean
        images, labels = self.images[rows], self.labels[rows]
        random = np.random.default_rng(self.seed).choice(np.array([-1, 1], np.float32), size=images.shape)
        step, size = self.subject.attack(attacks.FGSM).steepest_step, self.subject.eps / 4
        ways = map(tf.constant, (self._gradients(margin)[rows], random))
        moved = (np.clip(images + step(way, size).numpy(), 0, 1) for way in ways)
        uphill, sideways = (margin(labels, predict_logits(self.model, each, self.batch)).numpy() for each in moved)
        return uphill > sideways

    def _gradients(self, loss: Callable) -> np.ndarray:
        return input_gradients(self.model, loss, self.images, self.labels, batch_size=self.batch)

    @functools.cached_property
    def blocked(self) -> tuple[keras.Model, list[str]] | None:
        """The model with its non-differentiable layers differentiated as the identity, and their names."""
        return straight_through(self.model, self.images[:2])
