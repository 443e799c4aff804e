"""Images side by side: samples, adversarial ones over their perturbation, answers, explanations."""
from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from kitlib.data import Dataset
from kitlib.plots.style import PALETTE, colour_of, perturbation, picture, short, styled


@styled
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


@styled
def image_row(images, titles) -> Figure:
    """A few images side by side, each with its title."""
    figure, grid = plt.subplots(1, len(images), figsize=(1.7 * len(images), 2.0), squeeze=False)
    for axes, image, title in zip(grid[0], images, titles, strict=True):
        picture(axes, image, title)
    return figure


@styled
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
        picture(grid[row][0], image, "clean\n" + titles["clean"][row], colour_of(right["clean"][row]))
        for number, name in enumerate(names):
            perturbation(grid[row][1 + 2 * number], attacked[name][row] - image)
            picture(grid[row][2 + 2 * number], attacked[name][row],
                    f"{name}\n{titles[name][row]}", colour_of(right[name][row]))
    return figure


@styled
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
        picture(left, image, answer, colour_of(said == label))
        _probability_bars(right, probabilities, label, class_names)
        right.set_title(f"{name}, %", fontsize=9)
    perturbation(axes[1], attacked - clean)
    return figure


@styled
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
            picture(left, images[row], f"{title}\n{answer}" if row == 0 else answer, colour_of(said == label))
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
    axes.tick_params(labelsize=7)
    axes.grid(axis="y", visible=False)


@styled
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


@styled
def image_pairs(left, right, titles) -> Figure:
    """Pairs of images, one above the other, each pair with its title."""
    figure, grid = plt.subplots(2, len(left), figsize=(1.8 * len(left), 3.9), squeeze=False)
    for column, title in enumerate(titles):
        picture(grid[0][column], left[column], title)
        picture(grid[1][column], right[column])
    return figure
