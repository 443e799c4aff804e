"""What training costs: steps against a plain step, precision, input pipeline, memory, and peers.

    python -m benchmarks.training            # all; on two cores about twenty-five minutes
    python -m benchmarks.training steps      # one part of them
    python -m benchmarks.training torch --torch PYTHON     # against PyTorch; PYTHON: of an environment that has it

Ratios are of neighbours in one run; the limits come from counting passes (a forward pass is a third of a
plain step, the backward pass to the input alone another third).
"""
from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from kitlib import attacks, data, models, training

from kitlib.experiments import experiment  # isort: skip (before TensorFlow: it chooses its kernels)

import keras
import numpy as np
import tensorflow as tf
from scipy import stats

from benchmarks import networks
from benchmarks.common import paired, ratio, table, write
from benchmarks.elsewhere import USUAL_MALLOC, Elsewhere
from kitlib.base.machine import choose_precision
from kitlib.training.batches import Examples, training_batches
from kitlib.training.optimizers import FusedAdam
from kitlib.training.precision import twin
from kitlib.training.settings import Augmentation

BATCH = 128
REPEATS = 7
FGSM = {"name": "fgsm", "eps": "8/255"}
SEEN_ON_DIGITS = attacks.read({"name": "fgsm", "eps": "32/255"})
NOT_MEASURED = "not measured: this machine is not fast at bfloat16 (no AMX, AVX512-bf16 or GPU)"


def pgd(steps: int) -> dict:
    return {"name": "pgd", "eps": "8/255", "step": "2/255", "steps": steps, "keep": "last"}


def step_of(network, images, labels, optimizer=None, frozen=False, **values) -> Callable:
    """One training step of the kit on a fixed batch, compiled as `fit` compiles it; `frozen`: in inference mode."""
    step = training.training_for(training.TrainingSettings.read(values, "benchmark"), network)
    step.training_mode = not frozen
    step.compile(optimizer=optimizer or FusedAdam(1e-4), jit_compile=False)
    step.optimizer.build(network.trainable_variables)
    compiled = tf.function(step.train_step)
    return lambda: compiled((images, labels))["loss"].numpy()


def steps(dataset) -> dict:
    """Each method's step against a plain step of the same clean batch."""
    network = networks.network(dataset)
    images, labels = map(tf.constant, dataset.part("train", BATCH))
    adversarial = images + 0.01

    def separate_passes():  # plain step, image gradient, plain step: what sharing saves
        plain()
        fgsm(images, labels)
        other()

    plain = step_of(network, images, labels)
    other = step_of(network, adversarial, labels)
    perturb = attacks.read(FGSM).perturb
    fgsm = tf.function(lambda images, labels: perturb(network, images, labels, seed=0))
    cases = {
        "plain": (plain, 1.0, None),
        "fgsm: clean + FGSM, shared": (step_of(network, images, labels, method="fgsm"), 2.0, 2.15),
        "the same in separate passes": (separate_passes, 2.67, None),
        "fgsm: FGSM only": (step_of(network, images, labels, method="fgsm", clean_share=0.0), 1.67, 1.8),
        "fgsm: predicted labels": (
            step_of(network, images, labels, method="fgsm", attacks=[{**FGSM, "labels": "predicted"}]), 2.67, None),
        "fgsm_rs": (step_of(network, images, labels, method="fgsm_rs"), 1.67, 1.1 * 1.67),
        "pgd, 2 steps": (step_of(network, images, labels, method="pgd", attacks=[pgd(2)]), 2.33, 1.1 * 2.34),
        "pgd, 7 steps": (step_of(network, images, labels, method="pgd", attacks=[pgd(7)]), 5.67, 1.1 * 5.69),
        "free, a replay": (step_of(network, images, labels, method="free", replays=1), 1.0, None),
        "trades, 2 steps": (step_of(network, images, labels, method="trades", attacks=[pgd(2)]), 3.67, None),
    }
    seconds = paired({name: case[0] for name, case in cases.items()}, repeats=REPEATS, warm_up=2)
    rows, results = [], {}
    for name, (_, physical, limit) in cases.items():
        times = ratio(seconds[name], seconds["plain"])
        results[name] = {"seconds": min(seconds[name]), "ratio": times, "passes": physical, "limit": limit}
        kept = None if limit is None else ("yes" if times["median"] <= limit else "NO")
        rows.append([name, 1000 * min(seconds[name]), *times.values(), physical, limit, kept])
    columns = ["step", "ms, best", "x plain", "low", "high", "by passes", "limit", "within"]
    print(table(f"Training steps, even_deeper_cnn, {dataset.name}, batch {BATCH}, float32", columns, rows))
    return results


