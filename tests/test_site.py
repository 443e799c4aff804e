"""make docs: a site that leads everywhere and needs nothing from elsewhere to be made."""
import re
import shutil

from kitlib import site, sweeps
from kitlib.experiment import REPOSITORY
from kitlib.files import write_json
from kitlib.settings import KitError

import pytest


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    assert site.build(folder) == folder / "index.html"
    return folder


def test_a_folder_that_holds_other_things_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("all my work")
    (tmp_path / "style.css").write_text("body { color: red; }")
    for place in (tmp_path, tmp_path / "mine.txt", REPOSITORY):
        with pytest.raises(KitError, match="holds other things"):
            site.build(place)


def test_every_notebook_has_its_page_with_a_title(pages):
    for notebook in (REPOSITORY / "notebooks").rglob("[0-9]*.ipynb"):
        page = pages / notebook.relative_to(REPOSITORY).with_suffix(".html")
        text = page.read_text(encoding="utf-8")
        assert "<h1" in text and 'name="viewport"' in text
        local = [link for link in re.findall(r'<a href="([^"#:]+)"', text) if not link.startswith("data")]
        assert local and all((page.parent / link).exists() for link in local)


def test_answers_are_folded_away_and_set(pages):
    text = (pages / "notebooks" / "03_attack_generation.html").read_text(encoding="utf-8")
    answers = re.findall(r"<details><summary>Answer</summary>(.*?)</details>", text, re.DOTALL)
    assert len(answers) >= 2 and all("<p>" in answer for answer in answers)


@pytest.mark.parametrize("name", ["index.html", "gallery.html", "CONTRIBUTING.html", "data/README.html"])
def test_links_and_pictures_of_the_site_are_there(pages, name):
    text = (pages / name).read_text(encoding="utf-8")
    local = [link for link in re.findall(r'(?:href|src)="([^"#]+)"', text) if not re.match(r"\w+:", link)]
    assert len(local) > 3
    missing = [link for link in local if not ((pages / name).parent / link).is_file()]
    assert missing == []
    assert set(re.findall(r'href="#([^"]+)"', text)) <= set(re.findall(r'id="([^"]+)"', text))


def test_pages_of_what_is_gone_go_too(tmp_path, monkeypatch):
    monkeypatch.setattr(site, "lessons", lambda: [])
    monkeypatch.setattr(site, "solutions", lambda: [])
    site.build(tmp_path / "site")
    (tmp_path / "site/notebooks").mkdir()
    (tmp_path / "site/notebooks/12_gone.html").touch()
    site.build(tmp_path / "site")
    assert (tmp_path / "site/index.html").is_file() and not (tmp_path / "site/notebooks").exists()


def test_an_interrupted_site_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(site, "_gallery", lambda: 1 / 0)
    monkeypatch.setattr(site, "lessons", lambda: [])
    monkeypatch.setattr(site, "solutions", lambda: [])
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            site.build(tmp_path / "site")


def test_folders_without_a_page_are_no_links():
    html = '<p><a href="figures">all</a>, <a href="kitlib/data">code</a>, <a href="style.css">style</a></p>'
    assert (site._without_folders(html, REPOSITORY)
            == '<p><a href="gallery.html">all</a>, code, <a href="style.css">style</a></p>')


def test_the_gallery_shows_every_published_picture(pages):
    text = (pages / "gallery.html").read_text(encoding="utf-8")
    pictures = list((REPOSITORY / "figures").rglob("*.png"))
    assert pictures and all(str(path.relative_to(REPOSITORY)) in text for path in pictures)


def test_the_gallery_links_the_reports_of_audits(tmp_path, monkeypatch):
    published = tmp_path / "figures/lung_ct"
    (published / "audit/defended").mkdir(parents=True)
    (published / "audit/defended/report.html").touch()
    shutil.copyfile(REPOSITORY / "figures/lung_ct/results.json", published / "results.json")
    monkeypatch.setattr(site, "REPOSITORY", tmp_path)
    links = [section.links for section in site._gallery()]
    assert links == [(), (("Audit of the defended model", "figures/lung_ct/audit/defended/report.html"),)]
    site._write_page(tmp_path / "gallery.html", "Gallery", sections=site._gallery())
    page = (tmp_path / "gallery.html").read_text(encoding="utf-8")
    assert '<a href="figures/lung_ct/audit/defended/report.html">Audit of the defended model</a>' in page


def test_the_gallery_shows_published_sweeps(tmp_path, monkeypatch):
    found = sweeps.Aggregate(sweep=sweeps.Sweep(name="mine", title="Seeds of mine", experiment="digits_fgsm"),
                             finished=1, missing=(), groups=())
    write_json(tmp_path / "figures/sweeps/mine/aggregate.json", found.model_dump(mode="json"))
    (tmp_path / "figures/sweeps/mine/seeds.png").touch()
    (tmp_path / "figures/sweeps/mine/paper.md").touch()
    monkeypatch.setattr(site, "REPOSITORY", tmp_path)
    section = site._gallery()[-1]
    assert section.title == "Seeds of mine" and section.pictures[0].uri == "figures/sweeps/mine/seeds.png"
    assert section.links == (("Table: paper", "figures/sweeps/mine/paper.html"),)
