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


def _debye(count: int) -> list[np.ndarray]:
    """Polynomials u_k of Debye's expansion of I_ν(νx), DLMF 10.41.9."""
    P = np.polynomial.polynomial
    found = [np.array([1.0])]
    for _ in range(count):
        u = found[-1]
        found.append(P.polyadd(P.polymul([0, 0, 0.5, 0, -0.5], P.polyder(u)), P.polyint(P.polymul([1, 0, -5], u)) / 8))
    return found[1:]


DEBYE = _debye(8)


def _bessel_factor(order: Any, z: Any, xp: Any = jnp) -> Any:
    """√(2πz) e^{−z} I_ν(z), ν > −1, z > 0, to 1e-9: power series to z = 40, Hankel's expansion above, Debye's from ν = 8."""
    low, high, four = xp.minimum(z, 40.0), xp.maximum(z, 40.0), 4 * xp.minimum(order, 8.0) ** 2
    small, large, square = xp.minimum(order, 8.0), xp.maximum(order, 8.0), (low / 2) ** 2

    def horner(state: Any, k: Any) -> Any:
        series, tail = state
        better = 1 - tail * (four - (2 * k - 1) ** 2) / (8 * k * high)
        return (1 + series * square / (k * (k + small)), xp.where(k <= 24, better, tail)), None

    if xp is np:
        from scipy.special import gammaln

        state = np.ones_like(z), np.ones_like(z)
        for k in range(70, 0, -1):
            state = horner(state, k)[0]
        series, tail = state
    else:
        gammaln = jax.scipy.special.gammaln
        ones, powers = jnp.ones_like(z), jnp.arange(70.0, 0.0, -1.0, dtype=z.dtype)
        (series, tail), _ = jax.lax.scan(horner, (ones, ones), powers)
    prefactor = xp.exp((small + 0.5) * xp.log(low) - low - small * math.log(2) - gammaln(small + 1))
    moderate = xp.where(z < 40, math.sqrt(2 * math.pi) * prefactor * series, tail)
    root = xp.sqrt(large**2 + z**2)
    t, total = large / root, xp.ones_like(z)
    for k, u in enumerate(DEBYE, 1):  # u_k has the powers k, k + 2, … 3k
        part = xp.zeros_like(z)
        for coefficient in u[::-2][: k + 1]:
            part = part * t**2 + coefficient
        total = total + part * (t / large) ** k
    growth = large**2 / (root + z) + large * xp.log(z / (large + root))
    return xp.where(order < 8, moderate, xp.exp(growth) * xp.sqrt(z / root) * total)


@jax.custom_jvp
def bessel_factor(order: Any, z: Any) -> Any:
    """`_bessel_factor`, whose reverse mode keeps two derivatives instead of every step of the series."""
    return _bessel_factor(order, z)


@bessel_factor.defjvp
def _(primals: Any, tangents: Any) -> Any:
    order, z = primals
    order = jnp.broadcast_to(order, z.shape)
    value, by_order = jax.jvp(lambda order: _bessel_factor(order, z), (order,), (jnp.ones_like(z),))
    by_z = jax.jvp(lambda z: _bessel_factor(order, z), (z,), (jnp.ones_like(z),))[1]
    return value, by_order * tangents[0] + by_z * tangents[1]


class Side(NamedTuple):
    """A wall in reach, its place in y, and the number its kernel needs.

    `number`: inward μ at a "reflecting" wall, ν at a "bessel" wall, the gain ∮μ dy of one turn for "periodic" (there
    `place` is the length of the turn), nothing at an "absorbing" one.
    """

    kind: str
    place: Any
    number: Any


def short_kernel(xp: Any, a: Any, b: Any, sign: Any, time: float, tilt: Any, sides: Sequence[Side]) -> Any:
    """√(2π·time) × the kernel of ½∂² between a and b under the walls, tilted by e^{tilt·d − tilt²·time/2}, d = sign·(b − a)."""
    if xp is np:
        from scipy.special import erfcx
    else:
        erfcx = jax.scipy.special.erfcx
    distance = sign * (b - a)
    value = xp.exp(-((distance - tilt * time) ** 2) / (2 * time))
    lean = tilt * distance - tilt**2 * time / 2
    for side in sides:
        if side.kind == "bessel":
            product = xp.maximum((a - side.place) * (b - side.place) / time, 1e-30)
            factor = _bessel_factor(side.number, product, np) if xp is np else bessel_factor(side.number, product)
            value = value * factor
    for side in sides:
        if side.kind == "periodic":
            for turn in (-1, 1):
                moved = distance + turn * side.place
                value = value + xp.exp(turn * side.number + lean - moved**2 / (2 * time))
        elif side.kind in ("reflecting", "absorbing"):
            path = xp.abs(a - side.place) + xp.abs(b - side.place)
            image = xp.exp(lean - path**2 / (2 * time))
            if side.kind == "absorbing":
                value = value - image
            else:  # the second term keeps ψ' = μψ, no flux of p = e^φ ψ
                bend = side.number * math.sqrt(2 * math.pi * time)
                reach = path / math.sqrt(2 * time) + side.number * math.sqrt(time / 2)
                value = value + image * (1 - bend * erfcx(reach))
    return value


