"""The states of a model at the times of a measurement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.discretisation.schemes import FiniteVolume, semidiscrete
from jaxdiff.integration.evolve import evolve
from jaxdiff.integration.options import SolverOptions
from jaxdiff.integration.plan import prepare
from jaxdiff.integration.steady import stationary
from jaxdiff.model.exchange import start_of
from jaxdiff.model.grid import Grid
from jaxdiff.parameters import plain
from jaxdiff.quantities import numbers, refuse
from jaxdiff.runtime.conditions import Checks, check

_NORMALISED = 1e-3  # from 1


class Unplannable(ValueError):
    """At these coefficients a measurement cannot be predicted with any effort that is within reason."""

    def __reduce__(self) -> Any:
        return ValueError, self.args


Unplannable.__name__ = Unplannable.__qualname__ = "ValueError"  # what a user sees of it, wherever it comes out
Unplannable.__module__ = "builtins"


class StartNoise(NamedTuple):
    """Independent errors of a start that was read at a few places: the profile (k, *cells) that a standard deviation of each
    gives, in units of that of the readings where they have no sigma."""

    profiles: np.ndarray


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StatesAtTimes:
    """The states at the distinct times of a measurement: stepped ones first, the steady one last."""

    grid: Grid
    solve: Any  # plan of the solver, None if only the steady state is wanted
    steady: bool = field(metadata={"static": True})
    phase: Any = field(metadata={"static": True}, default="total")  # which of them is seen
    normalised: bool = field(metadata={"static": True}, default=False)  # whether the start, a wave, must be

    def __call__(self, equation: Any, initial: Any, observe: Any = lambda states: states) -> tuple[Any, Checks, Any]:
        """(observed states, checks, whether the plan of the solver is fine enough for these coefficients)."""
        states, needed, fine = [], None, True
        if callable(initial) and equation.wave:
            initial = equation.on_cells(self.grid, initial)
        start = None if initial is None else initial if equation.wave else start_of(self.grid, initial)
        checks = check([self.grid.unresolved(initial, "initial")]) if callable(initial) else Checks()
        if self.normalised:
            norm = semidiscrete(equation, self.grid, FiniteVolume())[0].norm(jnp.asarray(start))
            words = "the wave at the start has the norm {value}, and readings are those of the norm 1; divide it by that, or scale what is read by jd.Observed"
            checks = checks + check([(words, jnp.abs(norm - 1) > _NORMALISED, 0.0, norm)])
        if self.solve is not None:
            values, found = evolve(equation, self.grid, start, self.solve, observe, self.phase)
            checks, needed, fine = checks + found, found.needed, self.solve.allows(found.needed)
            states.append(jnp.where(fine, values, jnp.nan) if self.solve.method.all_or_none else values)
        if self.steady:
            u, found = stationary(equation, self.grid, start)
            checks = checks + found
            of_phase = semidiscrete(equation, self.grid, FiniteVolume())[0].of_phase(self.phase)
            states.append(observe(of_phase(u[None])))
        checks = eqx.tree_at(lambda c: c.needed, checks, needed, is_leaf=lambda x: x is None)
        return jnp.concatenate(states) if len(states) > 1 else states[0], checks, fine

    @property
    def in_modes(self) -> bool:
        """Whether time is followed in modes, which are those of equal cells."""
        return self.solve is not None and self.solve.method.in_modes

    def refined(self, checks: Checks) -> StatesAtTimes:
        """The same by a plan that is fine enough for what a run reported."""
        if self.solve is None:
            return self
        try:
            return replace(self, solve=self.solve.refined(checks.needed))
        except ValueError as error:
            raise Unplannable(str(error)) from None


def states_at_times(
    measurement: Any,
    equation: Any,
    initial: Any,
    options: SolverOptions,
    phase: Any = None,
    as_they_are: bool = False,
) -> tuple[StatesAtTimes, np.ndarray]:
    """The states at the times of a measurement, and where each time stands among them; `initial` is the model's, `phase` another
    than that of the measurement; as_they_are: whether they are not normalised before they are seen."""
    grid, times, start = measurement.grid, measurement.times, measurement.start
    phase = measurement.phase if phase is None else phase
    if initial is None and measurement.initial is None and (times < np.inf).any():
        raise ValueError(
            "the measurement has no initial state; give it one, or let the model return (equation, initial)"
        )
    distinct, where = np.unique(times, return_inverse=True)
    steady = bool(distinct[-1] == np.inf)
    if steady:
        system = semidiscrete(equation, grid, FiniteVolume())[0]
        if system.operator_varies or system.forcing_varies or system.knots:
            raise ValueError(
                "a time of inf is the steady state, which needs coefficients that are constant in time; drop those rows"
            )
    finite = distinct[:-1] if steady else distinct
    if not len(finite):
        return StatesAtTimes(grid, None, True, phase), where
    lead = int(finite[0] > start)
    outputs = np.concatenate([[start], finite]) if lead else finite
    if len(outputs) == 1:  # only the start itself
        outputs = np.append(outputs, outputs + 1.0)
    solve = prepare(equation, grid, outputs, options, observed=True)
    normalised = as_they_are and equation.wave and not equation.imaginary_time
    return StatesAtTimes(grid, solve, steady, phase, normalised), np.where(
        times == np.inf, solve.outputs + 1, where + lead
    )


def start_inside(initial: Any, grid: Grid) -> Any:
    """An initial state, zero outside the mask of its grid where it is an array over cells; of counts as an array over states."""
    if isinstance(initial, Mapping):
        return grid.delta(initial)
    if grid.mask is None or isinstance(initial, jax.core.Tracer) or callable(initial):
        return initial
    return np.where(grid.mask, initial, 0.0) if np.shape(initial) == grid.shape else initial


def check_initial(initial: Any, grid: Grid) -> None:
    value = plain(initial)
    if value is None or callable(value) or isinstance(value, jax.core.Tracer):
        return
    if not isinstance(value, (np.ndarray, jax.Array)):
        raise TypeError(
            f"initial must be a number, an array over cells or a callable of position, got {type(value).__name__}"
        )
    if value.shape and (value.shape[-grid.ndim :] != grid.shape or value.ndim > grid.ndim + 1):
        raise ValueError(
            f"initial must be a number, a callable or an array of shape {grid.shape}, got shape {value.shape}"
        )
    if not np.all(np.isfinite(value)):
        raise ValueError(
            f"initial must be finite, got {int(np.sum(~np.isfinite(value)))} values that are NaN or infinite; fill them in"
        )


def check_times(times: np.ndarray, start: float) -> None:
    unknown = lambda i: f"times must be numbers (inf is the steady state), got {times[i]}; drop those rows"
    refuse(~(times > -np.inf), unknown)
    if (times < start).any():
        raise ValueError(
            f"times must not come before the start, {start:g}, got {times.min():g}; set start= or drop those rows"
        )


def checked_start_noise(sigma: Any, initial: Any, grid: Grid) -> Any:
    if sigma is None or isinstance(sigma, StartNoise):
        return sigma
    sigma = numbers(sigma, "initial_sigma")
    if sigma.shape not in ((), grid.shape) or not (np.isfinite(sigma) & (sigma >= 0)).all():
        raise ValueError(f"initial_sigma must be a number or {grid.shape} of them, from zero up, got {sigma}")
    if np.any(sigma > 0) and np.shape(plain(initial)) != grid.shape:
        raise ValueError(
            f"initial_sigma is that of an initial state that is an array over cells, {grid.shape}; leave it out"
        )
    return sigma
