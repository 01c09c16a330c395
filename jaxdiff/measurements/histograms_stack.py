"""Many data sets of histograms, and counts drawn anew from a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdiff.measurements.stacks import Alone, Stack

if TYPE_CHECKING:
    from jaxdiff.measurements.histograms import Histograms


@dataclass(frozen=True)
class HistogramsStack(Stack):
    """values: counts (B, times, *bins), a time of NaN is missing; total: (B, times), or None for that of the template."""

    total: np.ndarray | None = None

    def __getitem__(self, i: int) -> Histograms:
        one, kept = self.template, self._seen[i]
        total = None if one.total is None else (one.total if self.total is None else self.total[i])[kept]
        columns = one.times[kept], self.values[i][kept], one.edges, total, one.start
        return type(one)(one.grid, self.initial_of(i), *columns, conditions=one.conditions, phase=one.phase)

    @property
    def _seen(self) -> np.ndarray:
        return ~np.isnan(self.values).reshape(*self.values.shape[:2], -1).all(2)

    def data(self) -> dict[str, np.ndarray]:
        one, seen = self.template, self._seen
        counted = (self.values if one.whole else self.values * one.volumes).reshape(*seen.shape, -1)
        counted = np.where(seen[..., None], counted, 1.0)
        bad = ~(np.isfinite(counted) & (counted >= 0)).all(2) | ~(counted.sum(2) > 0)
        total = one.total if self.total is None else self.total
        total = None if total is None else np.broadcast_to(total, seen.shape)
        if total is not None and one.whole:  # where a time is missing any total will do
            total = np.where(seen, total, counted.sum(2))
        with np.errstate(invalid="ignore", divide="ignore"):
            shares = one.shares(counted, total)
            bad |= ~np.isfinite(shares).all(2)
        weight = total if total is not None else counted.sum(2) if one.whole else np.ones(seen.shape)
        return {
            "observation": np.where(bad[..., None], np.nan, np.where(seen[..., None], shares, 0.0)),
            "weight": np.where(seen, weight, 0.0),
            "size": seen.sum(1).astype(float),
        }


def drawn(one: Histograms, prediction: np.ndarray, repeats: int, rng: Any, kind: str) -> np.ndarray:
    """Counts (repeats, times, *bins) of as many individuals, from the fitted shares of the bins or (kind "residual") the measured ones."""
    if one.size is None:
        raise ValueError("densities do not tell how many were counted, and cannot be drawn; give counts, or total=N")
    shares = one.shares(one.mass, one.total) if kind == "residual" else np.maximum(prediction, 0.0)
    count = np.maximum(np.round(one.size), 1).astype(int)
    several = [rng.multinomial(n, p / p.sum(), repeats) for n, p in zip(count, shares, strict=True)]
    counted = np.stack(several, axis=1)[..., : one.mass.shape[1]].reshape(repeats, *one.counts.shape).astype(float)
    return counted if one.whole else counted / count.reshape(-1, *(1,) * one.grid.ndim) / one.volumes


def joined(several: Sequence[Any], initials: Any) -> HistogramsStack:
    first = several[0]
    for i, one in enumerate(several):
        bins = len(one.bins) == len(first.bins) and all(map(np.array_equal, one.bins, first.bins))
        if not bins or not np.array_equal(one.times, first.times):
            raise Alone(f"counts in other bins or at other times, as those of data set {i} beside the first,")
        if one.whole != first.whole or (one.total is None) != (first.total is None):
            raise ValueError(
                f"data set {i} is counted otherwise than the first; give all of them counts and totals alike"
            )
    total = None if first.total is None else np.stack([one.total for one in several])
    return HistogramsStack(first, initials, np.stack([one.counts for one in several]), total)
