"""A coefficient that is a function of time."""

from __future__ import annotations

import inspect
from typing import Any

import equinox as eqx

from jaxdiff.parameters import Mark, numeric


class TimeDependent(eqx.Module):
    """A coefficient of time, or of time and position.

        c = c(t), c(t, x), c(t, x, y), …

    Args:
        coefficient: a callable of one point, scalars in. Arguments named t, x, y, z or r are bound by name; one with none of
            these names takes t and the coordinates in order. In a boundary it is c(t), or c(t, y) of the place on the side.

    Raises:
        TypeError: a coefficient that is not callable.

    >>> import jax.numpy as jnp, jaxdiff as jd
    >>> float(jd.TimeDependent(lambda t: 100.0 * t)(0.5))
    50.0
    >>> melt = jd.Diffusion(jd.TimeDependent(lambda t, x: 1.0 + 0.1 * t * x), source=jd.TimeDependent(lambda t: jnp.sin(t)))
    """

    coefficient: Any = eqx.field(converter=numeric)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.coefficient)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self.coefficient(*arguments, **named)

    def __check_init__(self) -> None:
        if not callable(self.coefficient) and not isinstance(self.coefficient, Mark):
            raise TypeError(
                f"TimeDependent takes a function of (t, x), got {self.coefficient!r}; leave it out for a constant"
            )
