"""Attacks with limits: in whole n/255, within a mask, and one pattern for all images."""
import dataclasses

import numpy as np
import pytest
from keras import Model, layers, utils
from PIL import Image
from test_audit_budget import FEW, subject

from kitlib import attacks, audit, models
from kitlib.audit import saved
from kitlib.base.settings import KitError

SUITE = [
    {"name": "pgd", "eps": "25/255", "steps": 5}, {"name": "fgsm", "eps": 0.1234},
    {"name": "pgd", "eps": 1, "norm": "l2"}, {"name": "square", "eps": "25/255", "steps": 20},
    {"name": "apgd", "eps": "25/255", "steps": 5},
    {"name": "noise", "eps": "25/255"}, {"name": "deepfool", "candidates": 2},
    {"name": "cw_l2", "steps": 10, "search_steps": 2, "learning_rate": 0.05, "constant": 1.0},
    {"name": "cleverhans", "attack": "projected_gradient_descent", "eps": "25/255", "steps": 3}]
WINDOW = {"top": 2, "left": 1, "height": 3, "width": 5}


def in_whole(images):
    return np.allclose(255 * images, np.round(255 * images), atol=1e-4)


@pytest.fixture(scope="module")
def whole(images):
    """Digits in whole n/255, as a file holds them."""
    return (np.round(255 * images[:40]) / 255).astype(np.float32)


@pytest.mark.parametrize("settings", SUITE, ids=lambda each: each["name"])
def test_rounded_images_are_those_of_a_file_and_fool_as_the_result_says(settings, trained_model, whole, labels):
    attack = attacks.read(settings | {"round": True})
    found = attacks.run(attack, trained_model, whole, labels[:40])
    assert in_whole(found.images) and "in 8 bits" in str(attack)
    np.testing.assert_array_equal(models.predict_logits(trained_model, found.images).argmax(1), found.predictions)
    if hasattr(attack, "eps"):
        size = found.linf if attack.norm == "linf" else found.l2
        assert size.max() <= attack.eps + 1e-6
    assert in_whole(attack.perturb(trained_model, whole[:4], labels[:4], seed=0).numpy())


def test_rounding_keeps_to_the_ball_around_images_of_any_value(trained_model, images, labels):
    for eps in (0.3 / 255, 1 / 255, 0.0371):
        found = attacks.run(attacks.PGD(eps=eps, steps=4, round=True), trained_model, images[:40] * 0.9173, labels[:40])
        assert in_whole(found.images) and found.linf.max() <= max(eps, 0.5 / 255) + 1e-6


@pytest.mark.parametrize("settings", SUITE, ids=lambda each: each["name"])
@pytest.mark.parametrize("outside", [False, True])
def test_only_masked_pixels_change(settings, outside, trained_model, whole, labels):
    mask = np.zeros((8, 8), bool)
    mask[2:5, 1:6] = True
    attack = attacks.read(settings | {"mask": WINDOW | {"outside": outside}})
    found = attacks.run(attack, trained_model, whole, labels[:40])
    changed = (found.images != whole)[..., 0]
    assert changed.any() and not changed[:, mask if outside else ~mask].any()
    inside = attack.perturb(trained_model, whole[:4], labels[:4], seed=0).numpy() != whole[:4]
    assert not inside[..., 0][:, mask if outside else ~mask].any()


def test_a_mask_may_be_an_array_one_for_all_or_one_an_image(trained_model, whole, labels):
    pgd, rng = attacks.PGD(eps=0.2, steps=4), np.random.default_rng(0)
    each = rng.random((40, 8, 8)) < 0.4
    found = attacks.run(pgd, trained_model, whole, labels[:40], mask=each, batch_size=7)
    assert not (found.images != whole)[..., 0][~each].any()
    one = attacks.run(pgd, trained_model, whole, labels[:40], mask=each[0])
    window = attacks.run(pgd.model_copy(update={"mask": attacks.Region(**WINDOW)}), trained_model, whole, labels[:40])
    assert not (one.images != whole)[..., 0][:, ~each[0]].any() and window.accuracy >= one.accuracy - 1


@pytest.mark.parametrize(("attack", "mask", "says"), [
    (attacks.PGD(eps=0.1), np.ones((8, 8)), "must be bool"), (attacks.PGD(eps=0.1), np.ones((7, 8), bool), "8 x 8"),
    (attacks.PGD(eps=0.1), np.ones((3, 8, 8), bool), "masks for 3 images only"),
    (attacks.PGD(eps=0.1, mask=attacks.Region(**WINDOW | {"top": 6})), None, "does not fit"),
    (attacks.PGD(eps=1, norm="l2", round=True), None, "round them first")])
def test_what_does_not_fit_is_refused(attack, mask, says, trained_model, images, labels):
    with pytest.raises(KitError, match=says):
        attacks.run(attack, trained_model, images[:40] * 0.777, labels[:40], mask=mask)


