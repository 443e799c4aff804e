"""Explanations against closed forms: where the right answer is known on paper."""
import keras
import numpy as np
import pytest

from kitlib.base.settings import KitError
from kitlib.evaluation import explanations

layers = keras.layers
SHAPE = (6, 5, 2)


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).random((5, *SHAPE), np.float32)


@pytest.fixture(scope="module")
def linear():
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input(SHAPE), layers.Flatten(), layers.Dense(3)])


@pytest.fixture(scope="module")
def cam_network():
    """Convolution, global average, dense: the network for which Grad-CAM is CAM (Selvaraju et al., section 3.1)."""
    keras.utils.set_random_seed(1)
    return keras.Sequential([
        keras.Input(SHAPE), layers.Conv2D(4, 3, padding="same", name="maps"), layers.GlobalAveragePooling2D(),
        layers.Dense(3),
    ])


@pytest.mark.parametrize("baseline", [0.0, 0.5])
@pytest.mark.parametrize("steps", [1, 7])
def test_integrated_gradients_of_a_linear_model_are_weight_times_distance(linear, pictures, baseline, steps):
    found = explanations.integrated_gradients(linear, pictures, [0, 1, 2, 0, 1], baseline, steps, batch_size=2)
    weights = linear.layers[-1].kernel.numpy()[:, [0, 1, 2, 0, 1]].T.reshape(-1, *SHAPE)
    np.testing.assert_allclose(found.values, weights * (pictures - baseline), atol=1e-5)
    np.testing.assert_allclose(found.gap, 0, atol=1e-5)


def test_integrated_gradients_of_squares_are_the_squares(pictures):
    """F(x) = sum of x^2: the gradient 2ax at a x, averaged over a in [0, 1], times x, is x^2."""
    pixels = keras.Input(SHAPE)
    squares = layers.Flatten()(layers.Multiply()([pixels, pixels]))
    model = keras.Model(pixels, layers.Dense(2, kernel_initializer="ones")(squares))
    found = explanations.integrated_gradients(model, pictures, [1] * 5, steps=4)
    np.testing.assert_allclose(found.values, pictures**2, atol=1e-5)
    np.testing.assert_allclose(found.difference, (pictures**2).sum((1, 2, 3)), rtol=1e-5)


def test_completeness_on_a_trained_network_improves_with_steps(trained_model, images, labels):
    few, many = (explanations.integrated_gradients(trained_model, images[:40], labels[:40], steps=steps)
                 for steps in (4, 256))
    assert many.gap.mean() < few.gap.mean() / 4
    assert many.gap.max() < 0.02 * np.abs(many.difference).max()


def test_a_pixel_that_the_model_does_not_see_gets_nothing(pictures):
    model = keras.Sequential([keras.Input(SHAPE), layers.Cropping2D(((0, 0), (0, 3))), layers.Flatten(),
                              layers.Dense(4, activation="tanh"), layers.Dense(2)])
    values = explanations.integrated_gradients(model, pictures, [0] * 5, steps=3).values
    assert (values[:, :, 2:] == 0).all() and (values[:, :, :2] != 0).any()


@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_grad_cam_is_cam_where_the_maps_are_averaged(cam_network, pictures, wanted):
    heat = explanations.grad_cam(cam_network, pictures, [wanted] * 5, batch_size=2)
    maps = cam_network.get_layer("maps")(pictures).numpy()
    cam = (maps * cam_network.layers[-1].kernel.numpy()[:, wanted]).sum(-1) / (SHAPE[0] * SHAPE[1])
    np.testing.assert_allclose(heat, np.maximum(cam, 0), atol=1e-6)
    assert heat.min() == 0 < heat.max()


def test_grad_cam_finds_the_only_spot_that_matters():
    """A one-by-one convolution that passes the picture on: the heat is the bright corner, enlarged four times."""
    model = keras.Sequential([
        keras.Input((16, 16, 1)), layers.AveragePooling2D(4), layers.Conv2D(1, 1, kernel_initializer="ones"),
        layers.Flatten(), layers.Dense(2, kernel_initializer="ones"),
    ])
    picture = np.zeros((1, 16, 16, 1), np.float32)
    picture[:, :4, 12:] = 1
    heat = explanations.grad_cam(model, picture, [0])
    assert heat.shape == (1, 16, 16) and np.unravel_index(heat[0].argmax(), (16, 16)) in {(0, 14), (0, 15), (1, 14)}
    assert heat[0, 8:, :8].max() == 0


