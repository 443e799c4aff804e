"""CleverHans's own attacks by name, batched, seeded and checked like the kit's."""
from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import pydantic
import tensorflow as tf
from cleverhans.tf2.attacks.basic_iterative_method import basic_iterative_method
from cleverhans.tf2.attacks.fast_gradient_method import fast_gradient_method
from cleverhans.tf2.attacks.madry_et_al import madry_et_al
from cleverhans.tf2.attacks.momentum_iterative_method import momentum_iterative_method
from cleverhans.tf2.attacks.projected_gradient_descent import projected_gradient_descent

from kitlib.attacks.base import InBall, ModelFn, State, Steps
from kitlib.base.settings import Epsilon

_ONE_STEP = {"fast_gradient_method": fast_gradient_method}
_ITERATED: dict[str, Callable] = {
    "projected_gradient_descent": projected_gradient_descent, "basic_iterative_method": basic_iterative_method,
    "madry_et_al": madry_et_al, "momentum_iterative_method": momentum_iterative_method,
}
WORKING = {**_ONE_STEP, **_ITERATED}
# What CleverHans 4.0.0 has beside these, and why it is refused. tests/test_cleverhans.py tells when one is mended.
BROKEN = {
    "carlini_wagner_l2": "its optimizer.variables() is a TypeError on Keras 3, and labels make it a targeted attack on "
                         "the true class: use cw_l2, which is checked against Foolbox and ART",
    "spsa": "its optimizer passes `lr`, which Keras 3 does not know, and it takes one image at a time: use square, "
            "which needs no gradient either",
}


class CleverHans(InBall):
    """One of `cleverhans.tf2.attacks` as it is (Papernot et al. 2018, arXiv:1610.00768), kept in the pixel box.

    attack: its name there. steps, step: of the iterated ones; step defaults to 2.5 eps / steps. Its result is where the
    last step leads; it is called eagerly, batch by batch, with TensorFlow's generators seeded for each batch.
    """

    name: Literal["cleverhans"] = "cleverhans"
    attack: str
    steps: Steps = 10
    step: Epsilon | None = None
    eager: ClassVar[bool] = True
    length: ClassVar[int] = 0        # CleverHans makes all steps by itself
    last_only: ClassVar[bool] = True

    @pydantic.field_validator("attack")
    @classmethod
    def _works(cls, name: str) -> str:
        if name in BROKEN:
            raise ValueError(f"CleverHans's {name} does not work: {BROKEN[name]}")
        if name not in WORKING:
            raise ValueError(f"CleverHans has no attack '{name}' for TensorFlow; known: {', '.join(WORKING)}")
        return name

    def start(self, model_fn: ModelFn, state: State, seed: tf.Tensor, first: bool) -> State:
        images, eps = state["images"], float(self.eps)
        if self.labels == "predicted":
            state = self.fill_labels(state, model_fn(images))
        if tf.executing_eagerly():
            tf.random.set_seed(int(tf.reduce_sum(tf.cast(seed, tf.int64)) % 2**31))
        common = {"clip_min": 0.0, "clip_max": 1.0, "y": state["labels"], "targeted": self.targeted}
        if eps == 0:
            iterate = images     # some of its attacks refuse it
        elif self.attack in _ONE_STEP:
            iterate = fast_gradient_method(model_fn, images, eps, self.order, **common)
        else:
            step = min(float(2.5 * eps / self.steps if self.step is None else self.step), eps)
            iterate = WORKING[self.attack](model_fn, images, eps, step, self.steps, self.order, sanity_checks=False,
                                           **common)
        # CleverHans's clipping may end a rounding error beyond the ball.
        return state | {"iterate": self.project(tf.convert_to_tensor(iterate, tf.float32), images)}

    def __str__(self) -> str:
        steps = "" if self.attack in _ONE_STEP else f", {self.steps} steps"
        return f"CleverHans's {self.attack}({self._size()}{steps}, {self._goal()})"
