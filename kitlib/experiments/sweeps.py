"""A sweep: one experiment over seeds and settings, read from a YAML file, and what its runs say together."""
from __future__ import annotations

import itertools
import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import pydantic
from matplotlib.figure import Figure

from kitlib import plots
from kitlib.base.files import atomic_folder, read_json, read_yaml, write_json, write_text
from kitlib.base.places import REPOSITORY
from kitlib.base.settings import KitError, Settings, slug, suggestion
from kitlib.experiments import results, runs
from kitlib.experiments.aggregates import LEGEND, Group, accuracy_table, paper_table
from kitlib.experiments.batch import Job
from kitlib.experiments.headless import name_of
from kitlib.experiments.results import as_markdown

SWEEPS = REPOSITORY / "notebooks" / "sweeps"
PUBLISHED = REPOSITORY / "figures" / "sweeps"
MOST_SEEDS = 10_000


def _seeds(value: Any) -> Any:
    """Seeds as 3, "0-4", "0-2, 7" or [0, 1, 5]."""
    if isinstance(value, int) and not isinstance(value, bool):
        return (value,)
    if not isinstance(value, str):
        return value
    parts = [re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part) for part in value.split(",")]
    if not all(parts):
        raise ValueError("seeds are written as 0-4, as 0-2, 7 or as [0, 1, 5]")
    ranges = [range(int(part[1]), int(part[2] or part[1]) + 1) for part in parts if part]
    if not all(ranges):
        raise ValueError("a range of seeds goes up, as in 0-4")
    if sum(map(len, ranges)) > MOST_SEEDS:
        raise ValueError(f"more than {MOST_SEEDS:,} seeds")
    return tuple(seed for each in ranges for seed in each)


def _labelled(axes: Any) -> Any:
    """Each axis of a grid as label -> value; a list of plain values labels itself."""
    if not isinstance(axes, dict):
        return axes
    for key, values in axes.items():
        if not isinstance(values, (list, dict)) or not values:
            raise ValueError(f"'{key}' needs a list of values, or a mapping from labels to values")
        if isinstance(values, list) and any(isinstance(value, (list, dict)) for value in values):
            raise ValueError(f"'{key}': values that are lists or mappings need labels: {{label: value, ...}}")
        if isinstance(values, list) and len(set(map(str, values))) < len(values):
            raise ValueError(f"'{key}': a value is listed twice")
    return {str(key): values if isinstance(values, dict) else {str(value): value for value in values}
            for key, values in axes.items()}


class Sweep(Settings):
    """Runs of one or more experiments, for each combination of the grid and each seed.

    experiment: a name, the path of a YAML file (in a sweep file: from that file's folder on), or a list of such.
    seeds: "0-4", "0-2, 7", a number or a list.
    grid: axes over settings. The key is a dotted path into the experiment, such as defended.epochs; the
        values are a list, or a mapping from labels to values where these are lists or mappings.
    """

    name: Annotated[str, pydantic.Field(pattern=r"^\w([\w. -]*\w)?$")]
    title: str = ""
    experiment: Annotated[tuple[str, ...], pydantic.BeforeValidator(lambda v: (v,) if isinstance(v, str) else v),
                          pydantic.Field(min_length=1)]
    profile: str = "demo"
    seeds: Annotated[tuple[Annotated[int, pydantic.Field(ge=0, lt=2**31, strict=True)], ...],
                     pydantic.BeforeValidator(_seeds), pydantic.Field(min_length=1)] = (0,)
    grid: Annotated[dict[str, dict[str, Any]], pydantic.BeforeValidator(_labelled)] = {}

    @pydantic.model_validator(mode="after")
    def _nothing_twice(self):
        for what, values in (("a seed", self.seeds), ("an experiment", self.experiment)):
            if len(set(values)) < len(values):
                raise ValueError(f"{what} is listed twice")
        clash = next((pair for pair in itertools.permutations(self.grid, 2) if pair[1].startswith(f"{pair[0]}.")), None)
        if clash:
            raise ValueError(f"'{clash[0]}' and '{clash[1]}' are in each other's way: name the inner keys only")
        return self

    def variations(self) -> list[dict[str, str]]:
        """Every combination of the grid, as {key: label}."""
        return [dict(zip(self.grid, labels, strict=True)) for labels in itertools.product(*self.grid.values())]

    def overrides(self, variation: dict[str, str]) -> dict:
        """The nested changes to the experiment that a combination stands for."""
        changes: dict = {}
        for key, label in variation.items():
            inner = changes
            *parents, last = key.split(".")
            for parent in parents:
                inner = inner.setdefault(parent, {})
            inner[last] = self.grid[key][label]
        return changes

    @property
    def folder(self) -> Path:
        """Where its aggregate lies."""
        return runs.runs_folder() / "sweeps" / self.name


