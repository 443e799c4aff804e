"""From the arguments of the command `audit` to the subject that is judged."""
from __future__ import annotations

import dataclasses
from pathlib import Path

from kitlib import models, runs
from kitlib.audit import material
from kitlib.audit.measure import Effort, Subject
from kitlib.audit.of_run import of_run
from kitlib.audit.target import image_shape, load, load_weights, outputs_of, prepare
from kitlib.files import sha256
from kitlib.settings import KitError


def from_file(arguments, effort: Effort) -> tuple[Subject, dict, Path]:
    """Anybody's model and data."""
    for name in ("data", "eps"):
        if getattr(arguments, name) is None:
            raise KitError(f"--{name} is missing: " + {
                "data": "name the images to judge with", "eps": "state the threat model, such as --eps 8/255"}[name])
    path = Path(arguments.file)
    order = tuple(arguments.class_order.split(",")) if arguments.class_order else ()
    normalisation = _normalisation(arguments)
    if arguments.model_name:
        _refuse_what_is_known(arguments)
        model, chosen = _from_weights(arguments, path, normalisation, order)
        given = {"output": "logits", "input_range": (0.0, 1.0)}
    else:
        model = load(path, arguments.allow_code)
        chosen = material.read(arguments.data, image_shape(model), outputs_of(model), order)
        given = {"input_range": arguments.input_range, "normalisation": normalisation, "output": arguments.output}
    chosen = chosen.some(effort.images, arguments.seed)
    target = prepare(model, chosen.images, **given)
    trained = _trained_on(arguments, chosen, target)
    subject = Subject(target, chosen.images, chosen.labels, chosen.class_names, arguments.eps, arguments.claim,
                      train_images=trained.train_images, train_labels=trained.train_labels)
    about = {"model": path.name, "data": chosen.source, "class_order": chosen.class_order,
             "synthetic": chosen.synthetic, "model_sha256": sha256(path)}
    return subject, about, runs.runs_folder() / "audits" / path.stem


def _refuse_what_is_known(arguments) -> None:
    for option, value in (("--input-range", arguments.input_range), ("--output", arguments.output)):
        if value is not None:
            raise KitError(f"{option} does not go with --model-name: the kit's networks take pixels in [0, 1] and "
                           "return logits (--mean and --std say how theirs were normalised)")


def _normalisation(arguments) -> models.Normalisation | None:
    if (arguments.mean is None) != (arguments.std is None):
        raise KitError("--mean and --std belong together")
    if arguments.mean is None:
        return None
    return models.Normalisation.read({"mean": arguments.mean, "std": arguments.std}, "--mean and --std")


def _from_weights(arguments, path: Path, normalisation, order):
    """One of the kit's networks with weights from a file; the data say which images and how many classes."""
    settings = models.ModelSettings.read({"name": arguments.model_name, "options": arguments.options,
                                          "normalisation": normalisation}, "--model-name")
    found = material.read(arguments.data, arguments.input_shape or (None, None, None), None, order)
    return load_weights(path, settings, found.images.shape[1:], len(found.class_names)), found


def _trained_on(arguments, chosen: material.Material, target) -> material.Material:
    """The material with the training images to look for copies in, where they are known."""
    if not arguments.train_data:
        return chosen
    known = material.read(arguments.train_data, chosen.images.shape[1:], target.classes,
                          chosen.class_names if arguments.class_order else ())
    if known.train_images is not None:
        return known
    return dataclasses.replace(known, train_images=known.images, train_labels=known.labels)


def from_run(arguments, effort: Effort) -> tuple[Subject, dict, Path]:
    """A model of a run: its own test images, training data, attacks as published, and undefended model."""
    run, which = runs.open_run(arguments.run, arguments.profile, arguments.seed), arguments.model
    subject, about = of_run(run, which, effort.images, eps=arguments.eps, claim=arguments.claim)
    return subject, about, run.path(f"audit/{which}")
