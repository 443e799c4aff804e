"""Counts, confusion matrices and comparisons: of classes, attacks, models and a paper's figures."""
from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from kitlib.data import Dataset
from kitlib.plots.style import COLOURS, GUESSING, PALETTE, panel_grid, per_cent, short, styled


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
    """What the images of each true class are predicted as, in per cent of them; beside each class how many it has.

    matrices: {title: classes x classes counts}, rows true, columns predicted; three panels in a row.
    """
    names = [short(name, 24).replace("$", r"\$") for name in class_names]   # seaborn draws them at once
    side = 2.2 + 0.38 * len(names) + 0.09 * max(0, max(map(len, names)) - 10)
    figure, panels = panel_grid(len(matrices), 3, (side, side))
    for axes, (title, matrix) in zip(panels, matrices.items(), strict=True):
        counts = np.asarray(matrix).sum(1)
        rates = 100 * np.asarray(matrix) / np.maximum(counts, 1)[:, None]
        sns.heatmap(rates, annot=True, fmt=".0f", vmin=0, vmax=100, cmap="cividis", cbar=False, square=True, ax=axes,
                    mask=np.broadcast_to(counts[:, None] == 0, rates.shape), annot_kws={"fontsize": 10},
                    xticklabels=names, yticklabels=[f"{name} ({n})" for name, n in zip(names, counts, strict=True)])
        axes.set(title=title, xlabel="predicted, %", ylabel="true class (images)")
        axes.set_xticklabels(axes.get_xticklabels(), rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticklabels(axes.get_yticklabels(), rotation=0)
        axes.tick_params(labelsize=10)
    return figure


@styled
def accuracy_bars(accuracies: dict[str, dict[str, Any]], guessing: float) -> Figure:
    """Accuracy with interval, one group an attack and one bar a model. accuracies: {model: {attack: record}}."""
    models = list(accuracies)
    attacks = list(accuracies[models[0]])
    figure, axes = plt.subplots(figsize=(8, 1.6 + 0.42 * len(attacks)))
    width = 0.8 / len(models)
    for number, model in enumerate(models):
        records = [accuracies[model][attack] for attack in attacks]
        values, errors = _values_and_errors([record.accuracy for record in records],
                                            [record.interval for record in records])
        positions = np.arange(len(attacks)) + (number - (len(models) - 1) / 2) * width
        bars = axes.barh(positions, values, width, xerr=errors, capsize=2, label=model, color=COLOURS.get(model))
        axes.bar_label(bars, fmt="%.0f", fontsize=9, padding=3)
    axes.axvline(100 * guessing, ls=":", color=COLOURS["guessing"], label=GUESSING)
    axes.set(xlabel="accuracy, %", xlim=(0, 110), xticks=range(0, 101, 20), title="Accuracy with 95 % intervals")
    axes.set_yticks(np.arange(len(attacks)), attacks, fontsize=10)
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    figure.legend(fontsize=9, ncols=3, loc="outside lower center")
    return figure


def _values_and_errors(shares, intervals) -> tuple[np.ndarray, np.ndarray]:
    """Shares in per cent, and how far below and above them their intervals reach (2 x N)."""
    values = 100 * np.asarray(shares)
    low, high = 100 * np.asarray(intervals).T
    return values, np.maximum([values - low, high - values], 0)


@styled
def claims(entries: dict, guessing: list[float], title: str, note: str = "") -> Figure:
    """A paper on one page: each of its figures as claimed, repeated as published, and under the standard attack, with
    the verdict beside it.

    entries: {label of a row: PaperEntry}; beside its verdict stands what it is `explained_by`, where it says so.
    guessing: for each, what guessing would get, as a share.
    Marks have 95 % intervals. Letters are large, so that it can be read at half the width of a page.
    """
    found, rows = list(entries.values()), np.arange(len(entries))
    figure, axes = plt.subplots(figsize=(9.2, 2.3 + 0.62 * len(entries)))
    claimed = [each.paper for each in found]
    axes.vlines(claimed, rows - 0.33, rows + 0.33, color="black", lw=5, label="the paper's claim")
    for part, shift, label, look in (
            ("as_published", -0.15, "rerun as published", {"fmt": "s", "color": PALETTE[0]}),
            ("as_defined", 0.15, "standard attack", {"fmt": "o", "color": PALETTE[3]})):
        measured = [getattr(each, part) for each in found]
        values, errors = _values_and_errors([each.accuracy for each in measured], [each.interval for each in measured])
        axes.errorbar(values, rows + shift, xerr=errors, ms=9, capsize=4, lw=2, label=label, **look)
    axes.vlines(100 * np.array(guessing), rows - 0.5, rows + 0.5, ls=":", lw=2, color="0.35", label=GUESSING)
    for row, each in zip(rows, found, strict=True):
        axes.text(1.02, row, _verdict(each), transform=axes.get_yaxis_transform(), va="center", fontsize=13,
                  fontweight="bold" if each.verdict == "compatible" else "normal")
    per_cent(axes, "x")
    axes.set(ylim=(len(entries) - 0.5, -0.5))
    axes.set_xlabel("accuracy, %", fontsize=14)
    axes.set_yticks(rows, entries, fontsize=12.5)
    axes.tick_params(axis="x", labelsize=13)
    axes.grid(axis="y", visible=False)
    figure.suptitle(title, fontsize=17)
    axes.set_title(note, fontsize=11, color="0.35")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=13)
    return figure


