"""`run`: an attack on many images, compiled once, with full batches of only those that need more work."""
from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from kitlib.attacks.base import (
    UNKNOWN,
    Attack,
    State,
    initial_state,
    input_gradient,
    logits_of,
    mark_done,
    seed_tensor,
)
from kitlib.attacks.checks import as_array, check_images, check_labels, check_mask, check_model, check_run
from kitlib.base.settings import KitError
from kitlib.models import NOT_FINITE, exact_float32
from kitlib.models.traces import trace_of

CHUNK_BYTES = 2**26       # images worked on at a time, so that an attack's state stays near 1 GiB


@dataclasses.dataclass(frozen=True)
class AttackResult:
    """What an attack did to each image, in their order. All NumPy, judged in float32.

    labels: as given (targets where the attack is targeted). predictions: of the adversarial images.
    fooled: prediction != label, or == target. found: whether the attack met its own aim (for C&W with the
    confidence asked for); where it did not, a minimal-distance attack returns the image unchanged.
    l2, linf: distances to the original image. images: float32 N x H x W x C, or None when not asked for;
    without images the work on an image may end at the first success, so distances are those of that moment.
    """

    attack: Attack
    images: np.ndarray | None
    labels: np.ndarray
    predictions: np.ndarray
    fooled: np.ndarray
    found: np.ndarray
    l2: np.ndarray
    linf: np.ndarray
    seconds: float

    @property
    def kept_images(self) -> np.ndarray:
        """`images`. Raises KitError where they were not asked for."""
        if self.images is None:
            raise KitError("the attacked images were not kept: run the attack with keep_images=True")
        return self.images

    @property
    def accuracy(self) -> float:
        """Share of images that resisted."""
        return float((~self.fooled).mean())

    def summary(self) -> dict:
        """The numbers for a record; distances are means over the images where the attack met its aim."""
        return {
            "attack": self.attack.model_dump(mode="json"), "count": len(self.labels),
            "accuracy": self.accuracy, "success": float(self.found.mean()), "seconds": self.seconds,
            "mean_l2": _mean(self.l2[self.found]), "mean_linf": _mean(self.linf[self.found])}


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


@exact_float32()
def run(attack: Attack, model, images, labels=None, *, batch_size: int = 128, seed: int = 0,
        keep_images: bool = True, progress: bool = False, input_range: tuple[float, float] | None = None,
        mask: np.ndarray | None = None) -> AttackResult:
    """Attack `model` on all images and judge the outcome, in float32, whatever the global policy.

    model: a Keras 3 model from pixels to logits; it is called with training=False and never changed. One that takes
    another range by its first layers, or ends in a softmax or sigmoid, is asked as `models.pixels_to_logits` says.
    input_range: the values that 0 and 1 in pixels have for the model, where its layers do not tell.
    images, labels: arrays (float N x H x W x C in [0, 1]; int N), or for data larger than memory
    `images` alone: an iterable of such pairs, best with keep_images=False.
    keep_images: False if only accuracy matters; then no image costs another step once it is fooled.
    mask: bool H x W, or N x H x W of the arrays' images: the only pixels that may change; default: the attack's own.
    seed: the same seed gives the same result, whatever the batch size (up to float rounding).

    Raises KitError for bad images, labels or masks, and for a model that does not return logits.
    """
    check_run(attack, batch_size, seed)
    started = time.perf_counter()
    ready, classes, done, parts = None, 0, 0, []
    stop = attack.stops or (attack.first_success_suffices and not keep_images)
    total = len(images) if labels is not None and hasattr(images, "__len__") else None
    with tqdm(desc=str(attack), unit="image", total=total, disable=not progress) as bar:
        for chunk, given in _chunks(images, labels, batch_size):
            where = f"images {done} to {done + len(chunk) - 1}"
            chunk = check_images(chunk, where)
            if ready is None:
                known = None if attack.targeted else given
                ready, classes = check_model(model, chunk, known, input_range)
            given = check_labels(given, len(chunk), classes, attack.targeted, where)
            masked = check_mask(attack, mask, chunk, done)
            work = _Work(attack, ready, chunk, given, masked, done, batch_size, stop, keep_images, bar)
            parts.append(work.run(seed_tensor(seed)))
            done += len(chunk)
    if not parts:
        raise KitError("there are no images to attack")
    return _result(attack, parts, time.perf_counter() - started)


