"""Predictors: how a measurement is predicted in compiled code."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdiff.measurements.states_at_times import StatesAtTimes
from jaxdiff.model.observed import Observed
from jaxdiff.runtime.conditions import Checks


class Prediction(NamedTuple):
    """What is predicted, the solver's checks, and whether the plans behind it still resolve the coefficients."""

    values: Float[Array, "m ..."]
    checks: Checks = Checks()
    resolved: Any = True


class Predictor(eqx.Module):
    """A measurement made ready for compiled code, which takes it as an argument: a pytree of arrays.

    family, on_cells, known: as of the measurement
    observation, weight: the data, and their weight (zero for padding), in the shape a loss expects; size: number of rows
    states_at_times: of those on cells, the states that a prediction is read off
    """

    on_cells: ClassVar[bool] = True
    of_cells: ClassVar[bool] = False  # whether a prediction is (m, cells), the share of each cell
    observation: eqx.AbstractVar[Any]
    weight: eqx.AbstractVar[Any]
    size: eqx.AbstractVar[Any]
    known: eqx.AbstractVar[bool]
    if TYPE_CHECKING:

        @property
        def states_at_times(self) -> StatesAtTimes: ...

    @property
    @abstractmethod
    def family(self) -> str:
        """Of likelihoods, as of the measurement."""

    @abstractmethod
    def predict(self, equation: Any, initial: Any) -> Prediction:
        """The prediction in the shape of the observation; traceable."""

    def observed(self, model: Observed, experiment: int = 0) -> Prediction:
        """The prediction as the instrument of a model sees it; experiment: the number of the measurement."""
        found = self.predict(model.equation, model.initial)
        if model.observe is None:
            return found
        rows = self.rows
        number = jnp.full(jnp.shape(found.values), experiment)
        return found._replace(values=model.seen(found.values, {**rows, "experiment": number}))

    def check_observed(self, model: Observed, experiment: int) -> None:
        """Raise ValueError where the instrument of a model has no number for a sensor or an experiment."""
        if model.observe is not None:
            model.check_indices({**self.rows, "experiment": experiment})

    @property
    def rows(self) -> dict[str, Any]:
        """What is known of each reading, {name: (m,)}: t, x, …, sensor."""
        raise TypeError(f"observe is of jd.Readings, got {type(self).__name__}; return the equation alone for others")

    def holding(self, data: dict[str, Any]) -> Predictor:
        """The same with other data of the same shapes, {field: array}."""
        return eqx.tree_at(lambda one: [getattr(one, name) for name in data], self, list(data.values()))

    def of_many(self, data: dict[str, Any]) -> tuple[Predictor, dict[str, Any]]:
        """One for many data sets, and what it holds of each, {field: (B, …)}, from what their stack says of them; the default, as they are."""
        return self, data

    def summed(self) -> Predictor:
        """The same for a loss that needs no more than the sum of log densities (`Loss.sums`); the default, itself."""
        return self

    def by_rows(self) -> Predictor:
        """The same for minibatches, which leave out rows by their weight: the undoing of `summed`; the default, itself."""
        return self

    def renewed(self, measurement: Any, equation: Any, checks: Checks) -> Predictor:
        """One that resolves these coefficients, where `predict` said that this one does not."""
        return eqx.tree_at(lambda one: one.states_at_times, self, self.states_at_times.refined(checks))

    def beside(self, others: Sequence[Predictor]) -> Predictor:
        """One that stays a program with others, some of which were renewed; the default, itself."""
        return self

    def of_other(self, measurement: Any, equation: Any, *more: Any) -> Predictor:
        """One of another data set of this design, planned as this one was where plans are dear; more: as `prepare` takes them; the
        default, planned anew."""
        found: Predictor = measurement.prepare(equation, *more)
        return found

    def left_out(self, equation: Any, initial: Any) -> tuple[str, ...]:
        """What predictions lack at these coefficients, which are numbers, in words; the default, nothing."""
        return ()

    def shown(self, prediction: Any) -> Any:
        """What a user sees of a prediction; the default, itself."""
        return prediction

    def noiseless(self, prediction: np.ndarray) -> np.ndarray | None:
        """Observations that a model fits best by this prediction; None: not known, and the size of cells is not judged."""
        return None

    @property
    def numbers_held(self) -> float:
        """Numbers that a prediction holds at once, of each fit of a batch."""
        grid, solve = self.states_at_times.grid, self.states_at_times.solve
        return float(np.prod(grid.shape)) * (1.0 if solve is None else solve.method.states_in_batch(solve.outputs))

    @property
    def places(self) -> np.ndarray | None:
        """(n, ndim) positions at which states are interpolated; None: they are not."""
        return None


