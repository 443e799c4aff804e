"""What images share: exact copies, near-duplicates, neighbours in file number, and what a memory could score."""
from __future__ import annotations

import hashlib

import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

SIDE = 64
NEIGHBOURS = 0.5
DUPLICATES = 0.95
ROWS = 2048
BELOW_ONE = np.nextafter(np.float32(1), np.float32(0))


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
    the most alike first.

    Images equal in every pixel correlate by 1, even those of one colour, of which no correlation can be computed; all
    others by less, whatever float32 rounds to.
    """
    vectors, copies = unit_vectors(images), _copies(images)
    places, found = [], []
    for first in range(0, len(vectors), ROWS):
        block = np.minimum(vectors[first:first + ROWS] @ vectors[first:].T, BELOW_ONE)
        block[copies[first:first + ROWS, None] == copies[None, first:]] = 1
        row, column = np.nonzero(np.triu(block > threshold, k=1))
        places.append(np.stack([row, column], 1) + first)
        found.append(block[row, column])
    pairs, values = np.concatenate(places), np.concatenate(found)
    order = np.argsort(-values, kind="stable")
    return pairs[order], values[order]


def _copies(images: np.ndarray) -> np.ndarray:
    """A number for each image, equal for those that are equal in every pixel."""
    digests = [hashlib.sha256(image.tobytes()).digest() for image in images]
    return np.unique(np.array(digests, "V32"), return_inverse=True)[1]


def find_groups(images: np.ndarray, labels: np.ndarray, neighbours: float = NEIGHBOURS,
                duplicates: float = DUPLICATES) -> np.ndarray:
    """A group number for each image; images must stand in the order of their file numbers within a class.

    Linked, and so in one group with all that they are linked to, are (1) images next to each other in a class
    that correlate above `neighbours`, and (2) any two that correlate above `duplicates`. How the two bounds were
    chosen for the lung data, and how sure the groups are: data/README.md.
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


def neighbour_similarity(images: np.ndarray, labels: np.ndarray, lags=(1, 2, 3, 5, 10, 20, 40),
                         random_pairs: int = 3000, seed: int = 0) -> dict[int, dict]:
    """By class: `consecutive`, the correlation of each image with the next in file number (array); `by_lag`, the
    mean correlation at each distance in file number; `random`, the mean over random pairs of the class. Images
    must stand in the order of their file numbers within a class."""
    vectors = unit_vectors(images)
    rng = np.random.default_rng(seed)
    found = {}
    for label in np.unique(labels).tolist():
        own = vectors[labels == label]
        first, second = rng.integers(len(own), size=(2, random_pairs))
        apart = first != second
        found[label] = {
            "consecutive": (own[:-1] * own[1:]).sum(1),
            "by_lag": {lag: float((own[:-lag] * own[lag:]).sum(1).mean()) for lag in lags if lag < len(own)},
            "random": float((own[first[apart]] * own[second[apart]]).sum(1).mean())}
    return found


def similarity_map(images: np.ndarray) -> np.ndarray:
    """Correlation of every image with every other, N x N: those of one class in the order of their file numbers
    show patients as bright squares along the diagonal."""
    vectors = unit_vectors(images)
    return vectors @ vectors.T


def nearest_neighbour(images: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray,
                      side: int = 128) -> dict:
    """What a plain memory scores: each test image gets the label of the training image nearest to it in Euclidean
    distance, on raw grey pixels at `side` x `side` (or smaller, where the images are).

    `train`, `test`: indices. Returns `correct`, `count`, `accuracy`, and the `nearest` index for each test image.
    """
    grey = images.mean(-1) if images.shape[-1] > 1 else images[..., 0]
    if grey.shape[1] > side:
        grey = np.stack([np.asarray(Image.fromarray(one.astype(np.float32)).resize((side, side), Image.Resampling.BOX))
                         for one in grey])
    pixels = grey.reshape(len(grey), -1).astype(np.float32)
    known, squares = pixels[train], (pixels[train] ** 2).sum(1)
    nearest = np.concatenate([train[(squares - 2 * (pixels[rows] @ known.T)).argmin(1)]
                              for rows in np.array_split(test, max(1, len(test) // ROWS))])
    correct = int((labels[nearest] == labels[test]).sum())
    return {"correct": correct, "count": len(test), "accuracy": correct / len(test), "nearest": nearest}


def last_of_each_class(labels: np.ndarray, share: float = 0.15) -> tuple[np.ndarray, np.ndarray]:
    """Indices (train, test) where each class's last images by file number are held out: since the numbers run
    roughly along patients, hardly any patient is in both."""
    held = [members[len(members) - round(share * len(members)):]
            for members in (np.flatnonzero(labels == label) for label in np.unique(labels))]
    test = np.concatenate(held)
    return np.setdiff1d(np.arange(len(labels)), test), test


def across(pairs: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Those of the pairs (P x 2, from `near_duplicates`) of which one lies in `train` and one in `test`."""
    one_way = np.isin(pairs[:, 0], train) & np.isin(pairs[:, 1], test)
    other_way = np.isin(pairs[:, 1], train) & np.isin(pairs[:, 0], test)
    return pairs[one_way | other_way]
