"""Steady states, without stepping."""

from __future__ import annotations

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.discretisation.schemes import semidiscrete
from jaxdiff.integration import memory
from jaxdiff.integration.boxes import enough
from jaxdiff.integration.options import SECOND_ORDER
from jaxdiff.model.exchange import start_of
from jaxdiff.operators import (
    Tridiagonal,
    eliminable,
    eliminated,
    leading_to,
    led_to,
    never_left,
    parts,
    preconditioned,
    reaching,
)
from jaxdiff.parameters import plain
from jaxdiff.runtime.compilation import as_written, solver_jit
from jaxdiff.runtime.conditions import Checks, check, enforce, raise_failed

DENSE = 1024  # cells of which the whole matrix is inverted where it is asked for many columns


def stationary(equation: Any, grid: Any, initial: Any = None) -> tuple[Any, Checks]:
    """The steady state `(*cells,)` and its checks; traceable. See `steady_state`."""
    if equation.wave:
        raise ValueError("a wave comes to no rest; of its ground state ask jd.spectrum")
    system = semidiscrete(equation, grid, SECOND_ORDER)[0]
    operator, forcing, conditions = system.formed(0.0)
    state, begun = (None, []) if initial is None else system.begin(jnp.asarray(initial), 0.0)
    whole_operator = operator
    operator, forcing, weights, contents, multiplicity, whole, refused = system.at_rest(operator, forcing, state)
    part = None if grid.mask is None else parts(operator)
    inside = jnp.array(True) if grid.mask is None else jnp.asarray(grid.mask)
    if system.among_states:  # those that are come to
        inside = led_to(operator, jnp.ones(len(weights), bool) if contents is None else contents != 0)
    over = _over(part, jnp.sum, jax.ops.segment_sum)
    closed = inside & (over(jnp.where(inside & (jnp.abs(operator.leak) > 0), 1, 0)) == 0)
    if contents is not None:
        total = over(grid.within(contents))
    else:  # of several parts nobody knows what each holds
        several = part is not None and jnp.sum(inside & (part == jnp.arange(part.size).reshape(part.shape))) > 1
        total = jnp.where(several, jnp.nan, 1.0 if equation.probability else jnp.nan)
    # A closed part is opened at one cell: what balanced forcing moves about never leaves there.
    known, chosen = _of_states(operator, inside) if system.among_states else equilibrium(operator, part)
    rate = jax.lax.stop_gradient(jnp.max(operator.exit))
    opening = jnp.where(closed & chosen, rate, 0.0)
    loss = operator.loss + jnp.where(inside, opening, jnp.where(rate > 0, rate, 1.0))
    opened = eqx.tree_at(lambda a: a.loss, operator, loss)
    gain, size = over(forcing), over(jnp.abs(forcing))
    gains = closed & (jnp.abs(gain) > max(1e-12, 64 * float(jnp.finfo(forcing.dtype).eps)) * size)
    may_grow = inside & ~closed & (operator.growth() > 0)
    # Beside the forcing a closed part gains what it loses at the opening, and one that may grow a unit density.
    probe = jax.lax.stop_gradient(jnp.where(may_grow, weights, 0.0))
    probe = probe if known is not None else probe + opening
    settled, probed = jax.lax.map(resolvent(opened, 0.0), jnp.stack([forcing, probe]))
    shape = probed if known is None else known
    shape = shape / jnp.where(closed, over(shape * multiplicity), 1.0)
    kept = jnp.nan_to_num(total) - over(settled * multiplicity)
    content = settled + jnp.where(closed, kept * shape, 0.0)
    # A system decays if and only if a unit source of density reaches all of it and stays nowhere for ever.
    longest = jnp.max(jnp.where(may_grow, jnp.abs(probed) / weights, 0.0)) * jnp.max(jnp.abs(operator.exit))
    grows = may_grow & ((probed < 0) | (longest * float(jnp.finfo(forcing.dtype).eps) > 0.03))
    doubt = "" if grid.ndim == 1 else ", or the iterations for it did not converge"
    refusals = {
        "there is no steady state: the domain is closed and gains {value} per time; open a wall or drop the source": gains,
        "the steady state of a closed domain depends on the initial content; pass initial=": closed & jnp.isnan(total),
        "there is no steady state: the solution grows, or keeps what it starts with; check the signs of decay, killing and Robin rates, and Neumann walls where a drift enters": grows,
        f"the steady state is not finite{doubt}; check the coefficients": ~jnp.isfinite(content).all(),
    }
    if system.may_vanish:
        ends = jnp.where(closed, chosen, jnp.abs(operator.leak) > 0)
        stuck = "the steady state depends on where the content starts: at a diffusivity of zero some cells are never left for the others; solve for long times"
        refusals = {stuck: inside & ~reaching(operator, ends), **refusals}
    if system.among_states:
        ends = jnp.where(closed, chosen, operator.leak > 0)
        lone = "the steady state depends on where it starts: there are several sets of states that are never left; pass initial= within one of them, or solve for long times"
        refusals = {lone: inside & ~leading_to(operator, ends), **refusals}
    worst = gain.ravel()[jnp.argmax(jnp.abs(gain) * closed)]
    found = [(words, jnp.any(failed), 0.0, worst) for words, failed in refusals.items()]
    found += system.cut_off(whole_operator, content)
    return whole(content), check([*conditions, *begun, *refused, *found])


