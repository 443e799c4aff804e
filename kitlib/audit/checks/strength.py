"""Checks 1 to 8: does the attack stay in its threat model, and is it as strong as it should be?"""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kitlib.attacks.base import NORM_NAMES, written
from kitlib.audit.checks.base import (
    AUTOATTACK,
    CARLINI,
    CONVERGED,
    Finding,
    check,
    clearly_above_guessing,
    exceeds,
    flag_if,
    in_points,
    more_right,
    of_claim,
    percent,
    under,
)
from kitlib.evaluation import Accuracy, guessing

if TYPE_CHECKING:      # measurements ask some of the checks themselves
    from kitlib.audit.measure import Measurements

ROUNDING = 1e-6         # a perturbation may exceed eps by this much
RISE = 0.01             # of accuracy with eps
SINGLE_STEP = 0.005     # that FGSM may be stronger than PGD
NO_BETTER = 0.005       # that noise or carried-over examples may be stronger than the attack
GRADIENT_FREE = 0.002   # that Square may be stronger than the gradient attack


@check("Every perturbation stays within eps and the pixel box",
       threshold=f"largest change at most eps + {ROUNDING:g}; pixels in [0, 1]; no NaN", source=f"{CARLINI} 2.2",
       means="The attack goes beyond its threat model, so its accuracy answers another question. Clip to eps and to "
             "[0, 1] in pixels.")
def threat_model(m: Measurements) -> Finding:
    norm, eps = m.subject.norm, m.subject.eps
    bad = [f"{name} (in the audit)" for name, each in m.ensemble.items() if _outside(each, norm, eps)]
    own = {name: each for name, each in m.own.items() if _outside(each, *_stated(each.attack))}
    largest = written(norm, max(each.size(norm) for each in m.ensemble.values()))
    ours = (f"eps {written(norm, eps)} in {NORM_NAMES[norm]}; {len(m.ensemble)} attacks of the audit, largest "
            f"perturbation {largest}")
    details = [f"{name}: pixels from {each.low:.3f} to {each.high:.3f}, largest change {255 * each.linf:.1f}/255"
               for name, each in own.items()]
    return Finding(flag_if(bool(bad or own)), "; ".join([ours, *bad, *details]),
                   {"outside": [*bad, *own], "eps": eps}, casts_doubt=bool(bad))


def _outside(attacked, norm: str, eps: float | None) -> bool:
    too_far = eps is not None and attacked.size(norm) > eps + ROUNDING * (1 if norm == "linf" else 1 + eps)
    return too_far or not attacked.finite or attacked.low < -ROUNDING or attacked.high > 1 + ROUNDING


def _stated(attack) -> tuple[str, float | None]:
    """The norm and the eps that an attack states, in pixels; None where it states none."""
    eps = getattr(attack, "eps", getattr(attack, "step", None))
    normalisation = getattr(attack, "normalisation", None)
    return getattr(attack, "norm", "linf"), (
        eps if eps is None or normalisation is None else eps * float(np.max(normalisation.std)))


@check("Accuracy does not rise with eps", threshold=f"a rise of at most {in_points(RISE)}", source=f"{CARLINI} 5.2",
       means="A larger eps allows all that a smaller one does, so the attack fails at the larger one. Use more steps, "
             "another step size, or a loss that does not saturate.")
def monotonic(m: Measurements) -> Finding:
    sizes = list(m.sweep)
    rights = [m.sweep[size].right for size in sizes]
    rises = [(later, earlier) for later in range(len(sizes)) for earlier in range(later)
             if more_right(rights[later], rights[earlier], RISE)]
    curve = ", ".join(f"{m.subject.written(size)}: {percent(each.right.mean())}" for size, each in m.sweep.items())
    return Finding(flag_if(bool(rises)), f"accuracy under PGD at {curve}",
                   {"eps": sizes, "accuracy": [float(right.mean()) for right in rights]})


@check("At a very large eps accuracy falls to chance",
       threshold="accuracy where every image can be made solid grey (L-inf 0.5) no better than chance",
       source=f"{CARLINI} 5.2",
       means="At this eps every image can be made solid grey, so an attack under which accuracy stays above chance "
             "does not work: the gradient is masked. Look at the checks on gradients, and attack with a margin loss or "
             "without gradients.")
def large_eps(m: Measurements) -> Finding:
    grey = m.subject.grey
    right = m.sweep[grey].right
    found, chance = Accuracy.of(right), guessing(m.labels[:len(right)])
    return Finding(flag_if(found.interval[0] > chance),
                   f"accuracy under PGD {m.subject.written(grey)}: {found}; chance is {percent(chance)}",
                   {"accuracy": found.value, "chance": chance})


@check("PGD is at least as strong as FGSM", threshold=f"FGSM stronger by at most {in_points(SINGLE_STEP)}",
       source=f"{CARLINI} 5.2",
       means="Many small steps that do less than one large step: the gradient leads astray. Try more random starts, a "
             "larger step, or an attack without gradients.")