def optimizers(dataset) -> dict:
    """An update of all weights by Keras's Adam and by the fused one."""
    rows, results = [], {}
    for name, size in (("even_deeper_cnn", 32), ("resnet50", 112)):
        network = models.build(models.ModelSettings(name=name), (size, size, 3), 10, seed=0)
        updates = {"keras": _update(network, keras.optimizers.Adam(1e-4)), "fused": _update(network, FusedAdam(1e-4))}
        seconds = paired(updates, repeats=2 * REPEATS, warm_up=2)
        results[name] = ratio(seconds["keras"], seconds["fused"])
        best = [1000 * min(seconds[kind]) for kind in ("keras", "fused")]
        rows.append([name, network.count_params() / 1e6, *best, *results[name].values()])
    columns = ["network", "million weights", "Keras, ms", "fused, ms", "times faster", "low", "high"]
    print(table("An update by Adam", columns, rows))
    return results


def _update(network, optimizer) -> Callable:
    gradients = [tf.fill(variable.shape, 1e-3) for variable in network.trainable_variables]
    optimizer.build(network.trainable_variables)

    @tf.function
    def update():
        optimizer.apply(gradients, network.trainable_variables)
        return optimizer.iterations + 0

    return lambda: update().numpy()


def precision(dataset) -> dict | str:
    """What `auto` brings over float32."""
    if choose_precision("auto") == "float32":
        print(f"\nauto against float32: {NOT_MEASURED}")
        return NOT_MEASURED
    network = networks.network(dataset)
    images, labels = map(tf.constant, dataset.part("train", BATCH))
    cases = {f"{method}, {kind}": step_of(twin(network, kind), images, labels, method=method)
             for method in ("plain", "fgsm") for kind in ("float32", "bfloat16")}
    seconds = paired(cases, repeats=REPEATS, warm_up=2)
    results = {method: ratio(seconds[f"{method}, float32"], seconds[f"{method}, bfloat16"])
               for method in ("plain", "fgsm")}
    rows = [[method, *times.values(), 2.5] for method, times in results.items()]
    columns = ["method", "times faster", "low", "high", "aim"]
    print(table("Training in `auto` (bfloat16) against float32", columns, rows))
    return results


def accuracy(_dataset, seeds: int = 6) -> dict:
    """What bfloat16 costs in final accuracy, judged in float32: pairs of trainings that differ in nothing else."""
    chosen = experiment.load("digits_fgsm", "demo", "{data: {split: {test: 600}}}")
    dataset = data.load(chosen.data, seed=0)
    usual = chosen.baseline.model_copy(update={"schedule": "cosine", "robust_check": None})
    kinds = {"plain": usual, "clean + FGSM": usual.model_copy(update={"method": "fgsm", "attacks": (SEEN_ON_DIGITS,)})}
    rows, results = [], {}
    for kind, settings in kinds.items():
        wide, narrow = (np.array([_outcome(chosen, settings.model_copy(update={"precision": each}), dataset, seed)
                                  for seed in range(seeds)]) for each in ("float32", "bfloat16"))
        for column, judged in enumerate(("clean", "FGSM 32/255")):
            lost = wide[:, column] - narrow[:, column]
            reach = float(stats.t.ppf(0.975, seeds - 1)) * lost.std(ddof=1) / seeds**0.5
            rows.append([kind, judged, wide[:, column].mean(), narrow[:, column].mean(), lost.mean(), reach, 1.0])
            results[f"{kind}, {judged}"] = {"float32": wide[:, column].tolist(), "bfloat16": narrow[:, column].tolist()}
    columns = ["training", "judged", "float32, %", "bfloat16, %", "lost, points", "+-, 95 %", "limit"]
    print(table(f"Accuracy after training in bfloat16, {dataset.name}, {seeds} seeds", columns, rows))
    return results


