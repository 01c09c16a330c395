"""Whether cells are small enough for a drift: what the scheme itself spreads."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.compilation import quick_jit
from jaxdiff.equations import Diffusion
from jaxdiff.histograms import Histograms
from jaxdiff.operators import AxisSum
from jaxdiff.readings import Readings
from jaxdiff.schemes import FiniteVolume
from jaxdiff.systems import System


class Spread(NamedTuple):
    """Along one axis, as shares of the diffusivity: what the fluxes add, and the error bar it is to be held against."""

    axis: str
    cells: int
    added: float
    error: float

    @property
    def finer(self) -> float:
        """How many times as many cells add half an error bar."""
        drop = lambda share: np.sqrt(12 * share + 4 * share**2)  # z for that share, at most 3 % too large
        return float(drop(self.added) / drop(self.error / 2))


def spread(objective: Any, parameters: Any, plan: Any, z: Any, measurement: Any, place: int, bars: Any) -> list[Spread]:
    """What two-point fluxes add to the diffusivity where the data are, along the axes where it is more than an error bar.

        z/2 coth z/2 − 1 of it,   z = f h/D

    That of the diffusivity if it is fitted, else the smallest one. On one axis the flux errs by h (z/12) ∂J/∂x, so that a
    steady flux is exact: held against the diffusive flux, at the finite times of the data. On several, the mean over
    what histograms hold at finite times, but where detailed balance holds, which the fluxes keep. Scharfetter & Gummel
    1969, doi:10.1109/T-ED.1969.16566.
    """
    if not isinstance(measurement, (Readings, Histograms)):
        return []
    grid, moving = measurement.grid, measurement.times[np.isfinite(measurement.times)]
    if not len(moving) or (grid.ndim > 1 and isinstance(measurement, Readings)):
        return []
    shares, slopes = _shares(objective, parameters, z, grid, moving[0])
    errors = [_error(parameters, z, np.asarray(slope), bars) for slope in slopes]
    if isinstance(measurement, Histograms) and grid.ndim > 1:
        held = _held(measurement)
        added = [float(np.sum(held * np.asarray(share)) / np.sum(held)) for share in shares]
    elif shares and np.max(shares[0], initial=0.0) > errors[0]:  # a bound that costs no solution
        times = np.unique(moving[moving > measurement.start])
        rows = np.asarray(plan.row)[[int(np.argmax(measurement.times == t)) for t in times]]
        added = [float(_added(objective, place, parameters, plan.course, z, times, rows))] if len(times) else []
    else:
        added = []
    found = map(Spread, grid.names, grid.shape, added, errors)
    return [one for one in found if one.added > one.error]


def _error(parameters: Any, z: Any, slope: np.ndarray, bars: Any) -> float:
    """The relative error bar of the diffusivity, whose logarithm has this slope in z."""
    known = np.isfinite(bars.errors)
    scales = known & (np.abs(slope) > 1e-9)
    if not scales.any():
        x = np.asarray(parameters.transform(np.asarray(z)), float)
        known &= x != 0
        return float(np.min(bars.errors[known] / np.abs(x[known]), initial=np.inf))
    slope = slope[scales] / parameters.transform.slope(np.asarray(z))[scales]
    return float(np.sqrt(slope @ bars.covariance[np.ix_(scales, scales)] @ slope))


def _held(measurement: Histograms) -> np.ndarray:
    """What the bins hold at finite times, by the cells of the grid."""
    grid = measurement.grid
    held = measurement.mass[np.isfinite(measurement.times)].sum(0).reshape(measurement.volumes.shape)
    held = held / measurement.volumes
    for k, (edges, centers) in enumerate(zip(measurement.bins, grid.centers, strict=True)):
        inside = (centers > edges[0]) & (centers < edges[-1])
        held = np.take(held, np.clip(np.searchsorted(edges, centers) - 1, 0, len(edges) - 2), k)
        held = held * inside.reshape([-1 if j == k else 1 for j in range(held.ndim)])
    return held * np.asarray(grid.volumes)


def _lean(z: Any) -> Any:
    """(z/2 coth z/2 − 1)/z."""
    large = jnp.abs(z) > 0.05
    safe = jnp.where(large, z, 1.0)
    return jnp.where(large, 0.5 / jnp.tanh(safe / 2) - 1 / safe, z / 12)


@partial(quick_jit, static=0)
def _shares(objective: Any, parameters: Any, z: Any, grid: Any, t: Any) -> tuple[list[Any], Any]:
    """Along each axis: the share at the face above every cell, and the slope of the mean ln D, `(p,)`."""
    equation = objective.build(parameters, z)[0]
    system = FiniteVolume().systems(equation, grid)[0]
    if isinstance(equation, Diffusion):
        return [], []
    if grid.ndim == 1:
        steps = [system._peclet(t)[2][1 : None if system.ring else -1]]
    else:
        operator = system.operator(t)
        if not isinstance(operator, AxisSum) or operator.balanced:
            return [], []
        steps = []
        for k, n in enumerate(grid.shape):
            step = jnp.broadcast_to(operator.steps(k), grid.shape)
            if not operator.rings[k]:  # the last face is the wall
                step = jnp.take(step, jnp.minimum(jnp.arange(n), max(n - 2, 0)), k)
            steps.append(step)

    def level(point: Any) -> Any:
        system = FiniteVolume().systems(objective.build(parameters, point)[0], grid)[0]
        inside = lambda line: jnp.log(line._diffusivity(t)[0])
        if grid.ndim == 1:
            return [jnp.mean(inside(system))]
        return [jnp.mean(system._lines(k, inside)) for k in range(grid.ndim)]

    slopes = jax.lax.map(lambda toward: jax.jvp(level, (z,), (toward,))[1], jnp.eye(len(z)))
    return [step * _lean(step) for step in steps], slopes


@partial(quick_jit, static=(0, 1))
def _added(objective: Any, place: int, parameters: Any, course: Any, z: Any, times: Any, rows: Any) -> Any:
    """The error of the fluxes on one axis over the diffusive flux, each summed over cells and times."""
    equation, initials = objective.build(parameters, z)
    system = System(equation, course.grid)
    states = course(equation, initials[place])[0][rows]

    def fluxes(u: Any, t: Any) -> tuple[Any, Any]:
        inner = slice(1, None if system.ring else -1)
        d, h, step = (x[inner] for x in system._peclet(t))
        operator, m = system.operator(t), system.weights
        fed = (operator @ (u * m) + operator.loss * u * m + system.forcing(t)) / jnp.asarray(course.grid.volumes)
        above = jnp.roll(u, -1), jnp.roll(fed, -1)
        n = len(d)
        rise, fed = (above[0] - u)[:n], (above[1] + fed)[:n] / 2
        extent = jnp.asarray(course.grid.areas)[inner] * h
        return -jnp.sum(jnp.sign(rise) * extent * h * _lean(step) * fed), jnp.sum(extent * jnp.abs(d * rise / h))

    wrong, right = (jnp.sum(part) for part in jax.vmap(fluxes)(states, times))
    return jnp.abs(wrong) / jnp.where(right > 0, right, 1.0)
