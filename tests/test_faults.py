"""Faults, each one done: a full disk, files cut short, two at once, folders that may not be written, kill -9.

The quick part runs in `make test`. The long part kills the real notebooks:

    python -m pytest -m slow tests/test_faults.py
"""
import codecs
import dataclasses
import itertools
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from test_batch import VICTIMS, descendants, wait_for
from training_toys import checkpoint_in, network, settings, toy_data

from kitlib import cli as command_line
from kitlib import data, models, training
from kitlib.base import files
from kitlib.base.places import REPOSITORY
from kitlib.base.settings import KitError
from kitlib.data import Dataset
from kitlib.data.state import state_of
from kitlib.experiments import runs
from kitlib.experiments.settings import further_notebooks
from kitlib.training.checkpoint import State


@pytest.fixture
def small_disk(tmp_path):
    """A folder where no file can grow beyond 60 kB: a file system of 64 kB where this user may mount one, else a limit
    that the system sets on this process."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True)
    if mounted.returncode == 0:
        yield folder
        subprocess.run(["umount", folder], check=True)
        return
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))
    yield folder
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def text(path, size):
    files.write_text(path, "x" * size)


def record(path, size):
    files.write_json(path, {"history": "x" * size})


def arrays(path, size):
    files.write_arrays(path, images=np.ones(size, np.uint8), labels=np.arange(3))


def model(path, size):
    layers = [keras.Input((4,)), keras.layers.Dense(max(1, size // 20))]
    models.save(keras.Sequential(layers), path)


WRITERS = [text, record, arrays, model]


@pytest.mark.parametrize("write", WRITERS)
def test_a_disk_that_fills_up_in_the_middle_of_a_write_leaves_what_was_there(write, small_disk):
    path = small_disk / f"it{'.keras' if write is model else '.npz' if write is arrays else '.json'}"
    write(path, 100)
    before = path.read_bytes()
    with pytest.raises(KitError, match="could not be written .*free space or choose another folder"):
        write(path, 300_000)
    assert path.read_bytes() == before and os.listdir(small_disk) == [path.name]


def test_a_training_goes_on_after_the_disk_was_full(small_disk, tmp_path):
    """The first epoch's checkpoint fits, the second one beside it does not; with more room it goes on from there."""
    undisturbed, disturbed = network(), network()
    train = training.train
    history = train(undisturbed, toy_data(), settings(epochs=2), tmp_path / "large", progress=False)
    size = checkpoint_in(tmp_path / "large").stat().st_size
    filling = small_disk / "filling"

    class FillUp(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                with filling.open("wb") as file:
                    try:
                        file.write(b"x" * (64_000 - size))
                    except OSError:
                        pass

    if small_disk.stat().st_dev == tmp_path.stat().st_dev or 2 * size > 60_000:
        pytest.skip("needs a file system of its own, and a small checkpoint")
    with pytest.raises(KitError, match="free space"):
        train(disturbed, toy_data(), settings(epochs=2), small_disk, progress=False, callbacks=[FillUp()])
    filling.unlink()
    again = train(network(), toy_data(), settings(epochs=2), small_disk, progress=False)
    assert numbers(again) == numbers(history)


# Cut short or damaged: never taken for whole

def cuts(whole: bytes, dice: random.Random) -> list[bytes]:
    """Beginnings of a file, and the file with a run of bytes changed inside."""
    places = [0, 1, len(whole) - 3, *(dice.randrange(2, len(whole) - 3) for _ in range(8))]
    return [whole[:place] for place in places]


@pytest.fixture
def run():
    """A run with a prepared data set, a model, adversarial images, and a record."""
    run = runs.open_run("digits_fgsm", "smoke")
    toy_data().save(run.path("prepared.npz"))
    run.save_model("baseline", network())
    run.write_adversarial("PGD 32/255", images=np.random.default_rng(0).random((4, 8, 8, 1)), labels=np.arange(4))
    for name in ("data", "baseline"):
        run.write_record(name, {"report": {}})
    return run


@pytest.mark.parametrize("name, read", [
    ("prepared.npz", lambda run: run.dataset()),
    ("models/baseline.keras", lambda run: run.model("baseline")),
    ("adversarial/pgd_32_255.npz", lambda run: run.adversarial("PGD 32/255")),
    ("records/baseline.json", lambda run: run.read_record("baseline"))])
def test_a_file_cut_short_is_refused_wherever_the_cut_is(run, name, read):
    path = run.path(name)
    whole = path.read_bytes()
    read(run)
    for part in cuts(whole, random.Random(name)):
        path.write_bytes(part)
        with pytest.raises(KitError, match=path.name):
            read(run)
    path.write_bytes(whole)
    read(run)


def test_a_model_of_other_data_is_refused(run):
    """Its test images could be among those it was trained on."""
    def prepare(data):
        data.save(run.path("prepared.npz"))
        run.write_record("data", {"report": data.report()})

    data = toy_data()
    prepare(data)
    run.write_record("baseline", {})
    assert run.model("baseline")
    split = data.split | {"train": data.split["validation"], "validation": data.split["train"]}
    prepare(dataclasses.replace(data, split=split))
    with pytest.raises(KitError, match="baseline.json was made with other data, .* 02_baseline_training.ipynb again"):
        run.model("baseline")
    prepare(data)
    assert run.model("baseline")


# Two at once

def test_a_second_batch_in_a_folder_of_runs_is_refused(runs_folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["kitlib", "reproduce", "digits_fgsm", "--profile", "smoke"])
    with files.locked(runs_folder, "batch"):
        assert command_line.main() == 2
    assert "error: another batch runs in" in capsys.readouterr().err
    assert os.listdir(runs_folder) == [".batch.lock"]


def _write_again_and_again(path: Path, letter: str) -> None:
    for _ in range(50):
        files.write_json(path, {"who": letter * 20_000})


def test_whoever_reads_while_two_write_sees_a_whole_file(tmp_path):
    path = tmp_path / "record.json"
    _write_again_and_again(path, "a")
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_again_and_again, args=(path, letter)) for letter in "ab"]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        seen.add(files.read_json(path)["who"])
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert seen <= {"a" * 20_000, "b" * 20_000} and os.listdir(tmp_path) == ["record.json"]


