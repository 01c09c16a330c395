"""Many data sets of paths, which share the nodes of one plan and differ in how often a step leads from where to where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import numpy as np

from jaxdiff.integration.options import AUTOMATIC, SolverOptions
from jaxdiff.measurements import trajectory_counts
from jaxdiff.measurements.measurement import Measurement
from jaxdiff.measurements.predictor import Predictor
from jaxdiff.measurements.stacks import Stack
from jaxdiff.measurements.states_at_times import Unplannable
from jaxdiff.simulation.simulate import simulate

if TYPE_CHECKING:
    from jaxdiff.measurements.trajectory import Trajectory

SLACK = 1.3  # how many times finer and wider nodes are than those of one fit, as many move on them
FINE = 0.05  # of a relaxation time, the steps by which paths are drawn
MOST = 1000  # of them in an interval


class Together(Measurement):
    """The paths of all data sets in a row, which one plan must resolve; `paths` is a `Trajectory`."""

    family: ClassVar[str] = "density"
    on_cells: ClassVar[bool] = False
    discretised: ClassVar[bool] = False
    initial: ClassVar[Any] = None  # type: ignore[misc]  # a field elsewhere: paths start where they were seen
    grid: Any
    paths: Any

    @property
    def values(self) -> np.ndarray:
        return np.asarray(self.paths.values)

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self.paths.notes)

    def prepare(
        self, equation: Any, initial: Any = None, pad: bool = True, options: SolverOptions = AUTOMATIC
    ) -> Predictor:
        found = None
        if not self.paths.in_pieces(equation):
            terms, walls = self.paths.dynamics(equation)
            found = trajectory_counts.prepared(self.paths, terms, walls, SLACK)
        if found is None:
            raise Unplannable(
                "paths are fitted as one batch on one axis, where intervals are few and equal and nothing depends on time, off absorbing walls and rings, in float64, got others; call jd.fit for each"
            )
        return found

    def rough(self) -> Predictor | None:
        found: Predictor | None = self.paths.rough()
        return found


@dataclass(frozen=True)
class TrajectoryStack(Stack):
    """sets: the paths of each data set; steps: (B, 2) which of the template's are its own, the first and the one after the last"""

    sets: tuple[Trajectory, ...] = field(kw_only=True)
    steps: np.ndarray = field(kw_only=True)

    def __getitem__(self, i: int) -> Trajectory:
        return self.sets[i]

    def data(self) -> dict[str, np.ndarray]:
        return {"steps": self.steps}


def joined(sets: Sequence[Trajectory]) -> TrajectoryStack:
    first, distinct = sets[0], list({id(one): one for one in sets}.values())
    paths = first.of([path for one in distinct for path in zip(one.times, one.positions, strict=True)])
    ends = np.cumsum([0, *(len(one.durations) for one in distinct)])
    where = {id(one): ends[k : k + 2] for k, one in enumerate(distinct)}
    steps = np.stack([where[id(one)] for one in sets])
    template = Together(first.grid, paths, conditions=first.conditions)  # type: ignore[call-arg]  # a field of the base, which mypy does not see
    return TrajectoryStack(template, None, np.zeros((len(sets), 1)), sets=tuple(sets), steps=steps)


def with_positions(one: Trajectory, values: np.ndarray) -> TrajectoryStack:
    """values: (B, n) positions of the frames of all its paths, one after the other."""
    cuts = np.cumsum([len(t) for t in one.times])[:-1]
    parts = [np.split(row, cuts) for row in values]
    return joined([one.of(list(zip(one.times, row, strict=True))) for row in parts])


def every(one: Trajectory, k: int) -> Trajectory:
    """Every k-th frame of each path; of a path that is too short for it, nothing."""
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise ValueError(f"every takes a whole number of frames from 1 on, got {k!r}")
    parts = []
    for t, x in zip(one.times, one.positions, strict=True):
        frame = (t - t[0]) / np.diff(t).min()
        if np.max(np.abs(frame - np.round(frame))) > 1e-3:
            raise ValueError(
                "every k-th frame is of frames at multiples of one interval, got others; drop frames yourself"
            )
        kept = np.round(frame).astype(np.int64) % k == 0
        if kept.sum() > 1:
            parts.append((t[kept], x[kept]))
    if not parts:
        raise ValueError(f"every {k}-th frame leaves no path of two points; take fewer apart")
    return one.of(parts)


def drawn(one: Trajectory, fit: Any, repeats: int, rng: np.random.Generator, kind: str) -> np.ndarray:
    """Positions (repeats, n) of paths that start where those observed do, by the fitted equation."""
    if kind != "parametric":
        raise ValueError("paths have no residuals to draw from, got kind='residual'; take kind='parametric'")
    equation, found = fit.equation_of(one), []
    drift, diffusivity, _ = equation.sde(one.grid)
    places = np.quantile(np.concatenate(one.positions), np.linspace(0, 1, 65))
    slope = jax.vmap(jax.grad(lambda x: drift(x) * 1.0))(places)
    steep = jax.vmap(jax.grad(lambda x: (2 * diffusivity(x)) ** 0.5))(places)
    rate = float(np.max(np.abs(slope)) + np.max(steep**2))
    grid = one.grid if equation.transport().boundaries is not None else None
    for times, positions in zip(one.times, one.positions, strict=True):
        substeps = int(np.clip(np.ceil(np.diff(times).max() * rate / FINE), 1, MOST))
        key = jax.random.key(int(rng.integers(2**31)))
        found.append(simulate(equation, positions[0], times, repeats, key=key, substeps=substeps, grid=grid))
    values = np.concatenate([np.asarray(path) for path in found], axis=1)
    if np.isnan(values).any():
        raise ValueError(
            "a path that was drawn ended before its last time, killed or absorbed; such paths are not drawn anew"
        )
    return values
