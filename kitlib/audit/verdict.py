"""From nineteen findings and a worst case to one verdict."""
from __future__ import annotations

import bisect
import itertools
from typing import Literal

import numpy as np

from kitlib.audit.checks import Check, Finding, percent, tells_classes_apart
from kitlib.audit.measure import Measurements
from kitlib.audit.proof import Proof, both_sides
from kitlib.base.settings import Settings
from kitlib.evaluation import Accuracy, guessing

Kind = Literal["trustworthy", "doubtful", "refuted", "not robust"]
WIDEST = 0.25   # of the interval of the worst case: with fewer than some 60 images nothing can be told
KEEPS = 0.25    # a model that keeps less than this share of its clean accuracy is called not robust


class Verdict(Settings):
    """The verdict, why, in a sentence, and the single attack that does most harm.

    refuted: the worst case lies below the claim by more than its interval. not robust: no claim was made, and under
    attack the model is no better than guessing (overall, and class by class), or keeps at most a quarter of its
    clean accuracy; being broken needs no further proof. doubtful: a flag casts doubt on the numbers, the images are too
    few, or the worst case is no better than guessing. trustworthy: nothing casts doubt. changes: what would change it.
    """

    kind: Kind
    sentence: str
    reasons: tuple[str, ...]
    attack: str
    changes: tuple[str, ...] = ()


def judge(m: Measurements, findings: list[tuple[Check, Finding]], proof: Proof | None = None) -> Verdict:
    """The verdict on the judged model, or on the claim made for it. proof: what is certain, where that is known."""
    worst, clean = Accuracy.of(m.survivors), Accuracy.of(m.clean)
    name, strongest = m.strongest
    does_it = f"accuracy under {name}: {strongest.accuracy}"
    flags = [(check, found) for check, found in findings if found.outcome == "flag"]
    reasons = tuple(f"check {check.number}, {check.title.lower()}: {found.measured}" for check, found in flags)
    weighty = [check for check, found in flags if found.casts_doubt]
    claim, guessed = m.subject.claim, guessing(m.labels)

    def verdict(kind: Kind, sentence: str, *changes: str) -> Verdict:
        if proof is not None and proof.proved.correct:
            sentence = f"{sentence} Robust accuracy on these images: {both_sides(proof, worst.value)}."
        return Verdict(kind=kind, sentence=sentence, reasons=reasons, attack=does_it, changes=changes)

    if proof is not None and proof.contradicted:
        return verdict("doubtful", f"{len(proof.contradicted)} images were turned by an attack though {proof.method} "
                                   "prove them robust: one of the two is wrong. Please report it.",
                       "an attack and a proof that agree")
    if guessed == 1:
        return verdict("doubtful", f"All {clean.count} images are of one class, so nothing tells whether the model "
                                   "knows it from others: judge images of several classes.",
                       "images of at least two classes")
    if clean.value <= guessed and not tells_classes_apart(m.clean, m.labels):
        return verdict("doubtful", f"Without any attack the model gets {clean}, which is no better than always naming "
                                   "the most frequent class: check the input range and the order of the classes.",
                       "a clean accuracy above guessing")
    if claim is not None and worst.interval[1] < claim:
        return verdict("refuted", f"The claim of {percent(claim)} is refuted: {does_it}, and {worst} resist every "
                                  "attack.", f"a claim of at most {percent(worst.interval[1])} would not be refuted")
    guesses = worst.value <= guessed and not tells_classes_apart(m.survivors, m.labels)
    beside = f" (always naming the most frequent class gets {percent(guessed)})" if guesses else ""
    if claim is None and (guesses or worst.value <= KEEPS * clean.value):
        return verdict("not robust", f"The model is not robust at this eps: {worst} resist every attack{beside}, of "
                                     f"{clean} right without attack. {does_it[:1].upper()}{does_it[1:]}.",
                       f"more than {int(KEEPS * clean.correct)} of {worst.count} images that resist every attack, and "
                       "more than guessing")
    stands = f"{worst} resist every attack{beside}" + (
        "" if claim is None else f", against a claim of {percent(claim)}")
    if guesses:
        return verdict("doubtful", f"{stands}: no more than guessing, so the claim says nothing of robustness. Judge "
                                   "as many images of one class as of another.", "as many images of each class")
    low, high = worst.interval
    if high - low > WIDEST:
        return verdict("doubtful", f"{stands}: {worst.count} images are too few to tell. Judge more.",
                       f"at least {_enough(worst)} images")
    if weighty:
        numbers = ", ".join(str(check.number) for check in weighty)
        return verdict("doubtful", f"{stands}, but {len(weighty)} of the checks cast doubt on it ({numbers}): "
                                   "robustness may well be lower.",
                       *(f"check {check.number} passing: {check.means}" for check in weighty))
    unbroken = [found.measured for check, found in findings
                if check.name == "breaks_undefended" and found.outcome == "cannot tell"]
    merit = f" Whether that is a merit is open: {unbroken[0]}." if unbroken else ""
    below = (" That is below the claim, by less than so few images can tell from chance: judge more."
             if claim is not None and worst.value < claim else "")
    return verdict("trustworthy", f"{stands}, and no check casts doubt on it. A stronger attack may still be found."
                                  f"{below}{merit}", *_would_fall(worst, clean, claim))


def _would_fall(worst: Accuracy, clean: Accuracy, claim: float | None) -> tuple[str, ...]:
    """What a stronger attack would have to find."""
    if claim is None:
        most, kind = int(KEEPS * clean.correct), "not robust"
    else:
        upper = bisect.bisect_left(range(worst.count + 1), claim, key=lambda n: Accuracy(n, worst.count).interval[1])
        most, kind = upper - 1, "refuted"
    if most < 0:
        return ()
    return (f"an attack that turns {worst.correct - most} of the {worst.correct} images that resist would make it "
            f"{kind}", "a flag that casts doubt would make it doubtful")


def _enough(worst: Accuracy) -> int:
    """How many images narrow the interval of this accuracy to what can be judged."""
    return next(count for count in itertools.count(worst.count)
                if np.ptp(Accuracy(round(worst.value * count), count).interval) <= WIDEST)
