"""`train`: from settings and data to a trained model, through checkpoints after each epoch."""
from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from kitlib import attacks, models
from kitlib.base import code
from kitlib.base.files import atomic_file, locked
from kitlib.base.machine import choose_precision
from kitlib.base.settings import KitError, first_line
from kitlib.data import Dataset
from kitlib.training.batches import Examples, training_batches, validation_batches
from kitlib.training.checkpoint import State, fingerprint_of, folder_of, resumed
from kitlib.training.checks import check, class_counts, taking_pixels
from kitlib.training.optimizers import optimizer_for
from kitlib.training.precision import has_faster_twin, twin
from kitlib.training.settings import TrainingSettings
from kitlib.training.steps import Training, class_for, training_for

OVERFITTING_FALL = 0.20
_STATIC_CHUNK = 2048


@models.exact_float32()
def train(
    model: keras.Model,
    dataset: Dataset,
    settings: TrainingSettings,
    folder: Path,
    seed: int = 0,
    baseline: keras.Model | None = None,
    progress: bool = True,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    strategy: tf.distribute.Strategy | None = None,
    input_range: tuple[float, float] | None = None,
) -> dict[str, list]:
    """Train `model` in place on the data set's "train" part; it ends up with the weights to keep.

    model: float32 Keras model, pixels in, logits out; it stays float32 whatever the precision. One whose first layers
        take another range, such as EfficientNet's 0 to 255, is given that, as `attacks.run` does.
    folder: each training gets a folder of its own in there, named after what decides its outcome (settings,
        seed, data, network, baseline, the kit's code; of the first weights the seed or file that kitlib.models made
        them from, or the training before, so train two models of your own with the same layers in two folders), and
        in that `checkpoint.npz` after each epoch. Where one is there already, training goes on from it (same
        learning-rate position, early-stopping state, batches and random states); a finished training is not repeated,
        its weights are put into `model`. So after a change another training begins, beside what was there.
    seed: of data order, augmentation, dropout and attacks (the initial weights are the model's).
    baseline: the model on which method static makes its adversarial images, and distilled's teacher.
    callbacks: further Keras callbacks; `callback.model` is the Training model, its `network` the network. Those that
        save or restore the training are refused, as `folder` and the settings do that. They do not name the training.
        Where one sets `stop_training`, `model` gets the weights of the last whole epoch, and a later call with a model
        of the same first weights goes on from there.
    strategy: None takes all GPUs of this machine (batch_size is the global batch).
    input_range: the values that 0 and 1 in pixels have for the model, where its layers do not tell.

    Returns the history, lists with one entry an epoch: epoch, loss, accuracy and adversarial_accuracy
    (of the training batches, where the method has them), val_loss, val_accuracy, robust_accuracy and
    catastrophic_overfitting (with a robust check), learning_rate, seconds, precision, kept (true for
    the epoch whose weights `model` now has). Accuracies are fractions.

    Raises KitError for data or callbacks that do not go, a model that is not in float32, returns probabilities, does
    clearly better in another range, has nothing to train or losses of its own (such as regularisers), a damaged
    checkpoint, a loss that is no longer a number, a full disk; what was on disk before is still there.
    """
    strategy, given = strategy or _all_gpus(), model
    model = taking_pixels(model, dataset, input_range)
    if settings.needs_baseline and baseline is not None:
        baseline = taking_pixels(baseline, dataset)
    check(model, dataset, settings, baseline, strategy.num_replicas_in_sync, callbacks)
    if settings.deterministic:
        keras.utils.set_random_seed(seed)  # determinism refuses unseeded random operations
        tf.config.experimental.enable_op_determinism()
    other = baseline if settings.needs_baseline else None
    fingerprint = fingerprint_of(settings, seed, dataset, model, other, _code_of(settings))
    folder = folder_of(fingerprint, Path(folder))
    with locked(folder, "training", waits=True):
        for leftover in (*folder.glob(".checkpoint-*.npz"), *folder.glob(".static*.npy")):  # of a kill while writing
            leftover.unlink()
        path = folder / "checkpoint.npz"
        state = resumed(path, fingerprint) or State(fingerprint)
        if not state.finished:
            job = _Job(model, dataset, settings, seed, state, path, progress)
            job.run(baseline, callbacks, strategy)
        for served in folder.glob("static*.npy"):
            served.unlink()
        model.set_weights(state.kept)
    # What it is trained on next begins with these weights, not with those it was built with.
    models.with_origin(given, {"training": folder.name})
    return history_of(state.epochs, settings)


