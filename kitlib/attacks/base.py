"""What every attack is made of: settings, a state with one row an image, and steps on that state.

An attack is three functions on a *state* (a dict of tensors whose first axis is the image):
`start` (once a restart), `move` (many times) and `close` (once a restart, one last forward pass).
`perturb` runs them inside whatever graph calls it; `kitlib.attacks.driver.run` compiles them and
drops images between steps as soon as there is nothing more to do for them.
"""
from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pydantic
import tensorflow as tf
from cleverhans.tf2.utils import clip_eta, compute_gradient, optimize_linear

from kitlib.attacks import limits
from kitlib.attacks.limits import Region
from kitlib.base.settings import Epsilon, KitError, Settings, format_epsilon

State = dict[str, tf.Tensor]
ModelFn = Callable[[tf.Tensor], tf.Tensor]      # pixels -> float32 logits
Norm = Literal["linf", "l2"]
NORM_NAMES = {"linf": "L-inf", "l2": "L2"}
LossName = Literal["ce", "margin", "dlr"]
Steps = Annotated[int, pydantic.Field(ge=1, le=10_000)]
StepsOrNone = Annotated[int, pydantic.Field(ge=0, le=10_000)]     # 0 makes the control
Restarts = Annotated[int, pydantic.Field(ge=1, le=1_000)]
Positive = Annotated[float, pydantic.Field(gt=0)]
NotNegative = Annotated[float, pydantic.Field(ge=0)]

UNKNOWN = -1      # a label that the first forward pass on the clean image will fill in


