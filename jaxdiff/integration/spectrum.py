"""How fast what is left of a start fades: the slowest modes of an equation, and their rates."""

from __future__ import annotations

import operator as operators
from functools import cache
from math import log, prod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Inexact

from jaxdiff.discretisation.schemes import semidiscrete
from jaxdiff.integration.energies import lowest
from jaxdiff.integration.options import SECOND_ORDER
from jaxdiff.integration.passage import steady_system, told
from jaxdiff.integration.steady import DENSE, inverse, matrix
from jaxdiff.operators import Tridiagonal, several
from jaxdiff.operators.bidiagonal import EQUAL, smallest
from jaxdiff.operators.linear import linear
from jaxdiff.runtime.compilation import as_written, solver_jit
from jaxdiff.runtime.conditions import Checks, check

_PASSES = 300
_LOST = 1e-3  # bound on the relative error of a rate by roundoff, which is some ten times less
_CONVERGED = 1e-6  # residual of a mode, of which the error of a rate is the square where A is symmetric


@cache
def _slowest(count: int) -> Any:
    def slowest(equation: Any, grid: Any) -> tuple[Any, Checks]:
        system = semidiscrete(equation, grid, SECOND_ORDER)[0]
        operator, _, found = system.formed(0.0)
        if system.among_states:
            operator = operator.closed
        mask, leak = getattr(grid, "mask", None), operator.leak
        if mask is not None:  # what is outside comes last
            operator = eqx.tree_at(
                lambda a: a.loss, operator, jnp.where(mask, operator.loss, 4 * jnp.max(operator.exit))
            )
        growing = jax.lax.stop_gradient(jnp.maximum(0.0, -jnp.min(operator.leak)))
        apart = "there are several sets of states or cells that are never left, each with a rest of its own; ask for each by itself"
        on_chain = isinstance(operator, Tridiagonal) and not operator.periodic
        if not on_chain and (system.among_states or (mask is not None and hasattr(operator, "up"))):
            found = [*found, (apart, several(jax.lax.stop_gradient(operator), mask), 0.0, 0.0)]
        if on_chain:
            values, contents, more = _on_chain(operator, growing, count)
        else:
            values, contents, more = _by_inverse(operator, system.weights, growing, (jnp.abs(leak) <= 0).all(), count)
        sizes = jnp.abs(contents)
        total = jnp.sum(sizes, axis=1, keepdims=True)
        first = jnp.argmax(sizes > 0.999 * jnp.max(sizes, axis=1, keepdims=True), axis=1)[:, None]
        sign = jnp.take_along_axis(contents / jnp.where(sizes > 0, sizes, 1.0), first, 1)
        modes = contents / (sign * total) / jnp.where(system.weights > 0, system.weights, 1.0).ravel()
        finite = jnp.isfinite(values).all() & jnp.isfinite(modes).all()
        words = "the modes are not finite; check the coefficients, and whether all cells hang together"
        return (values, modes.reshape(count, *system.state_shape)), check([*found, *more, (words, ~finite, 0.0, 0.0)])

    return solver_jit(slowest)


@as_written
def spectrum(equation: Any, grid: Any, count: int) -> tuple[Inexact[Array, " k"], Inexact[Array, " k *cells"]]:
    """The slowest modes of an equation without what feeds it, and the rates at which they change; of waves the energies.

        A m uₖ = λₖ m uₖ,   so that u(t) = Σ cₖ e^{λₖt} uₖ;   H ψₖ = Eₖ ψₖ,   so that ψ(t) = Σ cₖ e^{−iEₖt/ħ} ψₖ

    On an open axis every rate has all its digits however small, be it of a barrier of many kT, with walls or killing too, and so have
    its derivatives. Elsewhere rates are good to some 1e-15 of the fastest hops; where that may leave fewer than three digits of
    one that is asked for, they are refused. Rates nearer to each other than 1e-9 of themselves share the mean of their derivatives:
    of any symmetric function of them, as their sum, it makes the right one; one by one they have none. On an open axis, and of energies
    of waves, which share it where roundoff mixes their modes, that holds among those asked for: ask for all of a kind.

    Args:
        equation: its coefficients constant in time.
        grid: the cells.
        count: how many modes.

    Returns:
        Rates λ `(count,)` [1/time], slowest decay first, that of rest zero, of growth positive; and densities `(count, *cells)`, each
        with ∫|u| = 1 over contents and positive where it is largest. Complex without detailed balance, as on a ring with a current
        or where a drift turns; there, of more than 1024 cells, the rates nearest to zero. On an open axis modes have derivatives; elsewhere rates
        alone, and those of modes are refused in reverse mode, NaN in forward mode.
        Of a `Schrodinger` equation energies E `(count,)` [energy], the lowest first, and real modes of ∫ψ² = 1, which up to 1024 cells have
        derivatives too: NaN of those that share their energy.

    Raises:
        ValueError: coefficients that depend on time, more modes than cells, hops that go one way only, several sets of
            states that are never left, modes that fall together, slow rates lost to roundoff, no convergence.

    Two wells: the slowest rate is that of going from one to the other.

    >>> import jaxdiff as jd
    >>> well = jd.FokkerPlanck(jd.Potential(lambda x: x**4 / 4 - x**2 / 2), 0.1)
    >>> rates, modes = jd.spectrum(well, jd.Grid.uniform((-2.0, 2.0, 200)), 3)
    >>> [round(float(rate), 5) for rate in rates], modes.shape
    ([0.0, -0.03355, -0.92705], (3, 200))

    Demmel & Kahan 1990, doi:10.1137/0911052.
    """
    equation, grid, system = steady_system(equation, grid, waves=True)
    inside = prod(system.state_shape) if getattr(grid, "mask", None) is None else int(np.sum(np.asarray(grid.mask)))
    try:
        count = operators.index(count)
    except TypeError:
        count = 0
    if not 1 <= count <= inside:
        raise ValueError(f"count is a whole number of modes, from 1 to the {inside} of all cells")
    (values, modes), checks = (lowest if equation.wave else _slowest)(count)(equation, grid)
    return told(values, checks), told(modes, checks)


