"""Whatever the model, the shape, the epsilon and the norm: no attack leaves its ball or the pixel box."""
import functools

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kitlib import attacks

SHAPES = [(1, 1, 1), (3, 5, 1), (4, 4, 3), (7, 6, 2)]
BOUNDED = {
    "noise": {"kind": "gaussian"}, "fgsm": {}, "pgd": {"steps": 3}, "mim": {"steps": 3}, "apgd": {"steps": 6},
    "square": {"steps": 4},
}


@functools.cache
def random_model(shape, classes, seed):
    """A network with random weights, some of them large, some layers flat."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    model = keras.Sequential([
        keras.Input(shape), layers.Conv2D(3, 3, padding="same", activation="relu"), layers.Flatten(),
        layers.Dense(classes),
    ])
    model.set_weights([w * 10.0 ** (seed - 1) for w in model.get_weights()])
    return model


@st.composite
def cases(draw):
    shape, classes = draw(st.sampled_from(SHAPES)), draw(st.sampled_from([2, 3, 5]))
    numbers = np.random.default_rng(draw(st.integers(0, 10**6)))
    count = draw(st.integers(1, 5))
    images = numbers.uniform(0, 1, (count, *shape)).astype(np.float32)
    if draw(st.booleans()):
        images = images.round()      # on the edges of the box
    return (shape, classes, draw(st.integers(0, 2))), images, numbers.integers(0, classes, count)


options = st.one_of(*(st.fixed_dictionaries({
    "norm": st.just(norm),
    "eps": st.one_of(st.just(0.0), st.floats(1e-6, largest), st.sampled_from(["1/255", "8/255"])),
    "labels": st.sampled_from(["true", "predicted"]),
}) for norm, largest in (("linf", 1.0), ("l2", 3.0))))
few = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def assert_inside(adversarial, images, attack):
    change = (adversarial - images).reshape(len(images), -1).astype(np.float64)
    assert np.isfinite(adversarial).all() and adversarial.min() >= 0 and adversarial.max() <= 1
    size = np.abs(change).max(1) if attack.norm == "linf" else np.linalg.norm(change, axis=1)
    assert size.max() <= attack.eps + 1e-6


@pytest.mark.parametrize("name", BOUNDED)
def test_no_attack_leaves_its_ball_or_the_box(name):
    @few
    @given(cases(), options, st.integers(0, 1000))
    def check(case, chosen, seed):
        which, images, labels = case
        model = random_model(*which)
        attack = attacks.read({"name": name, **BOUNDED[name], **chosen})
        assert_inside(attack.perturb(model, images, labels, seed=seed).numpy(), images, attack)

    check()


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(cases(), options, st.sampled_from(["ce", "margin", "dlr"]), st.integers(1, 3), st.booleans(), st.integers(1, 6))
def test_neither_does_the_driver(case, chosen, loss, restarts, keep, batch_size):
    which, images, labels = case
    model = random_model(*which)
    attack = attacks.read({"name": "pgd", "steps": 2, "loss": loss, "restarts": restarts, **chosen})
    result = attacks.run(attack, model, images, labels, batch_size=batch_size, keep_images=keep)
    assert (result.linf if attack.norm == "linf" else result.l2).max() <= attack.eps + 1e-6
    if keep:
        assert_inside(result.images, images, attack)
        np.testing.assert_array_equal(result.predictions, model(result.images).numpy().argmax(1))


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(cases(), st.sampled_from(["cw_l2", "deepfool"]), st.integers(0, 8))
def test_minimal_attacks_stay_in_the_box_and_tell_failures(case, name, steps):
    which, images, labels = case
    model = random_model(*which)
    attack = attacks.read({"name": name, "steps": steps})
    result = attacks.run(attack, model, images, labels)
    assert np.isfinite(result.images).all() and result.images.min() >= 0 and result.images.max() <= 1
    np.testing.assert_array_equal(result.found, result.predictions != labels)
    np.testing.assert_allclose(result.images[~result.found], images[~result.found], atol=1e-6)
