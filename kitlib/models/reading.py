"""Anybody's Keras model made into one that takes pixels and returns logits, without guessing."""
from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from kitlib.base.settings import KitError, first_line
from kitlib.models.normalisation import IMAGENET, Normalisation
from kitlib.models.precision import in_float32
from kitlib.models.predict import NOT_FINITE
from kitlib.models.wiring import (
    PROBABILITIES,
    activation_of,
    check_takes,
    is_graph,
    is_operation,
    last_of_all,
    last_step,
    outputs_of,
)

Output = Literal["logits", "probabilities"]
ASK_RANGE = ("give --input-range LOW,HIGH, the values that black and white have for the model (such as 0,255 or 0,1), "
             "or --mean and --std of pixels in [0, 1]")
ASK_OUTPUT = "give --output logits or --output probabilities"
PROBES = 16         # images on which outputs are looked at
RANGES = ((0.0, 1.0), (0.0, 255.0), (-1.0, 1.0))
SUMS_TO_ONE = 1e-4

# Layers that may stand before the one that scales the pixels: they keep the range of values (in inference mode).
_KEEP_THE_RANGE = tuple(
    getattr(layers, name) for name in (
        "InputLayer", "Identity", "Resizing", "CenterCrop", "RandomCrop", "RandomFlip", "RandomRotation",
        "RandomTranslation", "RandomZoom", "RandomShear", "RandomContrast", "RandomBrightness", "GaussianNoise",
        "Dropout", "ZeroPadding2D") if hasattr(layers, name))


@dataclasses.dataclass(frozen=True)
class Target:
    """What is judged. model: pixels (float32, N x H x W x C, in [0, 1]) -> float32 logits, N x classes.

    as_given: the model as it came, which may want other values and return probabilities.
    takes, returns: in words, how its input range and its output were found out.
    probabilities: whether `as_given` returns probabilities (or softmax's own logarithms).
    """

    model: keras.Model
    as_given: keras.Model
    takes: str
    returns: str
    probabilities: bool

    @property
    def classes(self) -> int:
        return self.model.output_shape[-1]


def prepare(model: keras.Model, images: np.ndarray, input_range: tuple[float, float] | None = None,
            normalisation: Normalisation | None = None, output: Output | None = None) -> Target:
    """`model` ready to be judged on `images` (float32 N x H x W x C in [0, 1]; a few of them are looked at).

    input_range: the values that 0 and 1 in pixels have for the model. normalisation: mean and std that the
    caller of the model is to apply (to values in the input range, if that is given too). Where neither is
    given, the model's own first layer must tell. output: what the model returns; looked up where None.
    Raises KitError where something is neither given nor certain, and for a model that takes other images.
    """
    model = in_float32(model)
    check_takes(model, images.shape[1:])
    outputs_of(model)
    ready, takes = _taking_pixels(model, images, input_range, normalisation)
    found, returns = _returning_logits(ready, images[:PROBES], output)
    return Target(in_float32(found), model, takes, returns, not returns.startswith("logits"))


# --- what it takes

def _taking_pixels(model, images, input_range, normalisation) -> tuple[keras.Model, str]:
    shape = images.shape[1:]
    if normalisation is not None:
        normalisation.check_channels(images)
    if input_range is None and normalisation is None:
        input_range, why = _own_range(model, images)
    else:
        why = "as given"
    low, high = input_range or (0.0, 1.0)
    if not low < high:
        raise KitError(f"the input range goes from the value of black to that of white, not from {low:g} to {high:g}")
    takes = f"values from {low:g} to {high:g}"
    if normalisation is not None:
        takes += f", then less mean {normalisation.mean} over std {normalisation.std}"
    if (low, high) == (0.0, 1.0) and normalisation is None:
        return model, f"{takes} ({why})"
    pixels = keras.Input(shape, name="pixels")
    values = layers.Rescaling(high - low, low, name="to_input_range")(pixels)
    values = values if normalisation is None else normalisation.layer()(values)
    try:
        return keras.Model(pixels, model(values), name="from_pixels"), f"{takes} ({why})"
    except Exception as error:  # whatever a layer raises
        raise _does_not_take(shape, error) from None


