"""The book, built by `make docs` offline. `book.py` copies the notebooks and writes the pages of the interface."""
import sys
import tomllib
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS), str(DOCS.parent)]

import book  # noqa: E402 - it lies beside this file

import kitlib  # noqa: E402 - of this very clone

PROJECT = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = PROJECT["name"]
author = "The kitlib authors"
version = release = kitlib.__version__
language = "en"
highlight_language = "none"
html_title = project
exclude_patterns = ["_build", "generated/*.md", "Thumbs.db", ".DS_Store"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx_copybutton", "sphinx_design"]

nb_execution_mode = "off"           # the notebooks are committed with their outputs
nb_merge_streams = True
myst_enable_extensions = ["amsmath", "dollarmath", "colon_fence", "deflist", "html_image"]
myst_heading_anchors = 3
myst_url_schemes = ["http", "https", "mailto"]

default_role = "code"               # `a name` in a docstring
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
toc_object_entries_show_parents = "hide"

html_theme = "sphinx_book_theme"
html_theme_options = {
    "repository_url": PROJECT["urls"]["Repository"],
    "repository_branch": "main",
    "path_to_docs": "",             # a notebook's page has the path that it has in the repository
    "use_repository_button": True,
    "use_issues_button": True,
    "launch_buttons": {"binderhub_url": "https://mybinder.org", "colab_url": "https://colab.research.google.com",
                       "notebook_interface": "jupyterlab"},
    "show_toc_level": 1,
    "navbar_persistent": [],        # the search is in the sidebar
    "home_page_in_toc": True,
}
html_extra_path = ["generated/extra"]
html_show_copyright = False
copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True


def setup(app):
    book.write(DOCS, PROJECT["urls"]["Repository"])
    app.connect("autodoc-process-docstring", book.docstring_as_rst)
