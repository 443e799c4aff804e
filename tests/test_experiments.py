import json

import pytest
import yaml

from kitlib import models
from kitlib.base.settings import KitError
from kitlib.evaluation.defences import CATALOGUE
from kitlib.experiments import experiment

PAPER_A = {"cifar10_exp1": (80.58, 13.85), "cifar10_exp2": (76.42, 81.72),
           "cifar10_exp3": (82.31, 94.47), "cifar10_exp4": (82.8, 97.13)}
PAPER_B = [93.12, 43.08, 45.9, 40.9, 43.29, 95.0, 93.2, 95.0, 92.8, 93.6]


@pytest.mark.parametrize("profile", ["smoke", "demo", "full"])
@pytest.mark.parametrize("name", experiment.names())
def test_every_experiment_reads_in_every_profile(name, profile):
    loaded = experiment.load(name, profile)
    assert loaded.name == name and loaded.choices and loaded.attacks.as_published
    assert loaded.evaluation.headline in loaded.attacks.within(loaded.evaluation.headline)
    again = experiment.Experiment.read(loaded.model_dump(mode="json"), "its own record")
    assert again == loaded


@pytest.mark.parametrize("name", PAPER_A)
def test_figures_of_paper_a(name):
    assert tuple(figure.paper for figure in experiment.load(name).paper_figures) == PAPER_A[name]


@pytest.mark.parametrize("name", ["lung_ct", "phantom_ct"])
def test_figures_of_paper_b(name):
    assert [figure.paper for figure in experiment.load(name).paper_figures] == PAPER_B


def test_paper_a_s_other_defences_are_compared_at_8_255():
    loaded = experiment.load("cifar10_defences", "full")
    trainings = [loaded.trained(name).training for name in ("defended", *loaded.compared_models)
                 if name == "defended" or loaded.compared_models[name].training]
    methods = {"fgsm", "fgsm_rs", "free", "pgd", "trades", "distilled", "plain"}
    assert {training.method for training in trainings} == methods
    labels = {training.attacks[0].labels for training in trainings if training.method == "fgsm"}
    assert labels == {"true", "predicted"}
    assert {each.preprocessing.name for each in loaded.compared_models.values() if each.preprocessing} == set(CATALOGUE)
    assert {loaded.comparison.attacks[name].eps for name in loaded.comparison.within()} == {8 / 255}
    trained_on = {attack.eps for training in trainings for attack in training.training_attacks()}
    assert trained_on == {training.eps for training in trainings} == {8 / 255}


def test_paper_b_s_architectures_are_compared():
    loaded = experiment.load("lung_architectures", "full")
    compared = {loaded.model.name, *(each.model.name for each in loaded.compared_models.values() if each.model)}
    assert compared == {"resnet50", "vgg16", "mobilenet_v2", "densenet121", "even_deeper_cnn"}


def test_overrides_go_over_the_profile():
    loaded = experiment.load("digits_fgsm", "smoke", "{baseline: {epochs: 7}}")
    assert loaded.baseline.epochs == 7 and loaded.defended.epochs == 1


@pytest.fixture
def own(tmp_path):
    """Load an experiment of one's own, given as YAML text or by its content."""
    def load(said, profile="demo"):
        (tmp_path / "mine.yaml").write_text(said if isinstance(said, str) else yaml.safe_dump(said, sort_keys=False))
        return experiment.load(str(tmp_path / "mine.yaml"), profile)

    return load


def test_an_experiment_may_be_given_another_name(own):
    assert own("{based_on: digits_fgsm, name: other, baseline: {epochs: 3}}").name == "other"
    loaded = experiment.load("digits_fgsm", "smoke", "{name: other}")
    assert loaded.name == "other" and loaded.title == experiment.load("digits_fgsm").title


def test_another_model_brings_its_own_options():
    loaded = experiment.load("digits_fgsm", "smoke", {"model": {"name": "small_resnet"}})
    assert loaded.model.options == {}


def test_a_worst_case_is_of_one_threat_model():
    suite = experiment.load("cifar10_exp2", "full").attacks
    assert suite.within("PGD 8/255") == ["noise 8/255", "FGSM 8/255", "PGD 2/255", "PGD 4/255", "PGD 8/255"]
    assert suite.within("PGD 4/255") == ["PGD 2/255", "PGD 4/255"]      # not what goes beyond it, and not C&W


