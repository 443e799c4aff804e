"""What anybody's Keras model takes and returns, found out once; and that model from pixels to logits."""
from __future__ import annotations

import contextlib
import dataclasses
from typing import Literal

import keras
import numpy as np
from keras import layers

from kitlib.base.settings import KitError, first_line, suggestion
from kitlib.models.normalisation import Normalisation
from kitlib.models.precision import exact_float32, in_float32
from kitlib.models.ranges import own_range, refuse_a_better_reading
from kitlib.models.traces import trace_of
from kitlib.models.wiring import (
    PROBABILITIES,
    activation_of,
    image_shape,
    is_graph,
    is_operation,
    last_of_all,
    last_step,
)

Output = Literal["logits", "probabilities"]
Kind = Literal["logits", "probabilities", "log_probabilities"]
NOT_FINITE = ("the model returns NaN or infinite numbers: its training diverged, its weights are damaged, it divides "
              "by zero, or it takes values of another range (of an audit: --input-range)")
ASK_OUTPUT = "give --output logits or --output probabilities"
PROBES = 16         # images on which outputs are looked at
SUMS_TO_ONE = 1e-4
# Layers and functions behind a softmax that move its values without changing them.
_MOVE_VALUES = (layers.Reshape, layers.Flatten, layers.Identity, layers.Dropout)
_MOVING_OPERATIONS = ("Reshape", "Squeeze", "Cast", "Identity")


@dataclasses.dataclass(frozen=True)
class Target:
    """What is judged. model: pixels (float32, N x H x W x C, in [0, 1]) -> float32 logits, N x classes.

    as_given: the model as it came, which may want other values and return probabilities.
    takes, returns: in words, how its input range and its output were found out.
    kind: what `as_given` returns. recovered: whether these are the very numbers before its softmax or sigmoid, so that
    nothing was rounded away.
    """

    model: keras.Model
    as_given: keras.Model
    takes: str
    returns: str
    kind: Kind
    recovered: bool

    @property
    def probabilities(self) -> bool:
        return self.kind != "logits"

    @property
    def classes(self) -> int:
        return self.model.output_shape[-1]


@exact_float32()
def prepare(model: keras.Model, images: np.ndarray, input_range: tuple[float, float] | None = None,
            normalisation: Normalisation | None = None, output: Output | None = None,
            head: str | None = None) -> Target:
    """`model` ready to be judged on `images` (float32 N x H x W x C in [0, 1]; a few of them are looked at).

    input_range: the values that 0 and 1 in pixels have for the model. normalisation: mean and std that the
    caller of the model is to apply (to values in the input range, if that is given too). Where neither is
    given, the model's own first layers must tell. output: what the model returns; looked up where None. head: the name
    of the output to judge, of a model with several.
    Raises KitError where something is neither given nor certain, and for a model that takes other images.
    """
    model = in_float32(model)
    one = _channels_last(with_one_output(model, head), images.shape[1:])
    ready, takes = _taking_pixels(one, images, input_range, normalisation)
    found, kind, recovered, returns = _returning_logits(ready, images[:PROBES], output)
    # What was found out, or given, is not read again where it is attacked.
    found = _continued(found, layers.Identity()) if found is one else found
    return Target(_marked(in_float32(found), model), one, takes, returns, kind, recovered)


@exact_float32()
def pixels_to_logits(model, images: np.ndarray, labels: np.ndarray | None = None,
                     input_range: tuple[float, float] | None = None):
    """The model as the attacks call it, from pixels to float32 logits; it shares its weights with the given one.

    By the kit's contract a model takes pixels in [0, 1]. Where its first layers say that it takes another range it gets
    that; where they say nothing, and `labels` are given, it must not do clearly better in another range. A final
    softmax or sigmoid is taken off; of probabilities that stay hidden in code the logarithm is used.
    images: a few are looked at. A model of code is left as it is.
    Raises KitError for a model that takes other images, and where it does clearly better in another range.
    """
    model = in_float32(model)
    if not getattr(model, "inputs", None) or "_kitlib_ready" in model.__dict__:
        return model
    some, ends = images[:PROBES], _ends(input_range)

    def understood():
        ready, told = _as_told(model, some, ends)
        if len(ready.output_shape) == 2:
            ready = _returning_logits(ready, some, None, lenient=True)[0]
        return _marked(ready, model), told

    ready, told = trace_of(model, ("pixels to logits", images.shape[1:], ends), understood)
    if labels is not None and not told:
        refuse_a_better_reading(ready, images, labels)
    return ready


@exact_float32()
def taking_pixels(model, images: np.ndarray, labels: np.ndarray,
                  input_range: tuple[float, float] | None = None) -> keras.Model:
    """The same of what it takes alone, for training: what it returns stays as it is."""
    ready, told = _as_told(model, images, _ends(input_range))
    if not told:
        refuse_a_better_reading(ready, images, labels)
    return ready


def from_pixels(model) -> keras.Model:
    """The model from pixels where its own first layers say which range it takes, without a look at images; else as it
    is. What it returns stays."""
    with contextlib.suppress(KitError):
        if None not in (shape := image_shape(model)) and (told := own_range(model, None)[0]) != (0.0, 1.0):
            return _scaled(model, shape, told)
    return model