def log_kernel(
    xp: Any,
    nodes: Any,
    weights: Any,
    potential: Any,
    force: Any,
    start: Any,
    stop: Any,
    ends: Any,
    *,
    steps: int,
    sides: Sequence[Side],
    squaring: bool,
    tilted: bool,
) -> Any:
    """log ⟨y₁|exp(−(−½∂² + V))|y₀⟩ in units where the duration is 1, by Chin's fourth-order splitting.

    nodes, weights, potential, force: (windows, n); start, stop: (windows, steps of the path); ends: V at start plus V at
    stop. Factors e^{−δV/6} G e^{−(2δ/3)(V + δ²V_y²/48)} G e^{−δV/6}, G the exact kernel of δ/2 with its walls, δ = 1/steps;
    the integrals by quadrature at the nodes. `tilted` (one transition per window) leans every factor along the jump, so that
    no jump is too far for the range of floating point. Chin, Phys. Lett. A 226, 344 (1997), doi:10.1016/S0375-9601(97)00003-0.
    """
    delta, half = 1 / steps, 0.5 / steps
    product = np.matmul if xp is np else (lambda a, b: jnp.matmul(a, b, precision="highest"))
    stop_gradient = (lambda a: a) if xp is np else jax.lax.stop_gradient
    jump = stop - start
    tilt: Any = stop_gradient(jump)[:, :, None] if tilted else 0.0
    for side in sides:
        if side.kind == "periodic":  # lean along the mean drift round the circle
            tilt, tilted = stop_gradient(side.number / side.place) + xp.zeros((1, 1, 1)), True
    outer = xp.exp(-delta * potential / 3)[:, None, :]
    inner = xp.exp(-(2 * delta / 3) * (potential + delta**2 * force**2 / 48))[:, None, :]
    root = xp.sqrt(weights)
    norm = 1 / math.sqrt(2 * math.pi * half)
    # from start to the nodes and from the nodes to stop in one expression, which halves compilation
    both, sign = xp.concatenate([start, stop], axis=1)[:, :, None], np.repeat([1.0, -1.0], start.shape[1])[:, None]
    outside = norm * short_kernel(xp, both, nodes[:, None, :], sign, half, tilt, sides) * root[:, None, :]
    first, last = outside[:, : start.shape[1]] * inner, outside[:, start.shape[1] :]
    log_scale: Any = 0.0
    if steps > 1:
        move = norm * short_kernel(xp, nodes[:, :, None], nodes[:, None, :], 1.0, half, tilt, sides)
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
    far = -ends * (0.5 - delta / 6) + (0.0 if tilted else -(jump**2) / 2 - 0.5 * math.log(2 * math.pi))
    value = xp.where(inside, xp.log(xp.where(inside, total, 1.0)) + log_scale, far) - ends * delta / 6
    return value - (tilt[:, :, 0] * jump - tilt[:, :, 0] ** 2 / 2) if tilted else value


def _repeat(xp: Any, function: Callable[..., Any], state: Any, count: int) -> Any:
    if xp is not np and count > 3:  # a scan compiles once whatever the count
        return jax.lax.scan(function, state, length=count)[0]
    for _ in range(count):
        state = function(state)[0]
    return state


def chebyshev(z: Any, count: int, xp: Any = jnp) -> Any:
    """T_0 … T_{count−1} in a last axis."""
    return xp.cos(xp.arccos(xp.clip(z, -1.0, 1.0))[..., None] * np.arange(count))


def antiderivative(count: int) -> np.ndarray:
    """(count, count + 1): values at the Chebyshev points to the Chebyshev coefficients of the integral."""
    to_coefficients = np.linalg.inv(chebyshev(chebyshev_points(count), count, np))
    return (np.polynomial.chebyshev.chebint(np.eye(count), axis=0) @ to_coefficients).T


def chebyshev_points(count: int) -> np.ndarray:
    return np.cos(np.pi * (np.arange(count) + 0.5) / count)
