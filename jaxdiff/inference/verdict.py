"""Whether a fitted model describes the data: tests of what it leaves, at one level for all of them together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from jaxdiff.inference.innovations import innovations
from jaxdiff.inference.losses import BUILT_IN
from jaxdiff.inference.residuals import (
    Axis,
    Finding,
    Whitened,
    arranged,
    beside,
    groups,
    neighbours,
    normality,
    outliers,
    signs,
    whitened,
)
from jaxdiff.measurements.autocorrelation import correlations, effective
from jaxdiff.measurements.histograms import Histograms, normalised
from jaxdiff.measurements.readings import Readings
from jaxdiff.measurements.trajectory import Trajectory

LEVEL = 0.02  # of false alarms, over all tests of a fit
LOUD = 1.2  # reduced χ² that matters: error bars a tenth too small
NORMAL = "the residuals are not normally distributed: error bars hold, their 95 % roughly"
WANDERING, INDEPENDENT = 0.97, 10.0  # correlation of neighbours, and independent readings left: noise hardly wanders so
FEW = 5.0  # counts that are expected in a bin, or in several together


class Verdict(NamedTuple):
    """Whether the model describes the data; None where that cannot be judged.

    reasons: why not, or why it cannot be judged, the most telling first; remarks: what else the residuals show, which
    leaves the model its due
    """

    describes: bool | None
    reasons: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """What is stored of it."""
        return {"describes": self.describes, "reasons": list(self.reasons), "remarks": list(self.remarks)}

    @classmethod
    def restored(cls, stored: Any) -> Verdict:
        """From what `record` gave; ValueError if it did not."""
        if stored is None:
            return cls(None, ("the fit was stored without a verdict",))
        told: list[Any] = [stored.get("reasons"), stored.get("remarks")] if isinstance(stored, dict) else [None]
        texts = all(isinstance(some, list) and all(isinstance(text, str) for text in some) for some in told)
        if not texts or not isinstance(stored.get("describes"), bool | None):
            raise ValueError("verdict holds describes (true, false or null), and lists of texts, reasons and remarks")
        return cls(stored["describes"], tuple(told[0]), tuple(told[1]))


class Tests:
    """Tests of one measurement: how many there are, what they found, and what does not count against the model."""

    def __init__(self, unfit: str = "too few data are left to judge by") -> None:
        self.found: list[Finding] = []
        self.late: list[Callable[[float], Finding]] = []  # tests that must know their level
        self.remarks: list[str] = []
        self.unfit = unfit  # why there are none

    def add(self, *findings: Finding | None) -> None:
        self.found += [one for one in findings if one is not None]

    @property
    def count(self) -> int:
        return len(self.found) + len(self.late)

    def failed(self, level: float) -> list[Finding]:
        everything = self.found + [test(level) for test in self.late]
        return sorted((one for one in everything if one.p < level), key=lambda one: -one.weight)


def verdict(
    measurements: Iterable[Any],
    losses: Iterable[Any],
    seen: Iterable[Any],
    times: Iterable[Any],
    equation: Any = None,
) -> Verdict:
    """The verdict on a fit.

    seen: of each measurement its prediction and the Jacobian of it; times: the correlation time of the noise at each of its
    rows, or None; equation: the fitted one, by which paths are judged

    All tests share one level of false alarms, 2 %, by Šidák's inequality. Each takes out what a fit takes out of residuals.
    """
    every: list[Tests] = []
    part: Any
    for m, loss, part, tau in zip(measurements, losses, seen, times, strict=True):
        if loss not in BUILT_IN:
            own = getattr(loss, "__name__", "loss")
            every.append(Tests(f"your own loss, {own}, says nothing of the noise of the data"))
        elif isinstance(m, Readings):
            every.append(_readings(m, part[0], part[1], tau))
        elif isinstance(m, Histograms) and m.known:
            every.append(_histograms(m, *part))
        elif isinstance(m, Histograms):
            every.append(Tests("densities do not tell how many were counted; give counts, or total=N"))
        elif isinstance(m, Trajectory):
            every.append(_path(m, equation))
        else:
            every.append(Tests(f"there are no tests of {type(m).__name__}"))
    several = len(every) > 1
    level = 1 - (1 - LEVEL) ** (1 / max(sum(tests.count for tests in every), 1))
    which = [f"measurement {i + 1}: " if several else "" for i in range(len(every))]
    failed = [
        (one.weight, name + one.text) for name, tests in zip(which, every, strict=True) for one in tests.failed(level)
    ]
    reasons = tuple(text for _, text in sorted(failed, key=lambda one: -one[0]))
    remarks = tuple(name + text for name, tests in zip(which, every, strict=True) for text in tests.remarks)
    if reasons:
        return Verdict(False, reasons, tuple(text for text in remarks if not text.endswith(NORMAL)))
    if not any(tests.count for tests in every):
        return Verdict(None, tuple(dict.fromkeys(tests.unfit for tests in every)), remarks)
    return Verdict(True, (), remarks)


def _readings(m: Readings, prediction: Any, jacobian: Any, tau: Any) -> Tests:
    from scipy import special

    tests, n = Tests(), len(m.values)
    sigma = np.ones(n) if m.sigma is None else m.sigma
    e = (m.values - np.asarray(prediction, float)[:n]) / sigma
    jacobian = np.asarray(jacobian, float)[:n]
    if len(jacobian) < n:  # too large to be kept: so many rows lose next to nothing to so few parameters
        jacobian = np.zeros((n, 0))
    last = m.last
    rho = np.zeros(n) if tau is None else correlations(m.times, last, tau)
    white = whitened(e, jacobian / sigma[:, None], rho, last)
    freedom, squares = white.freedom, float(white.r @ white.r)
    if m.known and freedom > 0:
        ratio = squares / freedom
        p = float(special.chdtrc(freedom, squares)) if ratio > LOUD else 1.0
        told = f"residuals are {np.sqrt(ratio):.2g} times as large as sigma says, reduced χ² {ratio:.3g}"
        tests.add(Finding(p, -2.0, told))
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
    for labels, texts in arranged(when, where, (freedom - 1) // 3):

        def off(worst: int, mean: float, away: float, texts: list[str] = texts) -> str:
            return f"residuals at {texts[worst]} are {mean:.2g}{unit} off on average, {abs(away):.2g} standard errors"

        tests.add(groups(white, labels, off))
    tests.add(_repeats(white, when, where, (freedom - 1) // 2))
    now, rest = np.flatnonzero(last >= 0), "" if tau is None else " still, beyond AR(1) noise"
    follow = lambda r: f"residuals follow each other in time{rest}, lag-1 {r:.2g}"
    alike = lambda r: f"residuals of neighbouring places are alike at each time, correlation {r:.2g}"
    keep = lambda changes, usual: (
        f"residuals keep their sign: {changes} changes from time to time, {usual:.0f} by chance"
    )
    tests.add(
        neighbours(white, last[now], now, follow, both=tau is not None),  # AR(1) noise leaves neither
        neighbours(white, *beside([*where, when]), alike),
        signs(white, last[now], now, keep),
    )

    wandering = float(np.median(rho[rho > 0])) if (rho > 0).any() else 0.0
    if tau is not None and wandering > WANDERING and (count := effective(rho)) < INDEPENDENT:
        told = f"residuals wander, lag-1 {wandering:.2g}, as where a model misses something: {n} readings count as {count:.2g}"
        tests.add(Finding(0.0, 0.0, told))
    plain = white if tau is None else whitened(e, jacobian / sigma[:, None], np.zeros(n), last)

    def rows(level: float) -> Finding:
        found, away = outliers(plain, level / 2 if tau is not None else level)
        if tau is not None and not len(found):  # a jump stands out among what is whitened
            found, away = outliers(white, level / 2)
        used = " of those used" if m.missing else ""
        told = [f"row {i}{used} ({_place(m, i)}) is {far:.2g} σ off" for i, far in zip(found[:3], away, strict=False)]
        more = f" and {len(found) - 3} more rows" if len(found) > 3 else ""
        return Finding(0.0 if len(found) else 1.0, 1.0, ", ".join(told) + more)

    if freedom > 5:
        tests.late.append(rows)
        if normality(white.r[:: max(n // 20_000, 1)]) < 1e-3:
            tests.remarks.append(NORMAL)
    return tests


def _place(m: Readings, i: int) -> str:
    at = np.atleast_1d(m.positions[i])
    return ", ".join([f"t = {m.times[i]:.4g}", *(f"{a} = {v:.4g}" for a, v in zip(m.grid.names, at, strict=True))])


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
    return groups(
        white,
        order[labels],
        lambda worst, mean, away: "repeated readings agree with each other, but not with the model",
    )


def _histograms(m: Histograms, prediction: Any, jacobian: Any) -> Tests:
    """Pearson's residuals of bins that hold five at least, with their neighbours where alone they do not."""
    from scipy import special

    tests = Tests()
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
    held = np.bincount(time, minlength=len(size))
    centres = np.stack([np.ravel(one) for one in np.meshgrid(*map(_centres, m.bins), indexing="ij")])
    rest = [] if shares.shape[1] == centres.shape[1] else [np.full((len(centres), 1), np.nan)]
    centres = np.concatenate([centres, *rest], axis=1)
    places = [add(np.broadcast_to(line, shares.shape) + 0 * shares) / add(np.ones_like(shares)) for line in centres]
    use = (held > 1)[time]
    o, e, slopes, time, places = o[use], e[use], slopes[use], time[use], [line[use] for line in places]
    pearson, bins, several = (o - e) / np.sqrt(e), held[held > 1], np.flatnonzero(held > 1)
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
        told = f"the histogram at t = {m.times[several[i]]:.4g} is another, reduced χ² {each[i] / (bins[i] - 1):.3g}"
        tests.add(Finding(float(p[i]) * len(p), -0.2, told))
    number, left = o, np.maximum(size[time] - o, 0.0)  # a binomial's tails, as beta integrals
    chance = np.clip(e / size[time], 0.0, 1.0)
    most = np.where(number > 0, special.betainc(np.maximum(number, 1e-9), left + 1, chance), 1.0)
    least = np.where(left > 0, special.betainc(np.maximum(left, 1e-9), number + 1, 1 - chance), 1.0)
    p = 2 * np.minimum(most, least)
    i = int(np.argmin(p))
    at = ", ".join(f"{name} = {line[i]:.4g}" for name, line in zip(m.grid.names, places, strict=True))
    told = f"at t = {m.times[time[i]]:.4g}, {at if np.isfinite(places[0][i]) else 'outside the bins'} are {number[i]:.6g} where {e[i]:.4g} are expected"
    tests.add(Finding(float(p[i]) * len(p), 0.0, told))
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
    held, label = np.zeros(len(expected)), np.zeros(expected.shape, int)
    now = np.zeros(len(expected), int)
    for k, column in enumerate(expected.T):
        label[:, k] = now
        held += column
        full = held >= FEW
        now, held = now + full, np.where(full, 0.0, held)
    label = np.minimum(label, np.maximum(now - 1, 0)[:, None])  # what is left over joins the last full one
    first = np.concatenate([[0], np.cumsum(label.max(1) + 1)])
    return label + first[:-1, None], int(first[-1])


