"""Every picture of the kit: one style, colour-blind safe, labelled in pixels (n/255)."""
from __future__ import annotations

import re
from pathlib import Path

from kitlib.data import Dataset
from kitlib.files import written_whole

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, NullFormatter

ROUNDING = 1e-4  # a change smaller than this is float rounding, not a perturbation
_PALETTE = sns.color_palette("colorblind")
GUESSING = "guessing (the most frequent class)"
COLOURS = {"baseline": _PALETTE[3], "defended": _PALETTE[0], "guessing": _PALETTE[7]}
sns.set_theme(style="whitegrid", context="notebook", palette="colorblind")
plt.rcParams.update({
    "figure.dpi": 80, "savefig.dpi": 160, "axes.titlesize": 11, "figure.constrained_layout.use": True,
})


def keep(figure: Figure, path: Path, synthetic: bool = False) -> Figure:
    """Save a figure whole as PNG at twice the screen's size; synthetic data are marked in the picture.

    Returns the figure, closed, so that a notebook cell that ends with this call shows it once.
    """
    finished(figure, synthetic)
    with written_whole(path) as aside:
        figure.savefig(aside)
    return figure


def finished(figure: Figure, synthetic: bool = False) -> Figure:
    """The figure, closed, for one that is only shown; synthetic data are marked in the picture."""
    for text in figure.findobj(Text):
        if re.search(r"(?<!\\)\$", text.get_text()) and r"\mathdefault" not in text.get_text():    # but a tick's number
            text.set_parse_math(False)      # names of classes are no formulas, whatever dollars they hold
    if synthetic:
        figure.suptitle(f"{figure.get_suptitle()}  [synthetic data]".strip(), fontsize=11)
    plt.close(figure)
    return figure


def short(name, most: int = 16) -> str:
    """A class's name, cut where it would be longer than a picture is wide."""
    name = str(name)
    return name if len(name) <= most else name[: most - 1].rstrip() + "…"


