"""Paths by Euler's steps, whose normal densities published estimates are often made with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from jaxdiff.measurements.paths_predictor import PathsPredictor, rough
from jaxdiff.measurements.predictor import Prediction

if TYPE_CHECKING:
    from jaxdiff.measurements.trajectory import Trajectory


class EulerPredictor(PathsPredictor):
    def predict(self, equation: Any, initial: Any) -> Prediction:
        means, variances = self.euler(equation)
        away = (self.observation - means) ** 2 / variances
        return Prediction(-0.5 * (away + jnp.log(2 * jnp.pi * variances)))

    def of_other(self, measurement: Any, equation: Any, *more: Any) -> EulerPredictor:
        return prepared(measurement, equation)

    def left_out(self, equation: Any, initial: Any) -> tuple[str, ...]:
        return (
            "Euler steps are an approximation that the interval biases, and know neither walls nor killing; density='exact' does",
        )


def prepared(path: Trajectory, equation: Any) -> EulerPredictor:
    equation.sde(path.grid)  # refuses what no path stands for
    bare = rough(path)
    return EulerPredictor(
        observation=bare.observation,
        weight=bare.weight,
        size=bare.size,
        known=True,
        time=bare.time,
        start=bare.start,
        grid=bare.grid,
        plan=None,
    )


def innovations(path: Trajectory, equation: Any) -> np.ndarray:
    """Steps (m,) less their means, in standard deviations."""
    means, variances = rough(path).euler(equation)
    return np.asarray((path.stops - means) / np.sqrt(variances))
