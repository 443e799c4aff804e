"""Checks 9 to 13: what the model does with a gradient, with the same input twice, and with the attack's own step."""
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kitlib.audit.checks.base import (
    ATHALYE,
    AUTOATTACK,
    CARLINI,
    Finding,
    check,
    exceeds,
    flag_if,
    in_points,
    limit,
    more_right,
    of_claim,
    percent,
    under,
)
from kitlib.audit.gradients import LINE
from kitlib.audit.judged import AGREE, EOT_PASSES

if TYPE_CHECKING:      # measurements ask some of the checks themselves
    from kitlib.audit.measure import Measurements

NO_GRADIENT = 0.05      # share of images whose gradient is zero
TOGETHER = 1e-3         # between images asked one by one and together: kernels round otherwise in other batches
LEAK = 0.01             # that FGSM may be weaker with true labels than with predicted ones, or than no attack
FALL = 0.20             # of PGD accuracy from the best epoch to the kept one
DENT = 0.10             # share of images wrong between the image and FGSM's step, and right at both ends


@check("Images have a gradient", threshold=f"at most {limit(NO_GRADIENT)} of images without any",
       source=f"{ATHALYE} 3.1; {AUTOATTACK}, its check of zero gradients",
       means="The cross-entropy has no gradient there (saturated or scaled logits, a rounding step), so attacks that "
             "follow it cannot move. Use a margin loss, BPDA or an attack without gradients.")
def has_gradient(m: Measurements) -> Finding:
    number, count = int(m.no_gradient.sum()), len(m.labels)
    return Finding(flag_if(exceeds(number, count, NO_GRADIENT)),
                   f"{number} of {count} images have a zero gradient in every pixel", {"zero": number, "count": count})


@check("The model returns logits",
       threshold=f"no rows of probabilities; they cast doubt on the audit itself where their logits are lost and more "
                 f"than {limit(NO_GRADIENT)} of the answers are rounded to 1",
       source=f"{CARLINI} 4.7; {AUTOATTACK}, its check of logits",
       means="Attacks take what they get for logits: on probabilities their gradient fades and they look weak. This "
             "audit used logits; measure other numbers of this model again without its softmax.")
def logits(m: Measurements) -> Finding:
    target, lost = m.subject.target, 0
    said = f"the model as given returns {target.returns}"
    probabilities = target.kind != "logits"
    if probabilities and not target.recovered:
        lost = int(m.rounded.sum())
        said += f"; {lost} of {len(m.labels)} answers are rounded to 1, where no gradient is to be had"
    return Finding(flag_if(probabilities), said, {"returns": target.returns, "rounded": lost},
                   casts_doubt=exceeds(lost, len(m.labels), NO_GRADIENT))


@check("The same input gives the same output",
       threshold=f"five passes agree to {AGREE:g} of the largest output; images asked one by one and together to "
                 f"{TOGETHER:g}",
       source=f"{CARLINI} 4.6; {ATHALYE} 3.1",
       means="The model is random when judged (dropout left on, random resizing), so plain attacks chase noise. "
             "Switch the randomness off, or attack the mean of many passes (EOT). Or its answer depends on the other "
             "images of the batch (batch norm in training mode): then no accuracy is its own; judge image by image.")
def deterministic(m: Measurements) -> Finding:
    spread = m.spread_of_passes
    judged = spread["inference"] > AGREE or spread["alone"] > TOGETHER
    said = (f"largest difference {spread['inference']:.2g} in inference mode, {spread['plain']:.2g} when called as "
            f"model(images), {spread['alone']:.2g} between images asked one by one and together")
    if m.random:
        said += f"; everywhere in this audit the most frequent answer of {EOT_PASSES} passes is judged"
    return Finding(flag_if(judged or spread["plain"] > AGREE), said, dict(spread), casts_doubt=judged)


@check("The attack does not write the label into the image",
       threshold=f"with true labels FGSM at eps, or the claim's own attack, at most {in_points(LEAK)} above no attack "
                 f"and predicted labels; given a wrong label, the model names it on at most {in_points(LEAK)} more "
                 "images than without attack. What happens far beyond eps is information",
       source="Kurakin et al. 2017, arXiv:1611.01236, section 4; the random wrong label is the kit's own control",
       means="FGSM with true labels marks the answer, and the model has learnt to read it (label leaking). Its "
             "accuracy under FGSM means nothing: use predicted labels in training, and PGD to judge.")
def label_leak(m: Measurements) -> Finding:
    said, values, here = [], {}, m.leaks[m.subject.eps]
    for eps, found in m.leaks.items():
        beyond = " (beyond the threat model, for information)" if eps > m.subject.eps else ""
        said.append(f"FGSM {m.subject.written(eps)}{beyond}: {percent(found.true.right.mean())} with true labels, "
                    f"{percent(found.predicted.right.mean())} with predicted ones; a random wrong label is named on "
                    f"{percent(found.named.mean())}")
        values[m.subject.written(eps)] = {
            "true": found.true.accuracy.value, "predicted": found.predicted.accuracy.value,
            "names_wrong_label": float(found.named.mean())}
    leaks = [more_right(here.true.right, other, LEAK) for other in (here.predicted.right, m.clean)]
    leaks.append(more_right(here.named, m.named_clean, LEAK))
    own = {name: each.right for name, each in m.own.items() if more_right(each.right, m.clean, LEAK)}
    said += [f"{under(of_claim(name), right.mean())}, above no attack" for name, right in own.items()]
    named = {name: each for name, each in m.own_named.items() if more_right(each, m.named_clean, LEAK)}
    said += [f"given a random wrong label by {of_claim(name)}, the model names it on {percent(each.mean())}"
             for name, each in named.items()]
    values |= {of_claim(name): {"names_wrong_label": float(each.mean())} for name, each in m.own_named.items()}
    said.append(f"no attack: {percent(m.clean.mean())}, the wrong label is named on {percent(m.named_clean.mean())}")
    return Finding(flag_if(any(leaks) or bool(own or named)), "; ".join(said), values)


@check("No catastrophic overfitting",
       threshold=f"PGD accuracy fell by at most {in_points(FALL)} in training; at most {limit(DENT)} of images wrong "
                 "only between the image and FGSM's step",
       source="Wong et al. 2020, arXiv:2001.03994, section 5; Kim et al. 2020, arXiv:2010.01799, section 3",
       means="The model resists the one step it was trained on, and nothing shorter. Train with PGD, with a random "
             "start and smaller steps, or stop before the fall.")
def catastrophic_overfitting(m: Measurements) -> Finding:
    line, losses = m.along_the_step
    dented = int((line[0] & line[-1] & ~line[1:-1].all(0)).sum())
    said = [f"{dented} of {len(m.labels)} images are right at both ends of FGSM's step and wrong within"]
    fall = _fall(m.subject.robust_history, m.subject.kept_epoch)
    said.append("no history of the training was given" if fall is None else
                f"PGD accuracy in training fell by {100 * fall:.1f} points from its best epoch to the one kept")
    values = {"dented": dented, "fall": fall, "k": list(LINE), "loss": np.median(losses, axis=1).tolist()}
    if m.random and (fall or 0) <= FALL:
        return Finding("cannot tell", f"{'; '.join(said)}; but the model is random: its answers change by themselves",
                       values)
    return Finding(flag_if(exceeds(dented, len(m.labels), DENT) or (fall or 0) > FALL), "; ".join(said), values)


def _fall(history, kept) -> float | None:
    if not history:
        return None
    kept = len(history) - 1 if kept is None else kept
    return max(0.0, max(history[:kept + 1]) - history[kept])
