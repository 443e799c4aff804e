"""A run: one experiment, profile and seed in its own folder, and what its notebooks leave there."""
from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import keras
from matplotlib.figure import Figure

from kitlib import models, plots
from kitlib.base import digests
from kitlib.base.files import read_arrays, read_json, write_arrays, write_json, write_text
from kitlib.base.machine import environment
from kitlib.base.places import runs_folder
from kitlib.base.settings import KitError, Settings, slug
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
# What else lies in the folder of runs, so that no experiment may be called like it.
RESERVED_NAMES = ("audit", "audits", "batch.json", "checkpoints", "sweeps")


def maker_of(name: str) -> str:
    """The notebook that makes a file of a run. Those from 06 on make the record of their own name."""
    if name in MAKER:
        return MAKER[name]
    folder, _, file = name.partition("/")
    return Path(file).stem if folder == "records" else "03_attack_generation"


@dataclass(frozen=True)
class Run:
    """The folder of a run and typed access to what lies in it. file: of an experiment of one's own."""

    experiment: Experiment
    profile: str
    seed: int
    folder: Path
    file: Path | None = None
    _kept: list[str] = field(default_factory=list, init=False, compare=False, repr=False)

    def path(self, name: str) -> Path:
        return self.folder / name

    def need(self, name: str) -> Path:
        """The path of something that an earlier notebook made; KitError names that notebook."""
        path = self.path(name)
        if not path.exists():
            raise KitError(f"{path} is missing: run notebook {maker_of(name)}.ipynb first, with experiment "
                           f"'{self.experiment.name}', profile '{self.profile}', seed {self.seed}")
        return path

    @functools.cached_property
    def fingerprint(self) -> str:
        return fingerprint_of(self.experiment)

    def keep(self, figure: Figure, name: str) -> Figure:
        """Save a picture as figures/<name>.png (marked where the data are synthetic); the next record owns it.

        Returns the figure, closed, so that a notebook cell that ends with this call shows it once.
        """
        kept = plots.keep(figure, self.path(f"figures/{name}.png"), bool(self._report().get("synthetic")))
        self._kept.append(f"figures/{name}.png")
        return kept

    def write_record(self, name: str, content: dict, files: Iterable[str] = ()) -> None:
        """records/<name>.json, stamped with the experiment's fingerprint, the environment, what identifies the data,
        and `files`: pictures and tables of the run (figures/x.png) that belong to this record, those that `keep` has
        saved since the last one among them. Published with it, and left out with it."""
        stamp: dict = {"fingerprint": self.fingerprint, "environment": environment()}
        if name != "data":
            stamp["data"] = self._report().get("identity")      # None where that is not known
        if owned := sorted({*files, *self._kept}):
            stamp["files"] = owned
        write_json(self.path(f"records/{name}.json"), {**stamp, **content})
        self._kept.clear()
        if self.file:
            write_text(_origin_of(self.experiment.name), f"{self.file}\n")

    def _report(self) -> dict:
        """What notebook 01 has written of the data; empty where it has not run, or its record is damaged."""
        path = self.path("records/data.json")
        record = read_json(path) if path.exists() else None
        report = record.get("report") if isinstance(record, dict) else None
        return report if isinstance(report, dict) else {}

    def read_record(self, name: str) -> dict:
        """Raises KitError where it is missing, damaged, or of an experiment or data that have changed since."""
        path = self.need(f"records/{name}.json")
        record = read_json(path)
        if not isinstance(record, dict) or record.get("fingerprint") != self.fingerprint:
            raise KitError(f"{path} belongs to other settings of experiment '{self.experiment.name}': "
                           f"run notebook {maker_of(f'records/{name}.json')}.ipynb again")
        if name != "data":
            again = ("the repository's model does not suit them, train one with notebooks 02 and 04"
                     if "pretrained" in record else f"run notebook {maker_of(f'records/{name}.json')}.ipynb again")
            self.refuse_other_data(path, record.get("data"), again)
        return record

    def refuse_other_data(self, path: Path, identity: str | None, what_to_do: str) -> None:
        """Raises KitError where what `path` holds was made with data (of this identity) that the run no longer has."""
        now = self._report().get("identity")
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
        parts = {"data": _wherever_from(self.experiment.data), "model": trained.model, "training": trained.training}
        made = {part: settings.model_dump(mode="json") for part, settings in parts.items()}
        if trained.training.needs_baseline:
            made["baseline"] = self.made_of(trained.of or "baseline")
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
    prose = {"title", "summary", "choices", "paper_figures", "claimed_images", "notebooks", "paper_images", "margin"}
    judged_on_their_own = {"compared_models", "comparison"}  # their records have keys of their own
    experiment = experiment.model_copy(update={"data": _wherever_from(experiment.data)})
    return digests.of_json(experiment.model_dump(mode="json", exclude=prose | judged_on_their_own))[:16]


