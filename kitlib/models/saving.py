"""A model to a file and back, and where its weights come from."""
from __future__ import annotations

import json
import zipfile
from pathlib import Path

import keras

from kitlib.base import digests
from kitlib.base.files import atomic_file
from kitlib.base.settings import KitError, first_line


def with_origin(model: keras.Model, origin: dict | None) -> keras.Model:
    """The model, remembering where its weights come from."""
    model.__dict__["_kitlib_origin"] = origin
    return model


def origin_of(model: keras.Model) -> dict | None:
    """Where the weights come from of a model that `build` or `load` made, or that was trained; None of others."""
    return model.__dict__.get("_kitlib_origin")


def save(model: keras.Model, path: Path) -> None:
    """Save architecture and weights as one whole `.keras` file (no optimizer). The same model gives the same bytes, as
    judgements and audits know a model by its file's SHA-256."""
    with atomic_file(path) as aside:
        model.save(aside, include_optimizer=False)
        _take_dates_off(aside)


def _take_dates_off(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    about = json.loads(members["metadata.json"])
    members["metadata.json"] = json.dumps({key: about[key] for key in about if key != "date_saved"}).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)


def load(path: Path) -> keras.Model:
    """Load a `.keras` file; code inside it is never run.

    Raises KitError where the file is missing, damaged, of another kind, or holds custom code.
    """
    if not Path(path).is_file():
        raise KitError(f"{path} does not exist")
    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises nearly every type here
        raise KitError(f"{path} is no Keras 3 model that can be loaded ({first_line(error)})") from None
    return with_origin(model, {"weights": digests.of_arrays(model.get_weights())})
