"""The parts of attacks, each by itself on numbers whose answer is known on paper: no network is needed."""
import numpy as np
import pytest
import tensorflow as tf

from kitlib import attacks
from kitlib.attacks import base, gradient, minimal, square
from kitlib.attacks.base import draw, initial_state, keep_done, loss_of, margin, mark_done, seed_tensor
from kitlib.base.settings import KitError

LOGITS = np.array([[3.0, 1.0, 0.0, -1.0], [1.0, 4.0, 2.0, 2.5], [0.0, 1.0, 5.0, 3.0]], np.float32)
LABELS = np.array([0, 2, 2], np.int32)
INF = np.inf


def near(*expected):
    return pytest.approx(np.array(expected), abs=1e-5)


def pixels(*rows):
    """N x 1 x W x 1."""
    return tf.reshape(tf.constant(rows, tf.float32), (len(rows), 1, -1, 1))


def flat(tensor):
    return np.reshape(tensor, (len(tensor), -1))


# --- losses, projections, steps ---

def test_losses_are_those_of_their_papers():
    assert margin(LABELS, LOGITS).numpy() == near(-2, 2, -2)
    assert loss_of("margin", LABELS, LOGITS).numpy() == near(-2, 2, -2)
    assert loss_of("dlr", LABELS, LOGITS).numpy() == near(-2 / 3, 2 / 2, -2 / 4)      # over the first less the third
    assert loss_of("dlr", LABELS[:1] * 0, LOGITS[:1, :2]).numpy() == near(-2)         # two classes: the margin
    powers = np.exp(LOGITS)
    assert loss_of("ce", LABELS, LOGITS).numpy() == pytest.approx(
        -np.log(powers[np.arange(3), LABELS] / powers.sum(1)), abs=1e-5)


def test_scores_turn_round_for_a_target_but_not_the_aim():
    pgd = attacks.PGD(eps=0.1, loss="margin")
    aimed = pgd.model_copy(update={"targeted": True})
    assert pgd.score(LABELS, LOGITS).numpy() == near(-2, 2, -2)
    assert aimed.score(LABELS, LOGITS).numpy() == near(2, -2, 2)
    assert pgd.hits(tf.constant([0, 1, 2]), LABELS).numpy().tolist() == [False, True, False]
    assert aimed.hits(tf.constant([0, 1, 2]), LABELS).numpy().tolist() == [True, False, True]
    for attack in (attacks.Square(eps=0.1), attacks.CarliniWagnerL2()):
        assert attack.score(LABELS, LOGITS).numpy() == near(-2, 2, -2)
    assert attacks.Square(eps=0.1, targeted=True).score(LABELS, LOGITS).numpy() == near(2, -2, 2)


@pytest.mark.parametrize("norm, at, expected", [
    ("linf", [0.9, 0.1, 0.55, -0.2], [0.7, 0.3, 0.55, 0.0]), ("linf", [0.5, 0.5, 0.5, 0.4], [0.5, 0.5, 0.5, 0.25]),
    ("l2", [0.8, 0.1, 0.5, 0.05], [0.62, 0.34, 0.5, 0.05]), ("l2", [0.5, 0.6, 0.5, 0.05], [0.5, 0.6, 0.5, 0.05])])
def test_projections_end_on_the_ball_and_in_the_box(norm, at, expected):
    image = pixels([0.5, 0.5, 0.5, 0.05])
    found = attacks.FGSM(eps=0.2, norm=norm).project(pixels(at), image)
    assert flat(found)[0] == near(*expected)


@pytest.mark.parametrize("norm, expected", [("linf", [0.1, -0.1, 0, 0.1]), ("l2", [0.08, -0.06, 0, 0])])
def test_steps_have_their_length_however_small_the_gradient(norm, expected):
    attack = attacks.FGSM(eps=0.2, norm=norm)
    for size in (1, 1e-20):
        direction = pixels([4 * size, -3 * size, 0, 1e-9 * size if norm == "linf" else 0])
        assert flat(attack.steepest_step(direction, 0.1))[0] == near(*expected)


