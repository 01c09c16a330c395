"""What an equation on a grid is to all that follows: dN/dt = A(t) N + b(t) for the contents N of the cells."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff.discretisation.separability import depends
from jaxdiff.model.coefficients import jumps, restricted
from jaxdiff.model.equations import Transport
from jaxdiff.model.grid import Grid
from jaxdiff.runtime.conditions import Condition

NO_FACES = "a Tensor moves content along oblique edges, so that no flux is that of a face; use jd.PerAxis"


class TimeDependence(NamedTuple):
    """How time enters: whether the operator varies, whether the forcing is any function of time, and the knots of measured
    series between which it is linear."""

    operator: bool = False
    forcing: bool = False
    knots: Any = ()

    @property
    def steady(self) -> bool:
        return not (self.operator or self.forcing or self.knots)


class AtRest(NamedTuple):
    """A steady state as one of what moves: A and b, contents per unit of u, what was in each cell and a closed domain keeps,
    what a cell holds in all phases of that in the one that moves, and the state from contents `(*cells,)`; what must not be."""

    operator: Any
    forcing: Any
    weights: Any
    contents: Any
    multiplicity: Any
    state: Callable[[Any], Any]
    conditions: Any = ()


@dataclass(frozen=True)
class System(ABC):
    """The semi-discrete equation, dN/dt = A(t) N + b(t), N = m u.

    What `Equation.semidiscretise` returns. A system of one's own needs `operator`; the rest has defaults.

    | name                       | what                                                          | default              |
    |----------------------------|---------------------------------------------------------------|----------------------|
    | `operator(t)`              | A at time t [1/time], such as `jaxdiff.operators.Dense`         |                      |
    | `forcing(t, rates=None)`   | b at time t `(*cells,)`, at the rates of another time if given  | zero                 |
    | `weights`                  | m, contents per unit of u                                     | volumes of the cells |
    | `time_dependence()`        | which of A and b vary in time, and how                        | where t enters       |
    | `jumps`                    | times at which a coefficient jumps or bends                   | those it states      |
    | `formed(t)`                | A, b and conditions at time t, what they share formed once     | each by itself       |
    | `conditions(t)`            | what must not be, see `jaxdiff.runtime.conditions`            | none                 |
    | `forced`                   | whether b may differ from zero                                | True                 |
    | `monotone`                 | whether what is not negative stays so                         | True                 |
    | `periodic`                 | whether the ends of the one axis are one point                | False                |
    | `basis`                    | modes in which A is diagonal: it has `diagonal(basis)`        | None                 |
    | `exits(t)`                 | rates at which contents leave for good, by the way out        | "killing": all       |
    """

    equation: Any
    grid: Grid

    monotone: ClassVar[bool] = True
    at_centers: ClassVar[bool] = False  # whether states are values at the centres of cells, and no averages
    among_states: ClassVar[bool] = (
        False  # whether cells are states, in a row whatever their shape, and nothing is forced
    )

    @abstractmethod
    def operator(self, t: Any) -> Any:
        """A at time t."""

    def forcing(self, t: Any, rates: Any = None) -> Any:
        """b at time t, `(*cells,)`; at the rates of another time, if one is given."""
        return jnp.zeros(self.grid.shape, jnp.result_type(self.weights))

    def at(self, t: Any, u: Any = None) -> tuple[Any, Any]:
        """(A, b) at time t; of the state u they do not depend yet."""
        return self.operator(t), self.forcing(t)

    def formed(self, t: Any) -> tuple[Any, Any, list[Condition]]:
        """A, b and conditions at time t."""
        return *self.at(t), self.conditions(t)

    @property
    def forced(self) -> bool:
        """Whether b may differ from zero."""
        return True

    @property
    def periodic(self) -> bool:
        """Whether the ends of the one axis are one point."""
        return False

    @property
    def may_vanish(self) -> bool:
        """Whether a diffusivity may be zero all along an axis, so that content goes one way between cells, or none."""
        return False

    @property
    def basis(self) -> Any:
        """The modes in which A is diagonal, if structure tells."""
        return None

    def numerical_diffusion(self, t: Any) -> dict[str, Any]:
        """{axis: the largest |f| h/2 [length²/time]} along axes where D is known to be zero and the drift goes upwind."""
        return {}

    @property
    def weights(self) -> Any:
        """Contents per unit of u, `(*cells,)`."""
        return jnp.asarray(self.grid.volumes)

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Of a state as a solution holds it: that of the cells, after the number of phases where there are several."""
        return self.grid.shape

    def begin(self, u: Any, t: Any) -> tuple[Any, list[Condition]]:
        """The state at time t that an initial state u stands for, and what must not be of it."""
        if jnp.shape(u) != self.state_shape:
            raise ValueError(f"initial has shape {jnp.shape(u)}, states here have {self.state_shape}")
        return u, []

    def at_rest(self, operator: Any, forcing: Any, state: Any) -> AtRest:
        """What a steady state asks of A and b, and of the state `(*state_shape)` that it came from, if one is known."""
        weights, contents = self.weights, None if state is None else state * self.weights
        return AtRest(operator, forcing, weights, contents, 1.0, lambda content: content / weights)

    @property
    def eliminated(self) -> float:
        """How many numbers an elimination of its states holds, where that is more than some for each state."""
        return 0.0

    def cut_off(self, operator: Any, content: Any) -> list[Condition]:
        """What must not be of contents `(n,)` at rest, where states are left out."""
        return []

    def of_phase(self, phase: Any) -> Callable[[Any], Any]:
        """What a measurement of one phase, "total" or its number, sees of states `(…, *state_shape)`: `(…, *cells)`."""
        if phase not in ("total", 0):
            raise ValueError(f"a phase is one of an equation with exchange=, got phase={phase!r}; leave it out")
        return lambda states: states

    def fluxes(self, t: Any, u: Any, k: int = 0) -> Any:
        """∫J dA, upwards, through all faces across axis k at each of their places, `(n + 1,)`, for probes of fluxes."""
        raise ValueError(
            f"{type(self).__name__} has no fluxes(t, u, k), of which this probe reads; write it, or read otherwise"
        )

    def faces(self, t: Any, k: int = 0) -> tuple[Any, Any, Any]:
        """f, b and c of the flux f u₋ − b u₊ + c through every face across axis k, n + 1 along it."""
        raise ValueError(f"{type(self).__name__} has no faces(t, k), of which a current is made; write it")

    @property
    def ways(self) -> tuple[str, ...]:
        """The names of the ways out, in the order of `exits`."""
        return ("killing",)

    def exits(self, t: Any) -> dict[str, Any]:
        """The rates [1/time] at which contents leave for good, each way out by its name, shaped as `weights`; their sum is the
        `leak` of the operator."""
        return {"killing": self.operator(t).leak}

    def at_wall(self, t: Any, u: Any, k: int, end: int) -> Any:
        """The mean value at one end of axis k, 0 or -1, for probes of walls."""
        raise ValueError(
            f"{type(self).__name__} has no at_wall(t, u, k, end), of which this probe reads; write it, or read otherwise"
        )

    def conditions(self, t: Any) -> list[Condition]:
        """What must not be; the default, rates that say they are symmetric and are not."""
        operator = self.operator(t)
        if not (operator.diffusive and hasattr(operator, "asymmetry")):
            return []
        words = (
            "rates say diffusive=True, that m_j ratesᵢⱼ = m_i ratesⱼᵢ, and differ from it by {value}; leave that out"
        )
        off, least = operator.asymmetry(self.weights), jnp.sqrt(jnp.finfo(operator.loss.dtype).eps)
        return [(words, off > least, 0.0, off)]

    def require_operator(self) -> None:
        """Raise unless `operator` gives one, of these cells, that is as symmetric as the equation says."""
        name, operator = type(self).__name__, jax.eval_shape(self.operator, 0.0)
        if not hasattr(operator, "resolvent"):
            kind = type(operator).__name__
            raise TypeError(f"{name}.operator must return an operator, such as jaxdiff.operators.Dense, got {kind}")
        if (shape := getattr(operator, "leak", self.weights).shape) != self.grid.shape:
            raise ValueError(f"{name}.operator must act on the {self.grid.shape} cells of the grid, got {shape}")
        if self.equation.driftless and not operator.diffusive:
            raise ValueError(
                f"{type(self.equation).__name__} says driftless = True, and its operator does not say diffusive=True; say neither, or both where m_j ratesᵢⱼ = m_i ratesⱼᵢ"
            )

    def time_dependence(self) -> TimeDependence:
        """As the programs of `operator` and `forcing` tell, of which any result may depend on t."""
        return TimeDependence(*(any(depends(function, 0.0)) for function in (self.operator, self.forcing)))

    @property
    def jumps(self) -> list[Any]:
        """The times at which a coefficient says that it jumps or bends."""
        return jumps(self.equation)

    @property
    def operator_varies(self) -> bool:
        return self.time_dependence().operator

    @property
    def forcing_varies(self) -> bool:
        return self.time_dependence().forcing

    @property
    def knots(self) -> Any:
        return self.time_dependence().knots


