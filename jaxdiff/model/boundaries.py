"""What happens at a wall; J is the flux and n the outward normal."""

from __future__ import annotations

from typing import Any

import equinox as eqx

from jaxdiff.parameters import numeric


class Boundary(eqx.Module):
    """One side of the domain. Numbers may be marked for fitting, `TimeDependent` or a `Series`; on several
    axes also functions of the place on the side."""


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


def sides(boundaries: Any, names: tuple[str, ...], closed_inner: bool) -> tuple[Boundary, ...]:
    """The boundary of every side, lower and upper of one axis after the other; a side not named is reflecting.

    A dictionary names sides, "x-", or both of an axis, "x". `closed_inner` tells that the first side is the axis r = 0,
    which has no wall.
    """
    if isinstance(boundaries, Boundary):
        found = [boundaries] * len(names)
    else:
        if not isinstance(boundaries, dict):
            raise TypeError(f"boundaries must be a boundary or a dictionary of sides, got {boundaries!r}")
        axes = tuple(name[:-1] for name in names[::2])
        unknown = set(boundaries) - set(names) - set(axes)
        if unknown:
            raise ValueError(f"unknown side {sorted(unknown)[0]!r}; the sides of this grid are {', '.join(names)}")
        for axis in axes:
            twice = [side for side in (f"{axis}-", f"{axis}+") if axis in boundaries and side in boundaries]
            if twice:
                raise ValueError(f"side {twice[0]!r} is named twice, also by {axis!r}; leave one out")
        given: dict[str, Boundary] = boundaries
        found = [given.get(name, given.get(name[:-1], reflecting)) for name in names]
    for side in found:
        if not isinstance(side, Boundary):
            raise TypeError(f"a side must be Dirichlet, Neumann, Robin, Flux or Periodic, got {side!r}")
    if closed_inner:
        if isinstance(boundaries, dict) and names[0] in boundaries:
            raise ValueError(f"side {names[0]!r} is the axis r = 0, which has no wall; leave it out")
        found[0] = reflecting
    for name, lower, upper in zip(names[::2], found[::2], found[1::2], strict=True):
        if isinstance(lower, Periodic) != isinstance(upper, Periodic):
            raise ValueError(f"a periodic axis needs Periodic() on both sides; axis {name[:-1]} got it on one only")
    return tuple(found)
