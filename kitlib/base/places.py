"""Where things lie: the repository, the data, the runs. Never looked up from the working directory."""
from __future__ import annotations

import os
from pathlib import Path

from kitlib.base.settings import KitError

REPOSITORY = Path(__file__).resolve().parents[2]
NOTEBOOKS = REPOSITORY / "notebooks"


def is_clone() -> bool:
    """Whether kitlib runs from its repository, and not from where pip has installed it without notebooks."""
    return NOTEBOOKS.is_dir()


def _home() -> Path:
    """The folder that relative places count from: the repository, or `kitlib` in the user's home without one."""
    return REPOSITORY if is_clone() else Path.home() / "kitlib"


def _place(variable: str, usual: str) -> Path:
    named = os.path.expanduser(os.environ.get(variable) or usual)
    return Path(os.path.abspath(_home() / named))


def data_folder() -> Path:
    """The folder of the data sets: KITLIB_DATA (from the repository where it is relative), or `data/` there."""
    return _place("KITLIB_DATA", "data")


def runs_folder() -> Path:
    """The folder of runs: KITLIB_RUNS (from the repository where it is relative), or `runs/` there.

    Raises KitError for braces in its name, which mean something to Snakemake.
    """
    folder = Path(os.path.realpath(_place("KITLIB_RUNS", "runs")))
    if set("{}") & set(str(folder)):
        raise KitError(f"the folder of runs, {folder}, has braces in its name: set KITLIB_RUNS to another")
    return folder
