import contextlib
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from kitlib import models
from kitlib.base.settings import KitError
from kitlib.evaluation import defences, detection
from kitlib.models import IMAGENET, ModelSettings, Normalisation, networks
from kitlib.training import precision

SMALL = {
    "even_deeper_cnn": ({"widths": [4] * 6, "dense": [8]}, (32, 32, 3)),
    "deeper_cnn": ({"widths": [4] * 4, "dense": [8]}, (16, 16, 1)),
    "small_resnet": ({"widths": [4, 8], "blocks": 1}, (16, 16, 3)),
    "resnet50": ({}, (32, 32, 3)),
    "vgg16": ({}, (32, 32, 3)),
    "mobilenet_v2": ({}, (32, 32, 3)),
    "densenet121": ({}, (32, 32, 3)),
}


def small(name, **changes):
    options, shape = SMALL[name]
    return models.build(ModelSettings(name=name, options=options, **changes), shape, 3, seed=1)


def test_every_model_is_tried_here():
    assert set(SMALL) == set(models.BUILDERS)


@pytest.mark.parametrize("name", SMALL)
def test_pixels_in_logits_out_and_back_from_disk(name, tmp_path):
    model = small(name)
    images = np.random.default_rng(0).random((2, *SMALL[name][1]), dtype=np.float32)
    logits = models.predict_logits(model, images)
    assert logits.shape == (2, 3) and logits.dtype == np.float32
    assert model.layers[0].name == "pixels" and model.layers[1].name == "normalisation"
    assert model.layers[-1].activation is keras.activations.linear
    models.save(model, tmp_path / "m.keras")
    np.testing.assert_allclose(models.predict_logits(models.load(tmp_path / "m.keras"), images), logits, atol=1e-5)


def test_the_papers_network_has_six_convolutions_and_three_dense_layers():
    model = models.build(ModelSettings(name="even_deeper_cnn"), (32, 32, 3), 10)
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds.count("Conv2D") == 6 and kinds.count("Dense") == 3 and kinds.count("MaxPooling2D") == 3
    assert all(layer.kernel_size == (3, 3) for layer in model.layers if isinstance(layer, keras.layers.Conv2D))


def test_a_first_stride_halves_the_image_and_nothing_else():
    whole, halved = (models.build(ModelSettings(name="small_resnet", options={"first_stride": stride}), (16, 16, 3), 3)
                     for stride in (1, 2))
    first = [next(layer for layer in each.layers if isinstance(layer, layers.Conv2D)) for each in (whole, halved)]
    assert [layer.output.shape[1:3] for layer in first] == [(16, 16), (8, 8)]
    assert [each.shape for each in whole.weights] == [each.shape for each in halved.weights]


def test_same_seed_same_weights():
    first, again, other = small("small_resnet"), small("small_resnet"), models.build(
        ModelSettings(name="small_resnet", options=SMALL["small_resnet"][0]), (16, 16, 3), 3, seed=2)
    assert all(np.array_equal(a, b) for a, b in zip(first.get_weights(), again.get_weights(), strict=True))
    assert not np.array_equal(first.get_weights()[0], other.get_weights()[0])


def test_normalisation_layer_does_what_the_settings_say():
    pixels = np.random.default_rng(0).random((2, 4, 4, 3), dtype=np.float32)
    normalised = IMAGENET.to_normalised(pixels)
    np.testing.assert_allclose(IMAGENET.layer()(pixels), normalised, atol=1e-5)
    np.testing.assert_allclose(IMAGENET.to_pixels(normalised), pixels, atol=1e-6)


def test_a_normalisation_by_channel_takes_one_number_for_all_of_them():
    np.testing.assert_allclose(IMAGENET.to_normalised(0.5), (0.5 - np.array(IMAGENET.mean)) / IMAGENET.std, rtol=1e-6)
    np.testing.assert_allclose(IMAGENET.to_pixels(np.float32(0)), IMAGENET.mean, rtol=1e-6)
    with pytest.raises(KitError, match="the normalisation has 3 channels, but images of 1 are given"):
        IMAGENET.to_normalised(np.zeros((2, 4, 4, 1), np.float32))


def test_uint8_images_are_divided_by_255():
    model = small("deeper_cnn")
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 1), dtype=np.uint8)
    expected = models.predict_logits(model, images.astype(np.float32) / np.float32(255))
    np.testing.assert_allclose(models.predict_logits(model, images, batch_size=2), expected, atol=1e-6)


def test_a_mixed_precision_model_is_asked_in_float32_behind_a_defence_too():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        low = small("deeper_cnn")
    finally:
        keras.config.set_dtype_policy("float32")
    high = small("deeper_cnn")
    high.set_weights(low.get_weights())
    images = np.random.default_rng(0).random((3, 16, 16, 1), dtype=np.float32)
    np.testing.assert_array_equal(models.predict_logits(low, images), models.predict_logits(high, images))
    behind = [defences.deployed(model, defences.BitDepth(bits=3)) for model in (low, high)]
    np.testing.assert_array_equal(*(models.predict_logits(model, images) for model in behind))


