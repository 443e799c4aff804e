"""The command `kitlib` (`kitlib --help`). Exit code 2 for a user's mistake.

Each verb imports what it needs when it is called, so that `--help` answers at once.
"""
from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

from kitlib import __version__
from kitlib.base.places import NOTEBOOKS, REPOSITORY, is_clone
from kitlib.base.settings import KitError, parse_epsilon
from kitlib.base.setup import prepare

EMBEDDED = ("digits_fgsm", "phantom_ct")


def reproduce(arguments) -> int:
    """Check the request, let Snakemake run what is missing, then print the tables that are up to date."""
    from kitlib.experiments import batch

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
    from kitlib.experiments import batch, sweeps

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
    from kitlib.experiments import sweeps

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
    from kitlib.experiments import sweeps

    print(f"\n{sweeps.heading(found)}\n{folder}\n{sweeps.LEGEND}\n")
    print(sweeps.accuracy_table(found).to_string(index=False))
    for missing in found.missing:
        print(f"missing: {missing}")


def _how(arguments):
    from kitlib.experiments import batch

    how = batch.How(arguments.cores, arguments.trainings, arguments.snakemake_profile, arguments.touch,
                    arguments.dry_run)
    how.check()
    return how


def results(arguments) -> int:
    from kitlib.experiments import batch

    for job in batch.jobs_for(arguments.experiments or EMBEDDED, arguments.profile, arguments.seed):
        _print_results(job.run)
    return 0


def _print_results(run) -> None:
    from kitlib.experiments import results

    found = results.of_run(run)
    print(f"\n{results.heading(found)}\n{run.folder}\n")
    print(results.accuracy_table(found).to_string(index=False), end="\n\n")
    if found.paper:
        print(results.paper_table(found).drop(columns="why").to_string(index=False))


def publish(arguments) -> int:
    """Copy what runs have found to figures/, and make the papers' figures and the README's tables from all of it."""
    from kitlib.base import files
    from kitlib.experiments import batch, publication, readme

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
    from kitlib.experiments.experiment import lessons, solutions

    for notebook in lessons() + solutions():
        print(notebook.relative_to(NOTEBOOKS), flush=True)
        command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace",
                   "--ExecutePreprocessor.record_timing=False", str(notebook)]
        subprocess.run(command, check=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kitlib", description="Reproduction kit for robust image classifiers")
    parser.add_argument("--version", action="version", version=f"kitlib {__version__}")
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
        prepare()
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
    if not is_clone() and not getattr(arguments, "file", None):
        raise KitError(f"{REPOSITORY} holds no notebooks, as kitlib runs from its repository: clone it and install it "
                       "from there with pip install -e .")


def add_audit(command: argparse.ArgumentParser) -> None:
    """The options of `audit`."""
    command._negative_number_matcher = re.compile(r"^-[\d.][\d.,eE+-]*$")   # -1,1 is a range, no option
    command.add_argument("file", nargs="?", help="a saved Keras 3 model (.keras), or weights with --model-name")
    command.add_argument("--data", help="digits, cifar10, ..., a folder of <class>/<image>, or an .npz")
    command.add_argument("--eps", type=_number(parse_epsilon),
                         help="in pixels, such as 8/255 (default for a run: its own)")
    command.add_argument("--claim", type=_number(float), help="the robust accuracy that is claimed, such as 0.82")
    command.add_argument("--quick", action="store_true", help="fewer images and steps: a minute for a small network")
    command.add_argument("--minutes", type=_number(float), help="the best verdict within so many minutes")
    command.add_argument("--images", type=int, help="images judged (default: 1000, quick 100)")
    command.add_argument("--out", type=Path, help="folder for the record and the report")
    command.add_argument("--seed", type=int, default=0)
    own = command.add_argument_group("a model of your own")
    own.add_argument("--input-range", type=_numbers(2), metavar="LOW,HIGH",
                     help="values of black and white, such as 0,255")
    own.add_argument("--mean", type=_numbers(), help="that inputs are to be normalised with, such as 0.485,0.456,0.406")
    own.add_argument("--std", type=_numbers())
    own.add_argument("--output", choices=("logits", "probabilities"))
    own.add_argument("--class-order", help="class names in the order of the model's outputs, with commas")
    own.add_argument("--train-data", help="what the model was trained on, to look for copies; as --data")
    own.add_argument("--allow-code", action="store_true",
                     help="run code that the file holds (Lambda layers): trust it first")
    own.add_argument("--import", dest="code", metavar="FILE.py",
                     help="Python file or module that defines the model's custom classes; it is run: trust it first")
    own.add_argument("--model-name", help="the kit's network that FILE holds weights of")
    own.add_argument("--options", type=_mapping, default={}, help="of that network, as JSON")
    own.add_argument("--input-shape", type=_shape, metavar="H,W,C",
                     help="of the images, for that network or a model that takes any (default: the data's)")
    own.add_argument("--fit", choices=("crop", "stretch"), default="crop",
                     help="pictures of other proportions: cut out the centre (default), or resize the whole")
    run = command.add_argument_group("a model of a run of the kit")
    run.add_argument("--run", metavar="EXPERIMENT")
    run.add_argument("--profile", default="demo")
    run.add_argument("--model", choices=("baseline", "defended"), default="defended")
    command.set_defaults(function=run_audit)


def _number(parse):
    def number(text: str) -> float:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
    return number


def _numbers(count: int | None = None):
    def numbers(text: str) -> tuple[float, ...]:
        try:
            found = tuple(float(part) for part in text.split(","))
        except ValueError:
            raise argparse.ArgumentTypeError(f"'{text}' is no list of numbers with commas") from None
        if count not in (None, len(found)):
            raise argparse.ArgumentTypeError(f"{count} numbers are needed, not {len(found)}")
        return found
    return numbers


def _mapping(text: str) -> dict:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"it is no JSON ({error})") from None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError("it must be a mapping such as {\"dropout\": 0.3}")
    return found


