"""The controls of both papers' figures: on the tiny digits model, and on one that reads leaked labels."""
import keras
import numpy as np
import pytest
import tensorflow as tf

from kitlib import attacks
from kitlib.base.settings import KitError
from kitlib.evaluation import Accuracy, controls
from kitlib.models import IMAGENET, Normalisation, predict_logits

EPS = 0.25


@keras.saving.register_keras_serializable("tests")
class Stripes(keras.layers.Layer):
    """Logits of a model that looks at the first row of pixels only: the brightest of its first four is the class."""

    def call(self, images):
        return 8.0 * images[:, 0, :4, 0]


@pytest.fixture(scope="module")
def stripes():
    """(model, images, labels) of the smallest leak there is: FGSM's step lowers the true label's own pixel. The logits
    of `leaky` read it the wrong way round, so that what a step lowers they raise."""
    pixels = keras.Input((4, 4, 1))
    rng = np.random.default_rng(0)
    images = rng.uniform(0.4, 0.6, (120, 4, 4, 1)).astype(np.float32)
    return keras.Model(pixels, Stripes()(pixels)), images, images[:, 0, :4, 0].argmax(1)


def right(model, images, labels):
    return Accuracy.of(predict_logits(model, images).argmax(1) == labels)


@pytest.mark.parametrize(("attack", "towards"), [
    (attacks.FGSM(eps=EPS), False),
    (attacks.FGSM(eps=EPS, targeted=True), True),
    (attacks.PaperAFGSM(eps=2 * EPS), False),
], ids=str)
def test_a_step_is_the_kits_attack(trained_model, images, labels, attack, towards):
    ours = controls.stepped(images, controls.direction(trained_model, images, labels, towards=towards), EPS)
    theirs = attacks.run(attack, trained_model, images, labels).images
    assert np.abs(ours - theirs).max() < 1e-6


@pytest.mark.parametrize(("box", "low", "high"), [(None, -EPS, 1 + EPS), ((0, 1), 0, 1), ((0.5, 1), 0.5, 1)])
def test_a_step_stays_in_its_box(images, box, low, high):
    signs = np.where(images > 0.5, 1, -1).astype(np.float32)
    moved = controls.stepped(images, signs, EPS, box)
    assert moved.min() == pytest.approx(low) and moved.max() == pytest.approx(high)


def test_training_mode_differs_and_changes_nothing(trained_model, images, labels):
    before = [variable.numpy() for variable in trained_model.non_trainable_variables]
    usual = controls.direction(trained_model, images, labels)
    other = controls.direction(trained_model, images, labels, training=True)
    assert (usual != other).mean() > 0.01
    noisy = controls.predictions(trained_model, images + np.float32(0.3), training=True)
    assert (noisy != controls.predictions(trained_model, images + np.float32(0.3))).any()
    for variable, value in zip(trained_model.non_trainable_variables, before, strict=True):
        assert np.array_equal(variable.numpy(), value)


def test_random_labels_are_of_all_classes_alike_and_repeatable(labels):
    drawn = controls.random_labels(np.zeros(10_000, int), 10)
    assert np.abs(np.bincount(drawn, minlength=10) - 1000).max() < 150
    assert (controls.random_labels(labels, 10, seed=1) == controls.random_labels(labels, 10, seed=1)).all()
    assert (controls.random_labels(labels, 10, seed=1) != controls.random_labels(labels, 10, seed=2)).any()


def test_an_undefended_model_names_the_random_label_least(trained_model, images, labels):
    found = controls.random_label(trained_model, images, labels, EPS)
    drawn = controls.random_labels(labels, 10)
    assert found["accuracy"].count == len(images)
    assert found["names the random label"].count == (drawn != labels).sum()
    assert found["names the random label"].value < 0.02 < found["names the true label"].value


def test_a_model_that_reads_the_label_names_the_random_one(stripes):
    """Its step lowers the pixel of the label that went in; judged upside down, the lowest pixel is the answer."""
    model, images, labels = stripes
    turned = _answers_upside_down(model)
    found = controls.random_label(turned, images, labels, EPS)
    assert found["names the random label"].value == 1.0 and found["names the true label"].value == 0.0
    assert controls.on_grey(turned, images, labels, EPS).value == 1.0
    said = controls.swapped(turned, images, labels, EPS)
    assert (said["the perturbation's"].value, said["the image's"].value) == (1.0, 0.0)


def test_true_labels_mend_mistakes_that_predicted_ones_cannot(stripes):
    model, images, labels = stripes
    turned = _answers_upside_down(model)
    wrong = predict_logits(turned, images).argmax(1) != labels
    found = controls.mended(turned, images, labels, EPS)
    assert found["true labels"] == Accuracy(int(wrong.sum()), int(wrong.sum()))
    assert found["predicted labels"].value == 0.0


def test_an_undefended_model_mends_next_to_nothing(trained_model, images, labels):
    found = controls.mended(trained_model, images, labels, EPS)
    assert found["true labels"].correct == 0
    assert found["true labels"].count == (predict_logits(trained_model, images).argmax(1) != labels).sum()