def _code_of(settings: TrainingSettings) -> str:
    """The code that a training with these settings reaches, so that a change elsewhere leaves its name alone. What the
    settings mean stands beside it in the fingerprint, and the data count by their content."""
    trains = code.digest(
        [_Job, class_for(settings), training_batches, optimizer_for, twin],
        without=("kitlib.attacks", "kitlib.base", "kitlib.data", "kitlib.training.settings",
                 "kitlib.training.checkpoint", "kitlib.training.steps.training_for"))
    used = [*settings.training_attacks(), *([settings.check_attack()] if settings.robust_check else [])]
    runs = settings.robust_check is not None or settings.method == "static"
    attacked = code.digest([*map(type, used), *([attacks.run] if runs else [])], without=("kitlib.base",))
    return f"{trains} {attacked}"


def history_of(epochs: list[dict], settings: TrainingSettings) -> dict[str, list]:
    """Records of epochs as lists by name, and which of them is kept."""
    kept = _kept(epochs, settings)
    columns = {name: [record[name] for record in epochs] for name in epochs[0]} if epochs else {}
    return {**columns, "kept": [number == kept for number in range(len(epochs))]}


class _Job:
    """One call of `train` that has something to do."""

    def __init__(self, model, dataset, settings, seed, state: State, path: Path, progress: bool):
        self.model, self.dataset, self.settings, self.seed = model, dataset, settings, seed
        self.state, self.path, self.progress = state, path, progress
        self.precision = choose_precision(settings.precision)
        self.first = model.get_weights()

    def run(self, baseline, callbacks, strategy) -> None:
        variants = self._static_images(baseline) if self.settings.method == "static" else []
        examples = Examples(self.dataset.images, self.dataset.labels, self.dataset.split["train"], variants)
        steps = len(examples) // self.settings.batch_size
        self.steps, training = steps, self._prepared(strategy, steps, baseline)
        self._announce(steps, strategy)
        first = len(self.state.epochs)
        if not _stops(self.state.epochs, self.settings):
            batches = training_batches(examples, self.settings.batch_size, self.settings.augmentation, self.seed, first)
            try:
                training.fit(
                    batches, shuffle=False, steps_per_epoch=steps, initial_epoch=first, epochs=self.settings.epochs,
                    validation_data=self._validation(), callbacks=[_EndOfEpoch(self), *callbacks],
                    verbose=1 if self.progress and sys.stdout.isatty() else 0)
            except Exception as error:
                if type(error).__module__.split(".")[0] not in ("builtins", "keras", "tensorflow"):    # somebody's own
                    raise
                raise KitError(f"training stopped in epoch {len(self.state.epochs) + 1}, in a layer or a callback: "
                               f"{first_line(error)}") from error
        self._finish(training)

    def _prepared(self, strategy, steps: int, baseline) -> Training:
        """The Training model, compiled, in the state of the checkpoint."""
        settings = self.settings
        with strategy.scope():
            network = self._network(alone=strategy.num_replicas_in_sync == 1)
            teacher = twin(baseline, self.precision) if settings.method == "distilled" else None
            training = training_for(settings, network, _class_weights(self.dataset, settings), self.seed, teacher)
            updates = steps * (settings.replays if settings.method == "free" else 1)
            # XLA is slower than TensorFlow's own kernels on CPUs; nothing here scales a loss, so nothing is to unscale
            # gradients.
            training.compile(optimizer=optimizer_for(settings, updates), jit_compile=False, auto_scale_loss=False)
            training.optimizer.build(network.trainable_variables)
            _seed_dropout(network, self.seed)
            try:
                _restore(training, self.state.variables)
            except ValueError:      # free's perturbation has the size of a device's part of the batch
                raise KitError(f"{self.path} was begun on another number of devices: go on with as many, or delete "
                               "it") from None
        return training

    def _network(self, alone: bool) -> keras.Model:
        """What is trained: the model itself, or its twin where that is faster or must be."""
        if alone and self.precision == "float32" and not has_faster_twin(self.model):
            return self.model
        try:
            return twin(self.model, self.precision)
        except KitError as error:
            if not (alone and (self.precision == "float32" or self.settings.precision == "auto")):
                raise
            self._say(f"trained as it is, in float32: {error}")
            self.precision = "float32"
            return self.model

    def _validation(self) -> tf.data.Dataset | None:
        indices = self.dataset.split.get("validation", ())
        if not len(indices):
            return None
        batch_size = max(self.settings.batch_size, 128)
        return validation_batches(self.dataset.images, self.dataset.labels, indices, batch_size)

    def end_epoch(self, training: Training, logs: dict, seconds: float) -> None:
        """Check, record, keep and save the epoch that has just ended."""
        self._refuse_a_diverged_epoch(training, logs)
        self._to_model(training)
        record: dict = {"epoch": len(self.state.epochs) + 1, **{name: float(value) for name, value in logs.items()}}
        if self.settings.robust_check:
            record |= self._robust_check()
        record["learning_rate"] = float(tf.convert_to_tensor(training.optimizer.learning_rate))
        record["seconds"] = round(seconds, 3)
        record["precision"] = self.precision
        self.state.epochs.append(record)
        if _kept(self.state.epochs, self.settings) == len(self.state.epochs) - 1 and self.settings.keep != "last":
            self.state.kept = self.model.get_weights()
        self.state.variables = _variables(training)
        self.state.save(self.path)
        self._report(record)
        training.stop_training |= _stops(self.state.epochs, self.settings)

    def _refuse_a_diverged_epoch(self, training: Training, logs: dict) -> None:
        """The last step's loss is that of the weights before it: what the step did shows only in the weights and in
        `val_loss`. Saved, such an epoch would be where every later call goes on from."""
        if not all(np.isfinite(value).all() for value in (*logs.values(), *training.network.get_weights())):
            raise self.diverged("its end")

    def diverged(self, place: str) -> KitError:
        """The error for a training that has left the finite numbers. place: where in the epoch that runs."""
        return KitError(
            f"training diverged: the loss is no longer a number (epoch {len(self.state.epochs) + 1}, {place}). "
            f"Lower the learning rate; {self.path} keeps the last finished epoch, if any")

    def _to_model(self, training: Training) -> None:
        if training.network is not self.model:
            self.model.set_weights(training.network.get_weights())

    def _robust_check(self) -> dict:
        check = self.settings.robust_check
        places = self.dataset.split[check.part][: check.images]
        result = attacks.run(
            self.settings.check_attack(), self.model, self.dataset.images[places] / np.float32(255),
            self.dataset.labels[places].astype(np.int32), seed=self.seed, keep_images=False, progress=False,
            input_range=(0, 1))
        before = self.state.epochs[-1]["robust_accuracy"] if self.state.epochs else 0.0
        accuracy = float(result.accuracy)
        return {"robust_accuracy": accuracy, "catastrophic_overfitting": before - accuracy > OVERFITTING_FALL}

    def drop_epoch(self, training: Training) -> None:
        """Go back to the end of the last whole epoch: a callback has stopped this one."""
        if self.state.variables:
            _restore(training, self.state.variables)
        else:
            training.network.set_weights(self.first)

    def _finish(self, training: Training) -> None:
        self._to_model(training)
        self.state.kept = self.state.kept or self.model.get_weights()
        if not _stops(self.state.epochs, self.settings):    # a callback has stopped it: what is saved goes on from here
            return
        self.state.variables, self.state.finished = {}, True
        self.state.save(self.path)
        if self.progress and self.settings.keep != "last":
            print(f"kept: epoch {_kept(self.state.epochs, self.settings) + 1}")

    def _static_images(self, baseline) -> list[np.ndarray]:
        """The baseline's adversarial images of the training part, a memory-mapped file an attack."""
        made = []
        for number, attack in enumerate(self.settings.training_attacks()):
            path = self.path.with_name(f"static{number}.npy")
            if not path.exists():
                self._say(f"making the baseline's adversarial images: {attack}")
                self._write_static(path, attack, baseline)
            made.append(np.load(path, mmap_mode="r", allow_pickle=False))
        return made

    def _write_static(self, path: Path, attack, baseline) -> None:
        indices = self.dataset.split["train"]
        shape = (len(indices), *self.dataset.images.shape[1:])
        with atomic_file(path) as aside:
            array = np.lib.format.open_memmap(aside, mode="w+", dtype=np.float32, shape=shape)
            _take_room(aside)
            for start in range(0, len(indices), _STATIC_CHUNK):
                places = indices[start : start + _STATIC_CHUNK]
                result = attacks.run(
                    attack, baseline, self.dataset.images[places] / np.float32(255),
                    self.dataset.labels[places].astype(np.int32), seed=self.seed + start, progress=False,
                    input_range=(0, 1))
                array[start : start + len(places)] = result.images
            array.flush()

    def _announce(self, steps: int, strategy) -> None:
        done = len(self.state.epochs)
        where = f", {strategy.num_replicas_in_sync} devices" if strategy.num_replicas_in_sync > 1 else ""
        goes_on = f", goes on after epoch {done}" if done else ""
        self._say(f"training ({self.settings.method}): {self.settings.epochs} epochs of {steps} steps, "
                  f"{self.precision}{where}{goes_on}")

    def _report(self, record: dict) -> None:
        shown = [("loss", "loss", "{:.3f}"), ("accuracy", "accuracy", "{:.1%}"),
                 ("adversarial_accuracy", "adversarial", "{:.1%}"), ("val_accuracy", "validation", "{:.1%}"),
                 ("robust_accuracy", "robust", "{:.1%}"), ("seconds", "", "{:.1f} s")]
        parts = [f"{label} {form.format(record[name])}".strip() for name, label, form in shown if name in record]
        self._say(f"epoch {record['epoch']}/{self.settings.epochs}: " + ", ".join(parts))
        if record.get("catastrophic_overfitting"):
            self._say("  catastrophic overfitting: the robust accuracy fell by more than 20 points")

    def _say(self, line: str) -> None:
        if self.progress:
            print(line, flush=True)


