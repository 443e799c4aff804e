"""The command line: `python -m kitlib reproduce | results | publish | refresh`. Exit code 2 for a user's mistake."""
from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from kitlib.settings import KitError

REPOSITORY = Path(__file__).resolve().parent.parent
EMBEDDED = ("digits_fgsm", "phantom_ct")


def reproduce(arguments) -> int:
    """Check the request, let Snakemake run what is missing, then print the tables."""
    from kitlib import files, runs

    experiments = arguments.experiments or EMBEDDED
    opened = [runs.open_run(name, arguments.profile, arguments.seed) for name in experiments]
    # Demo trainings are too small to fill two cores; full ones go one at a time.
    trainings = 1 if arguments.profile == "full" else 2
    command = [
        sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile"),
        "--directory", str(runs.runs_folder()), "--cores", str(arguments.cores),
        "--resources", f"training={trainings}",
        "--nolock",  # a lock file would outlive a kill; `alone_in` does not
        "--rerun-incomplete", "--keep-going", "--quiet", "all", "--config", f"experiment={','.join(experiments)}",
        f"profile={arguments.profile}", f"seeds={arguments.seed}",
    ]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with files.alone_in(runs.runs_folder(), "batch"):
        status = subprocess.run(command, env=environment).returncode
    for run in opened:
        if run.path("results.json").exists():
            _print_results(run.path("results.json"))
    return status


def results(arguments) -> int:
    from kitlib import runs

    for name in arguments.experiments or EMBEDDED:
        _print_results(runs.open_run(name, arguments.profile, arguments.seed).need("results.json"))
    return 0


def _print_results(path: Path) -> None:
    from kitlib import results

    found = results.read(path)
    print(f"\n{results.heading(found)}\n{path.parent}\n")
    print(results.accuracy_table(found).to_string(index=False), end="\n\n")
    print(results.paper_table(found).drop(columns="why").to_string(index=False))


def publish(arguments) -> int:
    """Copy the results of runs to figures/ and make the tables of the README from them."""
    from kitlib import files, results, runs

    figures, readme = REPOSITORY / "figures", REPOSITORY / "README.md"
    for name in arguments.experiments:
        run = runs.open_run(name, arguments.profile, arguments.seed)
        run.need("results.json")
        print(results.publish(run.folder, figures))
    files.write_text(readme, results.fill_tables(readme.read_text(encoding="utf-8"), figures))
    return 0


def refresh(arguments) -> int:
    """Run the notebooks with their defaults and write their outputs back into notebooks/."""
    for notebook in sorted((REPOSITORY / "notebooks").glob("[0-9]*.ipynb")):
        print(notebook.name, flush=True)
        command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace",
                   "--ExecutePreprocessor.record_timing=False", str(notebook)]
        subprocess.run(command, check=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m kitlib", description="Reproduction kit for robust image classifiers")
    parser.add_argument("--traceback", action="store_true", help="show where an error was raised")
    commands = parser.add_subparsers(required=True, metavar="command")
    for function, purpose in (
        (reproduce, "run notebooks 01-05 and print the tables"),
        (results, "print the tables"),
        (publish, "copy results to figures/ and into the README"),
    ):
        command = commands.add_parser(function.__name__, help=purpose)
        command.add_argument("experiments", nargs="*", metavar="experiment", help=f"default: {' '.join(EMBEDDED)}")
        command.add_argument("--profile", default="demo")
        command.add_argument("--seed", type=int, default=0)
        command.set_defaults(function=function)
    commands.choices["reproduce"].add_argument("--cores", default="all")
    committed = commands.add_parser("refresh", help="regenerate the committed outputs of the notebooks")
    committed.set_defaults(function=refresh)
    return parser


def main() -> int:
    arguments = _parser().parse_args()
    try:
        return arguments.function(arguments)
    except KitError as error:
        if arguments.traceback:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
