"""Tracks of free diffusion with localisation noise and motion blur, at even times: independent by the sine transform."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


class FreeTracks(eqx.Module):
    """The log densities of tracks dX = v dt + √(2D) dW at even times, of which y = mean of X over the exposure τ + noise s is seen.

        Var d = 2D(Δ − τ/3) + 2s²,  Cov(d, next) = Dτ/3 − s²,  d the increments of y

    The sine transform makes these increments independent, whatever D and s:

        Var d̂ₖ = 2DΔ + (2s² − 2Dτ/3) (1 − cos(kπ/(N + 1)))

    amplitude: (m,) d̂ of all tracks end to end; unit: (m,) the transform of increments of Δ; interval: (m,) Δ; bend: (m,)
    1 − cos; track: (m,) of which track each is

    Berglund 2010, doi:10.1103/PhysRevE.82.011917; Michalet & Berglund 2012, doi:10.1103/PhysRevE.85.061916.
    """

    amplitude: Any
    unit: Any
    interval: Any
    bend: Any
    track: Any
    count: int = eqx.field(static=True)

    @classmethod
    def of(cls, times: tuple[np.ndarray, ...], positions: tuple[np.ndarray, ...]) -> FreeTracks:
        from scipy import fft

        parts = []
        for number, (t, y) in enumerate(zip(times, positions, strict=True)):
            n, interval = len(t) - 1, (t[-1] - t[0]) / (len(t) - 1)
            sine = lambda d: fft.dst(d, type=1, norm="ortho")
            bend = 2 * np.sin(np.arange(1, n + 1) * np.pi / (2 * n + 2)) ** 2
            each = sine(np.diff(y)), interval * sine(np.ones(n)), np.full(n, interval), bend, np.full(n, number)
            parts.append(each)
        amplitude, unit, interval, bend, track = (np.concatenate(column) for column in zip(*parts, strict=True))
        return cls(amplitude, unit, interval, bend, track, len(times))

    def log_densities(self, velocity: Any, diffusivity: Any, variance: Any, exposure: Any) -> Any:
        """(tracks,) log p(y₁ … | y₀); velocity v [length/time], variance s² [length²]."""
        spread = 2 * diffusivity * self.interval + (2 * variance - 2 * diffusivity * exposure / 3) * self.bend
        each = -0.5 * (jnp.log(2 * jnp.pi * spread) + (self.amplitude - velocity * self.unit) ** 2 / spread)
        return jax.ops.segment_sum(each, self.track, self.count, indices_are_sorted=True)


def even(times: np.ndarray) -> bool:
    """Whether times are equally far apart, up to how they are rounded."""
    steps = np.diff(times)
    return bool(np.ptp(steps) <= 1e-9 * steps.mean() + 8 * np.finfo(float).eps * np.abs(times).max())
