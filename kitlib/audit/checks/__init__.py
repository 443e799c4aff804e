"""The nineteen checks that a robustness claim has to pass, in order. Each is one small function.

A check looks at `Measurements` and says pass, flag or cannot tell. base.py: the thresholds, and when a difference
counts. strength.py (1 to 8): does the attack work? model.py (9 to 13): what the model does. controls.py (14 to 19).
"""
from kitlib.audit.checks import strength, model, controls  # noqa: I001  # in the order of the checks' numbers
from kitlib.audit.checks.base import (
    CHECKS,
    Check,
    Finding,
    Outcome,
    exceeds,
    more_right,
    points,
    tells_classes_apart,
    under,
)

__all__ = ["CHECKS", "Check", "Finding", "Outcome", "controls", "exceeds", "model", "more_right", "points", "strength",
           "tells_classes_apart", "under"]
