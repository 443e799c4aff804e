"""Which range of values a model takes: told by its own first layers, or by where it is clearly better."""
from __future__ import annotations

from collections.abc import Iterator

import keras
import numpy as np
from keras import layers
from scipy.special import softmax
from scipy.stats import binomtest

from kitlib.base.settings import KitError
from kitlib.models.normalisation import CAFFE, IMAGENET
from kitlib.models.wiring import is_graph, is_operation, is_wired

ASK_RANGE = ("give --input-range LOW,HIGH, the values that black and white have for the model (such as 0,255 or 0,1), "
             "or --mean and --std of pixels in [0, 1]")
RANGES = ((0.0, 1.0), (0.0, 255.0), (-1.0, 1.0))
LOOKED_AT = 48      # images on which ranges are compared
CLEARLY = 1e-3      # the largest probability of so many more right answers by chance
SURE = 1.25         # times the share of each class by chance
KNOWS = 0.25        # a model knows the classes where its accuracy is so far above naming the most frequent one

# Layers that may stand before the one that scales the pixels: they keep the range of values (in inference mode).
_KEEP_THE_RANGE = tuple(
    getattr(layers, name) for name in (
        "InputLayer", "Identity", "Resizing", "CenterCrop", "GaussianNoise", "GaussianDropout", "Dropout",
        "RandAugment", "ActivityRegularization", "ZeroPadding2D", "Cropping2D", "Permute", "Reshape",
        *(name for name in dir(layers) if name.startswith("Random"))) if hasattr(layers, name))


def own_range(model, images, certain: bool = False) -> tuple[tuple[float, float], str]:
    """The range of values that the model's own first layers were made for, and how that is known.

    A Rescaling, or arithmetic with fixed numbers, was written for a range, which its numbers tell, and so do the usual
    numbers in a Normalization. One that was adapted to data could be of any range, so the images (float32, in [0, 1])
    must fit it in one range alone; without images (None) it tells nothing. certain: numbers written by hand count only
    where they are usual ones, whatever the images would fit. Raises KitError where nothing tells.
    """
    scalings, name = _scalings(model)
    if not scalings:
        raise KitError(f"which values the model takes cannot be told: its first step is {name}; {ASK_RANGE}")
    for mean, spread, written in (scalings[0], scalings[-1]):
        states = _is_scale if written else _is_usual
        for high in (1.0, 255.0):
            if states(mean / high, spread / high):
                return (0.0, high), f"by its first layer, {name}"
    mean, spread, written = scalings[0]
    looks = images is not None and not (certain and written)
    fitting = [ends for ends in RANGES if looks and _fits(images, ends, mean, spread)]
    if len(fitting) == 1:
        return fitting[0], f"by its first layer, {name}, whose mean and spread the images have in this range alone"
    raise KitError(f"which values the model takes cannot be told from its first layer, {name} (it takes "
                   f"{np.round(mean, 4).tolist()} to 0, and a change of {np.round(spread, 4).tolist()} to 1); "
                   f"{ASK_RANGE}")


def refuse_a_better_reading(model, images: np.ndarray, labels: np.ndarray) -> None:
    """Raises KitError where the model, which takes pixels in [0, 1] by the kit's contract, is clearly more often right
    on some of the images when they are given in another usual range. model: pixels to logits; labels: int N."""
    if _is_untrained(model):
        return
    # From all over, as data may lie class by class.
    some = np.linspace(0, len(images) - 1, min(LOOKED_AT, len(images))).astype(int)
    images, labels = images[some], np.asarray(labels)[some]

    def right(values) -> tuple[np.ndarray, bool]:
        """Which are; and whether the model is sure of its answers, as one that was never trained is not."""
        shares = softmax(np.asarray(model(np.float32(values), training=False), float), -1)
        return shares.argmax(-1) == labels, shares.max(-1).mean() > SURE / shares.shape[-1]

    as_pixels, guessing = right(images)[0], np.bincount(labels).max() / len(labels)
    if as_pixels.mean() >= max(0.5, guessing + KNOWS):
        return
    others = {"input_range=(0, 255)": 255 * images, "input_range=(-1, 1)": 2 * images - 1}
    if images.shape[-1] == 3:
        others["ImageNet's mean and std (normalise in a first layer)"] = IMAGENET.to_normalised(images)
        others["preprocess_input of keras.applications (BGR less its mean)"] = CAFFE.to_normalised(images)[..., ::-1]
    for what, values in others.items():
        other, sure = right(values)
        gained, lost = int((other & ~as_pixels).sum()), int((as_pixels & ~other).sum())
        # A model that has learnt nothing gives nearly all images one answer, so they do not count one by one.
        clearly = sure and other.mean() > guessing + KNOWS
        if clearly and binomtest(gained, gained + lost, alternative="greater").pvalue < CLEARLY:
            raise KitError(f"of {len(images)} of the images the model gets {as_pixels.sum()} right on values from 0 "
                           f"to 1, and {other.sum()} with {what}: say which values it takes (input_range=(LOW, HIGH); "
                           "of an audit: --input-range), or put the scaling into a first layer")


