"""Many data sets of readings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import equinox as eqx
import numpy as np

from jaxdiff.measurements.predictor import numbered
from jaxdiff.measurements.stacks import Stack

if TYPE_CHECKING:
    from jaxdiff.measurements.readings import Readings


@dataclass(frozen=True)
class ReadingsStack(Stack):
    """values: (B, m), NaN where missing; sigma: (B, m), or None for that of the template; missing: how many were given so;
    sensors: of each data set, None for those of the template, which has the most."""

    sigma: np.ndarray | None = None
    missing: int = 0
    sensors: tuple[np.ndarray, ...] | None = None

    def __getitem__(self, i: int) -> Readings:
        one, kept = self.template, ~np.isnan(self.values[i])
        deviation = None if one.sigma is None else (one.sigma if self.sigma is None else self.sigma[i])[kept]
        columns = one.times[kept], one.positions[kept], self.values[i][kept], deviation
        found = self.under_own_conditions(one.part(*columns, initial=self.initial_of(i)), i)
        return found if self.sensors is None else eqx.tree_at(lambda m: m.sensors, found, self.sensors[i])

    def rows(self, i: int) -> np.ndarray:
        return np.flatnonzero(~np.isnan(self.values[i]))

    @property
    def notes(self) -> tuple[str, ...]:
        count = int(np.sum(~np.isnan(self.values)))
        used = f"{count} of {count + self.missing} rows of {len(self)} data sets used; {self.missing} missing"
        return (used,) if self.missing else ()

    def data(self) -> dict[str, np.ndarray]:
        seen = ~np.isnan(self.values)
        sigma = self.sigma if self.sigma is not None else self.template.sigma
        numbers = {}
        if self.sensors is not None:
            each = np.stack([numbered(self.template.positions, own) for own in self.sensors])
            numbers = {"number": np.where(seen, each, 0)}
        return numbers | {
            "observation": np.where(seen, self.values, 0.0),
            "weight": np.where(seen, 1.0 if sigma is None else np.where(seen, sigma, 1.0) ** -2, 0.0),
            "size": seen.sum(1).astype(float),
            "constant": np.zeros(len(seen)) if sigma is None else np.log(np.where(seen, sigma, 1.0)).sum(1),
        }

    @property
    def unknown(self) -> np.ndarray:
        return np.zeros(len(self), int) if self.template.known else (~np.isnan(self.values)).sum(1)


def joined(several: Sequence[Any], initials: Any) -> ReadingsStack:
    """Over the union of all rows, where each data set misses those that are not its own."""
    first = several[0]
    missing = sum(one.missing for one in several)
    known, same = first.known, lambda a, b: a is b or np.array_equal(a, b)
    if not all(eqx.tree_equal(one.probe, first.probe) for one in several):
        raise ValueError("all data sets must be read by the same probe; fit the others on their own")
    if all(same(one.times, first.times) and same(one.positions, first.positions) for one in several):
        sigma = np.stack([one.sigma for one in several]) if known else None
        values = np.stack([one.values for one in several])
        template, sensors = _with_most(first, several)
        return ReadingsStack(template, initials, values, sigma, missing, sensors)
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
    template = first.part(rows[:, 0], places, ones, ones if known else None)
    template, sensors = _with_most(template, several)
    return ReadingsStack(template, initials, values, sigma, missing, sensors)


def _with_most(template: Any, several: Sequence[Any]) -> tuple[Any, tuple[np.ndarray, ...] | None]:
    """The template with the sensors of the data set that has most, and those of each if they differ."""
    sensors = tuple(one.sensors for one in several)
    template = eqx.tree_at(lambda m: m.sensors, template, max(sensors, key=len))
    return template, None if all(np.array_equal(one, sensors[0]) for one in sensors) else sensors


def _keyed(one: Readings) -> np.ndarray:
    """(m, ndim + 2) time, place, and which of several readings at the same time and place each row is."""
    rows = np.column_stack([one.times, one.positions.reshape(len(one.times), -1)])
    _, which, counts = np.unique(rows, axis=0, return_inverse=True, return_counts=True)
    number = np.empty(len(rows))
    first = np.cumsum(counts) - counts
    number[np.argsort(which.ravel(), kind="stable")] = np.arange(len(rows)) - np.repeat(first, counts)
    return np.column_stack([rows, number])