def _of_states(operator: Any, inside: Any) -> tuple[Any, Any]:
    """`equilibrium` among the states that are come to, and one of them that is never left for good."""
    known = None
    if isinstance(operator, Tridiagonal):
        content = known = jnp.where(inside, equilibrium(operator, None)[0], 0.0)
    else:
        slow = 0.1 * jnp.max(operator.exit) / len(inside) ** 2
        content = resolvent(operator, jnp.where(slow > 0, slow, 1.0))(jnp.where(inside, jnp.ones_like(slow), 0.0))
    content = jnp.where(inside, jax.lax.stop_gradient(content), 0.0)
    return known, never_left(operator, content)


def _over(part: Any, whole: Any, segments: Any) -> Any:
    """What `whole` says of all cells, or of every part by itself, at each of its cells."""
    if part is None:
        return whole
    return lambda x: segments(jnp.broadcast_to(x, part.shape).ravel(), part.ravel(), part.size)[part]


def resolvent(operator: Any, a: Any) -> Any:
    """u ↦ (aI − A)⁻¹ u; without detailed balance not by iterations if there is another way."""
    if eliminable(operator) and not operator.detailed_balance:
        return eliminated(operator, a, -1.0)
    return preconditioned(operator).resolvent(a, -1.0)


def inverse(operator: Any, growing: Any, closed: Any) -> tuple[Any, Any]:
    """Columns `(n, k)` ↦ (growing − A)⁻¹ of them, of a closed domain of what is in them beside rest, which is left out; and contents at rest."""
    exit = operator.exit
    if not hasattr(operator, "loss"):
        raise ValueError(f"modes of a {type(operator).__name__} operator are not known here; leave exchange out")
    known, chosen = equilibrium(operator, None)
    opening = jnp.where(closed & chosen, jnp.max(exit), 0.0)
    opened = eqx.tree_at(lambda a: a.loss, operator, operator.loss + opening + growing)
    if exit.size <= DENSE and not getattr(operator, "without_subtraction", False):
        whole = jnp.linalg.inv(-matrix(opened))
        solve = lambda x: jnp.matmul(whole, x.ravel(), precision="highest").reshape(x.shape)
    else:
        solve = resolvent(opened, 0.0)
    rest = solve(opening) if known is None else known
    rest = jnp.where(closed, rest / jnp.where(closed, jnp.sum(rest), 1.0), 0.0)

    def real(columns: Any) -> Any:
        def one(x: Any) -> Any:
            x = x.reshape(exit.shape)
            found = solve(x - rest * jnp.sum(x))
            return (found - rest * jnp.sum(found)).ravel()

        return jax.vmap(one, in_axes=1, out_axes=1)(columns)

    return real, rest


def matrix(operator: Any) -> Any:
    shape, n = operator.exit.shape, operator.exit.size
    units = jnp.eye(n, dtype=operator.exit.dtype).reshape(n, *shape)
    return jax.vmap(lambda e: operator @ e)(units).reshape(n, n).T


