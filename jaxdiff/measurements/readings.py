"""Readings: values of the field at places and times, predicted by interpolation between cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import equinox as eqx
import jax
import numpy as np

from jaxdiff.discretisation.schemes import FiniteVolume, semidiscrete
from jaxdiff.integration.options import AUTOMATIC, SolverOptions
from jaxdiff.measurements import readings_stack
from jaxdiff.measurements.autocorrelation import correlations, previous
from jaxdiff.measurements.contradictions import doubts
from jaxdiff.measurements.measurement import Measurement
from jaxdiff.measurements.predictor import Prediction, RowsPredictor, distinct, numbered, padded, padded_noise
from jaxdiff.measurements.probe_predictor import ProbePredictor, probed
from jaxdiff.measurements.probes import Probe
from jaxdiff.measurements.readings_examination import examined
from jaxdiff.measurements.residuals import Examination
from jaxdiff.measurements.states_at_times import checked_start_noise, start_inside, states_at_times
from jaxdiff.model.grid import Grid
from jaxdiff.model.schrodinger import between_centers
from jaxdiff.quantities import numbers, refuse, times_as_numbers
from jaxdiff.runtime.compilation import bucket

if TYPE_CHECKING:
    from jaxdiff.measurements import tables
    from jaxdiff.measurements.view import View


class Readings(Measurement):
    """Values of the field at places and times: one row a reading.

        yᵢ = u(tᵢ, xᵢ) + noise

    Args:
        grid: where the model is solved.
        initial: the state at `start`: a number, an array over cells `(*cells,)` or a callable of position, whose marks are
            fitted too; None where the model returns one or only steady states are read.
        times: `(m,)` [time]; inf is the steady state.
        positions: `(m,)` or `(m, ndim)` [length]; on a periodic axis within the grid, one period: wrap them,
            lower + (x - lower) % period. Or a probe, that reads of the whole state: `jd.Total()`, `jd.Mean(0.2, 0.4)`,
            `jd.FluxThrough("x+")`, …, one for all rows.
        values: `(m,)` [unit of the field]; NaN means missing and drops the row, which a fit notes.
        sigma: standard deviation of a value, a number or `(m,)`; None: the variance is taken from the residuals.
        start: [time].
        time_unit: "s", "min", "h", "day", "week" or "year" of 365.25 days, in which times and start count where they are
            dates or durations. Dates count from the start if it is a date too, else from the earliest of them.
        initial_sigma: where the initial state is an array that was measured, the standard deviation of its cells, a number or
            `(*cells,)`, zero where it is exact; None: that of the values, if the array is as rough. It enters error bars.
        conditions: what is known of this experiment and is no parameter, {argument of the model function: number, array or
            `Series`}: several experiments share the parameters of one model. A whole number may be an index, {"i": 0} for k[i].
        phase: of an equation with `Exchange` what is seen, "total", 0 for what moves, or 1, 2, … for the phases.

    Raises:
        ValueError: shapes that differ, nothing left, a position outside the grid, a time before the start, a sigma that is
            not positive, an initial state that is not finite, dates without a unit, or what is no real number.

    >>> import jaxdiff as jd
    >>> grid = jd.Grid.uniform((0.0, 1.0, 50))
    >>> readings = jd.Readings(grid, 0.0, [1.0, 2.0, 2.0], [0.5, 0.5, 0.7], [0.3, 0.6, float("nan")])
    >>> readings.values
    array([0.3, 0.6])
    """

    family: ClassVar[str] = "gaussian"
    has_residuals: ClassVar[bool] = True
    grid: Grid
    initial: Any
    times: np.ndarray
    positions: np.ndarray
    values: np.ndarray
    sigma: np.ndarray | None
    start: float = eqx.field(static=True)
    missing: int = eqx.field(static=True)  # rows that were given without a value
    initial_sigma: Any
    probe: Probe | None  # in place of positions, which are zero then
    sensors: np.ndarray  # the different positions in their order, also of what this is a part of

    def __init__(
        self,
        grid: Grid,
        initial: Any,
        times: Any,
        positions: Any,
        values: Any,
        sigma: Any = None,
        start: Any = 0.0,
        *,
        time_unit: str | None = None,
        initial_sigma: Any = None,
        conditions: Mapping[str, Any] | None = None,
        phase: Any = "total",
    ):
        values = numbers(values, "values")
        times, self.start = times_as_numbers(times, start, time_unit)
        if values.ndim != 1:
            raise ValueError(
                f"values must be one number a row, got shape {values.shape}; pass one time and position for each"
            )
        self.probe = positions if isinstance(positions, Probe) else None
        if self.probe is not None:
            self.probe.check(grid)
            if self.probe.of_rates and phase not in ("total", 0):
                raise ValueError(f"fluxes and walls are those of what moves, got phase={phase!r}; leave it out")
            positions = np.zeros((len(values), grid.ndim))
        positions = _checked_positions(positions, len(values), grid)
        columns = {"times": times} | ({"positions": positions} if grid.ndim == 1 else {})
        if sigma is not None:
            columns["sigma"] = numbers(sigma, "sigma")
        for name, column in columns.items():
            if column.shape not in ((), values.shape):
                raise ValueError(
                    f"{name} must match the {len(values)} values, got shape {column.shape}; give one for each row"
                )
            columns[name] = np.broadcast_to(column, values.shape)
        kept = ~np.isnan(values)
        if not kept.any():
            left = f"is left, got {len(values)} values, all missing" if len(values) else "given, got empty values"
            raise ValueError(f"no reading {left}")
        refuse(np.isinf(values), lambda i: f"values must be finite or NaN, got {values[i]} in row {i}")
        self.sensors = distinct(positions := columns.get("positions", positions))
        times, positions = columns["times"][kept], positions[kept]
        self.sigma = sigma = columns["sigma"][kept] if sigma is not None else None
        if sigma is not None:
            refuse(
                ~((sigma > 0) & np.isfinite(sigma)),
                lambda i: f"sigma must be positive, got {sigma[i]}; drop those rows",
            )
        if self.probe is None:
            grid.require_inside(positions, "position")
        self.grid, self.initial = grid, start_inside(initial, grid)
        self.times, self.positions, self.values = times, positions, values[kept]
        self.missing = int(np.sum(~kept))
        self.initial_sigma = checked_start_noise(initial_sigma, self.initial, grid)
        self.conditions, self.phase = conditions, phase

    @classmethod
    def from_table(
        cls,
        table: tables.Table,
        grid: Grid,
        initial: Any,
        *,
        time: Any,
        position: str | float | Probe | Sequence[str | float] | Mapping[str, float | Sequence[float]],
        value: str | None = None,
        sigma: str | float | None = None,
        start: Any = 0.0,
        time_unit: str | None = None,
        initial_sigma: Any = None,
        conditions: Mapping[str, Any] | None = None,
        phase: Any = "total",
    ) -> Readings:
        """Readings from a table, by the names of the columns.

        table: path of a CSV file, a DataFrame, a dictionary of columns, or an open file
        time, position, sigma: a column, or one number for all rows; value: a column. On several axes position is a
        sequence of them, ("x", "y"). For a table with a column per sensor, position is {column: position}, or
        {column: (x, y)}, and there is no value. A probe in place of a position reads of the whole state.
        start, time_unit, initial_sigma, conditions, phase: as in `Readings`; with a unit, texts in the column of time are read as dates, 2024-01-31 12:00

        >>> import jaxdiff as jd, pandas
        >>> rod = pandas.DataFrame({"x": [10.0, 14.0], "T": [96.14, 80.12]})
        >>> grid = jd.Grid.uniform((0.0, 70.0, 70))
        >>> jd.Readings.from_table(rod, grid, None, time=float("inf"), position="x", value="T").positions
        array([10., 14.])
        """
        from jaxdiff.measurements import tables

        frame = tables.read(table)
        if isinstance(position, Mapping):
            columns = tables.wide(frame, time=time, positions=position, sigma=sigma, time_unit=time_unit)
        elif value is None:
            raise TypeError("value must name the column of readings, got None; or give position={column: position}")
        else:
            at = 0.0 if isinstance(position, Probe) else position
            columns = tables.long(frame, time=time, position=at, value=value, sigma=sigma, time_unit=time_unit)
        times, positions, values, deviations = columns
        with tables.named(frame):
            places = position if isinstance(position, Probe) else positions.reshape(len(times), -1)
            rows = times, places, values, deviations
            more = {"time_unit": time_unit, "initial_sigma": initial_sigma, "conditions": conditions, "phase": phase}
            return cls(grid, initial, *rows, start, **more)

    @classmethod
    def from_images(
        cls,
        grid: Grid,
        initial: Any,
        times: Any,
        images: Any,
        *,
        sigma: Any = None,
        start: Any = None,
        time_unit: str | None = None,
        initial_sigma: Any = None,
        conditions: Mapping[str, Any] | None = None,
        phase: Any = "total",
    ) -> Readings:
        """Readings from a series of images, whose pixels are the cells of the grid.

        initial: the state at `start`, by default the time of the first image; None where the model returns one
        times: (T,) [time]; images: (T, *cells) [unit of the field], the first axis of an image that of x; NaN, or a
        mask, where there is no value; of a grid with a mask pixels inside alone are read; sigma: a number, (T,) for the
        images or (T, *cells) for the pixels; time_unit, initial_sigma, conditions, phase: as in `Readings`

        An image may be the initial state of those that follow it. Its noise spreads with what was there, and enters the error
        bars: with initial_sigma, or the noise of the other images if it is as rough as they are.

        Raises ValueError if shapes differ from those of the grid, or the initial state is the first image.

        >>> import numpy as np, jaxdiff as jd
        >>> grid = jd.Grid.uniform((0.0, 1.0, 4), (0.0, 1.0, 3))
        >>> jd.Readings.from_images(grid, lambda x, y: x * y, [1.0, 2.0], np.ones((2, 4, 3))).values.shape
        (24,)
        """
        times, begin = times_as_numbers(times, 0.0 if start is None else start, time_unit)
        images = numbers(images, "images")
        if times.ndim != 1 or not times.size or images.shape != (*times.shape, *grid.shape):
            raise ValueError(
                f"images must be one of shape {grid.shape} for each of {times.size} times, got shape {images.shape}; the first axis of an image is that of x"
            )
        infinite = lambda i, *cell: f"image {i} is infinite in cell {cell}; set it to NaN where it tells nothing"
        initial, inside = start_inside(initial, grid), grid.holds(grid.points).reshape(grid.shape)
        images = np.where(inside, images, 0.0)
        refuse(np.isinf(images), infinite)
        if sigma is not None:
            sigma = numbers(sigma, "sigma")
            if sigma.shape not in ((), times.shape, images.shape):
                raise ValueError(
                    f"sigma must be a number, one for each of {times.size} images or for each pixel {images.shape}, got shape {sigma.shape}"
                )
            sigma = sigma.reshape(-1, *(1,) * grid.ndim) if sigma.shape == times.shape else sigma
            sigma = np.broadcast_to(sigma, images.shape)[:, inside].ravel()
        start = float(times[0]) if start is None else begin
        if np.shape(initial) == grid.shape and np.array_equal(initial, images[0]) and start == times[0]:
            raise ValueError(
                "the initial state is the first image, which is then no reading; pass times[1:] and images[1:], with start=times[0]"
            )
        points = grid.points[inside.ravel()]
        rows = np.repeat(times, len(points)), np.tile(points, (len(times), 1)), images[:, inside].ravel()
        more = {"initial_sigma": initial_sigma, "conditions": conditions, "phase": phase}
        return cls(grid, initial, *rows, sigma, start, **more)

    @property
    def notes(self) -> tuple[str, ...]:
        count = len(self.values)
        missing = (f"{count} of {count + self.missing} rows used; {self.missing} missing",) if self.missing else ()
        return missing + doubts(self.times, self.positions, self.values, self.sigma)

    def rows(self, kept: np.ndarray) -> Readings:
        """Only these rows."""
        sigma = None if self.sigma is None else self.sigma[kept]
        return self.part(self.times[kept], self.positions[kept], self.values[kept], sigma)

    def at(self, times: np.ndarray, positions: np.ndarray) -> Readings:
        """Readings of nothing at other times and places, or by the same probe, for predictions."""
        return self.part(times, positions, np.zeros(len(times)))

    def part(self, times: Any, positions: Any, values: Any, sigma: Any = None, initial: Any = None) -> Readings:
        """Other rows of the same experiment."""
        columns = times, self.probe or positions, values, sigma, self.start
        more = {"initial_sigma": self.initial_sigma, "conditions": self.conditions, "phase": self.phase}
        found = Readings(self.grid, self.initial if initial is None else initial, *columns, **more)
        return eqx.tree_at(lambda m: m.sensors, found, self.sensors)

    def belongs_to(self, other: Measurement) -> bool:
        return self is other or self.sensors is getattr(other, "sensors", None)

    def with_sensors_of(self, others: Sequence[Any]) -> Readings:
        tables = {id(one.sensors): one.sensors for one in others if isinstance(one, Readings)}
        if not tables:
            raise ValueError(
                "what is observed differs between sensors, and a loaded fit knows none; fit anew, then predict"
            )
        sensors, *others = tables.values()
        if not all(np.array_equal(sensors, one) for one in others) or (numbered(self.positions, sensors) < 0).any():
            raise ValueError("what is observed differs between sensors; predict at some of those that were fitted")
        return eqx.tree_at(lambda m: m.sensors, self, sensors)

    @property
    def last(self) -> np.ndarray:
        """(m,) the row before each one in time at the same position, -1 for none."""
        return previous(self.times, self.positions)

    def noise(self, tau: Any = 0.0) -> dict[str, Any]:
        """What a predictor holds of the noise: which row was before, what of its residual is expected in the next, the weight of
        the rest, and half the logarithm of the determinant.

            V = σᵢ σⱼ e^{−|tᵢ − tⱼ|/τ} at one position,  rᵀV⁻¹r = Σ (rᵢ − cᵢ rₗ)² wᵢ,  cᵢ = ρᵢ σᵢ/σₗ,  wᵢ = 1/(σᵢ² (1 − ρᵢ²))

        tau: correlation time, a number or (m,) [time], zero for independent noise; l: the row before, as in `last`
        """
        last = self.last
        sigma = np.ones(len(last)) if self.sigma is None else self.sigma
        rho = correlations(self.times, last, tau)
        constant = (0.0 if self.sigma is None else np.log(sigma).sum()) + 0.5 * np.log1p(-(rho**2)).sum()
        carry, weight = rho * sigma / sigma[last], sigma**-2 / (1 - rho**2)
        return {"weight": weight, "carry": carry, "last": last, "constant": np.float64(constant)}

    def prepare(
        self, equation: Any, initial: Any = None, pad: bool = True, options: SolverOptions = AUTOMATIC
    ) -> RowsPredictor:
        count = len(self.values)
        rows = bucket(count) if pad else count
        known: dict[str, Any] = {
            "observation": padded(self.values, rows),
            "size": np.float64(count),
            "known": self.known,
        }
        known |= padded_noise(self, 0.0, rows)
        known |= {"instant": padded(self.times, rows), "number": padded(numbered(self.positions, self.sensors), rows)}
        if self.probe is not None:
            return ProbePredictor(**known, **probed(self, equation, initial, options, partial(padded, length=rows)))
        by_modes = equation.wave and between_centers(self.grid, self.positions)
        states, row = states_at_times(self, equation, initial, options, 0 if by_modes else self.phase, as_they_are=True)
        sensors, sensor = np.unique(self.positions, axis=0, return_inverse=True)
        dense = len(sensors) * (row.max() + 1) <= 8 * count
        places, which = (sensors, bucket(len(sensors))) if dense else (self.positions, rows)
        return ReadingsPredictor(
            **known,
            states_at_times=states,
            row=padded(row, rows),
            place=padded(places, which, places[-1]),
            sensor=padded(sensor, rows) if dense else None,
            by_modes=by_modes,
        )

    def stacked(self, values: np.ndarray) -> readings_stack.ReadingsStack:
        return readings_stack.ReadingsStack(self, None, values, missing=int(np.isnan(values).sum()))

    def joined(self, several: Sequence[Any], initials: Any) -> readings_stack.ReadingsStack:
        return readings_stack.joined(several, initials)

    def examine(self, prediction: Any, jacobian: Any, tau: Any, equation: Any) -> Examination:
        return examined(self, prediction, jacobian, tau)

    def view(self, fit: Any, held_out: Any = None) -> View:
        from jaxdiff.measurements.readings_view import view

        return view(self, fit, held_out)


def _checked_positions(positions: Any, count: int, grid: Grid) -> np.ndarray:
    """(count, ndim) on several axes, where one place may stand for all; (count,) or () on one."""
    several = not isinstance(positions, tuple)  # coordinates in a tuple are one place
    positions, ndim = numbers(positions, "positions"), grid.ndim
    if positions.shape[-1:] == (ndim,) and positions.ndim == (1 if ndim > 1 else 2):
        if count == ndim > 1 and several:
            raise ValueError(
                f"positions of {count} values on {ndim} axes may be one place or one coordinate for each, got shape ({ndim},); give one row of {ndim} for each value, or a tuple for one place"
            )
        positions = np.broadcast_to(positions, (count, ndim))
    if ndim > 1 and positions.shape != (count, ndim):
        raise ValueError(
            f"positions must be {count} rows of {ndim} coordinates, got shape {positions.shape}; give one row for each value"
        )
    return positions[:, 0] if ndim == 1 and positions.ndim == 2 and positions.shape[1] == 1 else positions


class ReadingsPredictor(RowsPredictor):
    """The predictor of readings, whose states are interpolated."""

    place: Any  # positions of the sensors, or of each row
    sensor: Any  # (m,) which sensor; None: a position a row
    by_modes: bool = eqx.field(static=True)  # whether states are waves, which their modes tell between cells

    def predict(self, equation: Any, initial: Any) -> Prediction:
        at_times = self.states_at_times
        order = 2 if at_times.solve is None else getattr(at_times.solve.scheme, "order", 2)
        read = partial(at_times.grid.interpolate, order=order)
        if self.by_modes:
            wave = semidiscrete(equation, at_times.grid, FiniteVolume())[0]
            read = wave.read
        if self.sensor is None:
            states, checks, fine = at_times(equation, initial)
            each = jax.vmap(lambda u, x: read(u, x[None])[0])
            return Prediction(each(states[self.row], self.place), checks, fine)
        at_sensors, checks, fine = at_times(equation, initial, lambda states: read(states, self.place))
        return Prediction(at_sensors[self.row, self.sensor], checks, fine)

    @property
    def rows(self) -> dict[str, Any]:
        place = self.place if self.sensor is None else self.place[self.sensor]
        grid = self.states_at_times.grid
        coordinates = place.reshape(-1, grid.ndim).T
        return {**super().rows, **dict(zip(grid.names, coordinates, strict=True))}

    @property
    def places(self) -> np.ndarray:
        place = np.asarray(self.place)
        return place.reshape(len(place), -1)
