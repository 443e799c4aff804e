"""How right a model is, and what defends, detects and explains.

    found = evaluation.evaluate(model, images, labels, {"PGD": attacks.read({"name": "pgd", "eps": "8/255"})})
    print(found.clean, found.under("PGD"), found.worst(["PGD"]))

Read first: accuracy.py (accuracies with counts and Wilson intervals, confusion matrices). defences.py: preprocessing in
front of a model, and how it is attacked. detection.py: a detector, and who evades it. explanations.py: Grad-CAM and
integrated gradients.
"""
from kitlib.base.setup import check_backend

check_backend()     # before Keras is imported

from kitlib.evaluation.accuracy import (
    CONFIDENCE,
    SCORES,
    Accuracy,
    Evaluation,
    Measured,
    along,
    cell,
    confusion,
    evaluate,
    guessing,
    recalls,
    sweep,
)

__all__ = ["CONFIDENCE", "SCORES", "Accuracy", "Evaluation", "Measured", "along", "cell", "confusion", "evaluate",
           "guessing", "recalls", "sweep"]
