"""Training methods, their arithmetic, their data, and what they refuse."""
from __future__ import annotations

import errno
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from training_toys import FGSM, PGD, SHAPE, checkpoint_in, network, settings, toy_data

from kitlib import attacks, models
from kitlib.base.machine import cpu_flags, fast_bfloat16
from kitlib.base.settings import KitError
from kitlib.data import Dataset
from kitlib.training import TrainingSettings, loop, precision_of, train, training_for
from kitlib.training.batches import Examples, augment, training_batches
from kitlib.training.optimizers import FusedAdam, schedule_for
from kitlib.training.precision import FusedBatchNormalization, has_faster_twin, twin
from kitlib.training.settings import Augmentation
from kitlib.training.steps import Free, Mixed, SharedFGSM, Trades, kl_divergence


def compiled(chosen: TrainingSettings, net: keras.Model, **named):
    training = training_for(chosen, net, **named)
    training.compile(optimizer=FusedAdam(1e-3), jit_compile=False)
    training.optimizer.build(net.trainable_variables)
    return training


def a_batch(count=16):
    data = toy_data()
    return tf.constant(data.pixels("train")[:count]), tf.constant(data.labels_of("train")[:count])


def assert_close(some, others, tolerance=1e-6):
    for one, other in zip(some, others, strict=True):
        np.testing.assert_allclose(one, other, atol=tolerance, rtol=1e-4)


# ---- every method trains

METHODS = [
    {"method": "plain"},
    {"method": "plain", "optimizer": "sgd", "weight_decay": 1e-4, "schedule": "one_cycle", "class_weights": True},
    {"method": "fgsm"},
    {"method": "fgsm", "attacks": [{**FGSM, "labels": "predicted"}]},
    {"method": "fgsm", "attacks": [{"name": "paper_a_fgsm", "eps": 0.5}], "clean_share": 0.25},
    {"method": "fgsm", "clean_share": 0.0},
    {"method": "fgsm", "attack_mode": "inference"},
    {"method": "mixed", "attacks": [FGSM, PGD, {"name": "cw_l2", "steps": 3, "search_steps": 1}]},
    {"method": "mixed", "attacks": [{"name": "paper_b_fgsm"}, {"name": "paper_b_cw", "steps": 2}],
     "attack_mode": "training", "inference_mode_after": 1},
    {"method": "static", "attacks": [FGSM]},
    {"method": "fgsm_rs", "augmentation": {"flip": True, "rotation": 10, "shift": 1}},
    {"method": "free", "replays": 2},
    {"method": "pgd", "attacks": [PGD]},
    {"method": "trades", "attacks": [PGD]},
]


@pytest.mark.parametrize("values", METHODS, ids=lambda values: "-".join(map(str, values.values()))[:60])
def test_method_trains_and_learns(values, tmp_path):
    net = network(dropout=0.1, batch_norm=True)
    before = net.get_weights()
    history = train(net, toy_data(), settings(**values), tmp_path, baseline=network(), progress=False)
    assert history["epoch"] == [1, 2] and history["kept"] == [False, True]
    assert all(map(math.isfinite, history["loss"])) and history["loss"][1] < history["loss"][0]
    assert any((old != new).any() for old, new in zip(before, net.get_weights(), strict=True))


def test_plain_training_solves_the_toy_and_reports_it(tmp_path, capsys):
    net, data = network(), toy_data()
    history = train(net, data, settings(epochs=6), tmp_path)
    assert history["val_accuracy"][-1] > 0.9
    judged = (models.predict_logits(net, data.pixels("validation")).argmax(1) == data.labels_of("validation")).mean()
    assert judged == pytest.approx(history["val_accuracy"][-1], abs=1e-6)
    assert "epoch 6/6: loss" in capsys.readouterr().out


# ---- what the steps compute

def reference_gradients(net, parts):
    """Gradients of sum(share * mean cross-entropy) over (share, images, labels), pass by pass."""
    with tf.GradientTape() as tape:
        loss = sum(
            share * tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, net(images)))
            for share, images, labels in parts
        )
    return loss, tape.gradient(loss, net.trainable_variables)


@pytest.mark.parametrize("attack", [
    FGSM, {**FGSM, "labels": "predicted"}, {"name": "paper_a_fgsm", "eps": 0.5},
], ids=["true", "predicted", "paper_a"])
def test_the_shared_backward_pass_gives_what_separate_passes_give(attack):
    net, (images, labels) = network(), a_batch()
    training = compiled(settings(method="fgsm", attacks=[attack], clean_share=0.3), net)
    assert isinstance(training, SharedFGSM)
    loss, gradients = training.loss_and_gradients(images, labels)
    adversarial = attacks.read(attack).perturb(net, images, labels)
    expected_loss, expected = reference_gradients(net, [(0.3, images, labels), (0.7, adversarial, labels)])
    assert_close([loss, *gradients], [expected_loss, *expected])


def test_mixed_is_the_weighted_mean_over_clean_and_attacked_images():
    net, (images, labels) = network(), a_batch()
    chosen = settings(method="mixed", attacks=[FGSM, {**PGD, "random_start": False}])
    training = compiled(chosen, net)
    assert isinstance(training, Mixed)
    attacked = [attack.perturb(net, images, labels, seed=0) for attack in chosen.attacks]
    expected = reference_gradients(net, [(1 / 3, part, labels) for part in [images, *attacked]])
    loss, gradients = training.loss_and_gradients(images, labels)
    assert_close([loss, *gradients], [expected[0], *expected[1]])


