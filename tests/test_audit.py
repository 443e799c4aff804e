"""The audit: planted faults are each caught by the right check, a sound defence passes, and any model can be asked."""
import dataclasses
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from kitlib import attacks, audit, data, models, plots, training
from kitlib.audit import checks
from kitlib.audit import subject as subjects
from kitlib.base.files import read_json, write_json
from kitlib.base.places import REPOSITORY
from kitlib.base.settings import KitError
from kitlib.experiments import audits, report, results, runs

EPS = 0.25
TINY = audit.Effort(images=200, steps=30, apgd_steps=15, queries=100, targets=1, cw_images=12, cw_searches=5,
                    cw_steps=60)
FEW = TINY.model_copy(update={"steps": 6, "apgd_steps": 6, "queries": 30, "cw_images": 4, "cw_steps": 10})
PGD = {"name": "pgd", "eps": EPS, "step": 0.1, "steps": 4}


# --- models, sound and not

@keras.saving.register_keras_serializable("tests")
class Quantise(layers.Layer):
    """Rounds pixels to a few levels: no gradient passes."""

    def call(self, pixels):
        return tf.round(pixels * 6) / 6


@keras.saving.register_keras_serializable("tests")
class DropoutLeftOn(layers.Layer):
    def call(self, x):
        return tf.nn.dropout(x, 0.5)


@keras.saving.register_keras_serializable("tests")
class Noise(layers.Layer):
    def call(self, pixels):
        return pixels + tf.random.normal(tf.shape(pixels), stddev=0.02)


@keras.saving.register_keras_serializable("tests")
class RandomResize(layers.Layer):
    """Shrinks the image to a random size and pads it at a random place (Xie et al. 2018)."""

    def call(self, pixels):
        side = tf.random.uniform([], 6, 9, tf.int32)
        top = tf.random.uniform([], 0, 9 - side, tf.int32)
        small = tf.image.resize(pixels, (side, side))
        return tf.ensure_shape(tf.image.pad_to_bounding_box(small, top, 8 - side - top, 8, 8), (None, 8, 8, 1))


@keras.saving.register_keras_serializable("tests")
class Shares(layers.Layer):
    """A softmax that does not look like one."""

    def call(self, logits):
        return tf.nn.softmax(logits)


class ClipsWrongly(attacks.PGD):
    """Forgets the box, and adds a little to eps."""

    def project(self, candidate, images):
        return tf.clip_by_value(candidate, images - 1.5 * self.eps, images + 1.5 * self.eps)


class Dims(attacks.PGD):
    """A clamp to the darker half, which does harm by itself (as paper B's does)."""

    def project(self, candidate, images):
        return tf.clip_by_value(super().project(candidate, images), 0.0, 0.3)


@pytest.fixture(scope="module")
def digits_set():
    split = {"kind": "random", "validation": 100, "test": 200}
    return data.load(data.DataSettings(name="digits", size=8, channels=1, split=split), seed=0)


def network():
    keras.utils.set_random_seed(0)
    pixels = keras.Input((8, 8, 1), name="pixels")
    x = models.Normalisation().layer()(pixels)
    x = layers.Conv2D(16, 3, activation="relu")(x)
    x = layers.Conv2D(24, 3, activation="relu")(x)
    x = layers.Dense(64, activation="relu")(layers.Flatten()(x))
    return keras.Model(pixels, layers.Dense(10, name="logits")(x))


def trained(digits_set, folder, **settings):
    model = network()
    settings = {"epochs": 8, "batch_size": 64, "learning_rate": 3e-3, "precision": "float32", **settings}
    read = training.TrainingSettings.read(settings, "a test")
    return model, training.train(model, digits_set, read, folder, progress=False)


@pytest.fixture(scope="module")
def plain(digits_set, tmp_path_factory):
    return trained(digits_set, tmp_path_factory.mktemp("plain"))[0]


@pytest.fixture(scope="module")
def robust(digits_set, tmp_path_factory):
    """(model, history), trained with PGD (Madry et al. 2018)."""
    return trained(digits_set, tmp_path_factory.mktemp("robust"), method="pgd", eps=EPS, attacks=[PGD], epochs=14,
                   robust_check={"images": 64, "attack": PGD})


def leaking():
    """(model, images, labels): a model that reads the label which FGSM writes into it, and what it is asked.

    The logit of class y falls a little with pixel y, so that a step up the loss of y brightens this pixel and darkens
    those of other classes; and it rises much where pixel y is bright. Other pixels hold a weak picture of the class.
    """
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 10
    patterns = rng.permuted(np.tile([-1.0, 1.0], (10, 27)), axis=1)
    images = np.full((200, 64), 0.5)
    images[:, 10:] += 0.08 * patterns[labels] + rng.normal(0, 0.25, (200, 54))
    seen = layers.Dense(10, use_bias=False)
    pixels = keras.Input((8, 8, 1))
    flat = layers.Flatten()(pixels)
    marks = flat[:, :10]
    model = keras.Model(pixels, seen(flat) - 0.1 * marks + 200.0 * keras.ops.relu(marks - 0.7))
    seen.set_weights([np.concatenate([np.zeros((10, 10)), patterns.T / 4]).astype(np.float32)])
    return model, np.clip(images, 0, 1).reshape(200, 8, 8, 1).astype(np.float32), labels


def around(model, before=None, after=None):
    """The model with a layer in front of it or behind it."""
    pixels = keras.Input(model.input_shape[1:], name="pixels")
    x = model(before(pixels) if before else pixels)
    return keras.Model(pixels, after(x) if after else x)


