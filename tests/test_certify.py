"""Bounds: closed forms, networks that are solved exactly, every layer form; and that they can fail."""
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from benchmarks.exact_digits import programmes
from kitlib import attacks, certify
from kitlib.base.settings import KitError
from kitlib.certify.bounds import margins
from kitlib.certify.graph import open_model
from kitlib.certify.interval import UNIT, forward, input_set
from kitlib.certify.linear import linear_forward

CLASSES, CASES = 3, 12
METHODS = tuple(certify.CATALOGUE)


def network(*body, shape=(4, 4, 2), seed=0):
    """`body` are layers or a function of a tensor; random weights, biases and moving statistics."""
    keras.utils.set_random_seed(seed)
    inputs = x = keras.Input(shape)
    for step in body:    # a copy of a layer: one that was built before would keep the weights of another test
        x = type(step).from_config(step.get_config())(x) if isinstance(step, layers.Layer) else step(x)
    x = layers.Flatten()(x) if len(x.shape) > 2 else x
    model = keras.Model(inputs, layers.Dense(CLASSES)(x))
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        low = 0.5 if "variance" in weight.path or "gamma" in weight.path else -0.5
        if "kernel" not in weight.path:
            weight.assign(rng.uniform(low, low + 1.0, weight.shape))
    return model


def residual(x):
    y = layers.Conv2D(2, 3, padding="same", activation="relu")(x)
    return layers.ReLU()(layers.Add()([x, layers.Conv2D(2, 1)(y)]))


def branches(x):
    return layers.Concatenate()([layers.Conv2D(1, 3, activation="relu")(x), layers.MaxPooling2D(3, 1)(x)])


def operators(x):
    return keras.ops.relu(x + layers.Conv2D(2, 1)(x))


def nested(x):
    inside = keras.Sequential([keras.Input((4, 4, 2)), layers.Conv2D(2, 3, activation="relu"), layers.Dropout(0.5)])
    return inside(x)


def relu_of(layer):
    return [layer, layers.ReLU()]


FORMS = {
    "dense": [layers.Flatten(), layers.Dense(6, activation="relu"), layers.Dense(6, activation="relu")],
    "strides and same padding": relu_of(layers.Conv2D(3, 3, strides=2, padding="same")),
    "groups": relu_of(layers.Conv2D(4, 2, groups=2)),
    "dilation": relu_of(layers.Conv2D(3, 2, dilation_rate=2)),
    "depthwise": relu_of(layers.DepthwiseConv2D(3, depth_multiplier=2)),
    "rescaling and batch norm": [layers.Rescaling(2.0, -1.0), layers.Conv2D(3, 3), layers.BatchNormalization(),
                                 layers.ReLU()],
    "normalization": [layers.Normalization(mean=[0.4, 0.5], variance=[0.1, 0.2]), layers.Conv2D(2, 3),
                      layers.Activation("relu")],
    "leaky relu": [layers.Conv2D(3, 3), layers.LeakyReLU(0.2)],
    "relu with a largest value": [layers.Conv2D(2, 3), layers.ReLU(max_value=0.5), layers.Flatten(),
                                  layers.Dense(4, activation="relu6")],
    "max pooling": [layers.Conv2D(2, 1, activation="relu"), layers.MaxPooling2D(2, padding="same"), layers.Flatten(),
                    layers.Dense(4, activation="relu")],
    "overlapping max pooling": [layers.Conv2D(1, 2, activation="relu"), layers.MaxPooling2D(2, strides=1)],
    "average pooling": [layers.Conv2D(2, 2, activation="relu"), layers.AveragePooling2D(2, padding="same"),
                        layers.Conv2D(3, 1, activation="relu"), layers.GlobalAveragePooling2D()],
    "padding, permute and reshape": [layers.ZeroPadding2D(1), layers.Conv2D(2, 3, strides=3), layers.ReLU(),
                                     layers.Permute((2, 1, 3)), layers.Reshape((8,)), layers.Dense(5), layers.ReLU()],
    "residual": [residual], "concatenation": [branches], "operators": [operators], "nested model": [nested],
}


