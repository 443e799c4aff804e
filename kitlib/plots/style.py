"""One style for every picture, colour-blind safe, which leaves the user's own as it was; and one image drawn."""
from __future__ import annotations

import functools
import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from scipy.optimize import isotonic_regression

from kitlib.base.files import atomic_file

ROUNDING = 1e-4  # a change smaller than this is float rounding, not a perturbation
MOST_PANELS = 10  # images in one figure: more are too small to be looked at
PALETTE = sns.color_palette("colorblind")
GUESSING = "guessing (the most frequent class)"
COLOURS = {"baseline": PALETTE[3], "defended": PALETTE[0], "guessing": PALETTE[7]}


@functools.cache
def _style() -> dict:
    return {
        **sns.axes_style("whitegrid"), **sns.plotting_context("notebook"),
        "axes.prop_cycle": plt.cycler(color=PALETTE), "patch.facecolor": PALETTE[0],
        "figure.dpi": 80, "savefig.dpi": 160, "axes.titlesize": 12, "figure.constrained_layout.use": True}


def styled(draw):
    """Decorator: `draw` in the kit's style, whatever the user's is, and leave that as it was."""
    @functools.wraps(draw)
    def drawn(*arguments, **named):
        with plt.rc_context(_style()):
            return draw(*arguments, **named)
    return drawn


@styled
def keep(figure: Figure, path: Path, synthetic: bool = False) -> Figure:
    """Save a figure whole as PNG at twice the screen's size; synthetic data are marked in the picture.

    Returns the figure, closed, so that a notebook cell that ends with this call shows it once.
    """
    finished(figure, synthetic)
    with atomic_file(path) as aside:
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


def prediction(probabilities: np.ndarray, class_names) -> str:
    """What a model predicts for one image, for its title: "predicts 9 (17 %)". probabilities: one a class."""
    most = int(np.argmax(probabilities))
    return f"predicts {short(class_names[most])} ({100 * probabilities[most]:.0f} %)"


def picture(axes, image: np.ndarray, title: str = "", colour="black") -> None:
    """One image, H x W x C pixels, in true brightness: 0 is black and 1 is white. Of other than one or three channels
    their mean is shown."""
    image = image.squeeze()
    image = image.mean(-1) if image.ndim == 3 and image.shape[-1] != 3 else image
    axes.imshow(np.clip(image, 0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(title, fontsize=11, color=colour)
    axes.set_axis_off()


def perturbation(axes, change: np.ndarray) -> None:
    """A change of pixels, H x W x C, amplified to fill the grey range around mid-grey; its true size is the title."""
    largest = float(np.abs(change).max())
    if largest <= ROUNDING:
        picture(axes, np.full_like(change, 0.5), "no perturbation")
        return
    times = 0.5 / largest
    picture(axes, 0.5 + times * change, f"perturbation, {times:.2g} times\nlargest {255 * largest:.1f}/255")


def colour_of(is_right: bool) -> str:
    return "black" if is_right else "#b00020"


def image_grid(count: int, columns: int, titles: dict[str, list[str]] | None = None):
    """A figure with `count` panels for images, row by row, wide enough for the titles; (figure, its axes as a flat
    list of `count`)."""
    lines = [line for some in (titles or {}).values() for title in some for line in title.split("\n")]
    side = max(2.2, 0.088 * max(map(len, lines), default=0))     # inches of a letter
    return panel_grid(count, columns, (side, side + 0.5))


def panel_grid(count: int, columns: int, size: tuple[float, float], **shared):
    """A figure with `count` panels of that size in inches, row by row; (figure, its axes as a flat list of `count`)."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(size[0] * columns, size[1] * rows), squeeze=False, **shared)
    for axes in grid.flat[count:]:
        axes.set_axis_off()
    return figure, list(grid.flat[:count])


def label_ends(axes, names: dict[str, Line2D]) -> None:
    """Write the label of each line of `axes` at its right end, in its colour, without one label on another.

    names: {what to write: the line}. To be called when all lines are drawn and the limits are set.
    """
    low, high = axes.get_ylim()
    height = axes.get_figure().get_figheight() * axes.get_subplotspec().get_position(axes.get_figure()).height
    gap = 0.19 / height * (high - low)      # a line of text in inches, as a share of the panel
    ends = [float(np.asarray(line.get_ydata())[-1]) for line in names.values()]
    for (name, line), end, place in zip(names.items(), ends, apart(ends, gap, low, high), strict=True):
        axes.annotate(name, (np.asarray(line.get_xdata())[-1], end), (1.02, place), fontsize=10,
                      textcoords=("axes fraction", "data"), va="center", color=line.get_color(), annotation_clip=False)


def apart(values: list[float], gap: float, low: float, high: float) -> list[float]:
    """The values moved as little as serves to lie `gap` apart, in their order, within low..high where they fit."""
    order, steps = np.argsort(values, kind="stable"), gap * np.arange(len(values))
    firsts = isotonic_regression(np.asarray(values, float)[order] - steps).x    # where each would put the lowest one
    firsts = np.clip(firsts, low + gap / 2, max(low + gap / 2, high - gap * (len(values) - 0.5)))
    placed = np.empty(len(values))
    placed[order] = firsts + steps
    return placed.tolist()


def per_cent(axes, axis: str = "y", label: str = "accuracy, %") -> None:
    """An axis of per cent, from 0 to 100 with a margin for marks."""
    axes.set(**{f"{axis}lim": (-3, 103), f"{axis}ticks": range(0, 101, 20), f"{axis}label": label})
