"""Keras models that take pixels and return logits; their normalisation is their first layer."""
from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import weakref
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kitlib import digests
from kitlib.data.settings import data_folder
from kitlib.files import sha256, written_whole
from kitlib.settings import KitError, Settings, choose

import keras
import numpy as np
import tensorflow as tf
from keras import layers


class Normalisation(Settings):
    """z = (pixels - mean) / std, per channel or with one number for all channels.

    `to_normalised` and `to_pixels` take images (N x H x W x C), or one number for all channels.
    """

    mean: float | tuple[float, ...] = 0.5
    std: float | tuple[float, ...] = 0.5

    def model_post_init(self, _context: Any) -> None:
        if np.any(np.asarray(self.std) <= 0):
            raise ValueError("std must be positive")

    def to_normalised(self, pixels):
        self.check_channels(pixels)
        return (pixels - np.float32(self.mean)) / np.float32(self.std)

    def to_pixels(self, normalised):
        self.check_channels(normalised)
        return normalised * np.float32(self.std) + np.float32(self.mean)

    def check_channels(self, images) -> None:
        """Raises KitError where the numbers are not one a channel: they would be broadcast silently."""
        channels = images.shape[-1] if len(getattr(images, "shape", ())) else None
        for numbers in (self.mean, self.std):
            if np.ndim(numbers) and channels is not None and len(numbers) not in (1, channels):
                raise KitError(f"the normalisation has {len(numbers)} channels, but images of {channels} are "
                               "given; it takes one number, or one a channel")

    def same(self, other: Normalisation) -> bool:
        """Whether `other` does the same to every image."""
        return bool(np.all(np.equal(self.mean, other.mean)) and np.all(np.equal(self.std, other.std)))

    def layer(self) -> layers.Layer:
        """The same as a Keras layer that any Keras 3 can load."""
        scale, offset = 1 / np.asarray(self.std), -np.asarray(self.mean) / np.asarray(self.std)
        return layers.Rescaling(scale.tolist(), offset.tolist(), name="normalisation")


IMAGENET = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

# What each set of ImageNet weights in keras.applications was trained on (its preprocess_input).
# "bgr" weights get their first kernel turned to RGB, so that every model here takes RGB pixels.
_CAFFE = Normalisation(mean=(123.68 / 255, 116.779 / 255, 103.939 / 255), std=1 / 255)
_IMAGENET_INPUT = {
    "resnet50": (_CAFFE, "bgr"),
    "vgg16": (_CAFFE, "bgr"),
    "mobilenet_v2": (Normalisation(mean=0.5, std=0.5), "rgb"),
    "densenet121": (IMAGENET, "rgb"),
}


class ModelSettings(Settings):
    """Which network, its options (see the builder of that name), and its normalisation.

    `normalisation` defaults to mean = std = 0.5, or to what ImageNet weights were trained with.
    """

    name: str
    options: dict[str, Any] = {}
    normalisation: Normalisation | None = None


def _even_deeper_cnn(inputs, widths=(32, 32, 64, 64, 128, 128), dense=(512, 128), dropout=0.3):
    """Paper A, section IV.A: 3 x 3 convolutions with ReLU, pooling after every two, dense layers.

    The paper names neither widths nor dropout: they are parameters. The last of its three dense
    layers is the logits layer that every model here gets.
    """
    x = inputs
    for number, width in enumerate(widths):
        x = layers.Conv2D(width, 3, padding="same", activation="relu", name=f"conv{number + 1}")(x)
        if number % 2 == 1:
            x = layers.MaxPooling2D(name=f"pool{number // 2 + 1}")(x)
    x = layers.Flatten()(x)
    for number, width in enumerate(dense):
        x = layers.Dense(width, activation="relu", name=f"fc{number + 1}")(x)
        x = layers.Dropout(dropout)(x) if dropout else x
    return x


def _deeper_cnn(inputs, widths=(32, 32, 64, 64), dense=(512, 128), dropout=0.3):
    """The shallower net of paper A's earlier experiments (section V): four convolutions, else alike."""
    return _even_deeper_cnn(inputs, widths, dense, dropout)


