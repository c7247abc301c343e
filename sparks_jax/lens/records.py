"""Records as JSON and back: what is wrong with a file is said field by field, with the place.

A record is a `NamedTuple` of `schema`; its annotations are the schema. Numbers are written with as many digits as
single precision has, so that the same numbers are the same bytes; what is not finite has no JSON and is refused.
"""

import functools
import json
import math
import re
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar, cast

from sparks_jax.lens.schema import FORMAT, VERSION, Pattern, Within

T = TypeVar("T")
DIGITS = 7  # significant, of a float
SHOWN = 20  # problems in one message


class SchemaError(ValueError):
    """A file of a bundle is not what it should be.

    Attributes:
        problems: One sentence for each, with the place.
    """

    def __init__(self, problems: list[str]):
        """Make one of at least one problem."""
        self.problems = problems
        more = f"\nand {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        super().__init__("\n".join(problems[:SHOWN]) + more)


def as_json(record: Any) -> bytes:
    """A record as compact JSON in UTF-8.

    Args:
        record: A `NamedTuple` of `schema`.

    Raises:
        SchemaError: If it is none, or holds a number that is not finite.

    Example:
        >>> from sparks_jax.lens.schema import Interval
        >>> as_json(Interval(1 / 3, 0.0, 1.0))
        b'{"value":0.3333333,"low":0.0,"high":1.0}'
    """
    plain = _plain(record)
    if problems := _problems(plain, type(record), type(record).__name__):
        raise SchemaError(problems)
    return json.dumps(plain, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def from_json(content: bytes | str, kind: type[T], where: str) -> T:
    """A record from JSON. Fields that the schema does not know, of a later version, are left out.

    Args:
        content: The file.
        kind: The `NamedTuple` that it should be.
        where: Its name, for messages.

    Raises:
        SchemaError: If it is no JSON, or a field is missing, of the wrong type or out of its range.

    Example:
        >>> from sparks_jax.lens.schema import Interval
        >>> from_json('{"value": 1, "low": 0}', Interval, "a.json")
        Traceback (most recent call last):
        sparks_jax.lens.records.SchemaError: a.json: high is missing
    """
    try:
        plain = json.loads(content)
    except ValueError as error:
        raise SchemaError([f"{where}: is no JSON: {error}"]) from None
    _check_version(plain, kind, where)
    if problems := _problems(plain, kind, where, top=True):
        raise SchemaError(problems)
    return cast(T, _built(plain, kind))


def _check_version(plain: Any, kind: Any, where: str) -> None:
    """Of a later version every field may be another: that is said instead of what is missing."""
    if not isinstance(plain, dict) or "format" not in kind._fields:
        return
    if plain.get("format") != FORMAT:
        raise SchemaError([f"{where}: format is {plain.get('format')!r}, expected {FORMAT!r}: this is no such bundle"])
    version = plain.get("version")
    if isinstance(version, int) and version > VERSION:
        raise SchemaError(
            [f"{where}: version is {version}, this sparks_jax reads up to {VERSION}: pip install -U sparks-jax"]
        )


# --- checking ---------------------------------------------------------------------------------------------


def _problems(value: Any, kind: Any, where: str, *, top: bool = False) -> list[str]:
    """What is wrong with a value of JSON, as sentences."""
    origin, arguments = _parsed(kind)
    if origin is typing.Annotated:
        found = _problems(value, arguments[0], where)
        return found or [text for rule in arguments[1:] for text in _out_of(value, rule, where)]
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return []
        return min((_problems(value, one, where) for one in arguments if one is not type(None)), key=len)
    if origin is list:
        if not isinstance(value, list):
            return [f"{where} is {_said(value)}, expected a list"]
        fine = _leaf(arguments[0])
        bad = [i for i, one in enumerate(value) if not fine(one)]
        return [text for i in bad for text in _problems(value[i], arguments[0], f"{where}[{i}]")]
    if origin is dict:
        if not isinstance(value, dict):
            return [f"{where} is {_said(value)}, expected an object"]
        bad = {name: one for name, one in value.items() if not _leaf(arguments[1])(one)}
        return [text for name, one in bad.items() for text in _problems(one, arguments[1], f"{where}.{name}")]
    if hasattr(kind, "_fields"):
        return _of_record(value, kind, f"{where}: " if top else f"{where}.", where)
    return _of_scalar(value, kind, where)


def _of_record(value: Any, kind: Any, prefix: str, where: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{where} is {_said(value)}, expected an object ({kind.__name__})"]
    found = []
    for name, annotation in _hints(kind).items():
        if name in value:
            if not _leaf(annotation)(value[name]):
                found += _problems(value[name], annotation, prefix + name)
        elif name not in kind._field_defaults:
            found.append(f"{prefix}{name} is missing")
    return found


@functools.cache
def _leaf(kind: Any) -> Callable[[Any], bool]:
    """A quick test that passes only what is fine: most values are scalars, and words are needed for few."""
    origin, arguments = _parsed(kind)
    if origin is typing.Annotated:
        inner, rule = _leaf(arguments[0]), arguments[1]
        if isinstance(rule, Within):
            return lambda value: inner(value) and rule.low <= value <= rule.high
        if isinstance(rule, Pattern):
            return lambda value: inner(value) and re.fullmatch(rule.expression, value) is not None
    if kind is float:
        return lambda value: type(value) in (int, float) and math.isfinite(value)
    if kind in (int, str, bool):
        return lambda value: type(value) is kind
    return lambda value: False


def _of_scalar(value: Any, kind: Any, where: str) -> list[str]:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is float:
        fine, words = number and math.isfinite(value), "a finite number"
    elif kind is int:
        fine, words = number and isinstance(value, int), "a whole number"
    else:
        fine, words = isinstance(value, kind), {str: "a text", bool: "true or false"}[kind]
    return [] if fine else [f"{where} is {_said(value)}, expected {words}"]


def _out_of(value: Any, rule: Any, where: str) -> list[str]:
    if isinstance(rule, Within) and not rule.low <= value <= rule.high:
        return [f"{where} is {value}, expected {rule.low:g} to {rule.high:g}"]
    if isinstance(rule, Pattern) and not re.fullmatch(rule.expression, value):
        return [f"{where} is {_said(value)}, expected {rule.means}"]
    if isinstance(rule, str) and len(value) != len(rule.split(", ")):
        return [f"{where} has {len(value)} numbers, expected {rule}"]
    return []


def _said(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


# --- converting -------------------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    if hasattr(value, "_fields"):
        value = value._asdict()
    if isinstance(value, dict):
        return {name: one if type(one) in (int, str, bool) else _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [one if type(one) in (int, str, bool) else _plain(one) for one in value]
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.{DIGITS}g}") + 0.0  # -0 is 0
    return value


def _built(value: Any, kind: Any) -> Any:
    origin, arguments = _parsed(kind)
    if origin is typing.Annotated:
        return _built(value, arguments[0])
    if origin in (types.UnionType, typing.Union):
        fitting = (one for one in arguments if one is not type(None) and not _problems(value, one, ""))
        return None if value is None else _built(value, next(fitting))
    if origin is list:
        return [one if type(one) in (str, float) else _built(one, arguments[0]) for one in value]
    if hasattr(kind, "_fields"):
        plain = (str, float, bool)
        given = ((name, value[name], hint) for name, hint in _hints(kind).items() if name in value)
        return kind(**{name: one if type(one) in plain else _built(one, hint) for name, one, hint in given})
    return float(value) if kind is float else value


@functools.cache
def _parsed(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    return typing.get_origin(kind), typing.get_args(kind)


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)
