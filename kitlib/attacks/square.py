"""Square: an attack that needs no gradient, only logits."""
from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import numpy as np
import pydantic
import tensorflow as tf

from kitlib.attacks.base import InBall, LossName, ModelFn, State, Steps, draw, keep_done, mark_done

# After which of 10,000 queries the share of pixels that a square covers is halved (section 3.1).
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


class Square(InBall):
    """Square attack (Andriushchenko et al. 2020, arXiv:1912.00049, Algorithms 1 to 3).

    Random search with the margin as loss: each step proposes a new square (L-inf: one sign of 2 eps a
    channel; L2: a new bump, paid for with the norm of a second square) and keeps it where the margin
    falls. steps: queries an image. share: of the pixels that the first square covers. An image is left
    alone as soon as it is fooled.
    """

    name: Literal["square"] = "square"
    steps: Steps = 5000
    share: Annotated[float, pydantic.Field(gt=0, le=1)] = 0.8
    loss: ClassVar[LossName] = "margin"
    stops: ClassVar[bool] = True
    block: ClassVar[int] = 5

    def start(self, model_fn: ModelFn, state: State, seed: tf.Tensor, first: bool) -> State:
        state = mark_done(self.keep_best(state, state["images"], model_fn(state["images"])), True)
        state = state | {"score": tf.where(state["hit"], state["score"], -np.inf)}
        iterate = self._stripes(state, seed) if self.norm == "linf" else self._tiles(state, seed)
        return keep_done(state, self.keep_best(state, iterate, model_fn(iterate)), True)

    def move(self, model_fn: ModelFn, state: State, number: tf.Tensor, seed: tf.Tensor) -> State:
        propose = self._new_square if self.norm == "linf" else self._new_bump
        iterate = propose(state, number, tf.random.fold_in(seed, number))
        return self.keep_best(state, iterate, model_fn(iterate))

    def close(self, model_fn: ModelFn, state: State) -> State:
        """Every point was judged when it was proposed."""
        return state

    def _stripes(self, state: State, seed) -> tf.Tensor:
        """Vertical stripes of +-eps."""
        images = state["images"]
        _, width, channels = images.shape[1:]
        signs = _signs(draw(state, seed, tf.random.stateless_uniform, entries=width * channels))
        return self.project(images + self.eps * tf.reshape(signs, (-1, 1, width, channels)), images)

    def _new_square(self, state: State, number, seed) -> tf.Tensor:
        height, width, channels = state["images"].shape[1:]
        numbers = draw(state, seed, tf.random.stateless_uniform, entries=2 + channels)
        side = tf.constant(sides(self.steps, self.share, height, width, smallest=1))[number]
        inside, _, _ = _window(numbers[:, 0], numbers[:, 1], side, height, width)
        change = 2 * self.eps * _signs(numbers[:, 2:])[:, None, None, :]
        return self.project(state["best"] + tf.where(inside, change, 0.0), state["images"])

    def _tiles(self, state: State, seed) -> tf.Tensor:
        """Five bumps by five, each of random sign, eps long together."""
        height, width, channels = state["images"].shape[1:]
        side = max(1, min(height, width) // 5)
        rows, columns = height // side, width // side
        signs = _signs(draw(state, seed, tf.random.stateless_uniform, entries=rows * columns * channels))
        signs = tf.reshape(signs, (-1, rows, 1, columns, 1, channels))
        tiles = tf.reshape(signs * bump(side)[None, None, :, None, :, None],
                           (-1, rows * side, columns * side, channels))
        around = [(left // 2, left - left // 2) for left in (height - rows * side, width - columns * side)]
        return self._at_length_eps(tf.pad(tiles, [(0, 0), *around, (0, 0)]), state["images"])

    def _new_bump(self, state: State, number, seed) -> tf.Tensor:
        images = state["images"]
        height, width, channels = images.shape[1:]
        numbers = draw(state, seed, tf.random.stateless_uniform, entries=5 + channels)
        schedule = sides(self.steps, self.share, height, width, smallest=3, odd=True)
        side = tf.constant(schedule)[number]
        first, i, j = _window(numbers[:, 0], numbers[:, 1], side, height, width)
        second, _, _ = _window(numbers[:, 2], numbers[:, 3], side, height, width)
        turned = tf.reshape(numbers[:, 4] < 0.5, (-1, 1, 1))
        bumps, place = _bump_table(schedule)
        shape = tf.gather_nd(tf.constant(bumps)[tf.constant(place)[number]],
                             tf.stack([tf.where(turned, j, i), tf.where(turned, i, j)], -1))[..., None]
        delta = state["best"] - images
        fresh = tf.where(first, shape * _signs(numbers[:, 5:])[:, None, None, :], 0.0)
        old = tf.where(first, delta, 0.0)
        unused = tf.maximum(self.eps**2 - _energy(delta, (1, 2, 3)), 0.0) / channels
        budget = tf.sqrt(unused + _energy(tf.where(first | second, delta, 0.0), (1, 2)))
        mixed = fresh + old / (tf.sqrt(_energy(old, (1, 2))) + 1e-12)
        mixed = budget * mixed / (tf.sqrt(_energy(mixed, (1, 2))) + 1e-12)
        return self._at_length_eps(tf.where(first, mixed, tf.where(second, 0.0, delta)), images)

    def _at_length_eps(self, delta, images) -> tf.Tensor:
        return self.project(images + self.eps * delta / (tf.sqrt(_energy(delta, (1, 2, 3))) + 1e-12), images)

    def __str__(self) -> str:
        return f"Square({self._size()}, {self.steps} queries, {self._goal()})"


def sides(steps: int, share: float, height: int, width: int, smallest: int, odd: bool = False) -> list[int]:
    """The square's side at each step."""
    result = []
    for step in range(steps):
        halvings = sum(step * 10_000 / steps > query for query in HALVINGS)
        side = max(smallest, round(math.sqrt(share / 2**halvings * height * width)))
        side += odd and side % 2 == 0
        result.append(min(side, height, width))
    return result


def bump(side: int) -> np.ndarray:
    """Two opposite pyramids side by side, of norm 1 (section 3.3, eta)."""
    half = side // 2
    both = np.concatenate([_pyramid(half, side), -_pyramid(side - half, side)]) if half else _pyramid(1, 1)
    return (both / np.linalg.norm(both)).astype(np.float32)


def _pyramid(height: int, width: int) -> np.ndarray:
    """Sum of rectangles around the middle, the kth (from inside) of weight 1 / k^2."""
    i, j = np.arange(height)[:, None], np.arange(width)[None]
    ring = np.maximum(np.abs(i - height // 2), np.abs(j - width // 2))
    weights = 1 / np.arange(1.0, ring.max() + 2) ** 2
    return weights[::-1].cumsum()[::-1][ring]


def _bump_table(schedule: list[int]) -> tuple[np.ndarray, list[int]]:
    """All bumps of the schedule, padded to one size, and for each step which one is due."""
    known = sorted(set(schedule))
    table = np.zeros((len(known), known[-1], known[-1]), np.float32)
    for place, side in enumerate(known):
        table[place, :side, :side] = bump(side)
    return table, [known.index(side) for side in schedule]


def _window(u, v, side, height: int, width: int):
    """A square of `side` at a place given by u, v in [0, 1): mask B x H x W x 1, and the places inside it."""
    def places(u, size):
        first = tf.cast(u * tf.cast(size - side + 1, tf.float32), tf.int32)
        return tf.range(size)[None, :] - tf.minimum(first, size - side)[:, None]

    rows, columns = places(u, height)[:, :, None], places(v, width)[:, None, :]
    i = rows + tf.zeros_like(columns)
    j = columns + tf.zeros_like(rows)
    inside = (i >= 0) & (i < side) & (j >= 0) & (j < side)
    return inside[..., None], tf.where(inside, i, 0), tf.where(inside, j, 0)


def _signs(numbers) -> tf.Tensor:
    return tf.where(numbers < 0.5, -1.0, 1.0)


def _energy(delta, axes) -> tf.Tensor:
    return tf.reduce_sum(delta**2, axis=axes, keepdims=True)
