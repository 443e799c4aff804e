"""What the README shows of the records."""
import pytest

from kitlib.base import files
from kitlib.base.places import REPOSITORY
from kitlib.base.settings import KitError
from kitlib.experiments import readme, results, sweeps
from kitlib.experiments.sweeps import Aggregate, Group, PaperSpread, Spread, Sweep


def test_the_readme_s_tables_are_those_of_the_records():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert "<!-- results: " in text
    assert readme.fill_in(text, REPOSITORY / "figures") == text


def test_each_of_paper_a_s_eight_figures_is_within_three_points_as_the_readme_says():
    found = [results.read(REPOSITORY / f"figures/cifar10_exp{number}/results.json") for number in (1, 2, 3, 4)]
    entries = [entry for each in found for entry in each.paper]
    assert len(entries) == 8 and {each.seed for each in found} == {0}
    assert all(abs(100 * entry.as_published.accuracy - entry.paper) <= 3 for entry in entries)
    said = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert "each of its eight figures within 3 points at seed 0" in said


def test_a_number_in_prose_is_that_of_its_record(tmp_path):
    accuracy = {"accuracy": 0.75, "correct": 3, "count": 4}
    files.write_json(tmp_path / "run" / "leak.json", {"on grey": {"defended": accuracy}})
    text = "It names <!-- value: run/leak.json on grey / defended -->?<!-- end --> of them."
    assert "defended -->75.0 % (3 of 4)<!-- end --> of" in readme.fill_in(text, tmp_path)
    files.write_json(tmp_path / "run" / "results.json", {"seconds": {"training": 5400.4}})
    assert readme.fill_in("<!-- minutes: run/results.json seconds / training -->?<!-- end -->", tmp_path).endswith(
        "-->90 minutes<!-- end -->")
    with pytest.raises(KitError, match="leak.json has no 'defnded' .*did you mean 'defended'"):
        readme.fill_in(text.replace("defended", "defnded"), tmp_path)


@pytest.mark.parametrize("paper", [True, False])
def test_a_sweep_is_shown_by_its_paper_s_figures_or_by_its_headline(tmp_path, paper):
    spread = Spread.of({0: 0.5, 1: 0.6})
    figures = (PaperSpread(id="clean", paper=55.0, as_published=spread, as_defined=spread, verdicts={"explained": 2}),)
    group = Group(experiment="some", variation={}, synthetic=False, headline=("clean", "PGD"), seconds={},
                  models={"baseline": {"clean": spread, "FGSM": spread, "PGD": spread}}, paper=figures if paper else ())
    sweep = Sweep(name="two", experiment=("some",), seeds=(0, 1))
    found = Aggregate(sweep=sweep, finished=2, missing=(), groups=(group,))
    sweeps.write(found, tmp_path / "sweeps" / "two")
    sweeps.write(found, tmp_path / "sweeps" / "2-runs")
    shown = readme.fill_in("<!-- sweep: 2-runs -->\nold\n<!-- end -->", tmp_path)
    assert "old" not in shown
    shown = readme.fill_in("<!-- sweep: two -->\nold\n<!-- end -->", tmp_path)
    assert "seeds 0, 1, 2 of 2 runs" in shown and "old" not in shown
    rows = [line.split(" | ")[1] for line in shown.splitlines() if line.startswith("| some")]
    assert rows == (["clean"] if paper else ["clean", "PGD"])
    with pytest.raises(KitError, match="aggregate.json"):
        readme.fill_in("<!-- sweep: three --><!-- end -->", tmp_path)