def _verdict(entry) -> str:
    explained = getattr(entry, "explained_by", None)
    return (entry.verdict or "other data") + (f"\nexplained by {explained}" if explained else "")


def _by_worst_case(records: dict[str, dict]) -> dict[str, dict]:
    """The records, the most robust first; of equal ones the more accurate."""
    return dict(sorted(records.items(), reverse=True, key=lambda item: (
        item[1]["worst_case"]["accuracy"], item[1]["clean"]["accuracy"])))


@styled
def naive_against_adaptive(records: dict[str, dict], guessing: float) -> Figure:
    """One row a compared model: clean accuracy, what a careless judgement says, and the worst case with its interval.

    records: as kitlib.experiments.comparison.judged gives them. The most robust stands first. The title says whom the
    naive judgement flatters most.
    """
    shown = {"clean": ("|", "0.2", "clean"), "carried_over": ("s", PALETTE[2], "carried over from the baseline"),
             "naive": ("D", PALETTE[1], "naive attack"), "worst_case": ("o", PALETTE[3], "worst case")}
    records = _by_worst_case(records)
    figure, axes = plt.subplots(figsize=(8.4, 1.6 + 0.4 * len(records)))
    for row, record in enumerate(records.values()):
        values = [100 * record[part]["accuracy"] for part in shown]
        axes.plot([min(values), max(values)], [row, row], color="0.85", lw=5, zorder=1, solid_capstyle="round")
        axes.plot(100 * np.array(record["worst_case"]["interval"]), [row, row], color=PALETTE[3], lw=2, zorder=2)
    for part, (marker, colour, label) in shown.items():
        values = [100 * record[part]["accuracy"] for record in records.values()]
        size = {"ms": 18, "mew": 2} if part == "clean" else {"ms": 8, "mew": 0}     # seen also behind another mark
        axes.plot(values, range(len(records)), marker, color=colour, zorder=3, label=label, **size)
    axes.axvline(100 * guessing, ls=":", color=COLOURS["guessing"], label=GUESSING)
    per_cent(axes, "x")
    axes.set(yticks=range(len(records)), yticklabels=records, title=_overstated(records))
    axes.invert_yaxis()
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    return figure


def _overstated(records: dict[str, dict]) -> str:
    gaps = {name: 100 * (record["naive"]["accuracy"] - record["worst_case"]["accuracy"])
            for name, record in records.items()}
    most = max(gaps, key=gaps.__getitem__)
    return f"The naive attack overstates the accuracy of '{most}' by {gaps[most]:.0f} points"


