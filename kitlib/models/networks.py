"""Keras models that take pixels and return logits; their normalisation is their first layer."""
from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
from keras import layers

from kitlib.base.files import sha256
from kitlib.base.places import data_folder
from kitlib.base.settings import KitError, Settings, choose, first_line
from kitlib.models.normalisation import CAFFE, IMAGENET, Normalisation
from kitlib.models.precision import exact_float32
from kitlib.models.saving import with_origin

# What each set of ImageNet weights in keras.applications was trained on (its preprocess_input).
# "bgr" weights get their first kernel turned to RGB, so that every model here takes RGB pixels.
_IMAGENET_INPUT = {
    "resnet50": (CAFFE, "bgr"),
    "vgg16": (CAFFE, "bgr"),
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
        network = constructor(include_top=False, weights="imagenet" if from_imagenet else None,
                              input_tensor=inputs, pooling="avg")
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


@exact_float32()
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


def normalisation_of(settings: ModelSettings) -> Normalisation:
    """What a network normalises its pixels with. Raises KitError where ImageNet weights and another are asked for."""
    if settings.options.get("weights") != "imagenet":
        return settings.normalisation or Normalisation()
    if settings.normalisation is not None:
        raise KitError(f"model '{settings.name}': ImageNet weights bring their own normalisation; leave it out")
    return choose(settings.name, _IMAGENET_INPUT, "model with ImageNet weights")[0]
