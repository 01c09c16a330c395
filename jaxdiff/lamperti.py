"""The Lamperti coordinate y = ∫dx/√(2D), in which every one-dimensional diffusion has unit noise, and its kernel there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Scalar = Callable[[Any], Any]


class Coefficients(NamedTuple):
    """What the kernel needs of an SDE at a set of points x."""

    diffusivity: Any  # D
    drift: Any  # f
    slope: Any  # D'
    velocity: Any  # μ = (f − D'/2)/√(2D), the drift of y
    potential: Any  # V = ½(μ² + μ_y) + k
    force: Any  # V_y


def coefficients(drift: Scalar, diffusivity: Scalar, killing: Scalar, x: Any) -> Coefficients:
    """The `Coefficients` at every point of x; NaN wherever D is not positive."""

    def real(function: Scalar, x: Any) -> Any:
        return jnp.asarray(function(x), x.dtype).reshape(())

    def velocity(x: Any) -> Any:
        D, slope = jax.jvp(lambda x: real(diffusivity, x), (x,), (jnp.ones_like(x),))
        D = jnp.where(D > 0, D, jnp.nan)
        f, sigma = real(drift, x), jnp.sqrt(2 * D)
        return (f - slope / 2) / sigma, (D, f, slope, sigma)

    def potential(x: Any) -> Any:
        mu, change, (D, f, slope, sigma) = jax.jvp(velocity, (x,), (jnp.ones_like(x),), has_aux=True)
        return (mu**2 + sigma * change) / 2 + real(killing, x), (D, f, slope, mu, sigma)

    def all_at(x: Any) -> Coefficients:
        V, change, (D, f, slope, mu, sigma) = jax.jvp(potential, (x,), (jnp.ones_like(x),), has_aux=True)
        return Coefficients(D, f, slope, mu, V, sigma * change)

    parts = jax.vmap(all_at)(x.reshape(-1))
    return jax.tree.map(lambda part: part.reshape(x.shape), parts)


def wall_ratio(drift: Scalar, diffusivity: Scalar, wall: Any) -> Any:
    """f/D' at a wall where D vanishes: ν + 1 of the Bessel process that the diffusion is there."""
    wall = jnp.asarray(wall)
    slope = jax.jvp(lambda x: jnp.asarray(diffusivity(x), x.dtype).reshape(()), (wall,), (jnp.ones_like(wall),))[1]
    return jnp.asarray(drift(wall), wall.dtype).reshape(()) / slope


def bessel_factor(order: Any, z: Any, xp: Any = jnp) -> Any:
    """√(2πz) e^{−z} I_ν(z) for ν > −1, z > 0: power series below 40, Hankel's expansion above (ν up to about 8)."""
    low, high = xp.minimum(z, 40.0), xp.maximum(z, 40.0)
    square = (low / 2) ** 2
    if xp is np:
        from scipy.special import gammaln
        series = np.ones_like(z)
        for k in range(70, 0, -1):
            series = 1 + series * square / (k * (k + order))
        tail = np.ones_like(z)
        for k in range(24, 0, -1):
            tail = 1 - tail * (4 * order**2 - (2 * k - 1) ** 2) / (8 * k * high)
    else:
        gammaln = jax.scipy.special.gammaln
        steps = jnp.arange(70.0, 0.0, -1.0, dtype=z.dtype)
        series = jax.lax.scan(lambda s, k: (1 + s * square / (k * (k + order)), None), jnp.ones_like(z), steps)[0]
        horner = lambda t, k: (1 - t * (4 * order**2 - (2 * k - 1) ** 2) / (8 * k * high), None)
        tail = jax.lax.scan(horner, jnp.ones_like(z), steps[-24:])[0]
    prefactor = xp.exp((order + 0.5) * xp.log(low) - low - order * math.log(2) - gammaln(order + 1))
    return xp.where(z < 40, math.sqrt(2 * math.pi) * prefactor * series, tail)


class Side(NamedTuple):
    """A wall in reach, its place in y, and the number its kernel needs.

    `number`: inward μ at a "reflecting" wall, ν at a "bessel" wall, the gain ∮μ dy of one turn for "periodic" (there
    `place` is the length of the turn), nothing at an "absorbing" one.
    """

    kind: str
    place: Any
    number: Any


