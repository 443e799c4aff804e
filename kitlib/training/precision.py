"""Which arithmetic this machine is fast at, and a network's twin in it."""
from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import keras
import tensorflow as tf

_FAST_ON_CPU = {"amx_bf16", "avx512_bf16"}


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
    details = (tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU"))
    return [detail.get("compute_capability", (0, 0)) for detail in details]


def twin(network: keras.Model, precision: str) -> keras.Model:
    """A copy of `network` (weights and all) that computes in `precision`; its logits stay float32.

    Weights are float32 either way, so they can be copied between a network and its twin.
    """
    policy = "mixed_bfloat16" if precision == "bfloat16" else "float32"
    last = {tensor._keras_history.operation.name for tensor in network.outputs}

    def copied(layer):
        config = layer.get_config()
        if layer.name not in last:
            config["dtype"] = policy
        return layer.__class__.from_config(config)

    copy = keras.models.clone_model(network, clone_function=copied)
    copy.set_weights(network.get_weights())
    return copy
