import matplotlib.pyplot as plt
import numpy as np
import pytest

from kitlib import data, plots
from kitlib.data import DataSettings
from kitlib.evaluation import Accuracy
from kitlib.experiments.results import Measured, PaperEntry
from kitlib.experiments.sweeps import Spread


@pytest.fixture(scope="module")
def dataset():
    limits = {"train": 60, "validation": 20, "test": 20}
    return data.load(DataSettings.read({"name": "digits", "limits": limits}, "here"), seed=0)


def figures(dataset):
    images = dataset.pixels("test")[:2]
    accuracies = [Accuracy(9, 10), Accuracy(0, 10)]
    measured = Measured(**Accuracy(5, 10).record())
    yield plots.samples(dataset)
    yield plots.class_counts(dataset)
    yield plots.image_row(images, ["a", "b"])
    yield plots.training_curves({"loss": [2.0, 1.0], "accuracy": [0.1, 0.9], "robust_accuracy": [0, 0.1]}, 0.1)
    yield plots.attack_grid(images, {"FGSM": images + 0.1}, {"clean": ["3", "4"], "FGSM": ["5", "6"]},
                            {"clean": [True, True], "FGSM": [False, False]})
    yield plots.one_attack(images[0], images[0] + 0.1, np.eye(10)[3], np.eye(10)[5], 3, dataset.class_names)
    yield plots.epsilon_curve({"FGSM": accuracies}, [0, 8 / 255], 0.1)
    yield plots.confusion_matrices({"clean": np.eye(3, dtype=int), "PGD": np.zeros((3, 3), int)}, ["a", "b", "c"])
    yield plots.accuracy_bars({"baseline": {"clean": measured}, "defended": {"clean": measured}}, 0.1)
    entry = PaperEntry(id="a", paper=80, as_published=measured, as_defined=measured, control=None, verdict=None, why="")
    yield plots.claims({"a": entry, "b": entry.model_copy(update={"verdict": "explained"})}, [0.1, 0.5], "Paper A")
    yield plots.predictions({"clean": (images, np.full((2, 10), 0.1))}, [3, 4], dataset.class_names)
    yield plots.explanations({"clean": images}, {"clean": images[..., 0]}, {"clean": images - 0.5},
                             {"clean": ["3", "4"]})
    yield plots.roc_curves({"PGD": ([0, 0.1, 1], [0, 0.8, 1])}, 0.05)
    of_class = {name: {"a": accuracy.record()} for name, accuracy in zip(("clean", "PGD"), accuracies, strict=True)}
    yield plots.recalls({"baseline": of_class}, ["a"])
    yield plots.image_pairs(images, images, ["0.97", "0.96"])
    yield plots.neighbour_curves({0: {"by_lag": {1: 0.8, 2: 0.6, 5: 0.3}, "random": 0.2}}, ["a"])
    yield plots.similarity_maps({"a": np.eye(20)})
    judged = {name: {"accuracy": share, "interval": (share - 0.1, share + 0.1)} for name, share in
              {"clean": 0.9, "carried_over": 0.8, "naive": 0.7, "worst_case": 0.2}.items()}
    records = {"plain": judged | {"training": {"times_plain": 1.0}}, "pgd": judged | {"training": {"times_plain": 4.9}}}
    yield plots.naive_against_adaptive(records, 0.1)
    yield plots.accuracy_against_cost(records)
    yield plots.transfer_heatmap({name: {"a": accuracies[0], "b": accuracies[1]} for name in ("clean", "a", "b")})


def test_every_picture_is_drawn_saved_and_closed(dataset, tmp_path):
    for number, figure in enumerate(figures(dataset)):
        path = tmp_path / f"{number}.png"
        assert plots.keep(figure, path) is figure
        pixels = plt.imread(path)
        assert min(pixels.shape[:2]) > 200 and pixels[..., :3].std() > 0.01
    assert not plt.get_fignums()


def test_synthetic_data_are_marked_in_the_picture(dataset, tmp_path):
    figure = plots.keep(plots.class_counts(dataset), tmp_path / "a.png", synthetic=True)
    assert "synthetic" in figure.get_suptitle()


def test_pictures_keep_their_true_brightness(dataset):
    figure = plots.image_row([np.full((4, 4, 1), 0.5)], ["grey"])
    shown = figure.axes[0].images[0]
    assert shown.get_clim() == (0, 1) and shown.get_array().max() == 0.5
    plt.close(figure)


def test_dollars_in_names_are_no_formulas(tmp_path):
    """In titles, and where seaborn writes names beside axes."""
    names = ("$\\alpha_{$", "$")
    grid = plots.attack_grid(np.zeros((1, 4, 4, 1)), {names[0]: np.ones((1, 4, 4, 1))},
                             {"clean": [names[0]], names[0]: [names[1]]}, {"clean": [True], names[0]: [False]})
    matrices = plots.confusion_matrices({names[0]: np.eye(2, dtype=int)}, names)
    for figure in (grid, matrices):
        plots.keep(figure, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000


def test_groups_over_seeds_may_have_attacks_of_their_own():
    one, other = Spread.of({0: 0.25}), Spread.of({0: 0.5})
    figure = plots.over_seeds({"a": {"baseline": {"clean": one, "FGSM": other}},
                               "b": {"baseline": {"PGD": one, "clean": other}}})
    rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert rows == ["clean", "FGSM", "PGD"]
    drawn = [{round(float(line.get_ydata()[0]), 2) for line in axes.lines} for axes in figure.axes]
    assert drawn == [{0.0, 1.0}, {0.0, 2.0}]
    plt.close(figure)


def test_pictures_show_the_numbers_that_they_are_given():
    table = plots.confusion_matrices({"under an attack": np.array([[1, 2], [3, 4]])}, ["a", "b"])
    assert [text.get_text().split("\n")[0] for text in table.axes[0].texts] == ["1", "2", "3", "4"]
    curve = plots.epsilon_curve({"a model": [Accuracy(9, 10), Accuracy(2, 10)]}, [0, 8 / 255], 0.1)
    np.testing.assert_allclose(curve.axes[0].lines[0].get_xydata(), [[0, 0.9], [8, 0.2]])
    right = {"baseline": 9, "defended": 4}
    clean = {name: {"clean": Measured(**Accuracy(count, 10).record())} for name, count in right.items()}
    bars = [each for each in plots.accuracy_bars(clean, 0.1).axes[0].containers if hasattr(each, "patches")]
    assert {each.get_label(): each[0].get_width() for each in bars} == {"baseline": 90, "defended": 40}
    plt.close("all")


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
    ticks = [label.get_window_extent() for label in counts.axes[0].get_xticklabels()]
    assert len(ticks) == 3 and ticks[0].x0 >= 0