def input_gradients(model, loss_fn: Callable, images, labels, *, targeted: bool = False, training: bool = False,
                    batch_size: int = 128) -> np.ndarray:
    """The gradient of loss_fn(labels, logits), one number an image, for the pixels: float32 N x H x W x C.

    As the attacks take it: 0 where it is no number; of the negated loss where targeted. Nothing is checked.
    """
    def gradient(pixels, given):
        return input_gradient(logits_of(model, training), loss_fn, pixels, given, targeted)

    signature = [tf.TensorSpec([None, *images.shape[1:]]), tf.TensorSpec([None], tf.int32)]
    # Called through its concrete function, as TensorFlow would take one line's functions for one that retraces.
    compiled = tf.function(gradient, input_signature=signature, autograph=False).get_concrete_function()
    return in_batches(compiled, np.asarray(images, np.float32), np.asarray(labels, np.int32), batch_size=batch_size)


def in_batches(function: Callable, *arrays: np.ndarray, batch_size: int) -> np.ndarray:
    """What a function of tensors makes of the arrays, given so many rows at a time."""
    parts = [slice(first, first + batch_size) for first in range(0, len(arrays[0]), batch_size)]
    return np.concatenate([np.asarray(function(*(tf.constant(array[part]) for array in arrays))) for part in parts])


def worst_case(results: Iterable[AttackResult]) -> np.ndarray:
    """Which images resisted every one of the attacks: bool N. Its mean is the robust accuracy.

    Raises KitError when the results are not of the same images.
    """
    results = list(results)
    if not results:
        raise KitError("there is no attack to take the worst case of")
    for other in results[1:]:
        if not np.array_equal(results[0].labels, other.labels):
            raise KitError("the attacks were not run on the same images in the same order")
    return ~np.logical_or.reduce([result.fooled for result in results])