@contextlib.contextmanager
def policy(name):
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy("float32")


def with_wrapped_layers():
    """An adapted normalisation, and layers within layers."""
    keras.utils.set_random_seed(0)
    adapted = layers.Normalization()
    adapted.adapt(np.random.default_rng(1).normal(5, 3, (64, 6, 6, 1)).astype(np.float32))
    pixels = keras.Input((6, 6, 1))
    x = layers.SpectralNormalization(layers.Conv2D(4, 3))(adapted(pixels))
    x = layers.Flatten()(layers.TimeDistributed(layers.Dense(3))(keras.ops.relu(x) * 2))
    return keras.Model(pixels, layers.Dense(3, dtype="float32")(x))


def test_the_float32_copy_is_the_same_function_with_wrapped_layers_and_an_adapted_normalisation():
    with policy("mixed_bfloat16"):
        low = with_wrapped_layers()
    high, images = with_wrapped_layers(), np.random.default_rng(0).random((5, 6, 6, 1), dtype=np.float32)
    high.set_weights(low.get_weights())
    twin = models.in_float32(low)
    assert {part.compute_dtype for part in twin._flatten_layers()} == {"float32"}
    np.testing.assert_allclose(models.predict_logits(low, images), models.predict_logits(high, images), atol=1e-6)
    in_training = precision.twin(high, "float32")
    np.testing.assert_allclose(np.asarray(in_training(images)), np.asarray(high(images)), atol=1e-6)


def test_what_is_built_around_a_model_is_float32_whatever_the_global_policy():
    model, images = small("deeper_cnn"), np.random.default_rng(0).random((3, 16, 16, 1), dtype=np.float32)
    expected = models.predict_logits(defences.deployed(model, defences.BitDepth(bits=3)), images)
    with policy("mixed_bfloat16"):
        around = defences.deployed(model, defences.BitDepth(bits=3))
        detector = detection.Detector.of(small("deeper_cnn"))
        np.testing.assert_array_equal(models.predict_logits(around, images), expected)
        assert detector.score(images)[1].shape == (3,)
        assert models.predict_logits(detector.surrogate(), images).shape == (3, 4)
        assert keras.config.dtype_policy().name == "mixed_bfloat16"


def test_a_subclassed_model_is_asked_like_any_other():
    class Mine(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(3)

        def call(self, images):
            return self.dense(keras.ops.reshape(images, (-1, 16)))

    model, images = Mine(), np.random.default_rng(0).random((5, 4, 4, 1), dtype=np.float32)
    assert models.predict_logits(model, images, batch_size=2).shape == (5, 3)
    assert models.predict_logits(model, images[:0]).shape == (0, 3)


def test_a_normalisation_of_other_channels_is_refused():
    with pytest.raises(KitError, match="the normalisation has 3 channels, but images of 1 are given"):
        IMAGENET.to_normalised(np.zeros((1, 4, 4, 1), np.float32))
    with pytest.raises(KitError, match="the normalisation has 3 channels, but images of 1 are given"):
        small("deeper_cnn", normalisation=IMAGENET)


def test_batch_norm_has_the_papers_momentum():
    layers = [layer for layer in small("resnet50").layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert layers and {layer.momentum for layer in layers} == {0.9}


def test_bgr_weights_are_turned_to_rgb():
    inputs = keras.Input((8, 8, 3))
    network = keras.Model(inputs, keras.layers.Conv2D(2, 3)(inputs))
    images = np.random.default_rng(0).random((1, 8, 8, 3), dtype=np.float32)
    expected = network.predict(images, verbose=0)
    networks._turn_first_kernel(network)
    np.testing.assert_allclose(network.predict(images[..., ::-1], verbose=0), expected, atol=1e-5)


@pytest.mark.parametrize("settings, shape, classes, message", [
    ({"name": "even_deper_cnn"}, (32, 32, 3), 10, "there is no model 'even_deper_cnn'; did you mean 'even_deeper_cnn'"),
    ({"name": "deeper_cnn", "options": {"width": 3}}, (32, 32, 3), 10, "unexpected keyword argument 'width'"),
    ({"name": "even_deeper_cnn"}, (4, 4, 3), 10, r"cannot be built for images of \(4, 4, 3\)"),
    ({"name": "deeper_cnn"}, (32, 32, 3), 1, "two classes or more"),
    ({"name": "resnet50", "options": {"weights": "/nowhere.weights.h5"}}, (32, 32, 3), 3, "ResNet50 with weights"),
    ({"name": "resnet50", "options": {"weights": "imagenet"}, "normalisation": Normalisation()}, (32, 32, 3), 3,
     "bring their own normalisation"),
])
def test_impossible_models_are_refused(settings, shape, classes, message):
    with pytest.raises(KitError, match=message):
        models.build(ModelSettings(**settings), shape, classes)


@pytest.mark.parametrize("std", [0, -1, [1, 0, 1]])
def test_a_std_that_is_not_positive_is_refused(std):
    with pytest.raises(KitError, match="std must be positive"):
        Normalisation.read({"std": std}, "here")


def test_the_same_model_is_saved_as_the_same_bytes(tmp_path):
    """Judgements and audits know a model by its file."""
    model = small("small_resnet")
    for name in "ab":
        models.save(model, tmp_path / f"{name}.keras")
    assert (tmp_path / "a.keras").read_bytes() == (tmp_path / "b.keras").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.keras") as archive:
        assert {member.date_time[0] for member in archive.infolist()} == {1980}
        assert b"date" not in archive.read("metadata.json")


def test_files_that_are_no_models_are_refused(tmp_path):
    with pytest.raises(KitError, match="does not exist"):
        models.load(tmp_path / "none.keras")
    models.save(small("deeper_cnn"), tmp_path / "m.keras")
    whole = (tmp_path / "m.keras").read_bytes()
    (tmp_path / "m.keras").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(KitError, match="no Keras 3 model that can be loaded"):
        models.load(tmp_path / "m.keras")


def test_code_inside_a_model_file_is_not_run(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x + 1)])
    model.save(tmp_path / "code.keras")
    with pytest.raises(KitError, match="no Keras 3 model that can be loaded"):
        models.load(tmp_path / "code.keras")


