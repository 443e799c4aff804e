"""To try out by hand: one picture, one attack, and sliders where somebody is there to move them."""
from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import ipywidgets
import keras
import numpy as np
from IPython.display import DisplayHandle, display
from matplotlib.figure import Figure

from kitlib import attacks, models, plots
from kitlib.data import DataSettings
from kitlib.data.pictures import fit, read_pictures
from kitlib.models import softmax

LARGEST = 64      # of the epsilon slider, in n/255
MOST_STEPS = 40   # of the slider of steps


@dataclasses.dataclass(frozen=True, eq=False)
class Explorer:
    """Some pictures and a model to attack with any epsilon and any number of steps.

    model: pixels to logits. images: float32, N x H x W x C, in [0, 1]. labels: int N, the true classes; without
    them the attack leads away from the model's own answer. synthetic: drawn pictures, to be marked as such.
    """

    model: keras.Model
    images: np.ndarray
    class_names: tuple[str, ...]
    labels: np.ndarray | None = None
    synthetic: bool = False

    def attack(self, number: int, eps: float, steps: int) -> np.ndarray:
        """The `number`th picture, H x W x C, after `steps` steps of L-inf PGD within `eps`, in pixels; one is FGSM."""
        how = {"name": "fgsm"} if steps == 1 else {"name": "pgd", "steps": steps, "random_start": False}
        whose = "predicted" if self.labels is None else "true"
        attack = attacks.read(how | {"eps": eps, "labels": whose})
        given = None if self.labels is None else self.labels[[number]]
        return keras.ops.convert_to_numpy(attack.perturb(self.model, self.images[[number]], given))[0]

    def figure(self, number: int = 0, eps: float = 32 / 255, steps: int = 10) -> Figure:
        """The picture, the perturbation, the attacked picture, and the probabilities before and after."""
        clean, attacked = self.images[number], self.attack(number, eps, steps)
        before, after = softmax(models.predict_logits(self.model, np.stack([clean, attacked])))
        label = int(before.argmax() if self.labels is None else self.labels[number])
        figure = plots.one_attack(clean, attacked, before, after, label, self.class_names)
        figure.suptitle(f"eps {255 * eps:g}/255, {steps} step{'s' * (steps > 1)}", fontsize=10)
        return plots.finished(figure, self.synthetic)

    def sliders(self, redraw: Callable[[Figure], object], number: int = 0, eps: float = 32 / 255,
                steps: int = 10) -> ipywidgets.VBox:
        """Sliders for the picture (where there is a choice), epsilon in n/255 and steps; a move calls `redraw` with
        the new figure."""
        shown = 255 * eps
        each = {
            "picture": ipywidgets.IntSlider(number, 0, max(1, len(self.images) - 1)),
            "eps, n/255": ipywidgets.FloatSlider(shown, min=0, max=max(LARGEST, shown), step=0.5, readout_format=".1f"),
            "steps": ipywidgets.IntSlider(steps, 1, max(MOST_STEPS, steps))}

        def moved(_):
            number, shown, steps = (slider.value for slider in each.values())
            redraw(self.figure(number, shown / 255, steps))

        for name, slider in each.items():
            slider.description, slider.continuous_update = name, False
            slider.observe(moved, "value")
        return ipywidgets.VBox(list(each.values())[len(self.images) == 1:])

    def show(self, number: int = 0, eps: float = 32 / 255, steps: int = 10, live: bool | None = None) -> None:
        """Display the figure, which is a plain picture wherever the notebook is run or read; above it the sliders
        that draw it anew. live: with sliders? None: where `somebody_looks`."""
        picture = DisplayHandle()
        if somebody_looks() if live is None else live:
            display(self.sliders(picture.update, number, eps, steps))
        picture.display(self.figure(number, eps, steps))


def somebody_looks() -> bool:
    """Whether a Jupyter server started this kernel, for JupyterLab or Notebook. nbconvert, papermill and nbval start
    theirs themselves; there sliders would be of no use and leave their state in the notebook."""
    return "JPY_SESSION_NAME" in os.environ


def read_picture(path: str, settings: DataSettings) -> np.ndarray:
    """A picture file as the data set's own are prepared: resized, its centre cropped, grey where they are.

    path: any usual format; `~` is the home folder. settings: of the experiment's data.
    Returns float32, 1 x size x size x channels, in [0, 1]. Raises KitError for a file that is no usable picture.
    """
    file = Path(os.path.expanduser(path)).absolute()
    found = read_pictures([file], settings.form(channels=1 if settings.grey else None), cache=None)
    return fit(found["images"], settings.size, settings.channels).astype(np.float32) / np.float32(255)
