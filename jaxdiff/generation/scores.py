"""Exact scores: of Gaussian mixtures, and of densities that `solve` found."""

from __future__ import annotations

import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.generation.process import Process
from jaxdiff.quantities import numbers

STEEP = (
    2.0  # change of a logarithm from cell to cell beyond which a word is due: three standard deviations in 1.5 cells
)
STRANGERS = 1e-6  # share of standard normal noise in a solved density, which leaves tails a direction


class GaussianMixture(eqx.Module):
    """A mixture of Gaussians, whose density and score are known in closed form at every time of a `Process`.

        p(x) = Σ w_k N(x; m_k, C_k)   becomes   pₜ(x) = Σ w_k N(x; α m_k, α² C_k + σ² I)

    Args:
        weights: `(K,)`, positive, their sum one.
        means: `(K, *shape)` for samples of that shape; `(K,)` for numbers.
        covariances: `(K, d, d)` for samples of shape `(d,)`; or `(K,)`, one variance for all directions, zero for points.

    Raises:
        ValueError: weights, means and covariances that do not fit each other, or covariances that are none.

    >>> import jax.numpy as jnp, jaxdiff as jd
    >>> pair = jd.generation.GaussianMixture([0.5, 0.5], [-1.0, 1.0], [0.1, 0.1])
    >>> process = jd.generation.Process()
    >>> score = pair.score(process)
    >>> bool(abs(score(jnp.array([0.0, 2.0]), 1.0) + jnp.array([0.0, 2.0])).max() < 0.01)
    True
    """

    weights: Any
    means: Any  # (K, d)
    variances: Any  # (K, d) along the axes, or (K, 1)
    axes: Any  # (K, d, d), columns; None: those of x
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, weights: Any, means: Any, covariances: Any):
        weights, means, covariances = (
            numbers(each, name) for each, name in ((weights, "weights"), (means, "means"), (covariances, "covariances"))
        )
        if weights.ndim != 1 or not len(weights) or not (weights > 0).all() or not abs(weights.sum() - 1) < 1e-6:
            raise ValueError(
                f"weights must be positive numbers whose sum is one, got {np.array2string(weights, threshold=6)}"
            )
        count = len(weights)
        if means.shape[:1] != (count,) or not np.isfinite(means).all():
            raise ValueError(f"means must be {count} finite points, one for each weight, got shape {means.shape}")
        self.shape = means.shape[1:]
        d = max(1, int(np.prod(self.shape)))
        if covariances.shape not in ((count,), (count, d, d)):
            raise ValueError(
                f"covariances must have shape {(count,)}, a variance each, or {(count, d, d)}, got {covariances.shape}"
            )
        self.weights, self.means = weights, means.reshape(count, d)
        if covariances.ndim == 1:
            self.variances, self.axes = covariances[:, None], None
        else:
            if not np.allclose(covariances, covariances.swapaxes(1, 2), rtol=1e-9, atol=0.0):
                raise ValueError("covariances must be symmetric")
            self.variances, self.axes = np.linalg.eigh(covariances)
            small = 1e-13 * np.abs(self.variances).max(1, keepdims=True)
            self.variances = np.where(np.abs(self.variances) < small, 0.0, self.variances)
        if not (np.isfinite(self.variances) & (self.variances >= 0)).all():
            raise ValueError(f"covariances must not be negative, got an eigenvalue of {self.variances.min():.3g}")

    def noised(self, process: Process, t: Any) -> GaussianMixture:
        """The mixture that it is at time t of a process."""
        signal, noise = process.signal(t), process.noise(t)
        of = lambda mixture: (mixture.means, mixture.variances)
        return eqx.tree_at(of, self, (signal * self.means, signal**2 * self.variances + noise**2))

    def log_density(self, x: Any) -> Any:
        """ln p(x) `(n,)` of samples `(n, *shape)`."""
        return jax.nn.logsumexp(self._parts(x)[0], axis=1)

    def gradient(self, x: Any) -> Any:
        """∇ ln p(x), of samples `(n, *shape)`, in their shape."""
        logs, along = self._parts(x)
        if self.axes is not None:
            along = jnp.einsum("kij,nkj->nki", jnp.asarray(self.axes, along.dtype), along)
        return -jnp.einsum("nk,nki->ni", jax.nn.softmax(logs, axis=1), along).reshape(jnp.shape(x))

    def _parts(self, x: Any) -> tuple[Any, Any]:
        """ln w_k N(x; m_k, C_k) `(n, K)`, and C_k⁻¹ (x − m_k) along the axes `(n, K, d)`."""
        x = jnp.asarray(x)
        if x.shape[1:] != self.shape or x.ndim < 1:
            raise ValueError(f"samples of this mixture are (n, {', '.join(map(str, self.shape))}), got shape {x.shape}")
        weights, means, variances = (jnp.asarray(each, x.dtype) for each in (self.weights, self.means, self.variances))
        away = x.reshape(len(x), 1, -1) - means
        if self.axes is not None:
            away = jnp.einsum("kij,nki->nkj", jnp.asarray(self.axes, x.dtype), away)
        along = away / variances
        volumes = jnp.sum(jnp.broadcast_to(jnp.log(2 * np.pi * variances), means.shape), 1)
        return jnp.log(weights) - (jnp.sum(away * along, 2) + volumes) / 2, along

    def draw(self, count: int, key: Any) -> Any:
        """Samples `(count, *shape)`; key: of jax.random."""
        which, around = jax.random.split(key)
        kind = jnp.result_type(float)
        k = jax.random.choice(which, len(self.weights), (count,), p=jnp.asarray(self.weights, kind))
        normal = jax.random.normal(around, (count, self.means.shape[1]), kind)
        away = jnp.sqrt(jnp.asarray(self.variances, kind))[k] * normal
        if self.axes is not None:
            away = jnp.einsum("nij,nj->ni", jnp.asarray(self.axes, kind)[k], away)
        return (jnp.asarray(self.means, kind)[k] + away).reshape(count, *self.shape)

    def score(self, process: Process) -> MixtureScore:
        """The score under a process, a function of (x, t)."""
        return MixtureScore(self, process)


class MixtureScore(eqx.Module):
    """∇ ln pₜ(x) of a mixture under a process."""

    mixture: GaussianMixture
    process: Process

    def __call__(self, x: Any, t: Any) -> Any:
        return self.mixture.noised(self.process, t).gradient(x)


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
    peaks = values.reshape(len(times), -1).max(1)
    if not np.isfinite(values).all() or (values.reshape(len(times), -1).min(1) < -1e-5 * peaks).any():
        raise ValueError("a density must be finite and not negative; solve it with a lower tolerance, or on more cells")
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
