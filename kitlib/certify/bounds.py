"""Methods of proof by name, as attacks are: settings, and `run`."""
from __future__ import annotations

import dataclasses
import time

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from kitlib.attacks.base import Norm
from kitlib.attacks.checks import check_images, check_labels, check_model, check_whole
from kitlib.base.settings import Epsilon, Settings, read_named
from kitlib.certify.graph import open_model
from kitlib.certify.interval import UNIT, InputSet, forward, input_set
from kitlib.certify.linear import linear_forward, lower_bounds
from kitlib.models import in_float32
from kitlib.models.traces import trace_of


class Method(Settings):
    """Base of all methods. eps: in pixels (L-inf), or an L2 distance; the pixels stay in [0, 1] in both.

    rounding: allow for float32's rounding, as a proof must; without it bounds may be off by about 1e-6 of the logits'
    size. intersect: of crown_ibp and crown: take the better of the linear and the interval bound everywhere.
    """

    name: str
    eps: Epsilon
    norm: Norm = "linf"
    rounding: bool = True
    intersect: bool = True


class IBP(Method):
    """Interval bounds, the last layers merged with the margins (Gowal et al. 2018, arXiv:1810.12715). As cheap as a few
    predictions; proves little of networks that were not trained for it."""

    name: str = "ibp"


class CrownIBP(Method):
    """Linear bounds of the margins on interval bounds of all before (Zhang et al. 2020, arXiv:1906.06316)."""

    name: str = "crown_ibp"


class Crown(Method):
    """Linear bounds of the margins and of every number before a relu, a pooling or the like (Zhang et al. 2018,
    arXiv:1811.00866). Each of those numbers costs a backward pass."""

    name: str = "crown"


CATALOGUE: dict[str, type[Method]] = {kind.model_fields["name"].default: kind for kind in (IBP, CrownIBP, Crown)}


def read(settings: dict | str | Method, where: str = "proof") -> Method:
    """A method from its settings. Raises KitError for unknown names, keys and bad values."""
    return settings if isinstance(settings, Method) else read_named(settings, CATALOGUE, "method", where)


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What was proved of each image, in their order.

    margins: float32 N x classes: within the method's eps, the label's logit is larger than that of each class by at
    least so much (0 for the label itself). lower: N, the least of them. proved: bool N, whether it is above zero: then
    no attack within eps can change the answer, which is right.
    """

    method: Method
    labels: np.ndarray
    margins: np.ndarray
    seconds: float

    @property
    def lower(self) -> np.ndarray:
        others = np.arange(self.margins.shape[1]) != self.labels[:, None]
        return np.where(others, self.margins, np.inf).min(1)

    @property
    def proved(self) -> np.ndarray:
        return self.lower > 0

    @property
    def accuracy(self) -> float:
        """Share of images that are proved: the robust accuracy is at least so large."""
        return float(self.proved.mean())

    def summary(self) -> dict:
        """The numbers for a record."""
        return {"method": self.method.model_dump(mode="json"), "count": len(self.labels), "accuracy": self.accuracy,
                "mean_lower": float(self.lower.mean()), "seconds": self.seconds}


def run(method: dict | Method, model, images, labels, *, batch_size: int = 64, progress: bool = False) -> Bounds:
    """Bound the margins of every image, compiled, in float32.

    method: as `read` takes it, e.g. {"name": "crown", "eps": "2/255"}. model: from pixels to logits; never changed.
    images: float N x H x W x C in [0, 1]. labels: int N.
    Raises KitError for bad input, and for a model with a layer of which nothing can be proved.
    """
    started, method, model = time.perf_counter(), read(method), in_float32(model)
    check_whole("batch_size", batch_size, 1)
    images = check_images(images, "images to prove")
    model, classes = check_model(model, images, labels)
    labels = check_labels(labels, len(images), classes, False, "images to prove")
    compiled, parts = _compiled(method, model, images.shape[1:]), []
    for first in tqdm(range(0, len(images), batch_size), desc=method.name, unit="batch", disable=not progress):
        part = slice(first, first + batch_size)
        parts.append(compiled(*map(tf.constant, (images[part], labels[part], np.float32(method.eps)))).numpy())
    return Bounds(method, labels, np.concatenate(parts), time.perf_counter() - started)


def margins(name: str, nodes: list, space: InputSet, labels, intersect: bool = True) -> tf.Tensor:
    """Lower bounds of the label's logit less each other one, N x classes, in any graph.

    nodes: see `open_model`; space: see `input_set`. Differentiable for the model's weights.
    """
    boxes = linear_forward(nodes, space, intersect) if name == "crown" else forward(nodes, space)
    last, classes = len(nodes) - 1, boxes[-1].lower.shape[-1]
    weights = tf.one_hot(labels, classes)[:, None, :] - tf.eye(classes)
    interval = lower_bounds(nodes, boxes, last, weights, space, linear=False)
    if name == "ibp":
        return interval
    linear = lower_bounds(nodes, boxes, last, weights, space)
    return tf.maximum(linear, interval) if intersect else linear


def _compiled(method: Method, model, shape: tuple):
    """One for all eps and batch sizes, for as long as the model stays as it is."""
    asked, unit = method.model_copy(update={"eps": 0}), UNIT if method.rounding else 0.0

    def compiled():
        nodes = open_model(model)

        def bound(images, labels, eps):
            return margins(asked.name, nodes, input_set(images, eps, asked.norm, unit), labels, asked.intersect)

        return tf.function(bound, autograph=False).get_concrete_function(
            tf.TensorSpec((None, *shape)), tf.TensorSpec((None,), tf.int32), tf.TensorSpec(()))

    return trace_of(model, ("bounds", asked, shape), compiled)
