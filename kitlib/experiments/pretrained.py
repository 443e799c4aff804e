"""Models of the kit's own runs, kept in figures/<experiment>/models, to try attacks and judging without training."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import pandas as pd

from kitlib import models
from kitlib.base.files import read_arrays, read_json, sha256, write_arrays, write_json
from kitlib.base.places import REPOSITORY
from kitlib.base.settings import KitError, Settings, choose
from kitlib.evaluation import Accuracy, confusion
from kitlib.experiments import runs
from kitlib.experiments.results import Measured, ModelResults, Results, Which
from kitlib.experiments.runs import Run

FIGURES = REPOSITORY / "figures"
WHICH: tuple[Which, ...] = ("baseline", "defended")
LARGEST = 7 * 2**20     # bytes of one file; a ResNet-50 in float16 has 47 million
IN_ALL = 40 * 2**20     # bytes of all that are kept together; alike ones count once
ROUNDING = 0.01         # share of the test images whose answer may change with the rounding to float16
_ARCHITECTURE = "architecture"


class Kept(Settings):
    """A kept model: what it is made of, its training's record, and what results.json says of it.

    clean, as_published (all of the paper's attacks together, None where there are none), worst_case: of results.json,
    so of the weights in float32. rounded: the clean accuracy of the kept weights on the same images.
    made_of, record: as kitlib.experiments.runs.Run.made_of and the run's records/<name>.json give them.
    """

    sha256: str
    bytes: int
    clean: Measured
    rounded: Measured
    as_published: Measured | None
    worst_case: Measured
    made_of: dict[str, Any]
    record: dict[str, Any]


class Collection(Settings):
    """models.json: the run that the models of a folder are from, and the models."""

    schema_version: Literal[1] = 1
    experiment: str
    profile: str
    seed: int
    source: str
    synthetic: bool
    class_names: tuple[str, ...]
    models: dict[Which, Kept]


# --- keeping

def keep(run: Run, found: Results, folder: Path, room: int = IN_ALL) -> dict[str, str]:
    """Write <name>.npz and models.json into `folder` for both models of a run; returns those left out, and why.

    found: the run's results. room: bytes that all of them may take. Left out is a model that is too large, that does
    not survive the rounding to float16, or that is not the one that `found` judged. No file where none is kept.
    """
    kept: dict[Which, Kept] = {}
    left_out: dict[str, str] = {}
    for name in WHICH:
        try:
            kept[name] = _keep(run, found, name, folder / f"{name}.npz", min(LARGEST, room))
            room -= kept[name].bytes
        except KitError as error:
            left_out[name] = str(error)
    if kept:
        about = Collection(
            experiment=run.experiment.name, profile=run.profile, seed=run.seed, source=found.source,
            synthetic=found.synthetic, class_names=run.dataset().class_names, models=kept)
        write_json(folder / "models.json", about.model_dump(mode="json"))
    return left_out


def _keep(run: Run, found: Results, name: Which, path: Path, room: int) -> Kept:
    model, judged = run.model(name), found.models[name]
    with np.errstate(over="ignore"):
        weights = [weight.astype(np.float16) for weight in model.get_weights()]
    arrays = {_ARCHITECTURE: np.frombuffer(model.to_json().encode(), np.uint8)}
    arrays |= {f"{number:03}": weight for number, weight in enumerate(weights)}
    size = sum(array.nbytes + 500 for array in arrays.values())  # an .npz adds less than this to each
    if size > room:
        raise KitError(f"it takes {size / 1e6:.1f} MB in float16, and {room / 1e6:.1f} MB are left for it")
    if not all(np.isfinite(weight).all() for weight in weights):
        raise KitError("it has weights that are too large for float16")
    model.set_weights([weight.astype(np.float32) for weight in weights])
    rounded = _clean(run, model, judged)
    write_arrays(path, **arrays)
    return Kept(
        sha256=sha256(path), bytes=path.stat().st_size, clean=judged.clean, rounded=rounded,
        as_published=judged.combined, worst_case=judged.worst_case, made_of=run.made_of(name),
        record=run.read_record(name))


def _clean(run: Run, model: keras.Model, judged: ModelResults) -> Measured:
    """Accuracy on the test images that `judged` is about. Raises KitError where too many answers differ from it."""
    images, labels = run.dataset().part("test", run.experiment.evaluation.images)
    predictions = models.predict_logits(model, images).argmax(1)
    matrix = np.array(judged.confusion["clean"])
    moved = np.abs(confusion(labels, predictions, len(matrix)) - matrix).sum() / 2
    if moved > max(1, ROUNDING * len(labels)):
        raise KitError(f"in float16 it gives {moved:.0f} of {len(labels)} test images another answer than results.json "
                       "says: run notebook 05_evaluation.ipynb again if the model was trained since")
    return Measured(**Accuracy.of(predictions == labels).record())


def size_of(figures: Path, without: str | None = None) -> int:
    """Bytes of the models kept in a folder of figures, but for one experiment's. Alike files count once, as git keeps
    them once: experiments that differ in their attacks only have the same models."""
    paths = [path for path in figures.glob("[!.]*/models/*.npz") if path.parts[-3] != without]
    return sum({sha256(path): path.stat().st_size for path in paths}.values())


# --- using

def collections(figures: Path = FIGURES) -> dict[str, Collection]:
    """Every experiment with kept models. Raises KitError where a models.json is damaged."""
    paths = sorted(figures.glob("[!.]*/models/models.json"))
    return {path.parts[-3]: Collection.read(read_json(path), str(path)) for path in paths}


def names(figures: Path = FIGURES) -> list[str]:
    """The kept models, such as "cifar10_exp2/defended"."""
    return [f"{experiment}/{name}" for experiment, found in collections(figures).items() for name in found.models]


def load(name: str, figures: Path = FIGURES) -> keras.Model:
    """A kept model: Keras, pixels to logits, in float32.

    Raises KitError for an unknown name, and for a file that is missing or not the one that models.json speaks of.
    """
    _, kept = _find(name, figures)
    experiment, which = name.split("/")
    path = figures / experiment / "models" / f"{which}.npz"
    if not path.is_file() or sha256(path) != kept.sha256:
        raise KitError(f"{path} is missing or not the file that models.json speaks of (its SHA-256 differs): "
                       "get it again, with `git checkout`")
    return _read(path)


def kept(name: str, figures: Path = FIGURES) -> Kept:
    """What models.json says of a kept model. Raises KitError for an unknown name."""
    return _find(name, figures)[1]


def _find(name: str, figures: Path) -> tuple[Collection, Kept]:
    found = {f"{experiment}/{which}": (each, each.models[which])
             for experiment, each in collections(figures).items() for which in each.models}
    if not found:
        raise KitError(f"{figures} holds no pretrained models: `python -m kitlib publish EXPERIMENT` puts them there")
    return choose(name, found, "pretrained model")


def _read(path: Path) -> keras.Model:
    arrays = read_arrays(path)
    try:
        model = keras.models.model_from_json(arrays.pop(_ARCHITECTURE).tobytes().decode())  # runs no code of a file
        model.set_weights([arrays[key].astype(np.float32) for key in sorted(arrays)])
    except Exception as error:  # Keras raises nearly every type here
        raise KitError(f"{path} holds no model of this version of Keras ({type(error).__name__}: weights and network "
                       "do not fit, or its layers are unknown)") from None
    return model


def about(name: str, figures: Path = FIGURES) -> str:
    """What a kept model is, in a few lines. Raises KitError for an unknown name."""
    found, kept = _find(name, figures)
    made = kept.made_of
    mark = "SYNTHETIC data, " if found.synthetic else ""
    published = f", {_percent(kept.as_published)} under the paper's attacks as published" if kept.as_published else ""
    return (f"{name}: {made['model']['name']}, training {made['training']['method']}, "
            f"{made['training']['epochs']} epochs ({mark}profile {found.profile}, seed {found.seed})\n"
            f"data: {found.source}\nclasses: {', '.join(found.class_names)}\n"
            f"accuracy: {_percent(kept.clean)} clean{published}, {_percent(kept.worst_case)} in the worst case as "
            f"defined; kept as float16, {_percent(kept.rounded)} clean\nsha256: {kept.sha256}")


def table(figures: Path = FIGURES) -> pd.DataFrame:
    """One row a kept model."""
    rows = [{
        "model": f"{experiment}/{name}", "network": kept.made_of["model"]["name"],
        "training": kept.made_of["training"]["method"], "profile": found.profile, "seed": found.seed,
        "clean": _percent(kept.clean), "as published": _percent(kept.as_published) if kept.as_published else "-",
        "worst case": _percent(kept.worst_case), "MB": f"{kept.bytes / 1e6:.1f}",
    } for experiment, found in collections(figures).items() for name, kept in found.models.items()]
    return pd.DataFrame(rows)


def _percent(measured: Measured) -> str:
    return f"{100 * measured.accuracy:.1f} % of {measured.count}"


def place(experiment: str, overrides: dict | str | None = None, figures: Path = FIGURES) -> Run:
    """Put the kept models of an experiment into the run that they are of; returns it.

    Notebooks 03 and 05 then go on from notebook 01's data. overrides: changes that leave data, network and training
    as they are, such as fewer test images; they make it another run. The records say where the models are from, and
    that their weights are rounded to float16.
    Raises KitError where there are none, where the experiment has changed since, and where the run has models that
    were trained in it.
    """
    found = choose(experiment, collections(figures), "experiment with pretrained models")
    run = runs.open_run(experiment, found.profile, found.seed, overrides)
    for name, kept in found.models.items():
        if not _is_made_so(run, name, kept):
            raise KitError(f"{experiment}/{name} was trained with other settings (data, model or training) than "
                           f"experiment '{experiment}' has now, overrides included: train it with the notebooks")
        _refuse_to_replace(run, name)
    loaded = {name: load(f"{experiment}/{name}", figures) for name in found.models}
    for name, kept in found.models.items():
        run.save_model(name, loaded[name])
        run.write_record(name, _record(f"{experiment}/{name}", kept))
    return run


def _is_made_so(run: Run, name: str, kept: Kept) -> bool:
    """Whether a kept model is made of what the run would make it of."""
    try:
        return run.made_of(name) == runs.with_current_settings(kept.made_of)
    except KitError:    # of a version that knew other settings
        return False


def _refuse_to_replace(run: Run, name: str) -> None:
    path = run.path(f"models/{name}.keras")
    if path.exists() and run.path(f"records/{name}.json").exists() and not is_pretrained(run, name):
        raise KitError(f"{path} was trained in this run: nothing is put in its place. Move {run.folder} away, or give "
                       "overrides, which make another run")


def is_pretrained(run: Run, name: str) -> bool:
    """Whether a model of a run was taken from the repository by `place`."""
    path = run.path(f"records/{name}.json")
    return path.exists() and "pretrained" in read_json(path)


def _record(name: str, kept: Kept) -> dict:
    """The training's own record, and where the model is from."""
    trained = {key: value for key, value in kept.record.items() if key not in ("fingerprint", "environment")}
    trained.setdefault("data", None)    # of a version that did not note it
    source = {"name": name, "sha256": kept.sha256, "weights": "float16", "environment": kept.record["environment"]}
    return trained | {"precision": f"{trained['precision']}, weights kept as float16", "pretrained": source}