def measured(model, digits_set, count=200, effort=TINY, **subject):
    images, labels = digits_set.part("test", count)
    target = audit.prepare(model, images, input_range=(0, 1), output=subject.pop("output", None))
    known = {"train_images": digits_set.pixels("train"), "train_labels": digits_set.labels_of("train")}
    subject = {"eps": EPS} | known | subject
    return audit.Measurements(audit.Subject(target, images, labels, digits_set.class_names, **subject), effort)


def measuring(model, images, labels, names="0123456789", effort=FEW, input_range=(0, 1), **subject):
    """Measurements of any model, at EPS unless another is given."""
    target = audit.prepare(model, images, input_range=input_range)
    return audit.Measurements(audit.Subject(target, images, labels, tuple(names), **{"eps": EPS} | subject), effort)


def outcome(name, measurements):
    check = next(each for each in audit.CHECKS if each.name == name)
    return check.function(measurements)


# --- the planted faults

def test_label_leaking():
    """Through the claim's own attack, however small the eps that is judged; far beyond that it is information."""
    model, images, labels = leaking()
    subject = audit.Subject(audit.prepare(model, images, input_range=(0, 1), output="logits"), images, labels,
                            tuple("0123456789"), eps=1 / 255)
    alone = outcome("label_leak", audit.Measurements(subject, FEW))
    assert alone.outcome == "pass" and "for information" in alone.measured
    assert alone.values["127.5/255"]["true"] > alone.values["127.5/255"]["predicted"] + 0.1
    m = audit.Measurements(dataclasses.replace(subject, own_attacks={"FGSM": attacks.FGSM(eps=0.5)}), FEW)
    found = outcome("label_leak", m)
    assert found.outcome == "flag" and found.casts_doubt and "(the claim's own)" in found.measured
    assert 0.5 < m.clean.mean() < 0.95 and m.own_named["FGSM"].mean() > 0.9 and m.named_clean.mean() < 0.1
    judged_there = outcome("label_leak", audit.Measurements(dataclasses.replace(subject, eps=0.5), FEW))
    assert judged_there.outcome == "flag"


def test_logits_scaled_so_that_gradients_vanish(robust, digits_set):
    scaled = measured(around(robust[0], after=layers.Rescaling(1000.0)), digits_set)
    assert outcome("has_gradient", scaled).outcome == "flag"
    assert outcome("beats_gradient_free", scaled).outcome == "flag"
    assert outcome("beats_gradient_free", measured(robust[0], digits_set)).outcome == "pass"


@pytest.mark.parametrize("quantise, name", [
    (Quantise(name="quantise"), "quantise"),
    (lambda pixels: keras.ops.round(pixels * 6) / 6, "round"),
    (lambda pixels: keras.ops.cast(keras.ops.cast(pixels * 6 + 0.5, "uint8"), "float32") / 6, "cast")])
def test_quantised_pixels(quantise, name, plain, digits_set):
    """By a layer, or by functions of keras.ops in the graph."""
    quantised = measured(around(plain, before=quantise), digits_set)
    found = outcome("adaptive", quantised)
    assert found.outcome == "flag" and outcome("has_gradient", quantised).outcome == "flag"
    assert len(quantised.blocked[1]) == 1 and quantised.blocked[1][0].startswith(name)
    assert quantised.bpda.accuracy.value < quantised.pgd.accuracy.value - 0.2      # BPDA goes through it


def test_a_weak_path_around_the_rounding_does_not_hide_it(plain, digits_set):
    """It gives every image a gradient, which leads nowhere."""
    pixels = keras.Input(plain.input_shape[1:])
    weak = layers.Dense(10, kernel_initializer="glorot_uniform")(layers.Flatten()(pixels)) * 1e-3
    bypassed = measured(keras.Model(pixels, plain(Quantise()(pixels)) + weak), digits_set)
    assert outcome("has_gradient", bypassed).outcome == "pass"
    assert bypassed.bpda.accuracy.value < bypassed.pgd.accuracy.value - 0.2


def test_a_gradient_that_is_stopped_is_let_through(plain, digits_set):
    stopped = measured(around(plain, before=keras.ops.stop_gradient), digits_set, count=60)
    assert outcome("has_gradient", stopped).outcome == "flag" and outcome("adaptive", stopped).outcome == "flag"
    assert stopped.bpda.accuracy.value == measured(plain, digits_set, count=60).pgd.accuracy.value


def test_steps_that_take_whole_numbers_alone_have_no_stand_in(digits_set):
    """Bits shifted out: told by the missing gradient, not by BPDA."""
    def shifted(pixels):
        levels = keras.ops.right_shift(keras.ops.cast(pixels * 255, "int32"), 5)
        return keras.ops.cast(levels, "float32") / 7

    found = measured(around(network(), before=shifted), digits_set, count=20, effort=FEW)
    assert found.blocked is None and outcome("has_gradient", found).outcome == "flag"


def test_an_answer_that_depends_on_the_batch_is_seen(digits_set, plain):
    @keras.saving.register_keras_serializable("tests")
    class OfTheBatch(layers.Layer):
        def call(self, logits):
            return logits - keras.ops.mean(logits, axis=0, keepdims=True)

    found = outcome("deterministic", measured(around(plain, after=OfTheBatch()), digits_set))
    assert found.outcome == "flag" and found.casts_doubt and "one by one" in found.measured
    assert outcome("deterministic", measured(plain, digits_set)).outcome == "pass"