def _is_untrained(model) -> bool:
    """Whether nothing has moved the numbers that begin at zero. Its answers tell nothing about what it takes."""
    begun = [np.any(weight.numpy()) for weight in model.weights
             if weight.path.rsplit("/", 1)[-1] in ("bias", "beta", "moving_mean")]
    return bool(begun) and not any(begun)


def _scalings(model) -> tuple[list[tuple], str]:
    """The affine steps at the start of the model, each composed with those before it: (input that becomes 0, change of
    input that becomes 1, whether these numbers were written by hand); and the first step's name."""
    scale: float | np.ndarray = 1.0
    offset: float | np.ndarray = 0.0
    found: list[tuple] = []
    reverse, name, written = False, "unknown", True
    for step, constants in _from_the_input(model):
        if step is not None and _keeps_the_range(step):
            continue
        if not found and step is not None:
            name = type(step).__name__
        if _turns_channels(step, constants):
            reverse = not reverse
            continue
        affine = _affine(step, constants)
        if affine is None:
            break
        by, plus = (part[..., ::-1] if reverse and np.ndim(part) and np.size(part) > 1 else part for part in affine)
        scale, offset = scale * by, offset * by + plus
        written = written and not isinstance(step, layers.Normalization)
        found.append((np.asarray(-offset / scale, float), np.asarray(1 / scale, float), written))
    return found, name


def _affine(step, constants) -> tuple[np.ndarray, np.ndarray] | None:
    """(a, b) of a step that makes a x + b of its input; None of others."""
    with np.errstate(all="ignore"):
        if isinstance(step, layers.Rescaling):
            return _usable(np.asarray(step.scale, float), np.asarray(step.offset, float))
        if isinstance(step, layers.Normalization) and not step.invert and step.mean is not None:
            spread = np.sqrt(np.asarray(step.variance, float))
            return _usable(1 / spread, -np.asarray(step.mean, float) / spread)
        if len(constants) != 1:
            return None
        position, constant = constants[0]
        try:
            constant = np.asarray(constant, float)
        except (TypeError, ValueError):     # no number, but a list of tensors, say
            return None
        if is_operation(step, "Multiply"):
            return _usable(constant, 0.0)
        if is_operation(step, "Divide", "TrueDivide") and position == 1:
            return _usable(1 / constant, 0.0)
        if is_operation(step, "Add"):
            return _usable(1.0, constant)
        if is_operation(step, "Subtract") and position == 1:
            return _usable(1.0, -constant)
    return None


def _usable(by, plus):
    return (by, plus) if np.all(np.isfinite(by)) and np.all(np.isfinite(plus)) and np.all(by != 0) else None


def _turns_channels(step, constants) -> bool:
    """Whether it is x[..., ::-1]."""
    key = constants[0][1] if is_operation(step, "GetItem") and constants else None
    return isinstance(key, tuple) and key[-1:] == (slice(None, None, -1),)


def _is_scale(mean, spread) -> bool:
    """Whether pixels in [0, 1], less this mean and divided by this spread, are what networks are usually given."""
    return bool(np.all((-0.05 <= mean) & (mean <= 0.95) & (0.04 <= spread) & (spread <= 2)) or _is_usual(mean, spread))


def _is_usual(mean, spread) -> bool:
    """Whether it takes pixels in [0, 1] to [0, 1] or [-1, 1], or takes ImageNet's mean off and divides by its std (or
    by 1/255, as the first networks on ImageNet want)."""
    usual = ((0.0, 1.0), (0.5, 0.5), (IMAGENET.mean, IMAGENET.std), (IMAGENET.mean, 1 / 255))
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


def _keeps_the_range(step) -> bool:
    if isinstance(step, layers.Rescaling):
        return bool(np.all(np.asarray(step.scale) == 1) and np.all(np.asarray(step.offset) == 0))
    return isinstance(step, _KEEP_THE_RANGE) or is_operation(step, "Cast")


def _from_the_input(model) -> Iterator[tuple]:
    """The steps from the input on with their constants, nested models opened, as long as they follow one another; then
    (None, [])."""
    for step, constants in _one_by_one(model):
        if step is not None and is_graph(step):
            yield from _from_the_input(step)
        else:
            yield step, constants


def _one_by_one(model) -> Iterator[tuple]:
    if isinstance(model, keras.Sequential) and is_wired(model):
        yield from ((layer, []) for layer in model.layers)
        return
    if not is_graph(model):
        yield None, []
        return
    # `model.layers` would leave out operations, so tensors are followed from node to node.
    tensor = model.inputs[0]
    while tensor is not model.outputs[0]:
        nodes = [node for step in model.operations for node in step._inbound_nodes
                 if any(each is tensor for each in node.input_tensors)]
        if len(nodes) != 1 or len(nodes[0].outputs) != 1:
            yield None, []
            return
        yield nodes[0].operation, _constants(nodes[0])
        tensor = nodes[0].outputs[0]


def _constants(node) -> list[tuple[int, object]]:
    """(position, value) of what a function is called with beside tensors of the graph."""
    return [(place, each) for place, each in enumerate(node.arguments.args)
            if each is not None and not isinstance(each, keras.KerasTensor)]
