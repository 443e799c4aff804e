"""What an audit is asked, typed; and the way from there to the subject that is judged."""
from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pydantic
from pydantic_core import ErrorDetails

from kitlib import models
from kitlib.attacks.base import Norm
from kitlib.audit import folder, judged_data, loading
from kitlib.audit.judged_data import DataRequest, JudgedData
from kitlib.audit.subject import FULL, QUICK, Effort, Subject
from kitlib.base import digests, places
from kitlib.base.files import sha256
from kitlib.base.settings import Epsilon, KitError, Settings
from kitlib.data.decoding import Window, printable
from kitlib.data.pictures import Interpolation, Loading, Way
from kitlib.models.loading import load, load_weights
from kitlib.models.reading import Output, Target, images_for, prepare, with_one_output
from kitlib.models.wiring import outputs_of

_MISSING = {"data": "name the images to judge with", "eps": "state the threat model, such as --eps 8/255"}
_KIT_NETWORK = ("--model-name: the kit's networks take pixels in [0, 1] and return logits, and their code is the kit's "
                "(--mean and --std say how theirs were normalised)")


def option(name: str) -> str:
    """The command's option for a field of a request."""
    return "--import" if name == "code" else f"--{name.replace('_', '-')}"


class Asked(Settings):
    """What every audit is asked. claim: a robust accuracy, as a share. images: how many are judged, at most. minutes:
    how long it may take. norm: that eps is measured in, pixels of 0 to 1. save_images: a folder for adversarial images
    of 8 bits."""

    claim: float | None = None
    norm: Norm = "linf"
    save_images: Path | None = None
    quick: bool = False
    images: int | None = pydantic.Field(None, ge=1)
    seed: int = pydantic.Field(0, ge=0, lt=2**32)
    minutes: float | None = pydantic.Field(None, gt=0, lt=10**6)

    @property
    def effort(self) -> Effort:
        usual = QUICK if self.quick else FULL
        return usual.model_copy(update={"images": self.images or usual.images})

    @classmethod
    def of_options(cls, given: dict[str, Any], going_with: str = "this kind of model"):
        """From the options that were given, by the names of the fields. Raises KitError that names the option which is
        missing, impossible, or no field (it "does not go with" what is said)."""
        for name in given:
            if name not in cls.model_fields:
                raise KitError(f"{option(name)} does not go with {going_with}")
        try:
            return cls(**given)
        except pydantic.ValidationError as error:
            raise KitError("; ".join(map(_problem, error.errors()))) from None


def _problem(entry: ErrorDetails) -> str:
    if not entry["loc"]:
        return entry["msg"].removeprefix("Value error, ")
    name = str(entry["loc"][0])
    if entry["type"] == "missing":
        return f"{option(name)} is missing" + (f": {_MISSING[name]}" if name in _MISSING else "")
    return f"{option(name)}: {entry['msg'].removeprefix('Value error, ')} (got {entry['input']!r:.80})"