def test_randomness_behind_small_logits_is_seen(digits_set):
    small = around(around(network(), after=DropoutLeftOn()), after=layers.Rescaling(1e-6))
    assert outcome("deterministic", measured(small, digits_set)).outcome == "flag"


@pytest.mark.parametrize("layer", [RandomResize, DropoutLeftOn])
def test_randomness_at_test_time(plain, digits_set, layer):
    effort = TINY.model_copy(update={"steps": 8})
    found = measured(around(plain, before=layer()), digits_set, count=60, effort=effort)
    assert outcome("deterministic", found).outcome == "flag"
    assert found.random and found.eot.accuracy.value < 0.5                          # EOT still breaks it


class Jitters(layers.Layer):
    """Adds noise to the logits that turns one clear answer in twenty."""

    def call(self, logits):
        return logits + tf.random.normal(tf.shape(logits), stddev=10.0)


def test_chance_is_not_taken_for_an_attack():
    """The kind of noise that turns an answer now and then would turn most images once in a dozen attacks."""
    levels = np.float32([0.2, 0.5, 0.8])
    pixels = keras.Input((8, 8, 1))
    nearest = layers.Dense(3)
    model = keras.Model(pixels, Jitters()(nearest(layers.GlobalAveragePooling2D()(pixels))))
    nearest.set_weights([400 * levels[None], -200 * levels**2])
    labels = np.arange(90) % 3
    images = np.tile(levels[labels][:, None, None, None], (1, 8, 8, 1))
    m = measuring(model, images, labels, "abc", eps=1 / 255, train_images=images, train_labels=labels)
    once = np.mean([models.predict_logits(m.model, images).argmax(1) == labels for _ in range(10)])
    assert m.random and 0.7 < once < 0.97
    assert m.clean.mean() == 1 and m.survivors.mean() > 0.97
    assert outcome("catastrophic_overfitting", m).outcome == "cannot tell"
    assert "the most frequent answer of 16 passes" in outcome("deterministic", m).measured


def test_a_random_model_that_returns_no_numbers_is_refused():
    """For images beyond the few that are looked at first."""
    images = np.concatenate([np.full((40, 8, 8, 1), 0.5, np.float32), np.ones((2, 8, 8, 1), np.float32)])
    pixels = keras.Input((8, 8, 1))
    model = keras.Model(pixels, Jitters()(network()(pixels)) + keras.ops.log(1 - pixels[:, 0, 0]) * 0)
    m = measuring(model, images, np.arange(42) % 10)
    assert m.random
    with pytest.raises(KitError, match="for 2 of the 42 images .* NaN"):
        len(m.clean)


def test_randomness_and_rounding_are_attacked_together(plain, digits_set):
    noisy = keras.Sequential([keras.Input((8, 8, 1)), Noise(), Quantise()])
    found = measured(around(plain, before=noisy), digits_set, count=60)
    assert found.random and found.blocked and found.eot.accuracy.value < found.pgd.accuracy.value - 0.2


def test_cw_gets_away_from_black_and_white():
    """In tanh space such pixels are far from all others."""
    images = (some_images(40) < 0.5).astype(np.float32)
    model = network()
    labels = models.predict_logits(model, images).argmax(1)
    m = measuring(model, images, labels, effort=TINY.model_copy(update={"cw_steps": 100}))
    assert m.carlini_wagner.found.all()


def test_keras_dropout_left_on_is_seen_in_plain_calls(plain, digits_set):
    pixels = keras.Input((8, 8, 1))
    model = keras.Model(pixels, plain(layers.Dropout(0.5)(pixels, training=True)))
    found = outcome("deterministic", measured(model, digits_set))
    assert found.outcome == "flag" and not found.casts_doubt
    assert found.values["inference"] < 1e-4 < found.values["plain"]


@pytest.mark.parametrize(("softmax", "scale", "casts_doubt"), [
    (Shares, 1000.0, True), (Shares, 0.3, False), (layers.Softmax, 1000.0, False)])
def test_probabilities_instead_of_logits(plain, digits_set, softmax, scale, casts_doubt):
    """They cast doubt on the audit only where most are rounded to 1 and the logits are not to be had."""
    scaled = around(plain, after=layers.Rescaling(scale))
    claimed = measured(around(scaled, after=softmax()), digits_set, output="logits")
    found = outcome("logits", claimed)
    assert found.outcome == "flag" and found.casts_doubt == casts_doubt
    assert (claimed.clean == measured(plain, digits_set).clean).all()
    assert outcome("logits", measured(plain, digits_set)).outcome == "pass"


def test_an_attack_that_clips_wrongly():
    own = {"mine": ClipsWrongly(eps=EPS, steps=5), "dims": Dims(eps=EPS, steps=5)}
    model, images = softmax_net(scale=1.0), some_images(40)
    found = measuring(model, images, np.asarray(model(images)).argmax(1), own_attacks=own)
    threat = outcome("threat_model", found)
    assert threat.outcome == "flag" and set(threat.values["outside"]) == {"mine", "dims"} and not threat.casts_doubt
    control = outcome("identity_control", found)
    assert control.outcome == "flag" and "dims" in control.measured and "mine" not in control.measured
    same_name = dataclasses.replace(found.subject, own_attacks={"PGD": own["dims"]})
    control = outcome("identity_control", audit.Measurements(same_name, FEW))
    assert control.outcome == "flag" and not control.casts_doubt
    assert {"PGD", "PGD (the claim's own)"} <= set(control.values)
    fair = dataclasses.replace(found.subject, own_attacks={"fair": attacks.PGD(eps=EPS, steps=5)})
    assert outcome("identity_control", audit.Measurements(fair, FEW)).outcome == "pass"


