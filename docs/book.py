"""What the book takes from the rest of the repository: notebooks, documents, records and the docstrings of kitlib.

Everything is written below docs/ into places that git ignores, and only where it has changed, so that a second build is
quick. The book needs nothing of kitlib but its name: doors and modules are found, not listed.
"""
from __future__ import annotations

import importlib
import inspect
import json
import os
import pkgutil
import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
# The doors of kitlib in the order in which a reader meets them; others that are found follow.
DOORS = ("data", "models", "attacks", "training", "evaluation", "plots", "audit", "certify", "experiments", "base")
NO_API = ("__main__", "cli")
# Documents of the repository, and their pages in the book.
PAGES = {"README.md": "index.md", "RESULTS.md": "results.md", "data/README.md": "guides/data.md",
         "CONTRIBUTING.md": "guides/contributing.md", "CHANGELOG.md": "changelog.md", "notebooks": "course.md",
         "figures": "gallery.md"}


def write(docs: Path, address: str) -> None:
    """Everything that is not committed below `docs`. address: the repository's, for links to what has no page."""
    written = {docs / "gallery.md": _gallery(docs)}
    for path in _lessons() + _solutions() + _executed():
        place = path.relative_to(REPOSITORY)
        written[docs / place] = _notebook(path, docs, address)
    written[docs / "generated/lessons.md"] = _toctree(_lessons())
    written[docs / "generated/solutions.md"] = _toctree(_solutions())
    written[docs / "generated/executed.md"] = _toctree(_executed())
    for name, page in (("RESULTS.md", "results.md"), ("data/README.md", "guides/data.md"),
                       ("CONTRIBUTING.md", "guides/contributing.md"), ("CHANGELOG.md", "changelog.md")):
        text = (REPOSITORY / name).read_text(encoding="utf-8") if (REPOSITORY / name).exists() else ""
        text = re.sub(r"\A# .*\n", "", re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL))
        written[docs / "generated" / name.replace("/", "_")] = _with_links(text, name, docs / page, docs, address)
    written |= _api(docs)
    for report in sorted(REPOSITORY.glob("figures/*/audit/*/report.html")):
        written[docs / "generated/extra" / report.relative_to(REPOSITORY)] = report.read_text(encoding="utf-8")
    for folder in ("notebooks", "figures", "generated", "api"):
        for path in (docs / folder).rglob("*"):
            if path.is_file() and path not in written:
                path.unlink()
    (docs / "generated/extra").mkdir(parents=True, exist_ok=True)
    for path, text in written.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")


def _lessons() -> list[Path]:
    return sorted(REPOSITORY.glob("notebooks/[0-9]*.ipynb"))


def _solutions() -> list[Path]:
    return sorted(REPOSITORY.glob("notebooks/solutions/[0-9]*.ipynb"))


def _executed() -> list[Path]:
    """The notebooks as run on the real data, beside the published records."""
    return sorted(REPOSITORY.glob("figures/*/notebooks/*.ipynb"))


def _toctree(notebooks: list[Path]) -> str:
    """A toctree in Markdown of notebooks, or nothing where there are none."""
    names = "\n".join(f"/{path.relative_to(REPOSITORY).with_suffix('').as_posix()}" for path in notebooks)
    return f"```{{toctree}}\n:maxdepth: 1\n\n{names}\n```\n" if names else ""


