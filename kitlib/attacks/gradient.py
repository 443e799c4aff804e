"""Attacks in a ball that follow the gradient, on CleverHans; and random noise to compare them with."""
from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np
import pydantic
import tensorflow as tf

from kitlib.attacks.base import (
    Attack,
    InBall,
    LossName,
    ModelFn,
    NotNegative,
    Restarts,
    State,
    Steps,
    choose_rows,
    draw,
    written,
)
from kitlib.base.settings import Epsilon


class Clean(Attack):
    """No attack: clean accuracy through the same interface."""

    name: Literal["none"] = "none"
    last_only: ClassVar[bool] = True
    unperturbed: ClassVar[dict] = {}

    def __str__(self) -> str:
        return "no attack"


class Noise(InBall):
    """Random noise of the size of an attack: what a perturbation does that knows nothing.

    L-inf: uniform in [-eps, eps], Gaussian with standard deviation eps clipped to [-eps, eps], or
    eps times a random sign. L2: uniform in the ball; a Gaussian or a random-sign direction of length eps.
    With `restarts` the worst draw of each image counts.
    """

    name: Literal["noise"] = "noise"
    kind: Literal["uniform", "gaussian", "sign"] = "uniform"
    restarts: Restarts = 1

    @property
    def last_only(self) -> bool:
        return self.restarts == 1

    def start(self, model_fn: ModelFn, state: State, seed: tf.Tensor, first: bool) -> State:
        if self.labels == "predicted":
            state = self.fill_labels(state, model_fn(state["images"]))
        if self.kind == "uniform":
            return state | {"iterate": self.random_in_ball(state, seed)}
        direction = draw(state, seed, tf.random.stateless_normal)
        if self.kind == "sign":
            direction = tf.where(direction < 0, -1.0, 1.0)
        scaled = self.eps * direction if self.norm == "linf" else self.steepest_step(direction, self.eps)
        return state | {"iterate": self.project(state["images"] + scaled, state["images"])}

    def __str__(self) -> str:
        times = f", worst of {self.restarts}" if self.restarts > 1 else ""
        return f"noise({self.kind}, {self._size()}{times}{self._limits()})"


class FGSM(InBall):
    """Fast gradient sign method (Goodfellow et al. 2015, arXiv:1412.6572, section 4).

    With `norm: l2` one step of length eps along the gradient (Miyato et al. 2017). The result is
    where that step leads, even if the clean image was already misclassified.
    """

    name: Literal["fgsm"] = "fgsm"
    length: ClassVar[int] = 1
    last_only: ClassVar[bool] = True

    def move(self, model_fn: ModelFn, state: State, number: tf.Tensor, seed: tf.Tensor) -> State:
        direction, _, state = self.gradient(model_fn, state, state["iterate"])
        return state | {"iterate": self.step_from_gradient(state["images"], direction)}

    def step_from_gradient(self, images, gradient):
        """Where the step leads, given the gradient of the loss for the pixels (which training has anyway)."""
        return self.project(images + self.steepest_step(gradient, self.eps), images)

    def __str__(self) -> str:
        return f"FGSM({self._size()}, {self._goal()})"


