"""The command `kitlib` (`kitlib --help`). Exit code 2 for a user's mistake.

Each command imports what it needs when it is called, so that `--help` answers at once.
"""
from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import re
import shlex
import signal
import sys
import time
from pathlib import Path

from kitlib import __version__
from kitlib.base.places import REPOSITORY, is_clone
from kitlib.base.settings import KitError, parse_epsilon
from kitlib.base.setup import prepare

EXAMPLES = {
    "reproduce": "kitlib reproduce cifar10_exp2 --profile demo --seed 1",
    "results": "kitlib results digits_fgsm phantom_ct",
    "publish": "kitlib publish cifar10_exp2 --profile full",
    "sweep": "kitlib sweep digits_eps --cores 4",
    "aggregate": "kitlib aggregate paper_a_seeds --publish",
    "audit": "kitlib audit mine.keras --data cifar10 --eps 8/255 --claim 0.82 --quick",
    "report": "kitlib report lung_ct --profile full --out lung.html",
    "pretrained": "kitlib pretrained cifar10_exp2 --overrides '{evaluation: {images: 200}}'",
    "status": "kitlib status",
    "data": "kitlib data cifar10",
    "refresh": "kitlib refresh",
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kitlib", description="Reproduction kit for robust image classifiers")
    parser.add_argument("--version", action="version", version=f"kitlib {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where an error was raised")
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, purpose: str, **options) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=purpose, epilog=f"example: {EXAMPLES[name]}", **options)
        made.set_defaults(function=functools.partial(_on_experiments, name))
        return made

    for name, purpose, usual in (
        ("reproduce", "run notebooks 01-05 and print the tables", "the embedded ones"),
        ("results", "print the tables", "the embedded ones"),
        ("publish", "copy results and models to figures/, and fill in README.md and RESULTS.md",
         "none, only the documents and the papers' figures"),
    ):
        command(name, purpose).add_argument("experiments", nargs="*", metavar="experiment", help=f"default: {usual}")
    for name, purpose in (("sweep", "run what is missing of a sweep, and aggregate it over its seeds"),
                          ("aggregate", "aggregate the finished runs of a sweep over its seeds")):
        command(name, purpose).add_argument("sweep", help="a file of notebooks/sweeps, or the path of a YAML file")
    commands.choices["aggregate"].add_argument("--publish", action="store_true",
                                               help="write to figures/sweeps/ in place of the folder of runs")
    for name in ("reproduce", "sweep"):
        _add_batch_options(commands.choices[name])
    command("status", "which runs exist, how far they are, what they found")
    fetched = command("data", "fetch a data set: where from, size and licence are said first")
    fetched.add_argument("name", help="cifar10 or lung")
    fetched.set_defaults(function=fetch_data, prepares=False, anywhere=True)
    add_audit(command("audit", "is the robustness of a model real? nineteen checks",
                      argument_default=argparse.SUPPRESS))
    report = command("report", "write report.html, one self-contained page about a run")
    report.add_argument("experiments", nargs="+", metavar="experiment")
    report.add_argument("--out", type=Path, help="the file to write (default: report.html in the run's folder)")
    for name in ("reproduce", "results", "publish", "report"):
        commands.choices[name].add_argument("--profile", default="demo")
        commands.choices[name].add_argument("--seed", type=int, default=0)
    pretrained = command("pretrained", "list the models in figures/, or put those of an experiment into its run")
    pretrained.add_argument("experiment", nargs="?", help="whose models to put into its run (default: list all models)")
    pretrained.add_argument("--overrides", help="as in the notebooks, such as '{evaluation: {images: 200}}': another "
                                                "run, with the same data and models")
    command("refresh", "regenerate the committed outputs of the notebooks")
    return parser


def _on_experiments(name: str, arguments) -> int:
    from kitlib.experiments import commands

    return getattr(commands, name)(arguments)


