"""The command line, `python -m kitlib --help`. Exit code 2 for a user's mistake."""
from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from kitlib.commands import add_audit, add_pretrained, add_report
from kitlib.settings import KitError

REPOSITORY = Path(__file__).resolve().parent.parent
EMBEDDED = ("digits_fgsm", "phantom_ct")


def reproduce(arguments) -> int:
    """Check the request, let Snakemake run what is missing, then print the tables that are up to date."""
    from kitlib import batch

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
    from kitlib import batch, sweeps

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
    from kitlib import sweeps

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
    from kitlib import sweeps

    print(f"\n{sweeps.heading(found)}\n{folder}\n{sweeps.LEGEND}\n")
    print(sweeps.accuracy_table(found).to_string(index=False))
    for missing in found.missing:
        print(f"missing: {missing}")


def _how(arguments):
    from kitlib import batch

    how = batch.How(arguments.cores, arguments.trainings, arguments.snakemake_profile, arguments.touch,
                    arguments.dry_run)
    how.check()
    return how


def results(arguments) -> int:
    from kitlib import batch

    for job in batch.jobs_for(arguments.experiments or EMBEDDED, arguments.profile, arguments.seed):
        _print_results(job.run)
    return 0


def _print_results(run) -> None:
    from kitlib import results

    found = results.of_run(run)
    print(f"\n{results.heading(found)}\n{run.folder}\n")
    print(results.accuracy_table(found).to_string(index=False), end="\n\n")
    if found.paper:
        print(results.paper_table(found).drop(columns="why").to_string(index=False))


def publish(arguments) -> int:
    """Copy what runs have found to figures/, and make the papers' figures and the README's tables from all of it."""
    from kitlib import batch, files, publication, readme

    figures, path = REPOSITORY / "figures", REPOSITORY / "README.md"
    for job in batch.jobs_for(arguments.experiments, arguments.profile, arguments.seed):
        found = publication.publish(job.run, figures)
        print(f"{found.folder}: {found.bytes / 1e6:.1f} MB")
        for what, why in found.left_out.items():
            print(f"  left out: {what}: {why}")
    for drawn in publication.draw_papers(figures):
        print(drawn)
    files.write_text(path, readme.fill_in(path.read_text(encoding="utf-8"), figures))
    return 0


def refresh(arguments) -> int:
    """Run the notebooks, then the solutions, with their defaults and write their outputs back into notebooks/."""
    from kitlib.experiment import NOTEBOOKS, lessons, solutions

    for notebook in lessons() + solutions():
        print(notebook.relative_to(NOTEBOOKS), flush=True)
        command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace",
                   "--ExecutePreprocessor.record_timing=False", str(notebook)]
        subprocess.run(command, check=True)
    return 0


def docs(arguments) -> int:
    from kitlib import site

    print(site.build(Path(arguments.out)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m kitlib", description="Reproduction kit for robust image classifiers")
    parser.add_argument("--traceback", action="store_true", help="show where an error was raised")
    commands = parser.add_subparsers(required=True, metavar="command")
    for function, purpose in (
        (reproduce, "run notebooks 01-05 and print the tables"),
        (results, "print the tables"),
        (publish, "copy results and models to figures/ and into the README"),
    ):
        command = commands.add_parser(function.__name__, help=purpose)
        usual = "none, only the README and the papers' figures" if function is publish else " ".join(EMBEDDED)
        command.add_argument("experiments", nargs="*", metavar="experiment", help=f"default: {usual}")
        command.add_argument("--profile", default="demo")
        command.add_argument("--seed", type=int, default=0)
        command.set_defaults(function=function)
    for function, purpose in ((sweep, "run what is missing of a sweep, and aggregate it over its seeds"),
                              (aggregate, "aggregate the finished runs of a sweep over its seeds")):
        command = commands.add_parser(function.__name__, help=purpose)
        command.add_argument("sweep", help="a file of notebooks/sweeps, or the path of a YAML file")
        command.set_defaults(function=function)
    commands.choices["aggregate"].add_argument("--publish", action="store_true",
                                               help="write to figures/sweeps/ in place of the folder of runs")
    for name in ("reproduce", "sweep"):
        _add_batch_options(commands.choices[name])
    add_audit(commands.add_parser("audit", help="is the robustness of a model real? nineteen checks"))
    add_report(commands.add_parser("report", help="write report.html, one self-contained page about a run"))
    add_pretrained(commands.add_parser("pretrained", help="list the models in figures/, or put those of an experiment "
                                                          "into its run"))
    committed = commands.add_parser("refresh", help="regenerate the committed outputs of the notebooks")
    committed.set_defaults(function=refresh)
    pages = commands.add_parser("docs", help="a static site of the README, the executed notebooks and the figures")
    pages.add_argument("--out", default=str(REPOSITORY / "site"), metavar="FOLDER", help="default: site/")
    pages.set_defaults(function=docs)
    return parser


def _add_batch_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--cores", default="all",
                         help="notebooks at a time, at most (default: as many as this machine has cores)")
    command.add_argument("--trainings", type=int, help="at a time (default: one in profile full, two in the others)")
    command.add_argument("--snakemake-profile", metavar="FOLDER", help="where to run, e.g. examples/slurm")
    command.add_argument("--touch", action="store_true", help="accept what is there as up to date; run nothing")
    command.add_argument("--dry-run", action="store_true", help="only say what would be run")


def main() -> int:
    arguments = _parser().parse_args()
    try:
        _check_it_is_the_repository(arguments)
        return arguments.function(arguments)
    except KitError as error:
        if arguments.traceback:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _check_it_is_the_repository(arguments) -> None:
    """Everything but the audit of a file works on the notebooks, experiments and figures of the repository."""
    if not (REPOSITORY / "notebooks").is_dir() and not getattr(arguments, "file", None):
        raise KitError(f"{REPOSITORY} holds no notebooks, as kitlib runs from its repository: clone it and install it "
                       "from there with pip install -e .")


if __name__ == "__main__":
    sys.exit(main())
