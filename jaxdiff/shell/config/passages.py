"""The [data] of passage times: columns of times and of walls, where all start, and what else takes time."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from jaxdiff.measurements import passage_tables
from jaxdiff.measurements.passage_times import PassageTimes
from jaxdiff.model.expression import Expression, names
from jaxdiff.model.grid import Grid
from jaxdiff.shell.config.keys import mapping, number, shown, text

if TYPE_CHECKING:
    from jaxdiff.shell.config.data import Data

KEYS = ("side", "sides", "censored", "origin", "nondecision", "lapse", "window", "spread")
NUMBERS = ("origin", "nondecision", "lapse", "spread", "noise")  # that may be texts, noise of tracks


def window(value: Any, where: str) -> Any:
    """The longest time of a lapse, or from when to when."""
    if isinstance(value, list) and len(value) == 2:
        return [number(one, where) for one in value]
    return number(value, where)


def walls(value: Any, where: str) -> dict[str, str]:
    table = mapping(value, where, '{ 1 = "x+", 0 = "x-" }')
    return {key: text(one, f"{where} {key}") for key, one in table.items()}


def named(settings: Mapping[str, Any]) -> set[str]:
    """The names in what is a number or a text."""
    given = [settings[key] for key in NUMBERS if isinstance(settings.get(key), str)]
    return {name for one in given for name in names(one)}


def resolved(
    data: Data, parameters: Collection[str], own: Collection[str], known: Mapping[str, float], experiment: int
) -> Data:
    """With numbers in place of constants, and functions in place of texts of the position; parameters stay names, of those that
    each experiment has for itself the one of this experiment."""
    found: dict[str, Any] = {}
    for key in NUMBERS:
        given, where = data.settings.get(key), f"[data] {key}"
        if not isinstance(given, str):
            continue
        if given in parameters:
            if given in own:
                found[key] = f"{given}[{experiment}]"
            continue
        constants = {name: known[name] for name in names(given) if name in known}
        place = ("x",) if key == "origin" and "x" in names(given) else ()
        if lacking := [name for name in names(given) if name not in (*constants, *place)]:
            mixed = (
                "a parameter stands there by itself"
                if lacking[0] in parameters
                else "name it in [parameters] or [constants]"
            )
            raise ValueError(f"{where}: {lacking[0]!r} in {shown(given)} has no value; {mixed}")
        found[key] = Expression(given, variables=place, **constants)
        found[key] = found[key] if place else float(found[key]())
    return replace(data, settings={**data.settings, **found})


def measurement(data: Data, grid: Grid, conditions: Any) -> PassageTimes:
    s = data.settings
    times = data.column(data.required("time", "name the column of times"))
    sides, side = s.get("sides"), s.get("side")
    if sides is not None and side in data.frame and data.frame[side].dtype.kind in "biuf":
        sides = {float(key): wall for key, wall in sides.items()}
    late = None if "censored" not in s else passage_tables.flags(data.frame, s["censored"])
    found = passage_tables.walls(data.frame, side, sides)
    rest = {key: s[key] for key in ("nondecision", "lapse", "window", "spread") if key in s}
    origin = data.required("origin", "give the place from which all start")
    return PassageTimes(grid, origin, times, found, late, **rest, conditions=conditions)
