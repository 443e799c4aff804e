"""Does the audit find what independent judges find? `python -m benchmarks.agreement --models a.keras b.keras`.

The worst case of the audit's ensemble against the strongest comparable attacks of Foolbox (PGD with restarts, FMN) and
ART (Auto-PGD with two losses, PGD with restarts, Square), on the same images, with the audit's steps and queries (PGD:
those of its doubled PGD). A peer's attack goes on with what its earlier ones left, as in AutoAttack, which changes no
worst case; the audit does so from Square and the targeted attack on. Adversarial images of every library are judged by
one function. Without --models, the benchmarks' own networks are taken. Where images resist, ART's Square takes hours on
two cores: `--without Square` leaves it out.
"""
from __future__ import annotations

import argparse
import time
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from benchmarks import common, networks
from benchmarks.attacks import art_classifier, in_batches
from kitlib import audit, data, models
from kitlib.base.settings import format_epsilon, parse_epsilon
from kitlib.evaluation import Accuracy
from kitlib.models.wiring import image_shape


def main() -> None:
    chosen = arguments()
    effort = (audit.QUICK if chosen.quick else audit.FULL).model_copy(update={"images": chosen.images})
    effort = effort.model_copy(update={"queries": chosen.queries} if chosen.queries else {})
    found = {}
    for name, model, dataset in judged(chosen):
        images, labels = dataset.part("test", chosen.images, seed=0)
        found[name] = compare(name, model, images, labels, dataset.class_names, effort, chosen)
    common.write("agreement", {"settings": vars(chosen), "effort": effort.model_dump(), "models": found})


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=[], help="saved models: pixels in [0, 1] to logits")
    parser.add_argument("--data", default="cifar10", help="data set whose test images are judged")
    parser.add_argument("--size", type=int, help="of its images (default: the data set's)")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--eps", type=parse_epsilon, default=8 / 255)
    parser.add_argument("--queries", type=int, help="of Square (default: the audit's)")
    parser.add_argument("--restarts", type=int, default=5, help="of the peers' PGD; the audit's doubled PGD has 2")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--quick", action="store_true", help="the audit's quick effort, for all")
    parser.add_argument("--without", nargs="+", default=[], help="peers' attacks to leave out, by name")
    return parser.parse_args()


def judged(chosen):
    """(name, model, data set) for each model."""
    if not chosen.models:
        dataset = networks.dataset()
        yield from ((kind, networks.trained(kind, dataset), dataset) for kind in networks.TRAINING)
        return
    for path in map(Path, chosen.models):
        model = models.load(path)
        _, size, channels = image_shape(model)
        settings = {"name": chosen.data, "size": chosen.size or size, "channels": channels}
        yield path.stem, model, data.load(data.DataSettings.read(settings, "--data"), seed=0)


def compare(name: str, model, images, labels, class_names, effort, chosen) -> dict:
    """One model: accuracy left and seconds of every attack, and the worst case of each library."""
    clean = models.predict_logits(model, images).argmax(1) == labels
    print(f"{name}: {len(images)} images, {100 * clean.mean():.1f} % clean", flush=True)
    rights, rows = {}, []
    for library, attacks in {"kitlib": None, **peers(model, images, effort, chosen)}.items():
        judged = (ours(model, images, labels, class_names, effort, chosen) if attacks is None
                  else theirs(model, images, labels, attacks, clean, chosen))
        for attack, (right, seconds) in judged.items():
            rows.append([library, attack, None if right is None else 100 * float(right.mean()), seconds])
        rights[library] = np.logical_and.reduce([right for right, _ in judged.values() if right is not None])
        rows.append([library, "worst case", 100 * float(rights[library].mean()),
                     sum(seconds for _, seconds in judged.values())])
        print("  {}, {}: {:.1f} %, {:.0f} s".format(*rows[-1]), flush=True)
    columns = ["library", "attack", "accuracy left, %", "seconds"]
    print(common.table(f"{name}: {len(images)} images, eps {format_epsilon(chosen.eps)}", columns, rows), flush=True)
    agreement = {library: agreed(rights["kitlib"], right) for library, right in rights.items() if library != "kitlib"}
    for library, each in agreement.items():
        print(f"kitlib's worst case minus {library}'s: {each['points']:+.1f} points; {each['only_peer']} images fall "
              f"to {library} alone, {each['only_kitlib']} to kitlib alone", flush=True)
    return {"clean": Accuracy.of(clean).record(), "rows": [dict(zip(columns, row, strict=True)) for row in rows],
            "agreement": agreement, "worst_case": {name: Accuracy.of(right).record() for name, right in rights.items()}}


def agreed(ours: np.ndarray, theirs: np.ndarray) -> dict:
    """Difference of the two worst cases in points, and how many images only one of the two turns."""
    return {"points": 100 * float(ours.mean() - theirs.mean()), "only_peer": int((ours & ~theirs).sum()),
            "only_kitlib": int((theirs & ~ours).sum())}