class PGD(InBall):
    """Projected gradient descent (Madry et al. 2018, arXiv:1706.06083, section 2.1).

    Without a random start it is the basic iterative method (Kurakin et al. 2017, arXiv:1607.02533).
    With `loss: margin` in L-inf it maximises Carlini & Wagner's f6, as Madry et al. do for their
    "CW" attack (section 5). step: default 2.5 eps / steps. keep: `best` returns each image's worst
    over the clean image, all steps and all restarts; `last` the end of each restart (what adversarial
    training wants: no pass beyond the steps). stop_early: leave an image alone at its first success
    even where images are asked for; `run` does so anyhow where only accuracy is.
    """

    name: Literal["pgd"] = "pgd"
    step: Epsilon | None = None
    steps: Steps = 20
    random_start: bool = True
    restarts: Restarts = 1
    loss: LossName = "ce"
    keep: Literal["best", "last"] = "best"
    stop_early: bool = False

    varying: ClassVar[tuple[str, ...]] = ("eps", "step")
    unperturbed: ClassVar[dict] = {"eps": 0.0, "step": 0.0}
    title: ClassVar[str] = "PGD"

    @pydantic.model_validator(mode="after")
    def _makes_sense(self):
        if self.restarts > 1 and not self.random_start:
            raise ValueError("restarts without 'random_start: true' would all give the same")
        if self.keep == "last" and self.stop_early:
            raise ValueError("stop_early needs 'keep: best': with 'last' nothing is judged before the end")
        return _dlr_is_untargeted(self)

    @property
    def stride(self):
        """The step's length."""
        return 2.5 * self.eps / self.steps if self.step is None else self.step

    def start(self, model_fn: ModelFn, state: State, seed: tf.Tensor, first: bool) -> State:
        if not self.random_start:
            return state | {"iterate": state["images"]} | self._initial_momentum(state)
        if first and self.keep == "best":
            state = self.keep_best(state, state["images"], model_fn(state["images"]))
        elif first and self.labels == "predicted":
            state = self.fill_labels(state, model_fn(state["images"]))
        return state | {"iterate": self.random_in_ball(state, seed)} | self._initial_momentum(state)

    def move(self, model_fn: ModelFn, state: State, number: tf.Tensor, seed: tf.Tensor) -> State:
        iterate = state["iterate"]
        direction, logits, state = self.gradient(model_fn, state, iterate)
        if self.keep == "best":
            state = self.keep_best(state, iterate, logits)
        state = self._update_momentum(state, direction)
        moved = iterate + self.steepest_step(state.get("momentum", direction), self.stride)
        return state | {"iterate": self.project(moved, state["images"])}

    def _initial_momentum(self, state: State) -> State:
        return {}

    def _update_momentum(self, state: State, direction: tf.Tensor) -> State:
        return state

    def __str__(self) -> str:
        parts = [self._size(), f"step {written(self.norm, self.stride)}", f"{self.steps} steps"]
        if self.random_start:
            parts += ["random start", f"{self.restarts} restart{'s' * (self.restarts > 1)}"]
        parts += [f"{self.loss} loss"] * (self.loss != "ce") + ["last step"] * (self.keep == "last")
        return f"{self.title}({', '.join([*parts, self._goal()])})"


class MIM(PGD):
    """Momentum iterative method (Dong et al. 2018, arXiv:1710.06081, Algorithm 1).

    The step follows the sum of past gradients, each divided by its L1 norm, fading by `decay`. step: default
    eps / steps, as there.
    """

    name: Literal["mim"] = "mim"    # type: ignore[assignment]  # each class takes its own name alone
    steps: Steps = 10
    random_start: bool = False
    decay: NotNegative = 1.0
    title: ClassVar[str] = "MIM"

    @property
    def stride(self):
        return self.eps / self.steps if self.step is None else self.step

    def _initial_momentum(self, state: State) -> State:
        return {"momentum": tf.zeros_like(state["images"])}

    def _update_momentum(self, state: State, direction: tf.Tensor) -> State:
        size = tf.reduce_sum(tf.abs(direction), axis=(1, 2, 3), keepdims=True)
        return state | {"momentum": self.decay * state["momentum"] + tf.math.divide_no_nan(direction, size)}