def test_trades_is_clean_loss_plus_beta_times_divergence_inside_the_ball():
    net, (images, labels) = network(), a_batch()
    training = compiled(settings(method="trades", attacks=[PGD], beta=2.0), net)
    assert isinstance(training, Trades)
    adversarial = training._most_divergent(images)
    assert float(tf.reduce_max(tf.abs(adversarial - images))) <= 8 / 255 + 1e-6
    found = tf.reduce_mean(kl_divergence(net(images), net(adversarial)))
    noise = images + tf.random.stateless_uniform(images.shape, (1, 2), -8 / 255, 8 / 255)
    assert found > 2 * tf.reduce_mean(kl_divergence(net(images), net(noise)))
    loss, _ = training.loss_and_gradients(images, labels)
    clean, _ = reference_gradients(net, [(1.0, images, labels)])
    assert float(loss) == pytest.approx(float(clean + 2.0 * found), rel=1e-5)


def test_label_smoothing_is_keras_s_and_of_the_weights_loss_alone():
    net, (images, labels) = network(), a_batch()
    chosen = settings(method="pgd", attacks=[{**PGD, "random_start": False}], label_smoothing=0.2)
    attacked = chosen.attacks[0].perturb(net, images, labels, seed=0)
    targets, smoothed = tf.one_hot(labels, 3), keras.losses.CategoricalCrossentropy(True, label_smoothing=0.2)
    loss, _ = compiled(chosen, net).loss_and_gradients(images, labels)
    assert float(loss) == pytest.approx(float(smoothed(targets, net(attacked))), rel=1e-5)
    tested = compiled(chosen, net).test_step((images, labels))
    clean, _ = reference_gradients(net, [(1.0, images, labels)])
    assert float(tested["loss"]) == pytest.approx(float(clean), rel=1e-5)


def test_kl_divergence_is_keras_s():
    logits = tf.random.stateless_normal((2, 5, 4), (0, 1))
    expected = keras.losses.kl_divergence(tf.nn.softmax(logits[0]), tf.nn.softmax(logits[1]))
    np.testing.assert_allclose(kl_divergence(logits[0], logits[1]), expected, atol=1e-5)


def test_free_replays_each_batch_and_carries_the_perturbation_over():
    net = network()
    training = compiled(settings(method="free", replays=3, eps="4/255"), net)
    assert isinstance(training, Free)
    training.train_step(a_batch())
    first = training.perturbation.numpy()
    assert int(training.optimizer.iterations) == 3
    assert np.isin(np.round(np.abs(first) * 255 / 4, 3), [0, 1]).all() and np.abs(first).max() > 0
    training.train_step(a_batch())
    assert np.abs(training.perturbation).max() <= 4 / 255 + 1e-7


def test_fgsm_rs_steps_five_quarters_of_eps_from_a_random_start():
    attack = settings(method="fgsm_rs", eps="8/255").training_attacks()[0]
    assert (attack.steps, attack.random_start, attack.keep) == (1, True, "last")
    assert attack.step == pytest.approx(10 / 255) and attack.eps == pytest.approx(8 / 255)


def test_random_starts_differ_from_step_to_step_and_repeat_with_the_seed():
    def seeds(seed, steps):
        training = compiled(settings(method="pgd"), network(), seed=seed)
        training.optimizer.iterations.assign(steps)
        return [tuple(each.numpy()) for each in training.step_seeds(2)]

    assert len({*seeds(1, 0), *seeds(1, 1), *seeds(2, 0)}) == 6
    assert seeds(1, 5) == seeds(1, 5)


def test_class_weights_make_every_class_count_the_same(tmp_path):
    data = toy_data()
    data.split["train"] = np.concatenate([np.flatnonzero(data.labels == 0)[:30], np.flatnonzero(data.labels > 0)[:18]])
    weights = loop._class_weights(data, settings(class_weights=True))
    counts = np.bincount(data.labels[data.split["train"]])
    assert np.allclose(weights * counts, counts.sum() / 3)
    net, (images, labels) = network(), a_batch()
    training = compiled(settings(class_weights=True), net, class_weights=weights)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, net(images)).numpy()
    assert float(training.mean_loss(net(images), labels)) == pytest.approx((losses * weights[labels]).mean(), rel=1e-5)


@pytest.mark.parametrize("mode, moves", [("training", True), ("inference", False)])
def test_attacks_see_batch_norm_as_in_training_only_where_asked(mode, moves):
    net = network(batch_norm=True)
    training = compiled(settings(method="pgd", attacks=[PGD], attack_mode=mode), net)
    mean = net.layers[3].moving_mean
    before = mean.numpy()
    attacks.read(PGD).perturb(net, *a_batch(), seed=1, training=training.attack_in_training_mode())
    assert (mean.numpy() != before).any() == moves


def test_inference_mode_after_keeps_the_moving_statistics(tmp_path):
    means = []
    net = network(batch_norm=True)
    layer = net.layers[3]  # has the epoch's weights when callbacks run
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: means.append(layer.moving_mean.numpy()))
    train(net, toy_data(), settings(epochs=3, inference_mode_after=2), tmp_path, progress=False, callbacks=[watch])
    assert (means[0] != means[1]).any() and (means[1] == means[2]).all()


def test_free_climbs_the_loss():
    net, (images, labels) = network(), a_batch()
    with tf.GradientTape() as tape:
        tape.watch(images)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, net(images)))
    training = compiled(settings(method="free", replays=1, eps="4/255"), net)
    training.train_step((images, labels))
    np.testing.assert_allclose(training.perturbation, 4 / 255 * tf.sign(tape.gradient(loss, images)), atol=1e-7)


