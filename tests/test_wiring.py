"""What is told of a model by its wiring."""
import keras
import pytest
from keras import layers

from kitlib.base.settings import KitError
from kitlib.models import wiring

SHAPE = (4, 4, 1)


def ends_in(step) -> keras.Model:
    pixels = keras.Input(SHAPE)
    return keras.Model(pixels, step(layers.Flatten()(pixels)))


def gated(features):
    """Logits behind a sigmoid that is no end."""
    return keras.ops.multiply(layers.Dense(3)(features), layers.Dense(3, activation="sigmoid")(features))


class SigmoidLast(keras.Model):
    """Logits, though a sigmoid is the layer that was made last."""

    def __init__(self):
        super().__init__()
        self.flat, self.head, self.gate = layers.Flatten(), layers.Dense(3), layers.Dense(3, activation="sigmoid")

    def call(self, pixels):
        features = self.flat(pixels)
        return self.head(features) * self.gate(features)


def nested(model: keras.Model) -> keras.Model:
    pixels = keras.Input(SHAPE)
    return keras.Model(pixels, model(pixels))


PROBABILITIES = {
    "dense": lambda: ends_in(layers.Dense(3, activation="softmax")),
    "layer": lambda: ends_in(lambda x: layers.Softmax()(layers.Dense(3)(x))),
    "activation": lambda: ends_in(lambda x: layers.Activation("sigmoid")(layers.Dense(3)(x))),
    "operation": lambda: ends_in(lambda x: keras.ops.softmax(layers.Dense(3)(x))),
    "nested": lambda: nested(ends_in(layers.Dense(3, activation="softmax"))),
    "sequential": lambda: keras.Sequential([keras.Input(SHAPE), layers.Flatten(), layers.Dense(3, "softmax")]),
}
LOGITS = {
    "dense": lambda: ends_in(layers.Dense(3)),
    "gated": lambda: ends_in(gated),
    "code": SigmoidLast,
    "log-softmax": lambda: ends_in(lambda x: keras.ops.log_softmax(layers.Dense(3)(x))),
    "never built": lambda: keras.Sequential([layers.Flatten(), layers.Dense(3)]),
}


@pytest.mark.parametrize("model", PROBABILITIES.values(), ids=PROBABILITIES)
def test_probabilities_at_the_end_are_refused(model):
    with pytest.raises(KitError, match="ends in (softmax|sigmoid), so it returns probabilities; logits are needed"):
        wiring.refuse_probabilities(model())


@pytest.mark.parametrize("model", LOGITS.values(), ids=LOGITS)
def test_logits_are_not_taken_for_probabilities(model):
    wiring.refuse_probabilities(model())


def test_a_model_says_which_images_it_takes():
    model = ends_in(layers.Dense(3))
    assert wiring.image_shape(model) == SHAPE and wiring.outputs_of(model) == 3


def two_inputs() -> keras.Model:
    inputs = [keras.Input(SHAPE), keras.Input(SHAPE)]
    return keras.Model(inputs, layers.Flatten()(inputs[0] + inputs[1]))


@pytest.mark.parametrize("model, message", [
    (SigmoidLast, "must be wrapped first"), (two_inputs, "one batch of images")])
def test_models_of_other_inputs_are_refused(model, message):
    with pytest.raises(KitError, match=message):
        wiring.image_shape(model())


def test_the_last_step_of_a_model_of_functions_is_found():
    model = ends_in(lambda x: keras.ops.exp(layers.Dense(3)(x)))
    step, fed = wiring.last_step(model)
    assert wiring.is_operation(step, "Exp") and fed.shape == (None, 3)
    assert wiring.last_step(ends_in(gated)) == (None, None)
