"""The batch machinery over toy notebooks: only what is out of date runs, failures and kills lose nothing."""
import ast
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import papermill
import pytest
from drawn_data import lung_folder
from toy_batch import MADE, ToyBatch

from kitlib.base import code
from kitlib.base.places import REPOSITORY
from kitlib.data import DataSettings
from kitlib.data.state import state_of
from kitlib.experiments import batch, headless, notebook_code, runs
from kitlib.experiments.experiment import EXPERIMENTS
from kitlib.experiments.settings import lessons

RESULT = "toy/demo/seed0/records/attacks.json"  # of notebook 03, so that three are run


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A toy batch that has been run to its end."""
    toy = ToyBatch(tmp_path_factory.mktemp("toy"))
    status, said = toy.run(RESULT)
    assert status == 0, said
    assert toy.ran(said) == sorted(MADE)[:3]
    return toy


def age(path: Path, seconds: float) -> None:
    """Shift a file's clock: negative is into the past."""
    moment = time.time() + seconds
    os.utime(path, (moment, moment))


def test_a_second_call_runs_nothing_and_a_fresh_checkout_is_no_change(done):
    assert done.run(RESULT) == (0, "")
    for path in [*done.home.rglob("*.py"), *done.home.rglob("*.ipynb")]:
        path.touch()
    (done.home / "kitlib" / "unused.py").write_text("VERSION = 1\n")
    assert done.planned(RESULT) == []


def test_a_changed_notebook_runs_again_with_all_that_depends_on_it(done):
    path = done.home / "notebooks" / "02_baseline_training.ipynb"
    before = path.read_text()
    notebook = nbformat.read(path, 4)
    notebook.cells.append(nbformat.v4.new_code_cell("1 + 1"))
    nbformat.write(notebook, path)
    assert done.planned(RESULT) == ["attack_generation", "baseline_training"]
    path.write_text(before)
    assert done.planned(RESULT) == []


def test_a_changed_library_makes_all_out_of_date_unless_what_is_there_is_accepted(done):
    (done.home / "kitlib" / "library.py").write_text("VERSION = 2\n")
    assert done.planned(RESULT) == ["attack_generation", "baseline_training", "data_preparation"]
    assert done.run(RESULT, options=["--touch"])[0] == 0
    assert done.planned(RESULT) == []


def test_a_notebook_is_out_of_date_only_for_the_code_that_it_reaches(tmp_path, monkeypatch):
    """In a copy of kitlib, a statement is added to the last function of one file at a time."""
    home = shutil.copytree(REPOSITORY / "kitlib", tmp_path / "kitlib", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "PACKAGE", home)

    def reached():
        code._file.cache_clear()
        code._module.cache_clear()
        return {path.name[:2]: notebook_code.digest_of(path) for path in lessons() if "01" <= path.name[:2] <= "05"}

    whole = reached()
    for edited, stale in ((["audit/report.py", "experiments/sweeps.py", "cli.py"], set()),
                          (["attacks/square.py"], {"02", "03", "04", "05"}), (["data/sources.py"], {"01"}),
                          (["plots/style.py"], set(whole))):
        before = {home / name: (home / name).read_text() for name in edited}
        for path, text in before.items():
            tree = ast.parse(text)
            last = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)][-1]
            last.body.append(ast.parse("lambda: 'edited'").body[0])
            path.write_text(ast.unparse(tree))
        assert {number for number, each in reached().items() if each != whole[number]} == stale, edited
        for path, text in before.items():
            path.write_text(text)
    code._file.cache_clear()
    code._module.cache_clear()


def test_other_packages_or_other_data_make_all_out_of_date(done):
    lock, whole = done.home / "requirements.lock", ["attack_generation", "baseline_training", "data_preparation"]
    before = lock.read_text()
    lock.write_text("package==2\n")
    assert done.planned(RESULT) == whole
    lock.write_text(before)
    assert done.planned(RESULT) == []
    assert done.planned(RESULT, data={"toy/demo": "another state"}) == whole
    assert done.planned(RESULT, data={"other/demo": "another state"}) == []


def test_what_a_failed_batch_has_left_out_of_date_is_known(done, monkeypatch):
    monkeypatch.setattr(batch, "REPOSITORY", done.home)
    monkeypatch.setenv("KITLIB_RUNS", str(done.runs))
    library = done.home / "kitlib" / "library.py"
    before = library.read_text()
    missing = "toy/demo/seed1/records/attacks.json"
    config = {"targets": [RESULT, missing]}
    (done.runs / "batch.json").write_text(json.dumps(config))
    assert batch.out_of_date(config) == {done.runs / missing}
    library.write_text("VERSION = 3\n")
    assert batch.out_of_date(config) == {done.runs / RESULT, done.runs / missing}
    (done.runs / "batch.json").write_text("{no config")
    assert batch.out_of_date(config) == {done.runs / RESULT, done.runs / missing}
    library.write_text(before)