def test_the_attack_of_each_step_starts_elsewhere():
    batch, training = a_batch(), compiled(settings(method="fgsm_rs"), network())
    first = float(training.loss_and_gradients(*batch)[0])
    assert float(training.loss_and_gradients(*batch)[0]) == first
    training.optimizer.iterations.assign(5)
    assert float(training.loss_and_gradients(*batch)[0]) != first


def test_attack_mode_reaches_the_attack():
    def loss(mode):
        net = network(batch_norm=True)
        net.layers[3].moving_mean.assign(np.linspace(-2, 2, 4))
        chosen = settings(method="pgd", attack_mode=mode, attacks=[{**PGD, "random_start": False}])
        return float(compiled(chosen, net).loss_and_gradients(*a_batch())[0])

    assert loss("training") != loss("inference")


def test_trades_trains_on_both_sides_of_its_divergence():
    net, (images, labels) = network(), a_batch()
    training = compiled(settings(method="trades", attacks=[PGD], beta=2.0), net)
    adversarial = training._most_divergent(images)
    _, gradients = training.loss_and_gradients(images, labels)
    with tf.GradientTape() as tape:
        clean, attacked = net(images), net(adversarial)
        loss = (tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, clean))
                + 2 * tf.reduce_mean(kl_divergence(clean, attacked)))
    assert_close(gradients, tape.gradient(loss, net.trainable_variables), tolerance=1e-5)


@pytest.mark.parametrize(("base", "option"), [
    ({}, {"augmentation": {"flip": True}}), ({}, {"class_weights": True}), ({"optimizer": "sgd"}, {"momentum": 0.5}),
    ({"optimizer": "sgd"}, {"weight_decay": 0.1}), ({}, {"weight_decay": 0.1}), ({}, {"label_smoothing": 0.2}),
], ids=str)
def test_an_option_changes_the_training(base, option, tmp_path):
    def weights(values):
        data, net = toy_data(), network()
        train_part = data.split["train"]
        data.split["train"] = train_part[data.labels[train_part] < 2 + (np.arange(len(train_part)) < 30)]   # unbalanced
        train(net, data, settings(epochs=1, **values), tmp_path, progress=False)
        return net.get_weights()

    assert any((one != other).any() for one, other in zip(weights(base), weights(base | option), strict=True))


def test_the_schedule_of_free_ends_with_the_training(tmp_path):
    chosen = settings(method="free", replays=2, schedule="cosine")
    history = train(network(), toy_data(), chosen, tmp_path, progress=False)
    assert history["learning_rate"] == pytest.approx([0.005, 0], abs=1e-6)


def test_the_robust_check_looks_at_the_part_asked_for(tmp_path):
    net, data = network(), toy_data()
    data.labels[data.split["validation"]] = (data.labels[data.split["validation"]] + 1) % 3     # all wrong
    chosen = settings(robust_check={"part": "validation", "images": 30, "attack": {"name": "fgsm", "eps": "16/255"}})
    history = train(net, data, chosen, tmp_path, progress=False)
    on = {part: attacks.run(chosen.robust_check.attack, net, *data.part(part, 30)).accuracy
          for part in ("train", "validation")}
    assert history["robust_accuracy"][-1] == pytest.approx(on["validation"]) and on["train"] > on["validation"]


# ---- static: made once, on the baseline

def test_static_makes_its_images_once_on_the_baseline(tmp_path, monkeypatch):
    calls, run = [], attacks.run
    monkeypatch.setattr(attacks, "run", lambda attack, model, *rest, **named: (
        calls.append(model), run(attack, model, *rest, **named))[1])
    baseline, chosen = network(seed=5), settings(method="static", attacks=[FGSM])
    train(network(), toy_data(), chosen, tmp_path, baseline=baseline, progress=False)
    assert calls == [baseline]
    assert [path.name for path in tmp_path.rglob("*.np[yz]")] == ["checkpoint.npz"]


def test_static_trains_on_the_baseline_s_adversarial_images(tmp_path, monkeypatch):
    """In chunks, and in the order of the training part."""
    data, baseline, seen, examples = toy_data(), network(seed=5), [], loop.Examples
    data.split["train"] = np.arange(12, 96)[::-1].copy()
    monkeypatch.setattr(loop, "_STATIC_CHUNK", 40)
    monkeypatch.setattr(loop, "Examples", lambda *given: seen.append(
        examples(*given[:3], [variant.copy() for variant in given[3]])) or seen[0])
    chosen = settings(method="static", attacks=[FGSM], epochs=1)
    train(network(), data, chosen, tmp_path, baseline=baseline, progress=False)
    expected = attacks.run(attacks.read(FGSM), baseline, data.pixels("train"), data.labels_of("train")).images
    np.testing.assert_allclose(seen[0].variants[0], expected, atol=1e-6)
    np.testing.assert_allclose(seen[0].read(np.array([len(expected) + 3]))[0][0], expected[3], atol=1e-6)


def test_static_takes_its_room_on_the_disk_first(tmp_path, monkeypatch):
    """A mapped file on a full disk would kill the process."""
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    with pytest.raises(KitError, match="static0.npy could not be written .No space left"):
        train(network(), toy_data(), settings(method="static", attacks=[FGSM]), tmp_path, baseline=network(seed=5))
    assert not list(tmp_path.rglob("*.npy"))


def test_static_needs_a_baseline(tmp_path):
    with pytest.raises(KitError, match="baseline"):
        train(network(), toy_data(), settings(method="static", attacks=[FGSM]), tmp_path)


# ---- batches and augmentation

