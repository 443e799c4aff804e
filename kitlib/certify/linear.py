"""Linear bounds pulled backward through a network (CROWN: Zhang et al. 2018, arXiv:1811.00866).

A lower bound of a weighted sum of a node's numbers is turned, layer by layer, into one of a weighted sum of pixels,
whose least value in the input set is known. Through a linear layer the weights are pulled by its transpose, which is
its gradient: TensorFlow's own, so no layer has to be transposed by hand. Through all else they go along `lines`.
"""
from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from kitlib.certify.graph import Node
from kitlib.certify.interval import Box, InputSet, forward, rounding_share

CHUNK_BYTES = 2**27      # of weights that are pulled at a time


def lower_bounds(nodes: list[Node], boxes: list[Box], last: int, weights, space: InputSet, linear: bool = True):
    """What sums of node `last`'s numbers are at least, N x S; `weights` is N x S x the node's shape.

    linear: on to the pixels along lines; else only to the nodes before which no layer is linear, where the boxes end it
    (interval bounds whose last layers are merged with the weights: Gowal et al. 2018, section 3).
    """
    waiting, bound = {last: weights}, 0.0
    for number in range(last, -1, -1):
        if number not in waiting:
            continue
        weights, node, box = waiting.pop(number), nodes[number], boxes[number]
        share = rounding_share(node.terms + sum(box.lower.shape[1:]) + len(nodes), space.unit)
        if node.kind == "input":
            bound += _over_pixels(weights, box, space, share)
        elif node.kind != "affine" and not linear:
            bound += _over_box(weights, box, share)
        else:
            pulled, constant = (_through_layer(node, weights, [boxes[place].lower.shape for place in node.inputs])
                                if node.kind == "affine" else _along_lines(node, weights, box))
            bound += constant
            if space.unit and node.form != "copy":
                assert box.size is not None     # every box but those of the pixels and of copies has one
                bound -= share * total(tf.abs(weights) * box.size[:, None])
            for place, part in zip(node.inputs, pulled, strict=True):
                waiting[place] = waiting[place] + part if place in waiting else part
    return bound


def total(x):
    """N x S x anything -> N x S, axis by axis: so no number takes part in more additions than the axes' lengths."""
    while x.shape.rank > 2:
        x = tf.reduce_sum(x, -1)
    return x


def _over_box(weights, box: Box, share: float):
    middle, half = box.middle_and_half
    bound = total(weights * middle[:, None]) - total(tf.abs(weights) * half[:, None])
    return bound - share * total(tf.abs(weights) * box.largest[:, None]) if share else bound


def _over_pixels(weights, box: Box, space: InputSet, share: float):
    bound = _over_box(weights, box, share)
    if space.radius is None:
        return bound
    length = tf.sqrt(tf.maximum(total(tf.square(weights)), 1e-30)) * space.radius
    ball, size = total(weights * space.images[:, None]) - length, total(tf.abs(weights) * space.images[:, None])
    return tf.maximum(bound, ball - share * (size + length))


def _through_layer(node: Node, weights, shapes: list):
    """The weights of the layer's inputs, and what its bias adds."""
    rows, flat = tf.shape(weights)[:2], tf.reshape(weights, (-1, *weights.shape[2:]))
    with tf.GradientTape() as tape:
        zeros = [tf.zeros((tf.shape(flat)[0], *shape[1:])) for shape in shapes]
        tape.watch(zeros)
        made = node.linear(zeros, tf.identity)
    pulled = tape.gradient(made, zeros, output_gradients=flat)
    pulled = [tf.reshape(part, (rows[0], rows[1], *shape[1:])) for part, shape in zip(pulled, shapes, strict=True)]
    return pulled, 0.0 if node.bias is None else total(weights * node.bias()[0])


def _along_lines(node: Node, weights, box: Box):
    """Positive weights take the line below, negative ones the line above."""
    assert box.lines is not None    # the node is pointwise or max
    (low, ground), (high, top) = ([part[:, None] for part in line] for line in box.lines)
    positive, negative = tf.maximum(weights, 0.0), tf.minimum(weights, 0.0)
    constant = total(positive * ground + negative * top)
    if node.kind == "max":
        positive, negative = positive[..., None, :], negative[..., None, :]
    return [positive * low + negative * high], constant


def linear_forward(nodes: list[Node], space: InputSet, intersect: bool = True) -> list[Box]:
    """The box of every node, with linear bounds wherever a node that is not linear follows.

    intersect: the better of linear and interval bound for each number, and linear bounds only of numbers that the
    interval leaves in doubt; else the linear one always.
    """
    before = _before_what_is_not_linear(nodes)

    def improve(boxes, number):
        box = boxes[number]
        if number not in before or box.level < 2:
            return box
        doubtful = (box.lower < 0) & (box.upper > 0) if before[number] and intersect else tf.ones_like(box.lower) > 0
        places = tf.where(tf.reshape(tf.reduce_any(doubtful, 0), (-1,)))[:, 0]
        lower, upper = _of_numbers(nodes, boxes, number, places, space)
        if intersect:
            lower, upper = tf.maximum(lower, box.lower), tf.minimum(upper, box.upper)
        return box._replace(lower=lower, upper=upper, level=1)

    return forward(nodes, space, improve)


def _before_what_is_not_linear(nodes: list[Node]) -> dict[int, bool]:
    """The nodes whose bounds decide lines, copies traced back; and whether only relus follow, whose lines are exact
    where zero is not between the bounds."""
    found: dict[int, bool] = {}
    todo = [(place, node.function == "relu") for node in nodes if node.kind in ("pointwise", "max")
            for place in node.inputs]
    for place, relu in todo:
        if nodes[place].form == "copy":
            todo += [(earlier, relu) for earlier in nodes[place].inputs]
        else:
            found[place] = found.get(place, True) and relu
    return found


def _of_numbers(nodes, boxes, number: int, places, space: InputSet):
    """Linear bounds of the node's numbers at these places of its flattened shape; infinite ones of the rest."""
    shape, images, count = boxes[number].lower.shape[1:], tf.shape(space.images)[0], tf.size(places)
    widest = max(math.prod(box.lower.shape[1:]) for box in boxes)
    chunk = tf.clip_by_value(CHUNK_BYTES // (8 * widest * images), 1, tf.maximum(count, 1))
    rounds = tf.maximum(-(-count // chunk), 1)      # with nothing in doubt, too: TensorFlow has no loop of no rounds

    def bounds_of(some):
        rows = tf.reshape(tf.one_hot(some, math.prod(shape)), (1, -1, *shape))
        return lower_bounds(nodes, boxes, number, tf.repeat(tf.concat([rows, -rows], 1), images, 0), space)

    padded = tf.reshape(tf.pad(places, [(0, rounds * chunk - count)]), (rounds, chunk))
    found = tf.map_fn(bounds_of, padded, parallel_iterations=1, fn_output_signature=tf.TensorSpec((None, None)))
    lower, upper = (_put_back(half, places, images, shape) for half in tf.split(found, 2, -1))
    return lower, -upper


def _put_back(found, places, images, shape):
    """rounds x N x chunk -> N x shape, with -infinity where nothing was found."""
    rows = tf.reshape(tf.transpose(found, (0, 2, 1)), (-1, images))[:tf.size(places)]
    whole = tf.fill((math.prod(shape), images), -np.float32(np.inf))
    return tf.reshape(tf.transpose(tf.tensor_scatter_nd_update(whole, places[:, None], rows)), (-1, *shape))