def _chunks(images, labels, batch_size: int) -> Iterator[tuple]:
    if labels is None and not hasattr(images, "ndim"):
        for batch in images:
            if not (isinstance(batch, tuple | list) and len(batch) == 2):
                raise KitError("without `labels`, `images` must be an iterable of (images, labels) pairs")
            yield tuple(batch)
        return
    images = as_array(images, "images")
    size = max(batch_size, CHUNK_BYTES // max(1, 4 * int(np.prod(images.shape[1:]))))
    if labels is not None and np.shape(labels)[:1] != images.shape[:1]:
        yield images, labels          # for the error message
        return
    for first in range(0, max(1, len(images)), size):
        part = slice(first, first + size)
        yield images[part], None if labels is None else labels[part]


class _Compiled:
    """An attack's functions for one model, compiled for any number of images."""

    def __init__(self, attack: Attack, model, stop: bool):
        logits = logits_of(model)

        def ready(state, numbers):
            """The attack with these numbers, and the model as it meets it."""
            asked = attack.model_copy(update=numbers)
            return asked, asked.model_with_limits(logits, state)

        def start(state, numbers, seed, first):
            asked, model_fn = ready(state, numbers)
            return mark_done(asked.start(model_fn, state, seed, first), stop)

        def advance(state, numbers, seed, number, count):
            asked, model_fn = ready(state, numbers)
            count = count if attack.block > 1 else 1       # known beforehand, so that no loop is built
            return asked.advance(model_fn, state, seed, number, count, stop)

        def close(state, numbers):
            asked, model_fn = ready(state, numbers)
            return mark_done(asked.close(model_fn, state), stop)

        traced = (lambda function: function) if attack.eager else _AnyBatch
        self.start, self.advance, self.close = traced(start), traced(advance), traced(close)


class _AnyBatch:
    """A tf.function of a state that is traced once for all batch sizes."""

    def __init__(self, function):
        self._function, self._traced = function, {}

    def __call__(self, state: State, numbers: dict, *others):
        flags = tuple(other for other in others if isinstance(other, bool))
        tensors = [other for other in others if not isinstance(other, bool)]
        if flags not in self._traced:
            self._traced[flags] = self._trace(state, numbers, tensors, flags)
        return self._traced[flags](state, numbers, *tensors)

    def _trace(self, state, numbers, tensors, flags):
        signature = [
            {name: tf.TensorSpec([None, *value.shape[1:]], value.dtype) for name, value in state.items()},
            {name: tf.TensorSpec([], tf.float32) for name in numbers},
            *(tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in tensors)]
        function = tf.function(
            lambda *given: self._function(*given, *flags), input_signature=signature, autograph=False)
        # Called through its concrete function: TensorFlow would warn of retracing, as it knows functions by
        # the line that makes them, and this line makes one for every attack.
        return function.get_concrete_function()


def _compiled(attack: Attack, model, shape, masked: bool, stop: bool) -> tuple[_Compiled, dict]:
    """The attack's compiled functions, and the numbers to call them with."""
    numbers = {name: getattr(attack, name) for name in attack.varying if getattr(attack, name) is not None}
    key = (attack.model_copy(update=dict.fromkeys(numbers, 0.0)), shape, stop, masked)
    compiled = trace_of(model, ("attack", *key), lambda: _Compiled(key[0], model, stop))
    return compiled, {name: tf.constant(value, tf.float32) for name, value in numbers.items()}


class _Work:
    """One chunk of images on its way through an attack.

    `batches` are the states of the images still worked on; what is done is written to the result at once.
    """

    def __init__(self, attack, model, images, labels, mask, offset, batch_size, stop, keep_images, bar):
        self.attack, self.batch_size, self.bar = attack, batch_size, bar
        self.functions, self.numbers = _compiled(attack, model, images.shape[1:], mask is not None, stop)
        self.offset, self.given = offset, labels
        count = len(images)
        self.result = {
            "images": np.empty_like(images) if keep_images else None, "labels": labels,
            "predictions": np.empty(count, np.int32), "found": np.empty(count, bool),
            "l2": np.empty(count, np.float32), "linf": np.empty(count, np.float32)}
        self.batches = [
            self._first_state(images[rows], labels[rows], None if mask is None else mask[rows], rows + offset)
            for rows in _even_parts(np.arange(count), batch_size)]

    def _first_state(self, images, labels, mask, ids) -> State:
        given = np.full_like(labels, UNKNOWN) if self.attack.labels == "predicted" else labels
        state = initial_state(tf.constant(images), tf.constant(given), mask)
        return state | {"ids": tf.constant(ids, tf.int64)}

    def run(self, seed: tf.Tensor) -> dict:
        attack, functions = self.attack, self.functions
        for number in range(attack.rounds):
            each = tf.random.fold_in(seed, number)
            self._apply(functions.start, each, number == 0)
            for first in range(0, attack.length, attack.block):
                count = min(attack.block, attack.length - first)
                self._apply(functions.advance, each, tf.constant(first), tf.constant(count))
            self._apply(functions.close)
        for state in self.batches:
            self._collect(state)
        return self.result

    def _apply(self, function, *others) -> None:
        """Apply `function` to every batch; collect what is done, and form full batches of the rest."""
        self.batches = [function(state, self.numbers, *others) for state in self.batches]
        flags = [state["done"].numpy() for state in self.batches]
        if not any(each.any() for each in flags):
            return
        state, done = _concatenate(self.batches), np.concatenate(flags)
        self._collect(_rows(state, np.flatnonzero(done)))
        left = np.flatnonzero(~done)
        self.batches = [_rows(state, part) for part in _even_parts(left, self.batch_size)]

    def _collect(self, state: State) -> None:
        rows = state["ids"].numpy() - self.offset
        bad = rows[np.isnan(state["score"].numpy())]
        if len(bad):
            raise KitError(f"for image number {bad[0] + self.offset} as {self.attack} leaves it {NOT_FINITE}")
        self.result["predictions"][rows] = state["prediction"].numpy()
        self.result["found"][rows] = state["hit"].numpy()
        best = self.attack.apply_limits(state["best"], state)
        change = (best - state["images"]).numpy().reshape(len(rows), -1)
        self.result["l2"][rows] = np.linalg.norm(change, axis=1)
        self.result["linf"][rows] = np.abs(change).max(axis=1)
        if self.result["images"] is not None:
            self.result["images"][rows] = best.numpy()
        self.bar.update(len(rows))


def _even_parts(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """As few parts of at most `size` as possible, of equal length give or take one."""
    return np.array_split(rows, -(-len(rows) // size)) if len(rows) else []


def _concatenate(batches: list[State]) -> State:
    if len(batches) == 1:
        return batches[0]
    return {name: tf.concat([state[name] for state in batches], 0) for name in batches[0]}


def _rows(state: State, rows: np.ndarray) -> State:
    return {name: tf.gather(value, rows) for name, value in state.items()}


def _result(attack: Attack, parts: list[dict], seconds: float) -> AttackResult:
    joined: dict = {name: None if parts[0][name] is None else np.concatenate([part[name] for part in parts])
                    for name in parts[0]}
    fooled = attack.hits(joined["predictions"], joined["labels"])
    return AttackResult(attack=attack, fooled=fooled, seconds=seconds, **joined)
