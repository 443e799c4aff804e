"""The audit's time, its resume after a kill, its record, and the L2 threat model, on networks of one layer."""
import dataclasses
import json
import types

import keras
import numpy as np
import pytest
from keras import layers

from kitlib import audit, models
from kitlib.audit import budget, judged, measure, proof
from kitlib.audit import report as pages
from kitlib.base.places import REPOSITORY
from kitlib.base.settings import KitError
from kitlib.evaluation import Accuracy, Measured

FEW = audit.Effort(images=40, steps=6, apgd_steps=6, queries=40, targets=2, cw_images=4, cw_searches=3, cw_steps=10,
                   first_queries=10, first_images=8, sweep_images=20)


def linear(scale=1.0):
    keras.utils.set_random_seed(0)
    pixels = keras.Input((8, 8, 1))
    x = layers.Dense(10)(layers.Flatten()(layers.Rescaling(2.0, -1.0)(pixels)))
    return keras.Model(pixels, x if scale == 1 else x * scale)


def subject(count=40, model=None, **fields):
    images = np.random.default_rng(0).random((count, 8, 8, 1)).astype(np.float32)
    model = model or linear()
    labels = models.predict_logits(model, images).argmax(1)
    return audit.Subject(audit.prepare(model, images), images, labels, tuple("0123456789"), **{"eps": 0.02} | fields)


@pytest.fixture(scope="module")
def told():
    """(the audit, what it said while it ran, the measurements of its plan that began)."""
    lines, begun, plan = [], set(), audit.plan(subject(), FEW)
    begin, plan.begin = plan.begin, lambda name: (begun.add(name), begin(name))[1]
    found = audit.run(audit.Measurements(subject(), FEW, say=lines.append, plan=plan), model="linear", data="noise")
    return found, lines, begun


@pytest.fixture(scope="module")
def found(told):
    return told[0]


# --- the time

PACE = budget.Pace(forward=0.001, gradient=0.003, compiling=0.1)


def planned(monkeypatch, minutes, pace=PACE, **fields):
    monkeypatch.setattr(budget, "pace_of", lambda subject: pace)
    return audit.plan(subject(count=1000, **fields), audit.FULL, minutes)


@pytest.mark.parametrize("minutes", [1.0, 2.0, 5.0, 20.0])
def test_an_audit_is_cut_to_fit_its_minutes(monkeypatch, minutes):
    whole, cut = planned(monkeypatch, None), planned(monkeypatch, minutes)
    assert whole.effort == audit.FULL and whole.cut == () and "about" in str(whole)
    assert cut.seconds <= 60 * minutes * budget.SPARE and len(cut.subject.images) == cut.effort.images
    assert bool(cut.cut) == (whole.seconds > 60 * minutes * budget.SPARE)
    assert all(getattr(cut.effort, name) <= getattr(audit.FULL, name) for name in type(audit.FULL).model_fields)
    assert all(name in str(cut) for name in cut.cut)


def test_a_killed_audit_keeps_the_cuts_that_it_had(monkeypatch, tmp_path):
    monkeypatch.setattr(budget, "pace_of", lambda subject: PACE)
    asked = subject(count=1000)
    first = audit.plan(asked, audit.FULL, 2.0, audit.Resume(tmp_path, "one"))
    monkeypatch.setattr(budget, "pace_of", lambda subject: budget.Pace(0.02, 0.06, 2.0))     # a busy machine
    again = audit.plan(asked, audit.FULL, 2.0, audit.Resume(tmp_path, "one"))
    assert first.cut and again.effort == first.effort and again.seconds > first.seconds
    assert audit.plan(asked, audit.FULL, 4.0, audit.Resume(tmp_path, "one")).effort != first.effort


def test_the_more_minutes_the_more_is_done(monkeypatch):
    sizes = [planned(monkeypatch, minutes).seconds for minutes in (1, 2, 4, 8, 16, 32)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]


def test_what_is_expected_grows_with_what_is_asked():
    few, many = (budget.expected(audit.FULL, subject(count=count), PACE) for count in (100, 1000))
    assert sum(many.values()) > 3 * sum(few.values())
    slow = budget.expected(audit.FULL, subject(count=100), budget.Pace(0.001, 0.006, 0.1))
    assert slow["PGD"] == pytest.approx(2 * few["PGD"]) and slow["Square"] == few["Square"]


def test_time_left_follows_what_the_first_attacks_took(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(budget, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))
    slow = budget.Plan(None, FEW, {"one": 10.0, "two": 20.0, "three": 30.0}, PACE, minutes=10)
    assert slow.begin("one") == "about 60 s left"
    now[0] = 20.0                       # twice as long as it was thought
    assert slow.begin("two") == "about 2 min left" and slow.left() == pytest.approx(100)
    now[0] = 30.0
    assert slow.begin("two") and slow.left() == pytest.approx(90)       # the same one goes on
    assert slow.spare() == pytest.approx(600 - 30 - 90)


