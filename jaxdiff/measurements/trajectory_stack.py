"""Many data sets of paths, which share the nodes of one plan and differ in how often a step leads from where to where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from jaxdiff.integration.options import AUTOMATIC, SolverOptions
from jaxdiff.measurements import trajectory_counts
from jaxdiff.measurements.measurement import Measurement
from jaxdiff.measurements.predictor import Predictor
from jaxdiff.measurements.stacks import Alone, Stack

if TYPE_CHECKING:
    from jaxdiff.measurements.trajectory import Trajectory

SLACK = 1.3  # how many times finer and wider nodes are than those of one fit, as many move on them


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
            raise Alone(
                "paths at many different intervals, of coefficients of time, at absorbing walls, round a ring or in float32"
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


def joined(sets: Sequence[Trajectory], told: tuple[str, ...] = ()) -> TrajectoryStack:
    first, distinct = sets[0], list({id(one): one for one in sets}.values())
    paths = first.of([path for one in distinct for path in zip(one.times, one.positions, strict=True)])
    ends = np.cumsum([0, *(len(one.durations) for one in distinct)])
    where = {id(one): ends[k : k + 2] for k, one in enumerate(distinct)}
    steps = np.stack([where[id(one)] for one in sets])
    template = Together(first.grid, paths, conditions=first.conditions)  # type: ignore[call-arg]  # a field of the base, which mypy does not see
    return TrajectoryStack(template, None, np.zeros((len(sets), 1)), sets=tuple(sets), steps=steps, told=told)


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