class _EndOfEpoch(keras.callbacks.Callback):
    """Ties a job to Keras's fit."""

    def __init__(self, job: _Job):
        super().__init__()
        self.job = job

    def on_epoch_begin(self, epoch, logs=None):
        self.started, self.done = time.perf_counter(), 0
        limit = self.job.settings.inference_mode_after
        if limit is not None and epoch >= limit and self.model.training_mode:
            self.model.training_mode = False
            self.model.make_train_function(force=True)

    def on_train_batch_end(self, batch, logs=None):
        if not math.isfinite(float(logs["loss"])):
            raise self.job.diverged(f"step {batch + 1}")
        self.done = batch + 1

    def on_epoch_end(self, epoch, logs=None):
        if self.done < self.job.steps:
            self.job.drop_epoch(self.model)
        else:
            self.job.end_epoch(self.model, logs, time.perf_counter() - self.started)


def _kept(epochs: list[dict], settings: TrainingSettings) -> int:
    """Position of the epoch to keep; the first of equals."""
    if settings.keep == "last":
        return len(epochs) - 1
    scores = [record[_criterion(settings)] for record in epochs]
    return scores.index(max(scores)) if scores else -1


def _criterion(settings: TrainingSettings) -> str:
    return "robust_accuracy" if settings.keep == "best_robust" else "val_accuracy"