def fetch_data(arguments) -> int:
    """Fetch a data set into the data folder; where from, how large and under which licence is said first."""
    from kitlib.data import download

    download.fetch(arguments.name)
    return 0


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
        if empty := [name for name, given in itertools.pairwise(sys.argv) if not given and name != "--overrides"]:
            raise KitError(f"the argument after {empty[0]} is empty, as a variable of the shell is that is not set")
        _check_it_is_the_repository(arguments)
        if getattr(arguments, "prepares", True):
            prepare()
        status = arguments.function(arguments)
        print(end="", flush=True)       # a reader that is gone, a full disk: met here, where they are told
        return status
    except KitError as error:
        if arguments.traceback:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if arguments.traceback:
            raise
        return _refused_by_the_system(error)
    except KeyboardInterrupt:
        return 130


def _refused_by_the_system(error: OSError) -> int:
    """The exit code for what no part of the kit knows better, such as a name that is too long. That the reader of the
    output is gone, as in `| head`, is no mistake."""
    try:
        print(end="", flush=True)
    except OSError:     # Python would try again at its end, and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):      # said on stderr, as long work ends before its record is written
        print("stopped: the reader of the output is gone", file=sys.stderr)
        return 128 + signal.SIGPIPE
    print(f"error: {error}", file=sys.stderr)
    return 2


def _check_it_is_the_repository(arguments) -> None:
    """Everything but the audit of a file and the fetching of data works on what the repository holds."""
    if not (is_clone() or getattr(arguments, "file", None) or getattr(arguments, "anywhere", False)):
        raise KitError(f"{REPOSITORY} holds no notebooks, as kitlib runs from its repository: clone it and install it "
                       "from there with pip install -e .")


def add_audit(command: argparse.ArgumentParser) -> None:
    """The options of `audit`, named like the fields of the requests that they make (`_audit_request`)."""
    command._negative_number_matcher = re.compile(r"^-[\d.][\d.,eE+/-]*$")   # -1,1 is a range, no option
    command.add_argument("file", nargs="?", help="a saved Keras 3 model (.keras), or weights with --model-name")
    command.add_argument("--data", help="digits, cifar10, ..., a folder of <class>/<image>, or an .npz")
    command.add_argument("--eps", type=_number(parse_epsilon),
                         help="in pixels, such as 8/255 (default for a run: its own)")
    command.add_argument("--norm", choices=("linf", "l2"), help="that eps is measured in (default: linf)")
    command.add_argument("--claim", type=_number(float), help="the robust accuracy that is claimed, such as 0.82")
    command.add_argument("--quick", action="store_true", help="fewer images and steps: a minute for a small network")
    command.add_argument("--minutes", type=_number(float), help="the best verdict within so many minutes")
    command.add_argument("--images", type=int, help="images judged (default: 1000, quick 100)")
    command.add_argument("--out", type=Path, help="folder for the record and the report")
    command.add_argument("--save-images", type=Path, metavar="FOLDER",
                         help="write adversarial images there, as PNGs that fool the model when they are read back")
    command.add_argument("--seed", type=int, help="default: 0")
    own = command.add_argument_group("a model of your own")
    own.add_argument("--input-range", type=_numbers(2), metavar="LOW,HIGH",
                     help="values of black and white, such as 0,255")
    own.add_argument("--mean", type=_numbers(), help="that inputs are to be normalised with, such as 0.485,0.456,0.406")
    own.add_argument("--std", type=_numbers())
    own.add_argument("--output", choices=("logits", "probabilities"))
    own.add_argument("--head", metavar="NAME", help="the output to judge, of a model with several")
    own.add_argument("--class-order", type=_names, metavar="NAME,NAME,...",
                     help="class names in the order of the model's outputs")
    own.add_argument("--train-data", help="what the model was trained on, to look for copies; as --data")
    own.add_argument("--allow-code", action="store_true",
                     help="run code that the file holds (Lambda layers): trust it first")
    own.add_argument("--import", dest="code", metavar="FILE.py",
                     help="Python file or module that defines the model's custom classes; it is run: trust it first")
    own.add_argument("--model-name", help="the kit's network that FILE holds weights of")
    own.add_argument("--options", type=_mapping, help="of that network, as JSON")
    own.add_argument("--input-shape", type=_shape, metavar="H,W,C",
                     help="of the images, for that network or a model that takes any (default: the data's)")
    _add_picture_options(command.add_argument_group("how the pictures of a folder are loaded"))
    run = command.add_argument_group("a model of a run of the kit")
    run.add_argument("--run", metavar="EXPERIMENT")
    run.add_argument("--profile", help="default: demo")
    run.add_argument("--model", choices=("baseline", "defended"), help="default: defended")
    command.set_defaults(function=run_audit)