def _wherever_from(settings: DataSettings) -> DataSettings:
    """The same data, whether downloaded or put there by hand."""
    return settings.model_copy(update={"download": False})


def with_current_settings(made_of: dict) -> dict:
    """What `Run.made_of` gave in an earlier version of the kit, with the settings that it did not have yet.

    Raises KitError for settings that this version does not know.
    """
    kinds: dict[str, type[Settings]] = {
        "data": DataSettings, "model": models.ModelSettings, "training": TrainingSettings}
    now = {part: kind.read(made_of[part], part).model_dump(mode="json") for part, kind in kinds.items()}
    return now | ({"baseline": with_current_settings(made_of["baseline"])} if "baseline" in made_of else {})


def open_run(experiment: str = "digits_fgsm", profile: str = "demo", seed: int = 0, overrides=None) -> Run:
    """The run of an experiment, profile and seed; its folder need not exist yet.

    Overrides make it another run, in a folder of its own. Raises KitError as `experiment.load`, for a seed that is no
    whole number from 0 to 2**31 - 1, and for a name whose folder is taken: by an experiment of the kit, by another file
    of one's own, or by what else lies among the runs.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**31:
        raise KitError(f"seed must be a whole number from 0 to 2147483647, not {seed!r}")
    resolved = experiments.load(experiment, profile, overrides)
    for what, name in (("experiment", resolved.name), ("profile", profile)):
        if not re.fullmatch(r"\w([\w. -]*\w)?", name):
            raise KitError(f"{what} {name!r} names a folder: use letters, digits, '_', '-', '.' and spaces only")
    file = Path(experiment).resolve() if Path(experiment).suffix in (".yaml", ".yml") else None
    file = None if file and file.parent == experiments.EXPERIMENTS else file
    _refuse_taken_name(resolved.name, file)
    changes = experiments.read_overrides(overrides)
    suffix = "+" + digests.of_json(changes)[:8] if changes else ""
    folder = runs_folder() / resolved.name / f"{profile}{suffix}" / f"seed{seed}"
    return Run(resolved, profile, seed, folder, file)


def _refuse_taken_name(name: str, file: Path | None) -> None:
    if name in RESERVED_NAMES:
        raise KitError(f"experiment '{name}' would have its runs in {runs_folder() / name}, which is for something "
                       "else: give it another name")
    if file and name in experiments.names():
        raise KitError(f"{file} is called '{name}' like an experiment of the kit, whose runs it would overwrite: give "
                       "it another name")
    other = _origin_of(name).read_text(encoding="utf-8").strip() if file and _origin_of(name).is_file() else None
    if other and Path(other) != file and Path(other).is_file():
        raise KitError(f"{file} is called '{name}' like {other}, whose runs it would overwrite: give one of them "
                       "another name")


def _origin_of(name: str) -> Path:
    """Where it is noted which file of one's own the runs of an experiment are of."""
    return runs_folder() / name / "file.txt"


def start(experiment: str = "digits_fgsm", profile: str = "demo", seed: int = 0, overrides=None) -> Run:
    """Open the run that a notebook asks for, and seed Python, NumPy and TensorFlow. Raises KitError as `open_run`."""
    run = open_run(experiment, profile, seed, overrides)
    keras.utils.set_random_seed(run.seed)
    return run
