"""Whether the files of a data set are still those that a run was made from, without reading them."""
from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import stat
from pathlib import Path

from kitlib.base.places import data_folder
from kitlib.data.settings import DataSettings
from kitlib.data.sources import CIFAR10_FOLDER, LUNG_FOLDERS, images_home, lung_below

DEEPEST = 6     # levels of folders that are looked into


def state_of(settings: DataSettings) -> str:
    """Changes with the path, size and time of the files that a data set is read from; empty where it needs none.

    Archives and downloads do not count: they are checked by their hash, and come only while the batch runs.
    """
    folder = data_folder()
    places = [place for place in _read_from(settings, folder) if os.path.isdir(place)]
    listing = [(str(place), _listing(place)) for place in places]
    return hashlib.sha256(repr(listing).encode()).hexdigest()[:16] if listing else ""


def _read_from(settings: DataSettings, folder: Path) -> list[Path]:
    if settings.name == "image_folder":
        return [images_home(settings, folder)]
    if settings.name == "iq_othnccd":
        found = filter(None, (lung_below(folder / name) for name in LUNG_FOLDERS))
        return [home for home, _ in found][:1]
    return [folder / CIFAR10_FOLDER] if settings.name == "cifar10" else []


def _listing(place: Path) -> list[tuple[str, int, int]]:
    """(name, bytes, nanoseconds) of each file below, hidden ones left out."""
    found = []
    for pattern in ("/".join(["*"] * depth) for depth in range(1, DEEPEST + 1)):
        for name in glob.iglob(pattern, root_dir=place):
            with contextlib.suppress(OSError):
                state = os.stat(place / name)
                found += [(name, state.st_size, state.st_mtime_ns)] if stat.S_ISREG(state.st_mode) else []
    return sorted(found)