def _answers_upside_down(model):
    """Logits whose gradient points the other way than they do: what one-step training with true labels can lead to."""
    pixels = keras.Input(model.input_shape[1:])
    return keras.Model(pixels, UpsideDown()(model(pixels)))


@keras.saving.register_keras_serializable("tests")
class UpsideDown(keras.layers.Layer):
    def call(self, logits):
        return logits + tf.stop_gradient(-2 * logits)


def test_each_control_says_what_it_needs(trained_model, images, labels):
    with pytest.raises(KitError, match="right on all 3 images"):
        clean = predict_logits(trained_model, images).argmax(1)
        good = np.flatnonzero(clean == labels)[:3]
        controls.mended(trained_model, images[good], labels[good], EPS)
    with pytest.raises(KitError, match="one label"):
        controls.swapped(trained_model, images[:3], np.zeros(3, int), EPS)


@pytest.fixture(scope="module")
def read(trained_model, images, labels, digits):
    part = digits[0][:100], digits[1][:100]
    return controls.readings(trained_model, images, labels, {"none": 0.0, "small": 0.05, "large": 0.5},
                             training_part=part)


def test_readings_at_zero_are_clean_but_for_the_literal_clamp(read, trained_model, images, labels):
    clean = right(trained_model, images, labels)
    for name in ("true labels", "predicted labels", "random labels", "sign flipped", "targeted at the label"):
        assert read[name]["none"] == clean
    assert read["clamped to [-eps, eps]"]["none"].value < 0.3          # every pixel is the mean
    assert read["judged on training images"]["none"].count == 100


def test_the_two_steps_down_the_loss_are_one_reading(read):
    assert read["sign flipped"] == read["targeted at the label"]
    assert read["sign flipped"]["small"].value > read["true labels"]["none"].value > read["true labels"]["small"].value


def test_readings_agree_with_the_attacks(read, trained_model, images, labels):
    for eps, name in ((0.05, "small"), (0.5, "large")):
        for whose in ("true", "predicted"):
            attacked = attacks.run(attacks.FGSM(eps=eps, labels=whose), trained_model, images, labels)
            assert read[f"{whose} labels"][name] == Accuracy.of(attacked.predictions == labels)


def test_units_of_an_epsilon():
    assert list(controls.units(1.0, std=0.5).values()) == [0.5, 1.0, 1 / 255, 0.5 / 255]


def test_nearest_gives_the_unit_and_the_signed_difference():
    found = {"a": Accuracy(3, 10), "b": Accuracy(7, 10)}
    name, difference = controls.nearest(found, 0.6)
    assert name == "b" and difference == pytest.approx(0.1)


@pytest.mark.parametrize("normalisation", [Normalisation(), IMAGENET], ids=["half", "imagenet"])
def test_the_clamp_is_paper_bs_control(normalisation, images, labels, trained_model):
    given = np.repeat(images, 3, axis=-1) if normalisation is IMAGENET else images
    pixels = keras.Input(given.shape[1:])
    model = keras.Model(pixels, trained_model(keras.ops.mean(pixels, axis=-1, keepdims=True)))
    for ours, attack in ((controls.clamped, attacks.PaperBFGSM), (controls.squashed, attacks.PaperBCW)):
        control = attack(normalisation=normalisation).control()
        theirs = attacks.run(control, model, given, labels).images
        assert np.abs(ours(given, normalisation) - theirs).max() < 1e-6
        assert np.abs(theirs - given).max() > 0.1


def test_statistics_estimated_again_are_those_of_the_images(trained_model, images):
    adapted = controls.re_estimated(trained_model, images)
    norm = next(layer for layer in adapted.layers if isinstance(layer, keras.layers.BatchNormalization))
    before = keras.Model(adapted.inputs[0], norm.input)(images)
    parts = [np.asarray(before)[rows] for rows in (slice(0, 128), slice(128, 200))]
    expected = np.mean([part.mean(axis=(0, 1, 2)) for part in parts], axis=0)
    assert norm.moving_mean.numpy() == pytest.approx(expected, abs=1e-4)
    original = next(layer for layer in trained_model.layers if isinstance(layer, keras.layers.BatchNormalization))
    assert norm.momentum == original.momentum and (norm.moving_mean.numpy() != original.moving_mean.numpy()).any()


def test_clamps_judge_with_both_statistics(trained_model, images, labels):
    found = controls.clamps(trained_model, images, labels, Normalisation())
    assert found["nothing"]["stored"] == right(trained_model, images, labels)
    assert found["clamp"]["stored"] == right(trained_model, controls.clamped(images, Normalisation()), labels)
    assert found["clamp"]["re-estimated"] != found["clamp"]["stored"]
    without = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
    assert list(controls.clamps(without, images, labels, Normalisation())["clamp"]) == ["stored"]
    with pytest.raises(KitError, match="no batch norm"):
        controls.re_estimated(without, images)
