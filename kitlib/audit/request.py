"""From the arguments of the command `audit` to the subject that is judged."""
from __future__ import annotations

import dataclasses
from pathlib import Path

from kitlib import models
from kitlib.audit import folder, material
from kitlib.audit.measure import Effort, Subject
from kitlib.base import digests, places
from kitlib.base.files import sha256
from kitlib.base.settings import KitError
from kitlib.data.pictures import printable
from kitlib.models.loading import load, load_weights
from kitlib.models.reading import prepare
from kitlib.models.wiring import image_shape, outputs_of

OF_A_FILE = ("data", "input_range", "mean", "std", "output", "class_order", "train_data", "allow_code", "code",
              "model_name", "options", "input_shape", "fit")
# What tells one audit of a model from another: where nothing else is asked for, each has a folder of its own.
_ASKED = (*OF_A_FILE, "eps", "claim", "quick", "images", "seed")
_UNLESS_GIVEN = {"allow_code": False, "options": {}, "fit": "crop"}


def from_file(arguments, effort: Effort) -> tuple[Subject, dict, Path]:
    """Anybody's model and data."""
    for name in ("data", "eps"):
        if getattr(arguments, name) is None:
            raise KitError(f"--{name} is missing: " + {
                "data": "name the images to judge with", "eps": "state the threat model, such as --eps 8/255"}[name])
    path = Path(arguments.file)
    wanted = material.Wanted(
        arguments.input_shape or (None, None, None), None, _order(arguments), arguments.fit, effort.images,
        arguments.seed)
    normalisation = _normalisation(arguments)
    if arguments.model_name:
        refuse(arguments, ("input_range", "output", "allow_code", "code"),
                "--model-name: the kit's networks take pixels in [0, 1] and return logits, and their code is the kit's "
                "(--mean and --std say how theirs were normalised)")
        model, chosen = _from_weights(arguments, path, normalisation, wanted)
        given = {"output": "logits", "input_range": (0.0, 1.0)}
    else:
        refuse(arguments, ("options",), "a model's file without --model-name: the file says what the model is made of")
        model = load(path, arguments.allow_code, arguments.code)
        wanted = dataclasses.replace(wanted, shape=_shape(model, arguments.input_shape), classes=outputs_of(model))
        chosen = material.read(arguments.data, wanted)
        given = {"input_range": arguments.input_range, "normalisation": normalisation, "output": arguments.output}
    target = prepare(model, chosen.images, **given)
    trained = chosen.train_images, chosen.train_labels
    if arguments.train_data:
        known = dataclasses.replace(wanted, shape=chosen.images.shape[1:], classes=target.classes,
                                    order=chosen.class_names if wanted.order else (), count=folder.MOST_TRAINING)
        trained = material.read_training(arguments.train_data, known)
    subject = Subject(target, chosen.images, chosen.labels, chosen.class_names, arguments.eps, arguments.claim,
                      train_images=trained[0], train_labels=trained[1])
    digest = sha256(path)
    about = {"model": printable(path.name), "data": chosen.source, "class_order": chosen.class_order,
             "synthetic": chosen.synthetic, "model_sha256": digest}
    asked = digests.of_json({name: str(value) for name, value in vars(arguments).items() if name in _ASKED})
    return subject, about, places.runs_folder() / "audits" / f"{printable(path.stem)}-{digest[:8]}-{asked[:8]}"


def _order(arguments) -> tuple[str, ...]:
    return tuple(name.strip() for name in arguments.class_order.split(",")) if arguments.class_order else ()


def _shape(model, asked: tuple | None) -> tuple:
    """The shape of the images to prepare: the model's own, and what is asked for where it takes any."""
    own = image_shape(model)
    if asked and any(fixed not in (None, size) for fixed, size in zip(own, asked, strict=True)):
        raise KitError(f"--input-shape: the model takes images of {own}, not of {asked}")
    return asked or own


def refuse(arguments, names: tuple[str, ...], why: str) -> None:
    """Raises KitError where an option was given that would change nothing."""
    for name in names:
        if getattr(arguments, name) not in (None, _UNLESS_GIVEN.get(name)):
            option = "import" if name == "code" else name.replace("_", "-")
            raise KitError(f"--{option} does not go with {why}")


def _normalisation(arguments) -> models.Normalisation | None:
    if (arguments.mean is None) != (arguments.std is None):
        raise KitError("--mean and --std belong together")
    if arguments.mean is None:
        return None
    return models.Normalisation.read({"mean": arguments.mean, "std": arguments.std}, "--mean and --std")


def _from_weights(arguments, path: Path, normalisation, wanted: material.Wanted):
    """One of the kit's networks with weights from a file; the data say which images and how many classes."""
    settings = models.ModelSettings.read({"name": arguments.model_name, "options": arguments.options,
                                          "normalisation": normalisation}, "--model-name")
    found = material.read(arguments.data, wanted)
    return load_weights(path, settings, found.images.shape[1:], len(found.class_names)), found
