"""Every threshold of the audit, just below and just above, on made-up measurements: no model is asked.

The numbers stand here a second time, on purpose: a threshold that moves by a fifth is noticed.
"""
import types

import numpy as np
import pytest

from kitlib import audit
from kitlib.audit import checks
from kitlib.audit.subject import written
from kitlib.evaluation import Accuracy

MANY = 100_000              # so many images that the intervals hardly matter
LABELS = np.arange(MANY) % 10
ALL, NONE = np.ones(MANY, bool), np.zeros(MANY, bool)
EPS, GREY = 0.1, 0.5
SPREAD = dict.fromkeys(("inference", "plain", "alone"), 0.0)


def first(share, count=MANY):
    """Bool: the first so many of the images."""
    return np.arange(count) < round(share * count)


def attacked(right, **fields):
    usual = {"attack": types.SimpleNamespace(length=10, eps=EPS, norm="linf"), "linf": EPS, "low": 0.0, "high": 1.0,
             "finite": True}
    found = types.SimpleNamespace(right=right, accuracy=Accuracy.of(right), **usual | fields)
    found.size = lambda norm: found.linf
    return found


def subject(**fields):
    target = types.SimpleNamespace(returns="logits", kind="logits", recovered=False)
    usual = {"eps": EPS, "norm": "linf", "grey": GREY, "claim": None, "robust_history": (), "kept_epoch": None,
             "target": target}
    return types.SimpleNamespace(written=lambda eps: written("linf", eps), **usual | fields)


def made_up(**fields):
    """Measurements of a sound model, but for `fields`."""
    half = attacked(first(0.5))
    leak = types.SimpleNamespace(true=half, predicted=half, named=NONE)
    line = np.ones((9, MANY), bool)
    usual = {
        "subject": subject(), "labels": LABELS, "clean": first(0.9), "random": False, "effort": audit.QUICK,
        "ensemble": {"PGD": half}, "strongest": ("PGD", half), "survivors": first(0.5), "own": {}, "own_doubled": {},
        "own_named": {}, "own_controls": {}, "named_clean": NONE, "leaks": {EPS: leak},
        "sweep": {0.0: attacked(first(0.9)), EPS: half, GREY: attacked(NONE)},
        "pgd": half, "pgd_doubled": half, "fgsm": attacked(first(0.6)), "noise": attacked(first(0.8)),
        "transferred": attacked(first(0.8)), "without_doubling": first(0.5), "square": half, "square_alone": first(0.7),
        "why_doubted": (), "no_gradient": NONE, "rounded": NONE, "spread_of_passes": SPREAD,
        "along_the_step": (line, np.ones((9, 3))), "climbs": ALL, "bpda": None, "eot": None,
        "undefended": types.SimpleNamespace(what="a small network", labels=LABELS),
        "undefended_clean": Accuracy(900, 1000),
        "undefended_under_pgd": (Accuracy(900, 1000), Accuracy(0, 1000), Accuracy(0, 1000)),
        "carlini_wagner": types.SimpleNamespace(found=ALL, l2=np.ones(MANY)),
        "controls": {"PGD": (0, 1000, 0.0)}, "copies": (NONE, np.full(MANY, 0.5), 0.5),
    }
    return types.SimpleNamespace(**usual | fields)


def ask(name, **fields):
    return next(check for check in audit.CHECKS if check.name == name).function(made_up(**fields))


def test_of_a_sound_model_every_check_passes():
    assert {check.name: check.function(made_up()).outcome for check in audit.CHECKS} == {
        check.name: "pass" for check in audit.CHECKS}
    assert [check.number for check in audit.CHECKS] == list(range(1, 20))


def dented(share):
    line = np.ones((9, MANY), bool)
    line[4] = ~first(share)
    return line, np.ones((9, 3))


def own(before, after):
    return {"own": {"mine": attacked(first(before))}, "own_doubled": {"mine": attacked(first(after))}}


