"""What the benchmarks share: the machine and versions, interleaved timings, tables, one JSON file each."""
from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from kitlib import files

PACKAGES = ("tensorflow", "keras", "numpy", "cleverhans", "foolbox", "adversarial-robustness-toolbox")


def folder() -> Path:
    """Where benchmarks keep their networks and results: <runs>/benchmarks."""
    runs = os.environ.get("KITLIB_RUNS") or Path(__file__).resolve().parents[1] / "runs"
    return Path(runs) / "benchmarks"


def environment() -> dict:
    """Versions and hardware, for the record: a ratio means little without them."""
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "gpus": _gpus(),
        "bfloat16_in_hardware": bool({"amx_bf16", "avx512_bf16"} & _cpu_flags()),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpuinfo(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")


def _cpu_flags() -> set[str]:
    return set(_cpuinfo("flags").split())


def _processor() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _gpus() -> list[str]:
    import tensorflow as tf

    devices = tf.config.list_physical_devices("GPU")
    return [tf.config.experimental.get_device_details(device).get("device_name", "GPU") for device in devices]


def paired(functions: dict[str, Callable], repeats: int = 3, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of every call of every function, taken in turns: a, b, c, a, b, c, ...

    Interleaved, so that a slow minute of the machine falls on all of them alike;
    `ratio` then divides neighbours. The first `warm_up` calls (tracing, caches) do not count.
    """
    for _ in range(warm_up):
        for function in functions.values():
            function()
    seconds = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def ratio(slower: list[float], faster: list[float]) -> dict[str, float]:
    """How many times longer `slower` took than `faster`: median of the pairs, with the extremes."""
    ratios = [a / b for a, b in zip(slower, faster, strict=True)]
    return {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}


def table(title: str, columns: list[str], rows: list[list]) -> str:
    """A Markdown table; floats are shown with three significant digits."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]

    def line(texts: list[str]) -> str:
        return "| " + " | ".join(text.ljust(width) for text, width in zip(texts, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([f"\n### {title}", "", line(columns), rule, *map(line, cells)])


def _cell(value) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return "-" if value is None else str(value)


def write(name: str, results: dict) -> Path:
    """Save `results` with the environment as <runs>/benchmarks/<name>.json and say where."""
    path = folder() / f"{name}.json"
    files.write_json(path, {"environment": environment(), **results})
    print(f"\nwritten: {path}")
    return path
