"""What images share: exact copies, near-duplicates, neighbours in file number, and what a memory could score."""
from __future__ import annotations

import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

SIDE = 64
NEIGHBOURS = 0.5
DUPLICATES = 0.95
ROWS = 2048


def unit_vectors(images: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Images (uint8, N x H x W or N x H x W x C) as grey `side` x `side` vectors of mean 0 and length 1, float32:
    the scalar product of two is their correlation."""
    grey = images if images.ndim == 3 else images.mean(-1).astype(np.uint8)
    if grey.shape[1:] != (side, side):
        grey = np.stack([np.asarray(Image.fromarray(one).resize((side, side), Image.Resampling.BOX)) for one in grey])
    vectors = grey.reshape(len(grey), -1).astype(np.float32)
    vectors -= vectors.mean(1, keepdims=True)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)


def identical(digests: np.ndarray) -> list[np.ndarray]:
    """Indices of equal digests, one array for each set of two or more copies."""
    order = np.argsort(digests, kind="stable")
    starts = np.flatnonzero(digests[order][1:] != digests[order][:-1]) + 1
    return [np.sort(copies) for copies in np.split(order, starts) if len(copies) > 1]


def near_duplicates(images: np.ndarray, threshold: float = DUPLICATES) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of images that correlate above `threshold`: indices (P x 2, the smaller first) and correlations (P),
    the most alike first."""
    vectors = unit_vectors(images)
    pairs, values = [], []
    for first in range(0, len(vectors), ROWS):
        block = vectors[first:first + ROWS] @ vectors[first:].T
        row, column = np.nonzero(np.triu(block > threshold, k=1))
        pairs.append(np.stack([row, column], 1) + first)
        values.append(block[row, column])
    pairs, values = np.concatenate(pairs), np.concatenate(values)
    order = np.argsort(-values, kind="stable")
    return pairs[order], values[order]


def find_groups(images: np.ndarray, labels: np.ndarray, neighbours: float = NEIGHBOURS,
                duplicates: float = DUPLICATES) -> np.ndarray:
    """A group number for each image; images must stand in the order of their file numbers within a class.

    Linked, and so in one group with all that they are linked to, are (1) images next to each other in a class
    that correlate above `neighbours`, and (2) any two that correlate above `duplicates`.
    """
    vectors = unit_vectors(images)
    pairs = [near_duplicates(images, duplicates)[0]]
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        alike = (vectors[members[:-1]] * vectors[members[1:]]).sum(1) > neighbours
        pairs.append(np.stack([members[:-1][alike], members[1:][alike]], 1))
    row, column = np.concatenate(pairs).T
    links = coo_array((np.ones(len(row)), (row, column)), shape=(len(labels), len(labels)))
    return connected_components(links, directed=False)[1].astype(np.int32)
