"""Stand-ins that let a gradient through: BPDA for steps that have none, EOT for models that are random."""
from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from kitlib.models.wiring import is_wired


class Averaged(keras.Model):
    """Mean logits over several passes of a model that is random (expectation over transformation).

    Athalye et al. 2018, arXiv:1802.00420, section 4.2: attack the mean, judge the model itself.
    """

    def __init__(self, model: keras.Model, passes: int):
        super().__init__(name="averaged")
        self.random_model, self.passes = model, passes
        self.seen_shape = model.input_shape

    def call(self, pixels, training=False):
        total = self.random_model(pixels, training=training)
        for _ in range(self.passes - 1):
            total += self.random_model(pixels, training=training)
        return total / self.passes


def straight_through(model: keras.Model, images: np.ndarray) -> tuple[keras.Model, list[str]] | None:
    """The model with each step that blocks the gradient, and keeps the shape, differentiated as if it were
    the identity (BPDA; Athalye et al. 2018, arXiv:1802.00420, section 4.1), and the names of those steps.

    A step is a layer or a function of keras.ops. Forward it is the same model. Returns None where there is no such
    step, or the model is no graph of them.
    """
    blocking = [step.name for step in _leaves(model) if _blocks(step, images)]
    if not blocking:
        return None

    def through(step, *inputs, **named):
        outputs = step(*inputs, **named)
        if step.name not in blocking:
            return outputs
        return inputs[0] + keras.ops.stop_gradient(keras.ops.cast(outputs, inputs[0].dtype) - inputs[0])

    try:
        rewired = _rewired(model, through)
        rewired(images)     # what takes whole numbers alone does not take the floats that stand for them here
    except (ValueError, TypeError, NotImplementedError, AttributeError, tf.errors.OpError):
        return None
    return rewired, blocking


def _rewired(model, through):
    """The same steps, called through `through`; nested models too."""
    def call(step, *inputs, **named):
        if is_wired(step):
            return _rewired(step, through)(*inputs)
        return through(step, *inputs, **named)

    if isinstance(model, keras.Sequential):
        x = inputs = keras.Input(model.input_shape[1:])
        for layer in model.layers:
            x = call(layer, x)
        return keras.Model(inputs, x)
    return keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=call)


def _leaves(model) -> list:
    """Its layers, those of nested models, and, in a graph, the functions of keras.ops."""
    steps = (getattr(model, "operations", None) or model.layers) if is_wired(model) else ()
    return [leaf for step in steps for leaf in _leaves(step)] or [model]


def _blocks(step, images) -> bool:
    """Whether the step keeps its input's shape and gives no gradient at all."""
    if isinstance(step, layers.InputLayer | layers.Dropout):
        return False
    try:
        shape = step.input.shape
        if tuple(shape) != tuple(step.output.shape):
            return False
        # Of a model for any size, each step is asked at the images' own.
        shape = tuple(own or size for own, size in zip(shape, (None, *images.shape[1:]), strict=False))
        value = tf.constant(np.random.default_rng(0).uniform(0.05, 0.95, (2, *shape[1:])).astype(np.float32))
        if tuple(shape[1:]) == images.shape[1:]:
            value = tf.constant(images[:2])
        with tf.GradientTape() as tape:
            tape.watch(value)
            output = step(value, training=False) if isinstance(step, layers.Layer) else step(value)
            # Of a random direction: the plain sum of a softmax has no gradient, though it lets one through.
            weighed = tf.reduce_sum(tf.cast(output, tf.float32) * tf.random.stateless_normal(tf.shape(output), (0, 0)))
        gradient = tape.gradient(weighed, value)
    except (AttributeError, ValueError, TypeError, tf.errors.OpError):
        return False
    return gradient is None or not bool(tf.reduce_any(gradient != 0))
