"""The predictor of paths of few distinct intervals, whose steps share the densities between fixed nodes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from jaxdiff.measurements.predictor import Prediction, Predictor
from jaxdiff.measurements.states_at_times import Unplannable
from jaxdiff.model.families import smooth_splines
from jaxdiff.model.grid import Grid
from jaxdiff.runtime.conditions import Checks
from jaxdiff.transition import counts, density

FAINT = 1e-8  # of the largest density from a node, below which nothing is expected


class CountsPredictor(Predictor):
    """observation: (m,) where each step ends; plan: of their densities; weights, begun: of this data set, as `counts.counted` gives them

    tabulated: whether a prediction is the table of ln p between nodes, whose sum by the weights is that of all steps, or ln p (m,) of each
    """

    on_cells: ClassVar[bool] = False
    observation: Any
    weight: Any
    size: Any
    known: bool = eqx.field(static=True)
    grid: Grid
    plan: counts.CountPlan
    weights: Any
    begun: Any
    tabulated: bool = eqx.field(static=True, default=False)
    alone: bool = eqx.field(static=True, default=True)  # or one of many fits, which share the nodes

    @property
    def family(self) -> str:
        return "transitions" if self.tabulated else "density"

    def predict(self, equation: Any, initial: Any) -> Prediction:
        drift, diffusivity, killing = equation.sde(self.grid)
        values, resolved = counts.table(drift, diffusivity, killing, self.plan, self.weights)
        return Prediction(values if self.tabulated else counts.of_steps(self.plan, values), resolved=resolved)

    def summed(self) -> CountsPredictor:
        return replace(self, tabulated=True)

    def by_rows(self) -> CountsPredictor:
        return replace(self, tabulated=False)

    def of_many(self, data: dict[str, Any]) -> tuple[CountsPredictor, dict[str, Any]]:
        if not self.tabulated:
            raise ValueError("many paths are fitted by their likelihood, got another loss; call jd.fit for each")
        own = {tuple(rows): counts.counted(self.plan, slice(*rows)) for rows in np.unique(data["steps"], axis=0)}
        weights, begun = (np.stack([own[tuple(rows)][k] for rows in data["steps"]]) for k in (0, 1))
        bare = replace(self, plan=self.plan.bare, observation=np.zeros(1), weight=np.ones(1), alone=False)
        return bare, {"weights": weights, "begun": begun}

    @property
    def numbers_held(self) -> float:
        return 4.0 * self.plan.pairs

    def of_steps(self, table: Any, rows: Any) -> Any:
        """ln p of some steps."""
        return counts.of_steps(self.plan, table, rows)

    def expected(self, table: Any) -> Any:
        """How often each row of a table is expected to be seen; of the steps far out, how often it was."""
        n, pairs = self.plan.nodes.x.shape[0], self.plan.pairs
        p = jnp.exp(table[:pairs].reshape(-1, n, n))
        p = jnp.where(p > FAINT * jnp.max(p, axis=2, keepdims=True), p * self.plan.nodes.weight, 0.0)
        return jnp.concatenate([(self.begun[:, :, None] * p).ravel(), self.weights[pairs:]])

    def renewed(self, measurement: Any, equation: Any, checks: Checks) -> Predictor:
        if not self.alone:
            return replace(self, plan=_far_anew(self.plan, measurement.paths, equation))
        if any(smooth_splines(equation)):  # the split kernel would plan for minutes what a shorter step spares
            again = prepared(measurement, *measurement.dynamics(equation))
            if again is None:
                raise Unplannable("its steps share no nodes there")
        else:
            again = measurement.prepare(equation)
        return again.summed() if self.tabulated else again


def _far_anew(plan: counts.CountPlan, measurement: Any, equation: Any) -> counts.CountPlan:
    """The same with another plan of its far steps, by the split kernel, which holds less far around its coefficients."""
    if plan.beyond is None:
        return plan
    (drift, diffusivity, killing), walls = measurement.dynamics(equation)
    start, stop, duration = (part[plan.far] for part in (measurement.starts, measurement.stops, measurement.durations))
    lower, upper = (float(measurement.grid.edges[0][i]) for i in (0, -1))
    beyond = density.prepare(drift, diffusivity, killing, start, stop, duration, lower, upper, walls)
    return eqx.tree_at(lambda one: one.beyond, plan, beyond)


def prepared(
    measurement: Any, terms: tuple[Any, Any, Any], walls: tuple[str, str], slack: float = 1.0
) -> CountsPredictor | None:
    """Where a path is for it; else None. Raises ValueError as `density.prepare`."""
    if jnp.result_type(float) != jnp.float64:
        return None  # whose eigenvectors leave too little of a density
    lower, upper = (float(measurement.grid.edges[0][i]) for i in (0, -1))
    start, stop, duration = measurement.starts, measurement.stops, measurement.durations
    plan = counts.prepare(*terms, start, stop, duration, lower, upper, walls, slack=slack)
    if plan is None:
        return None
    weights, begun = counts.counted(plan)
    count = len(measurement.durations)
    return CountsPredictor(
        observation=measurement.stops, weight=np.ones(count), size=np.float64(count), known=True,
        grid=measurement.grid, plan=plan, weights=weights, begun=begun,
    )  # fmt: skip
