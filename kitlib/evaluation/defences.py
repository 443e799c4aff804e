"""Defences of the input: what is done to the pixels before the classifier sees them, and how each is attacked.

    defence = defences.read({"name": "jpeg", "quality": 50})
    answers = defences.deployed(model, defence)               # what users get; judge this one
    naive = defences.wrap(model, defence)                     # attack it with the gradient as it comes
    adaptive = defences.wrap(model, defence, adaptive=True)   # attack it with BPDA and EOT

All three are Keras models from pixels to logits around the same `model`, so every attack of the kit runs on them.
"""
from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import keras
import pydantic
import tensorflow as tf

from kitlib.base.settings import KitError, Settings, first_line, read_named
from kitlib.models import exact_float32, from_pixels, in_float32
from kitlib.models.wiring import image_shape


class Defence(Settings):
    """Base of all defences of the input. Fields are what a YAML file may say.

    `transform` is the defence itself; `surrogate` is what an attacker differentiates in its place (BPDA: Athalye et
    al. 2018, arXiv:1802.00420, section 4.1): by default the identity, as what comes out resembles what went in.
    """

    name: str
    randomised: ClassVar[bool] = False
    differentiable: ClassVar[bool] = False      # as it is, so that no surrogate is needed

    @property
    def passes(self) -> int:
        """Passes of the classifier for one answer."""
        return getattr(self, "draws", 1)

    def transform(self, images: tf.Tensor, numbers: tf.Tensor | None = None) -> tf.Tensor:
        """Pixels, N x H x W x C, to such pixels. numbers: N x 3 in [0, 1), for a randomised defence."""
        raise NotImplementedError

    def surrogate(self, images: tf.Tensor) -> tf.Tensor:
        return images

    def bpda(self, images: tf.Tensor, numbers: tf.Tensor | None = None) -> tf.Tensor:
        """`transform` forward, `surrogate` backward where `transform` is not differentiable."""
        if self.differentiable:
            return self.transform(images, numbers)
        smooth = self.surrogate(images)
        exact = tf.stop_gradient(self.transform(tf.stop_gradient(images), numbers))

        @tf.custom_gradient
        def exact_forward(smooth):
            return exact, lambda upstream: upstream

        return exact_forward(smooth)


class JPEG(Defence):
    """JPEG compression (Dziugaite et al. 2016, arXiv:1608.00853; Guo et al. 2018, arXiv:1711.00117), by libjpeg
    with its usual halved colour resolution. It has no gradient; the surrogate is the identity."""

    name: Literal["jpeg"] = "jpeg"
    quality: Annotated[int, pydantic.Field(ge=1, le=100)] = 75

    def transform(self, images, numbers=None):
        channels = images.shape[-1]

        def through_a_file(image):
            file = tf.io.encode_jpeg(image, format="rgb" if channels == 3 else "grayscale", quality=self.quality)
            return tf.io.decode_jpeg(file, channels=channels, dct_method="INTEGER_ACCURATE")

        levels = tf.cast(tf.round(255.0 * tf.clip_by_value(tf.stop_gradient(images), 0.0, 1.0)), tf.uint8)
        spec = tf.TensorSpec(images.shape[1:], tf.uint8)
        return tf.cast(tf.map_fn(through_a_file, levels, fn_output_signature=spec), tf.float32) / 255.0

    def __str__(self) -> str:
        return f"JPEG, quality {self.quality}"


class BitDepth(Defence):
    """Fewer grey levels (Xu et al. 2018, arXiv:1704.01155, section III.A). Its gradient is zero almost everywhere;
    the surrogate is the identity."""

    name: Literal["bit_depth"] = "bit_depth"
    bits: Annotated[int, pydantic.Field(ge=1, le=8)] = 4

    def transform(self, images, numbers=None):
        levels = 2.0**self.bits - 1
        return tf.round(images * levels) / levels

    def __str__(self) -> str:
        return f"{self.bits} bit{'s' * (self.bits > 1)} a channel"