def _path(m: Trajectory, equation: Any) -> Tests:
    from scipy import special

    tests, s = Tests(), None if equation is None else innovations(m, equation)
    if s is None or len(s) < 8:
        return tests
    n, u = len(s), special.ndtr(s)
    root, order, steps = np.sqrt(n), np.sort(u), np.arange(n + 1) / n
    far = max(float(np.max(steps[1:] - order)), float(np.max(order - steps[:-1])))
    p = float(special.kolmogorov((root + 0.12 + 0.11 / root) * far))
    tests.add(
        Finding(p, far, f"the steps are not distributed as the model says, by {far:.2g} of all (Kolmogorov–Smirnov)")
    )
    i = int(np.argmax(np.abs(s)))
    which = np.concatenate([np.arange(1, len(t)) for t in m.times])
    number = np.concatenate([np.full(len(t) - 1, k) for k, t in enumerate(m.times)])
    row = f"row {which[i]}" + (f" of path {number[i]}" if len(m.times) > 1 else "")
    tests.add(Finding(2 * n * float(special.ndtr(-abs(s[i]))), 1 / root, f"the step to {row} is {abs(s[i]):.2g} σ off"))
    plain = Whitened(s, np.zeros((n, 0)), np.ones(n), np.zeros(n), np.full(n, -1))
    size = 2 * np.abs(u - 0.5) - 0.5
    spread = plain._replace(r=size - size.mean(), basis=np.full((n, 1), 1 / root))
    pairs = lambda lag: np.flatnonzero(number[lag:] == number[:-lag])
    if n >= 20 and len(pairs(1)) >= 10:
        one = pairs(1)
        both = neighbours(
            plain, one, one + 1, lambda r: f"the steps remember the one before, lag-1 {r:.2g} of their innovations"
        )
        lags = [k for k in range(1, 11) if k < n and len(pairs(k)) > n // 2]
        r = [float(s[pairs(k)] @ s[pairs(k) + k]) / float(s @ s) for k in lags]
        ljung = n * (n + 2) * sum(x**2 / len(pairs(k)) for x, k in zip(r, lags, strict=True))
        told = f"the steps remember earlier ones (Ljung–Box {ljung:.3g} at {len(lags)} lags)"
        tests.add(
            Finding(float(special.chdtrc(len(lags), ljung)), max(map(abs, r), default=0.0), told) if lags else None
        )
        if both is not None:
            tests.add(both._replace(p=2 * min(both.p, 1 - both.p), weight=abs(r[0]) if r else both.weight))
        tests.add(neighbours(spread, one, one + 1, lambda r: f"large steps follow large ones, correlation {r:.2g}"))
    labels, texts = Axis.of(m.grid.names[0], m.starts).cut(min(12, n // 10))
    if len(texts) > 1:

        def drift(worst: int, mean: float, away: float) -> str:
            return f"steps from {texts[worst]} lead {mean:+.2g} σ elsewhere on average, {abs(away):.2g} standard errors"

        def noise(worst: int, mean: float, away: float) -> str:
            more = "wider" if mean > 0 else "narrower"
            return f"steps from {texts[worst]} scatter {more} than the model says, {abs(away):.2g} standard errors"

        tests.add(groups(plain, labels, drift), groups(spread, labels, noise))
    return tests
