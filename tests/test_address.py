"""pyproject.toml holds the repository's address; links to Colab, Binder and the repository are made from it."""
import json
import re
import tomllib

from kitlib.base.places import REPOSITORY

ADDRESS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["urls"]["Repository"]


def text_files():
    notebooks = [path for path in REPOSITORY.glob("notebooks/**/*.ipynb") if ".ipynb_checkpoints" not in path.parts]
    for path in [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("docs/guides/*.md"),
                 REPOSITORY / "data/README.md", REPOSITORY / "CITATION.cff",
                 *REPOSITORY.glob(".github/**/*.y*ml"), *notebooks]:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
        yield path, text


def test_links_to_colab_binder_and_the_repository_are_made_from_pyproject_s_address():
    host, owner, name = re.fullmatch(r"(https://github\.com)/([\w-]+)/([\w.-]+)", ADDRESS).groups()
    ours = {
        r"https://colab\.research\.google\.com/github/([^\s)\"'`]*)": f"{owner}/{name}/",
        r"https://mybinder\.org/v2/gh/([^\s)\"'`]*)": f"{owner}/{name}/",
        rf"{re.escape(host)}/([\w-]+/{re.escape(name)}\b[^\s)\"'`]*)": f"{owner}/{name}",
    }
    for path, text in text_files():
        for pattern, start in ours.items():
            for link in re.findall(pattern, text):
                assert link.startswith(start), f"{path}: {link} is not made from {ADDRESS}"