@pytest.fixture
def content():
    return yaml.safe_load((experiment.EXPERIMENTS / "digits_fgsm.yaml").read_text())


@pytest.mark.parametrize("path, value, message", [      # more of them are in test_bad_input.py
    (["titel"], "x", "unknown key 'titel'; did you mean 'title'"),
    (["data", "name"], "cifar11", "there is no data set 'cifar11'; did you mean 'cifar10'"),
    (["model", "normalisation"], {"std": 0}, "std must be positive"),
    (["attacks", "as_defined"], {"P": {"name": "pgd", "eps": 0.1, "targeted": True}}, "attack 'P' is targeted"),
    (["attacks", "as_defined", "PGD 8/255"], "", "no attack"),
    (["evaluation", "headline"], "C&W L2", "the headline must be an attack with an eps, not 'C&W L2'"),
    (["paper_figures", 0, "attack"], "FGSM eps 2",
     "paper figure 'experiment 1 clean' names attack 'FGSM eps 2'; did you mean"),
    (["profiles"], [1], "a mapping 'profiles'"),
])
def test_impossible_experiments_are_refused(own, content, path, value, message):
    *parents, last = path
    inner = content
    for key in parents:
        inner = inner[key]
    inner[last] = value
    with pytest.raises(KitError, match=message):
        own(content)


@pytest.mark.parametrize("arguments, message", [
    (("digits_fgms",), "there is no experiment 'digits_fgms'.*did you mean 'digits_fgsm'"),
    (("digits_fgsm", "dmeo"), "no profile 'dmeo'; did you mean 'demo'"),
    (("digits_fgsm", "demo", "[" * 5000), "overrides is no valid YAML"),
    (("digits_fgsm", "demo", "{baseline: {epochs: 3}, baseline: {epochs: 4}}"), "the key 'baseline' stands twice"),
    (("digits_fgsm", "demo", {"evaluation": {"sweep": []}}), "evaluation.sweep"),
    (("digits_fgsm", "demo", {"evaluation": {"shown": []}}), "evaluation.shown"),
    (("digits_fgsm", "demo", {"attacks": {"as_defined": {"clean": {"name": "fgsm", "eps": 0.1}}}}),
     "may not be called 'clean'"),
    (("digits_fgsm", "demo", {"attacks": {"as_defined": {300 * "x": {"name": "fgsm", "eps": 0.1}}}}), "names no file"),
    (("digits_fgsm", "demo", {"attacks": {"as_defined": {"a 8-255": {"name": "fgsm", "eps": 0.1},
                                                         "A 8/255": {"name": "pgd", "eps": 0.1}}}}), "share a file"),
])
def test_unknown_names_and_overrides_are_refused(arguments, message):
    with pytest.raises(KitError, match=message):
        experiment.load(*arguments)


def test_a_small_number_is_a_number_in_json_too():
    """As a batch hands it on: 1e-05 is text in YAML."""
    text = json.dumps({"defended": {"learning_rate": 1e-5}})
    assert experiment.read_overrides(text) == {"defended": {"learning_rate": 1e-5}}


def test_two_figures_of_one_name_are_refused():
    figures = [figure.model_dump() for figure in experiment.load("cifar10_exp1").paper_figures]
    with pytest.raises(KitError, match="stands twice"):
        experiment.load("cifar10_exp1", "demo", {"paper_figures": [*figures, figures[0]]})


def test_an_experiment_may_leave_out_what_has_a_usual_value(own):
    loaded = own("""{title: t, summary: s, data: {name: digits}, model: {name: tiny_cnn},
        baseline: {method: plain, epochs: 1}, defended: {method: pgd, eps: 8/255, epochs: 1},
        attacks: {as_defined: {PGD: {name: pgd, eps: 8/255}}}, evaluation: {shown: [PGD], headline: PGD},
        profiles: {demo: {}}}""")
    assert loaded.evaluation.sweep[0] == 0 and not loaded.attacks.as_published
    assert models.normalisation_of(loaded.model) == models.Normalisation()


def test_a_profile_that_is_no_name_is_refused(own, content):
    with pytest.raises(KitError, match="the profile 8 is no name: put it between quotation marks"):
        own(content | {"profiles": {"demo": {}, 8: {}}}, "8")


