"""Compared models judged side by side: by attacks that know each defence, beside the judgement that flatters it."""
from __future__ import annotations

import dataclasses
import functools
import time

import keras
import numpy as np

from kitlib import attacks, models, training
from kitlib.attacks import Attack
from kitlib.base import code, digests
from kitlib.base.files import read_json, sha256, write_json
from kitlib.base.settings import KitError, choose
from kitlib.data import Dataset
from kitlib.evaluation import Accuracy, Evaluation, defences, evaluate
from kitlib.experiments.runs import Run
from kitlib.experiments.settings import ComparisonSettings

TIMED_IMAGES, TIMINGS = 256, 5


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A compared model ready to be judged: three Keras models, pixels to logits, around the same weights.

    judged: the one that answers. attacked: what an attacker who knows the defence differentiates. naive: the gradient
    as it comes. All three are one where no preprocessing stands in front. seconds: of all training that it needs.
    randomised: whether `attacked` and `naive` answer with other draws than `judged`.
    """

    judged: keras.Model
    attacked: keras.Model
    naive: keras.Model
    seconds: float
    randomised: bool = False


def trained(run: Run, dataset: Dataset, name: str, progress: bool = True) -> tuple[keras.Model, float]:
    """The trained model of `name`, trained now where it was not yet, and the seconds of training that it took.

    name: "baseline" or "defended", which notebooks 02 and 04 make, or a compared model; of one with
    preprocessing it is the model behind that. Training goes on where it was stopped. Seconds are of all epochs, and
    of its teacher's.
    Leaves models/compared_models/<name>.keras and records/compared_models/<name>.json.
    Raises KitError where notebook 02 or 04 has to be run first.
    """
    if name in ("baseline", "defended"):
        return run.model(name), run.read_record(name)["seconds"]
    compared_model = choose(name, run.experiment.compared_models, "compared model")
    other, seconds = trained(run, dataset, compared_model.of, progress) if compared_model.of else (None, 0.0)
    if compared_model.training is None:
        return other, seconds
    model = models.build(compared_model.model, dataset.images.shape[1:], len(dataset.class_names), seed=run.seed)
    history = training.train(
        model, dataset, compared_model.training, run.checkpoints, seed=run.seed, baseline=other, progress=progress)
    seconds += sum(history["seconds"])
    run.save_model(f"compared_models/{name}", model)
    run.write_record(f"compared_models/{name}", {
        "made_of": run.made_of(name), "history": history, "parameters": model.count_params(), "seconds": seconds,
        "precision": training.precision_of(history)})
    return model, seconds


def candidate(run: Run, dataset: Dataset, name: str, progress: bool = True) -> Candidate:
    """The compared model of that name, trained, and its preprocessing around it. Raises KitError as `trained`."""
    model, seconds = trained(run, dataset, name, progress)
    compared_model = run.experiment.compared_models.get(name)
    if compared_model is None or compared_model.preprocessing is None:
        return Candidate(model, model, model, seconds)
    defence, samples = compared_model.preprocessing, _comparison(run).samples
    # The attackers' draws are others than those that the defence answers with.
    return Candidate(defences.deployed(model, defence, seed=run.seed),
                     defences.wrap(model, defence, adaptive=True, samples=samples, seed=run.seed + 1),
                     defences.wrap(model, defence, seed=run.seed + 2), seconds, defence.randomised)


def judge(
    candidate: Candidate, images: np.ndarray, labels: np.ndarray, suite: dict[str, Attack],
    *, batch_size: int = 128, seed: int = 0, naive: bool = False,
) -> Evaluation:
    """The candidate under each attack of `suite`, made with the gradient of `attacked` (or of `naive`).

    Whatever gradient made an image, its prediction is that of `judged`. Against a randomised defence PGD goes on to its
    last step, and that is judged: what fooled some draws need not fool its answer. APGD goes to its end too, but by
    the best it met; Square, C&W and DeepFool cannot go on. So what these leave is, if anything, too much.
    """
    attacked = candidate.naive if naive else candidate.attacked
    suite = {name: _against_chance(attack) for name, attack in suite.items()} if candidate.randomised else suite
    made = evaluate(attacked, images, labels, suite, batch_size=batch_size, seed=seed, progress=False)
    return made if attacked is candidate.judged else _answered_by(candidate.judged, made, images, batch_size)


def _to_the_end(attack: Attack) -> Attack:
    return attack.model_copy(update={"stop_early": False}) if getattr(attack, "stop_early", False) else attack


def _against_chance(attack: Attack) -> Attack:
    """The best of many steps, each judged by other draws, would be the one with the luckiest draws."""
    attack = _to_the_end(attack)
    return attack.model_copy(update={"keep": "last"}) if hasattr(attack, "keep") else attack


def _answered_by(model: keras.Model, made: Evaluation, images: np.ndarray, batch_size: int) -> Evaluation:
    """The same adversarial images, with the predictions of `model`."""
    attacked = {}
    for name, result in made.attacked.items():
        predictions = models.predict_logits(model, result.images, batch_size).argmax(1).astype(np.int32)
        attacked[name] = dataclasses.replace(result, predictions=predictions, fooled=predictions != result.labels)
    clean = models.predict_logits(model, images, batch_size).argmax(1)
    return dataclasses.replace(made, clean_predictions=clean, attacked=attacked)


@dataclasses.dataclass(frozen=True)
class ComparisonData:
    """What all compared models are judged on: pixels, labels, and the baseline's adversarial images of the headline."""

    images: np.ndarray
    labels: np.ndarray
    carried_over: np.ndarray
    baseline: keras.Model


