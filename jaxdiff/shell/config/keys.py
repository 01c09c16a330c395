"""Checks of the tables, words and numbers of a configuration file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from jaxdiff.model.expression import FUNCTIONS, NUMBERS, VARIABLES


def check_keys(table: Mapping[str, Any], where: str, allowed: Sequence[str]) -> None:
    for key in table:
        if key not in allowed:
            near = get_close_matches(key, allowed, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"unknown key {shown(key)} in {where}; {hint}allowed are {', '.join(allowed)}")


def checked_names(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A table whose keys are names for arithmetic."""
    for name in table:
        if not name.isidentifier():
            raise ValueError(f"{where} {shown(name)} is no name for arithmetic; use letters, digits and _")
        if name in FUNCTIONS or name in VARIABLES or name in NUMBERS or name == "r":
            raise ValueError(f"{where} {name!r} is taken by a variable, a number or a function; choose another name")
    return dict(table)


def choose(value: Any, where: str, allowed: Sequence[str]) -> str:
    name = value.lower() if isinstance(value, str) else value
    if name not in allowed:
        near = get_close_matches(shown(name).strip("'"), allowed, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"{where} is {shown(value)}; {hint}choose one of {', '.join(allowed)}")
    return str(name)


def text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where} must be a text, got {shown(value)}")
    return value


def flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{where} must be true or false, without quotes, got {shown(value)}")
    return value


def mapping(value: Any, where: str, example: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} must be a table such as {example}, got {shown(value)}")
    return dict(value)


def listed(value: Any, where: str, check: Callable[..., Any], count: int | None = None, **options: Any) -> list[Any]:
    """A list whose entries `check` accepts."""
    if not isinstance(value, list) or (count is not None and len(value) != count):
        raise ValueError(f"{where} must be a list{f' of {count}' if count else ''}, got {shown(value)}")
    return [check(item, where, **options) for item in value]


def per_axis(value: Any, where: str, axes: Sequence[str], check: Callable[..., Any]) -> list[Any]:
    """An entry for every axis, that `check` accepts; on one axis it may stand without brackets."""
    entries = value if isinstance(value, list) else [value]
    if len(entries) != len(axes):
        wanted = f"one for each of {', '.join(axes)}" if len(axes) > 1 else "one"
        raise ValueError(f"{where} must be {wanted} on this grid, got {shown(value)}")
    return [check(entry, where) for entry in entries]


def edges(value: Any, where: str) -> list[list[float]]:
    """The edges along every axis; on one axis a plain list."""
    several = isinstance(value, list) and any(isinstance(axis, list) for axis in value)
    return [listed(axis, where, number) for axis in (value if several else [value])]


def number(value: Any, where: str, *, whole: bool = False, finite: bool = True) -> Any:
    """A number; `finite`: infinity means nothing here."""
    good = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not good or value != value:
        raise ValueError(f"{where} must be a {'whole number' if whole else 'number'}, got {shown(value)}")
    if not abs(value) < 1e300 and (finite or abs(value) < math.inf):
        raise ValueError(f"{where} must be finite, got {shown(value)}")
    return value if whole else float(value)


def count(value: Any, where: str, least: int = 1, most: int = 10_000_000) -> int:
    number(value, where, whole=True)
    if not least <= value <= most:
        raise ValueError(f"{where} must be from {least} to {most}, got {shown(value)}")
    return int(value)


def text_or_number(value: Any, where: str, *, finite: bool = True) -> Any:
    return value if isinstance(value, str) else number(value, where, finite=finite)


def shown(value: Any) -> str:
    """A value for a message, however long or deep it is."""
    try:
        words = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits; lists in lists
        words = "a value beyond all bounds"
    return words if len(words) <= 100 else f"{words[:90]} …"


def texts(value: Any) -> Iterator[str]:
    """The texts in a value, or in lists of them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for entry in value:
            yield from texts(entry)
