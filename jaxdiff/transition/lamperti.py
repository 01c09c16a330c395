"""The Lamperti coordinate y = ∫dx/√(2D), in which every one-dimensional diffusion has unit noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.runtime.closures import jit_by_meaning

Scalar = Callable[[Any], Any]
BATCH = 4096  # points at which `at_points` evaluates at once, so that it compiles once


class Coefficients(NamedTuple):
    """What the kernel needs of dX = f dt + √(2D) dW with killing k, at a set of points x."""

    diffusivity: Any  # D
    drift: Any  # f
    slope: Any  # D'
    velocity: Any  # μ = (f − D'/2)/√(2D), the drift of y
    potential: Any  # V = ½(μ² + μ_y) + k
    force: Any  # V_y


def _real(function: Scalar, x: Any) -> Any:
    return jnp.asarray(function(x), x.dtype).reshape(())


def coefficients(drift: Scalar, diffusivity: Scalar, killing: Scalar, x: Any) -> Coefficients:
    """The `Coefficients` at every point of x; NaN wherever D is not positive."""

    def velocity(x: Any) -> Any:
        D, slope = jax.jvp(lambda x: _real(diffusivity, x), (x,), (jnp.ones_like(x),))
        D = jnp.where(D > 0, D, jnp.nan)
        f, sigma = _real(drift, x), jnp.sqrt(2 * D)
        return (f - slope / 2) / sigma, (D, f, slope, sigma)

    def potential(x: Any) -> Any:
        mu, change, (D, f, slope, sigma) = jax.jvp(velocity, (x,), (jnp.ones_like(x),), has_aux=True)
        return (mu**2 + sigma * change) / 2 + _real(killing, x), (D, f, slope, mu, sigma)

    def all_at(x: Any) -> Coefficients:
        V, change, (D, f, slope, mu, sigma) = jax.jvp(potential, (x,), (jnp.ones_like(x),), has_aux=True)
        return Coefficients(D, f, slope, mu, V, sigma * change)

    parts = jax.vmap(all_at)(x.reshape(-1))
    return jax.tree.map(lambda part: part.reshape(x.shape), parts)


@jit_by_meaning
def at_points(terms: tuple[Scalar, Scalar, Scalar], x: Any) -> Coefficients:
    """`coefficients`, compiled."""
    return coefficients(*terms, x)


def wall_ratio(drift: Scalar, diffusivity: Scalar, wall: Any) -> Any:
    """f/D' at a wall where D vanishes: ν + 1 of the Bessel process that the diffusion is there."""
    wall = jnp.asarray(wall)
    slope = jax.jvp(lambda x: _real(diffusivity, x), (wall,), (jnp.ones_like(wall),))[1]
    return _real(drift, wall) / slope


class Wrapped(eqx.Module):
    """A function of position on a circle."""

    function: Any
    lower: Any
    period: Any

    def __call__(self, x: Any) -> Any:
        return self.function(self.lower + jnp.mod(x - self.lower, self.period))


def wrap(terms: tuple[Scalar, ...], start: Any, stop: Any, lower: Any, upper: Any) -> tuple[Any, Any, Any]:
    """Coefficients on a circle, starts within [lower, upper), and the nearest image of each stop."""
    period = upper - lower
    start = lower + np.mod(start - lower, period)
    stop = start + np.mod(stop - start + period / 2, period) - period / 2
    return tuple(Wrapped(f, lower, period) for f in terms), start, stop
