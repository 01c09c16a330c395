"""Many data sets of one kind: one measurement as a template, and arrays with a leading axis for what differs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxdiff.measurements.autocorrelation import coloured, whiten
from jaxdiff.measurements.histograms import Histograms, normalised
from jaxdiff.measurements.measurement import Measurement
from jaxdiff.measurements.readings import Readings
from jaxdiff.model.grid import Grid
from jaxdiff.quantities import numbers


@dataclass(frozen=True)
class Stack:
    """B data sets that one plan can predict.

    template: what is common to all; initials: the initial state of each data set, None if all share the template's
    """

    template: Any
    initials: tuple[Any, ...] | None

    @abstractmethod
    def __len__(self) -> int:
        """How many data sets there are."""

    @abstractmethod
    def __getitem__(self, i: int) -> Any:
        """One data set as a measurement; raises ValueError if it is not a possible one."""

    @abstractmethod
    def data(self) -> dict[str, np.ndarray]:
        """What the plan of each data set holds in place of the template's, {field: (B, ...)}."""

    @abstractmethod
    def simulated(
        self, prediction: np.ndarray, spread: float, kind: str, repeats: int, rng: Any, tau: Any = None
    ) -> Stack:
        """Repeats of the first data set as the model predicts it; spread: of residuals in units of their sigma; tau: the
        correlation time of the noise at each row, if it remembers."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know of the data, in words."""
        return ()

    @property
    def unknown(self) -> np.ndarray:
        """(B,) how many readings of each data set have a variance to be estimated."""
        return np.zeros(len(self), int)

    def initial_of(self, i: int) -> Any:
        return self.template.initial if self.initials is None else self.initials[i]


@dataclass(frozen=True)
class ReadingsStack(Stack):
    """values: (B, m), NaN where missing; sigma: (B, m), or None for that of the template; missing: how many were given so."""

    values: np.ndarray
    sigma: np.ndarray | None = None
    missing: int = 0

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, i: int) -> Readings:
        one, kept = self.template, ~np.isnan(self.values[i])
        deviation = None if one.sigma is None else (one.sigma if self.sigma is None else self.sigma[i])[kept]
        columns = (one.times[kept], one.positions[kept], self.values[i][kept], deviation)
        return Readings(one.grid, self.initial_of(i), *columns, one.start, initial_sigma=one.initial_sigma)

    @property
    def notes(self) -> tuple[str, ...]:
        count = int(np.sum(~np.isnan(self.values)))
        used = f"{count} of {count + self.missing} rows of {len(self)} data sets used; {self.missing} missing"
        return (used,) if self.missing else ()

    def data(self) -> dict[str, np.ndarray]:
        seen = ~np.isnan(self.values)
        sigma = self.sigma if self.sigma is not None else self.template.sigma
        return {
            "observation": np.where(seen, self.values, 0.0),
            "weight": np.where(seen, 1.0 if sigma is None else np.where(seen, sigma, 1.0) ** -2, 0.0),
            "size": seen.sum(1).astype(float),
            "constant": np.zeros(len(seen)) if sigma is None else np.log(np.where(seen, sigma, 1.0)).sum(1),
        }

    @property
    def unknown(self) -> np.ndarray:
        return np.zeros(len(self), int) if self.template.known else (~np.isnan(self.values)).sum(1)

    def simulated(
        self, prediction: np.ndarray, spread: float, kind: str, repeats: int, rng: Any, tau: Any = None
    ) -> ReadingsStack:
        one, shape = self.template, (repeats, len(prediction))
        sigma, rows = 1.0 if one.sigma is None else one.sigma, (one.times, one.positions)
        noise = rng.normal(size=shape)
        if kind == "residual":
            own = (self.values[0] - prediction) / sigma
            own = own if tau is None else whiten(own, *rows, tau)
            own = own - own.mean()
            noise = rng.choice(own / (np.sqrt(np.mean(own**2)) or 1.0), shape)
        if tau is not None:
            noise = coloured(noise.T, *rows, tau).T
        return ReadingsStack(one, None, prediction + sigma * spread * noise)