def _comparison(run: Run) -> ComparisonSettings:
    if run.experiment.comparison is None:
        raise KitError(f"experiment '{run.experiment.name}' has no `comparison`: add it and `compared_models` to its "
                       "file")
    return run.experiment.comparison


def comparison_data(run: Run, dataset: Dataset) -> ComparisonData:
    """The test images of the comparison, and the headline attack's images made on the baseline."""
    comparison = _comparison(run)
    images, labels = dataset.part("test", limit=comparison.images)
    baseline = run.model("baseline")
    headline = _to_the_end(comparison.attacks[comparison.headline])
    made = attacks.run(headline, baseline, images, labels, seed=run.seed,
                       batch_size=run.experiment.evaluation.batch_size)
    return ComparisonData(images, labels, made.kept_images, baseline)


def judged(run: Run, dataset: Dataset, name: str, on: ComparisonData, progress: bool = True) -> dict:
    """The record of one compared model: read where it was judged before, else judged now and written.

    A judgement counts again only while what decides it stands: the model, the attacks, the images and the code.
    Raises KitError where notebook 02 or 04 has to be run first.
    Keys, with accuracies as `kitlib.evaluation.Accuracy.record` gives them:
        clean, and carried_over: on the images of the headline attack that were made on the baseline;
        naive: under the headline attack made with the gradient as it comes;
        attacks: under each attack made by one who knows the defence, with scores and settings;
        worst_case: right clean, under each of `attacks` up to the headline's epsilon, and under the naive one;
        training, inference: seconds (of inference for one image), and how many times the baseline's.
    """
    path, key = run.path(f"records/judged/{name}.json"), _key(run, name)
    known = read_json(path) if path.exists() else {}
    if known.get("key") == key:
        return known
    started = time.perf_counter()
    found = candidate(run, dataset, name, progress)
    record = {"key": key, **_measured(run, found, on),
              "training": _times(found.seconds, run.read_record("baseline")["seconds"]),
              "inference": _times(*_inference_seconds(found.judged, on, run.experiment.evaluation.batch_size)),
              "seconds": round(time.perf_counter() - started, 3)}
    write_json(path, record)
    return record


