"""Lines below and above a curve between two points: what CROWN puts in the place of everything that is not linear."""
from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

HUGE = 3e38


class Lines(NamedTuple):
    """below: slope and height of a line that is nowhere above the function; above: of one that is nowhere below it."""

    below: tuple[tf.Tensor, tf.Tensor]
    above: tuple[tf.Tensor, tf.Tensor]


def value_of(node, x):
    if node.function == "relu":
        return tf.maximum(x, 0.0) + node.slope * tf.minimum(x, 0.0) if node.slope else tf.nn.relu(x)
    return tf.sigmoid(x) if node.function == "sigmoid" else tf.tanh(x)


def of_pointwise(node, lower, upper) -> Lines:
    """Of relu, sigmoid or tanh between `lower` and `upper` (any shape)."""
    return _of_relu(node.slope, lower, upper) if node.function == "relu" else _of_sigmoid_or_tanh(node, lower, upper)


def _of_relu(slope: float, lower, upper) -> Lines:
    """Zhang et al. 2018 (CROWN, arXiv:1811.00866, table 2): above, the chord; below, the branch that leaves the
    smaller triangle."""
    below = tf.where(upper > -lower, 1.0, slope)
    below = tf.where(lower >= 0, 1.0, tf.where(upper <= 0, slope, below))
    crosses = (lower < 0) & (upper > 0)
    width = tf.where(crosses, upper - lower, 1.0)
    chord = tf.where(crosses, (upper - slope * lower) / width, below)
    return Lines((below, tf.zeros_like(lower)), (chord, tf.where(crosses, (slope - chord) * lower, 0.0)))


def _of_sigmoid_or_tanh(node, lower, upper) -> Lines:
    """Of a function that bends up below zero and down above it: the chord on the side where it bends away, a tangent
    on the other; where zero is between, lines through the ends, as steep as the function is at its flatter end."""
    ends, middle = [value_of(node, x) for x in (lower, upper)], (lower + upper) / 2
    steep = [_slope_at(node, value) for value in (*ends, value_of(node, middle))]
    flat = tf.minimum(steep[0], steep[1])
    wide = upper - lower > 1e-3
    chord = tf.where(wide, (ends[1] - ends[0]) / tf.where(wide, upper - lower, 1.0), flat)
    down, up = wide & (lower >= 0), wide & (upper <= 0)
    below = tf.where(down, chord, tf.where(up, steep[2], flat))
    above = tf.where(up, chord, tf.where(down, steep[2], flat))
    touch = tf.where(up, middle, lower), tf.where(down, middle, upper)
    heights = [value_of(node, at) - slope * at for at, slope in zip(touch, (below, above), strict=True)]
    return Lines((below, heights[0]), (above, heights[1]))


def _slope_at(node, value):
    return value * (1 - value) if node.function == "sigmoid" else 1 - value**2


def of_max(lower, upper) -> Lines:
    """Of the largest along the last axis but one. Below: the number whose lower bound is the largest. Above: the same
    where no other number can be larger, else the largest upper bound."""
    best = tf.one_hot(tf.argmax(lower, -2), lower.shape[-2], axis=lower.shape.rank - 2)
    rest = tf.reduce_max(tf.where(best > 0, -HUGE, upper), -2)
    alone = tf.reduce_max(lower, -2) >= rest
    above = best * tf.cast(alone, tf.float32)[..., None, :]
    return Lines((best, tf.zeros_like(rest)), (above, tf.where(alone, 0.0, tf.reduce_max(upper, -2))))
