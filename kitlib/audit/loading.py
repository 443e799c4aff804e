"""Would the model be right more often on pictures loaded in another way? Then the audit may judge the wrong ones."""
from __future__ import annotations

import dataclasses

import keras
import numpy as np
from scipy.stats import binomtest

from kitlib.audit.folder import Pictures
from kitlib.base.settings import KitError, Settings
from kitlib.data.pictures import WAYS, Form, Loading, read_pictures
from kitlib.evaluation import Measured
from kitlib.models import predict_logits

LOOKED_AT = 48          # pictures loaded in every way
LEVEL = 0.01            # of the test, shared among the ways
IMAGENET = 256 / 224    # to what torchvision's usual preparation resizes the shorter side, over the size


class LoadingRecord(Settings):
    """Clean accuracy on a few dozen of the pictures by the way in which they are loaded.

    used: the way that the audit uses. accuracy: by way. better: the way that is clearly better (the best of these, by
    the sign test on the pictures that only one of the two gets right), as --pictures and its options take it, or None.
    """

    used: str
    accuracy: dict[str, Measured]
    better: str | None

    @property
    def sentence(self) -> str:
        """What is to be said of it; empty where no other way is clearly better."""
        if self.better is None:
            return ""
        used, better = self.accuracy[self.used], self.accuracy[self.better]
        return (f"CAUTION: of {used.count} of these pictures the model gets {100 * better.accuracy:.0f} % right when "
                f"they are loaded with --pictures {self.better}, and {100 * used.accuracy:.0f} % as they were loaded "
                f"here (--pictures {self.used}): audit it so, if it was trained so")


def compare(model: keras.Model, pictures: Pictures, labels: np.ndarray, seed: int) -> LoadingRecord:
    """Ask the model (pixels to logits) about a few dozen pictures, loaded in each plausible way.

    pictures: as they are judged, with `labels` (int N) in the order of the model's outputs. Ways that give the same
    pixels as the one in use are left out, and such that cannot bring pictures to the model's size.
    """
    rows = np.sort(np.random.default_rng(seed).permutation(len(labels))[:LOOKED_AT])
    paths, own = [pictures.paths[row] for row in rows], pictures.images[rows]
    used = _name(pictures.form.loading)
    right = {used: predict_logits(model, own).argmax(1) == labels[rows]}
    for loading in _others(pictures.form):
        try:
            form = dataclasses.replace(pictures.form, loading=loading)
            images = read_pictures(paths, form, rounded=False)["images"]
        except KitError:        # a size that the way has not, an animation
            continue
        if np.abs(images - own).max() > 0.5 / 255:
            right[_name(loading)] = predict_logits(model, images).argmax(1) == labels[rows]
    accuracy = {name: Measured.of(each) for name, each in right.items()}
    clearly = [name for name in right if name != used
               and sign_test(right[name], right[used]) < LEVEL / max(1, len(right) - 1)]
    best = max(clearly, key=lambda name: accuracy[name].correct, default=None)
    return LoadingRecord(used=used, accuracy=accuracy, better=best)


def sign_test(one: np.ndarray, other: np.ndarray) -> float:
    """p of the one-sided exact sign test (McNemar's): would `one` be right (bool N) so much more often than `other` by
    chance alone?"""
    gained, lost = int((one & ~other).sum()), int((~one & other).sum())
    return binomtest(gained, gained + lost, 0.5, "greater").pvalue if gained + lost else 1.0


def _others(form: Form) -> list[Loading]:
    plain = [dataclasses.replace(Loading(way), window=form.loading.window) for way in WAYS]
    cropped = dataclasses.replace(plain[-1], resize=round(form.height * IMAGENET))
    return [loading for loading in (*plain, cropped) if loading != form.loading]


def _name(loading: Loading) -> str:
    """As the command's options say it."""
    interpolation = "" if loading.interpolation == "bilinear" else f" --interpolation {loading.interpolation}"
    return loading.way + interpolation + (f" --resize {loading.resize}" if loading.resize else "")
