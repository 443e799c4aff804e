"""One notebook through papermill, as the Snakefile runs it: alone in its place, ended with its parent, and with
one line of news when it begins and when it ends.

Usage: python -P kitlib/experiments/headless.py NOTEBOOK COPY LOG EXPERIMENT PROFILE SEED OVERRIDES

This file is run by its path and imports nothing of kitlib, because that would load TensorFlow, which only the
notebook's own kernel needs.
"""
import contextlib
import ctypes
import difflib
import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1


def main() -> int:
    notebook, copy, log = map(Path, sys.argv[1:4])
    parameters = dict(zip(("experiment", "profile", "seed", "overrides"), sys.argv[4:], strict=True))
    end_with_parent()
    for path in (copy, log):
        path.parent.mkdir(parents=True, exist_ok=True)

    def say(news: str) -> None:
        changed = ", changed" if parameters["overrides"] else ""
        who = f"{name_of(parameters['experiment'])}, {parameters['profile']}{changed}, seed {parameters['seed']}"
        print(time.strftime("%H:%M:%S"), f"{who}: {notebook.stem} {news}", file=terminal, flush=True)

    terminal = os.fdopen(os.dup(2), "w")
    with alone(copy.with_name(f".{copy.stem}.lock"), say), log.open("w") as text:
        os.dup2(text.fileno(), 1)  # the kernel's own output, too, goes to the log
        os.dup2(text.fileno(), 2)
        say("begins")
        error = execute(notebook, copy, parameters | {"seed": int(parameters["seed"])})
    if error:
        say(f"FAILED: {error}\n  its executed copy, with the error: {copy}\n  its log: {log}")
    else:
        say(f"done{progress(os.environ.get('KITLIB_PROGRESS', ''), time.time())}")
    return 1 if error else 0


def progress(batch: str, now: float) -> str:
    """", notebook 3 of 10, about 2 min left" of a batch, which is told as "<how many> <begun> <file>"; else nothing.

    The file gets a line for each notebook that has ended. Time left is what the ended ones took, carried on.
    """
    parts = batch.split(maxsplit=2)
    if len(parts) != 3 or parts[0] == "0":
        return ""
    total, begun = int(parts[0]), float(parts[1])
    try:
        with open(parts[2], "a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write("ended\n")
            file.seek(0)
            ended = len(file.readlines())
    except OSError:
        return ""
    left = (now - begun) / ended * (total - ended)
    when = "nothing left" if total <= ended else f"about {left / 60:.0f} min left" if left > 90 else "a minute left"
    return f", notebook {ended} of {max(total, ended)}, {when}"


def end_with_parent() -> None:
    """Linux ends this process as soon as Snakemake has ended, however that came; the kernel follows by itself."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@contextlib.contextmanager
def alone(path: Path, say):
    """Wait until nobody else runs this notebook of this run, as what is left of a killed batch might."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waits: it runs already")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def execute(notebook: Path, copy: Path, parameters: dict) -> str | None:
    """Execute `notebook`; returns the error, if any. With or without one the executed copy takes the place of `copy`,
    but only as far as it could be written whole."""
    import papermill

    aside = copy.with_name(f".{copy.name}")
    aside.unlink(missing_ok=True)   # half of what was killed here
    try:
        if error := parameters and unknown(parameters, papermill.inspect_notebook(notebook)):
            return error
        papermill.execute_notebook(
            notebook, aside, parameters, kernel_name="python3", progress_bar=False, log_output=True,
            stdout_file=sys.stdout, stderr_file=sys.stderr)
    except papermill.exceptions.PapermillExecutionError as error:
        print(error, file=sys.stderr, flush=True)  # with its traceback, to the log
        return one_line(error.ename, error.evalue)
    except Exception as error:  # a kernel that died, a disk that is full
        return one_line(type(error).__name__, error)
    finally:
        if is_whole(aside):
            os.replace(aside, copy)
        aside.unlink(missing_ok=True)
    return None


def unknown(parameters, known) -> str | None:
    """What is wrong with parameters that a notebook does not have, which papermill only warns of; None of nothing."""
    strange = sorted(set(parameters) - set(known))
    if not strange:
        return None
    near = difflib.get_close_matches(strange[0], known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known) or 'none'}"
    return f"unknown notebook parameter '{strange[0]}'; {hint}"


def name_of(experiment: str) -> str:
    """Of an experiment that is given by its name, which may hold dots, or as a YAML file."""
    return Path(experiment).stem if experiment.endswith((".yaml", ".yml")) else experiment


def is_whole(notebook: Path) -> bool:
    """Not where a full disk cut it short, or nothing was written."""
    try:
        json.loads(notebook.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def one_line(kind: str, message) -> str:
    return f"{kind}: {' '.join(str(message).split())[:500]}"


if __name__ == "__main__":
    sys.exit(main())
