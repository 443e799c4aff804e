"""Attacks side by side with Foolbox, ART and plain CleverHans, in one run: `python -m benchmarks.attacks`.

Every library attacks the same network with the same images and the same budget, in float32, and they take
turns, so that a slow minute of the machine falls on all alike. Accuracies are judged by one function. Peers are
timed with the kernels that kitlib chooses, and as they are installed (benchmarks.elsewhere).
"""
from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from cleverhans.tf2.attacks.projected_gradient_descent import projected_gradient_descent

from benchmarks import common, networks
from benchmarks.elsewhere import Elsewhere
from kitlib import attacks, models

EPS, STEP = 8 / 255, 2 / 255


def main() -> None:
    chosen = arguments()
    parts = chosen.parts or list(PARTS)
    settings = {name: value for name, value in vars(chosen).items() if name != "parts"}
    source = networks.dataset().source
    print(f"{source}; {settings['images']} test images")
    results = {part: PARTS[part](settings) for part in parts}
    name = "attacks" if parts == list(PARTS) else "attacks-" + "-".join(parts)
    common.write(name, {"data": source, "settings": settings, **results})


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"some of {', '.join(PARTS)}; default: all")
    parser.add_argument("--images", type=int, default=512, help="test images for PGD")
    parser.add_argument("--cw-images", type=int, default=64, help="test images for C&W")
    parser.add_argument("--repeats", type=int, default=2, help="timed runs of each")
    parser.add_argument("--steps", type=int, default=20, help="PGD steps")
    parser.add_argument("--cw-searches", type=int, default=4)
    parser.add_argument("--cw-steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=128)
    chosen = parser.parse_args()
    if unknown := set(chosen.parts) - PARTS.keys():
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return chosen


def accuracy(model, images, labels) -> float:
    return float(np.mean(models.predict_logits(model, images).argmax(1) == labels))


def in_batches(function: Callable, images, labels, batch: int) -> np.ndarray:
    """`function(images, labels)` batch by batch, as a user of a library without a driver would call it."""
    parts = range(0, len(images), batch)
    return np.concatenate([np.asarray(function(images[i : i + batch], labels[i : i + batch])) for i in parts])


def given(network: str, count: int) -> tuple[keras.Model, np.ndarray, np.ndarray]:
    """A network and the images that it is attacked on."""
    dataset = networks.dataset()
    return networks.trained(network, dataset), *networks.test_images(dataset, count)


def pgd_case(library: str, network: str, chosen: dict) -> Callable[[], float]:
    """PGD without random start by one library on all images; returns the accuracy left.

    One batch is attacked beforehand, untimed, for tracing.
    """
    model, images, labels = given(network, chosen["images"])
    attack = PGD_OF[library](model, images, chosen)
    attack(images[: chosen["batch"]], labels[: chosen["batch"]])
    return lambda: attack(images, labels)


def kitlib_pgd(keep_images: bool) -> Callable:
    def make(model, _images, chosen):
        attack = attacks.PGD(eps=EPS, step=STEP, steps=chosen["steps"], random_start=False)
        return lambda x, y: attacks.run(attack, model, x, y, batch_size=chosen["batch"],
                                        keep_images=keep_images).accuracy
    return make


def cleverhans_pgd(model, _images, chosen) -> Callable:
    def logits(images):
        return model(images, training=False)

    def attack(x, y):
        return projected_gradient_descent(
            logits, x, EPS, STEP, chosen["steps"], np.inf, clip_min=0.0, clip_max=1.0, y=y)

    return lambda x, y: accuracy(model, in_batches(attack, x, y, chosen["batch"]), y)


def foolbox_pgd(model, _images, chosen) -> Callable:
    import foolbox

    wrapped = foolbox.TensorFlowModel(model, bounds=(0, 1))
    pgd = foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=chosen["steps"], random_start=False)

    def attack(x, y):
        return pgd(wrapped, tf.constant(x), tf.constant(y, tf.int64), epsilons=EPS)[1]

    return lambda x, y: accuracy(model, in_batches(attack, x, y, chosen["batch"]), y)


