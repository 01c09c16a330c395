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

from jaxdiff.runtime.closures import jit_by_meaning

# The method of Runge and Kutta of fourth order: where a stage looks, how far it goes from the start, and its weight
STAGES, AHEAD, WEIGHTS = np.array([0, 1 / 2, 1 / 2, 1]), np.array([1 / 2, 1 / 2, 1, 0]), np.array([1, 2, 2, 1]) / 6
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
        across = times(J, P)
        covariance = across + across.T + 2 * D + jnp.sum(curve * P, (2, 3))
        if self.killing is not None:
            killing = self.killing
            k, pull, press = _derivatives(lambda x: killing(t, x), m)
            mass, mean = -k - 0.5 * jnp.sum(press * P), mean - jnp.sum(P * pull, 1)
            covariance = covariance - times(times(P, press), P)
        return mass, mean, covariance, J

    def traced(self, t: Any, m: Any, P: Any) -> tuple[Any, Any, Any, Any]:
        """`slopes` of many, (n,), (n, d), (n, d, d), inside a compiled program."""
        return jax.vmap(self.slopes)(t, m, P)

    def on_host(self, t: np.ndarray, m: np.ndarray, P: np.ndarray) -> tuple[Any, ...]:
        """`slopes` of many in NumPy."""
        found = []
        for at in range(0, len(t), BATCH):
            some = slice(at, at + BATCH)
            short = BATCH - len(t[some])
            filled = [np.concatenate([a[some], np.repeat(a[-1:], short, 0)]) if short else a[some] for a in (t, m, P)]
            found.append([np.asarray(part)[: BATCH - short] for part in _compiled(self, *filled)])
        return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


def _derivatives(function: Callable[[Any], Any], x: Any) -> tuple[Any, Any, Any]:
    """A function's value, gradient and second derivatives, the new axes last."""
    return function(x), jax.jacfwd(function)(x), jax.jacfwd(jax.jacfwd(function))(x)


_compiled = jit_by_meaning(Dynamics.traced)


def moments(xp: Any, dynamics: Dynamics, knots: Any, start: Any, parts: int, flow: bool = False) -> tuple[Any, ...]:
    """(λ (n,), m (n, d), P (n, d, d)) at the end of each step, and with `flow` the slope of m by the start (n, d, d).

    knots: (n, s + 1) [time], from the start of each step to its end, between which coefficients are smooth; start: (n, d) [length];
    parts: steps of Runge and Kutta in each of the s stretches
    """
    n, d = start.shape
    cuts = [1, 1 + d, 1 + d + d * d, 1 + d + 2 * d * d]

    def split(state: Any) -> tuple[Any, ...]:
        """(λ, m, P, slope) of a state whose last axis are the steps, which is how a compiler is fast with many."""
        squares = [state[i:j].reshape(d, d, n) for i, j in zip(cuts[1:], cuts[2:], strict=False) if j <= len(state)]
        return state[0], state[1 : 1 + d], *squares

    def rate(t: Any, state: Any) -> Any:
        _, mean, covariance, *more = split(state)
        if xp is np:
            found = dynamics.on_host(t, mean.T, np.moveaxis(covariance, 2, 0))
            mass, mean, covariance, J = (np.moveaxis(one, 0, -1) for one in found)
        else:
            mass, mean, covariance, J = jax.vmap(dynamics.slopes, -1, -1)(t, mean, covariance)
        moved = [times(J, F).reshape(d * d, n) for F in more]
        return xp.concatenate([mass[None], mean, covariance.reshape(d * d, n), *moved])

    one = [xp.tile(xp.eye(d).reshape(-1, 1), (1, n))] * flow
    state = xp.concatenate([xp.zeros((1, n)), start.T, xp.zeros((d * d, n)), *one])
    lengths = xp.repeat((knots[:, 1:] - knots[:, :-1]) / parts, parts, 1).T
    begins = xp.repeat(knots[:, :-1], parts, 1).T + lengths * np.tile(np.arange(parts), knots.shape[1] - 1)[:, None]
    looked_at = INSIDE + (1 - 2 * INSIDE) * STAGES

    def stage(carry: Any, i: Any, begin: Any, length: Any, coefficients: Any) -> tuple[Any, Any, Any]:
        (last, here, total), (share, ahead, weight) = carry, coefficients
        slope = rate(begin + share * length, here)
        total = total + weight * length * slope
        here = xp.where(i == 3, total, last + ahead * length * slope)
        return xp.where(i == 3, total, last), here, total

    carry, rows = (state, state, state), (looked_at, AHEAD, WEIGHTS)
    if xp is np:
        for begin, length in zip(begins, lengths, strict=True):
            for i, row in enumerate(zip(*rows, strict=True)):
                carry = stage(carry, i, begin, length, row)
    else:  # one loop over the stages of all parts, which compiles soonest
        tables = [jnp.asarray(row) for row in rows]

        def turn(carry: Any, k: Any) -> tuple[Any, None]:
            i, j = k % 4, k // 4
            return stage(carry, i, begins[j], lengths[j], [table[i] for table in tables]), None

        carry = jax.lax.scan(turn, carry, jnp.arange(4 * len(lengths)))[0]
    return tuple(xp.moveaxis(part, -1, 0) for part in split(carry[0]))


def times(A: Any, B: Any) -> Any:
    """The product of small matrices in the first two axes, written as sums, as those of many small ones are slow."""
    return (A[:, :, None] * B[None]).sum(1)


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
