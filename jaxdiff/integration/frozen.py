"""A system as methods and steppers see it: traced once, and formed no more often than it changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxdiff.discretisation.system import System, TimeDependence
from jaxdiff.operators import preconditioned
from jaxdiff.runtime.conditions import Condition


@eqx.filter_jit
def _traced_once(kind: Callable[..., Any], quantity: str, equation: Any, grid: Any, *args: Any) -> Any:
    return getattr(kind(equation, grid), quantity)(*args)


class Formed:
    """A system from a start t₀ on: what does not vary is formed there, and what does is traced once for all times.

    Python's part of forming it takes as long as compiling it, and the compiler gets the same operations.
    """

    def __init__(self, system: System, t0: Any):
        self.system, self.weights = system, system.weights
        in_time = self._in_time = system.time_dependence()
        self._fixed = system.formed(t0) if in_time.steady else None
        self._operator = self._fixed[0] if self._fixed else None if in_time.operator else system.operator(t0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.system, name)

    def time_dependence(self) -> TimeDependence:
        return self._in_time

    def _at(self, quantity: str, *args: Any) -> Any:
        if type(self.system).__init__ is not System.__init__:  # it is more than an equation on a grid
            return getattr(self.system, quantity)(*args)
        return _traced_once(type(self.system), quantity, self.system.equation, self.system.grid, *args)

    def operator(self, t: Any) -> Any:
        return self._at("operator", t) if self._operator is None else self._operator

    def forcing(self, t: Any, rates: Any = None) -> Any:
        return self._fixed[1] if self._fixed else self._at("forcing", t, rates)

    def at(self, t: Any, u: Any = None) -> tuple[Any, Any]:
        return self._at("at", t) if self._operator is None else (self._operator, self.forcing(t))

    def conditions(self, t: Any) -> list[Condition]:
        return self._fixed[2] if self._fixed else self._at("conditions", t)


class Constant(eqx.Module):
    """A system whose operator and forcing are the same at all times."""

    fixed_operator: Any
    fixed_forcing: Any

    def at(self, t: Any, u: Any = None) -> tuple[Any, Any]:
        return self.fixed_operator, self.fixed_forcing

    def at_each(self, *times: Any) -> list[tuple[Any, Any]]:
        return [(self.fixed_operator, self.fixed_forcing)] * len(times)


class Frozen(eqx.Module):
    """A system whose operator, and where it may its forcing, are formed once; and the modes of resolvents on a lattice.

    forced: whether there is a forcing; iterates: whether resolvents on a lattice are asked for
    """

    system: Any
    fixed_operator: Any = None
    fixed_forcing: Any = None
    modes: Any = None

    def __init__(self, system: Any, t: Any, forced: bool = True, iterates: bool = True):
        self.system, in_time = system, system.time_dependence()
        operator = preconditioned(system.operator(t)) if iterates else system.operator(t)
        self.fixed_operator = None if in_time.operator else operator
        self.modes = getattr(operator, "modes", None) if in_time.operator else None
        self.fixed_forcing = (system.forcing(t) if forced else 0.0) if in_time.steady else None

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
        if not self.varies:
            return self.fixed_operator, self.forcing(t)
        operator, forcing = self.system.at(t)
        return self._preconditioned(operator), forcing

    def at_each(self, *times: Any) -> list[tuple[Any, Any]]:
        """(A, b) at each of several times; what varies is formed, and compiled, for all together."""
        if self.fixed_forcing is not None:
            return [self.at(t) for t in times]
        together = jax.vmap(self.system.at if self.varies else self.system.forcing)(jnp.stack(times))
        each = [jax.tree.map(lambda x, i=i: x[i], together) for i in range(len(times))]
        return [(self._preconditioned(one[0]), one[1]) if self.varies else (self.fixed_operator, one) for one in each]

    def forcings(self, t: Any) -> Any:
        return self.system.forcings(t)

    def _preconditioned(self, operator: Any) -> Any:
        return operator if self.modes is None else preconditioned(operator, self.modes)


def inside(t: Any, dt: Any, c: Any) -> Any:
    """t + c Δt, kept off both ends: steps end where coefficients jump, and the value there may be that of the other side."""
    t, dt = jnp.asarray(t), jnp.asarray(dt)
    # A clock that adds steps is off by ulps.
    edge = jnp.minimum(16 * jnp.finfo(dt.dtype).eps * (jnp.abs(t) + dt), dt / 4)
    return t + jnp.clip(c * dt, edge, dt - edge)