def leaking(**fields):
    half = attacked(first(0.5))
    return {"leaks": {EPS: types.SimpleNamespace(**{"true": half, "predicted": half, "named": NONE} | fields)}}


def undefended(at_eps, beyond, clean=0.9):
    return {"undefended_under_pgd": tuple(Accuracy(round(10**6 * share), 10**6) for share in (clean, at_eps, beyond))}


def distances(share, distance, usual):
    return {"copies": (NONE, np.where(first(share), distance, 0.9), usual)}


def mean_above(gap):
    """Two attacks of the claim's own that turn different images: the mean lies above the worst case by the gap."""
    return {"own": {"one": attacked(~first(gap)), "other": attacked(~first(gap)[::-1])}, "clean": ALL}


# check, just below its threshold, just above
THRESHOLDS = [
    ("threat_model", {"ensemble": {"PGD": attacked(ALL, linf=EPS + 0.9e-6)}},
     {"ensemble": {"PGD": attacked(ALL, linf=EPS + 1.2e-6)}}),
    ("threat_model", {"ensemble": {"PGD": attacked(ALL, low=-0.9e-6)}},
     {"ensemble": {"PGD": attacked(ALL, low=-1.2e-6)}}),
    ("threat_model", {"ensemble": {"PGD": attacked(ALL, high=1 + 0.9e-6)}},
     {"ensemble": {"PGD": attacked(ALL, high=1 + 1.2e-6)}}),
    ("threat_model", {}, {"ensemble": {"PGD": attacked(ALL, finite=False)}}),
    ("monotonic", {"sweep": {0.0: attacked(first(0.3)), EPS: attacked(first(0.309))}},
     {"sweep": {0.0: attacked(first(0.3)), EPS: attacked(first(0.312))}}),
    ("large_eps", {"sweep": {GREY: attacked(first(0.1))}}, {"sweep": {GREY: attacked(first(0.103))}}),
    ("iterative", {"fgsm": attacked(first(0.4955))}, {"fgsm": attacked(first(0.494))}),
    ("converged", {"pgd_doubled": attacked(first(0.4905))}, {"pgd_doubled": attacked(first(0.488))}),
    ("converged", own(0.5, 0.491), own(0.5, 0.488)),
    ("beats_noise", {"noise": attacked(first(0.4955))}, {"noise": attacked(first(0.494))}),
    ("beats_transfer", {"transferred": attacked(first(0.4955))}, {"transferred": attacked(first(0.494))}),
    ("beats_gradient_free", {"square": attacked(first(0.4982)), "square_alone": first(0.4982)},
     {"square": attacked(first(0.4975)), "square_alone": first(0.4975)}),
    ("beats_gradient_free", {"square": attacked(first(0.4)), "square_alone": first(0.4982)},
     {"square": attacked(first(0.4)), "square_alone": first(0.4975)}),
    ("has_gradient", {"no_gradient": first(0.049)}, {"no_gradient": first(0.052)}),
    ("logits", {}, {"subject": subject(target=types.SimpleNamespace(
        returns="probabilities", kind="probabilities", recovered=True))}),
    ("deterministic", {"spread_of_passes": SPREAD | {"inference": 0.9e-4}},
     {"spread_of_passes": SPREAD | {"inference": 1.2e-4}}),
    ("deterministic", {"spread_of_passes": SPREAD | {"plain": 0.9e-4}},
     {"spread_of_passes": SPREAD | {"plain": 1.2e-4}}),
    ("deterministic", {"spread_of_passes": SPREAD | {"alone": 0.9e-3}},
     {"spread_of_passes": SPREAD | {"alone": 1.2e-3}}),
    ("label_leak", leaking(true=attacked(first(0.509))), leaking(true=attacked(first(0.512)))),   # than predicted ones
    ("label_leak", leaking(true=attacked(first(0.909)), predicted=attacked(ALL)),                    # than no attack
     leaking(true=attacked(first(0.912)), predicted=attacked(ALL))),
    ("label_leak", leaking(named=first(0.009)), leaking(named=first(0.012))),
    ("label_leak", {"own": {"mine": attacked(first(0.909))}}, {"own": {"mine": attacked(first(0.912))}}),
    ("label_leak", {"own_named": {"mine": first(0.009)}}, {"own_named": {"mine": first(0.012)}}),
    ("catastrophic_overfitting", {"along_the_step": dented(0.099)}, {"along_the_step": dented(0.103)}),
    ("catastrophic_overfitting", {"subject": subject(robust_history=(0.2, 0.6, 0.41), kept_epoch=2)},
     {"subject": subject(robust_history=(0.2, 0.6, 0.39), kept_epoch=2)}),
    ("breaks_undefended", undefended(0.049, 0.5), undefended(0.052, 0.052)),
    ("carlini_wagner", {"carlini_wagner": types.SimpleNamespace(found=first(0.951), l2=np.ones(MANY))},
     {"carlini_wagner": types.SimpleNamespace(found=first(0.948), l2=np.ones(MANY))}),
    ("worst_case", mean_above(0.009), mean_above(0.012)),
    ("adaptive", {"climbs": first(0.901)}, {"climbs": first(0.897)}),
    ("adaptive", {"bpda": attacked(first(0.491))}, {"bpda": attacked(first(0.488))}),
    ("adaptive", {"eot": attacked(first(0.491))}, {"eot": attacked(first(0.488))}),
    ("identity_control", {"controls": {"PGD": (4_800, 10**6, 0.0)}}, {"controls": {"PGD": (5_400, 10**6, 0.0)}}),
    ("new_images", {}, {"copies": (first(10 / MANY), np.full(MANY, 0.5), 0.5)}),
    ("new_images", distances(0.0048, 1e-9, 0.5), distances(0.0056, 1e-9, 0.5)),
    ("new_images", distances(0.5, 0.026, 0.5), distances(0.5, 0.0245, 0.5)),        # a twentieth of what is usual
    ("new_images", distances(0.5, 0.00105, 0.01), distances(0.5, 0.00095, 0.01)),   # 0.001
    ("new_images", distances(0.5, 0.00052, 0.002), distances(0.5, 0.00048, 0.002)),     # a quarter of what is usual
]


