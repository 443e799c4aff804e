"""Each defence of the input against an independent implementation, and the attacks that know it."""
import io

import keras
import numpy as np
import pytest
import tensorflow as tf
import training_toys as toys
from PIL import Image
from scipy import ndimage

from kitlib import attacks, models, training
from kitlib.base.settings import KitError
from kitlib.evaluation import defences
from kitlib.training.steps import Distilled

DETERMINISTIC = [{"name": "jpeg", "quality": 30}, {"name": "bit_depth", "bits": 1}, {"name": "median"},
                 {"name": "gaussian", "sigma": 0.8}]
EVERY = [*DETERMINISTIC, {"name": "random_resize_pad", "smallest": 0.7, "draws": 3}]
RESIZE = defences.read({"name": "random_resize_pad", "smallest": 0.6, "draws": 3})


def name_of(settings):
    return settings["name"]


@pytest.fixture(scope="module", params=[1, 3], ids=["grey", "colour"])
def pictures(request):
    """Smooth pictures with a little noise, as photographs are: 6 x 24 x 16 x C pixels."""
    rng = np.random.default_rng(1)
    smooth = ndimage.gaussian_filter(rng.random((6, 24, 16, request.param)), (0, 3, 3, 0), mode="wrap")
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    return np.clip(smooth + 0.02 * rng.standard_normal(smooth.shape), 0, 1).astype(np.float32)


def forward(settings, pixels, numbers=None):
    return defences.read(settings).transform(tf.constant(pixels), numbers).numpy()


@pytest.mark.parametrize("quality", [20, 75])
def test_jpeg_is_what_pillow_writes(pictures, quality):
    levels = np.round(255 * pictures).astype(np.uint8)
    expected = []
    for picture in levels:
        file = io.BytesIO()
        Image.fromarray(picture.squeeze()).save(file, "JPEG", quality=quality, subsampling="4:2:0")
        expected.append(np.asarray(Image.open(file)).reshape(picture.shape))
    found = forward({"name": "jpeg", "quality": quality}, pictures)
    assert np.abs(255 * found - expected).max() <= 2.01
    assert np.abs(found - pictures).max() > 0.01


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_bit_depth_takes_the_nearest_level(pictures, bits):
    levels = np.linspace(0, 1, 2**bits)
    nearest = levels[np.abs(pictures[..., None] - levels).argmin(-1)]
    np.testing.assert_allclose(forward({"name": "bit_depth", "bits": bits}, pictures), nearest, atol=1e-6)


@pytest.mark.parametrize("window", [3, 5])
def test_median_is_scipy_s(pictures, window):
    expected = ndimage.median_filter(pictures, (1, window, window, 1), mode="mirror")
    np.testing.assert_array_equal(forward({"name": "median", "window": window}, pictures), expected)


@pytest.mark.parametrize("sigma", [0.5, 1.3])
def test_gaussian_is_scipy_s(pictures, sigma):
    expected = ndimage.gaussian_filter(pictures, (0, sigma, sigma, 0), mode="mirror", truncate=4)
    np.testing.assert_allclose(forward({"name": "gaussian", "sigma": sigma}, pictures), expected, atol=1e-5)


def test_random_resize_and_pad_against_scipy(pictures):
    numbers = np.random.default_rng(2).random((6, 3)).astype(np.float32)
    numbers[0] = 0, 0, 0
    numbers[1] = 0.9999
    found = RESIZE.transform(tf.constant(pictures), tf.constant(numbers)).numpy()
    for picture, result, (share, down, across) in zip(pictures, found, numbers, strict=True):
        (height, top), (width, left) = _side_and_place(24, share, down), _side_and_place(16, share, across)
        rows, columns = np.meshgrid(np.linspace(0, 23, height), np.linspace(0, 15, width), indexing="ij")
        expected = np.zeros_like(picture)
        for channel in range(picture.shape[-1]):
            small = ndimage.map_coordinates(picture[..., channel], [rows, columns], order=1)
            expected[top : top + height, left : left + width, channel] = small
        np.testing.assert_allclose(result, expected, atol=2e-3)
    np.testing.assert_allclose(found[1], pictures[1], atol=2e-3)     # its own size, so nothing is done


