"""The noising process: variance preserving, with a schedule in log signal-to-noise."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.model.boundaries import reflecting
from jaxdiff.model.equations import FokkerPlanck
from jaxdiff.model.expression import Expression
from jaxdiff.model.time_dependent import TimeDependent
from jaxdiff.quantities import numbers


class Process(eqx.Module):
    """The variance-preserving noising of data, an Ornstein–Uhlenbeck process on a clock of its own.

        dx = −½β x dt + √β dW,   xₜ = α x + σ ε,   α² = 1/(1 + e^{−λ}),   σ² = 1 − α²,   β = −d ln α²/dt

    Time runs from 0, the data, to 1, noise, and λ = ln(α²/σ²), the log signal-to-noise, falls linearly. The standard normal
    density is at rest. At t = 0 the data carry noise of variance σ² = 1/(1 + e^{λ(0)}) already, 3.4e-4 as it stands; structure that is
    finer wants a higher start. At t = 1 there remain α = 0.05 of them.

    Args:
        log_snr: (λ(0), λ(1)), decreasing.

    Raises:
        ValueError: ends that are not two finite, decreasing numbers.

    Half of the variance is noise where λ = 0, and the equation carries a mean as the transition does:

    >>> import jaxdiff as jd
    >>> process = jd.generation.Process(log_snr=(6.0, -6.0))
    >>> round(float(process.signal(0.5) ** 2), 6), round(float(process.noise(0.5) ** 2), 6)
    (0.5, 0.5)
    >>> grid = jd.Grid.uniform((-5.0, 5.0, 200))
    >>> p = jd.solve(process.equation(), grid, grid.delta(1.0), [0.0, 0.5]).values[-1]
    >>> bool(abs(grid.integrate(p * grid.centers[0]) - process.signal(0.5) / process.signal(0.0)) < 1e-3)
    True

    Song et al. 2021, arXiv:2011.13456; in log signal-to-noise: Kingma et al. 2021, arXiv:2107.00630.
    """

    ends: tuple[float, float] = eqx.field(static=True)

    def __init__(self, log_snr: Any = (8.0, -6.0)):
        found = numbers(log_snr, "log_snr")
        if found.shape != (2,) or not np.isfinite(found).all() or found[0] <= found[1]:
            raise ValueError(
                f"log_snr must be two finite, decreasing numbers, (at the data, at the noise), got {log_snr!r}"
            )
        self.ends = (float(found[0]), float(found[1]))

    @property
    def fall(self) -> float:
        """λ(0) − λ(1) = −dλ/dt."""
        return self.ends[0] - self.ends[1]

    def log_snr(self, t: Any) -> Any:
        """λ(t) = ln(α²/σ²)."""
        return self.ends[0] - self.fall * t

    def signal(self, t: Any) -> Any:
        """α(t), by which data are multiplied."""
        return jnp.sqrt(jax.nn.sigmoid(self.log_snr(t)))

    def noise(self, t: Any) -> Any:
        """σ(t), the standard deviation of the noise."""
        return jnp.sqrt(jax.nn.sigmoid(-self.log_snr(t)))

    def rate(self, t: Any) -> Any:
        """β(t) = −d ln α²/dt = (λ(0) − λ(1)) σ²."""
        return self.fall * jax.nn.sigmoid(-self.log_snr(t))

    def noised(self, x: Any, t: Any, noise: Any) -> Any:
        """xₜ = α x + σ ε, exactly as the process has it.

        x: data `(…, *shape)`; t: numbers that broadcast against x; noise: standard normal, of the shape of x.
        """
        x = _floating(x)
        t = jnp.asarray(t, x.dtype)
        return self.signal(t) * x + self.noise(t) * jnp.asarray(noise, x.dtype)

    def moved(self, x: Any, start: Any, end: Any, noise: Any) -> Any:
        """What becomes until `end` of x, which is at `start` <= `end`: x α(end)/α(start) + √(1 − α²(end)/α²(start)) ε.

        noise: standard normal, of the shape of x.
        """
        x = _floating(x)
        if (
            not isinstance(start, jax.core.Tracer)
            and not isinstance(end, jax.core.Tracer)
            and np.any(np.less(end, start))
        ):
            raise ValueError(f"a process moves from start to a later end, got {start} and {end}")
        begin, until = (self.log_snr(jnp.asarray(t, x.dtype)) for t in (start, end))
        change = jax.nn.log_sigmoid(until) - jax.nn.log_sigmoid(begin)  # of ln α²
        return jnp.exp(change / 2) * x + jnp.sqrt(-jnp.expm1(change)) * jnp.asarray(noise, x.dtype)

    def equation(self, ndim: int = 1, boundaries: Any = reflecting) -> FokkerPlanck:
        """The `FokkerPlanck` equation of the density, ∂p/∂t = ∇·(½β x p) + ½β ∇²p, for `solve`, `simulate` and the rest.

        ndim: axes, 1 to 3; boundaries: walls, which the process has none of: let them stand where nothing comes.
        """
        if ndim not in (1, 2, 3):
            raise ValueError(f"an equation has 1 to 3 axes, got ndim={ndim!r}")
        half = "L/2/(1 + exp(first - L*t))"
        term = lambda text: TimeDependent(Expression(text, L=self.fall, first=self.ends[0]))
        drift = tuple(term(f"-{half}*{name}") for name in "xyz"[:ndim])
        return FokkerPlanck(drift[0] if ndim == 1 else drift, term(half), boundaries=boundaries)


def _floating(x: Any) -> Any:
    x = jnp.asarray(x)
    return x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.result_type(float))
