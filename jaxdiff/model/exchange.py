"""Exchange with phases that stay where they are."""

from __future__ import annotations

import operator
from typing import Any

import equinox as eqx
import jax
import numpy as np

from jaxdiff.parameters import numeric, plain

STARTS = ("empty", "equilibrium")


class Exchange(eqx.Module):
    """A phase that does not move, in exchange with the one that does: immobile water, traps, binding sites.

        c ∂u/∂t = … − k_in u + k_out w,   ∂w/∂t = k_in u − k_out w

    Args:
        rate_in: k_in [1/time], times the unit of `capacity`, times that of w over that of u: a number, an array over cells, a
            callable of position, `TimeDependent` or a `Series`; it may be marked for fitting.
        rate_out: k_out [1/time], the same.
        start: what w is where an initial state is that of u alone: "empty", or in "equilibrium" with it, k_in u/k_out.

    w is content per volume: u and w have one unit where the capacity c is one. With water contents θ and θ' of mobile and immobile
    water and a first-order transfer α, c = θ, w = θ' u', k_in = α and k_out = α/θ'.

    An initial state that was measured as the total, in equilibrium, is (1 + Σ k_in/k_out) u: let the model return (equation,
    total/(1 + k_in/k_out)). Noise of a measured start of all phases, `(1 + phases, *cells)`, does not enter error bars.

    A solution has the shape `(times, 1 + phases, *cells)`, the mobile phase first. Readings and other measurements take
    `phase="total"`, c u + Σ w, or 0 for u, 1, 2, … for w. Fluxes and walls are those of u.

    Raises:
        ValueError: another start; when solving, a rate that is negative or not finite.

    Half of what is there comes to rest in the traps:

    >>> import jaxdiff as jd
    >>> traps = jd.Diffusion(1.0, exchange=[jd.Exchange(3.0, 3.0)])
    >>> u = jd.solve(traps, jd.Grid.uniform((0.0, 1.0, 4)), 1.0, [0.0, 10.0]).values
    >>> u.shape, [round(float(each), 6) for each in u[-1, :, 0]]
    ((2, 2, 4), [0.5, 0.5])

    van Genuchten & Wierenga 1976, doi:10.2136/sssaj1976.03615995004000040011x; binding: Sprague et al. 2004,
    doi:10.1529/biophysj.103.026765.
    """

    rate_in: Any = eqx.field(converter=numeric)
    rate_out: Any = eqx.field(converter=numeric)
    start: str = eqx.field(static=True, default="empty")

    def __check_init__(self) -> None:
        if self.start not in STARTS:
            raise ValueError(f"start of a phase is {' or '.join(map(repr, STARTS))}, got {self.start!r}")
        for rate in (self.rate_in, self.rate_out):
            if any(map(np.iscomplexobj, jax.tree.leaves(plain(rate)))):
                raise TypeError(f"a rate of exchange is a real number, got {plain(rate)}")


def as_phases(exchange: Any) -> tuple[Exchange, ...]:
    """What `exchange=` takes: one `Exchange`, or a sequence of them."""
    found = (exchange,) if isinstance(exchange, Exchange) else exchange
    if not isinstance(found, (list, tuple)) or not all(isinstance(one, Exchange) for one in found):
        raise TypeError(f"exchange takes a list of jd.Exchange(rate_in, rate_out), got {exchange!r}")
    return tuple(found)


def checked_phase(phase: Any) -> Any:
    """What a measurement sees: "total", or the number of a phase."""
    try:
        found = phase if isinstance(phase, str) else operator.index(phase)
    except TypeError:
        found = -1
    if found != "total" and (isinstance(found, str) or found < 0):
        raise ValueError(f'phase is "total", 0 for what moves, or 1, 2, … for the others, got {phase!r}')
    return found


def phases_of(equation: Any) -> int:
    """How many phases a state has, with the one that moves."""
    try:
        return 1 + len(equation.transport().exchange)
    except TypeError:  # it brings a system of its own
        return 1


def start_of(grid: Any, initial: Any) -> Any:
    """Cell averages of an initial state, `(*cells,)`, or as they are of all phases, `(1 + phases, *cells)`."""
    initial = initial if callable(initial) else grid.start(initial)
    return initial if getattr(initial, "ndim", 0) > grid.ndim else grid.average(initial)
