"""Quadrature, and Chebyshev series on [−1, 1], the coordinate z of a window."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

FINENESS = 1.8  # √(δ/2) over node spacing; trapezoid sums are exact to 5e-10 at 1.5, so σ may shrink by a quarter


def nodes(ends: tuple[str, ...], count: int, width: float) -> tuple[np.ndarray, np.ndarray]:
    """Quadrature on [−1, 1]: the trapezoid rule, Gauss–Legendre where a wall cuts the line, drawn towards a vanishing D."""
    if ends[0] == "periodic":
        return (2 * np.arange(count) + 1) / count - 1, np.full(count, 2 / count)
    if ends == ("open", "open"):
        return np.linspace(-1, 1, count), np.full(count, 2 / (count - 1))
    (s, w), (left, right) = np.polynomial.legendre.leggauss(count), (end.startswith("bessel") for end in ends)
    if not (left or right):
        return s, w
    if left and right:  # dz/ds ∝ (1 − s²)²
        return (15 * s - 10 * s**3 + 3 * s**5) / 8, w * 15 / 8 * (1 - s**2) ** 2
    # distance r ~ u³ at the wall, so that r^{2ν+1} is smooth enough, and ~ u beyond two units
    u, c = (s + 1) / 2, 2.0 / width
    r, dr = u**3 / (u**2 + c**2) * (1 + c**2), (u**4 + 3 * c**2 * u**2) / (u**2 + c**2) ** 2 * (1 + c**2)
    return (2 * r - 1, w * dr) if left else ((1 - 2 * r)[::-1], (w * dr)[::-1])


def node_count(ends: tuple[str, ...], width: float, steps: int) -> int:
    """Nodes for a window `width` √duration wide."""
    spacing = math.sqrt(0.5 / steps) / FINENESS
    stretch = 1.0 if ends in (("open", "open"), ("periodic", "periodic")) else math.pi / 2
    if any(end.startswith("bessel") for end in ends):
        stretch *= 1.5
    return max(12, math.ceil(stretch * width / spacing) + 1)


def chebyshev(z: Any, count: int, xp: Any = jnp) -> Any:
    """T_0 … T_{count−1} in a last axis."""
    return xp.cos(xp.arccos(xp.clip(z, -1.0, 1.0))[..., None] * np.arange(count))


def antiderivative(count: int) -> np.ndarray:
    """(count, count + 1): values at the Chebyshev points to the Chebyshev coefficients of the integral."""
    to_coefficients = np.linalg.inv(chebyshev(chebyshev_points(count), count, np))
    return (np.polynomial.chebyshev.chebint(np.eye(count), axis=0) @ to_coefficients).T


def cumulative(rate: np.ndarray, x: np.ndarray) -> np.ndarray:
    """∫ rate dx from the first point to each, by the trapezoid rule."""
    return np.concatenate([[0.0], np.cumsum((rate[1:] + rate[:-1]) / 2 * np.diff(x))])


def chebyshev_points(count: int) -> np.ndarray:
    return np.cos(np.pi * (np.arange(count) + 0.5) / count)