@pytest.mark.parametrize("change", [0, 1])
def test_a_test_set_that_overlaps_training(plain, digits_set, change):
    """Exact copies, and copies with one level more of grey in a pixel."""
    copies = digits_set.pixels("test")[:30].copy()
    copies[:, 4, 4] = np.clip(copies[:, 4, 4] + change / 16, 0, 1)
    seen = np.concatenate([digits_set.pixels("train"), copies])
    labels = np.concatenate([digits_set.labels_of("train"), digits_set.labels_of("test")[:30]])
    found = outcome("new_images", measured(plain, digits_set, train_images=seen, train_labels=labels))
    assert found.outcome == "flag", found.measured


@pytest.mark.parametrize("share", [0, 0.1, 0.4, 0.6, 1])
def test_noisy_copies_are_seen_however_many_they_are(digits_set, share):
    images, labels = digits_set.part("test", 200)
    noisy = images[:int(share * 200)] + np.random.default_rng(1).normal(0, 8 / 255, images[:int(share * 200)].shape)
    seen = np.concatenate([digits_set.pixels("train"), np.float32(np.clip(noisy, 0, 1))])
    m = with_clean_model(images, labels, train_images=seen)
    found = outcome("new_images", m)
    assert found.outcome == ("flag" if share else "pass"), found.measured


def test_the_usual_distance_is_not_that_of_twins_within_training(digits_set):
    """As in slices of CT: each training image has a neighbour like it, and yet the test images' copies are seen."""
    images, labels = digits_set.part("test", 200)
    train, draw = digits_set.pixels("train"), np.random.default_rng(1)
    twins = np.clip(np.repeat(train, 2, 0) + draw.normal(0, 4 / 255, (2 * len(train), *train.shape[1:])), 0, 1)
    seen = np.concatenate([twins, np.clip(images[:30] + draw.normal(0, 8 / 255, images[:30].shape), 0, 1)])
    for known, expected in ((seen, "flag"), (twins, "pass")):
        assert outcome("new_images", with_clean_model(images, labels, train_images=known)).outcome == expected


def with_clean_model(images, labels, effort=FEW, **subject):
    """Measurements of an untrained model on digits, for checks that do not look at it."""
    return measuring(network(), images, labels, effort=effort, **subject)


def test_a_comparison_with_a_model_that_learnt_nothing_tells_nothing():
    images = some_images(60)
    m = with_clean_model(images, np.arange(60) % 10, undefended=network())
    assert outcome("beats_transfer", m).outcome == outcome("breaks_undefended", m).outcome == "cannot tell"


def test_differences_are_judged_image_by_image():
    one, other = np.repeat([1, 0, 1], [300, 288, 412]), np.repeat([0, 1, 1], [300, 288, 412])
    assert not checks.more_right(one, other, 0.005)                 # 12 of 1,000 net, by chance
    assert checks.more_right(np.repeat([1, 0], [40, 960]), np.zeros(1000), 0.005)
    assert not checks.more_right(np.ones(10), np.ones(10), 0.0)


def test_a_random_model_has_no_control_with_eps_0():
    images = some_images(30)
    m = measuring(around(network(), after=DropoutLeftOn()), images, np.arange(30) % 10)
    assert outcome("identity_control", m).outcome == "cannot tell"


def test_a_targeted_attack_cannot_be_the_claims_own():
    with pytest.raises(KitError, match="'mine' is targeted"):
        with_clean_model(some_images(4), np.arange(4), own_attacks={"mine": attacks.PGD(eps=EPS, targeted=True)})


@pytest.mark.parametrize(("shape", "batch"), [((32, 32, 3), 128), ((64, 64, 3), 128), ((224, 224, 3), 10),
                                              ((1024, 1024, 3), 8)])
def test_large_images_go_in_small_batches(shape, batch):
    assert subjects.batch_for(shape) == batch


# --- which attack goes on with what

def test_carried_over_examples_are_made_on_the_undefended_model(plain, digits_set):
    other = keras.models.clone_model(plain)
    other.set_weights([-weight for weight in plain.get_weights()])
    m = measured(plain, digits_set, count=30, effort=FEW, undefended=other)
    attack = m.suite["PGD"].model_copy(update={"stop_early": False})
    made = attacks.run(attack, other, m.images, m.labels, batch_size=m.batch, seed=m.seed).images
    np.testing.assert_array_equal(m.transferred.right, models.predict_logits(plain, made).argmax(1) == m.labels)
    assert m.transferred.right.mean() > m.pgd.right.mean()


def test_targets_are_the_likeliest_wrong_classes(plain, digits_set, monkeypatch):
    m, asked = measured(plain, digits_set, count=60, effort=FEW.model_copy(update={"targets": 2}), eps=0.02), []
    among = m.attacked_among
    monkeypatch.setattr(m, "attacked_among", lambda which, attack, targets=None: (
        asked.append(targets), among(which, attack, targets))[1])
    assert m.targeted is not None
    wrong = np.where(np.eye(10, dtype=bool)[m.labels], -np.inf, m.clean_logits)
    np.testing.assert_array_equal(asked, np.argsort(-wrong, axis=1)[:, :2].T)


