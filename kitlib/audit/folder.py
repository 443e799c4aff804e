"""Pictures of a folder to judge with, brought to what the model takes."""
from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np

from kitlib.base.settings import KitError, first_few
from kitlib.data import folders
from kitlib.data.decoding import printable, size_of
from kitlib.data.folders import WHOLE, PictureFolder
from kitlib.data.pictures import Form, Loading, memory_of_machine, read_pictures

JUDGED = ("test", "validation", WHOLE)
TRAINING = ("train", WHOLE, "validation", "test")
MOST_TRAINING = 50_000      # training pictures that copies are looked for in


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Some of the pictures of a part. images: float32 pixels, or uint8 for those trained on, N x H x W x C; labels:
    int32 N; paths: their files; form: what they were brought to. total: how many there are. shapes: files by
    width x height before."""

    images: np.ndarray
    labels: np.ndarray
    paths: list[Path]
    form: Form
    total: int
    shapes: Counter


@dataclasses.dataclass(frozen=True)
class Folder:
    """What a folder holds: pictures to judge with, those that were trained on, if it has such a part, the classes in
    Keras's order, and in words where the pictures are from and what was done to them."""

    judged: Pictures
    trained: Pictures | None
    class_names: tuple[str, ...]
    source: str


def read(path: Path, shape: tuple, count: int, seed: int, loading: Loading, which=JUDGED) -> Folder:
    """At most `count` pictures, drawn at random with `seed`, as images of `shape` (None where any height, width or
    number of channels will do).

    which: parts to take them from, the first of these that there is ("all" where there are no parts). Pictures of
    train/ beside it count as trained on. Raises KitError where there are none, where a size is neither asked for nor
    common to all, or where pictures cannot be read.
    """
    listed = folders.read(path)
    if len(listed.class_names) < 2:
        raise KitError(f"{printable(path)} holds {len(listed.class_names)} folders of classes: it must hold "
                       "<class>/<picture> for two classes or more, or such folders in test/ and train/")
    if not listed.paths:
        raise KitError(f"{printable(path)} holds no pictures in its folders of classes"
                       + (f" (not read: {listed.unread_words()})" if listed.unread else ""))
    judged = next((part for part in which if (listed.parts == part).any()), None)
    if judged is None:
        raise KitError(f"{printable(path)} holds a training part alone: nothing is left to judge with. Give the folder "
                       "of that part if it is meant")
    chosen = _some(listed, judged, count, seed)
    form = _form(shape, chosen[0], loading)
    found = _read(*chosen, form, rounded=False)
    trained = None
    if "train" in listed.own_parts and judged != "train":
        trained = _read(*_some(listed, "train", _most_training(form), seed), form, rounded=True)
    where = printable(path.name) + ("" if judged == WHOLE else f", its {judged} part")
    return Folder(found, trained, listed.class_names,
                  f"{_source(where, found, trained)}{_left_out(listed, listed.labels[listed.parts == judged])}")


def _most_training(form: Form) -> int:
    """No more than fit into an eighth of the memory: while they are read they are held twice."""
    return min(MOST_TRAINING, max(1, memory_of_machine() // 8 // (form.height * form.width * form.channels)))


def _some(listed: PictureFolder, part: str, count: int, seed: int) -> tuple[list[Path], np.ndarray, int]:
    """Files, their labels, and how many the part has."""
    rows = np.flatnonzero(listed.parts == part)
    chosen = rows[np.sort(np.random.default_rng(seed).permutation(len(rows))[:count])]
    return [listed.paths[row] for row in chosen], listed.labels[chosen], len(rows)


def _read(paths, labels, total: int, form: Form, rounded: bool) -> Pictures:
    arrays = read_pictures(paths, form, rounded=rounded)
    return Pictures(arrays["images"], labels, paths, form, total, Counter(arrays["shapes"].tolist()))


def _form(shape: tuple, paths: list[Path], loading: Loading) -> Form:
    height, width, channels = shape
    if height is None or width is None:
        sizes = {size for path in paths if (size := size_of(path, loading.upright))}
        if len(sizes) > 1:
            raise KitError("the model takes images of any size, and the pictures are of several: say which "
                           "(--input-shape H,W,C)")
        height, width = sizes.pop() if sizes else (1, 1)
    if channels not in (1, 3, None):
        raise KitError(f"the model takes images of {channels} channels; pictures have 1 or 3: prepare them yourself "
                       "and give an .npz")
    try:
        return Form(height, width, channels or 3, loading)
    except KitError as error:
        raise KitError(f"--pictures: {error}") from None


def _left_out(listed: PictureFolder, labels: np.ndarray) -> str:
    empty = [name for number, name in enumerate(listed.class_names) if number not in labels]
    return ((f"; no pictures of {first_few(empty)}" if empty else "")
            + (f"; not read: {listed.unread_words()}" if listed.unread else ""))


def _source(where: str, judged: Pictures, trained: Pictures | None) -> str:
    said = f"{judged.total:,} pictures in {where}, {_what_was_done(judged.shapes, judged.form)}"
    if trained and len(trained.labels) < trained.total:
        said += f"; of its {trained.total:,} training pictures {len(trained.labels):,} were looked at"
    return said


def _what_was_done(shapes: Counter, form: Form) -> str:
    size = f"{form.height} x {form.width}, {'grey' if form.channels == 1 else 'RGB'}"
    if set(shapes) == {f"{form.width} x {form.height}"} and form.loading.resize in (None, form.height):
        return f"{size}, their own size"
    return f"brought to {size}: {form.loading}"