def names() -> list[str]:
    """The sweeps that the kit brings."""
    return sorted(path.stem for path in SWEEPS.glob("*.yaml"))


def load(name: str) -> Sweep:
    """Read and check the sweep of that name, or the YAML file of that path.

    Raises KitError where there is none, and for unknown keys and impossible values.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else SWEEPS / f"{name}.yaml"
    if not path.is_file():
        raise KitError(f"there is no sweep '{name}'{suggestion(name, names())}")
    path = path.resolve()
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise KitError(f"sweep file {path} must be a mapping with the key 'experiment'")
    sweep = Sweep.read({"name": path.stem, **content}, f"sweep {path.name}")
    if path.parent != SWEEPS and sweep.name in names():
        raise KitError(f"{path} is called '{sweep.name}' like a sweep of the kit, whose tables it would overwrite: "
                       "give it another name")
    asked = tuple(str(path.parent / each) if each.endswith((".yaml", ".yml")) else each for each in sweep.experiment)
    return sweep.model_copy(update={"experiment": asked})


def jobs_of(sweep: Sweep) -> list[Job]:
    """All runs of a sweep, seed by seed. Raises KitError where one of them is impossible."""
    return [job for _, jobs in _combinations(sweep) for job in jobs]


def _combinations(sweep: Sweep) -> list[tuple[dict[str, str], list[Job]]]:
    """For each experiment and combination of the grid, the runs over seeds."""
    found = []
    for name, variation in itertools.product(sweep.experiment, sweep.variations()):
        changes = sweep.overrides(variation)
        first = runs.open_run(name, sweep.profile, sweep.seeds[0], changes)
        over_seeds = [replace(first, seed=seed, folder=first.folder.parent / f"seed{seed}") for seed in sweep.seeds]
        found.append((variation, [Job(name, run, changes) for run in over_seeds]))
    folders = [job.run.folder for _, jobs in found for job in jobs]
    if len(set(folders)) < len(folders):
        raise KitError(f"sweep '{sweep.name}': two combinations are the same run; give each value once")
    return found


class Aggregate(Settings):
    """What the finished runs of a sweep say together; `missing` are the folders of the others.

    published: how many of the finished are not here, and count by the record that was published with the sweep.
    """

    schema_version: int = 1
    sweep: Sweep
    finished: int
    published: int = 0
    missing: tuple[str, ...]
    groups: tuple[Group, ...]


def aggregate(sweep: Sweep, stale: Collection[Path] = (), published: bool = False) -> Aggregate:
    """Mean, spread and interval over seeds, for each experiment and combination of which a run is finished.

    stale: files results.json that are out of date; their runs count as missing.
    published: whether a run that is not here counts by the record that was published with the sweep (see `publish`).
    Raises KitError where none is finished, or a results.json is damaged or of other settings.
    """
    groups, missing, finished, elsewhere = [], [], 0, 0
    for variation, jobs in _combinations(sweep):
        here = _records_here(jobs, stale)
        by_seed = (_published_records(sweep, jobs) if published else {}) | here
        missing += [str(job.run.folder.relative_to(runs.runs_folder())) for job in jobs if job.run.seed not in by_seed]
        finished, elsewhere = finished + len(by_seed), elsewhere + len(by_seed) - len(here)
        if by_seed:
            groups.append(Group.of(variation, by_seed))
    if not groups:
        raise KitError(f"no run of sweep '{sweep.name}' is finished: make sweep FILE=... runs them")
    return Aggregate(sweep=sweep, finished=finished, published=elsewhere, missing=tuple(missing), groups=tuple(groups))


def _records_here(jobs: list[Job], stale: Collection[Path] = ()) -> dict[int, results.Results]:
    """Seed by seed, the records of the runs that are here and up to date."""
    there = [job for job in jobs if (path := job.run.path("results.json")).exists() and path not in stale]
    return {job.run.seed: results.of_run(job.run) for job in there}


def _published_records(sweep: Sweep, jobs: list[Job]) -> dict[int, results.Results]:
    """Seed by seed, the published records of runs, but for those of other settings than the experiment has now."""
    found = {job.run.seed: (job, PUBLISHED / sweep.name / _record_of(job)) for job in jobs}
    return {seed: results.of_run(job.run, path) for seed, (job, path) in found.items()
            if path.exists() and results.is_current(results.read(path), job.run)}


def _record_of(job: Job) -> Path:
    """Where in the folder of a published sweep the record of a run lies."""
    place = job.run.folder.relative_to(runs.runs_folder())
    return Path("records", place.with_name(f"{place.name}.json"))


def heading(found: Aggregate) -> str:
    """What the numbers of a sweep are about; synthetic data and missing runs are always marked."""
    mark = "SYNTHETIC data, " if any(group.synthetic for group in found.groups) else ""
    seeds = ", ".join(map(str, found.sweep.seeds))
    runs_done = f"{found.finished} of {found.finished + len(found.missing)} runs"
    runs_done += f", {found.published} of them as published" if found.published else ""
    title = f": {found.sweep.title}" if found.sweep.title else ""
    return f"Sweep {found.sweep.name} ({mark}profile {found.sweep.profile}, seeds {seeds}, {runs_done}){title}"


def write(found: Aggregate, folder: Path) -> None:
    """Tables as Markdown and CSV, pictures, and aggregate.json, in place of what the folder held."""
    with atomic_folder(folder) as whole:
        _write(found, whole)


def _write(found: Aggregate, folder: Path) -> None:
    for name, table in {"accuracy": accuracy_table(found.groups), "paper": paper_table(found.groups)}.items():
        if len(table):
            write_text(folder / f"{name}.md", f"**{heading(found)}**\n\n{LEGEND}\n\n{as_markdown(table)}")
            write_text(folder / f"{name}.csv", table.to_csv(index=False))
    synthetic = any(group.synthetic for group in found.groups)
    for name, figure in pictures(found).items():
        plots.keep(figure, folder / f"{name}.png", synthetic)
    write_json(folder / "aggregate.json", found.model_dump(mode="json"))


def publish(found: Aggregate) -> None:
    """As `write`, to the sweep's folder in PUBLISHED, with the record of each run for a later aggregate elsewhere."""
    with atomic_folder(PUBLISHED / found.sweep.name) as whole:
        for _, jobs in _combinations(found.sweep):
            records = _published_records(found.sweep, jobs) | _records_here(jobs)
            for job in jobs:
                if job.run.seed in records:
                    write_json(whole / _record_of(job), records[job.run.seed].model_dump(mode="json"))
        _write(found, whole)