def _notebook(path: Path, docs: Path, address: str) -> str:
    """A notebook as it is, its links apart."""
    content = json.loads(path.read_text(encoding="utf-8"))
    place = path.relative_to(REPOSITORY)
    for cell in content["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = _with_links("".join(cell["source"]), str(place), docs / place, docs, address)
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _with_links(text: str, name: str, page: Path, docs: Path, address: str) -> str:
    """Links and pictures of `name`, a file of the repository, as they must be in its page in the book."""
    def moved(link: str) -> str:
        target, hash_, anchor = link.partition("#")
        if not target or re.match(r"\w+:", target):
            return link
        real = Path(os.path.normpath(REPOSITORY / Path(name).parent / target))
        place = real.relative_to(REPOSITORY).as_posix() if real.is_relative_to(REPOSITORY) else None
        if place is None or not real.exists():
            return link
        if place in PAGES:
            return os.path.relpath(docs / PAGES[place], page.parent) + hash_ + anchor
        if real.suffix == ".ipynb":
            return os.path.relpath(docs / place, page.parent) + hash_ + anchor
        if real.suffix == ".png":
            return os.path.relpath(real, page.parent)
        if real.name == "report.html":
            return f"{_up(page, docs)}{place}"
        return f"{address}/{'tree' if real.is_dir() else 'blob'}/main/{place}"

    text = re.sub(r"(\]\()([^)\s]+)(\))", lambda found: found[1] + moved(found[2]) + found[3], text)
    return re.sub(r'(src=")([^"]+)(")', lambda found: found[1] + moved(found[2]) + found[3], text)


def _up(page: Path, docs: Path) -> str:
    return "../" * (len(page.relative_to(docs).parts) - 1)


def _gallery(docs: Path) -> str:
    """Every published run and sweep: its title, its tables of the paper's figures, its pictures, its audits."""
    lines = ["# Gallery", "", "Every picture and table here comes from a published record in the folder `figures`.", "",
             "## The papers at a glance", "", *_pictures(REPOSITORY / "figures", docs)]
    for record in sorted(REPOSITORY.glob("figures/*/results.json")):
        found = json.loads(record.read_text(encoding="utf-8"))
        lines += [f"## {record.parent.name}", "", f"{found['experiment']['title']}.", ""]
        table = record.parent / "tables/paper.md"
        rows = table.read_text(encoding="utf-8").splitlines() if table.exists() else []
        lines += [*rows, ""] if len(rows) > 2 else []
        for report in sorted(record.parent.glob("audit/*/report.html")):
            place = report.relative_to(REPOSITORY).as_posix()
            lines += [f'<p><a href="{place}">The audit of the {report.parent.name} model</a></p>', ""]
        lines += _pictures(record.parent, docs)
    for record in sorted(REPOSITORY.glob("figures/sweeps/*/aggregate.json")):
        lines += [f"## Sweep {record.parent.name}", "", *_pictures(record.parent, docs)]
    return "\n".join(lines) + "\n"


def _pictures(folder: Path, docs: Path) -> list[str]:
    pictures = sorted(folder.glob("[!.]*.png"))
    if not pictures:
        return []
    cards = [f":::{{grid-item}}\n![{_caption(path)}]({os.path.relpath(path, docs)})\n\n{_caption(path)}\n:::"
             for path in pictures]
    return ["::::{grid} 1 1 2 2", *cards, "::::", ""]


def _caption(path: Path) -> str:
    return path.stem.replace("_", " ").capitalize()


# The API pages

def _api(docs: Path) -> dict[Path, str]:
    """A page for each door, and a toctree of them; a name is told where it is exported, else where it is defined."""
    import kitlib

    found = [each.name for each in pkgutil.iter_modules(kitlib.__path__) if each.name not in NO_API]
    doors = [name for name in DOORS if name in found] + [name for name in found if name not in DOORS]
    pages, told = {}, set()
    for door in doors:
        modules = [module for module in _modules(f"kitlib.{door}") if _members(module, set()) or _exports(module)]
        lines = [f"kitlib.{door}", "=" * (7 + len(door)), ""]
        for module in modules:
            lines += _module(module, told, heading=module.__name__ != f"kitlib.{door}")
        pages[docs / "api" / f"{door}.rst"] = "\n".join(lines) + "\n"
    entries = "\n".join(f"   /api/{door}" for door in doors)
    pages[docs / "generated/doors.txt"] = f".. toctree::\n   :maxdepth: 1\n\n{entries}\n"
    return pages


def _modules(name: str) -> list:
    """A module or package and all that is in it."""
    first = importlib.import_module(name)
    inner = pkgutil.walk_packages(getattr(first, "__path__", ()), f"{name}.")
    return [first, *(importlib.import_module(each.name) for each in inner if "._" not in each.name)]


def _exports(module) -> list[str]:
    return list(getattr(module, "__all__", ()))


def _members(module, told: set) -> list[str]:
    """Public functions and classes that the module exports or defines, in the order of the source."""
    own = [name for name, value in vars(module).items() if not name.startswith("_")
           and (inspect.isfunction(value) or inspect.isclass(value)) and value.__module__ == module.__name__]
    names = dict.fromkeys([*_exports(module), *own])
    return [name for name in names if not inspect.ismodule(getattr(module, name)) and not _is_told(module, name, told)]


def _is_told(module, name: str, told: set) -> bool:
    value = getattr(module, name)
    coded = inspect.isfunction(value) or inspect.isclass(value)
    return coded and (value.__module__, value.__qualname__) in told


def _module(module, told: set, heading: bool) -> list[str]:
    names = _members(module, told)
    if not names and heading:
        return []
    lines = [module.__name__, "-" * len(module.__name__), ""] if heading else []
    lines += [f".. automodule:: {module.__name__}", "   :no-members:", *(["   :no-index:"] if heading else []), ""]
    for name in names:
        value = getattr(module, name)
        kind = "class" if inspect.isclass(value) else "function" if inspect.isfunction(value) else "data"
        lines += [f".. auto{kind}:: {module.__name__}.{name}"]
        lines += {"class": ["   :members:", "   :exclude-members: model_config, model_post_init"],
                  "data": ["   :no-value:"]}.get(kind, [])
        lines += [""]
        if kind != "data":
            told.add((value.__module__, value.__qualname__))
    return lines


def docstring_as_rst(app, what, name, obj, options, lines: list[str]) -> None:
    """kitlib's docstrings are prose, not RST: paragraphs with their characters as they stand, and `names` as code.

    Paragraphs with lines that are indented differently, such as lists and code, are shown as they are.
    """
    paragraphs = [part.split("\n") for part in re.split(r"\n\s*\n", "\n".join(lines).strip("\n")) if part.strip()]
    if what == "data":                  # Python's own text on its type
        paragraphs = []
    told = []
    for paragraph in paragraphs:
        hanging = len({len(line) - len(line.lstrip()) for line in paragraph}) > 1 or paragraph[0].startswith(" ")
        told += ["::", "", *(f"   {line}" for line in paragraph), ""] if hanging else [*map(_escaped, paragraph), ""]
    lines[:] = told


def _escaped(line: str) -> str:
    """Backticks in pairs are code; outside them nothing is markup. A leading dash or number starts no list."""
    parts = line.split("`")
    if len(parts) % 2 == 0:
        return re.sub(r"([\\*`|_<>\[\]-])", r"\\\1", line)
    told = [f"``{part}``" if k % 2 and part.strip() == part and part else re.sub(r"([\\*|_<>\[\]:-])", r"\\\1", part)
            for k, part in enumerate(parts)]
    return "\\ ".join(told) if len(told) > 1 else told[0]