def test_further_notebooks_are_those_from_06_on_and_must_exist(tmp_path, monkeypatch, content, own):
    (tmp_path / "08_is_it_robust.ipynb").touch()
    (tmp_path / "05_evaluation.ipynb").touch()
    monkeypatch.setattr(experiment, "NOTEBOOKS", tmp_path)
    assert own(content | {"notebooks": ["06_is_it_robust"]}).notebooks == ("08_is_it_robust",)     # its name now
    for name in ("05_evaluation", "06_is_it_robst"):
        with pytest.raises(KitError, match=f"there is no notebook '{name}' from 06 on"):
            own(content | {"notebooks": [name]})


def test_an_experiment_may_say_only_what_differs_from_another(own):
    said = ("{based_on: digits_fgsm, title: mine, baseline: {epochs: 3}, "
            "profiles: {demo: {baseline: {batch_size: 7}}}}")
    loaded, base = own(said), experiment.load("digits_fgsm", "demo")
    assert (loaded.name, loaded.title, loaded.baseline.epochs, loaded.baseline.batch_size) == ("mine", "mine", 3, 7)
    assert loaded.defended == base.defended and loaded.attacks == base.attacks
    assert own(said, "smoke").data == experiment.load("digits_fgsm", "smoke").data


def test_an_attack_set_to_null_is_left_out(own):
    fewer = own("{based_on: lung_ct, paper_figures: [], attacks: {as_defined: {PGD 1/255: null}}}", "full")
    assert set(experiment.load("lung_ct", "full").attacks.all()) - set(fewer.attacks.all()) == {"PGD 1/255"}


def test_a_copy_with_other_data_has_no_figures_of_the_paper_to_reproduce(own):
    copy = yaml.safe_load((experiment.EXPERIMENTS / "cifar10_exp2.yaml").read_text())
    assert own(copy | {"data": {"name": "image_folder", "path": "mine"}}, "full").stands_in
    assert not experiment.load("cifar10_exp2", "full").stands_in and experiment.load("digits_fgsm", "full").stands_in


def test_a_base_of_one_s_own_is_found_beside_the_file_that_names_it(tmp_path, monkeypatch, content, own):
    monkeypatch.chdir("/")
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(content | {"title": "a base of mine"}, sort_keys=False))
    loaded = own("{based_on: base.yaml, baseline: {epochs: 3}}")
    assert (loaded.title, loaded.baseline.epochs) == ("a base of mine", 3)
    with pytest.raises(KitError, match=f"there is no experiment file {tmp_path / 'bass.yaml'}"):
        own("{based_on: bass.yaml}")


def test_a_sweep_over_an_epsilon_that_nothing_uses_is_refused():
    """The defended model's attacks have an eps of their own, so all runs of it would be the same."""
    with pytest.raises(KitError, match="'defended': eps changes nothing"):
        experiment.load("digits_fgsm", "smoke", "{defended: {eps: 4/255}}")


@pytest.mark.parametrize("base, message", [
    ("digits", "there is no experiment 'digits'"), ("lung_ct_grouped", "itself based on 'lung_ct'"),
])
def test_an_impossible_base_is_refused(own, base, message):
    with pytest.raises(KitError, match=message):
        own(f"{{based_on: {base}}}")


def test_a_figure_is_of_all_published_attacks_only_where_there_are_any():
    figure = {"id": "a", "paper": 50, "model": "baseline", "attack": "combined", "as_defined": "clean"}
    published = experiment.load("digits_fgsm", "smoke").attacks.as_published
    changes = {"attacks": {"as_published": dict.fromkeys(published)}, "paper_figures": [figure]}
    with pytest.raises(KitError, match="paper figure 'a' names attack 'combined'"):
        experiment.load("digits_fgsm", "smoke", changes)


@pytest.mark.parametrize("name, changes", [
    ("cifar10_exp2", {"model": {"normalisation": {"mean": [0.49, 0.48, 0.45], "std": [0.25, 0.24, 0.26]}}}),
    ("lung_ct", {"model": {"options": {"weights": "imagenet"}, "normalisation": None}})])
def test_the_papers_attacks_have_the_network_s_normalisation(name, changes):
    with pytest.raises(KitError, match="give both the same"):
        experiment.load(name, "full", changes)
