"""What an operator tells without stepping: steady states."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxdiff import memory
from jaxdiff.checks import Checks, check, enforce, raise_failed
from jaxdiff.compilation import solver_jit
from jaxdiff.equations import FokkerPlanck
from jaxdiff.operators import Tridiagonal, eliminable, eliminated, equipped
from jaxdiff.parameters import plain
from jaxdiff.schemes import FiniteVolume


def stationary(equation: Any, grid: Any, initial: Any = None) -> tuple[Any, Checks]:
    """The steady state `(*cells,)` and its checks; traceable. See `steady_state`."""
    system = FiniteVolume().systems(equation, grid)[0]
    operator, forcing, weights = system.operator(0.0), system.forcing(0.0), system.weights
    closed = (jnp.abs(operator.leak) <= 0).all()
    probability = isinstance(equation, FokkerPlanck)
    total = (
        jnp.sum(jnp.asarray(initial) * weights) if initial is not None else jnp.asarray(1.0 if probability else jnp.nan)
    )
    # One solve serves both cases: a closed system is opened at one cell.
    known, place = _equilibrium(operator)
    opening = jnp.where(closed, jnp.max(operator.exit), 0.0)
    loss = jnp.broadcast_to(operator.loss, forcing.shape).at[place].add(opening)
    opened = eqx.tree_at(lambda a: a.loss, operator, loss)
    fill = jnp.zeros_like(forcing) if known is not None else jnp.zeros_like(forcing).at[place].set(opening)
    settled = _resolvent(opened, 0.0)(jnp.where(closed, fill, forcing))
    shape = settled if known is None else known
    shape = shape / jnp.where(closed, jnp.sum(shape), 1.0)
    content = jnp.where(closed, jnp.nan_to_num(total) * shape, settled)
    fed = closed & (jnp.abs(jnp.sum(forcing)) > 1e-12 * jnp.sum(jnp.abs(forcing)))
    grows = ~closed & (operator.growth() > 0) & (content < 0).any()
    doubt = "" if grid.ndim == 1 else ", or the iterations for it did not converge"
    found = [
        *system.conditions(0.0),
        (
            "there is no steady state: the domain is closed and gains {value} per time; open a wall or drop the source",
            fed,
            0.0,
            jnp.sum(forcing),
        ),
        (
            "the steady state of a closed domain depends on the initial content; pass initial=",
            closed & jnp.isnan(total),
            0.0,
            0.0,
        ),
        (
            "there is no steady state: the solution grows; check the signs of decay, killing and Robin rates",
            grows,
            0.0,
            0.0,
        ),
        (
            f"the steady state is not finite{doubt}; check the coefficients",
            ~jnp.isfinite(content).all(),
            0.0,
            0.0,
        ),
    ]
    return content / weights, check(found)


def _resolvent(operator: Any, a: Any) -> Any:
    """u ↦ (aI − A)⁻¹ u; without detailed balance not by iterations if there is another way."""
    if eliminable(operator) and not operator.balanced:
        return eliminated(operator, a, -1.0)
    return equipped(operator).resolvent(a, -1.0)


def _equilibrium(operator: Any) -> tuple[Any, Any]:
    """Contents that nothing moves in a closed domain, up to a factor, None where they must be solved for; and the cell
    to open then, one that is not empty."""
    if isinstance(operator, Tridiagonal):
        return _on_chain(operator), -1
    if operator.balanced:
        logs = operator.log_equilibrium
        return jnp.exp(logs - jax.lax.stop_gradient(jnp.max(logs))), (0,) * operator.weights.ndim
    slow = 0.1 * jnp.max(operator.exit) / max(operator.weights.shape) ** 2  # than diffusion across the domain
    visited = _resolvent(operator, slow)(jnp.ones_like(operator.weights))
    return None, jnp.unravel_index(jnp.argmax(jax.lax.stop_gradient(visited)), operator.weights.shape)


def _on_chain(operator: Tridiagonal) -> Any:
    """By detailed balance in logarithms, or on a ring by elimination of what remains when it is cut."""
    if not operator.ring:
        tiny = jnp.finfo(operator.up.dtype).tiny
        steps = jnp.log(jnp.maximum(operator.up[:-1], tiny)) - jnp.log(jnp.maximum(operator.down[1:], tiny))
        logs = jnp.concatenate([jnp.zeros(1, steps.dtype), jnp.cumsum(steps)])
        return jnp.exp(logs - jax.lax.stop_gradient(jnp.max(logs)))
    chain = type(operator)(operator.up[:-1], operator.down[:-1], operator.loss[:-1])
    entry = jnp.zeros_like(chain.up).at[0].add(operator.up[-1]).at[-1].add(operator.down[-1])
    return jnp.concatenate([chain.resolvent(0.0, -1.0)(entry), jnp.ones(1, entry.dtype)])


_compiled = solver_jit(stationary)


def steady_state(equation: Any, grid: Any, initial: Any = None) -> Any:
    """Cell averages `(*cells,)` of the steady state: A N + b = 0; by elimination on one axis, iterations on several.

    A closed Fokker–Planck domain is normalised to one (or to the content of `initial`), and is exp(−U/D) for a
    `Potential` to roundoff; a closed diffusion keeps the content of `initial`.

    Raises:
        ValueError: coefficients depend on time, or there is no steady state, or it depends on an initial state not given.

    >>> from jaxdiff import Diffusion, Dirichlet, Grid
    >>> grid = Grid.uniform((0.0, 1.0, 4))
    >>> u = steady_state(Diffusion(1.0, boundaries={"x-": Dirichlet(100.0), "x+": Dirichlet(0.0)}), grid)
    >>> [round(float(value), 3) for value in u]
    [87.5, 62.5, 37.5, 12.5]
    """
    equation = plain(equation)
    system = FiniteVolume().systems(equation, grid)[0]
    if system.operator_varies or system.forcing_varies or system.knots:
        raise ValueError("a steady state needs coefficients and boundary values that are constant in time")
    if grid.ndim > 1:
        memory.require_at_rest(grid)
    initial = None if initial is None else grid.average(plain(initial))
    u, checks = _compiled(equation, grid, initial)
    if isinstance(checks.table, jax.core.Tracer):
        return enforce(u, checks)
    raise_failed(checks)
    return u
