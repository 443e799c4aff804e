"""Sweeps: what a file may say, which runs it stands for, and what they say together."""
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from kitlib import cli as command_line
from kitlib.base.files import read_json, write_json
from kitlib.base.places import REPOSITORY
from kitlib.base.settings import KitError
from kitlib.evaluation import Accuracy
from kitlib.experiments import aggregates, batch, results, runs, sweeps
from kitlib.experiments.aggregates import Distance, Spread


@pytest.fixture
def written(tmp_path):
    """Write a sweep file and return its path."""
    def write(text, name="mine.yaml"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


@pytest.mark.parametrize("name", sweeps.names())
def test_the_sweeps_of_the_kit_are_possible(name):
    sweep = sweeps.load(name)
    jobs = sweeps.jobs_of(sweep)
    assert len(jobs) == len(sweep.experiment) * len(sweep.variations()) * len(sweep.seeds)


@pytest.mark.parametrize("text, seeds", [
    ("0-4", (0, 1, 2, 3, 4)), ("'0-1, 7'", (0, 1, 7)), ("3", (3,)), ("'5'", (5,)), ("[2, 4]", (2, 4))])
def test_seeds_are_written_in_several_ways(written, text, seeds):
    assert sweeps.load(written(f"{{experiment: digits_fgsm, seeds: {text}}}")).seeds == seeds


GRID = """
experiment: digits_fgsm
profile: smoke
seeds: 0-1
grid:
  defended.epochs: [1, 2]
  model.options:
    narrow: {widths: [4, 4, 8, 8, 8, 8]}
    wide: {widths: [8, 8, 8, 8, 8, 8]}
"""


def test_a_grid_stands_for_every_combination_and_seed(written):
    sweep = sweeps.load(written(GRID))
    jobs = sweeps.jobs_of(sweep)
    assert len(jobs) == 8 and len({job.run.folder for job in jobs}) == 8
    last = jobs[-1]
    assert last.overrides == {"defended": {"epochs": 2}, "model": {"options": {"widths": [8, 8, 8, 8, 8, 8]}}}
    assert last.run.experiment.defended.epochs == 2 and last.run.seed == 1
    assert last.run.folder == runs.open_run("digits_fgsm", "smoke", 1, last.overrides).folder


def test_without_a_grid_the_runs_are_those_of_reproduce(written):
    jobs = sweeps.jobs_of(sweeps.load(written("{experiment: digits_fgsm, profile: smoke, seeds: 0-2}")))
    assert [job.run.folder for job in jobs] == [runs.open_run("digits_fgsm", "smoke", seed).folder for seed in range(3)]


BAD_SWEEPS = [
    ("[1, 2]", "must be a mapping"),
    ("{seeds: 0-4}", "'experiment' is missing"),
    ("{experiment: digits_fgms}", "there is no experiment 'digits_fgms'.*did you mean 'digits_fgsm'"),
    ("{experiment: digits_fgsm, profile: huge}", "no profile 'huge'"),
    ("{experiment: digits_fgsm, seed: 3}", "unknown key 'seed'; did you mean 'seeds'"),
    ("{experiment: digits_fgsm, seeds: 4-0}", "'seeds': a range of seeds goes up"),
    ("{experiment: digits_fgsm, seeds: a-b}", "seeds are written as 0-4"),
    ("{experiment: digits_fgsm, seeds: 0-2000000000}", "more than 10,000 seeds"),
    ("{experiment: digits_fgsm, seeds: [0, 1.5]}", "'seeds.1'"),
    ("{experiment: digits_fgsm, seeds: [-1]}", "'seeds.0'"),
    ("{experiment: digits_fgsm, seeds: []}", "'seeds'"),
    ("{experiment: digits_fgsm, seeds: [1, 1]}", "a seed is listed twice"),
    ("{experiment: []}", "'experiment'"),
    ("{experiment: [digits_fgsm, digits_fgsm]}", "an experiment is listed twice"),
    ("{experiment: digits_fgsm, grid: {defended.epochs: 3}}", "'defended.epochs' needs a list of values"),
    ("{experiment: digits_fgsm, grid: {defended.epochs: []}}", "'defended.epochs' needs a list of values"),
    ("{experiment: digits_fgsm, grid: {defended.epoks: [3]}}", "unknown key 'defended.epoks'; did you mean"),
    ("{experiment: digits_fgsm, grid: {defended.epochs: [0]}}", "'defended.epochs'"),
    ("{experiment: digits_fgsm, grid: {defended.attacks: [[{name: fgsm}]]}}", "need labels"),
    ("{experiment: digits_fgsm, grid: {defended.epochs: {a: 3, b: 3}}}", "two combinations are the same run"),
    ("{experiment: digits_fgsm, grid: {title: [a], title.x: [b]}}", "'title' and 'title.x' are in each other's way"),
    ("{experiment: digits_fgsm, name: ../x}", "'name'"),
    ("{experiment: digits_fgsm, grid: {defended.epochs: [1, 1]}}", "'defended.epochs': a value is listed twice"),
    ("{experiment: digits_fgsm, seeds: 0, seeds: 5}", "the key 'seeds' stands twice"),
    ("{experiment: digits_fgsm, title: 2024-99-01}", "no valid YAML"),
    ("experiment: [", "no valid YAML"),
]


@pytest.mark.parametrize("text, message", BAD_SWEEPS)
def test_impossible_sweeps_are_refused(written, tmp_path, text, message):
    with pytest.raises(KitError, match=message) as error:
        sweeps.jobs_of(sweeps.load(written(text)))
    assert "\n" not in str(error.value) and not (tmp_path / "runs").exists()


def test_the_batch_says_where_own_experiments_lie_and_what_hashes_stand_for(tmp_path):
    own = tmp_path / "mine.yaml"
    own.write_text((sweeps.REPOSITORY / "notebooks/experiments/digits_fgsm.yaml").read_text())
    run = runs.open_run(str(own), "smoke", 0, {"baseline": {"epochs": 2}})
    config = batch.config_of([batch.Job(str(own), run, {"baseline": {"epochs": 2}})])
    folder = run.folder.relative_to(runs.runs_folder())
    assert config["targets"] == [f"{folder}/results.json"] and config["experiments"] == {"mine": str(own)}
    assert {key: json.loads(value) for key, value in config["overrides"].items()} == {
        str(folder.parent): {"baseline": {"epochs": 2}}}


def test_a_paper_stands_for_its_experiments():
    assert [job.experiment for job in batch.jobs_for(["paper_a"], "smoke", 0)] == [
        f"cifar10_exp{number}" for number in range(1, 5)]
    assert [job.experiment for job in batch.jobs_for(["paper_b"], "smoke", 0)] == ["lung_ct"]


# Over seeds

@pytest.mark.parametrize("values", [[0.5, 0.7], [0.1, 0.2, 0.4, 0.8], list(np.linspace(0.6, 0.7, 30))])
def test_the_interval_is_students(values):
    found = Spread.of(dict(enumerate(values)))
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.deviation == pytest.approx(math.sqrt(sum((v - found.mean) ** 2 for v in values) / (len(values) - 1)))
    assert found.interval == pytest.approx((max(0, expected.low), min(1, expected.high)))


def test_one_run_has_no_spread():
    found = Spread.of({3: 0.25})
    assert (found.n, found.deviation, found.interval) == (1, None, None) and aggregates.cell(found) == "25.0, n = 1"


def test_nearest_images_are_shown_by_distance_and_success():
    found = Distance(mean_l2=Spread.of({0: 0.2, 1: 0.4}), success_rate=Spread.of({0: 1.0, 1: 0.9}))
    shown = aggregates.cell(Spread.of({0: 0.0, 1: 0.0}), found)
    assert shown == "mean L2 distance 0.30 ± 0.14, success 95 ± 7 %, n = 2"


def finish(job, correct):
    """Leave a results.json in the place of a run, with this many of 100 right clean, half of them under attack."""
    def measured(number):
        return results.Measured(**Accuracy(number, 100).record())

    under = {name: results.UnderAttack(**measured(correct // 2).model_dump(), relative_robustness=1, success_rate=0,
                                       mean_l2=None, max_linf=0, seconds=0, attack="", settings={})
             for name in job.run.experiment.attacks.all()}
    model = results.ModelResults(clean=measured(correct), attacks=under, combined=measured(correct // 2),
                                 worst_case=measured(correct // 2), recall={}, confusion={})
    models = {"baseline": model, "defended": model}
    found = results.Results(
        experiment=job.run.experiment.model_dump(mode="json"), profile=job.run.profile, seed=job.run.seed,
        fingerprint=job.run.fingerprint, synthetic=False, source="here", data={}, environment={}, precision={},
        seconds={"training baseline": 2.0 * job.run.seed}, models=models,
        paper=[results.judge_figure(figure, models, True) for figure in job.run.experiment.paper_figures])
    results.write(found, job.run.folder)


@pytest.fixture
def two_runs(written):
    """The path of a sweep over two seeds, and its runs, which are finished."""
    path = written("{experiment: digits_fgsm, profile: smoke, seeds: 0-1}")
    jobs = sweeps.jobs_of(sweeps.load(path))
    for job in jobs:
        finish(job, 80)
    return path, jobs


def of_more_epochs(record):
    """The same numbers, said to be of a longer training."""
    trained = record["experiment"]["baseline"]
    return record | {"experiment": record["experiment"] | {"baseline": trained | {"epochs": trained["epochs"] + 1}}}


def test_runs_are_aggregated_over_seeds_by_combination(written):
    sweep = sweeps.load(written(GRID))
    for number, job in enumerate(sweeps.jobs_of(sweep)):
        finish(job, 50 + number)
    found = sweeps.aggregate(sweep)
    assert found.finished == 8 and found.missing == () and len(found.groups) == 4
    first = found.groups[0]
    assert first.variation == {"defended.epochs": "1", "model.options": "narrow"}
    assert first.models["baseline"]["clean"].values == (0.5, 0.51) and first.seconds == {"training baseline": 1.0}
    assert first.paper[0].as_published.mean == pytest.approx(0.505) and first.paper[0].verdict is None
    sweeps.write(found, sweep.folder)
    assert sweeps.read(sweep.folder / "aggregate.json") == found
    pictures = {"seeds.png", "digits_fgsm_defended_epochs.png", "digits_fgsm_model_options.png"}
    assert pictures <= {path.name for path in sweep.folder.iterdir()}
    table = (sweep.folder / "accuracy.md").read_text()
    assert "8 of 8 runs" in table and "95 % t-interval" in table and "50.5 ± 0.7 [44.1, 56.9], n = 2" in table


def test_missing_runs_are_named_and_not_counted(written):
    sweep = sweeps.load(written("{experiment: digits_fgsm, profile: smoke, seeds: 0-2}"))
    with pytest.raises(KitError, match="no run of sweep 'mine' is finished"):
        sweeps.aggregate(sweep)
    for job in sweeps.jobs_of(sweep)[:2]:
        finish(job, 80)
    found = sweeps.aggregate(sweep)
    assert found.finished == 2 and found.missing == ("digits_fgsm/smoke/seed2",)
    assert "2 of 3 runs" in sweeps.heading(found)


def test_results_of_other_settings_or_damaged_ones_are_never_counted(two_runs):
    sweep, jobs = sweeps.load(two_runs[0]), two_runs[1]
    path = jobs[1].run.path("results.json")
    whole = path.read_text()
    write_json(path, of_more_epochs(read_json(path)))
    with pytest.raises(KitError, match="belongs to other settings"):
        sweeps.aggregate(sweep)
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(KitError, match="results.json is damaged"):
        sweeps.aggregate(sweep)


def test_figures_of_a_paper_are_matched_by_their_id(two_runs):
    sweep, jobs = sweeps.load(two_runs[0]), two_runs[1]
    expected = sweeps.aggregate(sweep).groups
    path = jobs[1].run.path("results.json")
    record = read_json(path)
    assert len(record["paper"]) > 1
    write_json(path, record | {"paper": record["paper"][::-1]})
    assert sweeps.aggregate(sweep).groups == expected


# The commands

@pytest.fixture
def command(monkeypatch):
    """Run a command of the command line in a world where every batch is killed."""
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["kitlib", *words])
        return command_line.main()

    def killed(command, **_):
        if "--summary" not in command:
            return subprocess.CompletedProcess(command, -9)
        there = runs.runs_folder().rglob("results.json")
        told = "".join(f"{path}\tyesterday\tevaluation\t-\tok\tno update\n" for path in there)
        return subprocess.CompletedProcess(command, 0, stdout=told)

    monkeypatch.setattr(batch.subprocess, "run", killed)
    return run


def test_a_sweep_whose_batch_was_killed_has_failed(written, command, capsys):
    path = written("{experiment: digits_fgsm, profile: smoke, seeds: 0-1}")
    finish(sweeps.jobs_of(sweeps.load(path))[0], 80)
    assert command("sweep", path) == 137
    assert "1 of 2 runs" in capsys.readouterr().out


def test_a_sweep_is_published_beside_the_runs(two_runs, command, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(sweeps, "PUBLISHED", tmp_path / "published")
    path, (first, second) = two_runs
    assert command("aggregate", path, "--publish") == 0
    folder = tmp_path / "published/mine"
    assert str(folder) in capsys.readouterr().out and not sweeps.load(path).folder.exists()
    assert {"accuracy.md", "accuracy.csv", "seeds.png"} <= {each.name for each in folder.iterdir()}
    found = sweeps.read(folder / "aggregate.json")
    assert found == sweeps.aggregate(sweeps.load(path)) and (found.finished, found.published) == (2, 0)
    # elsewhere the published records stand in for the runs, one by one
    first.run.path("results.json").unlink()
    finish(second, 60)
    again = sweeps.aggregate(sweeps.load(path), published=True)
    assert again.groups[0].models["baseline"]["clean"].values == (0.8, 0.6)
    assert "2 of 2 runs, 1 of them as published" in sweeps.heading(again)
    # but never those of other settings, nor where a batch has failed
    write_json(folder / sweeps._record_of(first), of_more_epochs(read_json(folder / sweeps._record_of(first))))
    assert sweeps.aggregate(sweeps.load(path), published=True).missing == ("digits_fgsm/smoke/seed0",)
    second.run.path("results.json").unlink()
    assert command("sweep", path) == 137
    assert "no run of sweep 'mine' is finished" in capsys.readouterr().out
    # and what is published anew takes the place of all that was there
    (folder / "an_old_axis.png").write_bytes(b"")
    assert command("aggregate", path, "--publish") == 0
    assert not (folder / "an_old_axis.png").exists() and (folder / sweeps._record_of(second)).exists()


def test_a_sweep_finds_its_experiment_from_where_it_lies(written, tmp_path, monkeypatch):
    own = Path(written((REPOSITORY / "notebooks/experiments/digits_fgsm.yaml").read_text(), "my own.yaml"))
    path = written("{experiment: my own.yaml, profile: smoke}", "study.yaml")
    monkeypatch.chdir(REPOSITORY)
    job, = sweeps.jobs_of(sweeps.load(path))
    assert job.run.experiment.name == "my own" and Path(job.experiment) == own


def test_a_sweep_of_one_s_own_is_not_called_like_one_of_the_kit(written):
    with pytest.raises(KitError, match="called 'digits_eps' like a sweep of the kit"):
        sweeps.load(written("{experiment: digits_fgsm}", "digits_eps.yaml"))


def test_git_takes_what_a_published_sweep_keeps():
    sweep = sweeps.load("paper_a_seeds")
    for path in [sweeps.PUBLISHED / sweep.name / sweeps._record_of(job) for job in sweeps.jobs_of(sweep)]:
        asked = subprocess.run(["git", "check-ignore", "--no-index", str(path)], cwd=REPOSITORY, check=False)
        if asked.returncode > 1:
            pytest.skip("not a git checkout")
        assert asked.returncode == 1, f"git ignores {path}"


def test_a_published_record_stands_in_for_a_run_that_is_not_here():
    found = sweeps.aggregate(sweeps.load("paper_a_seeds"), published=True)
    published = sweeps.read(sweeps.PUBLISHED / "paper_a_seeds" / "aggregate.json")
    assert found.groups == published.groups and found.missing == published.missing


def test_a_failed_sweep_leaves_out_what_is_out_of_date(two_runs, command, capsys, monkeypatch):
    path, jobs = two_runs
    monkeypatch.setattr(batch, "out_of_date", lambda _: {jobs[1].run.path("results.json")})
    assert command("sweep", path) == 137
    said = capsys.readouterr().out
    assert "1 of 2 runs" in said and "missing: digits_fgsm/smoke/seed1" in said


def test_results_of_other_settings_are_not_shown(command, capsys):
    job, = batch.jobs_for(["digits_fgsm"], "smoke", 0)
    finish(job, 80)
    assert command("results", "digits_fgsm", "--profile", "smoke") == 0
    assert "80.0 [" in capsys.readouterr().out
    path = job.run.path("results.json")
    write_json(path, of_more_epochs(read_json(path)))
    for name in ("results", "report"):
        assert command(name, "digits_fgsm", "--profile", "smoke") == 2
        out, err = capsys.readouterr()
        assert out == "" and "belongs to other settings than experiment 'digits_fgsm' has now" in err
    assert not job.run.path("report.html").exists()


def test_a_failed_batch_shows_only_results_that_are_up_to_date(command, capsys, monkeypatch):
    old, new = batch.jobs_for(["digits_fgsm", "phantom_ct"], "smoke", 0)
    finish(old, 80)

    finish(new, 70)
    monkeypatch.setattr(batch, "out_of_date", lambda _: {old.run.path("results.json")})
    assert command("reproduce", "digits_fgsm", "phantom_ct", "--profile", "smoke") == 137
    said = capsys.readouterr().out
    assert f"nothing new in {old.run.folder}, as the batch failed" in said
    assert "70.0 [" in said and "80.0 [" not in said


def test_outside_its_repository_kitlib_says_where_it_runs(command, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(command_line, "is_clone", lambda: False)
    for words in (["results", "digits_fgsm"], ["sweep", "digits_seeds"], ["publish"], ["pretrained"]):
        assert command(*words) == 2
        assert "kitlib runs from its repository: clone it and install it from there" in capsys.readouterr().err
    assert command("audit", "nowhere.keras", "--data", "digits") == 2
    assert "repository" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["results", "report", "publish"])
def test_a_whole_paper_is_asked_for_by_its_name(command, capsys, name):
    assert command(name, "paper_a", "--profile", "smoke") == 2
    assert "there is no experiment" not in (said := capsys.readouterr().err) and "cifar10_exp1" in said
