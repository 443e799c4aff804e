"""The one form that every data set is read into."""
from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from kitlib.base import digests, files
from kitlib.base.settings import KitError, choose
from kitlib.data.settings import PARTS
from kitlib.data.splits import stratified


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Pictures with labels, shared out to train, validation and test.

    images: uint8, N x H x W x C. labels: int32, N, positions in `class_names`. Images of one class
    stand in the order of their file numbers. split: indices of "train", "validation" and "test".
    source: where they came from, one sentence. groups: a number for each image, equal for
    images that must not be torn apart (slices of a patient), where they are known or were found.
    files, digests: name and sha256 of each image's file, where images are files.
    facts: what was found in the source before limits were applied (`whole`: images by class;
    `shapes`: files by width x height in pixels, where images are files;
    `as_expected`: are the contents the known ones; `digest`: what that was judged by, whatever the order).
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    split: dict[str, np.ndarray]
    source: str
    synthetic: bool = False
    groups: np.ndarray | None = None
    files: np.ndarray | None = None
    digests: np.ndarray | None = None
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)

    def pixels(self, part: str) -> np.ndarray:
        """Images of a part as float32, N x H x W x C, in [0, 1]."""
        return self.images[self._indices(part)].astype(np.float32) / np.float32(255)

    def labels_of(self, part: str) -> np.ndarray:
        return self.labels[self._indices(part)]

    def part(self, part: str, limit: int | None = None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """(pixels, labels) of a part, or of `limit` of its images chosen stratified with `seed`."""
        indices = self._indices(part)
        if limit is not None and limit < len(indices):
            indices = stratified(self.labels, indices, limit, np.random.default_rng(seed))
        return self.images[indices].astype(np.float32) / np.float32(255), self.labels[indices]

    @functools.cached_property
    def digest(self) -> str:
        """sha256 over images, labels and split: other data give another one."""
        return digests.of_arrays([self.images, self.labels, *(self.split[part] for part in sorted(self.split))])

    @functools.cached_property
    def identity(self) -> str:
        """sha256 over labels, split and the files' bytes: another for other data, the same on every machine, however
        that decodes or draws pictures."""
        pictures = self.images if self.digests is None and not self.synthetic else self.digests
        parts = [self.split[part] for part in sorted(self.split)]
        return digests.of_arrays([self.labels, *parts, *([] if pictures is None else [pictures])])

    def _indices(self, part: str) -> np.ndarray:
        return choose(part, self.split, "part of the data")

    def only_split(self) -> Dataset:
        """The same without the images that are in no part."""
        used = np.sort(np.concatenate(list(self.split.values())))
        groups, files, digests = (None if each is None else each[used]
                                  for each in (self.groups, self.files, self.digests))
        return dataclasses.replace(
            self, images=self.images[used], labels=self.labels[used], groups=groups, files=files, digests=digests,
            split={part: np.searchsorted(used, indices) for part, indices in self.split.items()})

    def report(self) -> dict:
        """Counts by part and class, shape, and what is in the data more than once. JSON-able.

        identical_images: images that are an exact copy of an earlier one, after preparation.
        identical_files: the same for the files' bytes (None where images are no files).
        shared: images of one part of which an exact copy lies in another, by pair of parts.
        groups_shared: groups that lie in more than one part (None where groups are unknown).
        """
        prints = np.array([hashlib.sha256(image.tobytes()).hexdigest() for image in self.images])
        return {
            "name": self.name, "source": self.source, "synthetic": self.synthetic, "identity": self.identity,
            "shape": list(self.images.shape), "classes": list(self.class_names),
            "counts": {part: self._counts(self.split[part]) for part in self.split},
            "total": self._counts(np.arange(len(self.labels))),
            "identical_images": int(len(prints) - len(np.unique(prints))),
            "identical_files": None if self.digests is None else int(len(prints) - len(np.unique(self.digests))),
            "shared": self._shared(prints),
            "groups": None if self.groups is None else int(len(np.unique(self.groups))),
            "groups_shared": None if self.groups is None else self._shared_groups(self.groups),
            **self.facts}

    def _counts(self, indices) -> dict[str, int]:
        counts = np.bincount(self.labels[indices], minlength=len(self.class_names))
        return dict(zip(self.class_names, counts.tolist(), strict=True))

    def _shared(self, prints) -> dict[str, int]:
        pairs = [("train", "validation"), ("train", "test"), ("validation", "test")]
        return {f"{a}-{b}": int(np.isin(prints[self.split[b]], prints[self.split[a]]).sum()) for a, b in pairs}

    def _shared_groups(self, groups: np.ndarray) -> int:
        parts_of = Counter(group for part in PARTS for group in set(groups[self.split[part]].tolist()))
        return sum(parts > 1 for parts in parts_of.values())

    def save(self, path: Path) -> None:
        """Write one .npz, whole or not at all; no pickles."""
        about = {"name": self.name, "class_names": list(self.class_names), "source": self.source,
                 "synthetic": self.synthetic, "facts": self.facts}
        arrays = {name: getattr(self, name) for name in ("images", "labels", "groups", "files", "digests")}
        files.write_arrays(path, about=np.array(json.dumps(about)),
                           **{f"split_{part}": indices for part, indices in self.split.items()},
                           **{name: array for name, array in arrays.items() if array is not None})

    @classmethod
    def load(cls, path: Path) -> Dataset:
        """Read what `save` wrote. Raises KitError when it is missing, damaged or something else."""
        arrays = files.read_arrays(path)
        try:
            about = json.loads(arrays.pop("about").item())
            parts = {part: arrays.pop(f"split_{part}") for part in PARTS}
            about |= {"class_names": tuple(about["class_names"]), "split": parts}
            return cls(**about | arrays)
        except (KeyError, TypeError, ValueError):
            raise KitError(f"{path} holds no prepared data set: delete it and run notebook 01 again") from None
