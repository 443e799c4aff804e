"""The nineteen checks that a robustness claim has to pass, in order. Each is one small function.

A check looks at `Measurements` and says pass, flag or cannot tell. A share of images counts only if the lower end
of its 95 % Wilson interval lies above the threshold. Where accuracies on the same images are compared, it is the
interval of the mean difference, image by image: so a few images more or less raise no alarm, nor do many where as
many change the other way.
"""
from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from kitlib.audit.measure import EOT_PASSES, LARGE, LINE, Measurements
from kitlib.base.settings import format_epsilon
from kitlib.evaluation import Accuracy, guessing

Outcome = Literal["pass", "flag", "cannot tell"]

CARLINI = "Carlini et al. 2019, arXiv:1902.06705, section"
AUTOATTACK = "Croce & Hein 2020, arXiv:2003.01690"
ATHALYE = "Athalye et al. 2018, arXiv:1802.00420, section"

ROUNDING = 1e-6         # a perturbation may exceed eps by this much
RISE = 0.01             # of accuracy with eps
SINGLE_STEP = 0.005     # that FGSM may be stronger than PGD
CONVERGED = 0.01        # that twice the steps and restarts may bring
NO_BETTER = 0.005       # that noise or carried-over examples may be stronger than the attack
GRADIENT_FREE = 0.002   # that Square may be stronger than the gradient attack
NO_GRADIENT = 0.05      # share of images whose gradient is zero
AGREE = 1e-4            # between passes over the same input
TOGETHER = 1e-3         # between images asked one by one and together: kernels round otherwise in other batches
LEAK = 0.01             # that FGSM may be weaker with true labels than with predicted ones, or than no attack
FALL = 0.20             # of PGD accuracy from the best epoch to the kept one
DENT = 0.10             # share of images wrong between the image and FGSM's step, and right at both ends
BROKEN = 0.05           # accuracy that an attack may leave an undefended model
SUCCESS = 0.95          # of C&W, whose distance is not bounded
MEAN_OF_ATTACKS = 0.01  # that the mean over attacks may lie above the worst case
CLIMB = 0.90            # share of images on which the gradient leads uphill
CONTROL = 0.005         # share of answers that an attack with eps = 0 may change
ALIKE = 0.001           # two images are near-duplicates where 1 - correlation is below this (or below a quarter of what
                        # is usual, where all images are as alike as that),
ALIKE_SHARE = 0.05      # or below this share of what is usual between an image and its nearest training image
DUPLICATES = 0.005      # share of judged images with a near-duplicate in the training data