def _small_resnet(inputs, widths=(16, 32, 64), blocks=2, dropout=0.0, first_stride=1):
    """Pre-activation ResNet for CIFAR-sized images (He et al. 2016, arXiv:1603.05027).

    first_stride: of the first convolution. 2 halves the image at once, so that twice the width costs the same.
    """
    x = layers.Conv2D(widths[0], 3, strides=first_stride, padding="same", use_bias=False)(inputs)
    for stage, width in enumerate(widths):
        for block in range(blocks):
            x = _residual_block(x, width, stride=2 if stage > 0 and block == 0 else 1)
    x = layers.GlobalAveragePooling2D()(_bn_relu(x))
    return layers.Dropout(dropout)(x) if dropout else x


def _residual_block(x, width: int, stride: int):
    ready = _bn_relu(x)
    if stride > 1 or x.shape[-1] != width:
        # Picking pixels first does what strides do. The weight gradient of a strided 1 x 1 convolution of few channels
        # writes beyond its memory in oneDNN's AVX512 kernels (TensorFlow 2.21).
        picked = layers.AveragePooling2D(1, strides=stride)(ready) if stride > 1 else ready
        x = layers.Conv2D(width, 1, use_bias=False)(picked)
    y = layers.Conv2D(width, 3, strides=stride, padding="same", use_bias=False)(ready)
    y = layers.Conv2D(width, 3, padding="same", use_bias=False)(_bn_relu(y))
    return layers.Add()([x, y])


def _bn_relu(x):
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))


def _application(inputs, constructor: Callable, bgr: bool, weights: str | None = None, dropout=0.0):
    """A network of keras.applications with global average pooling.

    weights: None (from scratch), "imagenet", or the path of a weights file of the same network, from the data folder
    where it is not absolute.
    Batch norm gets momentum 0.9 (PyTorch's default, which paper B used; Keras's 0.99 lags by epochs
    when an epoch has few steps).
    """
    from_imagenet = weights == "imagenet"
    try:
        network = constructor(
            include_top=False, weights="imagenet" if from_imagenet else None,
            input_tensor=inputs, pooling="avg",
        )
        if weights and not from_imagenet:
            network.load_weights(weights_file(weights))
    except (OSError, ValueError) as error:
        what = f"{constructor.__name__} with weights {weights!r}"
        raise KitError(f"{what} could not be made: {first_line(error)}") from None
    if from_imagenet and bgr:
        _turn_first_kernel(network)
    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.9
    return layers.Dropout(dropout)(network.output) if dropout else network.output


def weights_file(weights: str) -> Path:
    """The file of an option `weights`, which counts from the data folder where it is not absolute."""
    return data_folder() / os.path.expanduser(weights)


def _turn_first_kernel(network: keras.Model) -> None:
    first = next(layer for layer in network.layers if isinstance(layer, layers.Conv2D))
    kernel, *bias = first.get_weights()
    first.set_weights([kernel[:, :, ::-1, :], *bias])


def _from_applications(name: str, constructor: Callable) -> Callable:
    return functools.partial(_application, constructor=constructor, bgr=_IMAGENET_INPUT[name][1] == "bgr")


BUILDERS: dict[str, Callable] = {
    "even_deeper_cnn": _even_deeper_cnn,
    "deeper_cnn": _deeper_cnn,
    "small_resnet": _small_resnet,
    "resnet50": _from_applications("resnet50", keras.applications.ResNet50),
    "vgg16": _from_applications("vgg16", keras.applications.VGG16),
    "mobilenet_v2": _from_applications("mobilenet_v2", keras.applications.MobileNetV2),
    "densenet121": _from_applications("densenet121", keras.applications.DenseNet121),
}