@pytest.mark.parametrize("attack, stride", [
    (attacks.PGD(eps=0.2, steps=5), 0.1), (attacks.PGD(eps=0.2, steps=5, step=0.03), 0.03),
    (attacks.MIM(eps=0.2, steps=5), 0.04), (attacks.MIM(eps=0.2, steps=5, step=0.03), 0.03)])
def test_strides(attack, stride):
    assert attack.stride == pytest.approx(stride)
    assert (attack.rounds, attack.length, attack.block, attack.stops) == (1, 5, 1, False)


def test_gradients_that_are_no_numbers():
    found = base.finite_gradient(tf.constant([np.nan, INF, -INF, 2.0])).numpy()
    assert found[[0, 3]].tolist() == [0, 2] and np.isfinite(found).all() and found[1] > 1e38 > -1e38 > found[2]


# --- the state ---

def test_the_best_is_kept_by_success_first_then_by_score():
    """Images: one that fools, one with a higher score, one with a lower, one that would lose its success."""
    state = initial_state(pixels([0], [0], [0], [0]), tf.constant([0, 0, 0, 0]))
    attack = attacks.PGD(eps=0.1, loss="margin")
    first = tf.constant([[3.0, 0], [3, 0], [3, 0], [0, 1]])
    state = attack.keep_best(state, pixels([0.1], [0.1], [0.1], [0.1]), first)
    assert flat(state["best"]).ravel() == near(0.1, 0.1, 0.1, 0.1)
    assert state["hit"].numpy().tolist() == [False] * 3 + [True]
    second = tf.constant([[0.0, 0.5], [2, 0], [4, 0], [9, 0]])
    state = attack.keep_best(state, pixels([0.2], [0.2], [0.2], [0.2]), second)
    assert flat(state["best"]).ravel() == near(0.2, 0.2, 0.1, 0.1)
    assert state["prediction"].numpy().tolist() == [1, 0, 0, 1] and state["score"].numpy() == near(0.5, -2, -3, 1)
    assert state["hit"].numpy().tolist() == [True, False, False, True]


def test_unknown_labels_become_the_predictions_and_known_ones_stay():
    state = attacks.PGD.fill_labels(initial_state(pixels([0], [0], [0]), tf.constant([-1, 0, -1])), LOGITS)
    assert state["labels"].numpy().tolist() == [0, 0, 2]


def test_done_images_are_left_alone_only_where_that_is_wanted():
    before = initial_state(pixels([0], [0]), tf.constant([0, 0])) | {"hit": tf.constant([True, False])}
    assert not mark_done(before, False)["done"].numpy().any()
    before = mark_done(before, True)
    assert before["done"].numpy().tolist() == [True, False]
    after = before | {"best": pixels([1], [1])}
    assert flat(keep_done(before, after, True)["best"]).ravel().tolist() == [0, 1]
    assert flat(keep_done(before, after, False)["best"]).ravel().tolist() == [1, 1]


def test_random_numbers_go_with_the_image_not_with_its_place():
    seed = seed_tensor(5)
    whole = {"images": tf.zeros((4, 1, 3, 1)), "ids": tf.constant([0, 1, 2, 1026], tf.int64)}
    part = {"images": whole["images"][:2], "ids": whole["ids"][2:]}
    for entries in (None, 2):
        one, other = (draw(state, seed, tf.random.stateless_uniform, entries).numpy() for state in (whole, part))
        np.testing.assert_array_equal(one[2:], other)
        assert len(np.unique(one)) == (one.size if entries is None else one.size - 2)    # 2 and 1026 share a row
    plain = {"images": whole["images"]}
    assert draw(plain, seed, tf.random.stateless_uniform).shape == (4, 1, 3, 1)
    assert draw(plain, seed, tf.random.stateless_uniform, 2).shape == (4, 2)
    assert seed_tensor(2**31 + 3).numpy().tolist() == [3, 1] and seed_tensor(3).numpy().tolist() == [3, 0]
    assert not np.array_equal(*(tf.random.fold_in(seed, number) for number in (0, 1)))
    assert seed_tensor(None).shape == (2,)