@pytest.mark.parametrize(("name", "below", "above"), THRESHOLDS)
def test_just_below_its_threshold_a_check_passes_and_just_above_it_flags(name, below, above):
    assert ask(name, **below).outcome == "pass"
    found = ask(name, **above)
    assert found.outcome == "flag", found.measured


def test_every_check_has_its_thresholds_here():
    assert {name for name, *_ in THRESHOLDS} == {check.name for check in audit.CHECKS}


def test_the_sentences_say_the_thresholds():
    said = {check.name: check.threshold for check in audit.CHECKS}
    for name, *parts in (
            ("threat_model", "1e-06"), ("monotonic", "1 point"), ("large_eps", "0.5"), ("iterative", "0.5 points"),
            ("converged", "at most 1 point more", "at most 1 point from"), ("beats_noise", "0.5 points"),
            ("beats_transfer", "0.5 points"), ("beats_gradient_free", "0.2 points"), ("has_gradient", "5 %"),
            ("logits", "5 %"), ("deterministic", "0.0001", "0.001"), ("label_leak", "1 point above", "1 point more"),
            ("catastrophic_overfitting", "20 points", "10 %"), ("breaks_undefended", "5 %"), ("carlini_wagner", "95 %"),
            ("worst_case", "1 point"), ("adaptive", "90 %", "1 point"), ("identity_control", "0.5 %"),
            ("new_images", "0.5 %", "under 5 %", "0.001 and 25 %")):
        assert all(part in said[name] for part in parts), (name, said[name])


