"""One cache of compiled functions for each model, right after anything that changes what the model computes.

A trace holds the variables of a model by reference, so new weights count at once. All else that the model's Python code
reads (a dropout's rate, what Normalization made of its weights, `trainable`, a layer that was replaced) is fixed in the
trace; so each trace is kept under the state that the model was in.
"""
from __future__ import annotations

import collections
import itertools
import weakref
from collections.abc import Callable, Hashable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

KEPT = 24           # traces of one model, of which the oldest go first
DEEPEST = 4         # containers within containers that a layer's attributes are looked into
_NUMBERS: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()   # of objects, as an address may be used again
_COUNT = itertools.count()
# What Keras keeps for itself, and what changes without changing an answer.
_BOOKKEEPING = {"_inbound_nodes", "_outbound_nodes", "_tracker", "_losses", "_loss_ids", "_metrics", "_lock", "_path",
                "_called", "_call_context_args", "_kitlib_origin", "_kitlib_traces", "_loss_tracker", "_compile_loss",
                "_compile_config", "_compile_metrics", "_jit_compile", "_eval_epoch_iterator", "compiled", "loss",
                "history", "optimizer", "stop_training", "stop_predicting", "stop_evaluating", "train_function",
                "test_function", "predict_function", "_self_unconditional_checkpoint_dependencies",
                "_self_unconditional_dependency_names", "_self_unconditional_deferred_dependencies"}


class _Kept:
    """The traces of a model, oldest first; an object of its own, as Keras saves and loads what dictionaries hold."""

    def __init__(self):
        self.traces = collections.OrderedDict()


def trace_of(model, key: Hashable, make: Callable[[], Any]) -> Any:
    """`make()`, kept for as long as the model stays in its present state. key: what else decides what `make` gives."""
    # Kept on the model itself: they live and die with it.
    known = model.__dict__.setdefault("_kitlib_traces", _Kept()).traces
    whole = (key, state_of(model))
    if whole not in known:
        known[whole] = make()
    known.move_to_end(whole)
    while len(known) > KEPT:
        known.popitem(last=False)
    return known[whole]


def state_of(model) -> tuple:
    """All that a trace of the model fixes: which layers and variables it has, and the plain values that they hold."""
    parts = model._flatten_layers() if hasattr(model, "_flatten_layers") else [model]
    return tuple((_number(part), _held(vars(part), DEEPEST)) for part in parts)


def _held(value, deep: int) -> Hashable:
    """A value as something to compare: numbers, text and arrays by their content, objects by which they are."""
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return value if value == value else "nan"
    if isinstance(value, keras.Variable):
        return _number(value)
    if isinstance(value, (np.ndarray, np.generic)) or isinstance(value, tf.Tensor) and hasattr(value, "numpy"):
        array = np.asarray(value)
        return array.shape, array.dtype.str, array.tobytes()
    if isinstance(value, dict):
        return deep and tuple((str(name), _held(each, deep - 1)) for name, each in value.items()
                              if name not in _BOOKKEEPING)
    if isinstance(value, (list, tuple, set, frozenset)):
        return deep and tuple(_held(each, deep - 1) for each in value)
    return _number(value)


def _number(value) -> Hashable:
    """Another for each object."""
    try:
        return _NUMBERS.setdefault(value, next(_COUNT))
    except TypeError:       # no hash, or no weak references
        return type(value).__name__
