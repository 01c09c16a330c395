"""Samples: positions of individuals, each seen once, at one or several times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import equinox as eqx
import numpy as np

from jaxdiff.integration.options import AUTOMATIC, SolverOptions
from jaxdiff.measurements import blocks, samples_stack
from jaxdiff.measurements.measurement import Measurement
from jaxdiff.measurements.residuals import Examination
from jaxdiff.measurements.samples_predictor import Contaminated, SamplesPredictor, axes_of, placed
from jaxdiff.measurements.stacks import Redraw
from jaxdiff.measurements.states_at_times import start_inside, states_at_times
from jaxdiff.model.grid import Grid
from jaxdiff.parameters import Named, is_named, marked, numeric, plain
from jaxdiff.quantities import numbers, times_as_numbers

if TYPE_CHECKING:
    from jaxdiff.measurements import tables
    from jaxdiff.measurements.view import View


class Samples(Measurement):
    """Positions of individuals, each seen once: snapshots of a cloud, whose members nobody follows.

        log L = Σᵢ log p(tᵢ, xᵢ),   p normalised over the grid;  with a background  (1 − ε) p + ε/V

    Args:
        grid, initial, start, time_unit, conditions, phase: as in `Readings`.
        times: `(T,)` [time] of the clouds, or `(m,)` of each individual; inf is the steady state.
        samples: positions [length]: a list of T arrays, `(n,)` or `(n, ndim)` each; an array `(T, n)` or `(T, n, ndim)`; or a row
            for each of the times, `(m,)` or `(m, ndim)`. Of `States` their numbers, or counts. NaN is a missing one.
        background: ε, the share of individuals that are anywhere in the volume V of the grid, of another origin: a number, or
            a mark, such as `Bounded(0.02, 0.0, 0.5)`, to fit it as "initial.background" beside the initial state, or a text that
            names a parameter of `fit`, which several measurements may share.

    p is that of those who are still there, whatever was absorbed or killed. Its logarithm is interpolated between cells, on one axis of
    equal cells by cubics, as p itself would be cut at its peaks; at an absorbing wall after division by the way to it, but with a
    background. Where the model puts less than 1e-9 of its peak (1e-5 in float32), a sample counts as if it put that, which the verdict of a fit tells. Losses:
    `negative_log_likelihood` by default, which is efficient; `energy_distance` and `wasserstein` on one axis, which a few
    individuals of another origin hardly move; `kl_divergence` of the counts in the cells.

    Raises:
        ValueError: shapes that differ, a position outside the grid (on a periodic axis, one period), no sample at all, a
            background outside [0, 1), or what is no real number.

    A cloud that spreads from a point, D = 0.5:

    >>> import jaxdiff as jd, numpy as np
    >>> grid, rng = jd.Grid.uniform((-6.0, 6.0, 120)), np.random.default_rng(0)
    >>> clouds = jd.Samples(grid, grid.delta(0.0), [0.5, 1.0], [rng.normal(0.0, t**0.5, 400) for t in (0.5, 1.0)])
    >>> fit = jd.fit(jd.Diffusion(jd.Positive(1.0)), clouds, progress=False)
    >>> bool(abs(fit.parameters["diffusivity"] - 0.5) < 2 * fit.standard_errors["diffusivity"])
    True

    Fisher 1922, doi:10.1098/rsta.1922.0009; clouds of cells: Weinreb et al. 2018, doi:10.1073/pnas.1714723115.
    """

    family: ClassVar[str] = "samples"
    grid: Grid
    initial: Any
    times: np.ndarray
    values: np.ndarray
    background: Any
    missing: int = eqx.field(static=True)
    start: float = eqx.field(static=True)
    as_cells: bool = eqx.field(static=True)  # whether shares of the cells are predicted, and not log densities

    def __init__(
        self,
        grid: Grid,
        initial: Any,
        times: Any,
        samples: Any,
        start: Any = 0.0,
        background: Any = 0.0,
        *,
        time_unit: str | None = None,
        conditions: Mapping[str, Any] | None = None,
        phase: Any = "total",
    ):
        self.conditions, self.phase, self.as_cells = conditions, phase, False
        times, self.start = times_as_numbers(times, start, time_unit)
        times, values = _rows(grid, np.atleast_1d(times), samples)
        gone = np.isnan(values.reshape(len(values), grid.ndim)).any(1)
        self.missing, times, values = int(gone.sum()), times[~gone], values[~gone]
        if not len(values):
            raise ValueError("no sample given, got none with a position; drop this measurement")
        grid.require_inside(values, "sample")
        self.grid, self.times, self.values = grid, times, values
        initial = start_inside(initial, grid)
        self.background = _checked_background(background)
        if marked(self.background) or is_named(self.background):
            initial, self.background = Contaminated(numeric(initial), self.background), None
        self.initial = initial

    @classmethod
    def from_table(
        cls,
        table: tables.Table,
        grid: Grid,
        initial: Any,
        *,
        time: Any,
        position: str | Sequence[str],
        start: Any = 0.0,
        background: Any = 0.0,
        time_unit: str | None = None,
        conditions: Mapping[str, Any] | None = None,
        phase: Any = "total",
    ) -> Samples:
        """Samples from a table, an individual a row, by the names of the columns.

        table: path of a CSV file, a DataFrame, a dictionary of columns, or an open file
        time: a column, or one number for all rows; position: a column, on several axes a sequence of them, ("x", "y")
        grid, initial, start, background, time_unit, conditions, phase: as in `Samples`

        >>> import jaxdiff as jd
        >>> cells = {"day": [1.0, 1.0, 2.0], "x": [0.1, 0.3, 0.4]}
        >>> jd.Samples.from_table(cells, jd.Grid.uniform((0.0, 1.0, 20)), 1.0, time="day", position="x").times
        array([1., 1., 2.])
        """
        from jaxdiff.measurements import tables

        frame = tables.read(table)
        if isinstance(time, str):
            times = tables.moments(frame, time, time_unit)
        else:
            times = np.broadcast_to(np.asarray(time), len(frame))
        names = [position] if isinstance(position, str) else list(position)
        columns = np.stack([tables.column(frame, name) for name in names], axis=1)
        with tables.named(frame):
            more = {"time_unit": time_unit, "conditions": conditions, "phase": phase}
            return cls(grid, initial, times, columns, start, background, **more)

    @property
    def positions(self) -> np.ndarray:
        """`(m,)` or `(m, ndim)` [length], by the name that places have in every measurement."""
        return self.values

    @property
    def distinct(self) -> tuple[np.ndarray, np.ndarray]:
        """The different times (T,), and which of them each sample has (m,)."""
        times, when = np.unique(self.times, return_inverse=True)
        return times, when

    @property
    def known(self) -> bool:
        return True

    @property
    def notes(self) -> tuple[str, ...]:
        from jaxdiff.measurements.samples_examination import rounding

        count, (_, when) = len(self.values), self.distinct
        found = [f"{count} of {count + self.missing} samples used; {self.missing} missing"] if self.missing else []
        for name, r, x in zip(self.grid.names, rounding(self), self.values.reshape(count, -1).T, strict=True):
            variance = min((float(np.var(x[when == t])) for t in np.unique(when)), default=0.0)
            if r**2 / 12 > variance * np.sqrt(2 / count) / 3:  # a third of the error bar of a variance
                share = 100 * r**2 / 12 / variance if variance else np.inf
                found.append(
                    f"samples are rounded to {r:.3g} along {name}, of which the model knows nothing: that adds {share:.2g} % to the variance of the narrowest cloud"
                )
        return tuple(found)

    def belongs_to(self, other: Measurement) -> bool:
        return isinstance(other, Samples) and self.initial is other.initial and self.conditions is other.conditions

    def _with(self, **own: Any) -> Samples:
        """The same with other samples; what is marked stays one and the same."""
        part = object.__new__(Samples)
        for name in self.__dataclass_fields__:
            object.__setattr__(part, name, own.get(name, getattr(self, name)))
        return part

    @property
    def in_cells(self) -> Samples:
        """Of which a fit predicts the shares of all cells at each of the different times, (T, cells)."""
        return self._with(as_cells=True)

    def at(self, times: Any, positions: Any) -> Samples:
        """The same experiment at other times (m,) and positions (m,) or (m, ndim), of which a fit predicts log densities."""
        return self._with(times=np.asarray(times, float), values=np.asarray(positions, float), as_cells=False)

    def with_start(self, initial: Any) -> Samples:
        return self._with(initial=initial)

    def blocks(self, folds: int, forward: bool) -> np.ndarray:
        if forward:
            return blocks.by_time(self.times, folds)
        first = self.values.reshape(len(self.values), -1)[:, 0]
        return blocks.dealt(np.lexsort((first, self.times)), folds, "samples")

    def rows(self, kept: np.ndarray) -> Samples:
        """Only these samples."""
        return self._with(times=self.times[kept], values=self.values[kept])

    def split(self, fraction: float) -> tuple[Measurement, Measurement]:
        """(first, last): of every cloud some samples are held out, evenly in the order of their positions."""
        times, when = self.distinct
        held_out = np.zeros(len(when), bool)
        first = self.values.reshape(len(when), -1)[:, 0]
        order = np.lexsort((first, when))
        count = max(1, round(fraction * len(when)))
        if count >= len(when):
            raise ValueError(f"validation={fraction:g} leaves no sample to fit, got {len(when)} in all; hold out less")
        held_out[order[np.linspace(0, len(order) - 1, count + 2).astype(int)[1:-1]]] = True
        return self.rows(~held_out), self.rows(held_out)

    def prepare(
        self, equation: Any, initial: Any = None, pad: bool = True, options: SolverOptions = AUTOMATIC
    ) -> SamplesPredictor:
        if equation.wave:
            raise ValueError("samples are not of waves, whose densities vanish at nodes; count them in jd.Histograms")
        times, _ = self.distinct
        states, row = states_at_times(self._with(times=times), equation, initial, options)
        return SamplesPredictor(
            states_at_times=states,
            row=row,
            size=np.float64(len(times)),
            background=self.background,
            known=True,
            as_cells=self.as_cells,
            axes=axes_of(self.grid, equation, pure=not np.any(self.background is None or self.background)),
            **placed(self, self.values),
        )

    def stacked(self, values: np.ndarray) -> samples_stack.SamplesStack:
        values = np.asarray(values, float)
        if not np.isfinite(values).all():
            raise ValueError("samples of many data sets must all be there, got NaN; fit that data set by itself")
        return samples_stack.SamplesStack(self, None, values)

    def joined(self, several: Sequence[Any], initials: Any) -> samples_stack.SamplesStack:
        return samples_stack.joined(several, initials)

    def draw(self, fit: Any, repeats: int, rng: np.random.Generator, how: Redraw) -> np.ndarray:
        return samples_stack.drawn(self, fit, repeats, rng, how.kind)

    def examine(self, prediction: Any, jacobian: Any, tau: Any, equation: Any) -> Examination:
        from jaxdiff.measurements.samples_examination import examined

        return examined(self, prediction, jacobian)

    def view(self, fit: Any, held_out: Any = None) -> View:
        from jaxdiff.measurements.samples_view import view

        return view(self, fit)


def _rows(grid: Grid, times: np.ndarray, samples: Any) -> tuple[np.ndarray, np.ndarray]:
    """A time (m,) and a position (m,) or (m, ndim) for each individual."""
    ndim = grid.ndim
    ragged = isinstance(samples, (list, tuple)) and len(samples) > 0 and all(np.ndim(one) > 0 for one in samples)
    if ragged and len(samples) == len(times) and (ndim == 1 or any(np.ndim(one) > 1 for one in samples)):
        clouds = [grid.numbered(one, f"samples of cloud {i}") for i, one in enumerate(samples)]
        clouds = [one.reshape(len(one), -1) if one.size else np.empty((0, ndim)) for one in clouds]
    else:
        found = grid.numbered(samples, "samples")
        if found.shape[:1] == times.shape and found.ndim == 1 + (ndim > 1) or found.shape == (len(times), 1):
            clouds = list(found.reshape(len(times), 1, -1))
        elif found.shape[:1] == times.shape and found.ndim == 2 + (ndim > 1):
            clouds = list(found.reshape(*found.shape[:2], -1))
        elif len(times) == 1:
            clouds = [found.reshape(len(found), -1) if found.size and found.ndim else found.reshape(found.size, 1)]
        else:
            raise ValueError(
                f"samples must be a list of a cloud for each of {len(times)} times, or a row for each, got shape {found.shape}"
            )
    wrong = next((one for one in clouds if one.shape[1] != ndim), None)
    if wrong is not None and wrong.size:
        raise ValueError(f"a sample has {ndim} coordinates on this grid, got {wrong.shape[1]}")
    clouds = [one.reshape(-1, ndim) for one in clouds]
    values = np.concatenate(clouds)
    return np.repeat(times, [len(one) for one in clouds]), values[:, 0] if ndim == 1 else values


def _checked_background(background: Any) -> Any:
    if isinstance(background, str):
        return Named(background)
    found = background if marked(background) else numbers(background, "background")
    value = plain(found)
    if np.shape(value) != () or not 0 <= value < 1:
        raise ValueError(f"background is one share of the samples, within [0, 1), got {value}")
    return found