def build(settings: ModelSettings, input_shape: tuple[int, int, int], classes: int, seed: int | None = None):
    """A fresh Keras model: pixels of `input_shape` (H, W, C) in, float32 logits of `classes` out.

    `seed` makes its initial weights repeatable (it seeds Keras, NumPy and Python alike).
    Raises KitError for an unknown name, unknown options, fewer than two classes, or an image
    that the network cannot take.
    """
    builder = choose(settings.name, BUILDERS, "model")
    if classes < 2:
        raise KitError(f"model '{settings.name}': a classifier needs two classes or more, the data have {classes}")
    if seed is not None:
        keras.utils.set_random_seed(seed)
    inputs = keras.Input(input_shape, name="pixels")
    normalisation = normalisation_of(settings)
    normalisation.check_channels(inputs)
    normalised = normalisation.layer()(inputs)
    try:
        features = builder(normalised, **settings.options)
    except (TypeError, ValueError, IndexError) as error:
        if isinstance(error, KitError):
            raise
        raise KitError(
            f"model '{settings.name}' cannot be built for images of {input_shape} with options "
            f"{settings.options}: {first_line(error)}"
        ) from None
    logits = layers.Dense(classes, dtype="float32", name="logits")(features)
    weights = settings.options.get("weights")
    given = sha256(weights_file(weights)) if weights and weights != "imagenet" else weights
    return with_origin(keras.Model(inputs, logits, name=settings.name), {"seed": seed, "weights": given})


def with_origin(model: keras.Model, origin: dict) -> keras.Model:
    """The model, remembering where its weights come from."""
    model.__dict__["_kitlib_origin"] = origin
    return model


def origin_of(model: keras.Model) -> dict | None:
    """Where the weights come from of a model that `build` or `load` made, or that was trained; None of others."""
    return model.__dict__.get("_kitlib_origin")


def normalisation_of(settings: ModelSettings) -> Normalisation:
    """What a network normalises its pixels with. Raises KitError where ImageNet weights and another are asked for."""
    if settings.options.get("weights") != "imagenet":
        return settings.normalisation or Normalisation()
    if settings.normalisation is not None:
        raise KitError(f"model '{settings.name}': ImageNet weights bring their own normalisation; leave it out")
    return choose(settings.name, _IMAGENET_INPUT, "model with ImageNet weights")[0]


def save(model: keras.Model, path: Path) -> None:
    """Save architecture and weights as one whole `.keras` file (no optimizer). The same model gives the same bytes, as
    judgements and audits know a model by its file's SHA-256."""
    with written_whole(path) as aside:
        model.save(aside, include_optimizer=False)
        _take_dates_off(aside)


def _take_dates_off(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    about = json.loads(members["metadata.json"])
    members["metadata.json"] = json.dumps({key: about[key] for key in about if key != "date_saved"}).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)


def load(path: Path) -> keras.Model:
    """Load a `.keras` file; code inside it is never run.

    Raises KitError where the file is missing, damaged, of another kind, or holds custom code.
    """
    if not Path(path).is_file():
        raise KitError(f"{path} does not exist")
    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises nearly every type here
        raise KitError(f"{path} is no Keras 3 model that can be loaded ({first_line(error)})") from None
    return with_origin(model, {"weights": digests.of_arrays(model.get_weights())})


def first_line(error: Exception) -> str:
    """What a Keras or TensorFlow error says, without its listing of arguments, its colours and places in a graph."""
    said = re.sub(r"\x1b\[[0-9;]*m|{{.*?}} *| *\[Op:.*?\]", "", str(error))
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return " ".join(lines[:2])[:300] or type(error).__name__


NOT_FINITE = ("the model returns NaN or infinite numbers: its training diverged, its weights are damaged, it divides "
              "by zero, or it takes values of another range (of an audit: --input-range)")
NARROW = ("float16", "bfloat16")
_TWINS: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()     # of mixed-precision models, in float32


def in_float32(model):
    """The model itself where it computes in float32, else a float32 copy with its present weights.

    Judging in bfloat16 moves accuracy; a model trained in mixed precision is judged as it would be deployed.
    Raises KitError for a mixed-precision model that Keras cannot rebuild.
    """
    parts = model._flatten_layers() if hasattr(model, "_flatten_layers") else []
    if all(part.compute_dtype in ("float32", None) for part in parts):
        return model
    twin = _TWINS.get(model) or _TWINS.setdefault(model, _clone(model))
    copy_weights(model, twin)
    return twin


