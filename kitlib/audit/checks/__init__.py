"""The nineteen checks that a robustness claim has to pass, in order. Each is one small function.

A check looks at `Measurements` and says pass, flag or cannot tell. base.py: what a check is, and when a
difference counts. strength.py (1 to 8): does the attack work? model.py (9 to 13): what the model does. controls.py
(14 to 19). Thresholds stand above the checks that use them.
"""
from kitlib.audit.checks import strength, model, controls  # noqa: F401, I001  # in the order of the checks' numbers
from kitlib.audit.checks.base import CHECKS, Check, Finding, Outcome, more_right, of_claim, percent, tells_classes_apart

__all__ = ["CHECKS", "Check", "Finding", "Outcome", "more_right", "of_claim", "percent", "tells_classes_apart"]
