"""A run: one experiment, profile and seed in its own folder, and what its notebooks leave there."""
from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path

import keras

from kitlib import models
from kitlib.base import digests
from kitlib.base.files import read_arrays, read_json, write_arrays, write_json
from kitlib.base.machine import environment
from kitlib.base.places import runs_folder
from kitlib.base.settings import KitError, slug
from kitlib.data import Dataset, DataSettings
from kitlib.experiments import experiment as experiments
from kitlib.experiments.settings import Experiment
from kitlib.training import TrainingSettings

# Which notebook makes what: for the message when something is missing.
MAKER = {
    "prepared.npz": "01_data_preparation",
    "records/data.json": "01_data_preparation",
    "models/baseline.keras": "02_baseline_training",
    "records/baseline.json": "02_baseline_training",
    "records/attacks.json": "03_attack_generation",
    "models/defended.keras": "04_adversarial_training",
    "records/defended.json": "04_adversarial_training",
    "results.json": "05_evaluation",
}
PARAMETERS = ("experiment", "profile", "seed", "overrides")


def maker_of(name: str) -> str:
    """The notebook that makes a file of a run. Those from 06 on make the record of their own name."""
    if name in MAKER:
        return MAKER[name]
    folder, _, file = name.partition("/")
    return Path(file).stem if folder == "records" else "03_attack_generation"


@dataclass(frozen=True)
class Run:
    """The folder of a run and typed access to what lies in it."""

    experiment: Experiment
    profile: str
    seed: int
    folder: Path

    def path(self, name: str) -> Path:
        return self.folder / name

    def need(self, name: str) -> Path:
        """The path of something that an earlier notebook made; KitError names that notebook."""
        path = self.path(name)
        if not path.exists():
            raise KitError(
                f"{path} is missing: run notebook {maker_of(name)}.ipynb first, with experiment "
                f"'{self.experiment.name}', profile '{self.profile}', seed {self.seed}"
            )
        return path

    @functools.cached_property
    def fingerprint(self) -> str:
        return fingerprint_of(self.experiment)

    def write_record(self, name: str, content: dict) -> None:
        """records/<name>.json, stamped with the experiment's fingerprint, the environment, and what identifies the
        data."""
        stamp = {"fingerprint": self.fingerprint, "environment": environment()}
        if name != "data":
            stamp["data"] = self._data()
        write_json(self.path(f"records/{name}.json"), {**stamp, **content})

    def _data(self) -> str | None:
        """What identifies the run's data; None where that is not known."""
        path = self.path("records/data.json")
        record = read_json(path) if path.exists() else None
        report = record.get("report") if isinstance(record, dict) else None
        return report.get("identity") if isinstance(report, dict) else None

    def read_record(self, name: str) -> dict:
        """Raises KitError where it is missing, damaged, or of an experiment or data that have changed since."""
        path = self.need(f"records/{name}.json")
        record = read_json(path)
        if not isinstance(record, dict) or record.get("fingerprint") != self.fingerprint:
            raise KitError(
                f"{path} belongs to other settings of experiment '{self.experiment.name}': "
                f"run notebook {maker_of(f'records/{name}.json')}.ipynb again"
            )
        if name != "data":
            again = ("the repository's model does not suit them, train one with notebooks 02 and 04"
                     if "pretrained" in record else f"run notebook {maker_of(f'records/{name}.json')}.ipynb again")
            self.refuse_other_data(path, record.get("data"), again)
        return record

    def refuse_other_data(self, path: Path, identity: str | None, what_to_do: str) -> None:
        """Raises KitError where what `path` holds was made with data (of this identity) that the run no longer has."""
        now = self._data()
        if None not in (identity, now) and identity != now:
            raise KitError(f"{path} was made with other data, or another split of them, than "
                           f"{self.path('prepared.npz')} holds now: {what_to_do}")

    def dataset(self) -> Dataset:
        self.read_record("data")
        return Dataset.load(self.need("prepared.npz"))

    def model(self, name: str) -> keras.Model:
        """"baseline" or "defended", in float32."""
        self.read_record(name)
        return models.load(self.need(f"models/{name}.keras"))

    @property
    def checkpoints(self) -> Path:
        """Where `kitlib.training.train` keeps its checkpoints, for all runs.

        So a training is made once even where several experiments have it: paper A's first two share their baseline.
        """
        return runs_folder() / "checkpoints"

    def made_of(self, name: str) -> dict:
        """What decides the outcome of a training but for the seed and the code.

        name: "baseline", "defended" or a compared model that is trained.
        Raises KitError for a name that the experiment does not have.
        """
        trained = self.experiment.trained(name)
        made = {"data": _wherever_from(self.experiment.data), "model": trained.model, "training": trained.training}
        made = {part: settings.model_dump(mode="json") for part, settings in made.items()}
        if trained.training.needs_baseline:
            made["baseline"] = self.made_of(trained.of)
        return made

    def save_model(self, name: str, model: keras.Model) -> None:
        models.save(model, self.path(f"models/{name}.keras"))

    def write_adversarial(self, name: str, **arrays) -> None:
        """Adversarial images of one attack; `name` as in the attack suite."""
        write_arrays(self.path(f"adversarial/{slug(name)}.npz"), **arrays)

    def adversarial(self, name: str) -> dict:
        return read_arrays(self.need(f"adversarial/{slug(name)}.npz"))