NONE_RIGHT = "the model answers no image rightly, even without attack"


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one check found. measured: in a sentence. values: the numbers behind it.

    matters: whether a flag casts doubt on the audit's own numbers (and not only on those of others).
    """

    outcome: Outcome
    measured: str
    values: dict[str, Any] = dataclasses.field(default_factory=dict)
    matters: bool = True


@dataclasses.dataclass(frozen=True)
class Check:
    """One check: its number and name, what it asks, threshold, source, and what a flag means and asks for next."""

    number: int
    name: str
    title: str
    threshold: str
    source: str
    means: str
    function: Callable[[Measurements], Finding]


CHECKS: list[Check] = []


def check(title: str, *, threshold: str, source: str, means: str):
    """Enter a function as the next check."""
    def enter(function):
        CHECKS.append(Check(len(CHECKS) + 1, function.__name__, title, threshold, source, means, function))
        return function
    return enter


def points(share: float) -> str:
    return f"{100 * share:.1f} %"


def _flag_if(bad: bool) -> Outcome:
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


@check("Every perturbation stays within eps and the pixel box",
       threshold="largest change at most eps + 1e-6; pixels in [0, 1]; no NaN",
       source=f"{CARLINI} 2.2",
       means="The attack leaves its threat model, so its accuracy answers another question. Clip to eps and to [0, 1] "
             "in pixels.")
def threat_model(m: Measurements) -> Finding:
    bad = [f"{name} (in the audit)" for name, each in m.ensemble.items() if _outside(each, m.subject.eps)]
    own = {name: each for name, each in m.own.items() if _outside(each, _stated_eps(each.attack))}
    ours = (f"eps {format_epsilon(m.subject.eps)} in L-inf; {len(m.ensemble)} attacks of the audit, largest change "
            f"{255 * max(each.linf for each in m.ensemble.values()):.3f}/255")
    details = [f"{name}: pixels from {each.low:.3f} to {each.high:.3f}, largest change {255 * each.linf:.1f}/255"
               for name, each in own.items()]
    return Finding(_flag_if(bool(bad or own)), "; ".join([ours, *bad, *details]),
                   {"outside": [*bad, *own], "eps": m.subject.eps}, matters=bool(bad))


def _outside(attacked, eps: float | None) -> bool:
    too_far = eps is not None and attacked.linf > eps + ROUNDING
    return too_far or not attacked.finite or attacked.low < -ROUNDING or attacked.high > 1 + ROUNDING


def _stated_eps(attack) -> float | None:
    """The eps that an attack states, in pixels; None where it is not one of L-inf."""
    if getattr(attack, "norm", "linf") != "linf":
        return None
    eps = getattr(attack, "eps", getattr(attack, "step", None))
    normalisation = getattr(attack, "normalisation", None)
    return eps if eps is None or normalisation is None else eps * float(np.max(normalisation.std))


@check("Accuracy does not rise with eps", threshold="a rise of at most 1 point",
       source=f"{CARLINI} 5.2",
       means="A larger eps allows all that a smaller one does, so the attack fails at the larger one. Use more steps, "
             "another step size, or a loss that does not saturate.")
def monotonic(m: Measurements) -> Finding:
    sizes = list(m.sweep)
    rights = [m.sweep[size].right for size in sizes]
    rises = [(later, earlier) for later in range(len(sizes)) for earlier in range(later)
             if more_right(rights[later], rights[earlier], RISE)]
    curve = ", ".join(f"{format_epsilon(size)}: {points(each.right.mean())}" for size, each in m.sweep.items())
    return Finding(_flag_if(bool(rises)), f"PGD at {curve}",
                   {"eps": sizes, "accuracy": [float(right.mean()) for right in rights]})


@check("At a very large eps nothing is left", threshold="accuracy at L-inf 0.5 no better than chance",
       source=f"{CARLINI} 5.2",
       means="At this eps every image can be made solid grey, so an attack that leaves more than chance does not "
             "work: the gradient is masked. Look at the checks on gradients, and attack with a margin loss or without "
             "gradients.")
def large_eps(m: Measurements) -> Finding:
    left, chance = Accuracy.of(m.sweep[LARGE].right), guessing(m.labels)
    return Finding(_flag_if(left.interval[0] > chance),
                   f"PGD {format_epsilon(LARGE)} leaves {left}; chance is {points(chance)}",
                   {"accuracy": left.value, "chance": chance})


def tells_classes_apart(right: np.ndarray, labels: np.ndarray) -> bool:
    """Whether the mean over classes of the share that is right (balanced accuracy) is clearly above guessing: by its
    95 % interval. A model that seeks a rare class may be right less often than one that always names the usual one.
    """
    shares = [right[labels == label] for label in np.unique(labels)]
    error = np.sqrt(sum(each.var() / len(each) for each in shares)) / len(shares)
    return bool(np.mean([each.mean() for each in shares]) - 1.96 * error > 1 / len(shares))


@check("PGD is at least as strong as FGSM", threshold="FGSM stronger by at most 0.5 point",
       source=f"{CARLINI} 5.2",
       means="Many small steps that do less than one large step: the gradient leads astray. Try more random starts, a "
             "larger step, or an attack without gradients.")
def iterative(m: Measurements) -> Finding:
    bad = more_right(m.pgd.right, m.fgsm.right, SINGLE_STEP)
    return Finding(_flag_if(bad), f"FGSM leaves {points(m.fgsm.right.mean())}, PGD {points(m.pgd.right.mean())}",
                   {"fgsm": m.fgsm.accuracy.value, "pgd": m.pgd.accuracy.value})


@check("The attacks have converged",
       threshold="PGD with twice the steps and restarts turns at most 1 point more images than the others together; "
                 "the claim's own attack gains at most 1 point from twice the steps",
       source=f"{CARLINI} 4.8",
       means="The attack was stopped too early, so its accuracy is too high. Raise the number of steps and restarts "
             "until nothing changes.")
def converged(m: Measurements) -> Finding:
    before, after, others = m.pgd.right, m.pgd_doubled.right, m.without_doubling
    gain = int((others & ~after).sum())
    bad = exceeds(gain, len(m.labels), CONVERGED)
    said = [f"PGD with {m.pgd.attack.steps} steps leaves {points(before.mean())}; twice the steps and restarts "
            f"{points(after.mean())}, and {gain} images of {len(m.labels)} that all others left"]
    own = {name: doubled for name, doubled in m.own_doubled.items()
           if more_right(m.own[name].right, doubled.right, CONVERGED)}
    said += [f"{name} (the claim's own) leaves {points(m.own[name].right.mean())}, with twice the steps "
             f"{points(doubled.right.mean())}" for name, doubled in own.items()]
    values = {"accuracy": float(before.mean()), "doubled": float(after.mean()), "gain": gain}
    return Finding(_flag_if(bad or bool(own)), "; ".join(said), values, matters=bad)


@check("Random noise of the same size does less harm", threshold="noise stronger by at most 0.5 point",
       source=f"{CARLINI} 4.11",
       means="The attack does no more than chance does: it gets no use out of the gradient. See the checks on "
             "gradients.")
def beats_noise(m: Measurements) -> Finding:
    said = (f"noise leaves {points(m.noise.right.mean())}, PGD {points(m.pgd.right.mean())}, "
            f"no attack {points(m.clean.mean())}")
    values = {"noise": m.noise.accuracy.value, "pgd": m.pgd.accuracy.value, "clean": float(m.clean.mean())}
    if more_right(m.pgd.right, m.noise.right, NO_BETTER):
        return Finding("flag", said, values)
    if not (m.clean & ~m.pgd.right).any():
        return Finding("cannot tell", f"{said}: neither does any harm at this eps", values)
    return Finding("pass", said, values)


@check("Examples carried over from an undefended model do less harm", threshold="stronger by at most 0.5 point",
       source=f"{CARLINI} 4.5",
       means="Another model's gradient is a better guide than this model's own: its gradient is masked. Count the "
             "carried-over examples, and attack with a margin loss, BPDA or without gradients.")
def beats_transfer(m: Measurements) -> Finding:
    bad = more_right(m.pgd.right, m.transferred.right, NO_BETTER)
    said = (f"carried over from {m.undefended.what}: {points(m.transferred.right.mean())} are left; made on the model "
            f"itself: {points(m.pgd.right.mean())}")
    values = {"transferred": m.transferred.accuracy.value, "own": m.pgd.accuracy.value}
    if not bad and not clearly_above_guessing(m.undefended_clean, m.labels):
        return Finding("cannot tell", f"{said}; but the undefended model has learnt too little to carry anything over: "
                                      f"{m.undefended_clean} without attack", values)
    return Finding(_flag_if(bad), said, values)


@check("An attack without gradients does not beat the gradient attack", threshold="stronger by at most 0.2 point",
       source=f"{CARLINI} 4.4 and 5.4; {AUTOATTACK}, its check of Square",
       means="Random search finds what the gradient does not: the gradient is masked. Trust the random search, give "
             "it more queries, and attack with a margin loss, BPDA or EOT.")
def beats_gradient_free(m: Measurements) -> Finding:
    best = m.pgd.right & m.pgd_doubled.right
    values = {"square": 0.0, "pgd": float(best.mean())}
    if m.square is None:
        return Finding("pass", "PGD leaves no image that Square could try", values)
    after = best & m.square.right
    said = (f"PGD leaves {points(best.mean())} of the images; Square with {m.square.attack.steps} queries turns "
            f"{int((best & ~after).sum())} of these")
    values["square"] = float(after.mean())
    if not more_right(best, after, GRADIENT_FREE):      # nor would it be with what PGD turned and Square leaves
        return Finding("pass", said, values)
    alone = m.square_alone
    said += f", and all on its own leaves {points(alone.mean())} of all"
    return Finding(_flag_if(more_right(best, alone, GRADIENT_FREE)), said, {**values, "alone": float(alone.mean())})


@check("Images have a gradient", threshold="at most 5 % of images without any",
       source=f"{ATHALYE} 3.1; {AUTOATTACK}, its check of zero gradients",
       means="The cross-entropy has no gradient there (saturated or scaled logits, a rounding step), so attacks that "
             "follow it cannot move. Use a margin loss, BPDA or an attack without gradients.")
def has_gradient(m: Measurements) -> Finding:
    number, count = int(m.no_gradient.sum()), len(m.labels)
    return Finding(_flag_if(exceeds(number, count, NO_GRADIENT)),
                   f"{number} of {count} images have a zero gradient in every pixel", {"zero": number, "count": count})


@check("The model returns logits",
       threshold="no rows of probabilities; they cast doubt on the audit itself where their logits are lost and more "
                 "than 5 % of the answers are rounded to 1",
       source=f"{CARLINI} 4.7; {AUTOATTACK}, its check of logits",
       means="Attacks take what they get for logits: on probabilities their gradient fades and they look weak. This "
             "audit used logits; measure other numbers of this model again without its softmax.")
def logits(m: Measurements) -> Finding:
    target = m.subject.target
    said, lost = f"the model as given returns {target.returns}", 0
    if target.probabilities and "taken off" not in target.returns:
        lost = int(m.rounded.sum())
        said += f"; {lost} of {len(m.labels)} answers are rounded to 1, where no gradient is left"
    return Finding(_flag_if(target.probabilities), said, {"returns": target.returns, "rounded": lost},
                   matters=exceeds(lost, len(m.labels), NO_GRADIENT))


@check("The same input gives the same output", threshold="five passes agree to 1e-4 of the largest output; images "
                                                               "asked one by one and together to 1e-3",
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
    return Finding(_flag_if(judged or spread["plain"] > AGREE), said, dict(spread), matters=judged)


@check("The attack does not write the label into the image",
       threshold="at most 1 point above predicted labels or no attack; the step alone, over grey, tells no more labels "
                 "than chance",
       source="Kurakin et al. 2017, arXiv:1611.01236, section 4; the step over grey is the kit's own control",
       means="FGSM with true labels marks the answer, and the model has learnt to read it (label leaking). Its "
             "accuracy under FGSM means nothing: use predicted labels in training, and PGD to judge.")
def label_leak(m: Measurements) -> Finding:
    leaks, said, values = [], [], {}
    for eps, (true, predicted) in m.leaks.items():
        leaks += [more_right(true.right, other, LEAK) for other in (predicted.right, m.clean)]
        said.append(f"{format_epsilon(eps)}: {points(true.right.mean())} with true labels, "
                    f"{points(predicted.right.mean())} with predicted")
        values[format_epsilon(eps)] = {"true": true.accuracy.value, "predicted": predicted.accuracy.value}
    own = [name for name, each in m.own.items() if more_right(each.right, m.clean, LEAK)]
    on_grey = Accuracy.of(m.step_on_grey)
    leaks.append(on_grey.interval[0] > guessing(m.labels))
    said += [f"{name} (the claim's own) leaves {points(m.own[name].right.mean())}" for name in own]
    said += [f"no attack {points(m.clean.mean())}",
             f"from the step over grey the model reads {points(on_grey.value)} of the labels"]
    values["on_grey"] = on_grey.value
    return Finding(_flag_if(any(leaks) or bool(own)), f"FGSM at {'; '.join(said)}", values)


@check("No catastrophic overfitting",
       threshold="PGD accuracy fell by at most 20 points in training; at most 10 % of images wrong only between the "
                 "image and FGSM's step",
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
    return Finding(_flag_if(exceeds(dented, len(m.labels), DENT) or (fall or 0) > FALL), "; ".join(said), values)


def _fall(history, kept) -> float | None:
    if not history:
        return None
    kept = len(history) - 1 if kept is None else kept
    return max(0.0, max(history[:kept + 1]) - history[kept])


@check("The same attack breaks an undefended model", threshold="at most 5 % left at eps; flagged where more is left "
                                                               "at L-inf 0.5, too",
       source=f"{CARLINI} 4.13",
       means="The attack is too weak to break even a model without defence, so what resists it proves nothing. Use "
             "more steps and look for a mistake in the attack.")
def breaks_undefended(m: Measurements) -> Finding:
    clean, at_eps, beyond = m.undefended_under_pgd
    said = (f"{m.undefended.what}: {points(clean.value)} without attack, {points(at_eps.value)} under PGD "
            f"{format_epsilon(m.subject.eps)}, {points(beyond.value)} at {format_epsilon(LARGE)}")
    values = {"clean": clean.value, "at_eps": at_eps.value, "at_half": beyond.value}
    if not clearly_above_guessing(clean, m.undefended.labels):
        return Finding("cannot tell", f"{said}: it has learnt too little for its fall to prove anything", values)
    if at_eps.interval[0] <= BROKEN:
        return Finding("pass", said, values)
    if beyond.interval[0] <= BROKEN:
        return Finding("cannot tell", f"{said}: at this eps even an undefended model keeps something", values)
    return Finding("flag", said, values)


@check("C&W reports distances over its successes, and succeeds", threshold="success on at least 95 % of images",
       source=f"Carlini & Wagner 2017, arXiv:1608.04644, section V; {CARLINI} 5.3",
       means="An attack without a bound on its distance must succeed everywhere. Raise its constant and its steps; if "
             "that does not help, the gradient is masked.")
def carlini_wagner(m: Measurements) -> Finding:
    found = m.carlini_wagner
    if found is None:
        return Finding("cannot tell", NONE_RIGHT)
    success = Accuracy.of(found.found)
    distance = f"{found.l2[found.found].mean():.3f}" if found.found.any() else "-"
    return Finding(_flag_if(success.interval[1] < SUCCESS),
                   f"{success.correct} of {success.count} rightly classified images turned; mean L2 distance over "
                   f"these {distance}",
                   {**success.record(), "mean_l2": None if distance == "-" else float(distance)})


@check("The worst case per image counts",
       threshold="the claim's own mean over attacks at most 1 point above its worst case",
       source=f"{CARLINI} 5.6",
       means="A mean over attacks flatters: an image that falls to one of them is not robust. Report the share of "
             "images that resist all.")
def worst_case(m: Measurements) -> Finding:
    worst = Accuracy.of(m.survivors)
    name, strongest = m.strongest
    said = (f"worst case over {len(m.ensemble)} attacks: {worst}; "
            f"the strongest, {name}: {points(strongest.right.mean())}")
    values = {"worst": worst.value, "strongest": name, "alone": strongest.accuracy.value}
    if not m.own:
        return Finding("pass", said, values)
    rights = np.stack([each.right for each in m.own.values()])
    survived = rights.all(0) & m.clean
    mean, own_worst = float(rights.mean()), float(survived.mean())
    said += f"; the claim's own attacks: mean {points(mean)}, worst case {points(own_worst)}"
    return Finding(_flag_if(more_right(rights.mean(0), survived, MEAN_OF_ATTACKS)), said,
                   {**values, "own_mean": mean, "own_worst": own_worst}, matters=False)


@check("The attack is made against this very model, and its gradient leads uphill",
       threshold="uphill on at least 90 % of images; BPDA or EOT bring at most 1 point",
       source=f"{ATHALYE} 4; {CARLINI} 4.6 and 4.7",
       means="Something in the model (rounding, randomness) keeps plain gradients from guiding the attack. Attack "
             "through it: BPDA for layers without gradient, EOT for randomness; or attack without gradients.")
def adaptive(m: Measurements) -> Finding:
    if not m.clean.any():
        return Finding("cannot tell", NONE_RIGHT)
    uphill = Accuracy.of(m.climbs)
    said = [f"a step along the gradient beats a random one on {uphill.correct} of {uphill.count} images"]
    bad = uphill.interval[1] < CLIMB
    for name, each in (("BPDA", m.bpda), ("EOT", m.eot)):
        if each is not None:
            said.append(f"PGD leaves {points(m.pgd.right.mean())}, with {name} {points(each.right.mean())}")
            bad |= more_right(m.pgd.right, each.right, CONVERGED)
    return Finding(_flag_if(bad), "; ".join(said), {"uphill": uphill.value})


@check("An attack with eps = 0 changes nothing", threshold="at most 0.5 % of answers changed",
       source=f"the kit's own control, in the spirit of {CARLINI} 5.2",
       means="The attack does harm without a perturbation: a clamp, a rounding or a conversion in it does the work, "
             "and its accuracy does not measure robustness. Take that step out.")
def identity_control(m: Measurements) -> Finding:
    theirs = {f"{name} (the claim's own)": found for name, found in m.own_controls.items()}
    controls = m.controls | theirs
    bad = {name: found for name, found in controls.items() if exceeds(found[0], found[1], CONTROL)}
    said = [f"{name}: {changed} of {count} answers changed" for name, (changed, count, _) in bad.items()]
    summary = f"{len(controls)} attacks with eps = 0 change {sum(found[0] for found in controls.values())} answers"
    values = {name: {"changed": changed, "count": count, "linf": linf}
              for name, (changed, count, linf) in controls.items()}
    if m.random:
        return Finding("cannot tell", f"{summary}, but the model is random: its answers change by themselves", values)
    return Finding(_flag_if(bool(bad)), "; ".join([summary, *said]), values, matters=not set(bad) <= set(theirs))


@check("Intervals are given, and the test images are new to the model",
       threshold="in the training data no exact copy, and near-duplicates of at most 0.5 % (1 - correlation under a "
                 "twentieth of the usual one to the nearest training image, or under 0.001 and a quarter of it)",
       source="Wilson 1927; Barz & Denzler 2020, arXiv:1902.00423 (duplicates in CIFAR)",
       means="The model is judged on images it has seen, so even its clean accuracy is too high. Take the copies out "
             "of one side, or split by patient, and measure again.")
def new_images(m: Measurements) -> Finding:
    low, high = Accuracy.of(m.clean).interval
    interval = f"clean accuracy has a 95 % interval of {points(low)} to {points(high)} ({len(m.labels)} images)"
    if m.copies is None:
        return Finding("cannot tell", f"{interval}; no training data were given (--train-data)")
    exact, distance, usual = m.copies
    alike = distance < max(min(ALIKE, usual / 4), ALIKE_SHARE * usual)
    copies, near = int(exact.sum()), int((exact | alike).sum())
    return Finding(_flag_if(exceeds(copies, len(exact), 0.0) or exceeds(near, len(exact), DUPLICATES)),
                   f"{interval}; {copies} exact copies and {near - copies} near-duplicates of judged images in the "
                   f"training data",
                   {"copies": copies, "near": near, "count": len(exact)})