def _shape(text: str) -> tuple[int, ...]:
    found = _numbers(3)(text)
    if not all(number >= 1 and number.is_integer() for number in found):
        raise argparse.ArgumentTypeError(f"'{text}' must be three whole numbers from 1 on: height, width, channels")
    return tuple(map(int, found))


def run_audit(arguments) -> int:
    """Audit a model, write audit.json, figures and report.html, and say where."""
    from kitlib import audit
    from kitlib.audit import report, request
    from kitlib.base import files
    from kitlib.data.pictures import printable
    from kitlib.experiments import audits

    started = time.perf_counter()
    if (arguments.file is None) == (arguments.run is None):
        raise KitError("give either a model's file or --run EXPERIMENT")
    if arguments.images is not None and arguments.images < 1:
        raise KitError(f"--images must be at least 1, not {arguments.images}")
    if arguments.minutes is not None and not 0 < arguments.minutes < 10**6:
        raise KitError(f"--minutes must be more than 0, not {arguments.minutes:g}")
    if not 0 <= arguments.seed < 2**32:
        raise KitError(f"--seed must be from 0 to {2**32 - 1}, not {arguments.seed}")
    effort = audit.QUICK if arguments.quick else audit.FULL
    effort = effort.model_copy(update={"images": arguments.images or effort.images})
    subject, about, folder = (audits.from_run if arguments.run else request.from_file)(arguments, effort)
    folder = (arguments.out or folder).absolute()
    files.check_folder(folder, may_hold=audit.FILES)
    print(f"judged: {about['model']}\non: {len(subject.images)} of {about['data']}\nclasses: {about['class_order']}\n"
          f"the model takes {subject.target.takes}\nand returns {subject.target.returns}\n", flush=True)

    def say(line: str) -> None:
        print(f"{time.perf_counter() - started:6.0f} s  {line}", flush=True)

    plan = audit.plan(subject, effort, arguments.minutes)
    print(plan, flush=True)
    resume = audit.Resume(folder, plan.subject.digest(plan.effort, arguments.seed))
    measurements = audit.Measurements(plan.subject, plan.effort, arguments.seed, say, progress=sys.stderr.isatty(),
                                      resume=resume, plan=plan)
    found = audit.run(measurements, **about, quick=arguments.quick, command=_command())
    _print(found.record)    # first, so that it is not lost where it cannot be written
    with files.atomic_folder(folder) as whole:
        found.write(whole)
        report.write_audit(whole)
    print(f"\n{printable(folder / 'audit.json')}\n{printable(folder / 'report.html')}")
    return 0


def _command() -> str:
    from kitlib.data.pictures import printable

    return "python -m kitlib " + printable(shlex.join(sys.argv[1:]))


def _print(record) -> None:
    from kitlib import audit

    print("\n" + audit.attack_table(record)[["under", "accuracy, %", "seconds"]].to_string(index=False))
    if record.classes:
        print("\n" + audit.class_table(record).to_string(index=False))
    for check in record.checks:
        if check.outcome != "pass":
            print(f"\n{check.outcome}: {check.number}. {check.title}\n  {check.measured}")
        if check.outcome == "flag":
            print(f"  {check.means}")
    print(f"\n{record.verdict.kind.upper()}. {record.verdict.sentence}")


def add_report(command: argparse.ArgumentParser) -> None:
    """The options of `report`."""
    command.add_argument("experiments", nargs="+", metavar="experiment")
    command.add_argument("--profile", default="demo")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--out", type=Path, help="the file to write (default: report.html in the run's folder)")
    command.set_defaults(function=run_report)


def run_report(arguments) -> int:
    """Write report.html for finished runs."""
    from kitlib.experiments import batch, report, results

    jobs = batch.jobs_for(arguments.experiments, arguments.profile, arguments.seed)
    if arguments.out and len(jobs) > 1:
        raise KitError("--out takes one experiment")
    for job in jobs:
        results.of_run(job.run)
        print(report.write_run(job.run.folder, arguments.out))
    return 0


def add_pretrained(command: argparse.ArgumentParser) -> None:
    """The options of `pretrained`."""
    command.add_argument("experiment", nargs="?", help="whose models to put into its run (default: list all models)")
    command.add_argument("--overrides", help="as in the notebooks, such as '{evaluation: {images: 200}}': another run, "
                                             "with the same data and models")
    command.set_defaults(function=run_pretrained)


def run_pretrained(arguments) -> int:
    """List the pretrained models, or put those of an experiment into its run and say how to go on."""
    from kitlib.experiments import pretrained

    if arguments.experiment is None:
        table = pretrained.table()
        print("no pretrained models in figures/" if table.empty else table.to_string(index=False))
        return 0
    run = pretrained.place(arguments.experiment, arguments.overrides)
    for name in pretrained.collections()[arguments.experiment].models:
        print(pretrained.about(f"{arguments.experiment}/{name}"), end="\n\n")
    overrides = f" -p overrides {shlex.quote(arguments.overrides)}" if arguments.overrides else ""
    print(f"put into {run.folder}. Go on with notebook 01 for the data, then 03 and 05:")
    for notebook in ("01_data_preparation", "03_attack_generation", "05_evaluation"):
        print(f"papermill notebooks/{notebook}.ipynb out.ipynb -p experiment {run.experiment.name} "
              f"-p profile {run.profile} -p seed {run.seed}{overrides}")
    return 0
