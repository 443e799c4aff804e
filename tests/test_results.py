import dataclasses

import numpy as np
import pytest

from kitlib import attacks, evaluation, models
from kitlib.base import files
from kitlib.base.places import REPOSITORY
from kitlib.base.settings import KitError
from kitlib.evaluation import Accuracy, Evaluation
from kitlib.experiments import experiment, results, verdicts
from kitlib.experiments.settings import PaperFigure

FGSM = attacks.read({"name": "fgsm", "eps": "8/255"})


def test_synthetic_data_are_marked_in_the_heading(finished_run):
    found = results.of_run(finished_run)
    assert "SYNTHETIC" not in results.heading(found.model_copy(update={"synthetic": False}))
    assert "(SYNTHETIC data, profile" in results.heading(found.model_copy(update={"synthetic": True}))


def test_accuracy_of_nothing_is_refused():
    with pytest.raises(KitError, match="no images"):
        Accuracy.of(np.array([], bool))


def outcome(predictions, labels, images):
    predictions, labels = np.array(predictions), np.array(labels)
    return attacks.AttackResult(
        attack=FGSM, images=images, labels=labels, predictions=predictions,
        fooled=predictions != labels, found=predictions != labels,
        l2=np.linspace(1, 2, len(labels)), linf=np.full(len(labels), 0.1), seconds=1.0)


def test_a_sweep_begins_at_the_clean_accuracy_and_falls(trained_model, images, labels):
    found = evaluation.sweep(trained_model, images, labels, {"name": "fgsm"}, [0, "8/255", 0.2])
    clean = (models.predict_logits(trained_model, images).argmax(1) == labels).sum()
    assert found[0].correct == clean > found[1].correct > found[2].correct


def test_a_sweep_s_own_epsilon_is_not_used_and_a_targeted_attack_is_no_judge(trained_model, images, labels):
    found = evaluation.sweep(trained_model, images, labels, {"name": "fgsm", "eps": 0.2}, [0])
    assert found[0].correct == (models.predict_logits(trained_model, images).argmax(1) == labels).sum()
    with pytest.raises(KitError, match="'P' is targeted"):
        evaluation.evaluate(trained_model, images, labels, {"P": attacks.PGD(eps=0.1, targeted=True)})


def test_along_a_perturbation_are_both_its_ends_and_a_loss_that_is_cross_entropy(trained_model, images, labels):
    step = attacks.run(attacks.FGSM(eps=0.1), trained_model, images, labels).images - images
    right, losses = evaluation.along(trained_model, images, labels, step, [0, 0.5, 1])
    for row, moved in ((0, images), (2, images + step)):
        logits = models.predict_logits(trained_model, moved).astype(float)
        np.testing.assert_array_equal(right[row], logits.argmax(1) == labels)
        shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        np.testing.assert_allclose(losses[row], -np.log(shares[np.arange(len(labels)), labels]), atol=1e-3)


def measured(correct, count=1000):
    return results.Measured(**Accuracy(correct, count).record())


def model(clean, attack, control):
    def under(value):
        return results.UnderAttack(**measured(value).model_dump(), relative_robustness=1, success_rate=0, mean_l2=None,
                                   max_linf=0, seconds=0, attack="", settings={})

    return results.ModelResults(clean=measured(clean), attacks={"A": under(attack), "C": under(control)},
                                combined=None, worst_case=measured(attack), recall={}, confusion={})


def test_a_flaw_without_its_control_is_refused():
    with pytest.raises(KitError, match="belong together"):
        PaperFigure.read({"id": "x", "paper": 45, "model": "baseline", "attack": "clean", "as_defined": "clean",
                          "flaw": "the clamp"}, "here")


def test_the_verdict_of_one_run_says_what_was_measured_and_that_one_seed_is_too_few():
    figure = PaperFigure(id="x", paper=45, model="baseline", attack="A", as_defined="A", control="C",
                         control_is="flaw alone", flaw="the clamp", rivals={"sign flipped": None})
    entry = results.judge_figure(figure, {"baseline": model(950, 450, 450)}, stands_in=False, paper_images=1000)
    assert entry.verdict == "inconclusive" and entry.paper_images == entry.images == 1000
    assert "+0.0 points [-4.4, +4.4], margin 3, 1 seed" in entry.why
    assert "the clamp (flaw alone): 45.0 %; rivals: sign flipped not tried" in entry.why


def test_older_records_get_verdicts_from_their_numbers(tmp_path):
    record = files.read_json(REPOSITORY / "figures/cifar10_exp2/results.json")
    old = {"id": "experiment 2 FGSM", "paper": 81.72, "control": None, "verdict": "explained", "why": "as it was"}
    files.write_json(tmp_path / "results.json", record | {"paper": [old]})
    found = results.read(tmp_path / "results.json")
    assert [entry.verdict for entry in found.paper] == ["inconclusive"] * 2
    assert found.paper[1].as_published == results.Measured.model_validate(
        {key: record["models"]["defended"]["attacks"]["FGSM eps 1.0"][key] for key in results.Measured.model_fields})


def test_an_attack_that_looks_for_the_nearest_image_is_shown_by_its_distance():
    found = results.read(REPOSITORY / "figures/cifar10_robust/results.json")
    table = results.accuracy_table(found).set_index("under")
    record = found.models["defended"].attacks["C&W L2"]
    assert table.loc["C&W L2", "defended"] == (f"mean L2 distance {record.mean_l2:.2f}, success "
                                               f"{100 * record.success_rate:.0f} % of {record.count}")
    assert "untargeted" in table.index[-1]      # the worst case of a table that holds no targeted attack says so
    turned_none = record.model_copy(update={"mean_l2": None, "success_rate": 0.0})
    model = found.models["defended"].model_copy(update={"attacks": {"C&W L2": turned_none}})
    assert verdicts.cell(results.answer(model, "C&W L2")) == f"none found, success 0 % of {record.count}"


