"""From nineteen findings and a worst case to one verdict."""
from __future__ import annotations

from typing import Literal

from kitlib.audit.checks import Check, Finding, points, tells_classes_apart
from kitlib.audit.measure import Measurements
from kitlib.base.settings import Settings
from kitlib.evaluation import Accuracy, guessing

Kind = Literal["trustworthy", "doubtful", "refuted", "not robust"]
WIDEST = 0.25   # of the interval of the worst case: with fewer than some 60 images nothing can be told
LEFT = 0.25     # a model that keeps less than this share of its clean accuracy is called not robust


class Verdict(Settings):
    """The verdict, why, in a sentence, and the single attack that does most harm.

    refuted: the worst case lies below the claim by more than its interval. not robust: no claim was made, and under
    attack the model is no better than guessing (overall, and class by class), or keeps less than a quarter of its
    clean accuracy; being broken needs no further proof. doubtful: a flag casts doubt on the numbers, the images are too
    few, or what is left is no better than guessing. trustworthy: nothing casts doubt.
    """

    kind: Kind
    sentence: str
    reasons: tuple[str, ...]
    attack: str


def judge(m: Measurements, findings: list[tuple[Check, Finding]]) -> Verdict:
    """The verdict on the judged model, or on the claim made for it."""
    worst, clean = Accuracy.of(m.survivors), Accuracy.of(m.clean)
    name, strongest = m.strongest
    does_it = f"{name} leaves {strongest.accuracy}"
    flags = [(check, found) for check, found in findings if found.outcome == "flag"]
    reasons = tuple(f"check {check.number}, {check.title.lower()}: {found.measured}" for check, found in flags)
    weighty = [check for check, found in flags if found.matters]

    def verdict(kind: Kind, sentence: str) -> Verdict:
        return Verdict(kind=kind, sentence=sentence, reasons=reasons, attack=does_it)

    claim, guessed = m.subject.claim, guessing(m.labels)
    if guessed == 1:
        return verdict("doubtful", f"All {clean.count} images are of one class, so nothing tells whether the model "
                                   "knows it from others: judge images of several classes.")
    if clean.value <= guessed and not tells_classes_apart(m.clean, m.labels):
        return verdict("doubtful", f"Without any attack the model gets {clean}, which is no better than always naming "
                                   "the most frequent class: check the input range and the order of the classes.")
    if claim is not None and worst.interval[1] < claim:
        return verdict("refuted", f"The claim of {points(claim)} is refuted: {does_it}, and {worst} resist every "
                                  "attack.")
    guesses = worst.value <= guessed and not tells_classes_apart(m.survivors, m.labels)
    beside = f" (always naming the most frequent class gets {points(guessed)})" if guesses else ""
    if claim is None and (guesses or worst.value <= LEFT * clean.value):
        return verdict("not robust", f"The model is not robust at this eps: {worst} resist every attack{beside}, of "
                                     f"{clean} right without attack. {does_it}.")
    stands = f"{worst} resist every attack{beside}" + (
        "" if claim is None else f", against a claim of {points(claim)}")
    if guesses:
        return verdict("doubtful", f"{stands}: no more than guessing, so the claim says nothing of robustness. Judge "
                                   "as many images of one class as of another.")
    low, high = worst.interval
    if high - low > WIDEST:
        return verdict("doubtful", f"{stands}: {worst.count} images are too few to tell. Judge more.")
    if weighty:
        numbers = ", ".join(str(check.number) for check in weighty)
        return verdict("doubtful", f"{stands}, but {len(weighty)} of the checks cast doubt on it ({numbers}): "
                                   "robustness may well be lower.")
    unbroken = [found.measured for check, found in findings
                if check.name == "breaks_undefended" and found.outcome == "cannot tell"]
    merit = f" Whether that is a merit is open: {unbroken[0]}." if unbroken else ""
    below = (" That is below the claim, by less than so few images can tell from chance: judge more."
             if claim is not None and worst.value < claim else "")
    return verdict("trustworthy", f"{stands}, and no check casts doubt on it. A stronger attack may still be found."
                                  f"{below}{merit}")
