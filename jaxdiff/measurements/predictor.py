"""Predictors: how a measurement is predicted in compiled code."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float

from jaxdiff.measurements.states_at_times import StatesAtTimes
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

    def holding(self, data: dict[str, Any]) -> Predictor:
        """The same with other data of the same shapes, {field: array}."""
        return eqx.tree_at(lambda one: [getattr(one, name) for name in data], self, list(data.values()))

    def renewed(self, measurement: Any, equation: Any, checks: Checks) -> Predictor:
        """One that resolves these coefficients, where `predict` said that this one does not."""
        return eqx.tree_at(lambda one: one.states_at_times, self, self.states_at_times.refined(checks))

    def noiseless(self, prediction: np.ndarray) -> np.ndarray | None:
        """Observations that a model fits best by this prediction; None: not known, and the size of cells is not judged."""
        return None

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
