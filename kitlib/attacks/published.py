"""The two papers' attacks as their authors ran them, flaws included (the `as_published` protocol).

All work on *normalised* images z = (pixels - mean) / std and hand the result back in pixels, so
that a model that normalises in its first layer sees exactly what theirs saw; such pixels may lie outside
[0, 1]. `normalisation` must be the judged model's own. Each `control()` keeps the conversions
and the clamp or tanh, and drops the perturbation.
"""
from __future__ import annotations

from typing import ClassVar, Literal

import tensorflow as tf

from kitlib.attacks.base import Attack, ModelFn, NotNegative, Positive, State, StepsOrNone, choose_rows
from kitlib.attacks.minimal import adam
from kitlib.base.settings import Epsilon, format_epsilon
from kitlib.models import IMAGENET, Normalisation


class _OneStep(Attack):
    """z + length * sign(gradient of the cross-entropy with respect to z), then clipped."""

    normalisation: Normalisation = Normalisation()
    length: ClassVar[int] = 1
    last_only: ClassVar[bool] = True

    def _along_sign(self, model_fn: ModelFn, state: State, distance, clip) -> State:
        z = self.normalisation.to_normalised(state["images"])
        gradient, _, state = self.gradient(lambda z: model_fn(self.normalisation.to_pixels(z)), state, z)
        return state | {"iterate": self._stepped(state["images"], gradient, distance, clip)}

    def _stepped(self, images, gradient, distance, clip):
        z = self.normalisation.to_normalised(images) + distance * tf.sign(gradient)
        return self.normalisation.to_pixels(z if clip is None else tf.clip_by_value(z, *clip))


class PaperAFGSM(_OneStep):
    """Paper A's FGSM (section IV.E): eps is on values normalised to [-1, 1], so 1.0 is 127.5/255 in pixels.

    The paper says only that the result is kept "within a specified epsilon range": `clip` is the range
    of normalised values to clip to, or None.
    """

    name: Literal["paper_a_fgsm"] = "paper_a_fgsm"
    eps: Epsilon = 1.0
    clip: tuple[float, float] | None = (-1.0, 1.0)
    varying: ClassVar[tuple[str, ...]] = ("eps",)

    def move(self, model_fn: ModelFn, state: State, number: tf.Tensor, seed: tf.Tensor) -> State:
        return self._along_sign(model_fn, state, self.eps, self.clip)

    def step_from_gradient(self, images, gradient):
        """Where the step leads, given the gradient of the loss for the pixels (its sign is that for z)."""
        return self._stepped(images, gradient, self.eps, self.clip)

    def __str__(self) -> str:
        clip = "not clipped" if self.clip is None else f"clipped to [{self.clip[0]:g}, {self.clip[1]:g}]"
        return f"paper A's FGSM(eps {self.eps:g} on normalised values, {clip}, {self._goal()})"


class PaperBFGSM(_OneStep):
    """Paper B's FGSM (its notebook, class FGSM): eps on the ImageNet-normalised values, then a clamp of
    *those* to [0, 1], which throws away all that is darker than the mean."""

    name: Literal["paper_b_fgsm"] = "paper_b_fgsm"
    normalisation: Normalisation = IMAGENET
    eps: Epsilon = 0.03
    varying: ClassVar[tuple[str, ...]] = ("eps",)

    def move(self, model_fn: ModelFn, state: State, number: tf.Tensor, seed: tf.Tensor) -> State:
        return self._along_sign(model_fn, state, self.eps, (0.0, 1.0))

    def __str__(self) -> str:
        return f"paper B's FGSM(eps {self.eps:g} on normalised values, clamped to [0, 1], {self._goal()})"


class PaperBPGD(_OneStep):
    """Paper B's "PGD" (its notebook, class PGD): its eps of 0.03 and its 40 iterations are never used, so it
    is one step of 2/255 on the normalised values, and the same clamp."""

    name: Literal["paper_b_pgd"] = "paper_b_pgd"
    normalisation: Normalisation = IMAGENET
    step: Epsilon = 2 / 255
    varying: ClassVar[tuple[str, ...]] = ("step",)
    unperturbed: ClassVar[dict] = {"step": 0.0}

    def move(self, model_fn: ModelFn, state: State, number: tf.Tensor, seed: tf.Tensor) -> State:
        return self._along_sign(model_fn, state, self.step, (0.0, 1.0))

    def __str__(self) -> str:
        return (f'paper B\'s "PGD"(one step of {format_epsilon(self.step)} on normalised values, '
                f"clamped to [0, 1], {self._goal()})")


class PaperBCW(Attack):
    """Paper B's "C&W" (its notebook, class CW): Adam on delta from 0, with tanh(z + delta) for z.

    It minimises c * max(real - other + kappa, 0) + sum(delta^2). `other` is meant to be the largest other
    logit, but the code subtracts 1 from the label's own logit instead of removing it: where the label leads
    by more than 1 the two cancel, the gradient is exactly zero, delta never leaves 0, and the
    "attack" is the tanh alone. In inference mode such images are done after one step.
    """

    name: Literal["paper_b_cw"] = "paper_b_cw"
    normalisation: Normalisation = IMAGENET
    c: Positive = 0.01
    kappa: NotNegative = 5.0
    learning_rate: Positive = 0.005
    steps: StepsOrNone = 1000
    varying: ClassVar[tuple[str, ...]] = ("c", "kappa", "learning_rate")
    unperturbed: ClassVar[dict] = {"steps": 0}      # the tanh alone
    last_only: ClassVar[bool] = True

    def start(self, model_fn: ModelFn, state: State, seed: tf.Tensor, first: bool) -> State:
        if self.labels == "predicted":
            state = self.fill_labels(state, model_fn(state["images"]))
        delta = tf.zeros_like(state["images"])
        state = state | {"delta": delta, "first_moment": delta, "second_moment": delta}
        return state | {"iterate": self._image(state["images"], delta)}

    def _image(self, images, delta):
        return self.normalisation.to_pixels(tf.tanh(self.normalisation.to_normalised(images) + delta))

    def move(self, model_fn: ModelFn, state: State, number: tf.Tensor, seed: tf.Tensor) -> State:
        delta = state["delta"]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(delta)
            iterate = self._image(state["images"], delta)
            logits = model_fn(iterate)
            mine = tf.one_hot(state["labels"], logits.shape[-1])
            lead = tf.reduce_sum(mine * logits, 1) - tf.reduce_max(logits - mine, 1)
            lead = -lead if self.targeted else lead
            loss = self.c * tf.reduce_sum(tf.nn.relu(lead + self.kappa)) + tf.reduce_sum(delta**2)
        state = state | adam(state, "delta", tape.gradient(loss, delta), number[None] + 1, self.learning_rate)
        state = self._finish_stuck(state, iterate, logits)
        return state | {"iterate": self._image(state["images"], state["delta"])}

    def _finish_stuck(self, state: State, iterate, logits) -> State:
        """Be done with the images whose delta never left 0."""
        stuck = tf.reduce_all(state["delta"] == 0, axis=(1, 2, 3))
        judged = self.keep_best(state, iterate, logits)
        kept = {name: choose_rows(stuck, judged[name], state[name]) for name in ("best", "prediction", "hit")}
        return state | kept | {"done": stuck}

    def __str__(self) -> str:
        return (f'paper B\'s "C&W"(tanh of normalised values, c {self.c:g}, kappa {self.kappa:g}, '
                f"Adam {self.learning_rate:g}, {self.steps} steps, {self._goal()})")