def _add_picture_options(group) -> None:
    group.add_argument("--pictures", choices=("keras", "keras-crop", "keras-pad", "resize-and-crop"),
                       help="keras (default): as keras.utils.image_dataset_from_directory does; keras-crop, keras-pad: "
                            "with its crop_to_aspect_ratio, pad_to_aspect_ratio; resize-and-crop: as torchvision's "
                            "Resize and CenterCrop do")
    group.add_argument("--interpolation", help="of the ways of Keras, by its name there (default: bilinear)")
    group.add_argument("--resize", type=int, metavar="PIXELS",
                       help="of resize-and-crop: the shorter side before the centre is cut out (default: the size)")
    group.add_argument("--intensity", type=_numbers(2), metavar="LOW,HIGH",
                       help="values shown as black and white, for DICOM (after its rescale) and files of more than 8 "
                            "bits, such as 0,4095")


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


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


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


def _audit_request(arguments):
    """The request that the options make, and the function that makes its subject."""
    from kitlib import audit
    from kitlib.experiments import audits

    given = {name: value for name, value in vars(arguments).items() if name not in ("function", "traceback", "out")}
    if ("file" in given) == ("run" in given):
        raise KitError("give either a model's file or --run EXPERIMENT")
    if "run" in given:
        why = "--run: a run has its own images, and its model takes pixels and returns logits"
        return audits.RunRequest.of_options(given, why), audits.subject_of
    return audit.Request.of_options(given, "a model's file"), audit.subject_of


def run_audit(arguments) -> int:
    """Audit a model, write audit.json, figures and report.html, and say where."""
    from kitlib import audit
    from kitlib.audit import report, saved
    from kitlib.base import files
    from kitlib.data.decoding import printable

    started = time.perf_counter()
    asked, subject_of = _audit_request(arguments)
    subject, about, folder = subject_of(asked)
    folder = getattr(arguments, "out", folder).absolute()
    files.check_folder(folder, may_hold=audit.FILES)
    if asked.save_images:
        saved.check(asked.save_images, subject.images.shape[-1], folder)
    print(f"judged: {about['model']}\non: {len(subject.images)} of {about['data']}\nclasses: {about['class_order']}\n"
          f"the model takes {subject.target.takes}\nand returns {subject.target.returns}\n", flush=True)
    if about.get("loading") and about["loading"].sentence:
        print(about["loading"].sentence + "\n", flush=True)

    def say(line: str) -> None:
        print(f"{time.perf_counter() - started:6.0f} s  {line}", flush=True)

    resume = audit.Resume(folder, subject.digest(asked.effort, asked.seed))
    plan = audit.plan(subject, asked.effort, asked.minutes, resume)
    print(plan, flush=True)
    measurements = audit.Measurements(plan.subject, plan.effort, asked.seed, say, progress=sys.stderr.isatty(),
                                      resume=resume, plan=plan)
    found = audit.run(measurements, **about, quick=asked.quick, command=_command())
    _print(found.record)    # first, so that it is not lost where it cannot be written
    with files.atomic_folder(folder) as whole:
        found.write(whole)
        report.write_audit(whole)
    print(f"\n{printable(folder / 'audit.json')}\n{printable(folder / 'report.html')}")
    if asked.save_images:
        kept, right = saved.save(measurements, asked.save_images)
        print(f"{printable(asked.save_images)}: {kept} adversarial images, of {right} that are right without attack; "
              "each fools the model as it is read back")
    return 0


def _command() -> str:
    """The command as it was given, without the folders that it writes to, which change nothing of what it finds."""
    from kitlib.data.decoding import printable

    words = shlex.join(sys.argv[1:])
    return "python -m kitlib " + printable(re.sub(r" --(out|save-images)[ =]('[^']*'|\S+)+", "", words))


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

