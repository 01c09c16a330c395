"""An equation with phases that do not move, beside the cells of the one that does."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdiff.discretisation.lattice import LatticeSystem
from jaxdiff.discretisation.line import LineSystem
from jaxdiff.discretisation.system import AtRest, System, TimeDependence, TransportSystem
from jaxdiff.discretisation.tensor import TensorSystem
from jaxdiff.model.coefficients import Tensor, at_time, is_number, varies
from jaxdiff.operators.halo import cuts
from jaxdiff.operators.phases import Phases
from jaxdiff.runtime.conditions import Condition, cell


def finite_volumes(equation: Any, grid: Any, transport: Any) -> TransportSystem:
    """The system of what moves, on these cells."""
    if isinstance(transport.diffusivity, Tensor):
        return TensorSystem(equation, grid).require_uniform()
    return LineSystem(equation, grid) if grid.ndim == 1 else LatticeSystem(equation, grid)


class ExchangeSystem(System):
    """The equation with contents `(1 + phases, *cells)`, on one axis in a row."""

    @cached_property
    def mobile(self) -> TransportSystem:
        return finite_volumes(self.equation, self.grid, self.equation.transport())

    @property
    def exchange(self) -> tuple[Any, ...]:
        return self.mobile.transport.exchange

    def require_operator(self) -> None:
        if any(cuts(self.grid.names)):
            raise ValueError("phases that exchange are not cut over devices; leave jd.decompose out")
        self.mobile.require_operator()

    def time_dependence(self) -> TimeDependence:
        found = self.mobile.time_dependence()
        rates = [rate for one in self.exchange for rate in (one.rate_in, one.rate_out)]
        return found._replace(operator=found.operator or any(map(varies, rates)))

    @property
    def weights(self) -> Any:
        of_mobile = self.mobile.weights
        volumes = jnp.broadcast_to(jnp.asarray(self.grid.box.volumes, of_mobile.dtype), self.grid.shape)
        return self._in_row(jnp.stack([jnp.broadcast_to(of_mobile, self.grid.shape), *[volumes] * len(self.exchange)]))

    def operator(self, t: Any) -> Phases:
        return self._exchanged(self.mobile.operator(t), t)

    def forcing(self, t: Any, rates: Any = None) -> Any:
        return self._entering(self.mobile.forcing(t, rates))

    def at(self, t: Any, u: Any = None) -> tuple[Any, Any]:
        return self.formed(t)[:2]

    def conditions(self, t: Any) -> list[Condition]:
        return [*self.mobile.conditions(t), *self._of_rates(t)]

    def formed(self, t: Any) -> tuple[Any, Any, list[Condition]]:
        operator, forcing, found = self.mobile.formed(t)
        return self._exchanged(operator, t), self._entering(forcing), [*found, *self._of_rates(t)]

    @property
    def forced(self) -> bool:
        return self.mobile.forced

    @property
    def periodic(self) -> bool:
        return self.mobile.periodic

    @property
    def basis(self) -> Any:
        """Where all cells have the same rates, and nothing drifts."""
        alike = all(is_number(rate) for one in self.exchange for rate in (one.rate_in, one.rate_out))
        return self.mobile.basis if alike and self.mobile.driftless and self._plain else None

    @property
    def may_vanish(self) -> bool:
        return self.mobile.may_vanish

    def numerical_diffusion(self, t: Any) -> dict[str, Any]:
        return self.mobile.numerical_diffusion(t)

    def fluxes(self, t: Any, u: Any, k: int = 0) -> Any:
        return self.mobile.fluxes(t, u, k)

    def faces(self, t: Any, k: int = 0) -> tuple[Any, Any, Any]:
        return self.mobile.faces(t, k)

    @property
    def ways(self) -> tuple[str, ...]:
        return self.mobile.ways

    def exits(self, t: Any) -> dict[str, Any]:
        return {name: self._entering(rate) for name, rate in self.mobile.exits(t).items()}

    def at_wall(self, t: Any, u: Any, k: int, end: int) -> Any:
        return self.mobile.at_wall(t, u, k, end)

    def begin(self, u: Any, t: Any) -> tuple[Any, list[Condition]]:
        if u.ndim > self.grid.ndim:
            return super().begin(u, t)
        rest, found = [], []
        for j, (one, into, back) in enumerate(zip(self.exchange, *self._rates(t), strict=True)):
            if one.start == "empty":
                rest.append(jnp.zeros_like(u))
                continue
            rest.append((u * into / back).astype(u.dtype))
            words = f"phase {j + 1} lets go at a rate of {{value}} in cell {cell(self.grid.ndim)}, and has no equilibrium to start in; take start='empty'"
            found.append((words, ~(back > 0), None, back))
        return jnp.stack([u, *rest]), found

    def at_rest(self, operator: Any, forcing: Any, state: Any) -> AtRest:
        into, back = jnp.broadcast_arrays(operator.into, operator.back)
        ratio, alone = into / jnp.where(back > 0, back, 1.0), (into == 0) & (back == 0)
        weights = self.weights.reshape(self.state_shape)
        contents = jnp.zeros_like(weights) if state is None else state * weights
        stays = jnp.where(alone, contents[1:], 0.0)  # what neither takes nor lets go
        of_phases = lambda content: jnp.concatenate([content[None], ratio * content + stays]) / weights
        known = None if state is None else jnp.sum(contents, 0) - jnp.sum(stays, 0)
        words = "there is no steady state: phase {where} keeps what it catches; give it a rate_out"
        number = jnp.broadcast_to(jnp.arange(1.0, len(into) + 1).reshape(-1, *[1] * self.grid.ndim), into.shape)
        kept = [(words, ((back <= 0) & ~alone).ravel(), number.ravel(), back.ravel())]
        first = forcing.reshape(self.state_shape)[0]
        return AtRest(operator.mobile, first, self.mobile.weights, known, 1.0 + sum(ratio), of_phases, kept)

    @property
    def state_shape(self) -> tuple[int, ...]:
        return len(self.exchange) + 1, *self.grid.shape

    def of_phase(self, phase: Any) -> Callable[[Any], Any]:
        count, axis = len(self.exchange), -1 - self.grid.ndim
        if phase != "total":
            if not 0 <= phase <= count:
                raise ValueError(f'phase is "total", 0 for what moves, or 1 to {count} here, got {phase!r}')
            return lambda states: jnp.take(states, phase, axis=axis)
        shares = self.weights.reshape(self.state_shape) / jnp.asarray(self.grid.box.volumes)
        return lambda states: jnp.sum(states * shares.astype(states.real.dtype), axis=axis)

    @property
    def _plain(self) -> bool:
        """Whether the contents of a cell are its volume times u."""
        return self.mobile.transport.capacity is None or _is_one(self.mobile.transport.capacity)

    def _in_row(self, contents: Any) -> Any:
        return contents.ravel() if self.grid.ndim == 1 else contents

    def _entering(self, forcing: Any) -> Any:
        still = [jnp.zeros_like(forcing)] * len(self.exchange)
        return self._in_row(jnp.stack([forcing, *still]))

    def _rates(self, t: Any) -> tuple[Any, Any]:
        """k_in and k_out over cells, `(phases, *cells)` each; of length one where both are numbers, which is much quicker."""
        dtype, rates = jnp.result_type(self.grid.edges[0]), [(one.rate_in, one.rate_out) for one in self.exchange]
        if self.grid.mask is None and all(is_number(rate) for pair in rates for rate in pair):
            each = jnp.stack([jnp.stack([jnp.asarray(rate, dtype) for rate in pair]) for pair in rates])
            return tuple(each.T.reshape(2, len(rates), *[1] * self.grid.ndim))
        at = lambda rate: self.grid.average(at_time(rate, t, self.grid.names))
        over = lambda rate: self.grid.within(jnp.broadcast_to(jnp.asarray(at(rate), dtype), self.grid.shape))
        into, back = zip(*((over(one.rate_in), over(one.rate_out)) for one in self.exchange), strict=True)
        each = jnp.stack(back)
        return jnp.stack(into), each if self.grid.mask is None else jnp.where(self.grid.mask, each, 1.0)

    def _exchanged(self, operator: Any, t: Any) -> Phases:
        into, back = self._rates(t)
        capacity = self.mobile.transport.capacity
        if capacity is None or is_number(capacity):
            into = into if capacity is None else into / capacity
        else:
            into = into * jnp.asarray(self.grid.volumes) / self.mobile.weights
        return Phases(operator, into, back, self.grid.shape)

    def _of_rates(self, t: Any) -> list[Condition]:
        found: list[Condition] = []
        where = f"in cell {cell(self.grid.ndim)}"
        for j, (into, back) in enumerate(zip(*self._rates(t), strict=True)):
            for name, rate in (("rate_in", into), ("rate_out", back)):
                words = f"{name} of phase {j + 1} is {{value}} {where}; it must be finite and not negative"
                found.append((words, ~((rate >= 0) & jnp.isfinite(rate)), None, rate))
        return found


def _is_one(capacity: Any) -> bool:
    return isinstance(capacity, np.ndarray) and capacity.ndim == 0 and float(capacity) == 1.0