def test_examples_put_variants_behind_the_clean_images():
    data = toy_data()
    variant = np.full((96, *SHAPE), 0.25, np.float32)
    pixels, labels = Examples(data.images, data.labels, data.split["train"], [variant]).read(np.array([3, 99]))
    np.testing.assert_allclose(pixels[0], data.pixels("train")[3], atol=1e-7)
    assert (pixels[1] == 0.25).all() and labels[0] == labels[1] == data.labels[3]


def test_batches_depend_on_seed_and_epoch_alone():
    data = toy_data()
    examples = Examples(data.images, data.labels, data.split["train"])

    def batches(seed, first_epoch, count):
        stream = training_batches(examples, 40, Augmentation(flip=True, rotation=20), seed, first_epoch)
        return [pixels.numpy() for pixels, _ in stream.take(count)]

    four = batches(7, 0, 4)  # two batches an epoch
    assert all((one == other).all() for one, other in zip(four[2:], batches(7, 1, 2), strict=True))
    assert all((one != other).any() for one, other in zip(four, batches(8, 0, 4), strict=True))
    assert (four[0] != four[2]).any()


def test_an_epoch_shows_each_image_at_most_once_with_its_label():
    data = toy_data()
    stream = training_batches(Examples(data.images, data.labels, data.split["train"]), 40, Augmentation(), 0)
    shown = [(image.numpy().tobytes(), int(label)) for pixels, labels in stream.take(2)
             for image, label in zip(pixels, labels, strict=True)]
    known = {image.tobytes(): int(label) for image, label in zip(data.pixels("train"), data.labels, strict=False)}
    assert len(set(shown)) == 80 and all(known[image] == label for image, label in shown)


def test_flips_mirror_about_half_of_the_images():
    images = tf.random.stateless_uniform((400, *SHAPE), (1, 2))
    changed = augment(images, Augmentation(flip=True), tf.constant([3, 4]))
    same = np.array([(one == other).numpy().all() for one, other in zip(images, changed, strict=True)])
    mirrored = np.array([(one[:, ::-1] == other).numpy().all() for one, other in zip(images, changed, strict=True)])
    assert (same ^ mirrored).all() and 150 < same.sum() < 250


def test_rotation_turns_about_the_centre(monkeypatch):
    monkeypatch.setattr(tf.random, "stateless_uniform", lambda shape, *rest: tf.ones(shape))
    images = tf.constant(toy_data().pixels("train")[:5])
    turned = augment(images, Augmentation(rotation=90), tf.constant([0, 0])).numpy()
    np.testing.assert_allclose(turned, np.rot90(images, k=1, axes=(1, 2)), atol=1e-4)


def test_shift_moves_whole_pixels_and_reflects_the_border(monkeypatch):
    monkeypatch.setattr(tf.random, "stateless_uniform", lambda shape, *rest: tf.ones(shape))
    images = toy_data().pixels("train")[:5]
    moved = augment(tf.constant(images), Augmentation(shift=1), tf.constant([0, 0])).numpy()
    expected = np.pad(images, ((0, 0), (0, 1), (0, 1), (0, 0)), mode="symmetric")[:, 1:, 1:]
    np.testing.assert_allclose(moved, expected, atol=1e-6)


def test_augmented_images_stay_pixels():
    images = tf.random.stateless_uniform((20, *SHAPE), (1, 2))
    changed = augment(images, Augmentation(flip=True, rotation=30, shift=2), tf.constant([3, 4])).numpy()
    assert changed.min() >= 0 and changed.max() <= 1 and np.isfinite(changed).all()


# ---- optimizer and schedules

@pytest.mark.parametrize("decay", [None, 0.01])
def test_fused_adam_is_keras_s_adam(decay):
    def trained(kind):
        variable = keras.Variable(np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3))
        optimizer = kind(0.05, weight_decay=decay)
        for step in range(5):
            optimizer.apply([tf.constant(np.cos(np.arange(6) + step).reshape(2, 3), tf.float32)], [variable])
        return variable.numpy()

    np.testing.assert_allclose(trained(FusedAdam), trained(keras.optimizers.Adam), rtol=1e-4)


@pytest.mark.parametrize("name, expected", [
    ("constant", [0.1, 0.1, 0.1, 0.1]),
    ("cosine", [0.1, 0.1 * (1 + math.cos(0.4 * math.pi)) / 2, 0.1 * (1 + math.cos(0.6 * math.pi)) / 2, 0.0]),
    ("one_cycle", [0.0, 0.1, 0.1 * 4 / 6, 0.0]),
    ("steps", [0.1, 0.1, 0.01, 0.001]),
])
def test_schedules(name, expected):
    schedule = schedule_for(settings(schedule=name, learning_rate=0.1), 100)
    rates = [schedule if isinstance(schedule, float) else float(schedule(step)) for step in (0, 40, 60, 100)]
    assert rates == pytest.approx(expected, abs=1e-6)


# ---- precision

@pytest.mark.parametrize("flags, gpus, fast", [
    ({"avx2"}, [], False), ({"avx2", "avx512f"}, [], False), ({"amx_bf16", "amx_tile"}, [], True),
    ({"avx512_bf16"}, [], True), (set(), [], False), ({"avx2"}, [(8, 0)], True), ({"avx2"}, [(9, 0), (8, 6)], True),
    ({"amx_bf16"}, [(7, 5)], False), ({"avx2"}, [(9, 0), (7, 0)], False), ({"avx2"}, [(0, 0)], False),
])
def test_auto_precision_takes_bfloat16_only_where_it_is_fast(flags, gpus, fast):
    assert fast_bfloat16(flags, gpus) == fast


