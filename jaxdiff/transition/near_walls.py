"""What the walls of an axis do to the density of a step nearby: the factor by which it differs from that without walls.

    R = 1 + e^{−ab/Dt} (1 − v √(πt/D) erfcx((a + b + vt)/√(4Dt)))   one reflecting wall, drift v away from it
    R = 1 − e^{−ab/Dt}                                              one absorbing wall, any v

a and b are the distances at start and end. Both are exact for numbers v and D; between two walls all images are summed, exact
without drift. Carslaw & Jaeger 1959, Conduction of Heat in Solids, 14.2.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from jaxdiff.transition.closure import Dynamics

CLEAR = 20.0  # exponent from which a wall is not felt: two parts in a thousand million
IMAGES = 6  # each way
FLAT = 1e-6  # of the factor that the images left out, or drift between two walls, may be

Kinds = tuple[str, ...]  # "reflecting", "absorbing" or "periodic", of the lower and upper wall of each axis


def clearance(start: Any, stop: Any, diffusivity: Any, duration: Any, kinds: Kinds, walls: np.ndarray) -> Any:
    """(n,) the least ab/Dt of all walls; walls: (d, 2), diffusivity: (n, d) along the axes."""
    least = np.full(len(start), np.inf)
    for i, kind in enumerate(kinds):
        if kind != "periodic":
            k, wall = i // 2, walls[i // 2, i % 2]
            both = (start[:, k] - wall) * (stop[:, k] - wall)
            least = np.minimum(least, np.maximum(both, 0.0) / (diffusivity[:, k] * duration))
    return least


def log_factor(
    xp: Any, dynamics: Dynamics, time: Any, at: Any, steps: tuple[Any, Any, Any], kinds: Kinds, walls: Any
) -> tuple[Any, Any]:
    """(log of the factor of each step (n,), how much of it is not known), with drift and D taken at places `at` (n, d)
    and times (n,); steps: start (n, d), stop (n, d), duration (n,)."""
    start, stop, duration = steps
    n, d = start.shape
    slopes = dynamics.on_host if xp is np else dynamics.traced
    _, drift, twice, _ = slopes(time, at, xp.zeros((n, d, d)))
    total, unknown = xp.zeros(n), xp.zeros(n)
    for k in range(d):
        if kinds[2 * k] != "periodic":
            D = twice[:, k, k] / 2
            one, lost = _axis(xp, start[:, k], stop[:, k], duration, drift[:, k], D, kinds[2 * k : 2 * k + 2], walls[k])
            total, unknown = total + xp.log(xp.where(one > 0, one, xp.nan)), xp.maximum(unknown, lost / one)
    across = xp.zeros(n)
    for i, j in itertools.combinations(range(d), 2):  # noise that is not along the axes leads past an image
        across = xp.maximum(across, abs(twice[:, i, j]) / xp.sqrt(twice[:, i, i] * twice[:, j, j]))
    return total, xp.where(across > 1e-9, xp.inf, unknown)


def _axis(xp: Any, x: Any, y: Any, t: Any, v: Any, D: Any, kinds: Kinds, walls: Any) -> tuple[Any, Any]:
    """(the factor of one axis, an amount by which it may be wrong)."""
    lower, upper = walls[0], walls[1]
    width, signs = upper - lower, [1.0 if kind == "reflecting" else -1.0 for kind in kinds]
    a, b = x - lower, y - lower
    relative = lambda place: xp.exp(((b - a) ** 2 - (b - place) ** 2) / (4 * D * t))
    factor, lost = 1.0, 0.0
    for turn in range(-IMAGES, IMAGES + 1):
        both = (signs[0] * signs[1]) ** abs(turn)
        even = relative(a + 2 * turn * width) if turn else 0.0
        odd = relative(2 * turn * width - a)
        if turn in (0, 1) and kinds[turn] == "reflecting":
            gap = (a + b) if turn == 0 else (2 * width - a - b)
            odd = odd * (
                1
                - (1 - 2 * turn)
                * v
                * xp.sqrt(np.pi * t / D)
                * _erfcx(xp, (gap + (1 - 2 * turn) * v * t) / xp.sqrt(4 * D * t))
            )
        sign = signs[0] * both if turn <= 0 else signs[1] * both * signs[0] * signs[1]
        factor = factor + both * even + sign * odd
        drifting = xp.minimum(abs(v) * xp.sqrt(t / D), 1.0)
        if abs(turn) == IMAGES:
            lost = lost + abs(even) + abs(odd)
        elif turn not in (0, 1):
            lost = lost + drifting * (abs(even) + abs(odd))
        elif turn == 1:
            lost = lost + drifting * abs(even)
    return factor, lost


def _erfcx(xp: Any, u: Any) -> Any:
    """e^{u²} erfc(u)."""
    if xp is np:
        from scipy.special import erfcx

        return erfcx(u)
    from jax.scipy.special import log_ndtr

    return xp.exp(u * u + np.log(2.0) + log_ndtr(-np.sqrt(2.0) * u))
