"""Randomised smoothing on a classifier whose radius is known, its resumption, and training towards proofs."""
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from scipy.stats import norm

from kitlib import certify
from kitlib.base.settings import KitError
from kitlib.certify import smoothing
from kitlib.training import certified

SIGMA = 0.5


def half_space(bias=0.0):
    """Class 1 where the pixels' sum is above -bias: a linear classifier, so the smoothed one is the same, and the true
    radius is the distance to the border."""
    model = keras.Sequential([keras.Input((2, 2, 1)), layers.Flatten(), layers.Dense(2)])
    model.layers[-1].set_weights([np.array([[-1.0, 1.0]] * 4) / 4, np.array([-bias, bias]) / 4])
    return model


def at_distance(distances):
    """Pictures so far from the border of half_space(-2), and their classes."""
    pictures = 0.5 + np.asarray(distances, np.float32).reshape(-1, 1, 1, 1) / 2 * np.ones((1, 2, 2, 1), np.float32)
    return pictures, (np.asarray(distances) > 0).astype(int)


def smoothed(images, labels, path=None, model=None, seed=0, **settings):
    settings = {"sigma": SIGMA, "choices": 20, "copies": 200, "alpha": 0.1} | settings
    return certify.smooth(settings, model or half_space(-2.0), images, labels, path, seed=seed, progress=False)


def test_a_stated_radius_is_wrong_in_at_most_alpha_of_cases():
    """400 pictures at one distance: the radius exceeds it in about alpha of them, and is not far below it."""
    distance, alpha = 0.4, 0.1
    images, labels = at_distance([distance] * 400)
    found = smoothed(images, labels, alpha=alpha)
    wrong = (found.radii > distance).mean()
    assert wrong <= alpha + 3 * np.sqrt(alpha * (1 - alpha) / 400)
    assert wrong > 0.02, "never wrong means that the bound is needlessly low"
    assert np.median(found.radii) > 0.7 * distance and (found.predictions == 1).mean() > 0.98


def test_counts_follow_the_known_probability():
    distance = 0.3
    images, labels = at_distance([distance])
    hits = smoothed(images, labels, copies=20_000, alpha=0.5).radii[0]
    assert hits == pytest.approx(distance, abs=0.03)      # alpha one half: nearly the median


def test_near_the_border_it_abstains_and_the_curve_falls():
    images, labels = at_distance([0.01, -0.01, 0.3, -0.3, 0.8])
    found = smoothed(images, np.array([1, 0, 1, 1, 1]), choices=100, copies=1000,
                     alpha=0.001)
    assert (found.predictions[:2] == certify.ABSTAINS).all() and (found.radii[:2] == 0).all()
    assert list(found.predictions[2:]) == [1, 0, 1]
    assert found.accuracy(0.0) == 0.4      # the fourth is certified to be wrong
    curve = found.accuracy(np.linspace(0, 2, 50))
    assert (np.diff(curve) <= 0).all() and curve[-1] == 0


@pytest.mark.parametrize("hits, radius", [(0, 0.0), (100, 0.0), (200, SIGMA * norm.ppf(0.1 ** (1 / 200)))])
def test_radius_of_extremes(hits, radius):
    assert certify.radius_of(hits, 200, SIGMA, 0.1) == pytest.approx(radius)


def test_a_broken_smoothing_goes_on_where_it_was(tmp_path, monkeypatch):
    images, labels = at_distance(np.linspace(-0.6, 0.6, 8))
    whole, path, asked = smoothed(images, labels), tmp_path / "smoothing.npz", []
    counter = smoothing._counter
    monkeypatch.setattr(smoothing, "SECONDS", -1)

    def breaking(*arguments):
        count = counter(*arguments)

        def counted(image, *rest):
            asked.append(rest[-1])
            if len(asked) == 7:
                raise KeyboardInterrupt
            return count(image, *rest)

        return counted

    monkeypatch.setattr(smoothing, "_counter", breaking)
    with pytest.raises(KeyboardInterrupt):
        smoothed(images, labels, path)
    again = smoothed(images, labels, path)
    assert len(asked) == 7 + 2 * (8 - 3) and len(set(asked[7:])) == 10      # three of eight were kept
    np.testing.assert_array_equal(again.radii, whole.radii)
    smoothed(images, labels, path)
    assert len(asked) == 17      # all is there


