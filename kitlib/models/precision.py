"""Judging is in float32: a model of less precision gets a float32 twin, and layers made here compute in float32."""
from __future__ import annotations

import contextlib

import keras
import tensorflow as tf
from keras import layers

from kitlib.base.settings import KitError, first_line
from kitlib.base.setup import KERAS, POLICY, keras_settings, set_keras
from kitlib.models.traces import trace_of
from kitlib.models.wiring import check_is_keras

NARROW = ("float16", "bfloat16")


def in_float32(model):
    """The model itself where it computes in float32, else a float32 copy with its present weights.

    Judging in bfloat16 moves accuracy; a model trained in mixed precision is judged as it would be deployed.
    Raises KitError for a mixed-precision model that Keras cannot rebuild.
    """
    check_is_keras(model)
    if all(part.compute_dtype in ("float32", None) for part in model._flatten_layers()):
        return model
    twin = trace_of(model, "in float32", lambda: _clone(model))
    copy_weights(model, twin)
    return twin


@contextlib.contextmanager
def exact_float32():
    """What is made and computed inside is in float32, without TF32, channels last, whatever keras.json, a global policy
    or the user's TensorFlow say; what was set before is set again after. Also a decorator."""
    before, tf32 = keras_settings(keras), tf.config.experimental.tensor_float_32_execution_enabled()
    set_keras(keras, {**KERAS, "dtype_policy": POLICY})
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        set_keras(keras, before)
        tf.config.experimental.enable_tensor_float_32_execution(tf32)


@exact_float32()
def _clone(model):
    def float32(layer):
        wide = {"dtype": "float32"} if isinstance(layer, layers.Layer) else {}     # a function has none
        return layer.__class__.from_config(_widened(layer.get_config()) | wide)

    try:
        twin = keras.models.clone_model(model, clone_function=float32, recursive=True)
        narrow = [part.name for part in twin._flatten_layers() if part.compute_dtype in NARROW]
        if narrow:
            raise ValueError(f"of {', '.join(narrow)} Keras keeps the precision")
    except Exception as error:  # whatever a layer raises
        raise KitError(f"the model does not compute in float32 and cannot be rebuilt in it ({first_line(error)}): "
                       "build it under the float32 policy and load its weights") from None
    return twin


def _widened(config):
    """A layer's configuration with every narrow precision in it, such as that of a wrapped layer, made float32."""
    if isinstance(config, list | tuple):
        return type(config)(_widened(each) for each in config)
    if not isinstance(config, dict):
        return config
    return {key: "float32" if key == "dtype" and _is_narrow(value) else _widened(value)
            for key, value in config.items()}


def _is_narrow(policy) -> bool:
    name = policy.get("config", {}).get("name") if isinstance(policy, dict) else policy
    return isinstance(name, str) and name.removeprefix("mixed_") in NARROW


def copy_weights(source: keras.Model, copy: keras.Model) -> None:
    """Give `copy` the weights of `source`, whose layers it has. Keras's Normalization computes with numbers that it
    makes of its weights, and only where it is told to. Raises KitError where Keras has left a class's `call` out."""
    calls, copied = ([type(part).call for part in each._flatten_layers() if isinstance(part, keras.Model)]
                     for each in (source, copy))
    if calls != copied:
        raise KitError("Keras cannot copy a model whose class has a `call` of its own around its layers: put what it "
                       "does into a layer, or build it in float32 and train it with precision: float32")
    copy.set_weights(source.get_weights())
    for layer in copy._flatten_layers():
        if isinstance(layer, layers.Normalization):
            layer.finalize_state()
