"""Tests of a fitted model by the counts of histograms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdiff.measurements.residuals import Axis, Examination, Finding, adjacent, groupings, groups, neighbours, whitened

if TYPE_CHECKING:
    from jaxdiff.measurements.histograms import Histograms

LEAST = 5.0  # counts that are expected in a bin, or in several together


def examined(m: Histograms, prediction: Any, jacobian: Any) -> Examination:
    """Tests of χ² over all and at each time, of single bins, of means over places and times, and of neighbours.

    They compare counts of bins in which five at least are expected, with their neighbours where alone they are not.
    """
    from scipy import special

    tests, size = Examination(), np.asarray(m.size, float)
    observed, expected, slopes, time, places = _pooled_counts(m, size, prediction, jacobian)
    pooled = np.bincount(time, minlength=len(size))
    several = np.flatnonzero(pooled)
    bins = pooled[several]
    pearson = (observed - expected) / np.sqrt(expected)
    white = whitened(pearson, slopes / np.sqrt(expected)[:, None], np.zeros(len(pearson)), np.full(len(pearson), -1))
    fitted = white.basis.shape[1]
    freedom = int((bins - 1).sum()) - fitted
    if freedom < 1:
        return tests
    total, each = float(white.r @ white.r), np.bincount(time, pearson**2, len(size))[several]
    rare = np.bincount(time, size[time] / expected, len(size))[several]
    variance = 2 * (bins - 1) + (rare - bins**2 - 2 * bins + 2) / size[several]  # of χ² where counts are few
    c = max((variance.sum() - 2 * fitted) / (2 * freedom), 0.5)
    p: Any = float(special.chdtrc(freedom / c, total / c))
    tests.add(Finding(p, -0.5, f"reduced χ² of the counts is {total / freedom:.3g}"))
    if len(several) > 1:
        c = variance / (2 * (bins - 1))
        p = special.chdtrc((bins - 1) / c, each / c)
        i = int(np.argmin(p))
        text = f"the histogram at t = {m.times[several[i]]:.4g} is another, reduced χ² {each[i] / (bins[i] - 1):.3g}"
        tests.add(Finding(float(p[i]) * len(p), -0.2, text))
    p = _binomial(observed, size[time], expected)
    i, inside = int(np.argmin(p)), np.isfinite(places[0])
    at = ", ".join(f"{name} = {line[i]:.4g}" for name, line in zip(m.grid.names, places, strict=True))
    text = f"at t = {m.times[time[i]]:.4g}, {at if inside[i] else 'outside the bins'} are {observed[i]:.6g} where {expected[i]:.4g} are expected"
    tests.add(Finding(float(p[i]) * len(p), 0.0, text))
    if len(bins) <= 64:  # what each time holds is given, which else makes the tests cautious
        given = np.sqrt(expected / size[time])[:, None] * (time[:, None] == several)
        white = white._replace(basis=np.concatenate([white.basis, given], 1))
    when = Axis.of("t", m.times[time])
    where = [Axis.of(name, np.where(inside, line, 0.0)) for name, line in zip(m.grid.names, places, strict=True)]
    weighed = white._replace(own=np.sqrt(expected))
    for labels, texts in groupings(when, where, freedom)[::2]:

        def off(worst: int, mean: float, away: str, texts: list[str] = texts) -> str:
            return f"at {texts[worst]} are {abs(100 * mean):.2g} % {'more' if mean > 0 else 'fewer'} than the model says, {away}"

        tests.add(groups(weighed, np.where(inside, labels, -1), off, known=True))
    alike = lambda r: f"counts of neighbouring bins are off alike, correlation {r:.2g}"
    tests.add(neighbours(white, *adjacent([*where, when]), alike))
    return tests


def _pooled_counts(m: Histograms, size: np.ndarray, prediction: Any, jacobian: Any) -> tuple[Any, ...]:
    """(observed, expected, slopes by the parameters, time, place along each axis) of bins that are pooled until five are
    expected, at times that have several; a place is NaN outside the bins."""
    shares = m.shares(m.mass, m.total)
    prediction, jacobian = np.asarray(prediction, float), np.asarray(jacobian, float)
    if len(jacobian) < len(prediction):  # too large to be kept
        jacobian = np.zeros((*prediction.shape, 0))
    mass = np.maximum(prediction, 0.0)
    whole = mass.sum(1, keepdims=True)
    slopes = jacobian - mass[..., None] * jacobian.sum(1, keepdims=True) / whole[..., None]
    slopes = size[:, None, None] * slopes / whole[..., None]
    expected = size[:, None] * mass / whole
    label, count = _pooled(expected)
    add = lambda part: np.bincount(label.ravel(), part.ravel(), count)
    counts: list[Any] = [add(shares * size[:, None]), add(expected)]
    columns = [add(part) for part in np.moveaxis(slopes, -1, 0)]
    counts.append(np.stack(columns, -1) if columns else np.zeros((count, 0)))
    time = np.zeros(count, int)
    time[label] = np.arange(len(size))[:, None]
    centres = np.stack([np.ravel(one) for one in np.meshgrid(*m.centres, indexing="ij")])
    outside = np.full((len(centres), shares.shape[1] - centres.shape[1]), np.nan)
    centres = np.concatenate([centres, outside], axis=1)
    places = [add(np.broadcast_to(line, shares.shape) + 0 * shares) / add(np.ones_like(shares)) for line in centres]
    use = (np.bincount(time) > 1)[time]
    return *(part[use] for part in (*counts, time)), [line[use] for line in places]


def _binomial(observed: np.ndarray, size: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Two-sided p-values of counts out of `size`: the tails of binomial distributions, as beta integrals."""
    from scipy import special

    rest, chance = np.maximum(size - observed, 0.0), np.clip(expected / size, 0.0, 1.0)
    most = np.where(observed > 0, special.betainc(np.maximum(observed, 1e-9), rest + 1, chance), 1.0)
    least = np.where(rest > 0, special.betainc(np.maximum(rest, 1e-9), observed + 1, 1 - chance), 1.0)
    return 2 * np.minimum(most, least)


def _pooled(expected: np.ndarray) -> tuple[np.ndarray, int]:
    """(label of each bin (times, bins), how many): neighbours together until five are expected."""
    counted, label = np.zeros(len(expected)), np.zeros(expected.shape, int)
    now = np.zeros(len(expected), int)
    for k, column in enumerate(expected.T):
        label[:, k] = now
        counted += column
        full = counted >= LEAST
        now, counted = now + full, np.where(full, 0.0, counted)
    label = np.minimum(label, np.maximum(now - 1, 0)[:, None])  # what is left over joins the last full one
    first = np.concatenate([[0], np.cumsum(label.max(1) + 1)])
    return label + first[:-1, None], int(first[-1])