@pytest.mark.parametrize(("name", "fields"), [
    ("beats_noise", {"pgd": attacked(first(0.9)), "noise": attacked(first(0.9))}),
    ("beats_transfer", {"undefended_clean": Accuracy(102, 1000)}),
    ("catastrophic_overfitting", {"random": True, "along_the_step": dented(0.3)}),
    ("breaks_undefended", undefended(0.052, 0.049)),
    ("breaks_undefended", undefended(0.0, 0.0, clean=0.1)),
    ("carlini_wagner", {"carlini_wagner": None}),
    ("adaptive", {"clean": NONE}),
    ("identity_control", {"random": True}),
    ("new_images", {"copies": None}),
])
def test_what_cannot_be_told_is_said(name, fields):
    assert ask(name, **fields).outcome == "cannot tell"


@pytest.mark.parametrize(("name", "fields", "doubt"), [
    ("threat_model", {"own": {"mine": attacked(ALL, linf=0.2)}}, False),
    ("threat_model", {"ensemble": {"PGD": attacked(ALL, linf=0.2)}}, True),
    ("converged", own(0.5, 0.3), False), ("converged", {"pgd_doubled": attacked(first(0.3))}, True),
    ("deterministic", {"spread_of_passes": SPREAD | {"plain": 1.0}}, False),
    ("deterministic", {"spread_of_passes": SPREAD | {"alone": 1.0}}, True),
    ("label_leak", {"own": {"mine": attacked(ALL)}}, True),
    ("worst_case", mean_above(0.2), False),
    ("identity_control", {"own_controls": {"mine": (50, 100, 0.0)}}, False),
    ("identity_control", {"controls": {"PGD": (50, 100, 0.0)}}, True),
])
def test_a_flag_on_somebody_elses_numbers_casts_no_doubt_on_the_audits(name, fields, doubt):
    found = ask(name, **fields)
    assert found.outcome == "flag" and found.casts_doubt == doubt


@pytest.mark.parametrize(("kind", "recovered", "rounded", "outcome", "doubt"), [
    ("logits", False, 1.0, "pass", False), ("probabilities", True, 1.0, "flag", False),
    ("probabilities", False, 0.049, "flag", False), ("probabilities", False, 0.052, "flag", True),
    ("log_probabilities", False, 0.052, "flag", True)])
def test_lost_logits_cast_doubt(kind, recovered, rounded, outcome, doubt):
    target = types.SimpleNamespace(returns="something", kind=kind, recovered=recovered)
    found = ask("logits", subject=subject(target=target), rounded=first(rounded))
    assert (found.outcome, found.casts_doubt) == (outcome, doubt)


def test_what_happens_far_beyond_eps_is_information():
    """A PGD-trained model that reads labels from a step of half of the pixel range, and none at eps."""
    beyond = types.SimpleNamespace(true=attacked(ALL), predicted=attacked(NONE), named=first(0.3))
    found = ask("label_leak", leaks=made_up().leaks | {GREY: beyond})
    assert found.outcome == "pass" and "for information" in found.measured
    assert found.values["127.5/255"] == {"true": 1.0, "predicted": 0.0, "names_wrong_label": 0.3}


def test_a_model_that_names_most_labels_anyway_reads_none():
    found = ask("label_leak", named_clean=first(0.3), own_named={"mine": first(0.3)}, **leaking(named=first(0.305)))
    assert found.outcome == "pass"


# --- the verdict

def judged(share, count=MANY, clean=0.9, claim=None, labels=None, findings=()):
    labels = np.arange(count) % 10 if labels is None else labels
    return verdict(first(share, count), first(clean, count), labels, claim, findings)


def verdict(right, clean, labels, claim=None, findings=()):
    """right, clean: bool, under every attack and without any."""
    m = types.SimpleNamespace(clean=clean, survivors=right, labels=labels, strongest=("PGD", attacked(right)),
                              subject=subject(claim=claim))
    return audit.judge(m, list(findings))


def flagged(casts_doubt, name="beats_noise", outcome="flag"):
    return next(check for check in audit.CHECKS if check.name == name), checks.Finding(
        outcome, "noise won", {}, casts_doubt)


