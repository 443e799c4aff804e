"""Short names for what something is made of: arrays, settings, and the kit's own code."""
from __future__ import annotations

import ast
import functools
import hashlib
import json
from pathlib import Path

import numpy as np


def of_arrays(arrays) -> str:
    """sha256 over the types, shapes and contents of NumPy arrays, in their order."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def of_json(content) -> str:
    """sha256 over what goes into JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


@functools.cache
def of_code(*parts: str) -> str:
    """sha256 over modules and packages of kitlib; comments, docstrings and layout do not count."""
    package = Path(__file__).parent
    files = [file for part in parts for file in (sorted((package / part).glob("*.py")) or [package / f"{part}.py"])]
    code = [_without_docstrings(file.read_text(encoding="utf-8")) for file in files]
    return hashlib.sha256("\n".join(code).encode()).hexdigest()


def _without_docstrings(code: str) -> str:
    tree = ast.parse(code)
    for node in ast.walk(tree):
        documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        if documented and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
    return ast.dump(tree)
