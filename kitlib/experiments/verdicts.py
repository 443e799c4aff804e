"""Verdicts on a paper's figures: does what was measured differ from them by less than a margin that was stated before?

A figure is `compatible` where the whole 95 % interval of the difference lies inside the margin, `incompatible` where it
lies wholly outside, and `inconclusive` otherwise, so that few images and few seeds make a verdict harder to have.
"""
from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy.stats import t

from kitlib.base.settings import Settings
from kitlib.evaluation import CONFIDENCE, Measured, accuracy

Kind = Literal["compatible", "incompatible", "inconclusive"]
FEWEST_SEEDS = 3
ONE_ANSWER = 0.95       # a model that gives this share of the images one and the same answer tells nothing apart


class Answer(Measured):
    """An accuracy; under an attack that looks for the nearest adversarial image also its mean L2 distance over the
    images that it turned (None where it turned none) and the share that it turned, which is what it measures."""

    mean_l2: float | None = None
    success_rate: float | None = None


class PaperEntry(Settings):
    """One figure of a paper, in per cent, beside the measurements of one run that answer it.

    paper_images: how many images the figure stands for. margin: in points. images: how many as_published stands for.
    one_answer: whether the model gave nearly all of them the same answer. mechanism, control, control_is: what the
    figure may come from, and the measurement that isolates it. rivals: other explanations, by name, with what was
    measured of them (None: not tried). verdict, difference (interval, in points), explained_by, why: of this run alone;
    verdict is None where the run stands in for the paper's data and cannot judge the figure.
    """

    id: str
    paper: float
    paper_images: int
    margin: float
    images: int
    as_published: Measured
    as_defined: Answer
    defined_by: str
    one_answer: bool = False
    mechanism: str | None = None
    control: Measured | None = None
    control_is: Literal["flaw alone", "flaw removed"] | None = None
    rivals: dict[str, Measured | None] = {}
    verdict: Kind | None = None
    difference: tuple[float, float] | None = None
    explained_by: str | None = None
    why: str = ""


@dataclasses.dataclass(frozen=True)
class Sample:
    """A share of images that were answered rightly, and of how many images it is."""

    share: float
    images: int

    @property
    def interval(self) -> tuple[float, float]:
        return accuracy.wilson(self.share, self.images)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """kind, and the difference (measured minus the paper's, mean and 95 % interval, in points) over so many seeds.

    explained_by: the mechanism, where a control isolates it and its rivals were tried. reason: why it is inconclusive.
    """

    kind: Kind
    difference: float
    interval: tuple[float, float]
    seeds: int
    explained_by: str | None = None
    reason: str = ""

    def __str__(self) -> str:
        return self.kind + (f", explained by {self.explained_by}" if self.explained_by else "")


def difference(runs: Sequence[Sample], paper: Sample) -> tuple[float, float, float]:
    """Mean over the runs minus the paper's share, and the ends of its two-sided 95 % interval.

    Newcombe's hybrid score interval (1998, method 10) of two binomial shares with both sample sizes; with two runs or
    more the t-interval of their mean is added in squares (the MOVER of Zou and Donner 2008). The runs count as judged
    on the same images, so more of them do not make the binomial part smaller. How far a second training of the paper's
    would be from its first is not known and not in it.
    """
    shares = np.array([run.share for run in runs])
    mean = Sample(float(shares.mean()), min(run.images for run in runs))
    (low, high), (paper_low, paper_high) = mean.interval, paper.interval
    seeds = t.ppf((1 + CONFIDENCE) / 2, len(runs) - 1) * shares.std(ddof=1) / len(runs)**0.5 if len(runs) > 1 else 0.0
    between = mean.share - paper.share
    below = (seeds**2 + (mean.share - low)**2 + (paper_high - paper.share)**2)**0.5
    above = (seeds**2 + (high - mean.share)**2 + (paper.share - paper_low)**2)**0.5
    return between, between - float(below), between + float(above)