def drawn(model, count=CASES, seed=1):
    rng = np.random.default_rng(seed)
    images = rng.uniform(size=(count, *model.input_shape[1:])).astype(np.float32)
    images[0] = np.round(images[0])      # on the edge of the pixel box
    return images, rng.integers(0, CLASSES, count).astype(np.int32)


def proved(name, model, images, labels, eps, **settings):
    return certify.run({"name": name, "eps": eps, **settings}, model, images, labels)


def lower_of(name, model, images, labels, eps, norm="linf"):
    """The least margin as `run` finds it, uncompiled: tiny networks are sooner computed than compiled."""
    space = input_set(tf.constant(images), tf.constant(eps, tf.float32), norm)
    found = margins(name, open_model(model), space, tf.constant(labels)).numpy()
    return certify.Bounds(certify.read({"name": name, "eps": eps}), labels, found, 0.0).lower


def margin(logits, labels):
    logits = np.asarray(logits, np.float64)
    own = np.take_along_axis(logits, labels[:, None], 1)
    return np.where(np.arange(logits.shape[1]) == labels[:, None], np.inf, own - logits).min(1)


def corners(images, eps, norm, count, seed=2):
    """Random points of each ball: signs for L-inf, directions for L2; clipped to pixels."""
    noise = np.random.default_rng(seed).normal(size=(count, *images.shape))
    lengths = np.sqrt((noise**2).sum(axis=(2, 3, 4), keepdims=True))
    moved = images + eps * (np.sign(noise) if norm == "linf" else noise / lengths)
    return np.clip(moved, 0, 1).astype(np.float32)


@pytest.mark.parametrize("form", FORMS)
def test_proved_is_below_exact_is_below_attacked(form):
    """Each of 12 images: 204 cases in all."""
    model, eps = network(*FORMS[form]), 0.1
    images, labels = drawn(model)
    lower = {name: lower_of(name, model, images, labels, eps) for name in METHODS}
    for number, programme in enumerate(programmes(model, images, eps)):
        exact, worst = programme.least_margin(labels[number])
        assert np.abs(worst - images[number]).max() < eps + 1e-5
        attacked = margin(model(worst[None]), labels[[number]])[0]
        random = margin(model(corners(images[[number]], eps, "linf", 20)[:, 0]), labels[[number]].repeat(20)).min()
        assert exact <= min(attacked, random) + 1e-4 and attacked < exact + 1e-4
        assert all(lower[name][number] <= exact + 1e-5 for name in METHODS)
    assert all((lower["ibp"] <= lower[name] + 1e-5).all() for name in METHODS)
    assert lower["crown"].mean() >= lower["crown_ibp"].mean() - 0.02


SMOOTH = {"sigmoid": [layers.Conv2D(3, 3, activation="sigmoid"), layers.Flatten(), layers.Dense(5, activation="tanh")],
          "tanh": [layers.Rescaling(8.0, -4.0), layers.Conv2D(3, 3, activation="tanh"), layers.MaxPooling2D(2)]}