def _side_and_place(size, share, place):
    sides = range(round(0.6 * size), size + 1)
    side = sides[int(share * len(sides))]
    return side, int(place * (size - side + 1))


@pytest.mark.parametrize("settings", EVERY, ids=name_of)
def test_a_defended_model_takes_pixels_and_returns_the_model_s_logits_of_the_prepared(settings, trained_model, images):
    defence = defences.read(settings)
    served = defences.deployed(trained_model, defence)
    assert served.input_shape == trained_model.input_shape and served.output_shape == trained_model.output_shape
    if not defence.randomised:
        expected = models.predict_logits(trained_model, forward(settings, images))
        attacked = [defences.wrap(trained_model, defence, adaptive=adaptive) for adaptive in (False, True)]
        for each in (served, *attacked):
            np.testing.assert_allclose(models.predict_logits(each, images), expected, rtol=1e-4, atol=1e-4)


def gradient(model, pixels):
    """Of the sum of the first logit, or None."""
    pixels = tf.constant(pixels)
    with tf.GradientTape() as tape:
        tape.watch(pixels)
        value = tf.reduce_sum(model(pixels, training=False)[:, 0])
    found = tape.gradient(value, pixels)
    return None if found is None else found.numpy()


def test_a_defence_put_in_front_leaves_the_reading_of_the_model_alone():
    """An adapted Normalization fits images in one range alone; a defence is made before there are any."""
    rng = np.random.default_rng(0)
    images, labels = rng.uniform(0.2, 1, (60, 8, 8, 1)).astype(np.float32), np.arange(60) % 2
    images[labels == 1] *= 0.5
    scaling = keras.layers.Normalization(axis=None)
    scaling.adapt(255 * images)
    dense = keras.layers.Dense(2)
    model = keras.Sequential([keras.Input((8, 8, 1)), scaling, keras.layers.GlobalAveragePooling2D(), dense])
    dense.set_weights([np.array([[1, -1]], np.float32), np.zeros(2, np.float32)])
    defences.deployed(model, defences.read("median"))
    assert (models.predict_logits(model, images).argmax(1) == labels).mean() > 0.9


@pytest.mark.parametrize("settings", DETERMINISTIC[1:], ids=name_of)
def test_a_defended_model_of_0_to_255_gets_that_range(settings, images):
    def network(first):
        keras.utils.set_random_seed(0)
        return keras.Sequential([keras.Input(images.shape[1:]), *first, keras.layers.Flatten(), keras.layers.Dense(10)])

    plain, scaled = network([]), network([keras.layers.Rescaling(1 / 255)])
    one, other = (models.predict_logits(defences.deployed(each, defences.read(settings)), images)
                  for each in (plain, scaled))
    np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("settings", DETERMINISTIC[:2], ids=name_of)
def test_what_cannot_be_differentiated_gives_no_gradient_and_bpda_the_surrogate_s(settings, trained_model, images):
    defence = defences.read(settings)
    naive = gradient(defences.wrap(trained_model, defence), images)
    assert naive is None or not naive.any()
    behind = gradient(trained_model, forward(settings, images))      # identity backward
    np.testing.assert_allclose(gradient(defences.wrap(trained_model, defence, adaptive=True), images), behind,
                               rtol=1e-3, atol=1e-4)
    assert np.abs(behind).max() > 0.01


def test_bpda_of_the_median_is_the_gradient_of_the_mean(trained_model, images):
    """<gradient, v> = <gradient behind it, mean filter of v> for any v, as the mean filter is linear."""
    behind = gradient(trained_model, forward({"name": "median"}, images))
    found = gradient(defences.wrap(trained_model, defences.read("median"), adaptive=True), images)
    probe = np.random.default_rng(3).standard_normal(images.shape).astype(np.float32)
    smoothed = ndimage.uniform_filter(probe, (1, 3, 3, 1), mode="mirror")
    np.testing.assert_allclose((found * probe).sum((1, 2, 3)), (behind * smoothed).sum((1, 2, 3)), rtol=1e-3, atol=1e-3)


