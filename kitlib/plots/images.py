"""Images side by side: samples, adversarial ones beside their perturbation, predictions, explanations."""
from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from kitlib.data import Dataset
from kitlib.plots.style import (
    MOST_PANELS,
    PALETTE,
    colour_of,
    image_grid,
    perturbation,
    picture,
    prediction,
    short,
    styled,
)

AMPLIFIED = 10  # by how much `first_look` shows a perturbation


@styled
def first_look(clean: np.ndarray, attacked: np.ndarray, titles) -> Figure:
    """A photograph, plus a perturbation (shown ten times as strong), is the attacked photograph.

    clean, attacked: H x W x C pixels. titles: two texts, what the network predicts for each.
    """
    figure, panels = plt.subplots(1, 3, figsize=(9.6, 3.5))
    change = attacked - clean
    size = f"perturbation, shown {AMPLIFIED} times as strong\nlargest {255 * np.abs(change).max():.1f}/255"
    for axes, image, title in zip(panels, (clean, 0.5 + AMPLIFIED * change, attacked), (titles[0], size, titles[1]),
                                  strict=True):
        picture(axes, image, title)
    for axes, sign in zip(panels[1:], "+=", strict=True):
        axes.text(-0.07, 0.5, sign, transform=axes.transAxes, ha="center", va="center", fontsize=22)
    return figure