def test_cpu_flags_are_read_and_may_be_missing(tmp_path):
    core = "processor\t: 0\nflags\t\t: fpu amx_bf16\n"
    (tmp_path / "cpuinfo").write_text(2 * core)
    assert cpu_flags(tmp_path / "cpuinfo") == {"fpu", "amx_bf16"}
    assert cpu_flags(tmp_path / "none") == set()


def test_bfloat16_training_leaves_a_float32_model_that_loads(tmp_path):
    net, data = network(dropout=0.1, batch_norm=True), toy_data()
    history = train(net, data, settings(precision="bfloat16", epochs=4), tmp_path, progress=False)
    assert set(history["precision"]) == {"bfloat16"} and keras.mixed_precision.global_policy().name == "float32"
    models.save(net, tmp_path / "model.keras")
    loaded = models.load(tmp_path / "model.keras")
    assert {layer.compute_dtype for layer in loaded.layers} == {"float32"}
    logits = models.predict_logits(loaded, data.pixels("validation"))
    np.testing.assert_array_equal(logits, models.predict_logits(net, data.pixels("validation")))
    assert (logits.argmax(1) == data.labels_of("validation")).mean() > 0.8


def test_the_precision_of_a_training_is_that_of_its_epochs():
    assert precision_of({"precision": ["float32", "float32"]}) == "float32"
    assert precision_of({"precision": ["bfloat16", "bfloat16", "float32"]}) == "bfloat16, float32"


def test_twin_computes_in_bfloat16_but_answers_in_float32():
    net, (images, _) = network(dropout=0.1, batch_norm=True), a_batch()
    copy = twin(net, "bfloat16")
    assert copy.layers[2].compute_dtype == "bfloat16" and copy.layers[2].variable_dtype == "float32"
    logits = copy(images)
    assert logits.dtype == tf.float32
    assert 0 < np.abs(logits - net(images)).max() < 0.05


@pytest.mark.parametrize("held", ["features", "all"])
def test_twin_opens_the_models_that_a_network_holds(held):
    whole, (images, _) = network(batch_norm=True, filters=8), a_batch()
    features = keras.Model(whole.input, whole.layers[-2].output)
    steps = {"features": [features, keras.layers.Dense(3)], "all": [whole]}[held]
    net = keras.Sequential([keras.Input(SHAPE), *steps])
    copy = twin(net, "bfloat16")
    within = {type(layer): layer.compute_dtype for layer in copy.layers[0].layers}
    assert has_faster_twin(net) and within[FusedBatchNormalization] == within[keras.layers.Conv2D] == "bfloat16"
    logits = copy(images)
    assert logits.dtype == tf.float32
    assert 0 < np.abs(logits - net(images)).max() < 0.05


@pytest.mark.parametrize("kind, tolerance", [("float32", 1e-5), ("bfloat16", 0.1)])
def test_the_fused_batch_norm_of_a_twin_is_keras_s(kind, tolerance):
    net, (images, labels) = network(batch_norm=True, filters=8), a_batch()
    net.layers[3].gamma.assign(np.linspace(0.5, 2, 8))
    copy = twin(net, kind)
    assert isinstance(copy.layers[3], FusedBatchNormalization)

    def passes(model):
        with tf.GradientTape() as tape:
            tape.watch(images)
            logits = model(images, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        statistics = [logits, *model.non_trainable_variables]
        return statistics, tape.gradient(loss, [*model.trainable_variables, images])

    (statistics, gradients), (other_statistics, other_gradients) = passes(net), passes(copy)
    for one, other in zip(statistics, other_statistics, strict=True):
        np.testing.assert_allclose(one, other, atol=tolerance)
    if kind == "float32":  # in bfloat16 the rounding of the layers around it hides the comparison
        assert_close(gradients, other_gradients, tolerance=1e-5)
    np.testing.assert_allclose(net(images), copy(images), atol=tolerance)


# ---- which epoch is kept, when to stop, catastrophic overfitting

def scripted_checks(monkeypatch, accuracies):
    values = iter(accuracies)

    class Result:
        def __init__(self):
            self.accuracy = next(values)

    monkeypatch.setattr(attacks, "run", lambda *arguments, **named: Result())


def test_best_epoch_s_weights_are_kept_and_patience_stops(tmp_path):
    weights = []
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: weights.append(net.get_weights()))
    net = network()
    history = train(net, toy_data(), settings(epochs=30, keep="best", patience=2), tmp_path, progress=False,
                    callbacks=[watch])
    best = int(np.argmax(history["val_accuracy"]))
    assert len(history["epoch"]) == best + 3 and history["kept"].index(True) == best
    assert_close(net.get_weights(), weights[best], tolerance=0)


def test_catastrophic_overfitting_is_flagged_and_stops_and_the_best_robust_epoch_is_kept(tmp_path, monkeypatch, capsys):
    scripted_checks(monkeypatch, [0.3, 0.45, 0.26, 0.05, 0.5])
    weights = []
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: weights.append(net.get_weights()))
    net = network()
    chosen = settings(epochs=5, keep="best_robust", robust_check={"stop": True, "images": 32})
    history = train(net, toy_data(), chosen, tmp_path, callbacks=[watch])
    assert history["robust_accuracy"] == [0.3, 0.45, 0.26, 0.05]
    assert history["catastrophic_overfitting"] == [False, False, False, True]
    assert history["kept"] == [False, True, False, False]
    assert_close(net.get_weights(), weights[1], tolerance=0)
    assert "catastrophic overfitting" in capsys.readouterr().out