def test_every_measurement_that_is_planned_begins(told):
    found, lines, begun = told
    assert set(found.measurements.plan.expected) - {"clean", "own"} <= begun
    assert found.record.planned > 0 and found.record.cut == () and any("left)" in line for line in lines)


# --- Square

def test_square_is_short_where_nothing_casts_doubt_on_gradients(found):
    m = found.measurements
    assert m.square.attack.steps == FEW.first_queries and m.why_doubted == ()
    assert "a short search" in found.check("beats_gradient_free").measured


def test_square_gets_all_its_queries_where_gradients_vanish():
    m = audit.Measurements(subject(model=linear(scale=3000.0)), FEW)
    assert any("check 9" in why for why in m.why_doubted)
    assert m.square.attack.steps == FEW.queries and m.square.right.sum() <= m.pgd.right.sum()


def test_square_gets_all_its_queries_where_the_short_search_wins(monkeypatch):
    m = audit.Measurements(subject(), FEW)
    kept = m.pgd.right
    assert kept.sum() > FEW.first_images
    asked = []
    monkeypatch.setattr(m, "_square_on", lambda kept, which, queries, why: (
        asked.append((int(which.sum()), queries)), dataclasses.replace(m.pgd, right=kept & ~which))[1])
    m.why_doubted, m.by_gradient = (), kept
    assert not m.square.right.any() and "turned images that no gradient attack did" in m.why_doubted[0]
    assert asked == [(FEW.first_images, FEW.first_queries), (int(kept.sum()), FEW.queries)]


# --- after a kill

def test_a_killed_audit_goes_on_where_it_was(tmp_path, monkeypatch):
    asked = subject()
    digest = asked.digest(FEW, 0)
    first = audit.Measurements(asked, FEW, resume=audit.Resume(tmp_path, digest))
    before = first.pgd, first.carlini_wagner
    again = audit.Measurements(asked, FEW, resume=audit.Resume(tmp_path, digest))
    assert again.resume.recalled == 2

    def never(*_, **__):
        raise AssertionError("measured a second time")

    monkeypatch.setattr(again, "run_attack", never)
    np.testing.assert_array_equal(again.pgd.right, before[0].right)
    np.testing.assert_array_equal(again.pgd.images, before[0].images)
    assert dataclasses.replace(again.pgd, right=0, turned=0, images=0) == dataclasses.replace(
        before[0], right=0, turned=0, images=0)
    np.testing.assert_array_equal(again.carlini_wagner.l2, before[1].l2)


def test_an_audit_of_something_else_begins_anew(tmp_path):
    model = linear()
    asked, same = subject(model=model), subject(model=model)
    digests = {each.digest(effort, seed) for each, effort, seed in (
        (asked, FEW, 0), (same, FEW, 0), (asked, FEW, 1), (asked, audit.QUICK, 0),
        (subject(model=model, eps=0.03), FEW, 0),
        (subject(model=linear(scale=2.0)), FEW, 0), (subject(39, model), FEW, 0),
        (subject(model=model, norm="l2"), FEW, 0))}
    assert len(digests) == 7
    audit.Resume(tmp_path, "one").keep("key", {"right": np.ones(3)})
    assert audit.Resume(tmp_path, "one").recall("key") is not None
    assert audit.Resume(tmp_path, "other").recall("key") is None
    (tmp_path / "resume.npz").write_bytes(b"damaged")
    assert audit.Resume(tmp_path, "one").recall("key") is None and "resume.npz" in audit.FILES


# --- the record and the page

def test_classes_stand_with_the_rarest_first(found):
    record = found.record
    counts = [each.clean.count for each in record.classes]
    assert counts == sorted(counts) and sum(counts) == 40
    assert sum(each.worst_case.correct for each in record.classes) == record.worst_case.correct
    m = found.measurements
    for each in record.classes:
        mine = m.labels == record.class_names.index(each.name)
        assert (each.clean.count, each.worst_case.correct) == (mine.sum(), (m.survivors & mine).sum())
    assert list(audit.class_table(record)["images"]) == counts


def test_the_page_says_what_the_record_holds(found):
    page = pages.render(pages.audit_page(found.record))
    for heading in ("Class by class", "Time", "What would change the verdict", "To cite this audit"):
        assert heading in page
    assert "leaves" not in page and f"{found.record.date}." in page