def test_explanations_leave_the_model_as_it_was(trained_model, images, labels):
    before = [weight.copy() for weight in trained_model.get_weights()]
    explanations.grad_cam(trained_model, images[:3], labels[:3])
    explanations.integrated_gradients(trained_model, images[:3], labels[:3], steps=2)
    assert all(map(np.array_equal, before, trained_model.get_weights()))


@pytest.mark.parametrize("change, message", [
    ({"classes": [0, 1, 2, 0, 3]}, "the model has 3 classes"),
    ({"classes": [0, 1]}, r"must have the shape \(5,\)"),
    ({"images": np.full((5, *SHAPE), 2.0, np.float32)}, r"pixels must lie in \[0, 1\]"),
    ({"layer": "map"}, "no layer 'map' with feature maps; did you mean 'maps'"),
    ({"layer": "dense"}, "no layer 'dense' with feature maps"),
])
def test_bad_input_is_refused(cam_network, pictures, change, message):
    with pytest.raises(KitError, match=message):
        explanations.grad_cam(**{"model": cam_network, "images": pictures, "classes": [0, 1, 2, 0, 1]} | change)


def test_maps_of_one_pixel_are_passed_over(pictures):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([
        keras.Input(SHAPE), layers.Conv2D(4, 3, name="maps"), layers.GlobalAveragePooling2D(keepdims=True),
        layers.Conv2D(3, 1), layers.Flatten()])
    found, named = (explanations.grad_cam(model, pictures, [0] * 5, layer=layer) for layer in (None, "maps"))
    np.testing.assert_array_equal(found, named)


def test_a_model_of_ones_own_class_has_integrated_gradients_and_no_grad_cam(pictures):
    class Mine(keras.Model):
        def __init__(self):
            super().__init__()
            self.maps, self.flat, self.dense = layers.Conv2D(2, 3), layers.Flatten(), layers.Dense(3)

        def call(self, images):
            return self.dense(self.flat(self.maps(images)))

    model = Mine()
    model(pictures)
    assert explanations.integrated_gradients(model, pictures, [0] * 5, steps=2).values.shape == pictures.shape
    with pytest.raises(KitError, match="can look into, not a Mine"):
        explanations.grad_cam(model, pictures, [0] * 5)


def test_no_steps_and_no_convolution_are_refused(linear, pictures):
    with pytest.raises(KitError, match="one step or more"):
        explanations.integrated_gradients(linear, pictures, [0] * 5, steps=0)
    with pytest.raises(KitError, match="needs a convolutional network"):
        explanations.grad_cam(linear, pictures, [0] * 5)


@pytest.mark.parametrize("kind", ["functional", "sequential"])
def test_grad_cam_looks_at_what_a_nested_network_hands_on(cam_network, pictures, kind):
    """A backbone under a head, as in transfer learning; the same network in one piece says what is right."""
    backbone = keras.Model(cam_network.inputs, cam_network.layers[0].output, name="backbone")
    if kind == "sequential":
        nested = keras.Sequential([keras.Input(SHAPE), backbone, *cam_network.layers[1:]])
    else:
        pixels = keras.Input(SHAPE)
        nested = keras.Model(pixels, cam_network.layers[2](cam_network.layers[1](backbone(pixels))))
    expected = explanations.grad_cam(cam_network, pictures, [0, 1, 2, 0, 1])
    np.testing.assert_allclose(explanations.grad_cam(nested, pictures, [0, 1, 2, 0, 1]), expected, atol=1e-6)
    np.testing.assert_allclose(explanations.grad_cam(nested, pictures, [0] * 5, layer="backbone"),
                               explanations.grad_cam(cam_network, pictures, [0] * 5), atol=1e-6)