def art_classifier(model, images):
    from art.estimators.classification import TensorFlowV2Classifier

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return TensorFlowV2Classifier(model, model.output_shape[-1], images.shape[1:], loss, clip_values=(0, 1))


def art_pgd(model, images, chosen) -> Callable:
    from art.attacks.evasion import ProjectedGradientDescent

    pgd = ProjectedGradientDescent(art_classifier(model, images), eps=EPS, eps_step=STEP, max_iter=chosen["steps"],
                                   batch_size=chosen["batch"], verbose=False)
    return lambda x, y: accuracy(model, pgd.generate(x, y=y), y)


PGD_OF = {
    "kitlib, accuracy": kitlib_pgd(keep_images=False), "kitlib, images": kitlib_pgd(keep_images=True),
    "CleverHans": cleverhans_pgd, "Foolbox": foolbox_pgd, "ART": art_pgd,
}


def everyone(maker: Callable, makers: dict, there: Elsewhere, **arguments) -> dict[str, Callable]:
    """A case for each library that is installed: all with oneDNN's kernels here, and peers as installed there."""
    cases = {}
    for library in makers:
        try:
            cases[library] = maker(library, **arguments)
        except ImportError as error:
            print(f"left out: {error}")
            continue
        if not library.startswith("kitlib"):
            name = f"{maker.__module__}:{maker.__name__}".replace("__main__", "benchmarks.attacks")
            cases[f"{library}, as installed"] = there.case(name, library=library, **arguments)
    return cases


def noted(cases: dict[str, Callable], repeats: int) -> tuple[dict[str, list[float]], dict]:
    """Seconds of each case, taken in turns, and what each returned last."""
    answers = {}

    def keep(name):
        def call():
            answers[name] = cases[name]()
        return call

    return common.paired({name: keep(name) for name in cases}, repeats, warm_up=0), answers


def compare_pgd(network: str, chosen: dict) -> dict:
    """Seconds, images per second and accuracy left of PGD in each library."""
    model, images, labels = given(network, chosen["images"])
    with Elsewhere() as there:
        cases = everyone(pgd_case, PGD_OF, there, network=network, chosen=chosen)
        seconds, left = noted(cases, chosen["repeats"])
    ours = "kitlib, accuracy"
    rows = [[name, min(times), len(images) / min(times), common.ratio(times, seconds[ours])["median"], 100 * left[name]]
            for name, times in seconds.items()]
    above = 100 * (left[ours] - min(left[name] for name in cases if not name.startswith("kitlib")))
    columns = ["library", "seconds", "images/s", "time / kitlib's", "accuracy left, %"]
    clean = f"{100 * accuracy(model, images, labels):.1f} % clean"
    print(common.table(f"PGD-{chosen['steps']}, eps 8/255, {len(images)} images, {network} ({clean})", columns, rows))
    print(f"accuracy left by kitlib minus that of the best peer: {above:+.2f} points", flush=True)
    return {"rows": [dict(zip(columns, row, strict=True)) for row in rows], "seconds": seconds,
            "points above the best peer": above}


CW_RATE, CW_CONSTANT = 0.05, 0.01


def cw_case(library: str, network: str, chosen: dict) -> Callable[[], tuple[float | None, float]]:
    """C&W by one library, the same searches, steps and rate for all.

    Returns the mean L2 and the share of successes over the images that the network had right.
    """
    model, images, labels = given(network, chosen["cw_images"])
    attack = CW_OF[library](model, images, chosen)
    right = models.predict_logits(model, images).argmax(1) == labels

    def call():
        adversarial = attack(images, labels)
        turned = right & (models.predict_logits(model, adversarial).argmax(1) != labels)
        l2 = np.linalg.norm((adversarial - images).reshape(len(images), -1), axis=1)[turned]
        return (float(l2.mean()) if len(l2) else None), float(turned.sum() / right.sum())

    return call


def kitlib_cw(model, _images, chosen) -> Callable:
    attack = attacks.CarliniWagnerL2(search_steps=chosen["cw_searches"], steps=chosen["cw_steps"],
                                     learning_rate=CW_RATE, constant=CW_CONSTANT)
    return lambda x, y: attacks.run(attack, model, x, y, batch_size=chosen["batch"]).images


