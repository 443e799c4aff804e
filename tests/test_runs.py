import fcntl
import json
import random
import shutil

import matplotlib.figure
import numpy as np
import pytest

from kitlib.base import settings
from kitlib.base.places import REPOSITORY
from kitlib.base.settings import KitError
from kitlib.experiments import experiment, headless, runs, status


def test_each_experiment_profile_seed_and_override_has_its_folder(runs_folder):
    assert runs.open_run("digits_fgsm", "smoke", 3).folder == runs_folder / "digits_fgsm" / "smoke" / "seed3"
    changed = runs.open_run("digits_fgsm", "smoke", 3, {"baseline": {"epochs": 2}})
    assert changed.folder.parent.name.startswith("smoke+") and changed.experiment.baseline.epochs == 2
    assert runs.open_run("digits_fgsm", "smoke", 3, "{baseline: {epochs: 2}}").folder == changed.folder


def test_what_is_missing_names_the_notebook_that_makes_it():
    run = runs.open_run("digits_fgsm", "smoke")
    for name, maker in runs.MAKER.items():
        with pytest.raises(KitError, match=f"run notebook {maker}.ipynb first"):
            run.need(name)
    with pytest.raises(KitError, match="run notebook 03_attack_generation.ipynb first"):
        run.adversarial("PGD 8/255")
    with pytest.raises(KitError, match="run notebook 06_is_it_robust.ipynb first"):
        run.read_record("06_is_it_robust")


def test_records_carry_versions_and_are_refused_when_the_experiment_changed():
    run = runs.open_run("digits_fgsm", "smoke")
    run.write_record("data", {"report": {}})
    assert run.read_record("data")["environment"]["versions"]["keras"].startswith("3.")
    path = run.path("records/data.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fingerprint": "of something else"}))
    with pytest.raises(KitError, match="other settings.*run notebook 01_data_preparation.ipynb again"):
        run.read_record("data")
    path.write_text("{")
    with pytest.raises(KitError, match="damaged"):
        run.read_record("data")


def test_prose_does_not_change_the_fingerprint_but_settings_do():
    run = runs.open_run("digits_fgsm", "smoke")
    assert runs.open_run("digits_fgsm", "smoke", 0, {"title": "another"}).fingerprint == run.fingerprint
    assert runs.open_run("digits_fgsm", "smoke", 0, {"baseline": {"epochs": 5}}).fingerprint != run.fingerprint


def test_a_file_of_one_s_own_does_not_get_the_folder_of_the_kit_s_experiment(tmp_path):
    kit_s = experiment.EXPERIMENTS / "digits_fgsm.yaml"
    assert runs.open_run(str(kit_s), "smoke").folder == runs.open_run("digits_fgsm", "smoke").folder
    own = tmp_path / "digits_fgsm.yaml"
    own.write_text(kit_s.read_text())
    with pytest.raises(KitError, match="is called 'digits_fgsm' like an experiment of the kit.*give it another name"):
        runs.open_run(str(own), "smoke")
    assert runs.open_run(str(own.rename(tmp_path / "mine.yaml")), "smoke").experiment.name == "mine"


def own_experiment(folder, name):
    folder.mkdir(exist_ok=True)
    own = folder / f"{name}.yaml"
    own.write_text((experiment.EXPERIMENTS / "digits_fgsm.yaml").read_text())
    return own


@pytest.mark.parametrize("name", runs.RESERVED_NAMES)
def test_a_name_that_means_something_else_among_the_runs_is_refused(tmp_path, name):
    with pytest.raises(KitError, match=f"experiment '{name}' would have its runs in .*: give it another name"):
        runs.open_run(str(own_experiment(tmp_path / "mine", name)), "smoke")


def test_two_files_of_one_s_own_do_not_share_a_folder(tmp_path):
    first, second = (own_experiment(tmp_path / folder, "set") for folder in ("a", "b"))
    run = runs.open_run(str(first), "smoke")
    assert runs.open_run(str(second), "smoke").folder == run.folder     # nothing is there yet
    run.write_record("data", {"report": {}})
    assert runs.open_run(str(first), "smoke").folder == run.folder
    with pytest.raises(KitError, match="b/set.yaml is called 'set' like .*a/set.yaml, whose runs it would overwrite"):
        runs.open_run(str(second), "smoke")
    first.unlink()      # moved away: its runs go on under the new place
    assert runs.open_run(str(second), "smoke").folder == run.folder


