"""What the notebooks of the kit have in common: the lessons, and the solutions of their exercises. nbval runs both
(make test), the solutions last, as `solutions` sorts behind the numbers."""
import re
import statistics

import nbformat
import pytest

from kitlib.experiments.runs import MAKER, PARAMETERS
from kitlib.experiments.settings import lessons, solutions

LESSONS, SOLUTIONS = lessons(), solutions()


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture(params=LESSONS + SOLUTIONS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def notebook(request):
    return nbformat.read(request.param, as_version=4)


@pytest.fixture(params=LESSONS, ids=lambda path: path.stem)
def lesson(request):
    return nbformat.read(request.param, as_version=4)


@pytest.fixture(params=SOLUTIONS, ids=lambda path: path.stem)
def solution(request):
    """(its cells, the cells of the lesson)."""
    lesson = request.param.parents[1] / request.param.name
    return tuple(nbformat.read(path, as_version=4).cells for path in (request.param, lesson))


def test_the_five_are_there():
    assert {path.stem for path in LESSONS} >= set(MAKER.values())


def test_every_lesson_has_its_solutions_and_leads_to_them():
    assert [path.name for path in SOLUTIONS] == [path.name for path in LESSONS]
    for path in LESSONS:
        assert f"](solutions/{path.name})" in nbformat.read(path, as_version=4).cells[-1].source


def test_solutions_solve_every_exercise_and_end_with_words(solution):
    cells, lesson = solution
    exercises = re.search(r"## Exercises\n(.*)\nSolutions:", lesson[-1].source, re.DOTALL)[1]
    asked = re.findall(r"^(\d)\. ", exercises, re.M)
    solved = re.findall(r"^## Exercise (\d): ", "\n".join(cell.source for cell in cells), re.M)
    assert 2 <= len(asked) <= 3 and asked == solved
    assert cells[-1].cell_type == "markdown"
    assert all(part in cells[0].source for part in ("](../", "**Needs**", "**Takes**"))


def test_it_is_a_valid_notebook(notebook):
    nbformat.validate(notebook)


def test_it_opens_with_title_question_needs_and_time(lesson):
    first = lesson.cells[0].source
    assert re.match(r"# \d+ · ", first)
    for part in ("**Question.**", "**Needs**", "**Takes**"):
        assert part in first


def test_it_ends_with_lessons_exercises_and_references(lesson):
    last = lesson.cells[-1].source
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
    assert "widgets" not in notebook.metadata


def test_its_outputs_are_free_of_noise_and_paths(notebook):
    text = "".join(str(output) for cell in code(notebook) for output in cell.outputs if "image/png" not in str(output))
    for word in ("Warning", "WARNING", "Traceback", "cudart"):
        assert word not in text
    assert not re.search(r"""(?:^|[\s'"(=]|\\n)/[a-zA-Z]+/\w""", text)  # an absolute path of some machine


def test_it_has_cells_that_nbval_compares(notebook):
    assert any(cell.source.startswith("# NBVAL_CHECK_OUTPUT") for cell in code(notebook))


def test_it_is_small_enough_to_read_on_a_web_page():
    for path in LESSONS + SOLUTIONS:
        assert path.stat().st_size < 1_500_000, path.name


def test_it_asks_questions_whose_answers_are_folded_away(lesson):
    """With empty lines around the answer, so that Markdown and formulas in it are set."""
    questions = [cell.source for cell in lesson.cells if cell.source.startswith("**Check yourself.** ")]
    assert 2 <= len(questions) <= 3
    for question in questions:
        assert re.search(r"\?\n\n<details><summary>Answer</summary>\n\n\S.*\S\n\n</details>$", question, re.DOTALL)
