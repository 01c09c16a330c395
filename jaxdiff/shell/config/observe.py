"""What a configuration file says of the instrument: [observe], and the probe of [data]."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx

from jaxdiff.measurements import expectations, probes
from jaxdiff.model.expression import Expression, names
from jaxdiff.shell.config.keys import check_keys, choose, mapping, number, text, text_or_number

PER = ("sensor", "experiment")
PROBES: dict[str, tuple[type, tuple[str, ...]]] = {
    "total": (probes.Total, ()),
    "mean": (probes.Mean, ("lower", "upper")),
    "interval": (probes.Interval, ("lower", "upper")),
    "moment": (probes.Moment, ("power",)),
    "weighted": (probes.Weighted, ("weights",)),
    "flux": (probes.FluxThrough, ("place", "axis")),
    "cumulative_flux": (probes.CumulativeFlux, ("place", "axis")),
    "boundary_value": (probes.BoundaryValue, ("side",)),
    "energy": (expectations.Energy, ()),
    "momentum": (expectations.Momentum, ("axis",)),
}


class Seen(eqx.Module):
    """A text of u, t, the position and named numbers as what is observed; `own` numbers are one for each sensor."""

    text: str = eqx.field(static=True)
    axes: tuple[str, ...] = eqx.field(static=True)
    own: tuple[str, ...] = eqx.field(static=True)
    numbers: dict[str, Any]

    @property
    def __signature__(self) -> inspect.Signature:
        used = [name for name in ("u", "t", *self.axes) if name in names(self.text)]
        used += ["sensor"] if self.own else []
        return inspect.Signature([inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in used])

    def __call__(self, sensor: Any = None, **at: Any) -> Any:
        numbers = {name: value[sensor] if name in self.own else value for name, value in self.numbers.items()}
        return Expression(self.text, variables=tuple(at), **numbers)(*at.values())


def read_observe(
    table: Any, parameters: Mapping[str, Any], others: set[str]
) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """The table [observe], checked: its text and which parameters are one number for each sensor; and which for each experiment.

    others: names that stand in other texts, which are the same for all sensors
    """
    if table is None:
        return None, ()
    table = mapping(table, "[observe]", '{ value = "gain*u + offset" }')
    check_keys(table, "[observe]", ("value", "per"))
    if "value" not in table:
        raise ValueError('[observe] has no value; write value = "gain*u + offset", where u is the model there')
    value = text(table["value"], "[observe] value")
    try:
        used = names(value)
    except ValueError as error:
        raise ValueError(f"[observe] value: {error}") from None
    if "u" not in used:
        raise ValueError(f"[observe] value {value!r} does not hold u, what the model is there")
    per = choose(table["per"], "[observe] per", PER) if "per" in table else None
    own = tuple(name for name in used if name in parameters and name not in others) if per else ()
    if per and not own:
        raise ValueError(
            f"[observe] per = {per!r}: every parameter of {value!r} stands elsewhere too; name one for it alone"
        )
    return {"value": value, "own": own if per == "sensor" else ()}, own if per == "experiment" else ()


def seen(table: Mapping[str, Any], axes: tuple[str, ...], known: Mapping[str, Any], columns: Sequence[str]) -> Seen:
    """What is observed, at given numbers; columns: of the data, for the message."""
    used = names(table["value"])
    unknown = [name for name in used if name not in known and name not in ("u", "t", *axes)]
    if unknown:
        if unknown[0] in columns:
            raise ValueError(
                f"[observe] value: {unknown[0]!r} is a column of the data, a course in time; where it is one number in an experiment, name it in [data] conditions"
            )
        choices = ", ".join([*known, "u", "t", *axes])
        raise ValueError(f"[observe] value: {unknown[0]!r} has no value; known are {choices}; name it in [parameters]")
    numbers = {name: known[name] for name in used if name in known}
    return Seen(table["value"], tuple(axes), table["own"], numbers)


def read_probe(value: Any, where: str) -> probes.Probe:
    """A probe by its name, or a table of its kind and numbers."""
    table = {"kind": value} if isinstance(value, str) else mapping(value, where, '{ kind = "flux", place = "x+" }')
    kind, keys = PROBES[choose(table.get("kind"), f"{where} kind", tuple(PROBES))]
    check_keys(table, where, ("kind", *keys))
    if missing := [key for key in keys if key not in table and key != "axis"]:
        raise ValueError(f"{where} of kind {table['kind']} has no {missing[0]}")
    given = {key: _checked(table[key], f"{where} {key}") for key in keys if key in table}
    try:
        return kind(**({"k": given["power"]} if "power" in given else given))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None


def _checked(value: Any, where: str) -> Any:
    if isinstance(value, list):
        return tuple(number(one, where) for one in value)
    return value if isinstance(value, int) and not isinstance(value, bool) else text_or_number(value, where)
