"""Gaussian mixtures: densities, scores and samples, before and after noising."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.quantities import numbers


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

    def noised(self, process: Any, t: Any) -> GaussianMixture:
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
        x = x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.result_type(float))
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

    def score(self, process: Any) -> Any:
        """The score under a process, ∇ ln pₜ(x), a function of (x, t)."""
        return jax.tree_util.Partial(_score, self, process)


def _score(mixture: GaussianMixture, process: Any, x: Any, t: Any) -> Any:
    return mixture.noised(process, t).gradient(x)
