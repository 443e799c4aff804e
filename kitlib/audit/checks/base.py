"""What a check is, its thresholds, and when a difference counts.

A share of images counts only if the lower end of its 95 % Wilson interval lies above the threshold. Where accuracies
on the same images are compared, it is the interval of the mean difference, image by image: so a few images more or
less raise no alarm, nor do many where as many change the other way. Each threshold stands once, above its checks, or
here where several use it; the sentences are made from it.
"""
from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from kitlib.evaluation import Accuracy, guessing

Outcome = Literal["pass", "flag", "cannot tell"]

CARLINI = "Carlini et al. 2019, arXiv:1902.06705, section"
AUTOATTACK = "Croce & Hein 2020, arXiv:2003.01690"
ATHALYE = "Athalye et al. 2018, arXiv:1802.00420, section"

CONVERGED = 0.01        # that twice the steps and restarts may bring
NONE_RIGHT = "the model answers no image rightly, even without attack"


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one check found. measured: in a sentence. values: the numbers behind it.

    casts_doubt: whether a flag casts doubt on the audit's own numbers (and not only on those of others).
    """

    outcome: Outcome
    measured: str
    values: dict[str, Any] = dataclasses.field(default_factory=dict)
    casts_doubt: bool = True


@dataclasses.dataclass(frozen=True)
class Check:
    """One check: its number and name, what it asks, threshold, source, and what a flag means and asks for next."""

    number: int
    name: str
    title: str
    threshold: str
    source: str
    means: str
    function: Callable[[Any], Finding]


CHECKS: list[Check] = []


def check(title: str, *, threshold: str, source: str, means: str):
    """Enter a function of `Measurements` as the next check."""
    def enter(function):
        CHECKS.append(Check(len(CHECKS) + 1, function.__name__, title, threshold, source, means, function))
        return function
    return enter


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def in_points(share: float) -> str:
    """A threshold on a difference of accuracies: '0.5 points'."""
    return f"{100 * share:g} point{'s' * (share != 0.01)}"


def limit(share: float) -> str:
    """A threshold on a share: '95 %'."""
    return f"{100 * share:g} %"


def of_claim(name: str) -> str:
    """An attack that the claim was measured with."""
    return f"{name} (the claim's own)"


def under(name: str, share: float) -> str:
    return f"accuracy under {name}: {percent(share)}"


def flag_if(bad: bool) -> Outcome:
    return "flag" if bad else "pass"


def exceeds(number: int, count: int, threshold: float) -> bool:
    """Whether `number` of `count` images are more than the threshold, by the lower end of the interval."""
    return number > 0 and Accuracy(number, count).interval[0] > threshold


def more_right(one: np.ndarray, other: np.ndarray, threshold: float) -> bool:
    """Whether more images are right under `one` than under `other`, by more than the threshold (a share).

    Both are of the same images, right (1) or wrong (0) in each, so it is the mean of the differences that has a 95 %
    interval. With b images right under `one` alone and c under `other` alone, of n, that is
    (b - c) / n +- 1.96 sqrt(b + c - (b - c)^2 / n) / n (Fleiss, Statistical methods for rates and proportions).
    """
    differences = one.astype(float) - other.astype(float)
    return bool(differences.mean() - 1.96 * differences.std() / np.sqrt(len(differences)) > threshold)


def clearly_above_guessing(found: Accuracy, labels: np.ndarray) -> bool:
    """Whether a model has learnt enough to be compared with: its accuracy beats naming the most frequent class."""
    return found.interval[0] > guessing(labels)


def tells_classes_apart(right: np.ndarray, labels: np.ndarray) -> bool:
    """Whether the mean over classes of the share that is right (balanced accuracy) is clearly above guessing: by its
    95 % interval. A model that seeks a rare class may be right less often than one that always names the usual one.
    """
    shares = [right[labels == label] for label in np.unique(labels)]
    error = np.sqrt(sum(each.var() / len(each) for each in shares)) / len(shares)
    return bool(np.mean([each.mean() for each in shares]) - 1.96 * error > 1 / len(shares))
