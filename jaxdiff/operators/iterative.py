"""(aI + bA)⁻¹ on a lattice: Krylov iterations in the modes of a neighbour of A whose axes are separable."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

_PASSES, _STEPS = 6, 400  # of refinement, and of Krylov iterations in each


class Modes(eqx.Module):
    """Coordinates w in which a separable neighbour of A is diagonal: contents are scale/even · V₁ ⊗ V₂ ⊗ … w.

    `scale` (*cells,) makes A symmetric where something does (detailed balance), and `even` (*cells,) evens out what
    every axis has in common, such as a diffusivity that depends on all coordinates (Concus & Golub 1973,
    doi:10.1137/0710092). What remains is averaged over the lines of each axis; V are the eigenvectors of those averages
    and `rates` their eigenvalues (fast diagonalisation: Lynch, Rice & Thomas 1964, doi:10.1007/BF01386067).
    """

    scale: Any
    even: Any
    bases: tuple[Any, ...]
    rates: tuple[Any, ...]
    share: Any  # what stands for the identity
    levels: tuple[Any, ...]  # mean rates along each axis: those of another time differ by a factor

    def __init__(self, operator: Any):
        operator = jax.lax.stop_gradient(operator)
        near, shape = operator.nearest, operator.weights.shape
        dtype, axes = operator.weights.dtype, range(len(shape))
        others = lambda field, k: jnp.mean(jnp.broadcast_to(field, shape), tuple(j for j in axes if j != k))
        along = lambda line, k: line.reshape([-1 if j == k else 1 for j in axes])
        logs = jnp.broadcast_to(_half_logs(operator, others, along), shape)
        hops = []
        for k, (up, down, wraps) in enumerate(zip(near.up, near.down, near.periodic, strict=True)):
            tilt = jnp.exp(jnp.roll(logs, -1, k) - logs)
            hop = (up / tilt + jnp.roll(down, -1, k) * tilt) / 2
            hops.append(hop if wraps else _without_last(hop, k))
        even = jnp.ones(shape, dtype) if near.separable else jnp.exp(_common(hops, near.periodic, others, along) / 2)
        loss = jnp.broadcast_to(operator.loss / even**2, shape)
        spare = jnp.mean(loss) * (len(shape) - 1) / len(shape)
        bases: tuple[Any, ...] = ()
        rates: tuple[Any, ...] = ()
        for k, n in enumerate(shape):
            hop = others(hops[k] / (even * jnp.roll(even, -1, k)), k)
            here, there = jnp.arange(n), (jnp.arange(n) + 1) % n
            matrix = jnp.diag(spare - others((near.up[k] + near.down[k]) / even**2 + loss, k))
            values, vectors = jnp.linalg.eigh(matrix.at[here, there].add(hop).at[there, here].add(hop))
            bases, rates = (*bases, vectors), (*rates, along(values, k))
        self.scale, self.even, self.bases, self.rates = jnp.exp(logs), even, bases, rates
        self.share, self.levels = jnp.mean(1 / even**2), _levels(near)

    def analyse(self, field: Any) -> Any:
        """Vᵀ f along every axis."""
        return _along_axes(field, [basis.T for basis in self.bases])

    def synthesise(self, field: Any) -> Any:
        """V f along every axis."""
        return _along_axes(field, self.bases)

    def roots(self, operator: Any, a: Any, b: Any) -> Any:
        """Square roots of the eigenvalues of a + bA's neighbour, kept well above zero, where averages may have pushed some
        beyond: nothing leaves A slower than it would if it were mixed, or diffused out."""
        found: Any = a * self.share
        for rate, now, then in zip(self.rates, _levels(operator.nearest), self.levels, strict=True):
            found = found + b * rate * jnp.where(then > 0, now / jnp.where(then > 0, then, 1.0), 1.0)
        across = jnp.max(operator.exit) / max(operator.weights.shape) ** 2
        floor = 0.1 * self.share * (a + jnp.abs(b) * jnp.minimum(jnp.mean(operator.leak), across))
        floor = jnp.maximum(floor, 10 * float(jnp.finfo(found.dtype).eps) * jnp.max(jnp.abs(found)))
        return jnp.sqrt(jnp.maximum(found, floor))


def preconditioned(operator: Any, modes: Modes | None = None) -> Any:
    """The operator with the modes that its resolvents use, formed once; itself if it is solved by elimination."""
    if hasattr(operator, "mobile"):  # its resolvents are those of what moves
        return eqx.tree_at(lambda o: o.mobile, operator, preconditioned(operator.mobile, modes))
    if not hasattr(operator, "nearest"):
        return operator
    where = lambda o: o.modes
    return eqx.tree_at(where, operator, Modes(operator) if modes is None else modes, is_leaf=lambda x: x is None)


def resolvent(operator: Any, a: Any, b: Any) -> Callable[[Any], Any]:
    """u ↦ (aI + bA)⁻¹ u `(*cells,)` for real a and b, to 1e-12 in float64; NaN where the iterations do not converge.

    Conjugate gradients where the operator says `detailed_balance`, else BiCGStab. The operator brings `@`, `leak`, `weights`,
    `detailed_balance`, `log_equilibrium` if it is, and `nearest`, an `AxisSum` close to it. Derivatives are those of the
    solution: one more solve, forward, or transposed.
    """
    solve = solver(operator, a, b)
    return lambda u: solve(u)[0]


def solver(operator: Any, a: Any, b: Any) -> Callable[[Any], tuple[Any, Any]]:
    """The same, with the number of iterations beside the solution."""
    modes = operator.modes if operator.modes is not None else Modes(operator)
    fixed = jax.lax.stop_gradient(operator)
    dtype = operator.weights.dtype
    a, b = jnp.asarray(a, dtype), jnp.asarray(b, dtype)
    root = modes.roots(fixed, a, b)
    columns = a + b * -fixed.leak
    spread = modes.scale**2 / jnp.sum(columns * modes.scale**2)
    spread = jnp.where(jnp.isfinite(spread), spread, 0.0)
    known = jax.lax.stop_gradient((modes, root, columns, spread))
    return lambda u: _solve(operator, a, b, known, jnp.broadcast_to(u, operator.weights.shape).astype(dtype))


@jax.jit  # traced once for the solves of a step
def _solve(operator: Any, a: Any, b: Any, known: Any, rhs: Any) -> tuple[Any, Any]:
    modes, root, columns, spread = known
    left, right = 1 / (modes.scale * modes.even), modes.scale / modes.even

    def matvec(x: Any) -> Any:
        return a * x + b * (operator @ x)

    def forward(product: Any, rhs: Any) -> Any:
        into, out = lambda r: modes.analyse(left * r) / root, lambda w: right * modes.synthesise(w / root)
        x, count = _refined(product, into, out, rhs, operator.detailed_balance)
        x = x + (jnp.sum(rhs) - jnp.sum(columns * x)) * spread  # content is kept to roundoff, not to a tolerance
        never = (rhs >= 0).all() & (x > -(float(jnp.finfo(rhs.dtype).eps) ** 0.5) * jnp.max(jnp.abs(x)))
        return jnp.where(never, jnp.maximum(x, 0.0), x), count  # nor does a generator send anything below zero

    def backward(product: Any, rhs: Any) -> Any:
        into, out = lambda r: modes.analyse(right * r) / root, lambda w: left * modes.synthesise(w / root)
        return _refined(product, into, out, rhs, operator.detailed_balance)

    return jax.lax.custom_linear_solve(matvec, rhs, forward, backward, has_aux=True)


def _refined(product: Any, into: Any, out: Any, rhs: Any, symmetric: bool) -> tuple[Any, Any]:
    """x of product(x) = rhs, and the number of iterations, by solves for the residual in coordinates w where the
    product is nearly the identity, until its image there tells that x is as good as `aim`."""
    import lineax as lx

    eps = float(jnp.finfo(rhs.dtype).eps)
    aim, enough = max(1e-12, 50 * eps), eps**0.5
    length = lambda w: jnp.sqrt(jnp.sum(w * w))
    size = lambda x: jnp.sum(jnp.abs(x))
    tags = lx.positive_semidefinite_tag if symmetric else ()
    linear = lx.FunctionLinearOperator(lambda w: into(product(out(w))), jax.eval_shape(lambda: rhs), tags)
    limits: dict[str, Any] = {"rtol": 0.0, "atol": aim / 4, "norm": length, "max_steps": _STEPS}
    method: Any = lx.CG(stabilise_every=None, **limits) if symmetric else lx.BiCGStab(**limits)

    def more(state: Any) -> Any:
        x, w, error, passes, _ = state
        return (passes < _PASSES) & (error > aim * size(x))

    def improve(state: Any) -> Any:
        x, w, error, passes, count = state
        norm = jnp.maximum(length(w), float(jnp.finfo(w.dtype).tiny))
        found = lx.linear_solve(linear, w / norm, method, throw=False)
        change = norm * found.value
        x = x + out(jnp.where(jnp.isfinite(change), change, 0.0))
        w = into(rhs - product(x))
        return x, w, size(out(w)), passes + 1, count + found.stats["num_steps"]

    w = into(rhs)
    state: Any = (jnp.zeros_like(rhs), w, size(out(w)), 0, jnp.zeros((), int))
    x, _, error, _, count = jax.lax.while_loop(more, improve, state)
    return jnp.where(error <= enough * size(x), x, jnp.nan), count


def _half_logs(operator: Any, others: Any, along: Any) -> Any:
    """Half the logarithm of what makes A symmetric, or of what each axis by itself, on average, comes to rest at."""
    dtype = operator.weights.dtype
    if operator.detailed_balance:
        logs = operator.log_equilibrium
        lowest = 0.9 * math.log(jnp.finfo(dtype).tiny)  # squares must not underflow
        return jnp.maximum(logs - jnp.max(logs), lowest) / 2
    near, m = operator.nearest, jnp.log(operator.weights)
    reach = -1.4 * math.log(jnp.finfo(dtype).eps)  # half of it must not swamp the digits of the eigenvectors
    total = m
    for k, wraps in enumerate(near.periodic):
        force = others(near.steps(k) - (jnp.roll(m, -1, k) - m), k)
        force = force - jnp.mean(force) if wraps else force[:-1]
        climb = jnp.concatenate([jnp.zeros(1, dtype), jnp.cumsum(force[:-1] if wraps else force)])
        climb = climb * jnp.minimum(1.0, reach / jnp.maximum(jnp.ptp(climb), 1e-30))
        total = total + along(climb, k)
    return (total - jnp.max(total)) / 2


def _common(hops: Any, periodic: Any, others: Any, along: Any) -> Any:
    """Logarithm of the factor that the rates along all axes share, from what varies across the lines of each."""
    seen, ndim = [], len(hops)
    for k, (hop, wraps) in enumerate(zip(hops, periodic, strict=True)):
        log = jnp.log(jnp.maximum(hop, jnp.finfo(hop.dtype).tiny))
        there = hop > 0  # where nothing passes there is no factor either
        log = jnp.where(there, log, jnp.sum(log, where=there) / jnp.maximum(jnp.sum(there), 1))
        if hop.shape[k] > 1 and not wraps:  # the last one is beyond the wall
            log = jax.lax.slice_in_dim(log, 0, hop.shape[k] - 1, axis=k)
            ends = [(1, 1) if j == k else (0, 0) for j in range(ndim)]
            log = jnp.pad(log, ends, mode="edge")
            log = (jax.lax.slice_in_dim(log, 1, None, axis=k) + jax.lax.slice_in_dim(log, 0, -1, axis=k)) / 2
        elif wraps:
            log = (log + jnp.roll(log, 1, k)) / 2
        else:
            log = jnp.zeros_like(log)
        seen.append(log - along(others(log, k), k))
    mean: Any = sum(seen) / ndim
    total = mean + sum(along(others(mean, k), k) for k in range(ndim)) / max(ndim - 1, 1)
    return _along_axes(
        total, [_smoothing(n, wraps, total.dtype) for n, wraps in zip(total.shape, periodic, strict=True)]
    )


def _smoothing(n: int, wraps: bool, dtype: Any) -> Any:
    """Averages over a few neighbours: of a rough factor, the iterations are better off without."""
    i = jnp.arange(n)
    above = (i + 1) % n if wraps else jnp.minimum(i + 1, n - 1)
    below = (i - 1) % n if wraps else jnp.maximum(i - 1, 0)
    once = jnp.diag(jnp.full(n, 0.5, dtype)).at[i, above].add(0.25).at[i, below].add(0.25)
    return jnp.linalg.matrix_power(once, 4)


def _levels(near: Any) -> tuple[Any, ...]:
    return tuple(jnp.mean(up) + jnp.mean(down) for up, down in zip(near.up, near.down, strict=True))


def _along_axes(field: Any, matrices: Any) -> Any:
    for k, matrix in enumerate(matrices):
        field = jnp.moveaxis(jnp.tensordot(matrix, field, axes=(1, k), precision="highest"), 0, k)
    return field


def _without_last(hop: Any, k: int) -> Any:
    return hop.at[(slice(None),) * k + (-1,)].set(0.0)