def test_points_are_uniform_in_the_ball():
    """In D dimensions the D-th power of the radius is uniform: its mean is a half and its variance a twelfth."""
    state = {"images": tf.fill((4000, 1, 3, 1), 0.5)}
    change = flat(attacks.PGD(eps=0.3, norm="l2").random_in_ball(state, seed_tensor(0)) - state["images"])
    power = (np.linalg.norm(change, axis=1) / 0.3) ** 3
    assert power.max() <= 1 + 1e-5 and power.mean() == pytest.approx(0.5, abs=0.02)
    assert power.var() == pytest.approx(1 / 12, abs=0.005) and change.mean(0) == pytest.approx(np.zeros(3), abs=0.01)
    change = flat(attacks.PGD(eps=0.3).random_in_ball(state, seed_tensor(0)) - state["images"])
    assert np.abs(change).max() <= 0.3 + 1e-6 and change.var() == pytest.approx(0.3**2 / 3, rel=0.03)
    assert change.mean(0) == pytest.approx(np.zeros(3), abs=0.01)


# --- APGD ---

def test_apgd_s_checkpoints_are_the_paper_s_whatever_the_steps():
    places = {steps: [step for step, window in enumerate(gradient.checkpoints(steps)) if window] for steps in (10, 100)}
    assert places == {100: [22, 41, 57, 70, 80, 87, 93, 99], 10: [3, 5, 6, 7, 8, 9]}
    assert gradient.checkpoints(10) == [0, 0, 0, 3, 0, 2, 1, 1, 1, 1]


def apgd_state(**columns):
    rows = len(next(iter(columns.values())))
    given = {"stride": 0.4, "rises": 0.0, "top_loss": 0.0, "checked_loss": 0.0, "halved": False, "last_loss": 0.0}
    return {name: tf.constant(columns.get(name, [value] * rows)) for name, value in given.items()}


def test_apgd_halves_where_the_loss_rarely_rose_or_stands_still():
    """At step 22 of 100 the window is 22 steps, three quarters of them 16.5."""
    apgd = attacks.APGD(eps=0.2, steps=100)
    state = apgd_state(rises=[16.0, 17.0, 17.0, 17.0, 17.0], top_loss=[2.0, 2.0, 1.0, 1.0, 0.5],
                       checked_loss=[1.0, 1.0, 1.0, 1.0, 1.0], halved=[False, False, False, True, False])
    halve, after = apgd._check(state, tf.constant(22))
    assert halve.numpy().tolist() == [True, False, True, False, True]
    assert after["stride"].numpy() == near(0.2, 0.4, 0.2, 0.4, 0.2)
    assert after["checked_loss"].numpy() == near(2, 2, 1, 1, 0.5) and not after["rises"].numpy().any()
    assert after["halved"].numpy().tolist() == halve.numpy().tolist()
    halve, after = apgd._check(state, tf.constant(23))       # no checkpoint
    assert not halve.numpy().any() and all(np.array_equal(after[name], state[name]) for name in state)


def test_apgd_remembers_the_top_and_counts_the_rises():
    state = apgd_state(top_loss=[1.0, 1.0], last_loss=[0.0, 3.0], rises=[1.0, 1.0]) | {
        "iterate": pixels([0.5], [0.5]), "top": pixels([0.1], [0.1]), "top_gradient": pixels([7], [7])}
    after = attacks.APGD(eps=0.1)._track_highest_loss(state, pixels([9], [9]), tf.constant([2.0, 0.5]))
    assert flat(after["top"]).ravel() == near(0.5, 0.1) and flat(after["top_gradient"]).ravel() == near(9, 7)
    assert after["top_loss"].numpy() == near(2, 1) and after["rises"].numpy() == near(2, 1)
    assert after["last_loss"].numpy() == near(2, 0.5)


