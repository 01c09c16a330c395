"""Stacks of data sets of one kind: one measurement as a template, and arrays with a leading axis for what differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import equinox as eqx
import numpy as np

from jaxdiff.measurements.autocorrelation import coloured, whiten
from jaxdiff.measurements.predictor import filled
from jaxdiff.model.series import Series
from jaxdiff.quantities import numbers


@dataclass(frozen=True)
class Stack:
    """B data sets that one predictor can predict.

    template: what is common to all; initials: the initial state of each data set, None if all share the template's
    values: (B, …) of each, like those of the template; conditions: of each data set, None if all share the template's;
    told: what a reader must know of how they came about
    """

    template: Any
    initials: tuple[Any, ...] | None
    values: np.ndarray
    conditions: tuple[Any, ...] | None = field(default=None, kw_only=True)
    told: tuple[str, ...] = field(default=(), kw_only=True)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, i: int) -> Any:
        """One data set as a measurement; raises ValueError if it is not a possible one."""
        return self.under_own_conditions(
            filled(self.template, self.template.grid, self.initial_of(i), self.values[i]), i
        )

    def data(self) -> dict[str, np.ndarray]:
        """What the predictor of each data set holds in place of the template's, {field: (B, ...)}."""
        return {"observation": self.values}

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know of the data, in words."""
        return self.told

    @property
    def unknown(self) -> np.ndarray:
        """(B,) how many values of each data set have a variance to be estimated."""
        return np.full(len(self), self.template.unknown)

    def rows(self, i: int) -> Any:
        """Which rows of the template one data set has."""
        return slice(None)

    def under_own_conditions(self, one: Any, i: int) -> Any:
        """A measurement under the conditions of a data set."""
        return one if self.conditions is None else eqx.tree_at(lambda m: m.conditions, one, self.conditions[i])

    def conditions_of(self, i: int) -> Any:
        return self.template.conditions if self.conditions is None else self.conditions[i]

    def initial_of(self, i: int) -> Any:
        return self.template.initial if self.initials is None else self.initials[i]

    def taken_apart(self, reason: str) -> Apart:
        """The same as measurements of their own."""
        return apart([self[i] for i in range(len(self))], reason, self.notes)


@dataclass(frozen=True)
class Apart(Stack):
    """Data sets that make no batch; sets: one measurement each; reason: what they are, in words."""

    sets: tuple[Any, ...] = field(kw_only=True)
    reason: str = field(kw_only=True)

    def __getitem__(self, i: int) -> Any:
        return self.sets[i]

    def data(self) -> dict[str, Any]:
        return {"sets": self.sets}

    @property
    def unknown(self) -> np.ndarray:
        return np.array([one.unknown for one in self.sets])

    def taken_apart(self, reason: str) -> Apart:
        return self


def apart(sets: Sequence[Any], reason: str, notes: tuple[str, ...] = ()) -> Apart:
    """Measurements as a stack of what makes no batch."""
    several, first = tuple(sets), sets[0]
    initials = None if all(one.initial is first.initial for one in several) else tuple(o.initial for o in several)
    alike = all(one.conditions is first.conditions for one in several)
    conditions = None if alike else tuple(one.conditions for one in several)
    values = np.zeros((len(several), 0))
    return Apart(first, initials, values, conditions=conditions, sets=several, reason=reason, told=notes)


def stack(measurements: Any, values: Any = None) -> Stack:
    """The data sets as one stack: of a measurement and an array of values, or of measurements of one kind.

    Raises TypeError or ValueError if they are not of one kind, grid and start, or shapes differ.
    """
    if values is not None:
        values, shape = numbers(values, "values"), measurements.values.shape
        if values.ndim and not len(values):
            raise ValueError("no data set given, got empty values; pass one at least")
        if values.shape[1:] != shape:
            raise ValueError(
                f"values must have shape (data sets, {', '.join(map(str, shape))}) like those of the measurement, got {values.shape}"
            )
        if measurements.alone is not None:
            return apart([_one_of(measurements, i, one) for i, one in enumerate(values)], measurements.alone)
        return measurements.stacked(values)
    several = list(measurements)
    first = several[0]
    for i, one in enumerate(several):
        if type(one) is not type(first):
            raise TypeError(
                f"data set {i} is {type(one).__name__}, the first {type(first).__name__}; fit each kind on its own"
            )
        if one.start != first.start or not (one.grid is first.grid or eqx.tree_equal(one.grid, first.grid)):
            raise ValueError(f"data set {i} has another grid or start than the first; fit those on their own")
        if one.phase != first.phase:
            raise ValueError(
                f"data set {i} sees phase {one.phase!r}, the first {first.phase!r}; fit those on their own"
            )
        if one.known != first.known:
            raise ValueError(f"either all data sets tell their noise or none does, got both at data set {i}")
    given = tuple(one.conditions for one in several)
    if any((one is None) != (given[0] is None) for one in given):
        raise ValueError("either all data sets tell their conditions or none does; give all of them conditions=")
    if reasons := [one.alone for one in several if one.alone is not None]:
        return apart(several, reasons[0])
    shared = all(one.initial is first.initial for one in several)
    try:
        found = first.joined(several, None if shared else tuple(one.initial for one in several))
    except Alone as error:
        return apart(several, str(error))
    if all(one is given[0] for one in given):
        return found
    courses = [[one.times for one in each.values() if isinstance(one, Series)] for each in given]
    for i, times in enumerate(courses):  # the steps through time are laid between those of the first
        if len(times) != len(courses[0]) or not all(map(np.array_equal, times, courses[0])):
            raise ValueError(f"the Series of data set {i} have other times than those of the first; fit it by jd.fit")
    return replace(found, conditions=given)


def _one_of(measurement: Any, i: int, values: np.ndarray) -> Any:
    try:
        return measurement.with_values(values)
    except ValueError as error:
        raise ValueError(f"data set {i}: {error}") from None


def repeated(measurement: Any, count: int) -> Stack:
    """One data set many times."""
    if measurement.alone is not None:
        return apart([measurement] * count, measurement.alone)
    return measurement.repeated(count)


class Redraw(NamedTuple):
    """How data are drawn anew.

    kind: "parametric" from the model, or "residual" from what it leaves of the data; inflation: n/(n − p), of the mean
    square of residuals; tau: (m,) correlation time of the noise at each row, None where it is independent
    """

    kind: str = "parametric"
    inflation: float = 1.0
    tau: Any = None


def with_noise(measurement: Any, prediction: np.ndarray, repeats: int, rng: Any, how: Redraw) -> np.ndarray:
    """Values (repeats, m) as a model predicts them, with normal noise."""
    (kind, inflation, tau), own, scale = how, measurement.residuals(prediction), 1.0
    if kind == "residual" or not measurement.known:
        scale = float(np.sqrt(np.mean(own**2) * inflation))
    sigma = getattr(measurement, "sigma", None)
    rows = (measurement.times, getattr(measurement, "positions", None))
    shape = (repeats, len(own))
    noise = rng.normal(size=shape)
    if kind == "residual":
        own = own if tau is None else whiten(own, *rows, tau)
        own = own - own.mean()
        noise = rng.choice(own / (np.sqrt(np.mean(own**2)) or 1.0), shape)
    if tau is not None:
        noise = coloured(noise.T, *rows, tau).T
    return prediction + (1.0 if sigma is None else sigma) * scale * noise


class Alone(ValueError):
    """Data sets that make no batch, and are fitted one after the other; its text says what they are."""
