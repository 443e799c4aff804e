"""Paper A's choices in the open: its FGSM training under many settings that it leaves open, drawn at random.

    KITLIB_DATA=my_data python -m benchmarks.specifications            # goes on where it was stopped

The paper gives an epsilon and an optimizer. It does not give the share of clean images, the widths, the clip, the
weight decay, the epochs, the learning rate, or what epsilon is measured in. DRAWN settings are drawn from all
combinations of CHOICES, before any outcome is known, and each is trained on experiment 2's demo data, once. The record,
figures/specifications/paper_a.json, has the outcome of every one on the validation part and on the test part.
"""
from __future__ import annotations

import argparse
import itertools

import numpy as np

from kitlib import attacks, data, models, plots, prepare, training
from kitlib.base.files import read_json, write_json
from kitlib.base.machine import environment
from kitlib.base.places import REPOSITORY, runs_folder
from kitlib.evaluation import Accuracy
from kitlib.experiments import experiment as experiments

EXPERIMENT, PROFILE, SEED = "cifar10_exp2", "demo", 0
DRAWN = 40
PGD_IMAGES = 200
# eps is 1.0 throughout; a unit says how many normalised values, from -1 to 1, that is
CHOICES = {
    "clean share": [0.5, 0.7, 0.9],
    "widths": [[16, 16, 32, 32], [32, 32, 64, 64]],
    "clip": [[-1, 1], [0, 1], None],
    "weight decay": [0.0, 0.2],
    "epochs": [3, 6],
    "learning rate": [3e-4, 1e-3, 3e-3],
    "eps unit": {"normalised values": 1.0, "pixels in [0, 1]": 2.0, "pixels in 0 to 255": 2 / 255},
}


def drawn() -> list[dict]:
    """The settings, in the order in which they are trained."""
    every = [dict(zip(CHOICES, values, strict=True)) for values in itertools.product(*CHOICES.values())]
    places = np.random.default_rng(SEED).permutation(len(every))[:DRAWN]
    return [every[place] for place in places]


def experiment_of(chosen: dict):
    """The experiment with these settings in place of its own."""
    loaded = experiments.load(EXPERIMENT, PROFILE)
    attack = next(iter(loaded.attacks.as_published.values())).model_dump(mode="json")
    attack |= {"eps": CHOICES["eps unit"][chosen["eps unit"]], "clip": chosen["clip"]}
    return experiments.load(EXPERIMENT, PROFILE, {
        "model": {"options": {"widths": chosen["widths"]}},
        "defended": {"attacks": [attack], "clean_share": chosen["clean share"], "epochs": chosen["epochs"],
                     "learning_rate": chosen["learning rate"], "weight_decay": chosen["weight decay"],
                     "robust_check": None}})


def outcome(chosen: dict) -> dict:
    """Train with these settings; accuracies on the validation part and, of the same network, on the test part."""
    asked = experiment_of(chosen)
    dataset = data.load(asked.data, seed=SEED)
    model = models.build(asked.model, dataset.images.shape[1:], len(dataset.class_names), seed=SEED)
    training.train(model, dataset, asked.defended, runs_folder() / "checkpoints", seed=SEED, progress=False)
    return {part: judged(model, asked, *dataset.part(part)) for part in ("validation", "test")}


def judged(model, asked, images, labels) -> dict[str, dict]:
    fgsm = asked.defended.attacks[0]
    suite = {"FGSM": fgsm, "FGSM, predicted labels": fgsm.model_copy(update={"labels": "predicted"})}
    found = {name: attacks.run(attack, model, images, labels, seed=SEED, keep_images=False).fooled
             for name, attack in suite.items()}
    right = {"clean": models.predict_logits(model, images).argmax(1) == labels}
    right |= {name: ~fooled for name, fooled in found.items()}
    few = slice(PGD_IMAGES)
    pgd = attacks.run(asked.attacks.as_defined["PGD 8/255"], model, images[few], labels[few], seed=SEED,
                      keep_images=False)
    return {name: Accuracy.of(each).record() for name, each in right.items()} | {
        "PGD 8/255": Accuracy.of(~pgd.fooled).record()}


def draw(rows: list[dict], path) -> None:
    shown = [{"settings": row["settings"], "measured": {
        name: Accuracy(row["test"][name]["correct"], row["test"][name]["count"]) for name in ("clean", "FGSM")}}
        for row in rows]
    title = f"Paper A's FGSM training, {len(rows)} settings drawn at random: test accuracy"
    plots.keep(plots.specification_curve(shown, "clean", "FGSM", title), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=int, default=DRAWN, help="so many of the drawn settings")
    only = parser.parse_args().only
    path = REPOSITORY / "figures" / "specifications" / "paper_a.json"
    prepare()
    record = read_json(path) if path.exists() else {"rows": []}
    rows = [row for row in record["rows"] if row["settings"] in drawn()]
    for number, chosen in enumerate(drawn()[:only], 1):
        if chosen in [row["settings"] for row in rows]:
            continue
        rows.append({"settings": chosen, **outcome(chosen)})
        write_json(path, {"experiment": EXPERIMENT, "profile": PROFILE, "seed": SEED, "drawn": DRAWN,
                          "combinations": int(np.prod([len(each) for each in CHOICES.values()])),
                          "environment": environment(), "rows": rows})
        test = rows[-1]["test"]
        print(f"{number} of {only}: {chosen}: clean {test['clean']['accuracy']:.1%}, "
              f"FGSM {test['FGSM']['accuracy']:.1%}", flush=True)
    draw(rows, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