def test_apgd_glides_on_with_a_quarter_of_its_last_move():
    apgd = attacks.APGD(eps=0.3)
    state = {"images": pixels([0.5, 0.5]), "before": pixels([0.42, 0.5]), "stride": tf.constant([0.2])}
    at, direction = pixels([0.5, 0.5]), pixels([1, -1])
    first, later = (flat(apgd._momentum_step(state, at, direction, tf.constant(number)))[0] for number in (0, 1))
    assert first == near(0.7, 0.3) and later == near(0.5 + 0.15 + 0.02, 0.35)


# --- Carlini & Wagner, DeepFool, Adam ---

def test_tanh_space_goes_there_and_back():
    values = pixels([0, 0.2, 0.5, 1])
    assert flat(minimal.from_tanh(minimal.to_tanh(values)))[0] == near(0, 0.2, 0.5, 1)
    assert np.isfinite(minimal.to_tanh(values)).all() and float(minimal.from_tanh(tf.zeros(1))[0]) == 0.5
    assert minimal.squared_distance(values, values - pixels([3, 4, 0, 0])).numpy() == near(25)


def test_cw_searches_tenfold_until_the_first_success_then_by_bisection():
    """Images: never a success; now one, at first; now one within bounds; none now within bounds; goes on."""
    attack = attacks.CarliniWagnerL2(search_steps=3, steps=10, abort_early=False)
    rows = 5
    state = {
        "iteration": tf.constant([9, 9, 9, 9, 4]), "search": tf.constant([0, 0, 2, 1, 1]),
        "c": tf.constant([1.0, 1.0, 3.0, 3.0, 3.0]), "low": tf.constant([0.0, 0.0, 2.0, 2.0, 2.0]),
        "high": tf.constant([INF, INF, 4.0, 4.0, 4.0]), "succeeded": tf.constant([False, True, True, False, True]),
        "done": tf.fill([rows], False), "lowest_loss": tf.fill([rows], 5.0), "waited": tf.fill([rows], 3),
        "w": tf.fill((rows, 1, 1, 1), 2.0), "origin": tf.fill((rows, 1, 1, 1), 1.0),
        "first_moment": tf.fill((rows, 1, 1, 1), 2.0), "second_moment": tf.fill((rows, 1, 1, 1), 2.0),
    }
    after = attack._next_search(state, tf.constant([6.0, 6.0, 6.0, 6.0, 4.0]))
    assert after["c"].numpy() == near(10, 0.5, 2.5, 3.5, 3)
    assert after["low"].numpy() == near(1, 0, 2, 3, 2) and after["high"].numpy().tolist() == [INF, 1, 3, 4, 4]
    assert after["search"].numpy().tolist() == [1, 1, 3, 2, 1]
    assert after["done"].numpy().tolist() == [False, False, True, False, False]
    assert after["iteration"].numpy().tolist() == [0, 0, 0, 0, 5] and after["waited"].numpy().tolist() == [0] * 5
    assert after["lowest_loss"].numpy().tolist() == [INF] * 4 + [4]
    assert after["succeeded"].numpy().tolist() == [False] * 4 + [True]
    assert flat(after["w"]).ravel().tolist() == [1, 1, 1, 1, 2]
    for moment in ("first_moment", "second_moment"):
        assert flat(after[moment]).ravel().tolist() == [0] * 4 + [2]


@pytest.mark.parametrize("loss, waited, ends", [(5.0, 8, False), (5.0, 9, True), (4.9996, 9, True), (4.99, 9, False)])
def test_cw_gives_a_search_up_after_ten_steps_without_progress(loss, waited, ends):
    attack = attacks.CarliniWagnerL2(search_steps=3, steps=50)
    assert attack.patience == 10 and attacks.CarliniWagnerL2(steps=1000).patience == 200
    one = tf.ones((1, 1, 1, 1))
    state = {"iteration": [20], "search": [0], "c": [1.0], "low": [0.0], "high": [INF], "succeeded": [False],
             "done": [False], "lowest_loss": [5.0], "waited": [waited]}
    state = {name: tf.constant(value) for name, value in state.items()}
    state |= {"w": one, "origin": one, "first_moment": one, "second_moment": one}
    assert attack._next_search(state, tf.constant([loss]))["search"].numpy()[0] == ends


