"""What a training refuses before an epoch is spent, said clearly; and a network that takes pixels."""
from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from kitlib import models
from kitlib.base.settings import KitError
from kitlib.data import Dataset
from kitlib.models.reading import looks_like_probabilities, outputs_for
from kitlib.models.wiring import LOGITS_NEEDED, outputs_of, refuse_probabilities
from kitlib.training.settings import TrainingSettings

LOOKED_AT = 4       # training images that a network is asked for
READ = 64           # and those by which the range of values is read that it takes
# Keras's callbacks that do what kitlib does itself, and what to use.
_OURS = {
    "BackupAndRestore": "a training goes on from the checkpoint in its `folder` by itself",
    "ModelCheckpoint": "the setting `keep` says which epoch is kept, and models.save writes it",
    "SwapEMAWeights": "no method here keeps averages of its weights",
}
_OF_THE_RATE = (keras.callbacks.ReduceLROnPlateau, keras.callbacks.LearningRateScheduler)


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
    outputs_of(model)
    refuse_probabilities(model)
    if looks_like_probabilities(outputs_for(model, _some(dataset), finite=False)):      # in code, or behind layers
        raise KitError(f"the model's outputs are not negative and sum to one: probabilities; {LOGITS_NEEDED}")
    if model.output_shape[-1] != len(dataset.class_names) or model.output_shape[-1] < 2:
        raise KitError(f"{what} knows {model.output_shape[-1]} classes, data '{dataset.name}' has "
                       f"{len(dataset.class_names)}: it takes one logit a class, of two classes or more")


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
    if not isinstance(callbacks, Sequence) or not all(isinstance(c, keras.callbacks.Callback) for c in callbacks):
        raise KitError(f"callbacks is a list of keras.callbacks.Callback objects, not {callbacks!r:.80}")
    for callback in callbacks:
        name = type(callback).__name__
        if name in _OURS and isinstance(callback, getattr(keras.callbacks, name)):
            raise KitError(f"the callback {name} does not go with kitlib's training: {_OURS[name]}")
        if isinstance(callback, _OF_THE_RATE) and settings.schedule != "constant":
            raise KitError(f"{name} needs `schedule: constant`, as the schedule '{settings.schedule}' sets the "
                           "learning rate itself")
        if isinstance(callback, keras.callbacks.EarlyStopping) and callback.restore_best_weights:
            raise KitError("EarlyStopping with restore_best_weights does not go with kitlib's training: leave that "
                           "out, and use the settings `keep: best` and `patience`")


def _some(dataset: Dataset) -> np.ndarray:
    return dataset.images[dataset.split["train"][:LOOKED_AT]] / np.float32(255)


def taking_pixels(model: keras.Model, dataset: Dataset, input_range=None) -> keras.Model:
    """The model itself, or around the same layers one that takes pixels, as `models.taking_pixels` reads it."""
    some = dataset.split["train"][:READ]
    if not len(some):       # `check` says so
        return model
    ready = models.taking_pixels(model, dataset.images[some] / np.float32(255), dataset.labels[some], input_range)
    return ready if ready is model else models.with_origin(ready, models.origin_of(model))
