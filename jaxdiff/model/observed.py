"""A model as an instrument sees it: an equation, where it starts, and what a reading says of the state."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.model.arguments import TRACED, index_beyond, one_number
from jaxdiff.model.equations import Equation
from jaxdiff.parameters import Fixed, numeric, plain

NAMES = ("u", "t", "x", "y", "z", "r", "sensor", "experiment")


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)  # a fit makes it at every look at its model; an eqx.Module costs 50 µs
class Observed:
    """What a model function may return in place of an equation: how its state is seen in `Readings`.

        yᵢ = observe(u(tᵢ, xᵢ), tᵢ, xᵢ, …) + noise

    Args:
        equation: what moves.
        initial: the state at the start, None for that of the measurements.
        observe: a function of one reading, scalars in, one number out, whose arguments are bound by name: u, the state there or
            what a probe reads; t; x, y, z or r; `sensor`, 0, 1, … in order of position, and `experiment`, the number of the
            measurement, by which arrays of parameters are indexed. Its numbers are those of the model function. None: u itself.

    Raises:
        TypeError: no equation, or a function with other arguments.

    Each of two sensors with an offset of its own:

    >>> import jax.numpy as jnp, jaxdiff as jd, numpy as np
    >>> grid, times = jd.Grid.uniform((0.0, 1.0, 40)), np.repeat(np.linspace(0.02, 0.3, 10), 2)
    >>> places, offsets = np.tile([0.2, 0.6], 10), np.tile([0.1, -0.05], 10)
    >>> values = np.cos(np.pi * places) * np.exp(-0.5 * np.pi**2 * times) + offsets
    >>> model = lambda D, offset: jd.Observed(jd.Diffusion(D), observe=lambda u, sensor: u + offset[sensor])
    >>> readings = jd.Readings(grid, lambda x: jnp.cos(np.pi * x), times, places, values, sigma=0.01)
    >>> starts = {"D": jd.Positive(1.0), "offset": jd.Free(np.zeros(2))}
    >>> fit = jd.fit(model, readings, parameters=starts, progress=False)
    >>> round(fit.parameters["D"], 2), fit.parameters["offset"].round(2)
    (0.5, array([ 0.1 , -0.05]))
    """

    equation: Any
    initial: Any = None
    observe: Any = None

    def __post_init__(self) -> None:
        if not isinstance(self.equation, Equation):
            raise TypeError(f"jd.Observed takes an equation, got {type(self.equation).__name__}")
        if self.observe is not None:
            object.__setattr__(self, "observe", numeric(self.observe))
            _bound(self.observe, NAMES)

    @classmethod
    def of(cls, made: Any) -> Observed:
        """What a model function returned: this, an equation, or (equation, initial)."""
        equation, initial = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
        if isinstance(equation, Observed):
            return cls(plain(equation.equation, Fixed), equation.initial, plain(equation.observe, Fixed))
        if not isinstance(equation, Equation):
            kinds = "an equation, (equation, initial) or jd.Observed"
            raise TypeError(f"the model must return {kinds}, got {type(equation).__name__}")
        return cls(plain(equation, Fixed), initial)

    def needs(self, name: str) -> bool:
        """Whether what is observed depends on "sensor", "experiment", ….."""
        return self.observe is not None and name in _bound(self.observe, NAMES).values()

    def seen(self, values: Any, rows: Mapping[str, Any]) -> Any:
        """observe at every reading `(m,)`, of the values u there and what else `rows` hold of it, {name: (m,)}."""
        if self.observe is None:
            return values
        known = {"u": values, **rows}
        bound = _bound(self.observe, known)
        at = {argument: jnp.asarray(known[name]) for argument, name in bound.items()}
        try:
            found = jax.vmap(lambda at: one_number(self.observe(**at), values.dtype, "observe"))(at)
        except TRACED:
            raise TypeError(
                "observe asks for the value of an argument, which JAX gives for many readings at once; use jnp.array(…)[sensor] in place of np.array(…) or a list, jnp.where in place of if"
            ) from None
        if "sensor" not in bound.values():
            return found
        return jnp.where(known["sensor"] < 0, jnp.nan, found)  # between sensors

    def check_indices(self, rows: Mapping[str, Any]) -> None:
        """Refuse an index of a sensor or an experiment beyond the end of an array, where JAX would take the last entry."""
        if not (self.needs("sensor") or self.needs("experiment")):
            return
        kept = np.asarray(rows["sensor"]) >= 0
        at = {name: jnp.asarray(np.broadcast_to(column, kept.shape)[kept]) for name, column in rows.items()}
        if (which := index_beyond(lambda at: self.seen(jnp.zeros(at["t"].shape), at), at)) is not None:
            raise ValueError(f"observe reads {which}, beyond its end; give a number for each sensor and experiment")


def _bound(function: Any, known: Any) -> dict[str, str]:
    """{argument: what it stands for}; the one argument without a known name is u."""
    kinds = inspect.Parameter
    parameters = inspect.signature(function).parameters.values()
    required = [p.name for p in parameters if p.default is kinds.empty and p.kind is not kinds.VAR_KEYWORD]
    named = {p.name: p.name for p in parameters if p.name in known and p.kind is not kinds.VAR_KEYWORD}
    other = [name for name in required if name not in known]
    if len(other) == 1 and "u" not in named and other[0] not in NAMES:
        named, other = {**named, other[0]: "u"}, []
    if other or any(p.kind in (kinds.POSITIONAL_ONLY, kinds.VAR_POSITIONAL) for p in parameters):
        arguments = ", ".join(p.name for p in parameters)
        raise TypeError(f"observe takes arguments of these names: {', '.join(known)}; got observe({arguments})")
    return named
