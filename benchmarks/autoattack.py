"""The audit's worst case against that of the authors' AutoAttack (Croce & Hein 2020), and the time of both.

    python -m benchmarks.autoattack ours cifar10_robust/defended      # the audit, to <runs>/benchmarks/autoattack/
    python benchmarks/autoattack.py theirs FILE.npz --source DIR    # in an environment with torch; DIR: its repository
    python -m benchmarks.autoattack compare

`ours` needs CIFAR-10 (KITLIB_DATA). `theirs` attacks a PyTorch port of the same network on the same images, and refuses
to where its logits differ by more than 1e-4. AutoAttack is not part of the kit: get https://github.com/fra31/auto-attack.
Run both alone on the machine, one after the other: each takes all cores.
"""
from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

SAME = 1e-4     # of the logits of both networks, relative to the largest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    own = verbs.add_parser("ours")
    own.add_argument("models", nargs="+", help="published models, by their names in `kitlib pretrained`")
    own.add_argument("--images", type=int, default=1000)
    peer = verbs.add_parser("theirs")
    peer.add_argument("files", nargs="+", type=Path)
    peer.add_argument("--source", required=True, help="the folder that holds AutoAttack's package `autoattack`")
    peer.add_argument("--attacks", nargs="+", help="of the standard ones, such as apgd-ce apgd-t (default: all four)")
    for each in (own, peer):
        each.add_argument("--eps", type=float, default=8 / 255)
    verbs.add_parser("compare")
    chosen = parser.parse_args()
    {"ours": ours, "theirs": theirs, "compare": lambda _: compare()}[chosen.verb](chosen)


# --- here

def ours(chosen) -> None:
    """The full audit's attacks, and the network as a list of layers."""
    import kitlib

    kitlib.prepare()
    from benchmarks import common
    from kitlib import audit, data, models
    from kitlib.base.files import write_arrays
    from kitlib.experiments import experiment, pretrained

    effort = audit.FULL.model_copy(update={"images": chosen.images})
    for name in chosen.models:
        model = pretrained.load(name)
        dataset = data.load(experiment.load(name.split("/")[0], "full").data, seed=0)
        images, labels = dataset.part("test", chosen.images, seed=0)
        subject = audit.Subject(audit.prepare(model, images, input_range=(0, 1)), images, labels, dataset.class_names,
                                chosen.eps)
        started = time.perf_counter()
        m = audit.Measurements(subject, effort, say=print)
        right = m.survivors
        seconds = time.perf_counter() - started
        path = common.folder() / "autoattack" / f"{name.replace('/', '-')}.npz"
        write_arrays(path, images=images, labels=labels, logits=models.predict_logits(model, images), right=right,
                     seconds=np.array(seconds), **layers_of(model))
        print(f"{name}: {100 * right.mean():.1f} % of {len(right)} left, {seconds:.0f} s\nwritten: {path}")


def layers_of(model) -> dict[str, np.ndarray]:
    """The network as JSON (name, kind, what it takes, settings) and its weights, as "<layer>/<number>"."""
    listed, arrays = [], {}
    for layer in model.layers:
        taken = [tensor._keras_history.operation.name for node in layer._inbound_nodes[:1]
                 for tensor in node.input_tensors]
        settings = {key: value for key, value in layer.get_config().items()
                    if key in ("strides", "padding", "pool_size", "activation", "scale", "offset", "epsilon")}
        listed.append([layer.name, type(layer).__name__, taken, settings])
        arrays |= {f"{layer.name}/{number}": weight for number, weight in enumerate(layer.get_weights())}
    return {"layers": np.frombuffer(json.dumps(listed).encode(), np.uint8), **arrays}


def compare() -> None:
    from benchmarks import common
    from kitlib.base.files import read_arrays

    rows, found = [], {}
    for path in sorted((common.folder() / "autoattack").glob("*.npz")):
        mine, peer = read_arrays(path), json.loads(path.with_suffix(".json").read_text())
        left = [100 * float(np.mean(mine["right"])), 100 * float(np.mean(peer["right"]))]
        seconds = [float(mine["seconds"]), peer["seconds"]]
        rows.append([path.stem, len(mine["right"]), *left, left[0] - left[1], *seconds, seconds[0] / seconds[1]])
        found[path.stem] = {"left": left, "seconds": seconds, "attacks": peer["attacks"]}
    print(common.table("what is left, %", ["model", "images", "audit", "AutoAttack", "points more", "audit, s",
                                           "AutoAttack, s", "share of its time"], rows))
    common.write("autoattack", found)