def iterative(m: Measurements) -> Finding:
    bad = more_right(m.pgd.right, m.fgsm.right, SINGLE_STEP)
    return Finding(flag_if(bad), f"{under('FGSM', m.fgsm.right.mean())}, under PGD: {percent(m.pgd.right.mean())}",
                   {"fgsm": m.fgsm.accuracy.value, "pgd": m.pgd.accuracy.value})


@check("The attacks have converged",
       threshold=f"PGD with twice the steps and restarts turns at most {in_points(CONVERGED)} more images than the "
                 f"others together; the claim's own attack gains at most {in_points(CONVERGED)} from twice the steps",
       source=f"{CARLINI} 4.8",
       means="The attack was stopped too early, so its accuracy is too high. Raise the number of steps and restarts "
             "until nothing changes.")
def converged(m: Measurements) -> Finding:
    before, after, others = m.pgd.right, m.pgd_doubled.right, m.without_doubling
    gain = int((others & ~after).sum())
    bad = exceeds(gain, len(m.labels), CONVERGED)
    said = [f"{under(f'PGD with {m.pgd.attack.length} steps', before.mean())}; twice the steps and restarts turn "
            f"{int((before & ~after).sum())} more, and {gain} images of {len(m.labels)} that no other attack turns"]
    own = {name: doubled for name, doubled in m.own_doubled.items()
           if more_right(m.own[name].right, doubled.right, CONVERGED)}
    said += [f"{under(of_claim(name), m.own[name].right.mean())}, with twice the steps: "
             f"{percent(doubled.right.mean())}" for name, doubled in own.items()]
    values = {"accuracy": float(before.mean()), "doubled": float((before & after).mean()), "gain": gain}
    return Finding(flag_if(bad or bool(own)), "; ".join(said), values, casts_doubt=bad)


@check("Random noise of the same size does less harm", threshold=f"noise stronger by at most {in_points(NO_BETTER)}",
       source=f"{CARLINI} 4.11",
       means="The attack does no more than chance does: it gets no use out of the gradient. See the checks on "
             "gradients.")
def beats_noise(m: Measurements) -> Finding:
    said = (f"{under('noise', m.noise.right.mean())}, under PGD: {percent(m.pgd.right.mean())}, "
            f"no attack: {percent(m.clean.mean())}")
    values = {"noise": m.noise.accuracy.value, "pgd": m.pgd.accuracy.value, "clean": float(m.clean.mean())}
    if more_right(m.pgd.right, m.noise.right, NO_BETTER):
        return Finding("flag", said, values)
    if not (m.clean & ~m.pgd.right).any():
        return Finding("cannot tell", f"{said}: neither does any harm at this eps", values)
    return Finding("pass", said, values)


@check("Examples carried over from an undefended model do less harm",
       threshold=f"stronger by at most {in_points(NO_BETTER)}", source=f"{CARLINI} 4.5",
       means="Another model's gradient is a better guide than this model's own: its gradient is masked. Count the "
             "carried-over examples, and attack with a margin loss, BPDA or without gradients.")
def beats_transfer(m: Measurements) -> Finding:
    bad = more_right(m.pgd.right, m.transferred.right, NO_BETTER)
    said = (f"accuracy on examples carried over from {m.undefended.what}: {percent(m.transferred.right.mean())}; on "
            f"those made on the model itself: {percent(m.pgd.right.mean())}")
    values = {"transferred": m.transferred.accuracy.value, "own": m.pgd.accuracy.value}
    if not bad and not clearly_above_guessing(m.undefended_clean, m.labels):
        return Finding("cannot tell", f"{said}; but the undefended model has learnt too little to carry anything over: "
                                      f"{m.undefended_clean} without attack", values)
    return Finding(flag_if(bad), said, values)


@check("An attack without gradients does not beat the gradient attack",
       threshold=f"stronger by at most {in_points(GRADIENT_FREE)}",
       source=f"{CARLINI} 4.4 and 5.4; {AUTOATTACK}, its check of Square",
       means="Random search finds what the gradient does not: the gradient is masked. Trust the random search, give "
             "it more queries, and attack with a margin loss, BPDA or EOT.")
def beats_gradient_free(m: Measurements) -> Finding:
    best = m.pgd.right & m.pgd_doubled.right
    values = {"square": 0.0, "pgd": float(best.mean())}
    if m.square is None:
        return Finding("pass", "PGD turns every image, so Square has none to try", values)
    after = best & m.square.right
    said = (f"{under('PGD', best.mean())}; Square with {m.square.attack.length} queries turns "
            f"{int((best & ~after).sum())} of these images")
    said += f" (all its queries, as {'; '.join(m.why_doubted)})" if m.why_doubted else (
        f" (a short search on {m.effort.first_images} at most, as nothing casts doubt on the gradients)")
    values |= {"square": float(after.mean()), "queries": m.square.attack.length}
    if not more_right(best, after, GRADIENT_FREE):      # nor would it be with what PGD turned and Square does not
        return Finding("pass", said, values)
    alone = m.square_alone
    said += f", and on its own: {under('Square', alone.mean())}"
    return Finding(flag_if(more_right(best, alone, GRADIENT_FREE)), said, {**values, "alone": float(alone.mean())})