def _as_told(model, images, ends: tuple[float, float] | None) -> tuple[keras.Model, bool]:
    """The model from pixels, channels last, to its only output; and whether anything tells what it takes."""
    one, told = _channels_last(with_one_output(model), images.shape[1:]), ends
    with contextlib.suppress(KitError):
        told = told or own_range(one, images, certain=True)[0]
    ready = one if told in (None, (0.0, 1.0)) else _scaled(one, images.shape[1:], told)
    return ready, bool(told) or len(one.output_shape) != 2


def _marked(ready, model) -> keras.Model:
    """`ready`, known as pixels to logits from now on; the given model itself bears no mark."""
    if ready is not model:
        ready.__dict__["_kitlib_ready"] = True
    return ready


def _ends(input_range) -> tuple[float, float] | None:
    if input_range is None:
        return None
    try:
        low, high = map(float, input_range)
    except (TypeError, ValueError):
        raise KitError(f"an input range is two numbers, such as (0, 255), not {input_range!r}") from None
    if not -np.inf < low < high < np.inf:
        raise KitError(f"the input range goes from the value of black to that of white, not from {low:g} to {high:g}")
    return low, high


# --- which output, and which order of channels

def images_for(model) -> tuple:
    """Height, width and channels of the images to prepare for a model, None where it takes any; of one that takes
    channels first in this order, too."""
    own = image_shape(model)
    return (*own[1:], own[0]) if own[0] in (1, 3) and own[2] not in (None, 1, 3) else own


def with_one_output(model, head: str | None = None):
    """The model with a plain tensor for its output: its only one, or the one called `head`."""
    outputs = getattr(model, "output", None)
    if outputs is None or hasattr(outputs, "shape"):
        if head is not None:
            raise KitError(f"the model has one output, so there is none to be called '{head}'")
        return model
    named = _named_outputs(model, outputs)
    if head is None and len(named) > 1:
        raise KitError(f"the model has {len(named)} outputs ({', '.join(named)}): say which is judged (of an audit: "
                       "--head NAME), or choose one: keras.Model(model.inputs, model.output[...])")
    if head is not None and head not in named:
        raise KitError(f"the model has no output '{head}'{suggestion(head, named)}")
    chosen = named[head] if head else next(iter(named.values()))
    return trace_of(model, ("one output", head), lambda: keras.Model(model.inputs[0], chosen))


def _named_outputs(model, outputs) -> dict:
    if isinstance(outputs, dict):
        return dict(outputs)
    names = getattr(model, "output_names", None) or range(len(outputs))
    return {str(name): each for name, each in zip(names, keras.tree.flatten(outputs), strict=False)}


def _channels_last(model, shape: tuple):
    """A model of channels-first images, asked with channels last."""
    own = image_shape(model)
    if _takes(own, shape):
        return model
    if not _takes(own, (shape[-1], *shape[:-1])):
        raise KitError(f"the model takes images of {own}, but those given are {tuple(shape)}")
    pixels = keras.Input(shape, name="pixels")
    return trace_of(model, ("channels last", shape),
                    lambda: keras.Model(pixels, model(layers.Permute((3, 1, 2))(pixels))))


def _takes(expected: tuple, shape: tuple) -> bool:
    return all(wanted in (None, given) for wanted, given in zip(expected, shape, strict=True))


# --- what it takes

def _taking_pixels(model, images, input_range, normalisation) -> tuple[keras.Model, str]:
    if normalisation is not None:
        normalisation.check_channels(images)
    if input_range is None and normalisation is None:
        input_range, why = own_range(model, images)
    else:
        why = "as given"
    low, high = _ends(input_range) or (0.0, 1.0)
    takes = f"values from {low:g} to {high:g}"
    if normalisation is not None:
        takes += f", then less mean {normalisation.mean} over std {normalisation.std}"
    if (low, high) == (0.0, 1.0) and normalisation is None:
        return model, f"{takes} ({why})"
    return _scaled(model, images.shape[1:], (low, high), normalisation), f"{takes} ({why})"


def _scaled(model, shape, input_range: tuple[float, float], normalisation: Normalisation | None = None) -> keras.Model:
    low, high = input_range
    pixels = keras.Input(shape, name="pixels")
    values = layers.Rescaling(high - low, low, name="to_input_range")(pixels)
    values = values if normalisation is None else normalisation.layer()(values)
    try:
        return keras.Model(pixels, model(values), name="from_pixels")
    except Exception as error:  # whatever a layer raises
        raise _does_not_take(shape, error) from None


def _does_not_take(shape, error: Exception) -> KitError:
    return KitError(f"the model does not take images of {tuple(shape)}: {first_line(error)}")


# --- what it returns

def outputs_for(model, images, finite: bool = True) -> np.ndarray:
    """What the model returns for a few images, N x columns. Raises KitError for another shape, and, where they must be
    finite, for NaN and infinity."""
    try:
        found = np.asarray(model(images, training=False), np.float32)
    except Exception as error:  # whatever a layer raises
        raise _does_not_take(images.shape[1:], error) from None
    if found.ndim != 2 or len(found) != len(images):
        raise KitError("the model must return one row of numbers an image, one a class, but for "
                       f"{len(images)} images it returns the shape {found.shape}")
    if finite and not np.isfinite(found).all():
        raise KitError(f"for some of the images {NOT_FINITE}")
    return found