def test_eot_is_the_mean_of_the_gradients_over_the_draws(trained_model, images):
    few, samples, seed = images[:20], 3, 5
    found = gradient(defences.wrap(trained_model, RESIZE, adaptive=True, samples=samples, seed=seed), few)
    draw_seed = tf.cast(keras.random.SeedGenerator(seed).next(), tf.int32)
    numbers = tf.reshape(tf.random.stateless_uniform((samples * 20, 3), draw_seed), (samples, 20, 3))
    each = []
    for draw in numbers:
        pixels = tf.constant(few)
        with tf.GradientTape() as tape:
            tape.watch(pixels)
            value = tf.reduce_sum(trained_model(RESIZE.transform(pixels, draw), training=False)[:, 0])
        each.append(tape.gradient(value, pixels).numpy())
    np.testing.assert_allclose(found, np.mean(each, 0), rtol=1e-3, atol=1e-4)
    assert np.abs(each[0] - each[1]).max() > 0.1


def test_the_deployed_randomised_defence_answers_alike_whatever_the_batch(trained_model, images):
    served = defences.deployed(trained_model, RESIZE, seed=4)
    once, turned = (models.predict_logits(served, some) for some in (images, np.ascontiguousarray(images[::-1])))
    np.testing.assert_allclose(once, turned[::-1], atol=1e-4)
    np.testing.assert_allclose(once, models.predict_logits(served, images, batch_size=7), atol=1e-4)
    again, other = (models.predict_logits(defences.deployed(trained_model, RESIZE, seed=s), images) for s in (4, 9))
    np.testing.assert_array_equal(once, again)
    assert np.abs(once - other).max() > 0.1


def test_attackers_get_new_draws_at_each_pass_in_a_sequence_that_the_seed_decides(trained_model, images):
    def passes(seed):
        naive = defences.wrap(trained_model, RESIZE, seed=seed)
        return [models.predict_logits(naive, images[:10]) for _ in range(2)]

    first, again, other = passes(1), passes(1), passes(2)
    assert np.abs(first[0] - first[1]).max() > 0.1 and np.abs(first[0] - other[0]).max() > 0.1
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("settings", [EVERY[1], EVERY[4]], ids=name_of)
def test_the_adaptive_attack_is_stronger_than_the_naive_one(settings, trained_model, images, labels):
    defence = defences.read(settings)
    served, left = defences.deployed(trained_model, defence), {}
    pgd = attacks.read({"name": "pgd", "eps": "40/255", "steps": 8, "labels": "true"})
    for adaptive in (False, True):
        attacked = defences.wrap(trained_model, defence, adaptive=adaptive, samples=8)
        made = attacks.run(pgd, attacked, images, labels)
        left[adaptive] = (models.predict_logits(served, made.images).argmax(1) == labels).mean()
    clean = (models.predict_logits(served, images).argmax(1) == labels).mean()
    assert clean > 0.6 and left[True] < left[False] <= clean + 0.02
    if not defence.randomised:
        assert left[True] < left[False] - 0.2


@pytest.mark.parametrize("settings, message", [
    ("jpg", "there is no defence 'jpg'; did you mean 'jpeg'"),
    ({"quality": 50}, "a defence is a name, or a mapping with 'name'"),
    ({"name": "jpeg", "quality": 0}, "'quality'"),
    ({"name": "jpeg", "qualty": 50}, "unknown key 'qualty'; did you mean 'quality'"),
    ({"name": "bit_depth", "bits": 9}, "'bits'"),
    ({"name": "median", "window": 2}, "'window'"),
    ({"name": "gaussian", "sigma": 0}, "'sigma'"),
    ({"name": "random_resize_pad", "smallest": 1.5}, "'smallest'"),
])
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(KitError, match=message):
        defences.read(settings)