class Attack(Settings):
    """Base of all attacks. Fields are what a YAML file may say; they go into the records.

    `labels`: what an untargeted attack leads away from: the true labels, or the model's own
    predictions (no label leaking: Kurakin et al. 2017, arXiv:1611.01236, section 4).
    `targeted`: the labels given are targets, to be led to.
    `round`: the result is in whole n/255, as a file of 8 bits holds it. The model is attacked through that rounding,
    whose gradient counts as that of the identity (BPDA: Athalye et al. 2018, arXiv:1802.00420, section 4.1).
    `mask`: the only pixels that may change; for other shapes, or one an image, give `run` an array.
    """

    name: str
    labels: Literal["true", "predicted"] = "true"
    targeted: bool = False
    round: bool = False
    mask: Region | None = None

    # Whether an image's work may end at its first success where only accuracy is asked for.
    first_success_suffices: ClassVar[bool] = True
    # Whether its functions are Python code that must be called as it is, and not be compiled.
    eager: ClassVar[bool] = False
    # Float fields that the compiled functions take as arguments, so that a sweep compiles once.
    varying: ClassVar[tuple[str, ...]] = ()
    # Fields of the attack without its perturbation.
    unperturbed: ClassVar[dict] = {"eps": 0.0}

    @pydantic.model_validator(mode="after")
    def _target_is_given(self):
        if self.targeted and self.labels == "predicted":
            raise ValueError("a targeted attack needs targets, so 'labels: predicted' makes no sense with it")
        return self

    @property
    def rounds(self) -> int:
        """How many times the attack starts afresh."""
        return getattr(self, "restarts", 1)

    @property
    def length(self) -> int:
        """Steps a round at most."""
        return getattr(self, "steps", 0)

    @property
    def stops(self) -> bool:
        """Whether an image is left alone at its first success even where images are asked for."""
        return getattr(self, "stop_early", False)

    @property
    def last_only(self) -> bool:
        """Whether the result is simply where the last step led, without comparing candidates."""
        return getattr(self, "keep", "best") == "last" and self.rounds == 1

    @property
    def block(self) -> int:
        """Steps between two looks at which images are done."""
        return 1

    def start(self, model_fn: ModelFn, state: State, seed: tf.Tensor, first: bool) -> State:
        return state | {"iterate": state["images"]}

    def move(self, model_fn: ModelFn, state: State, number: tf.Tensor, seed: tf.Tensor) -> State:
        """One step, the `number`th of this round."""
        return state

    def close(self, model_fn: ModelFn, state: State) -> State:
        """Judge the last candidate, and keep the worst (for the model) seen so far."""
        return self.keep_best(state, state["iterate"], model_fn(state["iterate"]))

    def control(self) -> Attack:
        """The same attack with eps = 0: all its clipping and conversions, no perturbation."""
        return self.model_copy(update=self.unperturbed)

    @tf.autograph.experimental.do_not_convert      # nothing to convert, and converting takes seconds
    def perturb(self, model, images, labels=None, seed=None, training: bool = False) -> tf.Tensor:
        """Adversarial images, as a tensor like `images`; may be called inside a tf.function or train_step.

        images: float32, N x H x W x C, pixels. labels: int N (targets where `targeted`); None only
        with `labels: predicted`. seed: an int or int32 tensor [2]; None draws one from TensorFlow's
        generator. training: call the model in training mode, as paper B does (this is the only way
        in which an attack can change batch-norm statistics).

        Every step is made for every image; values are not checked here (see `run`).
        Raises KitError for images that are not 4-D and for missing labels.
        """
        images = tf.convert_to_tensor(images, tf.float32)
        if images.shape.rank != 4:
            raise KitError(f"images must be N x H x W x C, but their shape is {images.shape}")
        mask = self.mask.mask(*images.shape[1:3]) if self.mask else None
        state = initial_state(images, self._labels_to_use(labels, images), mask)
        model_fn, seed = self.model_with_limits(logits_of(model, training), state), seed_tensor(seed)
        for number in range(self.rounds):
            each = tf.random.fold_in(seed, number)
            state = mark_done(self.start(model_fn, state, each, first=number == 0), self.stops)
            state = self.advance(model_fn, state, each, 0, self.length, self.stops, to_the_end=training)
            if self.last_only:
                return tf.stop_gradient(self.apply_limits(state["iterate"], state))
            state = keep_done(state, self.close(model_fn, state), self.stops)
        return tf.stop_gradient(self.apply_limits(state["best"], state))

    def model_with_limits(self, model_fn: ModelFn, state: State) -> ModelFn:
        """The model as the attack meets it: a candidate is limited before the model sees it."""
        if not self.round and "mask" not in state:
            return model_fn
        return lambda candidate: model_fn(self.apply_limits(candidate, state))

    def apply_limits(self, candidate: tf.Tensor, state: State) -> tf.Tensor:
        """What a candidate comes to: the image itself outside the mask, and whole n/255 where that is asked for."""
        if "mask" in state:
            candidate = tf.where(state["mask"], candidate, state["images"])
        if not self.round:
            return candidate
        return candidate + tf.stop_gradient(self.in_8_bits(candidate, state["images"]) - candidate)

    def in_8_bits(self, candidate: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        """The nearest pixels of whole n/255."""
        return limits.round_to_8_bits(candidate)

    def _labels_to_use(self, labels, images):
        if self.labels == "predicted":
            return tf.fill(tf.shape(images)[:1], UNKNOWN)
        if labels is None:
            what = "a targeted attack needs targets" if self.targeted else "the attack needs true labels"
            raise KitError(f"{self.name}: {what}; give `labels`, one an image")
        return tf.cast(labels, tf.int32)

    def advance(self, model_fn: ModelFn, state: State, seed, number, count, stop: bool,
                to_the_end: bool = False) -> State:
        """`count` steps from the `number`th, or fewer once every image is done.

        stop: an image is done once it is fooled, and left alone from then on, whatever the others in its batch
        still do. to_the_end: all `count` steps in any case, because each pass in training mode also moves
        batch-norm statistics.
        """
        if self.length == 0:
            return state
        number = tf.convert_to_tensor(number)
        if isinstance(count, int) and count == 1:
            return mark_done(self.move(model_fn, state, number, seed), stop)

        def goes_on(taken, state):
            return (taken < count) & (to_the_end | ~tf.reduce_all(state["done"]))

        def body(taken, state):
            moved = mark_done(self.move(model_fn, state, number + taken, seed), stop)
            return taken + 1, keep_done(state, moved, stop)

        return tf.while_loop(goes_on, body, [tf.constant(0), state], parallel_iterations=1)[1]

    def keep_best(self, state: State, candidate: tf.Tensor, logits: tf.Tensor, score=None) -> State:
        """Keep `candidate` where it beats the best so far: first by fooling the model, then by its loss."""
        state = self.fill_labels(state, logits)
        prediction = tf.argmax(logits, 1, output_type=tf.int32)
        hit = self.hits(prediction, state["labels"])
        score = self.score(state["labels"], logits) if score is None else score
        better = (hit & ~state["hit"]) | ((hit == state["hit"]) & (score > state["score"]))
        better |= state["prediction"] == UNKNOWN      # the first candidate, even if its score is -inf or NaN
        return state | {
            "best": choose_rows(better, candidate, state["best"]),
            "prediction": tf.where(better, prediction, state["prediction"]),
            "score": tf.where(better, score, state["score"]),
            "hit": hit | state["hit"]}

    @staticmethod
    def fill_labels(state: State, logits: tf.Tensor) -> State:
        """Fill labels that are still unknown with the predictions that `logits` make."""
        return state | {"labels": fill_unknown(state["labels"], logits)}

    def hits(self, prediction, labels):
        return prediction == labels if self.targeted else prediction != labels

    def score(self, labels, logits):
        """Higher is worse for the model."""
        value = loss_of(getattr(self, "loss", "ce"), labels, logits)
        return -value if self.targeted else value

    def gradient(self, model_fn: ModelFn, state: State, iterate: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, State]:
        """Direction that serves the attack; logits from the same pass; the state with its labels known."""
        forward_pass = {}

        def loss_fn(labels, logits):
            forward_pass["logits"] = logits
            return loss_of(getattr(self, "loss", "ce"), fill_unknown(labels, logits), logits)

        direction = input_gradient(model_fn, loss_fn, iterate, state["labels"], self.targeted)
        return direction, forward_pass["logits"], self.fill_labels(state, forward_pass["logits"])

    def _goal(self) -> str:
        return ("targeted" if self.targeted else f"{self.labels} labels") + self._limits()

    def _limits(self) -> str:
        where = f", {'outside' if self.mask.outside else 'only in'} {self.mask}" if self.mask else ""
        return where + ", in 8 bits" * self.round


class InBall(Attack):
    """An attack inside a ball of radius `eps` around the image, and inside the pixel box [0, 1]."""

    eps: Epsilon
    norm: Norm = "linf"
    varying: ClassVar[tuple[str, ...]] = ("eps",)

    @pydantic.model_validator(mode="after")
    def _in_pixels(self):
        if self.norm == "linf" and self.eps > 1:
            raise ValueError(f"an L-inf eps is in pixels of 0 to 1: {self.eps:g} is more than there is; write "
                             f"{self.eps:g}/255 where that is meant")
        return self

    def _size(self) -> str:
        return f"{NORM_NAMES[self.norm]}, eps {written(self.norm, self.eps)}"

    @property
    def order(self) -> float:
        """The norm as CleverHans and NumPy write it."""
        return np.inf if self.norm == "linf" else 2

    def project(self, candidate: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        """Into the box, then the ball (CleverHans's clip_eta), then the box again for rounding."""
        inside = tf.clip_by_value(candidate, 0.0, 1.0)
        return tf.clip_by_value(images + clip_eta(inside - images, self.order, self.eps), 0.0, 1.0)

    def in_8_bits(self, candidate: tf.Tensor, images: tf.Tensor) -> tf.Tensor:
        """The nearest pixels of whole n/255 in the ball."""
        return limits.round_within(candidate, images, self.eps, self.norm)

    def steepest_step(self, direction: tf.Tensor, length) -> tf.Tensor:
        """The step of norm `length` that goes farthest along `direction` (CleverHans's optimize_linear).

        For L2 each row is first scaled to a largest entry of one: CleverHans treats a gradient whose
        norm is under 1e-6 as if it were flat, and confident models have such gradients.
        """
        if self.norm == "l2":
            largest = tf.reduce_max(tf.abs(direction), axis=(1, 2, 3), keepdims=True)
            direction = tf.math.divide_no_nan(direction, largest)
        return optimize_linear(direction, length, self.order)

    def random_in_ball(self, state: State, seed) -> tf.Tensor:
        """A point uniformly at random in the ball, clipped to the box."""
        images = state["images"]
        if self.norm == "linf":
            noise = self.eps * (2 * draw(state, seed, tf.random.stateless_uniform) - 1)
        else:
            noise = self.eps * _in_unit_l2_ball(state, seed)
        return self.project(images + noise, images)


def input_gradient(model_fn: ModelFn, loss_fn: Callable, iterate, labels, targeted: bool) -> tf.Tensor:
    """CleverHans's gradient of the loss (negated where targeted) for the pixels; zero where there is none or it is no
    number (as below the square root of 0), and the largest number where it is infinite.

    CleverHans wraps it in a tf.function of its own, whose cache would hold every model's graph for ever
    and whose inner tensors cannot be had; its plain Python function joins the kit's graph instead.
    """
    gradient = compute_gradient.python_function(model_fn, loss_fn, iterate, labels, targeted)
    return tf.zeros_like(iterate) if gradient is None else finite_gradient(gradient)


def finite_gradient(gradient: tf.Tensor) -> tf.Tensor:
    """Zero where it is no number, and the largest number where it is infinite: one pixel would spoil the rest."""
    gradient = tf.where(tf.math.is_nan(gradient), tf.zeros_like(gradient), gradient)
    return tf.clip_by_value(gradient, gradient.dtype.min, gradient.dtype.max)


def _in_unit_l2_ball(state: State, seed) -> tf.Tensor:
    """Uniform in the unit ball: a Gaussian direction, and the radius's D-th root law."""
    directions = draw(state, tf.random.fold_in(seed, 1), tf.random.stateless_normal)
    radii = draw(state, tf.random.fold_in(seed, 2), tf.random.stateless_uniform, entries=1)
    norms = tf.sqrt(tf.reduce_sum(directions**2, axis=(1, 2, 3), keepdims=True))
    entries = tf.cast(tf.reduce_prod(tf.shape(directions)[1:]), tf.float32)
    return directions / norms * tf.reshape(radii, (-1, 1, 1, 1)) ** (1 / entries)


def written(norm: Norm, eps: float) -> str:
    """An epsilon as people write it: 8/255 in L-inf, a distance in pixels in L2."""
    return format_epsilon(eps) if norm == "linf" else f"{eps:.4g}"


def initial_state(images: tf.Tensor, labels: tf.Tensor, mask: np.ndarray | None = None) -> State:
    """The state before anything is known: nothing kept yet, nothing done. mask: bool H x W or N x H x W."""
    rows = tf.shape(images)[:1]
    masked = {} if mask is None else {"mask": tf.broadcast_to(mask[..., None], [*tf.unstack(tf.shape(images))[:3], 1])}
    return masked | {
        "images": images, "labels": labels, "best": images,
        "prediction": tf.fill(rows, UNKNOWN), "score": tf.fill(rows, -np.inf),
        "hit": tf.fill(rows, False), "done": tf.fill(rows, False)}


def mark_done(state: State, stop: bool) -> State:
    """Mark the images that are fooled already as done, if that is the end of the matter for them."""
    return state | {"done": state["done"] | state["hit"]} if stop else state


def keep_done(before: State, after: State, stop: bool) -> State:
    """`after`, but for the images that were done before, where being done is to be left alone."""
    if not stop:
        return after
    return {name: choose_rows(before["done"], before[name], value) for name, value in after.items()}


def logits_of(model, training: bool = False) -> ModelFn:
    """The model as a function from pixels to float32 logits."""
    return lambda images: tf.cast(model(images, training=training), tf.float32)


def choose_rows(which: tf.Tensor, then: tf.Tensor, otherwise: tf.Tensor) -> tf.Tensor:
    """`then` in the rows where `which`, else `otherwise` (any number of further axes)."""
    return tf.where(tf.reshape(which, [-1] + [1] * (then.shape.rank - 1)), then, otherwise)


def fill_unknown(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    return tf.where(labels == UNKNOWN, tf.argmax(logits, 1, output_type=tf.int32), labels)


def loss_of(name: LossName, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """One loss an image, high where `labels` are missed.

    ce: cross-entropy. margin: largest other logit minus the label's (Carlini & Wagner 2017,
    arXiv:1608.04644, section V.A, f6). dlr: the margin over the distance of the first to the third
    logit (Croce & Hein 2020, arXiv:2003.01690, section 4); with two classes there is no third, and
    the margin is used.
    """
    if name == "ce":
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    distance = margin(labels, logits)
    if name == "margin" or logits.shape[-1] < 3:
        return distance
    top = tf.math.top_k(logits, 3).values
    return distance / tf.maximum(top[:, 0] - top[:, 2], 1e-12)     # TensorFlow's optimizer drops an added 1e-12


def margin(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Largest other logit minus the label's: positive where the label is missed."""
    mine = tf.one_hot(labels, logits.shape[-1], on_value=True, off_value=False)
    others = tf.reduce_max(tf.where(mine, -np.inf, logits), axis=1)
    return others - tf.reduce_sum(tf.where(mine, logits, 0.0), axis=1)


def seed_tensor(seed: Any) -> tf.Tensor:
    """An int32 [2] seed for TensorFlow's stateless generators, from an int, such a tensor, or None."""
    if seed is None:
        return tf.random.uniform([2], maxval=2**31 - 1, dtype=tf.int32)
    if isinstance(seed, numbers.Integral):
        seed = int(seed)
        return tf.constant([seed & 0x7FFFFFFF, seed >> 31 & 0x7FFFFFFF], tf.int32)
    return tf.cast(seed, tf.int32)


def draw(state: State, seed: tf.Tensor, sampler: Callable, entries: int | None = None) -> tf.Tensor:
    """Random numbers, `entries` an image or as many as the image has.

    Where the state knows each image's place in the data ("ids"), what an image gets depends on that
    alone, so that the batch size and the order in which others drop out change nothing. A few entries
    come from a table of 1,024 rows, which images 1,024 apart share.
    """
    if "ids" not in state:
        shape = tf.shape(state["images"])
        return sampler(shape if entries is None else tf.stack([shape[0], entries]), seed)
    if entries is not None:
        return tf.gather(sampler([1024, entries], seed), state["ids"] % 1024)
    shape = tf.shape(state["images"])[1:]
    drawn = tf.map_fn(lambda number: sampler(shape, tf.random.fold_in(seed, number)), state["ids"],
                      fn_output_signature=tf.float32)
    return tf.ensure_shape(drawn, [None, *state["images"].shape[1:]])
