"""Bounds against auto_LiRPA's on the same weights, and what a proof costs against an attack.

    python -m benchmarks.bounds export              # our bounds, and the networks, to <runs>/benchmarks/bounds.npz
    python benchmarks/bounds.py peer FILE.npz       # auto_LiRPA's, in an environment with torch and auto_LiRPA alone
    python -m benchmarks.bounds compare             # how far apart they are, and both costs
    python -m benchmarks.bounds cost                # seconds an image, against one PGD-20

The networks have random weights; convolutions are not padded, as Keras and PyTorch pad differently. auto_LiRPA 0.3 of
PyPI needs NumPy 1; its repository's source (0.7) runs with NumPy 2. For a leaky relu the two draw another line below
it: ours leaves the smaller triangle, so there only interval bounds can be equal.
"""
from __future__ import annotations

import sys
import time

import numpy as np

SIDE, CHANNELS, CLASSES, IMAGES = 12, 2, 5, 8
NETWORKS = {
    "dense": [["flatten"], ["dense", 30], ["relu"], ["dense", 20], ["relu"]],
    "conv": [["conv", 4, 3, 2, 1], ["relu"], ["conv", 6, 3, 1, 2], ["relu"], ["flatten"], ["dense", 16], ["relu"]],
    "leaky": [["conv", 4, 3, 1, 1], ["leaky", 0.1], ["conv", 4, 3, 2, 1], ["leaky", 0.1], ["flatten"]],
    "pooled": [["conv", 4, 3, 1, 1], ["relu"], ["average", 2], ["conv", 8, 3, 1, 1], ["relu"], ["flatten"]],
}
METHODS = {"ibp": "IBP", "crown_ibp": "CROWN-IBP", "crown": "CROWN"}
REGIONS = {"linf": 0.02, "l2": 0.1}


def keras_network(parts: list, shape: tuple, seed: int):
    """`parts` and a dense layer, in Keras."""
    import keras
    from keras import layers

    makers = {
        "dense": layers.Dense, "relu": layers.ReLU, "leaky": layers.LeakyReLU, "flatten": layers.Flatten,
        "average": layers.AveragePooling2D,
        "conv": lambda width, size, stride, groups: layers.Conv2D(width, size, strides=stride, groups=groups),
    }
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input(shape), *(makers[name](*rest) for name, *rest in parts),
                              layers.Dense(CLASSES)])
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.path.endswith("bias"):
            weight.assign(rng.uniform(-0.2, 0.2, weight.shape))
    return model


def torch_network(parts: list, weights: list, shape: tuple):
    """The same in PyTorch, which has channels first."""
    import torch
    from torch import nn

    class Flatten(nn.Module):
        def forward(self, x):
            return x.permute(0, 2, 3, 1).flatten(1) if x.dim() == 4 else x

    weights, channels, made = list(weights), shape[-1], []
    for name, *rest in [*parts, ["dense", CLASSES]]:
        if name == "conv":
            width, size, stride, groups = rest
            layer = nn.Conv2d(channels, width, size, stride, groups=groups)
            kernel, channels = weights.pop(0).transpose(3, 2, 0, 1), width
        elif name == "dense":
            kernel = weights.pop(0).T
            layer = nn.Linear(kernel.shape[1], kernel.shape[0])
        else:
            makers = {"relu": nn.ReLU, "leaky": nn.LeakyReLU, "flatten": Flatten, "average": nn.AvgPool2d}
            made.append(makers[name](*rest))
            continue
        with torch.no_grad():
            layer.weight.copy_(torch.tensor(np.ascontiguousarray(kernel)))
            layer.bias.copy_(torch.tensor(weights.pop(0)))
        made.append(layer)
    return nn.Sequential(*made).eval()


def export() -> None:
    """Our bounds in exact arithmetic and without intersecting, which is what auto_LiRPA computes."""

    from benchmarks import common
    from kitlib import certify
    from kitlib.base.files import write_arrays

    rng, shape = np.random.default_rng(0), (SIDE, SIDE, CHANNELS)
    arrays = {"images": rng.uniform(0.2, 0.8, (IMAGES, *shape)).astype(np.float32),
              "labels": rng.integers(0, CLASSES, IMAGES).astype(np.int32)}
    arrays["images"][0] = arrays["images"][0].round()       # on the edge of the pixel box, in L-inf
    for seed, (network, parts) in enumerate(NETWORKS.items()):
        model = keras_network(parts, shape, seed)
        arrays |= {f"{network}/weight{number:02d}": weight for number, weight in enumerate(model.get_weights())}
        for norm, eps in REGIONS.items():
            for name in METHODS:
                method = {"name": name, "eps": eps, "norm": norm, "rounding": False, "intersect": False}
                found = certify.run(method, model, arrays["images"], arrays["labels"])
                arrays[f"{network}/{norm}/{name}"] = found.margins
    write_arrays(common.folder() / "bounds.npz", **arrays)
    print(f"written: {common.folder() / 'bounds.npz'}")