@styled
def samples(dataset: Dataset, per_class: int | None = None) -> Figure:
    """The first training images of each class; of more than ten classes the first ten.

    per_class: images of each, one row a class; by default as many as make ten in all.
    """
    images, labels = dataset.pixels("train"), dataset.labels_of("train")
    names = dataset.class_names[:MOST_PANELS]
    each = max(1, MOST_PANELS // len(names)) if per_class is None else per_class
    figure, panels = image_grid(each * len(names), each if each > 1 else 5)
    for row, name in enumerate(names):
        chosen = images[labels == row][:each]
        for column, axes in enumerate(panels[row * each:(row + 1) * each]):
            axes.set_axis_off()
            if column < len(chosen):
                picture(axes, chosen[column], short(name) if column == 0 else "")
    return figure


@styled
def image_row(images, titles) -> Figure:
    """Up to ten images side by side, each with its title."""
    count = min(len(images), MOST_PANELS)
    rows = -(-count // 5)
    figure, panels = image_grid(count, -(-count // rows), {"": titles})
    for axes, image, title in zip(panels, images, titles, strict=False):
        picture(axes, image, title)
    return figure


@styled
def attack_grid(
    images, attacked: dict[str, np.ndarray], titles: dict[str, list[str]], right: dict[str, list[bool]],
) -> Figure:
    """Clean images and, for each attack, the perturbation and the adversarial image; as many rows as make ten panels.
    Of three attacks or more one image is shown, with its perturbations in a row below.

    images: n x H x W x C pixels; attacked: n images an attack; titles and right: for "clean" and
    each attack, what the model predicts and whether it is right (wrong ones are written in red).
    Perturbations are amplified to fill the grey range, around mid-grey; their true size is in the title.
    """
    names = list(attacked)
    columns = 1 + 2 * len(names)
    below = len(names) > 2
    rows = 1 if below else min(len(images), MOST_PANELS // columns)
    figure, panels = image_grid(rows * columns + below, 1 + len(names) if below else columns, titles)
    for row in range(rows):
        clean, *others = panels[row * columns:(row + 1) * columns + below]
        if below:
            others[len(names)].set_axis_off()
        changes, adversarial = (others[-len(names):], others) if below else (others[::2], others[1::2])
        picture(clean, images[row], f"clean\n{titles['clean'][row]}", colour_of(right["clean"][row]))
        for name, change, image in zip(names, changes, adversarial, strict=False):
            perturbation(change, attacked[name][row] - images[row])
            picture(image, attacked[name][row], f"{name}\n{titles[name][row]}", colour_of(right[name][row]))
    return figure


@styled
def one_attack(clean, attacked, before, after, label: int, class_names) -> Figure:
    """One image, the perturbation, the attacked image, and the probabilities that a model gives before and after.

    clean, attacked: H x W x C pixels; before, after: one probability a class; label: the class that the attack leads
    away from. Its bar is filled, and another prediction is written in red. The perturbation as in `attack_grid`.
    """
    class_names = [short(name) for name in class_names]
    width = 11.5 + 0.35 * max(0, max(map(len, class_names)) - 10)
    figure, axes = plt.subplots(1, 5, figsize=(width, max(2.5, 0.22 * len(class_names) + 0.6)),
                                width_ratios=[1, 1, 1, 0.9, 0.9])
    for name, image, probabilities, left, right in zip(
            ("clean", "attacked"), (clean, attacked), (before, after), (axes[0], axes[2]), axes[3:], strict=True):
        is_right = int(np.argmax(probabilities)) == label
        picture(left, image, f"{name}\n{prediction(probabilities, class_names)}", colour_of(is_right))
        _probability_bars(right, probabilities, label, class_names)
        right.set_title(f"{name}, %", fontsize=11)
    perturbation(axes[1], attacked - clean)
    return figure


@styled
def predictions(situations: dict[str, tuple], labels, class_names) -> Figure:
    """Each image beside the probabilities that a model gives it; one row an image, two columns a situation.

    situations: {title: (images, probabilities)}, n x H x W x C pixels and n x classes. The bar of the true class is
    filled, the others are pale; the prediction stands above the picture, in red where it is wrong. Ten images at most:
    as many rows as make so many.
    """
    columns = len(situations)
    rows = min(len(labels), max(1, MOST_PANELS // columns))
    class_names = [short(name) for name in class_names]
    height = max(2.2, 0.22 * len(class_names) + 0.8)
    width = 3.8 + 0.45 * max(0, max(map(len, class_names)) - 8)
    figure, grid = plt.subplots(rows, 2 * columns, squeeze=False, figsize=(width * columns, height * rows),
                                width_ratios=[1.25, 1] * columns)
    for column, (title, (images, probabilities)) in enumerate(situations.items()):
        for row, label in enumerate(labels[:rows]):
            left, right = grid[row][2 * column:2 * column + 2]
            is_right = int(probabilities[row].argmax()) == label
            text = prediction(probabilities[row], class_names)
            picture(left, images[row], f"{title}\n{text}" if row == 0 else text, colour_of(is_right))
            _probability_bars(right, probabilities[row], label, class_names)
    return figure


def _probability_bars(axes, probabilities, label: int, class_names) -> None:
    places = np.arange(len(class_names))
    colours = [PALETTE[0] if place == label else PALETTE[7] for place in places]
    axes.barh(places, 100 * probabilities, color=colours)
    axes.set(xlim=(0, 100), xticks=(0, 50, 100), yticks=places)
    axes.set_yticklabels(class_names)
    axes.get_yticklabels()[label].set_fontweight("bold")
    axes.invert_yaxis()
    axes.tick_params(labelsize=9)
    axes.grid(axis="y", visible=False)


@styled
def explanations(images: dict[str, np.ndarray], heat: dict[str, np.ndarray], values: dict[str, np.ndarray],
                 titles: dict[str, list[str]]) -> Figure:
    """Each image with its Grad-CAM and its integrated gradients; three columns a situation, and as many rows as make
    ten panels.

    images, titles: {situation: n x H x W x C pixels, or n texts}. heat: n x H x W, zero or more, each image scaled to
    its largest. values: n x H x W x C, summed over channels, each image scaled to the 99th percentile of its
    magnitude: red speaks for the class, blue against it.
    """
    columns = 3 * len(images)
    rows = min(len(next(iter(images.values()))), max(1, MOST_PANELS // columns))
    figure, panels = image_grid(rows * columns, columns, titles)
    for number, (situation, pictures) in enumerate(images.items()):
        for row in range(rows):
            first, second, third = panels[row * columns + 3 * number:][:3]
            picture(first, pictures[row], f"{situation}\n{titles[situation][row]}")
            picture(second, pictures[row], "Grad-CAM")
            hot = heat[situation][row]
            second.imshow(hot, cmap="inferno", alpha=0.6, vmin=0, vmax=max(hot.max(), 1e-12))
            total = values[situation][row].sum(-1)
            largest = max(np.percentile(np.abs(total), 99), 1e-12)
            third.imshow(total, cmap="RdBu_r", vmin=-largest, vmax=largest, interpolation="nearest")
            third.set_title("integrated gradients", fontsize=11)
            third.set_axis_off()
    return figure


@styled
def image_pairs(left, right, titles) -> Figure:
    """Up to five pairs of images, one above the other, each pair with its title."""
    count = min(len(left), MOST_PANELS // 2)
    figure, panels = image_grid(2 * count, count, {"": titles})
    for column in range(count):
        picture(panels[column], left[column], titles[column])
        picture(panels[count + column], right[column])
    return figure