class StatesPredictor(Predictor):
    """The predictor of a measurement of the states at its times."""

    known: bool = eqx.field(static=True)
    observation: Any
    weight: Any
    size: Any
    states_at_times: StatesAtTimes
    row: Any  # (m,) which of the states


class RowsPredictor(StatesPredictor):
    """The predictor of numbers with normal noise, one a row.

    weight: (m,) 1/sigma², 1 without sigma, 0 for padding; more where noise is correlated, see `Readings.noise`
    constant: half the logarithm of the determinant of the noise, Σ log sigma where it is independent
    last: (m,) which row came before at the same sensor, -1 for none; carry: (m,) what share of the residual there is expected
    in that of each row
    """

    family: ClassVar[str] = "gaussian"
    constant: Any
    last: Any
    carry: Any
    instant: Any  # (m,) the time of each reading
    number: Any  # (m,) which sensor, in order of position, -1 for none

    @property
    def rows(self) -> dict[str, Any]:
        return {"t": self.instant, "sensor": self.number}

    def noiseless(self, prediction: np.ndarray) -> np.ndarray:
        return prediction

    def correlated(self, measurement: Any, tau: Any) -> Predictor:
        """The same for noise of this correlation time, a number or (m,)."""
        return self.holding(padded_noise(measurement, tau, len(self.weight)))


def padded(column: np.ndarray, length: int, fill: Any = 0) -> np.ndarray:
    """A column with rows that count for nothing."""
    return np.concatenate([column, np.full((length - len(column), *column.shape[1:]), fill, column.dtype)])


def padded_noise(measurement: Any, tau: Any, length: int) -> dict[str, Any]:
    """What a predictor holds of the noise of rows, padded."""
    filled = lambda name, part: padded(part, length, -1 if name == "last" else 0) if np.ndim(part) else part
    return {name: filled(name, part) for name, part in measurement.noise(tau).items()}


def distinct(positions: np.ndarray) -> np.ndarray:
    """The different positions (k,) or (k, ndim) in their order, also of rows whose value is missing."""
    return np.unique(positions[np.isfinite(positions).reshape(len(positions), -1).all(1)], axis=0)


def numbered(positions: np.ndarray, sensors: np.ndarray) -> np.ndarray:
    """Which of the sensors (k,) or (k, ndim) stands at each position, -1 for none."""
    both, where = np.unique(np.concatenate([sensors, positions]), axis=0, return_inverse=True)
    number = np.full(len(both), -1)
    number[where.ravel()[: len(sensors)]] = np.arange(len(sensors))
    return number[where.ravel()[len(sensors) :]]


class ReadPredictor(StatesPredictor):
    """The predictor of a measurement that says by `read` what it sees of the states; its noise is as in `Measurement.noise`."""

    constant: Any
    last: Any
    carry: Any
    measurement: Any  # without grid, initial state and values

    @property
    def family(self) -> str:
        return self.measurement.family

    def predict(self, equation: Any, initial: Any) -> Prediction:
        states, checks, fine = self.states_at_times(equation, initial)
        whole = filled(self.measurement, self.states_at_times.grid, None, self.observation)
        seen, shape = whole.read(states[self.row]), np.shape(self.observation)
        shape = shape if self.family == "multinomial" else shape[:1]
        if np.shape(seen) != shape:
            raise ValueError(
                f"{type(whole).__name__}.read must return shape {shape}, one for each row, got {np.shape(seen)}"
            )
        return Prediction(seen, checks, fine)


def require_whole(measurement: Any, values: Any) -> None:
    """Refuse what a kind of one's own cannot leave out: missing values; and numbers that are not one for each row."""
    values, kind = np.asarray(values, float), type(measurement).__name__
    if not np.isfinite(values).all():
        raise ValueError(
            f"values of {kind} must be finite, got {values[~np.isfinite(values)][0]}; leave those rows out"
        )
    if measurement.family == "gaussian" and np.ndim(measurement.values) != 1:
        raise ValueError(f"values of {kind} must be one for each row, got shape {np.shape(measurement.values)}")


def filled(measurement: Any, grid: Any, initial: Any, values: Any) -> Any:
    """The measurement with another grid, initial state and values."""
    parts = lambda one: (one.grid, one.initial, one.values)
    return eqx.tree_at(parts, measurement, (grid, initial, values), is_leaf=lambda leaf: leaf is None)