def short_kernel(xp: Any, start: Any, stop: Any, time: float, tilt: Any, sides: Sequence[Side]) -> Any:
    """√(2π·time) × the kernel of ½∂² from start to stop under the walls, tilted by e^{tilt·(stop−start) − tilt²·time/2}."""
    if xp is np:
        from scipy.special import erfcx
    else:
        erfcx = jax.scipy.special.erfcx
    distance = stop - start
    value = xp.exp(-((distance - tilt * time) ** 2) / (2 * time))
    lean = tilt * distance - tilt**2 * time / 2
    for side in sides:
        if side.kind == "bessel":
            product = (start - side.place) * (stop - side.place) / time
            value = value * bessel_factor(side.number, xp.maximum(product, 1e-30), xp)
    for side in sides:
        if side.kind == "periodic":
            for turn in (-1, 1):
                moved = distance + turn * side.place
                value = value + xp.exp(turn * side.number + lean - moved**2 / (2 * time))
        elif side.kind in ("reflecting", "absorbing"):
            path = xp.abs(start - side.place) + xp.abs(stop - side.place)
            image = xp.exp(lean - path**2 / (2 * time))
            if side.kind == "absorbing":
                value = value - image
            else:  # the second term keeps ψ' = μψ, no flux of p = e^φ ψ
                bend = side.number * math.sqrt(2 * math.pi * time)
                value = value + image * (1 - bend * erfcx(path / math.sqrt(2 * time) + side.number * math.sqrt(time / 2)))
    return value


def log_kernel(
    xp: Any, nodes: Any, weights: Any, potential: Any, force: Any, start: Any, stop: Any, ends: Any,
    *, steps: int, sides: Sequence[Side], squaring: bool, tilted: bool,
) -> Any:
    """log ⟨y₁|exp(−(−½∂² + V))|y₀⟩ in units where the duration is 1, by Chin's fourth-order splitting.

    nodes, weights, potential, force: (windows, n); start, stop: (windows, steps of the path); ends: V at start plus V at
    stop. Factors e^{−δV/6} G e^{−(2δ/3)(V + δ²V_y²/48)} G e^{−δV/6}, G the exact kernel of δ/2 with its walls, δ = 1/steps;
    the integrals by quadrature at the nodes. `tilted` (a single step per window) leans every factor along the jump, so that
    no jump is too far for the range of floating point. Chin, Phys. Lett. A 226, 344 (1997), doi:10.1016/S0375-9601(97)00003-0.
    """
    delta, half = 1 / steps, 0.5 / steps
    product = np.matmul if xp is np else (lambda a, b: jnp.matmul(a, b, precision="highest"))
    stop_gradient = (lambda a: a) if xp is np else jax.lax.stop_gradient
    jump = stop - start
    tilt = stop_gradient(jump)[:, :, None] if tilted else 0.0
    outer = xp.exp(-delta * potential / 3)[:, None, :]
    inner = xp.exp(-(2 * delta / 3) * (potential + delta**2 * force**2 / 48))[:, None, :]
    root = xp.sqrt(weights)
    norm = 1 / math.sqrt(2 * math.pi * half)
    first = norm * short_kernel(xp, start[:, :, None], nodes[:, None, :], half, tilt, sides) * (root[:, None, :] * inner)
    last = norm * short_kernel(xp, nodes[:, None, :], stop[:, :, None], half, tilt, sides) * root[:, None, :]
    log_scale: Any = 0.0
    if steps > 1:
        move = norm * short_kernel(xp, nodes[:, :, None], nodes[:, None, :], half, tilt, sides)
        move = move * (root[:, :, None] * root[:, None, :])

        def square(state: Any, _: Any = None) -> Any:
            matrix, log_scale = state
            top = stop_gradient(xp.max(xp.abs(matrix), axis=(1, 2), keepdims=True))
            return (product(matrix / top, matrix / top), 2 * (log_scale + xp.log(top[:, :, 0]))), None

        def advance(row: Any, _: Any = None) -> Any:
            return product(product(row, move) * outer, move) * inner, None

        if squaring:
            whole = product(move * outer, move) * inner, xp.zeros_like(potential[:, :1])
            whole, log_scale = _repeat(xp, square, whole, (steps - 1).bit_length() - 1)
            first = product(first, whole)
        else:
            first = _repeat(xp, advance, first, steps - 1)
    total = xp.sum(first * last, axis=-1)
    # a jump beyond the range of floating point keeps its leading term, so that values and gradients stay finite
    inside = ~(total <= 0)
    far = 0.0 if tilted else -(jump**2) / 2 - 0.5 * math.log(2 * math.pi)
    value = xp.where(inside, xp.log(xp.where(inside, total, 1.0)) + log_scale, far) - ends * delta / 6
    return value - (tilt[:, :, 0] * jump - tilt[:, :, 0] ** 2 / 2) if tilted else value


def _repeat(xp: Any, function: Callable[..., Any], state: Any, count: int) -> Any:
    if xp is not np and count > 3:  # a scan compiles once whatever the count
        return jax.lax.scan(function, state, length=count)[0]
    for _ in range(count):
        state = function(state)[0]
    return state
