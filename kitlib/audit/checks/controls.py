"""Checks 14 to 19: does the same attack work elsewhere, are its numbers reported fairly, and are the images new?"""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kitlib.audit.checks.base import (
    ATHALYE,
    CARLINI,
    CONVERGED,
    NONE_RIGHT,
    Finding,
    check,
    clearly_above_guessing,
    exceeds,
    flag_if,
    in_points,
    limit,
    more_right,
    of_claim,
    percent,
    under,
)
from kitlib.evaluation import Accuracy

if TYPE_CHECKING:      # measurements ask some of the checks themselves
    from kitlib.audit.measure import Measurements

BROKEN = 0.05           # accuracy under PGD that an undefended model may keep
SUCCESS = 0.95          # of C&W, whose distance is not bounded
MEAN_OF_ATTACKS = 0.01  # that the mean over attacks may lie above the worst case
CLIMB = 0.90            # share of images on which the gradient leads uphill
CONTROL = 0.005         # share of answers that an attack with eps = 0 may change
ALIKE = 0.001           # two images are near-duplicates where 1 - correlation is below this (or below
ALIKE_WHERE_ALL_ARE = 0.25  # of what is usual, where all images are as alike as that),
ALIKE_SHARE = 0.05      # or below this share of what is usual between an image and its nearest training image
DUPLICATES = 0.005      # share of judged images with a near-duplicate in the training data


@check("The same attack breaks an undefended model",
       threshold=f"accuracy of at most {limit(BROKEN)} under PGD at eps; flagged where it is higher at L-inf 0.5, "
                 "too",
       source=f"{CARLINI} 4.13",
       means="The attack is too weak to break even a model without defence, so what resists it proves nothing. Use "
             "more steps and look for a mistake in the attack.")
def breaks_undefended(m: Measurements) -> Finding:
    clean, at_eps, beyond = m.undefended_under_pgd
    said = (f"{m.undefended.what}: {percent(clean.value)} without attack, {percent(at_eps.value)} under PGD "
            f"{m.subject.written(m.subject.eps)}, {percent(beyond.value)} at {m.subject.written(m.subject.grey)}")
    values = {"clean": clean.value, "at_eps": at_eps.value, "at_half": beyond.value}
    if not clearly_above_guessing(clean, m.undefended.labels):
        return Finding("cannot tell", f"{said}: it has learnt too little for its fall to prove anything", values)
    if at_eps.interval[0] <= BROKEN:
        return Finding("pass", said, values)
    if beyond.interval[0] <= BROKEN:
        return Finding("cannot tell", f"{said}: at this eps even an undefended model keeps something", values)
    return Finding("flag", said, values)


@check("C&W reports distances over its successes, and succeeds",
       threshold=f"success on at least {limit(SUCCESS)} of images",
       source=f"Carlini & Wagner 2017, arXiv:1608.04644, section V; {CARLINI} 5.3",
       means="An attack without a bound on its distance must succeed everywhere. Raise its constant and its steps; if "
             "that does not help, the gradient is masked.")
def carlini_wagner(m: Measurements) -> Finding:
    found = m.carlini_wagner
    if found is None:
        return Finding("cannot tell", NONE_RIGHT)
    success = Accuracy.of(found.found)
    distance = f"{found.l2[found.found].mean():.3f}" if found.found.any() else "-"
    return Finding(flag_if(success.interval[1] < SUCCESS),
                   f"{success.correct} of {success.count} rightly classified images turned; mean L2 distance over "
                   f"these {distance}",
                   {**success.record(), "mean_l2": None if distance == "-" else float(distance)})


@check("The worst case per image counts",
       threshold=f"the claim's own mean over attacks at most {in_points(MEAN_OF_ATTACKS)} above its worst case",
       source=f"{CARLINI} 5.6",
       means="A mean over attacks flatters: an image that falls to one of them is not robust. Report the share of "
             "images that resist all.")
def worst_case(m: Measurements) -> Finding:
    worst = Accuracy.of(m.survivors)
    name, strongest = m.strongest
    said = (f"worst case over {len(m.ensemble)} attacks: {worst}; "
            f"{under(f'the strongest, {name}', strongest.right.mean())}")
    values = {"worst": worst.value, "strongest": name, "alone": strongest.accuracy.value}
    if not m.own:
        return Finding("pass", said, values)
    rights = np.stack([each.right for each in m.own.values()])
    survived = rights.all(0) & m.clean
    mean, own_worst = float(rights.mean()), float(survived.mean())
    said += f"; the claim's own attacks: mean {percent(mean)}, worst case {percent(own_worst)}"
    return Finding(flag_if(more_right(rights.mean(0), survived, MEAN_OF_ATTACKS)), said,
                   {**values, "own_mean": mean, "own_worst": own_worst}, casts_doubt=False)


