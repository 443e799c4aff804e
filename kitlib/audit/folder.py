"""A folder of pictures to judge with: <class>/<picture>, or train/, test/ and the like with such folders in them."""
from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from kitlib.base.settings import KitError, first_few
from kitlib.data.pictures import Form, inner_folders, list_pictures, memory_of_machine, printable, read_pictures
from kitlib.data.sources import part_folders

Fit = Literal["crop", "stretch"]
JUDGED = ("test", "validation", "all")
TRAINING = ("train", "all", "validation", "test")
MOST_TRAINING = 50_000      # training pictures that copies are looked for in
ORIENTATION = 0x0112        # what a camera says of how it was held
FIT = {"crop": "resized so that it is filled, and the centre cut out (--fit stretch for the whole picture, as "
               "Keras's image_dataset_from_directory does)",
       "stretch": "the whole picture resized to it, whatever its proportions, not turned as a camera says, and without "
                  "transparency"}


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Some of the pictures of a part. images: uint8 N x H x W x C; labels: int32 N. total: how many there are.
    shapes: files by width x height before they were brought to their form."""

    images: np.ndarray
    labels: np.ndarray
    total: int
    shapes: Counter


@dataclasses.dataclass(frozen=True)
class Folder:
    """What a folder holds: pictures to judge with, those that were trained on, if it has such a part, the classes in
    alphabetical order, and in words where the pictures are from and what was done to them."""

    judged: Pictures
    trained: Pictures | None
    class_names: tuple[str, ...]
    source: str


def read(path: Path, shape: tuple, count: int, seed: int, fit: Fit = "crop", which=JUDGED) -> Folder:
    """At most `count` pictures, drawn at random with `seed`, as images of `shape` (None where any height, width or
    number of channels will do).

    which: parts to take them from, the first of these that there is ("all" where there are no parts). Pictures of
    train/ beside it count as trained on. Raises KitError where there are none, where a size is neither asked for nor
    common to all, or where pictures cannot be read.
    """
    parts = _parts(path)
    names = tuple(sorted({printable(place.name) for places in parts.values() for place in places}))
    if len(names) < 2:
        raise KitError(f"{printable(path)} holds {len(names)} folders of classes: it must hold <class>/<picture> for "
                       "two classes or more, or such folders in test/ and train/")
    listed = {part: _listed(places, names) for part, places in parts.items()}
    judged = next((part for part in which if part in parts), None)
    if judged is None:
        raise KitError(f"{printable(path)} holds a training part alone: nothing is left to judge with. Give the folder "
                       "of that part if it is meant")
    chosen = _some(*listed[judged][:2], count, seed)
    form = _form(shape, chosen[0], fit)
    found = _read(*chosen, len(listed[judged][0]), form)
    trained = None
    if "train" in parts and judged != "train":
        trained = _read(*_some(*listed["train"][:2], _most_training(form), seed), len(listed["train"][0]), form)
    where = printable(path.name) + ("" if judged == "all" else f", its {judged} part")
    source = f"{_source(where, found, trained, form)}{_left_out(listed[judged], names)}"
    return Folder(found, trained, names, source)


def _most_training(form: Form) -> int:
    """No more than fit into an eighth of the memory: while they are read they are held twice."""
    return min(MOST_TRAINING, max(1, memory_of_machine() // 8 // (form.height * form.width * form.channels)))


def _parts(path: Path) -> dict[str, list[Path]]:
    """Folders of classes, by part; "all" where there are no parts."""
    own = part_folders(path)
    return {part: inner_folders(entry) for part, entry in own.items()} or {"all": inner_folders(path)}


def _listed(places: list[Path], names) -> tuple[list[Path], np.ndarray, int]:
    """Pictures, their labels, and how many other files lie beside them."""
    paths, labels, others = [], [], 0
    for place in places:
        found, ignored = list_pictures(place)
        paths += found
        labels += [names.index(printable(place.name))] * len(found)
        others += ignored
    if not paths:
        raise KitError(f"{printable(places[0].parent) if places else 'the folder'} holds no pictures in its "
                       f"{len(places)} folders ({others} other files)")
    return paths, np.array(labels, np.int32), others


def _left_out(listed, names) -> str:
    _, labels, others = listed
    empty = [name for number, name in enumerate(names) if number not in labels]
    return ((f"; no pictures of {first_few(empty)}" if empty else "")
            + (f"; {others} other files ignored" if others else ""))


def _some(paths: list[Path], labels: np.ndarray, count: int, seed: int) -> tuple[list[Path], np.ndarray]:
    rows = np.sort(np.random.default_rng(seed).permutation(len(paths))[:count])
    return [paths[row] for row in rows], labels[rows]


def _read(paths, labels, total: int, form: Form) -> Pictures:
    arrays = read_pictures(paths, form, cache=None)
    return Pictures(arrays["images"], labels, total, Counter(arrays["shapes"].tolist()))


def _form(shape: tuple, paths: list[Path], fit: Fit) -> Form:
    height, width, channels = shape
    if height is None or width is None:
        sizes = _sizes(paths, upright=fit == "crop")
        if len(sizes) > 1:
            raise KitError("the model takes images of any size, and the pictures are of several: say which "
                           "(--input-shape H,W,C)")
        height, width = sizes.pop() if sizes else (1, 1)
    if channels not in (1, 3, None):
        raise KitError(f"the model takes images of {channels} channels; pictures have 1 or 3: prepare them yourself "
                       "and give an .npz")
    if fit == "crop" and height == width:
        return Form(height, width, channels or 3, shorter_side=height)
    if fit == "crop" and not all(high * width == wide * height for high, wide in _sizes(paths, upright=True)):
        raise KitError(f"the model takes images of {height} x {width}, which are not square: say --fit stretch, or "
                       "prepare them yourself and give an .npz")
    return Form(height, width, channels or 3, shorter_side=None, upright=fit == "crop")


def _sizes(paths: list[Path], upright: bool) -> set[tuple[int, int]]:
    """Heights and widths of the pictures; of one that does not tell, reading it will say why."""
    return {_size(path, upright) for path in paths} - {None}


def _size(path: Path, upright: bool) -> tuple[int, int] | None:
    """Height and width of a picture as it is stored, or `upright` as it is to be seen; None where it does not tell."""
    try:
        with Image.open(path) as picture:
            turned = upright and picture.getexif().get(ORIENTATION, 1) >= 5
            return picture.size if turned else picture.size[::-1]
    except (OSError, ValueError, Image.DecompressionBombError):
        return None


def _source(where: str, judged: Pictures, trained: Pictures | None, form: Form) -> str:
    said = f"{judged.total:,} pictures in {where}, {_what_was_done(judged.shapes, form)}"
    if trained and len(trained.labels) < trained.total:
        said += f"; of its {trained.total:,} training pictures {len(trained.labels):,} were looked at"
    return said


def _what_was_done(shapes: Counter, form: Form) -> str:
    size = f"{form.height} x {form.width}, {'grey' if form.channels == 1 else 'RGB'}"
    if set(shapes) == {f"{form.width} x {form.height}"}:
        return f"{size}, their own size"
    proportions = {int(width) * form.height == int(height) * form.width
                   for width, height in (shape.split(" x ") for shape in shapes)}
    how = FIT["crop" if form.upright else "stretch"]
    return f"each resized to {size}" if proportions == {True} else f"brought to {size}: {how}"