def test_a_run_puts_its_own_claim_to_the_test(finished_run, tmp_path):
    run = runs.Run(finished_run.experiment, finished_run.profile, finished_run.seed,
                   shutil.copytree(finished_run.folder, tmp_path / "run"))
    history = {"robust_accuracy": [0.1, 0.6, 0.3], "kept": [False, True, False]}
    run.write_record("defended", {"history": history, "precision": "float32", "seconds": 1.0})
    content = read_json(run.path("results.json"))
    content["models"]["baseline"]["combined"]["accuracy"] = 0.123
    write_json(run.path("results.json"), content)
    subject, _ = audits.of_run(run, "defended", images=20)
    dataset = run.dataset()
    assert subject.claim == results.of_run(run).models["defended"].combined.accuracy != 0.123
    assert (subject.kept_epoch, subject.robust_history) == (1, (0.1, 0.6, 0.3))
    assert subject.own_attacks == run.experiment.attacks.as_published
    np.testing.assert_array_equal(subject.train_images, dataset.images[dataset.split["train"]])
    np.testing.assert_array_equal(subject.images, dataset.part("test", 20)[0])
    assert all(map(np.array_equal, subject.undefended.get_weights(), run.model("baseline").get_weights()))


# --- no false alarm

@pytest.fixture(scope="module")
def sound(robust, plain, digits_set):
    history = robust[1]
    found = measured(robust[0], digits_set, undefended=plain, robust_history=tuple(history["robust_accuracy"]),
                     kept_epoch=len(history["kept"]) - 1)
    return audit.run(found, model="robust", data="digits")


def test_a_pgd_trained_model_passes_every_check(sound):
    outcomes = {each.name: (each.outcome, each.measured) for each in sound.record.checks}
    assert len(outcomes) == 19 and {name: found for name, found in outcomes.items() if found[0] != "pass"} == {}
    assert sound.verdict.kind == "trustworthy" and sound.record.worst_case.accuracy > 0.4


@pytest.mark.slow
@pytest.mark.parametrize("method", ["pgd", "trades", "fgsm_rs", "free"])
def test_no_false_alarm_in_full_effort(method, plain, digits_set, tmp_path):
    """Soundly trained networks, judged at the epsilon that they were trained for."""
    eps = 0.1
    free = {"epochs": 4, "replays": 4}
    model, _ = trained(digits_set, tmp_path, method=method, eps=eps, **free if method == "free" else {"epochs": 14})
    m = measured(model, digits_set, effort=audit.FULL.model_copy(update={"images": 200}), eps=eps, undefended=plain)
    found = audit.run(m, model=method, data="digits")
    assert found.flagged() == [] and found.verdict.kind == "trustworthy", found.verdict
    assert found.record.worst_case.accuracy > 0.3


def test_its_record_says_what_was_measured(sound, tmp_path):
    sound.write(tmp_path)
    record = audit.read(tmp_path / "audit.json")
    assert record == sound.record
    worst = min(each.accuracy for each in record.attacks.values())
    assert record.worst_case.accuracy <= worst <= record.clean.accuracy
    assert all(each.linf <= EPS + 1e-6 for each in record.attacks.values())
    assert {"tensorflow", "keras"} <= set(record.environment["versions"])
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == set(audit.PICTURES)


def test_dear_attacks_go_on_with_what_pgd_left(sound):
    m = sound.measurements
    left = m.pgd.right
    assert 0 < left.sum() < len(left)
    for name in ("PGD, then Square", "PGD, then APGD targeted"):
        found = m.ensemble[name]
        assert not (found.right & ~left).any() and left[found.turned].all(), name
        assert sound.record.attacks[name].accuracy == pytest.approx(found.right.mean())
    assert (m.square_alone[left] == m.square.right[left]).all()     # on the others it tries for itself
    assert m.square_alone[~left].any()


def test_where_pgd_leaves_nothing_the_dear_attacks_are_left_out(plain, digits_set):
    m = measured(plain, digits_set, eps=0.5, effort=FEW)
    assert not m.pgd.right.any() and m.square is None and m.targeted is None
    assert not any("then" in name for name in m.ensemble) and not m.survivors.any()
    assert outcome("beats_gradient_free", m).outcome == "pass"


def test_an_undefended_model_is_not_robust_and_raises_no_alarm(plain, digits_set):
    found = audit.run(measured(plain, digits_set, eps=0.25, undefended=None), model="plain", data="digits")
    assert found.verdict.kind == "not robust" and found.flagged() == []


# --- any model, any classes

@pytest.mark.parametrize(("classes", "channels"), [(2, 3), (1000, 1)])
def test_any_number_of_classes_grey_or_colour(classes, channels):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((8, 8, channels)), layers.Rescaling(2.0, -1.0), layers.Flatten(),
                              layers.Dense(classes)])
    images = np.random.default_rng(0).random((40, 8, 8, channels)).astype(np.float32)
    labels = models.predict_logits(model, images).argmax(1)         # so that it is right everywhere
    m = measuring(model, images, labels, map(str, range(classes)), input_range=None, eps=0.1)
    found = audit.run(m, model="linear", data="noise")
    assert len(found.record.checks) == 19 and found.record.clean.accuracy == 1
    assert found.check("new_images").outcome == "cannot tell"
    assert any("DLR" in name for name in found.measurements.suite) == (classes > 2)


def test_three_classes_get_the_dlr_loss():
    model = softmax_net(classes=3, scale=1.0)
    images = some_images()
    labels = np.asarray(model(images)).argmax(1)
    m = measuring(model, images, labels, "abc", eps=0.3)
    assert m.suite["APGD DLR"].loss == "dlr"


