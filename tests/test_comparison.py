"""Compared models: resolved, trained once, judged once, by attacks that know them."""
import dataclasses

import numpy as np
import pytest

from kitlib import attacks, data, models, training
from kitlib.base.settings import KitError
from kitlib.experiments import comparison, experiment, results, runs

# Few and small: a baseline, one that is trained on it, two defences in front of it.
OVERRIDES = {
    "model": {"options": {"widths": [4, 8], "dense": [], "dropout": 0.0}},
    "data": {"size": 16, "limits": {"train": 600, "validation": 50, "test": 60}},
    "baseline": {"epochs": 6, "learning_rate": 0.01, "robust_check": None, "augmentation": {"rotation": 0}},
    "comparison": {"images": 40, "samples": 3, "attacks": {
        "FGSM 32/255": None, "PGD 32/255": {"steps": 4, "restarts": 1}, "APGD margin 32/255": None,
        "Square 32/255": {"steps": 5},
        "C&W": {"name": "cw_l2", "steps": 10, "search_steps": 2, "constant": 1.0, "learning_rate": 0.05},
    }},
    "compared_models": {
        "fgsm_paper": None, "fgsm_rs": None, "teacher": {"training": {"temperature": 20}, "why": "a test"},
        "distilled": {"training": {"method": "distilled", "temperature": 20}, "of": "teacher", "why": "a test"},
        "random_resize": {"preprocessing": {"draws": 3}},
    },
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with its data and its baseline, as notebooks 01 and 02 leave it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KITLIB_RUNS", str(tmp_path_factory.mktemp("runs")))
        run = runs.open_run("digits_fgsm", "smoke", 0, OVERRIDES)
        dataset = data.load(run.experiment.data, seed=0)
        dataset.save(run.path("prepared.npz"))
        run.write_record("data", {"report": {}})
        settings = run.experiment
        model = models.build(settings.model, dataset.images.shape[1:], len(dataset.class_names), seed=0)
        history = training.train(model, dataset, settings.baseline, run.checkpoints, progress=False)
        run.save_model("baseline", model)
        run.write_record("baseline", {"seconds": sum(history["seconds"])})
        yield run


@pytest.fixture(scope="module")
def dataset(run):
    return run.dataset()


@pytest.fixture(scope="module")
def comparison_data(run, dataset):
    return comparison.comparison_data(run, dataset)


@pytest.fixture(scope="module")
def records(run, dataset, comparison_data):
    return {name: comparison.judged(run, dataset, name, comparison_data, progress=False)
            for name in run.experiment.compared_models}


def digits(compared_models=None, profile="demo", **overrides):
    return experiment.load("digits_fgsm", profile, {"compared_models": compared_models or {}, **overrides})


def test_a_compared_model_is_the_experiment_s_own_but_for_what_it_says():
    loaded = digits({"mine": {"model": {"options": {"dropout": 0.1}}, "training": {"epochs": 3}, "why": "a test"}})
    mine = loaded.compared_models["mine"]
    assert mine.training == loaded.baseline.model_copy(update={"epochs": 3})
    assert mine.model.options == loaded.model.options | {"dropout": 0.1}
    assert mine.model.normalisation == loaded.model.normalisation
    another = digits({"mine": {"model": {"name": "small_resnet"}, "why": "a test"}}).compared_models["mine"]
    assert another.model.options == {} and another.training == loaded.baseline      # its own options


def test_null_leaves_a_compared_model_or_an_attack_out():
    loaded = digits({"fgsm_rs": None}, comparison={"attacks": {"FGSM 32/255": None}})
    assert "fgsm_rs" not in loaded.compared_models and "FGSM 32/255" not in loaded.comparison.attacks
    assert "plain" in loaded.compared_models


WHY = {"why": "a test"}


@pytest.mark.parametrize("compared_models, message", [
    ({"mine": {}}, "'compared_models.mine.why' is missing"),
    ({"mine": WHY}, "say what it is"),
    ({"mine": {"of": "nobody", **WHY}},
     "compared model 'mine' is of 'nobody', which is no trained model named before it"),
    ({"mine": {"of": "plain", **WHY}}, "compared model 'mine' is of 'plain'"),
    ({"my model": {"of": "baseline", **WHY}}, "compared model 'my model': a name is of a-z, 0-9 and _"),
    ({"baseline": {"of": "baseline", **WHY}}, "compared model 'baseline'"),
    ({"mine": {"training": {"epochs": 0}, **WHY}}, "'compared_models.mine.training.epochs'"),
    ({"mine": {"training": {"epochz": 1}, **WHY}}, "epochz"),
    ({"mine": {"preprocessing": "jpgg", "of": "baseline", **WHY}}, "there is no defence 'jpgg'; did you mean 'jpeg'"),
    ({"mine": {"preprocessing": "jpeg", "training": {"epochs": 1}, "of": "baseline", **WHY}},
     "train one compared model"),
    ({"mine": {"training": {"method": "distilled"}, **WHY}}, "`of` where its method is distilled or static"),
    ({"mine": {"training": {"epochs": 2}, "of": "baseline", **WHY}}, "`of` where its method is distilled or static"),
])
def test_impossible_compared_models_are_refused(compared_models, message):
    with pytest.raises(KitError, match=message):
        digits(compared_models)


def test_the_comparison_fits_together():
    with pytest.raises(KitError, match="headline must be an attack with an eps, not 'PGD 9'; known: APGD"):
        digits(comparison={"headline": "PGD 9"})
    with pytest.raises(KitError, match="compared_models need a `comparison`"):
        digits(comparison=None)


def test_the_worst_case_of_the_comparison_leaves_out_other_threat_models():
    further = {"FGSM 64/255": {"name": "fgsm", "eps": "64/255"}, "FGSM L2": {"name": "fgsm", "eps": 1.0, "norm": "l2"},
               "FGSM 8/255": {"name": "fgsm", "eps": "8/255"}}
    before, loaded = digits().comparison, digits(comparison={"attacks": further}).comparison
    assert set(loaded.attacks) == set(before.attacks) | set(further)
    assert set(loaded.within()) == set(before.within()) | {"FGSM 8/255"}


def test_a_mistake_in_the_baseline_is_told_once():
    with pytest.raises(KitError) as caught:
        digits(baseline={"epochs": 0})
    assert "'baseline.epochs'" in str(caught.value) and "compared_models" not in str(caught.value)


def test_only_what_is_trained_is_made_of_something():
    run = runs.open_run("digits_fgsm", "demo", 0)
    assert run.made_of("distilled")["baseline"] == run.made_of("teacher")
    for name in ("plain", "bit_depth", "fgsm_r"):
        with pytest.raises(KitError, match=f"there is no trained compared model '{name}'"):
            run.made_of(name)


def test_compared_models_do_not_touch_the_records_of_the_pipeline():
    def fingerprint(**overrides):
        return runs.open_run("digits_fgsm", "demo", 0, overrides).fingerprint

    assert fingerprint(compared_models={"fgsm_rs": None}, comparison={"images": 7}) == fingerprint()


def test_judgements_count_the_same_images_and_the_worst_case_is_the_worst(records, run):
    within = run.experiment.comparison.within()
    for record in records.values():
        parts = [record["naive"], *(record["attacks"][name] for name in within)]
        assert {part["count"] for part in [record["clean"], record["carried_over"], *parts]} == {40}
        assert record["worst_case"]["correct"] <= min(part["correct"] for part in parts)
        assert record["worst_case"]["interval"][0] <= record["worst_case"]["accuracy"]
        assert record["inference"]["seconds"] > 0


def test_the_baseline_as_a_compared_model_is_the_baseline(records, run, comparison_data):
    plain, headline = records["plain"], run.experiment.comparison.headline
    assert plain["naive"]["correct"] == plain["attacks"][headline]["correct"]
    assert plain["clean"]["accuracy"] == np.mean(
        models.predict_logits(comparison_data.baseline, comparison_data.images).argmax(1) == comparison_data.labels)
    assert plain["training"]["times_plain"] == 1 and plain["clean"]["accuracy"] > 0.5


def test_knowing_the_defence_helps(records, run):
    headline = run.experiment.comparison.headline
    grey_levels = records["bit_depth"]
    assert grey_levels["attacks"][headline]["correct"] < grey_levels["naive"]["correct"]
    assert records["random_resize"]["attacks"][headline]["correct"] <= records["random_resize"]["naive"]["correct"]


def test_what_training_cost_includes_what_it_builds_on(records, run, dataset, monkeypatch):
    monkeypatch.setenv("KITLIB_RUNS", str(run.folder.parents[2]))      # where the records' trainings are kept
    seconds = {name: comparison.trained(run, dataset, name, progress=False)[1] for name in ("teacher", "distilled")}
    assert records["distilled"]["training"]["seconds"] == seconds["distilled"] > seconds["teacher"] > 0
    assert records["bit_depth"]["training"]["times_plain"] == 1
    assert run.path("models/compared_models/distilled.keras").exists()
    assert runs.read_json(run.path("records/compared_models/distilled.json"))["seconds"] == seconds["distilled"]


class JudgedAnewError(Exception):
    """In place of a judgement."""


@pytest.fixture
def no_judgement(monkeypatch):
    def candidate(*_):
        raise JudgedAnewError

    monkeypatch.setattr(comparison, "candidate", candidate)


def test_a_stopped_comparison_goes_on_where_it_was(records, run, dataset, comparison_data, no_judgement):
    assert comparison.judged(run, dataset, "plain", comparison_data, progress=False) == records["plain"]
    run.path("records/judged/bit_depth.json").rename(run.path("records/judged/aside.json"))
    with pytest.raises(JudgedAnewError):
        comparison.judged(run, dataset, "bit_depth", comparison_data, progress=False)
    assert not run.path("records/judged/bit_depth.json").exists()
    run.path("records/judged/aside.json").rename(run.path("records/judged/bit_depth.json"))


@pytest.mark.parametrize("change", [{"images": 39}, {"samples": 4}])
def test_another_comparison_is_judged_anew(records, run, dataset, comparison_data, no_judgement, change):
    changed = run.experiment.comparison.model_copy(update=change)
    other = dataclasses.replace(run, experiment=run.experiment.model_copy(update={"comparison": changed}))
    with pytest.raises(JudgedAnewError):
        comparison.judged(other, dataset, "plain", comparison_data, progress=False)


def test_another_model_is_judged_anew(records, run, dataset, comparison_data, no_judgement):
    before = run.path("models/baseline.keras").read_bytes()
    model = run.model("baseline")
    model.set_weights([0 * weight for weight in model.get_weights()])
    run.save_model("baseline", model)
    for name in ("plain", "bit_depth", "distilled"):    # the baseline's images are shown to all
        with pytest.raises(JudgedAnewError):
            comparison.judged(run, dataset, name, comparison_data, progress=False)
    run.path("models/baseline.keras").write_bytes(before)
    assert comparison.judged(run, dataset, "plain", comparison_data, progress=False) == records["plain"]


def test_a_randomised_defence_is_judged_by_its_own_answer(run, dataset, comparison_data):
    found = comparison.candidate(run, dataset, "random_resize", progress=False)
    suite = {"PGD": attacks.read({"name": "pgd", "eps": "32/255", "steps": 3, "stop_early": True})}
    evaluation = comparison.judge(found, comparison_data.images, comparison_data.labels, suite)
    answers = models.predict_logits(found.judged, evaluation.attacked["PGD"].images).argmax(1)
    assert found.randomised and not evaluation.attacked["PGD"].attack.stop_early
    assert evaluation.attacked["PGD"].attack.keep == "last"     # the best of many steps had the luckiest draws
    np.testing.assert_array_equal(evaluation.attacked["PGD"].predictions, answers)
    clean = models.predict_logits(found.judged, comparison_data.images).argmax(1)
    np.testing.assert_array_equal(evaluation.clean_predictions, clean)


def test_the_transfer_matrix(run, dataset, comparison_data):
    names = ("plain", "teacher", "bit_depth")
    candidates = {name: comparison.candidate(run, dataset, name, progress=False) for name in names}
    attack = run.experiment.comparison.attacks[run.experiment.comparison.headline]
    given = comparison_data.images, comparison_data.labels
    matrix = comparison.transfer_matrix(candidates, attack, *given, seed=run.seed)
    assert list(matrix) == ["clean", *names] and all(list(row) == list(names) for row in matrix.values())
    whole = attack.model_copy(update={"stop_early": False})
    made = attacks.run(whole, candidates["plain"].attacked, *given, seed=run.seed)
    right = models.predict_logits(candidates["teacher"].judged, made.images).argmax(1) == comparison_data.labels
    assert matrix["plain"]["teacher"].correct == right.sum() and matrix["plain"]["teacher"].count == 40
    assert matrix["plain"]["plain"].correct == (~made.fooled).sum() < matrix["clean"]["plain"].correct


def test_the_table_shows_every_compared_model(records, run):
    table = results.comparison_table(records, run.experiment.comparison)
    assert list(table["compared_model"]) == list(records) and not table.isna().any().any()
    plain = table.set_index("compared_model").loc["plain"]
    assert plain["clean"].startswith(f"{100 * records['plain']['clean']['accuracy']:.1f} [")
    assert plain["training"] == "1.0 x" and "C&W: distance (success)" in table.columns


def test_an_experiment_without_compared_models_says_so(run, dataset):
    settings = run.experiment.model_copy(update={"comparison": None, "compared_models": {}})
    with pytest.raises(KitError, match="has no `comparison`"):
        comparison.comparison_data(dataclasses.replace(run, experiment=settings), dataset)
    with pytest.raises(KitError, match="there is no compared model 'nobody'"):
        comparison.trained(run, dataset, "nobody", progress=False)


def test_what_is_carried_over_are_the_baseline_s_adversarial_images(records, comparison_data):
    said = models.predict_logits(comparison_data.baseline, comparison_data.carried_over).argmax(1)
    right = said == comparison_data.labels
    assert records["plain"]["carried_over"]["correct"] == right.sum() < records["plain"]["clean"]["correct"]


def test_the_worst_case_of_a_compared_model_ends_at_the_headline(records, run, dataset, comparison_data):
    chosen = run.experiment.comparison
    judged = comparison.judge(comparison.candidate(run, dataset, "plain", progress=False), comparison_data.images,
                              comparison_data.labels, chosen.attacks, seed=run.seed,
                              batch_size=run.experiment.evaluation.batch_size)
    worst, of_all = (judged.worst(list(names)).correct for names in (chosen.within(), judged.attacked))
    assert records["plain"]["worst_case"]["correct"] == worst > of_all
