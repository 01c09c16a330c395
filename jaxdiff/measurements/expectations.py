"""What is expected of a wave: probes of its energy and momentum."""

from __future__ import annotations

from typing import Any

import equinox as eqx

from jaxdiff.measurements.probes import Probe
from jaxdiff.model.grid import Grid


class Energy(Probe):
    """The energy that is expected of a wave.

        y = ∫ ψ* H ψ dV / ∫|ψ|² dV  [energy], so that of what layers absorb it is the energy of what is left

    >>> import jax.numpy as jnp, jaxdiff as jd
    >>> grid, rest = jd.Grid.uniform((-6.0, 6.0, 64)), lambda x: jnp.pi**-0.25 * jnp.exp(-(x**2) / 2)
    >>> measured = jd.Readings(grid, rest, [0.0], jd.Energy(), [0.65], sigma=0.01)
    >>> model = lambda k: jd.Schrodinger(lambda x: k * x**2)
    >>> round(jd.fit(model, measured, parameters={"k": jd.Positive(1.0)}, progress=False).parameters["k"], 6)
    0.8
    """

    of_rates = of_shape = True

    def value(self, system: Any, t: Any, u: Any) -> Any:
        return system.energy(t, u) / system.norm(u) ** 2

    @property
    def label(self) -> str:
        return "the energy"


class Momentum(Probe):
    """The momentum that is expected of a wave along an axis.

        y = ∫ ψ* (−iħ ∂ψ) dV / ∫|ψ|² dV  [mass·length/time]

    Args:
        axis: its name, "x", "y" or "z".

    Raises:
        ValueError: no such axis.

    >>> import jaxdiff as jd
    >>> jd.Momentum("x").axis
    'x'
    """

    of_rates = of_shape = True
    axis: str = eqx.field(static=True, default="x")

    def value(self, system: Any, t: Any, u: Any) -> Any:
        return system.momentum(u, system.grid.names.index(self.axis)) / system.norm(u) ** 2

    def check(self, grid: Grid) -> None:
        if self.axis not in grid.names:
            raise ValueError(f"axis must be one of {', '.join(grid.names)}, got {self.axis!r}")

    @property
    def label(self) -> str:
        return "the momentum"
