"""Settings read from YAML or keyword arguments, and the one error that the kit shows its users."""
from __future__ import annotations

import difflib
import re
import typing
from typing import Annotated, Any

import pydantic
from pydantic_core import ErrorDetails

_SHOWN = 5  # problems in one message


class KitError(ValueError):
    """Something the user can mend. The message says what is wrong, where, and what to do."""


class Settings(pydantic.BaseModel):
    """Base of everything a YAML file may say: unknown keys are refused, values never change."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @pydantic.field_validator("*", mode="before")
    @classmethod
    def _yes_is_no_number(cls, value, info):
        """YAML's yes and no would count as 1 and 0. A field with a validator of its own says so itself."""
        field = cls.model_fields[info.field_name]
        kinds = f"{field.annotation} {field.metadata}"
        if isinstance(value, bool) and re.search("int|float", kinds) and not re.search("bool|Validator|Any", kinds):
            raise ValueError("must be a number, not yes or no")
        return value

    @classmethod
    def read(cls, values: Any, where: str):
        """Check `values` (a mapping) and return the settings.

        `where` names their origin in error messages (a file, a parameter).
        Raises KitError with one clear line for each problem.
        """
        try:
            return cls.model_validate(values)
        except pydantic.ValidationError as error:
            raise KitError(f"{where}: {_problems(error, cls)}") from None


def _problems(error: pydantic.ValidationError, settings: type[Settings]) -> str:
    problems = [_problem(entry, settings) for entry in error.errors()]
    more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
    return "; ".join(problems[:_SHOWN] + more)


def _problem(entry: ErrorDetails, settings: type[Settings]) -> str:
    place = ".".join(str(part) for part in entry["loc"]) or "the whole"
    if entry["type"] == "extra_forbidden":
        known = _fields_at(settings, entry["loc"][:-1])
        return f"unknown key '{place}'{suggestion(str(entry['loc'][-1]), known)}"
    if entry["type"] == "missing":
        return f"'{place}' is missing"
    message = entry["msg"].removeprefix("Value error, ")
    return f"'{place}': {message} (got {entry['input']!r:.80})" if entry["loc"] else message


def _fields_at(settings: type[Settings] | None, path: tuple) -> list[str]:
    """The fields of the settings at a place; keys of mappings and positions in lists lead no deeper."""
    for part in path:
        field = getattr(settings, "model_fields", {}).get(str(part))
        settings = _settings_in(field.annotation) if field else settings
    return sorted(getattr(settings, "model_fields", {}))


def _settings_in(annotation: Any) -> type[Settings] | None:
    """The settings class in a type such as X, X | None, tuple[X, ...] or dict[str, X]."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation
    return next(filter(None, map(_settings_in, typing.get_args(annotation))), None)


def first_few(names) -> str:
    """The first five of a sequence, with commas."""
    return ", ".join(map(str, names[:5])) + (", ..." if len(names) > 5 else "")


def suggestion(name: str, known) -> str:
    """'; did you mean ...' or '; known: ...' for the end of an error message."""
    known = sorted(map(str, known))
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(known)}" if known else ""


def choose(name: str, known: dict, what: str):
    """`known[name]`, or a KitError that names the nearest known `what`."""
    if name not in known:
        raise KitError(f"there is no {what} '{name}'{suggestion(str(name), known)}")
    return known[name]


def read_named(settings: Any, catalogue: dict, what: str, where: str):
    """One of a catalogue's settings: `catalogue` maps each name to its class, and `settings` is a mapping with
    `name`, or the name alone where the defaults will do.

    what: one word, such as "attack"; where: the origin of the settings, for error messages.
    Raises KitError for unknown names, keys and impossible values.
    """
    settings = {"name": settings} if isinstance(settings, str) else settings
    if not isinstance(settings, dict) or "name" not in settings:
        article = "an" if what[0] in "aeiou" else "a"
        raise KitError(f"{where}: {article} {what} is a name, or a mapping with 'name'; known: {', '.join(catalogue)}")
    try:
        kind = choose(settings["name"], catalogue, what)
    except (KitError, TypeError) as error:
        raise KitError(f"{where}: {error}") from None
    return kind.read(settings, where)


def parse_epsilon(value: Any) -> float:
    """An epsilon given as '8/255' or as a number, as a float.

    Raises ValueError (which pydantic turns into a clear message) for text that is no number,
    for negative values and for NaN or infinity.
    """
    if isinstance(value, bool):
        raise ValueError("epsilon must be a number or a fraction such as '8/255'")
    try:
        number = _fraction(value) if isinstance(value, str) else float(value)
    except (ValueError, TypeError, ZeroDivisionError):
        raise ValueError("epsilon must be a number or a fraction such as '8/255'") from None
    if not 0 <= number < float("inf"):
        raise ValueError("epsilon must be zero or more, and finite")
    return number


def _fraction(text: str) -> float:
    """'8/255', '127.5/255' or '0.03' as a float."""
    above, _, below = text.partition("/")
    return float(above) / float(below or "1")


Epsilon = Annotated[float, pydantic.BeforeValidator(parse_epsilon)]


def format_epsilon(eps: float) -> str:
    """An epsilon in pixels as people write it: 0.03137... -> '8/255', 0.5 -> '127.5/255'."""
    return f"{round(eps * 255, 3):g}/255"


def slug(name: str) -> str:
    """A name of the attack suite as a file name: 'PGD 8/255' -> 'pgd_8_255'."""
    return "_".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def first_line(error: BaseException) -> str:
    """What a Keras or TensorFlow error says, without its listing of arguments, its colours and places in a graph."""
    said = re.sub(r"\x1b\[[0-9;]*m|{{.*?}} *| *\[Op:.*?\]", "", str(error))
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return " ".join(lines[:2])[:300] or type(error).__name__
