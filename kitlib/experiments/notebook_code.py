"""The code of kitlib that a notebook's numbers depend on: what its cells name, and all that these definitions name.

For the Snakefile, so it imports nothing that takes time.
"""
from __future__ import annotations

import json
from pathlib import Path

from kitlib.base import code
from kitlib.base.files import write_text

# What these make of an experiment's file is in the run's fingerprint, which a batch hands over beside the code.
READING = ("kitlib.experiments.settings", "kitlib.experiments.experiment", "kitlib.base.machine")
# Attacks and defences are called by the names that an experiment gives them, so where these doors are used, all count.
JUDGING = ("kitlib.attacks", "kitlib.evaluation", "kitlib.experiments.comparison", "kitlib.experiments.results")
CHECKING = {"kitlib.evaluation.exercises"}      # compares a student's answer, and judges no model
NAMED = {("kitlib.attacks", "CATALOGUE"), ("kitlib.evaluation.defences", "read")}
STARTED = {("kitlib.base.setup", "prepare")}


def digest_of(notebook: Path) -> str:
    """sha256 over the code of kitlib that a notebook depends on; neither comments, docstrings nor layout count."""
    text = _code_in(notebook)
    judges = any(name.startswith(JUDGING) for name in code.imported_by(text) - CHECKING)
    return code.digest_of_text(text, STARTED | (NAMED if judges else set()), (*READING, *CHECKING))


def write_digest(notebook: Path, folder: Path) -> None:
    """<folder>/<notebook>.sha256 with `digest_of` in it, written only where that has changed."""
    path, found = folder / f"{notebook.stem}.sha256", digest_of(notebook)
    if not path.exists() or path.read_text(encoding="utf-8") != found:
        write_text(path, found)


def _code_in(notebook: Path) -> str:
    cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
    sources = ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    lines = (line for source in sources for line in source.splitlines())
    return "\n".join(line for line in lines if not line.startswith(("%", "!")))
