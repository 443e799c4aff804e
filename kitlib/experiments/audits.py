"""A model of one of the kit's runs as the subject of an audit."""
from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from kitlib.attacks.base import Norm
from kitlib.audit.request import Asked
from kitlib.audit.subject import Subject
from kitlib.base.files import sha256
from kitlib.base.settings import Epsilon
from kitlib.experiments import pretrained, results, runs
from kitlib.experiments.runs import Run
from kitlib.experiments.settings import threat_of
from kitlib.models.reading import prepare


def of_run(run: Run, which: str = "defended", images: int = 1000, eps: float | None = None,
           claim: float | None = None, norm: Norm = "linf") -> tuple[Subject, dict]:
    """The subject, and what the record says of it in words (`model`, `model_sha256`, `data`, `class_order`,
    `synthetic`).

    which: "baseline" or "defended". eps: default that of the experiment's headline attack. claim: default, for a
    defended model, its accuracy under the attacks as published. The claim's own attacks are those; the undefended
    model of a defended one is the baseline. Raises KitError where a notebook has to be run first.
    """
    experiment, dataset, record = run.experiment, run.dataset(), run.read_record(which)
    pixels, labels = dataset.part("test", images, seed=0)
    if claim is None and which == "defended":
        claim = published_claim(run)
    history = record.get("history", {})
    kept = history.get("kept", [])
    subject = Subject(
        target=prepare(run.model(which), pixels[:16], input_range=(0.0, 1.0)),
        images=pixels, labels=labels, class_names=dataset.class_names,
        eps=threat_of(experiment.attacks.as_defined, experiment.evaluation.headline).eps if eps is None else eps,
        claim=claim, norm=norm,
        own_attacks=experiment.attacks.as_published,
        undefended=run.model("baseline") if which == "defended" else None,
        train_images=dataset.images[dataset.split["train"]], train_labels=dataset.labels_of("train"),
        robust_history=tuple(history.get("robust_accuracy", ())),
        kept_epoch=int(np.argmax(kept)) if any(kept) else None)
    order = "as the experiment trained it: " + ", ".join(f"{n} = {name}" for n, name in enumerate(dataset.class_names))
    name = f"{which} model of {experiment.name}, profile {run.profile}, seed {run.seed}"
    return subject, {"model": name, "model_sha256": sha256(run.path(f"models/{which}.keras")), "data": dataset.source,
                     "class_order": order, "synthetic": dataset.synthetic}


def published_claim(run: Run) -> float | None:
    """What the defended model gets under the attacks as published: the robust accuracy that the paper's protocol
    claims for it. None where the experiment has no such attacks.

    Of a model that was taken from the repository, and not judged since, as its publisher measured it.
    """
    if pretrained.is_pretrained(run, "defended") and not run.path("results.json").exists():
        combined = pretrained.kept(f"{run.experiment.name}/defended").as_published
    else:
        combined = results.of_run(run).models["defended"].combined
    return combined.accuracy if combined else None


class RunRequest(Asked):
    """An audit of a model of a run: its own test images, training data, attacks as published, and undefended model.
    eps: None for that of the experiment's headline attack."""

    run: str
    profile: str = "demo"
    model: Literal["baseline", "defended"] = "defended"
    eps: Epsilon | None = None


def subject_of(asked: RunRequest) -> tuple[Subject, dict, Path]:
    """The subject, what the record says of it (arguments of `audit.run`), and the folder for the report."""
    run = runs.open_run(asked.run, asked.profile, asked.seed)
    subject, about = of_run(run, asked.model, asked.effort.images, eps=asked.eps, claim=asked.claim, norm=asked.norm)
    return subject, about, run.path(f"audit/{asked.model}")