@pytest.mark.parametrize("values, eps", [
    ({"method": "pgd", "attacks": [{**PGD, "eps": "2/255"}]}, 2 / 255), ({"method": "pgd", "eps": "2/255"}, 2 / 255),
    ({"method": "fgsm", "eps": "4/255", "attacks": [{**FGSM, "eps": "2/255"}]}, 4 / 255), ({}, 8 / 255),
])
def test_without_an_attack_of_its_own_the_robust_check_is_at_the_training_s_eps(values, eps):
    assert settings(robust_check={}, **values).check_attack().eps == pytest.approx(eps)


def test_robust_check_is_the_accuracy_under_pgd_on_the_same_training_images(tmp_path):
    net, data = network(), toy_data()
    chosen = settings(method="fgsm", robust_check={"images": 32, "attack": PGD})
    history = train(net, data, chosen, tmp_path, progress=False)
    expected = attacks.run(chosen.robust_check.attack, net, data.pixels("train")[:32], data.labels_of("train")[:32])
    assert history["robust_accuracy"][-1] == pytest.approx(expected.accuracy)
    assert history["catastrophic_overfitting"] == [False, False]


# ---- refused

@pytest.mark.parametrize("values, message", [
    ({"method": "magic"}, "method"),
    ({"epochs": 0}, "epochs"),
    ({"epoch": 3}, "did you mean 'epochs'"),
    ({"learning_rate": -1}, "learning_rate"),
    ({"method": "plain", "attacks": [FGSM]}, "takes no attacks"),
    ({"method": "pgd", "attacks": [PGD, FGSM]}, "one attack"),
    ({"method": "mixed"}, "needs attacks"),
    ({"method": "pgd", "clean_share": 0.5}, "clean_share"),
    ({"method": "fgsm", "clean_share": 1.0}, "clean_share"),
    ({"method": "trades", "attacks": [FGSM]}, "trades"),
    ({"method": "fgsm", "attacks": [{**FGSM, "targeted": True}]}, "targeted"),
    ({"method": "fgsm", "attacks": [{"name": "fgsn"}]}, "fgsm"),
    ({"keep": "best_robust"}, "robust_check"),
    ({"method": "fgsm", "eps": "4/255", "attacks": [FGSM]}, "eps changes nothing .*change that of `attacks`"),
    ({"method": "fgsm", "eps": "4/255", "attacks": [FGSM], "robust_check": {"attack": PGD}}, "eps changes nothing"),
    ({"method": "plain", "eps": "4/255"}, "eps changes nothing"),
    ({"method": "pgd", "beta": 2}, "beta is for method trades, not pgd"),
    ({"method": "fgsm_rs", "replays": 2}, "replays is for method free, not fgsm_rs"),
    ({"method": "free", "attack_mode": "inference"}, "attack_mode is for methods mixed and"),
    ({"method": "static", "attacks": [FGSM], "attack_mode": "training"}, "attack_mode"),
    ({"method": "trades", "temperature": 2}, "temperature is for methods plain and distilled, not trades"),
    ({"momentum": 0.5}, "momentum is for optimizer sgd, not adam"),
    ({"method": "fgsm", "label_smoothing": 0.1}, "label_smoothing is for methods plain and mixed and .*, not fgsm"),
    ({"label_smoothing": 1.0}, "label_smoothing"),
    ({"method": "trades", "attacks": [{**PGD, "restarts": 5, "loss": "margin"}]}, "leave out restarts and loss"),
    ({"eps": -0.1}, "eps"),
    ({"augmentation": {"rotation": 400}}, "rotation"),
])
def test_bad_settings_are_refused(values, message):
    with pytest.raises(KitError, match=message):
        settings(**values)


@pytest.mark.parametrize("values", [
    {"method": "pgd", "eps": "4/255"},
    {"method": "free", "eps": "4/255", "replays": 4},
    {"method": "fgsm", "eps": "8/255", "attacks": [FGSM]},      # the same
    {"method": "plain", "eps": "4/255", "robust_check": {"images": 8}},
    {"method": "fgsm", "eps": "4/255", "attacks": [FGSM], "robust_check": {"images": 8}},
    {"method": "trades", "beta": 2, "attack_mode": "training"},
    {"method": "trades", "attacks": [{**PGD, "keep": "last"}]},
    {"optimizer": "sgd", "momentum": 0.5},
    {"method": "pgd", "label_smoothing": 0.1},
], ids=lambda values: "-".join(values))
def test_options_that_are_used_are_taken(values):
    assert settings(**values)


@pytest.mark.parametrize("values", [{}, {"method": "mixed", "attacks": [FGSM, PGD], "robust_check": {"attack": PGD}},
                                    {"method": "pgd", "eps": "2/255", "attacks": [{**PGD, "eps": "2/255"}]}])
def test_settings_survive_being_written_and_read(values):
    chosen = settings(**values)
    assert TrainingSettings.read(chosen.model_dump(mode="json"), "a record") == chosen


def ending_in(activation: str) -> keras.Model:
    net = network()
    return keras.Model(net.inputs, keras.layers.Activation(activation)(net.outputs[0]))


def any_size() -> keras.Model:
    pixels = keras.Input((None, None, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(8, 3, activation="relu")(pixels))
    return keras.Model(pixels, keras.layers.Dense(3)(x))


class Coded(keras.Model):
    def __init__(self):
        super().__init__()
        self.head = keras.layers.Dense(3)

    def call(self, pixels):
        return self.head(keras.ops.mean(pixels, (1, 2)))


def without(data: Dataset, part: str) -> Dataset:
    data.split[part] = np.array([], int)
    return data


def two_outputs() -> keras.Model:
    net = network()
    return keras.Model(net.inputs, [net.outputs[0], net.layers[-2].output])


def under_policy(policy: str) -> keras.Model:
    keras.config.set_dtype_policy(policy)
    try:
        return network()
    finally:
        keras.config.set_dtype_policy("float32")


def with_layer(layer) -> keras.Model:
    """The network with one more layer on its features."""
    net = network()
    return keras.Model(net.inputs, keras.layers.Dense(3)(layer(net.layers[-2].output)))


def regularised() -> keras.Model:
    return with_layer(keras.layers.Dense(8, kernel_regularizer="l2"))


def around(function, shape=SHAPE, **named) -> keras.Model:
    pixels = keras.Input(shape, **named)
    return keras.Model(pixels, function(pixels))


def of_bytes() -> keras.Model:
    """Knows the toy's classes where white is 255; where it is 1, every image is of class 0."""
    net = around(lambda x: keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x)))
    net.set_weights([np.eye(3), np.array([5.0, 0.0, 0.0])])
    return net