def foolbox_cw(model, _images, chosen) -> Callable:
    import foolbox

    wrapped = foolbox.TensorFlowModel(model, bounds=(0, 1))
    cw = foolbox.attacks.L2CarliniWagnerAttack(
        binary_search_steps=chosen["cw_searches"], steps=chosen["cw_steps"], stepsize=CW_RATE,
        initial_const=CW_CONSTANT)

    def attack(x, y):
        return cw(wrapped, tf.constant(x), tf.constant(y, tf.int64), epsilons=None)[1]

    return lambda x, y: in_batches(attack, x, y, chosen["batch"])


def art_cw(model, images, chosen) -> Callable:
    from art.attacks.evasion import CarliniL2Method

    attack = CarliniL2Method(
        art_classifier(model, images), binary_search_steps=chosen["cw_searches"], max_iter=chosen["cw_steps"],
        learning_rate=CW_RATE, initial_const=CW_CONSTANT, batch_size=chosen["batch"], verbose=False)
    return lambda x, y: attack.generate(x, y=y)


CW_OF = {"kitlib": kitlib_cw, "Foolbox": foolbox_cw, "ART": art_cw}


def compare_cw(network: str, chosen: dict, makers: dict) -> dict:
    """Seconds, success and mean L2 distance of C&W in each library; kitlib's a second time, compiled by then."""
    with Elsewhere() as there:
        cases = everyone(cw_case, makers, there, network=network, chosen=chosen)
        seconds, answers = noted(cases, repeats=1)
    again, answer = noted({"kitlib, compiled": cases["kitlib"]}, repeats=1)
    seconds, answers = seconds | again, answers | answer
    rows = [[name, times[0], chosen["cw_images"] / times[0], times[0] / seconds["kitlib"][0],
             100 * answers[name][1], answers[name][0]] for name, times in seconds.items()]
    columns = ["library", "seconds", "images/s", "time / kitlib's", "success, %", "mean L2"]
    searches = f"{chosen['cw_searches']} searches of {chosen['cw_steps']} steps"
    print(common.table(f"C&W L2, {searches}, {chosen['cw_images']} images, undefended", columns, rows), flush=True)
    return {"rows": [dict(zip(columns, row, strict=True)) for row in rows]}


def compare_converging_cw(network: str, chosen: dict) -> dict:
    """C&W with enough steps to converge, where an image that is through with its search costs no more.

    Without ART, which would take an hour.
    """
    chosen = chosen | {"cw_images": chosen["cw_images"] // 2, "cw_searches": 6, "cw_steps": 200}
    return compare_cw(network, chosen, {name: CW_OF[name] for name in ("kitlib", "Foolbox")})


def resisting(model, images, labels):
    """An attack so small that every image of the returned ones resists: all steps are made for all."""
    right = models.predict_logits(model, images).argmax(1) == labels
    attack = attacks.PGD(eps=1e-7, step=1e-8, steps=20, random_start=False)
    survived = ~attacks.run(attack, model, images[right], labels[right]).fooled
    return attack, images[right][survived], labels[right][survived]


def one_pass(model) -> Callable:
    """One compiled forward pass and its backward pass to the input."""
    @tf.function(input_signature=[tf.TensorSpec((None, *model.input_shape[1:])), tf.TensorSpec([None], tf.int32)])
    def compiled(images, labels):
        with tf.GradientTape() as tape:
            tape.watch(images)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, model(images, training=False))
        return tape.gradient(loss, images)
    return compiled


