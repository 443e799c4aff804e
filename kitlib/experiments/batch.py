"""A batch: the runs that are asked for, handed over to Snakemake, which makes what is missing or out of date."""
from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from kitlib import models
from kitlib.base import digests
from kitlib.base.files import locked, write_json
from kitlib.base.places import REPOSITORY, data_folder
from kitlib.base.settings import KitError
from kitlib.data.state import state_of
from kitlib.experiments import experiment, runs
from kitlib.experiments.experiment import EXPERIMENTS
from kitlib.experiments.runs import Run

# Older than what it leads to, in files or in settings. The text of a rule is left out: how a notebook is started
# does not change what it computes.
RERUN_TRIGGERS = ("mtime", "input", "params")
LONG_AGO = 1e9  # seconds since 1970: 2001
MINUTE = 60
PAPERS = {"paper_a": "A", "paper_b": "B"}
KERNELS = 4     # notebooks 01, 03 and 05 at a time on this machine; each may fill the memory and all cores by itself


@dataclass(frozen=True)
class Job:
    """One run of a batch. experiment: as it was asked for, a name or the path of a YAML file."""

    experiment: str
    run: Run
    overrides: dict


@dataclass(frozen=True)
class Options:
    """How a batch is run. Raises KitError for what cannot be met.

    cores: notebooks at a time, at most, a number or "all" for as many as this machine has cores; each takes all cores
    for itself. trainings: at a time on this machine; None: one for full runs, two for the smaller ones, which leave
    cores idle. profile: folder of a Snakemake profile, such as one that sends the notebooks to a cluster. touch: accept
    what is there as up to date instead of running anything. dry: only say what would be run.
    """

    cores: str = "all"
    trainings: int | None = None
    profile: str | None = None
    touch: bool = False
    dry: bool = False

    def __post_init__(self):
        if self.cores != "all" and not (self.cores.isdecimal() and int(self.cores) > 0):
            raise KitError(f"cores must be a whole number from 1 on, or all, not '{self.cores}'")
        if self.trainings is not None and self.trainings < 1:
            raise KitError(f"trainings must be 1 or more, not {self.trainings}")
        if self.profile is not None and not (Path(self.profile) / "config.yaml").is_file():
            raise KitError(f"there is no Snakemake profile in {self.profile}: it needs a file config.yaml")


def jobs_for(names, profile: str, seed: int) -> list[Job]:
    """The runs of experiments given by name, as a YAML file, or as paper_a or paper_b for all of one paper."""
    asked = [experiment.of_paper(PAPERS[name]) if name in PAPERS else [name] for name in names]
    return [Job(name, runs.open_run(name, profile, seed), {}) for each in asked for name in each]


def config_of(jobs: list[Job]) -> dict:
    """What the Snakefile needs to know to make these runs; its head explains the keys."""
    config: dict = {"targets": [], "experiments": {}, "overrides": {}, "data": {}, "settings": {}}
    for job in jobs:
        name, folder = job.run.experiment.name, job.run.folder.relative_to(runs.runs_folder())
        further = [f"records/{notebook}.json" for notebook in job.run.experiment.notebooks]
        config["targets"] += [f"{folder}/{file}" for file in ("results.json", *further)]
        path = str(Path(job.experiment).resolve())
        if job.experiment != name and path != str(EXPERIMENTS / f"{name}.yaml"):
            if config["experiments"].setdefault(name, path) != path:
                raise KitError(f"two experiment files are called {name}: rename one, or run them one after the other")
        if job.overrides:
            config["overrides"][str(folder.parent)] = json.dumps(job.overrides, ensure_ascii=False, sort_keys=True)
        if str(folder.parent) not in config["data"]:    # the same for every seed
            config["settings"][str(folder.parent)] = job.run.fingerprint
            config["data"][str(folder.parent)] = state_of(job.run.experiment.data) + _state_of_weights(job)
    return config


def _state_of_weights(job: Job) -> str:
    """Changes with the files of weights that the networks of a run begin with; empty where there are none."""
    experiment = job.run.experiment
    compared = experiment.compared_models.values()
    networks = [experiment.model, *(each.model for each in compared if each.training and each.model)]
    named = (network.options.get("weights") for network in networks)
    files = {models.weights_file(weights) for weights in named if isinstance(weights, str) and weights != "imagenet"}
    states = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(files) if file.is_file()]
    return digests.of_json(states)[:16] if states else ""


