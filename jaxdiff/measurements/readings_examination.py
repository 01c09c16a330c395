"""Tests of a fitted model by the residuals of readings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdiff.measurements import residuals
from jaxdiff.measurements.autocorrelation import correlations, effective
from jaxdiff.measurements.residuals import LEVEL, NORMAL, Axis, Examination, Finding, Whitened

if TYPE_CHECKING:
    from jaxdiff.measurements.readings import Readings

LOUD = 1.2  # reduced χ² that matters: error bars a tenth too small
DRIFTING, INDEPENDENT = 0.97, 10.0  # correlation of neighbours, and independent readings left: noise is hardly so


def examined(m: Readings, prediction: Any, jacobian: Any, tau: Any) -> Examination:
    """Tests of the size of residuals, of their means at places and times, of neighbours, of signs, and of single rows."""
    from scipy import special

    tests, n = Examination(), len(m.values)
    sigma = np.ones(n) if m.sigma is None else m.sigma
    e = (m.values - np.asarray(prediction, float)[:n]) / sigma
    jacobian = np.asarray(jacobian, float)[:n]
    if len(jacobian) < n:  # too large to be kept: so many rows lose next to nothing to so few parameters
        jacobian = np.zeros((n, 0))
    last = m.last
    rho = np.zeros(n) if tau is None else correlations(m.times, last, tau)
    white = residuals.whitened(e, jacobian / sigma[:, None], rho, last)
    freedom, squares = white.freedom, float(white.r @ white.r)
    if m.known and freedom > 0:
        ratio = squares / freedom
        p = float(special.chdtrc(freedom, squares)) if ratio > LOUD else 1.0
        text = f"residuals are {np.sqrt(ratio):.2g} times as large as sigma says, reduced χ² {ratio:.3g}"
        tests.add(Finding(p, -2.0, text))
        if 0 < ratio < 1 / LOUD and special.chdtr(freedom, squares) < LEVEL / 10:
            tests.remarks.append(
                f"sigma is {np.sqrt(1 / ratio):.2g} times as large as the residuals, reduced χ² {ratio:.2g}: error bars are too wide"
            )
    least = 0.1 * freedom if m.known else 1e-10 * float(np.sum((m.values / sigma) ** 2))
    if freedom < 3:
        return tests
    if not squares > least:
        tests.unfit = "the residuals are next to nothing, as of data that were computed"
        return tests
    places = m.positions.reshape(n, -1)
    when, where = Axis.of("t", m.times), [Axis.of(*one) for one in zip(m.grid.names, places.T, strict=True)]
    unit = "" if m.sigma is None else " sigma"
    for labels, texts in residuals.groupings(when, where, (freedom - 1) // 3):

        def off(worst: int, mean: float, away: str, texts: list[str] = texts) -> str:
            return f"residuals at {texts[worst]} are {mean:.2g}{unit} off on average, {away}"

        tests.add(residuals.groups(white, labels, off))
    tests.add(_repeats(white, when, where, (freedom - 1) // 2))
    now, rest = np.flatnonzero(last >= 0), "" if tau is None else " still, beyond AR(1) noise"
    follow = lambda r: f"residuals follow each other in time{rest}, lag-1 {r:.2g}"
    alike = lambda r: f"residuals of neighbouring places are alike at each time, correlation {r:.2g}"
    keep = lambda changes, usual: (
        f"residuals keep their sign: {changes} changes from time to time, {usual:.0f} by chance"
    )
    tests.add(
        residuals.neighbours(white, last[now], now, follow, both=tau is not None),  # AR(1) noise leaves neither
        residuals.neighbours(white, *residuals.adjacent([*where, when]), alike),
        residuals.signs(white, last[now], now, keep),
    )

    drifting = float(np.median(rho[rho > 0])) if (rho > 0).any() else 0.0
    if tau is not None and drifting > DRIFTING and (count := effective(rho)) < INDEPENDENT:
        text = f"residuals wander, lag-1 {drifting:.2g}, as where a model misses something: {n} readings count as {count:.2g}"
        tests.add(Finding(0.0, 0.0, text))
    plain = white if tau is None else residuals.whitened(e, jacobian / sigma[:, None], np.zeros(n), last)

    def rows(level: float) -> Finding:
        found, away = residuals.outliers(plain, level / 2 if tau is not None else level)
        if tau is not None and not len(found):  # a jump stands out among what is whitened
            found, away = residuals.outliers(white, level / 2)
        used = " of those used" if m.missing else ""
        text = [f"row {i}{used} ({_place(m, i)}) is {far:.2g} σ off" for i, far in zip(found[:3], away, strict=False)]
        more = f" and {len(found) - 3} more rows" if len(found) > 3 else ""
        return Finding(0.0 if len(found) else 1.0, 1.0, ", ".join(text) + more)

    if freedom > 5:
        tests.late.append(rows)
        if residuals.normality(white.r[:: max(n // 20_000, 1)]) < 1e-3:
            tests.remarks.append(NORMAL)
    return tests


def _place(m: Readings, i: int) -> str:
    at = np.atleast_1d(m.positions[i] if m.probe is None else [])
    return ", ".join(
        [f"t = {m.times[i]:.4g}", *(f"{a} = {v:.4g}" for a, v in zip(m.grid.names, at, strict=m.probe is None))]
    )


def _repeats(white: Whitened, when: Axis, where: list[Axis], room: int) -> Finding | None:
    """Readings at the same place and time, whose scatter among themselves is noise alone."""
    key = when.rows.astype(np.int64)
    for axis in where:
        key = key * len(axis.values) + axis.rows
    _, labels, counts = np.unique(key, return_inverse=True, return_counts=True)
    several = counts > 1
    if not 1 < several.sum() <= min(room, 400):
        return None
    order = np.where(several, np.cumsum(several) - 1, -1)
    agree = lambda worst, mean, away: "repeated readings agree with each other, but not with the model"
    return residuals.groups(white, order[labels], agree)