# Clocks and rights

def test_a_clock_that_jumps_changes_nothing_that_is_read(run):
    """Files from the future and from 1970: records are matched by content, never by time."""
    for path in run.folder.rglob("*.*"):
        os.utime(path, (4e9, 4e9))
    assert run.model("baseline") and run.dataset()
    for path in run.folder.rglob("*.*"):
        os.utime(path, (0, 0))
    assert run.model("baseline") and run.dataset()


def as_nobody(action) -> str:
    """What `action` returns or is refused with, in a process that has no special rights."""
    codecs.lookup("cp437")      # of zip files; nobody may not read the Python that it is imported from
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe()

    def child():
        if os.geteuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        try:
            theirs.send(str(action()))
        except KitError as error:
            theirs.send(f"KitError: {error}")

    process = context.Process(target=child)
    process.start()
    assert mine.poll(60)
    process.join()
    return mine.recv()


@pytest.fixture
def open_folder(tmp_path):
    """A folder that anybody may look into; pytest's own are for their owner alone."""
    for folder in (tmp_path, *tmp_path.parents[:3]):        # three with pytest-xdist
        folder.chmod(folder.stat().st_mode | 0o555)
    return tmp_path


def test_data_that_may_only_be_read_are_enough(open_folder):
    path = open_folder / "data.npz"
    toy_data().save(path)
    path.chmod(0o444)
    open_folder.chmod(0o555)
    assert as_nobody(lambda: Dataset.load(path).name) == toy_data().name
    open_folder.chmod(0o755)


def test_what_may_not_be_read_is_not_called_damaged(open_folder):
    record, arrays = open_folder / "record.json", open_folder / "arrays.npz"
    files.write_json(record, {"a": 1})
    files.write_arrays(arrays, a=np.zeros(1))
    for path, read in ((record, files.read_json), (arrays, files.read_arrays)):
        path.chmod(0)
        said = as_nobody(lambda path=path, read=read: read(path))
        assert said == f"KitError: {path} cannot be read (Permission denied)"


def test_a_closed_folder_beside_the_lung_data_hides_nothing(open_folder):
    for name in ("Bengin", "Malignant", "Normal"):
        (open_folder / "data/the scans" / f"{name} cases").mkdir(parents=True)
    (open_folder / "data/lost+found").mkdir(mode=0)
    chosen = data.DataSettings(name="iq_othnccd")
    assert len(as_nobody(lambda: state_of_data(chosen, open_folder / "data"))) == 16
    (open_folder / "data").chmod(0)
    assert as_nobody(lambda: state_of_data(data.DataSettings(name="cifar10"), open_folder / "data")) == ""
    (open_folder / "data").chmod(0o755)


