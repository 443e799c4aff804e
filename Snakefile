# Which notebook needs which. papermill runs each one; the executed copy and the log are kept in
# the run's folder even when a notebook fails.
#
#   snakemake --config experiment=digits_fgsm profile=demo seeds=0,1,2
#
# KITLIB_RUNS (default runs/) is where runs lie.
import os
from pathlib import Path

import yaml

ROOT = Path(workflow.basedir)
RUNS = Path(os.environ.get("KITLIB_RUNS") or ROOT / "runs").resolve()
RUN = f"{RUNS}/{{experiment}}/{{profile}}/seed{{seed}}"
LIBRARY = sorted(str(path) for path in (ROOT / "kitlib").rglob("*.py"))

EXPERIMENTS = str(config.get("experiment", "digits_fgsm,phantom_ct")).split(",")
PROFILE = config.get("profile", "demo")
SEEDS = str(config.get("seeds", 0)).split(",")


def targets(experiment):
    """What notebook 05 leaves, and the records of the further notebooks that the experiment's file lists."""
    content = yaml.safe_load((ROOT / "notebooks" / "experiments" / f"{experiment}.yaml").read_text())
    changes = (content.get("profiles") or {}).get(PROFILE) or {}
    records = [f"records/{name}.json" for name in changes.get("notebooks", content.get("notebooks", ()))]
    run = f"{RUNS}/{experiment}/{PROFILE}/seed{{seed}}"
    return expand("{run}/{file}", run=expand(run, seed=SEEDS), file=["results.json", *records])


# What is said of a notebook is one line when it begins and one when it ends; all else is in its log.
PAPERMILL = """
name=$(basename {input.notebook} .ipynb)
say() {{ echo "$(date +%T) {wildcards.experiment}, {wildcards.profile}, seed {wildcards.seed}: $name $1" >&2; }}
say begins
papermill {input.notebook} {log.notebook} --kernel python3 --no-progress-bar --log-output \\
    -p experiment {wildcards.experiment} -p profile {wildcards.profile} -p seed {wildcards.seed} > {log.text} 2>&1 \\
    && say done || {{
    say "FAILED: $(grep -a -o -E '[A-Z][A-Za-z]+Error: .*' {log.text} | tail -n 1)"
    echo "  its executed copy, with the error: {log.notebook}" >&2
    exit 1
}}
"""


wildcard_constraints:
    experiment=r"\w+",
    profile=r"\w+",
    seed=r"\d+",
    further=r"(0[6-9]|[1-9]\d)_\w+",


rule all:
    input:
        [targets(experiment) for experiment in EXPERIMENTS],


rule data_preparation:
    input:
        library=LIBRARY,
        experiment=f"{ROOT}/notebooks/experiments/{{experiment}}.yaml",
        notebook=f"{ROOT}/notebooks/01_data_preparation.ipynb",
    output:
        f"{RUN}/prepared.npz",
        f"{RUN}/records/data.json",
    log:
        notebook=f"{RUN}/notebooks/01_data_preparation.ipynb",
        text=f"{RUN}/logs/01_data_preparation.log",
    shell:
        PAPERMILL


rule baseline_training:
    input:
        rules.data_preparation.output,
        library=LIBRARY,
        notebook=f"{ROOT}/notebooks/02_baseline_training.ipynb",
    output:
        f"{RUN}/models/baseline.keras",
        f"{RUN}/records/baseline.json",
    log:
        notebook=f"{RUN}/notebooks/02_baseline_training.ipynb",
        text=f"{RUN}/logs/02_baseline_training.log",
    resources:
        training=1,
    shell:
        PAPERMILL


rule attack_generation:
    input:
        rules.baseline_training.output,
        library=LIBRARY,
        notebook=f"{ROOT}/notebooks/03_attack_generation.ipynb",
    output:
        f"{RUN}/records/attacks.json",
    log:
        notebook=f"{RUN}/notebooks/03_attack_generation.ipynb",
        text=f"{RUN}/logs/03_attack_generation.log",
    shell:
        PAPERMILL


rule adversarial_training:
    input:
        rules.baseline_training.output,
        library=LIBRARY,
        notebook=f"{ROOT}/notebooks/04_adversarial_training.ipynb",
    output:
        f"{RUN}/models/defended.keras",
        f"{RUN}/records/defended.json",
    log:
        notebook=f"{RUN}/notebooks/04_adversarial_training.ipynb",
        text=f"{RUN}/logs/04_adversarial_training.log",
    resources:
        training=1,
    shell:
        PAPERMILL


rule evaluation:
    input:
        rules.attack_generation.output,
        rules.adversarial_training.output,
        library=LIBRARY,
        notebook=f"{ROOT}/notebooks/05_evaluation.ipynb",
    output:
        f"{RUN}/results.json",
    log:
        notebook=f"{RUN}/notebooks/05_evaluation.ipynb",
        text=f"{RUN}/logs/05_evaluation.log",
    shell:
        PAPERMILL


# Notebooks from 06 on: they read what 01-05 left, and end with run.write_record("<their own name>", ...).
rule further_notebook:
    input:
        rules.evaluation.output,
        library=LIBRARY,
        notebook=f"{ROOT}/notebooks/{{further}}.ipynb",
    output:
        f"{RUN}/records/{{further}}.json",
    log:
        notebook=f"{RUN}/notebooks/{{further}}.ipynb",
        text=f"{RUN}/logs/{{further}}.log",
    resources:
        training=1,
    shell:
        PAPERMILL
