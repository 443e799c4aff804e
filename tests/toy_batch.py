"""A copy of the batch machinery over toy notebooks that need no TensorFlow: seconds in place of minutes.

Snakefile, headless.py, papermill and kernels are the real ones; each notebook writes what its rule promises,
slowly and piece by piece, so that a kill can hit it in the middle.
"""
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat

from kitlib.base.places import REPOSITORY

MADE = {
    "01_data_preparation": ["prepared.npz", "records/data.json"],
    "02_baseline_training": ["models/baseline.keras", "records/baseline.json"],
    "03_attack_generation": ["records/attacks.json"],
    "04_adversarial_training": ["models/defended.keras", "records/defended.json"],
    "05_evaluation": ["results.json"],
}
CODE = """
if False:       # for its text alone
    from kitlib import library
    library.VERSION
import os, time
from pathlib import Path
if seed == 13:
    raise RuntimeError("an unlucky seed")
for _ in range(1200):    # while a test says so, a minute at most
    if not (Path(os.environ["KITLIB_RUNS"]) / "hold").exists():
        break
    time.sleep(0.05)
changed = "+changed" if overrides else ""
run = Path(os.environ["KITLIB_RUNS"]) / Path(experiment).stem / f"{profile}{changed}" / f"seed{seed}"
for name in MADE:
    aside = run / (name + ".aside")
    aside.parent.mkdir(parents=True, exist_ok=True)
    with aside.open("w") as file:
        for number in range(5):
            file.write(f"{name} {seed} {overrides} {number}\\n")
            file.flush()
            time.sleep(0.05)
    os.replace(aside, run / name)
"""


SLEEPER = """
import sys, time
from pathlib import Path
notebook, copy = map(Path, sys.argv[1:3])
time.sleep({seconds})
for name in {made!r}[notebook.stem]:
    path = copy.parent.parent / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(name)
"""


class ToyBatch:
    """A repository with toy notebooks, a folder of runs, and Snakemake over them."""

    def __init__(self, home: Path):
        self.home, self.runs = home / "repository", home / "runs"
        (self.home / "kitlib" / "experiments").mkdir(parents=True)
        self.runs.mkdir()
        shutil.copy(REPOSITORY / "Snakefile", self.home)
        for name in ("__init__.py", "base/*.py", "experiments/__init__.py", "experiments/headless.py",
                     "experiments/notebook_code.py"):
            for file in (REPOSITORY / "kitlib").glob(name):
                copy = self.home / file.relative_to(REPOSITORY)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, copy)
        (self.home / "kitlib" / "library.py").write_text("VERSION = 1\n")
        (self.home / "requirements.lock").write_text("package==1\n")
        (self.home / "notebooks" / "experiments").mkdir(parents=True)
        (self.home / "notebooks" / "experiments" / "toy.yaml").write_text("profiles: {demo: {}}\n")
        for name, made in MADE.items():
            self.write_notebook(name, made)

    def write_notebook(self, name: str, made: list[str]) -> None:
        parameters = nbformat.v4.new_code_cell(
            "experiment = 'toy'\nprofile = 'demo'\nseed = 0\noverrides = ''", metadata={"tags": ["parameters"]})
        cells = [parameters, nbformat.v4.new_code_cell(CODE.replace("MADE", repr(made)))]
        kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
        notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
        nbformat.write(notebook, self.home / "notebooks" / f"{name}.ipynb")

    def sleep_instead(self, seconds: float) -> None:
        """From now on a notebook only sleeps and then leaves what its rule promises."""
        (self.home / "kitlib" / "experiments" / "headless.py").write_text(SLEEPER.format(made=MADE, seconds=seconds))

    def folder(self, seed: int = 0, profile: str = "demo") -> Path:
        return self.runs / "toy" / profile / f"seed{seed}"

    def start(self, *targets: str, options=(), cores: int = 2, environment=None, **config) -> subprocess.Popen:
        """Snakemake in the background, as kitlib.experiments.batch calls it."""
        from kitlib.experiments import batch

        (self.runs / "batch.json").write_text(json.dumps({"targets": targets, **config}))
        command = [
            sys.executable, "-m", "snakemake", "--snakefile", str(self.home / "Snakefile"),
            "--directory", str(self.runs), "--configfile", str(self.runs / "batch.json"), "--cores", str(cores),
            "--nolock", "--rerun-incomplete", "--keep-going", "--rerun-triggers", *batch.RERUN_TRIGGERS,
            "--quiet", "all", *options]
        environment = (environment or os.environ) | {"KITLIB_RUNS": str(self.runs), "KITLIB_DRIVER": str(os.getpid())}
        return subprocess.Popen(command, env=environment, text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE)

    def run(self, *targets: str, **more) -> tuple[int, str]:
        """Snakemake to its end: exit status, and all that it and the notebooks said."""
        process = self.start(*targets, **more)
        out, err = process.communicate(timeout=900)
        return process.returncode, out + err

    def planned(self, *targets: str, **config) -> list[str]:
        """The rules that Snakemake would run."""
        status, said = self.run(*targets, options=["--dry-run", "--quiet", "rules"], **config)
        assert status == 0, said
        rules = [line.split()[0] for line in said.splitlines() if re.fullmatch(r"[a-z_]+ +\d+", line)]
        return sorted(set(rules) - {"all", "total"})

    def ran(self, said: str) -> list[str]:
        """The notebooks that began, from what was said."""
        return sorted(line.split(": ")[1].split()[0] for line in said.splitlines() if line.endswith(" begins"))

    def content(self, seed: int = 0) -> dict[str, bytes]:
        """Every promised file that is there."""
        places = {name: self.folder(seed) / name for made in MADE.values() for name in made}
        return {name: path.read_bytes() for name, path in places.items() if path.exists()}
