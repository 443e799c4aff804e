"""What a killed audit had measured already, in one file beside where its record will be."""
from __future__ import annotations

from pathlib import Path

import numpy as np

from kitlib.base.files import read_arrays, write_arrays
from kitlib.base.settings import KitError

FILE = "resume.npz"     # in the audit's folder, until the audit is written there


class Resume:
    """Arrays by key, kept on disk after each outcome. An audit of something else (another digest) begins anew.

    folder: of the audit; None keeps nothing. digest: of model, data and settings.
    """

    def __init__(self, folder: Path | None = None, digest: str = ""):
        self._path = None if folder is None else Path(folder) / FILE
        self._known: dict[str, np.ndarray] = {"digest": np.array(digest)}
        if self._path is not None and self._path.exists():
            try:
                found = read_arrays(self._path)
            except KitError:        # damaged: what it held is measured again
                found = {}
            if str(found.get("digest")) == digest:
                self._known = found
        self.recalled = len({name.partition("/")[0] for name in self._known}) - 1

    def recall(self, key: str) -> dict[str, np.ndarray] | None:
        """What was kept under the key, or None."""
        own = f"{key}/"
        return {name.removeprefix(own): each for name, each in self._known.items() if name.startswith(own)} or None

    def keep(self, key: str, arrays: dict) -> None:
        """Keep arrays under the key, on disk. Raises KitError where the disk is full."""
        if self._path is None:
            return
        self._known |= {f"{key}/{name}": np.asarray(each) for name, each in arrays.items()}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_arrays(self._path, **self._known)