def against_the_limit(chosen: dict) -> dict:
    """PGD on images that all resist, against steps x one compiled forward and backward pass."""
    model, images, labels = given("undefended", chosen["images"])
    attack, images, labels = resisting(model, images, labels)
    count = max(1, len(images) // chosen['batch']) * chosen['batch']
    images, labels = images[:count], labels[:count].astype(np.int32)
    batch = min(chosen['batch'], len(images))
    compiled = one_pass(model)
    parts = [(tf.constant(images[i : i + batch]), tf.constant(labels[i : i + batch]))
             for i in range(0, len(images), batch)]

    def limit():
        for _ in range(attack.steps):
            for part in parts:
                compiled(*part).numpy()

    seconds = common.paired({
        "PGD-20, kitlib": lambda: attacks.run(attack, model, images, labels, batch_size=batch, keep_images=False),
        "20 x forward and backward": limit,
    }, chosen['repeats'] + 1, warm_up=1)
    ratio = common.ratio(*seconds.values())
    rows = [[name, min(times), len(images) / min(times)] for name, times in seconds.items()]
    print(common.table(f"The limit: {len(images)} images that all resist", ["what", "seconds", "images/s"], rows))
    print(f"PGD / limit: {ratio['median']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})", flush=True)
    return {"seconds": seconds, "ratio": ratio, "images": len(images)}


def growth(chosen: dict) -> dict:
    """How the cost of PGD grows with steps, images and batch size, for images that all resist."""
    model, images, labels = given("undefended", chosen["images"])
    attack, images, labels = resisting(model, images, labels)
    most = 2 ** int(np.log2(len(images)))
    cases = [("steps", steps, steps, most // 2, chosen['batch']) for steps in (5, 10, 20)]
    cases += [("images", count, 5, count, chosen['batch']) for count in (most // 4, most // 2, most)]
    cases += [("batch", batch, 5, most // 2, batch) for batch in (8, 32, 128)]
    rows = []
    for what, value, steps, count, batch in cases:
        case = attack.model_copy(update={"steps": steps})
        for timed in (False, True):
            few = images[: batch if not timed else count], labels[: batch if not timed else count]
            started = time.perf_counter()
            attacks.run(case, model, *few, batch_size=batch, keep_images=False)
        seconds = time.perf_counter() - started
        rows.append([what, value, steps, count, batch, seconds, 1000 * seconds / count / steps])
    columns = ["varied", "value", "steps", "images", "batch", "seconds", "ms an image and step"]
    print(common.table("How cost grows", columns, rows), flush=True)
    return {"rows": [dict(zip(columns, row, strict=True)) for row in rows]}


def bfloat16(chosen: dict) -> dict:
    """Accuracies that the same weights get when the attack or the judging computes in bfloat16."""
    model, images, labels = given("adversarially trained", chosen["images"])

    def low(layer):
        return layer.__class__.from_config(layer.get_config() | {"dtype": "mixed_bfloat16"})

    half = keras.models.clone_model(model, clone_function=low)
    half.set_weights(model.get_weights())
    attack = attacks.PGD(eps=EPS, step=STEP, steps=5, random_start=False, keep="last")
    nets = {"float32": model, "bfloat16": half}
    inputs = {"clean images": images}
    for name, net in nets.items():
        compiled = tf.function(lambda x, y, net=net: attack.perturb(net, x, y))
        inputs[f"PGD-5 made in {name}"] = in_batches(compiled, images, labels, 64)
    forward = {name: tf.function(lambda x, y, net=net: net(x, training=False)) for name, net in nets.items()}
    rows = []
    for name, shown in inputs.items():
        # not by predict_logits, which judges every model in float32
        outputs = [in_batches(judge, shown, labels, 64).argmax(1) for judge in forward.values()]
        rows.append([name, *(100 * float(np.mean(out == labels)) for out in outputs),
                     int(np.sum((outputs[0] == labels) != (outputs[1] == labels)))])
    columns = ["images", "judged in float32, %", "judged in bfloat16, %", "images judged differently"]
    print(common.table(f"bfloat16, {len(images)} images, adversarially trained", columns, rows), flush=True)
    return {"rows": [dict(zip(columns, row, strict=True)) for row in rows]}


PARTS = {
    "pgd-undefended": lambda chosen: compare_pgd("undefended", chosen),
    "pgd-defended": lambda chosen: compare_pgd("adversarially trained", chosen),
    "cw": lambda chosen: compare_cw("undefended", chosen, CW_OF),
    "cw-converging": lambda chosen: compare_converging_cw("undefended", chosen),
    "limit": against_the_limit, "growth": growth, "bfloat16": bfloat16,
}


if __name__ == "__main__":
    main()