@pytest.mark.parametrize("norm, eps", [("linf", 0.05), ("l2", 0.3)])
@pytest.mark.parametrize("form", [*SMOOTH, "residual", "rescaling and batch norm"])
def test_no_point_in_the_ball_is_worse_than_what_is_proved(form, norm, eps):
    """Also of each number inside the network, and where there is no exact answer."""
    model = network(*(FORMS | SMOOTH)[form])
    images, labels = drawn(model, 6)
    points = corners(images, eps, norm, 200)
    found = margin(model(points.reshape(-1, *images.shape[1:])), np.tile(labels, 200)).reshape(200, -1).min(0)
    for name in METHODS:
        assert (lower_of(name, model, images, labels, eps, norm) <= found + 1e-6).all()
    nodes, space = open_model(model), input_set(tf.constant(images), eps, norm)
    for boxes in (forward(nodes, space), linear_forward(nodes, space), linear_forward(nodes, space, intersect=False)):
        for point in points[:5]:
            inside = forward(nodes, input_set(tf.constant(point), 0.0, "linf", 0.0))
            for box, at in zip(boxes, inside, strict=True):
                assert (box.lower <= at.lower + 1e-6).numpy().all() and (box.upper >= at.upper - 1e-6).numpy().all()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_of_a_linear_network_the_bound_is_the_truth(name, norm):
    """In the middle of the pixel box: the margin less eps times the dual norm of the weights' difference."""
    model = network(layers.Rescaling(3.0, 1.0), layers.Flatten())
    images, labels = drawn(model)
    images, eps = 0.25 + images / 2, 0.02
    weights, _ = model.layers[-1].get_weights()
    found = proved(name, model, images, labels, eps, norm=norm, rounding=False)
    rounded = proved(name, model, images, labels, eps, norm=norm).margins
    assert (rounded <= found.margins + 1e-6).all() and (rounded > found.margins - 2e-3).all()
    logits = model.predict(images, verbose=0)
    for row, label, logit in zip(found.margins, labels, logits, strict=True):
        difference = 3 * (weights[:, [label]] - weights)
        lost = eps * (np.abs(difference).sum(0) if norm == "linf" else np.sqrt((difference**2).sum(0)))
        np.testing.assert_allclose(row, logit[label] - logit - lost, atol=1e-4)
        assert row[label] == pytest.approx(0, abs=1e-6)


def test_at_the_edge_of_the_pixel_box_only_pixels_count():
    model = network(layers.Flatten())
    images, labels = np.zeros((1, 4, 4, 2), np.float32), np.array([0])
    weights, bias = model.layers[-1].get_weights()
    rows, base = weights[:, [0]] - weights, bias[0] - bias
    expected = base + 0.1 * np.minimum(rows, 0).sum(0)
    np.testing.assert_allclose(proved("crown", model, images, labels, 0.1).margins[0], expected, atol=1e-4)


def test_a_wrong_weight_is_noticed():
    """The comparisons above can fail: bounds of a network whose last bias is a little different are refuted."""
    model, other = (network(*FORMS["dense"]) for _ in range(2))
    kernel, bias = other.layers[-1].get_weights()
    other.layers[-1].set_weights([kernel, bias + [0.2, 0, 0]])
    images, labels = drawn(model)[0], np.zeros(CASES, np.int32)
    lower = lower_of("crown", other, images, labels, 0.001)
    exact = [each.least_margin(label)[0] for each, label in zip(programmes(model, images, 0.001), labels, strict=True)]
    assert (lower > np.array(exact) + 1e-3).all()


