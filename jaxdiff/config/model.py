"""An equation whose coefficients are texts: the model of a configuration file, a function of named parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdiff import boundaries as walls
from jaxdiff.coefficients import Potential, Series, TimeDependent
from jaxdiff.equations import Diffusion, FokkerPlanck
from jaxdiff.expression import Expression, names
from jaxdiff.parameters import numeric

EQUATIONS: dict[str, dict[str, Any]] = {
    "diffusion": {"diffusivity": None, "decay": 0.0, "source": 0.0, "capacity": 1.0},
    "fokker_planck": {"drift": 0.0, "potential": None, "diffusivity": None, "killing": 0.0, "interpretation": "ito"},
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
POSITIONS = ("x", "r")
WORDS = ("kind", "interpretation")  # texts that are no arithmetic


class TextModel:
    """The equation (and, if a parameter is in it, the initial state) at given values of the named parameters.

    A text is read as: a number if it holds parameters and constants only; a `Series` if it names a column of the data
    (its values are computed at the rows, linear between them); `TimeDependent` if it holds t; else a function of x.

    Args:
        spec: {"equation": {...}, "boundaries": {side: {...}}, "initial": text or None}, numbers and texts.
        constants: {name: number}.
        columns: {name: values}, each of shape (rows,), with the increasing times of the rows under "t".
        offered: the columns that might have been named, for messages.
    """

    def __init__(
        self,
        spec: dict[str, Any],
        constants: dict[str, float],
        columns: dict[str, np.ndarray] | None = None,
        offered: Sequence[str] = (),
    ):
        self.offered = [name for name in offered if name.isidentifier()]
        self.spec = spec
        self.constants = {name: numeric(value) for name, value in constants.items()}
        self.columns = {name: numeric(value) for name, value in (columns or {}).items()}
        numbers = tuple((name, value.tobytes()) for name, value in {**self.constants, **self.columns}.items())
        self._key = repr(spec), numbers

    def __eq__(self, other: object) -> bool:
        """Models of the same content share compiled code."""
        return isinstance(other, TextModel) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def names(self) -> set[str]:
        """Every name that occurs in a text."""
        parts = [self.spec["equation"], *self.spec["boundaries"].values(), {"initial": self.spec["initial"]}]
        texts = [v for part in parts for k, v in part.items() if isinstance(v, str) and k not in WORDS]
        return {name for text in texts for name in names(text)}

    def __call__(self, **parameters: Any) -> Any:
        spec = self.spec
        known = {**self.constants, **parameters}
        equation = self._equation(spec["equation"], spec["boundaries"], known)
        if spec["initial"] is not None and set(names(spec["initial"])) & set(parameters):
            return equation, self.initial(known)
        return equation

    def initial(self, known: dict[str, Any]) -> Any:
        """The initial state as a function of position, or None if the configuration gives none as text."""
        text = self.spec["initial"]
        if text is None:
            return None
        return self._read(text, "[initial] value", {**self.constants, **known}, time=False, keep=True)

    def _equation(self, table: dict[str, Any], sides: dict[str, Any], known: dict[str, Any]) -> Any:
        kind = table["kind"]
        given = {**EQUATIONS[kind], **{key: value for key, value in table.items() if key != "kind"}}
        interpretation = given.pop("interpretation", None)
        potential = given.pop("potential", None)
        read = {k: self._read(v, f"[equation] {k}", known) for k, v in given.items() if v is not None}
        edges = {name: self._boundary(name, side, known) for name, side in sides.items()}
        ends = edges["all"] if "all" in edges else edges
        if kind == "diffusion":
            return Diffusion(**read, boundaries=ends)
        if potential is not None:
            read["drift"] = Potential(self._read(potential, "[equation] potential", known, time=False, keep=True))
        return FokkerPlanck(**read, interpretation=interpretation, boundaries=ends)

    def _boundary(self, side: str, table: dict[str, Any], known: dict[str, Any]) -> Any:
        kind, keys = BOUNDARIES[table["kind"]]
        if not isinstance(kind, type):
            return kind
        where = f"[boundaries] {side}"
        return kind(**{k: self._read(table[k], f"{where} {k}", known, space=False) for k in keys if k in table})

    def _read(
        self,
        value: Any,
        where: str,
        known: dict[str, Any],
        *,
        time: bool = True,
        space: bool = True,
        keep: bool = False,
    ) -> Any:
        """A number or a text as a coefficient; `keep` returns a function of position even where none is in the text."""
        if not isinstance(value, str):
            return numeric(float(value)) if not keep else Expression(repr(float(value)))
        try:
            used = names(value)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        variables = [v for v in ("t", *POSITIONS) if v in used and v not in known]
        series = [name for name in used if name in self.columns and name not in known and name not in variables]
        unknown = [name for name in used if name not in known and name not in variables and name not in series]
        place = [v for v in variables if v != "t"]
        if unknown:
            choices = ", ".join(
                dict.fromkeys([*known, *self.offered, *(("t",) if time else ()), *(("x",) if space else ())])
            )
            raise ValueError(
                f"{where}: {unknown[0]!r} in {value!r} has no value; known are {choices}; "
                "name it in [parameters] or [constants]"
            )
        if place and not space:
            raise ValueError(f"{where}: a wall stands at one place; leave {place[0]!r} out of {value!r}")
        if not time and (series or "t" in variables):
            raise ValueError(f"{where}: it holds at one time; leave {(series or ['t'])[0]!r} out of {value!r}")
        if len(place) > 1:
            raise ValueError(f"{where}: {value!r} names the position twice, as x and as r; use one of them")
        constants = {name: known[name] for name in used if name in known}
        if series:
            if place:
                raise ValueError(
                    f"{where}: {value!r} mixes a column of the data with the position; a column is a course in time"
                )
            expression = Expression(value, variables=("t", *series), **constants)
            course = expression(self.columns["t"], *(self.columns[name] for name in series))
            return Series(self.columns["t"], jnp.broadcast_to(course, self.columns["t"].shape))
        if "t" in variables:
            return TimeDependent(
                Expression(value, variables=("t", *(place or POSITIONS[:1])) if space else ("t",), **constants)
            )
        if place or keep:
            return Expression(value, variables=tuple(place or POSITIONS[:1]), **constants)
        return Expression(value, variables=(), **constants)()
