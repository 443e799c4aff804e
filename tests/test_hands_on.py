"""One picture, one attack, sliders: what is drawn, and that a slider draws it anew."""
import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from PIL import Image

from kitlib import attacks, models
from kitlib.base.settings import KitError
from kitlib.data import DataSettings
from kitlib.plots import sliders

NAMES = tuple("0123456789")
DATA = DataSettings.read({"name": "digits", "size": 8}, "here")


@pytest.fixture(scope="module")
def explorer(trained_model, images, labels):
    """The first ten pictures that the model has right."""
    right = np.flatnonzero(models.predict_logits(trained_model, images).argmax(1) == labels)[:10]
    return sliders.Explorer(trained_model, images[right], NAMES, labels[right])


def shown(figure):
    """The pictures of a figure: the clean one, the perturbation, the attacked one."""
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]


def bars(figure):
    """What stands in the two panels of probabilities, in per cent."""
    return [np.array([bar.get_width() for bar in axes.patches]) for axes in figure.axes if axes.patches]


def test_the_figure_shows_pictures_and_probabilities_before_and_after(explorer, trained_model):
    figure = explorer.figure(number=2, eps=64 / 255, steps=5)
    clean, _, attacked = shown(figure)
    np.testing.assert_array_equal(clean, explorer.images[2].squeeze())
    assert 0 < np.abs(attacked - clean).max() <= 64 / 255 + 1e-6
    for picture, panel in zip((clean, attacked), bars(figure), strict=True):
        logits = models.predict_logits(trained_model, picture[None, ..., None]).astype(float)
        np.testing.assert_allclose(panel, 100 * np.exp(logits[0]) / np.exp(logits[0]).sum(), atol=0.01)
    assert f"predicts {explorer.labels[2]} (" in figure.axes[0].get_title()
    assert f"predicts {explorer.labels[2]} (" not in figure.axes[2].get_title()
    assert not plt.get_fignums()


def test_with_epsilon_0_nothing_changes(explorer):
    clean, perturbation, attacked = shown(explorer.figure(eps=0.0))
    np.testing.assert_array_equal(clean, attacked)
    assert np.all(perturbation == 0.5)


def test_one_step_is_fgsm_and_more_do_more(explorer, trained_model):
    fgsm = attacks.FGSM(eps=16 / 255).perturb(trained_model, explorer.images, explorer.labels)
    np.testing.assert_allclose(explorer.attack(3, 16 / 255, steps=1), fgsm[3], atol=1e-6)

    def sure(steps):
        """Probability of the true class, in per cent, on the mean over three pictures."""
        return np.mean([bars(explorer.figure(number, 16 / 255, steps))[1][explorer.labels[number]]
                        for number in range(3)])
    assert sure(20) < sure(1)


def test_a_slider_draws_another_picture_and_another_answer(explorer):
    drawn = []
    number, eps, steps = explorer.sliders(drawn.append, number=0, eps=0.0, steps=5).children
    eps.value = 64
    assert "eps 64/255" in drawn[-1].get_suptitle() and len(drawn) == 1
    assert f"says {explorer.labels[0]}," not in drawn[-1].axes[2].get_title()
    number.value = 4
    np.testing.assert_array_equal(shown(drawn[-1])[0], explorer.images[4].squeeze())
    steps.value = 1
    assert "1 step" in drawn[-1].get_suptitle() and len(drawn) == 3
    assert not np.array_equal(shown(drawn[-1])[2], shown(drawn[-2])[2])


@pytest.fixture
def displayed(monkeypatch):
    """Runs something as in a notebook, and returns what it displayed."""
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    InteractiveShell.instance()

    def run(work):
        with capture_output() as captured:
            work()
        return captured.outputs
    yield run
    InteractiveShell.clear_instance()


def test_headless_there_is_a_picture_and_no_widget(explorer, displayed):
    outputs = displayed(explorer.show)
    assert len(outputs) == 1 and "Figure" in outputs[0].data["text/plain"]


def test_where_somebody_looks_sliders_stand_above_the_picture(explorer, displayed, monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "03_attack_generation.ipynb")
    sliders, picture = displayed(explorer.show)
    assert "application/vnd.jupyter.widget-view+json" in sliders.data
    assert "Figure" in picture.data["text/plain"]
    assert len(displayed(lambda: explorer.show(live=False))) == 1


def test_a_moved_slider_updates_the_picture_that_is_displayed(explorer, displayed, monkeypatch):
    made = []
    monkeypatch.setattr(sliders, "display", made.append)
    _ = displayed(lambda: explorer.show(live=True))
    outputs = displayed(lambda: made[0].children[1].set_trait("value", 8.0))
    assert "Figure" in outputs[0].data["text/plain"]


def test_an_own_picture_is_prepared_as_the_data_are(tmp_path, trained_model):
    left_half = np.zeros((40, 60, 3), np.uint8)
    left_half[:, :30] = 255
    Image.fromarray(left_half).save(tmp_path / "mine.png")
    own = sliders.read_picture(str(tmp_path / "mine.png"), DATA)
    assert own.shape == (1, 8, 8, 1) and own.dtype == np.float32
    assert own[0, :, :3].min() > 0.95 and own[0, :, 5:].max() < 0.05


def test_a_coloured_picture_is_grey_where_the_data_are(tmp_path):
    Image.new("RGB", (20, 20), (255, 0, 0)).save(tmp_path / "red.png")
    for name in ("iq_othnccd", "phantom_ct"):
        own = sliders.read_picture(str(tmp_path / "red.png"), DataSettings(name=name, size=16, channels=3))
        assert own.shape == (1, 16, 16, 3) and np.ptp(own) < 0.01 and 0.2 < own.mean() < 0.4
    own = sliders.read_picture(str(tmp_path / "red.png"), DataSettings(name="cifar10", size=16))
    np.testing.assert_allclose(own[0, 8, 8], (1, 0, 0))


def test_a_picture_that_is_not_there_is_named():
    with pytest.raises(KitError, match="nobody-of-this-name"):
        sliders.read_picture("~nobody-of-this-name/a.png", DATA)


def test_pictures_are_counted_from_the_end_too(explorer):
    last = len(explorer.images) - 1
    np.testing.assert_array_equal(explorer.attack(-1, 0.1, 2), explorer.attack(last, 0.1, 2))


def test_without_labels_the_attack_leads_away_from_the_answer(explorer, trained_model):
    mine = sliders.Explorer(trained_model, explorer.images[:1], NAMES)
    np.testing.assert_allclose(mine.attack(0, 0.1, 5), explorer.attack(0, 0.1, 5), atol=1e-6)  # it was right
    assert [type(each) for each in mine.sliders(print).children] == [ipywidgets.FloatSlider, ipywidgets.IntSlider]


def test_synthetic_pictures_are_marked(explorer, trained_model):
    drawn = sliders.Explorer(trained_model, explorer.images, NAMES, explorer.labels, synthetic=True)
    assert "[synthetic data]" in drawn.figure().get_suptitle()
    assert "[synthetic data]" not in explorer.figure().get_suptitle()


@pytest.mark.parametrize("content, reason", [(None, "No such file"), (b"", "empty"), (b"no picture", "none of JPEG")])
def test_a_bad_path_is_one_clear_error(tmp_path, content, reason):
    path = tmp_path / "mine.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(KitError, match=f"mine.png: .*{reason}"):
        sliders.read_picture(str(path), DATA)