def judge(entries: Sequence[PaperEntry]) -> Verdict:
    """The verdict on one figure of a paper from its entries of one or more runs that differ in their seed."""
    first = entries[0]
    samples = [Sample(each.as_published.accuracy, each.images) for each in entries]
    between, low, high = (100 * each for each in difference(samples, Sample(first.paper / 100, first.paper_images)))
    found = Verdict(_kind(low, high, first.margin), between, (low, high), len(entries))
    if reason := _too_little(entries):
        return dataclasses.replace(found, kind="inconclusive", reason=reason)
    reason = "the interval crosses the margin" if found.kind == "inconclusive" else ""
    explained = first.mechanism if found.kind != "incompatible" and _is_explained(entries) else None
    return dataclasses.replace(found, reason=reason, explained_by=explained)


def _kind(low: float, high: float, margin: float) -> Kind:
    if -margin <= low and high <= margin:
        return "compatible"
    return "incompatible" if low > margin or high < -margin else "inconclusive"


def _too_little(entries: Sequence[PaperEntry]) -> str:
    if any(each.one_answer for each in entries):
        return "the model gives nearly every image the same answer"
    if len(entries) < FEWEST_SEEDS:
        return f"{len(entries)} of at least {FEWEST_SEEDS} seeds"
    return ""


def _is_explained(entries: Sequence[PaperEntry]) -> bool:
    """In every run the control isolates the mechanism, and each rival was tried and does not do the same."""
    rivals = [rival for each in entries for rival in each.rivals.values()]
    return bool(rivals) and all(_isolates(each) for each in entries) and all(
        rival is not None and not _within_margin(each, rival) for each in entries for rival in each.rivals.values())


def _isolates(entry: PaperEntry) -> bool:
    """The flaw alone does what the attack does; or without it the run comes out otherwise, and not at the figure."""
    if entry.control is None:
        return False
    if entry.control_is == "flaw alone":
        return _within_margin(entry, entry.control)
    return not _within_margin(entry, entry.control) and abs(100 * entry.control.accuracy - entry.paper) > entry.margin


def _within_margin(entry: PaperEntry, other: Measured) -> bool:
    return 100 * abs(entry.as_published.accuracy - other.accuracy) <= entry.margin + 1e-9


def with_verdict(entry: PaperEntry) -> PaperEntry:
    """The entry with the verdict of its run alone, and why. One run is too few for any other than `inconclusive`."""
    found = judge([entry])
    said = [in_words(found, entry.margin)]
    if entry.defined_by != "clean":
        said.append(f"under {entry.defined_by}: {cell(entry.as_defined)}")
    if entry.control:
        said.append(f"{entry.mechanism} ({entry.control_is}): {100 * entry.control.accuracy:.1f} %; "
                    f"rivals: {rivals_in_words(entry)}")
    return entry.model_copy(update={"verdict": found.kind, "difference": found.interval, "why": "; ".join(said)})


def in_words(found: Verdict, margin: float) -> str:
    low, high = found.interval
    seeds = f"{found.seeds} seed{'s' if found.seeds > 1 else ''}"
    reason = f"; {found.reason}" if found.reason and "seeds" not in found.reason else ""
    return (f"measured minus paper {found.difference:+.1f} points [{low:+.1f}, {high:+.1f}], margin {margin:g}, {seeds}"
            f"{reason}")


def rivals_in_words(entry: PaperEntry) -> str:
    tried = [f"{name} {'not tried' if found is None else f'{100 * found.accuracy:.1f} %'}"
             for name, found in entry.rivals.items()]
    return ", ".join(tried) or "not tried"


def cell(found: Answer) -> str:
    """An accuracy in per cent with its interval and count; of an attack that looks for the nearest adversarial image
    its distance and success, as an accuracy of 0.0 says nothing of it."""
    if found.success_rate is None:
        return accuracy.cell(found)
    distance = "none found" if found.mean_l2 is None else f"mean L2 distance {found.mean_l2:.2f}"
    return f"{distance}, success {100 * found.success_rate:.0f} % of {found.count}"
