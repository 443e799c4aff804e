"""figures/first_look.png: a photograph, the perturbation times ten, and the attacked photograph, with what a network
says of each."""
from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure

from kitlib import plots
from kitlib.base.settings import KitError
from kitlib.experiments import pretrained
from kitlib.models import predict_logits, softmax

MODEL = "cifar10_exp2/baseline"
EPS, STEP, STEPS = 8 / 255, 2 / 255, 10
SIZE = 32


def photograph() -> np.ndarray:
    """The whole of scikit-image's picture of the cat Chelsea (by S. van der Walt, CC0), 1 x 32 x 32 x 3 pixels.

    Raises KitError where scikit-image is not installed.
    """
    try:
        from skimage import data
    except ImportError:
        raise KitError("the first picture needs scikit-image: pip install scikit-image") from None
    from PIL import Image

    small = Image.fromarray(data.chelsea()).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return np.asarray(small, np.float32)[None] / 255


def attacked(model: keras.Model, image: np.ndarray) -> np.ndarray:
    """The image after CleverHans's PGD, which leads away from what the model itself says of it."""
    import tensorflow as tf
    from cleverhans.tf2.attacks.projected_gradient_descent import projected_gradient_descent

    made = projected_gradient_descent(model, tf.constant(image), EPS, STEP, STEPS, np.inf, clip_min=0.0, clip_max=1.0,
                                      rand_init=False, sanity_checks=False)
    return made.numpy()


def draw(figures: Path = pretrained.FIGURES) -> Figure:
    """The three pictures side by side. Raises KitError where the pretrained model or scikit-image is missing."""
    model, image = pretrained.load(MODEL, figures), photograph()
    names = pretrained.collections(figures)[MODEL.split("/")[0]].class_names
    changed = attacked(model, image)
    probabilities = softmax(predict_logits(model, np.concatenate([image, changed])))
    said = [f"the network\n{plots.prediction(row, names)}" for row in probabilities]
    return plots.first_look(image[0], changed[0], said)
