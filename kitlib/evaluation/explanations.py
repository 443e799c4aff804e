"""Which pixels an answer rests on: Grad-CAM and integrated gradients, for any Keras model from pixels to logits.

Both explain one logit an image, the one of the class asked for. Neither proves that a pixel caused the answer:
they say where the model, as it is at this image, is sensitive.
"""
from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from kitlib.attacks.checks import check_images, check_labels, check_model
from kitlib.attacks.driver import in_batches
from kitlib.base.settings import KitError, suggestion
from kitlib.models import in_float32


def grad_cam(model: keras.Model, images, classes, layer: str | None = None, batch_size: int = 64) -> np.ndarray:
    """Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391, equations 1 and 2): where feature maps that speak for a
    class are active.

    images: float32, N x H x W x C, in [0, 1]. classes: int N, the class to explain for each image. layer: name of
    the layer whose feature maps are weighed; None takes the last one that has a height and a width.
    Returns float32, N x H x W, zero or more, in units of the logit; enlarged (bilinear) from the size of the feature
    maps, so it cannot be sharper than those.

    Raises KitError for bad images or classes, a model without convolutions, and an unknown layer.
    """
    model, images, classes = _checked(model, images, classes)
    if not all(hasattr(layer, "output") for layer in model.layers):
        raise KitError(f"Grad-CAM needs a functional or sequential model, whose layers it can look into, not a "
                       f"{type(model).__name__}: use integrated gradients")
    chosen = model.get_layer(layer) if layer in _with_maps(model) else _last_with_maps(model, layer)
    both = keras.Model(model.inputs[0], [_output_in(model, chosen), model.outputs[0]])

    @tf.function(input_signature=_signature(images), autograph=False)
    def explain(pixels, wanted):
        with tf.GradientTape() as tape:
            tape.watch(pixels)
            maps, logits = both(pixels, training=False)
            score = tf.gather(logits, wanted, batch_dims=1)
        gradient = tape.gradient(score, maps, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        weights = tf.reduce_mean(gradient, axis=(1, 2), keepdims=True)
        heat = tf.nn.relu(tf.reduce_sum(weights * maps, axis=-1, keepdims=True))
        return tf.image.resize(heat, tf.shape(pixels)[1:3])[..., 0]

    return in_batches(explain, images, classes, batch_size=batch_size)


@dataclass(frozen=True)
class IntegratedGradients:
    """values: float32, N x H x W x C, what each value of each image adds to the logit of its class.
    difference: float32 N, the logit at the image minus the logit at the baseline."""

    values: np.ndarray
    difference: np.ndarray

    @property
    def gap(self) -> np.ndarray:
        """float32 N: by how much completeness is missed (section 3 of the paper): the values of an image should
        add up to the difference. It shrinks as `steps` grow; where it is not small, use more."""
        return np.abs(self.values.sum(axis=(1, 2, 3)) - self.difference)


def integrated_gradients(model: keras.Model, images, classes, baseline: float = 0.0, steps: int = 64,
                         batch_size: int = 64) -> IntegratedGradients:
    """Integrated gradients (Sundararajan et al. 2017, arXiv:1703.01365, equations 1 and 3).

    The gradient of the logit, averaged over `steps` points (the middles of equal parts) on the straight line from an
    image of the grey value `baseline` to the image, times the distance. A pixel that equals the baseline gets
    nothing, whatever it means: with a black baseline (the paper's choice for images) black speaks neither for nor
    against a class. images, classes, errors: as for `grad_cam`.
    """
    model, images, classes = _checked(model, images, classes)
    if steps < 1:
        raise KitError(f"integrated gradients need one step or more, not {steps}")

    def logit(pixels, wanted):
        return tf.gather(tf.cast(model(pixels, training=False), tf.float32), wanted, batch_dims=1)

    @tf.function(input_signature=_signature(images), autograph=False)
    def gradient(pixels, wanted):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(pixels)
            score = logit(pixels, wanted)
        return tape.gradient(score, pixels, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    def values(pixels, wanted):
        middles = (np.arange(steps, dtype=np.float32) + 0.5) / steps
        total = sum(gradient(baseline + middle * (pixels - baseline), wanted) for middle in middles)
        return (pixels - baseline) * total / steps

    there = in_batches(logit, images, classes, batch_size=batch_size)
    start = in_batches(logit, np.full_like(images, baseline), classes, batch_size=batch_size)
    return IntegratedGradients(in_batches(values, images, classes, batch_size=batch_size), there - start)


def _checked(model, images, classes):
    images = check_images(images, "images to explain")
    model, known = check_model(in_float32(model), images)
    return model, images, check_labels(classes, len(images), known, targeted=False, where="images to explain")


def _with_maps(model) -> list[str]:
    """Names of the layers, from the first convolution on, whose output has a height and a width (more than 1 x 1)."""
    names, convolved = [], False
    for layer in model.layers:
        convolved |= any(len(weight.shape) == 4 for weight in layer.weights)
        shape = getattr(_output_in(model, layer), "shape", ())
        if convolved and len(shape) == 4 and shape[1:3] != (1, 1):
            names.append(layer.name)
    return names


def _output_in(model, layer):
    """What a layer makes in this very model; one that is a model itself has an output in its own graph, too."""
    nodes = {node for level in getattr(model, "_functional", model)._nodes_by_depth.values() for node in level}
    return next(node for node in reversed(layer._inbound_nodes) if node in nodes).output_tensors[0]


def _last_with_maps(model, asked: str | None):
    names = _with_maps(model)
    if asked is not None:
        raise KitError(f"Grad-CAM: the model has no layer '{asked}' with feature maps{suggestion(asked, names)}")
    if not names:
        raise KitError("Grad-CAM needs a convolutional network: this model has no layer with feature maps (those of a "
                       "model nested in it are out of reach); use integrated gradients")
    return model.get_layer(names[-1])


def _signature(images) -> list[tf.TensorSpec]:
    return [tf.TensorSpec((None, *images.shape[1:]), tf.float32), tf.TensorSpec((None,), tf.int32)]