def peer(path: str) -> None:
    """auto_LiRPA's bounds of the networks in `path`, to the file beside it."""
    import torch
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

    with np.load(path, allow_pickle=False) as stored:
        arrays = dict(stored)
    images, labels = arrays["images"], torch.tensor(arrays["labels"]).long()
    x = torch.tensor(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    differences = torch.eye(CLASSES)[labels][:, None] - torch.eye(CLASSES)[None]
    answers = {}
    for network, parts in NETWORKS.items():
        weights = [arrays[name] for name in sorted(arrays) if name.startswith(f"{network}/weight")]
        # Its other mode, patches, fails on grouped convolutions.
        bounded = BoundedModule(torch_network(parts, weights, images.shape[1:]), x, {"conv_mode": "matrix"})
        for norm, eps in REGIONS.items():
            box = {"x_L": (x - eps).clamp(0, 1), "x_U": (x + eps).clamp(0, 1)} if norm == "linf" else {}
            space = PerturbationLpNorm(norm={"linf": np.inf, "l2": 2}[norm], eps=eps, **box)
            for name, theirs in METHODS.items():
                started = time.perf_counter()
                lower, _ = bounded.compute_bounds(x=(BoundedTensor(x, space),), C=differences, method=theirs,
                                                  bound_upper=False)
                answers[f"{network}/{norm}/{name}"] = lower.detach().numpy()
                answers[f"{network}/{norm}/{name}/seconds"] = time.perf_counter() - started
    np.savez(path.replace(".npz", "_peer.npz"), **answers)
    print(f"written: {path.replace('.npz', '_peer.npz')}")


def compare() -> None:
    from benchmarks import common
    from kitlib.base.files import read_arrays

    ours, theirs = (read_arrays(common.folder() / name) for name in ("bounds.npz", "bounds_peer.npz"))
    rows = []
    for name in (f"{network}/{norm}/{method}" for network in NETWORKS for norm in REGIONS for method in METHODS):
        # In L2 auto_LiRPA does not know that pixels end at 0 and 1: there the first image is another question.
        some = slice(1 if "/l2/" in name else 0, None)
        apart = float(np.abs(ours[name] - theirs[name])[some].max())
        same = "other lines" if "leaky" in name and "crown" in name else bool(apart < 1e-4)
        rows.append([*name.split("/"), apart, same])
    print(common.table("largest difference of a margin", ["network", "norm", "method", "apart", "< 1e-4"], rows))
    common.write("bounds", {"rows": rows})


def cost(repeats: int = 3) -> None:
    """Seconds an image on a small network for 32 x 32 pixels, against PGD with 20 steps."""

    from benchmarks import common
    from kitlib import attacks, certify

    parts = [["conv", 16, 4, 2, 1], ["relu"], ["conv", 32, 4, 2, 1], ["relu"], ["flatten"], ["dense", 100], ["relu"]]
    model, rng = keras_network(parts, (32, 32, 3), 0), np.random.default_rng(0)
    images = rng.uniform(size=(16, 32, 32, 3)).astype(np.float32)
    labels, attack = model.predict(images, verbose=0).argmax(1), attacks.read({"name": "pgd", "eps": "2/255"})
    attack = attack.model_copy(update={"steps": 20})
    functions = {"pgd": lambda: attacks.run(attack, model, images, labels)}
    for name in METHODS:
        functions[name] = lambda name=name: certify.run({"name": name, "eps": "2/255"}, model, images, labels)
    seconds = common.paired(functions, repeats)
    rows = [[name, float(np.median(taken)) / len(images), common.ratio(taken, seconds["pgd"])["median"]]
            for name, taken in seconds.items()]
    print(common.table("cost", ["what", "seconds an image", "times PGD-20"], rows))
    common.write("bounds_cost", {"rows": rows})


if __name__ == "__main__":
    command, *rest = sys.argv[1:] or ["help"]
    commands = {"export": export, "peer": peer, "compare": compare, "cost": cost}
    commands[command](*rest) if command in commands else print(__doc__)
