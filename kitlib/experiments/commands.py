"""What the commands of `kitlib` do on experiments and their runs; kitlib/cli.py has their options."""
from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

from kitlib import plots
from kitlib.base import files
from kitlib.base.places import NOTEBOOKS, REPOSITORY
from kitlib.base.settings import KitError
from kitlib.experiments import aggregates, batch, documents, first_look, publication, runs, sweeps
from kitlib.experiments import pretrained as of_models
from kitlib.experiments import report as of_reports
from kitlib.experiments import results as of_results
from kitlib.experiments import status as of_runs
from kitlib.experiments.settings import lessons, solutions

EMBEDDED = ("digits_fgsm", "phantom_ct")


def reproduce(arguments) -> int:
    """Check the request, let Snakemake run what is missing, then print the tables that are up to date."""
    how = _how(arguments)
    jobs = batch.jobs_for(arguments.experiments or EMBEDDED, arguments.profile, arguments.seed)
    config = batch.config_of(jobs)
    status = batch.run(config, how)
    if how.dry or how.touch:
        return status
    stale = batch.out_of_date(config) if status else ()
    for job in jobs:
        if job.run.path("results.json") in stale:
            print(f"nothing new in {job.run.folder}, as the batch failed")
        else:
            _print_results(job.run)
    return status


def sweep(arguments) -> int:
    """Let Snakemake run what is missing of a sweep, then aggregate over its seeds and print the table."""
    how = _how(arguments)
    asked = sweeps.load(arguments.sweep)
    config = batch.config_of(sweeps.jobs_of(asked))
    status = batch.run(config, how)
    if how.dry:
        return status
    try:
        found = sweeps.aggregate(asked, batch.out_of_date(config) if status else ())
        sweeps.write(found, asked.folder)
        _print_aggregate(found, asked.folder)
    except KitError as error:
        if not status:
            raise
        print(error)    # what ended the batch stands above
    return status


def aggregate(arguments) -> int:
    """Mean, spread and interval over the seeds of the finished runs of a sweep; of runs that are not here the published
    records count."""
    asked = sweeps.load(arguments.sweep)
    found = sweeps.aggregate(asked, published=True)
    folder = sweeps.PUBLISHED / asked.name if arguments.publish else asked.folder
    if arguments.publish:
        sweeps.publish(found)
    else:
        sweeps.write(found, folder)
    _print_aggregate(found, folder)
    return 0


def _print_aggregate(found, folder: Path) -> None:
    print(f"\n{sweeps.heading(found)}\n{folder}\n{aggregates.LEGEND}\n")
    print(aggregates.accuracy_table(found.groups).to_string(index=False))
    for missing in found.missing:
        print(f"missing: {missing}")


def _how(arguments):
    return batch.Options(arguments.cores, arguments.trainings, arguments.snakemake_profile, arguments.touch,
                         arguments.dry_run)


def results(arguments) -> int:
    """Print the tables of finished runs."""
    for job in batch.jobs_for(arguments.experiments or EMBEDDED, arguments.profile, arguments.seed):
        _print_results(job.run)
    return 0


def _print_results(run) -> None:
    found = of_results.of_run(run)
    print(f"\n{of_results.heading(found)}\n{run.folder}\n")
    print(of_results.accuracy_table(found).to_string(index=False), end="\n\n")
    if found.paper:
        print(of_results.paper_table(found).drop(columns="why").to_string(index=False))


def publish(arguments) -> int:
    """Copy what runs have found to figures/, and make the papers' figures, RESULTS.md and the README's numbers from all
    of it."""
    figures = REPOSITORY / "figures"
    for job in batch.jobs_for(arguments.experiments, arguments.profile, arguments.seed):
        found = publication.publish(job.run, figures)
        print(f"{found.folder}: {found.bytes / 1e6:.1f} MB")
        for what, why in found.left_out.items():
            print(f"  left out: {what}: {why}")
    for drawn in publication.draw_papers(figures):
        print(drawn)
    if not (figures / "first_look.png").exists():
        plots.keep(first_look.draw(figures), figures / "first_look.png")
    for path in (REPOSITORY / name for name in documents.FILES):
        files.write_text(path, documents.fill_in(path.read_text(encoding="utf-8"), figures))
    return 0


def status(arguments) -> int:
    """Print which runs exist, how far they are and what they found."""
    folder = runs.runs_folder()
    table = of_runs.table(folder)
    print(folder)
    print("no runs yet: `kitlib reproduce` makes some" if table.empty else table.to_string(index=False))
    return 0


def refresh(arguments) -> int:
    """Run the notebooks, then the solutions, with their defaults and write their outputs back into notebooks/."""
    for notebook in lessons() + solutions():
        print(notebook.relative_to(NOTEBOOKS), flush=True)
        command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace",
                   "--ExecutePreprocessor.record_timing=False", str(notebook)]
        subprocess.run(command, check=True)
    return 0


def report(arguments) -> int:
    """Write report.html for finished runs."""
    jobs = batch.jobs_for(arguments.experiments, arguments.profile, arguments.seed)
    if arguments.out and len(jobs) > 1:
        raise KitError("--out takes one experiment")
    for job in jobs:
        of_results.of_run(job.run)
        print(of_reports.write_run(job.run.folder, arguments.out))
    return 0


def pretrained(arguments) -> int:
    """List the pretrained models, or put those of an experiment into its run and say how to go on."""
    if arguments.experiment is None:
        table = of_models.table()
        print("no pretrained models in figures/" if table.empty else table.to_string(index=False))
        return 0
    run = of_models.place(arguments.experiment, arguments.overrides)
    for name in of_models.collections()[arguments.experiment].models:
        print(of_models.about(f"{arguments.experiment}/{name}"), end="\n\n")
    overrides = f" -p overrides {shlex.quote(arguments.overrides)}" if arguments.overrides else ""
    print(f"put into {run.folder}. Go on with notebook 01 for the data, then 03 and 05:")
    for notebook in ("01_data_preparation", "03_attack_generation", "05_evaluation"):
        print(f"papermill notebooks/{notebook}.ipynb out.ipynb -p experiment {run.experiment.name} "
              f"-p profile {run.profile} -p seed {run.seed}{overrides}")
    return 0