@pytest.mark.parametrize(("kind", "other", "this", "that"), [
    ("not robust", "trustworthy", {"share": 0.224}, {"share": 0.226}),          # a quarter of 0.9
    ("not robust", "trustworthy", {"share": 0.5, "labels": np.int32(~first(0.6))}, {"share": 0.5}),     # guessing: 60 %
    ("refuted", "trustworthy", {"share": 0.5, "claim": 0.504}, {"share": 0.5, "claim": 0.5005}),
    ("doubtful", "trustworthy", {"share": 0.5, "count": 56}, {"share": 0.5, "count": 60}),      # a quarter wide
    ("doubtful", "trustworthy", {"share": 0.5, "findings": [flagged(True)]},
     {"share": 0.5, "findings": [flagged(False)]}),
    ("doubtful", "trustworthy", {"share": 0.5, "labels": np.zeros(MANY, int)}, {"share": 0.5}),
    ("doubtful", "trustworthy", {"share": 0.5, "clean": 0.5, "labels": np.arange(MANY) // (MANY // 2)},
     {"share": 0.52, "clean": 0.52, "labels": np.arange(MANY) % 2}),
])
def test_each_verdict_just_beside_another(kind, other, this, that):
    assert judged(**this).kind == kind
    assert judged(**that).kind == other


@pytest.mark.parametrize(("fields", "says"), [
    ({"share": 0.5}, "turns 27500 of the 50000"), ({"share": 0.5, "claim": 0.4}, "refuted"),
    ({"share": 0.5, "count": 20}, "at least"), ({"share": 0.5, "claim": 0.9}, "a claim of at most 50.3 %"),
    ({"share": 0.5, "labels": np.zeros(MANY, int)}, "at least two classes"),
    ({"share": 0.1}, "more than 22500 of 100000"), ({"share": 0.5, "findings": [flagged(True)]}, "check 6 passing")])
def test_what_would_change_the_verdict(fields, says):
    assert any(says in change for change in judged(**fields).changes)


def test_as_many_images_as_are_asked_for_are_enough():
    few = judged(0.5, count=20)
    count = int(few.changes[0].split()[2])
    assert judged(0.5, count=count).kind == "trustworthy" and judged(0.5, count=count - 2).kind == "doubtful"


def test_the_sentence_says_what_beside_the_attacks_speaks_against_it():
    usual = "A stronger attack may still be found."
    assert judged(0.5).sentence.endswith(usual)
    unbroken = judged(0.5, findings=[flagged(True, "breaks_undefended", "cannot tell")])
    assert unbroken.sentence.endswith(f"{usual} Whether that is a merit is open: noise won.")
    assert "check 6" in judged(0.5, findings=[flagged(True)]).reasons[0]
    assert "most frequent class gets 60.0 %" in judged(0.5, labels=np.int32(~first(0.6))).sentence


@pytest.mark.parametrize(("common", "rare", "kind"), [
    (0.85, 0.80, "trustworthy"), (1.0, 0.0, "doubtful"), (0.5, 0.5, "doubtful")])
def test_a_model_that_seeks_a_rare_class_is_not_measured_by_the_usual_one(common, rare, kind):
    """Always naming the usual class gets 90 %; a screening model gets less, and finds most of the rare ones."""
    right = np.concatenate([first(common, 900), first(rare, 100)])
    assert verdict(right, right, np.repeat([0, 1], [900, 100])).kind == kind


def test_a_claim_that_guessing_fulfils_is_doubtful():
    labels = np.repeat([0, 1], [90, 10])
    found = verdict(labels == 0, np.ones(100, bool), labels, claim=0.9)
    assert found.kind == "doubtful" and "most frequent class gets 90.0 %" in found.sentence


@pytest.mark.parametrize(("count", "kind", "said"), [
    (5, "doubtful", "5 images are too few to tell"), (100, "trustworthy", "below the claim"),
    (1000, "refuted", "refuted")])
def test_few_images_prove_no_claim(count, kind, said):
    found = verdict(np.arange(count) % 5 < 4, np.ones(count, bool), np.arange(count) % 2, claim=0.85)
    assert found.kind == kind and said in found.sentence
