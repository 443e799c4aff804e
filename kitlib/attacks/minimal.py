"""Attacks that look for the smallest perturbation that fools the model."""
from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import numpy as np
import pydantic
import tensorflow as tf

from kitlib.attacks.base import (
    NORM_NAMES,
    Attack,
    LossName,
    ModelFn,
    Norm,
    NotNegative,
    Positive,
    State,
    StepsOrNone,
    choose_rows,
    finite_gradient,
)

SQUEEZE = 0.999999      # keeps arctanh finite at pixels 0 and 1
FARTHER = 1e-4          # DeepFool's step beyond the boundary, in pixels


def to_tanh(pixels: tf.Tensor) -> tf.Tensor:
    """w with pixels = (tanh(w) + 1) / 2."""
    return tf.atanh((2 * pixels - 1) * SQUEEZE)


def from_tanh(w: tf.Tensor) -> tf.Tensor:
    return (tf.tanh(w) + 1) / 2


def squared_distance(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum((a - b) ** 2, axis=(1, 2, 3))


class CarliniWagnerL2(Attack):
    """Carlini & Wagner's L2 attack (2017, arXiv:1608.04644, sections V and VI.A).

    Adam on w, with pixels = (tanh(w) + 1) / 2, minimises |pixels - image|^2 + c f, where
    f = max(margin of the label over the others + confidence, 0). Each image has its own c: tenfold
    until the first success, then by bisection, over `search_steps` searches of `steps` iterations.
    abort_early: a search ends for an image whose lowest loss fell by less than 0.01 % in a fifth of the
    steps, and in ten at least (the authors' code looks at the whole batch's present loss instead; on a
    single image's, which Adam makes swing, that would end searches too soon). An image whose search ends goes
    on with its next at once, whatever the others do.

    An image that the model already misses (by the confidence) comes back unchanged at distance 0; one for
    which nothing was found comes back unchanged with found = False. Distances are to the image itself.
    """

    name: Literal["cw_l2"] = "cw_l2"
    confidence: NotNegative = 0.0
    learning_rate: Positive = 0.01
    search_steps: StepsOrNone = 9
    steps: StepsOrNone = 1000
    constant: Positive = 1e-3
    abort_early: bool = True
    loss: ClassVar[LossName] = "margin"
    first_success_suffices: ClassVar[bool] = False
    varying: ClassVar[tuple[str, ...]] = ("confidence", "learning_rate", "constant")
    unperturbed: ClassVar[dict] = {"steps": 0}      # into tanh space and back

    @property
    def length(self) -> int:
        return self.search_steps * self.steps

    @property
    def patience(self) -> int:
        return max(10, math.ceil(self.steps / 5))

    @property
    def block(self) -> int:
        return max(1, self.steps // 10)

    def start(self, model_fn: ModelFn, state: State, seed: tf.Tensor, first: bool) -> State:
        images = state["images"]
        if self.length == 0:
            return state | {"iterate": from_tanh(to_tanh(images))}
        logits = model_fn(images)
        state = self.fill_labels(state, logits)
        succeeded = self._succeeds(state["labels"], logits)
        rows = tf.shape(images)[:1]
        return state | {
            "prediction": tf.argmax(logits, 1, output_type=tf.int32),
            "hit": succeeded, "done": succeeded,
            "distance": tf.where(succeeded, 0.0, np.inf),       # squared, of the best so far
            "origin": to_tanh(images), "w": to_tanh(images),
            "first_moment": tf.zeros_like(images), "second_moment": tf.zeros_like(images),
            "iteration": tf.fill(rows, 0), "search": tf.fill(rows, 0),
            "c": tf.zeros(rows) + self.constant, "low": tf.fill(rows, 0.0), "high": tf.fill(rows, np.inf),
            "lowest_loss": tf.fill(rows, np.inf), "waited": tf.fill(rows, 0), "succeeded": tf.fill(rows, False)}

    def move(self, model_fn: ModelFn, state: State, number: tf.Tensor, seed: tf.Tensor) -> State:
        """One Adam iteration of every image, each in its own search."""
        candidate, logits, loss, distance, gradient = self._evaluate(model_fn, state)
        state = self._keep_nearest(state, candidate, logits, distance)
        state |= adam(state, "w", gradient, state["iteration"] + 1, self.learning_rate)
        return self._next_search(state, loss)

    def close(self, model_fn: ModelFn, state: State) -> State:
        """Nothing is left to judge: the best of each image was kept as it was found."""
        return super().close(model_fn, state) if self.length == 0 else state

    def _succeeds(self, labels, logits):
        prediction = tf.argmax(logits, 1, output_type=tf.int32)
        return self.hits(prediction, labels) & (self.score(labels, logits) >= self.confidence)

    def _evaluate(self, model_fn: ModelFn, state: State):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(state["w"])
            candidate = from_tanh(state["w"])
            logits = model_fn(candidate)
            distance = squared_distance(candidate, state["images"])
            shortfall = tf.maximum(self.confidence - self.score(state["labels"], logits), 0.0)
            loss = distance + state["c"] * shortfall
        return candidate, logits, loss, distance, finite_gradient(tape.gradient(loss, state["w"]))

    def _keep_nearest(self, state: State, candidate, logits, distance) -> State:
        succeeds = self._succeeds(state["labels"], logits) & ~state["done"]
        nearer = succeeds & (distance < state["distance"])
        return state | {
            "best": choose_rows(nearer, candidate, state["best"]),
            "distance": tf.where(nearer, distance, state["distance"]),
            "prediction": tf.where(nearer, tf.argmax(logits, 1, output_type=tf.int32), state["prediction"]),
            "hit": state["hit"] | succeeds,
            "succeeded": state["succeeded"] | succeeds}

    def _next_search(self, state: State, loss) -> State:
        """End the search of every image that is through with it, and begin its next with a new c."""
        iteration = state["iteration"]
        progress = loss < 0.9999 * state["lowest_loss"]
        waited = tf.where(progress, 0, state["waited"] + 1)
        ends = iteration + 1 >= self.steps
        if self.abort_early:
            ends |= waited >= self.patience
        low = tf.where(ends & ~state["succeeded"], state["c"], state["low"])
        high = tf.where(ends & state["succeeded"], state["c"], state["high"])
        c = tf.where(tf.math.is_inf(high), state["c"] * 10, (low + high) / 2)
        search = state["search"] + tf.cast(ends, tf.int32)
        return state | {
            "low": low, "high": high, "c": tf.where(ends, c, state["c"]),
            "search": search, "done": state["done"] | (search >= self.search_steps),
            "iteration": tf.where(ends, 0, iteration + 1),
            "w": choose_rows(ends, state["origin"], state["w"]),
            "first_moment": choose_rows(ends, tf.zeros_like(state["w"]), state["first_moment"]),
            "second_moment": choose_rows(ends, tf.zeros_like(state["w"]), state["second_moment"]),
            "lowest_loss": tf.where(ends, np.inf, tf.where(progress, loss, state["lowest_loss"])),
            "waited": tf.where(ends, 0, waited),
            "succeeded": state["succeeded"] & ~ends}

    def __str__(self) -> str:
        sure = f", confidence {self.confidence:g}" if self.confidence else ""
        return (f"C&W L2({self.search_steps} searches of {self.steps} steps, Adam {self.learning_rate:g}, "
                f"c from {self.constant:g}{sure}, {self._goal()})")


class DeepFool(Attack):
    """DeepFool (Moosavi-Dezfooli et al. 2016, arXiv:1511.04599, Algorithm 2 and section 3.4 for L-inf).

    Step by step to the nearest boundary of the classifier linearised where one stands, 1e-4 farther (as in the
    authors' code), and in all `overshoot` beyond it; here also clipped to the pixel box. Only the `candidates`
    classes with the largest logits are considered. An image for which nothing was found comes back unchanged with
    found = False.
    """

    name: Literal["deepfool"] = "deepfool"
    norm: Norm = "l2"
    targeted: Literal[False] = False
    steps: StepsOrNone = 50
    overshoot: NotNegative = 0.02
    candidates: Annotated[int, pydantic.Field(ge=2)] = 10
    first_success_suffices: ClassVar[bool] = False
    varying: ClassVar[tuple[str, ...]] = ("overshoot",)
    unperturbed: ClassVar[dict] = {"steps": 0}      # the clipping alone

    def start(self, model_fn: ModelFn, state: State, seed: tf.Tensor, first: bool) -> State:
        logits = model_fn(state["images"])
        state = self.fill_labels(state, logits) | {"total": tf.zeros_like(state["images"])}
        return state | {"prediction": tf.argmax(logits, 1, output_type=tf.int32)}

    def move(self, model_fn: ModelFn, state: State, number: tf.Tensor, seed: tf.Tensor) -> State:
        iterate = self._candidate(state)
        logits, gaps, slopes = self._linearise(model_fn, iterate, state["labels"])
        state = self._keep_success(state, iterate, logits)
        return state | {"total": state["total"] + self._to_nearest_boundary(gaps, slopes)}

    def close(self, model_fn: ModelFn, state: State) -> State:
        iterate = self._candidate(state)
        return self._keep_success(state, iterate, model_fn(iterate))

    def _candidate(self, state: State) -> tf.Tensor:
        return tf.clip_by_value(state["images"] + (1 + self.overshoot) * state["total"], 0.0, 1.0)

    def _keep_success(self, state: State, iterate, logits) -> State:
        prediction = tf.argmax(logits, 1, output_type=tf.int32)
        new = self.hits(prediction, state["labels"]) & ~state["done"]
        return state | {
            "best": choose_rows(new, iterate, state["best"]),
            "prediction": tf.where(new, prediction, state["prediction"]),
            "hit": state["hit"] | new, "done": state["done"] | new}

    def _linearise(self, model_fn: ModelFn, iterate, labels):
        """Logits, and for each rival class how far it is behind the label, with the gradient of that."""
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(iterate)
            logits = model_fn(iterate)
            mine = tf.one_hot(labels, logits.shape[-1], on_value=True, off_value=False)
            others = tf.where(mine, -np.inf, logits)
            rivals = tf.math.top_k(others, min(self.candidates, logits.shape[-1]) - 1).values
            label = tf.gather(logits, labels, batch_dims=1)
            gaps = [rival - label for rival in tf.unstack(rivals, axis=1)]
        slopes = [finite_gradient(tape.gradient(gap, iterate, unconnected_gradients="zero")) for gap in gaps]
        return logits, gaps, slopes

    def _to_nearest_boundary(self, gaps, slopes) -> tf.Tensor:
        sizes = tf.stack([_dual_norm(slope, self.norm) for slope in slopes], 1)
        distances = tf.where(sizes > 0, tf.abs(tf.stack(gaps, 1)) / sizes, np.inf)
        nearest = tf.argmin(distances, axis=1)
        slope = tf.gather(tf.stack(slopes, 1), nearest, batch_dims=1)
        length = tf.reduce_min(distances, axis=1) + FARTHER
        length = tf.reshape(tf.where(tf.math.is_finite(length), length, 0.0), (-1, 1, 1, 1))
        if self.norm == "linf":
            return length * tf.sign(slope)
        return length * tf.math.divide_no_nan(slope, tf.reshape(_dual_norm(slope, "l2"), (-1, 1, 1, 1)))

    def __str__(self) -> str:
        return f"DeepFool({NORM_NAMES[self.norm]}, {self.steps} steps, overshoot {self.overshoot:g}, {self._goal()})"


def _dual_norm(slope, norm: Norm) -> tf.Tensor:
    """The norm that turns a gap into a distance: L1 for L-inf distances, L2 for L2."""
    if norm == "linf":
        return tf.reduce_sum(tf.abs(slope), axis=(1, 2, 3))
    return tf.sqrt(tf.reduce_sum(slope**2, axis=(1, 2, 3)))


def adam(state: State, name: str, gradient: tf.Tensor, iteration, rate) -> State:
    """One Adam update of state[name] (Kingma & Ba 2015, Algorithm 1), and its moments.

    iteration: counts from 1, one number for all images or one each.
    """
    first = 0.9 * state["first_moment"] + 0.1 * gradient
    second = 0.999 * state["second_moment"] + 0.001 * gradient**2
    count = tf.reshape(tf.cast(iteration, tf.float32), (-1, 1, 1, 1))
    step = first / (1 - 0.9**count) / (tf.sqrt(second / (1 - 0.999**count)) + 1e-8)
    return {name: state[name] - rate * step, "first_moment": first, "second_moment": second}
