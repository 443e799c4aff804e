"""A finished run of digits that takes seconds: notebooks 01 to 05 without their prose."""
from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import keras

from kitlib import attacks, data, evaluation, models
from kitlib.experiments import results, runs
from kitlib.experiments.runs import Run

NOISE = attacks.read({"name": "noise", "eps": "8/255", "kind": "sign"})  # in place of every attack: it takes no time
SMALL = {"model": {"options": {"widths": [8, 8, 16, 16], "dense": [32], "dropout": 0.0}}, "data": {"size": 16},
         "evaluation": {"images": 60}}


def finished() -> Run:
    """In the folder of runs that KITLIB_RUNS names; both its models are about 95 % right."""
    run = runs.open_run("digits_fgsm", "demo", 0, SMALL)
    dataset = data.load(run.experiment.data, seed=run.seed)
    dataset.save(run.path("prepared.npz"))
    run.write_record("data", {"report": dataset.report()})
    images, labels = dataset.part("test", run.experiment.evaluation.images)
    judged = {}
    for number, name in enumerate(("baseline", "defended")):
        run.save_model(name, _trained(run, dataset, seed=number))
        run.write_record(name, {"history": {"seconds": [1.0]}, "precision": "float32", "seconds": 1.0})
        suite = dict.fromkeys(run.experiment.attacks.all(), NOISE)
        found = evaluation.evaluate(run.model(name), images, labels, suite, progress=False)
        judged[name] = results.model_results(found, run.experiment, dataset.class_names)
    results.write(results.collect(run, dataset, judged), run.folder)
    return run


def copy_of(run: Run, folder: Path) -> Run:
    """The same run in another folder, for a test that changes it."""
    return dataclasses.replace(run, folder=shutil.copytree(run.folder, folder))


def _trained(run: Run, dataset, seed: int) -> keras.Model:
    model = models.build(run.experiment.model, dataset.images.shape[1:], len(dataset.class_names), seed=seed)
    model.compile(keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(dataset.pixels("train"), dataset.labels_of("train"), batch_size=32, epochs=5, verbose=0)
    return model