def fingerprint_of(experiment: Experiment) -> str:
    """Changes with everything in an experiment that changes numbers (not its prose)."""
    prose = {"title", "summary", "choices", "paper_figures", "claimed_images", "notebooks"}
    judged_on_their_own = {"compared_models", "comparison"}  # their records have keys of their own
    experiment = experiment.model_copy(update={"data": _wherever_from(experiment.data)})
    return digests.of_json(experiment.model_dump(mode="json", exclude=prose | judged_on_their_own))[:16]


def _wherever_from(settings: DataSettings) -> DataSettings:
    """The same data, whether downloaded or put there by hand."""
    return settings.model_copy(update={"download": False})


def as_today(made_of: dict) -> dict:
    """What `Run.made_of` gave in an earlier version of the kit, with the settings that it did not have yet.

    Raises KitError for settings that this version does not know.
    """
    kinds = {"data": DataSettings, "model": models.ModelSettings, "training": TrainingSettings}
    now = {part: kind.read(made_of[part], part).model_dump(mode="json") for part, kind in kinds.items()}
    return now | ({"baseline": as_today(made_of["baseline"])} if "baseline" in made_of else {})


def open_run(experiment: str = "digits_fgsm", profile: str = "demo", seed: int = 0, overrides=None) -> Run:
    """The run of an experiment, profile and seed; its folder need not exist yet.

    Overrides make it another run, in a folder of its own. Raises KitError as `experiment.load`,
    for a seed that is no whole number from 0 to 2**31 - 1, and for a file of one's own that is called like an
    experiment of the kit, as both would have one folder.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**31:
        raise KitError(f"seed must be a whole number from 0 to 2147483647, not {seed!r}")
    resolved = experiments.load(experiment, profile, overrides)
    for what, name in (("experiment", resolved.name), ("profile", profile)):
        if not re.fullmatch(r"\w([\w. -]*\w)?", name):
            raise KitError(f"{what} {name!r} names a folder: use letters, digits, '_', '-', '.' and spaces only")
    own = Path(experiment).suffix in (".yaml", ".yml") and Path(experiment).resolve().parent != experiments.EXPERIMENTS
    if own and resolved.name in experiments.names():
        raise KitError(f"{experiment} is called '{resolved.name}' like an experiment of the kit, whose runs it would "
                       "overwrite: give it another name")
    changes = experiments.read_overrides(overrides)
    suffix = "+" + digests.of_json(changes)[:8] if changes else ""
    folder = runs_folder() / resolved.name / f"{profile}{suffix}" / f"seed{seed}"
    return Run(resolved, profile, seed, folder)


def start(experiment: str = "digits_fgsm", profile: str = "demo", seed: int = 0, overrides=None) -> Run:
    """Open the run that a notebook asks for, and seed Python, NumPy and TensorFlow. Raises KitError as `open_run`."""
    run = open_run(experiment, profile, seed, overrides)
    keras.utils.set_random_seed(run.seed)
    return run
