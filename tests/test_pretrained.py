"""Models in figures/: kept as float16, loaded by name, and put into a run in place of a training."""
import argparse
import shutil

import numpy as np
import pytest
from tiny_run import SMALL, copy_of

from kitlib import models
from kitlib.base.files import read_arrays, read_json, sha256, write_arrays, write_json
from kitlib.base.places import REPOSITORY
from kitlib.base.settings import KitError
from kitlib.experiments import commands, pretrained, publication, results, runs

NAMES = ["digits_fgsm/baseline", "digits_fgsm/defended"]


@pytest.fixture
def run(finished_run, monkeypatch):
    monkeypatch.setenv("KITLIB_RUNS", str(finished_run.folder.parents[2]))
    return finished_run


@pytest.fixture(scope="module")
def published(finished_run, tmp_path_factory):
    figures = tmp_path_factory.mktemp("figures")
    assert publication.publish(finished_run, figures).left_out == {}
    return figures


@pytest.fixture
def figures(published, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(published, tmp_path / "figures")


def change_record(figures, **changes):
    path = figures / "digits_fgsm/models/models.json"
    write_json(path, read_json(path) | changes)


def test_a_model_comes_back_as_it_was_but_for_the_rounding(run, published):
    images, labels = run.dataset().part("test")
    for name in NAMES:
        kept, trained = pretrained.load(name, published), run.model(name.split("/")[1])
        assert all(weight.dtype == np.float32 for weight in kept.get_weights())
        before, after = (models.predict_logits(model, images) for model in (trained, kept))
        assert 0 < np.abs(after - before).max() < 0.05 * np.abs(before).max()
        right = [(logits.argmax(1) == labels).mean() for logits in (before, after)]
        assert right[0] > 0.7 and abs(right[0] - right[1]) <= 0.005


def test_it_says_what_a_model_is(run, published):
    assert pretrained.names(published) == NAMES
    record = results.read(run.path("results.json")).models["defended"]
    said = pretrained.about("digits_fgsm/defended", published)
    for part in ("even_deeper_cnn", "training fgsm", "profile demo, seed 0", "real handwritten digits", "float16",
                 f"{100 * record.clean.accuracy:.1f} % of 60 clean",
                 f"{100 * record.worst_case.accuracy:.1f} % of 60 in the worst case",
                 sha256(published / "digits_fgsm/models/defended.npz")):
        assert part in said
    table = pretrained.table(published)
    assert list(table["model"]) == NAMES and list(table["training"]) == ["plain", "fgsm"]


def test_unknown_names_get_a_suggestion(published, tmp_path):
    with pytest.raises(KitError, match="no pretrained model 'digits_fgsm/defnded'; did you mean 'digits_fgsm/defended"):
        pretrained.load("digits_fgsm/defnded", published)
    with pytest.raises(KitError, match="no pretrained model '../digits_fgsm'"):
        pretrained.about("../digits_fgsm", published)
    with pytest.raises(KitError, match="holds no pretrained models: `python -m kitlib publish"):
        pretrained.load("digits_fgsm/baseline", tmp_path)


def test_a_file_with_another_hash_is_refused(run, figures):
    path = figures / "digits_fgsm/models/baseline.npz"
    content = bytearray(path.read_bytes())
    content[-2000] ^= 1
    path.write_bytes(content)
    with pytest.raises(KitError, match="baseline.npz is missing or not the file.*SHA-256 differs.*git checkout"):
        pretrained.load("digits_fgsm/baseline", figures)
    with pytest.raises(KitError, match="SHA-256 differs"):
        pretrained.place("digits_fgsm", SMALL | {"evaluation": {"images": 9}}, figures)
    path.unlink()
    with pytest.raises(KitError, match="baseline.npz is missing"):
        pretrained.load("digits_fgsm/baseline", figures)
    change_record(figures, models={"baseline": {}})
    with pytest.raises(KitError, match="models.json: 'models.baseline.sha256' is missing"):
        pretrained.names(figures)


def test_weights_that_do_not_fit_their_network_are_refused(figures):
    folder = figures / "digits_fgsm/models"
    arrays = read_arrays(folder / "baseline.npz")
    write_arrays(folder / "baseline.npz", **arrays | {"000": arrays["000"][:2]})
    content = read_json(folder / "models.json")["models"]
    content["baseline"]["sha256"] = sha256(folder / "baseline.npz")
    change_record(figures, models=content)
    with pytest.raises(KitError, match="holds no model of this version of Keras .ValueError"):
        pretrained.load("digits_fgsm/baseline", figures)


def test_placed_models_stand_in_for_their_training_and_say_so(run, published):
    fewer = SMALL | {"evaluation": {"images": 10}}
    placed = pretrained.place("digits_fgsm", fewer, published)
    assert placed.folder == runs.open_run("digits_fgsm", "demo", 0, fewer).folder != run.folder
    there, kept = placed.model("defended"), pretrained.load("digits_fgsm/defended", published)
    assert all(map(np.array_equal, there.get_weights(), kept.get_weights()))
    record = placed.read_record("defended")
    assert record["precision"] == "float32, weights kept as float16" and record["seconds"] == 1
    assert record["pretrained"]["name"] == "digits_fgsm/defended" and record["pretrained"]["weights"] == "float16"
    pretrained.place("digits_fgsm", fewer, published)  # a second time changes nothing

    placed.write_record("defended", {"precision": "float32", "seconds": 1})  # as notebook 04 does after a training
    with pytest.raises(KitError, match="was trained in this run: nothing is put in its place"):
        pretrained.place("digits_fgsm", fewer, published)


def test_models_from_before_a_setting_existed_are_placed_those_of_an_unknown_one_are_not(run, figures):
    path, = figures.glob("*/models/models.json")
    record, fewer = read_json(path), SMALL | {"evaluation": {"images": 9}}
    made = [kept["made_of"]["training"] for kept in record["models"].values()]
    for training in made:
        del training["label_smoothing"]
    write_json(path, record)
    assert pretrained.place("digits_fgsm", fewer, figures).model("defended")
    made[0]["a_setting_of_another_version"] = 1
    write_json(path, record)
    with pytest.raises(KitError, match="other settings .data, model or training."):
        pretrained.place("digits_fgsm", fewer, figures)


def test_models_are_not_used_with_another_copy_of_their_data(run, published):
    placed = pretrained.place("digits_fgsm", SMALL | {"evaluation": {"images": 8}}, published)
    report = run.dataset().report()
    placed.write_record("data", {"report": report})
    assert placed.model("baseline")
    placed.write_record("data", {"report": report | {"identity": "of pictures that were added"}})
    with pytest.raises(KitError, match="the repository's model does not suit them"):
        placed.model("baseline")


def test_models_are_not_placed_where_they_do_not_belong(run, published):
    with pytest.raises(KitError, match="baseline.keras was trained in this run"):
        pretrained.place("digits_fgsm", SMALL, published)
    with pytest.raises(KitError, match="other settings .data, model or training."):
        pretrained.place("digits_fgsm", SMALL | {"baseline": {"epochs": 3}}, published)
    with pytest.raises(KitError, match="no experiment with pretrained models 'phantom_ct'"):
        pretrained.place("phantom_ct", None, published)


def test_a_model_that_a_kill_left_without_a_record_is_replaced(run, published):
    overrides = SMALL | {"evaluation": SMALL.get("evaluation", {}) | {"sweep": [0]}}
    placed = pretrained.place("digits_fgsm", overrides, published)
    placed.path("records/baseline.json").unlink()
    assert pretrained.is_pretrained(pretrained.place("digits_fgsm", overrides, published), "baseline")


def test_results_of_placed_models_are_not_published(run, tmp_path):
    copy = copy_of(run, tmp_path / "run")
    write_json(copy.path("records/baseline.json"), run.read_record("baseline") | {"pretrained": {}})
    with pytest.raises(KitError, match="baseline model of .* was taken from the repository"):
        publication.publish(copy, tmp_path / "figures")


@pytest.mark.parametrize("limit", ["LARGEST", "IN_ALL"])
def test_a_model_that_is_too_large_is_left_out_and_said(run, tmp_path, monkeypatch, limit):
    one = sum(weight.size for weight in run.model("baseline").get_weights()) * 2
    monkeypatch.setattr(pretrained, limit, {"LARGEST": one // 2, "IN_ALL": int(1.8 * one)}[limit])
    left_out = publication.publish(run, tmp_path).left_out
    assert list(left_out) == {"LARGEST": ["baseline", "defended"], "IN_ALL": ["defended"]}[limit]
    assert "MB in float16" in left_out["defended"]
    assert [path.stem for path in tmp_path.rglob("*.npz")] == ([] if limit == "LARGEST" else ["baseline"])


def test_alike_models_of_several_experiments_count_once(tmp_path):
    for name, content in {"one": b"alike", "other": b"alike", "third": b"different"}.items():
        (tmp_path / name / "models").mkdir(parents=True)
        (tmp_path / name / "models/baseline.npz").write_bytes(content)
    assert pretrained.size_of(tmp_path) == len(b"alike" + b"different")
    assert pretrained.size_of(tmp_path, without="one") == len(b"alike" + b"different")
    assert pretrained.size_of(tmp_path, without="third") == len(b"alike")


def test_a_model_other_than_the_judged_one_is_left_out(run, tmp_path):
    changed = copy_of(run, tmp_path / "run")
    model = run.model("baseline")
    model.set_weights([0 * weight for weight in model.get_weights()])
    changed.save_model("baseline", model)
    model.set_weights([weight + 1e6 for weight in model.get_weights()])
    changed.save_model("defended", model)
    left_out = publication.publish(changed, tmp_path / "figures").left_out
    assert "another answer than results.json says" in left_out["baseline"]
    assert "too large for float16" in left_out["defended"]
    assert not list((tmp_path / "figures").rglob("models/*"))


def test_the_command_lists_models_and_says_how_to_go_on(run, published, monkeypatch, capsys):
    changes = "{evaluation: {images: 8}, model: {options: {widths: [8, 8, 16, 16], dense: [32], dropout: 0.0}}, " \
              "data: {size: 16}}"
    for name, function in {name: getattr(pretrained, name) for name in ("table", "collections")}.items():
        monkeypatch.setattr(pretrained, name, lambda figures=published, function=function: function(figures))
    for name, function in {name: getattr(pretrained, name) for name in ("place", "about")}.items():
        monkeypatch.setattr(pretrained, name, lambda *given, function=function: function(*given, figures=published))
    commands.pretrained(argparse.Namespace(experiment=None))
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["model", *NAMES]
    commands.pretrained(argparse.Namespace(experiment="digits_fgsm", overrides=changes))
    said = capsys.readouterr().out
    assert f"-p experiment digits_fgsm -p profile demo -p seed 0 -p overrides '{changes}'" in said
    assert runs.open_run("digits_fgsm", "demo", 0, changes).path("models/defended.keras").exists()


def test_what_the_repository_keeps_is_small_and_loads():
    assert pretrained.size_of(REPOSITORY / "figures") <= 40 * 2**20
    for name in pretrained.names():
        found = pretrained.collections()[name.split("/")[0]]
        assert pretrained.load(name).output_shape[-1] == len(found.class_names)
