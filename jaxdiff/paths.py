"""Paths of diffusing things, measured by the density of every step."""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import jax
import numpy as np

from jaxdiff.boundaries import Dirichlet, Flux, Periodic
from jaxdiff.checks import Checks
from jaxdiff.grid import Grid
from jaxdiff.measurements import Measurement, Plan, Prediction, Unplannable
from jaxdiff.transition import checked_log_density, prepare


class Trajectory(Measurement):
    """Positions of one diffusing thing in the course of time, or of many.

        log L = Σᵢ log p(xᵢ₊₁ | xᵢ; tᵢ₊₁ − tᵢ)

    grid: its ends are the walls; times: (n,) [time], increasing, at any distances; positions: (n,) or (n, 1) [length];
    lists of both for many paths

    Raises ValueError if shapes differ, times do not increase, a path has fewer than two points, or a position is not
    finite or lies outside the grid.

    >>> import jaxdiff as jd
    >>> jd.Trajectory(jd.Grid.uniform((-3.0, 3.0, 60)), [0.0, 0.1, 0.3], [0.0, 0.2, -0.1]).durations
    array([0.1, 0.2])
    """

    family: ClassVar[str] = "density"
    grid: Grid
    times: tuple[np.ndarray, ...]
    positions: tuple[np.ndarray, ...]

    def __init__(self, grid: Grid, times: Any, positions: Any):
        if grid.ndim > 1:
            raise ValueError(
                f"a path holds on a grid of one axis, got {grid.ndim}; where the axes know nothing of each other, each coordinate is a path of its own on one axis"
            )
        many = isinstance(times, (list, tuple)) and len(times) > 0 and np.ndim(times[0]) > 0
        if many and len(times) != len(positions):
            raise ValueError(f"times and positions must be as many paths, got {len(times)} and {len(positions)}")
        paths = list(zip(times, positions, strict=True)) if many else [(times, positions)]
        checked = [_checked_path(grid, t, x, f" of path {i}" if many else "") for i, (t, x) in enumerate(paths)]
        self.grid = grid
        self.times = tuple(t for t, _ in checked)
        self.positions = tuple(x for _, x in checked)

    @property
    def durations(self) -> np.ndarray:
        return np.concatenate([np.diff(t) for t in self.times])

    @property
    def starts(self) -> np.ndarray:
        return np.concatenate([x[:-1] for x in self.positions])

    @property
    def stops(self) -> np.ndarray:
        return np.concatenate([x[1:] for x in self.positions])

    def split(self, fraction: float) -> tuple[Trajectory, Trajectory]:
        """(first, last) part of every path; they share one point."""
        cuts = [min(max(round((1 - fraction) * (len(t) - 1)), 1), len(t) - 1) for t in self.times]
        first = [(t[: c + 1], x[: c + 1]) for t, x, c in zip(self.times, self.positions, cuts, strict=True)]
        last = [(t[c:], x[c:]) for t, x, c in zip(self.times, self.positions, cuts, strict=True) if c < len(t) - 1]
        if not last:
            raise ValueError(f"validation={fraction:g} holds nothing out of paths of two points; leave it away")
        return Trajectory(self.grid, *map(list, zip(*first, strict=True))), Trajectory(
            self.grid, *map(list, zip(*last, strict=True))
        )

    def prepare(self, equation: Any, initial: Any = None, pad: bool = True, **options: Any) -> TrajectoryPlan:
        left, right = equation.sides(self.grid)
        walls = (_wall(left), _wall(right))
        lower, upper = float(self.grid.edges[0][0]), float(self.grid.edges[0][-1])
        drift, diffusivity, killing = (Term(equation, self.grid, i) for i in range(3))
        try:
            steps = prepare(drift, diffusivity, killing, self.starts, self.stops, self.durations, lower, upper, walls)
        except (ValueError, MemoryError) as error:
            few = "the densities of its steps need more memory than there is; give smoother coefficients"
            raise Unplannable(few if isinstance(error, MemoryError) else str(error)) from None
        return eqx.tree_at(lambda plan: plan.steps, self.rough(), steps, is_leaf=lambda x: x is None)

    def rough(self) -> TrajectoryPlan:
        """A plan that knows Euler steps only."""
        count = len(self.durations)
        return TrajectoryPlan(
            observation=self.stops,
            weight=np.ones(count),
            size=np.float64(count),
            known=True,
            starts=self.starts,
            durations=self.durations,
            grid=self.grid,
            steps=None,
        )


class Term(eqx.Module):
    """Drift (0), diffusivity (1) or killing (2) as a pytree, so that other numbers compile nothing."""

    equation: Any
    grid: Grid
    which: int = eqx.field(static=True)

    def __call__(self, x: Any) -> Any:
        return self.equation.sde(self.grid)[self.which](x)


class TrajectoryPlan(Plan):
    family: ClassVar[str] = "density"
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
        values, resolved = checked_log_density(drift, diffusivity, killing, self.steps)
        return Prediction(values, resolved=resolved)

    def renewed(self, measurement: Measurement, equation: Any, checks: Checks) -> Plan:
        return measurement.prepare(equation)

    def euler(self, equation: Any) -> tuple[Any, Any]:
        """Means and variances of Euler steps: crude, but they know where to start."""
        drift, diffusivity, _ = equation.sde(self.grid)
        means = self.starts + jax.vmap(drift)(self.starts) * self.durations
        return means, 2 * jax.vmap(diffusivity)(self.starts) * self.durations


def _checked_path(grid: Grid, times: Any, positions: Any, which: str) -> tuple[np.ndarray, np.ndarray]:
    times, positions = np.asarray(times, float), np.asarray(positions, float)
    positions = positions[:, 0] if positions.ndim == 2 and positions.shape[1] == 1 else positions
    if times.ndim != 1 or times.shape != positions.shape:
        raise ValueError(
            f"times and positions{which} must have the same shape (n,), got {times.shape} and {positions.shape}"
        )
    if len(times) < 2:
        raise ValueError(f"a path needs at least two points, got {len(times)}{which}")
    wrong = ~(np.isfinite(times) & np.isfinite(positions))
    if wrong.any():
        i = int(np.argmax(wrong))
        raise ValueError(
            f"times and positions{which} must be finite, got {positions[i]} at time {times[i]} in row {i}; drop that row"
        )
    if (np.diff(times) <= 0).any():
        i = int(np.argmax(np.diff(times) <= 0))
        raise ValueError(
            f"times{which} must increase, got {times[i + 1]:g} after {times[i]:g} in row {i + 1}; sort or drop rows"
        )
    grid.require_inside(positions, f"position{which}")
    return times, positions


def _wall(side: Any) -> str:
    if isinstance(side, Periodic):
        return "periodic"
    value = np.asarray(getattr(side, "value", np.nan))
    if isinstance(side, (Flux, Dirichlet)) and value.ndim == 0 and value == 0:
        return "reflecting" if isinstance(side, Flux) else "absorbing"
    raise ValueError(
        f"a path needs walls that reflect, absorb or are periodic, got {type(side).__name__}; use jd.reflecting or jd.absorbing"
    )
