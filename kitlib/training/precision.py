"""Which arithmetic this machine is fast at, and a network's twin that trains fast in it."""
from __future__ import annotations

from collections.abc import Iterator

import keras
import tensorflow as tf

from kitlib.base.settings import KitError, first_line
from kitlib.models import copy_weights
from kitlib.models.wiring import is_wired


def precision_of(history: dict[str, list]) -> str:
    """In what a training of this history was computed: "float32", or "bfloat16, float32" where it went on on another
    machine. It may differ from what `choose_precision` says here and now."""
    return ", ".join(dict.fromkeys(history["precision"]))


class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Keras's batch norm over channels with one kernel for a training pass instead of about ten.

    Keras also widens bfloat16 images to float32 for it; this kernel reads and writes bfloat16 and
    keeps only the statistics in float32.
    """

    smallest_epsilon = 1.001e-5  # of TensorFlow's kernel

    def call(self, inputs, training=None, mask=None):
        if not (training and self.trainable):
            return super().call(inputs, training=training, mask=mask)
        channels = inputs.shape[-1:]
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs, self.gamma.value if self.scale else tf.ones(channels),
            self.beta.value if self.center else tf.zeros(channels), epsilon=self.epsilon, is_training=True)
        count = tf.cast(tf.reduce_prod(tf.shape(inputs)[:3]), tf.float32)
        variance *= (count - 1) / count  # the kernel returns the unbiased estimate, Keras keeps the other
        for moving, now in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + now * (1 - self.momentum))
        return outputs


FEWEST_CHANNELS = 8     # the fused kernel of oneDNN has written beyond its memory with four


def _can_be_fused(layer: keras.layers.Layer) -> bool:
    return (type(layer) is keras.layers.BatchNormalization and not layer.renorm and not layer.synchronized
            and len(layer.input.shape) == 4 and layer.axis in (-1, 3) and layer.input.shape[3] >= FEWEST_CHANNELS
            and layer.epsilon >= FusedBatchNormalization.smallest_epsilon)


def has_faster_twin(network: keras.Model) -> bool:
    """Whether a twin trains faster than `network` itself in the same precision."""
    return any(_can_be_fused(layer) for layer in _layers_of(network))


def twin(network: keras.Model, precision: str) -> keras.Model:
    """A copy of `network` (weights and all) that computes in `precision`, with the fused batch norm, also in the
    models that it holds. A layer of code is cloned whole.

    Logits stay float32, and so does the normalisation of the images, which would lose small
    perturbations in bfloat16. Weights are float32 and in the same order, so they can be copied between a
    network and its twin. Raises KitError where Keras cannot make a copy.
    """
    policy = "mixed_bfloat16" if precision == "bfloat16" else "float32"
    last, exact = _last_of(network), (keras.layers.Rescaling, keras.layers.Normalization)

    def copied(layer):
        config = layer.get_config()
        if isinstance(layer, keras.layers.Layer) and layer is not last and not isinstance(layer, exact):
            config["dtype"] = policy
        kind = FusedBatchNormalization if _can_be_fused(layer) else type(layer)
        return kind.from_config(config)

    try:
        copy = keras.models.clone_model(network, clone_function=copied, recursive=True)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise KitError(f"Keras cannot copy the model to train it in {precision} ({first_line(error)}): its own layers "
                       "must take what their get_config() returns, or train it with precision: float32") from None
    copy_weights(network, copy)
    return copy


def _layers_of(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        if is_wired(layer):
            yield from _layers_of(layer)
        else:
            yield layer


def _last_of(model: keras.Model) -> keras.layers.Layer:
    """The last layer on the way to the output, be it in a model that it holds; functions after it have no precision of
    their own."""
    step = model.outputs[0]._keras_history.operation
    while not isinstance(step, keras.layers.Layer):
        inputs = step._inbound_nodes[-1].input_tensors
        if not inputs:
            break
        step = inputs[0]._keras_history.operation
    return _last_of(step) if is_wired(step) else step