class Request(Asked):
    """An audit of anybody's model and images.

    file: a saved model, or weights where `model_name` names one of the kit's networks (with its `options`).
    data, train_data: a data set of the kit, a folder of pictures, or an .npz: to judge with, and what the model was
    trained on. input_range, mean, std, output: what the model takes and returns, as
    `models.reading.prepare` has them. class_order: class names in the order of the model's outputs. input_shape:
    height, width, channels, of a model that takes any. head: the name of
    the output to judge, of several. allow_code, code: see `models.load`.
    pictures, interpolation, resize, intensity: how pictures are loaded (`kitlib.data.pictures.Loading`).
    """

    file: Path
    data: str
    eps: Epsilon
    input_range: tuple[float, float] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    output: Output | None = None
    head: str | None = None
    class_order: tuple[str, ...] = ()
    train_data: str | None = None
    allow_code: bool = False
    code: str | None = None
    model_name: str | None = None
    options: dict[str, Any] = {}
    input_shape: tuple[int, int, int] | None = None
    pictures: Way = "keras"
    interpolation: Interpolation = "bilinear"
    resize: int | None = pydantic.Field(None, ge=1, le=4096)
    intensity: Window | None = None

    @pydantic.model_validator(mode="after")
    def _going_together(self):
        if (self.mean is None) != (self.std is None):
            raise ValueError("--mean and --std belong together")
        useless, why = (("input_range", "output", "allow_code", "code"), _KIT_NETWORK) if self.model_name else (
            ("options",), "a model's file without --model-name: the file says what the model is made of")
        for name in useless:
            if name in self.model_fields_set:
                raise ValueError(f"{option(name)} does not go with {why}")
        try:
            self.loading    # noqa: B018  (it is checked where it is made)
        except KitError as error:
            raise ValueError(f"--pictures: {error}") from None
        return self

    @property
    def loading(self) -> Loading | None:
        """How pictures are loaded; None where nothing was said of it."""
        said = {"pictures", "interpolation", "resize", "intensity"} & self.model_fields_set
        return Loading(self.pictures, self.interpolation, self.resize, self.intensity) if said else None

    @property
    def normalisation(self) -> models.Normalisation | None:
        if self.mean is None:
            return None
        return models.Normalisation.read({"mean": self.mean, "std": self.std}, "--mean and --std")


def subject_of(asked: Request) -> tuple[Subject, dict, Path]:
    """Anybody's model and data: the subject, what the record says of it (arguments of `audit.run`), and the usual
    folder for the report, another for every request. Raises KitError where something does not fit or is not certain."""
    data = DataRequest(asked.input_shape or (None, None, None), None, asked.class_order, asked.loading,
                       asked.effort.images, asked.seed)
    target, chosen = (_kit_network if asked.model_name else _own_model)(asked, data)
    trained = chosen.train_images, chosen.train_labels
    if asked.train_data:
        known = DataRequest(chosen.images.shape[1:], target.classes, chosen.class_names if asked.class_order else (),
                            asked.loading, folder.MOST_TRAINING, asked.seed)
        trained = judged_data.read_training(asked.train_data, known)
    subject = Subject(target, chosen.images, chosen.labels, chosen.class_names, asked.eps, asked.claim, norm=asked.norm,
                      train_images=trained[0], train_labels=trained[1])
    looked = loading.compare(target.model, chosen.pictures, chosen.labels, asked.seed) if chosen.pictures else None
    digest = sha256(asked.file)
    about = {"model": printable(asked.file.name), "data": chosen.source, "class_order": chosen.class_order,
             "synthetic": chosen.synthetic, "model_sha256": digest, "loading": looked}
    name = digests.of_json(asked.model_dump(mode="json", exclude={"file", "save_images"}))[:8]
    return subject, about, places.runs_folder() / "audits" / f"{printable(asked.file.stem)}-{digest[:8]}-{name}"


def _own_model(asked: Request, data: DataRequest) -> tuple[Target, JudgedData]:
    model = with_one_output(load(asked.file, asked.allow_code, asked.code), asked.head)
    own = images_for(model)
    shape = asked.input_shape or own
    if any(fixed not in (None, size) for fixed, size in zip(own, shape, strict=True)):
        raise KitError(f"--input-shape: the model takes images of {own}, not of {shape}")
    chosen = judged_data.read(asked.data, dataclasses.replace(data, shape=shape, classes=outputs_of(model)))
    return prepare(model, chosen.images, asked.input_range, asked.normalisation, asked.output), chosen


def _kit_network(asked: Request, data: DataRequest) -> tuple[Target, JudgedData]:
    """One of the kit's networks with weights from a file; the data say which images and how many classes."""
    settings = models.ModelSettings.read({"name": asked.model_name, "options": asked.options,
                                          "normalisation": asked.normalisation}, "--model-name")
    chosen = judged_data.read(asked.data, data)
    model = load_weights(asked.file, settings, chosen.images.shape[1:], len(chosen.class_names))
    return prepare(model, chosen.images, (0.0, 1.0), output="logits"), chosen