def _outcome(chosen, settings, dataset, seed: int) -> tuple[float, float]:
    """Accuracy on the test part after this training, clean and in FGSM, in per cent."""
    network = models.build(chosen.model, dataset.images.shape[1:], len(dataset.class_names), seed)
    with tempfile.TemporaryDirectory() as folder:
        training.train(network, dataset, settings, Path(folder), seed=seed, progress=False)
    images, labels = dataset.part("test")
    clean = (models.predict_logits(network, images).argmax(1) == labels).mean()
    return 100 * float(clean), 100 * attacks.run(SEEN_ON_DIGITS, network, images, labels).accuracy


def resnet(size: int = 112, batch: int = 16) -> dict:
    """ResNet-50 from scratch: images a second, and where a step's time goes."""
    network = models.build(models.ModelSettings(name="resnet50"), (size, size, 3), 3, seed=0)
    images = tf.random.stateless_uniform((batch, size, size, 3), (1, 2))
    labels = tf.zeros((batch,), tf.int32)
    cases = {
        "Keras's layers and Adam": step_of(network, images, labels, optimizer=keras.optimizers.Adam(1e-4)),
        "kit, float32": step_of(twin(network, "float32"), images, labels),
        "kit, float32, forward pass alone": _forward(twin(network, "float32"), images),
        "kit, float32, batch norm frozen": step_of(twin(network, "float32"), images, labels, frozen=True),
    }
    if choose_precision("auto") == "bfloat16":
        cases["kit, auto (bfloat16)"] = step_of(twin(network, "bfloat16"), images, labels)
    else:
        print(f"\nResNet-50 in auto: {NOT_MEASURED}")
    seconds = paired(cases, repeats=REPEATS, warm_up=2)
    speeds = {name: batch / min(times) for name, times in seconds.items()}
    times = {name: ratio(each, seconds["kit, float32"]) for name, each in seconds.items()}
    rows = [[name, speeds[name], *times[name].values()] for name in cases]
    columns = ["step", "images/s, best", "time / kit's", "low", "high"]
    print(table(f"ResNet-50, {size} px, batch {batch} (aim in auto on AMX: 40 images/s)", columns, rows))
    return {"images per second": speeds, "time": times}


def _forward(network, images) -> Callable:
    forward = tf.function(lambda: network(images, training=True))
    return lambda: forward().numpy()


def pipeline(dataset) -> dict:
    """Time of the input pipeline a batch (with flips and rotations), as a share of a plain step."""
    examples = Examples(dataset.images, dataset.labels, dataset.split["train"])
    images, labels = map(tf.constant, dataset.part("train", BATCH))
    step = step_of(networks.network(dataset), images, labels)
    stream = iter(training_batches(examples, BATCH, Augmentation(flip=True, rotation=15), seed=0))

    def ten_batches():
        for _ in range(10):
            next(stream)

    seconds = paired({"step": step, "pipeline": ten_batches}, repeats=REPEATS, warm_up=2)
    share = {name: value / 10 for name, value in ratio(seconds["pipeline"], seconds["step"]).items()}
    rows = [[100 * share["median"], 100 * share["low"], 100 * share["high"], 5.0]]
    print(table("Input pipeline, per cent of a plain step", ["median", "low", "high", "limit"], rows))
    return share


