"""publish: a folder of figures that a reader can trust, and each paper on one page."""
import dataclasses
import json
import shutil

import numpy as np
import pytest
from tiny_run import copy_of

from kitlib import plots
from kitlib.base.files import sha256, write_json
from kitlib.base.places import REPOSITORY
from kitlib.base.settings import KitError
from kitlib.experiments import pretrained, publication, results


@pytest.fixture(scope="module")
def run(finished_run, tmp_path_factory):
    """The finished run and more that later notebooks and audits leave in a run's folder."""
    run = copy_of(finished_run, tmp_path_factory.mktemp("runs") / "run")
    for name in ("figures/accuracy.png", "tables/transfer.md", "tables/transfer.csv", "audit/defended/report.html",
                 "audit/defended/figures/sweep.png", "adversarial/pgd.npz", "notebooks/05_evaluation.ipynb"):
        run.path(name).parent.mkdir(parents=True, exist_ok=True)
        run.path(name).write_text(name)
    write_json(run.path("audit/defended/audit.json"), {"model_sha256": sha256(run.path("models/defended.keras"))})
    run.write_record("07_label_leaking", {"a": 1})
    return run


@pytest.fixture
def own_run(run, tmp_path):
    """A copy of the run that a test may change."""
    return copy_of(run, tmp_path / "run")


def content(folder):
    return {str(path.relative_to(folder)): sha256(path) for path in folder.rglob("*") if path.is_file()}


def test_a_reader_finds_records_tables_pictures_audits_and_models(run, tmp_path):
    found = publication.publish(run, tmp_path)
    assert found.left_out == {} and found.folder == tmp_path / "digits_fgsm"
    assert set(content(found.folder)) == {
        "results.json", "accuracy.png", "tables/transfer.md", "tables/transfer.csv", "tables/accuracy.md",
        "tables/accuracy.csv", "tables/paper.md", "tables/paper.csv", "audit/defended/report.html",
        "audit/defended/audit.json", "models/baseline.npz", "models/defended.npz", "models/models.json",
        "records/data.json", "records/baseline.json", "records/defended.json", "records/07_label_leaking.json"}
    assert found.bytes == sum(path.stat().st_size for path in found.folder.rglob("*") if path.is_file())


def test_the_record_gets_the_prose_that_the_experiment_has_now(run, tmp_path):
    experiment = run.experiment.model_copy(update={"title": "said better"})
    folder = publication.publish(dataclasses.replace(run, experiment=experiment), tmp_path).folder
    assert results.read(folder / "results.json").experiment["title"] == "said better"
    assert results.read(run.path("results.json")).experiment["title"] == run.experiment.title


def test_the_audit_of_a_model_that_was_trained_again_since_is_left_out(own_run, tmp_path):
    write_json(own_run.path("audit/defended/audit.json"), {"model_sha256": "0" * 64})
    found = publication.publish(own_run, tmp_path / "figures")
    assert set(found.left_out) == {"audit/defended/audit.json", "audit/defended/report.html"}
    assert not (found.folder / "audit").exists()


def test_an_audit_that_was_published_and_is_not_made_again_is_said_to_go(own_run, tmp_path):
    assert (publication.publish(own_run, tmp_path / "figures").folder / "audit/defended").exists()
    shutil.rmtree(own_run.path("audit"))
    found = publication.publish(own_run, tmp_path / "figures")
    assert "audit --run" in found.left_out["audit/defended"] and not (found.folder / "audit").exists()


def test_what_a_kill_left_half_written_is_not_published(own_run, tmp_path):
    for name in ("figures/.accuracy-ab12cd34.png", "records/.baseline-ab12cd34.json", "tables/.paper-ab12cd34.md"):
        own_run.path(name).touch()
    found = publication.publish(own_run, tmp_path / "figures")
    assert found.left_out == {} and not [name for name in content(found.folder) if "ab12cd34" in name]


def test_a_second_call_makes_the_same_files_and_what_is_stale_goes(run, tmp_path):
    folder = publication.publish(run, tmp_path).folder
    before = content(folder)
    (folder / "leftover.png").touch()
    (folder / "tables/leftover.md").touch()
    (tmp_path / "other").mkdir()
    publication.publish(run, tmp_path)
    assert content(folder) == before
    assert {path.name for path in tmp_path.iterdir()} == {"digits_fgsm", "other"}


def test_a_failure_leaves_the_old_folder_whole(run, tmp_path, monkeypatch):
    folder = publication.publish(run, tmp_path).folder
    before = content(folder)

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pretrained, "keep", no_space)
    with pytest.raises(KitError, match="digits_fgsm could not be written .No space left on device"):
        publication.publish(run, tmp_path)
    assert content(folder) == before and [path.name for path in tmp_path.iterdir()] == ["digits_fgsm"]