def test_cw_succeeds_by_its_confidence_and_keeps_the_nearest():
    attack = attacks.CarliniWagnerL2(confidence=1.5)
    assert attack._succeeds(tf.constant([0, 2, 0]), LOGITS).numpy().tolist() == [False, True, True]
    assert attack._succeeds(tf.constant([0, 3, 0]), LOGITS).numpy().tolist() == [False, True, True]    # by exactly 1.5
    state = initial_state(pixels([0], [0], [0]), tf.constant([2, 2, 2])) | {
        "distance": tf.constant([3.0, 1.0, INF]), "succeeded": tf.fill([3], False),
        "done": tf.constant([False, False, True])}
    logits = tf.constant([[9.0, 0, 0]] * 3)
    after = attack._keep_nearest(state, pixels([0.2], [0.2], [0.2]), logits, tf.constant([2.0, 2.0, 2.0]))
    assert flat(after["best"]).ravel() == near(0.2, 0, 0) and after["distance"].numpy().tolist() == [2, 1, INF]
    assert after["hit"].numpy().tolist() == after["succeeded"].numpy().tolist() == [True, True, False]
    assert after["prediction"].numpy().tolist() == [0, -1, -1]


@pytest.mark.parametrize("norm, expected", [("l2", [0, -0.4 - 1e-4, 0]), ("linf", [0.3 + 1e-4] * 2 + [-0.3 - 1e-4])])
def test_deepfool_steps_to_the_boundary_that_is_nearest_by_its_norm(norm, expected):
    gaps = [tf.constant([-0.8]), tf.constant([-1.2])]
    slopes = [pixels([0, -2, 0]), pixels([1, 1, -2])]
    assert flat(attacks.DeepFool(norm=norm)._to_nearest_boundary(gaps, slopes))[0] == near(*expected)


def test_adam_is_keras_s():
    import keras

    value, optimizer = tf.Variable(pixels([1, 2, 3])), keras.optimizers.Adam(0.1, epsilon=1e-8)
    state = {"w": pixels([1, 2, 3]), "first_moment": tf.zeros((1, 1, 3, 1)), "second_moment": tf.zeros((1, 1, 3, 1))}
    for number, slope in enumerate(([1, -2, 0.1], [3, 0, 0.1], [-1, 1, 0.1])):
        optimizer.apply([pixels(slope)], [value])
        state |= minimal.adam(state, "w", pixels(slope), tf.constant([number + 1]), 0.1)
    np.testing.assert_allclose(state["w"], value, atol=1e-5)


# --- Square ---

def test_squares_are_halved_after_the_paper_s_queries():
    schedule = square.sides(10_000, 0.8, 32, 32, smallest=1)
    assert [step for step, (one, two) in enumerate(zip(schedule, schedule[1:], strict=False), 1) if one != two] == [
        11, 51, 201, 501, 1001, 2001, 4001, 6001, 8001]
    shares = [0.8 / 2**halvings for halvings in range(10)]
    assert sorted(set(schedule), reverse=True) == [max(1, round((1024 * share) ** 0.5)) for share in shares]
    assert square.sides(100, 0.8, 6, 40, smallest=1)[:2] == [6, 6]          # no larger than the picture
    assert set(square.sides(10_000, 0.8, 32, 32, smallest=3, odd=True)) == {29, 21, 15, 11, 7, 5, 3}


def test_bumps_are_opposite_pyramids_of_norm_1():
    assert square._pyramid(5, 5)[2].tolist() == near(1 / 9, 1 / 9 + 1 / 4, 1 / 9 + 1 / 4 + 1, 1 / 9 + 1 / 4, 1 / 9)
    for side in (1, 2, 3, 4, 7):
        found = square.bump(side)
        assert found.shape == (side, side) and np.linalg.norm(found) == pytest.approx(1)
    found = square.bump(4)
    assert (found[:2] > 0).all() and (found[2:] < 0).all() and found[:2] == near(*-found[2:])


