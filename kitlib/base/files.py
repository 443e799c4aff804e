"""Whole files or none: everything the kit writes goes aside first and is then renamed."""
from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import itertools
import json
import os
import shutil
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import yaml

from kitlib.base.settings import KitError

_FINDERS = ".DS_Store"  # which macOS leaves in every folder that is looked at
_FREE_SPACE = "free space or choose another folder"


@contextlib.contextmanager
def atomic_file(path: Path):
    """Yield a path to write to; it becomes `path` only if the block ends without an error.

    Raises KitError where the folder cannot be written or the disk is full, and where `path` is there and no file;
    it is then as it was before.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():    # a device, say: renaming would put a file in its place
            raise KitError(f"{path} is a {'folder' if path.is_dir() else 'device or pipe'}: choose a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    except OSError as error:
        raise KitError(f"{path.parent} cannot be written ({error.strerror}): {_FREE_SPACE}") from None
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        _to_disk(aside)
        os.chmod(aside, 0o666 & ~_umask())
        os.replace(aside, path)
    except OSError as error:
        if error.errno is None:
            raise
        raise KitError(f"{path} could not be written ({error.strerror}): {_FREE_SPACE}") from error
    finally:
        aside.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path):
    """Yield an empty folder; it takes the place of the folder `path` only if the block ends without an error.

    What `path` held before is gone then. Raises KitError where the disk is full or cannot be written; `path` is then
    as it was before. After a kill in the moment when it is neither the old nor the new one, the next call brings the
    old one back first. Where `path` is a link, it is the folder behind it that is replaced.
    """
    path = Path(path).resolve()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone_beside(path):
            _bring_back(path)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as aside:
            new, old = Path(aside, "new"), Path(aside, "old")
            new.mkdir()
            yield new
            with _alone_beside(path):
                if path.exists():
                    path.rename(old)
                try:
                    new.rename(path)
                except OSError:
                    if old.exists():
                        old.rename(path)
                    raise
    except OSError as error:
        raise KitError(f"{path} could not be written ({error.strerror}): {_FREE_SPACE}") from error


def check_folder(path: Path, may_hold: set[str]) -> None:
    """Whether `atomic_folder` could put a folder at `path`, before there is anything to put there.

    may_hold: files, by their path in the folder. Raises KitError where the folder cannot be written, and where it holds
    any other file, which would be lost.
    """
    path = Path(path).resolve()
    try:
        if path.exists() and not path.is_dir():
            raise KitError(f"{path} is a file: choose a folder")
        if path.is_mount():
            raise KitError(f"{path} is a mount point, in whose place no other folder can be put: choose a folder in it")
        held = (entry.relative_to(path) for entry in path.rglob("*") if not entry.is_dir() and entry.name != _FINDERS)
        others = list(itertools.islice((str(name) for name in held if str(name) not in may_hold), 4))
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryDirectory(dir=path.parent).cleanup()
    except OSError as error:
        raise KitError(f"{path} cannot be written ({error.strerror}): choose another folder") from None
    if others:
        raise KitError(f"{path} holds other things already ({', '.join(others[:3])}{', ...' * (len(others) > 3)}): "
                       "choose a new folder")


@contextlib.contextmanager
def _alone_beside(path: Path):
    """While one process renames here, the folder that it has set aside must not be taken for that of a killed one."""
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):      # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _bring_back(path: Path) -> None:
    """Put the folder that a killed `atomic_folder` has set aside where it was."""
    old = next(path.parent.glob(f".{glob.escape(path.name)}-????????/old"), None)  # eight letters are mkdtemp's
    if old and not path.exists():
        old.rename(path)
        shutil.rmtree(old.parent)


def _to_disk(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextlib.contextmanager
def locked(folder: Path, what: str, waits: bool = False):
    """Hold `folder` for one `what` ("training", "batch"); the system lets go of it when the process ends,
    however it ends. Yields the lock file.

    Where another one runs in it, wait for its end (`waits`), or raise KitError. Raises KitError
    where the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / f".{what}.lock", "w")
    except OSError as error:
        raise KitError(f"{folder} cannot be written ({error.strerror}): choose another folder") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not waits:
                raise KitError(f"another {what} runs in {folder}: wait for it, or choose another folder") from None
            print(f"waiting for another process that does the same {what}", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:    # some shared file systems have no locks
            raise KitError(f"{folder} cannot be locked ({error.strerror}): choose a folder on another file system "
                           "(for runs: KITLIB_RUNS)") from None
        yield lock


def write_text(path: Path, text: str) -> None:
    with atomic_file(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: Path, value) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path):
    """Raises KitError when the file is missing or damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise KitError(f"{path} does not exist") from None
    except OSError as error:
        raise _unreadable(path, error) from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise KitError(f"{path} is damaged ({error}): delete it and make it again") from None


def _unreadable(path: Path, error: OSError) -> KitError:
    return KitError(f"{path} cannot be read ({error.strerror})")


def read_yaml(path: Path):
    """What a YAML file says. Raises KitError when it cannot be read, is no YAML, or a key stands twice in a mapping."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise KitError(f"{path} cannot be read: {error}") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str):
    """The same of YAML text, which comes from `where`."""
    try:
        return _Loader(text).get_single_data()
    except (yaml.YAMLError, RecursionError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise KitError(f"{where} is no valid YAML: {' '.join(str(error).split())}") from None


class _Loader(yaml.SafeLoader):
    """Plain YAML, in which a key may not stand twice."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in getattr(node, "value", ()) if isinstance(key, yaml.ScalarNode)]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"the key '{twice}' stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def write_arrays(path: Path, **arrays) -> None:
    """Save arrays as an uncompressed .npz (numbers and text only, never pickles)."""
    with atomic_file(path) as aside:
        with open(aside, "wb") as file:
            np.savez(file, **arrays)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Load every array of an .npz; pickles are refused.

    Raises KitError when the file is missing, damaged, or holds objects.
    """
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as stored:
            arrays = {name.removesuffix(".npy"): _read_whole(stored, name) for name in stored.namelist()}
            file.seek(-12 - len(stored.comment), os.SEEK_END)  # how many there must be, which zipfile does not compare
            if int.from_bytes(file.read(2), "little") != min(len(arrays), 0xFFFF):
                raise ValueError("an array is lost")
            return arrays
    except FileNotFoundError:
        raise KitError(f"{path} does not exist") from None
    except PermissionError as error:    # other OSErrors come of damage, too
        raise _unreadable(path, error) from None
    except Exception as error:  # zipfile, zlib and numpy raise anything on damaged files
        raise KitError(f"{path} is damaged or no .npz of plain arrays ({error}): delete it and make it again") from None


def _read_whole(stored: zipfile.ZipFile, name: str) -> np.ndarray:
    """One array, read to its end: the checksum is compared only there, which numpy's own reader may not reach."""
    with stored.open(name) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
        if file.read(1):
            raise ValueError(f"'{name}' goes on after its array")
    return array


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