@pytest.mark.parametrize("size", [7, 8])
def test_a_shortcut_that_picks_pixels_is_a_strided_convolution(size):
    network = models.build(ModelSettings(name="small_resnet", options={"widths": [4, 6], "blocks": 1}),
                           (size, size, 1), 2, seed=0)
    picking = next(layer for layer in network.layers if isinstance(layer, layers.AveragePooling2D))
    narrow = next(layer for layer in network.layers if layer.input is picking.output)
    images = keras.random.uniform((3, size, size, 4), seed=1)
    expected = keras.ops.conv(images, narrow.kernel, 2, "same")
    np.testing.assert_allclose(narrow(picking(images)), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["resnet50", "vgg16", "mobilenet_v2", "densenet121"])
def test_imagenet_weights_get_the_input_that_they_were_trained_on(name):
    module = {"resnet50": "resnet", "mobilenet_v2": "mobilenet_v2", "densenet121": "densenet"}.get(name, name)
    pixels = np.random.default_rng(0).random((1, 8, 8, 3)).astype(np.float32)
    wanted = getattr(keras.applications, module).preprocess_input(255 * pixels)
    settings = ModelSettings(name=name, options={"weights": "imagenet"})
    got = models.normalisation_of(settings).to_normalised(pixels)
    turned = name in ("resnet50", "vgg16")      # there the first kernel is turned, not the picture
    np.testing.assert_allclose(got[..., ::-1] if turned else got, wanted, atol=0.001)


def test_float32_is_float32_on_every_gpu():
    assert not tf.config.experimental.tensor_float_32_execution_enabled()


def test_loaded_weights_of_a_normalization_count_in_what_was_asked_before(tmp_path):
    def network(scale):
        normalize = keras.layers.Normalization()
        normalize.adapt(scale * np.random.default_rng(0).random((16, 4, 4, 3)))
        return keras.Sequential([keras.Input((4, 4, 3)), normalize, keras.layers.Flatten(), keras.layers.Dense(3)])

    pixels = np.random.default_rng(1).random((2, 4, 4, 3)).astype(np.float32)
    one, other = network(1), network(9)
    before = models.predict_logits(one, pixels)
    other.save_weights(tmp_path / "other.weights.h5")
    one.load_weights(tmp_path / "other.weights.h5")
    after = models.predict_logits(one, pixels)
    np.testing.assert_allclose(after, models.predict_logits(other, pixels), atol=1e-5)
    assert np.abs(after - before).max() > 0.01


def test_a_network_without_layers_is_refused():
    with pytest.raises(KitError, match="small_resnet' cannot be built"):
        models.build(ModelSettings(name="small_resnet", options={"widths": []}), (8, 8, 3), 2)


def test_a_weights_file_is_looked_up_from_the_data_folder(tmp_path, monkeypatch):
    def tiny(input_tensor, **_):
        x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(2, 3)(input_tensor))
        return keras.Model(input_tensor, x)

    pixels = keras.Input((8, 8, 3))
    known = tiny(pixels)
    known.save_weights(tmp_path / "mine.weights.h5")
    monkeypatch.setenv("KITLIB_DATA", str(tmp_path))
    made = keras.Model(pixels, networks._application(pixels, tiny, bgr=False, weights="mine.weights.h5"))
    for before, after in zip(known.get_weights(), made.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