@contextlib.contextmanager
def float32_policy():
    """Layers that are made inside compute in float32, whatever the global policy. Also a decorator."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


@float32_policy()
def _clone(model):
    def float32(layer):
        wide = {"dtype": "float32"} if isinstance(layer, layers.Layer) else {}     # a function has none
        return layer.__class__.from_config(_widened(layer.get_config()) | wide)

    try:
        twin = keras.models.clone_model(model, clone_function=float32, recursive=True)
        narrow = [part.name for part in twin._flatten_layers() if part.compute_dtype in NARROW]
        if narrow:
            raise ValueError(f"of {', '.join(narrow)} Keras keeps the precision")
    except (ValueError, TypeError, NotImplementedError) as error:
        raise KitError(f"the model computes in less than float32 and cannot be rebuilt in it ({error}): "
                       "build it under the float32 policy and load its weights") from None
    return twin


def _widened(config):
    """A layer's configuration with every narrow precision in it, such as that of a wrapped layer, made float32."""
    if isinstance(config, list | tuple):
        return type(config)(_widened(each) for each in config)
    if not isinstance(config, dict):
        return config
    return {key: "float32" if key == "dtype" and _is_narrow(value) else _widened(value)
            for key, value in config.items()}


def _is_narrow(policy) -> bool:
    name = policy.get("config", {}).get("name") if isinstance(policy, dict) else policy
    return isinstance(name, str) and name.removeprefix("mixed_") in NARROW


def copy_weights(source: keras.Model, copy: keras.Model) -> None:
    """Give `copy` the weights of `source`, whose layers it has. Keras's Normalization computes with numbers that it
    makes of its weights, and only where it is told to."""
    copy.set_weights(source.get_weights())
    for layer in copy._flatten_layers():
        if isinstance(layer, layers.Normalization):
            layer.finalize_state()


def predict_logits(model: keras.Model, images, batch_size: int = 256) -> np.ndarray:
    """Float32 logits, N x classes, in inference mode, batch by batch; a mixed-precision model is asked in float32.

    images: N x H x W x C pixels (float32, or uint8 which is divided by 255).
    Raises KitError where any logit is no finite number: the class of the largest would mean nothing.
    """
    forward = _compiled_forward(in_float32(model), tuple(images.shape[1:]))
    batches = (images[start : start + batch_size] for start in range(0, len(images), batch_size))
    outputs = [forward(as_pixels(batch)).numpy() for batch in batches]
    logits = np.concatenate(outputs) if outputs else np.zeros((0, *forward.output_shapes[1:]), np.float32)
    bad = np.flatnonzero(~np.isfinite(logits).all(tuple(range(1, logits.ndim))))
    if len(bad):
        raise KitError(f"for {len(bad)} of the {len(logits)} images (the first is number {bad[0]}) {NOT_FINITE}")
    return logits


def as_pixels(images) -> tf.Tensor:
    """Images as a float32 tensor; uint8 becomes [0, 1]."""
    if images.dtype == np.uint8:
        return tf.cast(images, tf.float32) / 255.0
    return tf.cast(images, tf.float32)


def _compiled_forward(model: keras.Model, shape: tuple[int, int, int]) -> Callable:
    # Kept on the model itself: it lives and dies with it, and one trace serves every batch size. What Keras's
    # Normalization computes with is no variable, so a trace holds the numbers of its time.
    parts = model._flatten_layers() if hasattr(model, "_flatten_layers") else []
    fixed = [np.asarray(getattr(layer, name, None)).tobytes() for layer in parts
             if isinstance(layer, layers.Normalization) for name in ("mean", "variance")]
    kept = model.__dict__.setdefault("_kitlib_forward", {})
    key = (shape, *fixed)
    if key not in kept:
        spec = tf.TensorSpec((None, *shape), tf.float32)
        compiled = tf.function(lambda x: model(x, training=False), input_signature=[spec])
        # Its concrete function, as TensorFlow would warn of retracing where several models are asked in turn.
        kept[key] = compiled.get_concrete_function()
    return kept[key]