def softmax_net(classes=10, shape=(8, 8, 1), scale=1 / 255):
    keras.utils.set_random_seed(0)
    return sequential(layers.Rescaling(scale), layers.Flatten(), layers.Dense(classes, "softmax"), shape=shape)


def sequential(*inner, shape=(8, 8, 1)):
    return keras.Sequential([keras.Input(shape), *inner])


def some_images(count=16, shape=(8, 8, 1)):
    return np.random.default_rng(0).random((count, *shape)).astype(np.float32)


def test_range_and_softmax_are_found_out():
    model, images = softmax_net(), some_images()
    target = audit.prepare(model, images)
    assert "0 to 255" in target.takes and "softmax, was taken off" in target.returns
    given = audit.prepare(model, images, input_range=(0, 1))       # which counts more than what the layers tell
    for asked, values in ((target, 255 * images), (given, images)):
        logits = models.predict_logits(asked.model, images)
        np.testing.assert_allclose(keras.ops.softmax(logits), model(values), atol=1e-5)


def test_a_nested_softmax_and_augmentation_in_front():
    model, images = softmax_net(scale=1 / 127.5), some_images()
    nested = keras.Sequential([keras.Input((8, 8, 1)), layers.RandomFlip(), model])
    target = audit.prepare(nested, images)
    assert "0 to 255" in target.takes and target.probabilities
    logits = models.predict_logits(target.model, images)
    np.testing.assert_allclose(keras.ops.softmax(logits), model(255 * images), atol=1e-5)


def test_mean_and_std_are_put_in_front():
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Flatten(), layers.Dense(4)])
    images = some_images(shape=(8, 8, 3))
    target = audit.prepare(model, images, normalisation=models.IMAGENET)
    np.testing.assert_allclose(target.model(images), model(models.IMAGENET.to_normalised(images)), atol=1e-4)


@pytest.mark.parametrize(("make", "says"), [
    (lambda: sequential(layers.Flatten(), layers.Dense(3)), "--input-range"),
    (lambda: sequential(layers.Rescaling(0.11), layers.Flatten(), layers.Dense(3)), "--input-range"),
    (lambda: sequential(layers.Rescaling(1.0), layers.Flatten(), layers.Dense(3)), "--input-range"),
    (lambda: sequential(layers.Rescaling(2.0, -1.0), layers.Flatten(), layers.Dense(3), layers.ReLU()), "--output"),
    (lambda: softmax_net(shape=(9, 9, 1)), "images of"),
    (lambda: sequential(layers.Rescaling(2.0, -1.0), layers.Conv2D(3, 3)), "one row"),
    (lambda: wired(lambda x: layers.Dense(3)(layers.Flatten()(layers.Rescaling(1 / 255)(x) + x))), "is unknown"),
    (lambda: sequential(layers.RandomFlip(), layers.Flatten(), layers.Dense(3)), "is Flatten"),
    (lambda: adapted(mean=0.3, variance=0.24), "--input-range"),        # of [0, 1], or of [-1, 1]?
    (lambda: adapted(mean=5.0, variance=1.0), "--input-range"),
    (lambda: wired(lambda x: (keras.ops.tanh(dense(x, 1)) + 1) / 2), "--output probabilities"),
    (lambda: wired(lambda x: keras.ops.relu(dense(x, 3))), "--output probabilities"),
    (lambda: wired(lambda x: {"logits": dense(x, 3), "features": dense(x, 2)}), "say which is judged"),
    (lambda: OfCode(), r"keras.Model\(inputs, model\(inputs\)\)"),
    (lambda: wired(lambda x: dense(keras.ops.cast(x, "float32") / 255, 3), dtype="uint8"), "takes uint8"),
])
def test_nothing_is_guessed(make, says):
    with pytest.raises(KitError, match=says):
        audit.prepare(make(), some_images())


def test_a_mean_for_other_channels_is_refused():
    model = sequential(layers.Flatten(), layers.Dense(3))
    with pytest.raises(KitError, match="3 channels, but images of 1"):
        audit.prepare(model, some_images(), normalisation=models.IMAGENET)


def adapted(mean, variance):
    return sequential(layers.Normalization(mean=mean, variance=variance), layers.Flatten(), layers.Dense(3))


@pytest.mark.parametrize(("values", "says"), [
    ((0, 1), "from 0 to 1 ("), ((0, 255), "from 0 to 255 ("), ((-1, 1), "from -1 to 1 (")])
def test_the_range_that_a_normalization_was_adapted_to_is_found_by_the_images(values, says):
    images = 0.2 + 0.3 * some_images(100, (8, 8, 3))
    layer = layers.Normalization()
    layer.adapt(values[0] + (values[1] - values[0]) * images[:50])
    model = sequential(layer, layers.Flatten(), layers.Dense(3), shape=(8, 8, 3))
    assert says in audit.prepare(model, images[50:]).takes


def test_an_identity_is_seen_through():
    model = sequential(layers.Rescaling(1.0), layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(3))
    assert "0 to 255" in audit.prepare(model, some_images()).takes


class OfCode(keras.Model):
    """A subclassed model: Keras knows neither its input nor its output."""

    def __init__(self):
        super().__init__()
        self.flat, self.dense = layers.Flatten(), layers.Dense(3)

    def call(self, pixels):
        return self.dense(self.flat(pixels))


