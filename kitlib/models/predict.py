"""The one place that calls a model: logits in float32, batch by batch, from a compiled function."""
from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from kitlib.base.settings import KitError
from kitlib.models.precision import exact_float32, in_float32
from kitlib.models.reading import NOT_FINITE, PROBES, pixels_to_logits
from kitlib.models.traces import trace_of

MOST = 16       # where an attack forgets the box, pixels get beyond 1, but not to where whole numbers of 8 bits are


@exact_float32()
def predict_logits(model: keras.Model, images, batch_size: int = 256) -> np.ndarray:
    """Float32 logits, N x classes, in inference mode, batch by batch; a mixed-precision model is asked in float32.

    images: N x H x W x C pixels (float32, or uint8 which is divided by 255).
    Raises KitError for values that are no pixels, and where any logit is no finite number: the class of the largest
    would mean nothing.
    """
    images = np.asarray(images)
    if images.dtype.name not in ("uint8", "bool", "bfloat16"):
        largest = np.max(images, initial=0)
        if largest > MOST or not np.issubdtype(images.dtype, np.floating):
            raise KitError(f"images must be floats in [0, 1] or uint8, not {images.dtype} up to {largest:.4g}"
                           + ("; divide by 255" if largest > 1 else ""))
    ready = pixels_to_logits(model, as_pixels(images[:PROBES]).numpy()) if len(images) else in_float32(model)
    forward = _compiled_forward(ready, tuple(images.shape[1:]))
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


def _compiled_forward(model: keras.Model, shape: tuple[int, ...]) -> tf.types.experimental.ConcreteFunction:
    def make():
        spec = tf.TensorSpec((None, *shape), tf.float32)
        compiled = tf.function(lambda x: model(x, training=False), input_signature=[spec])
        # Its concrete function, as TensorFlow would warn of retracing where several models are asked in turn.
        return compiled.get_concrete_function()

    return trace_of(model, ("forward", shape), make)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Logits, N x classes -> probabilities, N x classes."""
    return keras.ops.convert_to_numpy(keras.ops.softmax(logits, axis=-1))