def test_the_state_of_the_data_changes_with_their_files_and_with_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setenv("KITLIB_DATA", str(tmp_path / "data"))
    settings = DataSettings.read({"name": "image_folder", "path": "mine"}, "here")
    picture = tmp_path / "data/mine/train/cat/1.png"
    picture.parent.mkdir(parents=True)
    picture.write_text("a cat")
    seen = [state_of(settings)]
    (tmp_path / "data/.cache").mkdir()
    (tmp_path / "data/.cache/decoded.npz").touch()
    (tmp_path / "data/cifar-10-batches-bin").mkdir()
    assert state_of(settings) == seen[0]
    for change in (
        lambda: age(picture, -1000),                                            # exchanged by one of the same size
        lambda: picture.with_name("2.png").touch(),
        lambda: picture.rename(tmp_path / "data/mine/train/1.png"),             # another label
        lambda: shutil.copytree(tmp_path / "data", tmp_path / "other") and monkeypatch.setenv(
            "KITLIB_DATA", str(tmp_path / "other")),
    ):
        change()
        seen.append(state_of(settings))
    assert len(set(seen)) == 5
    assert state_of(DataSettings.read({"name": "digits"}, "here")) == ""


@pytest.mark.parametrize("named", ["resnet.weights.h5", "{}/resnet.weights.h5"])
def test_a_batch_is_told_the_state_of_a_file_of_weights(tmp_path, monkeypatch, named):
    monkeypatch.setenv("KITLIB_DATA", str(tmp_path))    # from where a relative path counts
    weights, states = tmp_path / "resnet.weights.h5", []
    changes = {"model": {"name": "resnet50", "options": {"weights": named.format(tmp_path)}}}
    for content in (None, "some", "other weights"):
        if content:
            weights.write_text(content)
        job = batch.Job("digits_fgsm", runs.open_run("digits_fgsm", "smoke", 0, changes), changes)
        config = batch.config_of([job])
        states += config["data"].values()
    assert states[0] == "" and len(set(states)) == 3


def test_a_batch_is_told_the_state_of_its_data(tmp_path, monkeypatch):
    monkeypatch.setenv("KITLIB_DATA", str(tmp_path))
    home, states = lung_folder(tmp_path / "data", counts=(1, 1, 1)), []
    home.rename(tmp_path / "here")
    for _ in range(2):
        config = batch.config_of(batch.jobs_for(["lung_ct", "digits_fgsm"], "smoke", 0))
        assert config["data"]["digits_fgsm/smoke"] == ""
        states.append(config["data"]["lung_ct/smoke"])
        (tmp_path / "cifar-10-python.tar.gz").touch()
        states.append(batch.config_of(batch.jobs_for(["lung_ct"], "smoke", 0))["data"]["lung_ct/smoke"])
        (tmp_path / "here/Normal cases/2.jpg").touch()
    assert "" not in states and states[0] == states[1] != states[2]


def test_the_same_run_is_told_alike_however_it_is_asked_for():
    def told(name, changes):
        return batch.config_of([batch.Job(name, runs.open_run(name, "smoke", 0, changes), changes)])

    one = told("digits_fgsm", {"baseline": {"epochs": 2, "batch_size": 32}})
    path = str(EXPERIMENTS / "digits_fgsm.yaml")
    assert told(path, {"baseline": {"batch_size": 32, "epochs": 2}}) == one


def test_a_clock_that_jumps_never_passes_off_the_old_for_the_new(done):
    """Outputs from next week: nothing is done again for that alone, and a change by the right clock still counts."""
    for path in done.folder().rglob("*.*"):
        age(path, 7 * 24 * 3600)
    batch.date_back([done.folder()])
    assert done.planned(RESULT) == []
    file = done.home / "notebooks" / "experiments" / "toy.yaml"
    before = file.read_text()
    file.write_text(f"{before}# changed\n")
    assert "data_preparation" in done.planned(RESULT)
    file.write_text(before)


