"""What was measured, and how a model predicts it.

A measurement keeps the data. `prepare` turns it, on the host, into a plan: a pytree of arrays that compiled code
takes as an argument, with `predict(equation, initial)`, and what a loss needs: `observation`, `weight`, `size`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.discretisation.schemes import FiniteVolume
from jaxdiff.integration.evolve import evolve, prepare
from jaxdiff.integration.steady import stationary
from jaxdiff.model.grid import Grid
from jaxdiff.parameters import plain
from jaxdiff.runtime.conditions import Checks, check


class Measurement(eqx.Module):
    """What was measured. A new kind needs its family of likelihoods, `prepare`, `split` and a plan."""

    family: eqx.AbstractClassVar[str]  # "gaussian", "multinomial" or "density"

    @property
    def known(self) -> bool:
        """Whether the data carry their noise."""
        return True

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of a fit must know of the data, in words."""
        return ()

    def prepare(self, equation: Any, initial: Any = None, pad: bool = True, **options: Any) -> Plan:
        raise NotImplementedError

    def split(self, fraction: float) -> tuple[Measurement, Measurement]:
        raise NotImplementedError


class Unplannable(ValueError):
    """At these coefficients a measurement cannot be predicted with any effort that is within reason."""

    def __reduce__(self) -> Any:
        return ValueError, self.args


Unplannable.__name__ = Unplannable.__qualname__ = "ValueError"  # what a user sees of it, wherever it comes out
Unplannable.__module__ = "builtins"


class Prediction(NamedTuple):
    """What a plan predicts, the solver's checks, and whether the plan still resolves the coefficients."""

    values: Any
    checks: Checks = Checks()
    resolved: Any = True


class Plan(eqx.Module):
    """A measurement made ready for compiled code.

    observation, weight: what was seen, and its weight (zero for padding), in the shape a loss expects
    size: number of data; known: whether the data carry their noise
    """

    family: eqx.AbstractClassVar[str]
    observation: eqx.AbstractVar[Any]
    weight: eqx.AbstractVar[Any]
    size: eqx.AbstractVar[Any]
    known: eqx.AbstractVar[bool]

    def predict(self, equation: Any, initial: Any) -> Prediction:
        """The prediction in the shape of the observation; traceable."""
        raise NotImplementedError

    def holding(self, data: dict[str, Any]) -> Plan:
        """The same plan with other data of the same shapes, {field: array}."""
        return eqx.tree_at(lambda plan: [getattr(plan, name) for name in data], self, list(data.values()))

    def renewed(self, measurement: Measurement, equation: Any, checks: Checks) -> Plan:
        """A plan that resolves these coefficients, where `predict` said that this one does not."""
        raise NotImplementedError


def bucket(count: int) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, ...: padded to it, other numbers of rows do not compile again."""
    power = 1 << max(count - 1, 0).bit_length()
    return power * 3 // 4 if power >= 4 and count <= power * 3 // 4 else power


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Course:
    """The states at the distinct times of a measurement: stepped ones first, the steady one last."""

    grid: Grid
    solve: Any  # plan of the solver, None if only the steady state is wanted
    steady: bool = field(metadata={"static": True})

    def __call__(self, equation: Any, initial: Any, observe: Any = lambda states: states) -> tuple[Any, Checks, Any]:
        """(observed states, checks, whether the plan of the solver is fine enough for these coefficients)."""
        states, checks, fine = [], Checks(), True
        start = None if initial is None else self.grid.average(initial)
        seen = [self.grid.unresolved(initial, "initial")] if callable(initial) else []
        if self.solve is not None:
            values, checks = evolve(equation, self.grid, start, self.solve, observe)
            fine = self.solve.holds(checks.needed)
            # Sums of too few polynomials are not even rough.
            states.append(jnp.where(fine, values, jnp.nan) if self.solve.method == "lattice" else values)
        if self.steady:
            u, found = stationary(equation, self.grid, start)
            states.append(observe(u[None]))
            checks = eqx.tree_at(lambda c: c.needed, checks + found, checks.needed, is_leaf=lambda x: x is None)
        if seen:
            checks = eqx.tree_at(lambda c: c.needed, check(seen) + checks, checks.needed, is_leaf=lambda x: x is None)
        return jnp.concatenate(states) if len(states) > 1 else states[0], checks, fine

    def refined(self, checks: Checks) -> Course:
        """A course that is fine enough for what a run reported."""
        if self.solve is None:
            return self
        try:
            return Course(self.grid, self.solve.refined(checks.needed), self.steady)
        except ValueError as error:
            raise Unplannable(str(error)) from None


def course_of(measurement: Any, equation: Any, initial: Any, options: dict[str, Any]) -> tuple[Course, np.ndarray]:
    """The course through the times of a measurement, and where each of them stands in it; `initial` is the model's."""
    grid, times, start = measurement.grid, measurement.times, measurement.start
    if initial is None and measurement.initial is None and (times < np.inf).any():
        raise ValueError(
            "the measurement has no initial state; give it one, or let the model return (equation, initial)"
        )
    distinct, where = np.unique(times, return_inverse=True)
    steady = bool(distinct[-1] == np.inf)
    if steady:
        check_steady(equation, grid)
    finite = distinct[:-1] if steady else distinct
    if not len(finite):
        return Course(grid, None, True), where
    lead = int(finite[0] > start)
    outputs = np.concatenate([[start], finite]) if lead else finite
    if len(outputs) == 1:  # only the start itself
        outputs = np.append(outputs, outputs + 1.0)
    solve = prepare(equation, grid, outputs, **options)
    if solve.method == "direct":
        # Many times share their resolvents at 1e-8, far below any noise; padded times spare a compilation.
        extra = bucket(len(outputs) - 1) - len(outputs) + 1
        last = outputs[-1]  # all but repeated: a second contour for padding would double the work
        outputs = np.concatenate([outputs, last + np.spacing(last) * np.arange(1, extra + 1)])
        solve = prepare(equation, grid, outputs, **{"tolerance": 1e-8, **options})
    elif solve.method == "segments":  # as far below any noise
        solve = prepare(equation, grid, outputs, **{"tolerance": 1e-7, **options})
    return Course(grid, solve, steady), np.where(times == np.inf, len(outputs), where + lead)


def check_steady(equation: Any, grid: Grid) -> None:
    system = FiniteVolume().systems(equation, grid)[0]
    if system.operator_varies or system.forcing_varies or system.knots:
        raise ValueError(
            "a time of inf is the steady state, which needs coefficients that are constant in time; drop those rows"
        )


def check_initial(initial: Any, grid: Grid) -> None:
    value = plain(initial)
    if value is None or callable(value) or isinstance(value, jax.core.Tracer):
        return
    if not isinstance(value, (np.ndarray, jax.Array)):
        raise TypeError(
            f"initial must be a number, an array over cells or a callable of position, got {type(value).__name__}"
        )
    if value.shape not in ((), grid.shape):
        raise ValueError(
            f"initial must be a number, a callable or an array of shape {grid.shape}, got shape {value.shape}"
        )
    if not np.all(np.isfinite(value)):
        raise ValueError(
            f"initial must be finite, got {int(np.sum(~np.isfinite(value)))} values that are NaN or infinite; fill them in"
        )


def check_times(times: np.ndarray, start: float) -> None:
    if np.isnan(times).any() or (times == -np.inf).any():
        raise ValueError(
            f"times must be numbers (inf is the steady state), got {times[~(times > -np.inf)][0]}; drop those rows"
        )
    if (times < start).any():
        raise ValueError(
            f"times must not come before the start, {start:g}, got {times.min():g}; set start= or drop those rows"
        )
