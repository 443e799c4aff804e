"""The whole pipeline headless: Snakemake drives papermill through notebooks 01-05; the smoke profile."""
import os
import re
import subprocess
import sys

import nbformat
import pytest
from drawn_data import lung_folder

from kitlib.base.places import REPOSITORY
from kitlib.experiments import results


def kitlib(*arguments, runs, cwd, **variables):
    environment = os.environ | {"KITLIB_RUNS": str(runs), "TF_CPP_MIN_LOG_LEVEL": "3"} | variables
    return subprocess.run([sys.executable, "-m", "kitlib", *arguments], env=environment, cwd=cwd, text=True,
                          capture_output=True, timeout=900)


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    """Paper B in the smoke profile, from the folder of slices as it is published (in colour, so normalised channel by
    channel), with the notebooks from 06 on that belong to it; run from a folder that is not the repository."""
    runs, elsewhere = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("elsewhere")
    data = lung_folder(tmp_path_factory.mktemp("data") / "data", counts=(45, 205, 150)).parent
    done = kitlib("reproduce", "lung_ct", "--profile", "smoke", runs=runs, cwd=elsewhere, KITLIB_DATA=str(data))
    assert done.returncode == 0, done.stderr[-3000:]
    assert os.listdir(elsewhere) == []
    return runs, data, done


def test_it_prints_the_tables(reproduced):
    *_, done = reproduced
    assert "profile smoke, seed 0" in done.stdout and "SYNTHETIC" not in done.stdout
    assert re.search(r"worst case \(untargeted, up to PGD \d+/255\) +\d+\.\d \[", done.stdout)
    assert "inconclusive" in done.stdout


def test_the_record_follows_the_schema(reproduced):
    record = results.read(reproduced[0] / "lung_ct/smoke/seed0/results.json")
    assert not record.synthetic and record.environment["judged_in"] == "float32"
    assert len(record.paper) == 10 and all(entry.verdict for entry in record.paper)
    for model in record.models.values():
        assert set(model.attacks) == set(model.confusion) - {"clean"}
        assert len({entry.count for entry in model.attacks.values()}) == 1


def test_it_leaves_models_images_pictures_tables_and_executed_notebooks(reproduced):
    folder = reproduced[0] / "lung_ct/smoke/seed0"
    for name in ("prepared.npz", "models/baseline.keras", "models/defended.keras", "adversarial/pgd_8_255.npz",
                 "figures/adversarial_images.png", "figures/confusion.png", "tables/accuracy.md", "tables/paper.csv",
                 "records/09_lung_data_leak.json", "records/11_explanation_and_detection.json"):
        assert (folder / name).stat().st_size > 0
    for path in (REPOSITORY / "notebooks").glob("0[1-5]*.ipynb"):
        executed = nbformat.read(folder / "notebooks" / path.name, as_version=4)
        assert executed.metadata.papermill.exception is None


def test_a_second_call_has_nothing_to_do(reproduced, tmp_path):
    runs, data, _ = reproduced
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*.keras")}
    again = kitlib("reproduce", "lung_ct", "--profile", "smoke", runs=runs, cwd=tmp_path, KITLIB_DATA=str(data))
    assert again.returncode == 0 and "worst case" in again.stdout
    assert before == {path: path.stat().st_mtime_ns for path in runs.rglob("*.keras")}