def _does_not_take(shape, error: Exception) -> KitError:
    return KitError(f"the model does not take images of {tuple(shape)}: {first_line(error)}")


def _own_range(model, images) -> tuple[tuple[float, float], str]:
    """The range of values that the model's own scaling layer was made for, and how that is known.

    A Rescaling was written for a range, which its numbers tell, and so do the usual numbers in a Normalization. One
    that was adapted to data could be of any range, so the images must fit it in one range alone.
    KitError where nothing tells.
    """
    layer = first_step(model)
    name = "unknown" if layer is None else type(layer).__name__
    try:
        mean, spread = _scaling_of(layer)
    except (AttributeError, TypeError, ValueError):
        raise KitError(f"which values the model takes cannot be told: its first step is {name}; {ASK_RANGE}") from None
    states = _is_scale if isinstance(layer, layers.Rescaling) else _is_usual
    for high in (1.0, 255.0):
        if states(mean / high, spread / high):
            return (0.0, high), f"by its first layer, {name}"
    fitting = [ends for ends in RANGES if _fits(images, ends, mean, spread)]
    if len(fitting) == 1:
        return fitting[0], f"by its first layer, {name}, whose mean and spread the images have in this range alone"
    raise KitError(f"which values the model takes cannot be told from its first layer, {name} (it takes "
                   f"{np.round(mean, 4).tolist()} to 0, and a change of {np.round(spread, 4).tolist()} to 1); "
                   f"{ASK_RANGE}")


def _scaling_of(layer) -> tuple[np.ndarray, np.ndarray]:
    """The input that the layer maps to 0, and the change of input that it maps to 1."""
    if isinstance(layer, layers.Rescaling):
        scale, offset = np.asarray(layer.scale, float), np.asarray(layer.offset, float)
        return -offset / scale, 1 / scale
    if isinstance(layer, layers.Normalization) and not layer.invert:
        return np.asarray(layer.mean, float), np.sqrt(np.asarray(layer.variance, float))
    raise TypeError


def _is_scale(mean, spread) -> bool:
    """Whether pixels in [0, 1], less this mean and divided by this spread, are what networks are usually given."""
    return bool(np.all((-0.05 <= mean) & (mean <= 0.95) & (0.04 <= spread) & (spread <= 2)) or _is_usual(mean, spread))


def _is_usual(mean, spread) -> bool:
    """Whether it takes pixels in [0, 1] to [0, 1] or [-1, 1], or takes ImageNet's mean off and divides by its std (or
    by 1/255, as the first networks on ImageNet want)."""
    imagenet = IMAGENET
    usual = ((0.0, 1.0), (0.5, 0.5), (imagenet.mean, imagenet.std), (imagenet.mean, 1 / 255))
    return any(_close(mean, wanted[0]) and _close(spread, wanted[1]) for wanted in usual)


def _close(numbers, wanted) -> bool:
    numbers, wanted = np.ravel(numbers), np.ravel(wanted)
    return len(wanted) in (1, len(numbers)) and bool(np.all(np.abs(numbers - wanted) <= 0.01))


def _fits(images, ends: tuple[float, float], mean, spread) -> bool:
    """Whether the images, with values in this range, come out of the layer about as data do that it was adapted to:
    with a mean near 0 and a spread near 1."""
    low, high = ends
    axes = (0, 1, 2) if np.size(mean) == images.shape[-1] else None
    values = low + (high - low) * images
    away = np.abs((values.mean(axes) - np.ravel(mean)) / np.ravel(spread))
    wider = values.std(axes) / np.abs(np.ravel(spread))
    return bool(np.all(away < 1) and np.all((wider > 0.4) & (wider < 2.5)))


