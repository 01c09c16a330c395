"""What an operator tells without stepping: steady states."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.discretisation.schemes import semidiscrete
from jaxdiff.integration import memory
from jaxdiff.integration.options import SECOND_ORDER
from jaxdiff.model.exchange import start_of
from jaxdiff.operators import Tridiagonal, eliminable, eliminated, preconditioned
from jaxdiff.parameters import plain
from jaxdiff.runtime.compilation import as_written, solver_jit
from jaxdiff.runtime.conditions import Checks, check, enforce, raise_failed


def stationary(equation: Any, grid: Any, initial: Any = None) -> tuple[Any, Checks]:
    """The steady state `(*cells,)` and its checks; traceable. See `steady_state`."""
    system = semidiscrete(equation, grid, SECOND_ORDER)[0]
    (operator, forcing, conditions), weights = system.formed(0.0), system.weights
    total = jnp.asarray(1.0 if equation.probability else jnp.nan)
    if initial is not None:
        total = jnp.sum(system.whole(jnp.asarray(initial), 0.0).reshape(weights.shape) * weights)
    operator, forcing, bound = operator.at_rest(forcing) if hasattr(operator, "at_rest") else (operator, forcing, None)
    capacity = (
        1.0 if bound is None else 1.0 + jnp.sum(bound, 0)
    )  # what a cell holds in all phases, of that in the first
    weights = weights if bound is None else system.mobile.weights
    kept_for_ever = jnp.array(False) if bound is None else ~jnp.isfinite(bound).all()
    closed = (jnp.abs(operator.leak) <= 0).all()
    # A closed system is opened at one cell: what balanced forcing moves about never leaves there.
    known, place = _equilibrium(operator)
    opening = jax.lax.stop_gradient(jnp.where(closed, jnp.max(operator.exit), 0.0))
    loss = jnp.broadcast_to(operator.loss, forcing.shape).at[place].add(opening)
    opened = eqx.tree_at(lambda a: a.loss, operator, loss)
    gain, size = jnp.sum(forcing), jnp.sum(jnp.abs(forcing))
    gains = closed & (jnp.abs(gain) > max(1e-12, 64 * float(jnp.finfo(forcing.dtype).eps)) * size)
    may_grow = ~closed & (operator.growth() > 0)
    # Beside the forcing a closed system gains what it loses at the opening, and one that may grow a unit density.
    probe = jax.lax.stop_gradient(jnp.where(may_grow, weights, 0.0))
    probe = probe if known is not None else probe.at[place].add(opening)
    settled, probed = jax.lax.map(_resolvent(opened, 0.0), jnp.stack([forcing, probe]))
    shape = probed if known is None else known
    shape = shape / jnp.where(closed, jnp.sum(shape * capacity), 1.0)
    kept = jnp.nan_to_num(total) - jnp.sum(settled * capacity)
    content = settled + jnp.where(closed, kept * shape, 0.0)
    # A system decays if and only if a unit density feeds all of it and is kept nowhere for ever.
    longest = jnp.max(jnp.abs(probed) / weights) * jnp.max(jnp.abs(operator.exit))
    grows = may_grow & ((probed < 0).any() | (longest * float(jnp.finfo(forcing.dtype).eps) > 0.03))
    doubt = "" if grid.ndim == 1 else ", or the iterations for it did not converge"
    refusals = {
        "there is no steady state: the domain is closed and gains {value} per time; open a wall or drop the source": gains,
        "the steady state of a closed domain depends on the initial content; pass initial=": closed & jnp.isnan(total),
        "there is no steady state: the solution grows, or keeps what it starts with; check the signs of decay, killing and Robin rates, and Neumann walls where a drift enters": grows,
        "there is no steady state: a phase keeps what it catches; give it a rate_out": kept_for_ever,
        f"the steady state is not finite{doubt}; check the coefficients": ~jnp.isfinite(content).all(),
    }
    found = [(words, failed, 0.0, gain) for words, failed in refusals.items()]
    if bound is not None:
        content = jnp.concatenate([content[None], bound * content]) / system.weights.reshape(system.state_shape)
        return content, check([*conditions, *found])
    return content / weights, check([*conditions, *found])


def _resolvent(operator: Any, a: Any) -> Any:
    """u ↦ (aI − A)⁻¹ u; without detailed balance not by iterations if there is another way."""
    if eliminable(operator) and not operator.detailed_balance:
        return eliminated(operator, a, -1.0)
    return preconditioned(operator).resolvent(a, -1.0)


def _equilibrium(operator: Any) -> tuple[Any, Any]:
    """Contents that nothing moves in a closed domain, up to a factor, None where they must be solved for; and the cell
    to open, one that is not empty."""
    known = None
    if isinstance(operator, Tridiagonal):
        content = known = _on_chain(operator)
    elif operator.detailed_balance:
        logs = operator.log_equilibrium
        content = known = jnp.exp(logs - jax.lax.stop_gradient(jnp.max(logs)))
    else:
        slow = 0.1 * jnp.max(operator.exit) / max(operator.weights.shape) ** 2  # than diffusion across the domain
        content = _resolvent(operator, slow)(jnp.ones_like(operator.weights))
    return known, jnp.unravel_index(jnp.argmax(jax.lax.stop_gradient(content)), content.shape)


def _on_chain(operator: Tridiagonal) -> Any:
    """By detailed balance in logarithms, or on a periodic axis by elimination of what remains when it is cut."""
    if not operator.periodic:
        tiny = jnp.finfo(operator.up.dtype).tiny
        steps = jnp.log(jnp.maximum(operator.up[:-1], tiny)) - jnp.log(jnp.maximum(operator.down[1:], tiny))
        logs = jnp.concatenate([jnp.zeros(1, steps.dtype), jnp.cumsum(steps)])
        return jnp.exp(logs - jax.lax.stop_gradient(jnp.max(logs)))
    chain = type(operator)(operator.up[:-1], operator.down[:-1], operator.loss[:-1])
    entry = jnp.zeros_like(chain.up).at[0].add(operator.up[-1]).at[-1].add(operator.down[-1])
    return jnp.concatenate([chain.resolvent(0.0, -1.0)(entry), jnp.ones(1, entry.dtype)])


_compiled = solver_jit(stationary)


@as_written
def steady_state(equation: Any, grid: Any, initial: Any = None) -> Float[Array, "*cells"]:
    """The state at rest, the limit of long times: by elimination on one axis, by iterations on several.

        A u + b = 0

    A closed Fokker–Planck domain is normalised to one (or to the content of `initial`), and is exp(−U/D) for a
    `Potential` to roundoff; a closed diffusion keeps the content of `initial`. What enters from sources and `Flux` walls must
    balance there. Where walls, decay or killing let all content out and nothing enters, the steady state is zero.

    Args:
        equation: its coefficients and boundaries constant in time.
        grid: the cells.
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
    system = semidiscrete(equation, grid, SECOND_ORDER)[0]
    if not system.time_dependence().steady:
        raise ValueError("a steady state needs coefficients and boundary values that are constant in time")
    memory.require_at_rest(grid)
    initial = None if initial is None else start_of(grid, plain(initial))
    u, checks = _compiled(equation, grid, initial)
    if isinstance(checks.table, jax.core.Tracer):
        return enforce(u, checks)
    raise_failed(checks)
    return u