class OwnCall(keras.Model):
    """Wired, and with code around it that Keras leaves out of a copy."""

    def __init__(self):
        pixels = keras.Input(SHAPE)
        super().__init__(pixels, network(batch_norm=True, filters=8)(pixels))

    def call(self, pixels, training=None, mask=None):
        return -super().call(pixels, training=training)


class Halved(keras.layers.Layer):
    """As many write a layer: with no word of what every layer takes."""

    def __init__(self):
        super().__init__()

    def call(self, features):
        return features / 2


class Placed(keras.layers.Layer):
    """Adds an embedding, whose gradient is sparse, and holds a weight that nothing depends on."""

    def __init__(self, **named):
        super().__init__(**named)
        self.embedding = keras.layers.Embedding(2, 8)

    def build(self, shape):
        self.idle = self.add_weight(shape=(2,), name="idle")
        self.embedding.build(shape)

    def call(self, features):
        return features + self.embedding(keras.ops.zeros(1, "int32"))


@pytest.mark.parametrize("data, net, values, message", [
    (lambda: toy_data(train=12), network, {}, "batch_size 16 is larger than the 12 training images"),
    (lambda: toy_data(train=2), network, {}, "no training image of class 'c'"),
    (lambda: without(toy_data(), "validation"), network, {"keep": "best"}, "validation"),
    (lambda: without(toy_data(), "validation"), network, {"patience": 1}, "validation"),
    (lambda: without(toy_data(), "validation"), network, {"robust_check": {"part": "validation"}}, "robust_check"),
    (toy_data, lambda: network(classes=4), {}, "4 classes"),
    (toy_data, lambda: models.build(models.ModelSettings(name="deeper_cnn"), (16, 16, 3), 3), {}, r"\(16, 16, 3\)"),
    (toy_data, lambda: ending_in("softmax"), {}, "ends in softmax"),
    (toy_data, Coded, {}, "must be wrapped first"),
    (toy_data, any_size, {"method": "free"}, "method free"),
    (toy_data, two_outputs, {}, "say which is judged .*or choose one"),
    (toy_data, lambda: under_policy("mixed_bfloat16"), {}, "computes in less than float32"),
    (toy_data, regularised, {}, "weight_decay"),
    (lambda: toy_data(classes=1), lambda: network(classes=1), {}, "two classes or more"),
    (toy_data, of_bytes, {}, "say which values it takes"),
    (toy_data, lambda: around(lambda x: network()(keras.ops.cast(x, "float32")), dtype="uint8"), {}, "takes uint8"),
    (toy_data, lambda: around(lambda x: keras.ops.stop_gradient(network()(x))), {}, "No gradients"),
], ids=["batch", "class", "best", "patience", "check", "classes", "shape", "softmax", "code", "free", "outputs",
        "narrow", "regularised", "one class", "range", "uint8", "no gradient"])
def test_impossible_trainings_are_refused_and_write_nothing(data, net, values, message, tmp_path):
    with pytest.raises(KitError, match=message):
        train(net(), data(), settings(**values), tmp_path / "new", progress=False)
    begun = message == "No gradients"       # met in the first step, when the folder is there
    assert not (tmp_path / "new").exists() or begun and not list((tmp_path / "new").rglob("[!.]*.*"))


@pytest.mark.parametrize("callbacks, message", [
    (print, "a list of keras.callbacks"), ([print], "a list of keras.callbacks"),
    ([keras.callbacks.SwapEMAWeights()], "averages"),
    ([keras.callbacks.EarlyStopping("foo")], "in a layer or a callback"),
    ([keras.callbacks.LearningRateScheduler(lambda epoch: 0.1)], "needs `schedule: constant`"),
])
def test_callbacks_that_cannot_work_are_refused(callbacks, message, tmp_path):
    with pytest.raises(KitError, match=message):
        train(network(), toy_data(), settings(schedule="cosine"), tmp_path, progress=False, callbacks=callbacks)


@pytest.mark.parametrize("net, input_range", [
    (lambda: around(lambda x: {"logits": network()(x)}), None), (lambda: OwnCall(), None), (of_bytes, (0, 255)),
    (lambda: around(lambda x: network()(keras.layers.Permute((2, 3, 1))(x)), (3, 8, 8)), None),
], ids=["one named output", "a call of its own", "a range that is given", "channels first"])
def test_what_is_trained_is_what_is_judged(net, input_range, tmp_path):
    net, data = net(), toy_data()
    history = train(net, data, settings(learning_rate=1e-3), tmp_path, progress=False, input_range=input_range)
    judged = attacks.run(attacks.Clean(), net, *data.part("validation"), input_range=input_range)
    assert judged.accuracy == pytest.approx(history["val_accuracy"][-1])


