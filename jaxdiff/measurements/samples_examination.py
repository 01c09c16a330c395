"""Tests of a fitted model by samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdiff.measurements.histograms import Histograms
from jaxdiff.measurements.histograms_examination import examined as examined_counts
from jaxdiff.measurements.residuals import Examination, Finding
from jaxdiff.measurements.samples_predictor import cumulated

if TYPE_CHECKING:
    from jaxdiff.measurements.samples import Samples

LEAST = 8  # samples that a distribution is tested by


def probabilities(m: Samples, shares: np.ndarray) -> np.ndarray:
    """The probability integral transform: F(tᵢ, xᵢ) of the model (m,), uniform where it is right."""
    from scipy.interpolate import PchipInterpolator

    _, when = m.distinct
    edges, points = np.asarray(m.grid.edges[0]), spread(m)[:, 0]
    upto = cumulated(np.maximum(np.asarray(shares, float), 0.0))
    found = np.empty(len(when))
    for t, row in enumerate(upto):
        at = when == t
        found[at] = PchipInterpolator(edges, row / row[-1])(points[at])
    return np.clip(found, 0.0, 1.0)


def rounding(m: Samples) -> np.ndarray:
    """To what samples are rounded along each axis (ndim,), zero where most are alone at their place."""
    found = np.zeros(m.grid.ndim)
    for k, x in enumerate(m.values.reshape(len(m.values), -1).T):
        different = np.unique(_same(m.grid.edges[k], x))
        if 1 < len(different) <= len(x) / 2 and not m.grid.discrete:
            found[k] = float(np.diff(different).min()) * _least(m.grid.edges[k])
    return found


def spread(m: Samples) -> np.ndarray:
    """Positions (m, ndim), rounded ones evenly over what they are rounded to, as cells and distribution functions expect."""
    _, when = m.distinct
    points, rng = np.array(m.values.reshape(len(when), -1), float), np.random.default_rng(0)
    for k, r in enumerate(rounding(m)):
        if r == 0:
            continue
        edges, x = m.grid.edges[k], points[:, k]
        order = rng.permutation(len(x))
        order = order[np.lexsort((_same(edges, x)[order], when[order]))]
        place = np.stack([when, _same(edges, x)])[:, order]
        fresh = np.append(True, (np.diff(place, axis=1) != 0).any(0))
        group = np.cumsum(fresh) - 1
        rank = np.arange(len(x)) - np.flatnonzero(fresh)[group]
        x[order] += r * ((rank + 0.5) / np.bincount(group)[group] - 0.5)
        lower, upper = float(edges[0]), float(edges[-1])
        points[:, k] = upper - np.abs(upper - lower - np.abs(x - lower))
    return points


def _least(edges: Any) -> float:
    return 1e-9 * float(edges[-1] - edges[0])


def _same(edges: Any, x: np.ndarray) -> np.ndarray:
    """Whole numbers, alike for places that differ by roundoff."""
    return np.rint((x - float(edges[0])) / _least(edges)).astype(np.int64)


def examined(m: Samples, prediction: Any, jacobian: Any) -> Examination:
    """Those of the counts in the cells, of neighbouring cells together; on one axis also that F(x) is uniform, and that the outermost
    sample is no further out than the outermost of so many.

    The latter two do not take out what a fit takes out, and are cautious.
    """
    from scipy import special

    times, _ = m.distinct
    shares = np.asarray(prediction, float)
    tests = examined_counts(counted(m), shares, jacobian)
    if m.grid.ndim > 1 or m.grid.discrete or len(m.values) < LEAST:
        return tests
    u = np.sort(found := probabilities(m, shares))
    n, steps = len(u), np.arange(len(u) + 1) / len(u)
    far = max(float(np.max(steps[1:] - u)), float(np.max(u - steps[:-1])))
    root = np.sqrt(n)
    p = float(special.kolmogorov((root + 0.12 + 0.11 / root) * far))
    text = f"samples are not distributed as the model says, by {far:.2g} of all (Kolmogorov–Smirnov)"
    tests.add(Finding(p, far, text))
    depth = np.minimum(found, 1 - found)
    i = int(np.argmin(depth))
    alone = -np.expm1(n * np.log1p(-2 * min(max(float(depth[i]), 0.0), 0.4999)))
    out = f"the sample at t = {m.times[i]:.4g}, {m.grid.names[0]} = {m.values[i]:.4g} is where the model puts {max(depth[i], 1e-9):.2g} of all or less; give background=, or take jd.energy_distance"
    tests.add(Finding(alone, 0.0, out))
    return tests


def counted(m: Samples, together: int = 1) -> Histograms:
    """The samples as counts in the cells, or in bins of so many cells along each axis."""
    times, when = m.distinct
    edges = tuple(_every(np.asarray(e), together) for e in m.grid.edges)
    points = m.values.reshape(len(when), -1) if m.grid.discrete else spread(m)
    counts = [np.histogramdd(points[when == t], bins=edges)[0] for t in range(len(times))]
    return Histograms(m.grid, None, times, np.stack(counts), edges, start=m.start)


def pooled(m: Samples, shares: np.ndarray, together: int) -> np.ndarray:
    """The shares of cells (T, cells) as those of such bins (T, bins)."""
    found = shares.reshape(len(shares), *m.grid.shape)
    for k, n in enumerate(m.grid.shape):
        found = np.add.reduceat(found, np.arange(0, n, together), axis=k + 1)
    return found.reshape(len(shares), -1)


def _every(edges: np.ndarray, together: int) -> np.ndarray:
    return np.append(edges[:-1:together], edges[-1])