class Median(Defence):
    """Median of a window around each pixel (Xu et al. 2018, section III.B), the border mirrored.

    Its gradient goes to one pixel of each window; the surrogate is the window's mean.
    """

    name: Literal["median"] = "median"
    window: Literal[3, 5] = 3

    def transform(self, images, numbers=None):
        windows = _windows(images, self.window)
        return tf.math.top_k(windows, self.window**2 // 2 + 1, sorted=True).values[..., -1]

    def surrogate(self, images):
        return tf.reduce_mean(_windows(images, self.window), axis=-1)

    def __str__(self) -> str:
        return f"median of {self.window} x {self.window}"


class Gaussian(Defence):
    """Gaussian blur, the border mirrored; cut off at four standard deviations. Differentiable as it is."""

    name: Literal["gaussian"] = "gaussian"
    sigma: Annotated[float, pydantic.Field(gt=0, le=5)] = 0.7
    differentiable: ClassVar[bool] = True

    def transform(self, images, numbers=None):
        radius = int(4 * self.sigma + 0.5)
        weights = tf.exp(-0.5 * (tf.range(-float(radius), radius + 1.0) / self.sigma) ** 2)
        weights = tf.reshape(weights / tf.reduce_sum(weights), (-1, 1, 1, 1)) * tf.ones((1, 1, images.shape[-1], 1))
        padded = _mirrored(images, radius)
        down = tf.nn.depthwise_conv2d(padded, weights, (1, 1, 1, 1), "VALID")
        return tf.nn.depthwise_conv2d(down, tf.transpose(weights, (1, 0, 2, 3)), (1, 1, 1, 1), "VALID")

    def __str__(self) -> str:
        return f"Gaussian blur, sigma {self.sigma:g}"


class RandomResizePad(Defence):
    """Random resizing and zero padding (Xie et al. 2018, arXiv:1711.01991, section 3).

    The image is shrunk (bilinear) to a random side from `smallest` times its own up to its own, and laid at a
    random place on black. Xie et al. enlarge; a network with dense layers takes one size only, so this one
    shrinks. draws: the answer is the mean of the logits over so many draws.
    """

    name: Literal["random_resize_pad"] = "random_resize_pad"
    smallest: Annotated[float, pydantic.Field(gt=0.3, lt=1)] = 0.85
    draws: Annotated[int, pydantic.Field(ge=1, le=100)] = 10
    randomised: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True

    def transform(self, images, numbers=None):
        height, width = images.shape[1:3]
        places = [self._place(size, numbers[:, 0], numbers[:, 1 + axis]) for axis, size in enumerate((height, width))]
        boxes = tf.stack([places[0][0], places[1][0], places[0][1], places[1][1]], axis=1)
        return tf.image.crop_and_resize(images, boxes, tf.range(tf.shape(images)[0]), (height, width))

    def _place(self, size: int, share: tf.Tensor, offset: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Where in the image the first and the last pixel of the result lie, as shares of it; beyond it is black.

        The shrunk image lies on pixels first .. first + side - 1. A thousandth of a pixel inwards keeps
        rounding from turning its border black.
        """
        least = round(self.smallest * size)
        side = tf.floor(least + share * (size - least + 1))
        first = tf.floor(offset * (size - side + 1))
        inset = 1e-3 / (size - 1)
        scale = (1 - 2 * inset) / (side - 1)
        return inset - first * scale, inset + (size - 1 - first) * scale

    def __str__(self) -> str:
        return f"random resize and pad, from {100 * self.smallest:g} % of the side, mean of {self.draws} draws"


_CLASSES = (JPEG, BitDepth, Median, Gaussian, RandomResizePad)
CATALOGUE: dict[str, type[Defence]] = {kind.model_fields["name"].default: kind for kind in _CLASSES}


def read(settings: Any, where: str = "preprocessing") -> Defence:
    """A defence from its settings, or from its name alone with the defaults that it has.

    Raises KitError for unknown names, keys and impossible values.
    """
    return read_named(settings, CATALOGUE, "defence", where)


def deployed(model: keras.Model, defence: Defence, seed: int = 0) -> keras.Model:
    """The defended model that users get and that is judged: pixels to logits, the same answer each time.

    A randomised defence answers with the mean of its logits over `defence.draws` draws. They follow from `seed`
    alone and are the same for every image, so that neither the batch nor the order of images changes an answer.
    """
    return _around(model, defence, draws=defence.passes, fresh=False, adaptive=False, seed=seed)


def wrap(model: keras.Model, defence: Defence, adaptive: bool = False, samples: int = 10, seed: int = 0) -> keras.Model:
    """The defended model as an attacker differentiates it.

    Naive (the default): one draw of a randomised defence at each pass, and the gradient as it comes, which for some
    defences is zero or none at all. adaptive: BPDA through what cannot be differentiated, and for a randomised
    defence EOT: the mean of the logits, and so of their gradients, over `samples` draws (Athalye et al. 2018,
    arXiv:1802.00420, sections 4.1 and 4.2). Draws are new at each pass and for each image; `seed` makes their
    sequence repeatable.
    """
    if samples < 1:
        raise KitError(f"EOT needs at least one sample, not {samples}")
    draws = samples if adaptive and defence.randomised else 1
    return _around(model, defence, draws=draws, fresh=True, adaptive=adaptive, seed=seed)


@exact_float32()
def _around(model: keras.Model, defence: Defence, draws: int, **how) -> keras.Model:
    model = in_float32(model)
    shape = image_shape(model)
    try:
        if None not in shape:
            _Prepared(defence, draws, **how).call(tf.zeros((1, *shape)))    # for its errors
    except (tf.errors.InvalidArgumentError, ValueError) as error:
        raise KitError(f"{defence} does not go with images of {' x '.join(map(str, shape))}: "
                       f"{first_line(error)}") from None
    pixels = keras.Input(shape, name="pixels")
    logits = from_pixels(model)(_Prepared(defence, draws, **how)(pixels))
    if draws > 1:       # they lie draw by draw
        logits = keras.ops.mean(keras.ops.reshape(logits, (draws, -1, logits.shape[-1])), axis=0)
    return keras.Model(pixels, logits, name=defence.name)


class _Prepared(keras.layers.Layer):
    """N images to draws x N prepared ones, draw by draw."""

    def __init__(self, defence: Defence, draws: int, fresh: bool, adaptive: bool, seed: int):
        super().__init__(name="preprocessing", dtype="float32")
        self.defence, self.draws, self.fresh, self.seed = defence, draws, fresh, seed
        self.prepare = defence.bpda if adaptive else defence.transform
        self.generator = keras.random.SeedGenerator(seed) if fresh and defence.randomised else None

    def call(self, images):
        if not self.defence.randomised:
            return self.prepare(images)
        repeated = tf.tile(images, (self.draws, 1, 1, 1))
        return self.prepare(repeated, self._numbers(tf.shape(images)[0]))

    def _numbers(self, count: tf.Tensor) -> tf.Tensor:
        """draws * count x 3 numbers in [0, 1): new ones for all, or a fixed set that all images share."""
        if self.generator is not None:
            return tf.random.stateless_uniform((self.draws * count, 3), tf.cast(self.generator.next(), tf.int32))
        return tf.repeat(tf.random.stateless_uniform((self.draws, 3), (self.seed, 0)), count, axis=0)

    def compute_output_shape(self, shape):
        return shape


def _windows(images: tf.Tensor, size: int) -> tf.Tensor:
    """N x H x W x C -> N x H x W x C x size^2: the pixels around each pixel, the border mirrored."""
    padded = _mirrored(images, size // 2)
    height, width = images.shape[1:3]
    shifted = [padded[:, i : i + height, j : j + width] for i in range(size) for j in range(size)]
    return tf.stack(shifted, axis=-1)


def _mirrored(images: tf.Tensor, margin: int) -> tf.Tensor:
    return tf.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)), "REFLECT")
