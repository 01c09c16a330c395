"""What happens at a wall; J is the flux and n the outward normal."""

from __future__ import annotations

from typing import Any

import equinox as eqx

from jaxdiff.parameters import numeric


class Boundary(eqx.Module):
    """One side of the domain. Numbers may be marked for fitting, `TimeDependent` or a `Series`."""


class Dirichlet(Boundary):
    """u = value at the wall.

    >>> Dirichlet(100.0).value
    array(100.)
    """

    value: Any = eqx.field(converter=numeric, default=0.0)


class Neumann(Boundary):
    """∂u/∂n = gradient at the wall."""

    gradient: Any = eqx.field(converter=numeric, default=0.0)


class Robin(Boundary):
    """J·n = rate·(u − ambient); rate [length/time] for a density, k-units for a temperature."""

    rate: Any = eqx.field(converter=numeric)
    ambient: Any = eqx.field(converter=numeric, default=0.0)


class Flux(Boundary):
    """J·n = value: positive leaves the domain, so heating is negative."""

    value: Any = eqx.field(converter=numeric, default=0.0)


class Periodic(Boundary):
    """The two ends are one point."""


reflecting = Flux(0.0)
absorbing = Dirichlet(0.0)


def sides(boundaries: Any, names: tuple[str, str], closed_inner: bool) -> tuple[Boundary, Boundary]:
    """The boundary of the lower and the upper side; a side not named is reflecting.

    `closed_inner` tells that the lower side is the axis r = 0, which has no wall.
    """
    if isinstance(boundaries, Boundary):
        lower, upper = boundaries, boundaries
    else:
        if not isinstance(boundaries, dict):
            raise TypeError(f"boundaries must be a boundary or a dictionary of sides, got {boundaries!r}")
        unknown = set(boundaries) - set(names)
        if unknown:
            raise ValueError(f"unknown side {sorted(unknown)[0]!r}; the sides of this grid are {', '.join(names)}")
        lower, upper = (boundaries.get(name, reflecting) for name in names)
    for side in (lower, upper):
        if not isinstance(side, Boundary):
            raise TypeError(f"a side must be Dirichlet, Neumann, Robin, Flux or Periodic, got {side!r}")
    if closed_inner:
        if isinstance(boundaries, dict) and names[0] in boundaries:
            raise ValueError(f"side {names[0]!r} is the axis r = 0, which has no wall; leave it out")
        lower = reflecting
    if isinstance(lower, Periodic) != isinstance(upper, Periodic):
        raise ValueError("a periodic axis needs Periodic() on both sides; got it on one only")
    return lower, upper