def test_small_epsilons_are_legible_in_the_sweep(found):
    axes = found.pictures()["sweep"].axes[0]
    sizes = list(found.measurements.sweep)
    assert axes.get_xscale() == "symlog" and np.allclose(axes.get_xticks(), 255 * np.array(sizes))
    places = axes.transData.transform([(255 * size, 0) for size in sizes])[:, 0]
    assert np.diff(places).min() > 0.05 * (places[-1] - places[0])


def test_pictures_are_of_several_classes():
    labels = np.array([3, 3, 3, 1, 3, 1, 2])
    rows = judged._of_several_classes(np.array([0, 1, 2, 3, 5, 6]), labels)
    assert rows.tolist() == [0, 3, 6, 1, 5, 2]


def test_records_of_schema_1_are_still_read():
    record = audit.read(REPOSITORY / "figures/cifar10_exp2/audit/defended/audit.json")
    assert record.schema_version == 1 and record.classes == () and record.checks[11].casts_doubt
    assert "Class by class" not in pages.render(pages.audit_page(record))


@pytest.mark.parametrize(("content", "says"), [
    ([1, 2], "holds a list in place of"), ("text", "holds a str"), ({"schema_version": 0}, "schema version 0"),
    ({}, "schema version None"), ({"schema_version": 2}, "'model' is missing")])
def test_what_is_no_record_is_one_clear_error(tmp_path, content, says):
    path = tmp_path / "models.keras" / "audit" / "defended" / "audit.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content))
    with pytest.raises(KitError, match=says):
        audit.read(path)


# --- both sides

def proved(share, contradicted=()):
    return proof.Proof(method="interval bounds", proved=Measured(**Accuracy(int(100 * share), 100).record()),
                       contradicted=contradicted)


def test_a_proof_stands_beside_the_attack(found):
    m = found.measurements
    assert proof.both_sides(proved(0.3), 0.5) == (
        "at least 30.0 % (proved by interval bounds), at most 50.0 % (attacked); of 20.0 % of the images it is not "
        "known")
    assert proof.both_sides(proved(0.5), 0.5).endswith("(attacked)")
    assert "at least 30.0 %" in audit.judge(m, [], proved(0.3)).sentence
    assert "proved" not in audit.judge(m, [], proved(0.0)).sentence
    broken = audit.judge(m, [], proved(0.3, (4, 7)))
    assert broken.kind == "doubtful" and broken.sentence.startswith("2 images were turned by an attack though")


def test_no_attack_breaks_a_proved_image(found):
    both = proof.prove(found.measurements)
    assert both.contradicted == () and 0 < both.proved.accuracy <= found.record.worst_case.accuracy
    table = audit.attack_table(found.record.model_copy(update={"proved": both}))
    assert "proved, at least" in set(table["under"])


# --- L2

def test_an_audit_in_l2():
    m = audit.Measurements(subject(eps=0.1, norm="l2"), FEW)
    found = audit.run(m, model="linear", data="noise")
    assert m.subject.grey == pytest.approx(4.0) and {type(each).__name__ for each in m.suite.values()} == {
        "Noise", "FGSM", "PGD", "APGD"}
    assert all(each.norm == "l2" for each in m.suite.values()) and m.square.attack.norm == "l2"
    sizes = [each.l2 for each in found.record.attacks.values()]
    assert all(size <= 0.1 + 1e-5 for size in sizes) and max(sizes) > 0.095
    assert "L2, eps 0.1" in pages.render(pages.audit_page(found.record)) and "0.1" in found.record.sweep
    assert found.check("threat_model").outcome == "pass" and len(found.record.checks) == 19


def test_cw_counts_within_an_l2_eps():
    m = audit.Measurements(subject(eps=0.3, norm="l2"), FEW)
    m.carlini_wagner = measure.Distances(
        rows=np.arange(4), found=np.array([True, True, False, True]), l2=np.array([0.2, 0.4, 0.1, 0.3]),
        linf=np.full(4, 0.1), seconds=1.0)
    m._under["PGD"] = dataclasses.replace(m.pgd, right=np.ones(40, bool))
    assert np.flatnonzero(~m.cw_within.right).tolist() == [0, 3] and m.cw_within.l2 == 0.3
    plain = audit.Measurements(subject(), FEW)
    assert plain.cw_within is None


@pytest.mark.parametrize(("norm", "eps"), [("linf", 1.5), ("linf", 0.0), ("l2", 0.0), ("l2", float("inf"))])
def test_an_impossible_eps_is_refused(norm, eps):
    with pytest.raises(KitError, match="eps must be above 0"):
        subject(eps=eps, norm=norm)
    assert subject(eps=1.5, norm="l2").written(1.5) == "1.5"
