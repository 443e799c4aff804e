"""Pictures: what stands in them is read back from the artists, as somebody who looks at them would."""
import subprocess
import sys
import types

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

from kitlib import data, plots
from kitlib.data import DataSettings
from kitlib.evaluation import Accuracy, Measured
from kitlib.experiments.aggregates import Spread
from kitlib.experiments.verdicts import Answer, PaperEntry
from kitlib.plots import style

NINE, TWO, NONE = Accuracy(9, 10), Accuracy(2, 10), Accuracy(0, 10)
ENDS = {each: [100 * end for end in each.interval] for each in (NINE, TWO, NONE)}
GREY, COLOUR = np.full((3, 4, 4, 1), 0.5, np.float32), np.random.default_rng(0).random((12, 4, 5, 3), np.float32)
RISING = [[0.0, 1, 2, 3, 4], [2.0, 3, 4, 5, 10]]      # two shares of a step, five images


def judged(clean, carried_over, naive, worst, cost):
    shares = {"clean": clean, "carried_over": carried_over, "naive": naive, "worst_case": worst}
    return {name: Accuracy(count, 10).record() for name, count in shares.items()} | {"training": {"times_plain": cost}}


RECORDS = {"plain": judged(9, 1, 0, 0, 1.0), "masked": judged(8, 7, 6, 0, 1.2), "pgd": judged(7, 6, 4, 2, 4.9)}


def measured(accuracy):
    return Measured(**accuracy.record())


def entry(verdict, explained_by=None):
    return types.SimpleNamespace(paper=80, as_published=measured(NINE), as_defined=measured(TWO), verdict=verdict,
                                 explained_by=explained_by)


@pytest.fixture(scope="module")
def dataset():
    limits = {"train": 60, "validation": 20, "test": 20}
    return data.load(DataSettings.read({"name": "digits", "limits": limits}, "here"), seed=0)


def lines(axes):
    """{label: [x, y]} of the lines that have one."""
    return {line.get_label(): np.array(line.get_data(), float).tolist() for line in axes.lines
            if line.get_label()[0] != "_"}


def texts(axes):
    return [text.get_text() for text in axes.texts]


def ticks(axes, axis="y"):
    return [label.get_text() for label in getattr(axes, f"get_{axis}ticklabels")()]


def bars_of(container):
    """[[low, high]] of the error bars, along the axis where they differ."""
    holder = container.errorbar if hasattr(container, "errorbar") else container
    ends = np.array([np.array(segment) for segment in holder.lines[2][0].get_segments()])
    along = 0 if np.ptp(ends[..., 0]) > 0 and np.ptp(ends[0, :, 1]) == 0 else 1
    return ends[:, :, along].tolist()


def band(axes, number=0):
    """[low, high] of a shaded band at its first and last place."""
    points = axes.collections[number].get_paths()[0].vertices
    return [[points[points[:, 0] == x, 1].min(), points[points[:, 0] == x, 1].max()]
            for x in (points[:, 0].min(), points[:, 0].max())]


def shown(figure):
    """The images in a figure."""
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]


def near(*expected):
    return pytest.approx(np.array(expected), abs=1e-4)


# --- curves ---

CURVES = {
    "sweep": (lambda: plots.epsilon_curve({"a": [NINE, TWO, NONE]}, [0, 1 / 255, 8 / 255], 0.3),
              {"a": [[0, 1, 2], [90, 20, 0]]}, {"a", "guessing"}),
    "loss": (lambda: plots.loss_along({"baseline": np.array(RISING)}, [0, 1], 8),
             {"baseline": [[0, 1], [2, 4]]}, set()),
    "roc": (lambda: plots.roc_curves({"PGD": ([0, 0.1, 1], [0, 0.8, 1])}, 0.05),
            {"PGD": [[0, 10, 100], [0, 80, 100]], "chance": [[0, 100], [0, 100]], "5 % false alarms": [[5, 5], [0, 1]]},
            set()),
    "neighbours": (lambda: plots.neighbour_curves({1: {"by_lag": {1: 0.8, 5: 0.3}, "random": 0.2}}, ["a", "b"]),
                   {"b": [[1, 5], [0.8, 0.3]]}, {"b", "b, random pairs"}),
}


