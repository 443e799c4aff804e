"""What a notebook says to a student's answer: "right", "not yet" where there is none, or what is wrong with it."""
import numpy as np

NOT_YET = "not yet: the function returns None"


def check(mine, right, mistakes=None, *, atol: float = 1e-5, share: float = 1.0) -> str:
    """One line on the answer `mine`.

    mine, right: numbers, arrays, tensors, or lists of them. An answer that is all None is not written yet.
    mistakes: a dictionary, what is wrong in words -> the answer to which it leads, or a function that says whether it
    was made. This gets the numbers of `mine` as arrays in the shapes of `right`. atol: how far a number may be off
    (0: not at all). share: the part of the numbers that must be so near; below 1 where rounding may turn a sign.
    """
    parts = list(_parts(mine))
    if any(part is None for part in parts):
        return NOT_YET if all(part is None for part in parts) else "not right: a part of the answer is None"
    try:
        found, wanted = _numbers(mine), _numbers(right)
    except (TypeError, ValueError):
        return f"not right: numbers are needed, not {type(mine).__name__}"
    shapes = [[tuple(np.shape(part)) for part in _parts(answer)] for answer in (mine, right)]
    alike = found.size == wanted.size and (
        shapes[0] == shapes[1] or found.size == 1 or len(shapes[0]) != len(shapes[1]))

    def close(other):
        return np.isclose(found, other, min(1e-4, 10 * atol), atol, equal_nan=True)

    def near(other):
        return found.shape == other.shape and close(other).mean() >= share

    solved = alike and near(wanted)
    split = np.split(found, np.cumsum([np.prod(shape, dtype=int) for shape in shapes[1]])[:-1])
    given = [part.reshape(shape) for part, shape in zip(split, shapes[1], strict=True)] if alike else [found]
    asked = given[0] if len(given) == 1 else given
    for words, made in (mistakes or {}).items():
        if alike and made(asked) if callable(made) else not solved and near(_numbers(made)):
            return f"not right: {words}"
    if solved:
        return "right"
    if len(shapes[0]) != len(shapes[1]) and not alike:
        return f"not right: {found.size} numbers instead of {wanted.size}"
    if not alike:
        mine, right = next(pair for pair in zip(*shapes, strict=True) if pair[0] != pair[1])
        return f"not right: shape {mine} instead of {right}"
    if found.size == 1 and np.isfinite(found[0]):
        return f"not right: {found[0]:.6g} is too {'large' if found[0] > wanted[0] else 'small'}"
    off = ~close(wanted)
    first = f"{found[off][0]:.4g} instead of {wanted[off][0]:.4g}"
    return f"not right: {off.sum()} of {off.size} numbers are wrong; the first is {first}"


def _parts(answer):
    """The arrays of an answer: lists and tuples are taken apart."""
    return [each for part in answer for each in _parts(part)] if isinstance(answer, (list, tuple)) else [answer]


def _numbers(answer) -> np.ndarray:
    return np.concatenate([np.ravel(np.asarray(part, dtype=float)) for part in _parts(answer)])