def test_windows_lie_inside_the_picture_and_know_their_places():
    found = square._window(tf.constant([0.0, 0.999]), tf.constant([0.999, 0.5]), 2, 4, 5)
    inside, i, j = (each.numpy() for each in found)
    assert inside.shape == (2, 4, 5, 1) and inside.sum((1, 2, 3)).tolist() == [4, 4]
    assert np.argwhere(inside[0, ..., 0]).tolist() == [[0, 3], [0, 4], [1, 3], [1, 4]]
    assert np.argwhere(inside[1, ..., 0]).tolist() == [[2, 2], [2, 3], [3, 2], [3, 3]]
    assert i[0, :2, 3].tolist() == [0, 1] and j[0, 0, 3:].tolist() == [0, 1] and not i[0, 2:].any()
    assert square._signs(tf.constant([0.1, 0.5, 0.9])).numpy().tolist() == [-1, 1, 1]


@pytest.mark.parametrize("move", ["start", "next"])
def test_squares_and_bumps_stay_on_the_ball(move):
    """L-inf: a square changes by 2 eps, the ball keeps eps; L2: the whole length is used."""
    state = {"images": tf.fill((6, 10, 10, 2), 0.5), "ids": tf.range(6, dtype=tf.int64)}
    linf, l2 = attacks.Square(eps=0.1, steps=50), attacks.Square(eps=0.4, steps=50, norm="l2")
    state["best"] = linf._stripes(state, seed_tensor(1))
    stripes = state["best"].numpy() - 0.5
    assert np.abs(stripes) == pytest.approx(np.full(stripes.shape, 0.1), abs=1e-6) and (stripes == stripes[:, :1]).all()
    if move == "next":
        change = linf._new_square(state, tf.constant(20), seed_tensor(2)).numpy() - state["best"].numpy()
        assert {round(float(value), 5) for value in np.unique(np.abs(change))} == {0, 0.2}
        assert (np.any(change, axis=(1, 2, 3))).mean() > 0.5
    state["best"] = l2._tiles(state, seed_tensor(1))
    if move == "next":
        state["best"] = l2._new_bump(state, tf.constant(20), seed_tensor(2))
    change = state["best"].numpy() - 0.5
    assert np.linalg.norm(flat(change), axis=1) == pytest.approx(np.full(6, 0.4), rel=1e-4)


# --- results ---

def test_a_summary_counts_distances_of_successes_only():
    found = attacks.AttackResult(
        attack=attacks.Clean(), images=None, labels=np.zeros(4, int), predictions=np.array([0, 1, 1, 0]),
        fooled=np.array([False, True, True, False]), found=np.array([False, True, True, False]),
        l2=np.array([9.0, 1, 2, 9]), linf=np.array([9.0, 0.1, 0.3, 9]), seconds=1.0)
    summary = found.summary()
    assert (summary["accuracy"], summary["success"], summary["count"]) == (0.5, 0.5, 4)
    assert (summary["mean_l2"], summary["mean_linf"]) == near(1.5, 0.2)
    assert attacks.worst_case([found, found]).tolist() == [True, False, False, True]


def test_pixels_that_rounding_has_put_outside_the_box_are_put_back(trained_model, images, labels):
    """As of floats that a mean and a standard deviation were taken off and put back to."""
    moved = images[:8] + np.float32(3e-8) * np.where(images[:8] > 0.5, 1, -1).astype(np.float32)
    assert moved.min() < 0
    for attack in ({"name": "fgsm", "eps": 0}, {"name": "pgd", "eps": 0.1, "steps": 2}):
        found = attacks.run(attacks.read(attack), trained_model, moved, labels[:8]).images
        assert found.min() >= 0 and found.max() <= 1
    with pytest.raises(KitError, match="must lie in"):
        attacks.run(attacks.read({"name": "fgsm", "eps": 0}), trained_model, images[:8] - 1e-4, labels[:8])
