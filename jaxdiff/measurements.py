"""What was measured, and how a model predicts it.

A measurement keeps the data. `prepare` turns it, on the host, into a plan: a pytree of arrays that compiled code
takes as an argument, with `predict(equation, initial)`, and what a loss needs: `observation`, `weight`, `size`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.analysis import stationary
from jaxdiff.checks import Checks
from jaxdiff.grid import Grid
from jaxdiff.parameters import numeric, plain
from jaxdiff.schemes import FiniteVolume
from jaxdiff.solve import evolve, prepare

if TYPE_CHECKING:
    import pandas as pd


class Measurement(eqx.Module):
    """What was measured. A new kind needs its family of likelihoods, `prepare`, `split` and a plan."""

    family: eqx.AbstractClassVar[str]  # "gaussian", "multinomial" or "density"

    @property
    def known(self) -> bool:
        """Whether the data carry their noise."""
        return True

    def prepare(self, equation: Any, initial: Any = None, pad: bool = True, **options: Any) -> Plan:
        raise NotImplementedError

    def split(self, fraction: float) -> tuple[Measurement, Measurement]:
        raise NotImplementedError


class Unplannable(ValueError):
    """At these coefficients a measurement cannot be predicted with any effort that is within reason."""


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
        if self.solve is not None:
            values, checks = evolve(equation, self.grid, start, self.solve, observe)
            states.append(values)
            fine = (checks.needed[0] <= self.solve.substeps) & (checks.needed[1] <= self.solve.capacity)
        if self.steady:
            u, found = stationary(equation, self.grid, start)
            states.append(observe(u[None]))
            checks = eqx.tree_at(lambda c: c.needed, checks + found, checks.needed, is_leaf=lambda x: x is None)
        return jnp.concatenate(states) if len(states) > 1 else states[0], checks, fine

    def refined(self, checks: Checks) -> Course:
        """A course that is fine enough for what a run reported."""
        if self.solve is None:
            return self
        try:
            return Course(self.grid, self.solve.refined(checks.needed), self.steady)
        except ValueError as error:
            raise Unplannable(str(error)) from None


def course_of(
    equation: Any, grid: Grid, initial: Any, times: np.ndarray, start: float, options: dict[str, Any]
) -> tuple[Course, np.ndarray]:
    """The course through these times, and where each of them stands in it."""
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


def resolve_initial(own: Any, given: Any, course: bool) -> Any:
    initial = own if given is None else given
    if initial is None and course:
        raise ValueError(
            "the measurement has no initial state; give it one, or let the model return (equation, initial)"
        )
    return plain(initial)


class Readings(Measurement):
    """Values of the field at places and times: one row a reading.

        yᵢ = u(tᵢ, xᵢ) + noise

    grid: where the model is solved; initial: the state at `start`, a number, an array over cells (n,) or a callable of
    position, whose marks are fitted too; None where the model returns one or only steady states are read
    times: (m,) [time], inf is the steady state; positions: (m,) or (m, ndim) [length]; values: (m,) [unit of the field],
    NaN means missing and drops the row; sigma: a number or (m,), standard deviation of a value; start: [time]

    Raises ValueError if shapes differ, nothing is left, a position lies outside the grid, a time before the start, a
    sigma is not positive, or the initial state is not finite.

    >>> import jaxdiff as jd
    >>> grid = jd.Grid.uniform((0.0, 1.0, 50))
    >>> readings = jd.Readings(grid, 0.0, [1.0, 2.0, 2.0], [0.5, 0.5, 0.7], [0.3, 0.6, float("nan")])
    >>> readings.values
    array([0.3, 0.6])
    """

    family: ClassVar[str] = "gaussian"
    grid: Grid
    initial: Any
    times: np.ndarray
    positions: np.ndarray
    values: np.ndarray
    sigma: np.ndarray | None
    start: float = eqx.field(static=True)

    def __init__(
        self, grid: Grid, initial: Any, times: Any, positions: Any, values: Any, sigma: Any = None, start: float = 0.0
    ):
        values = np.asarray(values, float)
        if values.ndim != 1:
            raise ValueError(
                f"values must be one number a row, got shape {values.shape}; pass one time and position for each"
            )
        one = isinstance(positions, tuple)
        positions = np.asarray(positions, float)
        if positions.shape[-1:] == (grid.ndim,) and positions.ndim == (1 if grid.ndim > 1 else 2):
            if len(values) == grid.ndim > 1 and not one:
                raise ValueError(
                    f"positions of {len(values)} values on {grid.ndim} axes may be one place or one coordinate for each, got shape ({grid.ndim},); give one row of {grid.ndim} for each value, or a tuple for one place"
                )
            positions = np.broadcast_to(positions, (*values.shape, grid.ndim))
        if grid.ndim > 1 and positions.shape != (*values.shape, grid.ndim):
            raise ValueError(
                f"positions must be {len(values)} rows of {grid.ndim} coordinates, got shape {positions.shape}; give one row for each value"
            )
        positions = positions[:, 0] if positions.ndim == 2 and grid.ndim == 1 else positions
        columns = {"times": np.asarray(times, float)} | ({"positions": positions} if grid.ndim == 1 else {})
        if sigma is not None:
            columns["sigma"] = np.asarray(sigma, float)
        for name, column in columns.items():
            if column.shape not in ((), values.shape):
                raise ValueError(
                    f"{name} must match the {len(values)} values, got shape {column.shape}; give one for each row"
                )
            columns[name] = np.broadcast_to(column, values.shape)
        kept = ~np.isnan(values)
        if not kept.any():
            raise ValueError(
                f"no reading is left, got {len(values)} values, all missing"
                if len(values)
                else "no reading given, got empty values"
            )
        if np.isinf(values).any():
            raise ValueError(
                f"values must be finite or NaN, got {values[np.isinf(values)][0]} in row {int(np.argmax(np.isinf(values)))}"
            )
        times, positions = columns["times"][kept], columns.get("positions", positions)[kept]
        self.sigma = columns["sigma"][kept] if sigma is not None else None
        if self.sigma is not None and not ((self.sigma > 0) & np.isfinite(self.sigma)).all():
            raise ValueError(
                f"sigma must be positive, got {self.sigma[~((self.sigma > 0) & np.isfinite(self.sigma))][0]}; drop those rows"
            )
        self.start = float(start)
        check_times(times, self.start)
        grid.require_inside(positions, "position")
        self.grid, self.initial = grid, numeric(initial)
        check_initial(self.initial, grid)
        self.times, self.positions, self.values = times, positions, values[kept]

    @classmethod
    def from_table(
        cls,
        table: str | os.PathLike[str] | pd.DataFrame,
        grid: Grid,
        initial: Any,
        *,
        time: str | float,
        position: str | float | Sequence[str | float] | Mapping[str, float | Sequence[float]],
        value: str | None = None,
        sigma: str | float | None = None,
        start: float = 0.0,
    ) -> Readings:
        """Readings from a CSV file or a DataFrame, by the names of the columns.

        time, position, sigma: a column, or one number for all rows; value: a column. On several axes position is a
        sequence of them, ("x", "y"). For a table with a column per sensor, position is {column: position}, or
        {column: (x, y)}, and there is no value.

        >>> import jaxdiff as jd, pandas
        >>> rod = pandas.DataFrame({"x": [10.0, 14.0], "T": [96.14, 80.12]})
        >>> grid = jd.Grid.uniform((0.0, 70.0, 70))
        >>> jd.Readings.from_table(rod, grid, None, time=float("inf"), position="x", value="T").positions
        array([10., 14.])
        """
        from jaxdiff import tables

        frame = tables.read(table)
        if isinstance(position, Mapping):
            columns = tables.wide(frame, time=time, positions=position, sigma=sigma)
        elif value is None:
            raise TypeError("value must name the column of readings, got None; or give position={column: position}")
        else:
            columns = tables.long(frame, time=time, position=position, value=value, sigma=sigma)
        times, positions, values, deviations = columns
        return cls(grid, initial, times, positions.reshape(len(values), -1), values, deviations, start)

    def rows(self, kept: np.ndarray) -> Readings:
        """Only these rows."""
        sigma = None if self.sigma is None else self.sigma[kept]
        return Readings(
            self.grid, self.initial, self.times[kept], self.positions[kept], self.values[kept], sigma, self.start
        )

    @property
    def last(self) -> np.ndarray:
        """(m,) the row before each one in time at the same position, -1 for none."""
        places = self.positions.reshape(len(self.times), -1)
        order = np.lexsort((self.times, *places.T))
        one, two = order[:-1], order[1:]
        follows = (places[one] == places[two]).all(1) & (self.times[one] < self.times[two])
        last = np.full(len(order), -1)
        last[two[follows]] = one[follows]
        return last

    def split(self, fraction: float) -> tuple[Readings, Readings]:
        """(first, last) part in time; rows of one single time are held out evenly instead."""
        distinct = np.unique(self.times)
        if len(distinct) > 1:
            held = self.times > np.quantile(self.times, 1 - fraction, method="lower")
            held = held if held.any() else self.times == distinct[-1]
        else:
            count = max(1, round(fraction * len(self.times)))
            held = np.zeros(len(self.times), bool)
            held[np.linspace(0, len(held) - 1, count + 2).astype(int)[1:-1]] = True
        if held.all():
            raise ValueError(f"validation={fraction:g} leaves no reading to fit, got {len(held)} in all; hold out less")
        return self.rows(~held), self.rows(held)

    @property
    def known(self) -> bool:
        return self.sigma is not None

    def prepare(self, equation: Any, initial: Any = None, pad: bool = True, **options: Any) -> ReadingsPlan:
        initial = resolve_initial(self.initial, initial, bool((self.times < np.inf).any()))
        course, row = course_of(equation, self.grid, initial, self.times, self.start, options)
        sensors, sensor = np.unique(self.positions, axis=0, return_inverse=True)
        count = len(self.values)
        dense = len(sensors) * (row.max() + 1) <= 8 * count
        weight = np.ones(count) if self.sigma is None else self.sigma**-2
        pad_to = lambda column, length, fill: np.concatenate(
            [column, np.full((length - len(column), *column.shape[1:]), fill, column.dtype)]
        )
        rows = bucket(count) if pad else count
        places, which = (sensors, bucket(len(sensors))) if dense else (self.positions, rows)
        return ReadingsPlan(
            observation=pad_to(self.values, rows, 0),
            weight=pad_to(weight, rows, 0),
            size=np.float64(count),
            constant=np.float64(0.0 if self.sigma is None else np.log(self.sigma).sum()),
            course=course,
            row=pad_to(row, rows, 0),
            place=pad_to(places, which, places[-1]),
            sensor=pad_to(sensor, rows, 0) if dense else None,
            last=pad_to(self.last, rows, -1),
            known=self.known,
        )


class ReadingsPlan(Plan):
    family: ClassVar[str] = "gaussian"
    observation: Any  # (m,), padded
    weight: Any  # 1/sigma², 1 without sigma, 0 for padding
    size: Any
    constant: Any  # Σ log sigma
    course: Course
    row: Any  # (m,) which time
    place: Any  # positions of the sensors, or of each row
    sensor: Any  # (m,) which sensor; None: a position a row
    last: Any  # (m,) which row came before at the same sensor, -1 for none
    known: bool = eqx.field(static=True)

    def predict(self, equation: Any, initial: Any) -> Prediction:
        grid = self.course.grid
        if self.sensor is None:
            states, checks, fine = self.course(equation, initial)
            read = jax.vmap(lambda u, x: grid.interpolate(u, x[None])[0])
            return Prediction(read(states[self.row], self.place), checks, fine)
        at_sensors, checks, fine = self.course(equation, initial, lambda states: grid.interpolate(states, self.place))
        return Prediction(at_sensors[self.row, self.sensor], checks, fine)

    def renewed(self, measurement: Measurement, equation: Any, checks: Checks) -> ReadingsPlan:
        return eqx.tree_at(lambda plan: plan.course, self, self.course.refined(checks))
