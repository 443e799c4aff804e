"""Curves: over epochs, over epsilon, along a perturbation, over seeds and settings."""
from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from kitlib.base.settings import format_epsilon
from kitlib.plots.style import COLOURS, GUESSING, PALETTE, label_ends, per_cent, styled


@styled
def training_curves(history: dict, guessing: float) -> Figure:
    """Loss and accuracy by epoch, training and validation, and robust accuracy where it was checked.

    history: {name: one value an epoch}, accuracies as shares. guessing: a share.
    """
    epochs = np.arange(1, len(history["loss"]) + 1)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.6))
    lines = _curves(left, epochs, history, {"loss": "training", "val_loss": "validation"})
    left.set(xlabel="epoch", ylabel="cross-entropy loss", title="Loss", ylim=(0, None))
    label_ends(left, lines)
    shares = {name: 100 * np.asarray(values) for name, values in history.items() if "accuracy" in name}
    lines = _curves(right, epochs, shares, {
        "accuracy": "training", "val_accuracy": "validation", "adversarial_accuracy": "training, adversarial",
        "robust_accuracy": "PGD, a fixed batch"})
    per_cent(right)
    right.set(xlabel="epoch", title="Accuracy")
    lines["guessing"] = right.axhline(100 * guessing, ls=":", color=COLOURS["guessing"])
    label_ends(right, lines)
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure


def _curves(axes, epochs, history: dict, names: dict[str, str]) -> dict:
    drawn = {}
    for colour, (key, label) in zip(PALETTE, names.items(), strict=False):
        if key in history:
            drawn[label] = axes.plot(epochs, history[key], marker="o", ms=3, label=label, color=colour)[0]
    return drawn


@styled
def epsilon_curve(curves: dict[str, list], epsilons, guessing: float, marked: float | dict[str, float] | None = None,
                  title: str | None = None) -> Figure:
    """Accuracy against epsilon with 95 % intervals. curves: {label: [Accuracy, ...]}, one an epsilon.

    epsilons: in pixels, ascending. They are drawn evenly spaced, as most happens where they are small.
    marked: an epsilon that a line shows, or several with their names, such as {"trained with": 8 / 255}.
    title: the message; by default what the lowest curve comes to at the epsilon marked first, else at the last.
    """
    epsilons, places = np.asarray(epsilons), np.arange(len(epsilons))
    marked = {} if marked is None else marked if isinstance(marked, dict) else {"": marked}
    figure, axes = plt.subplots(figsize=(7.5, 4.2))
    lines = {}
    for number, (label, accuracies) in enumerate(curves.items()):
        low, high = 100 * np.array([accuracy.interval for accuracy in accuracies]).T
        values = [100 * accuracy.value for accuracy in accuracies]
        lines[label] = axes.plot(places, values, marker="o", ms=5, label=label, color=PALETTE[number % 10])[0]
        axes.fill_between(places, low, high, alpha=0.15, color=PALETTE[number % 10])
    per_cent(axes)
    axes.set(xticks=places, xticklabels=[format_epsilon(eps).removesuffix("/255") for eps in epsilons],
             xlabel="epsilon, n/255 (evenly spaced)",
             title=title or _message(curves, epsilons, next(iter(marked.values()), epsilons[-1])))
    lines["guessing"] = axes.axhline(100 * guessing, ls=":", color=COLOURS["guessing"], label=GUESSING)
    label_ends(axes, lines)
    for name, eps in marked.items():
        if epsilons[0] <= eps <= epsilons[-1]:
            place = np.interp(eps, epsilons, places)
            axes.axvline(place, ls="--", lw=1.2, color="0.4")
            side = "left" if place < len(places) / 2 else "right"
            axes.text(place, 101, f" {name} {format_epsilon(eps)} ".replace("  ", " "), ha=side, va="top", fontsize=9)
    return figure


def _message(curves: dict[str, list], epsilons, at: float) -> str:
    """What the curve that lies lowest comes to at `at`, or at the next larger epsilon."""
    there = min(int(np.searchsorted(epsilons, at - 1e-9)), len(epsilons) - 1)
    lowest = min(curves, key=lambda label: curves[label][there].value)
    first, last = (100 * curves[lowest][place].value for place in (0, there))
    return f"{lowest}: accuracy {first:.0f} % without it, {last:.0f} % at {format_epsilon(epsilons[there])}"


