"""What the notebooks of the kit have in common: the lessons, and the solutions of their exercises. nbval runs both
(make test), the solutions last, as `solutions` sorts behind the numbers."""
import ast
import re
import statistics

import nbformat
import numpy as np
import pytest
import tensorflow as tf

from kitlib.evaluation import exercises
from kitlib.experiments.runs import MAKER, PARAMETERS
from kitlib.experiments.settings import lessons, solutions

LESSONS, SOLUTIONS = lessons(), solutions()
IN_THE_OPEN = [path for path in LESSONS if path.stem < "06"]    # where the student writes the thing himself first
# What a statement is made of that is Keras, TensorFlow, CleverHans, NumPy or matplotlib.
OPEN = re.compile(r"\b(keras|tf|np|plt|layers|axes|figure|tape|cleverhans|projected_gradient_descent|carlini_wagner_l2"
                  r"|fast_gradient_method|clip_eta|optimize_linear)\b(?!\w*=)"
                  r"|\.(compile|fit|predict|get_weights|set_weights|trainable_\w+|optimizer|numpy)\b"
                  r"|\b(model|network|defended)\(")


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
    """(the solutions, the lesson)."""
    lesson = request.param.parents[1] / request.param.name
    return tuple(nbformat.read(path, as_version=4) for path in (request.param, lesson))


def markdown(notebook):
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def exercises_of(notebook):
    """The numbers of a lesson's exercises."""
    return re.findall(r"^### Exercise (\d): \S", markdown(notebook), re.M)


def test_the_first_look_and_the_five_are_there():
    assert {path.stem for path in LESSONS} >= {"00_first_look", *MAKER.values()}


def test_every_lesson_has_its_solutions_and_leads_to_them():
    assert [path.name for path in SOLUTIONS] == [path.name for path in LESSONS]
    for path in LESSONS:
        assert f"](solutions/{path.name})" in nbformat.read(path, as_version=4).cells[-1].source


def test_solutions_solve_every_exercise_and_end_with_words(solution):
    solved, lesson = solution
    asked = exercises_of(lesson)
    assert len(asked) >= 3 and asked == re.findall(r"^## Exercise (\d): ", markdown(solved), re.M)
    assert solved.cells[-1].cell_type == "markdown"
    assert all(part in solved.cells[0].source for part in ("](../", "**Needs**", "**Takes**"))


def checked_exercises(lesson):
    """The cell after each one with something to replace: it checks what the student writes."""
    return [check for exercise, check in zip(code(lesson), code(lesson)[1:], strict=False)
            if "# your code" in exercise.source]


def test_half_of_the_exercises_are_checked_by_the_next_cell(lesson):
    """It says "not yet", until it is right."""
    checked = checked_exercises(lesson)
    assert 2 * len(checked) >= len(exercises_of(lesson))
    for check in checked:
        assert [output.text for output in check.outputs] == [exercises.NOT_YET + "\n"]


def test_each_solution_of_a_checked_exercise_is_found_right(solution):
    solved, lesson = solution
    said = "".join(output.get("text", "") for cell in code(solved) for output in cell.outputs).splitlines()
    assert said.count("right") >= len(checked_exercises(lesson)) > 0
    assert not any(line.startswith("not ") for line in said)


@pytest.mark.parametrize("mine, said", [
    (None, exercises.NOT_YET), ([None, 2], "a part of the answer is None"), ([1, 2], "right"), ((1.0, 2.0), "right"),
    (np.float32([1, 2]), "right"), (tf.constant([1.0, 2.0], tf.float64), "right"), ([-1, -2], "not right: the sign"),
    ([2, 2], "1 of 2 numbers are wrong; the first is 2 instead of 1"), (np.ones((1, 2)), r"shape \(1, 2\) instead of"),
    (np.ones(3), "shape"), ([np.nan, 2], "nan instead of 1"), ("text", "numbers are needed, not str"), ([], "not list"),
])
def test_an_answer_is_right_in_any_form_and_a_wrong_one_is_told_why(mine, said):
    assert re.search(said, exercises.check(mine, np.array([1, 2]), {"the sign": [-1, -2]}))


@pytest.mark.parametrize("mine", [[[0, 1], 5.0, 2.0], np.array([0.0, 1.0, 5.0, 2.0])])
def test_a_function_that_looks_for_a_mistake_gets_the_numbers_like_the_right_answer(mine):
    right = [np.ones(2), 5.0, 3.0]
    assert exercises.check(mine, right, {"the last": lambda parts: parts[0].shape == (2,) and parts[2] == 2}) \
        == "not right: the last"


def statements(cells):
    """The lines of each statement of some code cells; of one that holds others, those of its head."""
    for cell in cells:
        lines = cell.source.splitlines()
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.stmt):
                inner = getattr(node, "body", None)
                end = inner[0].lineno - 1 if inner else node.end_lineno
                yield [line for line in lines[node.lineno - 1:max(end, node.lineno)] if line.strip()]


def test_a_third_of_the_code_is_keras_tensorflow_cleverhans_numpy_or_matplotlib():
    found = [lines for path in IN_THE_OPEN for lines in statements(code(nbformat.read(path, as_version=4)))]
    open_lines = sum(len(lines) for lines in found if OPEN.search("\n".join(lines)))
    assert open_lines >= sum(map(len, found)) / 3


def test_it_is_a_valid_notebook(notebook):
    nbformat.validate(notebook)


def test_it_opens_with_title_question_needs_and_time(lesson):
    first = lesson.cells[0].source
    assert re.match(r"# \d+ · ", first)
    for part in ("**Question.**", "**Needs**", "**Takes**"):
        assert part in first


def test_it_ends_with_lessons_exercises_and_references(lesson):
    last = lesson.cells[-1].source
    for part in ("## What we learnt", "Solutions:", "## References"):
        assert part in last
    assert "## Exercises" in markdown(lesson)


def test_its_parameters_are_flat_and_commented(notebook):
    cells = [cell for cell in code(notebook) if "parameters" in cell.metadata.get("tags", [])]
    assert len(cells) == 1 and cells[0] is code(notebook)[0]
    commented = re.findall(r"^(\w+) = .*#", cells[0].source, re.M)
    alone = "pretrained.load(" in "".join(cell.source for cell in code(notebook))   # 00 runs without an experiment
    assert len(commented) == len(cells[0].source.splitlines()) and (alone or commented == list(PARAMETERS))


def test_its_cells_are_short(notebook):
    assert max(len(cell.source.splitlines()) for cell in code(notebook)) <= 25


def test_most_cells_of_a_lesson_are_very_short(lesson):
    assert statistics.median(len(cell.source.splitlines()) for cell in code(lesson)) <= 8


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
    assert any("NBVAL_CHECK_OUTPUT" in cell.source or "# your code" in cell.source for cell in code(notebook))


def test_it_is_small_enough_to_read_on_a_web_page():
    for path in LESSONS + SOLUTIONS:
        assert path.stat().st_size < 1_500_000, path.name


def test_it_asks_questions_whose_answers_are_folded_away(lesson):
    """With empty lines around the answer, so that Markdown and formulas in it are set."""
    questions = re.findall(r"^\*\*Check yourself\.\*\* .*?</details>$", markdown(lesson), re.DOTALL | re.M)
    assert 2 <= len(questions) <= 3
    for question in questions:
        assert re.search(r"\?\n\n<details><summary>Answer</summary>\n\n\S.*\S\n\n</details>$", question, re.DOTALL)