def wired(function, shape=(8, 8, 1), **named):
    """A functional model, in which `keras.ops` and arithmetic are steps that `model.layers` does not show."""
    keras.utils.set_random_seed(0)
    pixels = keras.Input(shape, **named)
    return keras.Model(pixels, function(pixels))


def dense(pixels, units, activation=None):
    return layers.Dense(units, activation)(layers.Flatten()(layers.Rescaling(2.0, -1.0)(pixels)))


@keras.saving.register_keras_serializable("tests")
class OwnHead(layers.Layer):
    """A layer with an activation that its configuration does not tell of."""

    def __init__(self, **named):
        super().__init__(**named)
        self.flat, self.dense, self.activation = layers.Flatten(), layers.Dense(3), keras.activations.softmax

    def call(self, x):
        return self.activation(self.dense(self.flat(x)))


@keras.saving.register_keras_serializable("tests")
class Softened(layers.Dense):
    """Does more than its activation says."""

    def call(self, x):
        return keras.ops.softmax(super().call(x) / 3)


@pytest.mark.parametrize(("head", "says"), [
    (lambda: OwnHead(), "was taken off"), (lambda: Softened(3, activation="softmax"), "logarithm is used"),
])
def test_a_softmax_is_taken_off_where_that_gives_the_outputs_back_or_its_logarithm_is_used(head, says):
    images = some_images()
    model = sequential(layers.Rescaling(2.0, -1.0), layers.Flatten(), layers.Reshape((64,)), head())
    target = audit.prepare(model, images)
    assert target.probabilities and says in target.returns and target.recovered == (says == "was taken off")
    if not target.recovered:
        np.testing.assert_allclose(keras.ops.exp(target.model(images)), model(images), rtol=1e-4)
    np.testing.assert_allclose(keras.ops.softmax(target.model(images)), model(images), rtol=1e-4)


def test_arithmetic_before_the_first_layer_is_read():
    model = wired(lambda x: layers.Dense(3)(layers.Flatten()(layers.Rescaling(1 / 255)(x * 255.0))))
    assert audit.prepare(model, some_images()).takes.startswith("values from 0 to 1")
    model = wired(lambda x: layers.Dense(3)(layers.Flatten()(x / 127.5 - 1.0)))
    assert audit.prepare(model, some_images()).takes.startswith("values from 0 to 255")


def test_of_several_outputs_one_is_chosen_by_name():
    model = wired(lambda x: {"logits": dense(x, 3), "features": dense(x, 2)})
    target = audit.prepare(model, some_images(), input_range=(0, 1), head="logits")
    np.testing.assert_allclose(target.model(some_images()), model(some_images())["logits"], atol=1e-5)
    with pytest.raises(KitError, match="no output 'logit'; did you mean 'logits'"):
        audit.prepare(model, some_images(), input_range=(0, 1), head="logit")


def test_numbers_that_are_none_are_met_wherever_they_come():
    """A division by the spread of each picture: one of a single colour makes NaN."""
    def scaled(x):
        return dense((x - keras.ops.mean(x, (1, 2, 3), keepdims=True)) / keras.ops.std(x, (1, 2, 3), keepdims=True), 3)

    images = some_images(40)
    target = audit.prepare(wired(scaled), images, input_range=(0, 1))
    images[30] = 0.5
    subject = audit.Subject(target, images, np.zeros(40, int), ("a", "b", "c"), eps=0.1)
    with pytest.raises(KitError, match="1 of the 40 images .the first is number 30.*NaN"):
        assert audit.Measurements(subject, FEW).clean.any()


def test_half_of_the_pixel_range_is_an_eps_like_any_other(plain, digits_set):
    m = measured(plain, digits_set, count=40, effort=FEW, eps=0.5)
    assert {check.function(m).outcome for check in audit.CHECKS} <= {"pass", "flag", "cannot tell"}


def test_images_that_are_all_alike_are_no_copies():
    """One background with a small spot at a random place and a little noise: as alike as pictures of one machine."""
    rng = np.random.default_rng(0)
    background = np.linspace(0.1, 0.9, 32)[:, None] * np.ones((32, 32))
    images = background + rng.normal(0, 0.004, (240, 32, 32))
    for image in images:
        row, column = rng.integers(2, 26, 2)
        image[row:row + 4, column:column + 4] += rng.choice([-0.06, 0.06])
    images = np.clip(images, 0, 1).astype(np.float32)[..., None]
    model = sequential(layers.Rescaling(2.0, -1.0), layers.Flatten(), layers.Dense(2), shape=(32, 32, 1))
    labels = np.arange(240) % 2

    def asked(known):
        return outcome("new_images", measuring(model, images[200:], labels[200:], "ab", input_range=None,
                                               train_images=known, train_labels=labels[:len(known)]))

    assert asked(images[:200]).outcome == "pass"
    assert asked(np.concatenate([images[:150], images[200:220] + np.float32(1 / 255)])).outcome == "flag"


def test_a_model_of_code_can_be_wrapped():
    code, images = OfCode(), some_images()
    target = audit.prepare(wired(code), images, input_range=(0, 1))
    np.testing.assert_allclose(target.model(images), code(images))


