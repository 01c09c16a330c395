"""Autocorrelated noise, AR(1) at each sensor, exp(−Δt/τ) at irregular times: estimated from residuals, and whitened.

Plain NumPy, on the host. `fit` refits with it, `Readings` keep what was found.
"""

from __future__ import annotations

from typing import Any

import numpy as np

LEVEL = 0.01  # share of uncorrelated data in which correlation is found all the same
OWN_TIME = 50  # rows from which on a sensor has a correlation time of its own
MAX_SENSORS = 64  # beyond so many all share one, as the pixels of a camera do
MAX_CORRELATION = 0.995  # of neighbours in time: beyond, residuals drift, and no correlation time is identified
_GRID = np.tanh(np.linspace(0.0, np.arctanh(MAX_CORRELATION), 25))  # correlations at the typical interval
_MAX_GAPS = 200  # distinct intervals; of more, those within a percent of each other are one


def previous(times: Any, sensors: Any) -> np.ndarray:
    """(m,) the row before each one in time at the same sensor, -1 for none, and for all but one of those at one time.

    times: (m,); sensors: (m,) labels, or (m, ndim) positions

    >>> previous([2.0, 1.0, 1.0], [0, 0, 1])
    array([ 1, -1, -1])
    """
    times, places = np.asarray(times, float), np.asarray(sensors).reshape(len(times), -1)
    order = np.lexsort((times, *places.T))
    one, two = order[:-1], order[1:]
    follows = (places[one] == places[two]).all(1) & (times[one] < times[two])
    last = np.full(len(order), -1)
    last[two[follows]] = one[follows]
    return last


def correlations(times: Any, last: np.ndarray, tau: Any) -> np.ndarray:
    """(m,) of each row with the one before it, exp(−Δt/τ); zero where there is none, and at the steady state.

    times: (m,) [time]; last: (m,) of `previous`; tau: a number or (m,), the correlation time at the sensor of each row
    [time], zero for white noise
    """
    times, tau = np.asarray(times, float), np.broadcast_to(np.asarray(tau, float), np.shape(times))
    linked = (last >= 0) & np.isfinite(times) & (tau > 0)
    gap = np.where(linked, times, 1.0) - np.where(linked, times[last], 0.0)
    return np.where(linked, np.exp(-gap / np.where(linked, tau, 1.0)), 0.0)


def whiten(residuals: Any, times: Any, sensors: Any, tau: Any) -> np.ndarray:
    """Residuals (m, …), over their standard deviation, made independent: of unit variance if they were and τ is right.

        wᵢ = (rᵢ − ρᵢ rₗ)/√(1 − ρᵢ²),  ρᵢ = exp(−(tᵢ − tₗ)/τ),  l the row before at the same sensor

    times: (m,) [time]; sensors: (m,) labels, or (m, ndim) positions; tau: a number or (m,) as `estimate` returns it
    [time], zero for white noise. Source: Prais & Winsten 1954, Cowles Commission Discussion Paper 383.

    >>> whiten([1.0, 1.0], [0.0, 1.0], [0, 0], 1 / np.log(2)).round(3)
    array([1.   , 0.577])
    """
    residuals, last = np.asarray(residuals, float), previous(times, sensors)
    rho = correlations(times, last, tau).reshape(-1, *(1,) * (residuals.ndim - 1))
    return (residuals - rho * residuals[last]) / np.sqrt(1 - rho**2)


def coloured(innovations: Any, times: Any, sensors: Any, tau: Any) -> np.ndarray:
    """AR(1) noise, (m, …) of unit variance, from independent numbers: what `whiten` takes back to them.

    >>> coloured([1.0, 1.0], [0.0, 1.0], [0, 0], 1 / np.log(2)).round(3)
    array([1.   , 1.366])
    """
    noise, last = np.array(innovations, float), previous(times, sensors)
    rho = correlations(times, last, tau)
    for i in np.argsort(times, kind="stable"):
        if rho[i]:
            noise[i] = rho[i] * noise[last[i]] + np.sqrt(1 - rho[i] ** 2) * noise[i]
    return noise


