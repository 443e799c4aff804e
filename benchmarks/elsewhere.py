"""Cases that run in a process of their own, with TensorFlow as it is installed: `Elsewhere`.

kitlib asks TensorFlow for oneDNN's kernels, which a user of another library does not get on every processor, and malloc
to keep freed memory. So peers are timed twice: here, with the same kernels, and there, as their users run them.
"""
from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

# glibc's default, but that it is said makes kitlib leave malloc alone.
USUAL_MALLOC = {"MALLOC_ARENA_TEST": "8"}


class Elsewhere:
    """A process that imports TensorFlow before kitlib, and so with TensorFlow's own defaults.

    python: of another environment, such as one with PyTorch instead of TensorFlow.

        with Elsewhere() as there:
            call = there.case("benchmarks.attacks:pgd_case", library="ART", network="plain")
            accuracy = call()       # runs there; waits for the answer
    """

    def __init__(self, python: str = sys.executable):
        self._python = python

    def __enter__(self) -> Elsewhere:
        usual = {name: value for name, value in os.environ.items() if name != "TF_ENABLE_ONEDNN_OPTS"} | USUAL_MALLOC
        usual["PYTHONPATH"] = str(Path(__file__).parents[1])
        # By its path: `-m benchmarks.elsewhere` would import the package first, which prepares TensorFlow kitlib's way.
        self._process = subprocess.Popen([self._python, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         text=True, env=usual)
        return self

    def __exit__(self, *_error) -> None:
        self._process.stdin.close()
        self._process.wait()

    def case(self, maker: str, **arguments) -> Callable:
        """The function that `maker` ("module:name") returns there for these JSON-able arguments."""
        number = self._ask({"make": maker, "arguments": arguments})
        return lambda: self._ask({"call": number})

    def _ask(self, request: dict):
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the other process has ended; its error stands above")
        return json.loads(answer)


def serve() -> None:
    """Make and call cases as the lines of standard input ask; one line of JSON answers each."""
    answers, sys.stdout = sys.stdout, sys.stderr    # what the cases print is no answer
    cases = []
    for line in sys.stdin:
        request = json.loads(line)
        if "make" in request:
            module, name = request["make"].split(":")
            cases.append(getattr(importlib.import_module(module), name)(**request["arguments"]))
            answer = len(cases) - 1
        else:
            answer = cases[request["call"]]()
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    with contextlib.suppress(ImportError):
        import tensorflow  # noqa: F401  (before anything imports kitlib)

    serve()
