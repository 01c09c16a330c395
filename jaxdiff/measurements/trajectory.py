"""Trajectories of what diffuses or jumps, predicted by the transition density of every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import equinox as eqx
import numpy as np

from jaxdiff.integration.options import AUTOMATIC, SolverOptions
from jaxdiff.measurements import (
    blocks,
    jumps,
    jumps_examination,
    paths_examination,
    paths_predictor,
    tracks,
    tracks_examination,
    trajectory_counts,
    trajectory_draws,
    trajectory_euler,
    trajectory_examination,
    trajectory_stack,
)
from jaxdiff.measurements.checked_path import checked_path
from jaxdiff.measurements.measurement import Measurement
from jaxdiff.measurements.predictor import Predictor
from jaxdiff.measurements.residuals import Examination
from jaxdiff.measurements.stacks import Redraw, Stack, apart
from jaxdiff.measurements.states_at_times import Unplannable
from jaxdiff.measurements.trajectory_predictor import Term, TrajectoryPredictor
from jaxdiff.model.families import smooth_splines
from jaxdiff.model.grid import Grid
from jaxdiff.transition.density import prepare

LONG = 2000  # steps that the split kernel takes minutes over, at every trial of a smooth field

if TYPE_CHECKING:
    from jaxdiff.measurements import tables
    from jaxdiff.measurements.view import View


class Trajectory(Measurement):
    """Positions of one thing that diffuses, or states of one that jumps, at increasing times, or of many.

        log L = Σᵢ log p(xᵢ₊₁ | xᵢ; tᵢ₊₁ − tᵢ),   of states seen all along  Σᵢ [log r(xᵢ₊₁, xᵢ) − (tᵢ₊₁ − tᵢ) Σⱼ r(j, xᵢ)]

    Args:
        grid: its ends are the walls; or `States`, of a `MasterEquation`.
        times: `(n,)` [time], increasing, at any distances; a list of such for many paths.
        positions: `(n,)` or `(n, 1)` [length], `(n, ndim)` on several axes, NaN where a frame is missing, which is left out, as a fit
            notes; of states their numbers or names, or `(n, species)` counts; a list of such for many paths, of which those with
            fewer than two points are left out, as a fit notes.
        noise: standard deviation of each coordinate [length], localisation noise: a number, a mark, or the name of a parameter of
            `fit`; None: positions are exact.
        exposure: [time] up to each frame's time, over which a position is a mean, motion blur; at most the shortest interval.
        density: "exact", or "euler" for normal steps of mean f Δt and variance 2 D Δt, as published estimates often are; they are
            biased by the interval, as a fit notes.
        continuous: of states, whether every jump was seen: times are then those of the jumps, positions the states after them,
            the first and the last time are the ends of what was observed. A state that stays, or NaN at the last time, is
            no jump.
        time_unit: "s", "min", "h", "day", "week" or "year" of 365.25 days, in which times count where they are dates or
            durations; dates count from the first of their path.
        conditions: as in `Readings`.

    On a periodic axis positions lie within the grid, one period: wrap an angle that was counted on and on,
    lower + (x - lower) % period. The density of a step sums over all ways round, so that steps are short beside the period
    where these are to be distinguished.

    With noise or an exposure the likelihood is that of all that is seen of a track given its first position, exact for free diffusion
    and for a drift linear in position far from walls, and else without blur by a filter on the cells; a prediction is the log
    density of each track. On several axes these are independent of each other: their log densities add up.

    On several axes, and where drift, D or killing depends on time, times counting as in the equation, a step is a Gaussian with moments
    of second order, or the integral over as many as four of them (two on three axes), by quadrature; a fit refuses steps that these do not resolve.

    Raises:
        ValueError: shapes that differ, times that do not increase, no path of two points, a noise below zero, an exposure longer than
            an interval; a position that is infinite or outside the grid, dates without a unit, or what is no real number;
            continuous positions, or those with a frame missing in between.

    >>> import jaxdiff as jd
    >>> jd.Trajectory(jd.Grid.uniform((-3.0, 3.0, 60)), [0.0, 0.1, 0.3], [0.0, 0.2, -0.1]).durations
    array([0.1, 0.2])

    A channel that opened twice while it was watched for 4 s, and was closed for 1.5 s of them:

    >>> channel, times = jd.States(["closed", "open"]), [0.0, 1.0, 2.0, 2.5, 4.0]
    >>> seen = jd.Trajectory(channel, times, ["closed", "open", "closed", "open", "open"], continuous=True)
    >>> fit = jd.fit(jd.MasterEquation([[0.0, jd.Positive(1.0)], [jd.Positive(1.0), 0.0]]), seen, progress=False)
    >>> [round(float(rate), 6) for rate in fit.parameters.values()]
    [0.4, 1.333333]

    A bead in the plane, pulled to the middle:

    >>> plane = jd.Grid.uniform((-5.0, 5.0, 10), (-5.0, 5.0, 10))
    >>> bead = jd.Trajectory(plane, [0.0, 0.5, 1.0], [[0.0, 0.3], [0.2, 0.1], [-0.1, 0.0]])
    >>> bead.stops.shape
    (2, 2)

    Tracks: Berglund 2010, doi:10.1103/PhysRevE.82.011917. Paths of states: Kalbfleisch & Lawless 1985, doi:10.1080/01621459.1985.10478195. The density: Aït-Sahalia 2002, doi:10.1111/1468-0262.00274; Chin 1997, doi:10.1016/S0375-9601(97)00003-0.
    """

    family: ClassVar[str] = "density"
    on_cells: ClassVar[bool] = False
    discretised: ClassVar[bool] = False
    start: ClassVar[float] = 0.0  # type: ignore[misc]  # a field elsewhere: paths have times of their own
    grid: Grid
    times: tuple[np.ndarray, ...]
    positions: tuple[np.ndarray, ...]
    initial: Any  # tracks.Localisation, None where positions are exact
    missing: int = eqx.field(static=True)  # frames that were given without a position
    dropped: int = eqx.field(static=True)  # paths that were given with fewer than two points
    exposure: float | None = eqx.field(static=True)
    continuous: bool = eqx.field(static=True)
    density: str = eqx.field(static=True)

    def __init__(
        self,
        grid: Grid,
        times: Any,
        positions: Any,
        noise: Any = None,
        exposure: Any = None,
        *,
        density: str = "exact",
        continuous: bool = False,
        time_unit: str | None = None,
        conditions: Mapping[str, Any] | None = None,
    ):
        seen = noise is not None or exposure is not None
        if density not in ("exact", "euler") or (density == "euler" and (grid.discrete or grid.ndim > 1 or seen)):
            raise ValueError(f"density must be 'exact', or on one axis and without noise 'euler', got {density!r}")
        if continuous and not grid.discrete:
            raise ValueError(
                f"what jumps alone is seen all along; continuous takes jd.States, got {type(grid).__name__}"
            )
        if not grid.discrete and grid.geometry != "cartesian":
            raise ValueError(f"paths run along x, y and z, got a {grid.geometry} grid; take a Cartesian one")
        if grid.discrete and seen:
            raise ValueError("noise and exposure are those of positions, got states; leave them out")
        several = lambda paths: isinstance(paths, (list, tuple)) and len(paths) > 0 and np.ndim(paths[0]) > 0
        many = several(times)
        if many and not (several(positions) and len(times) == len(positions)):
            count = len(positions) if several(positions) else 1
            raise ValueError(f"times and positions must be as many paths, got {len(times)} and {count}")
        paths = list(zip(times, positions, strict=True)) if many else [(times, positions)]
        checked = [
            checked_path(grid, t, x, f" of path {i}" if many else "", time_unit, continuous, many, seen)
            for i, (t, x) in enumerate(paths)
        ]
        if not (kept := [part for part in checked if len(part[0]) > 1]):
            raise ValueError(
                f"a path needs at least two points, got none of {len(paths)} with as many; drop this measurement"
            )
        self.dropped, checked = len(checked) - len(kept), kept
        self.grid, self.conditions, self.continuous, self.density = grid, conditions, continuous, density
        self.times = tuple(t for t, _, _ in checked)
        self.positions = tuple(x for _, x, _ in checked)
        self.initial, self.exposure = None, None
        if seen:
            self.initial, self.exposure = tracks.localisation(noise, exposure, self.times, self.positions)
        self.missing = sum(count for _, _, count in checked)

    @classmethod
    def from_table(
        cls,
        table: tables.Table,
        grid: Grid,
        *,
        time: str,
        position: str | Sequence[str],
        track: str | None = None,
        noise: Any = None,
        exposure: Any = None,
        density: str = "exact",
        time_unit: str | None = None,
        conditions: Mapping[str, Any] | None = None,
    ) -> Trajectory:
        """A path from a table, by the names of the columns, or many: one for each different entry of the column `track`.

        table: path of a CSV file, a DataFrame, a dictionary of columns, or an open file; position: a column, or one for each axis;
        noise, exposure, density, time_unit, conditions: as in `Trajectory`

        >>> import jaxdiff as jd
        >>> beads = {"t": [0.0, 1.0, 0.0, 1.0], "x": [0.1, 0.3, 0.2, 0.1], "bead": ["a", "a", "b", "b"]}
        >>> grid = jd.Grid.uniform((0.0, 1.0, 20))
        >>> jd.Trajectory.from_table(beads, grid, time="t", position="x", track="bead").stops
        array([0.3, 0.1])
        """
        from jaxdiff.measurements import tables

        frame = tables.read(table)
        names = [position] if isinstance(position, str) else list(position)
        places = np.stack([tables.column(frame, name) for name in names], 1)
        columns = tables.moments(frame, time, time_unit), places[:, 0] if len(names) == 1 else places
        times, positions = ([column[path] for path in tables.groups(frame, track)] for column in columns)
        with tables.named(frame):
            many = len(times) > 1
            paths = (times, positions) if many else (times[0], positions[0])
            own = {"exposure": exposure, "density": density, "time_unit": time_unit, "conditions": conditions}
            return cls(grid, paths[0], paths[1], noise, **own)

    @property
    def notes(self) -> tuple[str, ...]:
        count, paths, notes = sum(map(len, self.times)), len(self.times), []
        if self.missing:
            notes.append(f"{count} of {count + self.missing} frames used; {self.missing} missing")
        if self.dropped:
            notes.append(f"{paths} of {paths + self.dropped} paths used; {self.dropped} with fewer than two points")
        return tuple(notes)

    @property
    def values(self) -> np.ndarray:
        """`(n,)` the positions of all frames, path after path."""
        return np.concatenate(self.positions)

    @property
    def alone(self) -> str | None:
        if self.grid.discrete or self.initial is not None:
            return "paths of states" if self.grid.discrete else "tracks with noise"
        return "Euler steps" if self.density == "euler" else "paths on several axes" if self.grid.ndim > 1 else None

    def every(self, k: int) -> Trajectory:
        """Every k-th frame, of frames at multiples of one interval: if D then differs, the path is no diffusion at its resolution."""
        return trajectory_stack.every(self, k)

    def with_values(self, values: np.ndarray) -> Trajectory:
        parts = np.split(values, np.cumsum([len(t) for t in self.times])[:-1])
        return self.of(list(zip(self.times, parts, strict=True)))

    def stacked(self, values: np.ndarray) -> Stack:
        return trajectory_stack.joined([self.with_values(one) for one in values])

    def joined(self, several: Sequence[Any], initials: Any) -> Stack:
        return trajectory_stack.joined(several)

    def repeated(self, count: int) -> Stack:
        return self.joined([self] * count, None)

    def redrawn(self, values: trajectory_draws.Drawn) -> Stack:
        if self.alone is not None:
            return apart(values.sets, self.alone, values.notes)
        return trajectory_stack.joined(values.sets, values.notes)

    def draw(self, fit: Any, repeats: int, rng: np.random.Generator, how: Redraw) -> Any:
        return trajectory_draws.drawn(self, fit, repeats, rng, how.kind)

    @property
    def count(self) -> int:
        return len(self.durations) * (1 if self.initial is None else self.grid.ndim)

    @property
    def durations(self) -> np.ndarray:
        """`(m,)` [time] of all steps."""
        return np.concatenate([np.diff(t) for t in self.times])

    @property
    def starts(self) -> np.ndarray:
        """`(m,)` or `(m, ndim)` [length], where each step begins."""
        return np.concatenate([x[:-1] for x in self.positions])

    @property
    def stops(self) -> np.ndarray:
        """`(m,)` or `(m, ndim)` [length], where each step ends."""
        return np.concatenate([x[1:] for x in self.positions])

    @property
    def visited(self) -> np.ndarray:
        """The share of all steps that begins in each state `(*cells,)`."""
        starts, _ = jumps.numbers_of(self)
        return np.bincount(starts, minlength=int(np.prod(self.grid.shape))).reshape(self.grid.shape) / len(starts)

    def split(self, fraction: float) -> tuple[Trajectory, Trajectory]:
        """(first, last) part of every path; they share one point."""
        cuts = [min(max(round((1 - fraction) * (len(t) - 1)), 1), len(t) - 1) for t in self.times]
        paths = list(zip(self.times, self.positions, cuts, strict=True))
        first = [(t[: c + 1], x[: c + 1]) for t, x, c in paths]
        last = [(t[c:], x[c:]) for t, x, c in paths if c < len(t) - 1]
        if not last:
            raise ValueError(f"validation={fraction:g} holds nothing out of paths of two points; leave it away")
        return self.of(first), self.of(last)

    def blocks(self, folds: int, forward: bool) -> np.ndarray:
        """Of steps, or of whole tracks that are seen with noise."""
        first = np.concatenate([t[:-1] for t in self.times]) if self.initial is None else [t[0] for t in self.times]
        order = np.argsort(first, kind="stable") if forward else np.arange(len(first))
        block = np.empty(len(order), int)
        block[order] = blocks.in_order(len(order), folds, "steps" if self.initial is None else "tracks")
        return block

    def rows(self, kept: np.ndarray) -> Trajectory:
        """These steps alone, where each run of them is a path of its own; of tracks that are seen with noise, these tracks."""
        paths = list(zip(self.times, self.positions, strict=True))
        if self.initial is None:
            return self.of(blocks.pieces(paths, kept))
        return self.of([path for path, mine in zip(paths, kept, strict=True) if mine])

    def of(self, paths: list[Any]) -> Trajectory:
        """Other paths [(times, positions), …], seen in the same way; what is marked stays one and the same."""
        times, positions = map(list, zip(*paths, strict=True))
        own: dict[str, Any] = {
            name: getattr(self, name) for name in ("continuous", "conditions", "exposure", "density")
        }
        found = Trajectory(self.grid, times, positions, None if self.initial is None else 0.0, **own)
        object.__setattr__(found, "initial", self.initial)
        return found

    def belongs_to(self, other: Measurement) -> bool:
        if self.initial is None:
            return self is other
        return isinstance(other, Trajectory) and self.initial is other.initial and self.conditions is other.conditions

    def with_start(self, initial: Any) -> Trajectory:
        return self if self.initial is None else eqx.tree_at(lambda m: m.initial, self, initial)

    def prepare(
        self, equation: Any, initial: Any = None, pad: bool = True, options: SolverOptions = AUTOMATIC
    ) -> Predictor:
        if self.grid.discrete:
            return jumps.prepared(self, equation, pad)
        if self.density == "euler":
            return trajectory_euler.prepared(self, equation)
        if self.initial is not None:
            return tracks.prepared(self, equation, options)
        if self.in_pieces(equation):
            return paths_predictor.prepared(self, equation)
        (drift, diffusivity, killing), walls = self.dynamics(equation)
        lower, upper = float(self.grid.edges[0][0]), float(self.grid.edges[0][-1])
        try:
            if (shared := trajectory_counts.prepared(self, (drift, diffusivity, killing), walls)) is not None:
                return shared
            if len(self.durations) > LONG and any(smooth_splines(equation)):
                raise ValueError(
                    f"smooth fields of {len(self.durations)} steps want steps that share nodes, and these do not; give regular times, knots that span the data, and a grid beyond them"
                )
            with np.errstate(all="ignore"):  # what is not finite is found, and refused
                steps = prepare(
                    drift, diffusivity, killing, self.starts, self.stops, self.durations, lower, upper, walls
                )
        except ValueError as error:
            raise Unplannable(str(error)) from None
        except MemoryError:
            few = "the densities of its steps need more memory than there is; give smoother coefficients"
            raise Unplannable(few) from None
        except OverflowError:
            large = (
                "the densities of its steps are beyond all numbers; check drift, diffusivity and killing near the path"
            )
            raise Unplannable(large) from None
        return eqx.tree_at(lambda plan: plan.steps, self._euler(), steps, is_leaf=lambda x: x is None)

    def dynamics(self, equation: Any) -> tuple[tuple[Any, Any, Any], tuple[str, str]]:
        """Drift, diffusivity and killing as functions of a place, and the kinds of both walls, as transition densities know them."""
        left, right = equation.sides(self.grid)
        for side in (left, right):
            if side.path is None:
                raise ValueError(
                    f"a path needs walls that reflect, absorb or are periodic, got {type(side).__name__}; use jd.reflecting or jd.absorbing"
                )
        drift, diffusivity, killing = (Term(equation, self.grid, which) for which in range(3))
        return (drift, diffusivity, killing), (left.path, right.path)

    def in_pieces(self, equation: Any) -> bool:
        """Whether steps are Gaussian pieces: on several axes, and where drift or D depends on time."""
        return not self.grid.discrete and (self.grid.ndim > 1 or paths_predictor.depends_on_time(equation))

    def rough(self) -> Predictor | None:
        """A plan that knows Euler steps only."""
        return None if self.grid.discrete or self.initial is not None else paths_predictor.rough(self)

    def _euler(self) -> TrajectoryPredictor:
        count = len(self.durations)
        return TrajectoryPredictor(
            observation=self.stops,
            weight=np.ones(count),
            size=np.float64(count),
            known=True,
            starts=self.starts,
            durations=self.durations,
            grid=self.grid,
            steps=None,
        )

    def examine(self, prediction: Any, jacobian: Any, tau: Any, equation: Any) -> Examination:
        if self.initial is not None:
            return tracks_examination.examined(self, equation)
        if equation is not None and self.in_pieces(equation):
            return paths_examination.examined(self, equation)
        return (jumps_examination if self.grid.discrete else trajectory_examination).examined(self, equation)

    def view(self, fit: Any, held_out: Any = None) -> View:
        if self.grid.discrete or self.initial is not None:
            return super().view(fit, held_out)
        from jaxdiff.measurements import paths_view, trajectory_view

        return (paths_view if self.in_pieces(fit.equation_of(self)) else trajectory_view).view(self, fit)
