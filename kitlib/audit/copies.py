"""Are judged images, or near-duplicates of them, among the training images?"""
from __future__ import annotations

import numpy as np

from kitlib.base import digests
from kitlib.data import similarity

REFERENCES = 1000       # training images that tell how far apart nearest images usually are


def nearest_training_images(judged: np.ndarray, training: np.ndarray,
                            seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """For each judged image: is an exact copy of it among the training images; its distance (1 - correlation) to the
    nearest of these. And the distance that is usual between nearest images.

    What is usual is also asked of the training images, as the judged ones cannot tell where most of them are copies;
    and the larger median counts, as the training images alone cannot tell where they hold many twins.
    """
    ours, theirs = (np.rint(255 * x).astype(np.uint8) if x.dtype != np.uint8 else x for x in (judged, training))
    known = {digests.of_arrays([image]) for image in theirs}
    exact = np.array([digests.of_arrays([image]) in known for image in ours])
    side = min(similarity.SIDE, ours.shape[1])
    mine, others = similarity.unit_vectors(ours, side), similarity.unit_vectors(theirs, side)
    distance = _nearest(mine, others)
    some = np.random.default_rng(seed).permutation(len(others))[:REFERENCES]
    among = _nearest(others[some], others, itself=some) if len(others) > 1 else distance
    return exact, distance, float(max(np.median(distance), np.median(among)))


def _nearest(vectors: np.ndarray, others: np.ndarray, itself: np.ndarray | None = None) -> np.ndarray:
    """The distance (1 - correlation) of each vector to the nearest of the others. itself: its own place among them,
    which does not count."""
    closest = np.full(len(vectors), -1.0, np.float32)
    for first in range(0, len(others), similarity.ROWS):
        alike = vectors @ others[first:first + similarity.ROWS].T
        if itself is not None:
            inside = np.flatnonzero((first <= itself) & (itself < first + similarity.ROWS))
            alike[inside, itself[inside] - first] = -1
        closest = np.maximum(closest, alike.max(1))
    return 1 - closest
