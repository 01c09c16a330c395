"""What the closed forms share: the choice between NumPy and JAX, and the modified Bessel function."""

from __future__ import annotations

import functools
import math
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Number = Any  # a float, or an array of any shape that broadcasts with the others


def arrays(*numbers: Number) -> tuple[Any, ...]:
    """(array namespace, special functions, *the numbers as its arrays): JAX if one of them is JAX's, else NumPy."""
    if any(isinstance(number, jax.Array) for number in numbers):
        return (jnp, jax.scipy.special, *map(jnp.asarray, numbers))
    import scipy.special

    return (np, scipy.special, *(np.asarray(number, np.float64) for number in numbers))


def log_bessel_i(order: Number, x: Number) -> Any:
    """Logarithm of the scaled modified Bessel function of the first kind, log(I_ν(x) e^{−x}), for ν > −1 and x > 0.

    The uniform expansion I_ν(x) ~ e^{r + ν log(x/(ν+r))} (2πr)^{−½} Σ U_k(ν/r)/ν^k, r² = ν² + x², holds to rounding at
    ν + 16; the recurrence I_{ν−1} = I_{ν+1} + (2ν/x) I_ν leads back without subtraction. Neither over- nor underflows.

    order: ν [1]; x: argument [1]. Traceable, also in ν. Source: NIST DLMF 10.41.3, 10.41.9, 10.29.1.

    >>> print(f"{log_bessel_i(0.5, 2.0):.12f}")  # I_½(x) = √(2/πx) sinh x
    -1.283997570311
    """
    xp, _, order, x = arrays(order, x)
    shift = 16

    def expansion(order: Any) -> Any:
        r = xp.sqrt(order**2 + x**2)
        series = 0.0
        for polynomial in reversed(_debye(10)):
            term = 0.0
            for coefficient in reversed(polynomial):
                term = term * (order / r) ** 2 + coefficient
            series = series / r + term
        return order**2 / (r + x) + order * xp.log(x / (order + r)) - 0.5 * xp.log(2 * np.pi * r) + xp.log(series)

    result = expansion(order + shift)
    ratio = xp.exp(expansion(order + shift + 1) - result)
    for step in range(shift, 0, -1):
        growth = 2 * (order + step) / x + ratio  # I_{ν+step−1} / I_{ν+step}
        result, ratio = result + xp.log(growth), 1 / growth
    return result


def bessel_factor(order: Number, z: Number, xp: Any) -> Any:
    """√(2πz) e^{−z} I_ν(z), ν > −1, z > 0, to 2e-9, at a third of the cost of `log_bessel_i`; xp: numpy or jax.numpy."""
    return _bessel_factor(order, z, np) if xp is np else _differentiable_factor(order, z)


def _bessel_factor(order: Any, z: Any, xp: Any) -> Any:
    if xp is np and np.ndim(order) == 0:  # the host forms what it wants alone
        return _moderate_order(order, z, np) if order < 8 else _large_order(order, z, np)
    return xp.where(order < 8, _moderate_order(order, z, xp), _large_order(order, z, xp))


def _moderate_order(order: Any, z: Any, xp: Any) -> Any:
    """The power series to z = 40 and Hankel's expansion above (DLMF 10.25.2, 10.40.1)."""
    low, high, small = xp.minimum(z, 40.0), xp.maximum(z, 40.0), xp.minimum(order, 8.0)
    four, square = 4 * small**2, (low / 2) ** 2

    def horner(state: Any, k: Any) -> Any:
        series, tail = state
        if xp is jnp or k <= 24:
            tail = xp.where(k <= 24, 1 - tail * (four - (2 * k - 1) ** 2) / (8 * k * high), tail)
        return (1 + series * square / (k * (k + small)), tail), None

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
    return xp.where(z < 40, math.sqrt(2 * math.pi) * prefactor * series, tail)


def _large_order(order: Any, z: Any, xp: Any) -> Any:
    """Debye's expansion (DLMF 10.41.3)."""
    large = xp.maximum(order, 8.0)
    root = xp.sqrt(large**2 + z**2)
    t, total = large / root, xp.ones_like(z)
    for k, polynomial in enumerate(_debye(8)[1:], 1):
        part = xp.zeros_like(z)
        for coefficient in reversed(polynomial):
            part = part * t**2 + coefficient
        total = total + part * (t / large) ** k
    growth = large**2 / (root + z) + large * xp.log(z / (large + root))
    return xp.exp(growth) * xp.sqrt(z / root) * total


@jax.custom_jvp
def _differentiable_factor(order: Any, z: Any) -> Any:
    """Reverse mode keeps two derivatives instead of every step of the series."""
    return _bessel_factor(order, z, jnp)


@_differentiable_factor.defjvp
def _(primals: Any, tangents: Any) -> Any:
    order, z = primals
    order = jnp.broadcast_to(order, z.shape)
    value, by_order = jax.jvp(lambda order: _bessel_factor(order, z, jnp), (order,), (jnp.ones_like(z),))
    by_z = jax.jvp(lambda z: _bessel_factor(order, z, jnp), (z,), (jnp.ones_like(z),))[1]
    return value, by_order * tangents[0] + by_z * tangents[1]


@functools.cache
def _debye(count: int) -> list[list[float]]:
    """Coefficients in p² of U_k(p)/p^k: U_{k+1} = ½p²(1−p²)U_k′ + ⅛∫₀^p (1−5t²)U_k dt (DLMF 10.41.9)."""
    current, result = [Fraction(1)], [[1.0]]
    for k in range(1, count + 1):
        following = [Fraction(0)] * (len(current) + 3)
        for power, c in enumerate(current):
            following[power + 1] += c * (Fraction(power, 2) + Fraction(1, 8 * (power + 1)))
            following[power + 3] -= c * (Fraction(power, 2) + Fraction(5, 8 * (power + 3)))
        current = following
        result.append([float(c) for c in current[k::2]])
    return result
