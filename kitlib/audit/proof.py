"""Both sides: what can be proved of the judged model, beside what attacks found."""
from __future__ import annotations

import numpy as np

from kitlib import certify
from kitlib.audit.checks import percent
from kitlib.audit.measure import Measurements
from kitlib.base.settings import KitError, Settings
from kitlib.evaluation import Measured

METHODS = {"ibp": "interval bounds", "crown_ibp": "CROWN-IBP"}


class Proof(Settings):
    """Which share of the images is right at every point within eps, by which methods.

    contradicted: places of images that are proved, and that an attack turned all the same: a bug of one of them.
    """

    method: str
    proved: Measured
    contradicted: tuple[int, ...] = ()


def prove(m: Measurements) -> Proof | None:
    """What interval bounds and CROWN-IBP prove of the judged images; None for a random model, and for one with a layer
    of which they know nothing."""
    if m.random:
        return None
    proved = np.zeros(len(m.labels), bool)
    try:
        for name, title in METHODS.items():
            m.begin("proof", f"what can be proved by {title}")
            method = {"name": name, "eps": m.subject.eps, "norm": m.subject.norm}
            proved |= certify.run(method, m.model, m.images, m.labels, batch_size=m.batch).proved
    except KitError as error:
        m.say(f"nothing can be proved: {error}")
        return None
    return Proof(method=" and ".join(METHODS.values()), proved=Measured.of(proved),
                 contradicted=tuple(map(int, np.flatnonzero(proved & ~m.survivors))))


def both_sides(proof: Proof, most: float) -> str:
    """At least so much, at most so much. most: the worst case under attack, a share."""
    least, open_ = proof.proved.accuracy, most - proof.proved.accuracy
    unknown = f"; of {percent(open_)} of the images it is not known" if open_ > 0 else ""
    return f"at least {percent(least)} (proved by {proof.method}), at most {percent(most)} (attacked){unknown}"
