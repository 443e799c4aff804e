"""A small network trained on real digits in a few seconds, for the tests that need something to attack."""
import kitlib

kitlib.prepare()     # before TensorFlow starts

import keras
import matplotlib.pyplot as plt
import numpy as np
import pytest
import tiny_run
from sklearn.datasets import load_digits

TRAIN = 1200


@pytest.fixture(autouse=True)
def no_open_figures():
    """A test leaves no figure open for the next one, whatever it looked at."""
    yield
    plt.close("all")


@pytest.fixture(autouse=True)
def runs_folder(tmp_path, monkeypatch):
    """A folder of runs of each test's own."""
    monkeypatch.setenv("KITLIB_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture(scope="session")
def digits():
    """All 8 x 8 digits: pixels float32, 1797 x 8 x 8 x 1, in [0, 1], and int labels."""
    data = load_digits()
    return (data.images[..., None] / 16).astype(np.float32), data.target


@pytest.fixture(scope="session")
def images(digits):
    """200 test images."""
    return digits[0][TRAIN : TRAIN + 200]


@pytest.fixture(scope="session")
def labels(digits):
    return digits[1][TRAIN : TRAIN + 200]


@pytest.fixture(scope="session")
def trained_model(digits):
    """From pixels to logits, with batch norm and dropout; about 93 % right, undefended."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential([
        keras.Input((8, 8, 1), name="pixels"),
        layers.Rescaling(2.0, -1.0),
        layers.Conv2D(16, 3, activation="relu"),
        layers.BatchNormalization(momentum=0.9),
        layers.Conv2D(16, 3, activation="relu"),
        layers.Flatten(),
        layers.Dropout(0.2),
        layers.Dense(10),
    ])
    model.compile(keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(digits[0][:TRAIN], digits[1][:TRAIN], batch_size=64, epochs=6, verbose=0)
    return model


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """See tiny_run: for reading; a test that changes it takes tiny_run.copy_of it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("KITLIB_RUNS", str(tmp_path_factory.mktemp("finished_runs")))
        return tiny_run.finished()