def test_a_model_of_images_of_any_size_can_be_defended():
    pixels = keras.Input((None, None, 1))
    model = keras.Model(pixels, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(pixels)))
    defended = defences.deployed(model, defences.read({"name": "bit_depth", "bits": 1}))
    for side in (6, 9):
        white = np.ones((2, side, side, 1), np.float32)
        np.testing.assert_allclose(models.predict_logits(defended, 0.9 * white), models.predict_logits(model, white),
                                   atol=1e-6)


def test_a_picture_too_small_for_a_defence_and_a_model_of_unknown_shape_are_refused(trained_model):
    class Mine(keras.Model):
        def call(self, images):
            return keras.ops.mean(images, axis=(1, 2))

    with pytest.raises(KitError, match="Gaussian blur, sigma 2 does not go with images of 8 x 8 x 1: paddings must be"):
        defences.deployed(trained_model, defences.read({"name": "gaussian", "sigma": 2}))
    with pytest.raises(KitError, match="which images the model takes cannot be told"):
        defences.deployed(Mine(), defences.read("jpeg"))


def test_eot_needs_a_sample(trained_model):
    with pytest.raises(KitError, match="at least one sample"):
        defences.wrap(trained_model, RESIZE, adaptive=True, samples=0)


def test_distillation_s_loss_is_the_cross_entropy_of_softened_answers():
    student, teacher = toys.network(seed=1), toys.network(seed=2)
    method = training.training_for(toys.settings(method="distilled", temperature=5), student, teacher=teacher)
    pixels = np.random.default_rng(0).random((8, *toys.SHAPE)).astype(np.float32)
    loss, gradients = method.loss_and_gradients(tf.constant(pixels), tf.constant([0, 1, 2, 0, 1, 2, 0, 1]))

    def softened(model):
        powers = np.exp(models.predict_logits(model, pixels).astype(np.float64) / 5)
        return powers / powers.sum(1, keepdims=True)

    expected = -(softened(teacher) * np.log(softened(student))).sum(1).mean()
    assert isinstance(method, Distilled) and np.isclose(float(loss), expected, rtol=1e-3)
    assert len(gradients) == len(student.trainable_variables) and not teacher.trainable_variables


def test_a_student_learns_from_its_teacher_and_the_teacher_stays(tmp_path):
    data, teacher, student = toys.toy_data(), toys.network(seed=1), toys.network(seed=2)
    training.train(teacher, data, toys.settings(epochs=6, learning_rate=0.03), tmp_path / "teacher", progress=False)
    before = teacher.get_weights()
    distilled = toys.settings(method="distilled", temperature=2, epochs=10, learning_rate=0.03)
    training.train(student, data, distilled, tmp_path / "student", baseline=teacher, progress=False)
    pixels = data.pixels("validation")
    answers = [models.predict_logits(model, pixels).argmax(1) for model in (teacher, student)]
    assert (answers[0] == answers[1]).mean() > 0.8
    assert all(np.array_equal(old, new) for old, new in zip(before, teacher.get_weights(), strict=True))
    assert teacher.trainable_variables


def test_a_temperature_makes_the_logits_larger(tmp_path):
    """The mask of defensive distillation: at temperature 1 the softmax of such logits is flat."""
    data, sizes = toys.toy_data(), {}
    for temperature in (1, 30):
        model = toys.network(seed=3)
        training.train(model, data, toys.settings(temperature=temperature, epochs=8, learning_rate=0.03),
                       tmp_path / str(temperature), progress=False)
        sizes[temperature] = np.abs(models.predict_logits(model, data.pixels("train"))).mean()
    assert sizes[30] > 2 * sizes[1]


def test_distillation_needs_a_teacher_and_temperatures_a_method_that_has_them(tmp_path):
    with pytest.raises(KitError, match="method distilled learns from a teacher: train that first"):
        training.train(toys.network(), toys.toy_data(), toys.settings(method="distilled"), tmp_path, progress=False)
    with pytest.raises(KitError, match="temperature is for methods plain and distilled, not pgd"):
        toys.settings(method="pgd", temperature=3)
    with pytest.raises(KitError, match="method distilled takes no attacks"):
        toys.settings(method="distilled", attacks=[toys.FGSM])
