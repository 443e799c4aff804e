"""Intervals pushed forward through a network (interval bound propagation, Gowal et al. 2018, arXiv:1810.12715).

A proof has to hold for the float32 network that is run, so every step allows for its rounding: a sum of n float32
numbers is off by at most n u / (1 - n u) times the sum of their sizes, in whatever order it is made (u = 2^-24; Higham,
Accuracy and Stability of Numerical Algorithms, 2002, section 3.1). Arithmetic that is no plain float32 summation
(TensorFloat-32, Winograd's or Fourier's convolutions) is not covered.
"""
from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from kitlib.certify import lines
from kitlib.certify.graph import Node

UNIT = 2.0**-24


class InputSet(NamedTuple):
    """Where the pixels may be: between lower and upper, N x H x W x C like the images; and, where `radius` is no None,
    within this L2 distance of the images. unit: UNIT for proofs; 0 leaves rounding out, as in training."""

    images: tf.Tensor
    lower: tf.Tensor
    upper: tf.Tensor
    radius: tf.Tensor | None
    unit: float


class Box(NamedTuple):
    """Bounds of each of a node's numbers, N x its shape, and what else is known of it.

    level: 0 where every combination of numbers in the box can occur, 1 where no better bounds of single numbers are
    known, 2 where linear bounds may be better. size: the sum of the sizes of all that each number, or its lines, is
    made of: rounding errors are a share of it. lines: of pointwise and max nodes. ball: the L2 ball as an ellipsoid
    (centre, squared half axes), as long as no layer has mixed pixels.
    """

    lower: tf.Tensor
    upper: tf.Tensor
    level: int
    size: tf.Tensor | None = None
    lines: lines.Lines | None = None
    ball: tuple | None = None

    @property
    def middle_and_half(self) -> tuple:
        return (self.lower + self.upper) / 2, (self.upper - self.lower) / 2

    @property
    def largest(self):
        return tf.maximum(tf.abs(self.lower), tf.abs(self.upper))


def input_set(images, eps, norm: str, unit: float = UNIT) -> InputSet:
    """The pixels within eps of the images (N x H x W x C) that are pixels, of 0 to 1. norm: linf or l2."""
    radius = eps + 2 * unit        # attacks compute images + eps in float32, too
    lower, upper = tf.maximum(images - radius, 0.0), tf.minimum(images + radius, 1.0)
    return InputSet(images, lower, upper, radius if norm == "l2" else None, unit)


def rounding_share(terms: int, unit: float) -> float:
    """Three times the share of its terms' sizes that a sum may be off: for the network's rounding, and for ours."""
    return 3 * (terms + 16) * unit / (1 - (terms + 16) * unit)


def forward(nodes: list[Node], space: InputSet, improve=None) -> list[Box]:
    """The box of every node. improve: (the boxes so far, the place of the last) -> a better one for the last."""
    ball = None if space.radius is None else (space.images, tf.square(space.radius) * tf.ones_like(space.images))
    boxes = [Box(space.lower, space.upper, 0, ball=ball)]
    for number, node in enumerate(nodes[1:], start=1):
        inputs = [boxes[place] for place in node.inputs]
        if node.kind == "affine":
            boxes.append(_affine(node, inputs, space.unit))
        elif node.kind == "pointwise":
            boxes.append(_pointwise(node, inputs[0], space.unit))
        else:
            windows = nodes[node.inputs[0]]
            boxes.append(_largest(windows, boxes[windows.inputs[0]], inputs[0]))
        if improve is not None:
            boxes[number] = improve(boxes, number)
    return boxes


def _affine(node: Node, inputs: list[Box], unit: float) -> Box:
    """The layer moves the middle of the box; the sizes of its weights move the half widths."""
    level, ball = max(box.level for box in inputs), inputs[0].ball if len(inputs) == 1 else None
    moved = (node.affine([ball[0]]), node.linear([ball[1]], tf.square)) if ball and node.form != "mixing" else None
    if node.form == "copy":
        lower, upper = (node.affine([getattr(box, end) for box in inputs]) for end in ("lower", "upper"))
        return Box(lower, upper, level, ball=moved)
    share, size = rounding_share(node.terms, unit), node.size([box.largest for box in inputs])
    middles, halves = zip(*(box.middle_and_half for box in inputs), strict=True)
    middle, half = node.affine(list(middles)), node.linear(list(halves), tf.abs)
    half = half + share * size if unit else half
    box = Box(middle - half, middle + half, level, size, ball=moved)
    if node.form == "diagonal":
        return box
    box = box._replace(level=min(2, level + 1))
    return _within(box, node, ball, share) if ball and node.squares else box


def _within(box: Box, node: Node, ball: tuple, share: float) -> Box:
    """A weighted sum over an ellipsoid reaches as far as the length of its weights, each times a half axis."""
    length, middle = tf.sqrt(node.linear([ball[1]], tf.square)), node.affine([ball[0]])
    half = length + share * (length + node.size([tf.abs(ball[0])]))
    return box._replace(lower=tf.maximum(box.lower, middle - half), upper=tf.minimum(box.upper, middle + half))


def _pointwise(node: Node, box: Box, unit: float) -> Box:
    """The functions never fall, so each end of the interval leads to one of the result."""
    lower, upper = (lines.value_of(node, end) for end in (box.lower, box.upper))
    if node.function != "relu" or node.slope:     # sigmoid and tanh are good to some units of the last place
        rounding = 16 * unit * tf.maximum(1.0, box.largest)
        lower, upper = lower - rounding, upper + rounding
    return Box(lower, upper, max(1, box.level), box.largest + 1.0, lines.of_pointwise(node, box.lower, box.upper))


def _largest(windows: Node, before: Box, box: Box) -> Box:
    """The box of a max node; `windows` lays out the pooling's windows, and what it pads `before` with never wins."""
    real = windows.linear([tf.ones_like(before.lower[:1])], tf.identity) > 0
    lower, upper = (tf.where(real, end, -lines.HUGE) for end in (box.lower, box.upper))
    found, (lower, upper) = lines.of_max(lower, upper), (tf.reduce_max(end, -2) for end in (lower, upper))
    return Box(lower, upper, max(1, box.level), tf.maximum(tf.abs(lower), tf.abs(upper)), found)
