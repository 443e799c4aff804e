"""`make docs`: a static site of the README, the executed notebooks (by nbconvert) and a gallery of the figures."""
from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

from kitlib import results
from kitlib.experiment import REPOSITORY
from kitlib.files import write_text
from kitlib.report import CAPTIONS, TEMPLATES

import jinja2
from markupsafe import Markup
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import markdown2html_mistune

LINKS = (("kitlib", "index.html"), ("gallery", "gallery.html"), ("contributing", "CONTRIBUTING.html"),
         ("changes", "CHANGELOG.html"))
DOCUMENTS = ("CONTRIBUTING.md", "CHANGELOG.md", "data/README.md")


@dataclasses.dataclass(frozen=True)
class Shown:
    """A picture of the gallery: where it lies in the site, and what it shows."""

    address: str
    caption: str


@dataclasses.dataclass(frozen=True)
class Group:
    """The pictures of one experiment."""

    title: str
    words: str
    pictures: tuple[Shown, ...]


def build(target: Path) -> Path:
    """Write the site into the folder `target`, from what is committed; returns its first page.

    It needs no network to be made; formulas in notebooks are set by MathJax, which the reader's browser fetches.
    """
    notebooks = sorted((REPOSITORY / "notebooks").glob("[0-9]*.ipynb"))
    for notebook in notebooks:
        _write_notebook(notebook, [each.stem for each in notebooks], target / "notebooks" / f"{notebook.stem}.html")
    shutil.copytree(REPOSITORY / "figures", target / "figures", dirs_exist_ok=True)
    shutil.copyfile(TEMPLATES / "style.css", target / "style.css")
    _write_page(target / "gallery.html", "Gallery", groups=_gallery())
    for name in DOCUMENTS:
        _write_document(REPOSITORY / name, (target / name).with_suffix(".html"), root="../" * name.count("/"))
    _write_document(REPOSITORY / "README.md", target / "index.html")
    return target / "index.html"


def _write_notebook(path: Path, names: list[str], target: Path) -> None:
    exporter = HTMLExporter(template_name="notebook", extra_template_basedirs=[str(TEMPLATES)])
    html, _ = exporter.from_filename(str(path), resources={"notebooks": names, "metadata": {"name": path.stem}})
    write_text(target, html)


def _write_document(path: Path, target: Path, root: str = "") -> None:
    """A Markdown file as a page; links to notebooks and to other documents lead to their pages."""
    markdown = re.sub(r"<!--.*?-->", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    html = re.sub(r'href="([^":]+)\.(ipynb|md)"', r'href="\1.html"', markdown2html_mistune(markdown))
    _write_page(target, path.stem, root=root, body=Markup(html))


def _gallery() -> tuple[Group, ...]:
    groups = []
    for record in sorted((REPOSITORY / "figures").glob("*/results.json")):
        found = results.read(record)
        pictures = tuple(Shown(str(path.relative_to(REPOSITORY)), _caption(path.stem))
                         for path in sorted(record.parent.glob("*.png")))
        groups.append(Group(found.experiment["title"], results.heading(found), pictures))
    return tuple(groups)


def _caption(stem: str) -> str:
    return CAPTIONS.get(stem, stem.replace("_", " ").capitalize())


def _write_page(path: Path, title: str, root: str = "", **content) -> None:
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True,
                                     undefined=jinja2.ChainableUndefined)
    write_text(path, environment.get_template("page.html").render(title=title, links=LINKS, root=root, **content))
