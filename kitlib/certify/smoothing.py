"""Randomised smoothing: an L2 radius for any classifier (Cohen et al. 2019, arXiv:1902.02918), up to a chance of error.

The smoothed classifier answers what the model answers most often when Gaussian noise is added to the image. Where it
does so with a probability of at least p > 1/2, no change shorter than sigma x Phi^-1(p) alters that answer.
"""
from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import pydantic
import tensorflow as tf
from scipy.stats import beta, norm
from tqdm import tqdm

from kitlib.attacks.checks import check_images, check_labels, check_model, check_whole
from kitlib.base import digests
from kitlib.base.files import read_arrays, write_arrays
from kitlib.base.settings import KitError, Settings
from kitlib.models import in_float32

ABSTAINS = -1
SECONDS = 30      # between two savings
Count = Annotated[int, pydantic.Field(ge=1, le=10_000_000)]


class Smoothing(Settings):
    """sigma: of the noise, in pixels. choices: noisy copies that choose the class; copies: other ones that measure how
    often it is answered. alpha: the chance, of each image, that a radius is stated which does not hold."""

    name: str = "smoothing"
    sigma: Annotated[float, pydantic.Field(gt=0)] = 0.25
    choices: Count = 100
    copies: Count = 1000
    alpha: Annotated[float, pydantic.Field(gt=0, lt=1)] = 0.001


@dataclasses.dataclass(frozen=True)
class Radii:
    """predictions: int N, the smoothed classifier's; -1 where it abstains. radii: float N, certified, L2 in pixels; 0
    where it abstains."""

    smoothing: Smoothing
    labels: np.ndarray
    predictions: np.ndarray
    radii: np.ndarray
    seconds: float

    def accuracy(self, radius=0.0) -> np.ndarray:
        """Share of images with the right answer and a certified radius above each of these numbers."""
        right = np.where(self.predictions == self.labels, self.radii, -1.0)
        return (right > np.asarray(radius)[..., None]).mean(-1)


def radius_of(hits, copies: int, sigma: float, alpha: float) -> np.ndarray:
    """The certified radius where `hits` of `copies` noisy copies got the chosen answer; 0 where it has to abstain.

    The share is bounded from below by Clopper & Pearson (1934), which errs in at most the share alpha of cases.
    """
    hits = np.asarray(hits)
    share = np.where(hits > 0, beta.ppf(alpha, np.maximum(hits, 1), copies - hits + 1), 0.0)
    return np.where(share > 0.5, sigma * norm.ppf(np.maximum(share, 0.5)), 0.0)


def smooth(smoothing: Smoothing | dict, model, images, labels, path: Path | None = None, *, seed: int = 0,
           batch_size: int = 256, progress: bool = True) -> Radii:
    """Certify every image: `choices` + `copies` predictions each.

    path: an .npz file in which the work is kept as it goes on; where it holds a part of the same work, only the rest is
    done. The same seed and batch size give the same answers, with or without a break.
    Raises KitError for bad input, and where the file is of other work.
    """
    started = saved = time.monotonic()
    smoothing = smoothing if isinstance(smoothing, Smoothing) else Smoothing.read(smoothing, "smoothing")
    check_whole("batch_size", batch_size, 1)
    check_whole("seed", seed, 0)
    images, model = check_images(images, "images to smooth"), in_float32(model)
    model, classes = check_model(model, images, labels)
    labels = check_labels(labels, len(images), classes, False, "images to smooth")
    work = np.array([digests.of_arrays([images, *model.get_weights()]), repr(smoothing), f"{seed}, {batch_size}"])
    found, count = _begun(path, work, len(images)), _counter(model, images.shape[1:], batch_size)
    for number in tqdm(np.flatnonzero(found[:, 0] < 0), desc="smoothing", unit="image", disable=not progress):
        answer = count(images[number], smoothing.sigma, smoothing.choices, (seed, 2 * number)).argmax()
        hits = count(images[number], smoothing.sigma, smoothing.copies, (seed, 2 * number + 1))[answer]
        found[number] = answer, hits
        if path is not None and (time.monotonic() - saved > SECONDS or (found[:, 0] >= 0).all()):
            write_arrays(Path(path), work=work, found=found)
            saved = time.monotonic()
    radii = radius_of(found[:, 1], smoothing.copies, smoothing.sigma, smoothing.alpha)
    answers = np.where(radii > 0, found[:, 0], ABSTAINS)
    return Radii(smoothing, labels, answers, radii, time.monotonic() - started)


def _counter(model, shape: tuple, batch_size: int):
    """(image, sigma, copies, seed) -> how many noisy copies get each answer."""
    classes = model.output_shape[-1]

    @tf.function(autograph=False, input_signature=[tf.TensorSpec(shape), tf.TensorSpec(()), tf.TensorSpec((), tf.int32),
                                                   tf.TensorSpec((2,), tf.int32)])
    def answers(image, sigma, copies, seed):
        noise = tf.random.stateless_normal((copies, *shape), seed)
        return tf.math.bincount(tf.cast(tf.argmax(model(image + sigma * noise, training=False), 1), tf.int32),
                                minlength=classes, maxlength=classes)

    def count(image, sigma, copies, seed):
        seeds = np.random.SeedSequence(seed).generate_state(2 * copies).astype(np.int32).reshape(-1, 2)
        return sum(answers(image, sigma, min(batch_size, copies - first), seeds[first]).numpy()
                   for first in range(0, copies, batch_size))

    return count


def _begun(path: Path | None, work: np.ndarray, images: int) -> np.ndarray:
    """The chosen answer and its hits of every image that is done, -1 of the others."""
    if path is None or not Path(path).exists():
        return np.full((images, 2), -1, np.int64)
    kept = read_arrays(Path(path))
    if not {"work", "found"} <= kept.keys() or not np.array_equal(kept["work"], work):
        raise KitError(f"{path} is of other images, weights, settings or another seed: choose another file")
    return kept["found"]