def test_a_failing_notebook_is_named_keeps_its_copy_and_holds_up_nobody_else(tmp_path):
    toy = ToyBatch(tmp_path)
    status, said = toy.run("toy/demo/seed13/records/data.json", "toy/demo/seed1/records/data.json")
    assert status == 1
    assert "toy, demo, seed 13: 01_data_preparation FAILED: RuntimeError: an unlucky seed" in said
    assert set(toy.content(1)) == {"prepared.npz", "records/data.json"} and toy.content(13) == {}
    copy = nbformat.read(toy.folder(13) / "notebooks" / "01_data_preparation.ipynb", 4)
    assert any(output.get("ename") == "RuntimeError" for cell in copy.cells for output in cell.get("outputs", ()))
    assert "an unlucky seed" in (toy.folder(13) / "logs" / "01_data_preparation.log").read_text()


def test_overrides_and_own_experiments_reach_the_notebook(tmp_path):
    toy = ToyBatch(tmp_path / "a place with spaces")
    own = tmp_path / "my own.yaml"
    own.write_text("profiles: {demo: {}}\n")
    changes = '{"title": "it\'s 5 $HOME", "baseline": {"epochs": 3}}'
    status, said = toy.run("my own/demo+changed/seed2/records/data.json", experiments={"my own": str(own)},
                           overrides={"my own/demo+changed": changes})
    assert status == 0, said
    assert changes in (toy.runs / "my own/demo+changed/seed2/records/data.json").read_text()


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_make_works_or_says_why_it_cannot(tmp_path):
    def make(folder, **environment):
        folder.mkdir()
        for name in ("Makefile", "requirements.lock", "pyproject.toml"):
            shutil.copy(REPOSITORY / name, folder)
        # Nothing else from outside: a make that runs these tests hands its own settings down.
        return subprocess.run(["make", "-n", "install"], cwd=folder, env={"PATH": os.environ["PATH"]} | environment,
                              text=True, capture_output=True)

    assert ".venv/bin/python -m pip install" in make(tmp_path / "sp ace").stdout
    assert make(tmp_path / "my kit", VIRTUAL_ENV=str(tmp_path / "my kit/.venv")).returncode == 0
    assert "environment /my env has a space or a colon" in make(tmp_path / "plain", VIRTUAL_ENV="/my env").stderr
    assert "co:lon has a colon in its path" in make(tmp_path / "co:lon").stderr
    inner = f"/opt{tmp_path}/app/env"       # the repository's path within that of the environment
    assert f"-m venv {inner}" in make(tmp_path / "app", VIRTUAL_ENV=inner).stdout


def test_only_a_few_notebooks_without_a_training_run_at_a_time(tmp_path):
    toy = ToyBatch(tmp_path)
    _, said = toy.run("toy/demo/seed0/results.json", options=["--dry-run", "--quiet", "progress"])
    resources = dict(re.findall(r"rule (\w+):.*?resources: ([^\n]*)", said, flags=re.DOTALL))
    for name in ("data_preparation", "attack_generation", "evaluation"):
        assert "kernels=1" in resources[name] and "training" not in resources[name]
    for name in ("baseline_training", "adversarial_training"):
        assert "training=1" in resources[name]
    assert f"kernels={batch.KERNELS}" in batch._command({"targets": []}, tmp_path, batch.Options())


def test_a_batch_runs_this_kitlib_on_the_data_that_it_was_asked_for(tmp_path, monkeypatch):
    """From the folder of runs, with another clone's kitlib in the environment."""
    other = tmp_path / "other/kitlib"
    other.mkdir(parents=True)
    (other / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KITLIB_DATA", "my data")
    monkeypatch.setenv("KITLIB_RUNS", "my runs")
    monkeypatch.setenv("PYTHONPATH", str(other.parent))
    environment = batch._environment()
    asked = [environment[name] for name in ("KITLIB_DATA", "KITLIB_RUNS")]
    assert asked == [f"{REPOSITORY}/my data", f"{REPOSITORY}/my runs"]      # from the repository, wherever it is run
    code = "import importlib.util; print(importlib.util.find_spec('kitlib').origin)"
    found = subprocess.run([sys.executable, "-c", code], env=environment, text=True, capture_output=True)
    assert found.stdout.strip() == str(REPOSITORY / "kitlib/__init__.py")
    assert environment["PYTHONPATH"].endswith(f"{os.pathsep}{other.parent}")


def test_a_gpu_is_shared():
    assert os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"


def test_a_batch_that_was_killed_has_failed(monkeypatch):
    monkeypatch.setattr(batch.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=-9))
    assert batch.run({"targets": []}, batch.Options()) == 137


