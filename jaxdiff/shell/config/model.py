"""An equation whose coefficients are texts: the model of a configuration file, a function of named parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from jaxdiff.model import boundaries as walls
from jaxdiff.model.coefficients import PerAxis, Potential, Tensor, varies
from jaxdiff.model.equations import Diffusion, FokkerPlanck
from jaxdiff.model.exchange import STARTS, Exchange
from jaxdiff.model.expression import Expression, names
from jaxdiff.model.moving import Moving
from jaxdiff.model.observed import Observed
from jaxdiff.model.series import Series
from jaxdiff.model.time_dependent import TimeDependent
from jaxdiff.parameters import numeric
from jaxdiff.shell.config import master, schrodinger
from jaxdiff.shell.config.data import Data
from jaxdiff.shell.config.keys import check_keys, choose, listed, mapping, per_axis, text_or_number, texts
from jaxdiff.shell.config.observe import seen

EQUATIONS: dict[str, dict[str, Any]] = {
    "diffusion": {"diffusivity": None, "decay": 0.0, "source": 0.0, "capacity": 1.0},
    "fokker_planck": {
        "drift": 0.0,
        "potential": None,
        "diffusivity": None,
        "killing": 0.0,
        "source": 0.0,
        "interpretation": "ito",
        "lower": None,
        "upper": None,
    },
}
BOUNDARIES: dict[str, tuple[type | walls.Boundary, tuple[str, ...]]] = {
    "dirichlet": (walls.Dirichlet, ("value",)),
    "neumann": (walls.Neumann, ("gradient",)),
    "robin": (walls.Robin, ("rate", "ambient")),
    "flux": (walls.Flux, ("value",)),
    "periodic": (walls.Periodic, ()),
    "reflecting": (walls.reflecting, ()),
    "absorbing": (walls.absorbing, ()),
}
WORDS = ("kind", "interpretation")  # texts that are no arithmetic


def position_names(axes: Sequence[str]) -> tuple[str, ...]:
    """What a text may call the position: on one axis of space x or r, whatever the grid."""
    return ("x", "r") if tuple(axes) in (("x",), ("r",)) else tuple(axes)


def read_equation(table: Any, axes: Sequence[str]) -> dict[str, Any]:
    """The table [equation], checked; on several axes a drift has a component for each."""
    if not table:
        raise ValueError(
            "the file needs a table [equation] with kind = 'diffusion', 'fokker_planck', 'master' or 'schrodinger'"
        )
    kind = choose(table.get("kind"), "[equation] kind", (*EQUATIONS, "master", "schrodinger")).replace("-", "_")
    if kind == "master":
        return master.read_rates(table)
    if kind == "schrodinger":
        return schrodinger.read_energies(table)
    check_keys(table, "[equation]", ("kind", *EQUATIONS[kind], "exchange"))
    if "diffusivity" not in table:
        raise ValueError("[equation] has no diffusivity; give a number or an expression such as 'D' or '1 + x**2'")
    if "potential" in table and "drift" in table:
        raise ValueError("[equation] has a drift and a potential; leave one out")
    if "interpretation" in table:
        choose(table["interpretation"], "[equation] interpretation", ("ito", "stratonovich", "isothermal"))
    if (moving := [key for key in ("lower", "upper") if key in table]) and len(axes) > 1:
        raise ValueError(f"[equation] {moving[0]} is a wall that moves along one axis, got a grid of {len(axes)}")
    given = {**table, "kind": kind}
    if "potential" in table:
        given["drift"] = None
    elif kind == "fokker_planck":
        given["drift"] = table.get("drift", [0.0] * len(axes))
    for key, value in given.items():
        where = f"[equation] {key}"
        if key in WORDS or value is None:
            continue
        if key == "exchange":
            given[key] = listed(value, where, _phase)
        elif key == "drift":
            given[key] = per_axis(value, where, axes, text_or_number)
        elif key == "diffusivity" and isinstance(value, list):
            matrix = any(isinstance(row, list) for row in value)
            row = lambda entry, where: listed(entry, where, text_or_number, len(axes))
            given[key] = per_axis(value, where, axes, row if matrix else text_or_number)
        else:
            text_or_number(value, where)
    return given


def _phase(value: Any, where: str) -> list[Any]:
    """[rate_in, rate_out, {how it starts}] of one phase that does not move."""
    entry = mapping(value, where, "{ rate_in = 'a', rate_out = 'b' }")
    check_keys(entry, where, ("rate_in", "rate_out", "start"))
    if missing := [key for key in ("rate_in", "rate_out") if key not in entry]:
        raise ValueError(f"{where} has no {missing[0]}; give a number or an expression such as 'k'")
    rates = [text_or_number(entry[key], f"{where} {key}") for key in ("rate_in", "rate_out")]
    return [*rates, {"start": choose(entry.get("start", "empty"), f"{where} start", STARTS)}]


class Matrix(eqx.Module):
    """A matrix of coefficients as one function, of position or of (t, position)."""

    entries: tuple[tuple[Any, ...], ...]

    def __call__(self, *arguments: Any) -> Any:
        late = any(varies(entry) for row in self.entries for entry in row)
        place = arguments[1:] if late else arguments
        value = lambda c: c(*(arguments if varies(c) else place)) if callable(c) else c
        return _stack([_stack([value(entry) for entry in row]) for row in self.entries])


def _stack(values: list[Any]) -> Any:
    """An array of numbers, in NumPy where all of them are."""
    return (np if all(isinstance(value, np.ndarray) for value in values) else jnp).stack(values)


class TextModel:
    """The equation (and, if a parameter is in it, the initial state, and what is observed) at given values of the named parameters.

    A text is read as: a number if it holds parameters and constants only; a `Series` if it names a column of the data
    (its values are computed at the rows, linear or constant between them, as the columns are); `TimeDependent` if it
    holds t; else a function of the position, in a boundary on several axes of the place along the wall.

    Args:
        spec: {"equation": {...}, "boundaries": {side: {...}}, "initial": {"value": text}, of a wave {"expression": text,
            "phase": text}, or {}, "observe": {...} or None}, numbers and texts.
        constants: {name: number}; a condition of an experiment is one too, which a call may give anew.
        axes: names of the axes of the grid.
        data: what [data] holds, or None; its columns are what a text may name.
    """

    def __init__(self, spec: dict[str, Any], constants: dict[str, float], axes: tuple[str, ...], data: Data | None):
        self.spec, self.axes = spec, axes
        columns = data.columns if data else {}
        self.offered = [name for name in data.frame.columns if name.isidentifier()] if data else []
        self.constant_between = [name for name in columns if data and data.interpolation(name) == "previous"]
        self.constants = {name: numeric(value) for name, value in constants.items()}
        self.columns = {name: numeric(value) for name, value in columns.items()}
        numbers = tuple((name, value.tobytes()) for name, value in {**self.constants, **self.columns}.items())
        self._key = repr(spec), numbers, axes, tuple(self.constant_between)

    def __eq__(self, other: object) -> bool:
        """Models of the same content share compiled code."""
        return isinstance(other, TextModel) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def names(self) -> set[str]:
        """Every name that occurs in a text."""
        parts = [self.spec["equation"], *self.spec["boundaries"].values(), self.spec["initial"]]
        parts += [{"observe": self.spec["observe"]["value"]}] if self.spec["observe"] else []
        return {name for text in arithmetic(parts) for name in names(text)}

    def __call__(self, **parameters: Any) -> Any:
        spec = self.spec
        known = {**self.constants, **parameters}
        equation = self._equation(spec["equation"], spec["boundaries"], known)
        at_start = {name for text in spec["initial"].values() for name in names(text)}
        fitted_start = at_start & (set(parameters) - set(self.constants))
        initial = self.initial(known) if fitted_start else None
        if spec["observe"] is not None:
            return Observed(equation, initial, seen(spec["observe"], self.axes, known, self.offered))
        return (equation, initial) if fitted_start else equation

    def initial(self, known: dict[str, Any]) -> Any:
        """The initial state as a function of position, or None if the configuration gives none as text."""
        read = lambda key, text: self._read(
            text, f"[initial] {key}", {**self.constants, **known}, time=False, keep=True
        )
        found = {key: read(key, text) for key, text in self.spec["initial"].items()}
        return schrodinger.start(**found) if "expression" in found else found.get("value")

    def _equation(self, table: dict[str, Any], sides: dict[str, Any], known: dict[str, Any]) -> Any:
        kind = table["kind"]
        if kind == "master":
            return master.equation(table, lambda value, where: self._read(value, where, known))
        edges = {name: self._boundary(name, side, known) for name, side in sides.items()}
        ends = edges["all"] if "all" in edges else edges
        if kind == "schrodinger":
            return schrodinger.equation(table, sides, ends, lambda value, where: self._read(value, where, known))
        given = {**EQUATIONS[kind], **{key: value for key, value in table.items() if key != "kind"}}
        interpretation = given.pop("interpretation", None)
        walls_given = {side: given.pop(side, None) for side in ("lower", "upper")}
        moving = {side: place for side, place in walls_given.items() if place is not None}
        potential, where = given.pop("potential", None), "[equation] exchange"
        rates = given.pop("exchange", [])
        phases = [Exchange(*(self._read(rate, where, known) for rate in row[:2]), **row[2]) for row in rates]
        read = {k: self._coefficient(v, f"[equation] {k}", known) for k, v in given.items() if v is not None}
        if kind == "diffusion":
            return Diffusion(**read, boundaries=ends, exchange=phases)
        if potential is not None:
            read["drift"] = Potential(self._read(potential, "[equation] potential", known, time=False, keep=True))
        found = FokkerPlanck(**read, interpretation=interpretation, boundaries=ends, exchange=phases)
        places = {side: self._read(text, f"[equation] {side}", known, wall=()) for side, text in moving.items()}
        return Moving(found, **places) if places else found

    def _coefficient(self, value: Any, where: str, known: dict[str, Any]) -> Any:
        """A number or a text; a list of them, of which every axis has one; or a matrix."""
        if not isinstance(value, list):
            return self._read(value, where, known)
        if isinstance(value[0], list):
            return self._tensor(value, where, known)
        parts = [self._read(part, where, known) for part in value]
        if len(parts) == 1:
            return parts[0]
        if where == "[equation] diffusivity":
            return PerAxis(*parts)
        return tuple(parts) if any(map(callable, parts)) else _stack(parts)

    def _tensor(self, rows: list[list[Any]], where: str, known: dict[str, Any]) -> Any:
        matrix = Matrix(tuple(tuple(self._read(entry, where, known) for entry in row) for row in rows))
        entries = [entry for row in matrix.entries for entry in row]
        if any(isinstance(entry, Series) for entry in entries):
            raise ValueError(f"{where}: a matrix holds no columns of the data; write its course in t")
        if not any(map(callable, entries)):
            return Tensor(matrix())
        return Tensor(TimeDependent(matrix) if any(map(varies, entries)) else matrix)

    def _boundary(self, side: str, table: dict[str, Any], known: dict[str, Any]) -> Any:
        kind, keys = BOUNDARIES[table["kind"]]
        if not isinstance(kind, type):
            return kind
        along = () if side == "all" else tuple(name for name in self.axes if name != side[0])
        where = f"[boundaries] {side}"
        return kind(**{k: self._read(table[k], f"{where} {k}", known, wall=along) for k in keys if k in table})

    def _read(
        self,
        value: Any,
        where: str,
        known: dict[str, Any],
        *,
        time: bool = True,
        wall: tuple[str, ...] | None = None,
        keep: bool = False,
    ) -> Any:
        """A number or a text as a coefficient; at a wall a function of the coordinates along it. `keep` returns a
        function of position even where none is in the text."""
        if not isinstance(value, str):
            return numeric(float(value)) if not keep else Expression(repr(float(value)))
        in_time, place, series = self._variables(value, where, known, time, wall)
        constants = {name: known[name] for name in names(value) if name in known}
        if series:
            return self._series(value, where, series, constants)
        first = place or position_names(self.axes)[:1]
        arguments = wall if wall is not None else tuple(first) if len(self.axes) == 1 else self.axes
        if in_time:
            return TimeDependent(Expression(value, variables=("t", *arguments), **constants))
        if place or keep:
            return Expression(value, variables=arguments, **constants)
        return Expression(value, variables=(), **constants)()

    def _variables(
        self, value: str, where: str, known: dict[str, Any], time: bool, wall: tuple[str, ...] | None
    ) -> tuple[bool, list[str], list[str]]:
        """Whether a text depends on t, on which coordinates, and on which columns; ValueError where it may not."""
        try:
            used = names(value)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        positions = position_names(self.axes)
        free = [name for name in used if name not in known]
        in_time, place = "t" in free, [v for v in positions if v in free]
        series = [name for name in free if name in self.columns and name not in ("t", *positions)]
        unknown = [name for name in free if name not in ("t", *positions, *series)]
        if unknown:
            places = wall if wall is not None else positions if len(self.axes) > 1 else positions[:1]
            choices = ", ".join(dict.fromkeys([*known, *self.offered, *(("t",) if time else ()), *places]))
            raise ValueError(
                f"{where}: {unknown[0]!r} in {value!r} has no value; known are {choices}; "
                "name it in [parameters] or [constants]"
            )
        if wall is not None and (across := [v for v in place if v not in wall]):
            if len(self.axes) == 1:
                raise ValueError(f"{where}: a wall stands at one place; leave {place[0]!r} out of {value!r}")
            hint = f"only {' and '.join(wall)} varies along this wall" if wall else "name the sides one by one"
            raise ValueError(f"{where}: {across[0]!r} in {value!r} is not a place on the wall; {hint}")
        if not time and (series or in_time):
            raise ValueError(f"{where}: it holds at one time; leave {(series or ['t'])[0]!r} out of {value!r}")
        if len(self.axes) == 1 and len(place) > 1:
            raise ValueError(f"{where}: {value!r} names the position twice, as x and as r; use one of them")
        if series and place:
            raise ValueError(
                f"{where}: {value!r} mixes a column of the data with the position; a column is a course in time"
            )
        return in_time, place, series

    def _series(self, value: str, where: str, series: list[str], constants: dict[str, Any]) -> Series:
        """The values of a text at the rows of the data, and what they are between them."""
        constant = [name for name in series if name in self.constant_between]
        if 0 < len(constant) < len(series):
            linear = next(name for name in series if name not in constant)
            raise ValueError(
                f"{where}: {value!r} mixes {constant[0]!r}, held between rows, with {linear!r}, linear between them; give both one interpolation in [data]"
            )
        times, expression = self.columns["t"], Expression(value, variables=("t", *series), **constants)
        values = jnp.broadcast_to(expression(times, *(self.columns[name] for name in series)), times.shape)
        return Series(times, values, "previous" if constant else "linear")


def arithmetic(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every text of these tables that is read as arithmetic."""
    return [text for part in parts for key, value in part.items() if key not in WORDS for text in texts(value)]