# The kernel's own mark of this program: getrusage also counts what the program that started it had in memory.
_MEMORY = """
import pathlib, re, tempfile
import keras
from benchmarks import networks
from kitlib import training
dataset = networks.dataset(images=None)
class Enough(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 5:
            raise KeyboardInterrupt
settings = training.TrainingSettings(method="fgsm", augmentation={"flip": True, "rotation": 15})
try:
    with tempfile.TemporaryDirectory() as folder:
        training.train(networks.network(dataset), dataset, settings, folder, progress=False, callbacks=[Enough()])
except KeyboardInterrupt:
    status = pathlib.Path("/proc/self/status").read_text()
    print("GiB", int(re.search(r"VmHWM:\\s+([0-9]+) kB", status)[1]) / 2**20)
"""


def memory(dataset) -> float:
    """Peak memory of a process that loads all of the data and trains with clean + FGSM batches, in GiB (Linux only)."""
    done = subprocess.run([sys.executable, "-c", _MEMORY], capture_output=True, text=True, check=True)
    peak = float(done.stdout.split("GiB")[1])
    print(table(f"Memory of clean + FGSM training on {dataset.name}", ["peak, GiB", "limit"], [[peak, 2.5]]))
    return peak


# Prints the seconds of a second epoch, after which nothing is compiled any more.
_EPOCH = """
import tempfile
from benchmarks import networks
from kitlib import models, training
dataset = networks.dataset(images=2560)
settings = training.TrainingSettings(method="pgd", attacks=[%r], epochs=2)
wanted = models.ModelSettings(name="%s", options=%r)
network = models.build(wanted, dataset.images.shape[1:], len(dataset.class_names), seed=0)
with tempfile.TemporaryDirectory() as folder:
    print("seconds", training.train(network, dataset, settings, folder, progress=False)["seconds"][1])
"""
ALLOCATED = {"even_deeper_cnn": {}, "small_resnet": {"widths": [48, 96, 192], "blocks": 1, "first_stride": 2}}


def allocator(dataset) -> dict:
    """PGD-2 training where malloc keeps freed memory, as kitlib asks it to, against glibc's own way (Linux only)."""
    rows, results = [], {}
    for name, options in ALLOCATED.items():
        script = _EPOCH % (pgd(2), name, options)
        cases = {"kitlib": {}, "glibc": USUAL_MALLOC}
        seconds = {case: [] for case in cases}
        for _ in range(3):
            for case, variables in cases.items():
                done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True,
                                      env={**os.environ, **variables})
                seconds[case].append(float(done.stdout.split("seconds")[1]))
        results[name] = ratio(seconds["glibc"], seconds["kitlib"])
        rows.append([name, *map(min, seconds.values()), *results[name].values()])
    columns = ["network", "kept, s", "handed back, s", "times faster", "low", "high"]
    print(table(f"An epoch of PGD-2 training on {dataset.name} with freed memory kept", columns, rows))
    return results


# attack, the kit's settings, and whether each batch also makes a step on its clean images
KINDS = {
    "FGSM only": (FGSM, {"method": "fgsm", "attacks": [FGSM], "clean_share": 0.0}, False),
    "PGD-7": (pgd(7), {"method": "pgd", "attacks": [pgd(7)]}, False),
    "clean + FGSM": (FGSM, {"method": "fgsm", "attacks": [FGSM]}, True),
}


def epoch_case(who: str, kind: str, count: int) -> Callable:
    """An epoch of one kind of training by one of "kitlib", "ART", "CleverHans loop"."""
    dataset = networks.dataset()
    pixels, labels = dataset.part("train", count)
    attack, values, clean = KINDS[kind]
    if who == "kitlib":
        return _kit_epoch(dataset, pixels, labels, values)
    if who == "ART":
        return _art_epoch(dataset, pixels, labels, attack)
    return _cleverhans_epoch(dataset, pixels, labels, attack, clean)


