"""The predictor of paths on one axis at any times, each of whose steps has a density of its own."""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx

from jaxdiff.measurements.measurement import Measurement
from jaxdiff.measurements.predictor import Prediction, Predictor
from jaxdiff.model.grid import Grid
from jaxdiff.runtime.conditions import Checks
from jaxdiff.transition.density import log_density


class Term(eqx.Module):
    """Drift (0), diffusivity (1) or killing (2) as a pytree, so that other numbers compile nothing."""

    equation: Any
    grid: Grid
    which: int = eqx.field(static=True)

    def __call__(self, x: Any) -> Any:
        return self.equation.sde(self.grid)[self.which](x)


class TrajectoryPredictor(Predictor):
    family: ClassVar[str] = "density"
    on_cells: ClassVar[bool] = False
    observation: Any  # (m,) where each step ends
    weight: Any
    size: Any
    starts: Any
    durations: Any
    grid: Grid
    steps: Any  # plan of the transition density
    known: bool = eqx.field(static=True)

    def predict(self, equation: Any, initial: Any) -> Prediction:
        drift, diffusivity, killing = equation.sde(self.grid)
        values, resolved = log_density(drift, diffusivity, killing, self.steps)
        return Prediction(values, resolved=resolved)

    def renewed(self, measurement: Measurement, equation: Any, checks: Checks) -> Predictor:
        return measurement.prepare(equation)