@pytest.mark.parametrize("teacher, message", [
    (lambda: ending_in("softmax"), "ends in softmax"), (lambda: network(classes=4), "the baseline knows 4 classes"),
], ids=["softmax", "classes"])
def test_a_teacher_is_checked_as_the_model_is(teacher, message, tmp_path):
    with pytest.raises(KitError, match=message):
        train(network(), toy_data(), settings(method="distilled"), tmp_path / "new", baseline=teacher(), progress=False)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_a_global_policy_does_not_change_the_training(policy, tmp_path):
    plain, other = network(), network()
    expected = train(plain, toy_data(), settings(), tmp_path / "plain", progress=False)["loss"]
    keras.config.set_dtype_policy(policy)
    try:
        assert train(other, toy_data(), settings(), tmp_path / "other", progress=False)["loss"] == expected
    finally:
        keras.config.set_dtype_policy("float32")


def test_layers_that_keras_cannot_copy_are_trained_as_they_are_or_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop, "choose_precision", lambda wanted: "bfloat16" if wanted == "auto" else wanted)
    history = train(with_layer(Halved()), toy_data(), settings(), tmp_path / "auto")
    assert history["precision"] == ["float32"] * 2 and "trained as it is, in float32" in capsys.readouterr().out
    with pytest.raises(KitError, match="Keras cannot copy the model"):
        train(with_layer(Halved()), toy_data(), settings(precision="bfloat16"), tmp_path / "asked", progress=False)


@pytest.mark.parametrize("method", ["plain", "fgsm"])
def test_sparse_and_missing_gradients_are_taken(method, tmp_path):
    history = train(with_layer(Placed()), toy_data(), settings(method=method), tmp_path, progress=False)
    assert history["loss"][1] < history["loss"][0]


@pytest.mark.parametrize("values", [{}, {"method": "trades", "eps": "8/255"}, {"class_weights": True}],
                         ids=["plain", "trades", "class weights"])
def test_logits_are_float32_where_a_model_ends_in_a_function(values, tmp_path):
    net = network()
    net = keras.Model(net.inputs, 2.0 * net.outputs[0])
    assert twin(net, "bfloat16")(a_batch()[0]).dtype == tf.float32
    history = train(net, toy_data(), settings(precision="bfloat16", **values), tmp_path, progress=False)
    assert np.isfinite(history["loss"]).all()


def test_a_model_that_takes_any_size_is_trained(tmp_path):
    history = train(any_size(), toy_data(), settings(method="fgsm"), tmp_path, progress=False)
    assert len(history["epoch"]) == 2


def test_a_training_without_validation_images_works(tmp_path):
    history = train(network(), without(toy_data(), "validation"), settings(), tmp_path, progress=False)
    assert "val_accuracy" not in history and len(history["loss"]) == 2


def ruin(callback, value):
    """Spoil what is trained, which is the network or its twin of another precision."""
    callback.model.network.layers[-1].bias.assign([value] * 3)


def test_divergence_stops_at_once_and_keeps_the_last_checkpoint(tmp_path):
    steps = []
    poison = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: epoch == 1 and ruin(poison, math.nan),
        on_train_batch_begin=lambda batch, logs: steps.append(batch),
    )
    net = network()
    with pytest.raises(KitError, match=r"diverged.*epoch 2, step 1"):
        train(net, toy_data(), settings(), tmp_path, progress=False, callbacks=[poison])
    assert len(steps) == 6 + 1
    history = train(net, toy_data(), settings(), tmp_path, progress=False)  # goes on from epoch 1, sound
    assert len(history["loss"]) == 2 and all(map(math.isfinite, history["loss"]))


@pytest.mark.parametrize("data", [lambda: toy_data(train=16), lambda: without(toy_data(train=16), "validation")])
def test_divergence_in_the_only_step_of_an_epoch_is_seen_at_its_end(data, tmp_path):
    poison = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: ruin(poison, math.inf))
    net = network()
    with pytest.raises(KitError, match=r"diverged.*epoch 1, its end"):
        train(net, data(), settings(), tmp_path, progress=False, callbacks=[poison])
    assert not checkpoint_in(tmp_path).exists()


def test_a_learning_rate_beyond_all_numbers_is_refused(tmp_path):
    with pytest.raises(KitError, match="diverged.*Lower the learning rate"):
        train(network(), toy_data(train=16), settings(epochs=1, learning_rate=1e38), tmp_path, progress=False)


def test_divergence_in_the_last_step_of_an_epoch_keeps_the_epoch_before(tmp_path):
    def late(batch, logs):
        if batch == 5 and checkpoint_in(tmp_path).exists():
            ruin(poison, math.nan)

    poison = keras.callbacks.LambdaCallback(on_train_batch_end=late)
    net, chosen = network(), settings(epochs=3)
    with pytest.raises(KitError, match=r"diverged.*epoch 2, its end"):
        train(net, toy_data(), chosen, tmp_path, progress=False, callbacks=[poison])
    history = train(net, toy_data(), chosen, tmp_path, progress=False)  # goes on from epoch 1, sound
    assert history["epoch"] == [1, 2, 3] and all(map(math.isfinite, history["val_loss"]))


def test_a_full_disk_is_said_clearly_and_the_last_checkpoint_stays(tmp_path, monkeypatch):
    write, calls = np.savez, []

    def full(file, **arrays):
        calls.append(1)
        if len(calls) == 2:
            file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, **arrays)

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(KitError, match="No space left on device.*free space"):
        train(network(), toy_data(), settings(epochs=3), tmp_path, progress=False)
    assert [path.name for path in tmp_path.rglob("*.npz")] == ["checkpoint.npz"]
    assert len(train(network(), toy_data(), settings(epochs=3), tmp_path, progress=False)["loss"]) == 3