def peers(_dataset, count: int = 512) -> dict:
    """The same epoch of `count` images in the kit and in peers: the same attack, the same number of updates.

    ART's AdversarialTrainer with ratio 1 trains on the attacked images alone, as CleverHans's CIFAR-10 tutorial
    does; clean + FGSM is the hand-written loop's with a plain and an adversarial loss.
    """
    rows, results = [], {}
    with Elsewhere() as there:
        for kind, (_, _, clean) in KINDS.items():
            others = ["CleverHans loop"] if clean else ["ART", "CleverHans loop"]
            cases = {"kitlib": epoch_case("kitlib", kind, count)}
            cases |= {who: epoch_case(who, kind, count) for who in others}
            cases |= {f"{who}, as installed": there.case("benchmarks.training:epoch_case", who=who, kind=kind,
                                                         count=count) for who in others}
            _compare(kind, paired(cases, repeats=3), rows, results, count)
    columns = ["training", "peer", "peer, images/s", "kit, images/s", "kit times faster", "low", "high", "aim"]
    print(table(f"An epoch of {count} images, batch {BATCH}, against peers, float32", columns, rows))
    return results


def _compare(kind, seconds, rows, results, count):
    for peer in list(seconds)[1:]:
        times = ratio(seconds[peer], seconds["kitlib"])
        results[f"{kind}, {peer}"] = times
        speeds = [count / min(seconds[name]) for name in (peer, "kitlib")]
        rows.append([kind, peer, *speeds, *times.values(), 2.0])


# network, its options here, size of the images, batch
TORCH_CASES = [("even_deeper_cnn", {}, 32, 128), ("small_resnet", {}, 32, 128), ("resnet50", {}, 96, 16),
               ("resnet50", {}, 224, 16)]


def torch(python: str, classes: int = 10) -> dict:
    """Plain and clean + FGSM steps of the kit and of PyTorch (benchmarks.torch_training), in turns."""
    rows, results = [], {}
    precisions = ["float32", "bfloat16"] if choose_precision("auto") == "bfloat16" else ["float32"]
    with Elsewhere(python) as there:
        for name, options, size, batch in TORCH_CASES:
            network = models.build(models.ModelSettings(name=name, options=options), (size, size, 3), classes, seed=0)
            images, labels = tf.random.stateless_uniform((batch, size, size, 3), (1, 2)), tf.zeros(batch, tf.int32)
            for kind, method in itertools.product(precisions, ("plain", "fgsm")):
                cases = {"kitlib": step_of(twin(network, kind), images, labels, method=method),
                         "PyTorch": there.case("torch_training:step_case", network=name, method=method,
                                               precision=kind, size=size, batch=batch, classes=classes)}
                seconds = paired(cases, repeats=REPEATS, warm_up=3)
                case = f"{name}, {size} px, {kind}, {method}"
                results[case] = ratio(seconds["PyTorch"], seconds["kitlib"])
                rows.append([case, *(batch / min(seconds[who]) for who in cases), *results[case].values()])
    columns = ["step", "kitlib, images/s", "PyTorch, images/s", "kit times faster", "low", "high"]
    print(table("Training steps against PyTorch (channels-last, fused Adam)", columns, rows))
    return results