def test_what_is_large_or_of_other_settings_is_left_out_and_said(own_run, tmp_path):
    own_run.path("figures/huge.png").write_bytes(bytes(publication.LARGEST + 1))
    write_json(own_run.path("records/06_is_it_robust.json"), {"fingerprint": "of something else"})
    found = publication.publish(own_run, tmp_path / "figures")
    assert set(found.left_out) == {"figures/huge.png", "records/06_is_it_robust.json"}
    assert not {"huge.png", "records/06_is_it_robust.json"} & set(content(found.folder))


def test_tables_of_an_older_record_that_lists_no_files_are_left_out_with_it(own_run, tmp_path):
    write_json(own_run.path("records/10_architectures_and_transfer.json"), {"fingerprint": "of something else"})
    found = publication.publish(own_run, tmp_path / "figures")
    assert set(found.left_out) == {"records/10_architectures_and_transfer.json", "tables/transfer.md",
                                   "tables/transfer.csv"}


def test_a_record_takes_the_files_that_it_lists_with_it(own_run, tmp_path):
    write_json(own_run.path("records/06_label_leaking.json"),
               {"fingerprint": "of something else", "files": ["tables/transfer.md", "figures/accuracy.png"]})
    found = publication.publish(own_run, tmp_path / "figures")
    assert set(found.left_out) == {"records/06_label_leaking.json", "tables/transfer.md", "tables/transfer.csv",
                                   "figures/accuracy.png"}
    assert "tables/accuracy.md" in content(found.folder)


def test_results_of_other_settings_are_refused(own_run, tmp_path):
    path = own_run.path("results.json")
    record = json.loads(path.read_text())
    record["experiment"]["baseline"]["epochs"] += 1
    path.write_text(json.dumps(record))
    with pytest.raises(KitError, match="results.json belongs to other settings"):
        publication.publish(own_run, tmp_path / "figures")
    assert not (tmp_path / "figures").exists()


def test_each_paper_is_drawn_from_its_records_alone(tmp_path, monkeypatch):
    found = results.read(REPOSITORY / "figures/lung_ct/results.json")
    shutil.copytree(REPOSITORY / "figures/lung_ct", tmp_path / "lung_ct", ignore=shutil.ignore_patterns("*.png"))
    drawn, keep = {}, plots.keep
    monkeypatch.setattr(plots, "keep", lambda figure, path: drawn.update({path.name: keep(figure, path)}))
    assert publication.draw_papers(tmp_path) == [tmp_path / "paper_b.png"] and list(drawn) == ["paper_b.png"]
    axes = drawn["paper_b.png"].axes[0]
    labels = [label.get_text().split("\n")[0] for label in axes.get_yticklabels()]
    assert labels == [entry.id for entry in found.paper]
    assert [text.get_text() for text in axes.texts] == [entry.verdict for entry in found.paper]     # of one seed
    marks = {container.get_label(): container.lines[0].get_xdata() for container in axes.containers}
    np.testing.assert_allclose(marks["rerun as published"], [100 * each.as_published.accuracy for each in found.paper])
    np.testing.assert_allclose(marks["standard attack"], [100 * each.as_defined.accuracy for each in found.paper])
    claims, guessing = (lines.get_segments() for lines in axes.collections if lines.get_label()[0] != "_")
    assert [line[0][0] for line in claims] == [entry.paper for entry in found.paper]
    assert guessing[0][0][0] == pytest.approx(100 * 82 / 160)  # malignant slices among the judged ones
    assert (f"profile {found.profile}" in axes.get_title()) == (found.profile != "full")


def test_two_experiments_may_answer_the_same_figures_of_a_paper(tmp_path, monkeypatch):
    record = json.loads((REPOSITORY / "figures/lung_ct/results.json").read_text())
    for name in ("lung_ct", "lung_ct_mine"):
        write_json(tmp_path / name / "results.json", record)
    both = {"A": [], "B": ["lung_ct", "lung_ct_mine"]}
    monkeypatch.setattr(publication.experiment, "of_paper", both.get)
    drawn, keep = [], plots.keep
    monkeypatch.setattr(plots, "keep", lambda *given: drawn.append(keep(*given).axes[0]))
    publication.draw_papers(tmp_path)
    labels = [label.get_text() for label in drawn[0].get_yticklabels()]
    assert len(set(labels)) == 2 * len(record["paper"])
    assert labels[0] == "lung_ct: normal clean" and "lung_ct_mine: normal clean" in labels


def test_missing_experiments_and_synthetic_data_are_named(tmp_path, monkeypatch):
    record = json.loads((REPOSITORY / "figures/cifar10_exp2/results.json").read_text())
    write_json(tmp_path / "cifar10_exp2/results.json", record | {"profile": "full", "synthetic": True})
    drawn, keep = [], plots.keep
    monkeypatch.setattr(plots, "keep", lambda *given: drawn.append(keep(*given).axes[0].get_title()))
    publication.draw_papers(tmp_path)
    assert drawn == ["cifar10_exp2: SYNTHETIC data\nno record yet of cifar10_exp1, cifar10_exp3, cifar10_exp4"]


def test_the_repository_shows_both_papers():
    for name in ("paper_a.png", "paper_b.png"):
        assert (REPOSITORY / "figures" / name).stat().st_size > 10_000