# --- one pattern for all

def test_a_universal_perturbation_fools_images_that_it_was_not_made_on(trained_model, digits, images, labels):
    eps = 48 / 255
    found = attacks.universal(trained_model, digits[0][:600], digits[1][:600], eps=eps)
    noise = attacks.run(attacks.Noise(eps=eps, kind="sign"), trained_model, images, labels)
    left = (models.predict_logits(trained_model, found.apply(images)).argmax(1) == labels).mean()
    assert found.pattern.shape == (8, 8, 1) and np.abs(found.pattern).max() <= eps + 1e-6
    assert left < noise.accuracy - 0.1 and found.apply(images).min() >= 0 and found.apply(images).max() <= 1
    again = attacks.universal(trained_model, digits[0][:600], digits[1][:600], eps=eps)
    np.testing.assert_array_equal(found.pattern, again.pattern)


def test_a_patch_covers_a_part_and_leads_to_its_target(trained_model, digits, images, labels):
    found = attacks.universal(trained_model, digits[0][:600], digits[1][:600], patch=(4, 4), target=3)
    shown = found.apply(images, seed=1)
    changed = (shown != images)[..., 0]
    assert changed.sum((1, 2)).max() <= 16 and found.pattern.min() >= 0 and found.pattern.max() <= 1
    grey = dataclasses.replace(found, pattern=np.full_like(found.pattern, 0.5)).apply(images, seed=1)
    named, by_grey = ((models.predict_logits(trained_model, each).argmax(1) == 3).mean() for each in (shown, grey))
    assert named > by_grey + 0.03


@pytest.mark.parametrize(("asked", "says"), [
    ({}, "give eps"), ({"eps": 0.1, "patch": (2, 2)}, "give eps"), ({"eps": 8}, "at most 1"),
    ({"patch": (9, 2)}, "does not fit"), ({"eps": 0.1, "target": 10}, "reach from 10")])
def test_impossible_patterns_are_refused(asked, says, trained_model, images, labels):
    with pytest.raises(KitError, match=says):
        attacks.universal(trained_model, images, labels, **asked)


# --- in the audit

@pytest.fixture(scope="module")
def measured():
    return audit.Measurements(subject(eps=0.1), FEW)


def test_the_audit_says_what_survives_8_bits(measured):
    found = measured.ensemble["PGD in 8 bits"]
    assert in_whole(found.images) and found.linf <= 0.1 + 1e-6
    assert measured.pgd.right.mean() <= found.right.mean() < 1
    assert not found.right[~measured.clean].any()
    off_grid = audit.Measurements(subject(eps=0.5, norm="l2"), FEW)
    assert off_grid.in_8_bits is None


def test_saved_images_fool_the_model_as_keras_reads_them(measured, tmp_path):
    kept, right = saved.save(measured, tmp_path / "found")
    names = sorted(path.name for path in (tmp_path / "found").iterdir())
    read = utils.image_dataset_from_directory(tmp_path / "found", label_mode="int", color_mode="grayscale",
                                              image_size=(8, 8), batch_size=None, shuffle=False, verbose=False)
    pairs = [(image.numpy() / 255, int(names[label])) for image, label in read]
    said = models.predict_logits(measured.model, np.float32([image for image, _ in pairs])).argmax(1)
    assert len(pairs) == kept > 0 and right == measured.clean.sum()
    assert not (said == [label for _, label in pairs]).any()


def test_images_are_saved_where_nothing_is_lost_and_as_a_png_can_hold_them(measured, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(KitError, match="mine.txt"):
        saved.check(tmp_path, 3, tmp_path.with_name("record"))
    with pytest.raises(KitError, match="1, 3 or 4 channels"):
        saved.check(tmp_path / "new", 2, tmp_path / "record")
    assert saved._file_names(("a/b", "a?b")) == ["0_a_b", "1_a_b"]
    assert saved._file_names(("cat", "x/y")) == ["cat", "x_y"]


def test_saved_pictures_in_colour(tmp_path):
    utils.set_random_seed(0)
    pixels = layers.Input((8, 8, 3))
    network = Model(pixels, layers.Dense(3)(layers.Flatten()(layers.Rescaling(2.0, -1.0)(pixels))))
    images = (np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3)) / 255).astype(np.float32)
    labels = models.predict_logits(network, images).argmax(1)
    m = audit.Measurements(audit.Subject(audit.prepare(network, images), images, labels, ("a", "b", "c"), eps=0.1), FEW)
    kept, _ = saved.save(m, tmp_path / "found")
    files = list((tmp_path / "found").rglob("*.png"))
    assert len(files) == kept > 0 and all(Image.open(path).mode == "RGB" for path in files)
