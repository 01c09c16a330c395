"""e^{tA}u and its forced companions by rational functions: a few resolvents for any time and stiffness."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.operators.recurrence import reciprocal

# exp(x) ≈ r∞ + 2 Re Σ c/(x − z) on x ≤ 0: Carathéodory–Fejér, Trefethen, Weideman & Schmelzer 2006,
# doi:10.1007/s10543-006-0077-9. Error 1.2e-8 (8) and 9.7e-14 (14).
_TABLES = {
    8: (
        1.1722603110442265e-08,
        [
            3.2209452450543408 + 1.1936196054193322j,
            2.2922491478210563 + 3.6007714960771353j,
            0.2694909873674965 + 6.082032592700096j,
            -3.4085395014618016 + 8.773034564408094j,
        ],
        [
            -1.8317717106328966 - 9.525608129943738j,
            2.436240732924865 + 3.7167556408605296j,
            -0.6325880537326855 - 0.443923102700152j,
            0.028129757161818793 + 0.011577384568874135j,
        ],
    ),
    14: (
        4.418687638008123e-14,
        [
            5.62317153475742 + 1.1940664287021552j,
            5.089374564875054 + 3.588816095602845j,
            3.993400429650635 + 6.004818060139016j,
            2.2698165258521406 + 8.461717806877203j,
            -0.20872377764902525 + 10.991232026333313j,
            -3.703239160176677 + 13.656333463712498j,
            -8.897735413180298 + 16.63093520842446j,
        ],
        [
            -27.876162291177156 - 102.15000629291019j,
            46.93490458700584 + 45.644543838980354j,
            -23.49897941909133 - 5.808219208333141j,
            4.807233308906512 - 1.3211122031487392j,
            -0.37636336734574083 + 0.33520468313104734j,
            0.009438720567093254 - 0.017185736312372236j,
            -7.153878179758697e-05 + 0.00014361901788104045j,
        ],
    ),
}

# exp(x) ≈ −2 Re Σ c/(z − x), subdiagonal Padé approximants (p − 1, p) for p = 4, 6: A-acceptable and zero at infinity, so that
# they stay bounded wherever A is dissipative, however far from normal. From 60-digit arithmetic. More poles lose digits to
# their residues: with p = 8 content is kept to 4e-12.
_PADE = {
    4: (
        [
            4.787193103128466 + 1.5674764168952082j,
            3.212806896871534 + 4.773087433276642j,
        ],
        [
            13.301539995971487 - 60.07173273704744j,
            -11.301539995971487 + 12.47167585025023j,
        ],
    ),
    6: (
        [
            7.49063752880963 + 1.621502388778394j,
            6.47051493670157 + 4.900121147421387j,
            4.0388475344888 + 8.345600414872216j,
        ],
        [
            185.54487885755512 - 917.7923648638089j,
            -226.06041189362895 + 305.10335904505314j,
            43.515533036073826 - 14.015306215640607j,
        ],
    ),
}

CUTS = 8  # of the first interval: a rough start fades in several short substeps

# Poles z(v) = μ(1 + sin(iv − α)), v = h(k + ½), on a hyperbola about the negative axis (Weideman & Trefethen 2007,
# doi:10.1090/S0025-5718-07-01945-X), serving every t in [t₀, 60t₀] at once: nodes, largest error over x ≤ 0 and t of exp, and
# of φ₁ as a share of it, μt₀, α, h. With weights by least squares two thirds as many do as by the trapezoidal rule; constants
# are those whose weights also stay so small that roundoff is no more than 60 ε.
_SPAN = 60.0
_CONTOURS = (
    (13, 4.7e-7, 0.1119367208, 0.2894372367, 0.4364474121),
    (16, 2.3e-8, 0.1194067427, 0.3112247463, 0.3724475141),
    (22, 6.4e-11, 0.1394653633, 0.4140774630, 0.2674539974),
    (24, 6.4e-12, 0.1318514202, 0.3563659651, 0.2586953293),
)
_AXIS = -np.concatenate([[0.0], np.logspace(-4, 5, 160)])  # where weights are fitted,
_NEAR = -4.0  # and above which φ₁ is looked at: beyond, its errors are no more than those of exp


class Poles:
    """Poles and residues of the exponential, chosen by precision."""

    def __init__(self, dtype: Any, tolerance: float | None = None):
        count = 14 if jnp.finfo(dtype).bits == 64 and self.error(tolerance) < 1e-12 else 8
        constant, poles, residues = _TABLES[count]
        self.constant, self.poles, self.residues = constant, np.array(poles), np.array(residues)
        # Exact at zero, so that conserved content stays conserved to roundoff over any number of intervals.
        at_zero = constant - 2.0 * np.real(np.sum(self.residues / self.poles))
        self.constant, self.residues = float(constant / at_zero), self.residues / at_zero

    @staticmethod
    def error(tolerance: float | None) -> float:
        """The largest over the negative axis, in double precision."""
        return 1e-13 if tolerance is None or tolerance < 1e-7 else 1.2e-8


class Pade:
    """The subdiagonal Padé approximant r of exp for one of several equal substeps, by precision; and q = xᵖ/Q(x).

        r(x) = −2 Re Σ cₖ/(zₖ − x),   q(x) = 1 − 2 Re Σ dₖ/(zₖ − x),   |eˣ − r(x)| ≤ 2 |q(x)|² for Re x ≤ 0

    So the resolvents of a substep, once more on their own sum, bound its error, which falls with the number of substeps to
    the `power`. `substeps` of a smooth state hold the tolerance as a rule.
    """

    def __init__(self, dtype: Any, tolerance: float):
        double = jnp.finfo(dtype).bits == 64
        order = 6 if double else 4
        self.substeps = 2 if not double else 1 if tolerance >= 1e-6 else 2 if tolerance > 1e-11 else 4
        self.power = 2 * order - 1
        self.poles, residues = (np.array(column) for column in _PADE[order])
        self.residues = residues / (-2.0 * np.real(np.sum(residues / self.poles)))  # r(0) = 1 keeps what is conserved
        self.noise = float(
            2.0 * np.sum(np.abs(self.residues / self.poles)) * jnp.finfo(dtype).eps
        )  # of r, and near it of q
        others = np.concatenate([self.poles, self.poles.conj()])
        self.bound = np.array([z**order / np.prod([z - other for other in others if other != z]) for z in self.poles])

    def factors(self, operator: Any, dt: Any) -> Any:
        """What the resolvents of substeps of one length have in common."""
        return operator.factors(*self._shifts(dt))

    def step(self, operator: Any, dt: Any, factors: Any = None) -> Callable[..., tuple[Any, Any]]:
        """(v, b₀, b₁, …) ↦ r and q of a substep from v under the forcing Σ bⱼ (s/dt)ʲ/j!."""
        apply = operator.resolvent(*self._shifts(dt), factors)
        complexes = _complex(dt.dtype)
        poles, residues, bound = (x.astype(complexes) for x in (self.poles, self.residues, self.bound))
        # What rounding takes from r(0) = 1 would add up.
        rest = 1.0 + 2.0 * float(np.real(np.sum(residues.astype(complex) / poles.astype(complex))))

        def step(v: Any, *forcing: Any) -> tuple[Any, Any]:
            rise: Any = 0.0
            for b in reversed(forcing):
                rise = (dt * b[:, None] + rise) / poles
            w = apply(jnp.broadcast_to(v[:, None] + rise, (len(v), len(poles))))
            out = rest * v - _twice_real(w, residues)
            # What roundoff takes from the content, column sums tell; left alone, it would add up over many substeps.
            entered = jnp.sum(rise - dt * operator.leak[:, None] * w, axis=0)
            defect = jnp.sum(v) - _twice_real(entered, residues / poles) - jnp.sum(out)
            size = jnp.sum(jnp.abs(out))
            out = out + jnp.abs(out) * jax.lax.stop_gradient(defect / jnp.where(size > 0, size, 1.0))
            return out, v - _twice_real(w, bound)

        return step

    def _shifts(self, dt: Any) -> tuple[Any, Any]:
        poles = jnp.asarray(self.poles.astype(_complex(dt.dtype)))
        return poles, jnp.broadcast_to(-dt, poles.shape)


@cache
def _fitted(row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Poles `(k,)`, and the rows by which their weights are found, as Q and R.

    Errors are weighed by 1 − x: what leaves through a wall and what changes with a coefficient are sums over fast modes too.
    """
    count, _, mu, alpha, step = _CONTOURS[row]
    points = mu * (1.0 + np.sin(1j * step * (np.arange(count) + 0.5) - alpha))
    over = 1.0 / (points - _AXIS[:, None])
    rows = np.concatenate([(1.0 - _AXIS)[:, None] * over, over[_AXIS > _NEAR] / points])
    return points, *np.linalg.qr(np.concatenate([rows.real, rows.imag], axis=1))


