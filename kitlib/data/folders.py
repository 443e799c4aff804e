"""Folders of pictures: <class>/<picture>, <class>/<group>/<picture>, or parts (train/, test/) with such in them."""
from __future__ import annotations

import dataclasses
import os
import re
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np

from kitlib.base.settings import KitError, first_few
from kitlib.data.decoding import is_dicom_file, printable

SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".dcm",
            ".dicom"}
PART_FOLDERS = {"train": ("train", "training"), "validation": ("validation", "validate", "valid", "val"),
                "test": ("test", "testing")}
WHOLE = "all"       # the part of a folder without parts


@dataclasses.dataclass(frozen=True, eq=False)
class PictureFolder:
    """The picture files of a folder, none of them opened.

    class_names: in the order in which Keras numbers them. paths: of N files, those of a class in the order of the
    numbers in their names. labels: int32 N. parts: for each file "train", "validation", "test", or "all" where the
    folder has no parts. inner: for each file the folder in its class that it lies in (a patient, say), or "".
    unread: files that are no pictures, by extension.
    """

    home: Path
    class_names: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: np.ndarray
    parts: np.ndarray
    inner: np.ndarray
    unread: Counter

    @property
    def own_parts(self) -> tuple[str, ...]:
        """The parts that the folder itself has; none where it holds classes."""
        return tuple(part for part in PART_FOLDERS if (self.parts == part).any())

    @property
    def groups(self) -> np.ndarray | None:
        """A number for each file, equal for those in inner folders of one name; None where there are no inner folders.
        One name in two classes or parts counts as one group: what may belong together is not torn apart.

        Raises KitError where some pictures lie in inner folders and others do not."""
        loose = np.flatnonzero(self.inner == "")
        if len(loose) == len(self.paths):
            return None
        if len(loose):
            raise KitError(f"{printable(self.home)} holds {len(self.paths) - len(loose)} pictures in folders within a "
                           f"class, and {len(loose)} beside such folders ({printable(self.paths[loose[0]])}), whose "
                           "groups are unknown: put each into a folder of its group, or none")
        return np.unique(self.inner, return_inverse=True)[1].astype(np.int32)

    def names(self) -> np.ndarray:
        """Each file from the folder on, printable."""
        return np.array([printable(path.relative_to(self.home)) for path in self.paths])

    def unread_words(self) -> str:
        """Such as '3 .dcm, 1 .txt'; empty where all files are read."""
        return ", ".join(f"{count} {suffix}" for suffix, count in self.unread.most_common())


def read(home: Path) -> PictureFolder:
    """List the pictures of a folder; hidden files and folders do not count, and links to folders are not followed.

    Classes are numbered as keras.utils.image_dataset_from_directory does: in the order of their folders' names (in
    train/, where there is one). Names that differ in their Unicode form only are one class.
    Raises KitError where there are no folders of classes, parts beside classes, a part twice, parts with different
    classes, parts within a class, or a folder that may not be read.
    """
    parts = part_folders(home) or {WHOLE: home}
    by_part = {part: _classes(place) for part, place in parts.items()}
    if not any(by_part.values()):
        loose = sum(entry.is_file() for entry in _entries(home))
        raise KitError(f"{printable(home)} holds no folders of classes" + (f", but {loose} files" if loose else "")
                       + ": it must hold <class>/<picture>")
    _refuse_other_classes(home, by_part)
    leading = by_part.get("train") or max(by_part.values(), key=len)
    order = sorted(leading, key=lambda name: leading[name].name)
    return of_classes(home, {part: {name: by_class[name] for name in order if name in by_class}
                             for part, by_class in by_part.items()}, order)


def of_classes(home: Path, by_part: dict[str, dict[str, Path]], class_names) -> PictureFolder:
    """List the pictures of the folders `by_part[part][class]`."""
    unread: Counter[str] = Counter()
    paths, labels, parts, inner = [], [], [], []
    for part, by_class in by_part.items():
        for name, place in by_class.items():
            for group, path in _pictures_below(place, unread):
                paths.append(path)
                labels.append(class_names.index(name))
                parts.append(part)
                inner.append(group)
    return PictureFolder(home, tuple(class_names), tuple(paths), np.array(labels, np.int32),
                         np.array(parts, dtype=object), np.array(inner, dtype=object), unread)


def inner_folders(place: Path) -> list[Path]:
    """Folders directly in `place` in alphabetical order, hidden ones left out; none where it is no folder.

    Raises KitError where it may not be read.
    """
    try:
        return [entry for entry in _entries(place) if entry.is_dir()]
    except PermissionError:
        raise _no_permission(place) from None


