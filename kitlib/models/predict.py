"""The one place that calls a model: logits in float32, batch by batch, from a compiled function."""
from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from kitlib.base.settings import KitError
from kitlib.models.precision import in_float32

NOT_FINITE = ("the model returns NaN or infinite numbers: its training diverged, its weights are damaged, it divides "
              "by zero, or it takes values of another range (of an audit: --input-range)")


def predict_logits(model: keras.Model, images, batch_size: int = 256) -> np.ndarray:
    """Float32 logits, N x classes, in inference mode, batch by batch; a mixed-precision model is asked in float32.

    images: N x H x W x C pixels (float32, or uint8 which is divided by 255).
    Raises KitError where any logit is no finite number: the class of the largest would mean nothing.
    """
    forward = _compiled_forward(in_float32(model), tuple(images.shape[1:]))
    batches = (images[start : start + batch_size] for start in range(0, len(images), batch_size))
    outputs = [forward(as_pixels(batch)).numpy() for batch in batches]
    logits = np.concatenate(outputs) if outputs else np.zeros((0, *forward.output_shapes[1:]), np.float32)
    bad = np.flatnonzero(~np.isfinite(logits).all(tuple(range(1, logits.ndim))))
    if len(bad):
        raise KitError(f"for {len(bad)} of the {len(logits)} images (the first is number {bad[0]}) {NOT_FINITE}")
    return logits


def as_pixels(images) -> tf.Tensor:
    """Images as a float32 tensor; uint8 becomes [0, 1]."""
    if images.dtype == np.uint8:
        return tf.cast(images, tf.float32) / 255.0
    return tf.cast(images, tf.float32)


def _compiled_forward(model: keras.Model, shape: tuple[int, int, int]) -> Callable:
    # Kept on the model itself: it lives and dies with it, and one trace serves every batch size. What Keras's
    # Normalization computes with is no variable, so a trace holds the numbers of its time.
    parts = model._flatten_layers() if hasattr(model, "_flatten_layers") else []
    fixed = [np.asarray(getattr(layer, name, None)).tobytes() for layer in parts
             if isinstance(layer, layers.Normalization) for name in ("mean", "variance")]
    kept = model.__dict__.setdefault("_kitlib_forward", {})
    key = (shape, *fixed)
    if key not in kept:
        spec = tf.TensorSpec((None, *shape), tf.float32)
        compiled = tf.function(lambda x: model(x, training=False), input_signature=[spec])
        # Its concrete function, as TensorFlow would warn of retracing where several models are asked in turn.
        kept[key] = compiled.get_concrete_function()
    return kept[key]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Logits, N x classes -> probabilities, N x classes."""
    return keras.ops.convert_to_numpy(keras.ops.softmax(logits, axis=-1))
