"""`kitlib.prepare`, and what the user's Keras and TensorFlow say elsewhere."""
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import kitlib
from kitlib import attacks, models, plots
from kitlib.base import places
from kitlib.base.places import REPOSITORY
from kitlib.base.setup import keras_settings

WITH_ODD_KERAS_JSON = """
import json, sys
from kitlib import models
from kitlib.models import ModelSettings
model = models.build(ModelSettings(name="small_resnet", options={"widths": [4], "blocks": 1}), (8, 8, 3), 3, seed=0)
import keras
print(json.dumps([model.input_shape, [list(w.shape) for w in model.get_weights()], model.input.dtype,
                  keras.config.image_data_format(), keras.config.floatx(), float(abs(model.get_weights()[0]).sum())]))
"""
SAID = """
import os, sys
os.close(2)
import kitlib
print(bool(str(kitlib.prepare())), "tensorflow" in sys.modules, str(kitlib.prepare()))
"""
IMPORTS = """
import kitlib, sys
import kitlib.base.machine, kitlib.cli
print(sorted({"tensorflow", "keras"} & set(sys.modules)))
"""


def run(code, home, **variables):
    environment = {name: value for name, value in os.environ.items() if name not in ("KERAS_BACKEND", "KERAS_HOME")}
    return subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True,
                          env=environment | {"KERAS_HOME": str(home)} | variables)


def keras_json(home, **settings):
    usual = {"floatx": "float32", "epsilon": 1e-7, "backend": "tensorflow", "image_data_format": "channels_last"}
    (home / "keras.json").write_text(json.dumps(usual | settings))
    return home


def test_the_user_s_keras_json_changes_no_network(tmp_path):
    done = run(WITH_ODD_KERAS_JSON, keras_json(tmp_path, image_data_format="channels_first", floatx="float64"))
    shape, weights, dtype, order, floatx, total = json.loads(done.stdout.splitlines()[-1])
    options = {"widths": [4], "blocks": 1}
    here = models.build(models.ModelSettings(name="small_resnet", options=options), (8, 8, 3), 3, seed=0)
    assert weights == [list(weight.shape) for weight in here.get_weights()] and dtype == "float32"
    assert total == pytest.approx(float(np.abs(here.get_weights()[0]).sum()))
    assert (order, floatx) == ("channels_first", "float64")      # of the user, and left as they were


@pytest.mark.parametrize("variables, name", [({}, "jax"), ({"KERAS_BACKEND": "torch"}, "torch")])
def test_another_backend_is_one_clear_error_before_anything_is_computed(tmp_path, variables, name):
    done = run("from kitlib import attacks", keras_json(tmp_path, backend="jax"), **variables)
    assert f"its backend is '{name}'" in done.stderr.splitlines()[-1] and "kitlib.prepare()" in done.stderr


def test_prepare_says_what_it_changed_and_works_without_stderr(tmp_path):
    assert run(SAID, keras_json(tmp_path, backend="jax")).stdout.split("\n")[0] == "True True nothing was to be changed"
    assert kitlib.prepare().changed == ()


def test_importing_starts_nothing(tmp_path):
    assert run(IMPORTS, tmp_path).stdout.strip() == "[]"


def test_library_calls_leave_the_user_s_settings_as_they_were(trained_model, images, labels):
    keras.config.set_image_data_format("channels_first")
    keras.config.set_dtype_policy("mixed_bfloat16")
    tf.config.experimental.enable_tensor_float_32_execution(True)
    try:
        before = keras_settings(keras)
        attacks.run(attacks.read({"name": "fgsm", "eps": 0.1}), trained_model, images[:4], labels[:4])
        assert keras_settings(keras) == before
        assert tf.config.experimental.tensor_float_32_execution_enabled()
    finally:
        keras.config.set_image_data_format("channels_last")
        keras.config.set_dtype_policy("float32")
        tf.config.experimental.enable_tensor_float_32_execution(False)


def test_pictures_leave_the_user_s_style_as_it_was(tmp_path):
    import matplotlib.pyplot as plt

    with plt.rc_context({"axes.facecolor": "pink", "figure.dpi": 33}):
        plots.keep(plots.image_row([np.zeros((4, 4, 1))], ["one"]), tmp_path / "one.png")
        assert (plt.rcParams["axes.facecolor"], plt.rcParams["figure.dpi"]) == ("pink", 33)


def test_places_count_from_the_repository(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KITLIB_RUNS", "some/runs")
    monkeypatch.setenv("KITLIB_DATA", str(tmp_path))
    assert places.runs_folder() == REPOSITORY / "some" / "runs" and places.data_folder() == tmp_path
    monkeypatch.setattr(places, "NOTEBOOKS", tmp_path / "none")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KITLIB_DATA")
    assert places.data_folder() == tmp_path / "kitlib" / "data"