@styled
def loss_along(losses: dict[str, np.ndarray], shares, largest: float) -> Figure:
    """Loss along a perturbation: median over the images, with the middle half of them. One panel a model, each with
    its own scale, as the loss of one may be a hundred times another's.

    losses: {model: shares x N}; largest: size of the whole perturbation in n/255.
    """
    figure, grid = plt.subplots(1, len(losses), figsize=(2.5 + 3.5 * len(losses), 3.6), squeeze=False)
    for number, (axes, (name, values)) in enumerate(zip(grid[0], losses.items(), strict=True)):
        low, middle, high = np.quantile(values, (0.25, 0.5, 0.75), axis=1)
        colour = COLOURS.get(name, PALETTE[number])
        axes.plot(shares, middle, marker="o", ms=3, label=name, color=colour)
        axes.fill_between(shares, low, high, alpha=0.15, color=colour)
        axes.set(xlabel=f"share k of the perturbation (k = 1 is {largest:.1f}/255)", title=name, ylim=(0, None))
    grid[0, 0].set_ylabel("cross-entropy loss")
    figure.suptitle("Loss along the perturbation: median and middle half of the images", fontsize=12)
    return figure


@styled
def over_seeds(groups: dict[str, dict[str, dict]]) -> Figure:
    """A sweep's accuracies: a pale dot each seed, a mark and a bar for the mean and its interval.

    groups: title -> model -> attack -> anything with `values`, `mean` and `interval` (a Spread), as shares.
    One panel a group, one row an attack, one colour a model.
    """
    columns = min(2, len(groups))
    rows = -(-len(groups) // columns)
    unders = list(dict.fromkeys(under for models in groups.values() for found in models.values() for under in found))
    figure, grid = plt.subplots(rows, columns, figsize=(3.2 + 3.8 * columns, rows * (1.3 + 0.36 * len(unders))),
                                sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(groups):]:
        axes.set_axis_off()
    for axes, (title, models) in zip(grid.flat, groups.items(), strict=False):
        for number, (model, spreads) in enumerate(models.items()):
            shift = 0.17 * (2 * number - len(models) + 1)
            for place, (under, spread) in enumerate(spreads.items()):
                colour, label = COLOURS.get(model, PALETTE[number]), model if place == 0 else None
                _spread(axes, spread, unders.index(under) + shift, colour, label)
        per_cent(axes, "x", "")
        axes.set(title=title, yticks=range(len(unders)), yticklabels=unders, ylim=(len(unders) - 0.5, -0.5))
    for axes in grid.flat[max(0, len(groups) - columns):len(groups)]:
        axes.tick_params(labelbottom=True)      # below it there may be no panel whose numbers it could share
        axes.set_xlabel("accuracy, %")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4,
                  title="each seed, the mean, and its 95 % interval")
    return figure


def _spread(axes, spread, height: float, colour, label: str | None) -> None:
    heights = [height] * len(spread.values)
    axes.plot(100 * np.array(spread.values), heights, "o", color=colour, alpha=0.3, markersize=5, markeredgewidth=0)
    if spread.interval:
        axes.plot(100 * np.array(spread.interval), [height, height], color=colour, linewidth=1.5)
    axes.plot(100 * spread.mean, height, "|", color=colour, markersize=10, markeredgewidth=2, label=label)


@styled
def along_axis(key: str, labels: list[str], models: dict[str, dict[str, list]]) -> Figure:
    """Mean accuracy along one axis of a sweep, with the interval of the mean; one panel a model.

    key: the setting that is varied. labels: its values. models: model -> attack -> one spread a value.
    """
    figure, grid = plt.subplots(1, len(models), figsize=(1.0 + 5.2 * len(models), 3.8), sharey=True, squeeze=False)
    for axes, (model, curves) in zip(grid[0], models.items(), strict=True):
        lines = {}
        for number, (under, spreads) in enumerate(curves.items()):
            places = np.arange(len(labels)) + 0.06 * (number - (len(curves) - 1) / 2)  # side by side
            means = 100 * np.array([spread.mean for spread in spreads])
            ends = 100 * np.array([spread.interval or (spread.mean, spread.mean) for spread in spreads])
            lines[under] = axes.errorbar(places, means, yerr=np.abs(ends.T - means), marker="o", capsize=3)[0]
        per_cent(axes)
        axes.set(title=model, xlabel=key, xticks=range(len(labels)), xticklabels=labels, ylabel="")
        label_ends(axes, lines)
    grid[0, 0].set_ylabel("mean accuracy, %")
    return figure