def first_step(model):
    """The first layer or operation (such as `x * 255`) that does something to the values, inside nested models too;
    None where the input goes several ways, or into a model of code."""
    return next((step for step in _from_the_input(model) if not _keeps_the_range(step)), None)


def _keeps_the_range(step) -> bool:
    if isinstance(step, layers.Rescaling):
        return bool(np.all(np.asarray(step.scale) == 1) and np.all(np.asarray(step.offset) == 0))
    return isinstance(step, _KEEP_THE_RANGE)


def _from_the_input(model) -> Iterator:
    """The steps from the input on, nested models opened, as long as they follow one another; then None."""
    for step in _one_by_one(model):
        if is_graph(step):
            yield from _from_the_input(step)
        else:
            yield step


def _one_by_one(model) -> Iterator:
    if isinstance(model, keras.Sequential):
        yield from model.layers
        return
    if not is_graph(model):
        yield None
        return
    # `model.layers` would leave out operations, so tensors are followed from node to node.
    tensor = model.inputs[0]
    while tensor is not model.outputs[0]:
        nodes = [node for step in model.operations for node in step._inbound_nodes
                 if any(each is tensor for each in node.input_tensors)]
        if len(nodes) != 1 or len(nodes[0].outputs) != 1:
            yield None
            return
        yield nodes[0].operation
        tensor = nodes[0].outputs[0]


# --- what it returns

def _outputs(model, images) -> np.ndarray:
    try:
        found = np.asarray(model(images, training=False), np.float32)
    except Exception as error:  # whatever a layer raises
        raise _does_not_take(images.shape[1:], error) from None
    if found.ndim != 2 or len(found) != len(images):
        raise KitError("the model must return one row of numbers an image, one a class, but for "
                       f"{len(images)} images it returns the shape {found.shape}")
    if not np.isfinite(found).all():
        raise KitError(f"for some of the images {NOT_FINITE}")
    return found


def _returning_logits(model, images, declared: Output | None) -> tuple[keras.Model, str]:
    """A model that returns logits, and in words what the given one returns. images: a few, to ask it."""
    outputs = _outputs(model, images)
    stripped, activation = without_probabilities(model)
    found = None if stripped is None else _two_columns(stripped)
    if found is not None and _gives_back(found, model, images, outputs):
        if activation.startswith("log"):
            return found, f"logarithms of probabilities: its last steps, {activation}, were taken off"
        return found, f"probabilities: its last step, {activation}, was taken off"
    if looks_like_probabilities(outputs):
        return _log_of(model), "probabilities (rows that sum to one), of which the logarithm is used"
    if declared == "probabilities":
        return _two_columns(_logit_of(model, outputs)), "probabilities (as given), of which the logit is used"
    certain = declared == "logits" or _ends_in_a_linear_layer(model) or (outputs < 0).any()
    if not certain:
        raise KitError("whether the model returns logits cannot be told: its outputs are not negative, and its last "
                       f"step tells neither; {ASK_OUTPUT}")
    why = "as given" if declared == "logits" else "by its last layer and its outputs"
    return _two_columns(model), f"logits ({why})"


def looks_like_probabilities(outputs: np.ndarray) -> bool:
    """Rows without negative numbers that sum to one (logits do so only by a great chance)."""
    return outputs.shape[1] > 1 and bool((outputs >= 0).all() and np.allclose(outputs.sum(1), 1, atol=SUMS_TO_ONE))


def _ends_in_a_linear_layer(model) -> bool:
    """Whether a layer with weights and without activation makes the output itself, nothing behind it."""
    last = last_of_all(model)
    linear = getattr(getattr(last, "activation", None), "__name__", "") == "linear"
    return linear and not isinstance(last, layers.Activation)


