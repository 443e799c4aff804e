"""The batch on a cluster: what Snakemake is told, and a real Slurm on this machine where one is installed.

The whole trial, with a sweep and a worker that is killed: examples/slurm/try_on_one_machine.py.
"""
import importlib.util
import shutil
import threading
import time

import pytest
import yaml
from toy_batch import ToyBatch

from kitlib.base.places import REPOSITORY
from kitlib.experiments import batch

EXAMPLE = REPOSITORY / "examples" / "slurm"
SPEC = importlib.util.spec_from_file_location("trial", EXAMPLE / "try_on_one_machine.py")
trial = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(trial)


def test_a_cluster_is_a_snakemake_profile_and_knows_no_limit_of_this_machine(tmp_path):
    asked = {"targets": ["digits_fgsm/full/seed0/results.json"]}
    here = batch._command(asked, tmp_path, batch.Options())
    there = batch._command(asked, tmp_path, batch.Options(profile=str(EXAMPLE)))
    assert "training=1" in here and "--profile" not in here
    assert there[there.index("--profile") + 1] == str(EXAMPLE)
    assert not any(option.startswith("training=") for option in there)


def test_the_example_s_profile_sends_a_lost_notebook_out_again():
    settings = yaml.safe_load((EXAMPLE / "config.yaml").read_text())
    assert settings["executor"] == "slurm" and settings["retries"] >= 1
    batch.Options(profile=str(EXAMPLE))


def test_equal_results_are_told_from_different_ones(tmp_path, capsys):
    for place, accuracy in (("cluster", 0.5), ("local", 0.5)):
        folder = tmp_path / place / "digits_fgsm/smoke/seed0"
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(f'{{"accuracy": {accuracy}, "seconds": {len(place)}}}')
    assert trial.compare(tmp_path) == 0
    (folder / "results.json").write_text('{"accuracy": 0.6, "seconds": 1}')
    assert trial.compare(tmp_path) == 1
    (tmp_path / "empty").mkdir()
    assert trial.compare(tmp_path / "empty") == 1


HAS_SLURM = all(shutil.which(name, path=trial.PATH) for name in trial.NEEDED)


@pytest.mark.skipif(not HAS_SLURM, reason="Slurm is not installed")
def test_a_worker_that_is_killed_is_seen_to_be_down(tmp_path):
    with trial.OneMachineSlurm(tmp_path, workers=2) as slurm:
        assert len(slurm.ask("srun", "--nodes=2", "--nodelist=w1,w2", "hostname").splitlines()) == 2
        assert len(slurm.kill("w2")) >= 1
        end = time.monotonic() + 60
        while "down" not in slurm.ask("sinfo", "--noheader", "--nodes=w2", "--format=%T"):
            assert time.monotonic() < end
            time.sleep(1)
        assert slurm.ask("srun", "--nodes=1", "hostname").strip()


@pytest.mark.slow
@pytest.mark.skipif(not HAS_SLURM, reason="Slurm is not installed")
def test_a_batch_survives_the_loss_of_a_worker(tmp_path):
    """The real Snakefile on a real Slurm, with notebooks that only sleep; one of two workers is killed."""
    there, here = run_on_slurm(tmp_path / "there", workers=2, kill=True), ToyBatch(tmp_path / "here")
    here.sleep_instead(0)
    targets = [f"toy/demo/seed{seed}/results.json" for seed in range(2)]
    assert here.run(*targets)[0] == 0
    assert all(here.content(seed) == there.content(seed) and len(here.content(seed)) == 8 for seed in range(2))


def run_on_slurm(home, workers: int, kill: bool, runs: int = 2) -> ToyBatch:
    """Toy runs on a Slurm of so many workers, to their end."""
    toy = ToyBatch(home)
    toy.sleep_instead(5)
    (home / "profile").mkdir()
    (home / "profile" / "config.yaml").write_text(trial.PROFILE.format(jobs=workers))
    with trial.OneMachineSlurm(home / "slurm", workers) as slurm:
        killer = threading.Thread(target=trial.kill_in_the_middle, args=(slurm, 2.0))
        if kill:
            killer.start()
        status, said = toy.run(*(f"toy/demo/seed{seed}/results.json" for seed in range(runs)),
                               options=["--profile", str(home / "profile")], environment=slurm.environment)
        lost = slurm.ask("squeue", "--noheader", "--states=NODE_FAIL", "--format=%i").split()
    assert status == 0, said
    assert len(lost) == kill
    return toy