def equilibrium(operator: Any, part: Any) -> tuple[Any, Any]:
    """Contents that nothing moves in a closed domain, up to a factor of each part, None where they must be solved for; and
    whether a cell is the one to open in its part, one that is not empty."""
    known, largest = None, _over(part, jnp.max, jax.ops.segment_max)
    relative = lambda logs: jnp.exp(logs - jax.lax.stop_gradient(largest(logs)))
    if isinstance(operator, Tridiagonal) and not (operator.periodic and part is not None):
        content = known = _on_line(operator, relative)
    elif getattr(operator, "detailed_balance", False):
        content = known = relative(operator.log_equilibrium)
    else:
        slow = 0.1 * jnp.max(operator.exit) / max(operator.exit.shape) ** 2  # than diffusion across the domain
        content = resolvent(operator, slow)(jnp.ones_like(operator.exit))
    content = jax.lax.stop_gradient(content)
    order = jnp.arange(content.size).reshape(content.shape)
    first = _over(part, jnp.min, jax.ops.segment_min)(jnp.where(content == largest(content), order, content.size))
    return known, order == first


def _on_line(operator: Tridiagonal, relative: Any) -> Any:
    """By detailed balance in logarithms, or on a periodic axis by elimination of what remains when it is cut."""
    if not operator.periodic:
        up, down, none = operator.up[:-1], operator.down[1:], jnp.zeros(1, operator.up.dtype)
        # What a rate of zero leads to is empty, but not in its derivative: content there is in proportion to the rate.
        least = float(jnp.finfo(up.dtype).tiny) ** 0.5 * jax.lax.stop_gradient(jnp.max(operator.exit))
        known = lambda rate: jnp.where(rate > 0, rate, rate + jnp.where(least > 0, least, 1.0))
        content = relative(jnp.concatenate([none, jnp.cumsum(jnp.log(known(up)) - jnp.log(known(down)))]))
        shut = 1 * ((up <= 0) & (down > 0)) - 1 * ((down <= 0) & (up > 0))
        behind = jnp.concatenate([jnp.zeros(1, shut.dtype), jnp.cumsum(shut)])
        return content - jax.lax.stop_gradient(jnp.where(behind > jnp.min(behind), content, 0.0))
    line = type(operator)(operator.up[:-1], operator.down[:-1], operator.loss[:-1])
    entry = jnp.zeros_like(line.up).at[0].add(operator.up[-1]).at[-1].add(operator.down[-1])
    return jnp.concatenate([line.resolvent(0.0, -1.0)(entry), jnp.ones(1, entry.dtype)])


_compiled = solver_jit(stationary)


@as_written
def steady_state(equation: Any, grid: Any, initial: Any = None) -> Float[Array, "*cells"]:
    """The state at rest, the limit of long times: by elimination on one axis, by iterations on several.

        A u + b = 0

    A closed Fokker–Planck domain is normalised to one (or to the content of `initial`), and is exp(−U/D) for a
    `Potential` to roundoff; a closed diffusion keeps the content of `initial`. What enters from sources and `Flux` walls must
    balance there. Where walls, decay or killing let all content out and nothing enters, the steady state is zero. Along an axis of zero
    diffusivity transport is upwind, which spreads as |f| h/2 does: halve its cells and see.

    Args:
        equation: its coefficients and boundaries constant in time.
        grid: the cells; `States` of a `MasterEquation`, or None for as many as are needed.
        initial: the state whose content a closed domain keeps: `(*cells,)`, a number, or a callable of position.

    Returns:
        Cell averages `(*cells,)`, or `(1 + phases, *cells)` with an `Exchange`.

    Raises:
        ValueError: coefficients that depend on time, no steady state, or one that depends on an initial state not given.

    >>> import jaxdiff as jd
    >>> grid, ends = jd.Grid.uniform((0.0, 1.0, 4)), {"x-": jd.Dirichlet(100.0), "x+": jd.Dirichlet(0.0)}
    >>> [round(float(value), 3) for value in jd.steady_state(jd.Diffusion(1.0, boundaries=ends), grid)]
    [87.5, 62.5, 37.5, 12.5]
    """
    equation = plain(equation)
    if grid is None:
        return enough(equation, partial(steady_state, equation, initial=initial))
    system = semidiscrete(equation, grid, SECOND_ORDER)[0]
    if not system.time_dependence().steady:
        raise ValueError("a steady state needs coefficients and boundary values that are constant in time")
    memory.require_at_rest(grid, system.eliminated)
    initial = None if initial is None else start_of(grid, plain(initial))
    u, checks = _compiled(equation, grid, initial)
    if isinstance(checks.table, jax.core.Tracer):
        return enforce(u, checks)
    raise_failed(checks)
    return u