class Contour:
    """The hyperbola with the fewest nodes that holds `tolerance` (at least 7e-12) for all times of a window.

    e^{tx} ≈ 2 Re Σ wₖ(t)/(zₖ − x),   φ₁(tx) ≈ 2/t Re Σ wₖ(t)/(zₖ(zₖ − x))   for x ≤ 0
    """

    def __init__(self, tolerance: float):
        self.points, self._q, self._r = _fitted(next(i for i, c in enumerate(_CONTOURS) if c[1] <= tolerance))

    @staticmethod
    def holds(tolerance: float) -> bool:
        return tolerance >= _CONTOURS[-1][1]

    @staticmethod
    def error(tolerance: float) -> float:
        """The largest over the negative axis and the times of a window."""
        return next(c[1] for c in _CONTOURS if c[1] <= tolerance)

    def cover(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Nodes (k,) for increasing times t (T,) and their weights (T, 2k): e^{tA} ≈ weights @ [Re, Im] (nodes − A)⁻¹."""
        first: list[float] = []
        window = np.zeros(len(t), int)
        for i, time in enumerate(t):
            if not first or time > first[-1] * _SPAN * (1 + 1e-9):
                first.append(time)
            window[i] = len(first) - 1
        start = np.array(first)[window, None]
        weights = np.zeros((2, len(t), len(first), len(self.points)))
        weights[:, np.arange(len(t)), window] = self._weights(t[:, None] / start) / start
        return (self.points / np.array(first)[:, None]).ravel(), np.concatenate(weights.reshape(2, len(t), -1), axis=1)

    def _weights(self, t: np.ndarray) -> np.ndarray:
        """Weights `(2, T, k)` of real and imaginary parts at times `(T, 1)` of a window that starts at 1."""
        near = _AXIS[_AXIS > _NEAR]
        rise = np.where(near < 0, np.expm1(t * near) / np.where(near < 0, near, 1.0), t)
        wanted = np.concatenate([(1.0 - _AXIS) * np.exp(t * _AXIS), rise], axis=1)
        return np.linalg.solve(self._r, self._q.T @ wanted.T).reshape(2, len(self.points), -1).swapaxes(1, 2)


def _complex(dtype: Any) -> Any:
    return jnp.complex128 if jnp.finfo(dtype).bits == 64 else jnp.complex64


def parts_needed(operator: Any, span: Any, limit: float = 6.0) -> Any:
    """Equal parts of a time in each of which `propagate` keeps its accuracy, whatever the state; traced.

    Without a drift only growth asks for parts. With one they hold P = t (up − down)²/(up + down) below 150, the
    width of the parabola −s ± i√(Ps) by which the operator is far from normal: more than most states want.
    """
    operator = jax.lax.stop_gradient(operator)
    growth = operator.growth()
    excess = jnp.minimum(growth, growth + jnp.max(operator.leak))
    rate = excess / limit
    if not operator.diffusive:
        rate = jnp.maximum(rate, operator.advection() / 300.0)
    return jnp.ceil(jnp.maximum(span * rate, 1.0))


def propagate(
    operator: Any,
    t: Any,
    u: Any,
    constant: Any = 0.0,
    slope: Any = 0.0,
    *,
    tolerance: float | None = None,
    weights: Any = None,
) -> Any:
    """u(t) of du/dt = A u + b₀ + b₁ s from u(0), exact in time.

        u(t) = r∞ u + 2 Re Σ wₖ,   (tA − zₖ) wₖ = cₖ (u + (t/zₖ) b₀ + (t/zₖ)² b₁)

    No division by A, so a singular A is nothing special. Growth moves the poles by tμ, μ the bound on it. The rational
    function is near exp on the negative axis, which serves operators that are symmetric in their weights, and for these `t`
    may be an array `(T,)` of times from the same start, with the result `(T, n)`. Others take substeps of `Pade`, good
    within what `parts_needed` says. With the `weights` of cells content is kept to roundoff of itself, however long what
    is fed in and what leaves balance.
    """
    if not operator.diffusive:
        return _substeps(operator, jnp.asarray(t, jnp.result_type(u)), u, constant, slope, tolerance)
    dtype = jnp.result_type(u)
    rational = Poles(dtype, tolerance)
    t = jnp.asarray(t, dtype)
    times = t.reshape(-1, 1)
    shift = times * jax.lax.stop_gradient(operator.growth())
    poles = (rational.poles + shift).astype(_complex(dtype))
    scale = jnp.exp(shift)
    residues = (rational.residues * scale).astype(_complex(dtype))
    # On the shifted function r(0) = 1 holds only to the table's error times growth.
    s = times / poles
    k = poles.shape[1]
    lanes = [x.reshape(-1) for x in (poles, jnp.broadcast_to(times, poles.shape), s)]
    column = lambda x: jnp.asarray(x, dtype).reshape(-1, 1)
    rhs = column(u) + lanes[2] * (column(constant) + lanes[2] * column(slope))
    w = operator.resolvent(lanes[0], -lanes[1])(jnp.broadcast_to(rhs, (len(u), len(lanes[0]))))
    if weights is not None:
        entered = jnp.sum(u) + lanes[2] * (_gain(constant) + lanes[2] * _gain(slope))
        missing = _missing(w, entered / lanes[0], operator.leak)
        w = w + (weights / jnp.sum(weights))[:, None] * missing
    out = rational.constant * scale * u - _twice_real(w.reshape(len(u), -1, k), residues).T
    return out.reshape(*t.shape, len(u))


def _gain(forcing: Any) -> Any:
    """The content that a forcing brings per time, none where it balances to roundoff: in time that would add up."""
    total, size = jnp.sum(forcing), jnp.sum(jnp.abs(forcing))
    return total - jax.lax.stop_gradient(jnp.where(jnp.abs(total) <= 64 * jnp.finfo(size.dtype).eps * size, total, 0.0))


def _missing(w: Any, content: Any, leak: Any) -> Any:
    """What columns w `(n, k)` of a closed domain lack of the sums that column sums of A tell, `(k,)`; diffusion spreads it in
    the end. Of an open one they tell no more than w does."""
    w, content = jax.lax.stop_gradient((w, content))
    closed = (jnp.abs(leak) <= 0).all()
    lacking = lambda: (content - jnp.sum(w, axis=0)).astype(w.dtype)
    return jax.lax.cond(closed, lacking, lambda: jnp.zeros(w.shape[1], w.dtype))


def _twice_real(w: Any, weights: Any) -> Any:
    """2 Re Σ wₖ cₖ over the last axis; by hand, as a complex contraction this small costs more than the solve."""
    return 2.0 * jnp.sum(w.real * weights.real - w.imag * weights.imag, axis=-1)


def _substeps(operator: Any, t: Any, u: Any, constant: Any, slope: Any, tolerance: float | None) -> Any:
    rational = Pade(jnp.result_type(u), 1e-9 if tolerance is None else tolerance)
    substeps = CUTS * rational.substeps
    dt = t / substeps
    step = rational.step(operator, dt)
    forced = (jnp.zeros_like(u) + constant, jnp.zeros_like(u) + slope)
    take = lambda v, i: (step(v, forced[0] + i * dt * forced[1], dt * forced[1])[0], None)
    return jax.lax.scan(take, u, jnp.arange(substeps, dtype=u.dtype))[0]


def propagate_window(
    operator: Any, nodes: Any, shares: Any, t: Any, u: Any, constant: Any, weights: Any, observe: Any = None
) -> Any:
    """u(t) `(T, n)` for many times `(T,)`, with nodes `(k,)` and their shares `(T, 2k)` of `Contour.cover`; `weights` are
    those of cells.

    u(t) ≈ 2 Re Σ wₖ(t) (zₖ − A)⁻¹ (u + b₀/zₖ): the resolvents do not depend on the time within a window, and a linear
    map `observe` of states may as well be applied to them.
    """
    dtype = jnp.result_type(u)
    shift = jax.lax.stop_gradient(operator.growth())
    lanes = (jnp.asarray(nodes) + shift).astype(_complex(dtype))
    over = reciprocal(lanes)
    column = lambda x: jnp.asarray(x, dtype).reshape(-1, 1)
    rhs, content = column(u), jnp.sum(u)
    if constant is not None:
        rhs, content = rhs + column(constant) * over, content + _gain(constant) * over
    w = operator.resolvent(lanes, -1.0)(rhs)
    missing = _missing(w, (content * over).astype(w.dtype), operator.leak)
    parts = lambda x: jnp.concatenate([x.real, x.imag], axis=-1)
    see = (lambda states: states) if observe is None else observe
    seen = see(parts(w).T) + column(parts(missing)) * see(weights / jnp.sum(weights))
    return jnp.exp(column(t) * shift) * jnp.matmul(jnp.asarray(shares, dtype), seen, precision="highest")
