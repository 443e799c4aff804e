"""The detector on the small trained network: its scores by hand, its false alarms, and the attacker who knows it."""
import keras
import numpy as np
import pytest

from kitlib import attacks, models
from kitlib.base.settings import KitError
from kitlib.evaluation import defences
from kitlib.evaluation.detection import Detector, evade

TWO_BITS = [{"name": "bit_depth", "bits": 2}]
ATTACK = attacks.read({"name": "pgd", "eps": 0.15, "step": 0.03, "steps": 10})


@pytest.fixture(scope="module")
def clean(digits):
    return digits[0][1400:1700], digits[1][1400:1700]


@pytest.fixture(scope="module")
def detector(trained_model, clean):
    return Detector.of(trained_model, TWO_BITS).calibrated(clean[0], 0.05)


@pytest.fixture(scope="module")
def attacked(trained_model, images, labels):
    """Images made by an attacker who does not know the detector."""
    return attacks.run(ATTACK, trained_model, images, labels).images


@pytest.fixture(scope="module")
def evasion(detector, images, labels):
    return evade(detector, images, labels, ATTACK, targets=3)


def probabilities(model, images):
    return keras.ops.convert_to_numpy(keras.ops.softmax(models.predict_logits(model, images)))


def test_the_score_is_the_largest_l1_distance_between_answers(trained_model, attacked):
    detector = Detector.of(trained_model)
    predictions, scores = detector.score(attacked, batch_size=64)
    plain = probabilities(trained_model, attacked)
    squeezed = [probabilities(defences.deployed(trained_model, each), attacked) for each in detector.squeezers]
    by_hand = np.max([np.abs(each - plain).sum(1) for each in squeezed], axis=0)
    np.testing.assert_allclose(scores, by_hand, atol=1e-5)
    np.testing.assert_array_equal(predictions, plain.argmax(1))
    assert 0 <= scores.min() and scores.max() <= 2 + 1e-6


def test_a_squeezer_that_changes_nothing_never_objects(trained_model):
    images = np.random.default_rng(0).integers(0, 2, (20, 8, 8, 1)).astype(np.float32)  # one bit already
    scores = Detector.of(trained_model, [{"name": "bit_depth", "bits": 1}]).score(images)[1]
    np.testing.assert_allclose(scores, 0, atol=1e-6)


@pytest.mark.parametrize("first, last", [([keras.layers.Rescaling(1 / 255)], []), ([], [keras.layers.Softmax()])],
                         ids=["0 to 255", "softmax"])
def test_the_image_and_its_squeezed_copy_are_asked_alike(first, last):
    images = np.random.default_rng(0).integers(0, 2, (20, 8, 8, 1)).astype(np.float32)
    model = keras.Sequential([keras.Input((8, 8, 1)), *first, keras.layers.Flatten(), keras.layers.Dense(3), *last])
    scores = Detector.of(model, [{"name": "bit_depth", "bits": 1}]).score(images)[1]
    np.testing.assert_allclose(scores, 0, atol=1e-5)


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.5])
def test_at_most_the_asked_share_of_clean_images_raises_an_alarm(detector, clean, rate):
    alarms = detector.calibrated(clean[0], rate).examine(clean[0])[1]
    assert alarms.sum() == int(rate * len(alarms) + 1e-9)


def test_an_uncalibrated_detector_raises_no_alarm(trained_model, attacked):
    assert not Detector.of(trained_model).examine(attacked)[1].any()


def test_it_finds_most_images_of_an_attacker_who_does_not_know_it(detector, attacked, labels, images):
    predictions, alarms = detector.examine(attacked)
    fooled = predictions != labels
    assert fooled.mean() > 0.8
    assert alarms[fooled].mean() > 0.4 > 8 * detector.examine(images)[1].mean()


def test_an_attacker_who_knows_it_evades_it(detector, attacked, evasion, images, labels):
    found, evaded = evasion
    predictions, alarms = detector.examine(found)
    np.testing.assert_array_equal(evaded, (predictions != labels) & ~alarms)
    unaware, unaware_alarms = detector.examine(attacked)
    assert evaded.mean() > ((unaware != labels) & ~unaware_alarms).mean() + 0.05
    assert np.abs(found - images).max() <= ATTACK.eps + 1e-6 and found.min() >= 0 and found.max() <= 1


def test_the_attackers_loss_bounds_the_score(detector, evasion):
    """score <= 2 x copies x cross-entropy of the surrogate, towards whatever target, also where the copies disagree."""
    found = np.concatenate([evasion[0], np.random.default_rng(0).random(evasion[0].shape, np.float32)])
    outputs = models.predict_logits(detector.surrogate(), found)
    for target in range(10):
        loss = keras.losses.sparse_categorical_crossentropy(np.full(len(found), target), outputs, from_logits=True)
        assert (detector.score(found)[1] <= 2 * (1 + len(detector.squeezers)) * loss.numpy() + 1e-4).all()
        np.testing.assert_allclose(loss, -outputs[:, target], atol=1e-3)


def test_nothing_moves_without_an_epsilon(detector, images, labels):
    found, evaded = evade(detector, images[:30], labels[:30], ATTACK.control(), targets=1)
    np.testing.assert_allclose(found, images[:30], atol=1e-6)
    predictions, alarms = detector.examine(images[:30])
    np.testing.assert_array_equal(evaded, (predictions != labels[:30]) & ~alarms)


@pytest.mark.parametrize("rate", [0, 1, -0.1])
def test_an_impossible_false_positive_rate_is_refused(detector, images, rate):
    with pytest.raises(KitError, match="between 0 and 1"):
        detector.calibrated(images, rate)


@pytest.mark.parametrize("squeezers, message", [
    ([], "at least one squeezer"),
    (["medain"], "there is no defence 'medain'; did you mean 'median'"),
])
def test_impossible_squeezers_are_refused(trained_model, squeezers, message):
    with pytest.raises(KitError, match=message):
        Detector.of(trained_model, squeezers)


@pytest.mark.parametrize("change, message", [
    (lambda images: images * 255, "pixels must lie in"), (lambda images: images[:0], "there is no pixel"),
    (lambda images: (images[:0] * 255).astype(np.uint8), "there is no pixel"),
], ids=["scale", "none", "none of uint8"])
def test_bad_images_are_refused(detector, clean, change, message):
    with pytest.raises(KitError, match=message):
        detector.calibrated(change(clean[0]))


def test_a_detector_needs_a_row_of_numbers_an_image(trained_model, clean):
    column = keras.Model(trained_model.inputs, trained_model.outputs[0][:, :, None])
    with pytest.raises(KitError, match="one row of numbers"):
        Detector.of(column, TWO_BITS).calibrated(clean[0])


def test_an_attack_that_cannot_be_targeted_is_refused(detector, images, labels):
    attack = attacks.read({"name": "pgd", "eps": 0.1, "loss": "dlr"})
    with pytest.raises(KitError, match="evade, targeted"):
        evade(detector, images[:4], labels[:4], attack)