@pytest.mark.parametrize("name", CURVES)
def test_curves_have_their_numbers_on_the_right_axes_and_their_names_at_their_ends(name):
    make, expected, named = CURVES[name]
    axes = make().axes[0]
    found = lines(axes)
    for label, points in expected.items():
        np.testing.assert_allclose(found[label], points, atol=1e-6)
    assert {text for text in texts(axes) if text.strip()} == named


def test_a_sweep_shows_small_epsilons_intervals_and_marks():
    marked = {"": 2 / 255, "trained with": 8 / 255, "beyond": 1}
    axes = plots.epsilon_curve({"weak": [NINE, NINE, NINE], "strong": [NINE, TWO, NONE]}, [0, 4 / 255, 8 / 255], 0.3,
                               marked).axes[0]
    assert ticks(axes, "x") == ["0", "4", "8"] and axes.get_xlabel().startswith("epsilon, n/255")
    assert band(axes, 1) == near(ENDS[NINE], ENDS[NONE])
    assert [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"] == near(0.5, 2)
    assert [text.strip() for text in texts(axes)] == ["weak", "strong", "guessing", "2/255", "trained with 8/255"]
    assert lines(axes)[plots.GUESSING][1] == [30, 30] and axes.get_ylabel() == "accuracy, %"
    assert axes.get_title() == "strong: accuracy 90 % without it, 20 % at 4/255"
    assert plots.epsilon_curve({"a": [NINE]}, [0], 0.1, title="None").axes[0].get_title() == "None"


def test_loss_along_shows_the_middle_half():
    assert band(plots.loss_along({"a": np.array(RISING)}, [0, 1], 8).axes[0]) == near([1, 3], [3, 5])


def test_a_small_loss_is_not_flattened_by_a_large_one():
    small, large = plots.loss_along({"a": np.array(RISING), "b": 100 * np.array(RISING)}, [0, 1], 8).axes
    assert (small.get_title(), large.get_title()) == ("a", "b") and large.get_ylim()[1] > 50 * small.get_ylim()[1]


def test_the_threshold_in_use_is_a_dot_on_each_roc_curve():
    curves = {"PGD": ([0, 0.1, 1], [0, 0.8, 1]), "C&W": ([0, 0.1, 1], [0, 0.9, 1])}
    axes = plots.roc_curves(curves, 0.05, {"PGD": (0.1, 0.8), "C&W": (0.1, 0.9)}).axes[0]
    curve, dot, other_curve, other_dot = axes.lines[:4]
    assert [np.ravel(each.get_data()).tolist() for each in (dot, other_dot)] == [near(10, 80), near(10, 90)]
    assert curve.get_color() == dot.get_color() != other_curve.get_color() == other_dot.get_color()


def test_neighbours_fill_the_axis_from_a_little_below_the_lowest():
    found = {0: {"by_lag": {1: 0.9, 5: 0.82}, "random": 0.8}}
    assert plots.neighbour_curves(found, ["a"]).axes[0].get_ylim() == near(0.77, 1)


def test_training_curves_are_in_per_cent_and_each_in_its_panel():
    history = {"loss": [2.0, 1.0], "val_loss": [2.1, 1.5], "accuracy": [0.1, 0.9], "val_accuracy": [0.2, 0.7],
               "adversarial_accuracy": [0.3, 0.4], "robust_accuracy": [0, 0.05]}
    left, right = plots.training_curves(history, 0.25).axes
    assert lines(left) == {"training": [[1, 2], [2, 1]], "validation": [[1, 2], [2.1, 1.5]]}
    heights = {name: points[1] for name, points in lines(right).items()}
    assert heights == {"training": near(10, 90), "validation": near(20, 70), "training, adversarial": near(30, 40),
                       "PGD, a fixed batch": near(0, 5)}
    assert set(texts(right)) == {*heights, "guessing"} and right.lines[-1].get_ydata()[0] == 25


def test_labels_stay_apart_in_their_order_and_near_their_lines():
    assert style.apart([50, 10, 51], 10, 0, 100) == near(45.5, 10, 55.5)
    assert style.apart([0, 1], 10, 0, 100) == near(5, 15) and style.apart([100, 99], 10, 0, 100) == near(95, 85)
    assert style.apart([], 10, 0, 100) == []


def test_groups_over_seeds_may_have_attacks_of_their_own():
    one, other = Spread.of({0: 0.25, 1: 0.35}), Spread.of({0: 0.5})
    figure = plots.over_seeds({"a": {"baseline": {"clean": one, "FGSM": other}},
                               "b": {"baseline": {"PGD": one, "clean": other}}, "c": {"defended": {"PGD": other}}})
    assert ticks(figure.axes[0]) == ["clean", "FGSM", "PGD"]
    drawn = [{round(float(line.get_ydata()[0]), 2) for line in axes.lines} for axes in figure.axes[:3]]
    assert drawn == [{0.0, 1.0}, {0.0, 2.0}, {2.0}]
    dots, interval, mean = (line.get_xdata() for line in figure.axes[0].lines[:3])
    assert (dots, interval, mean) == (near(25, 35), near(*(100 * np.array(one.interval))), near(30))
    assert [axes.get_xlabel() != "" for axes in figure.axes[:3]] == [False, True, True]
    two = plots.over_seeds({"a": {"baseline": {"clean": one}, "defended": {"clean": other}}}).axes[0]
    assert sorted({float(line.get_ydata()[0]) for line in two.lines}) == near(-0.17, 0.17)


def test_along_an_axis_every_mean_has_its_interval():
    spreads = [Spread.of({0: 0.2, 1: 0.3}), Spread.of({0: 0.5})]
    axes = plots.along_axis("eps", ["2", "4"], {"m": {"clean": spreads, "PGD": spreads[::-1]}}).axes[0]
    assert ticks(axes, "x") == ["2", "4"] and texts(axes) == ["clean", "PGD"]
    clean, pgd = axes.containers
    assert clean.lines[0].get_xdata() == near(-0.03, 0.97) and pgd.lines[0].get_ydata() == near(50, 25)
    assert bars_of(clean) == near(100 * np.array(spreads[0].interval), [50, 50])


# --- bars and matrices ---

def test_class_counts_stand_by_part_and_class(dataset):
    figure = plots.class_counts(dataset)
    for container in figure.axes[0].containers:
        counts = np.bincount(dataset.labels_of(container.get_label()), minlength=10)
        assert [bar.get_height() for bar in container] == counts.tolist()


def test_confusion_is_in_per_cent_of_each_true_class():
    counts = {"clean": [[1, 3, 0], [0, 0, 0], [0, 6, 4]], "a": np.eye(3), "b": np.eye(3), "c": np.eye(3)}
    figure = plots.confusion_matrices(counts, "xyz")
    heat, axes = figure.axes[0].collections[0].get_array(), figure.axes[0]
    np.testing.assert_allclose(heat.filled(-1), [[25, 75, 0], [-1] * 3, [0, 60, 40]])
    assert ticks(axes) == ["x (4)", "y (0)", "z (10)"] and ticks(axes, "x") == ["x", "y", "z"]
    assert texts(axes) == ["25", "75", "0", "0", "60", "40"]
    assert (axes.get_ylabel(), axes.get_xlabel(), axes.get_title()) == ("true class (images)", "predicted, %", "clean")
    assert [a.get_title() for a in figure.axes] == ["clean", "a", "b", "c", "", ""]
    assert figure.axes[2].get_subplotspec().colspan.stop == 3      # three in a row


def test_the_transfer_matrix_has_its_makers_as_rows():
    matrix = {"clean": {"a": NINE, "b": NINE}, "a": {"a": NONE, "b": TWO}, "b": {"a": NINE, "b": NONE}}
    axes = plots.transfer_heatmap(matrix).axes[0]
    np.testing.assert_allclose(axes.collections[0].get_array(), [[90, 90], [0, 20], [90, 0]])
    assert ticks(axes) == ["clean", "a", "b"] and ticks(axes, "x") == ["a", "b"]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("images made on", "judged by")


def test_accuracy_bars_have_lengths_and_intervals():
    table = {"baseline": {"clean": measured(NINE), "PGD": measured(NONE)},
             "defended": {"clean": measured(TWO), "PGD": measured(TWO)}}
    axes = plots.accuracy_bars(table, 0.3).axes[0]
    bars = {each.get_label(): each for each in axes.containers if hasattr(each, "patches")}
    assert {name: [bar.get_width() for bar in each] for name, each in bars.items()} == {
        "baseline": near(90, 0), "defended": near(20, 20)}
    assert bars_of(bars["baseline"]) == near(ENDS[NINE], ENDS[NONE])
    assert [bar.get_y() + bar.get_height() / 2 for bar in bars["defended"]] == near(0.2, 1.2)
    assert ticks(axes) == ["clean", "PGD"] and lines(axes)[plots.GUESSING][0] == [30, 30]


def test_claims_show_the_paper_s_number_both_protocols_and_the_verdict():
    rows = {"a": entry("compatible", "the clamp"), "b": entry("inconclusive"), "c": entry(None)}
    axes = plots.claims(rows, [0.1, 0.5, 0.2], "Paper A", "in full").axes[0]
    assert texts(axes) == ["compatible\nexplained by the clamp", "inconclusive", "other data"]
    marks = {each.get_label(): each for each in axes.containers}
    assert list(marks) == ["rerun as published", "standard attack"] and ticks(axes) == ["a", "b", "c"]
    assert [each.lines[0].get_xdata() for each in marks.values()] == [near(90, 90, 90), near(20, 20, 20)]
    assert bars_of(marks["rerun as published"])[2] == near(*ENDS[NINE])
    paper, guessing = (each.get_segments() for each in axes.collections if each.get_label()[0] != "_")
    assert [line[0][0] for line in paper] == [80] * 3 and [line[0][0] for line in guessing] == near(10, 50, 20)


def test_a_paper_s_entry_of_a_record_can_be_drawn():
    made = PaperEntry(id="a", paper=80, paper_images=100, margin=3, images=10, as_published=measured(NINE),
                      as_defined=Answer(**measured(TWO).model_dump()), defined_by="PGD")
    assert texts(plots.claims({"a": made}, [0.1], "Paper A").axes[0]) == ["other data"]


def test_the_naive_judgement_is_drawn_beside_the_worst_case_the_most_robust_first():
    axes = plots.naive_against_adaptive(RECORDS, 0.3).axes[0]
    assert ticks(axes) == ["pgd", "plain", "masked"]
    found = {label: points[0] for label, points in lines(axes).items()}
    assert found == {"clean": near(70, 90, 80), "carried over from the baseline": near(60, 10, 70),
                     "naive attack": near(40, 0, 60), "worst case": near(20, 0, 0), plots.GUESSING: near(30, 30)}
    spans = [line.get_xdata() for line in axes.lines[:2]]       # of the first row
    assert spans == [near(20, 70), near(*ENDS[TWO])]
    assert axes.get_title() == "The naive attack overstates the accuracy of 'masked' by 60 points"


def test_costs_are_a_sorted_dumbbell():
    axes = plots.accuracy_against_cost(RECORDS).axes[0]
    assert ticks(axes) == ["pgd", "plain", "masked"] and texts(axes)[:3] == ["4.9 x", "1.0 x", "1.2 x"]
    worst, = axes.containers
    assert worst.lines[0].get_xdata() == near(20, 0, 0) and bars_of(worst)[0] == near(*ENDS[TWO])
    assert lines(axes)["clean"] == [near(70, 90, 80), [0, 1, 2]]
    spans = [segment[:, 0] for segment in axes.collections[0].get_segments()]
    np.testing.assert_allclose(spans, [[20, 70], [0, 90], [0, 80]])


def test_recalls_stand_by_class_situation_and_model():
    of = {"baseline": {"clean": {"x": NINE.record(), "y": TWO.record()},
                       "PGD": {"x": NONE.record(), "y": TWO.record()}}}
    of["defended"] = {name: {label: Accuracy(1, 5).record() for label in "xy"} for name in ("clean", "PGD")}
    panels = plots.recalls(of, "xy").axes
    assert [panel.get_title() for panel in panels] == ["x, 5 images", "y, 5 images"]
    marks = {each.get_label(): each for each in panels[0].containers}
    assert marks["baseline"].lines[0].get_xdata() == near(90, 0) and bars_of(marks["baseline"])[0] == near(*ENDS[NINE])
    assert marks["defended"].lines[0].get_ydata() == near(0.15, 1.15) and ticks(panels[0]) == ["clean", "PGD"]


def test_similarity_maps_share_their_colours():
    first, second, _ = plots.similarity_maps({"a": np.eye(20), "b": np.eye(20) * 0.5 + 0.5}).axes
    assert first.images[0].get_clim() == second.images[0].get_clim() == (0, 1)


# --- images ---

def test_pictures_keep_their_true_brightness_and_their_colours():
    for images in (GREY, COLOUR):
        found = shown(plots.image_row(images[:2], "ab"))
        np.testing.assert_array_equal(found, images[:2].squeeze())
    assert plots.image_row(GREY, "abc").axes[0].images[0].get_clim() == (0, 1)
    four = np.stack([np.zeros((2, 2)), *np.ones((3, 2, 2))], -1)
    np.testing.assert_allclose(shown(plots.image_row([four], "a")), 0.75)      # the mean of other than 1 or 3 channels


def test_the_first_look_is_photograph_plus_ten_times_the_perturbation():
    figure = plots.first_look(COLOUR[0], COLOUR[0] + np.float32(4 / 255), ["predicts cat", "predicts deer"])
    clean, change, attacked = shown(figure)
    np.testing.assert_array_equal(clean, COLOUR[0])
    np.testing.assert_allclose(change, 0.5 + 40 / 255, atol=1e-5)
    np.testing.assert_allclose(attacked, np.clip(COLOUR[0] + 4 / 255, 0, 1), atol=1e-5)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["predicts cat", "perturbation, shown 10 times as strong\nlargest 4.0/255", "predicts deer"]
    assert [texts(axes) for axes in figure.axes] == [[], ["+"], ["="]]


@pytest.mark.parametrize("count, rows", [(1, 3), (2, 2), (3, 1)])
def test_an_attack_grid_has_ten_panels_at_most_and_each_image_beside_its_perturbation(count, rows):
    attacked = {f"a{k}": COLOUR[:3] + np.float32((k + 1) / 255) for k in range(count)}
    titles = {name: [f"predicts {name} {row}" for row in range(3)] for name in ("clean", *attacked)}
    right = {name: [name == "clean"] * 3 for name in titles}
    figure = plots.attack_grid(COLOUR[:3], attacked, titles, right)
    found = {}
    for axes in figure.axes:
        if axes.images:
            found.setdefault(axes.get_title(), []).append(np.asarray(axes.images[0].get_array()))
    assert sum(map(len, found.values())) == rows * (1 + 2 * count) <= 10
    for row in range(rows):
        np.testing.assert_array_equal(found[f"clean\npredicts clean {row}"][0], COLOUR[row])
        for name, images in attacked.items():
            np.testing.assert_allclose(found[f"{name}\npredicts {name} {row}"][0], np.clip(images[row], 0, 1))
    sizes = [f"perturbation, {127.5 / (k + 1):.2g} times\nlargest {k + 1}.0/255" for k in range(count)]
    assert all(np.ptp(found[size][0]) < 0.01 and found[size][0].min() > 0.98 for size in sizes)
    assert {axes.title.get_color() for axes in figure.axes if axes.get_title().startswith("a0")} == {"#b00020"}


def test_no_perturbation_is_mid_grey_and_says_so():
    figure = plots.one_attack(GREY[0], GREY[0] + 1e-5, np.eye(2)[0], np.eye(2)[0], 0, "xy")
    assert (shown(figure)[1] == 0.5).all() and figure.axes[1].get_title() == "no perturbation"


def test_one_attack_shows_the_probabilities_before_and_after():
    figure = plots.one_attack(GREY[0], GREY[1], np.array([0.17, 0.83]), np.array([0.6, 0.4]), 1, ["9", "8"])
    clean, _, attacked, *panels = figure.axes
    assert (clean.get_title(), attacked.get_title()) == ("clean\npredicts 8 (83 %)", "attacked\npredicts 9 (60 %)")
    assert [axes.title.get_color() for axes in (clean, attacked)] == ["black", "#b00020"]
    assert [[bar.get_width() for bar in axes.patches] for axes in panels] == [near(17, 83), near(60, 40)]
    assert [axes.patches[1].get_facecolor()[:3] for axes in panels] == [plots.PALETTE[0]] * 2       # the true class


def test_predictions_stand_beside_their_images():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
    figure = plots.predictions({"clean": (COLOUR[:3], probabilities), "PGD": (COLOUR[3:6], probabilities[::-1])},
                               [0, 0, 1], ["x", "y"])
    np.testing.assert_array_equal(shown(figure), COLOUR[[0, 3, 1, 4, 2, 5]])
    assert [axes.get_title() for axes in figure.axes[::2]] == [
        "clean\npredicts x (90 %)", "PGD\npredicts y (70 %)", "predicts y (80 %)", "predicts y (80 %)",
        "predicts y (70 %)", "predicts x (90 %)"]
    assert [axes.title.get_color() == "black" for axes in figure.axes[::2]] == [True, False, False, False, True, False]
    assert [[bar.get_width() for bar in axes.patches] for axes in figure.axes[1::4]] == [
        near(*row) for row in 100 * probabilities]


def test_explanations_sum_over_channels_and_red_speaks_for_the_class():
    values = np.zeros((2, 4, 5, 3), np.float32)
    values[:, 0, 0] = 1, 1, 2
    values[:, 1] = -4
    figure = plots.explanations({"clean": COLOUR[:2]}, {"clean": COLOUR[:2, ..., 0]}, {"clean": values},
                                {"clean": ["predicts x", "predicts y"]})
    picture, heat, shares = figure.axes[:3]
    assert picture.get_title() == "clean\npredicts x" and len(shown(figure)) == 6
    np.testing.assert_array_equal(heat.images[1].get_array(), COLOUR[0, ..., 0])
    np.testing.assert_allclose(shares.images[0].get_array()[:2, 0], [4, -12])
    assert shares.images[0].get_clim() == near(-12, 12) and shares.images[0].get_cmap().name == "RdBu_r"


def test_samples_and_pairs_are_the_images_of_their_class(dataset):
    figure = plots.samples(dataset)
    images, labels = dataset.pixels("train"), dataset.labels_of("train")
    for axes in figure.axes:
        first = images[labels == int(axes.get_title())][0]
        np.testing.assert_array_equal(axes.images[0].get_array(), first.squeeze())
    assert len(plots.samples(dataset, per_class=2).axes) == 20
    pairs = plots.image_pairs(COLOUR[:6], COLOUR[6:], "abcdef")
    np.testing.assert_array_equal(shown(pairs), COLOUR[[*range(5), *range(6, 11)]])
    assert [axes.get_title() for axes in pairs.axes] == [*"abcde", *[""] * 5]


# --- all of them ---

def figures(dataset):
    yield plots.samples(dataset)
    yield plots.class_counts(dataset)
    yield plots.confusion_matrices({"clean": np.eye(3, dtype=int), "PGD": np.zeros((3, 3), int)}, ["a", "b", "c"])
    yield plots.accuracy_against_cost(RECORDS)
    yield plots.naive_against_adaptive(RECORDS, 0.1)
    yield plots.claims({"a": entry("compatible", "label leaking"), "b": entry(None)}, [0.1, 0.5], "Paper A")
    yield plots.attack_grid(COLOUR[:1], {"PGD": COLOUR[1:2]}, {"clean": ["predicts automobile (100 %)"],
                            "PGD": ["predicts automobile (100 %)"]}, {"clean": [True], "PGD": [False]})
    yield plots.first_look(COLOUR[0], COLOUR[1], ["predicts cat (77 %)", "predicts deer (100 %)"])
    yield plots.epsilon_curve({"FGSM, predicted labels": [NINE, TWO], "PGD": [NINE, TWO]}, [0, 8 / 255], 0.1, 8 / 255)
    yield plots.training_curves({"loss": [2.0, 1.0], "accuracy": [0.1, 0.9], "robust_accuracy": [0, 0.1]}, 0.1)
    yield plots.predictions({"clean": (COLOUR[:2], np.full((2, 3), 0.3))}, [0, 1], ["a", "b", "chronic leukaemia"])
    yield plots.roc_curves({"PGD": ([0, 0.1, 1], [0, 0.8, 1])}, 0.05)


def test_every_picture_is_saved_whole_and_closed(dataset, tmp_path):
    for number, figure in enumerate(figures(dataset)):
        path = tmp_path / f"{number}.png"
        assert plots.keep(figure, path) is figure
        pixels = plt.imread(path)[..., :3]
        assert min(pixels.shape[:2]) > 200 and pixels.std() > 0.01
        border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert (border == 1).all()       # nothing is cut off
    assert not plt.get_fignums()


def test_the_user_s_style_is_left_as_it_was(dataset, tmp_path):
    with plt.rc_context({"axes.titlesize": 31, "figure.dpi": 55}):
        before, backend = dict(mpl.rcParams), mpl.get_backend()
        figure = plots.class_counts(dataset)
        assert dict(mpl.rcParams) == before and mpl.get_backend() == backend
        assert figure.dpi == 80 and figure.axes[0].title.get_size() == 12
        plots.keep(figure, tmp_path / "a.png")
        assert dict(mpl.rcParams) == before


def test_importing_changes_no_setting_of_matplotlib():
    code = ("import matplotlib as mpl; before = dict(mpl.rcParams); "
            "import kitlib.plots; assert dict(mpl.rcParams) == before")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_synthetic_data_are_marked_in_the_picture(dataset, tmp_path):
    figure = plots.keep(plots.class_counts(dataset), tmp_path / "a.png", synthetic=True)
    assert "synthetic" in figure.get_suptitle()


def test_dollars_in_names_are_no_formulas(tmp_path):
    """In titles, and where seaborn writes names beside axes."""
    names = ("$\\alpha_{$", "$")
    grid = plots.attack_grid(np.zeros((1, 4, 4, 1)), {names[0]: np.ones((1, 4, 4, 1))},
                             {"clean": [names[0]], names[0]: [names[1]]}, {"clean": [True], names[0]: [False]})
    matrices = plots.confusion_matrices({names[0]: np.eye(2, dtype=int)}, names)
    for figure in (grid, matrices):
        plots.keep(figure, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000


@pytest.mark.filterwarnings("error")
def test_long_names_of_classes_leave_the_pictures_legible(dataset):
    names = ("chronic lymphocytic leukaemia", "acute myeloid leukaemia", "diffuse large B-cell lymphoma")
    images = dataset.pixels("test")[:2]
    matrices = plots.confusion_matrices({"clean": np.eye(3, dtype=int), "PGD": np.eye(3, dtype=int)}, names)
    asked = plots.predictions({"clean": (images, np.full((2, 3), 0.3))}, [0, 1], names)
    for figure in (matrices, asked):
        figure.draw_without_rendering()
        for axes in figure.axes:
            assert min(axes.get_window_extent().size) > 0.7 * figure.dpi
            assert figure.bbox.padded(1).contains(*axes.title.get_window_extent().p0)
            assert figure.bbox.padded(1).contains(*axes.title.get_window_extent().p1)
    labels = data.Dataset("mine", dataset.images, dataset.labels % 3, names, dataset.split, "")
    counts = plots.class_counts(labels)
    counts.draw_without_rendering()
    labels = [label.get_window_extent() for label in counts.axes[0].get_xticklabels()]
    assert len(labels) == 3 and labels[0].x0 >= 0


def test_a_specification_curve_sorts_by_the_difference_and_marks_the_choices():
    rows = [{"settings": {"epochs": 6, "clip": None}, "measured": {"clean": TWO, "FGSM": NINE}},
            {"settings": {"epochs": 3, "clip": None}, "measured": {"clean": NINE, "FGSM": TWO}}]
    above, below = plots.specification_curve(rows, "clean", "FGSM", "tried").axes
    assert [line.get_ydata().tolist() for line in above.lines if line.get_marker() == "o"] == [[90, 20], [20, 90]]
    assert [label.get_text() for label in below.get_yticklabels()] == ["epochs: 3", "epochs: 6", "clip: None"]
    assert [line.get_ydata().tolist() for line in below.lines] == [[0, 2], [1, 2]]
    assert {text.get_text() for text in above.texts} == {"clean", "FGSM"}
