# Which notebook needs which. papermill runs each one; the executed copy and the log are kept in
# the run's folder even when a notebook fails.
#
#   snakemake --cores all $PWD/runs/digits_fgsm/demo/seed1/results.json
#
# `python -m kitlib reproduce` and `sweep` check the request first and hand over a config file with
#   targets      files to make, relative to the folder of runs
#   experiments  name -> YAML file, for those that lie outside notebooks/experiments
#   overrides    "<experiment>/<profile>+<hash>" -> the changes that this hash stands for
#   data         "<experiment>/<profile>" -> the state of the files that its data are read from, where it needs any
#   settings     "<experiment>/<profile>" -> the fingerprint of all that it says
#
# KITLIB_RUNS (default runs/) is where runs lie. A notebook is out of date where itself, its experiment, its data, the
# locked packages or the code of kitlib that it depends on has changed, and where one before it is.
import os
import shlex
import signal
import sys
from pathlib import Path

import yaml

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT))    # this very kitlib, whichever is installed

from kitlib.base.places import runs_folder
from kitlib.experiments.notebook_code import write_digest

RUNS = runs_folder()
CODE = f"{RUNS}/.code"      # for each notebook a file that changes with the code of kitlib that the notebook depends on
for notebook in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"):
    write_digest(notebook, Path(CODE))

RUN = f"{RUNS}/{{experiment}}/{{profile}}/seed{{seed}}"
# The locked packages. Snakemake compares files of this size by content.
PACKAGES = [str(path) for path in ROOT.glob("requirements.lock")]
OVERRIDES = config.get("overrides", {})

# kitlib's driver must not leave its batch behind when it is killed.
if sys.platform == "linux" and os.environ.get("KITLIB_DRIVER") == str(os.getppid()):
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def experiment_files(wildcards):
    """An experiment's file, and that of the experiment that it is based on."""
    own = config.get("experiments", {}).get(wildcards.experiment)
    own = own or f"{ROOT}/notebooks/experiments/{wildcards.experiment}.yaml"
    base = yaml.safe_load(Path(own).read_text()).get("based_on")
    if not base:
        return [own]
    is_path = str(base).endswith((".yaml", ".yml"))     # from the folder of the file that names it
    return [own, str(Path(own).parent / base) if is_path else f"{ROOT}/notebooks/experiments/{base}.yaml"]


# Where nothing is asked for: the experiments on embedded data.
EMBEDDED = [f"{name}/demo/seed0/results.json" for name in ("digits_fgsm", "phantom_ct")]


wildcard_constraints:
    experiment=r"[^/]+",
    profile=r"[^/]+",
    seed=r"\d+",
    further=r"(0[6-9]|[1-9]\d)_\w+",


localrules:
    all,


rule all:
    input:
        [f"{RUNS}/{target}" for target in config.get("targets", EMBEDDED)],


rule data_preparation:
    input:
        packages=PACKAGES,
        experiment=experiment_files,
        notebook=f"{ROOT}/notebooks/01_data_preparation.ipynb",
        code=f"{CODE}/01_data_preparation.sha256",
    output:
        f"{RUN}/prepared.npz",
        f"{RUN}/records/data.json",
    log:
        notebook=f"{RUN}/notebooks/01_data_preparation.ipynb",
        text=f"{RUN}/logs/01_data_preparation.log",
    params:
        experiment=lambda wildcards: config.get("experiments", {}).get(wildcards.experiment, wildcards.experiment),
        profile=lambda wildcards: wildcards.profile.split("+")[0],
        # quoted here, because Snakemake's :q makes nothing of an empty text
        overrides=lambda wildcards: shlex.quote(OVERRIDES.get(f"{wildcards.experiment}/{wildcards.profile}", "")),
        # given to no notebook: only so that other data and other settings make a run out of date
        data=lambda wildcards: config.get("data", {}).get(f"{wildcards.experiment}/{wildcards.profile}", ""),
        settings=lambda wildcards: config.get("settings", {}).get(f"{wildcards.experiment}/{wildcards.profile}", ""),
    resources:
        # also of 03 and 05: kitlib.experiments.batch lets only a few of them run at a time, however many cores there are
        kernels=1,
    shell:
        # `exec`, so that nothing stands between Snakemake and the notebook when one of them is killed
        "exec {sys.executable:q} -P {ROOT:q}/kitlib/experiments/headless.py {input.notebook:q} {log.notebook:q} {log.text:q}"
        " {params.experiment:q} {params.profile:q} {wildcards.seed} {params.overrides}"


use rule data_preparation as baseline_training with:
    input:
        rules.data_preparation.output,
        packages=PACKAGES,
        notebook=f"{ROOT}/notebooks/02_baseline_training.ipynb",
        code=f"{CODE}/02_baseline_training.sha256",
    output:
        f"{RUN}/models/baseline.keras",
        f"{RUN}/records/baseline.json",
    log:
        notebook=f"{RUN}/notebooks/02_baseline_training.ipynb",
        text=f"{RUN}/logs/02_baseline_training.log",
    resources:
        training=1,


use rule data_preparation as attack_generation with:
    input:
        rules.baseline_training.output,
        packages=PACKAGES,
        notebook=f"{ROOT}/notebooks/03_attack_generation.ipynb",
        code=f"{CODE}/03_attack_generation.sha256",
    output:
        f"{RUN}/records/attacks.json",
    log:
        notebook=f"{RUN}/notebooks/03_attack_generation.ipynb",
        text=f"{RUN}/logs/03_attack_generation.log",


use rule data_preparation as adversarial_training with:
    input:
        rules.baseline_training.output,
        packages=PACKAGES,
        notebook=f"{ROOT}/notebooks/04_adversarial_training.ipynb",
        code=f"{CODE}/04_adversarial_training.sha256",
    output:
        f"{RUN}/models/defended.keras",
        f"{RUN}/records/defended.json",
    log:
        notebook=f"{RUN}/notebooks/04_adversarial_training.ipynb",
        text=f"{RUN}/logs/04_adversarial_training.log",
    resources:
        training=1,


use rule data_preparation as evaluation with:
    input:
        rules.attack_generation.output,
        rules.adversarial_training.output,
        packages=PACKAGES,
        notebook=f"{ROOT}/notebooks/05_evaluation.ipynb",
        code=f"{CODE}/05_evaluation.sha256",
    output:
        f"{RUN}/results.json",
    log:
        notebook=f"{RUN}/notebooks/05_evaluation.ipynb",
        text=f"{RUN}/logs/05_evaluation.log",


# Notebooks from 06 on: they read what 01-05 left, and end with run.write_record("<their own name>", ...).
use rule data_preparation as further_notebook with:
    input:
        rules.evaluation.output,
        packages=PACKAGES,
        notebook=f"{ROOT}/notebooks/{{further}}.ipynb",
        code=f"{CODE}/{{further}}.sha256",
    output:
        f"{RUN}/records/{{further}}.json",
    log:
        notebook=f"{RUN}/notebooks/{{further}}.ipynb",
        text=f"{RUN}/logs/{{further}}.log",
    resources:
        training=1,
