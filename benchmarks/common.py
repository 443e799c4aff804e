"""What the benchmarks share: the machine and versions, interleaved timings, tables, one JSON file each."""
from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

from kitlib.base import files
from kitlib.experiments import runs


def folder() -> Path:
    """Where benchmarks keep their networks and results: <runs>/benchmarks."""
    return runs.runs_folder() / "benchmarks"


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
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    files.write_json(path, {"environment": runs.environment(), "time": moment, **results})
    print(f"\nwritten: {path}")
    return path