def _stops(epochs: list[dict], settings: TrainingSettings) -> bool:
    """Whether the training ends after these epochs. History alone decides, so a resume decides alike."""
    if len(epochs) >= settings.epochs:
        return True
    if settings.robust_check and settings.robust_check.stop and any(e["catastrophic_overfitting"] for e in epochs):
        return True
    if settings.patience is None or not epochs:
        return False
    scores = [record[_criterion(settings)] for record in epochs]
    return len(scores) - 1 - scores.index(max(scores)) >= settings.patience


def _variables(training: Training) -> dict[str, list[np.ndarray]]:
    return {
        name: [np.asarray(keras.ops.convert_to_numpy(variable)) for variable in variables]
        for name, variables in _groups(training).items()}


def _restore(training: Training, stored: dict[str, list[np.ndarray]]) -> None:
    if not stored:
        return
    for name, variables in _groups(training).items():
        for variable, value in zip(variables, stored.get(name, []), strict=True):
            variable.assign(value)


def _groups(training: Training) -> dict[str, list]:
    """All that changes in training; the network's variables include the random state of its dropout."""
    return {
        "network": training.network.variables,
        "optimizer": training.optimizer.variables,
        "method": [training.perturbation] if hasattr(training, "perturbation") else []}


def _take_room(path: Path) -> None:
    """Have the disk give a new file all of its bytes now: where it is full a mapped file kills the process later, and
    this raises an OSError."""
    if hasattr(os, "posix_fallocate"):      # not on macOS
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)


def _seed_dropout(network: keras.Model, seed: int) -> None:
    weights = {id(weight) for weight in network.weights}
    random_states = [variable for variable in network.variables if id(variable) not in weights]
    for number, state in enumerate(random_states):
        state.assign(np.array([seed, number], state.dtype))


def _class_weights(dataset: Dataset, settings: TrainingSettings) -> np.ndarray | None:
    """Weights that give every class the same say and an average image the weight 1."""
    if not settings.class_weights:
        return None
    counts = class_counts(dataset)
    return (counts.sum() / (len(counts) * counts)).astype(np.float32)


def _all_gpus() -> tf.distribute.Strategy:
    many = len(tf.config.list_logical_devices("GPU")) > 1
    return tf.distribute.MirroredStrategy() if many else tf.distribute.get_strategy()