@styled
def accuracy_against_cost(records: dict[str, dict]) -> Figure:
    """What robustness costs: one row a compared model, from its worst case (with its interval) to its clean accuracy,
    and beside it the time that its training took. The most robust stands first.

    records: as kitlib.experiments.comparison.judged gives them.
    """
    records = _by_worst_case(records)
    rows = np.arange(len(records))
    figure, axes = plt.subplots(figsize=(8.4, 1.6 + 0.4 * len(records)))
    clean = 100 * np.array([record["clean"]["accuracy"] for record in records.values()])
    worst = [record["worst_case"] for record in records.values()]
    values, errors = _values_and_errors([each["accuracy"] for each in worst], [each["interval"] for each in worst])
    axes.hlines(rows, values, clean, color="0.85", lw=5, zorder=1)
    axes.errorbar(values, rows, xerr=errors, fmt="o", ms=8, capsize=3, color=PALETTE[3], label="worst case")
    axes.plot(clean, rows, "o", ms=8, mfc="white", mew=2, color=PALETTE[0], label="clean")
    for row, record in zip(rows, records.values(), strict=True):
        axes.text(1.02, row, f"{record['training']['times_plain']:.1f} x", transform=axes.get_yaxis_transform(),
                  va="center", fontsize=11)
    axes.text(1.02, -0.9, "training\ntime", transform=axes.get_yaxis_transform(), fontsize=10, color="0.3")
    per_cent(axes, "x")
    axes.set(yticks=rows, yticklabels=records, ylim=(len(records) - 0.5, -0.6),
             title="Worst case, clean accuracy, and training time (1 x is plain training)")
    axes.grid(axis="y", visible=False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=10)
    return figure


@styled
def transfer_heatmap(matrix: dict[str, dict[str, Any]]) -> Figure:
    """Accuracy in per cent: rows are what the images were made on, columns who judges them.

    matrix: {made on: {judged by: anything with `value`}}, as kitlib.experiments.comparison.transfer_matrix gives it.
    """
    names = list(next(iter(matrix.values())))
    values = 100 * np.array([[row[name].value for name in names] for row in matrix.values()])
    figure, axes = plt.subplots(figsize=(3.2 + 0.9 * len(names), 2.4 + 0.5 * len(matrix)))
    sns.heatmap(values, annot=True, fmt=".0f", vmin=0, vmax=100, cmap="cividis", xticklabels=names,
                yticklabels=list(matrix), ax=axes, cbar_kws={"label": "accuracy, %"}, annot_kws={"fontsize": 11})
    axes.set(xlabel="judged by", ylabel="images made on", title="Adversarial images carried from model to model")
    axes.set_xticklabels(axes.get_xticklabels(), rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticklabels(axes.get_yticklabels(), rotation=0)
    return figure


@styled
def recalls(records: dict[str, dict[str, dict]], classes) -> Figure:
    """Recall with 95 % intervals: one panel a class, one line a situation, one colour a model.

    records: {model: {situation: {class: record with accuracy, count and interval}}}, as in results.json.
    """
    situations = list(next(iter(records.values())))
    figure, grid = plt.subplots(1, len(classes), squeeze=False, sharey=True,
                                figsize=(2.4 + 2.8 * len(classes), 1.2 + 0.38 * len(situations)))
    for axes, name in zip(grid[0], classes, strict=True):
        for number, (model, of_model) in enumerate(records.items()):
            found = [of_model[situation][name] for situation in situations]
            values, errors = _values_and_errors([each["accuracy"] for each in found],
                                                [each["interval"] for each in found])
            places = np.arange(len(situations)) + 0.3 * (number - (len(records) - 1) / 2)
            axes.errorbar(values, places, xerr=errors, fmt="o", ms=5, capsize=2, label=model, color=COLOURS.get(model))
        fewest, most = min(each["count"] for each in found), max(each["count"] for each in found)
        images = f"{most}" if fewest == most else f"{fewest} to {most}"
        per_cent(axes, "x", "recall, %")
        axes.set(title=f"{short(name)}, {images} images")
    grid[0][0].set(yticks=np.arange(len(situations)), yticklabels=situations)
    grid[0][0].invert_yaxis()
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=len(records), fontsize=10)
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