def part_folders(home: Path) -> dict[str, Path]:
    """The folders in `home` that are parts (train/, val/, ...), by part; none where it holds classes. One of these may
    be called like a part: it holds pictures and no folders.

    Raises KitError where it holds both, or two of one part.
    """
    inner = inner_folders(home)
    found = [(part, entry) for part, names in PART_FOLDERS.items() for entry in inner if entry.name.lower() in names]
    own, others = dict(found), [entry.name for entry in inner if entry not in [place for _, place in found]]
    if others and set(own) == {"train"} and _holds_files_alone(own["train"]) and not _look_like_parts(others):
        return {}       # "train" beside "car" and "bus": a class
    if others and own:
        raise KitError(f"{printable(home)} mixes {', '.join(entry.name for entry in own.values())} with other folders "
                       f"({printable(first_few(others))}): it must hold either parts or classes")
    if len(own) < len(found):
        twice = next(part for part, entry in found if own[part] != entry)
        raise KitError(f"{printable(home)} holds two folders of the {twice} part "
                       f"({', '.join(printable(entry.name) for part, entry in found if part == twice)}): keep one")
    return own


def _look_like_parts(names: list[str]) -> bool:
    return any(name.lower().startswith(("test", "val")) for name in names)


def _holds_files_alone(place: Path) -> bool:
    entries = _entries(place)
    return bool(entries) and not any(entry.is_dir() for entry in entries)


def _entries(place: Path) -> list[Path]:
    try:
        return sorted(entry for entry in place.iterdir() if not entry.name.startswith("."))
    except PermissionError:
        raise _no_permission(place) from None
    except OSError:
        return []


def _no_permission(place) -> KitError:
    return KitError(f"folder {printable(place)} cannot be read: you lack the permission")


def _classes(place: Path) -> dict[str, Path]:
    """Folders of classes by name, in the composed Unicode form."""
    found: dict[str, Path] = {}
    for entry in inner_folders(place):
        name = printable(unicodedata.normalize("NFC", entry.name))
        if name in found:
            raise KitError(f"{printable(place)} holds two folders called '{name}', written with different characters: "
                           "put their pictures into one")
        found[name] = entry
    return found


def _refuse_other_classes(home: Path, by_part: dict[str, dict[str, Path]]) -> None:
    """A part may lack classes, but has none that train/ (or, without it, the part with most classes) lacks."""
    leading = "train" if "train" in by_part else max(by_part, key=lambda part: len(by_part[part]))
    for part, by_class in by_part.items():
        strange = [name for name in by_class if name not in by_part[leading]]
        if strange:
            lacking = [name for name in by_part[leading] if name not in by_class]
            raise KitError(f"{printable(home)}: the {part} part has classes that the {leading} part has not "
                           f"({first_few(strange)})" + (f", and lacks {first_few(lacking)}" if lacking else "")
                           + ": call the folders of a class alike in all parts")


def _pictures_below(place: Path, unread: Counter) -> list[tuple[str, Path]]:
    """(name of the inner folder or "", file) of each picture of a class, as Keras finds them at any depth."""
    def refuse(error: OSError):
        raise _no_permission(error.filename)

    found = []
    for folder, inner, names in os.walk(place, onerror=refuse):
        if not os.access(folder, os.R_OK | os.X_OK):
            raise _no_permission(folder)
        linked = [name for name in inner if os.path.islink(os.path.join(folder, name))]
        unread.update({"links to folders": len(linked)} if linked else {})
        inner[:] = sorted((name for name in inner if not name.startswith(".") and name not in linked),
                          key=_number_order)
        below = Path(folder).relative_to(place).parts
        for name in sorted((name for name in names if not name.startswith(".")), key=_number_order):
            path = Path(folder, name)
            if _is_picture(path):
                found.append((below[0] if below else "", path))
            else:
                unread[path.suffix.lower() or "without extension"] += 1
    mistaken = {group for group, _ in found} & {name for names in PART_FOLDERS.values() for name in names}
    if mistaken:
        raise KitError(f"{printable(place)} holds {', '.join(sorted(mistaken))}: parts come before classes, as in "
                       "train/<class>/<picture>")
    return found


def _is_picture(path: Path) -> bool:
    """By its extension; scanners name DICOM by numbers or without one."""
    suffix = path.suffix.lower()
    return suffix in SUFFIXES or ((suffix == "" or suffix[1:].isdigit()) and is_dicom_file(path))


def _number_order(name: str) -> list:
    """Sort key by which 'case (2)' comes before 'case (10)'."""
    return [(0, int(piece), "") if piece.isdecimal() else (1, 0, piece)
            for piece in re.split(r"([0-9]+)", name) if piece]
