"""Curves: over epochs, over epsilon, along a perturbation, over seeds and settings."""
from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from kitlib.plots.style import COLOURS, GUESSING, PALETTE, styled


@styled
def training_curves(history: dict, guessing: float) -> Figure:
    """Loss and accuracy by epoch, training and validation, and robust accuracy where it was checked."""
    epochs = np.arange(1, len(history["loss"]) + 1)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
    _curves(left, epochs, history, {"loss": "training", "val_loss": "validation"})
    left.set(xlabel="epoch", ylabel="cross-entropy loss", title="Loss")
    _curves(right, epochs, history, {
        "accuracy": "training", "val_accuracy": "validation", "adversarial_accuracy": "training, adversarial",
        "robust_accuracy": "PGD on a fixed batch",
    })
    right.axhline(guessing, ls=":", color=COLOURS["guessing"], label=GUESSING)
    right.set(xlabel="epoch", ylabel="accuracy", ylim=(0, 1.02), title="Accuracy")
    named = {}
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
        handles, labels = axes.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=len(named), fontsize=8)
    return figure


def _curves(axes, epochs, history: dict, names: dict[str, str]) -> None:
    for colour, (key, label) in zip(PALETTE, names.items(), strict=False):
        if key in history:
            axes.plot(epochs, history[key], marker="o", ms=3, label=label, color=colour)


@styled
def epsilon_curve(curves: dict[str, list], epsilons, guessing: float, marked: float | None = None) -> Figure:
    """Accuracy against epsilon with 95 % intervals. curves: {label: [Accuracy, ...]}, one an epsilon.

    marked: an epsilon that a line shows.
    """
    figure, axes = plt.subplots(figsize=(6.5, 4))
    for number, (label, accuracies) in enumerate(curves.items()):
        values = np.array([accuracy.value for accuracy in accuracies])
        low, high = np.array([accuracy.interval for accuracy in accuracies]).T
        colour = f"C{number}"
        axes.plot(255 * np.asarray(epsilons), values, marker="o", ms=4, label=label, color=colour)
        axes.fill_between(255 * np.asarray(epsilons), low, high, alpha=0.15, color=colour)
    axes.axhline(guessing, ls=":", color=COLOURS["guessing"], label=GUESSING)
    if marked is not None:
        axes.axvline(255 * marked, ls="--", color="0.6", label=f"eps {255 * marked:g}/255")
    axes.set(xlabel="epsilon, n/255 of the pixel range", ylabel="accuracy", ylim=(-0.03, 1.03),
             title="Accuracy against epsilon")
    figure.legend(fontsize=9, ncols=3, loc="outside lower center")
    return figure


@styled
def loss_along(losses: dict[str, np.ndarray], shares, largest: float) -> Figure:
    """Loss along a perturbation: median over the images, with the middle half of them.

    losses: {model: shares x N}; largest: size of the whole perturbation in n/255.
    """
    figure, axes = plt.subplots(figsize=(6.5, 3.4))
    for number, (name, values) in enumerate(losses.items()):
        low, middle, high = np.quantile(values, (0.25, 0.5, 0.75), axis=1)
        colour = COLOURS.get(name, PALETTE[number])
        axes.plot(shares, middle, marker="o", ms=3, label=name, color=colour)
        axes.fill_between(shares, low, high, alpha=0.15, color=colour)
    axes.set(xlabel=f"share k of the perturbation (k = 1 is {largest:.1f}/255)", ylabel="cross-entropy loss",
             title="Loss along the perturbation: median and middle half of the images")
    axes.legend(fontsize=8)
    return figure


