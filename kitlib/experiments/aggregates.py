"""What the runs of a sweep say together: means, spreads and intervals over seeds, verdicts, and tables of them."""
from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from scipy import stats

from kitlib.base.settings import KitError, Settings
from kitlib.evaluation import CONFIDENCE, Measured
from kitlib.experiments import results, verdicts
from kitlib.experiments.results import Results, answer
from kitlib.experiments.verdicts import Answer

COLUMNS = {"experiment", "under", "baseline", "defended", "figure", "paper"}    # of tables, beside what is varied


class Spread(Settings):
    """One accuracy over seeds: its mean, the standard deviation between runs (n - 1 in the denominator), and the
    95 % t-interval of the mean, cut to [0, 1]. With one run there is neither.

    The interval holds what differs from seed to seed: weights, batches, attacks and, where the split is
    drawn by the seed, the test images. It does not hold what a single run's Wilson interval says.
    """

    n: int
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    mean: float
    deviation: float | None = None
    interval: tuple[float, float] | None = None

    @classmethod
    def of(cls, by_seed: dict[int, float]) -> Spread:
        seeds, values = zip(*sorted(by_seed.items()), strict=True)
        n, mean = len(values), float(np.mean(values))
        if n == 1:
            return cls(n=n, seeds=seeds, values=values, mean=mean)
        deviation = float(np.std(values, ddof=1))
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * deviation / n**0.5
        return cls(n=n, seeds=seeds, values=values, mean=mean, deviation=deviation,
                   interval=(max(0.0, mean - half), min(1.0, mean + half)))


class Distance(Settings):
    """Of an attack that looks for the nearest adversarial image: its mean L2 distance over the images that it turned
    (None where a run turned none), and the share that it turned; over seeds."""

    mean_l2: Spread | None
    success_rate: Spread


class PaperSpread(Settings):
    """One figure of a paper, in per cent, beside its measurements over seeds.

    verdict, difference (interval, in points), explained_by, rivals, seeds: see kitlib.experiments.verdicts; verdict is
    None where the runs stand in for the paper's data.
    """

    id: str
    paper: float
    as_published: Spread
    as_defined: Spread
    distance: Distance | None = None
    verdict: verdicts.Kind | None = None
    difference: tuple[float, float] | None = None
    explained_by: str | None = None
    why: str = ""

    @classmethod
    def of(cls, entries: dict[int, verdicts.PaperEntry]) -> PaperSpread:
        """From the entries of one figure by seed."""
        first = next(iter(entries.values()))
        as_defined = {seed: each.as_defined for seed, each in entries.items()}
        spread = cls(
            id=first.id, paper=first.paper, distance=_distance(as_defined), as_defined=_accuracies(as_defined),
            as_published=_accuracies({seed: each.as_published for seed, each in entries.items()}))
        if first.verdict is None:
            return spread
        found = verdicts.judge(list(entries.values()))
        rivals = f"; rivals: {verdicts.rivals_in_words(first)}" if first.mechanism else ""
        return spread.model_copy(update={
            "verdict": found.kind, "difference": found.interval, "explained_by": found.explained_by,
            "why": verdicts.in_words(found, first.margin) + rivals})


class Group(Settings):
    """The runs of one experiment and one combination of the grid, over seeds.

    models: model -> row of the table -> spread. distances: likewise, of attacks that look for the nearest adversarial
    image. seconds: means. headline: the rows that pictures show.
    """

    experiment: str
    variation: dict[str, str]
    synthetic: bool
    headline: tuple[str, ...]
    models: dict[str, dict[str, Spread]]
    distances: dict[str, dict[str, Distance]] = {}
    paper: tuple[PaperSpread, ...]
    seconds: dict[str, float]

    @classmethod
    def of(cls, variation: dict[str, str], by_seed: dict[int, Results]) -> Group:
        """From the results of runs by seed. Raises KitError where they answer different figures of the paper."""
        first = next(iter(by_seed.values()))
        entries = {seed: {entry.id: entry for entry in found.paper} for seed, found in by_seed.items()}
        if any(each.keys() != entries[first.seed].keys() for each in entries.values()):
            raise KitError(f"the runs of experiment '{first.experiment['name']}' answer different figures of the "
                           "paper: run the sweep again")
        rows = results.rows_of(first)
        worst_case = {key: label for label, key in rows.items()}["worst case"]
        answers = {model: {label: {seed: answer(found.models[model], key) for seed, found in by_seed.items()}
                           for label, key in rows.items()} for model in first.models}
        return cls(
            experiment=first.experiment["name"], variation=variation, synthetic=first.synthetic,
            models={model: {label: _accuracies(found) for label, found in of_model.items()}
                    for model, of_model in answers.items()},
            distances={model: {label: distance for label, found in of_model.items() if (distance := _distance(found))}
                       for model, of_model in answers.items()},
            paper=tuple(PaperSpread.of({seed: each[entry.id] for seed, each in entries.items()})
                        for entry in first.paper),
            seconds={what: float(np.mean([found.seconds[what] for found in by_seed.values()]))
                     for what in first.seconds},
            headline=("clean", *list(first.experiment["attacks"]["as_published"])[:1],
                      first.experiment["evaluation"]["headline"], worst_case))