class APGD(InBall):
    """Auto-PGD (Croce & Hein 2020, arXiv:2003.01690, Algorithm 1): momentum, and a step that halves itself.

    The step starts at 2 eps. At checkpoints that come ever closer, an image whose loss rose in under three
    quarters of the steps since the last, or whose best loss stands still, gets half the step and goes
    back to its best point. loss: ce; dlr (section 4); or margin, all that is left of dlr with two classes.
    """

    name: Literal["apgd"] = "apgd"
    steps: Steps = 100
    restarts: Restarts = 1
    loss: LossName = "ce"
    stop_early: bool = False

    @pydantic.model_validator(mode="after")
    def _makes_sense(self):
        return _dlr_is_untargeted(self)

    def start(self, model_fn: ModelFn, state: State, seed: tf.Tensor, first: bool) -> State:
        if first:
            state = self.keep_best(state, state["images"], model_fn(state["images"]))
        iterate, rows = self.random_in_ball(state, seed), tf.shape(state["images"])[:1]
        return state | {
            "iterate": iterate, "before": iterate, "stride": tf.zeros(rows) + 2 * self.eps,
            "top": iterate, "top_gradient": tf.zeros_like(iterate), "top_loss": tf.fill(rows, -np.inf),
            "last_loss": tf.fill(rows, np.inf), "rises": tf.fill(rows, 0.0),
            "checked_loss": tf.fill(rows, -np.inf), "halved": tf.fill(rows, True)}

    def move(self, model_fn: ModelFn, state: State, number: tf.Tensor, seed: tf.Tensor) -> State:
        iterate = state["iterate"]
        direction, logits, state = self.gradient(model_fn, state, iterate)
        loss = self.score(state["labels"], logits)
        state = self._track_highest_loss(self.keep_best(state, iterate, logits, loss), direction, loss)
        halve, state = self._check(state, number)
        iterate = choose_rows(halve, state["top"], iterate)
        direction = choose_rows(halve, state["top_gradient"], direction)
        return state | {"iterate": self._momentum_step(state, iterate, direction, number), "before": iterate}

    def _track_highest_loss(self, state: State, direction, loss) -> State:
        """The point of highest loss, and how often the loss rose."""
        higher = loss > state["top_loss"]
        return state | {
            "top": choose_rows(higher, state["iterate"], state["top"]),
            "top_gradient": choose_rows(higher, direction, state["top_gradient"]),
            "top_loss": tf.where(higher, loss, state["top_loss"]),
            "rises": state["rises"] + tf.cast(loss > state["last_loss"], tf.float32),
            "last_loss": loss}

    def _check(self, state: State, number) -> tuple[tf.Tensor, State]:
        """At a checkpoint, which images get half the step (conditions 1 and 2 of section 3.2)."""
        window = tf.constant(checkpoints(self.steps), tf.float32)[number]
        rarely_rose = state["rises"] < 0.75 * window
        stands_still = ~state["halved"] & (state["checked_loss"] >= state["top_loss"])
        checks = window > 0
        halve = checks & (rarely_rose | stands_still)
        return halve, state | {
            "stride": tf.where(halve, state["stride"] / 2, state["stride"]),
            "checked_loss": tf.where(checks, state["top_loss"], state["checked_loss"]),
            "halved": tf.where(checks, halve, state["halved"]),
            "rises": tf.where(checks, 0.0, state["rises"])}

    def _momentum_step(self, state: State, iterate, direction, number) -> tf.Tensor:
        """A projected step, three quarters of it after the first, and a quarter of the last move."""
        images, stride = state["images"], tf.reshape(state["stride"], (-1, 1, 1, 1))
        there = self.project(iterate + self.steepest_step(direction, stride), images)
        share = tf.where(number == 0, 1.0, 0.75)
        return self.project(iterate + share * (there - iterate) + (1 - share) * (iterate - state["before"]), images)

    def __str__(self) -> str:
        loss = {"ce": "cross-entropy", "dlr": "DLR loss", "margin": "margin loss"}[self.loss]
        starts = f"{self.restarts} restart{'s' * (self.restarts > 1)}"
        return f"APGD({self._size()}, {self.steps} steps, {starts}, {loss}, {self._goal()})"


def checkpoints(steps: int) -> list[int]:
    """For each step the number of steps since the last checkpoint where it is one, else 0 (section 3.2)."""
    places, shares = [0], [0.0, 0.22]
    while shares[-1] <= 1:
        places.append(math.ceil(shares[-1] * steps - 1e-9))      # 1e-9: 0.57 * 100 is a little over 57
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    windows = [0] * steps
    for before, place in zip(places, places[1:], strict=False):
        if before < place < steps:
            windows[place] = place - before
    return windows


def _dlr_is_untargeted(attack):
    if attack.loss == "dlr" and attack.targeted:
        raise ValueError("the DLR loss here is untargeted; use 'loss: margin' for a targeted attack")
    return attack
