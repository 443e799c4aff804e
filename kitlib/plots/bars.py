"""Counts, confusion matrices and comparisons: of classes, attacks, models and a paper's figures."""
from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from kitlib.data import Dataset
from kitlib.plots.style import COLOURS, GUESSING, PALETTE, short, styled


@styled
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


@styled
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


@styled
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


@styled
def claims(entries: dict, guessing: list[float], title: str, note: str = "") -> Figure:
    """A paper on one page: each of its figures as claimed, as published, and as defined, with the verdict beside it.

    entries: {label of a row: PaperEntry}. guessing: for each, what guessing would get, as a share.
    Marks have 95 % intervals. Letters are large, so that it can be read at half the width of a page.
    """
    found, rows = list(entries.values()), np.arange(len(entries))
    figure, axes = plt.subplots(figsize=(8.4, 2.3 + 0.58 * len(entries)))
    claimed = [each.paper for each in found]
    axes.vlines(claimed, rows - 0.33, rows + 0.33, color="black", lw=5, label="the paper's claim")
    _claim_marks(axes, [each.as_published for each in found], rows - 0.15, fmt="s", color=PALETTE[0],
                 label="rerun as published")
    _claim_marks(axes, [each.as_defined for each in found], rows + 0.15, fmt="o", color=PALETTE[3],
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


@styled
def naive_against_adaptive(records: dict[str, dict], guessing: float) -> Figure:
    """One row a compared_model: clean accuracy, what a careless judgement says, and the worst case with its interval.

    records: as kitlib.experiments.comparison.judged gives them.
    """
    shown = {"clean": ("|", "0.6"), "carried_over": ("s", PALETTE[2]), "naive": ("D", PALETTE[1]),
             "worst_case": ("o", PALETTE[3])}
    figure, axes = plt.subplots(figsize=(7.5, 1.2 + 0.38 * len(records)))
    for row, record in enumerate(records.values()):
        values = [100 * record[part]["accuracy"] for part in shown]
        axes.plot([min(values), max(values)], [row, row], color="0.85", lw=5, zorder=1, solid_capstyle="round")
        axes.plot(100 * np.array(record["worst_case"]["interval"]), [row, row], color=PALETTE[3], lw=2, zorder=2)
    for part, (marker, colour) in shown.items():
        values = [100 * record[part]["accuracy"] for record in records.values()]
        axes.plot(values, range(len(records)), marker, color=colour, ms=8, mew=2 if marker == "|" else 0, zorder=3,
                  label=part.replace("_", " "))
    axes.axvline(100 * guessing, ls=":", color=COLOURS["guessing"], label=GUESSING)
    axes.set(yticks=range(len(records)), yticklabels=records, xlim=(-2, 102), xlabel="accuracy, %",
             title="What each judgement says of each compared_model")
    axes.invert_yaxis()
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    return figure


@styled
def accuracy_against_cost(records: dict[str, dict]) -> Figure:
    """Clean accuracy (hollow) over worst case (full, with its interval) at the cost of training.

    records: as kitlib.experiments.comparison.judged gives them. Compared models at the same place share a label.
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


@styled
def transfer_heatmap(matrix: dict[str, dict[str, object]]) -> Figure:
    """Accuracy in per cent: rows are what the images were made on, columns who judges them.

    matrix: {made on: {judged by: anything with `value`}}, as kitlib.experiments.comparison.transfer_matrix gives it.
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


@styled
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


@styled
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