def run(config: dict, how: Options) -> int:
    """Let Snakemake make the targets of `config`; returns its exit status, or 128 + n where signal n ended it.

    Raises KitError where another batch runs in the folder of runs, or that folder cannot be written.
    """
    folder = runs.runs_folder()
    with locked(folder, "batch") as lock:
        write_json(folder / "batch.json", config)
        date_back({(folder / target).parent for target in config["targets"] if target.endswith("results.json")})
        progress = folder / ".progress"     # to which headless.py adds a line for each notebook that has ended
        progress.unlink(missing_ok=True)
        if planned := _planned(folder, how):
            print(f"{planned} notebooks to run; each leaves its executed copy and its log in {folder}", flush=True)
        environment = _environment() | {"KITLIB_PROGRESS": f"{planned} {time.time():.0f} {progress}"}
        # With the lock in its hands Snakemake holds the folder even if it should outlive this process.
        status = subprocess.run(_command(config, folder, how), env=environment, pass_fds=[lock.fileno()]).returncode
        return status if status >= 0 else 128 - status


def _planned(folder: Path, how: Options) -> int:
    """How many notebooks Snakemake would run now; 0 where it cannot tell, or none is to be run."""
    if how.dry or how.touch:
        return 0
    told = _ask_snakemake(folder, "--dry-run", "--quiet", "rules")
    if told.returncode:
        return 0
    counts = dict(re.findall(r"^(\w+) +(\d+)$", f"{told.stdout}\n{told.stderr}", flags=re.M))
    return int(counts.get("total", 0)) - int(counts.get("all", 0))


def out_of_date(config: dict) -> set[Path]:
    """Those targets of `config`, as paths, that are missing or would be made again; all where Snakemake cannot tell.

    For use after a batch has failed: what it has not reached may still lie there from an earlier one.
    """
    folder = runs.runs_folder()
    targets = {folder / target for target in config["targets"]}
    told = _ask_snakemake(folder, "--summary")
    if told.returncode:
        return targets
    rows = (line.split("\t") for line in told.stdout.splitlines())
    return targets - {Path(row[0]) for row in rows if row[-1] == "no update"}


def _ask_snakemake(folder: Path, *question: str) -> subprocess.CompletedProcess:
    return subprocess.run([*_snakemake(folder, "all"), *question], env=_environment(), text=True, capture_output=True)


def _environment() -> dict[str, str]:
    """What notebooks are started with: they run in another folder, and this very kitlib is to be theirs, also where
    their Python has another clone's installed."""
    return os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])),
        "KITLIB_RUNS": str(runs.runs_folder()), "KITLIB_DATA": str(data_folder()), "KITLIB_DRIVER": str(os.getpid())}


def date_back(folders) -> None:
    """Give files of runs that are dated later than now, as a wrong clock leaves them, a date long ago.

    They would look newer than every change until then. So Snakemake compares what they were made from by content.
    """
    now = time.time()
    for path in (path for folder in folders for path in folder.rglob("*")):
        if path.is_file() and path.stat().st_mtime > now + MINUTE:
            os.utime(path, (LONG_AGO, LONG_AGO))


def _command(config: dict, folder: Path, how: Options) -> list[str]:
    full = any("/full" in target for target in config["targets"])
    trainings = how.trainings or (1 if full else 2)
    command = _snakemake(folder, how.cores)
    if how.profile:
        command += ["--profile", str(Path(how.profile).resolve())]
    else:
        command += ["--resources", f"training={trainings}", f"kernels={KERNELS}"]
    if how.touch:
        return [*command, "--touch", "--quiet", "all"]
    if how.dry:
        return [*command, "--dry-run", "--quiet", "rules"]
    return command if how.profile else [*command, "--quiet", "all"]


def _snakemake(folder: Path, cores: str) -> list[str]:
    return [
        sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile"),
        "--directory", str(folder), "--configfile", str(folder / "batch.json"), "--cores", cores,
        "--nolock",  # a lock file would outlive a kill; `locked` does not
        "--rerun-incomplete", "--keep-going", "--rerun-triggers", *RERUN_TRIGGERS]