def without_probabilities(model) -> tuple[keras.Model | None, str | None]:
    """The model up to the numbers that its final softmax or sigmoid gets, sharing all other layers with it; and the
    name of that step ("log of softmax" where a logarithm follows it, and is taken off too).

    Returns (None, None) where the model does not end so, or is no graph of layers.
    """
    last, fed = last_step(model)
    if last is None:
        return None, None
    if is_operation(last, "Log"):
        stripped, activation = without_probabilities(keras.Model(model.inputs[0], fed))
        return (None, None) if stripped is None else (stripped, f"log of {activation}")
    before, activation = _before_activation(last, fed)
    return (None, None) if before is None else (keras.Model(model.inputs[0], before), activation)


def _before_activation(last, fed):
    """The tensor before a final softmax or sigmoid, or before the activation of a final layer; and the name of that.

    fed: the tensor that `last` gets.
    """
    if is_graph(last):
        stripped, activation = without_probabilities(last)
        return (None, None) if stripped is None else (stripped(fed), activation)
    name = activation_of(last)
    if name not in PROBABILITIES or getattr(last, "axis", -1) not in (-1, 1):
        return None, None
    if isinstance(last, layers.Softmax) or is_operation(last, "Softmax", "Sigmoid"):
        return fed, name
    if isinstance(last, layers.Activation):
        return fed, name
    config = last.get_config() | {"activation": "linear", "name": f"{last.name}_before_{name}"}
    try:
        linear = type(last).from_config(config)
        logits = linear(fed)
        linear.set_weights(last.get_weights())
    except Exception:  # a layer of somebody's own may take no activation, and raise anything
        return None, None
    return logits, name


def _two_columns(model) -> keras.Model:
    """A single number z, the logit of class 1, as the two logits (0, z)."""
    if model.output_shape[-1] != 1:
        return model
    return _continued(model, lambda z: keras.ops.concatenate([keras.ops.zeros_like(z), z], axis=-1))


def _log_of(model) -> keras.Model:
    """Logarithms of probabilities: logits, but for those that were rounded to 0 and 1."""
    smallest = float(np.finfo(np.float32).tiny)
    return _continued(model, lambda p: keras.ops.log(keras.ops.maximum(p, smallest)))


def _logit_of(model, outputs) -> keras.Model:
    """log p - log(1 - p) of each column, finite for those that were rounded to 0 and 1, too.

    outputs: of some images. Raises KitError where they are no probabilities.
    """
    if not ((outputs >= 0) & (outputs <= 1)).all():
        raise KitError("the output was said to be probabilities, but the model has no softmax or sigmoid at its end, "
                       f"and its outputs do not lie in [0, 1] (first image: {outputs[0].round(3)[:5].tolist()})")
    smallest, largest = float(np.finfo(np.float32).tiny), 1 - float(np.finfo(np.float32).epsneg)

    def logit(p):
        p = keras.ops.clip(p, smallest, largest)
        return keras.ops.log(p) - keras.ops.log1p(-p)

    return _continued(model, logit)


def _continued(model, function) -> keras.Model:
    inputs = keras.Input(model.input_shape[1:], name="pixels")
    return keras.Model(inputs, function(model(inputs)))


def _gives_back(logits_of: keras.Model, model, images, outputs) -> bool:
    """Whether softmax or sigmoid of the logits is what the model returned for the images (a layer of somebody's own may
    have done more). A random model cannot tell."""
    if np.abs(outputs - _outputs(model, images)).max() > SUMS_TO_ONE:
        return True
    logits = _outputs(logits_of, images)
    outputs = np.exp(outputs) if (outputs < 0).any() else outputs       # logarithms of probabilities
    outputs = np.concatenate([1 - outputs, outputs], 1) if outputs.shape[1] == 1 else outputs
    rebuilt = (np.asarray(keras.ops.softmax(logits)), np.asarray(keras.ops.sigmoid(logits)))
    return min(np.abs(outputs - each).max() for each in rebuilt) <= 10 * SUMS_TO_ONE


# --- stand-ins that let a gradient through

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
        if getattr(step, "layers", None) and hasattr(step, "inputs"):
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
    steps = getattr(model, "operations", None) or getattr(model, "layers", None)
    return [leaf for step in steps for leaf in _leaves(step)] if steps else [model]


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
