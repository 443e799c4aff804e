"""The audit's own attacks within eps."""
from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from typing import Literal, overload

import numpy as np

from kitlib import attacks
from kitlib.attacks import Attack
from kitlib.attacks.limits import is_8_bit
from kitlib.audit.checks import CHECKS
from kitlib.audit.gradients import Gradients
from kitlib.audit.judged import EOT_PASSES, Attacked
from kitlib.audit.subject import ON_ALL, suite
from kitlib.models.bpda import Averaged

# Checks whose flag says that gradients may lead astray.
DOUBTS = ("large_eps", "iterative", "beats_transfer", "has_gradient", "logits", "adaptive")


class Ensemble(Gradients):
    """Attacks on all images: noise, FGSM, PGD. Then those that go on with what PGD did not turn: on the others they
    cannot change the worst case (Croce & Hein 2020, section 6, run the attacks of AutoAttack so)."""

    @functools.cached_property
    def suite(self) -> dict[str, Attack]:
        return suite(self.subject, self.effort)

    @functools.cached_property
    def _under(self) -> dict[str, Attacked | None]:
        return {}

    @overload
    def under(self, name: Literal["noise", "FGSM", "PGD"]) -> Attacked: ...
    @overload
    def under(self, name: str) -> Attacked | None: ...

    def under(self, name):
        """The outcome of the attack of that name in the suite; None where PGD turned all that it would go on with."""
        if name not in self._under:
            self._under[name] = self._measure(name)
        return self._under[name]

    def _measure(self, name: str) -> Attacked | None:
        attack, kept = self.suite[name], None if name in ON_ALL else self.pgd.right
        if kept is None:
            self.begin(name, str(attack))
            return self.attacked(attack)
        if not kept.any():
            return None
        self.begin(name, f"{attack}, on the {kept.sum()} images that PGD did not turn")
        return self.attacked_among(kept, attack)

    @property
    def pgd(self) -> Attacked:
        """The plain gradient attack that the sanity checks are about: PGD on the cross-entropy."""
        return self.under("PGD")

    @property
    def pgd_doubled(self) -> Attacked:
        """PGD with twice the steps and restarts on what PGD did not turn; where that is nothing, PGD itself."""
        return self.under("PGD, doubled") or self.pgd

    @property
    def eight_bit_attack(self) -> Attack:
        """PGD whose images are in whole n/255, as a file of 8 bits holds them."""
        return self.suite["PGD"].model_copy(update={"round": True})

    @functools.cached_property
    def in_8_bits(self) -> Attacked | None:
        """Which of the images that PGD turned are turned in 8 bits, too. None where PGD turned none, and in L2 for
        images that are not in whole n/255 themselves."""
        turned = self.clean & ~self.pgd.right
        if not turned.any() or self.subject.norm == "l2" and not is_8_bit(self.images):
            return None
        self.begin("8 bits", f"{self.eight_bit_attack}, on the {turned.sum()} images that PGD turned")
        found = self.attacked_among(turned, self.eight_bit_attack)
        return dataclasses.replace(found, right=found.right | self.pgd.right)

    @property
    def fgsm(self) -> Attacked:
        return self.under("FGSM")

    @property
    def noise(self) -> Attacked:
        return self.under("noise")

    @functools.cached_property
    def targeted(self) -> Attacked | None:
        """APGD led to each of the likeliest other classes (as Croce & Hein 2020, section 4, do; but with the margin to
        that class for a loss, where they have a targeted DLR). None where PGD turned all, and for two classes."""
        kept, tries = self.pgd.right & self.clean, []
        classes, steps = self.subject.target.classes, self.effort.targeted_steps or self.effort.apgd_steps
        attack = self.subject.attack(attacks.APGD, steps=steps, loss="margin", targeted=True, stop_early=True)
        others = np.where(np.eye(classes, dtype=bool)[self.labels], -np.inf, self.clean_logits)
        order = np.argsort(-others, axis=1, kind="stable").astype(np.int32)
        for rank in range(min(self.effort.targets, classes - 1) if classes > 2 else 0):
            if kept.any():
                self.begin("targeted", f"{attack}, target {rank + 1}, on {kept.sum()} images")
                tries.append(self.attacked_among(kept, attack, targets=order[:, rank]))
                kept = tries[-1].right
        return _together(tries) if tries else None

    # --- without gradients

    @functools.cached_property
    def by_gradient(self) -> np.ndarray:
        """Which images are right without attack and under every attack of the audit that follows a gradient."""
        return self.clean & right_under_all([*map(self.under, self.suite), self.targeted])

    @functools.cached_property
    def square(self) -> Attacked | None:
        """Square on images that PGD did not turn; those that PGD turned count as turned. A short search on a few,
        unless gradients are in doubt, or that search turns what they did not. None where PGD turned all."""
        kept = self.pgd.right
        if not kept.any():
            return None
        few = _first_of(kept, self.effort.first_images)
        queries = min(self.effort.first_queries, self.effort.queries)
        short = None
        if not self.why_doubted:
            short = self._square_on(kept, few, queries, "a short search, as no check doubts the gradients")
            if not (few & self.by_gradient & ~short.right).any():
                return short
            self.why_doubted = ("the short search of Square turned images that no gradient attack did",)
        many = _first_of(kept, self._affordable(int(kept.sum())))
        return self._square_on(kept, many, self.effort.queries, "; ".join(self.why_doubted))

    @functools.cached_property
    def why_doubted(self) -> tuple[str, ...]:
        """Why gradients are in doubt, so that Square gets all its queries: flagged checks, BPDA or EOT."""
        found = [(check, check.function(self)) for check in CHECKS if check.name in DOUBTS]
        flagged = [f"check {check.number} is flagged" for check, each in found
                   if each.outcome == "flag" and each.casts_doubt]
        return (*flagged, *(["the model is random"] if self.random else []),
                *(["the model has steps without gradient"] if self.blocked else []))

    def _affordable(self, count: int) -> int:
        """How many images may have all of Square's queries, of `count`, in the time that is left."""
        plan = self.plan
        if plan is None or (spare := plan.spare()) is None:
            return count
        number = int(np.clip(spare / (plan.pace.forward * self.effort.queries), 1, count))
        if number < count:
            plan.cut += (f"Square's {self.effort.queries} queries on {number} of {count} images",)
        return number

    @functools.cached_property
    def square_alone(self) -> np.ndarray:
        """Which images are right under Square: it attacks those that PGD turned, too."""
        turned = ~self.pgd.right
        if not turned.any() and self.square is not None:
            return self.square.right
        rest = self._square_on(turned, turned, self.effort.queries, "on its own").right
        return rest if self.square is None else rest | self.square.right

    def _square_on(self, kept: np.ndarray, which: np.ndarray, queries: int, why: str) -> Attacked:
        """Square on `which` of the images; others that are `kept` count as right, the rest as wrong."""
        attack = self.subject.attack(attacks.Square, steps=queries)
        self.begin("Square", f"{attack}, on {which.sum()} images: {why}")
        found = self.attacked_among(which, attack)
        return dataclasses.replace(found, right=found.right | (kept & ~which))

    # --- through what hides the gradient

    @functools.cached_property
    def eot(self) -> Attacked | None:
        """PGD on the mean of several passes, where the model is random; through its layers without gradient, too
        (Athalye et al. 2018, section 4, combine EOT and BPDA so)."""
        if not self.random:
            return None
        self.begin("EOT", f"the model is random: PGD on the mean of {EOT_PASSES} passes (EOT)")
        attack = self.suite["PGD"].model_copy(update={"stop_early": False, "keep": "last"})
        stand_in = Averaged(self.blocked[0] if self.blocked else self.model, EOT_PASSES)
        return self.attacked(attack, model=stand_in, through="EOT")

    @functools.cached_property
    def bpda(self) -> Attacked | None:
        """PGD on the model with its steps without gradient taken as the identity, judged by the model itself; None
        where there are none."""
        if self.blocked is None:
            return None
        self.begin("BPDA", f"layers without gradient ({', '.join(self.blocked[1])}): PGD through them (BPDA)")
        return self.attacked(self.suite["PGD"], model=self.blocked[0], through="BPDA")

    @functools.cached_property
    def without_doubling(self) -> np.ndarray:
        """Which images are right under every attack of the suite, and Square, but the doubled PGD."""
        others = [self.under(name) for name in self.suite if name != "PGD, doubled"]
        return right_under_all([*others, self.targeted, self.square])


def right_under_all(found: Iterable[Attacked | None]) -> np.ndarray:
    return np.logical_and.reduce([each.right for each in found if each is not None])


def _first_of(which: np.ndarray, count: int) -> np.ndarray:
    """The first `count` of those."""
    return which & (np.cumsum(which) <= count)


def _together(tries: list[Attacked]) -> Attacked:
    """One attack that was tried again on the images that each try did not turn."""
    best = max(tries, key=lambda each: len(each.turned))
    return dataclasses.replace(
        best, right=tries[-1].right, linf=max(each.linf for each in tries), l2=max(each.l2 for each in tries),
        low=min(each.low for each in tries), high=max(each.high for each in tries),
        finite=all(each.finite for each in tries), seconds=sum(each.seconds for each in tries))
