"""The phase factors of waves."""

from __future__ import annotations

from math import factorial
from typing import Any

import jax
import jax.numpy as jnp

# π/2 in parts of which the first two have 33 bits, so that their products with up to 20 bits are exact.
_QUARTER = (1.5707963267341256, 6.077100506303966e-11, 2.0222662487959506e-21)
_SINE = tuple((-1) ** k / factorial(2 * k + 1) for k in range(9))
_COSINE = tuple((-1) ** k / factorial(2 * k) for k in range(9))


@jax.custom_jvp
def turn(angle: Any) -> Any:
    """e^{−i angle}, of real angles.

    In double precision by series about the nearest quarter of a turn, which vectorise: on CPUs the library's sine and cosine take
    four times as long. Their squares add up to one to roundoff whatever the angle.
    """
    if angle.dtype != jnp.float64:
        return jax.lax.complex(jnp.cos(angle), -jnp.sin(angle))
    first = jnp.round(angle * (2 / jnp.pi))
    rest = _less(angle, first)
    more = jnp.round(rest * (2 / jnp.pi))
    rest = jnp.clip(_less(rest, more), -0.8, 0.8)  # of angles so large that they are not known within a turn
    quarter = first + more
    quarter = quarter - 4 * jnp.floor(quarter / 4)
    squared = rest * rest
    sine, cosine = rest * _series(_SINE, squared), _series(_COSINE, squared)
    odd = (quarter == 1) | (quarter == 3)
    real, imaginary = jnp.where(odd, sine, cosine), jnp.where(odd, cosine, sine)
    real = jnp.where((quarter == 1) | (quarter == 2), -real, real)
    return jax.lax.complex(real, jnp.where(quarter >= 2, imaginary, -imaginary))


@turn.defjvp
def _turn_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    turned = turn(*primals)
    return turned, -1j * tangents[0] * turned


def _less(angle: Any, quarters: Any) -> Any:
    for part in _QUARTER:
        angle = angle - quarters * part
    return angle


def _series(coefficients: Any, x: Any) -> Any:
    total = jnp.full_like(x, coefficients[-1])
    for each in coefficients[-2::-1]:
        total = each + x * total
    return total
