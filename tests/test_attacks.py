"""Attacks: what each does, what all have in common, and what they refuse."""
import gc
import types
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from cleverhans.tf2.attacks.fast_gradient_method import fast_gradient_method
from cleverhans.tf2.attacks.momentum_iterative_method import momentum_iterative_method
from cleverhans.tf2.attacks.projected_gradient_descent import projected_gradient_descent

from kitlib import attacks, models
from kitlib.attacks.base import margin
from kitlib.base.settings import KitError

GREY = {"mean": 0.5, "std": 0.5}
EPS = 0.1
# One of each, small enough for a test; every entry is checked in every test of the whole table.
TABLE = [
    {"name": "none"},
    {"name": "noise", "eps": EPS},
    {"name": "noise", "eps": EPS, "kind": "gaussian", "restarts": 2},
    {"name": "noise", "eps": 1, "kind": "sign", "norm": "l2"},
    {"name": "fgsm", "eps": EPS},
    {"name": "fgsm", "eps": 1, "norm": "l2", "labels": "predicted"},
    {"name": "pgd", "eps": EPS, "steps": 5},
    {"name": "pgd", "eps": 1, "norm": "l2", "steps": 5, "restarts": 2, "loss": "dlr"},
    {"name": "pgd", "eps": EPS, "steps": 5, "random_start": False, "loss": "margin", "stop_early": True},
    {"name": "mim", "eps": EPS, "steps": 5, "labels": "predicted"},
    {"name": "apgd", "eps": EPS, "steps": 10},
    {"name": "apgd", "eps": 1, "norm": "l2", "steps": 10, "loss": "dlr", "restarts": 2},
    {"name": "cw_l2", "search_steps": 2, "steps": 10},
    {"name": "deepfool", "steps": 10, "candidates": 3},
    {"name": "square", "eps": EPS, "steps": 20},
    {"name": "square", "eps": 1, "norm": "l2", "steps": 20},
    {"name": "paper_a_fgsm", "eps": 0.5},
    {"name": "paper_b_fgsm", "normalisation": GREY},
    {"name": "paper_b_pgd", "normalisation": GREY},
    {"name": "paper_b_cw", "normalisation": GREY, "steps": 5},
]
WHOLE_TABLE = pytest.mark.parametrize("settings", TABLE, ids=lambda row: "-".join(map(str, row.values())))


def first_few(images, labels, count=40):
    return images[:count], labels[:count]


