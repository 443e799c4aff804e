"""make docs: a book that is built offline without a warning and leads nowhere that is not there."""
import html.parser
import importlib.util
import pkgutil
import re
import subprocess
import sys
import tomllib
import urllib.parse

import pytest

import kitlib
from kitlib.base.places import REPOSITORY

ADDRESS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
DOCS = REPOSITORY / "docs"

spec = importlib.util.spec_from_file_location("book", DOCS / "book.py")
book = importlib.util.module_from_spec(spec)
spec.loader.exec_module(book)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The book, built once: about a minute."""
    folder = tmp_path_factory.mktemp("book")
    done = subprocess.run([sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d",
                           folder / "doctrees", DOCS, folder / "html"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "html"


class Links(html.parser.HTMLParser):
    """The links and pictures of a page, and the names that can be linked to."""

    def __init__(self, path):
        super().__init__()
        self.links, self.names = [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if (tag, name) in (("a", "href"), ("img", "src"), ("link", "href"), ("script", "src")):
                self.links.append(value)
            elif name == "id":
                self.names.add(value)


@pytest.mark.slow
def test_every_link_inside_leads_somewhere(pages):
    parsed = {path: Links(path) for path in pages.rglob("*.html") if "_static" not in path.parts}
    broken = []
    for path, page in parsed.items():
        for link in page.links:
            target, _, name = link.partition("#")
            if re.match(r"\w+:", link) or link.startswith("#top") or link == "#":
                continue
            target, name = urllib.parse.unquote(target.partition("?")[0]), urllib.parse.unquote(name)
            there = (path.parent / target).resolve() if target else path
            if not there.exists() or (name and there in parsed and name not in parsed[there].names):
                broken.append(f"{path.relative_to(pages)}: {link}")
    assert len(parsed) > 40 and broken == []


@pytest.mark.slow
def test_every_notebook_and_every_door_has_its_page(pages):
    for notebook in REPOSITORY.glob("notebooks/**/[0-9]*.ipynb"):
        text = (pages / notebook.relative_to(REPOSITORY).with_suffix(".html")).read_text(encoding="utf-8")
        assert "<h1>" in text and 'name="viewport"' in text
    doors = [each.name for each in pkgutil.iter_modules(kitlib.__path__) if each.name not in book.NO_API]
    assert doors and all((pages / f"api/{door}.html").is_file() for door in doors)
    told = "".join(path.read_text(encoding="utf-8") for path in (pages / "api").glob("*.html"))
    assert all(f'id="kitlib.{name}"' in told for name in ("attacks.run", "data.load", "data.Dataset", "training.train"))


@pytest.mark.slow
def test_notebooks_are_opened_on_colab_and_binder_from_the_one_address(pages):
    owner = ADDRESS.removeprefix("https://github.com/")
    text = (pages / "notebooks/03_attack_generation.html").read_text(encoding="utf-8")
    place = "notebooks/03_attack_generation.ipynb"
    assert f"https://colab.research.google.com/github/{owner}/blob/main/{place}" in text
    assert f"https://mybinder.org/v2/gh/{owner}/main?urlpath=lab/tree/{place}" in text


@pytest.mark.slow
def test_the_audits_reports_are_part_of_the_book(pages):
    reports = list(REPOSITORY.glob("figures/*/audit/*/report.html"))
    assert reports and all((pages / report.relative_to(REPOSITORY)).is_file() for report in reports)


def test_nothing_of_the_book_is_committed_twice():
    tracked = subprocess.run(["git", "ls-files", "docs"], cwd=REPOSITORY, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    assert not [name for name in tracked.stdout.splitlines() if name.endswith(".ipynb") or "/api/" in name]


def test_a_docstring_s_characters_are_shown_as_they_stand():
    lines = ["One `name`, 3 * 4, a_ and |x| of `<class>/<picture>`.", "", "- a list:", "    with more", "", "The `end"]
    book.docstring_as_rst(None, "function", "f", None, None, lines)
    assert lines == ["One \\ ``name``\\ , 3 \\* 4, a\\_ and \\|x\\| of \\ ``<class>/<picture>``\\ .", "", "::", "",
                     "   - a list:", "       with more", "", "The \\`end", ""]


def test_links_of_documents_lead_to_pages_or_to_the_repository():
    text = "[a](../README.md#x) [b](02_b.ipynb) [c](../kitlib) [d](https://e.f) ![e](../figures/paper_a.png) [f](#here)"
    page = DOCS / "notebooks/01_data_preparation.ipynb"
    moved = book._with_links(text.replace("02_b", "02_baseline_training"), "notebooks/01_data_preparation.ipynb", page,
                             DOCS, "https://host/me/kit")
    assert moved == ("[a](../index.md#x) [b](02_baseline_training.ipynb) [c](https://host/me/kit/tree/main/kitlib) "
                     "[d](https://e.f) ![e](../../figures/paper_a.png) [f](#here)")