def uneven_axis(grid: Grid) -> str | None:
    """The name of the first axis whose cells are known to differ in width."""
    known = (not (equal or isinstance(e, jax.core.Tracer)) for e, equal in zip(grid.edges, grid.equal, strict=True))
    return next((name for name, differ in zip(grid.names, known, strict=True) if differ), None)


class TransportSystem(System):
    """An equation of transport on a grid: what its finite volumes and its modes have in common."""

    @cached_property
    def transport(self) -> Transport:
        transport = self.equation.transport()
        if self.grid.mask is None:
            return transport
        return Transport(*(restricted(each, self.grid) for each in transport[:5]), *transport[5:])

    @cached_property
    def sides(self) -> tuple[Any, ...]:
        """The boundaries of the lower and upper side of every axis."""
        return self.transport.sides(self.grid)

    @property
    def driftless(self) -> bool:
        return self.transport.drift is None

    def require_operator(self) -> None:
        if self.equation.driftless and not self.driftless:
            raise ValueError(
                f"{type(self.equation).__name__} says driftless = True and has a drift; leave one of them out"
            )

    def faces(self, t: Any, k: int = 0) -> tuple[Any, Any, Any]:
        """f, b and c of the flux f u₋ − b u₊ + c through every face across axis k, n + 1 along it."""
        raise ValueError(NO_FACES)

    def walls(self, t: Any, k: int = 0) -> tuple[Any, Any]:
        """p and q of the value p u + q at the lower and the upper wall of axis k, two along it."""
        raise ValueError(NO_FACES)

    def fluxes(self, t: Any, u: Any, k: int = 0) -> Any:
        """∫J dA, upwards, through all faces across axis k at each of their places, `(n + 1,)`."""
        forth, back, inflow = (jnp.moveaxis(each, k, -1) for each in self.faces(t, k))
        u = jnp.moveaxis(u, k, -1)
        before, after = jnp.concatenate([u[..., -1:], u], -1), jnp.concatenate([u, u[..., :1]], -1)
        return jnp.sum(forth * before - back * after + inflow, axis=tuple(range(u.ndim - 1)))

    def at_wall(self, t: Any, u: Any, k: int, end: int) -> Any:
        """The mean value at one end of axis k, 0 or -1."""
        share, offset = (jnp.moveaxis(each, k, -1)[..., end] for each in self.walls(t, k))
        areas = jnp.moveaxis(jnp.asarray(self.grid.volumes), k, -1)[..., end]
        values = jnp.where(areas > 0, share * jnp.moveaxis(u, k, -1)[..., end] + offset, 0.0)
        return jnp.sum(values * areas) / jnp.sum(areas)