def state_of_data(settings, folder) -> str:
    os.environ["KITLIB_DATA"] = str(folder)     # in a process of its own
    return state_of(settings)


def test_a_folder_that_may_not_be_written_is_named_and_stays_as_it_is(open_folder):
    path = open_folder / "record.json"
    files.write_json(path, {"a": 1})
    open_folder.chmod(0o555)
    said = as_nobody(lambda: files.write_json(path, {"a": 2}))
    assert said.startswith(f"KitError: {open_folder} cannot be written (Permission denied)")
    assert as_nobody(lambda: files.locked(open_folder, "batch").__enter__()).startswith("KitError: ")
    open_folder.chmod(0o755)
    assert files.read_json(path) == {"a": 1}


@pytest.mark.parametrize("closed, rights", [("pets", 0o644), ("pets/cat", 0o644), ("pets/cat", 0o000), (".", 0o644)])
def test_a_folder_of_pictures_that_may_not_be_entered_is_named(open_folder, closed, rights):
    home = open_folder / "data"
    for name in ("cat", "dog"):
        (home / "pets" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("L", (16, 16)).save(home / "pets" / name / f"{number}.png")
    chosen = data.DataSettings(name="image_folder", path="pets", size=16)
    (home / closed).chmod(rights)
    said = as_nobody(lambda: data.load(chosen, 0, home))
    (home / closed).chmod(0o755)
    assert said.startswith("KitError: ") and f"{home / closed}" in said and "cannot be read" in said


# The long part: the real notebooks

NOTEBOOKS = [path.stem for path in sorted((REPOSITORY / "notebooks").glob("0[1-5]_*.ipynb"))]
LESSONS = further_notebooks()
CLOCK = ("seconds", "milliseconds", "environment")  # what in a record tells of the machine and its clock
TRAINS = {"02": "plain", "04": "fgsm"}     # which training the first digits of a notebook's name stand for


def numbers(value):
    """A record without what tells of the machine and its clock."""
    if isinstance(value, dict):
        return {key: numbers(each) for key, each in value.items() if key not in CLOCK}
    return [numbers(each) for each in value] if isinstance(value, list) else value


def outcome(folder: Path) -> dict:
    """Everything of a run that tells a result, by file."""
    found = {path.relative_to(folder).as_posix(): numbers(json.loads(path.read_text()))
             for path in [*folder.glob("records/*.json"), *folder.glob("results.json")]}
    for path in folder.glob("models/*.keras"):
        found[path.name] = [weight.tolist() for weight in models.load(path).get_weights()]
    for path in [*folder.glob("adversarial/*.npz"), *folder.glob("prepared.npz")]:
        found[path.name] = {name: array.tolist() for name, array in files.read_arrays(path).items()}
    return found


def start_batch(folder: Path, experiment: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "kitlib", "reproduce", experiment, "--profile", "smoke", "--cores", "1"]
    return subprocess.Popen(command, env=os.environ | {"KITLIB_RUNS": str(folder)}, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finished(folder: Path, experiment: str = "digits_fgsm") -> dict:
    process = start_batch(folder, experiment)
    said, _ = process.communicate(timeout=1200)
    assert process.returncode == 0, said
    return outcome(folder / Path(experiment).stem / "smoke/seed0")


@pytest.fixture(scope="session")
def undisturbed():
    """The outcome of a whole run. KITLIB_UNDISTURBED names a folder to keep it in between calls of pytest."""
    kept = os.environ.get("KITLIB_UNDISTURBED")
    folder = Path(kept) if kept else Path(os.environ.get("TMPDIR", "/tmp")) / f"kitlib-undisturbed-{os.getpid()}"
    yield folder, finished(folder)
    if not kept:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def with_lessons(tmp_path_factory):
    """The same of an experiment with all the notebooks from 06 on: its file, its folder of runs, its outcome."""
    folder = tmp_path_factory.mktemp("with_lessons")
    file = folder / "with_lessons.yaml"
    file.write_text(json.dumps({"based_on": "digits_fgsm", "notebooks": LESSONS}))
    return str(file), folder / "runs", finished(folder / "runs", str(file))


def kill_and_wait(victim: str, process: subprocess.Popen) -> None:
    """kill -9 of one of VICTIMS in this batch; returns when nothing of the batch is left."""
    below = descendants(process.pid)
    hit = [process.pid] if victim == "driver" else [each for each, line in below.items() if VICTIMS[victim] in line][:1]
    for each in hit:
        os.kill(each, signal.SIGKILL)
    process.communicate(timeout=300)
    wait_for(lambda: not any(Path(f"/proc/{each}").exists() for each in below))


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS)
@pytest.mark.parametrize("victim", VICTIMS)
def test_kill_9_at_a_random_moment_costs_nothing_but_time(victim, notebook, undisturbed, tmp_path):
    """Kill one of kernel, papermill (headless.py) and driver while this notebook runs, in the middle of its training
    where it trains; then finish the run."""
    reference, expected = undisturbed
    dice = random.Random(f"{victim} {notebook}")
    copy_before(notebook, reference, tmp_path)
    process = start_batch(tmp_path, "digits_fgsm")
    method = TRAINS.get(notebook[:2])
    sign = f"checkpoints/{method}-*/.training.lock" if method else f"digits_fgsm/smoke/seed0/logs/{notebook}.log"
    wait_for(lambda: list(tmp_path.glob(sign)) or process.poll() is not None, seconds=120)
    time.sleep(dice.uniform(0, 1) if method else dice.uniform(0.5, 12))     # the training takes some seconds
    kill_and_wait(victim, process)
    assert not any(State.load(path).finished for path in tmp_path.glob(f"checkpoints/{method}-*/checkpoint.npz"))
    half_way = outcome(tmp_path / "digits_fgsm/smoke/seed0")  # reads every file: each is whole
    assert all(half_way[name] == expected[name] for name in half_way)
    assert finished(tmp_path) == expected


@pytest.mark.slow
@pytest.mark.parametrize("victim, notebook", zip(itertools.cycle(VICTIMS), LESSONS))
def test_kill_9_in_a_notebook_from_06_on(victim, notebook, with_lessons, tmp_path):
    experiment, reference, expected = with_lessons
    shutil.copytree(reference, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "checkpoints")
    run = tmp_path / "with_lessons/smoke/seed0"
    for made in (run / f"records/{notebook}.json", run / f"logs/{notebook}.log"):
        made.unlink()
    process = start_batch(tmp_path, experiment)
    wait_for(lambda: any(VICTIMS["kernel"] in line for line in descendants(process.pid).values()), seconds=120)
    time.sleep(random.Random(notebook).uniform(2, 25))
    kill_and_wait(victim, process)
    assert not (run / f"records/{notebook}.json").exists()      # it came in time
    half_way = outcome(run)
    assert all(half_way[name] == expected[name] for name in half_way)
    assert finished(tmp_path, experiment) == expected


def copy_before(notebook: str, reference: Path, folder: Path) -> None:
    """A folder of runs in which everything before `notebook` is done and nothing after it."""
    later = {name for maker in NOTEBOOKS[NOTEBOOKS.index(notebook):]
             for name, made_by in runs.MAKER.items() if made_by == maker}
    shutil.copytree(reference, folder, dirs_exist_ok=True)
    run = folder / "digits_fgsm/smoke/seed0"
    for name in later:
        (run / name).unlink(missing_ok=True)
    for log in run.glob("logs/*.log"):
        if log.stem >= notebook:
            log.unlink()
    number = notebook[:2]
    if number <= "04":  # trainings that were not made yet
        for checkpoint in (folder / "checkpoints").glob("*" if number <= "02" else "fgsm-*"):
            shutil.rmtree(checkpoint)
    if number <= "03":
        shutil.rmtree(run / "adversarial", ignore_errors=True)


LEFT = [set(), set(), {"plain-1"}, {"plain-1"}, {"plain-1", "fgsm-2"}]


@pytest.mark.parametrize("notebook, left", zip(NOTEBOOKS, LEFT, strict=True))
def test_before_a_notebook_nothing_that_it_makes_is_there(notebook, left, tmp_path):
    reference = tmp_path / "reference"
    for folder in ("checkpoints/plain-1", "checkpoints/fgsm-2", "digits_fgsm/smoke/seed0/adversarial"):
        (reference / folder).mkdir(parents=True)
    copy_before(notebook, reference, tmp_path / "copy")
    assert set(os.listdir(tmp_path / "copy/checkpoints")) == left
    assert (tmp_path / "copy/digits_fgsm/smoke/seed0/adversarial").exists() == (notebook > "04")
