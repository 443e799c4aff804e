"""Which runs there are, how far they are, and what they have found: `kitlib status`."""
from __future__ import annotations

import fcntl
from pathlib import Path

import pandas as pd

from kitlib.base.settings import KitError
from kitlib.experiments import results, runs
from kitlib.experiments.runs import MAKER

NOTEBOOKS = sorted(set(MAKER.values()))     # the five that every run has


def table(folder: Path) -> pd.DataFrame:
    """One row a run in the folder of runs: `run`, `notebooks` (how far), `found`, and where to look.

    A run counts as far as its notebooks have left what they promise, whatever has changed since; `kitlib reproduce NAME
    --dry-run` says what would be made again. A damaged record is said, not raised.
    """
    folders = (path for path in sorted(folder.glob("[!.]*/*/seed*")) if path.is_dir())
    places = [path for path in folders if path.parts[-3] not in runs.RESERVED_NAMES]
    return pd.DataFrame([{"run": str(place.relative_to(folder)), "notebooks": _how_far(place), "found": _found(place)}
                         for place in places], columns=["run", "notebooks", "found"])


def _how_far(place: Path) -> str:
    done = [name for name in NOTEBOOKS if all((place / file).exists() for file, made in MAKER.items() if made == name)]
    further = sorted(path.stem for path in place.glob("records/[01][0-9]_*.json"))
    running = [path.stem[1:] for path in sorted(place.glob("notebooks/.*.lock")) if _is_held(path)]
    return "; ".join([f"{len(done)} of {len(NOTEBOOKS)} done", *(f"and {name}" for name in further),
                      *(f"{name} is running" for name in running)])


def _is_held(lock: Path) -> bool:
    """Whether headless.py runs the notebook now: it holds the lock as long as it lives."""
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _found(place: Path) -> str:
    path = place / "results.json"
    if not path.exists():
        return "nothing yet"
    try:
        found = results.read(path)
    except KitError as error:
        return f"unreadable: {error}"
    headline = found.experiment["evaluation"]["headline"]
    said = [f"{name}: clean {100 * model.clean.accuracy:.1f} %, {headline} "
            f"{100 * results.measured_for(model, headline).accuracy:.1f} %" for name, model in found.models.items()]
    return ("SYNTHETIC data; " if found.synthetic else "") + "; ".join(said)