@pytest.mark.parametrize("other", [{"sigma": 0.3}, {"seed": 1}, {"model": half_space(-1.5)}])
def test_other_work_is_not_gone_on_with(tmp_path, other):
    images, labels = at_distance([0.3])
    smoothed(images, labels, tmp_path / "kept.npz")
    with pytest.raises(KitError, match="choose another file"):
        smoothed(images, labels, tmp_path / "kept.npz", **other)


@pytest.mark.parametrize("settings", [{"sigma": 0}, {"alpha": 1.0}, {"copies": 0}, {"noise": 1}])
def test_bad_smoothing(settings):
    images, labels = at_distance([0.3])
    with pytest.raises(KitError, match="smoothing"):
        smoothed(images, labels, **settings)


def test_the_schedule_rises_and_falls():
    schedule = certified.Schedule(eps="8/255", warm_up=0.1, ramp=0.4, kappa=0.5)
    path = np.array([[float(each) for each in schedule.at(done)] for done in (0.0, 0.1, 0.3, 0.5, 1.0)])
    np.testing.assert_allclose(path[:, 0] * 255, [0, 0, 4, 8, 8], atol=1e-4)
    np.testing.assert_allclose(path[:, 1], [1, 1, 0.75, 0.5, 0.5], atol=1e-6)
    np.testing.assert_allclose(path[:, 2], [1, 1, 0.5, 0, 0], atol=1e-6)


def tiny_network():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((8, 8, 1)), layers.Conv2D(4, 3, strides=2, activation="relu"),
                             layers.Flatten(), layers.Dense(16, activation="relu"), layers.Dense(10)])


def trained(method, images, labels, eps=0.06, steps=240):
    """Compiled, in batches of 100."""
    model, schedule, optimizer = tiny_network(), certified.Schedule(eps=eps), keras.optimizers.Adam(5e-3)
    optimizer.build(model.trainable_variables)

    @tf.function(autograph=False)
    def step(some, given, done, seed):
        now, kappa, beta = schedule.at(done)
        with tf.GradientTape() as tape:
            if method == "noise":
                logits = model(certified.with_noise(some, 0.5, seed))
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(given, logits)
            else:
                losses = certified.certified_loss(model, some, given, now if method != "plain" else 0.0, kappa,
                                                  beta if method == "crown_ibp" else 0.0)
        optimizer.apply(tape.gradient(losses, model.trainable_variables), model.trainable_variables)
        return tf.reduce_mean(losses)

    for number in range(steps):
        first = number % 12 * 100
        step(images[first:first + 100], labels[first:first + 100], tf.constant(number / steps),
             tf.constant([0, number]))
    return model


def test_training_towards_proofs_proves_more(digits):
    images, labels = digits[0], digits[1].astype(np.int32)
    share = {method: certify.run({"name": "ibp", "eps": 0.06}, trained(method, images, labels), images[1200:1400],
                                 labels[1200:1400]).accuracy for method in ("plain", "ibp", "crown_ibp")}
    assert share["plain"] < 0.2 < 0.4 < min(share["ibp"], share["crown_ibp"])


def test_noise_trains_what_will_be_smoothed(digits):
    images, labels = digits[0], digits[1].astype(np.int32)
    some, settings = slice(1200, 1230), {"sigma": 0.5, "choices": 50, "copies": 200, "alpha": 0.01}
    found = {method: certify.smooth(settings, trained(method, images, labels), images[some], labels[some],
                                    progress=False).accuracy(0.2) for method in ("plain", "noise")}
    assert found["noise"] > found["plain"]


def test_worst_case_logits_agree_with_the_proof(digits):
    model, images, labels = tiny_network(), digits[0][:20], digits[1][:20].astype(np.int32)
    for beta, name in ((0.0, "ibp"), (1.0, "crown_ibp")):
        logits = certified.worst_case_logits(model, tf.constant(images), tf.constant(labels), 0.03, beta)
        method = {"name": name, "eps": 0.03, "intersect": False}
        np.testing.assert_allclose(logits, -certify.run(method, model, images, labels).margins, atol=1e-3)


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_every_weight_gets_a_gradient_that_lowers_the_loss(digits, beta):
    model, images, labels = tiny_network(), tf.constant(digits[0][:50]), tf.constant(digits[1][:50].astype(np.int32))

    @tf.function(autograph=False)
    def loss_and_gradients():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(certified.certified_loss(model, images, labels, 0.05, 0.5, beta))
        return loss, tape.gradient(loss, model.trainable_variables)

    before, gradients = loss_and_gradients()
    assert all(float(tf.reduce_max(tf.abs(gradient))) > 0 for gradient in gradients)
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        variable.assign_sub(1e-3 * gradient)
    assert loss_and_gradients()[0] < before
