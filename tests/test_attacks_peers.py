"""Side by side with Foolbox and ART, where they are installed (`pip install -e .[peers]`)."""
import keras
import numpy as np
import pytest
import tensorflow as tf

from kitlib import attacks

EPS = 0.1
STEPS = {"steps": 10, "step": 0.02}


@pytest.fixture(scope="module")
def foolbox_model(trained_model):
    foolbox = pytest.importorskip("foolbox")
    return foolbox.TensorFlowModel(trained_model, bounds=(0, 1))


@pytest.fixture(scope="module")
def art_model(trained_model):
    art = pytest.importorskip("art.estimators.classification")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return art.TensorFlowV2Classifier(trained_model, 10, (8, 8, 1), loss, clip_values=(0, 1))


def foolbox_images(model, name, eps, images, labels, **options):
    import foolbox

    attack = getattr(foolbox.attacks, name)(**options)
    _, clipped, _ = attack(model, tf.constant(images), tf.constant(labels), epsilons=eps)
    return clipped.numpy()


def art_images(model, name, images, labels, **options):
    import art.attacks.evasion as evasion

    return getattr(evasion, name)(model, batch_size=200, **options).generate(images, y=labels)


def our_images(model, images, labels, **settings):
    return attacks.run(attacks.read(settings), model, images, labels).images


def accuracy(model, images, labels):
    return np.mean(model(images, training=False).numpy().argmax(1) == labels)


def assert_same_pixels(ours, theirs, share=1.0):
    """Within 1e-5 in all images (or in `share` of them, where rounding may turn the sign of a gradient near 0)."""
    assert np.mean(np.abs(ours - theirs).reshape(len(ours), -1).max(1) <= 1e-5) >= share


def steep(model, images, labels):
    """Images whose gradient is not so small that the peers' guards against dividing by 0 shorten an L2 step."""
    with tf.GradientTape() as tape:
        x = tf.constant(images)
        tape.watch(x)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, model(x, training=False))
    return np.linalg.norm(tape.gradient(loss, x).numpy().reshape(len(images), -1), axis=1) > 1e-3


@pytest.mark.parametrize("norm, name", [("linf", "LinfFastGradientAttack"), ("l2", "L2FastGradientAttack")])
def test_fgsm_is_foolbox_fgsm(norm, name, foolbox_model, trained_model, images, labels):
    rows = steep(trained_model, images, labels) | (norm == "linf")
    theirs = foolbox_images(foolbox_model, name, EPS, images, labels, random_start=False)
    ours = our_images(trained_model, images, labels, name="fgsm", eps=EPS, norm=norm)
    assert_same_pixels(ours[rows], theirs[rows])


@pytest.mark.parametrize("norm, order", [("linf", np.inf), ("l2", 2)])
def test_fgsm_is_art_fgsm(norm, order, art_model, trained_model, images, labels):
    rows = steep(trained_model, images, labels) | (norm == "linf")
    theirs = art_images(art_model, "FastGradientMethod", images, labels, norm=order, eps=EPS)
    ours = our_images(trained_model, images, labels, name="fgsm", eps=EPS, norm=norm)
    assert_same_pixels(ours[rows], theirs[rows])


def last_pgd(model, images, labels, norm="linf", eps=EPS):
    return our_images(model, images, labels, name="pgd", eps=eps, norm=norm, random_start=False, keep="last", **STEPS)


def test_linf_pgd_is_foolbox_pgd(foolbox_model, trained_model, images, labels):
    theirs = foolbox_images(foolbox_model, "LinfPGD", EPS, images, labels, random_start=False,
                            steps=10, abs_stepsize=0.02)
    ours = last_pgd(trained_model, images, labels)
    assert_same_pixels(ours, theirs, share=0.97)
    assert abs(accuracy(trained_model, ours, labels) - accuracy(trained_model, theirs, labels)) <= 0.01


def test_linf_pgd_is_art_pgd(art_model, trained_model, images, labels):
    theirs = art_images(art_model, "ProjectedGradientDescent", images, labels, eps=EPS, eps_step=0.02,
                        max_iter=10, verbose=False)
    ours = last_pgd(trained_model, images, labels)
    assert_same_pixels(ours, theirs, share=0.97)
    assert abs(accuracy(trained_model, ours, labels) - accuracy(trained_model, theirs, labels)) <= 0.01


def test_l2_pgd_reaches_the_accuracy_of_foolbox(foolbox_model, trained_model, images, labels):
    theirs = foolbox_images(foolbox_model, "L2PGD", 0.6, images, labels, random_start=False, steps=10,
                            abs_stepsize=0.02)
    ours = last_pgd(trained_model, images, labels, norm="l2", eps=0.6)
    assert accuracy(trained_model, ours, labels) <= accuracy(trained_model, theirs, labels) + 0.01


CW = {"search_steps": 5, "steps": 60, "learning_rate": 0.1}


def mean_distance(model, images, adversarial, labels):
    """Mean L2 distance, and the share of images that fool the model."""
    found = model(adversarial, training=False).numpy().argmax(1) != labels
    distances = np.linalg.norm((adversarial - images).reshape(len(images), -1), axis=1)
    return distances[found].mean(), found.mean()


def test_cw_is_no_farther_than_foolbox(foolbox_model, trained_model, images, labels):
    images, labels = images[:40], labels[:40]
    theirs = foolbox_images(foolbox_model, "L2CarliniWagnerAttack", None, images, labels,
                            binary_search_steps=5, steps=60, stepsize=0.1)
    ours = our_images(trained_model, images, labels, name="cw_l2", **CW)
    distance, found = mean_distance(trained_model, images, ours, labels)
    assert found == 1
    assert distance <= 1.02 * mean_distance(trained_model, images, theirs, labels)[0]


def test_cw_is_no_farther_than_art(art_model, trained_model, images, labels):
    images, labels = images[:12], labels[:12]
    theirs = art_images(art_model, "CarliniL2Method", images, labels, binary_search_steps=3, max_iter=10,
                        learning_rate=0.1, initial_const=1.0, verbose=False)
    found = trained_model(theirs, training=False).numpy().argmax(1) != labels
    assert found.mean() > 0.7
    ours = our_images(trained_model, images[found], labels[found], name="cw_l2", **CW)
    distance, all_found = mean_distance(trained_model, images[found], ours, labels[found])
    assert all_found == 1
    assert distance <= 1.02 * mean_distance(trained_model, images[found], theirs[found], labels[found])[0]