@dataclass(frozen=True)
class HistogramsStack(Stack):
    """counts: (B, times, *bins), a time of NaN is missing; total: (B, times), or None for that of the template."""

    counts: np.ndarray
    total: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, i: int) -> Histograms:
        one, kept = self.template, self._seen[i]
        total = None if one.total is None else (one.total if self.total is None else self.total[i])[kept]
        return Histograms(
            one.grid, self.initial_of(i), one.times[kept], self.counts[i][kept], one.edges, total, one.start
        )

    @property
    def _seen(self) -> np.ndarray:
        return ~np.isnan(self.counts).reshape(*self.counts.shape[:2], -1).all(2)

    def data(self) -> dict[str, np.ndarray]:
        one, seen = self.template, self._seen
        held = (self.counts if one.whole else self.counts * one.volumes).reshape(*seen.shape, -1)
        held = np.where(seen[..., None], held, 1.0)
        bad = ~(np.isfinite(held) & (held >= 0)).all(2) | ~(held.sum(2) > 0)
        total = one.total if self.total is None else self.total
        total = None if total is None else np.broadcast_to(total, seen.shape)
        if total is not None and one.whole:  # where a time is missing any total will do
            total = np.where(seen, total, held.sum(2))
        with np.errstate(invalid="ignore", divide="ignore"):
            shares, size = normalised(held, one.whole, total)
            bad |= ~np.isfinite(shares).all(2)
        weight = np.ones(seen.shape) if size is None else size
        return {
            "observation": np.where(bad[..., None], np.nan, np.where(seen[..., None], shares, 0.0)),
            "weight": np.where(seen, weight, 0.0),
            "size": seen.sum(1).astype(float),
        }

    def simulated(
        self, prediction: np.ndarray, spread: float, kind: str, repeats: int, rng: Any, tau: Any = None
    ) -> HistogramsStack:
        one = self.template
        own, size = normalised(one.mass, one.whole, one.total)
        assert size is not None, "densities are refused before they are drawn"
        shares = own if kind == "residual" else np.maximum(prediction, 0.0)
        count = np.maximum(np.round(size), 1).astype(int)
        drawn = [rng.multinomial(n, p / p.sum(), repeats) for n, p in zip(count, shares, strict=True)]
        held = np.stack(drawn, axis=1)[..., : one.mass.shape[1]].reshape(repeats, *one.counts.shape).astype(float)
        if one.whole:
            return HistogramsStack(one, None, held)
        return HistogramsStack(one, None, held / count.reshape(-1, *(1,) * one.grid.ndim) / one.volumes)


def stack(measurements: Any, values: Any = None) -> Stack:
    """The data sets as one stack: of a measurement and an array of values, or of measurements of one kind.

    Raises TypeError or ValueError if they are not of one kind, grid and start, or shapes differ.
    """
    if values is not None:
        return _of_array(measurements, values)
    several = list(measurements)
    first = several[0]
    _check_kind(first)
    for i, one in enumerate(several):
        if type(one) is not type(first):
            raise TypeError(
                f"data set {i} is {type(one).__name__}, the first {type(first).__name__}; fit each kind on its own"
            )
        if one.start != first.start or not _same_grid(one.grid, first.grid):
            raise ValueError(f"data set {i} has another grid or start than the first; fit those on their own")
        if one.known != first.known:
            what = "a sigma" if isinstance(one, Readings) else "counts or a total"
            raise ValueError(f"either all data sets have {what} or none has, got both at data set {i}")
    shared = all(one.initial is first.initial for one in several)
    initials = None if shared else tuple(one.initial for one in several)
    return (_of_readings if isinstance(first, Readings) else _of_histograms)(several, initials)


def repeated(measurement: Measurement, count: int) -> Stack:
    """One data set many times."""
    one = stack([measurement])
    if isinstance(one, ReadingsStack):
        return replace(one, values=np.broadcast_to(one.values, (count, *one.values.shape[1:])), missing=0)
    assert isinstance(one, HistogramsStack)
    return replace(one, counts=np.broadcast_to(one.counts, (count, *one.counts.shape[1:])))


