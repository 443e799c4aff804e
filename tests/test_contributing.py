"""The worked examples of CONTRIBUTING.md, run as they stand there."""
import re
import shutil

import numpy as np
import pytest

from kitlib import attacks, data, models, training
from kitlib.attacks import CATALOGUE
from kitlib.base.places import REPOSITORY
from kitlib.data import settings, sources
from kitlib.experiments import experiment
from kitlib.models import BUILDERS

TEXT = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


REGISTRIES = (CATALOGUE, settings.DEFAULTS, settings.KINDS, sources.READERS, BUILDERS)


@pytest.fixture
def registered():
    """Everything that the Python blocks register, for one test."""
    before = [dict(registry) for registry in REGISTRIES]
    for block in blocks("python"):
        exec(compile(block, "CONTRIBUTING.md", "exec"), {"__name__": "contributed"})
    yield
    for registry, content in zip(REGISTRIES, before, strict=True):
        registry.clear()
        registry.update(content)


def test_each_example_is_under_thirty_lines():
    assert len(blocks("python")) == 3 and len(blocks("yaml")) == 1
    assert all(len(block.splitlines()) < 30 for block in blocks("python") + blocks("yaml"))


def test_the_examples_work_together(registered, tmp_path):
    path = tmp_path / "stripes_fgsm.yaml"
    path.write_text(blocks("yaml")[0])
    given = experiment.load(str(path), "smoke")
    dataset = data.load(given.data, seed=0)
    model = models.build(given.model, dataset.images.shape[1:], len(dataset.class_names), seed=0)
    assert model.output_shape == (None, 2)
    history = training.train(model, dataset, given.defended, tmp_path / "checkpoints", progress=False)
    assert len(history["loss"]) == 1
    images, labels = dataset.part("test")
    result = attacks.run(given.attacks.as_defined["brightness 8/255"], model, images, labels)
    change = result.images - images
    assert np.abs(change).max() == pytest.approx(8 / 255, abs=1e-6)
    assert all((each >= 0).all() or (each <= 0).all() for each in change)   # brighter or darker throughout


def test_an_experiment_without_a_full_profile_leaves_the_papers_alone(registered, tmp_path, monkeypatch):
    before = experiment.of_paper("A")
    folder = shutil.copytree(experiment.EXPERIMENTS, tmp_path / "experiments")
    (folder / "stripes_fgsm.yaml").write_text(blocks("yaml")[0])
    monkeypatch.setattr(experiment, "EXPERIMENTS", folder)
    assert "stripes_fgsm" in experiment.names() and experiment.of_paper("A") == before != []
