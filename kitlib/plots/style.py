"""One style for every picture, colour-blind safe, which leaves the user's own as it was; and one image drawn."""
from __future__ import annotations

import functools
import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.text import Text

from kitlib.base.files import atomic_file

ROUNDING = 1e-4  # a change smaller than this is float rounding, not a perturbation
PALETTE = sns.color_palette("colorblind")
GUESSING = "guessing (the most frequent class)"
COLOURS = {"baseline": PALETTE[3], "defended": PALETTE[0], "guessing": PALETTE[7]}


@functools.cache
def _style() -> dict:
    return {
        **sns.axes_style("whitegrid"), **sns.plotting_context("notebook"),
        "axes.prop_cycle": plt.cycler(color=PALETTE), "patch.facecolor": PALETTE[0],
        "figure.dpi": 80, "savefig.dpi": 160, "axes.titlesize": 11, "figure.constrained_layout.use": True,
    }


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


def picture(axes, image: np.ndarray, title: str = "", colour="black") -> None:
    """One image, H x W x C pixels, in true brightness: 0 is black and 1 is white. Of other than one or three channels
    their mean is shown."""
    image = image.squeeze()
    image = image.mean(-1) if image.ndim == 3 and image.shape[-1] != 3 else image
    axes.imshow(np.clip(image, 0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(title, fontsize=9, color=colour)
    axes.set_axis_off()


def perturbation(axes, change: np.ndarray) -> None:
    """A change of pixels, H x W x C, amplified to fill the grey range around mid-grey; its true size is the title."""
    largest = float(np.abs(change).max())
    amplified = 0.5 + change / (2 * largest) if largest > ROUNDING else np.full_like(change, 0.5)
    picture(axes, amplified, f"perturbation\nlargest {255 * largest:.1f}/255")


def colour_of(is_right: bool) -> str:
    return "black" if is_right else "#b00020"
