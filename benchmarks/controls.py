"""The controls of kitlib.evaluation.controls on the published networks: `python -m benchmarks.controls`.

    KITLIB_DATA=my_data python -m benchmarks.controls cifar10_exp2 cifar10_exp4 lung_ct_small lung_ct_grouped

Nothing is trained. Each experiment's record is figures/<experiment>/records/controls.json: for paper A's networks the
leak, isolated, and the rival readings of its figures at every unit that its epsilon may have; for paper B's the clamp
and the tanh without any attack, with stored and with re-estimated batch-norm statistics.
"""
from __future__ import annotations

import argparse

from kitlib import data
from kitlib.base.files import write_json
from kitlib.base.machine import environment
from kitlib.evaluation import controls
from kitlib.experiments import experiment as experiments
from kitlib.experiments import pretrained, runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiments", nargs="+")
    parser.add_argument("--images", type=int, default=1000, help="test images, at most (default: 1000)")
    chosen = parser.parse_args()
    for name in chosen.experiments:
        found = pretrained.collections()[name]
        run = runs.open_run(name, found.profile, found.seed)
        dataset = data.load(run.experiment.data, seed=run.seed)
        measure = paper_a if run.experiment.paper == "A" else paper_b
        networks = {each: measure(pretrained.load(f"{name}/{each}"), run, dataset, chosen.images)
                    for each in found.models}
        record = {"fingerprint": run.fingerprint, "environment": environment(), "source": dataset.source,
                  "images": min(chosen.images, len(dataset.split["test"])), "models": networks}
        path = pretrained.FIGURES / name / "records" / "controls.json"
        write_json(path, record)
        print("written:", path.relative_to(pretrained.FIGURES.parent))


def paper_a(model, run, dataset, count: int) -> dict:
    """The leak at the training's own attack; the readings at every epsilon and unit of the paper's figures."""
    images, labels = dataset.part("test", count)
    seen = dataset.part("train", count)
    attack = next(iter(run.experiment.attacks.as_published.values()))
    normalisation = run.experiment.model.normalisation
    eps = attack.eps * normalisation.std
    box = None if attack.clip is None else tuple(map(normalisation.to_pixels, attack.clip))
    leak = {"random label": controls.random_label(model, images, labels, eps, box, run.seed),
            "mistakes mended": controls.mended(model, images, labels, eps, box),
            "swapped perturbation, says": controls.swapped(model, images, labels, eps, box)}
    found = {name: {what: each.record() for what, each in row.items()} for name, row in leak.items()}
    found["perturbation on grey"] = controls.on_grey(model, images, labels, eps, box).record()
    rivals = {}
    for size in published_epsilons():
        rows = controls.readings(model, images, labels, controls.units(size, normalisation.std), box=box,
                                 mean=normalisation.mean, training_part=seen, seed=run.seed)
        rivals[f"{size:g}"] = {name: {unit: each.record() for unit, each in row.items()} for name, row in rows.items()}
    clean = controls.Accuracy.of(controls.predictions(model, images) == labels)
    return {"clean": clean.record(), "attack": str(attack), **found, "readings": rivals}


def published_epsilons() -> list[float]:
    """Every epsilon of paper A's own figures."""
    suites = [experiments.load(name, "full").attacks.as_published for name in experiments.of_paper("A")]
    return sorted({attack.eps for suite in suites for attack in suite.values()})


def paper_b(model, run, dataset, count: int) -> dict:
    images, labels = dataset.part("test", count)
    rows = controls.clamps(model, images, labels, run.experiment.model.normalisation)
    return {name: {which: each.record() for which, each in row.items()} for name, row in rows.items()}


if __name__ == "__main__":
    main()