@pytest.mark.parametrize(("function", "taken_off"), [
    (lambda x: keras.ops.sigmoid(dense(x, 1)), "sigmoid"), (lambda x: dense(x, 1, "sigmoid"), "sigmoid"),
    (lambda x: keras.ops.sigmoid(dense(x, 3)), "sigmoid"),
    (lambda x: keras.ops.softmax(dense(x, 3)), "softmax"),
    (lambda x: keras.ops.log(dense(x, 3, "softmax")), "log of softmax"),
    (lambda x: wired(lambda y: keras.ops.softmax(dense(y, 3)))(x), "softmax"),
])
@pytest.mark.parametrize("declared", [None, "probabilities"])
def test_operations_at_the_end_are_seen_and_taken_off(function, taken_off, declared):
    images, model = some_images(), wired(function)
    target = audit.prepare(model, images, output=declared)
    assert taken_off in target.returns and "taken off" in target.returns and target.probabilities
    logits, outputs = np.asarray(target.model(images)), np.asarray(model(images))
    if outputs.shape[1] == 1:
        np.testing.assert_allclose(keras.ops.softmax(logits)[:, 1:], outputs, atol=1e-6)
    else:
        back = {"sigmoid": keras.ops.sigmoid, "softmax": keras.ops.softmax}.get(taken_off, keras.ops.log_softmax)
        np.testing.assert_allclose(back(logits), outputs, atol=1e-5)


def test_probabilities_of_an_unknown_step_are_taken_at_their_word():
    images, model = some_images(), wired(lambda x: (keras.ops.tanh(dense(x, 1)) + 1) / 2)
    target = audit.prepare(model, images, output="probabilities")
    assert target.probabilities and "logit is used" in target.returns
    np.testing.assert_allclose(keras.ops.softmax(target.model(images))[:, 1:], model(images), atol=1e-6)
    certain = wired(lambda x: keras.ops.relu(keras.ops.sign(dense(x, 1))))      # exactly 0 and 1
    assert np.isfinite(audit.prepare(certain, images, output="probabilities").model(images)).all()
    with pytest.raises(KitError, match="do not lie in"):
        audit.prepare(wired(lambda x: dense(x, 3)), images, output="probabilities")


@pytest.mark.parametrize("functional", [False, True])
def test_a_block_of_augmentation_is_seen_through(functional):
    augment = keras.Sequential([layers.RandomFlip(), layers.RandomRotation(0.1), layers.RandomContrast(0.1)])
    rest = [layers.Rescaling(1 / 255), layers.Flatten(), layers.Dense(3)]
    model = wired(keras.Sequential([augment, *rest])) if functional else sequential(augment, *rest)
    assert "0 to 255 (by its first layer, Rescaling)" in audit.prepare(model, some_images()).takes


# --- subjects of all kinds

def test_pictures_of_any_number_of_channels_are_drawn():
    channels = 5
    model = keras.Sequential([keras.Input((8, 8, channels)), layers.Rescaling(2.0, -1.0), layers.Flatten(),
                              layers.Dense(3)])
    images = np.random.default_rng(0).random((20, 8, 8, channels)).astype(np.float32)
    labels = models.predict_logits(model, images).argmax(1)
    m = measuring(model, images, labels, "abc", input_range=None, eps=0.2)
    found = audit.run(m, model="linear", data="noise")
    pictures = found.pictures()
    assert set(pictures) == set(audit.PICTURES)
    for figure in pictures.values():
        plots.finished(figure)


def test_training_images_of_another_shape_or_label_are_refused(plain, digits_set):
    for wrong, says in (({"train_images": some_images(3, (9, 9, 1)), "train_labels": np.arange(3)}, "of .9, 9, 1."),
                        ({"train_images": some_images(3), "train_labels": np.array([0, 1, 10])}, "reach from 0 to 10")):
        with pytest.raises(KitError, match=says):
            measured(plain, digits_set, count=20, **wrong)


def test_one_hot_labels_are_refused():
    model, images = softmax_net(), some_images(10)
    target = audit.prepare(model, images)
    with pytest.raises(KitError, match=r"labels must have the shape \(10,\)"):
        audit.Subject(target, images, np.eye(10, dtype=np.int64), tuple("0123456789"), eps=EPS)


def test_two_softmax_heads_that_vote_can_be_judged():
    pixels = keras.Input((8, 8, 1))
    flat = keras.layers.Flatten()(pixels)
    heads = [keras.layers.Dense(10, activation="softmax")(flat) for _ in range(2)]
    images = some_images(10)
    target = audit.prepare(keras.Model(pixels, (heads[0] + heads[1]) / 2), images, input_range=(0, 1))
    labels = models.predict_logits(target.model, images).argmax(1)
    found = attacks.run(attacks.FGSM(eps=EPS), target.model, images, labels, progress=False)
    assert target.probabilities and found.images.shape == images.shape


# --- the report

def test_a_report_has_no_heading_without_a_word_of_its_own():
    """Of an experiment without figures of a paper nothing stands against them."""
    for name in ("cifar10_robust", "cifar10_exp4"):
        found = results.read(REPOSITORY / "figures" / name / "results.json")
        titles = [section.title for section in report.run_page(found).sections]
        assert ("The paper against what was measured" in titles) == bool(found.paper) == (name == "cifar10_exp4")


def test_everything_in_a_report_is_escaped():
    nasty = "<img src=x onerror=alert(1)>"
    table = report.Table((nasty, "outcome"), ((nasty, nasty),), marked="outcome")
    picture = report.Picture(nasty, "data:image/png;base64,")
    section = report.Section(nasty, (nasty,), ((nasty, nasty),), nasty, (table,), (picture,))
    page = report.render(report.Page(nasty, nasty, ((nasty, nasty),), (section,)))
    assert "<img src=x" not in page and page.count("&lt;img") >= 10
