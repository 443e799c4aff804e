"""`make docs`: a static site of the README, the executed notebooks (by nbconvert) and a gallery of the figures."""
from __future__ import annotations

import re
import shutil
from pathlib import Path

from kitlib import results, sweeps
from kitlib.experiment import REPOSITORY, lessons, solutions
from kitlib.files import folder_written_whole, write_text
from kitlib.report import TEMPLATES, Picture, Section, caption_of, environment
from kitlib.settings import KitError

from markupsafe import Markup
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import markdown2html_mistune

LINKS = (("kitlib", "index.html"), ("gallery", "gallery.html"), ("contributing", "CONTRIBUTING.html"),
         ("changes", "CHANGELOG.html"))
DOCUMENTS = ("CONTRIBUTING.md", "CHANGELOG.md", "data/README.md")


def build(target: Path) -> Path:
    """Write the site into the folder `target`, from what is committed; returns its first page.

    Raises KitError for a folder that holds anything but such a site.
    It needs no network to be made; formulas in notebooks are set by MathJax, which the reader's browser fetches.
    """
    target = target.absolute()
    if target.exists() and not _is_site(target) and (not target.is_dir() or any(target.iterdir())):
        raise KitError(f"{target} holds other things already: choose a new folder")
    with folder_written_whole(target) as folder:
        _write_all(folder)
    return target / "index.html"


def _write_all(target: Path) -> None:
    shutil.copyfile(TEMPLATES / "style.css", target / "style.css")
    for notebook in lessons() + solutions():
        page = notebook.relative_to(REPOSITORY).with_suffix(".html")
        _write_notebook(notebook, [each.stem for each in lessons()], target / page, root="../" * (len(page.parts) - 1))
    shutil.copytree(REPOSITORY / "figures", target / "figures", dirs_exist_ok=True,
                    ignore=shutil.ignore_patterns("models"))
    _write_page(target / "gallery.html", "Gallery", sections=_gallery())
    tables = [str(path.relative_to(REPOSITORY)) for path in sorted(REPOSITORY.glob("figures/**/*.md"))]
    for name in (*DOCUMENTS, *tables):
        _write_document(REPOSITORY / name, (target / name).with_suffix(".html"), root="../" * name.count("/"))
    _write_document(REPOSITORY / "README.md", target / "index.html")


def _is_site(folder: Path) -> bool:
    """Whether it is one that this made, and not somebody's own with a style.css."""
    style = folder / "style.css"
    return style.is_file() and style.read_bytes().startswith((TEMPLATES / "style.css").read_bytes().splitlines()[0])


def _write_notebook(path: Path, names: list[str], target: Path, root: str) -> None:
    exporter = HTMLExporter(template_name="notebook", extra_template_basedirs=[str(TEMPLATES)])
    resources = {"notebooks": names, "root": root, "metadata": {"name": path.stem}}
    html, _ = exporter.from_filename(str(path), resources=resources)
    write_text(target, _to_pages(html))


def _to_pages(html: str) -> str:
    """Links to notebooks and documents lead to their pages."""
    return re.sub(r'href="([^":]+)\.(ipynb|md)"', r'href="\1.html"', html)


def _write_document(path: Path, target: Path, root: str = "") -> None:
    """A Markdown file as a page; links to notebooks and to other documents lead to their pages."""
    markdown = re.sub(r"<!--.*?-->", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    html = _without_folders(_to_pages(_anchored(markdown2html_mistune(markdown))), path.parent)
    _write_page(target, path.stem, root=root, body=Markup(html))


def _anchored(html: str) -> str:
    """Headings under the names that links to them have on GitHub, which knows no capitals."""
    return re.sub(r'(<h\d id="|href="#)([^"]+)"', lambda found: f'{found[1]}{found[2].lower()}"', html)


def _without_folders(html: str, folder: Path) -> str:
    """A link to the figures leads to the gallery; of one to another folder, which has no page, its text stays."""
    def page(link: re.Match) -> str:
        linked = folder / link[1]
        if linked == REPOSITORY / "figures":
            return f'<a href="gallery.html">{link[2]}</a>'
        return link[2] if linked.is_dir() else link[0]
    return re.sub(r'<a href="([^":#]+)">(.*?)</a>', page, html, flags=re.DOTALL)


def _gallery() -> tuple[Section, ...]:
    """The papers at a glance, every published run with its pictures and the reports of its audits, and the sweeps."""
    figures = REPOSITORY / "figures"
    sections = [Section("The papers at a glance", pictures=_pictures(figures))]
    for record in sorted(figures.glob("[!.]*/results.json")):
        found = results.read(record)
        audits = tuple((f"Audit of the {path.parent.name} model", str(path.relative_to(REPOSITORY)))
                       for path in sorted(record.parent.glob("audit/*/report.html")))
        sections.append(Section(found.experiment["title"], (results.heading(found),), pictures=_pictures(record.parent),
                                links=audits))
    for record in sorted(figures.glob("sweeps/*/aggregate.json")):
        found = sweeps.read(record)
        said = sweeps.heading(found), sweeps.LEGEND
        tables = tuple((f"Table: {path.stem}", str(path.relative_to(REPOSITORY).with_suffix(".html")))
                       for path in sorted(record.parent.glob("[!.]*.md")))
        sections.append(Section(found.sweep.title or found.sweep.name, said, pictures=_pictures(record.parent),
                                links=tables))
    return tuple(sections)


def _pictures(folder: Path) -> tuple[Picture, ...]:
    return tuple(Picture(caption_of(path.stem), str(path.relative_to(REPOSITORY)))
                 for path in sorted(folder.glob("[!.]*.png")))


def _write_page(path: Path, title: str, root: str = "", body: str = "", sections: tuple[Section, ...] = ()) -> None:
    write_text(path, environment().get_template("page.html").render(title=title, links=LINKS, root=root, body=body,
                                                               sections=sections))
