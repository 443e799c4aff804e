"""Attacks side by side with Foolbox, ART and plain CleverHans, in one run: `python -m benchmarks.attacks`.

Every library attacks the same network with the same images and the same budget, in float32, and they take
turns, so that a slow minute of the machine falls on all alike. Accuracies are judged by one function.
"""
from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from benchmarks import common, networks
from kitlib import attacks, models

import keras
import numpy as np
import tensorflow as tf
from cleverhans.tf2.attacks.projected_gradient_descent import projected_gradient_descent

EPS, STEP = 8 / 255, 2 / 255


def main() -> None:
    chosen = arguments()
    dataset = networks.dataset()
    images, labels = networks.test_images(dataset, chosen.images)
    print(f"{dataset.source}; {len(images)} test images")
    nets = {kind: networks.trained(kind, dataset) for kind in networks.TRAINING}
    parts = chosen.parts or list(PARTS)
    results = {part: PARTS[part](nets, images, labels, chosen) for part in parts}
    name = "attacks" if parts == list(PARTS) else "attacks-" + "-".join(parts)
    common.write(name, {"data": dataset.source, "settings": vars(chosen), **results})


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


def compare_pgd(kind: str, model, images, labels, chosen) -> dict:
    """Seconds, images per second and accuracy left of PGD without random start in each library."""
    attack = attacks.PGD(eps=EPS, step=STEP, steps=chosen.steps, random_start=False)
    found = {}

    def ours(keep):
        return lambda x, y: attacks.run(attack, model, x, y, batch_size=chosen.batch, keep_images=keep).accuracy

    def theirs(function):
        return lambda x, y: accuracy(model, in_batches(function, x, y, chosen.batch), y)

    def noted(name):
        def call():
            found[name] = everyone[name](images, labels)
        return call

    peers = {"CleverHans": cleverhans_pgd(model, chosen), **installed(foolbox_pgd, art_pgd, model, images, chosen)}
    everyone = {"kitlib, accuracy": ours(False), "kitlib, images": ours(True)}
    everyone |= {name: theirs(function) for name, function in peers.items()}
    for function in everyone.values():      # one batch that is not timed, for tracing
        function(images[: chosen.batch], labels[: chosen.batch])
    seconds = common.paired({name: noted(name) for name in everyone}, chosen.repeats, warm_up=0)
    best = min(found[name] for name in peers)
    rows = []
    for name, times in seconds.items():
        faster = common.ratio(times, seconds["kitlib, accuracy"])["median"]
        rows.append([name, min(times), len(images) / min(times), faster, 100 * found[name]])
    columns = ["library", "seconds", "images/s", "time / kitlib's", "accuracy left, %"]
    above = 100 * (found["kitlib, accuracy"] - best)
    clean = f"{100 * accuracy(model, images, labels):.1f} % clean"
    print(common.table(f"PGD-{chosen.steps}, eps 8/255, {len(images)} images, {kind} ({clean})", columns, rows))
    print(f"accuracy left by kitlib minus that of the best peer: {above:+.2f} points", flush=True)
    return {"rows": [dict(zip(columns, row, strict=True)) for row in rows], "seconds": seconds,
            "points above the best peer": above}


def installed(*makers_and_given) -> dict[str, Callable]:
    """The peers that are installed, by name."""
    *makers, model, images, chosen = makers_and_given
    peers = {}
    for maker in makers:
        try:
            name, function = maker(model, images, chosen)
        except ImportError as error:
            print(f"left out: {error}")
        else:
            peers[name] = function
    return peers


def cleverhans_pgd(model, chosen) -> Callable:
    def logits(images):
        return model(images, training=False)

    return lambda x, y: projected_gradient_descent(
        logits, x, EPS, STEP, chosen.steps, np.inf, clip_min=0.0, clip_max=1.0, y=y
    )


def foolbox_pgd(model, _images, chosen) -> tuple[str, Callable]:
    import foolbox

    wrapped = foolbox.TensorFlowModel(model, bounds=(0, 1))
    attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=chosen.steps, random_start=False)
    return "Foolbox", lambda x, y: attack(wrapped, tf.constant(x), tf.constant(y, tf.int64), epsilons=EPS)[1]


def art_classifier(model, images):
    from art.estimators.classification import TensorFlowV2Classifier

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return TensorFlowV2Classifier(model, model.output_shape[-1], images.shape[1:], loss, clip_values=(0, 1))


def art_pgd(model, images, chosen) -> tuple[str, Callable]:
    from art.attacks.evasion import ProjectedGradientDescent

    attack = ProjectedGradientDescent(art_classifier(model, images), eps=EPS, eps_step=STEP, max_iter=chosen.steps,
                                      batch_size=chosen.batch, verbose=False)
    return "ART", lambda x, y: attack.generate(x, y=y)


