"""The state of a training after its last finished epoch, in one file that is there whole or not at all."""
from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np

from kitlib.base import digests
from kitlib.base.code import source_of
from kitlib.base.files import read_arrays, write_arrays
from kitlib.base.settings import KitError
from kitlib.models import origin_of


@dataclass
class State:
    """Everything that a training needs to go on.

    fingerprint: what the training is made of (settings, seed, data, network, baseline).
    epochs: one record an epoch, numbers and text. finished: nothing is left to do; `kept` is the result.
    variables: of the network, the optimizer and the method (random states included), by group.
    kept: the variables of the network in the epoch that is kept so far.
    """

    fingerprint: dict
    epochs: list[dict] = field(default_factory=list)
    finished: bool = False
    variables: dict[str, list[np.ndarray]] = field(default_factory=dict)
    kept: list[np.ndarray] = field(default_factory=list)

    def save(self, path: Path) -> None:
        groups = {**self.variables, "kept": self.kept}
        arrays = {f"{group}/{number}": array for group, list_ in groups.items() for number, array in enumerate(list_)}
        record = {"fingerprint": self.fingerprint, "epochs": self.epochs, "finished": self.finished}
        write_arrays(path, record=np.array(json.dumps(record)), **arrays)

    @classmethod
    def load(cls, path: Path) -> State:
        """Raises KitError when the file is damaged."""
        arrays = read_arrays(path)
        try:
            record = json.loads(str(arrays.pop("record")))
            groups: dict[str, list[np.ndarray]] = {}
            for name, array in arrays.items():  # stored in order
                groups.setdefault(name.split("/")[0], []).append(array)
            return cls(variables=groups, kept=groups.pop("kept", []), **record)
        except (KeyError, TypeError, ValueError) as error:
            raise KitError(f"{path} is no checkpoint of a training ({error}): delete it and train again") from None


def resumed(path: Path, fingerprint: dict) -> State | None:
    """The state at `path`, or None where there is none. Raises KitError where it is damaged or another training's."""
    if not path.exists():
        return None
    state = State.load(path)
    if state.fingerprint != fingerprint:
        raise KitError(f"{path} was moved here from another training: delete it or put it back")
    return state


def folder_of(fingerprint: dict, parent: Path) -> Path:
    """The folder in `parent` of the training that is made of this, and of no other."""
    return parent / f"{fingerprint['settings']['method']}-{digests.of_json(fingerprint)[:16]}"


def fingerprint_of(settings, seed: int, dataset, network, baseline, code: str) -> dict:
    """What decides the outcome of a training. Of the first weights it is their origin that counts (of a model that
    kitlib.models did not make, nothing), as a stop leaves those in the caller's model changed. `baseline`: where it
    matters, else None. code: of the code that the training reaches."""
    return {
        "settings": settings.model_dump(mode="json"),
        "seed": seed,
        "attacks": [attack.model_dump(mode="json") for attack in settings.training_attacks()],
        "code": code,
        "data": dataset.digest,
        "network": hashlib.sha256(json.dumps(_structure(network), default=str).encode()).hexdigest(),
        "origin": origin_of(network),
        "baseline": digests.of_arrays(baseline.get_weights()) if baseline is not None else None}


def _structure(network: keras.Model) -> list:
    """Layers, options, shapes and wiring, without the names, which Keras numbers through a whole process."""
    leaves = [layer for layer in network._flatten_layers() if not isinstance(layer, keras.Model)]
    shapes = [list(weight.shape) for weight in network.weights]
    return [[_step(layer) for layer in leaves], shapes, _wiring(network)]


def _step(operation) -> list:
    """The kind and the options of a layer, or of a function of keras.ops, as far as it tells them."""
    try:
        options = {**operation.get_config(), "name": None}
    except NotImplementedError:
        options = {}
    return [type(operation).__name__, options, *filter(None, [source_of(type(operation))])]


def _wiring(network: keras.Model) -> list:
    """For each operation in each functional model, the places of those that it takes its inputs from, and what it is
    called with beside them."""
    wired = []
    for model in network._flatten_layers():
        operations = getattr(model, "operations", [])
        places = {id(operation): place for place, operation in enumerate(operations)}
        nodes = [node for level in getattr(model, "_nodes_by_depth", {}).values() for node in level]
        functions = [_step(each) for each in operations if not isinstance(each, keras.layers.Layer)]
        calls = [(places[id(node.operation)], [places[id(tensor._keras_history.operation)]
                                               for tensor in node.input_tensors], _constants(node)) for node in nodes]
        wired.append([functions, sorted(calls)])
    return wired


def _constants(node) -> list[str]:
    given = keras.tree.flatten([node.arguments.args, node.arguments.kwargs])
    constants = [each for each in given if each is not None and not isinstance(each, keras.KerasTensor)]
    return [digests.of_arrays([np.asarray(each)]) if hasattr(each, "shape") else _stated(each) for each in constants]


def _stated(constant) -> str:
    said = repr(constant)
    return type(constant).__name__ if " at 0x" in said else said     # an address is another in each process