@pytest.mark.parametrize("predicted, one", [([[96, 4], [95, 5]], True), ([[90, 10], [95, 5]], False),
                                            ([[97, 3], [0, 0]], False)])
def test_a_model_of_one_answer_is_seen(predicted, one):
    found = model(950, 450, 450).model_copy(update={"confusion": {"A": predicted}})
    assert results._one_answer(found, "A", ()) == results._one_answer(found, "combined", ["A"]) == one


def test_stand_in_data_give_no_verdict():
    figure = PaperFigure(id="x", paper=95, model="baseline", attack="clean", as_defined="clean")
    entry = results.judge_figure(figure, {"baseline": model(950, 0, 0)}, stands_in=True)
    assert entry.verdict is None and entry.difference is None


def test_markdown_tables_escape_their_bars():
    import pandas as pd

    assert results.as_markdown(pd.DataFrame({"a": ["x|y"]})) == "| a |\n| --- |\n| x\\|y |\n"
    assert results.as_markdown(pd.DataFrame({"a|b": ["two\nlines\n"]})) == "| a\\|b |\n| --- |\n| two lines |\n"
    numbers = results.as_markdown(pd.DataFrame({"a": [97.90909, 20.0, 0.000123456, 123456.7, np.nan]}))
    assert numbers.splitlines()[2:] == ["| 97.91 |", "| 20 |", "| 0.0001235 |", "| 123457 |", "|  |"]


def test_a_record_that_breaks_the_schema_is_refused(tmp_path):
    (tmp_path / "results.json").write_text('{"schema_version": 3}')
    with pytest.raises(KitError, match="results.json: .*schema_version"):
        results.read(tmp_path / "results.json")
    (tmp_path / "results.json").write_text('{"schema_version": 1}')
    with pytest.raises(KitError, match="schema_version 1, whose worst case meant something else: run notebook 05"):
        results.read(tmp_path / "results.json")


@pytest.mark.parametrize("stale", [
    lambda then: then | {"baseline": then["baseline"] | {"epochs": 99}},
    lambda then: then | {"baseline": then["baseline"] | {"a_setting_of_another_version": 1}},
    lambda then: then | {"paper_figures": []},
], ids=["settings", "unknown", "figures"])
def test_results_of_a_run_are_those_of_its_settings(finished_run, tmp_path, stale):
    run = dataclasses.replace(finished_run, folder=tmp_path)
    with pytest.raises(KitError, match="run notebook 05_evaluation.ipynb first"):
        results.of_run(run)
    record = files.read_json(finished_run.path("results.json"))
    files.write_json(run.path("results.json"), record)
    assert results.of_run(run) == results.read(run.path("results.json"))
    files.write_json(run.path("results.json"), record | {"experiment": stale(record["experiment"])})
    with pytest.raises(KitError, match="results.json belongs to other settings than experiment 'digits_fgsm' has now"):
        results.of_run(run)


def test_results_from_before_a_setting_existed_still_count(finished_run, tmp_path):
    run = dataclasses.replace(finished_run, folder=tmp_path)
    record = files.read_json(finished_run.path("results.json"))
    del record["experiment"]["baseline"]["label_smoothing"]
    files.write_json(run.path("results.json"), record | {"fingerprint": "that of another version"})
    assert results.of_run(run).models == results.of_run(finished_run).models


def test_the_worst_case_is_taken_over_the_attacks_up_to_the_headline_alone():
    known = experiment.load("digits_fgsm", "demo")
    labels, images = np.array([0, 0, 1, 1]), np.zeros((4, 2, 2, 1), np.float32)
    inside = known.attacks.within(known.evaluation.headline)
    attacked = {name: outcome(labels if name in inside else 1 - labels, labels, images) for name in known.attacks.all()}
    attacked[known.evaluation.headline] = outcome([0, 1, 1, 1], labels, images)
    found = results.model_results(Evaluation(labels, labels, attacked), known, ("a", "b"))
    assert found.worst_case.correct == 3 and found.combined.correct == 0


@pytest.mark.parametrize("change, message", [
    ({"images": 2.0}, "pixels must lie in"), ({"labels": (-1, 1)}, "labels must have the shape")])
def test_what_is_judged_without_attack_is_checked_too(trained_model, images, labels, change, message):
    given = images * np.float32(change.get("images", 1)), labels.reshape(change.get("labels", -1))
    with pytest.raises(KitError, match=message):
        evaluation.evaluate(trained_model, *given, {})


def test_nothing_is_relative_to_nothing(trained_model, images, labels):
    wrong = (models.predict_logits(trained_model, images).argmax(1) + 1) % 10
    found = evaluation.evaluate(trained_model, images, wrong, {"clean": attacks.Clean()})
    assert found.clean.correct == 0 and found.scores("clean")["relative_robustness"] is None


def test_an_attack_with_a_limit_is_made_on_so_many_images(trained_model, images, labels):
    suite = {"all": attacks.Clean(), "some": attacks.Clean()}
    found = evaluation.evaluate(trained_model, images, labels, suite, limits={"some": 20})
    assert (found.under("all").count, found.under("some").count) == (len(labels), 20)