def picture(axes, image: np.ndarray, title: str = "", colour="black") -> None:
    """One image, H x W x C pixels, in true brightness: 0 is black and 1 is white. Of other than one or three channels
    their mean is shown."""
    image = image.squeeze()
    image = image.mean(-1) if image.ndim == 3 and image.shape[-1] != 3 else image
    axes.imshow(np.clip(image, 0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(title, fontsize=9, color=colour)
    axes.set_axis_off()


def samples(dataset: Dataset, per_class: int = 6, part: str = "train") -> Figure:
    """The first images of each class, one row a class."""
    images, labels = dataset.pixels(part), dataset.labels_of(part)
    classes = len(dataset.class_names)
    figure, grid = plt.subplots(classes, per_class, figsize=(1.25 * per_class, 1.3 * classes), squeeze=False)
    for row, name in enumerate(dataset.class_names):
        chosen = images[labels == row][:per_class]
        for column, axes in enumerate(grid[row]):
            axes.set_axis_off()
            if column < len(chosen):
                picture(axes, chosen[column], name if column == 0 else "")
    return figure


def image_row(images, titles) -> Figure:
    """A few images side by side, each with its title."""
    figure, grid = plt.subplots(1, len(images), figsize=(1.7 * len(images), 2.0), squeeze=False)
    for axes, image, title in zip(grid[0], images, titles, strict=True):
        picture(axes, image, title)
    return figure


def class_counts(dataset: Dataset) -> Figure:
    """Images of each class in each part of the split."""
    parts = list(dataset.split)
    figure, axes = plt.subplots(figsize=(max(6, 0.8 * len(dataset.class_names)), 3))
    positions = np.arange(len(dataset.class_names))
    for number, part in enumerate(parts):
        counts = np.bincount(dataset.labels_of(part), minlength=len(positions))
        bars = axes.bar(positions + 0.27 * (number - 1), counts, width=0.25, label=part)
        axes.bar_label(bars, fontsize=7)
    axes.set(xticks=positions, ylabel="images", title="Images of each class")
    names = [short(name, 30) for name in dataset.class_names]
    aslant = len(names) > 5 or max(map(len, names)) > 14
    axes.set_xticklabels(names, **({"rotation": 30, "ha": "right"} if aslant else {}))
    axes.margins(y=0.3)
    axes.legend(ncols=len(parts), loc="upper center", fontsize=8)
    return figure


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
    for colour, (key, label) in zip(_PALETTE, names.items(), strict=False):
        if key in history:
            axes.plot(epochs, history[key], marker="o", ms=3, label=label, color=colour)


def attack_grid(
    images, attacked: dict[str, np.ndarray], titles: dict[str, list[str]], right: dict[str, list[bool]],
) -> Figure:
    """Clean images and, for each attack, the adversarial image over its perturbation.

    images: n x H x W x C pixels; attacked: n images an attack; titles and right: for "clean" and
    each attack, what the model says and whether it is right (wrong answers are written in red).
    Perturbations are amplified to fill the grey range, around mid-grey; their true size is in the title.
    """
    names = list(attacked)
    figure, grid = plt.subplots(len(images), 1 + 2 * len(names), squeeze=False,
                                figsize=(1.75 * (1 + 2 * len(names)), 2.15 * len(images)))
    for row, image in enumerate(images):
        picture(grid[row][0], image, "clean\n" + titles["clean"][row], _colour(right["clean"][row]))
        for number, name in enumerate(names):
            _perturbation(grid[row][1 + 2 * number], attacked[name][row] - image)
            picture(grid[row][2 + 2 * number], attacked[name][row],
                    f"{name}\n{titles[name][row]}", _colour(right[name][row]))
    return figure


def _perturbation(axes, change: np.ndarray) -> None:
    """A change of pixels, H x W x C, amplified to fill the grey range around mid-grey; its true size is the title."""
    largest = float(np.abs(change).max())
    amplified = 0.5 + change / (2 * largest) if largest > ROUNDING else np.full_like(change, 0.5)
    picture(axes, amplified, f"perturbation\nlargest {255 * largest:.1f}/255")


def one_attack(clean, attacked, before, after, label: int, class_names, names=("clean", "attacked")) -> Figure:
    """One image, the perturbation, the attacked image, and the probabilities that a model gives before and after.

    clean, attacked: H x W x C pixels; before, after: one probability a class; label: the class that the attack leads
    away from. Its bar is filled, and an answer other than it is written in red. The perturbation as in `attack_grid`.
    """
    class_names = [short(name) for name in class_names]
    width = 9.6 + 0.35 * max(0, max(map(len, class_names)) - 10)
    figure, axes = plt.subplots(1, 5, figsize=(width, max(2.2, 0.2 * len(class_names) + 0.5)),
                                width_ratios=[1, 1, 1, 0.9, 0.9])
    for name, image, probabilities, left, right in zip(
            names, (clean, attacked), (before, after), (axes[0], axes[2]), axes[3:], strict=True):
        said = int(np.argmax(probabilities))
        answer = f"{name}\nsays {class_names[said]}, {100 * probabilities[said]:.0f} %"
        picture(left, image, answer, _colour(said == label))
        _probability_bars(right, probabilities, label, class_names)
        right.set_title(f"{name}, %", fontsize=9)
    _perturbation(axes[1], attacked - clean)
    return figure


def _colour(is_right: bool) -> str:
    return "black" if is_right else "#b00020"


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


def loss_along(losses: dict[str, np.ndarray], shares, largest: float) -> Figure:
    """Loss along a perturbation: median over the images, with the middle half of them.

    losses: {model: shares x N}; largest: size of the whole perturbation in n/255.
    """
    figure, axes = plt.subplots(figsize=(6.5, 3.4))
    for number, (name, values) in enumerate(losses.items()):
        low, middle, high = np.quantile(values, (0.25, 0.5, 0.75), axis=1)
        colour = COLOURS.get(name, _PALETTE[number])
        axes.plot(shares, middle, marker="o", ms=3, label=name, color=colour)
        axes.fill_between(shares, low, high, alpha=0.15, color=colour)
    axes.set(xlabel=f"share k of the perturbation (k = 1 is {largest:.1f}/255)", ylabel="cross-entropy loss",
             title="Loss along the perturbation: median and middle half of the images")
    axes.legend(fontsize=8)
    return figure


def confusion_matrices(matrices: dict[str, np.ndarray], class_names) -> Figure:
    """Counts, coloured by the rate within each true class; one matrix a title."""
    class_names = [short(name, 24) for name in class_names]
    columns = min(3, len(matrices))
    rows = -(-len(matrices) // columns)
    side = 1.6 + 0.42 * len(class_names) + 0.09 * max(0, max(map(len, class_names)) - 10)
    class_names = [name.replace("$", r"\$") for name in class_names]    # seaborn draws them at once
    figure, grid = plt.subplots(rows, columns, figsize=(side * columns, side * rows), squeeze=False)
    for axes in grid.flat[len(matrices):]:
        axes.set_axis_off()
    for axes, (title, matrix) in zip(grid.flat, matrices.items(), strict=False):
        matrix = np.asarray(matrix)
        rates = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
        sns.heatmap(rates, annot=_counts_and_rates(matrix, rates), fmt="", vmin=0, vmax=1, cmap="cividis", cbar=False,
                    square=True, xticklabels=class_names, yticklabels=class_names, ax=axes, annot_kws={"fontsize": 7})
        axes.set(title=title, xlabel="predicted", ylabel="true")
        axes.tick_params(labelsize=8)
    return figure


def _counts_and_rates(matrix: np.ndarray, rates: np.ndarray) -> np.ndarray:
    if len(matrix) > 5:  # ten classes leave room for counts only
        return matrix.astype(str)
    return np.array([[f"{count}\n{100 * rate:.0f} %" for count, rate in zip(*pair, strict=True)]
                     for pair in zip(matrix, rates, strict=True)])


def accuracy_bars(accuracies: dict[str, dict[str, object]], guessing: float) -> Figure:
    """Accuracy with interval, one group an attack and one bar a model. accuracies: {model: {attack: record}}."""
    models = list(accuracies)
    attacks = list(accuracies[models[0]])
    figure, axes = plt.subplots(figsize=(7.5, 1.4 + 0.4 * len(attacks)))
    width = 0.8 / len(models)
    for number, model in enumerate(models):
        records = [accuracies[model][attack] for attack in attacks]
        values = 100 * np.array([record.accuracy for record in records])
        ends = 100 * np.array([record.interval for record in records]).T
        errors = np.maximum(np.abs(ends - values), 0)
        positions = np.arange(len(attacks)) + (number - (len(models) - 1) / 2) * width
        bars = axes.barh(positions, values, width, xerr=errors, capsize=2, label=model, color=COLOURS.get(model))
        axes.bar_label(bars, fmt="%.0f", fontsize=8, padding=3)
    axes.axvline(100 * guessing, ls=":", color=COLOURS["guessing"], label=GUESSING)
    axes.set(xlabel="accuracy, %", xlim=(0, 110), title="Accuracy with 95 % intervals")
    axes.set_yticks(np.arange(len(attacks)), attacks, fontsize=9)
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    figure.legend(fontsize=9, ncols=3, loc="outside lower center")
    return figure


def claims(entries: dict, guessing: list[float], title: str, note: str = "") -> Figure:
    """A paper on one page: each of its figures as claimed, as published, and as defined, with the verdict beside it.

    entries: {label of a row: PaperEntry of kitlib.results}. guessing: for each, what guessing would get, as a share.
    Marks have 95 % intervals. Letters are large, so that it can be read at half the width of a page.
    """
    found, rows = list(entries.values()), np.arange(len(entries))
    figure, axes = plt.subplots(figsize=(8.4, 2.3 + 0.58 * len(entries)))
    claimed = [each.paper for each in found]
    axes.vlines(claimed, rows - 0.33, rows + 0.33, color="black", lw=5, label="the paper's claim")
    _claim_marks(axes, [each.as_published for each in found], rows - 0.15, fmt="s", color=_PALETTE[0],
                 label="rerun as published")
    _claim_marks(axes, [each.as_defined for each in found], rows + 0.15, fmt="o", color=_PALETTE[3],
                 label="honest: as defined")
    axes.vlines(100 * np.array(guessing), rows - 0.5, rows + 0.5, ls=":", lw=2, color="0.35", label=GUESSING)
    for row, each in zip(rows, found, strict=True):
        axes.text(1.02, row, each.verdict or "other data", transform=axes.get_yaxis_transform(), va="center",
                  fontsize=14, fontweight="bold" if each.verdict in ("reproduced", "explained") else "normal")
    axes.set(xlim=(-2, 102), ylim=(len(entries) - 0.5, -0.5))
    axes.set_xlabel("accuracy, %", fontsize=14)
    axes.set_yticks(rows, entries, fontsize=12.5)
    axes.tick_params(axis="x", labelsize=13)
    axes.grid(axis="y", visible=False)
    figure.suptitle(title, fontsize=17)
    axes.set_title(note, fontsize=11, color="0.35")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=13)
    return figure


def _claim_marks(axes, measured: list, heights, **look) -> None:
    values = 100 * np.array([each.accuracy for each in measured])
    errors = np.abs(100 * np.array([each.interval for each in measured]).T - values)
    axes.errorbar(values, heights, xerr=errors, ms=9, capsize=4, lw=2, **look)


def naive_against_adaptive(records: dict[str, dict], guessing: float) -> Figure:
    """One row a contender: clean accuracy, what a careless judgement says, and the worst case with its interval.

    records: as kitlib.comparison.judged gives them.
    """
    shown = {"clean": ("|", "0.6"), "carried_over": ("s", _PALETTE[2]), "naive": ("D", _PALETTE[1]),
             "worst_case": ("o", _PALETTE[3])}
    figure, axes = plt.subplots(figsize=(7.5, 1.2 + 0.38 * len(records)))
    for row, record in enumerate(records.values()):
        values = [100 * record[part]["accuracy"] for part in shown]
        axes.plot([min(values), max(values)], [row, row], color="0.85", lw=5, zorder=1, solid_capstyle="round")
        axes.plot(100 * np.array(record["worst_case"]["interval"]), [row, row], color=_PALETTE[3], lw=2, zorder=2)
    for part, (marker, colour) in shown.items():
        values = [100 * record[part]["accuracy"] for record in records.values()]
        axes.plot(values, range(len(records)), marker, color=colour, ms=8, mew=2 if marker == "|" else 0, zorder=3,
                  label=part.replace("_", " "))
    axes.axvline(100 * guessing, ls=":", color=COLOURS["guessing"], label=GUESSING)
    axes.set(yticks=range(len(records)), yticklabels=records, xlim=(-2, 102), xlabel="accuracy, %",
             title="What each judgement says of each contender")
    axes.invert_yaxis()
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    return figure


def accuracy_against_cost(records: dict[str, dict]) -> Figure:
    """Clean accuracy (hollow) over worst case (full, with its interval) at the cost of training.

    records: as kitlib.comparison.judged gives them. Contenders at the same place share a label.
    """
    figure, axes = plt.subplots(figsize=(7.5, 4.6))
    places: dict[tuple, list[str]] = {}
    for name, record in records.items():
        cost, worst = record["training"]["times_plain"], 100 * record["worst_case"]["accuracy"]
        low, high = (100 * end for end in record["worst_case"]["interval"])
        axes.plot([cost, cost], [worst, 100 * record["clean"]["accuracy"]], color="0.85", zorder=1)
        axes.errorbar(cost, worst, yerr=[[max(worst - low, 0)], [max(high - worst, 0)]], fmt="o", capsize=3, color="C3")
        axes.plot(cost, 100 * record["clean"]["accuracy"], "o", mfc="none", color="C0")
        places.setdefault((round(16 * np.log2(cost)), round(worst / 5)), []).append(name)
    for names in places.values():
        first = records[names[0]]
        at = (first["training"]["times_plain"], 100 * first["worst_case"]["accuracy"])
        if len(names) > 2:      # a list to the left, where none is cheaper than plain training
            axes.annotate("\n".join(names), at, (-9, -4), textcoords="offset points", fontsize=8, ha="right")
        else:                   # aslant, so that names of neighbours do not meet
            axes.annotate(", ".join(names), at, (7, 3), textcoords="offset points", fontsize=8, rotation=40,
                          rotation_mode="anchor")
    axes.set(xscale="log", xlabel="training time, times the plain one (logarithmic)", ylabel="accuracy, %",
             ylim=(-3, 102), title="Clean accuracy (hollow) and worst case (full)")
    axes.margins(x=0.25)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    return figure


def transfer_heatmap(matrix: dict[str, dict[str, object]]) -> Figure:
    """Accuracy in per cent: rows are what the images were made on, columns who judges them.

    matrix: {made on: {judged by: anything with `value`}}, as kitlib.comparison.transfer_matrix gives it.
    """
    names = list(next(iter(matrix.values())))
    values = 100 * np.array([[row[name].value for name in names] for row in matrix.values()])
    figure, axes = plt.subplots(figsize=(2.4 + 0.75 * len(names), 1.8 + 0.45 * len(matrix)))
    sns.heatmap(values, annot=True, fmt=".0f", vmin=0, vmax=100, cmap="cividis", xticklabels=names,
                yticklabels=list(matrix), ax=axes, cbar_kws={"label": "accuracy, %"})
    axes.set(xlabel="judged by", ylabel="images made on", title="Adversarial images carried from model to model")
    axes.set_xticklabels(axes.get_xticklabels(), rotation=35, ha="right")
    axes.set_yticklabels(axes.get_yticklabels(), rotation=0)
    return figure


def over_seeds(groups: dict[str, dict[str, dict]]) -> Figure:
    """A sweep's accuracies: a pale dot each seed, a mark and a bar for the mean and its interval.

    groups: title -> model -> attack -> anything with `values`, `mean` and `interval` (kitlib.sweeps.Spread).
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
                colour, label = COLOURS.get(model, _PALETTE[number]), model if place == 0 else None
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


def predictions(situations: dict[str, tuple], labels, class_names) -> Figure:
    """Each image beside the probabilities that a model gives it; one row an image, two columns a situation.

    situations: {title: (images, probabilities)}, n x H x W x C pixels and n x classes. The bar of the true class is
    filled, the others are pale; the answer stands above the picture, in red where it is wrong.
    """
    rows, columns = len(labels), len(situations)
    class_names = [short(name) for name in class_names]
    height = max(2.0, 0.2 * len(class_names) + 0.8)
    width = 3.3 + 0.13 * max(0, max(map(len, class_names)) - 10)
    figure, grid = plt.subplots(rows, 2 * columns, squeeze=False, figsize=(width * columns, height * rows),
                                width_ratios=[1.25, 1] * columns)
    for column, (title, (images, probabilities)) in enumerate(situations.items()):
        for row, label in enumerate(labels):
            left, right = grid[row][2 * column:2 * column + 2]
            said = int(probabilities[row].argmax())
            answer = f"{class_names[said]}, {100 * probabilities[row, said]:.0f} %"
            picture(left, images[row], f"{title}\n{answer}" if row == 0 else answer, _colour(said == label))
            _probability_bars(right, probabilities[row], label, class_names)
    return figure


def _probability_bars(axes, probabilities, label: int, class_names) -> None:
    places = np.arange(len(class_names))
    colours = [_PALETTE[0] if place == label else _PALETTE[7] for place in places]
    axes.barh(places, 100 * probabilities, color=colours)
    axes.set(xlim=(0, 100), xticks=(0, 50, 100), yticks=places)
    axes.set_yticklabels(class_names)
    axes.get_yticklabels()[label].set_fontweight("bold")
    axes.invert_yaxis()
    axes.tick_params(labelsize=7)
    axes.grid(axis="y", visible=False)


def explanations(images: dict[str, np.ndarray], heat: dict[str, np.ndarray], values: dict[str, np.ndarray],
                 titles: dict[str, list[str]]) -> Figure:
    """Each image with its Grad-CAM and its integrated gradients; one row an image, three columns a situation.

    images, titles: {situation: n x H x W x C pixels, or n texts}. heat: n x H x W, zero or more, each image scaled to
    its largest. values: n x H x W x C, summed over channels, each image scaled to the 99th percentile of its
    magnitude: red speaks for the class, blue against it.
    """
    rows = len(next(iter(images.values())))
    figure, grid = plt.subplots(rows, 3 * len(images), squeeze=False, figsize=(1.75 * 3 * len(images), 2.0 * rows))
    for number, (situation, pictures) in enumerate(images.items()):
        for row in range(rows):
            first, second, third = grid[row][3 * number:3 * number + 3]
            picture(first, pictures[row], f"{situation}\n{titles[situation][row]}")
            picture(second, pictures[row], "Grad-CAM")
            hot = heat[situation][row]
            second.imshow(hot, cmap="inferno", alpha=0.6, vmin=0, vmax=max(hot.max(), 1e-12))
            total = values[situation][row].sum(-1)
            largest = max(np.percentile(np.abs(total), 99), 1e-12)
            third.imshow(total, cmap="RdBu_r", vmin=-largest, vmax=largest, interpolation="nearest")
            third.set_title("integrated gradients", fontsize=9)
            third.set_axis_off()
    return figure


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


def recalls(records: dict[str, dict[str, dict]], classes) -> Figure:
    """Recall with 95 % intervals: one panel a class, one line a situation, one colour a model.

    records: {model: {situation: {class: record with accuracy, count and interval}}}, as in results.json.
    """
    situations = list(next(iter(records.values())))
    figure, grid = plt.subplots(1, len(classes), squeeze=False, sharey=True,
                                figsize=(2.0 + 2.4 * len(classes), 0.9 + 0.34 * len(situations)))
    for axes, name in zip(grid[0], classes, strict=True):
        for number, (model, of_model) in enumerate(records.items()):
            found = [of_model[situation][name] for situation in situations]
            value = 100 * np.array([each["accuracy"] for each in found])
            ends = 100 * np.array([each["interval"] for each in found]).T
            places = np.arange(len(situations)) + 0.3 * (number - (len(records) - 1) / 2)
            axes.errorbar(value, places, xerr=np.maximum(np.abs(ends - value), 0), fmt="o", ms=4, capsize=2,
                          label=model, color=COLOURS.get(model))
        fewest, most = min(each["count"] for each in found), max(each["count"] for each in found)
        images = f"{most}" if fewest == most else f"{fewest} to {most}"
        axes.set(xlim=(-3, 103), xlabel="recall, %", title=f"{short(name)}, {images} images")
    grid[0][0].set(yticks=np.arange(len(situations)), yticklabels=situations)
    grid[0][0].invert_yaxis()
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=len(records), fontsize=9)
    return figure


def image_pairs(left, right, titles) -> Figure:
    """Pairs of images, one above the other, each pair with its title."""
    figure, grid = plt.subplots(2, len(left), figsize=(1.8 * len(left), 3.9), squeeze=False)
    for column, title in enumerate(titles):
        picture(grid[0][column], left[column], title)
        picture(grid[1][column], right[column])
    return figure


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


def similarity_maps(maps: dict[str, np.ndarray]) -> Figure:
    """Correlation of every image with every other, in the order of file numbers; one panel a title.

    The colours begin at the first percentile, or at 0 where that is negative.
    """
    figure, grid = plt.subplots(1, len(maps), figsize=(3.9 * len(maps), 4.2), squeeze=False)
    low = max(0.0, min(float(np.percentile(values, 1)) for values in maps.values()))
    for axes, (title, values) in zip(grid[0], maps.items(), strict=True):
        shown = axes.imshow(values, cmap="cividis", vmin=low, vmax=1, interpolation="nearest")
        axes.set(title=title, xlabel="file number")
        axes.grid(False)
    grid[0][0].set_ylabel("file number")
    figure.colorbar(shown, ax=list(grid[0]), shrink=0.75, label="correlation")
    return figure