@check("The attack is made against this very model, and its gradient leads uphill",
       threshold=f"uphill on at least {limit(CLIMB)} of images; BPDA or EOT bring at most {in_points(CONVERGED)}",
       source=f"{ATHALYE} 4; {CARLINI} 4.6 and 4.7",
       means="Something in the model (rounding, randomness) keeps plain gradients from guiding the attack. Attack "
             "through it: BPDA for layers without gradient, EOT for randomness; or attack without gradients.")
def adaptive(m: Measurements) -> Finding:
    if not m.clean.any():
        return Finding("cannot tell", NONE_RIGHT)
    uphill = Accuracy.of(m.climbs)
    said = [f"a step along the gradient beats a random one on {uphill.correct} of {uphill.count} images"]
    bad = uphill.interval[1] < CLIMB
    for name, each in (("BPDA", m.bpda), ("EOT", m.eot)):
        if each is not None:
            said.append(f"{under('PGD', m.pgd.right.mean())}, with {name}: {percent(each.right.mean())}")
            bad |= more_right(m.pgd.right, each.right, CONVERGED)
    return Finding(flag_if(bad), "; ".join(said), {"uphill": uphill.value})


@check("An attack with eps = 0 changes nothing", threshold=f"at most {limit(CONTROL)} of answers changed",
       source=f"the kit's own control, in the spirit of {CARLINI} 5.2",
       means="The attack does harm without a perturbation: a clamp, a rounding or a conversion in it does the work, "
             "and its accuracy does not measure robustness. Take that step out.")
def identity_control(m: Measurements) -> Finding:
    theirs = {of_claim(name): found for name, found in m.own_controls.items()}
    controls = m.controls | theirs
    bad = {name: found for name, found in controls.items() if exceeds(found[0], found[1], CONTROL)}
    said = [f"{name}: {changed} of {count} answers changed" for name, (changed, count, _) in bad.items()]
    summary = f"{len(controls)} attacks with eps = 0 change {sum(found[0] for found in controls.values())} answers"
    values = {name: {"changed": changed, "count": count, "linf": linf}
              for name, (changed, count, linf) in controls.items()}
    if m.random:
        return Finding("cannot tell", f"{summary}, but the model is random: its answers change by themselves", values)
    return Finding(flag_if(bool(bad)), "; ".join([summary, *said]), values, casts_doubt=not set(bad) <= set(theirs))


@check("Intervals are given, and the test images are new to the model",
       threshold=f"in the training data no exact copy, and near-duplicates of at most {limit(DUPLICATES)} "
                 f"(1 - correlation under {limit(ALIKE_SHARE)} of the usual one to the nearest training image, or "
                 f"under {ALIKE:g} and {limit(ALIKE_WHERE_ALL_ARE)} of it)",
       source="Wilson 1927; Barz & Denzler 2020, arXiv:1902.00423 (duplicates in CIFAR)",
       means="The model is judged on images it has seen, so even its clean accuracy is too high. Take the copies out "
             "of one side, or split by patient, and measure again.")
def new_images(m: Measurements) -> Finding:
    low, high = Accuracy.of(m.clean).interval
    interval = f"clean accuracy has a 95 % interval of {percent(low)} to {percent(high)} ({len(m.labels)} images)"
    if m.copies is None:
        return Finding("cannot tell", f"{interval}; no training data were given (--train-data)")
    exact, distance, usual = m.copies
    alike = distance < max(min(ALIKE, ALIKE_WHERE_ALL_ARE * usual), ALIKE_SHARE * usual)
    copies, near = int(exact.sum()), int((exact | alike).sum())
    return Finding(flag_if(exceeds(copies, len(exact), 0.0) or exceeds(near, len(exact), DUPLICATES)),
                   f"{interval}; {copies} exact copies and {near - copies} near-duplicates of judged images in the "
                   f"training data",
                   {"copies": copies, "near": near, "count": len(exact)})