@styled
def specification_curve(rows: list[dict], first: str, second: str, title: str) -> Figure:
    """What came out under each of many settings (Simonsohn et al. 2020), by how much `second` lies above `first`.

    rows: {"settings": {choice: value}, "measured": {first: Accuracy, second: Accuracy}}. Above both accuracies with
    their 95 % intervals, one column a setting; below a dot where a setting has that value of a choice.
    """
    rows = sorted(rows, key=lambda row: row["measured"][second].value - row["measured"][first].value)
    choices = list(dict.fromkeys((name, str(value)) for name in rows[0]["settings"]
                                 for value in sorted({str(row["settings"][name]) for row in rows})))
    heights = [4, 0.2 * len(choices) + 0.3]
    figure, (above, below) = plt.subplots(2, 1, figsize=(11, sum(heights)), sharex=True,
                                          gridspec_kw={"height_ratios": heights})
    lines, places = {}, np.arange(len(rows))
    for name in (first, second):
        found = [row["measured"][name] for row in rows]
        values, ends = 100 * np.array([each.value for each in found]), 100 * np.array([each.interval for each in found])
        lines[name] = above.errorbar(places, values, yerr=np.abs(ends.T - values), fmt="o", ms=5, capsize=2)[0]
    per_cent(above)
    above.set_title(title)
    label_ends(above, lines)
    for place, row in enumerate(rows):
        has = [number for number, (name, value) in enumerate(choices) if str(row["settings"][name]) == value]
        below.plot([place] * len(has), has, "s", ms=5, color="0.25")
    below.set(yticks=range(len(choices)), yticklabels=[f"{name}: {value}" for name, value in choices],
              ylim=(len(choices) - 0.5, -0.5), xticks=[], xlabel="settings, sorted by the difference")
    below.tick_params(axis="y", labelsize=9)
    return figure


@styled
def roc_curves(curves: dict[str, tuple], marked: float, used: dict[str, tuple] | None = None) -> Figure:
    """curves: {label: (false-positive rates, true-positive rates)}. marked: the false-positive rate aimed at.
    used: {label: (false-positive rate, true-positive rate)} at the threshold in use, a dot each. All are shares."""
    figure, axes = plt.subplots(figsize=(6.2, 5))
    for label, (false_alarms, found) in curves.items():
        line, = axes.plot(100 * np.asarray(false_alarms), 100 * np.asarray(found), label=label, drawstyle="steps-post")
        if used:
            axes.plot(*(100 * np.array(used[label])), "o", ms=8, color=line.get_color(), mec="black", zorder=3)
    if used:
        axes.plot([], [], "o", ms=8, color="white", mec="black", label="the threshold in use")
    axes.plot([0, 100], [0, 100], ls=":", color=COLOURS["guessing"], label="chance")
    axes.axvline(100 * marked, ls="--", lw=1, color="black", label=f"{100 * marked:g} % false alarms")
    per_cent(axes, "x", "clean images that raise an alarm, %")
    per_cent(axes, "y", "attacked images that raise an alarm, %")
    axes.set(title="What the detector finds, at any threshold")
    axes.legend(fontsize=9, loc="lower right")
    return figure


@styled
def neighbour_curves(found: dict[int, dict], class_names) -> Figure:
    """Mean correlation against the distance in file number, and what random pairs of the class have (dotted). The
    axis starts a little below the lowest of them.

    found: what `similarity.neighbour_similarity` returns.
    """
    figure, axes = plt.subplots(figsize=(7.5, 3.6))
    lines = {}
    for label, entry in found.items():
        lags = list(entry["by_lag"])
        name = str(class_names[label])
        values = list(entry["by_lag"].values())
        lines[name] = axes.plot(lags, values, marker="o", ms=4, color=PALETTE[label % 10], label=name)[0]
        lines[f"{name}, random pairs"] = axes.axhline(entry["random"], ls=":", lw=2, color=PALETTE[label % 10])
    lowest = min(float(np.min(line.get_ydata())) for line in lines.values())
    axes.set_xscale("log")
    axes.set(xticks=lags, xlabel="distance in file number", ylabel="mean correlation",
             ylim=(lowest - 0.15 * (1 - lowest), 1), title="How alike are neighbours?")
    axes.set_xticklabels(lags)
    axes.minorticks_off()
    label_ends(axes, lines)
    return figure