def ours(model, images, labels, class_names, effort, chosen) -> dict:
    """The audit's ensemble: {attack: (right, seconds)}; right is None for the time that is spent beside attacks."""
    target = audit.prepare(model, images[:16], input_range=(0, 1))
    subject = audit.Subject(target, images, labels, class_names, chosen.eps)
    started = time.perf_counter()
    ensemble = audit.Measurements(subject, effort, say=lambda line: print(f"  {line}", flush=True)).ensemble
    total = time.perf_counter() - started
    found = {name: (each.right, each.seconds) for name, each in ensemble.items()}
    rest = total - sum(seconds for _, seconds in found.values())
    return {**found, "(judging, undefended model)": (None, rest)}


def theirs(model, images, labels, attacks: dict[str, Callable], clean: np.ndarray, chosen) -> dict:
    """The attacks of a peer by turns, each on the images (clean: bool N, those right without attack) still right."""
    left, found = clean, {}
    for name, attack in attacks.items():
        started = time.perf_counter()
        left = left & still_right(model, images, labels, attack, left, chosen)
        found[name] = left, time.perf_counter() - started
        print(f"  {name}: {100 * left.mean():.1f} % left, {found[name][1]:.0f} s", flush=True)
    return found


def still_right(model, images, labels, attack: Callable, which: np.ndarray, chosen) -> np.ndarray:
    """Which of the images `which` (bool N) the model still gets right after the attack; false for the others."""
    right = np.zeros_like(which)
    if which.any():
        adversarial = in_batches(attack, images[which], labels[which], chosen.batch)
        within = np.clip(adversarial, images[which] - chosen.eps, images[which] + chosen.eps).clip(0, 1)
        right[which] = models.predict_logits(model, within.astype(np.float32)).argmax(1) == labels[which]
    return right


def peers(model, images, effort, chosen) -> dict[str, dict[str, Callable]]:
    """Attacks by library, of the libraries that are installed."""
    found = {}
    for library, make in (("Foolbox", foolbox_attacks), ("ART", art_attacks)):
        try:
            attacks = make(model, images, effort, chosen)
        except ImportError as error:
            print(f"left out: {error}")
            continue
        found[library] = {name: attack for name, attack in attacks.items() if name not in chosen.without}
    return {library: attacks for library, attacks in found.items() if attacks}


def foolbox_attacks(model, _images, effort, chosen) -> dict[str, Callable]:
    import foolbox

    wrapped = foolbox.TensorFlowModel(model, bounds=(0, 1))
    steps = 2 * effort.steps

    def call(attack, eps=chosen.eps):
        return lambda x, y: attack(wrapped, tf.constant(x), tf.constant(y, tf.int64), epsilons=eps)[1]

    pgd = foolbox.attacks.LinfPGD(abs_stepsize=2.5 * chosen.eps / steps, steps=steps, random_start=True)
    restarts = {f"PGD-{steps}, start {number + 1}": call(pgd) for number in range(chosen.restarts)}
    return {**restarts, f"FMN-{effort.apgd_steps}": call(foolbox.attacks.LInfFMNAttack(steps=effort.apgd_steps))}


def art_attacks(model, images, effort, chosen) -> dict[str, Callable]:
    from art.attacks.evasion import AutoProjectedGradientDescent, ProjectedGradientDescent, SquareAttack

    # ART 1.20's Auto-PGD asks for an enumeration that Keras 3 no longer has; these are its values in ART's own losses.
    tf.keras.losses.Reduction = types.SimpleNamespace(NONE="none", SUM="sum", SUM_OVER_BATCH_SIZE="mean")
    classifier, steps = art_classifier(model, images), 2 * effort.steps
    usual = {"eps": chosen.eps, "batch_size": chosen.batch, "verbose": False}
    apgd = {**usual, "eps_step": 2 * chosen.eps, "max_iter": effort.apgd_steps, "nb_random_init": 1}
    pgd = ProjectedGradientDescent(
        classifier, eps_step=2.5 * chosen.eps / steps, max_iter=steps, num_random_init=1, **usual)
    made = {
        "Auto-PGD cross-entropy": AutoProjectedGradientDescent(classifier, loss_type="cross_entropy", **apgd),
        "Auto-PGD DLR": AutoProjectedGradientDescent(classifier, loss_type="difference_logits_ratio", **apgd),
        **{f"PGD-{steps}, start {number + 1}": pgd for number in range(chosen.restarts)},
        "Square": SquareAttack(classifier, max_iter=effort.queries, nb_restarts=1, **usual),
    }
    return {name: lambda x, y, attack=attack: attack.generate(x, y=y) for name, attack in made.items()}


if __name__ == "__main__":
    main()
