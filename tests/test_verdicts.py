"""A verdict on a paper's figure cannot be had cheaply."""
import numpy as np
import pytest
from scipy.stats import t

from kitlib.evaluation import Accuracy, Measured
from kitlib.experiments import verdicts
from kitlib.experiments.verdicts import Answer, PaperEntry, Sample


def entries(paper, *shares, images=10_000, paper_images=10_000, **more):
    """One a share, in per cent, as runs of other seeds."""
    def measured(kind, share):
        return kind(**Accuracy(round(share * images / 100), images).record())

    return [PaperEntry(id="x", paper=paper, paper_images=paper_images, margin=3.0, images=images,
                       as_published=measured(Measured, share), as_defined=measured(Answer, 0), defined_by="PGD",
                       **{name: part(measured, share) if callable(part) else part for name, part in more.items()})
            for share in shares]


def test_the_interval_of_one_run_is_newcombe_s():
    """The worked example of Newcombe 1998, method 10: 56/70 against 48/80."""
    between, low, high = verdicts.difference([Sample(56 / 70, 70)], Sample(48 / 80, 80))
    assert (between, low, high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


def test_seeds_widen_it_by_the_t_interval_of_their_mean_in_squares():
    runs = [Sample(share, 10_000) for share in (0.78, 0.80, 0.82)]
    _, low, high = verdicts.difference(runs, Sample(0.8, 10_000))
    _, alone, _ = verdicts.difference([Sample(0.80, 10_000)], Sample(0.8, 10_000))
    reach = t.ppf(0.975, 2) * np.std([0.78, 0.80, 0.82], ddof=1) / 3**0.5
    assert -low == pytest.approx((reach**2 + alone**2) ** 0.5) and high == pytest.approx(-low, rel=1e-3)


@pytest.mark.parametrize("paper, shares, kind", [
    (80.0, (80, 80, 80), "compatible"),
    (81.8, (80, 80, 80), "compatible"),         # the interval ends at -2.9
    (82.0, (80, 80, 80), "inconclusive"),       # ... and at -3.1
    (84.0, (80, 80, 80), "inconclusive"),       # it begins at -2.9
    (84.2, (80, 80, 80), "incompatible"),       # ... and at -3.1
    (75.8, (80, 80, 80), "incompatible"), (76.0, (80, 80, 80), "inconclusive"),
    (80.0, (78.5, 80, 81.5), "inconclusive"),   # seeds that differ
    (80.0, (80, 80), "inconclusive"), (10.0, (80,), "inconclusive"),        # fewer than three, whatever they say
])
def test_verdicts_just_inside_and_just_outside_the_margin(paper, shares, kind):
    assert verdicts.judge(entries(paper, *shares)).kind == kind


def test_few_images_one_answer_and_one_seed_are_no_agreement():
    few = verdicts.judge(entries(45, 45, 45, 45, images=20, paper_images=20))
    assert few.kind == "inconclusive" and few.reason == "the interval crosses the margin"
    one_answer = verdicts.judge(entries(39, 39, 39, 39, one_answer=True))
    assert one_answer.kind == "inconclusive" and "the same answer" in one_answer.reason
    assert verdicts.judge(entries(13.85, 11.3)).kind == "inconclusive"
    assert verdicts.judge(entries(13.85, 11.3, 11.3, 11.3)).kind == "inconclusive"      # [10.7, 11.9], three times
    assert verdicts.judge(entries(43.29, 43.29, 43.29, 43.29, images=160, paper_images=160)).kind == "inconclusive"
    assert verdicts.judge(entries(45, 45, 45, 45, paper_images=160)).kind == "inconclusive"     # the paper's are few


def as_the_run(measured, share):
    return measured(Measured, share)


def nothing_left(measured, _):
    return measured(Measured, 20)


FLAW = {"mechanism": "the clamp", "control_is": "flaw alone", "control": as_the_run}


@pytest.mark.parametrize("control_is, control, rival, explained", [
    ("flaw alone", as_the_run, nothing_left, True),
    ("flaw alone", nothing_left, nothing_left, False),      # the flaw alone does not do it
    ("flaw removed", nothing_left, nothing_left, True),
    ("flaw removed", as_the_run, nothing_left, False),      # without the flaw it comes out the same
    ("flaw alone", as_the_run, as_the_run, False),          # a rival does the same
    ("flaw alone", as_the_run, None, False),                # a rival was not tried
])
def test_a_mechanism_explains_only_what_its_control_isolates_and_no_rival_does(control_is, control, rival, explained):
    def rivals(measured, share):
        return {"sign flipped": rival and rival(measured, share)}

    found = entries(45, 45, 45, 45, mechanism="the clamp", control_is=control_is, control=control, rivals=rivals)
    assert (verdicts.judge(found).explained_by == "the clamp") == explained
    assert str(verdicts.judge(found)) == "compatible" + ", explained by the clamp" * explained


def test_without_rivals_or_against_the_figure_nothing_is_explained():
    assert verdicts.judge(entries(45, 45, 45, 45, **FLAW)).explained_by is None
    rivals = {"rivals": lambda measured, share: {"sign flipped": measured(Measured, 20)}}
    assert verdicts.judge(entries(45, 45, 45, 45, **FLAW, **rivals)).explained_by == "the clamp"
    assert verdicts.judge(entries(90, 45, 45, 45, **FLAW, **rivals)).explained_by is None
    assert verdicts.judge(entries(45, 45, 45, **FLAW, **rivals)).explained_by is None       # two seeds