def test_a_name_with_a_dot_is_a_name(tmp_path, runs_folder):
    own = own_experiment(tmp_path / "mine", "set.v2")
    assert runs.open_run(str(own), "smoke").folder == runs_folder / "set.v2" / "smoke" / "seed0"
    assert [headless.name_of(name) for name in ("set.v2", str(own), "a.b/c.yml")] == ["set.v2", "set.v2", "c"]


def test_a_record_lists_the_pictures_and_tables_that_it_owns():
    run = runs.open_run("phantom_ct", "smoke")
    run.write_record("data", {"report": {"synthetic": True}})
    figure = run.keep(matplotlib.figure.Figure(), "leak_sweep")
    assert "synthetic" in figure.get_suptitle() and run.path("figures/leak_sweep.png").exists()
    run.write_record("06_label_leaking", {"a": 1}, files=["tables/leak.md"])
    assert run.read_record("06_label_leaking")["files"] == ["figures/leak_sweep.png", "tables/leak.md"]
    run.write_record("07_other_defences", {})
    assert "files" not in run.read_record("07_other_defences")      # each picture belongs to one record


def test_what_runs_there_are_is_told(finished_run, runs_folder):
    place = runs_folder / "digits_fgsm" / "demo" / "seed0"
    shutil.copytree(finished_run.folder, place)
    other = runs.open_run("digits_fgsm", "smoke", 2)
    other.write_record("data", {"report": {}})
    other.path("prepared.npz").touch()
    other.path("notebooks").mkdir()
    (runs_folder / "sweeps/mine/seed0").mkdir(parents=True)
    with other.path("notebooks/.02_baseline_training.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        table = status.table(runs_folder).set_index("run")
    assert list(table.index) == ["digits_fgsm/demo/seed0", "digits_fgsm/smoke/seed2"]
    assert table["notebooks"].iloc[1] == "1 of 5 done; 02_baseline_training is running"
    assert table["found"].iloc[1] == "nothing yet" and "defended: clean" in table["found"].iloc[0]
    (place / "results.json").write_text("{")
    assert "unreadable" in status.table(runs_folder)["found"].iloc[0]
    assert "running" not in status.table(runs_folder)["notebooks"].iloc[1]


def test_the_progress_of_a_batch_is_told(tmp_path):
    batch_of = f"10 1000 {tmp_path / '.progress'}"
    assert headless.progress(batch_of, 1060) == ", notebook 1 of 10, about 9 min left"
    assert headless.progress(batch_of, 1060) == ", notebook 2 of 10, about 4 min left"
    assert headless.progress("", 1060) == headless.progress(f"0 1000 {tmp_path}", 1060) == ""
    (tmp_path / ".progress").write_text("ended\n" * 9)
    assert headless.progress(batch_of, 1060) == ", notebook 10 of 10, nothing left"


def test_all_runs_keep_their_checkpoints_in_one_place(runs_folder):
    for name in ("cifar10_exp1", "lung_ct"):
        assert runs.open_run(name, "full").checkpoints == runs_folder / "checkpoints"


def test_notebook_parameters_open_the_run():
    run = runs.start("phantom_ct", "smoke", seed=4, overrides="")
    drawn = random.random(), np.random.random()
    assert run.experiment.name == "phantom_ct" and run.seed == 4
    runs.start("phantom_ct", "smoke", 4)
    assert drawn == (random.random(), np.random.random())


def test_an_unknown_parameter_fails_before_the_notebook_runs(tmp_path):
    """papermill alone would only warn, and run with the defaults."""
    notebook, copy = REPOSITORY / "notebooks" / "01_data_preparation.ipynb", tmp_path / "copy.ipynb"
    known = headless.execute(notebook, copy, {"profil": "full", "seed": 0})
    assert known == "unknown notebook parameter 'profil'; did you mean 'profile'?"
    assert headless.unknown({"epsilon": 1}, runs.PARAMETERS).endswith("known: experiment, profile, seed, overrides")
    assert headless.unknown(dict.fromkeys(runs.PARAMETERS), runs.PARAMETERS) is None and not copy.exists()


@pytest.mark.parametrize("name, slug", [("PGD 8/255", "pgd_8_255"), ("C&W L2", "c_w_l2"),
                                        ("FGSM eps 1.0, predicted labels", "fgsm_eps_1_0_predicted_labels")])
def test_slugs_are_file_names(name, slug):
    assert settings.slug(name) == slug


def test_it_is_the_same_run_whether_its_data_were_downloaded_or_put_there():
    here, fetched = (runs.open_run("cifar10_exp2", "smoke", 0, changes) for changes in
                     ({}, {"data": {"download": True}}))
    assert fetched.experiment.data.download and fetched.fingerprint == here.fingerprint
    assert fetched.made_of("defended") == here.made_of("defended")