def _check_kind(measurement: Any) -> None:
    if not isinstance(measurement, (Readings, Histograms)):
        raise TypeError(
            f"only jd.Readings and jd.Histograms are fitted as one batch, got {type(measurement).__name__}; call jd.fit for each"
        )


def _of_array(measurement: Any, values: Any) -> Stack:
    _check_kind(measurement)
    values = numbers(values, "values")
    shape = measurement.values.shape if isinstance(measurement, Readings) else measurement.counts.shape
    if values.ndim and not len(values):
        raise ValueError("no data set given, got empty values; pass one at least")
    if values.shape[1:] != shape:
        raise ValueError(
            f"values must have shape (data sets, {', '.join(map(str, shape))}) like those of the measurement, got {values.shape}"
        )
    if isinstance(measurement, Readings):
        return ReadingsStack(measurement, None, values, missing=int(np.isnan(values).sum()))
    finite = values[np.isfinite(values)]
    if measurement.whole != bool((finite == np.round(finite)).all()):
        raise ValueError("either all histograms are counts or none is, got both; round them, or fit them on their own")
    return HistogramsStack(measurement, None, values)


def _of_readings(several: Sequence[Any], initials: Any) -> ReadingsStack:
    """Over the union of all rows, where each data set misses those that are not its own."""
    first = several[0]
    missing = sum(one.missing for one in several)
    known, same = first.known, lambda a, b: a is b or np.array_equal(a, b)
    if all(same(one.times, first.times) and same(one.positions, first.positions) for one in several):
        sigma = np.stack([one.sigma for one in several]) if known else None
        return ReadingsStack(first, initials, np.stack([one.values for one in several]), sigma, missing)
    keys = np.concatenate([_keyed(one) for one in several])
    rows, where = np.unique(keys, axis=0, return_inverse=True)
    sets = np.repeat(np.arange(len(several)), [len(one.values) for one in several])
    values = np.full((len(several), len(rows)), np.nan)
    values[sets, where.ravel()] = np.concatenate([one.values for one in several])
    sigma = np.ones_like(values) if known else None
    if sigma is not None:
        sigma[sets, where.ravel()] = np.concatenate([one.sigma for one in several])
    places = rows[:, 1:-1] if first.grid.ndim > 1 else rows[:, 1]
    ones = np.ones(len(rows))
    template = Readings(first.grid, first.initial, rows[:, 0], places, ones, ones if known else None, first.start)
    return ReadingsStack(template, initials, values, sigma, missing)


def _keyed(one: Readings) -> np.ndarray:
    """(m, ndim + 2) time, place, and which of several readings at the same time and place each row is."""
    rows = np.column_stack([one.times, one.positions.reshape(len(one.times), -1)])
    order = np.lexsort(rows.T)
    fresh = np.concatenate([[True], (rows[order[1:]] != rows[order[:-1]]).any(1)])
    place = np.arange(len(order)) - np.maximum.accumulate(np.where(fresh, np.arange(len(order)), 0))
    number = np.empty(len(order))
    number[order] = place
    return np.column_stack([rows, number])


def _of_histograms(several: Sequence[Any], initials: Any) -> HistogramsStack:
    first = several[0]
    for i, one in enumerate(several):
        bins = len(one.bins) == len(first.bins) and all(map(np.array_equal, one.bins, first.bins))
        if not bins or not np.array_equal(one.times, first.times):
            raise ValueError(f"data set {i} has other bins or times than the first; fit those on their own")
        if one.whole != first.whole or (one.total is None) != (first.total is None):
            raise ValueError(
                f"data set {i} is counted otherwise than the first; give all of them counts and totals alike"
            )
    total = None if first.total is None else np.stack([one.total for one in several])
    return HistogramsStack(first, initials, np.stack([one.counts for one in several]), total)


def _same_grid(one: Grid, other: Grid) -> bool:
    if one is other:
        return True
    same = one.geometry == other.geometry and one.shape == other.shape
    return same and all(map(np.array_equal, one.edges, other.edges))
