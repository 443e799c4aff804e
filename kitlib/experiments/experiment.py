"""An experiment: one YAML file in notebooks/experiments, read, merged with its profile, and checked."""
from __future__ import annotations

import copy
import functools
import json
from pathlib import Path
from typing import Any

from kitlib.base.files import parse_yaml, read_yaml
from kitlib.base.places import NOTEBOOKS
from kitlib.base.settings import KitError, suggestion
from kitlib.experiments.settings import Experiment, merge

EXPERIMENTS = NOTEBOOKS / "experiments"


def names() -> list[str]:
    """The experiments that the kit brings."""
    return sorted(path.stem for path in EXPERIMENTS.glob("*.yaml"))


def of_paper(letter: str) -> list[str]:
    """The experiments that answer figures of paper "A" or "B" on its own data."""
    loaded = {name: load(name, "full") for name in names() if "full" in _content(_path_of(name))["profiles"]}
    return [name for name, content in loaded.items()
            if content.paper == letter and content.paper_figures and not content.stands_in]


def load(name: str, profile: str = "demo", overrides: dict | str | None = None) -> Experiment:
    """Read experiment `name` (or the YAML file of that path), merge `profile` and `overrides` into it.

    `overrides`: a nested mapping, or its YAML text such as "{baseline: {epochs: 3}}".
    A file with `based_on: <experiment>` says only what differs from that one, profiles included (one level deep);
    the path of a YAML file is looked up from the folder of the file that names it.
    Raises KitError for an unknown experiment or profile, unknown keys, and impossible values.
    """
    path = _path_of(name)
    content = _content(path)
    profiles = content.pop("profiles")
    if profile not in profiles:
        raise KitError(f"experiment '{name}' has no profile '{profile}'{suggestion(str(profile), profiles)}")
    if not isinstance(profiles[profile] or {}, dict):
        raise KitError(f"experiment '{name}': profiles.{profile} must be a mapping, not {profiles[profile]!r}")
    merged = merge(merge(content, profiles[profile] or {}), read_overrides(overrides))
    return Experiment.read({"name": path.stem, **merged}, f"experiment {path.name}, profile {profile}")


def read_overrides(overrides: dict | str | None) -> dict:
    """Overrides given as a mapping or as YAML text, as a mapping."""
    changes: Any = overrides
    if isinstance(overrides, str):
        try:    # a batch hands them on as JSON, in which 1e-05 is a number: in YAML it is text
            changes = json.loads(overrides)
        except (ValueError, RecursionError):
            changes = parse_yaml(overrides, "overrides")
    if not isinstance(changes or {}, dict):
        raise KitError(f"overrides must be a mapping such as '{{baseline: {{epochs: 3}}}}', not {changes!r}")
    return changes or {}


def _content(path: Path) -> dict:
    """What a file says, laid over what the experiment says that it is based on."""
    content = {"profiles": {}} | _read_yaml(path)
    name = content.pop("based_on", None)
    if name is None:
        return content
    base = _read_yaml(_path_of(name, path.parent))
    if "based_on" in base:
        raise KitError(f"based_on: '{name}' is itself based on '{base['based_on']}': name that one")
    return merge(base, content)


def _path_of(name: str, folder: str | Path = "") -> Path:
    """The file of an experiment that the kit brings, or of a path ending in .yaml, which is relative to `folder`."""
    path = Path(folder, str(name))
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise KitError(f"there is no experiment file {path}")
        return path
    if name not in names():
        raise KitError(f"there is no experiment '{name}' in {EXPERIMENTS}{suggestion(str(name), names())}")
    return EXPERIMENTS / f"{name}.yaml"


def _read_yaml(path: Path) -> dict:
    stamp = path.stat()     # parsed once as long as the file does not change
    return copy.deepcopy(_parsed(path, stamp.st_mtime_ns, stamp.st_size))


@functools.lru_cache(maxsize=64)
def _parsed(path: Path, *_stamp: int) -> dict:
    content = read_yaml(path)
    if not isinstance(content, dict) or not isinstance(content.get("profiles", {}), dict):
        raise KitError(f"experiment file {path} must be a mapping with a mapping 'profiles' in it")
    unnamed = [name for name in content.get("profiles", {}) if not isinstance(name, str)]
    if unnamed:
        raise KitError(f"experiment file {path}: the profile {unnamed[0]!r} is no name: put it between quotation marks")
    return content
