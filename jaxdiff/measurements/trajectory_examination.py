"""Tests of a fitted model by the steps of paths."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdiff.measurements.innovations import innovations
from jaxdiff.measurements.residuals import Axis, Examination, Finding, Whitened, groups, neighbours

if TYPE_CHECKING:
    from jaxdiff.measurements.trajectory import Trajectory


def examined(m: Trajectory, equation: Any, scores: Any = None) -> Examination:
    """Tests of the normal scores of its steps, where they are not known those of exact positions: their distribution, their autocorrelation, and their means along the path."""
    from scipy import special

    tests, s = Examination(), scores
    if scores is None and equation is not None:
        s = innovations(m, equation)
    if s is None or len(s) < 8:
        return tests
    n, u = len(s), special.ndtr(s)
    root, (far, p) = np.sqrt(n), uniform(u)
    text = f"the steps are not distributed as the model says, by {far:.2g} of all (Kolmogorov–Smirnov)"
    tests.add(Finding(p, far, text))
    i = int(np.argmax(np.abs(s)))
    which = np.concatenate([np.arange(1, len(t)) for t in m.times])
    number = np.concatenate([np.full(len(t) - 1, k) for k, t in enumerate(m.times)])
    row = f"row {which[i]}" + (f" of path {number[i]}" if len(m.times) > 1 else "")
    tests.add(Finding(2 * n * float(special.ndtr(-abs(s[i]))), 1 / root, f"the step to {row} is {abs(s[i]):.2g} σ off"))
    plain = Whitened(s, np.zeros((n, 0)), np.ones(n), np.zeros(n), np.full(n, -1))
    size = 2 * np.abs(u - 0.5) - 0.5
    sizes = plain._replace(r=size - size.mean(), basis=np.full((n, 1), 1 / root))
    pairs = lambda lag: np.flatnonzero(number[lag:] == number[:-lag])
    if n >= 20 and len(pairs(1)) >= 10:
        one = pairs(1)
        lag_one = lambda r: (
            f"the steps remember the one before, lag-1 {r:.2g} of their innovations: no diffusion at this resolution; see whether D changes in path.every(2)"
        )
        both = neighbours(plain, one, one + 1, lag_one)
        lags = [k for k in range(1, 11) if k < n and len(pairs(k)) > n // 2]
        r = [float(s[pairs(k)] @ s[pairs(k) + k]) / float(s @ s) for k in lags]
        ljung = n * (n + 2) * sum(x**2 / len(pairs(k)) for x, k in zip(r, lags, strict=True))
        text = f"the steps remember earlier ones (Ljung–Box {ljung:.3g} at {len(lags)} lags)"
        if lags:
            tests.add(Finding(float(special.chdtrc(len(lags), ljung)), max(map(abs, r)), text))
        if both is not None:
            tests.add(both._replace(p=2 * min(both.p, 1 - both.p), weight=abs(r[0]) if r else both.weight))
        tests.add(neighbours(sizes, one, one + 1, lambda r: f"large steps follow large ones, correlation {r:.2g}"))
    labels, texts = Axis.of(m.grid.names[0], m.starts).cut(min(12, n // 10))
    if len(texts) > 1:

        def drift(worst: int, mean: float, away: str) -> str:
            return f"steps from {texts[worst]} lead {mean:+.2g} σ elsewhere on average, {away}"

        def noise(worst: int, mean: float, away: str) -> str:
            more = "wider" if mean > 0 else "narrower"
            return f"steps from {texts[worst]} scatter {more} than the model says, {away}"

        tests.add(groups(plain, labels, drift), groups(sizes, labels, noise))
    return tests


def uniform(u: np.ndarray) -> tuple[float, float]:
    """How far numbers are from being uniform on (0, 1), by Kolmogorov and Smirnov, and how likely that is."""
    from scipy import special

    n, order = len(u), np.sort(u)
    root, steps = np.sqrt(n), np.arange(n + 1) / n
    far = max(float(np.max(steps[1:] - order)), float(np.max(order - steps[:-1])))
    return far, float(special.kolmogorov((root + 0.12 + 0.11 / root) * far))
