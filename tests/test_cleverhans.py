"""CleverHans's own attacks by name; those that do not work, and a word when they do."""
import re
from pathlib import Path

import cleverhans.tf2.attacks
import keras
import numpy as np
import pytest
import tensorflow as tf
from cleverhans.tf2.attacks.carlini_wagner_l2 import carlini_wagner_l2
from cleverhans.tf2.attacks.projected_gradient_descent import projected_gradient_descent
from cleverhans.tf2.attacks.spsa import spsa

from kitlib import attacks
from kitlib.attacks.by_cleverhans import BROKEN, WORKING
from kitlib.base.places import REPOSITORY
from kitlib.base.settings import KitError

EPS = 0.1


def read(name, **settings):
    return attacks.read({"name": "cleverhans", "attack": name, "eps": EPS, "steps": 4, **settings})


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", WORKING)
def test_it_fools_within_its_ball_and_repeats_itself(name, norm, trained_model, images, labels):
    images, labels, eps = images[:24], labels[:24], 0.3 if norm == "linf" else 2.0
    result = attacks.run(read(name, norm=norm, eps=eps), trained_model, images, labels, batch_size=10)
    clean = attacks.run(attacks.Clean(), trained_model, images, labels)
    assert result.accuracy < clean.accuracy - 0.2
    assert (result.linf if norm == "linf" else result.l2).max() <= eps + 1e-5
    assert result.images.min() >= 0 and result.images.max() <= 1
    again = attacks.run(read(name, norm=norm, eps=eps), trained_model, images, labels, batch_size=10)
    np.testing.assert_array_equal(result.images, again.images)


def test_it_is_cleverhans_s(trained_model, images, labels):
    made = attacks.run(read("projected_gradient_descent", step=0.02), trained_model, images[:16], labels[:16])
    theirs = projected_gradient_descent(
        lambda x: trained_model(x, training=False), images[:16], EPS, 0.02, 4, np.inf, clip_min=0.0, clip_max=1.0,
        y=tf.constant(labels[:16], tf.int32), sanity_checks=False)
    np.testing.assert_allclose(made.images, theirs, atol=1e-6)


def test_labels_may_be_targets_or_predictions(trained_model, images, labels):
    targets = (labels[:16] + 1) % 10
    led = attacks.run(read("projected_gradient_descent", eps=0.4, targeted=True), trained_model, images[:16], targets)
    assert led.fooled.mean() > 0.5
    blind = attacks.run(read("fast_gradient_method", labels="predicted"), trained_model, images[:16], labels[:16])
    assert (blind.linf > 0).all()


def test_with_eps_0_nothing_changes(trained_model, images, labels):
    for name in WORKING:
        result = attacks.run(read(name).control(), trained_model, images[:4], labels[:4])
        np.testing.assert_array_equal(result.images, images[:4])


@pytest.mark.parametrize("name", BROKEN)
def test_what_does_not_work_is_refused_with_the_reason(name):
    with pytest.raises(KitError, match=f"CleverHans's {name} does not work: .*use "):
        read(name)
    with pytest.raises(KitError, match="no attack 'square' for TensorFlow; known: fast_gradient_method"):
        read("square")


@pytest.mark.parametrize("attack", [
    lambda model, x, y: carlini_wagner_l2(model, x, max_iterations=2, binary_search_steps=1),
    lambda model, x, y: spsa(model, x[:1], y[:1], EPS, 2, clip_min=0.0, clip_max=1.0, spsa_samples=4),
], ids=list(BROKEN))
def test_they_are_still_broken(attack):
    """Where this fails, CleverHans or Keras has mended it: take it out of BROKEN and try it."""
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    with pytest.raises((TypeError, ValueError)):
        attack(model, tf.zeros((2, 4, 4, 1)), tf.constant([0, 1]))


def test_the_guide_s_table_says_which_work():
    text = (REPOSITORY / "docs/guides/own-attack.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (yes|no)", text, flags=re.MULTILINE))
    assert rows == dict.fromkeys(WORKING, "yes") | dict.fromkeys(BROKEN, "no")
    assert {path.stem for path in Path(cleverhans.tf2.attacks.__file__).parent.glob("[a-z]*.py")} == set(rows)
