"""A saved model from a file; code that belongs to it runs only where that was asked for."""
from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import json
import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import keras

from kitlib.base.settings import KitError, first_line
from kitlib.models import saving
from kitlib.models.networks import ModelSettings, build


def load(path: Path, allow_code: bool = False, code: str | None = None) -> keras.Model:
    """A saved Keras 3 model.

    allow_code: also run the Python code that the file holds (Lambda layers). code: a Python file, or the name of a
    module, that defines the classes and functions which the file names and does not hold; it is run first.
    Raises KitError where the file is no model, or asks for code that was not allowed or is nowhere.
    """
    path = Path(path)
    _refuse_other_kinds(path)
    with keras.saving.custom_object_scope(_defined_in(code) if code else {}):
        if not allow_code:
            _refuse_lambda(path)
        try:
            return _load_with_its_code(path) if allow_code else saving.load(path)
        except KitError as error:
            raise _because_of_missing_code(path) or error from None


def load_weights(path: Path, settings: ModelSettings, shape, classes: int) -> keras.Model:
    """One of the kit's networks with weights of a `.weights.h5` file. Raises KitError where they do not fit."""
    model = build(settings, tuple(shape), classes)
    try:
        model.load_weights(path)
    except Exception as error:  # Keras raises nearly every type here
        raise KitError(f"{path} holds no weights of model '{settings.name}' for images of {tuple(shape)} and {classes} "
                       f"classes with options {settings.options}: {first_line(error)}") from None
    return model


def _refuse_other_kinds(path: Path) -> None:
    if os.path.isdir(path):
        raise KitError(f"{path} is a folder (a SavedModel of TensorFlow?): save the model as one file, "
                       "model.save('mine.keras')")
    if not os.path.isfile(path):
        raise KitError(f"{path} does not exist")
    if path.name.endswith(".weights.h5"):
        raise KitError(f"{path} holds weights alone: say of which of the kit's networks (--model-name), or save the "
                       "whole model, model.save('mine.keras')")


def _load_with_its_code(path: Path) -> keras.Model:
    try:
        return keras.models.load_model(path, compile=False, safe_mode=False)
    except Exception as error:  # Keras raises nearly every type here
        raise KitError(f"{path} cannot be loaded, with its code allowed either: {first_line(error)}") from None


# --- what the file asks for

def _refuse_lambda(path: Path) -> None:
    if any(part.get("class_name") == "__lambda__" for part in _parts(path)):
        raise KitError(f"{path} holds a Lambda layer, which is Python code that runs when the file is loaded: if you "
                       "trust it, allow it (--allow-code)")


def _because_of_missing_code(path: Path) -> KitError | None:
    """The error that names classes and functions which the file asks for and nobody has defined; None of others."""
    missing = sorted({name for part in _parts(path) if (name := _missing(part))})
    return KitError(f"{path} is made with code that the file does not hold: {', '.join(missing)}. Give the Python "
                    "file or module that defines it, if you trust that (--import FILE.py)") if missing else None


def _missing(part: dict) -> str | None:
    """The name, with its module, of what a part of a configuration is made by, if that is neither Keras's nor known."""
    name, module = part.get("class_name"), part.get("module") or ""
    if not isinstance(name, str) or name.startswith("__") or "config" not in part or module.split(".")[0] == "keras":
        return None
    if name == "function":
        name = part["config"]
    registered = part.get("registered_name") or name
    if keras.saving.get_registered_object(registered) or keras.saving.get_registered_object(name):
        return None
    return f"{name} (of {module})" if module not in ("", "builtins") else str(name)


def _parts(path: Path) -> Iterator[dict]:
    """Every mapping in the configuration of a `.keras` file; none where it is no such file."""
    try:
        with zipfile.ZipFile(path) as stored:
            yield from _mappings(json.loads(stored.read("config.json")))
    except Exception:  # zipfile, zlib and json raise anything on damaged files
        return


def _mappings(config) -> Iterator[dict]:
    if isinstance(config, dict):
        yield config
    if isinstance(config, dict | list):
        for part in config.values() if isinstance(config, dict) else config:
            yield from _mappings(part)


# --- code from elsewhere

def _defined_in(code: str) -> dict:
    """Classes and functions of a Python file or module, which is run, by name."""
    file = Path(code).expanduser().absolute()
    try:
        module = _run(file) if code.endswith(".py") else importlib.import_module(code)
    except (Exception, SystemExit) as error:  # whatever the code raises
        raise KitError(f"--import {code}: it cannot be run ({type(error).__name__}: {first_line(error)})") from None
    return {name: each for name, each in vars(module).items() if inspect.isclass(each) or inspect.isfunction(each)}


def _run(file: Path):
    specification = importlib.util.spec_from_file_location(f"imported from {file}", file)
    if specification is None or specification.loader is None:
        raise ImportError("it is no file of Python code")
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module    # where dataclasses look; no name that another module could have
    with _on_the_path(file.parent):     # of modules that lie beside it
        specification.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _on_the_path(folder: Path):
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
