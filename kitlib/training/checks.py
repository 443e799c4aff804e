"""What a training refuses before an epoch is spent, said clearly; and a network that takes pixels."""
from __future__ import annotations

import keras
import numpy as np

from kitlib import models
from kitlib.base.settings import KitError
from kitlib.data import Dataset
from kitlib.models.ranges import own_range
from kitlib.models.reading import looks_like_probabilities
from kitlib.models.wiring import LOGITS_NEEDED, check_takes, is_graph, outputs_of, refuse_probabilities
from kitlib.training.settings import TrainingSettings

LOOKED_AT = 4       # training images that a network is asked for
# Keras's callbacks that do what kitlib does itself, and what to use.
_OURS = {
    "BackupAndRestore": "a training goes on from the checkpoint in its `folder` by itself",
    "ModelCheckpoint": "the setting `keep` says which epoch is kept, and models.save writes it",
}


def class_counts(dataset: Dataset) -> np.ndarray:
    return np.bincount(dataset.labels[dataset.split["train"]], minlength=len(dataset.class_names))


def check(model, dataset: Dataset, settings: TrainingSettings, baseline, replicas: int, callbacks=()) -> None:
    """Raises KitError where this training cannot work or would mislead."""
    empty = [name for name, n in zip(dataset.class_names, class_counts(dataset), strict=True) if n == 0]
    if empty:
        raise KitError(f"data '{dataset.name}': no training image of class {', '.join(map(repr, empty))}")
    images = len(dataset.split["train"])
    if settings.batch_size > images:
        raise KitError(f"batch_size {settings.batch_size} is larger than the {images} training images of "
                       f"'{dataset.name}': choose {images} or less")
    if settings.batch_size % replicas:
        raise KitError(f"batch_size {settings.batch_size} cannot be split evenly over {replicas} devices: choose a "
                       f"multiple of {replicas}")
    _check_network(model, dataset, "the model")
    if any(part.compute_dtype in models.NARROW for part in model._flatten_layers()):
        raise KitError("the model computes in less than float32: build it under the float32 policy; the setting "
                       "`precision` says what it is trained in")
    if not model.trainable_variables:
        raise KitError("the model has nothing to train: all of its layers are frozen (trainable = False)")
    _refuse_own_losses(model, dataset)
    _refuse_callbacks(callbacks, settings)
    if settings.method == "free" and None in model.input_shape[1:]:
        raise KitError("method free keeps a perturbation for each pixel: build the model for images of "
                       f"{dataset.images.shape[1:]}, not of {model.input_shape[1:]}")
    if settings.needs_baseline and baseline is None:
        what = {"static": "makes its images on a baseline", "distilled": "learns from a teacher"}[settings.method]
        raise KitError(f"method {settings.method} {what}: train that first and pass it as `baseline`")
    if settings.needs_baseline:
        _check_network(baseline, dataset, "the baseline")
    validated = len(dataset.split.get("validation", ())) > 0
    needs = settings.keep == "best" or (settings.patience and settings.keep == "last")
    if needs and not validated:
        raise KitError(f"keep: best and patience judge by validation images, and '{dataset.name}' has none: "
                       "give the split a validation part, or keep the last epoch")
    check = settings.robust_check
    if check and not len(dataset.split.get(check.part, ())):
        raise KitError(f"robust_check: data '{dataset.name}' has no {check.part} images")


def _check_network(model, dataset: Dataset, what: str) -> None:
    check_takes(model, dataset.images.shape[1:])
    outputs_of(model)
    refuse_probabilities(model)
    _refuse_hidden_probabilities(model, dataset)
    if model.output_shape[-1] != len(dataset.class_names):
        raise KitError(f"{what} knows {model.output_shape[-1]} classes, data '{dataset.name}' has "
                       f"{len(dataset.class_names)}")


def _refuse_hidden_probabilities(model, dataset: Dataset) -> None:
    """A softmax in code, or behind other layers, shows in what comes out."""
    outputs = np.asarray(model(_some(dataset), training=False), np.float32)
    if looks_like_probabilities(outputs):
        raise KitError(f"the model's outputs are not negative and sum to one: probabilities; {LOGITS_NEEDED}")


def _refuse_own_losses(model, dataset: Dataset) -> None:
    """Losses of its own may arise only in a call, as those of activity regularisers and add_loss do."""
    before = [np.asarray(variable) for variable in model.variables]
    model(_some(dataset), training=True)
    losses = list(model.losses)
    for variable, value in zip(model.variables, before, strict=True):
        variable.assign(value)
    if losses:
        raise KitError("the model has losses of its own (a regulariser, add_loss), which no method here adds to its "
                       "loss: build it without them; the setting `weight_decay` does what an L2 regulariser is for")


def _refuse_callbacks(callbacks, settings: TrainingSettings) -> None:
    for callback in callbacks:
        name = type(callback).__name__
        if name in _OURS and isinstance(callback, getattr(keras.callbacks, name)):
            raise KitError(f"the callback {name} does not go with kitlib's training: {_OURS[name]}")
        if isinstance(callback, keras.callbacks.ReduceLROnPlateau) and settings.schedule != "constant":
            raise KitError(f"ReduceLROnPlateau needs `schedule: constant`, as the schedule '{settings.schedule}' sets "
                           "the learning rate itself")
        if isinstance(callback, keras.callbacks.EarlyStopping) and callback.restore_best_weights:
            raise KitError("EarlyStopping with restore_best_weights does not go with kitlib's training: leave that "
                           "out, and use the settings `keep: best` and `patience`")


def _some(dataset: Dataset) -> np.ndarray:
    return dataset.images[dataset.split["train"][:LOOKED_AT]] / np.float32(255)


def taking_pixels(model: keras.Model, dataset: Dataset) -> keras.Model:
    """The model itself where its first layers take pixels in [0, 1] or say nothing; else one that scales pixels to the
    range that they were made for, around the same layers."""
    if not is_graph(model):
        return model
    try:
        (low, high), _ = own_range(model, dataset.pixels("train")[:64], certain=True)
    except KitError:
        return model
    if (low, high) == (0.0, 1.0):
        return model
    pixels = keras.Input(dataset.images.shape[1:], name="pixels")
    scaled = keras.layers.Rescaling(high - low, low, name="to_input_range")(pixels)
    return models.with_origin(keras.Model(pixels, model(scaled)), models.origin_of(model))