def _key(run: Run, name: str) -> str:
    compared_model = run.experiment.compared_models[name]
    behind = name if compared_model.training else compared_model.of or "baseline"
    files = [sha256(run.need(f"models/{each}.keras")) for each in sorted({"baseline", _root(run, name)})]
    decides = [run.made_of(behind), files, compared_model.model_dump(mode="json", include={"preprocessing"}),
               _comparison(run).model_dump(mode="json"), run.experiment.evaluation.batch_size, run.seed,
               _code_of(run, name)]
    return digests.of_json(decides)[:16]


def _code_of(run: Run, name: str) -> str:
    """The code that a judgement reaches: its own, its attacks' and its preprocessing's."""
    preprocessing = run.experiment.compared_models[name].preprocessing
    used = [*_comparison(run).attacks.values(), *([preprocessing] if preprocessing else [])]
    without = ("kitlib.base", "kitlib.experiments.runs", "kitlib.data", "kitlib.training", "kitlib.attacks.read",
               "kitlib.evaluation.defences.read")
    return code.digest([_measured, candidate, *map(type, used)], without)


def _root(run: Run, name: str) -> str:
    """The model of notebook 02 or 04 that a compared model is made from; the baseline's images are shown to all."""
    while name in run.experiment.compared_models:
        name = run.experiment.compared_models[name].of or "baseline"
    return name


def _measured(run: Run, found: Candidate, on: ComparisonData) -> dict:
    comparison, batch_size = _comparison(run), run.experiment.evaluation.batch_size
    judged_by = functools.partial(judge, found, on.images, on.labels, batch_size=batch_size, seed=run.seed)
    adaptive = judged_by(comparison.attacks)
    headline = {comparison.headline: comparison.attacks[comparison.headline]}
    known = found.naive is found.judged     # then the naive attack is the one made already
    naive = adaptive if known else judged_by(headline, naive=True)
    within = {name: adaptive.attacked[name] for name in comparison.within()}
    everything = dataclasses.replace(adaptive, attacked=within | {"naive": naive.attacked[comparison.headline]})
    carried = models.predict_logits(found.judged, on.carried_over, batch_size).argmax(1)
    record = adaptive.record()
    return {
        "clean": record.pop("clean"), "carried_over": Accuracy.of(carried == on.labels).record(),
        "naive": naive.under(comparison.headline).record(), "attacks": record,
        "worst_case": everything.worst(list(everything.attacked)).record()}


def _times(seconds: float, plain: float) -> dict:
    return {"seconds": seconds, "times_plain": seconds / plain}


def _inference_seconds(model: keras.Model, on: ComparisonData, batch_size: int) -> tuple[float, float]:
    """Seconds an image of `model` and of the baseline: the least of several timings, taken by turns."""
    images = on.images[:TIMED_IMAGES]
    least = dict.fromkeys((model, on.baseline), float("inf"))
    for number in range(TIMINGS + 1):
        for each in least:
            started = time.perf_counter()
            models.predict_logits(each, images, batch_size)
            if number > 0:      # the first call compiles
                least[each] = min(least[each], time.perf_counter() - started)
    return least[model] / len(images), least[on.baseline] / len(images)


def transfer_matrix(
    candidates: dict[str, Candidate], attack: Attack, images: np.ndarray, labels: np.ndarray,
    *, batch_size: int = 128, seed: int = 0,
) -> dict[str, dict[str, Accuracy]]:
    """Adversarial images made on one model, judged by each: {made on: {judged by: accuracy}}, all on the same images.

    The first row, "clean", is without attack; the diagonal is the attack made on the judged model itself.
    """
    shown = {"clean": images}
    for name, made_on in candidates.items():
        whole = _to_the_end(attack)     # an image that only just fools its own model says little of another
        made = attacks.run(whole, made_on.attacked, images, labels, batch_size=batch_size, seed=seed)
        shown[name] = made.kept_images

    def accuracy(judged: keras.Model, pixels: np.ndarray) -> Accuracy:
        return Accuracy.of(~attacks.run(attacks.Clean(), judged, pixels, labels, batch_size=batch_size).fooled)

    return {name: {other: accuracy(by.judged, pixels) for other, by in candidates.items()}
            for name, pixels in shown.items()}
