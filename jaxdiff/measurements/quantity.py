"""A number that an equation has by itself, measured: a rate, a gap, a current."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp

from jaxdiff.measurements.probes import Probe


class Quantity(Probe):
    """A number that follows from the equation alone, whatever its state: a mean time, a rate, a gap of the spectrum, a current.

        y = q(equation, grid)

    Args:
        function: q of the equation and its grid, traceable, such as `lambda equation, grid: jd.spectrum(equation, grid, 1)[0][0]`.
            The times of its readings do not matter.

    Raises:
        ValueError: a function that returns something else than one number.

    A particle leaves the middle of a slab after L²/8D on average, which was measured to be 0.25:

    >>> import jaxdiff as jd
    >>> grid = jd.Grid.uniform((0.0, 1.0, 100))
    >>> middle = jd.Quantity(lambda slab, grid: grid.interpolate(jd.mean_first_passage_time(slab, grid), 0.5))
    >>> measured = jd.Readings(grid, 1.0, [1.0], middle, [0.25], sigma=0.01)
    >>> slab = jd.FokkerPlanck(0.0, jd.Positive(1.0), boundaries=jd.absorbing)
    >>> fit = jd.fit(slab, measured, progress=False)
    >>> round(fit.parameters["diffusivity"], 3), round(fit.standard_errors["diffusivity"], 3)
    (0.5, 0.02)
    """

    of_rates = True
    function: Callable[..., Any] = eqx.field(static=True)

    def value(self, system: Any, t: Any, u: Any) -> Any:
        found = jnp.asarray(self.function(system.equation, system.grid))
        if found.shape != ():
            raise ValueError(f"a quantity is one number, got shape {found.shape}; pick one of them")
        return found.real

    @property
    def label(self) -> str:
        return "a quantity"
