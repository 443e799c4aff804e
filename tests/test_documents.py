"""What README.md and RESULTS.md show of the records."""
import json
import re

import pytest

from kitlib.base import files
from kitlib.base.places import REPOSITORY
from kitlib.base.settings import KitError
from kitlib.experiments import documents, evidence, experiment, sweeps, verdicts
from kitlib.experiments.aggregates import Group, PaperSpread, Spread
from kitlib.experiments.sweeps import Aggregate, Sweep

FIGURES = REPOSITORY / "figures"


def text_of(name):
    return (REPOSITORY / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", documents.FILES)
def test_the_documents_say_what_the_records_say(name):
    text = text_of(name)
    assert "<!-- end -->" in text and documents.fill_in(text, FIGURES) == text


def test_the_readme_is_short_and_its_links_lead_somewhere():
    text = text_of("README.md")
    prose = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    assert len(prose.split()) <= 800
    places = re.findall(r"\]\(([^):]+)\)", prose)
    # docs/ is a book of its own
    assert places and [place for place in places if place != "docs" and not (REPOSITORY / place).exists()] == []
    assert "notebooks/01_data_preparation.ipynb" in places and "figures/first_look.png" in places


def test_every_figure_of_both_papers_has_its_row():
    text = text_of("RESULTS.md")
    for letter in "AB":
        loaded = [experiment.load(name, "full") for name in experiment.of_paper(letter)]
        ids = [figure.id for each in loaded for figure in each.paper_figures]
        rows = re.findall(rf"^\| {letter}\d+ \| (.*?) \(", text, flags=re.MULTILINE)
        assert rows == ids


def test_no_worst_case_is_shown_without_its_missing_targeted_attack():
    text = text_of("RESULTS.md")
    shown = re.search(r"<!-- worsts: all -->(.*?)<!-- end -->", text, flags=re.DOTALL)[1]
    rows = [line for line in shown.splitlines() if line.startswith("| `")]
    assert len(rows) > 5 and all("targeted" in row for row in rows)
    robust = next(row for row in rows if "`cifar10_robust/defended`" in row)
    assert ("no targeted attack" in robust) != (FIGURES / "cifar10_robust/audit/defended/audit.json").exists()
    for line in text.splitlines():
        if re.match(r"\| (\S+ \| )*worst case", line) and not line.startswith("| model"):      # but a table's head
            assert "untargeted" in line


def test_a_worst_case_is_the_audit_s_where_there_is_one(tmp_path):
    record = files.read_json(FIGURES / "cifar10_exp2/results.json")
    files.write_json(tmp_path / "cifar10_exp2/results.json", record)
    without = documents.worst(tmp_path, "cifar10_exp2/defended")
    assert "(1 of 500)" in without and "no targeted attack" in without
    audited = files.read_json(FIGURES / "cifar10_exp2/audit/defended/audit.json")
    audited["worst_case"] |= {"accuracy": 0.003, "correct": 3}
    files.write_json(tmp_path / "cifar10_exp2/audit/defended/audit.json", audited)
    found = documents.worst(tmp_path, "cifar10_exp2/defended")
    assert "0.3 % (3 of 1000)" in found and "APGD targeted" in found and "no targeted" not in found
    audited["attacks"] = {name: each for name, each in audited["attacks"].items() if "targeted" not in name}
    files.write_json(tmp_path / "cifar10_exp2/audit/defended/audit.json", audited)
    assert "no targeted attack" in documents.worst(tmp_path, "cifar10_exp2/defended")


def test_pictures_of_ct_slices_name_their_source():
    text = text_of("RESULTS.md")
    for file, after in re.findall(r"!\[[^]]*\]\(figures/(lung[^)]*)\)\n\n([^\n]*)", text):
        assert "CC BY 4.0" in after, file
    assert "CC BY" in documents.picture(FIGURES, "lung_ct/confusion.png Confusion")
    assert "CC BY" not in documents.picture(FIGURES, "cifar10_exp2/confusion.png Confusion")
    with pytest.raises(KitError, match="there is no picture .*nothing.png"):
        documents.picture(FIGURES, "lung_ct/nothing.png Nothing")


def test_seeds_of_the_same_settings_are_evidence_together(tmp_path):
    record = files.read_json(FIGURES / "cifar10_exp2/results.json")
    place = tmp_path / "sweeps/mine/records/cifar10_exp2"
    files.write_json(tmp_path / "cifar10_exp2/results.json", record)
    files.write_json(place / "full/seed1.json", record | {"seed": 1})
    files.write_json(place / "demo/seed2.json", record | {"seed": 2, "profile": "demo"})
    trained = record["experiment"]["defended"] | {"epochs": 99}
    files.write_json(place / "full+ab/seed3.json",
                     record | {"seed": 3, "experiment": record["experiment"] | {"defended": trained}})
    found = evidence.of_paper("A", tmp_path)
    assert list(found) == ["cifar10_exp2"] and [list(each) for each in found["cifar10_exp2"]] == [[0, 1], [0, 1]]
    assert all(verdicts.judge(list(each.values())).kind == "inconclusive" for each in found["cifar10_exp2"])
    assert documents.verdict(tmp_path, "A") == "2 figures: 0 compatible, 0 incompatible, 2 inconclusive"
    assert "n = 2 runs of 10000 images" in documents.claims(tmp_path, "A")
    assert documents.claims(tmp_path, "A").count("no record") == len(experiment.of_paper("A")) - 1


def test_controls_and_rival_readings_are_shown_where_they_were_measured(tmp_path):
    assert "No record of such controls" in documents.controls(tmp_path, "A")
    record = files.read_json(FIGURES / "cifar10_exp2/results.json")
    half = {"accuracy": 0.5, "correct": 2, "count": 4}
    found = {"clean": half, "attack": "FGSM", "random label": {"names the random label": half},
             "readings": {"1": {"sign flipped": {"pixels in 0 to 255": half}}}}
    files.write_json(tmp_path / "cifar10_exp2/results.json", record)
    files.write_json(tmp_path / "cifar10_exp2/records/controls.json", {"models": {"defended": found}})
    shown = documents.controls(tmp_path, "A")
    assert "| `cifar10_exp2/defended` | random label / names the random label | 50.0 % (2 of 4) |" in shown
    assert "| `cifar10_exp2/defended` | 1 | sign flipped | 50.0 |" in shown and shown.count("</details>") == 1
    assert "No record of such controls" in documents.controls(tmp_path, "B")


def test_a_number_in_prose_is_that_of_its_record(tmp_path):
    accuracy = {"accuracy": 0.75, "correct": 3, "count": 4}
    files.write_json(tmp_path / "run" / "leak.json", {"on grey": {"defended": accuracy}, "contenders": {"a": accuracy}})
    text = "It names <!-- value: run/leak.json on grey / defended -->?<!-- end --> of them."
    assert "defended -->75.0 % (3 of 4)<!-- end --> of" in documents.fill_in(text, tmp_path)
    assert documents.value(tmp_path, "run/leak.json compared_models / a") == "75.0 % (3 of 4)"      # an older record
    files.write_json(tmp_path / "run" / "results.json", {"seconds": {"training": 5400.4}})
    assert documents.fill_in("<!-- minutes: run/results.json seconds / training -->?<!-- end -->", tmp_path).endswith(
        "-->90 minutes<!-- end -->")
    with pytest.raises(KitError, match="leak.json.* has no 'defnded'; did you mean 'defended'"):
        documents.fill_in(text.replace("defended", "defnded"), tmp_path)
    with pytest.raises(KitError, match="no mark of a document 'valu'; did you mean 'value'"):
        documents.fill_in(text.replace("value", "valu"), tmp_path)


@pytest.mark.parametrize("paper", [True, False])
def test_a_sweep_is_shown_by_its_paper_s_figures_or_by_its_headline(tmp_path, paper):
    spread = Spread.of({0: 0.5, 1: 0.6})
    figures = (PaperSpread(id="clean", paper=55.0, as_published=spread, as_defined=spread, verdict="inconclusive"),)
    group = Group(experiment="some", variation={}, synthetic=False, headline=("clean", "PGD"), seconds={},
                  models={"baseline": {"clean": spread, "FGSM": spread, "PGD": spread}}, paper=figures if paper else ())
    found = Aggregate(sweep=Sweep(name="two", experiment=("some",), seeds=(0, 1)), finished=2, missing=(),
                      groups=(group,))
    for name in ("two", "2-runs"):
        files.write_json(tmp_path / "sweeps" / name / "aggregate.json", found.model_dump(mode="json"))
    assert "old" not in documents.fill_in("<!-- sweep: 2-runs -->\nold\n<!-- end -->", tmp_path)
    shown = documents.fill_in("<!-- sweep: two -->\nold\n<!-- end -->", tmp_path)
    assert "seeds 0, 1, 2 of 2 runs" in shown and "old" not in shown
    rows = [line.split(" | ")[1] for line in shown.splitlines() if line.startswith("| some")]
    assert rows == (["clean"] if paper else ["clean", "PGD"])
    with pytest.raises(KitError, match="aggregate.json"):
        documents.fill_in("<!-- sweep: three --><!-- end -->", tmp_path)


def test_the_course_is_listed_by_what_each_first_cell_says(tmp_path, monkeypatch):
    cell = "# 6 · Leaks\n\n**Question.** What leaks?\n\n**Needs** 5. **Takes** about two minutes with the defaults."
    for name, source in (("06_leaks", cell), ("07_more", cell.replace("**Takes**", "Takes"))):
        (tmp_path / f"{name}.ipynb").write_text(json.dumps({"cells": [{"cell_type": "markdown", "source": [source]}]}))
    monkeypatch.setattr(documents, "lessons", lambda: [tmp_path / "06_leaks.ipynb"])
    assert "| [06 Leaks](notebooks/06_leaks.ipynb) | What leaks? | about two minutes |" in documents.course(FIGURES, "")
    monkeypatch.setattr(documents, "lessons", lambda: [tmp_path / "07_more.ipynb"])
    with pytest.raises(KitError, match="07_more.ipynb: its first cell has no takes"):
        documents.course(FIGURES, "")


def test_sweeps_are_published_with_today_s_verdicts():
    for path in FIGURES.glob("sweeps/*/aggregate.json"):
        found = sweeps.read(path)
        assert all(entry.verdict for group in found.groups for entry in group.paper)
