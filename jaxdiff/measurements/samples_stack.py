"""Many data sets of samples, and samples drawn anew from a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdiff.measurements.samples_predictor import placed
from jaxdiff.measurements.stacks import Alone, Stack

if TYPE_CHECKING:
    from jaxdiff.measurements.samples import Samples


@dataclass(frozen=True)
class SamplesStack(Stack):
    """values: positions (B, m) or (B, m, ndim), at the times of the template."""

    def __getitem__(self, i: int) -> Samples:
        one = self.template
        if self.initials is not None:
            one = one.with_start(self.initial_of(i))
        return self.under_own_conditions(one.at(one.times, self.values[i]), i)

    def data(self) -> dict[str, np.ndarray]:
        each = [placed(self.template, values) for values in self.values]
        return {name: np.stack([one[name] for one in each]) for name in each[0]}


def drawn(one: Samples, fit: Any, repeats: int, rng: np.random.Generator, kind: str) -> np.ndarray:
    """Positions of as many individuals at each time: uniform within cells of the fitted shares, or (kind "residual") some of
    those that were seen."""
    times, when = one.distinct
    out = np.empty((repeats, *one.values.shape))
    shares = None if kind == "residual" else np.maximum(fit.predict(one.in_cells), 0.0)
    edges = [np.asarray(e) for e in one.grid.edges]
    for t in range(len(times)):
        at = np.flatnonzero(when == t)
        if shares is None:
            out[:, at] = one.values[rng.choice(at, (repeats, len(at)))]
            continue
        cells = rng.choice(shares.shape[1], (repeats, len(at)), p=shares[t] / shares[t].sum())
        index = np.unravel_index(cells, one.grid.shape)
        if one.grid.discrete:
            places = [i.astype(float) for i in index]
        else:
            places = [e[i] + rng.uniform(size=cells.shape) * np.diff(e)[i] for e, i in zip(edges, index, strict=True)]
        out[:, at] = places[0] if one.grid.ndim == 1 else np.stack(places, axis=-1)
    return out


def joined(several: Sequence[Any], initials: Any) -> SamplesStack:
    first = several[0]
    for i, one in enumerate(several):
        if not np.array_equal(one.times, first.times):
            raise Alone(f"samples at other times, or not as many, as those of data set {i} beside the first,")
        if not np.array_equal(one.background, first.background):
            raise Alone(f"samples of another background, as those of data set {i} beside the first,")
    return SamplesStack(first, initials, np.stack([one.values for one in several]))