def linear_model(classes=3, shape=(4, 4, 1), seed=0):
    """logits = W x + b, for which the smallest perturbation is known."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(classes)])
    model.layers[-1].bias.assign(np.linspace(-0.1, 0.1, classes))
    return model


@keras.saving.register_keras_serializable("kitlib_tests")
class Counter(keras.layers.Layer):
    """Passes its input on, and counts the rows that pass and the traces made of it."""

    def __init__(self, **options):
        super().__init__(**options)
        self.rows = tf.Variable(0, trainable=False)
        self.seen = types.SimpleNamespace(traces=0)     # no number of its own, which would be part of its state

    def call(self, inputs):
        self.seen.traces += 1
        self.rows.assign_add(tf.shape(inputs)[0])
        return inputs


def counted(model):
    counter = Counter()
    inputs = keras.Input((8, 8, 1))
    return keras.Model(inputs, model(counter(inputs))), counter


# --- what all have in common ---

def test_the_table_has_every_attack():
    assert {settings["name"] for settings in TABLE} == set(attacks.CATALOGUE) - {"cleverhans"}     # test_cleverhans


@WHOLE_TABLE
def test_settings_print_and_go_through_a_record(settings):
    attack = attacks.read(settings)
    assert attacks.read(attack.model_dump(mode="json")) == attack
    assert len(str(attack)) > 5 and "\n" not in str(attack) and "name=" not in str(attack)


@WHOLE_TABLE
def test_result_is_what_the_model_says_of_the_images(settings, trained_model, images, labels):
    images, labels = first_few(images, labels)
    attack = attacks.read(settings)
    before = trained_model.get_weights()
    result = attacks.run(attack, trained_model, images, labels, batch_size=16)
    for old, new in zip(before, trained_model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    predictions = trained_model(result.images, training=False).numpy().argmax(1)
    np.testing.assert_array_equal(result.predictions, predictions)
    np.testing.assert_array_equal(result.fooled, predictions != labels)
    change = (result.images - images).reshape(len(images), -1)
    np.testing.assert_allclose(result.l2, np.linalg.norm(change, axis=1), rtol=1e-5)
    np.testing.assert_allclose(result.linf, np.abs(change).max(1), rtol=1e-5)
    assert result.accuracy == np.mean(predictions == labels)
    assert result.images.dtype == np.float32 and np.isfinite(result.images).all()
    if isinstance(attack, attacks.InBall):
        sizes = result.linf if attack.norm == "linf" else result.l2
        assert sizes.max() <= attack.eps + 1e-6
    if not settings["name"].startswith("paper"):
        assert result.images.min() >= 0 and result.images.max() <= 1
    assert result.summary()["accuracy"] == result.accuracy


@WHOLE_TABLE
def test_perturb_in_a_graph_gives_images_of_the_same_shape(settings, trained_model, images, labels):
    images, labels = first_few(images, labels, 8)
    attack = attacks.read(settings)

    @tf.function
    def in_graph(images, labels):
        return attack.perturb(trained_model, images, labels, seed=tf.constant([1, 2]))

    adversarial = in_graph(images, labels)
    assert adversarial.shape == images.shape and np.isfinite(adversarial).all()
    if settings["name"] in ("fgsm", "mim", "deepfool", "cw_l2") or settings["name"].startswith("paper"):
        expected = attacks.run(attack, trained_model, images, labels).images
        np.testing.assert_allclose(adversarial, expected, atol=1e-5)


@WHOLE_TABLE
def test_control_perturbs_nothing(settings, trained_model, images, labels):
    attack = attacks.read(settings).control()
    result = attacks.run(attack, trained_model, *first_few(images, labels))
    expected = first_few(images, labels)[0]
    if settings["name"] in ("paper_b_fgsm", "paper_b_pgd"):
        expected = (np.clip(expected * 2 - 1, 0, 1) + 1) / 2
    if settings["name"] == "paper_b_cw":
        expected = (np.tanh(expected * 2 - 1) + 1) / 2
    np.testing.assert_allclose(result.images, expected, atol=1e-6)


RANDOM = [
    {"name": "noise", "eps": EPS}, {"name": "noise", "eps": 1, "norm": "l2"},
    {"name": "pgd", "eps": EPS, "steps": 3, "restarts": 2}, {"name": "apgd", "eps": EPS, "steps": 5},
    {"name": "square", "eps": EPS, "steps": 10}, {"name": "square", "eps": 1, "norm": "l2", "steps": 10},
]


@pytest.mark.parametrize("settings", RANDOM, ids=str)
def test_seed_decides_whatever_the_batch_size(settings, trained_model, images, labels):
    images, labels = first_few(images, labels)
    attack = attacks.read(settings)
    one = attacks.run(attack, trained_model, images, labels, seed=1, batch_size=40).images
    again = attacks.run(attack, trained_model, images, labels, seed=1, batch_size=40).images
    parts = attacks.run(attack, trained_model, images, labels, seed=1, batch_size=7).images
    other = attacks.run(attack, trained_model, images, labels, seed=2, batch_size=40).images
    np.testing.assert_array_equal(one, again)
    assert np.mean(np.abs(one - parts) > 1e-5) < 0.002      # rounding may turn a gradient near 0
    assert not np.allclose(one, other)


def test_a_fooled_image_is_left_alone_whatever_its_batch_does(trained_model, images, labels):
    square = attacks.read({"name": "square", "eps": 0.15, "steps": 200})
    together = attacks.run(square, trained_model, images, labels, seed=1, batch_size=64)
    alone = attacks.run(square, trained_model, images, labels, seed=1, batch_size=1)
    assert together.fooled.any() and np.isclose(together.images, alone.images, atol=1e-5).all((1, 2, 3)).mean() > 0.99
    early = attacks.PGD(eps=0.15, steps=20, stop_early=True, random_start=False)
    inside = early.perturb(trained_model, images, labels)
    np.testing.assert_allclose(inside, attacks.run(early, trained_model, images, labels).images, atol=1e-5)


@pytest.mark.parametrize("settings", [
    {"name": "paper_a_fgsm", "eps": 0.5}, {"name": "noise", "eps": 0.3, "restarts": 5}, {"name": "fgsm", "eps": 0.2},
], ids=str)
def test_predicted_labels_are_those_of_the_clean_image(settings, trained_model, images):
    """So with the predictions given as true labels nothing differs, and the attack knows that it succeeded."""
    predictions = models.predict_logits(trained_model, images).argmax(1)
    given, own = (attacks.run(attacks.read({**settings, "labels": whose}), trained_model, images, predictions)
                  for whose in ("true", "predicted"))
    np.testing.assert_allclose(given.images, own.images, atol=1e-6)
    assert given.found.any() and (given.found == own.found).all() and (own.found == own.fooled).all()


@pytest.mark.parametrize("kind", [int, np.int64, np.uint8])
def test_a_seed_may_be_any_integer(kind, trained_model, images, labels):
    noise = attacks.read({"name": "noise", "eps": EPS})
    found = attacks.run(noise, trained_model, *first_few(images, labels), seed=kind(3)).images
    np.testing.assert_array_equal(found, attacks.run(noise, trained_model, *first_few(images, labels), seed=3).images)


def test_batches_from_an_iterator_give_the_same(trained_model, images, labels):
    attack = attacks.read({"name": "pgd", "eps": EPS, "steps": 3})
    whole = attacks.run(attack, trained_model, images, labels)
    batches = ((images[i : i + 60], labels[i : i + 60]) for i in range(0, len(images), 60))
    parts = attacks.run(attack, trained_model, batches, batch_size=32, progress=True)
    np.testing.assert_array_equal(whole.labels, parts.labels)
    assert np.mean(np.abs(whole.images - parts.images) > 1e-5) < 0.002


# --- cost ---

def test_fooled_images_cost_no_more_steps_where_only_accuracy_is_asked(trained_model, images, labels):
    model, counter = counted(trained_model)
    attack = attacks.read({"name": "pgd", "eps": 0.5, "steps": 20, "random_start": False})
    attacks.run(attack, model, images, labels, batch_size=64)      # reads what the model takes and returns
    rows = {}
    for keep in (True, False):
        before = int(counter.rows)
        accuracy = attacks.run(attack, model, images, labels, keep_images=keep, batch_size=64).accuracy
        rows[keep] = (int(counter.rows) - before - 8 - 48) / len(images)      # those that the model is looked at with
        assert accuracy == 0
    assert rows[True] == 21      # 20 steps, and one look at where they ended
    assert rows[False] < 4


def test_one_trace_for_all_batch_sizes_and_epsilons(trained_model, images, labels):
    model, counter = counted(trained_model)
    for eps, batch_size in ((0.1, 16), (0.2, 50), (0.3, 64)):
        attack = attacks.read({"name": "pgd", "eps": eps, "steps": 4, "random_start": False})
        attacks.run(attack, model, images, labels, batch_size=batch_size, keep_images=False)
        counter.seen.traces, last = 0, counter.seen.traces
    assert last <= 2      # eager calls, which look at the model


def test_attacked_models_are_not_kept_alive(images, labels):
    model = linear_model(10, (8, 8, 1))
    attacks.run(attacks.read({"name": "pgd", "eps": EPS, "steps": 2}), model, images, labels)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_new_weights_are_seen(images, labels):
    model = linear_model(10, (8, 8, 1))
    attack = attacks.read({"name": "fgsm", "eps": EPS})
    first = attacks.run(attack, model, images, labels)
    model.set_weights([-w for w in model.get_weights()])
    second = attacks.run(attack, model, images, labels)
    fresh = linear_model(10, (8, 8, 1))
    fresh.set_weights(model.get_weights())
    np.testing.assert_array_equal(second.images, attacks.run(attack, fresh, images, labels).images)
    assert not np.array_equal(first.images, second.images)


def test_a_bfloat16_model_is_judged_in_float32(trained_model, images, labels):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        low = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(32),
                                keras.layers.Dense(10, dtype="float32")])
        result = attacks.run(attacks.read({"name": "pgd", "eps": EPS, "steps": 3}), low, images, labels)
        low.set_weights([w * 2 for w in low.get_weights()])      # a later call must see new weights
        result = attacks.run(attacks.read({"name": "pgd", "eps": EPS, "steps": 3}), low, images, labels)
    finally:
        keras.config.set_dtype_policy(policy)
    high = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(32),
                             keras.layers.Dense(10)])
    high.set_weights(low.get_weights())
    same = attacks.run(attacks.read({"name": "pgd", "eps": EPS, "steps": 3}), high, images, labels)
    np.testing.assert_array_equal(result.images, same.images)
    np.testing.assert_array_equal(result.predictions, same.predictions)


# --- FGSM and PGD against CleverHans ---

@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("options", [{}, {"labels": "predicted"}, {"targeted": True}], ids=str)
def test_fgsm_is_cleverhans_fgsm(norm, options, trained_model, images, labels):
    attack = attacks.read({"name": "fgsm", "eps": EPS, "norm": norm, **options})
    ours = attacks.run(attack, trained_model, images, labels).images
    theirs = fast_gradient_method(
        trained_model, images, EPS, attack.order, clip_min=0.0, clip_max=1.0,
        y=None if "labels" in options else labels, targeted="targeted" in options,
    )
    confident = np.linalg.norm(_gradient(trained_model, images, labels), axis=1) > 1e-5
    rows = confident | (norm == "linf")      # theirs shortens the L2 step where the gradient is tiny
    np.testing.assert_allclose(ours[rows], theirs.numpy()[rows], atol=1e-6)


def _gradient(model, images, labels):
    with tf.GradientTape() as tape:
        x = tf.constant(images)
        tape.watch(x)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, model(x, training=False))
    return tape.gradient(loss, x).numpy().reshape(len(images), -1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_is_cleverhans_pgd(norm, trained_model, images, labels):
    attack = attacks.read({"name": "pgd", "eps": 0.3, "step": 0.1, "steps": 6, "norm": norm,
                           "random_start": False, "keep": "last"})
    ours = attacks.run(attack, trained_model, images, labels).images
    theirs = projected_gradient_descent(
        trained_model, images, 0.3, 0.1, 6, attack.order, clip_min=0.0, clip_max=1.0, y=labels,
    ).numpy()
    assert np.mean(np.abs(ours - theirs).reshape(len(images), -1).max(1) < 1e-5) > 0.97


def test_predicted_labels_ignore_the_true_ones(trained_model, images, labels):
    for settings in ({"name": "fgsm", "eps": EPS}, {"name": "pgd", "eps": EPS, "steps": 3}):
        attack = attacks.read({**settings, "labels": "predicted"})
        true = attacks.run(attack, trained_model, images, labels).images
        wrong = attacks.run(attack, trained_model, images, (labels + 1) % 10).images
        np.testing.assert_array_equal(true, wrong)
        np.testing.assert_allclose(attack.perturb(trained_model, images[:4], seed=0).shape, (4, 8, 8, 1))


def test_targeted_attacks_reach_their_target(trained_model, images, labels):
    targets = (labels + 1) % 10
    for settings in ({"name": "pgd", "eps": 0.5, "steps": 30}, CW,
                     {"name": "pgd", "eps": 4, "norm": "l2", "loss": "margin"}):
        result = attacks.run(attacks.read({**settings, "targeted": True}), trained_model, images, targets)
        assert np.mean(result.predictions == targets) > 0.95
        np.testing.assert_array_equal(result.fooled, result.predictions == targets)


@pytest.mark.parametrize("attack", [
    attacks.APGD(eps=0.15, loss="margin", steps=30, targeted=True), attacks.Square(eps=0.15, steps=300, targeted=True)],
    ids=lambda attack: attack.name)
def test_targeted_attacks_that_miss_have_come_no_farther_from_their_target(attack, trained_model, images, labels):
    targets = ((labels + 1) % 10).astype(np.int32)
    result = attacks.run(attack, trained_model, images, targets)
    before, after = (margin(targets, models.predict_logits(trained_model, each)).numpy()
                     for each in (images, result.images))
    assert (after <= before + 1e-4)[~result.fooled].all() and result.fooled.mean() > 0.1


def test_worse_of_more(trained_model, images, labels):
    """Keeping the best, more steps, restarts, and a wider search never leave the model better off."""
    def fooled(**options):
        settings = {"name": "pgd", "eps": 0.08, "step": 0.04, "steps": 4, **options}
        return attacks.run(attacks.read(settings), trained_model, images, labels).fooled

    assert (fooled(random_start=False) >= fooled(random_start=False, keep="last")).all()
    assert (fooled(random_start=False, steps=8) >= fooled(random_start=False)).all()
    assert (fooled(restarts=3) >= fooled()).all()


def test_images_kept_or_not_and_stopped_early_or_not_the_same_are_fooled(trained_model, images, labels):
    settings = {"name": "pgd", "eps": 0.08, "steps": 8, "random_start": False}
    whole = attacks.run(attacks.read(settings), trained_model, images, labels)
    for keep, early in ((False, False), (True, True), (False, True)):
        attack = attacks.read({**settings, "stop_early": early})
        part = attacks.run(attack, trained_model, images, labels, keep_images=keep, batch_size=30)
        np.testing.assert_array_equal(part.fooled, whole.fooled)
        assert (part.images is None) != keep
    both = attacks.run(attacks.read({**settings, "stop_early": True}), trained_model, images, labels)
    changed = ~np.isclose(both.images, whole.images).all((1, 2, 3))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None)
    stronger = loss(labels, trained_model(whole.images)) - loss(labels, trained_model(both.images))
    assert (stronger.numpy()[changed & whole.fooled] > 0).all()      # the strongest, not the first


def test_mim_is_cleverhans_s(trained_model, images, labels):
    mim = attacks.MIM(eps=0.3, step=0.1, steps=6, keep="last")
    theirs = momentum_iterative_method(trained_model, images, 0.3, 0.1, 6, np.inf, clip_min=0.0, clip_max=1.0, y=labels)
    ours = attacks.run(mim, trained_model, images, labels).images
    assert (np.abs(ours - theirs.numpy()).max((1, 2, 3)) < 1e-5).mean() > 0.9    # but for ties of rounding


def test_mim_without_decay_is_pgd(trained_model, images, labels):
    common = {"eps": EPS, "step": 0.02, "steps": 5, "random_start": False}
    pgd = attacks.run(attacks.read({"name": "pgd", **common}), trained_model, images, labels)
    mim = attacks.run(attacks.read({"name": "mim", "decay": 0, **common}), trained_model, images, labels)
    momentum = attacks.run(attacks.read({"name": "mim", **common}), trained_model, images, labels)
    np.testing.assert_allclose(pgd.images, mim.images, atol=1e-6)
    assert not np.allclose(pgd.images, momentum.images)


@pytest.mark.parametrize("kind", ["uniform", "gaussian", "sign"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_noise_has_the_size_asked_for(kind, norm, trained_model):
    grey = np.full((300, 8, 8, 1), 0.5, np.float32)
    attack = attacks.read({"name": "noise", "eps": 0.2, "kind": kind, "norm": norm})
    result = attacks.run(attack, trained_model, grey, np.zeros(300, int))
    sizes = result.linf if norm == "linf" else result.l2
    assert sizes.max() <= 0.2 + 1e-6 and sizes.min() > 0.15
    change = result.images - grey
    assert abs(change.mean()) < 0.01
    if kind == "sign":
        np.testing.assert_allclose(np.abs(change), np.abs(change).max(), rtol=1e-4)


# --- APGD, Square, DeepFool ---

@pytest.mark.parametrize("loss", ["ce", "dlr", "margin"])
def test_apgd_is_at_least_as_strong_as_pgd(loss, trained_model, images, labels):
    pgd = attacks.read({"name": "pgd", "eps": 0.07, "steps": 30})
    apgd = attacks.read({"name": "apgd", "eps": 0.07, "steps": 30, "loss": loss})
    scores = [attacks.run(a, trained_model, images, labels, keep_images=False).accuracy for a in (apgd, pgd)]
    assert scores[0] <= scores[1] + 0.01


def test_apgd_comes_to_rest_where_the_loss_is_highest():
    """The loss -|x - top|^2 has its top inside the ball; with steps that never shrink it would leap to and fro."""
    images = np.full((8, 4, 4, 1), 0.5, np.float32)
    top = 0.5 + np.random.default_rng(0).uniform(-0.2, 0.2, (1, 4, 4, 1)).astype(np.float32)
    pixels = keras.Input((4, 4, 1))
    far = keras.ops.sum((pixels - top) ** 2, axis=(1, 2, 3))[:, None]
    model = keras.Model(pixels, keras.ops.concatenate([0 * far, -far - 1], axis=1))
    result = attacks.run(attacks.APGD(eps=0.3, steps=60, loss="margin"), model, images, np.zeros(8, int))
    assert np.abs(result.images - top).max() < 0.03


def odd(front=lambda pixels: pixels, back=lambda logits: logits):
    keras.utils.set_random_seed(0)
    pixels = keras.Input((8, 8, 1))
    return keras.Model(pixels, back(keras.layers.Dense(4)(keras.layers.Flatten()(front(pixels)))))


@pytest.mark.parametrize("parts", [
    {"back": lambda logits: keras.ops.tanh(30 * logits)},                                  # ties: DLR is 0 / 0
    {"front": lambda pixels: keras.ops.sqrt((pixels[:, 1:] - pixels[:, :-1]) ** 2)},       # NaN where it is flat
    {"front": lambda pixels: pixels**0.5},                                                 # infinite at black
], ids=["saturated", "nan", "infinite"])
@pytest.mark.parametrize("attack", [
    attacks.FGSM(eps=0.1), attacks.PGD(eps=0.1, steps=5), attacks.PGD(eps=1, steps=5, norm="l2"),
    attacks.MIM(eps=0.1, steps=5), attacks.APGD(eps=0.1, steps=5, loss="dlr"),
    attacks.CarliniWagnerL2(search_steps=2, steps=10), attacks.DeepFool(steps=10),
], ids=lambda attack: f"{attack.name}-{getattr(attack, 'norm', '')}")
def test_gradients_that_are_no_numbers_leave_images_that_are(parts, attack):
    model = odd(**parts)
    images = np.random.default_rng(0).random((12, 8, 8, 1), dtype=np.float32)
    images[:, 2:6], images[:, 0] = 0.5, 0
    labels = models.predict_logits(model, images).argmax(1)
    result = attacks.run(attack, model, images, labels)
    assert np.isfinite(result.images).all() and 0 <= result.images.min() <= result.images.max() <= 1
    assert np.isfinite(result.linf).all()


@pytest.mark.parametrize("attack", [
    attacks.CarliniWagnerL2(search_steps=4, steps=50, learning_rate=0.1), attacks.DeepFool()], ids=lambda a: a.name)
def test_gradients_that_are_no_numbers_do_not_stop_a_search_for_the_nearest(attack):
    model = odd(front=lambda pixels: keras.ops.sqrt((pixels[:, 1:] - pixels[:, :-1]) ** 2))
    images = np.random.default_rng(0).random((12, 8, 8, 1), dtype=np.float32)
    images[:, :3] = 0
    result = attacks.run(attack, model, images, models.predict_logits(model, images).argmax(1))
    assert result.found.mean() > 0.9


def test_square_searches_in_l2_too(trained_model, images, labels):
    few, many = (attacks.run(attacks.Square(eps=1, norm="l2", steps=steps), trained_model, images, labels,
                             keep_images=False).accuracy for steps in (1, 200))
    assert many < few - 0.15


def test_square_leaves_images_alone_that_are_wrong_already(trained_model, images, labels):
    wrong = (models.predict_logits(trained_model, images).argmax(1) + 1).astype(np.int32) % 10
    result = attacks.run(attacks.Square(eps=0.1, steps=5), trained_model, images, wrong)
    np.testing.assert_array_equal(result.images, images)


def test_square_needs_no_gradient(trained_model, images, labels):
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, trained_model(keras.ops.round(inputs * 16) / 16))      # the gradient is zero
    blind = attacks.run(attacks.read({"name": "fgsm", "eps": 0.15}), model, images, labels)
    square = attacks.run(attacks.read({"name": "square", "eps": 0.15, "steps": 200}), model, images, labels)
    clean = attacks.run(attacks.read("none"), model, images, labels)
    assert blind.accuracy == clean.accuracy
    assert square.accuracy < clean.accuracy - 0.3


def closest_boundary(model, images, labels, order):
    """Distance to the nearest boundary of a linear model, in L2 or L-inf."""
    kernel, bias = model.layers[-1].get_weights()
    logits = images.reshape(len(images), -1) @ kernel + bias
    result = []
    for row, label in zip(logits, labels, strict=True):
        rivals = [c for c in range(len(row)) if c != label]
        dual = 1 if order == np.inf else 2
        gaps = [(row[label] - row[c]) / np.linalg.norm(kernel[:, label] - kernel[:, c], dual) for c in rivals]
        result.append(max(0.0, min(gaps)))
    return np.array(result)


def near_grey(count=20):
    images = np.random.default_rng(0).uniform(0.45, 0.55, (count, 4, 4, 1)).astype(np.float32)
    model = linear_model()
    return model, images, model(images).numpy().argmax(1)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_deepfool_finds_the_nearest_boundary_of_a_linear_model(norm):
    model, images, labels = near_grey()
    result = attacks.run(attacks.read({"name": "deepfool", "norm": norm}), model, images, labels)
    exact = closest_boundary(model, images, labels, np.inf if norm == "linf" else 2)
    assert result.found.all()
    sizes = result.linf if norm == "linf" else result.l2
    np.testing.assert_allclose(sizes, 1.02 * exact, rtol=0.02, atol=2e-3)


def test_deepfool_does_not_depend_on_the_size_of_the_logits():
    model, images, labels = near_grey()
    pixels = keras.Input((4, 4, 1))
    faint = keras.Model(pixels, keras.layers.Rescaling(1e-4)(model(pixels)))
    sizes = [attacks.run(attacks.DeepFool(), each, images, labels).l2 for each in (model, faint)]
    np.testing.assert_allclose(*sizes, rtol=1e-3)


# --- Carlini & Wagner ---

def test_cw_finds_the_nearest_boundary_of_a_linear_model():
    model, images, labels = near_grey()
    attack = attacks.read({"name": "cw_l2", "steps": 400, "search_steps": 7, "learning_rate": 0.001})
    result = attacks.run(attack, model, images, labels)
    assert result.found.all()
    np.testing.assert_allclose(result.l2, closest_boundary(model, images, labels, 2), rtol=0.02, atol=2e-3)


CW = {"name": "cw_l2", "steps": 60, "search_steps": 4, "learning_rate": 0.1}


def test_cw_attacks_each_image_as_if_it_were_alone(trained_model, images, labels):
    attack = attacks.read(CW)
    together = attacks.run(attack, trained_model, images[:12], labels[:12])
    for size in (1, 3):
        alone = attacks.run(attack, trained_model, images[:size], labels[:size])
        np.testing.assert_allclose(alone.l2, together.l2[:size], rtol=1e-3)


def test_cw_confidence_is_a_margin_and_costs_distance(trained_model, images, labels):
    near = attacks.run(attacks.read(CW), trained_model, images, labels)
    sure = attacks.run(attacks.read({**CW, "confidence": 3.0}), trained_model, images, labels)
    assert near.found.mean() == 1 and sure.found.mean() > 0.95
    logits = trained_model(sure.images).numpy()
    own = np.take_along_axis(logits, labels[:, None], 1)[:, 0]
    np.put_along_axis(logits, labels[:, None], -np.inf, 1)
    assert ((logits.max(1) - own)[sure.found] >= 3.0 - 1e-4).all()
    assert sure.l2[sure.found].mean() > 1.2 * near.l2.mean()


def test_cw_failures_are_failures(trained_model, images, labels):
    attack = attacks.read({**CW, "steps": 1, "search_steps": 1})
    result = attacks.run(attack, trained_model, images, labels)
    clean = trained_model(images).numpy().argmax(1)
    np.testing.assert_array_equal(result.found, clean != labels)      # only what was wrong from the start
    np.testing.assert_array_equal(result.images, images)
    np.testing.assert_array_equal(result.predictions, clean)
    assert result.summary()["success"] == np.mean(clean != labels)


def test_cw_searches_for_the_smallest_constant(trained_model, images, labels):
    images, labels = first_few(images, labels)
    short, long = (attacks.run(attacks.read({**CW, "search_steps": count, "constant": 10}),
                               trained_model, images, labels) for count in (2, 7))
    assert long.l2.mean() < 0.95 * short.l2.mean()
    assert (long.l2 <= short.l2 + 1e-6).all()


# --- the papers' own versions ---

def pieces(model):
    """The model as the papers have it: from normalised values to logits."""
    return lambda z: model(z * 0.5 + 0.5, training=False)


@pytest.mark.parametrize("settings, size, clip", [
    ({"name": "paper_a_fgsm"}, 1.0, (-1, 1)),
    ({"name": "paper_a_fgsm", "eps": 0.5, "clip": None}, 0.5, (-9, 9)),
    ({"name": "paper_b_fgsm", "normalisation": GREY}, 0.03, (0, 1)),
    ({"name": "paper_b_pgd", "normalisation": GREY}, 2 / 255, (0, 1)),
], ids=str)
def test_published_one_step_attacks(settings, size, clip, trained_model, images, labels):
    ours = attacks.run(attacks.read(settings), trained_model, images, labels).images
    z = tf.constant(images * 2 - 1)
    with tf.GradientTape() as tape:
        tape.watch(z)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(labels, pieces(trained_model)(z))
    gradient = tape.gradient(loss, z)
    theirs = tf.clip_by_value(z + size * tf.sign(gradient), *clip)
    np.testing.assert_allclose(ours * 2 - 1, theirs, atol=1e-5)


def test_published_cw_is_the_notebooks(trained_model, images, labels):
    """Against the notebook's loop, line by line, with Keras's Adam (epsilon as in PyTorch)."""
    images, labels = first_few(images, labels)
    weak = keras.Sequential([trained_model, keras.layers.Rescaling(0.2)])      # some leads under 1
    attack = attacks.read({"name": "paper_b_cw", "normalisation": GREY, "steps": 25})
    result = attacks.run(attack, weak, images, labels)
    z, delta = images * 2 - 1, tf.Variable(tf.zeros_like(images))
    optimizer, mine = keras.optimizers.Adam(0.005, epsilon=1e-8), tf.one_hot(labels, 10)
    first_gradient = None
    for _ in range(25):
        with tf.GradientTape() as tape:
            outputs = pieces(weak)(tf.tanh(z + delta))
            real = tf.gather(outputs, labels, batch_dims=1)
            other = tf.reduce_max(outputs - mine, axis=1)
            loss = 0.01 * tf.reduce_sum(tf.maximum(real - other + 5, 0)) + tf.reduce_sum(delta**2)
        gradient = tape.gradient(loss, delta)
        first_gradient = gradient if first_gradient is None else first_gradient
        optimizer.apply([gradient], [delta])
    np.testing.assert_allclose(result.images * 2 - 1, tf.tanh(z + delta), atol=1e-3)
    stuck = np.all(first_gradient.numpy() == 0, (1, 2, 3))
    assert 0 < stuck.mean() < 1      # their loss has no gradient where the label leads by more than 1
    np.testing.assert_allclose(result.images[stuck] * 2 - 1, np.tanh(z[stuck]), atol=1e-6)


def test_paper_b_trains_with_the_model_in_training_mode(trained_model, images, labels):
    model = keras.models.clone_model(trained_model)
    model.set_weights(trained_model.get_weights())
    attack = attacks.read({"name": "paper_b_cw", "normalisation": GREY, "steps": 3})
    attack.perturb(model, images, labels)
    for old, new in zip(trained_model.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    attack.perturb(model, images, labels, training=True)
    assert any(not np.array_equal(old, new) for old, new in
               zip(trained_model.get_weights(), model.get_weights(), strict=True))


# --- worst case and refusals ---

def test_worst_case_counts_an_image_only_if_it_resists_everything(trained_model, images, labels):
    results = [attacks.run(attacks.read({"name": name, "eps": 0.06}), trained_model, images, labels)
               for name in ("fgsm", "noise", "pgd")]
    survived = attacks.worst_case(results)
    np.testing.assert_array_equal(survived, ~np.any([result.fooled for result in results], axis=0))
    other = attacks.run(attacks.read("none"), trained_model, images[:5], labels[:5])
    with pytest.raises(KitError, match="same images"):
        attacks.worst_case([results[0], other])
    with pytest.raises(KitError, match="no attack"):
        attacks.worst_case([])


@pytest.mark.parametrize("settings, message", [
    ("pgdd", "there is no attack 'pgdd'; did you mean 'pgd'"),
    ({"eps": 1}, "a mapping with 'name'"),
    (["pgd"], "a mapping with 'name'"),
    ({"name": ["pgd"]}, "no attack|unhashable"),
    ({"name": "pgd"}, "'eps' is missing"),
    ({"name": "pgd", "eps": -0.1}, "'eps': epsilon must be zero or more"),
    ({"name": "pgd", "eps": "8/0"}, "'eps': epsilon must be a number or a fraction"),
    ({"name": "pgd", "eps": float("nan")}, "'eps'"),
    ({"name": "pgd", "eps": 8}, "write 8/255"),
    ({"name": "pgd", "eps": 0.1, "step": "-1/255"}, "'step': epsilon must be zero or more"),
    ({"name": "pgd", "eps": 0.1, "epsilon": 1}, "unknown key 'epsilon'; did you mean 'eps'"),
    ({"name": "pgd", "eps": 0.1, "steps": 10_001}, "'steps'.*10000"),
    ({"name": "pgd", "eps": 0.1, "steps": 0}, "'steps'.*1"),
    ({"name": "pgd", "eps": 0.1, "norm": "l1"}, "'norm'"),
    ({"name": "pgd", "eps": 0.1, "restarts": 2, "random_start": False}, "restarts without"),
    ({"name": "pgd", "eps": 0.1, "keep": "last", "stop_early": True}, "stop_early needs 'keep: best'"),
    ({"name": "pgd", "eps": 0.1, "targeted": True, "labels": "predicted"}, "a targeted attack needs targets"),
    ({"name": "pgd", "eps": 0.1, "targeted": True, "loss": "dlr"}, "use 'loss: margin'"),
    ({"name": "apgd", "eps": 0.1, "targeted": True, "loss": "dlr"}, "use 'loss: margin'"),
    ({"name": "cw_l2", "search_steps": 99_999}, "'search_steps'"),
    ({"name": "cw_l2", "learning_rate": 0}, "'learning_rate'"),
    ({"name": "deepfool", "targeted": True}, "'targeted'"),
], ids=str)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(KitError, match=message):
        attacks.read(settings, "attacks.pgd")


def small(**changes):
    arguments = {"images": np.zeros((4, 8, 8, 1), np.float32), "labels": np.arange(4)}
    return arguments | changes


@pytest.mark.parametrize("arguments, message", [
    (small(images=np.zeros((4, 8, 8))), "N x H x W x C"),
    (small(images=np.zeros((0, 8, 8, 1))), "no pixel"),
    (small(images=np.full((4, 8, 8, 1), 2.0)), r"in \[0, 1\]"),
    (small(images=np.full((4, 8, 8, 1), -0.1)), r"in \[0, 1\]"),
    (small(images=np.full((4, 8, 8, 1), np.nan)), r"in \[0, 1\]"),
    (small(images=np.zeros((4, 8, 8, 1), np.uint8)), "divide by 255"),
    (small(images=np.zeros((4, 9, 8, 1), np.float32)), r"takes images of \(8, 8, 1\)"),
    (small(labels=np.arange(3)), r"shape \(4,\)"),
    (small(labels=np.eye(4)), r"shape \(4,\)"),
    (small(labels=np.full(4, 10)), "10 classes"),
    (small(labels=np.full(4, -1)), "10 classes"),
    (small(labels=np.full(4, 0.5)), "integers"),
    (small(labels=None), "labels are missing"),
    (small(labels=None, images=[]), "no images"),
    (small(labels=None, images=[np.zeros((4, 8, 8, 1))]), "pairs"),
    (small(batch_size=0), "batch_size"),
    (small(seed=1.5), "seed must be a whole number"),
    (small(images=[np.zeros((8, 8, 1)), np.zeros((4, 4, 1))]), "not all of one shape"),
    (small(images="a.png"), "an array, N x H x W x C, not str"),
    (small(input_range=(1, 0)), "value of black"),
    (small(labels=None, attack={"name": "fgsm", "eps": 0.1, "targeted": True}), "targeted attack needs"),
])
def test_bad_data_are_refused(arguments, message, trained_model):
    attack = attacks.read(arguments.pop("attack", {"name": "fgsm", "eps": 0.1}))
    with pytest.raises(KitError, match=message):
        attacks.run(attack, trained_model, arguments.pop("images"), arguments.pop("labels"), **arguments)


def test_targets_and_labels_must_be_given_to_perturb_too(trained_model, images):
    with pytest.raises(KitError, match="needs targets"):
        attacks.read({"name": "fgsm", "eps": 0.1, "targeted": True}).perturb(trained_model, images)
    with pytest.raises(KitError, match="needs true labels"):
        attacks.read({"name": "fgsm", "eps": 0.1}).perturb(trained_model, images)
    with pytest.raises(KitError, match="N x H x W x C"):
        attacks.read({"name": "fgsm", "eps": 0.1}).perturb(trained_model, images[0], [1])


def ending(*last):
    return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10), *last])


def quantised(mode):
    model = ending(keras.layers.Dense(10, activation="softmax"))
    model.quantize(mode)
    return model


def with_softmax_op():
    inputs = keras.Input((8, 8, 1))
    return keras.Model(inputs, keras.ops.softmax(keras.layers.Dense(10)(keras.layers.Flatten()(inputs))))


def voting():
    inputs = keras.Input((8, 8, 1))
    heads = [keras.layers.Dense(10, activation="softmax")(keras.layers.Flatten()(inputs)) for _ in range(2)]
    return keras.Model(inputs, (heads[0] + heads[1]) / 2)


@pytest.mark.parametrize("model", [
    lambda: ending(keras.layers.Softmax()), lambda: ending(keras.layers.Dense(10, activation="sigmoid")),
    lambda: ending(ending_in_softmax()), with_softmax_op, voting, lambda: ending(keras.layers.Softmax(),
                                                                                keras.layers.Reshape((10,))),
    lambda: ending(keras.layers.Softmax(), keras.layers.Softmax()), lambda: quantised("int8"),
])
def test_probabilities_are_read_as_the_logits_behind_them(model):
    images = np.random.default_rng(0).random((8, 8, 8, 1)).astype(np.float32)
    model, labels = model(), np.arange(8)
    result = attacks.run(attacks.read({"name": "fgsm", "eps": 0.1}), model, images, labels)
    given = np.asarray(model(result.images, training=False)).argmax(1)
    np.testing.assert_array_equal(result.predictions, given)
    assert np.abs(models.predict_logits(model, images)).max() > 0
    assert (models.predict_logits(model, images).argmax(1) == np.asarray(model(images)).argmax(1)).all()


@pytest.mark.parametrize("model, message", [
    (lambda: ending(keras.layers.Reshape((10, 1))), "one row of numbers"),
    (lambda: ending(keras.layers.Rescaling(np.nan)), "NaN"),
    (lambda: spoken(keras.layers.Softmax()), "sum to one.*logits"),
    (lambda: "mine.keras", "a Keras model is needed, not str"),
    (lambda: of_whole_numbers(), "takes uint8"),
])
def test_models_without_logits_are_refused(model, message):
    with pytest.raises(KitError, match=message):
        attacks.run(attacks.read({"name": "fgsm", "eps": 0.1}), model(), **small())


def of_whole_numbers():
    pixels = keras.Input((8, 8, 1), dtype="uint8")
    return keras.Model(pixels, ending()(keras.ops.cast(pixels, "float32") / 255))


@pytest.mark.parametrize("classes", [2, 5])
def test_a_range_in_which_the_model_is_clearly_better_is_named(classes):
    """Though the images lie class by class, and half of two classes are right by chance."""
    labels, centres = np.repeat(np.arange(classes), 60), (np.arange(classes) + 0.5) / classes
    images = np.broadcast_to(centres[labels, None, None, None], (len(labels), 8, 8, 1)).astype(np.float32)
    mean = keras.layers.GlobalAveragePooling2D()
    model = keras.Sequential([keras.Input((8, 8, 1)), mean, keras.layers.Dense(classes)])
    model.set_weights([2 * 255 * centres[None], -(255 * centres) ** 2])      # the nearest centre
    with pytest.raises(KitError, match=r"with input_range=\(0, 255\): say which"):
        attacks.run(attacks.Clean(), model, images, labels)
    assert attacks.run(attacks.Clean(), model, images, labels, input_range=(0, 255)).accuracy == 1


def test_a_network_that_was_never_trained_is_not_doubted():
    """One that answers by brightness is better in some range by chance alone."""
    images, labels = (np.arange(64) % 2 * np.ones((4, 4, 3, 1))).T.reshape(64, 4, 4, 3), np.arange(64) % 2
    for seed in range(10):
        keras.utils.set_random_seed(seed)
        model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])
        attacks.run(attacks.Clean(), model, 0.2 + 0.5 * images.astype(np.float32), labels)


def spoken(last):
    """A model of code, whose steps cannot be seen."""
    inner = ending(last)

    class Spoken(keras.Model):
        def call(self, images, training=False):
            return inner(images)

    return Spoken()


def ending_in_softmax():
    return keras.Sequential([keras.Input((10,)), keras.layers.Dense(10), keras.layers.Activation("softmax")])


# A linear model, whose worst case within the ball has a formula

@pytest.fixture(scope="module")
def linear(digits):
    images, labels = digits
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
    model.compile(keras.optimizers.Adam(1e-2), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(images[:1200], labels[:1200], epochs=20, verbose=0)
    return model


def robust(linear, images, labels, eps):
    """Which images no picture in the ball gets wrong: the lead of each other class, at its own worst picture."""
    weights, bias = (each.astype(np.float64) for each in linear.layers[-1].get_weights())
    x, leads = images.reshape(len(images), -1).astype(np.float64), []
    for other in range(10):
        towards = weights.T[other] - weights.T[labels]
        worst = np.where(towards > 0, np.minimum(x + eps, 1), np.maximum(x - eps, 0))
        lead = (worst * towards).sum(1) + bias[other] - bias[labels]
        leads.append(np.where(labels == other, -np.inf, lead))
    return np.max(leads, axis=0) < 0


@pytest.mark.parametrize("attack, missed", [
    ({"name": "fgsm"}, 20), ({"name": "pgd", "steps": 40}, 6), ({"name": "pgd", "steps": 40, "loss": "margin"}, 6),
    ({"name": "apgd", "steps": 40}, 6), ({"name": "apgd", "steps": 40, "loss": "dlr"}, 6),
    ({"name": "square", "steps": 300}, 20), ({"name": "noise", "kind": "sign"}, 200)])
def test_no_attack_finds_more_than_there_is_and_good_ones_hardly_less(linear, images, labels, attack, missed):
    eps = 0.1
    truth = robust(linear, images, labels, eps)
    assert 0.2 < truth.mean() < 0.8
    result = attacks.run(attacks.read({**attack, "eps": eps}), linear, images, labels, seed=0, progress=False)
    assert not (truth & result.fooled).any()
    assert (~truth & ~result.fooled).sum() <= missed


def spread_of_each(pixels):
    """NaN for a picture of one colour alone."""
    return pixels / keras.ops.std(pixels, (1, 2, 3), keepdims=True)


@pytest.mark.parametrize("attack", [attacks.Clean(), attacks.FGSM(eps=0.0), attacks.PGD(eps=0.0, step=0.0, steps=2)])
def test_answers_that_are_no_numbers_are_refused_wherever_they_come(attack):
    images = np.random.default_rng(0).uniform(size=(40, 8, 8, 1)).astype(np.float32)
    images[30] = 0.25
    pixels = keras.Input((8, 8, 1))
    model = keras.Model(pixels, keras.layers.Dense(3)(keras.layers.Flatten()(spread_of_each(pixels))))
    with pytest.raises(KitError, match="for image number 30 .* NaN"):
        attacks.run(attack, model, images, np.zeros(40, int))
    with pytest.raises(KitError, match="for 1 of the 40 images .the first is number 30. .* NaN"):
        models.predict_logits(model, images)


def test_perturb_leaves_alone_what_is_fooled_at_the_start(trained_model, images, labels):
    wrong = ((models.predict_logits(trained_model, images).argmax(1) + 1) % 10).astype(np.int32)
    attack = attacks.PGD(eps=8 / 255, steps=3, stop_early=True)
    np.testing.assert_array_equal(attack.perturb(trained_model, images, wrong, seed=0), images)