def test_rounding_is_allowed_for():
    """A sum of 4096 numbers, large and of both signs: float32 is off by more than the bounds of exact arithmetic."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64, 64, 1)), layers.Flatten(), layers.Dense(2, use_bias=False)])
    kernel = np.random.default_rng(0).normal(size=(4096, 2)).astype(np.float32) * 1e4
    model.layers[-1].set_weights([kernel])
    images = np.random.default_rng(1).uniform(size=(20, 64, 64, 1)).astype(np.float32)
    labels = np.zeros(20, np.int32)
    exact = images.reshape(20, -1).astype(np.float64) @ kernel.astype(np.float64)
    for name in METHODS:
        found = lower_of(name, model, images, labels, 0.0)
        for logits in (exact, model(images).numpy()):
            assert (found <= margin(logits, labels)).all()
        assert (found > margin(exact, labels) - 2e-3 * np.abs(kernel).sum()).all()
    off = np.abs(margin(model(images).numpy(), labels) - margin(exact, labels)).max()
    assert off > 1e-3


def test_compiled_equals_eager_for_any_batch_and_eps():
    model = network(*FORMS["residual"])
    images, labels = drawn(model, 7)
    compiled = [proved("crown", model, images, labels, eps) for eps in (0.02, 0.1)]
    again = certify.run({"name": "crown", "eps": 0.1}, model, images, labels, batch_size=3)
    np.testing.assert_allclose(again.margins, compiled[1].margins, atol=1e-5)
    assert certify.run({"name": "crown", "eps": 1e-6}, model, images, labels).margins.shape == (7, CLASSES)
    traces = [key for key in model.__dict__["_kitlib_traces"].traces if "bounds" in str(key)]
    assert len(traces) == 1 and (compiled[0].lower >= compiled[1].lower).all()
    space = input_set(tf.constant(images), 0.1, "linf", UNIT)
    eager = margins("crown", open_model(model), space, tf.constant(labels))
    np.testing.assert_allclose(eager, compiled[1].margins, atol=1e-5)
    model.layers[-1].kernel.assign(model.layers[-1].kernel * 2)      # bounds follow the weights
    assert np.abs(proved("crown", model, images, labels, 0.1).margins - compiled[1].margins).max() > 0.01


def test_digits_between_proof_and_attack(trained_model, images, labels):
    """No attack breaks what is proved, and some images are proved of a network with batch norm and dropout."""
    some, eps = slice(0, 40), "2/255"
    found = {name: proved(name, trained_model, images[some], labels[some], eps) for name in METHODS}
    attacked = attacks.run(attacks.read({"name": "pgd", "eps": eps}), trained_model, images[some], labels[some])
    assert not (found["crown"].proved & attacked.fooled).any()
    assert 0 < found["crown"].accuracy <= attacked.accuracy and found["ibp"].accuracy <= found["crown"].accuracy
    assert found["crown"].summary()["method"]["eps"] == pytest.approx(2 / 255)


class Swish(layers.Layer):
    def call(self, x):
        return x * keras.ops.sigmoid(x)


@pytest.mark.parametrize("body, said", [
    ([layers.UpSampling2D(name="larger")], "'larger' (UpSampling2D)"),
    ([Swish(name="mine")], "'mine' (Swish)"),
    ([layers.Conv2D(2, 1, activation="gelu", name="conv")], "'conv' (gelu"),
    ([layers.LeakyReLU(1.5, name="steep")], "'steep' (LeakyReLU with"),
    ([lambda x: x + 1.0], "an addition of a constant"),
    ([layers.Softmax(name="last")], "'last' (Softmax); take it off"),
])
def test_an_unknown_layer_is_named(body, said):
    with pytest.raises(KitError) as error:
        open_model(network(*body))
    assert said in str(error.value)


@pytest.mark.parametrize("settings, said", [
    ({"name": "crwn", "eps": 0.1}, "did you mean 'crown'"), ({"name": "ibp"}, "'eps' is missing"),
    ({"name": "ibp", "eps": -1}, "zero or more"), ({"name": "ibp", "eps": 0.1, "norm": "l1"}, "norm"),
])
def test_bad_settings(settings, said):
    with pytest.raises(KitError, match=said):
        certify.read(settings)


def test_bad_images_and_labels(trained_model, images, labels):
    for some, given, said in ((255 * images[:2], labels[:2], "pixels"), (images[:2], labels[:1], "shape")):
        with pytest.raises(KitError, match=said):
            proved("ibp", trained_model, some, given, 0.1)


class Code(keras.Model):
    def call(self, x):
        return -x


class Wired(keras.Model):
    """Keras makes a functional model of it, whose steps are not what it does."""

    call = Code.call


@pytest.mark.parametrize("model", [lambda: Code(name="mine"),
                                   lambda: Wired(*[keras.Input((4, 4, 1))] * 2, name="mine")])
def test_a_model_of_code_is_refused(model):
    with pytest.raises(KitError, match="is code"):
        open_model(model())


@pytest.mark.parametrize("units, activation", [(5, "softmax"), (1, "sigmoid")])
def test_of_probabilities_the_logits_before_them_are_bounded(units, activation):
    model = keras.Sequential([keras.Input((4, 4, 1)), layers.Flatten(), layers.Dense(units, activation)])
    images = np.random.default_rng(0).random((9, 4, 4, 1)).astype(np.float32)
    labels = attacks.run(attacks.Clean(), model, images, np.zeros(9, int)).predictions
    assert proved("crown", model, images, labels, 1e-6).accuracy == 1
