"""Where a short step on several axes leads: mean and covariance, closed at second order.

What x is after a time t from one point has the mean m and the covariance P. Expanded about m, with cumulants beyond the second left
out, and killing k weighting what is alive, of mass e^λ,

    λ' = −k − ½ k'':P,   m' = f + ½ f'':P − P∇k,   P' = JP + PJᵀ + 2D + D'':P − P k'' P,   J = ∇f

which is exact where f is linear, D a number and k quadratic. Särkkä & Solin 2019, doi:10.1017/9781108186735, chapter 9.

All is written for many steps at once, and for NumPy as for JAX: plans are made on the host, where fresh functions of a user would
compile whole programs again and again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

# Butcher 1964, sixth order in seven stages, doi:10.1017/S1446788700023387; the last row are the weights
STAGES = np.array([0, 1 / 3, 2 / 3, 1 / 3, 1 / 2, 1 / 2, 1])
ROWS = np.array(
    [
        [1 / 3, 0, 0, 0, 0, 0, 0],
        [0, 2 / 3, 0, 0, 0, 0, 0],
        [1 / 12, 1 / 3, -1 / 12, 0, 0, 0, 0],
        [-1 / 16, 9 / 8, -3 / 16, -3 / 8, 0, 0, 0],
        [0, 9 / 8, -3 / 8, -3 / 4, 1 / 2, 0, 0],
        [9 / 44, -9 / 11, 63 / 44, 18 / 11, 0, -16 / 11, 0],
        [11 / 120, 0, 27 / 40, 27 / 40, -4 / 15, -4 / 15, 11 / 120],
    ]
)
INSIDE = 1e-8  # of a stretch of time, by which its ends are looked at from within: coefficients may jump there
BATCH = 2048  # points at which the host evaluates at once, so that it compiles once


class Dynamics(eqx.Module):
    """dX = f dt + √(2D) dW with killing k: f(t, x) (d,), D(t, x) (d, d), k(t, x) a number, None for none; pytrees, traceable."""

    drift: Callable[[Any, Any], Any]
    diffusivity: Callable[[Any, Any], Any]
    killing: Callable[[Any, Any], Any] | None

    def slopes(self, t: Any, m: Any, P: Any) -> tuple[Any, Any, Any, Any]:
        """(λ', m', P', J) at one time, mean (d,) and covariance (d, d)."""
        f, J, bend = _derivatives(lambda x: self.drift(t, x), m)
        D, _, curve = _derivatives(lambda x: self.diffusivity(t, x), m)
        mass, mean = jnp.zeros_like(t), f + 0.5 * jnp.sum(bend * P, (1, 2))
        across = J @ P
        covariance = across + across.T + 2 * D + jnp.sum(curve * P, (2, 3))
        if self.killing is not None:
            killing = self.killing
            k, pull, press = _derivatives(lambda x: killing(t, x), m)
            mass, mean, covariance = -k - 0.5 * jnp.sum(press * P), mean - P @ pull, covariance - P @ press @ P
        return mass, mean, covariance, J

    def traced(self, t: Any, m: Any, P: Any) -> tuple[Any, Any, Any, Any]:
        """`slopes` of many, (n,), (n, d), (n, d, d), inside a compiled program."""
        return jax.vmap(self.slopes)(t, m, P)

    def on_host(self, t: np.ndarray, m: np.ndarray, P: np.ndarray) -> tuple[Any, Any, Any, Any]:
        """`slopes` of many in NumPy."""
        found = []
        for at in range(0, len(t), BATCH):
            some = slice(at, at + BATCH)
            short = BATCH - len(t[some])
            filled = [np.concatenate([a[some], np.repeat(a[-1:], short, 0)]) if short else a[some] for a in (t, m, P)]
            found.append([np.asarray(part)[: BATCH - short] for part in _compiled(self, *filled)])
        return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))  # type: ignore[return-value]


def _derivatives(function: Callable[[Any], Any], x: Any) -> tuple[Any, Any, Any]:
    """A function's value, gradient and second derivatives, the new axes last."""
    return function(x), jax.jacfwd(function)(x), jax.jacfwd(jax.jacfwd(function))(x)


_compiled = eqx.filter_jit(Dynamics.traced)