def _on_chain(operator: Tridiagonal, growing: Any, count: int) -> tuple[Any, Any, list[Any]]:
    """Rates, and contents `(count, n)`: squares of singular values of −A = B Bᵀ in its symmetric form, whose factors are
    formed without subtraction."""
    up, down, leak = operator.up[:-1], operator.down[1:], operator.leak + growing
    none = jnp.zeros(1, up.dtype)

    def pivot(last: Any, row: Any) -> tuple[Any, Any]:
        rest, whole = last
        out, back, lost = row
        there = whole > 0
        rest = lost + back * jnp.where(there, rest / jnp.where(there, whole, 1.0), 1.0)
        return (rest, rest + out), rest + out

    rows = jnp.concatenate([up, none]), jnp.concatenate([none, down]), leak
    pivots = jax.lax.scan(pivot, (none[0], none[0]), rows)[1]
    there = pivots[:-1] > 0
    lower = jnp.where(
        there, down * (up / jnp.where(there, pivots[:-1], 1.0)), 0.0
    )  # where up · down may be below all numbers
    squares = jnp.concatenate([jnp.stack([pivots[:-1], lower], axis=1).ravel(), pivots[-1:]])
    squares, w = smallest(squares, count)
    values, u = growing - squares, jax.lax.stop_gradient(w[:, ::2])
    u = u / jnp.linalg.norm(u, axis=1, keepdims=True)

    hops = (up > 0) & (down > 0)
    root = jnp.where(hops, jnp.sqrt(jnp.where(hops, up, 1.0)) * jnp.sqrt(jnp.where(hops, down, 1.0)), 0.0)
    diagonal = -(jnp.concatenate([up, none]) + jnp.concatenate([none, down]) + operator.leak)
    beside = lambda x: jnp.pad(root * x[:, 1:], ((0, 0), (0, 1))) + jnp.pad(root * x[:, :-1], ((0, 0), (1, 0)))
    off = diagonal * u + beside(u) - values[:, None] * u
    above = values + float(jnp.finfo(up.dtype).eps) * jnp.max(jnp.abs(diagonal))
    moved = _moved(*jax.lax.stop_gradient((diagonal, root, above)), off)
    u = u + moved - jnp.sum(u * moved, axis=1, keepdims=True) * u
    ratio = jnp.where(hops, up, 1.0) / jnp.where(hops, down, 1.0)
    half = jnp.concatenate([none, jnp.cumsum(jnp.log(ratio))]) / 2
    logs = jax.lax.stop_gradient(jnp.log(jnp.maximum(jnp.abs(u), float(jnp.finfo(up.dtype).tiny)))) + half
    scale = jax.lax.stop_gradient(jnp.max(logs, axis=1, keepdims=True))
    words = (
        "between some cells content hops one way only, so that modes do not span all states; give them some diffusivity"
    )
    one_way = ((up > 0) != (down > 0)).any()
    return values, u * jnp.exp(jnp.minimum(half - scale, 700.0)), [(words, one_way, 0.0, 0.0)]


@jax.custom_jvp
def _moved(diagonal: Any, beside: Any, level: Any, off: Any) -> Any:
    """Zero, but its derivative is not: a mode moves by what (A − λ) makes of it, `off`."""
    return jnp.zeros_like(off)


