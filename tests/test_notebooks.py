"""What every notebook of the kit has in common. nbval runs them (make test)."""
import re
import statistics

from kitlib.experiment import REPOSITORY
from kitlib.runs import MAKER, PARAMETERS

import nbformat
import pytest

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("[0-9]*.ipynb"))


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def test_the_five_are_there():
    assert {path.stem for path in NOTEBOOKS} >= set(MAKER.values())


def test_it_is_a_valid_notebook(notebook):
    nbformat.validate(notebook)


def test_it_opens_with_title_question_needs_and_time(notebook):
    first = notebook.cells[0].source
    assert re.match(r"# \d+ · ", first)
    for part in ("**Question.**", "**Needs**", "**Takes**"):
        assert part in first


def test_it_ends_with_lessons_exercises_and_references(notebook):
    last = notebook.cells[-1].source
    for part in ("## What we learnt", "## Exercises", "## References"):
        assert part in last


def test_its_parameters_are_flat_and_commented(notebook):
    cells = [cell for cell in code(notebook) if "parameters" in cell.metadata.get("tags", [])]
    assert len(cells) == 1 and cells[0] is code(notebook)[0]
    assert re.findall(r"^(\w+) = .*#", cells[0].source, re.M) == list(PARAMETERS)


def test_its_cells_are_short(notebook):
    lengths = [len(cell.source.splitlines()) for cell in code(notebook)]
    assert max(lengths) <= 25 and statistics.median(lengths) <= 8


def test_every_code_cell_is_introduced_by_words(notebook):
    """At most three code cells follow one another without a sentence between them."""
    kinds = "".join(cell.cell_type[0] for cell in notebook.cells)
    assert "cccc" not in kinds


def test_it_was_executed_in_order_and_without_errors(notebook):
    assert [cell.execution_count for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1))
    kinds = {output.output_type for cell in code(notebook) for output in cell.outputs}
    assert "error" not in kinds


def test_its_outputs_are_free_of_noise_and_paths(notebook):
    text = "".join(str(output) for cell in code(notebook) for output in cell.outputs if "image/png" not in str(output))
    for word in ("Warning", "WARNING", "Traceback", "cudart"):
        assert word not in text
    assert not re.search(r"""(?:^|[\s'"(=]|\\n)/[a-zA-Z]+/\w""", text)  # an absolute path of some machine


def test_it_has_cells_that_nbval_compares(notebook):
    assert any(cell.source.startswith("# NBVAL_CHECK_OUTPUT") for cell in code(notebook))


def test_it_is_small_enough_to_read_on_a_web_page():
    for path in NOTEBOOKS:
        assert path.stat().st_size < 1_500_000, path.name


def test_it_asks_questions_whose_answers_are_folded_away(notebook):
    """With empty lines around the answer, so that Markdown and formulas in it are set."""
    questions = [cell.source for cell in notebook.cells if cell.source.startswith("**Check yourself.** ")]
    assert 2 <= len(questions) <= 3
    for question in questions:
        assert re.search(r"\?\n\n<details><summary>Answer</summary>\n\n\S.*\S\n\n</details>$", question, re.DOTALL)