def _returning_logits(model, images, declared: Output | None,
                      lenient: bool = False) -> tuple[keras.Model, Kind, bool, str]:
    """A model that returns logits; what the given one returns, whether its logits are recovered, and that in words.

    images: a few, to ask it. lenient: where nothing tells, they are logits, as the kit's contract says.
    """
    outputs = outputs_for(model, images, finite=not lenient)
    stripped, activation = without_probabilities(model)
    found = None if stripped is None else _two_columns(stripped)
    if found is not None and activation and _gives_back(found, model, images, outputs):
        if activation.startswith("log"):
            return (found, "log_probabilities", True,
                    f"logarithms of probabilities: its last steps, {activation}, were taken off")
        if looks_like_probabilities(outputs_for(found, images, finite=not lenient)):    # a softmax of a softmax
            return _returning_logits(found, images, declared, lenient)
        return found, "probabilities", True, f"probabilities: its last step, {activation}, was taken off"
    if looks_like_probabilities(outputs):
        return (_log_of(model), "probabilities", False,
                "probabilities (rows that sum to one), of which the logarithm is used")
    if declared == "probabilities":
        return (_two_columns(_logit_of(model, outputs)), "probabilities", False,
                "probabilities (as given), of which the logit is used")
    certain = declared == "logits" or _ends_in_a_linear_layer(model) or (outputs < 0).any()
    if not certain and not lenient:
        raise KitError("whether the model returns logits cannot be told: its outputs are not negative, and its last "
                       f"step tells neither; {ASK_OUTPUT}")
    why = "as given" if declared == "logits" else "by its last layer and its outputs"
    return _two_columns(model), "logits", True, f"logits ({why})"


def looks_like_probabilities(outputs: np.ndarray) -> bool:
    """Rows without negative numbers that sum to one (logits do so only by a great chance)."""
    return outputs.shape[1] > 1 and bool((outputs >= 0).all() and np.allclose(outputs.sum(1), 1, atol=SUMS_TO_ONE))


def _ends_in_a_linear_layer(model) -> bool:
    """Whether a layer with weights and without activation makes the output itself, nothing behind it."""
    last = last_of_all(model)
    linear = getattr(getattr(last, "activation", None), "__name__", "") == "linear"
    return linear and not isinstance(last, layers.Activation)


def without_probabilities(model) -> tuple[keras.Model | None, str | None]:
    """The model up to the numbers that its final softmax or sigmoid gets, sharing all layers with it; and the name of
    that step ("log of softmax" where a logarithm follows it, and is taken off too). Steps behind it that only move
    values, such as Reshape, stay.

    Returns (None, None) where the model does not end so, or is no graph of layers.
    """
    last, fed = last_step(model)
    if last is None:
        return None, None
    if is_operation(last, "Log"):
        stripped, activation = without_probabilities(keras.Model(model.inputs[0], fed))
        return (None, None) if stripped is None else (stripped, f"log of {activation}")
    if isinstance(last, _MOVE_VALUES) or is_operation(last, *_MOVING_OPERATIONS):
        stripped, activation = without_probabilities(keras.Model(model.inputs[0], fed))
        return (None, None) if stripped is None else (_continued(stripped, last), activation)
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
    if isinstance(last, (layers.Softmax, layers.Activation)) or is_operation(last, "Softmax", "Sigmoid"):
        return fed, name
    try:
        return WithoutActivation(last)(fed), name
    except Exception:  # a layer of somebody's own may not let its activation be set, and raise anything
        return None, None


class WithoutActivation(layers.Layer):
    """A layer up to its activation, with the very weights of that layer."""

    def __init__(self, layer: layers.Layer):
        super().__init__(name=f"{layer.name}_before_activation", dtype=layer.compute_dtype)
        self.layer = layer

    def call(self, inputs):
        activation, self.layer.activation = self.layer.activation, keras.activations.linear
        try:
            return self.layer(inputs)
        finally:
            self.layer.activation = activation


def _two_columns(model) -> keras.Model:
    """A single number z, the logit of class 1, as the two logits (0, z)."""
    if model.output_shape[-1] != 1:
        return model
    return _continued(model, lambda z: layers.Concatenate()([layers.Rescaling(0.0)(z), z]))


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
    if np.abs(outputs - outputs_for(model, images)).max() > SUMS_TO_ONE:
        return True
    logits = outputs_for(logits_of, images)
    outputs = np.exp(outputs) if (outputs < 0).any() else outputs       # logarithms of probabilities
    outputs = np.concatenate([1 - outputs, outputs], 1) if outputs.shape[1] == 1 else outputs
    rebuilt = (np.asarray(keras.ops.softmax(logits)), np.asarray(keras.ops.sigmoid(logits)))
    return min(np.abs(outputs - each).max() for each in rebuilt) <= 10 * SUMS_TO_ONE
