"""What a Keras model takes and returns, as far as its wiring tells."""
from __future__ import annotations

import keras
from keras import layers

from kitlib.base.settings import KitError

WRAP = ("a model of code (a subclassed keras.Model), or one that was never built, must be wrapped first: "
        "inputs = keras.Input((height, width, channels)); model = keras.Model(inputs, model(inputs))")
LOGITS_NEEDED = "logits are needed: remove the last activation (and train with from_logits=True)"
PROBABILITIES = ("softmax", "sigmoid")


def check_is_keras(model) -> None:
    """Raises KitError for what is no model, such as a file's name or a function."""
    if not isinstance(model, layers.Layer):
        raise KitError(f"a Keras model is needed, not {type(model).__name__}: keras.models.load_model opens a file; a "
                       "function goes into the `call` of a keras.Model")


def image_shape(model) -> tuple:
    """Height, width and channels of the images that a model takes; None where it takes any. KitError for others."""
    check_is_keras(model)
    shape = getattr(model, "input_shape", None)
    if shape is None:
        raise KitError(f"which images the model takes cannot be told; {WRAP}")
    if not isinstance(shape, tuple) or len(shape) != 4:
        raise KitError(f"the model must take one batch of images, N x H x W x C, but its input is {shape}")
    if not keras.backend.is_float_dtype(taken := model.inputs[0].dtype):
        raise KitError(f"the model takes {taken}, in which pixels from 0 to 1 would all be 0 or 1, and nothing has a "
                       "gradient: give it an input of floats in that range")
    return shape[1:]


def outputs_of(model) -> int:
    """The number of classes; a single output stands for two. KitError for a model that returns anything else."""
    shape = model.output_shape
    if not isinstance(shape, tuple) or len(shape) != 2 or shape[1] is None:
        raise KitError("the model must return one row of numbers an image, one a class, but its output is "
                       f"{shape}: flatten it (layers.Flatten), or of several outputs choose one: "
                       "keras.Model(model.inputs, model.output[...])")
    return max(2, shape[-1])


def refuse_probabilities(model) -> None:
    """Raises KitError where the step that makes the model's output is a softmax or a sigmoid, or has one for its
    activation. Of a model of code nothing can be told."""
    name = activation_of(last_of_all(model))
    if name in PROBABILITIES:
        raise KitError(f"the model ends in {name}, so it returns probabilities; {LOGITS_NEEDED}")


def activation_of(step) -> str | None:
    """The name of the function that a layer or operation ends in, where it has one."""
    if isinstance(step, layers.Softmax) or is_operation(step, "Softmax"):
        return "softmax"
    if is_operation(step, "Sigmoid"):
        return "sigmoid"
    return getattr(getattr(step, "activation", None), "__name__", None)


def is_wired(step) -> bool:
    """Whether it is a model whose steps can be seen, and not code, such as a `call` of its own around them."""
    of_keras = getattr(getattr(type(step), "call", None), "__module__", "").startswith("keras.")
    return of_keras and (isinstance(step, keras.Sequential) or hasattr(step, "operations"))


def is_graph(step) -> bool:
    """Whether it is one that is wired from one input to one output."""
    return is_wired(step) and all(len(getattr(step, ends, None) or ()) == 1 for ends in ("inputs", "outputs"))


def last_step(model):
    """The layer, operation or nested model that makes the output, and the tensor it gets; None, None where code
    does, where it gets several, or where the input is the output."""
    if not is_graph(model):
        return None, None
    history = model.outputs[0]._keras_history
    fed = history.operation._inbound_nodes[history.node_index].input_tensors
    return (history.operation, fed[0]) if len(fed) == 1 else (None, None)


def last_of_all(model):
    """The same, nested models opened; None where code makes the output."""
    while is_graph(model):
        model, _ = last_step(model)
    return model


def is_operation(step, *names: str) -> bool:
    """Whether the step is one of these functions of keras.ops."""
    return type(step).__module__.startswith("keras.src.ops.") and type(step).__name__ in names