def pictures(found: Aggregate) -> dict[str, Figure]:
    """Every combination over its seeds, and, for each axis of the grid with two values or more, the means along it
    (the other axes at their first value)."""
    made = {"seeds": plots.over_seeds({_title(group): group.models for group in found.groups})}
    for experiment, (key, labels) in itertools.product(found.sweep.experiment, found.sweep.grid.items()):
        name = name_of(experiment)
        groups = _along(found, name, key)
        if len(groups) > 1:
            models = {model: {row: [group.models[model][row] for group in groups] for row in groups[0].headline}
                      for model in groups[0].models}
            shown = [label for label in labels if any(group.variation[key] == label for group in groups)]
            made[f"{name}_{slug(key)}"] = plots.along_axis(key, shown, models)
    return made


def _along(found: Aggregate, experiment: str, key: str) -> list[Group]:
    others = {name: next(iter(labels)) for name, labels in found.sweep.grid.items() if name != key}
    return [group for group in found.groups
            if group.experiment == experiment and others.items() <= group.variation.items()]


def _title(group: Group) -> str:
    return "\n".join([group.experiment, *(f"{key}: {label}" for key, label in group.variation.items())])


def read(path: Path) -> Aggregate:
    """Raises KitError where the file is missing, damaged or does not follow the schema."""
    return Aggregate.read(read_json(path), str(path))
