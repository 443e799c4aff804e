"""Accuracies, intervals, recall, confusion and transfer, each on a case whose answer is known on paper."""
from statistics import NormalDist

import keras
import numpy as np
import pytest

from kitlib import attacks, evaluation
from kitlib.evaluation import Accuracy, Evaluation, Measured
from kitlib.experiments.comparison import Candidate, transfer_matrix

TRUE, SAID = np.array([0, 0, 0, 1, 2, 2]), np.array([0, 1, 1, 1, 2, 1])
NAMES = ("a", "b", "c", "none")


@pytest.mark.parametrize("correct, count", [(7, 10), (0, 10), (10, 10), (390, 1000)])
def test_intervals_end_where_the_accuracy_is_1_96_standard_errors_away(correct, count):
    """Wilson's definition: the standard error is that at the end, not at the estimate. Fewer images make it wider."""
    accuracy = Accuracy(correct, count)
    for images, found in ((count, accuracy), (count // 2, Accuracy(correct, count, images=count // 2))):
        low, high = found.interval
        assert 0 <= low <= found.value + 1e-9 and found.value - 1e-9 <= high <= 1 and high - low > 0.01
        for end in (low, high):
            error = NormalDist().inv_cdf(0.975) * (end * (1 - end) / images) ** 0.5
            assert abs(found.value - end) == pytest.approx(error, abs=1e-7)
        assert found.value == correct / count and found.record()["count"] == count


def test_an_accuracy_and_its_record_say_the_same():
    accuracy = Accuracy(7, 10)
    assert accuracy.record() == {"accuracy": 0.7, "correct": 7, "count": 10, "interval": list(accuracy.interval)}
    assert str(accuracy) == "70.0 % (7/10, 95 % interval 39.7-89.2)"
    assert evaluation.cell(Measured(**accuracy.record())) == "70.0 [39.7, 89.2] of 10"
    assert Accuracy.of(np.array([True, False, True])) == Accuracy(2, 3)


def test_recall_is_by_true_class_and_confusion_has_true_classes_as_rows():
    found = evaluation.recalls(TRUE, SAID, NAMES)
    assert {name: (each["correct"], each["count"]) for name, each in found.items()} == {
        "a": (1, 3), "b": (1, 1), "c": (1, 2)}
    assert found["a"]["interval"] == list(Accuracy(1, 3).interval)
    assert evaluation.confusion(TRUE, SAID, 4).tolist() == [[1, 2, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0] * 4]
    assert evaluation.guessing(TRUE) == 0.5


def attacked(predictions, l2=(1.0, 2.0, 4.0, 8.0), linf=(0.1, 0.4, 0.2, 0.3)):
    predictions = np.array(predictions)
    count, labels = len(predictions), np.zeros(len(predictions), int)
    fooled = predictions != labels
    return attacks.AttackResult(attack=attacks.Clean(), images=None, labels=labels, predictions=predictions,
                                fooled=fooled, found=fooled, l2=np.array(l2[:count]), linf=np.array(linf[:count]),
                                seconds=1.23456)


def test_the_worst_case_joins_and_the_combined_accuracy_pools():
    some = {"strong": attacked([0, 1, 1, 0]), "weak": attacked([1, 0, 0, 0]), "short": attacked([0, 0])}
    found = Evaluation(np.zeros(4, int), np.array([0, 0, 0, 1]), some)
    assert found.clean == Accuracy(3, 4) and found.right("strong").tolist() == [True, False, False, True]
    assert found.worst(["strong"]) == Accuracy(1, 4)           # the last was wrong without any attack
    assert found.worst(["weak"]) == Accuracy(2, 4) and found.worst(["strong", "weak"]) == Accuracy(0, 4)
    assert found.worst(["weak", "short"]) == Accuracy(1, 2)
    assert found.combined(["strong", "short"]) == Accuracy(4, 6, images=4)
    assert found.scores("strong") == {"relative_robustness": pytest.approx(2 / 3), "success_rate": pytest.approx(2 / 3),
                                      "mean_l2": 3.0, "max_linf": 0.4}
    assert found.scores("short")["mean_l2"] is None and found.scores("short")["success_rate"] == 0
    record = found.record()
    assert list(record) == ["clean", *some] and record["weak"]["correct"] == 3
    assert (record["weak"]["seconds"], record["weak"]["attack"]) == (1.235, "no attack")
    assert record["weak"]["settings"]["name"] == "none"


def sees(first, second):
    """Two logits that lean on two pixels: class 0 as long as they are bright enough."""
    pixels = keras.Input((1, 2, 1))
    total = keras.ops.sum(pixels * np.array([first, second], np.float32).reshape(1, 1, 2, 1), axis=(1, 2))
    return keras.Model(pixels, keras.ops.concatenate([total - 0.5 * (first + second), 0 * total], axis=1))


def test_the_transfer_matrix_has_the_attacked_models_as_rows_and_the_judges_as_columns():
    """A step of 0.15 darkens the pixels that the attacked model looks at: from 0.6, one is not enough for `both`."""
    models = {"left": sees(1, 0), "both": sees(1, 1), "right": sees(0, 1)}
    candidates = {name: Candidate(model, model, model, 0.0) for name, model in models.items()}
    candidates["right"] = Candidate(models["right"], models["left"], models["right"], 0.0)     # attacked in its place
    images, labels = np.full((2, 1, 2, 1), 0.6, np.float32), np.array([0, 1])
    matrix = transfer_matrix(candidates, attacks.FGSM(eps=0.15), images, labels)
    found = {made_on: {judge: each.correct for judge, each in row.items()} for made_on, row in matrix.items()}
    assert found == {"clean": {"left": 1, "both": 1, "right": 1}, "left": {"left": 0, "both": 1, "right": 1},
                     "both": {"left": 0, "both": 0, "right": 0}, "right": {"left": 0, "both": 1, "right": 1}}
