"""Both sides: what can be proved of the judged model, beside what attacks found."""
from __future__ import annotations

from kitlib.audit.measure import Measurements
from kitlib.base.settings import Settings
from kitlib.evaluation import Accuracy, Measured


class Proof(Settings):
    """How many images are right at every point within eps, by which method; `Measured` like an accuracy.

    contradicted: places of images that are proved, and that an attack turned all the same: a bug of one of them.
    """

    method: str
    proved: Measured
    contradicted: tuple[int, ...] = ()


def prove(m: Measurements) -> Proof | None:
    """The best of interval bounds and CROWN-IBP, where the model has layers that they know; else None."""
    return None


def sentence_of(proof: Proof | None, worst: Accuracy) -> str:
    """What is certain, and what is not known."""
    if proof is None:
        return ""
    least, most = 100 * proof.proved.accuracy, 100 * worst.value
    if proof.contradicted:
        return (f"{len(proof.contradicted)} images were turned by an attack though {proof.method} proves them robust: "
                "one of the two is wrong, please report it.")
    return (f"Robust accuracy on these images lies between {least:.1f} % (proved by {proof.method}) and {most:.1f} % "
            f"(attacked)" + (f": of {most - least:.1f} % it is not known." if most > least else "."))