@styled
def over_seeds(groups: dict[str, dict[str, dict]]) -> Figure:
    """A sweep's accuracies: a pale dot each seed, a mark and a bar for the mean and its interval.

    groups: title -> model -> attack -> anything with `values`, `mean` and `interval` (a Spread).
    One panel a group, one row an attack, one colour a model.
    """
    columns = min(3, len(groups))
    rows = -(-len(groups) // columns)
    unders = list(dict.fromkeys(under for models in groups.values() for found in models.values() for under in found))
    figure, grid = plt.subplots(rows, columns, figsize=(3.2 + 3.3 * columns, rows * (1.3 + 0.34 * len(unders))),
                                sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(groups):]:
        axes.set_axis_off()
    for axes, (title, models) in zip(grid.flat, groups.items(), strict=False):
        for number, (model, spreads) in enumerate(models.items()):
            shift = 0.17 * (2 * number - len(models) + 1)
            for place, (under, spread) in enumerate(spreads.items()):
                colour, label = COLOURS.get(model, PALETTE[number]), model if place == 0 else None
                _spread(axes, spread, unders.index(under) + shift, colour, label)
        axes.set(title=title, xlim=(-0.02, 1.02), xlabel="accuracy", yticks=range(len(unders)), yticklabels=unders)
    for axes in grid.flat[max(0, len(groups) - columns):len(groups)]:
        axes.tick_params(labelbottom=True)      # below it there may be no panel whose numbers it could share
    grid[0, 0].invert_yaxis()
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4,
                  title="each seed, the mean, and its 95 % interval")
    return figure


def _spread(axes, spread, height: float, colour, label: str | None) -> None:
    heights = [height] * len(spread.values)
    axes.plot(spread.values, heights, "o", color=colour, alpha=0.3, markersize=5, markeredgewidth=0)
    if spread.interval:
        axes.plot(spread.interval, [height, height], color=colour, linewidth=1.5)
    axes.plot(spread.mean, height, "|", color=colour, markersize=10, markeredgewidth=2, label=label)


@styled
def along_axis(key: str, labels: list[str], models: dict[str, dict[str, list]]) -> Figure:
    """Mean accuracy along one axis of a sweep, with the interval of the mean; one panel a model.

    key: the setting that is varied. labels: its values. models: model -> attack -> one spread a value.
    """
    figure, grid = plt.subplots(1, len(models), figsize=(1.5 + 4.2 * len(models), 3.8), sharey=True, squeeze=False)
    for axes, (model, curves) in zip(grid[0], models.items(), strict=True):
        for number, (under, spreads) in enumerate(curves.items()):
            places = np.arange(len(labels)) + 0.06 * (number - (len(curves) - 1) / 2)  # side by side
            means = np.array([spread.mean for spread in spreads])
            ends = np.array([spread.interval or (spread.mean, spread.mean) for spread in spreads])
            axes.errorbar(places, means, yerr=np.abs(ends.T - means), marker="o", capsize=3, label=under)
        axes.set(title=model, xlabel=key, xticks=range(len(labels)), xticklabels=labels, ylim=(-0.02, 1.02))
        axes.margins(x=0.15)
    grid[0, 0].set_ylabel("mean accuracy, 95 % interval")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


@styled
def roc_curves(curves: dict[str, tuple], marked: float) -> Figure:
    """curves: {label: (false-positive rates, true-positive rates)}. marked: the false-positive rate aimed at."""
    figure, axes = plt.subplots(figsize=(5.6, 4.6))
    for label, (false_alarms, found) in curves.items():
        axes.plot(false_alarms, found, label=label, drawstyle="steps-post")
    axes.plot([0, 1], [0, 1], ls=":", color=COLOURS["guessing"], label="chance")
    axes.axvline(marked, ls="--", lw=1, color="black", label="false alarms aimed at")
    axes.set(xlabel="clean images that raise an alarm (share)", ylabel="attacked images that raise an alarm (share)",
             title="What the detector finds, at any threshold", xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
    axes.legend(fontsize=8, loc="lower right")
    return figure


@styled
def neighbour_curves(found: dict[int, dict], class_names) -> Figure:
    """Mean correlation against the distance in file number, and what random pairs of the class have (dotted).

    found: what `similarity.neighbour_similarity` returns.
    """
    figure, axes = plt.subplots(figsize=(6.5, 3.6))
    for label, entry in found.items():
        lags = list(entry["by_lag"])
        axes.plot(lags, list(entry["by_lag"].values()), marker="o", ms=4, color=f"C{label}", label=class_names[label])
        axes.axhline(entry["random"], ls=":", color=f"C{label}")
    axes.set_xscale("log")
    axes.set(xticks=lags, xlabel="distance in file number", ylabel="mean correlation", ylim=(0, 1.02),
             title="How alike are neighbours? (dotted: random pairs of the class)")
    axes.set_xticklabels(lags)
    axes.minorticks_off()
    axes.legend(fontsize=8)
    return figure
