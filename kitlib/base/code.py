"""What code something is made of: the definitions that a function or class reaches.

Read from the source text alone; only kitlib's own code counts, and neither comments, docstrings nor layout do.
"""
from __future__ import annotations

import ast
import functools
import hashlib
import inspect
from collections.abc import Iterable
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
_DOCUMENTED = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
Place = tuple[str, str]     # module, name of a top-level definition in it


def digest(roots: Iterable, without: tuple[str, ...] = ()) -> str:
    """sha256 over all definitions that the functions and classes `roots` reach by name, themselves included.

    without: modules, packages and definitions (kitlib.training.steps.training_for) at which the search turns back.
    """
    roots = list(roots)
    own = sorted(source_of(root) for root in roots if isinstance(root, type) and source_of(root))
    return _digest_of({(root.__module__, root.__qualname__.split(".")[0]) for root in roots}, without, own)


def source_of(kind: type) -> str:
    """The source text of a class of somebody's own, which no name of kitlib or Keras leads to; its name where there is
    no text. Empty for kitlib's and Keras's."""
    if kind.__module__.split(".")[0] in ("kitlib", "keras", "tensorflow"):
        return ""
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        return kind.__qualname__


def digest_of_text(text: str, also: Iterable[Place] = (), without: tuple[str, ...] = ()) -> str:
    """As `digest`, over the definitions that Python code (of a notebook) speaks of, and over those of `also`."""
    return _digest_of({*also, *_Module(text).spoken_of_elsewhere}, without)


def _digest_of(places: set[Place], without: tuple[str, ...], own: Iterable[str] = ()) -> str:
    found = reached(places, without)
    text = "\n".join([*(f"{place}: {found[place]}" for place in sorted(found)), *own])
    return hashlib.sha256(text.encode()).hexdigest()


def reached(places: Iterable[Place], without: tuple[str, ...] = ()) -> dict[Place, str]:
    """The definitions that these reach, themselves included: (module, name) -> code."""
    found: dict[Place, str] = {}
    open_places = list(places)
    while open_places:
        place = _resolved(open_places.pop())
        if place is None or place in found or _cut(place, without):
            continue
        definition, names = _module(place[0]).definitions[place[1]]
        found[place] = definition
        open_places += [(place[0], name) if module is None else (module, name) for module, name in names]
    return found


def imported_by(code: str) -> set[str]:
    """The modules of kitlib that Python code imports."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if _file(name) else node.module for name in inner}
    return {name for name in found if _file(name)}


@functools.cache
def _file(module: str) -> Path | None:
    """The file of a module of kitlib; None of any other name."""
    first, *parts = module.split(".")
    place = PACKAGE.joinpath(*parts)
    files = (place / "__init__.py", place.with_suffix(".py")) if parts else (place / "__init__.py",)
    return next((file for file in files if file.is_file()), None) if first == "kitlib" else None


class _Module:
    """definitions: name -> (its code, the (module or None, name) that it speaks of). bindings: imported names."""

    def __init__(self, text: str):
        tree = ast.parse(text)
        self.bindings: dict[str, Place] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "kitlib":
                self.bindings |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
        self.definitions: dict[str, tuple[str, set]] = {}
        for node in tree.body:
            for defined in _names_of(node):
                code = ast.dump(_without_docstrings(node))
                before, names = self.definitions.get(defined, ("", set()))
                self.definitions[defined] = (before + code, names | self._spoken_of(node))
        self.spoken_of_elsewhere = {(module, name) for module, name in self._spoken_of(tree) if module is not None}

    def _spoken_of(self, node: ast.AST) -> set[tuple[str | None, str]]:
        found: set[tuple[str | None, str]] = set()
        for each in ast.walk(node):
            if isinstance(each, ast.Name):
                found.add(self.bindings.get(each.id, (None, each.id)))
            elif isinstance(each, ast.Attribute) and (name := getattr(each.value, "id", "")) in self.bindings:
                found.add((".".join(self.bindings[name]), each.attr))
        return found


@functools.cache
def _module(name: str) -> _Module:
    """What a module of kitlib defines; nothing of any other name."""
    file = _file(name)
    return _Module(file.read_text(encoding="utf-8") if file else "")


def _resolved(place: Place) -> Place | None:
    """Where a name is defined, through the doors that hand it on; None where it is none of kitlib's definitions."""
    module, name = place
    known = _module(module)
    if name in known.definitions:
        return place
    return _resolved(known.bindings[name]) if name in known.bindings else None


def _cut(place: Place, without: tuple[str, ...]) -> bool:
    whole = ".".join(place)
    return any(whole == each or whole.startswith(f"{each}.") for each in without)


def _names_of(node: ast.stmt) -> list[str]:
    if isinstance(node, _DOCUMENTED):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)]


def _without_docstrings(node: ast.AST) -> ast.AST:
    for each in ast.walk(node):
        if isinstance(each, _DOCUMENTED) and ast.get_docstring(each, clean=False) is not None:
            each.body = each.body[1:] or [ast.Pass()]
    return node
