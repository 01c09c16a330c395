"""The score of a density that `solve` found: ∇ ln p between its cells and times."""

from __future__ import annotations

import warnings
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

STEEP = 2.0  # change of a logarithm from cell to cell beyond which a word is due, as of a Gaussian 1.5 cells wide
STRANGERS = 1e-6  # share of standard normal noise in a solved density, which leaves tails a direction


class SolvedScore(eqx.Module):
    """∇ ln pₜ(x) between the cells and the times of a solution."""

    grid: Any
    times: Any
    slopes: Any  # (T, ndim, *cells)

    def __call__(self, x: Any, t: Any) -> Any:
        times, slopes = (jnp.asarray(each, x.dtype) for each in (self.times, self.slopes))
        left = jnp.clip(jnp.searchsorted(times, t, side="right") - 1, 0, len(times) - 2)
        share = (t - times[left]) / (times[left + 1] - times[left])
        share = jnp.where((share > -1e-3) & (share < 1 + 1e-3), share, jnp.nan)
        here = (1 - share) * slopes[left] + share * slopes[left + 1]
        found = jnp.moveaxis(self.grid.interpolate(here, x), 0, -1)
        return found.reshape(x.shape)


def solved_score(solution: Any) -> SolvedScore:
    """The score of a density that `solve` found of `process.equation()`, on one to three axes.

        s = ∇ ln[(1 − ε) pₜ + ε N(0, 1)],   ε = 1e-6

    Standard normal noise is at rest, so that a share of it is a solution too, which gives the tails, where p is roundoff, a
    direction. Differences of second order between cells; between these and the times of the solution it is linear.

    Args:
        solution: of `jd.solve`, or one with its `times`, `values` and `grid`, positive densities that cells and times resolve:
            times are those where λ has changed by some tenths. Samples `(n,)` on one axis, `(n, ndim)` on several.

    Raises:
        ValueError: a grid that is not Cartesian or has a mask; negative densities; densities that are not negligible at a wall.

    A warning says where cells or times do not resolve it.

    A density with a flat top, and back to it:

    >>> import jax.numpy as jnp, numpy as np, jaxdiff as jd
    >>> process, grid = jd.generation.Process(), jd.Grid.uniform((-6.0, 6.0, 300))
    >>> flat = lambda x: jnp.exp(-(x**4)) / 1.8128
    >>> p = jd.solve(process.equation(), grid, flat, np.linspace(0.0, 1.0, 41))
    >>> x = jd.generation.sample(jd.generation.solved_score(p), process, (4000,), key=0)
    >>> bool(abs((x**2).mean() - 0.33799) < 0.02)
    True
    """
    grid = solution.grid
    if getattr(grid, "discrete", False) or grid.geometry != "cartesian" or grid.mask is not None:
        raise ValueError("a score is of a density on a Cartesian grid without a mask")
    values, times = np.asarray(solution.values, float), np.asarray(solution.times, float)
    if values.shape != (len(times), *grid.shape):
        raise ValueError(f"a score is of one density, values of shape {(len(times), *grid.shape)}, got {values.shape}")
    if min(grid.shape) < 3:
        raise ValueError(f"a score wants three cells an axis or more, got {grid.shape}")
    if len(times) < 2 or not (np.diff(times) > 0).all():
        raise ValueError(f"a score wants two increasing times or more, got {np.array2string(times, threshold=6)}")
    peaks = values.reshape(len(times), -1).max(1)
    if not np.isfinite(values).all() or (values.reshape(len(times), -1).min(1) < -1e-5 * peaks).any():
        raise ValueError("a density must be finite and not negative; solve it with a lower tolerance, or on more cells")
    if not (peaks > 0).all():
        raise ValueError(f"a density must be positive somewhere, got none at t = {times[int(np.argmin(peaks))]:g}")
    mass = (values * np.asarray(grid.volumes)).reshape(len(times), -1).sum(1)
    values = values / mass.reshape(-1, *(1,) * grid.ndim)
    peaks = peaks / mass
    for k, name in enumerate(grid.names):
        for end, side in ((0, "-"), (-1, "+")):
            edge = np.take(values, end, axis=k + 1).reshape(len(times), -1).max(1) / peaks
            if (i := int(edge.argmax())) >= 0 and edge[i] > 1e-3:
                raise ValueError(
                    f"the density at the wall {name}{side} is {edge[i]:.2g} of its peak at t = {times[i]:g}, and the process has no walls; widen the grid"
                )
    distance = sum(np.meshgrid(*(x**2 for x in grid.centers), indexing="ij"))
    normal = -distance / 2 - grid.ndim / 2 * np.log(2 * np.pi) + np.log(STRANGERS)
    with np.errstate(divide="ignore"):
        logs = np.logaddexp(np.log(np.maximum(values, 0.0)), normal)
    slopes = np.stack([np.gradient(logs, x, axis=k + 1, edge_order=2) for k, x in enumerate(grid.centers)], 1)
    _tell_unresolved(times, values, logs, slopes)
    return SolvedScore(grid, times, slopes)


def _tell_unresolved(times: np.ndarray, values: np.ndarray, logs: np.ndarray, slopes: np.ndarray) -> None:
    """Warn where a density changes too much from cell to cell, or its score from time to time."""
    axes = tuple(range(1, values.ndim))
    seen = values > 1e-2 * values.max(axes, keepdims=True)
    for k in axes:
        both = seen & np.roll(seen, 1, k)
        np.moveaxis(both, k, 0)[0] = False
        steps = np.where(both, np.abs(logs - np.roll(logs, 1, k)), 0.0).max(axes)
        if steps.max() > STEEP:
            i = int(steps.argmax())
            warnings.warn(
                f"at t = {times[i]:g} the density changes by a factor of {np.exp(steps[i]):.2g} from one cell to the next, so that its score is doubtful; take smaller cells, or a smoother start",
                stacklevel=3,
            )
            break
    weights = (values / values.sum(axes, keepdims=True))[:, None]
    mean_square = lambda s, w: (w * s**2).sum(tuple(range(1, s.ndim)))
    changes = np.sqrt(mean_square(np.diff(slopes, axis=0), weights[1:]) / mean_square(slopes[1:], weights[1:]))
    if changes.max() > STEEP / 4:
        i = int(changes.argmax())
        warnings.warn(
            f"from t = {times[i]:g} to {times[i + 1]:g} the score changes by {changes[i]:.2g} of itself, so that it is doubtful between; take more times there",
            stacklevel=3,
        )