@pytest.mark.parametrize("left, kept", [(None, "old"), ("{half", "old"), ('{"cells": []}', '{"cells": []}')])
def test_an_executed_copy_is_replaced_by_a_whole_one_only(tmp_path, monkeypatch, left, kept):
    def fail(_notebook, aside, *_, **__):
        if left:
            Path(aside).write_text(left)
        raise OSError(28, "No space left on device")

    copy = tmp_path / "05_evaluation.ipynb"
    copy.write_text("old")
    (tmp_path / ".05_evaluation.ipynb").write_text('{"cells": ["of a kill"]}')
    monkeypatch.setattr(papermill, "execute_notebook", fail)
    assert "No space left" in headless.execute(tmp_path / "x.ipynb", copy, {})
    assert copy.read_text() == kept and os.listdir(tmp_path) == [copy.name]


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")


def descendants(process: int) -> dict[int, str]:
    """Command line by process id, of everything that this process started and that lives."""
    found, parents = {}, {process}
    for _ in range(8):
        for place in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
                if parent in parents:
                    found[int(place.name)] = (place / "cmdline").read_bytes().decode().replace("\0", " ")
            except (OSError, ValueError):
                continue
        parents |= set(found)
    return found


VICTIMS = {"kernel": "ipykernel_launcher", "papermill": "headless.py", "driver": "snakemake"}


@needs_proc
@pytest.mark.parametrize("victim", [
    pytest.param("kernel", marks=pytest.mark.slow), pytest.param("papermill", marks=pytest.mark.slow), "driver"])
def test_what_was_killed_is_done_again_and_nothing_half_written_is_taken(victim, done, tmp_path):
    """kill -9 at a random moment of notebook 01 or 02, then again to the end."""
    toy, dice = ToyBatch(tmp_path), random.Random(victim)
    target = "toy/demo/seed0/records/baseline.json"
    process = toy.start(target)
    notebook = dice.choice(["01_data_preparation", "02_baseline_training"])
    others = wait_for(lambda: of_kind(process.pid, "ipykernel_launcher", toy, notebook))
    time.sleep(dice.uniform(0, 1.5))
    killed = process.pid if victim == "driver" else next(iter(of_kind(process.pid, VICTIMS[victim])), None)
    if killed:
        os.kill(killed, signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    if victim == "driver":  # everything below it ends with it
        wait_for(lambda: not any(Path(f"/proc/{each}").exists() for each in others))
    whole = done.content()
    assert all(content == whole[name] for name, content in toy.content().items())
    status, said = toy.run(target)
    assert status == 0, said
    assert toy.content() == {name: whole[name] for name in toy.content()} and "records/baseline.json" in toy.content()


def of_kind(process: int, words: str, toy=None, notebook: str | None = None) -> list[int]:
    """Processes below `process` whose command line holds `words`, once `notebook` has begun."""
    if notebook and not (toy.folder() / "logs" / f"{notebook}.log").exists():
        return []
    return [each for each, command in descendants(process).items() if words in command]


def wait_for(condition, seconds: float = 60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError("it did not come about")


@needs_proc
@pytest.mark.slow
def test_a_file_cut_short_by_the_disk_or_a_crash_is_not_taken_for_done(tmp_path):
    """Snakemake keeps a note of every notebook that has begun and not ended; its outputs are made again."""
    toy = ToyBatch(tmp_path)
    target = "toy/demo/seed0/records/data.json"
    process = toy.start(target)
    wait_for(lambda: of_kind(process.pid, "ipykernel_launcher"))
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    for name in MADE["01_data_preparation"]:
        (toy.folder() / name).parent.mkdir(parents=True, exist_ok=True)
        (toy.folder() / name).write_text("half")
    assert toy.run(target)[0] == 0
    assert "half" not in [content.decode() for content in toy.content().values()]


@needs_proc
@pytest.mark.slow
def test_the_same_notebook_of_the_same_run_never_runs_twice_at_a_time(tmp_path):
    """Two batches that do not know of each other: the second waits for the first."""
    toy = ToyBatch(tmp_path)
    target, hold = "toy/demo/seed0/records/data.json", toy.runs / "hold"
    hold.touch()
    first = toy.start(target)
    wait_for(lambda: of_kind(first.pid, "ipykernel_launcher"))
    second = toy.start(target)
    assert any("01_data_preparation waits: it runs already" in line for line in second.stderr)
    hold.unlink()
    for each in (first, second):
        each.communicate(timeout=120)
    assert first.returncode == second.returncode == 0