def compare_cw(model, images, labels, chosen) -> dict:
    """Seconds, success and mean L2 distance of C&W with the same searches, steps and rate in each library."""
    rate, constant = 0.05, 0.01
    images, labels = images[: chosen.cw_images], labels[: chosen.cw_images]
    attack = attacks.CarliniWagnerL2(
        search_steps=chosen.cw_searches, steps=chosen.cw_steps, learning_rate=rate, constant=constant
    )
    found = {}

    def ours():
        found["kitlib"] = attacks.run(attack, model, images, labels, batch_size=chosen.batch).images

    def theirs(name, function):
        def call():
            found[name] = in_batches(function, images, labels, chosen.batch)
        return call

    peers = installed(foolbox_cw(rate, constant), art_cw(rate, constant), model, images, chosen)
    calls = {"kitlib": ours, **{name: theirs(name, function) for name, function in peers.items()}}
    seconds = common.paired(calls, repeats=1, warm_up=0)
    ours()      # compiled by now: timed again, as a second run of the same attack would be
    seconds["kitlib, compiled"], found["kitlib, compiled"] = common.paired({"": ours}, 1, 0)[""], found["kitlib"]
    rows = []
    for name, times in seconds.items():
        l2, success = distances(model, images, found[name], labels)
        rows.append([name, times[0], len(images) / times[0], times[0] / seconds["kitlib"][0], 100 * success, l2])
    columns = ["library", "seconds", "images/s", "time / kitlib's", "success, %", "mean L2"]
    title = f"C&W L2, {chosen.cw_searches} searches of {chosen.cw_steps} steps, {len(images)} images, undefended"
    print(common.table(title, columns, rows), flush=True)
    return {"rows": [dict(zip(columns, row, strict=True)) for row in rows]}


def distances(model, images, adversarial, labels) -> tuple[float, float]:
    """Mean L2 distance over the successes, and the share of successes."""
    found = models.predict_logits(model, adversarial).argmax(1) != labels
    return float(np.linalg.norm((adversarial - images).reshape(len(images), -1), axis=1)[found].mean()), found.mean()


def foolbox_cw(rate, constant) -> Callable:
    def make(model, _images, chosen):
        import foolbox

        wrapped = foolbox.TensorFlowModel(model, bounds=(0, 1))
        attack = foolbox.attacks.L2CarliniWagnerAttack(
            binary_search_steps=chosen.cw_searches, steps=chosen.cw_steps, stepsize=rate, initial_const=constant
        )
        return "Foolbox", lambda x, y: attack(wrapped, tf.constant(x), tf.constant(y, tf.int64), epsilons=None)[1]
    return make


def art_cw(rate, constant) -> Callable:
    def make(model, images, chosen):
        from art.attacks.evasion import CarliniL2Method

        attack = CarliniL2Method(
            art_classifier(model, images), binary_search_steps=chosen.cw_searches, max_iter=chosen.cw_steps,
            learning_rate=rate, initial_const=constant, batch_size=chosen.batch, verbose=False,
        )
        return "ART", lambda x, y: attack.generate(x, y=y)
    return make


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


def against_the_limit(model, images, labels, chosen) -> dict:
    """PGD on images that all resist, against steps x one compiled forward and backward pass."""
    attack, images, labels = resisting(model, images, labels)
    count = max(1, len(images) // chosen.batch) * chosen.batch
    images, labels = images[:count], labels[:count].astype(np.int32)
    batch = min(chosen.batch, len(images))
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
    }, chosen.repeats + 1, warm_up=1)
    ratio = common.ratio(*seconds.values())
    rows = [[name, min(times), len(images) / min(times)] for name, times in seconds.items()]
    print(common.table(f"The limit: {len(images)} images that all resist", ["what", "seconds", "images/s"], rows))
    print(f"PGD / limit: {ratio['median']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})", flush=True)
    return {"seconds": seconds, "ratio": ratio, "images": len(images)}


def growth(model, images, labels, chosen) -> dict:
    """How the cost of PGD grows with steps, images and batch size, for images that all resist."""
    attack, images, labels = resisting(model, images, labels)
    most = 2 ** int(np.log2(len(images)))
    cases = [("steps", steps, steps, most // 2, chosen.batch) for steps in (5, 10, 20)]
    cases += [("images", count, 5, count, chosen.batch) for count in (most // 4, most // 2, most)]
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


def bfloat16(model, images, labels) -> dict:
    """Accuracies that the same weights get when the attack or the judging computes in bfloat16."""
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
    rows = []
    for name, given in inputs.items():
        outputs = [models.predict_logits(net, given).argmax(1) for net in nets.values()]
        rows.append([name, *(100 * float(np.mean(out == labels)) for out in outputs),
                     int(np.sum((outputs[0] == labels) != (outputs[1] == labels)))])
    columns = ["images", "judged in float32, %", "judged in bfloat16, %", "images judged differently"]
    print(common.table(f"bfloat16, {len(images)} images, adversarially trained", columns, rows), flush=True)
    return {"rows": [dict(zip(columns, row, strict=True)) for row in rows]}


PARTS = {
    "pgd-undefended": lambda nets, *given: compare_pgd("undefended", nets["plain"], *given),
    "pgd-defended": lambda nets, *given: compare_pgd("adversarially trained", nets["robust"], *given),
    "cw": lambda nets, *given: compare_cw(nets["plain"], *given),
    "limit": lambda nets, *given: against_the_limit(nets["plain"], *given),
    "growth": lambda nets, *given: growth(nets["plain"], *given),
    "bfloat16": lambda nets, images, labels, _: bfloat16(nets["robust"], images, labels),
}


if __name__ == "__main__":
    main()
