"""A system as steppers see it: A and b, formed no more often than they change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxdiff.operators import preconditioned


class Constant(eqx.Module):
    """A system whose operator and forcing are the same at all times."""

    fixed_operator: Any
    fixed_forcing: Any

    def at(self, t: Any, u: Any = None) -> tuple[Any, Any]:
        return self.fixed_operator, self.fixed_forcing

    def at_each(self, *times: Any) -> list[tuple[Any, Any]]:
        return [(self.fixed_operator, self.fixed_forcing)] * len(times)


class Frozen(eqx.Module):
    """A system whose operator, and where it may its forcing, are formed once; and the modes of resolvents on a lattice."""

    system: Any
    fixed_operator: Any
    fixed_forcing: Any
    modes: Any

    def __init__(self, system: Any, t: Any, forced: bool = True):
        self.system = system
        operator = preconditioned(system.operator(t))
        in_time = system.time_dependence()
        self.fixed_operator = None if in_time.operator else operator
        self.modes = getattr(operator, "modes", None) if in_time.operator else None
        steady = not (in_time.operator or in_time.forcing or in_time.knots)
        self.fixed_forcing = (system.forcing(t) if forced else 0.0) if steady else None

    @property
    def varies(self) -> bool:
        """Whether the operator depends on time."""
        return self.fixed_operator is None

    def operator(self, t: Any) -> Any:
        return self._preconditioned(self.system.operator(t)) if self.varies else self.fixed_operator

    def forcing(self, t: Any, rates: Any = None) -> Any:
        return self.system.forcing(t, rates) if self.fixed_forcing is None else self.fixed_forcing

    def at(self, t: Any, u: Any = None) -> tuple[Any, Any]:
        """(A, b) at time t; of the state u they do not depend yet."""
        return self.operator(t), self.forcing(t)

    def at_each(self, *times: Any) -> list[tuple[Any, Any]]:
        """(A, b) at each of several times; what varies is formed, and compiled, for all together."""

        def each(quantity: Callable[[Any], Any], fixed: Any) -> list[Any]:
            if fixed is not None:
                return [fixed] * len(times)
            together = jax.vmap(quantity)(jnp.stack(times))
            return [jax.tree.map(lambda x, i=i: x[i], together) for i in range(len(times))]

        operators = map(self._preconditioned, each(self.system.operator, self.fixed_operator))
        return list(zip(operators, each(self.system.forcing, self.fixed_forcing), strict=True))

    def forcings(self, t: Any) -> Any:
        return self.system.forcings(t)

    def _preconditioned(self, operator: Any) -> Any:
        return operator if self.modes is None else preconditioned(operator, self.modes)


def inside(t: Any, dt: Any, c: Any) -> Any:
    """t + c Δt, kept off both ends: steps end where coefficients jump, and the value there may be that of the other side."""
    t, dt = jnp.asarray(t), jnp.asarray(dt)
    edge = jnp.minimum(
        16 * jnp.finfo(dt.dtype).eps * (jnp.abs(t) + dt), dt / 4
    )  # a clock that adds steps is off by ulps
    return t + jnp.clip(c * dt, edge, dt - edge)
