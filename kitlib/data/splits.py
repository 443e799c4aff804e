"""Stratified and grouped splits, exact and seeded."""
from __future__ import annotations

import numpy as np

from kitlib.base.settings import KitError
from kitlib.data.settings import PARTS, SplitSettings

ORDERS_TRIED = 50


def allocate(counts: np.ndarray, total: int) -> np.ndarray:
    """`total` shared out in proportion to `counts` (largest remainders), each non-empty class
    getting one at least where `total` allows it."""
    quota = counts * (total / counts.sum())
    shares = np.floor(quota).astype(int)
    if total >= (counts > 0).sum():
        shares = np.maximum(shares, counts > 0)
    while shares.sum() > total:
        shares[np.argmax(np.where(shares > 1, shares - quota, -np.inf))] -= 1
    while shares.sum() < total:
        shares[np.argmax(np.where(shares < counts, quota - shares, -np.inf))] += 1
    return shares


def stratified(labels: np.ndarray, among: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` of the indices `among`, at random, with the classes in proportion, in random order."""
    if count >= len(among):
        return rng.permutation(among)
    classes, inverse = np.unique(labels[among], return_inverse=True)
    shares = allocate(np.bincount(inverse, minlength=len(classes)), count)
    chosen = [rng.permutation(among[inverse == k])[:share] for k, share in enumerate(shares)]
    return rng.permutation(np.concatenate(chosen))


def split(labels: np.ndarray, settings: SplitSettings, seed: int, class_names: tuple[str, ...],
          given: dict[str, np.ndarray] | None = None, groups: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Indices of "train", "validation" and "test", each in random order.

    `given` are the data set's own parts (empty where it has none), `groups` one number an image.
    Raises KitError where a part would be empty or lack a class that another part has.
    """
    rng = np.random.default_rng(seed)
    if settings.kind == "given":
        parts = _given(labels, settings, rng, given or {})
    elif settings.kind == "grouped":
        parts = _grouped(labels, settings, rng, groups)
    else:
        parts = _random(labels, settings, rng)
    _refuse_missing_classes(labels, parts, class_names)
    return parts


def _count(share: int | float, total: int) -> int:
    return share if isinstance(share, int) else max(1, round(share * total))


def _draw(labels, among, share, rng, part) -> tuple[np.ndarray, np.ndarray]:
    """A stratified part of `among`, and what is left of it."""
    count = _count(share, len(labels))
    if count >= len(among):
        raise KitError(f"split: {part} asks for {count} images, but there are only {len(among)} to share out: "
                       "ask for fewer")
    chosen = stratified(labels, among, count, rng)
    return chosen, rng.permutation(np.setdiff1d(among, chosen))


def _random(labels, settings, rng):
    everything = np.arange(len(labels))
    test, rest = _draw(labels, everything, settings.test, rng, "test")
    validation, train = _draw(labels, rest, settings.validation, rng, "validation")
    return {"train": train, "validation": validation, "test": test}


def _given(labels, settings, rng, given):
    if "train" not in given or "test" not in given:
        raise KitError("split: the kind is 'given', but the data have no train/ and test/ of their own: "
                       "use 'random' or 'grouped'")
    parts = {part: rng.permutation(indices) for part, indices in given.items()}
    if "validation" not in parts:
        count = _count(settings.validation, len(parts["train"]))
        if count >= len(parts["train"]):
            raise KitError(f"split: validation asks for {count} images, but the train part has only "
                           f"{len(parts['train'])}: ask for fewer")
        parts["validation"] = stratified(labels, parts["train"], count, rng)
        parts["train"] = rng.permutation(np.setdiff1d(parts["train"], parts["validation"]))
    return {part: parts[part] for part in PARTS}


def _grouped(labels, settings, rng, groups):
    """Groups go one by one, in random order, to the part that lacks their classes most; of
    several orders the one that comes closest to the counts asked for is kept."""
    total = len(labels)
    test, validation = _count(settings.test, total), _count(settings.validation, total)
    if test + validation >= total:
        raise KitError(f"split: validation and test ask for {test + validation} of {total} images: ask for fewer")
    names, member_of = np.unique(groups, return_inverse=True)
    table = np.zeros((len(names), labels.max() + 1))
    np.add.at(table, (member_of, labels), 1)
    share = np.array([total - test - validation, validation, test]) / total
    target = np.maximum(share[:, None] * table.sum(0), 1e-9)
    tries = [_assign(table, target, rng.permutation(len(names))) for _ in range(ORDERS_TRIED)]
    best = min(tries, key=lambda to_part: _miss(table, target, to_part))
    return {part: rng.permutation(np.flatnonzero(best[member_of] == k)) for k, part in enumerate(PARTS)}


def _assign(table, target, order):
    have = np.zeros_like(target)
    to_part = np.empty(len(table), int)
    for group in order:
        lack = ((target - have) / target) @ table[group]
        to_part[group] = lack.argmax()
        have[to_part[group]] += table[group]
    return to_part


def _miss(table, target, to_part):
    """Largest relative distance of a part's class from its target; an empty one counts as much."""
    have = np.stack([table[to_part == part].sum(0) for part in range(len(target))])
    return (np.abs(have - target) / target + 10 * (have == 0)).max()


def _refuse_missing_classes(labels, parts, class_names):
    every = set(np.unique(labels[np.concatenate(list(parts.values()))]))
    for part, indices in parts.items():
        missing = every - set(np.unique(labels[indices]))
        if missing:
            raise KitError(f"split: the {part} part has no image of class '{class_names[min(missing)]}', which "
                           "has too few images or groups: add some, leave the class out, or make the part larger")
