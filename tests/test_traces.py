"""Answers follow whatever changes what a model computes: nothing comes from an old trace."""
import keras
import numpy as np
import pytest
from keras import layers

from kitlib import attacks, certify, models
from kitlib.models.traces import state_of

IMAGES = np.random.default_rng(0).random((12, 6, 6, 1)).astype(np.float32)
LABELS = np.arange(12) % 3


class Block(layers.Layer):
    """Code of somebody's own, with a number and a layer that may be replaced."""

    def __init__(self, **named):
        super().__init__(**named)
        self.factor, self.inner = 1.0, layers.Dense(8)

    def build(self, shape):
        self.inner.build(shape)

    def call(self, inputs):
        return self.factor * self.inner(inputs)


def network():
    keras.utils.set_random_seed(3)
    normalize = layers.Normalization(name="normalize")
    normalize.adapt(IMAGES)
    return keras.Sequential([keras.Input((6, 6, 1)), normalize, layers.Conv2D(4, 3, name="conv"),
                             layers.BatchNormalization(name="norm"), layers.LeakyReLU(negative_slope=0.1, name="leaky"),
                             layers.Flatten(), Block(name="block"), layers.Dense(3, name="logits")])


def adapted(model):
    model.get_layer("normalize").adapt(5 * IMAGES + 2)


def loaded(model):
    other = network()
    adapted(other)
    other.set_weights([weight + 0.1 for weight in other.get_weights()])
    other.get_layer("normalize").finalize_state()
    other.save_weights("other.weights.h5")
    model.load_weights("other.weights.h5")


def replaced(model):
    block = model.get_layer("block")
    block._tracker.unlock()     # Keras refuses it otherwise
    block.inner = layers.Dense(8, activation="relu")
    block.inner.build((None, 64))


CHANGES = {
    "weights": lambda model: model.set_weights([weight + 0.3 for weight in model.get_weights()]),
    "adapt": adapted, "load_weights": loaded, "a replaced layer": replaced,
    "a number": lambda model: setattr(model.get_layer("block"), "factor", -2.0),
    "a slope": lambda model: setattr(model.get_layer("leaky"), "negative_slope", 0.9),
    "an activation": lambda model: setattr(model.get_layer("conv"), "activation", keras.activations.tanh),
    "lora": lambda model: (model.get_layer("logits").enable_lora(1),
                           model.get_layer("logits").lora_kernel_b.assign([[1.0, -2.0, 3.0]])),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_asked_before_does_not_answer_after(change, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, attack = network(), attacks.read({"name": "fgsm", "eps": 0.2})
    before = models.predict_logits(model, IMAGES), attacks.run(attack, model, IMAGES, LABELS).images
    CHANGES[change](model)
    after = models.predict_logits(model, IMAGES)
    np.testing.assert_allclose(after, np.asarray(model(IMAGES, training=False)), rtol=1e-4, atol=1e-5)
    assert np.abs(after - before[0]).max() > 1e-3
    attacked = attacks.run(attack, model, IMAGES, LABELS)
    afresh = attacks.run(attack, keras.Model(model.inputs, model(model.inputs[0])), IMAGES, LABELS)
    np.testing.assert_array_equal(attacked.images, afresh.images)
    assert (attacked.predictions == np.asarray(model(attacked.images, training=False)).argmax(1)).all()


def test_a_mixed_precision_model_is_followed_too():
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    model = network()
    keras.mixed_precision.set_global_policy("float32")
    before = models.predict_logits(model, IMAGES)
    model.get_layer("leaky").negative_slope = 0.9
    after = models.predict_logits(model, IMAGES)
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_allclose(after, np.asarray(model(IMAGES, training=False)), atol=0.1)


def test_training_and_asking_change_no_state_but_by_weights():
    model = network()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(IMAGES, LABELS, verbose=0)
    before = state_of(model)
    model.fit(IMAGES, LABELS, verbose=0)
    model.predict(IMAGES, verbose=0)
    models.predict_logits(model, IMAGES)
    assert state_of(model) == before


@pytest.mark.parametrize("change", ["weights", "adapt", "a slope", "an activation"])
def test_bounds_follow_too(change):
    keras.utils.set_random_seed(3)
    plain = [layer for layer in network().layers if not isinstance(layer, Block)]
    model = keras.Sequential([keras.Input((6, 6, 1)), *plain[:-1], layers.Dense(3, name="logits")])
    method = {"name": "crown", "eps": 0.01}
    before = certify.run(method, model, IMAGES, LABELS).margins
    CHANGES[change](model)
    after = certify.run(method, model, IMAGES, LABELS).margins
    assert np.abs(after - before).max() > 1e-3
    logits = np.asarray(model(IMAGES, training=False))
    assert (after <= logits[np.arange(12), LABELS][:, None] - logits + 1e-4).all()