def _accuracies(by_seed: Mapping[int, Measured]) -> Spread:
    return Spread.of({seed: each.accuracy for seed, each in by_seed.items()})


def _distance(by_seed: dict[int, Answer]) -> Distance | None:
    """None of an attack that does not look for the nearest adversarial image."""
    rates = {seed: each.success_rate for seed, each in by_seed.items() if each.success_rate is not None}
    lengths = {seed: each.mean_l2 for seed, each in by_seed.items() if each.mean_l2 is not None}
    if rates.keys() != by_seed.keys():
        return None
    return Distance(mean_l2=Spread.of(lengths) if lengths.keys() == by_seed.keys() else None,
                    success_rate=Spread.of(rates))


def accuracy_table(groups: Iterable[Group]) -> pd.DataFrame:
    """One row an experiment, combination and attack, one column a model; per cent."""
    rows = []
    for group in groups:
        for under in next(iter(group.models.values())):
            cells = {model: cell(spreads[under], group.distances.get(model, {}).get(under))
                     for model, spreads in group.models.items()}
            rows.append({"experiment": group.experiment, **_axes(group), "under": under, **cells})
    return pd.DataFrame(rows)


def _axes(group) -> dict:
    """The settings of a combination by their columns, which no other column may have the name of."""
    return {f"{axis} (varied)" if axis in COLUMNS else axis: value for axis, value in group.variation.items()}


def paper_table(groups: Iterable[Group]) -> pd.DataFrame:
    """One row an experiment, combination and figure of the paper; empty where there is none."""
    rows = []
    for group in groups:
        for entry in group.paper:
            verdict = entry.verdict or "(other data)"
            explained = f", explained by {entry.explained_by}" if entry.explained_by else ""
            rows.append({
                "experiment": group.experiment, **_axes(group), "figure": entry.id, "paper": f"{entry.paper:.2f}",
                "as published": cell(entry.as_published),
                "as defined": cell(entry.as_defined, entry.distance), "verdict": verdict + explained,
                "why": entry.why})
    return pd.DataFrame(rows)


def cell(spread: Spread, distance: Distance | None = None) -> str:
    """'81.2 ± 1.3 [78.0, 84.4], n = 3': mean, standard deviation, interval of the mean, number of runs. With a distance
    that and the share of images turned in its place, as an accuracy of 0.0 says nothing of such an attack."""
    if distance is not None:
        length = f"mean L2 distance {_plus_minus(distance.mean_l2, 1, 2)}" if distance.mean_l2 else "none found"
        return f"{length}, success {_plus_minus(distance.success_rate, 100, 0)} %, n = {spread.n}"
    if spread.deviation is None or spread.interval is None:
        return f"{100 * spread.mean:.1f}, n = 1"
    low, high = spread.interval
    return f"{100 * spread.mean:.1f} ± {100 * spread.deviation:.1f} [{100 * low:.1f}, {100 * high:.1f}], n = {spread.n}"


def _plus_minus(spread: Spread, scale: float, digits: int) -> str:
    deviation = "" if spread.deviation is None else f" ± {scale * spread.deviation:.{digits}f}"
    return f"{scale * spread.mean:.{digits}f}{deviation}"


LEGEND = ("Cells: mean ± standard deviation over seeds [95 % t-interval of the mean], n = number of runs, in per cent.")