# --- in an environment with torch

def theirs(chosen) -> None:
    import sys

    import torch

    sys.path.insert(0, chosen.source)
    from autoattack import AutoAttack

    for path in chosen.files:
        with np.load(path, allow_pickle=False) as stored:
            arrays = dict(stored)
        x = torch.tensor(np.ascontiguousarray(arrays["images"].transpose(0, 3, 1, 2)))
        y, network = torch.tensor(arrays["labels"]).long(), port(arrays)
        with torch.no_grad():
            apart = float(np.abs(network(x).numpy() - arrays["logits"]).max() / np.abs(arrays["logits"]).max())
        if apart > SAME:
            raise SystemExit(f"{path}: the port's logits differ by {apart:.1e} of the largest")
        judge = AutoAttack(network, norm="Linf", eps=chosen.eps, version="standard", device="cpu", seed=0)
        judge.attacks_to_run = chosen.attacks or judge.attacks_to_run
        started = time.perf_counter()
        attacked = judge.run_standard_evaluation(x, y, bs=250)
        seconds = time.perf_counter() - started
        with torch.no_grad():
            right = (network(attacked).argmax(1) == y).tolist()
        path.with_suffix(".json").write_text(json.dumps(
            {"right": right, "seconds": seconds, "attacks": judge.attacks_to_run, "apart": apart}))
        print(f"{path.stem}: {100 * np.mean(right):.1f} % left, {seconds:.0f} s, logits {apart:.1e} apart")


def port(arrays: dict):
    """The network in PyTorch, channels first. Raises KeyError for a kind of layer that is not among those here."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    listed = json.loads(arrays["layers"].tobytes().decode())
    weights = {name: torch.tensor(array) for name, array in arrays.items() if "/" in name}

    def activated(x, settings):
        return {"linear": lambda x: x, "relu": F.relu}[settings.get("activation", "linear")](x)

    def convolved(x, name, settings):
        kernel, stride = weights[f"{name}/0"].permute(3, 2, 0, 1).contiguous(), settings["strides"][0]
        if settings["padding"] == "same":       # Keras puts the odd pixel below and to the right
            short = [max(kernel.shape[-1] - stride, 0) if x.shape[-1] % stride == 0 else
                     max(kernel.shape[-1] - x.shape[-1] % stride, 0)] * 2
            x = F.pad(x, [short[0] // 2, short[0] - short[0] // 2] * 2)
        return activated(F.conv2d(x, kernel, weights.get(f"{name}/1"), stride), settings)

    def normalised(x, name, settings):
        scale, shift, mean, variance = (weights[f"{name}/{number}"] for number in range(4))
        return F.batch_norm(x, mean, variance, scale, shift, eps=settings["epsilon"])

    def scaled(x, settings):
        scale, offset = (torch.as_tensor(settings[key], dtype=torch.float32).reshape(-1, 1, 1)
                         for key in ("scale", "offset"))
        return x * scale + offset

    kinds = {
        "Rescaling": lambda x, name, settings: scaled(x, settings), "Conv2D": convolved,
        "BatchNormalization": normalised, "ReLU": lambda x, *_: F.relu(x), "Dropout": lambda x, *_: x,
        "AveragePooling2D": lambda x, _, settings: F.avg_pool2d(x, settings["pool_size"], settings["strides"]),
        "MaxPooling2D": lambda x, _, settings: F.max_pool2d(x, settings["pool_size"], settings["strides"]),
        "GlobalAveragePooling2D": lambda x, *_: x.mean((2, 3)),
        "Flatten": lambda x, *_: x.permute(0, 2, 3, 1).flatten(1),
        "Dense": lambda x, name, settings: activated(x @ weights[f"{name}/0"] + weights[f"{name}/1"], settings),
    }

    class Port(nn.Module):
        def forward(self, x):
            known = {listed[0][0]: x}
            for name, kind, taken, settings in listed[1:]:
                if kind == "Add":
                    known[name] = sum(known[each] for each in taken)
                else:
                    known[name] = kinds[kind](known[taken[0]], name, settings)
            return known[listed[-1][0]]

    return Port().eval()


if __name__ == "__main__":
    main()
