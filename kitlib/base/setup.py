"""`prepare`: kitlib's way of running TensorFlow and Keras, said in the open, once, before TensorFlow starts."""
from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import os
import sys
import warnings
from pathlib import Path

from kitlib.base.settings import KitError, first_line

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4       # of glibc's mallopt, see malloc.h
# What TensorFlow reads only once, when it starts; what the user has set already rules.
_VARIABLES = {
    # TensorFlow uses oneDNN's kernels of itself only on CPUs with AVX512-VNNI or AMX; on others they are faster too
    # (training about 1.5 times on AMD Zen 3).
    "TF_ENABLE_ONEDNN_OPTS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # Of itself TensorFlow takes a GPU's whole memory at once, and a batch runs several notebooks side by side.
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
}
# What a keras.json may change, and what it must be for the same networks and numbers everywhere.
KERAS = {"image_data_format": "channels_last", "floatx": "float32", "epsilon": 1e-7}
POLICY = "float32"
_kept_memory: list[bool] = []    # filled by the first call in this process that sets malloc up


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What `prepare` changed, one line each; nothing where all was so already."""

    changed: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.changed) or "nothing was to be changed"


def prepare() -> Prepared:
    """Start TensorFlow and Keras the kit's way: quiet, with oneDNN, float32 without TF32, channels last, and memory
    that is kept between steps. May be called again; returns what it changed.

    Warns where TensorFlow was started before, so that what it reads only once could not be set.
    Raises KitError where Keras runs on another backend already, or cannot start.
    """
    started = "tensorflow" in sys.modules
    late = [name for name in _VARIABLES if started and name not in os.environ]
    changed = [f"{name}={value}" for name, value in _VARIABLES.items() if name not in os.environ]
    os.environ.update({name: value for name, value in _VARIABLES.items() if name not in os.environ})
    if late:
        warnings.warn(f"TensorFlow was imported before kitlib.prepare(), too late for {', '.join(late)}: it may be "
                      "slower and louder. Call kitlib.prepare() first", stacklevel=2)
    changed += _choose_tensorflow() + _keep_freed_memory()
    with _quiet(not started):
        changed += _start_tensorflow() + _pin_keras()
    return Prepared(tuple(changed))


def check_backend() -> None:
    """Raises KitError where Keras runs, or would start, on another backend than TensorFlow."""
    if "keras" in sys.modules:
        backend, why = sys.modules["keras"].config.backend(), "it is imported already"
    else:
        backend, why = _backend_to_come()
    if backend != "tensorflow":
        raise KitError(f"kitlib needs Keras on TensorFlow, but its backend is '{backend}' ({why}): call "
                       "kitlib.prepare() before Keras is imported, or set KERAS_BACKEND=tensorflow")


def _backend_to_come() -> tuple[str, str]:
    """The backend that Keras will start with, and by what."""
    if named := os.environ.get("KERAS_BACKEND"):
        return named, "by the variable KERAS_BACKEND"
    path = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "keras.json"
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("backend", "tensorflow"), f"by {path}"
    except (OSError, ValueError, AttributeError):
        return "tensorflow", "by default"


def _choose_tensorflow() -> list[str]:
    if "keras" in sys.modules:
        check_backend()
        return []
    before, why = _backend_to_come()
    os.environ["KERAS_BACKEND"] = "tensorflow"
    return [] if before == "tensorflow" else [f"Keras's backend: tensorflow, in place of {before} ({why})"]


def _keep_freed_memory() -> list[str]:
    """Let glibc's malloc keep the large blocks that are freed, for the next ones.

    By default it hands each back to the system, which clears it page by page when it is asked for again: with tensors
    of some megabytes, made and freed in every step, that can take as long as the arithmetic (`python -m
    benchmarks.training allocator`). Where MALLOC_... variables or another allocator are set, those rule.
    """
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ) or _kept_memory:
        return []
    with contextlib.suppress(AttributeError, OSError):      # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_TOP_PAD, 64 * 2**20)
        _kept_memory.append(True)
        return ["malloc keeps freed memory for the next tensors"]
    return []


@contextlib.contextmanager
def _quiet(wanted: bool):
    """TensorFlow's libraries write a page of notices to the terminal before Python can stop them."""
    try:
        terminal = os.dup(2) if wanted else None
    except OSError:     # stderr is closed
        terminal = None
    if terminal is None:
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        os.close(nowhere)


def _start_tensorflow() -> list[str]:
    import tensorflow as tf

    tf.config.list_physical_devices("GPU")      # says once more that there is none
    if not tf.config.experimental.tensor_float_32_execution_enabled():
        return []
    # Else GPUs from Ampere on multiply with 10 bits of mantissa where float32 is asked for.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    return ["TF32 off: float32 is exact on GPUs, too"]


def _pin_keras() -> list[str]:
    try:
        import keras
    except Exception as error:      # keras.json may hold anything
        raise KitError(f"Keras cannot start ({first_line(error)}): mend or remove its keras.json") from None
    before = keras_settings(keras)
    set_keras(keras, {**KERAS, "dtype_policy": POLICY})
    return [f"Keras's {name}: {now} in place of {before[name]}" for name, now in keras_settings(keras).items()
            if now != before[name]]


def keras_settings(keras) -> dict:
    """What Keras makes layers and numbers with, by the names of KERAS and `dtype_policy`."""
    return {**{name: getattr(keras.config, name)() for name in KERAS}, "dtype_policy": keras.config.dtype_policy().name}


def set_keras(keras, settings: dict) -> None:
    """Set what `keras_settings` gave."""
    for name, value in settings.items():
        getattr(keras.config, f"set_{name}")(value)