@_moved.defjvp
def _moved_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    diagonal, beside, level, off = primals
    none = jnp.zeros(1, off.dtype)
    lower, upper = jnp.concatenate([none, beside]), jnp.concatenate([beside, none])

    def product(x: Any) -> Any:
        around = jnp.pad(x, ((0, 0), (1, 1)))
        return (diagonal - level[:, None]) * x + lower * around[:, :-2] + upper * around[:, 2:]

    def solve(_: Any, rhs: Any) -> Any:
        one = lambda level, b: jax.lax.linalg.tridiagonal_solve(lower, diagonal - level, upper, b[:, None])[:, 0]
        return jax.vmap(one)(level, rhs)

    moved = jax.lax.custom_linear_solve(product, -tangents[-1], solve, symmetric=True)
    return jnp.zeros_like(off), moved


def _by_inverse(operator: Any, weights: Any, growing: Any, closed: Any, count: int) -> tuple[Any, Any, list[Any]]:
    """The same of any operator, by Rayleigh–Ritz in the inverse of A, in which what is slow is large."""
    exit = operator.exit
    shape, n, dtype = exit.shape, exit.size, exit.dtype
    eps = float(jnp.finfo(dtype).eps)
    balanced = getattr(operator, "detailed_balance", False)
    symmetric = balanced or (operator.diffusive and not hasattr(operator, "mobile"))
    fixed = jax.lax.stop_gradient(operator)
    size = min(n, 2 * count + 8)
    invert, rest = inverse(fixed, growing, closed)
    if symmetric:
        logs = fixed.log_equilibrium if balanced else jnp.log(weights)
        logs = jnp.where(jnp.isfinite(logs), logs, jnp.max(logs))
        scale = jnp.exp(jnp.maximum(logs - jnp.max(logs), 0.9 * log(jnp.finfo(dtype).tiny)) / 2).ravel()
        forward = lambda v: invert(v * scale[:, None]) / scale[:, None]
    else:
        forward = _on_complex(invert)
    if n <= DENSE:
        whole = matrix(fixed)
        if symmetric:
            both = jnp.sqrt(jnp.maximum(whole * whole.T, 0.0))
            start = jnp.linalg.eigh(both + jnp.diag(jnp.diagonal(whole) - jnp.diagonal(both)))[1][:, ::-1][:, :size]
            left = None
        else:
            rates, vectors = jnp.linalg.eig(whole)
            order = jnp.argsort(-rates.real)
            start, left = vectors[:, order[:size]], jnp.linalg.inv(vectors[:, order])[:size]
        mu, right, error = _ritz(forward, start, symmetric)
    else:
        start = jax.random.normal(jax.random.key(0), (n, size), dtype)
        mu, right, error = _iterated(forward, start, symmetric, count)
        left = None
        if not symmetric:
            backward = jax.linear_transpose(invert, start)
            left = _iterated(_on_complex(lambda v: backward(v)[0]), start, False, count)[1].T
    if symmetric:
        left, right = (right / scale[:, None]).T, right * scale[:, None]
    else:
        left = jnp.linalg.solve(left @ right, left)
    seen = jnp.abs(mu) > max(1e-10, 32 * eps) * jnp.max(jnp.abs(mu))  # what is not is rest, or lost beside the slowest
    fastest = jnp.max(jnp.abs(exit))
    beyond = 4 * fastest * (1.0 + jnp.arange(size))
    values = jnp.where(seen, growing - 1 / jnp.where(seen, mu, 1.0), -beyond)
    error = jnp.where(seen, error, jnp.inf)
    unit = max(1e-9, 128 * eps) * jnp.sort(jnp.abs(values))[count - 1]  # conjugates are one rate
    order = jnp.lexsort((values.imag, -jnp.round(values.real / unit)))
    before = lambda first, rows: jnp.where(closed, jnp.concatenate([first[None], rows])[:size], rows)
    values, error = before(jnp.zeros((), values.dtype), values[order]), before(jnp.zeros(()), error[order])
    right = before(rest.ravel().astype(right.dtype), right.T[order])
    left = before(jnp.ones(n, left.dtype), left[order])
    # The derivative of a rate is that of the quotient of its two vectors; of rates that are equal only the sum has one.
    moved = jax.vmap(lambda r: (_product(operator, r.reshape(shape))).ravel())(right)
    norm = jnp.sum(left * right, axis=1)
    quotient = jnp.sum(left * moved, axis=1) / jnp.where(norm == 0, 1.0, norm)
    gap = jnp.abs(values[:, None] - values)
    equal = gap <= max(EQUAL, 128 * eps) * jnp.abs(values)[:, None]
    quotient = jnp.matmul(equal.astype(quotient.dtype), quotient, precision="highest") / jnp.sum(equal, axis=1)
    lengths = jnp.linalg.norm(left, axis=1) * jnp.linalg.norm(right, axis=1)
    parallel = ~(lengths < 0.1 / eps**0.5 * jnp.abs(norm)) & (
        jnp.sum(gap <= 0.1 * jnp.abs(values)[:, None], axis=1) > 1
    )
    values, error = (values + quotient - jax.lax.stop_gradient(quotient))[:count], error[:count]
    slow = jnp.where(jnp.arange(count) >= closed, jax.lax.stop_gradient(jnp.abs(values)), jnp.inf)
    roundoff = jnp.array(0.0) if getattr(operator, "without_subtraction", False) else eps * fastest / jnp.min(slow)
    lost = "of the slowest rate roundoff may be {value} of it; take fewer cells, one axis, where nothing is lost, or float64"
    together = "modes fall together, so that they do not span all states: rates of jumps that go one way only are equal"
    hidden = "the modes asked for are hidden by roundoff beside the slowest, whose rate is {value}; ask for fewer"
    words = "the modes did not converge: {value} is left of one of them; ask for fewer, or take fewer cells"
    worst = jnp.max(jnp.where(jnp.isfinite(error), error, jnp.inf))
    found = [
        (lost, roundoff > _LOST, 0.0, roundoff),
        (together, jnp.any(parallel[:count]) & (not symmetric), 0.0, 0.0),
        (hidden, jnp.isinf(error).any(), 0.0, jnp.min(slow)),
        (words, worst > max(_CONVERGED, 1024 * eps), 0.0, worst),
    ]
    return values, _without_derivative(right[:count], operator), found


