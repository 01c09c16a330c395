"""What the counts of histograms tell of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdiff.measurements.histograms_stack import normalised
from jaxdiff.measurements.residuals import Axis, Examination, Finding, arranged, beside, groups, neighbours, whitened

if TYPE_CHECKING:
    from jaxdiff.measurements.histograms import Histograms

FEW = 5.0  # counts that are expected in a bin, or in several together


def examined(m: Histograms, prediction: Any, jacobian: Any) -> Examination:
    """Pearson's residuals of bins that hold five at least, with their neighbours where alone they do not."""
    from scipy import special

    tests = Examination()
    shares, counted = normalised(m.mass, m.whole, m.total)
    size = np.asarray(counted, float)
    prediction, jacobian = np.asarray(prediction, float), np.asarray(jacobian, float)
    if len(jacobian) < len(prediction):
        jacobian = np.zeros((*prediction.shape, 0))
    mass = np.maximum(prediction, 0.0)
    whole = mass.sum(1, keepdims=True)
    expected = size[:, None] * mass / whole
    change = (
        size[:, None, None]
        * (jacobian - mass[..., None] * jacobian.sum(1, keepdims=True) / whole[..., None])
        / whole[..., None]
    )
    label, count = _pooled(expected)
    add = lambda part: np.bincount(label.ravel(), part.ravel(), count)
    o, e = add(shares * size[:, None]), add(expected)
    slopes = (
        np.stack([add(part) for part in np.moveaxis(change, -1, 0)], -1) if change.shape[-1] else np.zeros((count, 0))
    )
    time = np.zeros(count, int)
    time[label] = np.arange(len(size))[:, None]
    pooled = np.bincount(time, minlength=len(size))
    centres = np.stack([np.ravel(one) for one in np.meshgrid(*map(_centres, m.bins), indexing="ij")])
    rest = [] if shares.shape[1] == centres.shape[1] else [np.full((len(centres), 1), np.nan)]
    centres = np.concatenate([centres, *rest], axis=1)
    places = [add(np.broadcast_to(line, shares.shape) + 0 * shares) / add(np.ones_like(shares)) for line in centres]
    use = (pooled > 1)[time]
    o, e, slopes, time, places = o[use], e[use], slopes[use], time[use], [line[use] for line in places]
    pearson, bins, several = (o - e) / np.sqrt(e), pooled[pooled > 1], np.flatnonzero(pooled > 1)
    white = whitened(pearson, slopes / np.sqrt(e)[:, None], np.zeros(len(e)), np.full(len(e), -1))
    fitted = white.basis.shape[1]
    freedom = int((bins - 1).sum()) - fitted
    if freedom < 1:
        return tests
    chi, each = float(white.r @ white.r), np.bincount(time, pearson**2, len(size))[several]
    rare = np.bincount(time, size[time] / e, len(size))[several]
    spread = 2 * (bins - 1) + (rare - bins**2 - 2 * bins + 2) / size[several]  # the variance of χ² where counts are few
    c = max((spread.sum() - 2 * fitted) / (2 * freedom), 0.5)
    tests.add(
        Finding(float(special.chdtrc(freedom / c, chi / c)), -0.5, f"reduced χ² of the counts is {chi / freedom:.3g}")
    )
    if len(several) > 1:
        c = spread / (2 * (bins - 1))
        p = special.chdtrc((bins - 1) / c, each / c)
        i = int(np.argmin(p))
        text = f"the histogram at t = {m.times[several[i]]:.4g} is another, reduced χ² {each[i] / (bins[i] - 1):.3g}"
        tests.add(Finding(float(p[i]) * len(p), -0.2, text))
    number, left = o, np.maximum(size[time] - o, 0.0)  # a binomial's tails, as beta integrals
    chance = np.clip(e / size[time], 0.0, 1.0)
    most = np.where(number > 0, special.betainc(np.maximum(number, 1e-9), left + 1, chance), 1.0)
    least = np.where(left > 0, special.betainc(np.maximum(left, 1e-9), number + 1, 1 - chance), 1.0)
    p = 2 * np.minimum(most, least)
    i = int(np.argmin(p))
    at = ", ".join(f"{name} = {line[i]:.4g}" for name, line in zip(m.grid.names, places, strict=True))
    text = f"at t = {m.times[time[i]]:.4g}, {at if np.isfinite(places[0][i]) else 'outside the bins'} are {number[i]:.6g} where {e[i]:.4g} are expected"
    tests.add(Finding(float(p[i]) * len(p), 0.0, text))
    if len(bins) <= 64:  # what each time holds is given, which else makes the tests cautious
        white = white._replace(
            basis=np.concatenate([white.basis, np.sqrt(e / size[time])[:, None] * (time[:, None] == several)], 1)
        )
    inside = np.isfinite(places[0])
    when = Axis.of("t", m.times[time])
    where = [Axis.of(name, np.where(inside, line, 0.0)) for name, line in zip(m.grid.names, places, strict=True)]
    weighed = white._replace(own=np.sqrt(e))
    for labels, texts in arranged(when, where, freedom)[::2]:

        def off(worst: int, mean: float, away: float, texts: list[str] = texts) -> str:
            return f"at {texts[worst]} are {abs(100 * mean):.2g} % {'more' if mean > 0 else 'fewer'} than the model says, {abs(away):.2g} standard errors"

        tests.add(groups(weighed, np.where(inside, labels, -1), off, known=True))
    one, two = beside([*where, when])
    tests.add(neighbours(white, one, two, lambda r: f"counts of neighbouring bins are off alike, correlation {r:.2g}"))
    return tests


def _centres(edges: Any) -> np.ndarray:
    return (np.asarray(edges)[1:] + np.asarray(edges)[:-1]) / 2


def _pooled(expected: np.ndarray) -> tuple[np.ndarray, int]:
    """(label of each bin (times, bins), how many): neighbours together until five are expected."""
    counted, label = np.zeros(len(expected)), np.zeros(expected.shape, int)
    now = np.zeros(len(expected), int)
    for k, column in enumerate(expected.T):
        label[:, k] = now
        counted += column
        full = counted >= FEW
        now, counted = now + full, np.where(full, 0.0, counted)
    label = np.minimum(label, np.maximum(now - 1, 0)[:, None])  # what is left over joins the last full one
    first = np.concatenate([[0], np.cumsum(label.max(1) + 1)])
    return label + first[:-1, None], int(first[-1])