def moments(xp: Any, dynamics: Dynamics, knots: Any, start: Any, parts: int, flow: bool = False) -> tuple[Any, ...]:
    """(λ (n,), m (n, d), P (n, d, d)) at the end of each step, and with `flow` the slope of m by the start (n, d, d).

    knots: (n, s + 1) [time], from the start of each step to its end, between which coefficients are smooth; start: (n, d) [length];
    parts: steps of Runge and Kutta in each of the s stretches
    """
    n, d = start.shape
    slopes = dynamics.on_host if xp is np else dynamics.traced
    cuts = np.cumsum([1, d, d * d, d * d])

    def split(state: Any) -> tuple[Any, ...]:
        mass, mean = state[:, 0], state[:, 1 : cuts[1]]
        return (
            mass,
            mean,
            *(state[:, a:b].reshape(n, d, d) for a, b in zip(cuts[1:-1], cuts[2:]) if b <= state.shape[1]),
        )

    def rate(t: Any, state: Any) -> Any:
        _, mean, covariance, *more = split(state)
        mass, mean, covariance, J = slopes(t, mean, covariance)
        columns = [mass[:, None], mean, covariance.reshape(n, -1), *((J @ F).reshape(n, -1) for F in more)]
        return xp.concatenate(columns, 1)

    state = xp.concatenate(
        [xp.zeros((n, 1)), start, xp.zeros((n, d * d)), *([xp.tile(xp.eye(d).ravel(), (n, 1))] * flow)], 1
    )
    lengths = xp.repeat((knots[:, 1:] - knots[:, :-1]) / parts, parts, 1).T
    begins = xp.repeat(knots[:, :-1], parts, 1).T + lengths * np.tile(np.arange(parts), knots.shape[1] - 1)[:, None]
    looked_at = INSIDE + (1 - 2 * INSIDE) * STAGES
    if xp is np:
        for begin, length in zip(begins, lengths, strict=True):
            here, found = state, np.zeros((len(STAGES), *state.shape))
            for i, (share, weights) in enumerate(zip(looked_at, ROWS, strict=True)):
                found[i] = rate(begin + share * length, here)
                here = state + length[:, None] * np.tensordot(weights, found, 1)
            state = here
        return split(state)

    def stage(carry: Any, k: Any) -> tuple[Any, None]:  # one loop over all stages of all parts, which compiles soonest
        last, here, found = carry
        j, i = k // len(STAGES), k % len(STAGES)
        found = found.at[i].set(rate(begins[j] + jnp.asarray(looked_at)[i] * lengths[j], here))
        here = last + lengths[j][:, None] * jnp.tensordot(jnp.asarray(ROWS)[i], found, 1)
        return (jnp.where(i == len(STAGES) - 1, here, last), here, found), None

    none = jnp.zeros((len(STAGES), *state.shape), state.dtype)
    return split(jax.lax.scan(stage, (state, state, none), jnp.arange(len(lengths) * len(STAGES)))[0][0])


def cholesky(xp: Any, matrix: Any) -> list[list[Any]]:
    """Rows of the lower factors of (n, d, d), written out, as LAPACK is slow on many small ones; NaN where there is none."""
    rows: list[list[Any]] = []
    for i in range(matrix.shape[1]):
        row: list[Any] = []
        for j in range(i):
            row.append((matrix[:, i, j] - sum(a * b for a, b in zip(row, rows[j], strict=False))) / rows[j][j])
        rest = matrix[:, i, i] - sum(a * a for a in row)
        rows.append([*row, xp.where(rest > 0, xp.sqrt(xp.where(rest > 0, rest, 1.0)), np.nan)])
    return rows


def below(xp: Any, rows: list[list[Any]], right: Any) -> Any:
    """L⁻¹ of vectors (n, d), or of matrices (n, d, k)."""
    found: list[Any] = []
    for i, row in enumerate(rows):
        each = [a if right.ndim == 2 else a[:, None] for a in row]
        found.append((right[:, i] - sum(a * x for a, x in zip(each, found, strict=False))) / each[i])
    return xp.stack(found, 1)


def log_normal(xp: Any, away: Any, covariance: Any) -> Any:
    """log N(away; 0, P), (n,)."""
    rows = cholesky(xp, covariance)
    z = below(xp, rows, away)
    return -0.5 * xp.sum(z * z, 1) - sum(xp.log(row[-1]) for row in rows) - len(rows) * np.log(2 * np.pi) / 2
