"""What this machine is, and which arithmetic it is fast at."""
from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterable
from pathlib import Path

from kitlib.base.setup import keras_settings

PACKAGES = ("tensorflow", "keras", "cleverhans", "numpy", "scikit-learn", "papermill", "foolbox",
            "adversarial-robustness-toolbox")
_FAST_ON_CPU = {"amx_bf16", "avx512_bf16"}


def environment() -> dict:
    """Versions, hardware and Keras's settings, for the records: a number means little without them."""
    import keras
    import tensorflow as tf

    return {
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gpus": [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
                 for gpu in tf.config.list_physical_devices("GPU")],
        "fast_precision": choose_precision("auto"),
        "judged_in": "float32",
        "keras_settings": {"backend": keras.config.backend(), **keras_settings(keras)}}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"


def choose_precision(wanted: str) -> str:
    """'auto' as 'float32' or 'bfloat16', whichever this machine trains faster in; others as they are."""
    if wanted != "auto":
        return wanted
    return "bfloat16" if fast_bfloat16(cpu_flags(), gpu_capabilities()) else "float32"


def fast_bfloat16(flags: Iterable[str], capabilities: Iterable[tuple[int, int]]) -> bool:
    """Whether bfloat16 pays: on every GPU from compute capability 8.0 on, else with AMX or AVX512-bf16.

    Without these units bfloat16 is emulated and several times slower than float32.
    """
    capabilities = list(capabilities)
    if capabilities:
        return min(capabilities) >= (8, 0)
    return not _FAST_ON_CPU.isdisjoint(flags)


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> set[str]:
    """The processor's feature flags; empty where the system does not tell."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.split(":")[1].split()) for line in lines if line.startswith("flags")), set())


def gpu_capabilities() -> list[tuple[int, int]]:
    """Compute capability of each visible GPU; (0, 0) where it is not known."""
    import tensorflow as tf

    details = (tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU"))
    return [detail.get("compute_capability", (0, 0)) for detail in details]