def _kit_epoch(dataset, pixels, labels, values) -> Callable:
    """What `fit` does in an epoch after the first: its compiled function on its one running stream of batches."""
    network = networks.network(dataset)
    settings = training.TrainingSettings.read({"batch_size": BATCH, **values}, "benchmark")
    step = training.training_for(settings, network)
    step.compile(optimizer=FusedAdam(1e-4), jit_compile=False)
    step.optimizer.build(network.trainable_variables)
    step.make_train_function()
    images = np.round(pixels * 255).astype(np.uint8)
    stream = iter(training_batches(Examples(images, labels, np.arange(len(images))), BATCH, Augmentation(), 0))

    def epoch():
        for _ in range(len(images) // BATCH):
            loss = step.train_function(stream)["loss"]
        return float(loss)

    return epoch


def _art_epoch(dataset, pixels, labels, attack) -> Callable:
    from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescentTensorFlowV2
    from art.defences.trainer import AdversarialTrainer
    from art.estimators.classification import TensorFlowV2Classifier

    network, classes = networks.network(dataset), len(dataset.class_names)
    optimizer, loss = keras.optimizers.Adam(1e-4), keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    @tf.function
    def train_step(model, images, labels):
        with tf.GradientTape() as tape:
            value = loss(labels, model(images, training=True))
        optimizer.apply(tape.gradient(value, model.trainable_variables), model.trainable_variables)

    classifier = TensorFlowV2Classifier(
        network, classes, pixels.shape[1:], loss_object=loss, train_step=train_step, clip_values=(0.0, 1.0))
    eps = attacks.read(attack).eps
    if attack["name"] == "fgsm":
        art_attack = FastGradientMethod(classifier, eps=eps, batch_size=BATCH)
    else:
        art_attack = ProjectedGradientDescentTensorFlowV2(
            classifier, eps=eps, eps_step=attacks.read(attack).step, max_iter=attack["steps"], num_random_init=1,
            batch_size=BATCH, verbose=False)
    trainer = AdversarialTrainer(classifier, art_attack, ratio=1.0)
    def epoch():
        trainer.fit(pixels, labels, batch_size=BATCH, nb_epochs=1)

    return epoch


def _cleverhans_epoch(dataset, pixels, labels, attack, clean: bool) -> Callable:
    """The loop of CleverHans's tutorials/tf2/cifar10_tutorial.py: attack called plainly, step compiled."""
    from cleverhans.tf2.attacks.fast_gradient_method import fast_gradient_method
    from cleverhans.tf2.attacks.projected_gradient_descent import projected_gradient_descent

    network = networks.network(dataset)
    optimizer, loss = keras.optimizers.Adam(1e-4), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    settings = attacks.read(attack)

    @tf.function
    def train_step(images, labels):
        with tf.GradientTape() as tape:
            value = loss(labels, network(images, training=True))
        optimizer.apply(tape.gradient(value, network.trainable_variables), network.trainable_variables)

    def attacked(images, labels):
        if attack["name"] == "fgsm":
            return fast_gradient_method(network, images, settings.eps, np.inf, clip_min=0.0, clip_max=1.0, y=labels)
        return projected_gradient_descent(
            network, images, settings.eps, settings.step, settings.steps, np.inf, clip_min=0.0, clip_max=1.0,
            y=labels, sanity_checks=False)

    def epoch():
        for images, batch_labels in tf.data.Dataset.from_tensor_slices((pixels, labels)).batch(BATCH):
            if clean:
                train_step(images, batch_labels)
            train_step(attacked(images, batch_labels), batch_labels)

    return epoch


PARTS = {
    "steps": steps, "optimizers": optimizers, "precision": precision, "accuracy": accuracy,
    "resnet": lambda _: resnet(), "pipeline": pipeline, "memory": memory,
    "allocator": allocator, "peers": peers,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="part", help="default: all")
    parser.add_argument("--torch", metavar="PYTHON", help="the interpreter of an environment with PyTorch")
    asked = parser.parse_args()
    if asked.torch:
        PARTS["torch"] = lambda _: torch(asked.torch)
    chosen = asked.parts or list(PARTS)
    if "torch" in chosen and not asked.torch:
        parser.error("torch needs --torch PYTHON, the interpreter of an environment with PyTorch")
    if unknown := set(chosen) - PARTS.keys():
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    dataset = networks.dataset()
    results, started = {}, time.perf_counter()
    for part in chosen:
        results[part] = PARTS[part](dataset)
    write("training" if len(chosen) == len(PARTS) else "training-" + "-".join(chosen), results)
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
