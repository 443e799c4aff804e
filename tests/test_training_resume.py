"""Training goes on where it was stopped, repeats itself, and spreads over devices."""
from __future__ import annotations

import ast
import importlib.util
import json
import linecache
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pytest
from training_toys import FGSM, SHAPE, checkpoint_in, network, settings, toy_data

from kitlib import attacks, models
from kitlib.base import code
from kitlib.base.files import locked
from kitlib.base.settings import KitError
from kitlib.training import checkpoint, loop, train
from kitlib.training.checkpoint import State

TESTS = Path(__file__).resolve().parent


class Stopped(Exception):
    pass


def stop_in(epoch: int, step: int) -> keras.callbacks.Callback:
    """Break off in this epoch (from 0) at this step."""

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

        def on_train_batch_end(self, batch, logs=None):
            if (self.epoch, batch) == (epoch, step):
                raise Stopped

    return Stop()


def assert_same(history, other):
    timeless = [{name: values for name, values in each.items() if name != "seconds"} for each in (history, other)]
    assert timeless[0] == timeless[1]


EVERYTHING = {
    "epochs": 3, "schedule": "cosine", "augmentation": {"flip": True, "rotation": 10}, "keep": "best", "patience": 2,
}


@pytest.mark.parametrize("values", [
    {"method": "fgsm_rs", "robust_check": {"images": 16, "attack": FGSM}}, {"method": "free", "replays": 2},
    {"method": "static", "attacks": [FGSM]},
], ids=["fgsm_rs", "free", "static"])
def test_a_resumed_training_equals_an_uninterrupted_one(values, tmp_path):
    chosen = settings(**EVERYTHING | values)

    def run(folder, callbacks=()):
        net = network(dropout=0.2, batch_norm=True)
        history = train(net, toy_data(), chosen, tmp_path / folder, seed=3, baseline=network(), progress=False,
                        callbacks=callbacks)
        return net.get_weights(), history

    weights, history = run("whole")
    for epoch, step in ((0, 3), (2, 2)):
        with pytest.raises(Stopped):
            run("broken", [stop_in(epoch, step)])
    resumed_weights, resumed_history = run("broken")
    assert_same(history, resumed_history)
    for one, other in zip(weights, resumed_weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_fine_tuning_is_not_taken_for_training_from_the_first_weights(tmp_path):
    def built():
        return models.build(models.ModelSettings(name="deeper_cnn", options={"widths": [4, 4], "dense": [8]}), SHAPE, 3,
                            seed=0)

    def trained(net, folder, **values):
        train(net, toy_data(), settings(epochs=1, **values), tmp_path / folder, progress=False)
        return net.get_weights()

    tuned = built()
    trained(tuned, "shared")
    fine = trained(tuned, "shared", method="fgsm")
    afresh = trained(built(), "shared", method="fgsm")
    for one, other in zip(afresh, trained(built(), "alone", method="fgsm"), strict=True):
        np.testing.assert_array_equal(one, other)
    assert any(np.abs(one - other).max() > 0.001 for one, other in zip(afresh, fine, strict=True))


def test_patience_counts_on_over_a_resume(tmp_path):
    chosen = settings(epochs=30, keep="best", patience=2)
    history = train(network(), toy_data(), chosen, tmp_path / "whole", progress=False)
    last = len(history["epoch"]) - 1
    with pytest.raises(Stopped):
        train(network(), toy_data(), chosen, tmp_path / "broken", progress=False, callbacks=[stop_in(last, 1)])
    assert_same(history, train(network(), toy_data(), chosen, tmp_path / "broken", progress=False))


def test_a_finished_training_is_not_repeated(tmp_path, monkeypatch):
    net, again = network(), network(seed=9)
    history = train(net, toy_data(), settings(), tmp_path, progress=False)
    monkeypatch.setattr(loop, "training_for", lambda *arguments: pytest.fail("trained again"))
    assert train(again, toy_data(), settings(), tmp_path, progress=False) == history
    for one, other in zip(net.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("values, named", [
    ({"epochs": 3}, {}), ({"learning_rate": 0.02}, {}), ({"method": "fgsm", "attacks": [FGSM]}, {}), ({}, {"seed": 1}),
    ({}, {"dataset": toy_data(seed=5)}), ({}, {"model": network(dropout=0.5)}),
], ids=["epochs", "rate", "method", "seed", "data", "network"])
def test_a_changed_training_is_made_beside_what_was_there(values, named, tmp_path):
    history = train(network(), toy_data(), settings(), tmp_path, progress=False)
    first = checkpoint_in(tmp_path)
    before = first.read_bytes()
    arguments = {"model": network(), "dataset": toy_data(), "seed": 0} | named
    other = train(settings=settings(**values), folder=tmp_path, progress=False, **arguments)
    assert other["loss"] != history["loss"]
    assert first.read_bytes() == before and len(list(tmp_path.glob("*/checkpoint.npz"))) == 2


def test_static_training_depends_on_its_baseline_and_plain_training_does_not(tmp_path):
    for method, folders in (("plain", 1), ("static", 2)):
        chosen = settings(epochs=1, **{"method": method} | ({"attacks": [FGSM]} if method == "static" else {}))
        for seed in (5, 6):
            train(network(), toy_data(), chosen, tmp_path / method, baseline=network(seed=seed), progress=False)
        assert len(list((tmp_path / method).iterdir())) == folders


def test_changed_code_is_another_training(tmp_path, monkeypatch):
    train(network(), toy_data(), settings(), tmp_path, progress=False)
    monkeypatch.setattr(loop, "_code_of", lambda settings: "other")
    train(network(), toy_data(), settings(), tmp_path, progress=False)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_better_docstring_voids_no_training_but_other_code_does():
    def of(text):
        return ast.dump(code._without_docstrings(ast.parse(text)))

    one = of("class A:\n    'Two.'\n\n    def f(self):\n        'Three.'\n")
    assert one == of("class A:\n    def f(self):  # it\n        'Four.'\n")
    assert one != of("class A:\n    def f(self):\n        return 'Four.'\n")
    assert one != of("class A:\n    def f(self):\n        'Four.' + g()\n")


def test_a_training_is_named_by_the_code_that_it_reaches_and_no_other():
    plain, fgsm, pgd = (loop._code_of(settings(method=method)) for method in ("plain", "fgsm", "pgd"))
    assert len({plain, fgsm, pgd}) == 3
    reached = code.reached([("kitlib.attacks", "FGSM")], ("kitlib.base",))
    assert ("kitlib.attacks.gradient", "FGSM") in reached and ("kitlib.attacks.base", "InBall") in reached
    assert not {name for module, name in reached} & {"Square", "PGD", "CarliniWagnerL2"}


def test_a_checkpoint_that_was_moved_is_not_mixed_in(tmp_path):
    train(network(), toy_data(), settings(), tmp_path / "one", progress=False)
    train(network(), toy_data(), settings(), tmp_path / "two", seed=1, progress=False)
    moved = checkpoint_in(tmp_path / "two")
    moved.write_bytes(checkpoint_in(tmp_path / "one").read_bytes())
    with pytest.raises(KitError, match="was moved here from another training"):
        train(network(), toy_data(), settings(), tmp_path / "two", seed=1, progress=False)


def test_code_of_one_s_own_names_the_training_too(tmp_path):
    """An attack or a layer that lies outside kitlib: no name of the kit leads to it."""
    def loaded(body):
        file = tmp_path / "mine.py"
        file.write_text(f"from kitlib import attacks\nclass Mine(attacks.FGSM):\n    def move(self):\n        {body}\n")
        linecache.clearcache()
        found = importlib.util.spec_from_file_location("mine", file)
        module = sys.modules["mine"] = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
        return module.Mine

    before, after = (code.digest([loaded(body)]) for body in ("return {}", "return None"))
    sys.modules.pop("mine")
    assert before != after and code.source_of(keras.layers.Dense) == "" == code.source_of(attacks.FGSM)


def test_layer_names_do_not_make_another_training(tmp_path):
    history = train(network(), toy_data(), settings(), tmp_path, progress=False)
    network()  # moves on the numbers that Keras gives to layers
    assert train(network(), toy_data(), settings(), tmp_path, progress=False) == history


@pytest.mark.parametrize("damage", [lambda whole: whole[: len(whole) // 2], lambda whole: b"", lambda whole: b"x" * 99],
                         ids=["truncated", "empty", "nonsense"])
def test_a_damaged_checkpoint_is_named(damage, tmp_path):
    train(network(), toy_data(), settings(), tmp_path, progress=False)
    path = checkpoint_in(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(KitError, match="checkpoint.npz is damaged.*delete it"):
        train(network(), toy_data(), settings(), tmp_path, progress=False)


def test_an_npz_that_is_no_checkpoint_is_named(tmp_path):
    train(network(), toy_data(), settings(), tmp_path, progress=False)
    np.savez(checkpoint_in(tmp_path), images=np.zeros(3))
    with pytest.raises(KitError, match="no checkpoint of a training"):
        train(network(), toy_data(), settings(), tmp_path, progress=False)


def test_the_second_of_two_trainings_in_one_folder_waits_and_takes_up_what_the_first_made(tmp_path, capsys):
    first = network()
    history = train(first, toy_data(), settings(), tmp_path, progress=False)
    with ThreadPoolExecutor() as pool:
        with locked(checkpoint_in(tmp_path).parent, "training"):
            second = network()
            waits = pool.submit(train, second, toy_data(), settings(), tmp_path, progress=False)
            time.sleep(0.5)
            assert not waits.done()
        assert waits.result(timeout=60) == history
    assert "waiting for another process" in capsys.readouterr().out
    for ours, theirs in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_leftovers_of_a_kill_while_writing_are_cleared(tmp_path):
    train(network(), toy_data(), settings(), tmp_path, progress=False)
    for name in (".checkpoint-abc.npz", ".static0-abc.npy"):
        checkpoint_in(tmp_path).with_name(name).write_bytes(b"half")
    train(network(), toy_data(), settings(), tmp_path, progress=False)
    assert not list(tmp_path.glob("*/.*.np[yz]"))


# ---- in processes of their own

def python(code: str, *arguments, **named) -> subprocess.Popen:
    environment = os.environ | {
        "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": f"{TESTS}:{TESTS.parent}",
    }
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], env=environment,
                            text=True, stdout=subprocess.PIPE, **named)


TRAIN = """
import sys
from pathlib import Path
from training_toys import network, settings, toy_data
from kitlib import models
from kitlib.training import train
net = network(dropout=0.2, batch_norm=True)
train(net, toy_data(), settings(epochs=20, schedule="cosine"), Path(sys.argv[1]), seed=3)
models.save(net, Path(sys.argv[1]) / "model.keras")
"""


def test_kill_9_at_any_moment_loses_no_finished_epoch(tmp_path):
    process = python(TRAIN, tmp_path / "killed")
    while process.poll() is None and epochs_in(tmp_path / "killed") < 3:
        time.sleep(0.05)
    time.sleep(np.random.default_rng().uniform(0, 0.3))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finished = epochs_in(tmp_path / "killed")
    assert finished >= 3
    process = python(TRAIN, tmp_path / "killed")
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 0 and f"goes on after epoch {finished}" in said
    assert (tmp_path / "killed" / "model.keras").exists()

    net = network(dropout=0.2, batch_norm=True)
    history = train(net, toy_data(), settings(epochs=20, schedule="cosine"), tmp_path / "whole", seed=3, progress=False)
    state = State.load(checkpoint_in(tmp_path / "killed"))
    assert [record["epoch"] for record in state.epochs] == history["epoch"]
    assert [record["learning_rate"] for record in state.epochs] == history["learning_rate"]
    np.testing.assert_allclose([record["loss"] for record in state.epochs], history["loss"], atol=1e-4)
    for one, other in zip(net.get_weights(), state.kept, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def epochs_in(folder: Path) -> int:
    """Finished epochs; every checkpoint that is ever on disk must be whole."""
    path = checkpoint_in(folder)
    return len(State.load(path).epochs) if path.exists() else 0


DEVICES = """
import json, tempfile
import numpy as np, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
from training_toys import FGSM, network, settings, toy_data
from kitlib.training import train

def run(strategy, **values):
    net = network()
    with tempfile.TemporaryDirectory() as folder:
        history = train(net, toy_data(), settings(augmentation={"flip": True}, **values), folder, seed=3,
                        progress=False, strategy=strategy)
    return history["loss"], history["val_loss"], [weight.tolist() for weight in net.get_weights()]

two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
results = {}
for values in ({"method": "fgsm", "class_weights": True}, {"method": "free", "replays": 2}):
    values["precision"] = "float32"     # bfloat16 rounds the sums of a half batch otherwise than those of a whole
    results[str(values)] = [run(None, **values), run(two, **values)]
results["deterministic"] = [run(None, method="fgsm_rs", deterministic=True) for _ in range(2)]
from kitlib.base.settings import KitError
images, odd = toy_data(), toy_data(validation=31)       # no device gets what another gets
results["uneven"] = [
    train(network(), odd, settings(precision="float32"), tempfile.mkdtemp(), progress=False, strategy=each)["val_loss"]
    for each in (None, two)]
folder, said = tempfile.mkdtemp(), []
class Stop(tf.keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = True
free = settings(method="free", replays=2, precision="float32")
train(network(), images, free, folder, progress=False, strategy=two, callbacks=[Stop()])
for batch_size, where, asked in ((17, tempfile.mkdtemp(), two), (16, folder, None)):
    try:
        values = free.model_copy(update={"batch_size": batch_size})
        train(network(), images, values, where, progress=False, strategy=asked)
    except KitError as error:
        said.append(str(error))
results["said"] = said
print(json.dumps(results))
"""


def test_two_devices_do_as_one_and_deterministic_repeats_bit_for_bit():
    said, _ = python(DEVICES).communicate(timeout=200)
    results = json.loads(said.splitlines()[-1])
    one, again = results.pop("deterministic")
    assert one == again
    np.testing.assert_allclose(*results.pop("uneven"), rtol=1e-3)
    uneven, other = results.pop("said")
    assert "batch_size 17 cannot be split evenly over 2 devices" in uneven
    assert "begun on another number of devices" in other
    for single, double in results.values():
        np.testing.assert_allclose(single[0], double[0], rtol=1e-4)
        np.testing.assert_allclose(single[1], double[1], rtol=1e-3)
        for weight, other in zip(single[2], double[2], strict=True):
            np.testing.assert_allclose(weight, other, atol=2e-3)


def fingerprint(model):
    return checkpoint.fingerprint_of(settings(), 0, toy_data(), model, None, "code")


def test_a_training_from_other_first_weights_is_another_training(tmp_path):
    chosen = models.ModelSettings(name="deeper_cnn", options={"widths": [4, 4], "dense": [8]})
    one, again, other = (models.build(chosen, SHAPE, 3, seed=seed) for seed in (1, 1, 2))
    assert fingerprint(one) == fingerprint(again) != fingerprint(other)
    for name, model in {"one": one, "again": again, "other": other}.items():
        models.save(model, tmp_path / f"{name}.keras")
    one, again, other = (models.load(tmp_path / f"{name}.keras") for name in ("one", "again", "other"))
    assert fingerprint(one) == fingerprint(again) != fingerprint(other)


def test_weights_from_a_file_are_told_from_others(tmp_path):
    def net(**options):
        return models.build(models.ModelSettings(name="mobilenet_v2", options=options), (32, 32, 3), 3, seed=0)

    plain = net()
    inner = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(32, 32, 3), pooling="avg")
    path = tmp_path / "given.weights.h5"
    inner.save_weights(path)
    before = fingerprint(net(weights=str(path)))
    inner.set_weights([weight + 1 for weight in inner.get_weights()])
    inner.save_weights(path)
    assert len({str(each) for each in (fingerprint(plain), before, fingerprint(net(weights=str(path))))}) == 3


def test_networks_that_are_wired_otherwise_are_other_trainings():
    def net(shortcut):
        keras.utils.set_random_seed(0)
        pixels = keras.Input(SHAPE)
        made = [keras.layers.Conv2D(4, 3, padding="same")(pixels)]
        for _ in range(2):
            made.append(keras.layers.Conv2D(4, 3, padding="same")(made[-1]))
        x = keras.layers.Flatten()(made[-1] + made[shortcut])
        return keras.Model(pixels, keras.layers.Dense(3)(x))

    assert fingerprint(net(0)) == fingerprint(net(0)) != fingerprint(net(1))


def test_functions_and_their_numbers_make_another_training():
    def net(function):
        keras.utils.set_random_seed(0)
        pixels = keras.Input(SHAPE)
        return keras.Model(pixels, keras.layers.Dense(3)(keras.layers.Flatten()(function(pixels))))

    functions = [keras.ops.relu, keras.ops.tanh, lambda x: x * 2.0, lambda x: x * 5.0,
                 lambda x: x[:, :4], lambda x: x[:, 4:],
                 lambda x: x + np.full(3, 1.0, np.float32), lambda x: x + np.full(3, 2.0, np.float32),
                 lambda x: keras.ops.leaky_relu(x, 0.1), lambda x: keras.ops.leaky_relu(x, 0.2)]
    found = [fingerprint(net(function))["network"] for function in functions]
    assert len(set(found)) == len(functions) and found == [fingerprint(net(each))["network"] for each in functions]


class StopIn(keras.callbacks.Callback):
    """Asks Keras to stop, in this epoch (from 0) after this step, or at its end."""

    def __init__(self, epoch, step=None):
        super().__init__()
        self.at, self.step = epoch, step

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training |= (self.epoch, batch) == (self.at, self.step)

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training |= self.step is None and epoch == self.at


@pytest.mark.parametrize("step, epochs", [(None, 2), (2, 1)], ids=["after an epoch", "within one"])
def test_a_callback_may_stop_a_training_which_then_goes_on_from_its_last_whole_epoch(step, epochs, tmp_path):
    chosen, expected = settings(epochs=3), network()
    whole = train(expected, toy_data(), chosen, tmp_path / "whole", progress=False)
    stopped, after = network(), network()
    cut = train(stopped, toy_data(), chosen, tmp_path / "cut", progress=False, callbacks=[StopIn(1, step)])
    assert cut["epoch"] == [1, 2][:epochs] and cut["loss"] == whole["loss"][:epochs]
    train(after, toy_data(), settings(epochs=3), tmp_path / "whole2", progress=False, callbacks=[StopIn(epochs - 1)])
    for weight, other in zip(stopped.get_weights(), after.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, other)
    again = network()
    assert_same(train(again, toy_data(), chosen, tmp_path / "cut", progress=False), whole)
    for weight, other in zip(again.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, other)


def test_a_training_that_is_stopped_in_its_first_epoch_leaves_the_model_as_it_was(tmp_path):
    net = network()
    before = net.get_weights()
    history = train(net, toy_data(), settings(), tmp_path, progress=False, callbacks=[StopIn(0, 1)])
    assert history["kept"] == [] and all(map(np.array_equal, net.get_weights(), before))
