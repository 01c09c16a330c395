"""The kernel of exp(−(−½∂² + V)) in the Lamperti coordinate, exact at walls, by a splitting of fourth order in time.

Its substeps are taken one after another, or the matrix of one is squared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.exact.special import bessel_factor


class Side(NamedTuple):
    """A wall in reach, its place in y, and the number its kernel needs.

    `number`: inward μ at a "reflecting" wall, ν at a "bessel" wall, the gain ∮μ dy of one period for "periodic" (there
    `place` is its length), nothing at an "absorbing" one.
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
            value = value * bessel_factor(side.number, product, xp)
    for side in sides:
        if side.kind == "periodic":
            for image in (-1, 1):
                moved = distance + image * side.place
                value = value + xp.exp(image * side.number + lean - moved**2 / (2 * time))
        elif side.kind in ("reflecting", "absorbing"):
            path = xp.abs(a - side.place) + xp.abs(b - side.place)
            image = xp.exp(lean - path**2 / (2 * time))
            if side.kind == "absorbing":
                value = value - image
            else:  # the second term keeps ψ' = μψ, no flux of p = e^φ ψ
                bend = side.number * math.sqrt(2 * math.pi * time)
                argument = path / math.sqrt(2 * time) + side.number * math.sqrt(time / 2)
                value = value + image * (1 - bend * erfcx(argument))
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
