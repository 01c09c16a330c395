"""Exact solutions of dN/dt = A N + b for small matrices, by nothing that the library uses.

A has no negative rates between different cells, so e^{tA} and its integral are sums and products of numbers that are not
negative: squared up from a Taylor series, with columns that are kept at one, they have relative accuracy in every entry at
any time, stiffness and distance from normal (Xue & Ye 2008, doi:10.1137/060651495). In NumPy's long double.
"""

from __future__ import annotations

from typing import Any

import numpy as np

WIDE = np.longdouble
EPS = float(np.finfo(WIDE).eps)


def exponential(rates: Any, t: Any) -> tuple[np.ndarray, np.ndarray, float]:
    """(P, Φ, a bound on the relative errors) of e^{tA} = P and ∫₀ᵗ e^{sA} ds = Φ.

    rates: `(n, n)`, from every cell (column) to every other (row), with what each loses for good on the diagonal
    """
    n = len(rates)
    killing = np.diag(rates).copy()
    growth = max(-killing.min(), WIDE(0))
    exchange = rates.copy()
    np.fill_diagonal(exchange, 0)
    full = np.zeros((n + 1, n + 1), WIDE)  # one more cell takes what is lost
    full[:n, :n], full[n, :n] = exchange, killing + growth
    escape = full.sum(0)
    fastest, t = escape.max(), WIDE(t)
    squarings = max(0, int(np.ceil(np.log2(float(max(t * (fastest + growth), 1e-30))))) + 1)
    h = t / WIDE(2) ** squarings
    step = h * (full + np.diag(fastest - escape))
    power: Any = np.eye(n + 1, dtype=WIDE)
    flow = power  # Taylor: φ₀ and φ₁ of the shifted matrix
    whole, integral = power.copy(), h * flow
    # ∫ e^{s(A + c) − cs} ds by the series of e^{−cs} sᵏ would cancel: of A itself, whose terms fall as fast, in h‖A‖ ≤ ½.
    plain = h * (full - np.diag(escape)) + h * growth * np.eye(n + 1, dtype=WIDE)
    term = h * flow
    for k in range(1, 30):
        power = step @ power / k
        whole = whole + power
        term = plain @ term / (k + 1)
        integral = integral + term
    whole = whole * np.exp(-h * fastest)
    whole /= whole.sum(0)
    integral = np.maximum(integral[:n, :n], 0)
    for k in range(squarings):
        scale = np.exp(growth * h * WIDE(2) ** k)
        integral = integral + scale * (whole[:n, :n] @ integral)
        whole = whole @ whole
        whole /= whole.sum(0)
    error = EPS * (squarings + 30) * 4 * (n + float(growth * t))
    return whole[:n, :n] * np.exp(growth * t), integral, error


def at_rest(rates: np.ndarray) -> np.ndarray:
    """Contents `(n,)` of sum one that nothing moves in a closed domain."""
    order, (a, outs, _) = _eliminated(rates, np.zeros((len(rates), 0), WIDE))
    x = np.zeros(len(rates), WIDE)
    x[0] = 1
    for k in range(1, len(x)):
        x[k] = (a[k, :k] @ x[:k]) / outs[k]
    return (x / x.sum())[np.argsort(order)]


def response(rates: np.ndarray, forcing: np.ndarray) -> np.ndarray:
    """N of A N + b = 0 where content is lost and none grows; b of each sign apart."""
    sides = np.stack([np.maximum(forcing, 0), np.maximum(-forcing, 0)], 1).astype(WIDE)
    order, (a, outs, b) = _eliminated(rates, sides)
    x = np.zeros_like(b)
    for k in range(len(x)):
        x[k] = (b[k] + a[k, :k] @ x[:k]) / outs[k]
    return (x[:, 0] - x[:, 1])[np.argsort(order)]


def _eliminated(rates: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, Any]:
    """The order of cells, and what is left of rates, of ways out and of b, by elimination without subtraction (Grassmann,
    Taksar & Heyman 1985, doi:10.1287/opre.33.5.1107); next is always the cell that is left fastest."""
    a, lost, b = rates.copy(), np.diag(rates).copy(), b.copy()
    np.fill_diagonal(a, 0)
    order, outs = np.arange(len(a)), np.zeros(len(a), WIDE)
    for k in range(len(a) - 1, -1, -1):
        pick = int(np.argmax(a[: k + 1, : k + 1].sum(0) + lost[: k + 1]))
        swap = np.arange(len(a))
        swap[[k, pick]] = swap[[pick, k]]
        a, lost, b, order = a[np.ix_(swap, swap)], lost[swap], b[swap], order[swap]
        outs[k] = a[:k, k].sum() + lost[k]
        if outs[k] == 0:
            continue
        share = a[:k, k] / outs[k]
        lost[:k] += lost[k] / outs[k] * a[k, :k]
        b[:k] += np.outer(share, b[k])
        a[:k, :k] += np.outer(share, a[k, :k])
        np.fill_diagonal(a[:k, :k], 0)
    return order, (a, outs, b)


def steady(rates: np.ndarray, forcing: np.ndarray, total: Any) -> np.ndarray | None:
    """The limit of long times; None where there is none, or where growth keeps this from telling."""
    killing = np.diag(rates)
    if (killing < 0).any():
        return None
    if (killing > 0).any():
        return response(rates, forcing)
    gain = forcing.sum()
    if abs(gain) > 1e-12 * np.abs(forcing).sum():
        return None
    rest = at_rest(rates)
    moved = _moved(rates, forcing, rest)
    return moved + (total - moved.sum()) * rest


def _moved(rates: np.ndarray, forcing: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """What balanced forcing makes of an empty closed domain, with content zero."""
    opened = rates.copy()
    k = int(np.argmax(rest))
    opened[k, k] = np.abs(rates).max()
    moved = response(opened, forcing - rest * forcing.sum())
    return moved - moved.sum() * rest


def solution(
    rates: np.ndarray, forcing: np.ndarray, start: np.ndarray, t: float, weights: Any, eps: float
) -> tuple[Any, float]:
    """(N/weights at time t, a bound on its error as a share of the largest), from forcings that are known to `eps`."""
    power, flow, error = exponential(rates, t)
    forcing, start = forcing.astype(WIDE), start.astype(WIDE)
    if forcing.any() and not np.diag(rates).any():
        rest = at_rest(rates)
        moved = _moved(rates, forcing, rest)
        gain, whole = forcing.sum(), np.abs(forcing).sum()
        gained = WIDE(t) * (gain if abs(gain) > 64 * eps * whole else 0) * rest
        found = moved + gained + power @ (start - moved)
        size = np.abs(moved) + np.abs(gained) + power @ (np.abs(start) + np.abs(moved))
        size = size + (t * eps / error * whole * rest if gained.any() else 0)
    else:
        found = power @ start + flow @ forcing
        size = power @ np.abs(start) + flow @ np.abs(forcing)
    found, size = found / weights, size / weights
    return found, float(error * size.max() / max(np.abs(found).max(), np.finfo(WIDE).tiny))
