"""The models: which coefficients, in which equation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxdiff.model import boundaries as _boundaries
from jaxdiff.model.boundaries import Boundary, reflecting
from jaxdiff.model.coefficients import Tensor, absent, as_number, is_cells, varies
from jaxdiff.parameters import numeric

_ALPHA = {"ito": 0.0, "stratonovich": 0.5, "isothermal": 1.0}


def _sides(value: Any) -> Any:
    return dict(value) if isinstance(value, dict) else value


class Equation(eqx.Module):
    """A linear equation of motion; its fields are its parameters."""

    boundaries: eqx.AbstractVar[Any]
    if TYPE_CHECKING:
        source: Any  # last in the order of fields

    def __repr__(self) -> str:
        return eqx.tree_pformat(self, short_arrays=False)

    def sides(self, grid: Any) -> tuple[Boundary, ...]:
        """The boundaries of the lower and upper side of every axis."""
        axis = (
            grid.geometry != "cartesian" and not isinstance(grid.edges[0], jax.core.Tracer) and grid.edges[0][0] == 0.0
        )
        return _boundaries.sides(self.boundaries, grid.sides, bool(axis))

    @property
    def alpha(self) -> float:
        """Where in a jump the diffusivity counts: 0 before (Itô), ½ midway, 1 after."""
        return 1.0

    @property
    def driftless(self) -> bool:
        """Whether nothing drifts, so that the rates between cells are in detailed balance."""
        return False

    @property
    def probability(self) -> bool:
        """Whether the state is a density of probability, of mass one at rest."""
        return False

    def sde(self, grid: Any) -> tuple[Callable, Callable, Callable]:
        """Itô drift, diffusivity and killing as functions of one position: dX = f dt + √(2D) dW."""
        drift, diffusivity, killing = self._transport()
        for name, c in (("drift", drift), ("diffusivity", diffusivity), ("killing", killing)):
            if varies(c):
                raise ValueError(f"paths need a {name} that does not depend on time")
            if isinstance(c, Tensor):
                raise ValueError("paths need a diffusivity that is a number or a function of position, got a Tensor")
        if not (absent(self.source) or isinstance(self.source, jax.core.Tracer)):  # traced, it was seen before
            raise ValueError("paths are of particles that are there from the start, got a source; leave it out")
        f, d, k = (_function(c, grid) for c in (drift, diffusivity, killing))
        if self.alpha == 0.0:
            return f, d, k
        return lambda x: f(x) + self.alpha * jax.grad(d)(x), d, k

    def _transport(self) -> tuple[Any, Any, Any]:
        raise NotImplementedError


class Diffusion(Equation):
    """c ∂u/∂t = ∇·(D∇u) − k u + s.

    Args:
        diffusivity: D [length²/time], or a conductivity with `capacity`.
        decay: k [1/time·capacity], negative for growth.
        source: s [u·capacity/time].
        capacity: c, heat capacity per volume where D is a conductivity.
        boundaries: one `Boundary` for all sides, or a dictionary {"x-": …, "x+": …}; a side not named is reflecting.

    A coefficient is a number, an array over cells, a callable of one position, `TimeDependent`, or a `Series`.

    >>> Diffusion(1.0).diffusivity
    array(1.)
    """

    diffusivity: Any = eqx.field(converter=numeric)
    decay: Any = eqx.field(converter=numeric, default=0.0, kw_only=True)
    source: Any = eqx.field(converter=numeric, default=0.0, kw_only=True)
    capacity: Any = eqx.field(converter=numeric, default=1.0, kw_only=True)
    boundaries: Any = eqx.field(converter=_sides, default=reflecting, kw_only=True)

    def __check_init__(self) -> None:
        if varies(self.capacity):
            raise ValueError("capacity must not depend on time; put the dependence into diffusivity, decay and source")

    @property
    def driftless(self) -> bool:
        return True

    def _transport(self) -> tuple[Any, Any, Any]:
        return numeric(0.0), self.diffusivity, self.decay


class FokkerPlanck(Equation):
    """∂p/∂t = −∇·(f p) + ∇²(D p) − k p + s, the density of dX = f dt + √(2D) dW.

    Args:
        drift: f [length/time]: a number, an array over cells, a callable, or a `Potential`.
        diffusivity: D [length²/time]; D = 0 is allowed at a wall.
        killing: k [1/time].
        source: s [p/time], of particles that arrive: p is then their number per volume and not of mass one.
        interpretation: of the noise where D depends on position: "ito" (above), "stratonovich",
            J = f p − √D ∂ₓ(√D p), or "isothermal" (Hänggi–Klimontovich), J = f p − D ∂ₓp.
        boundaries: as in `Diffusion`; J is the flux of probability.

    >>> FokkerPlanck(lambda x: -x, 1.0).interpretation
    'ito'
    """

    drift: Any = eqx.field(converter=numeric)
    diffusivity: Any = eqx.field(converter=numeric)
    killing: Any = eqx.field(converter=numeric, default=0.0, kw_only=True)
    source: Any = eqx.field(converter=numeric, default=0.0, kw_only=True)
    interpretation: str = eqx.field(static=True, default="ito", kw_only=True)
    boundaries: Any = eqx.field(converter=_sides, default=reflecting, kw_only=True)

    def __check_init__(self) -> None:
        if self.interpretation not in _ALPHA:
            raise ValueError(f"interpretation must be one of {', '.join(_ALPHA)}, got {self.interpretation!r}")

    @property
    def probability(self) -> bool:
        return True

    @property
    def alpha(self) -> float:
        return _ALPHA[self.interpretation]

    def _transport(self) -> tuple[Any, Any, Any]:
        return self.drift, self.diffusivity, self.killing


def _function(coefficient: Any, grid: Any) -> Callable[[Any], Any]:
    if callable(coefficient):
        return lambda x: as_number(coefficient, jnp.asarray(x, jnp.result_type(float)))
    if is_cells(coefficient):
        return lambda x: grid.interpolate(coefficient, x)
    return lambda x: jnp.asarray(coefficient, jnp.result_type(float))
