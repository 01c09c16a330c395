"""What the closed forms share: the choice between NumPy and JAX, and the modified Bessel function."""

from __future__ import annotations

import functools
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