def _product(operator: Any, x: Any) -> Any:
    if not jnp.iscomplexobj(x):
        return operator @ x
    return jax.lax.complex(operator @ x.real, operator @ x.imag)


def _on_complex(real: Any) -> Any:
    """A linear function of real columns, of complex ones too."""
    both = lambda columns: jax.lax.complex(real(columns.real), real(columns.imag))
    return lambda columns: both(columns) if jnp.iscomplexobj(columns) else real(columns)


def _ritz(forward: Any, start: Any, symmetric: bool) -> tuple[Any, Any, Any]:
    """Ritz values of the inverse in the span of `start` `(n, k)`, vectors `(n, k)`, and what is left of each; the largest first."""
    basis = jnp.linalg.qr(start)[0]
    image = forward(basis)
    small = jnp.matmul(basis.conj().T, image, precision="highest")
    mu, turn = jnp.linalg.eigh((small + small.T) / 2) if symmetric else jnp.linalg.eig(small)
    order = jnp.argsort(-jnp.abs(mu))
    mu, turn = mu[order], turn[:, order]
    vectors = jnp.matmul(basis, turn, precision="highest")
    left_over = jnp.linalg.norm(jnp.matmul(image, turn, precision="highest") - mu * vectors, axis=0)
    return mu, vectors, left_over / jnp.where(mu == 0, 1.0, jnp.abs(mu))


def _iterated(forward: Any, start: Any, symmetric: bool, count: int) -> tuple[Any, Any, Any]:
    """The same by iteration from a random start, until the first of them stand."""
    enough = max(1e-3 * _CONVERGED, 256 * float(jnp.finfo(start.dtype).eps))
    complexes = start if symmetric else start.astype(jnp.result_type(start, 1j))

    def more(state: Any) -> Any:
        _, _, error, passes = state
        return (passes < _PASSES) & ~(jnp.max(error[:count]) < enough)

    def again(state: Any) -> Any:
        return *_ritz(forward, forward(state[1]), symmetric), state[3] + 1

    first = (*_ritz(forward, complexes, symmetric), jnp.zeros((), int))
    return jax.lax.while_loop(more, again, first)[:3]


def _without_derivative(modes: Any, operator: Any) -> Any:
    """Modes whose derivatives are refused rather than answered with zero."""
    leaves = [leaf for leaf in jax.tree.leaves(operator) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)]
    live: Any = sum(jnp.sum(leaf) for leaf in leaves)
    live = live - jax.lax.stop_gradient(live)
    unknown = lambda _, x: jnp.where(x == 0, 0.0, jnp.nan) * jnp.ones_like(modes)

    def refused(*_: Any) -> Any:
        raise ValueError("modes have derivatives on an open axis alone; differentiate rates, or what a solution says")

    return jax.lax.stop_gradient(modes) + linear(unknown, refused, (), live, like=modes)