def estimate(
    residuals: Any, times: Any, sensors: Any, fitted: float = 1.0, level: float = LEVEL, last: Any = None
) -> np.ndarray | None:
    """The correlation time τ at the sensor of each row (m,) [time], zero where there is none; None if none is found at all.

    residuals: (m,) over their sigma; times: (m,) [time]; sensors: (m,) labels, or (m, ndim) positions; fitted: how many
    parameters were fitted to these rows; level: of the test that finds it; last: (m,) of `previous`, if at hand

    The likelihood of an AR(1) process is maximised over τ, and the correlation ρ of neighbours that belongs to it is mended
    for its bias: 2ρ/n of its own in n rows, and p (1 + ρ)/m for what p parameters take out of m rows, together for a mean
    (1 + 4ρ)/n within ρ/n (Marriott & Pope 1954, doi:10.1093/biomet/41.3-4.390). Correlation is found where the likelihood
    ratio passes its quantile, one-sided, at all sensors together, or at one of up to 64 that has 50 rows, which has its own
    τ then. Negative correlation is left alone: it makes error bars too wide.
    """
    residuals, times = np.asarray(residuals, float), np.asarray(times, float)
    last = previous(times, sensors) if last is None else last
    rows = np.flatnonzero((last >= 0) & np.isfinite(times))
    taken = fitted / len(residuals)
    apart: list[int] = []
    which = np.zeros(len(residuals), int)
    if np.sum(last < 0) <= MAX_SENSORS:
        which = np.unique(np.asarray(sensors), axis=0, return_inverse=True)[1].ravel()
        counts = np.bincount(which)
        apart = np.flatnonzero(counts >= OWN_TIME).tolist() if len(counts) > 1 else []
    level /= 1 + bool(apart)
    tau, found = _maximum_likelihood(residuals, times, last, rows, taken, level)
    taus = np.full(len(residuals), tau if found else 0.0)
    for i in apart:
        mine = which == i
        own, alone = _maximum_likelihood(residuals, times, last, rows[mine[rows]], taken, level / len(apart))
        taus[mine] = own if alone or found else 0.0
    return taus if (taus > 0).any() else None


def effective(rho: np.ndarray) -> float:
    """The effective number of independent readings for a mean: Σ (1 − ρ)/(1 + ρ), the first of a sensor counting one.

    rho: (m,) of each row with the one before it
    """
    return float(np.sum((1 - rho) / (1 + rho)))


def _maximum_likelihood(
    residuals: np.ndarray, times: np.ndarray, last: np.ndarray, rows: np.ndarray, taken: float, level: float
) -> tuple[float, bool]:
    """(τ, whether correlation is found) from the rows that follow another, and what these follow."""
    from scipy import special

    if len(rows) < 4:
        return 0.0, False
    gap = times[rows] - times[last[rows]]
    now, before = residuals[rows], residuals[last[rows]]
    lag_one = float(now @ before) / max(float(np.sqrt((now @ now) * (before @ before))), 1e-300)
    if level < 0.1 and lag_one * np.sqrt(len(rows)) < 0.7 and np.ptp(gap) < 1e-6 * gap[0]:
        return 0.0, False  # as far from 1.3, the least quantile, as equal intervals make plain
    distinct, which = np.unique(np.round(gap / np.median(gap), 6), return_inverse=True)
    if len(distinct) > _MAX_GAPS:
        distinct, which = np.unique(np.round(100 * np.log(gap)), return_inverse=True)
    add = lambda weights: np.bincount(which, weights, len(distinct))
    first = np.setdiff1d(last[rows], rows)
    count, total = add(np.ones(len(rows))), len(rows) + len(first)
    gaps = add(gap) / count
    typical = float(gaps[np.searchsorted(np.cumsum(count), 0.5 * len(rows))])
    squares, alone = (add(now**2), add(now * before), add(before**2)), float(np.sum(residuals[first] ** 2))
    if not squares[0].sum() + alone > 0:
        return 0.0, False

    def likelihood(rho: np.ndarray) -> np.ndarray:
        each = rho[:, None] ** (gaps / typical)
        rest = 1 - each**2
        left = alone + ((squares[0] - 2 * each * squares[1] + each**2 * squares[2]) / rest).sum(1)
        return -0.5 * (total * np.log(np.maximum(left, 1e-300)) + np.log(rest) @ count)

    coarse = likelihood(_GRID)
    best = int(np.argmax(coarse))
    if not best:
        return 0.0, False
    near = np.linspace(_GRID[best - 1], _GRID[min(best + 1, len(_GRID) - 1)], 17)
    close = likelihood(near)
    rho, gain = float(near[np.argmax(close)]), float(np.max(close) - coarse[0])
    bias = 2 * rho / total + taken * (1 + rho)
    rho = min(1 - (1 - rho) ** 2 / (1 - rho + bias), MAX_CORRELATION)  # ρ + bias where that is far from one
    found = 2 * gain > max(special.ndtri(1 - level), 0.0) ** 2
    return float(-typical / np.log(rho)), bool(found)
