"""What flows, which way, and at what price: currents, entropy production, long-time drift and diffusion."""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.discretisation.schemes import semidiscrete
from jaxdiff.integration.options import SECOND_ORDER
from jaxdiff.integration.passage import steady_system, told
from jaxdiff.integration.solve import state_of
from jaxdiff.integration.steady import inverse, stationary
from jaxdiff.operators import dense, several
from jaxdiff.parameters import plain
from jaxdiff.runtime.compilation import as_written, solver_jit
from jaxdiff.runtime.conditions import Checks, check

_COARSE = 0.05  # of the diffusivity
_BLOCKED = 1e-9  # share of the diffusivity between cells that roundoff may leave where none gets far


class EffectiveDiffusion(NamedTuple):
    """Mean velocity [length/time] and diffusivity [length²/time] over long times, along periodic axes."""

    velocity: Any
    diffusivity: Any


def _state(system: Any, grid: Any, equation: Any, density: Any) -> tuple[Any, Checks]:
    """A state as a solution holds it, that at rest where none is given."""
    if density is None:
        return stationary(equation, grid)
    state, found = system.begin(jnp.asarray(density, jnp.result_type(system.weights, density)), 0.0)
    return state, check([*system.conditions(0.0), *found])


@solver_jit
def _currents(equation: Any, grid: Any, density: Any) -> tuple[Any, Checks]:
    system = semidiscrete(equation, grid, SECOND_ORDER)[0]
    state, checks = _state(system, grid, equation, density)
    if system.among_states:
        flow = dense(system.operator(0.0)).rates * state.ravel()
        return (flow - flow.T,), checks
    u, found = system.of_phase(0)(state), []
    for k in range(grid.ndim):
        forth, back, inflow = (jnp.moveaxis(each, k, -1) for each in system.faces(0.0, k))
        along = jnp.moveaxis(u, k, -1)
        before, after = jnp.concatenate([along[..., -1:], along], -1), jnp.concatenate([along, along[..., :1]], -1)
        area = jnp.asarray(grid.axis(k).areas)
        for j in reversed([j for j in range(grid.ndim) if j != k]):
            area = jnp.asarray(grid.axis(j).volumes).reshape(-1, *[1] * area.ndim) * area
        flux = jnp.broadcast_to(forth * before - back * after + inflow, area.shape)
        found.append(jnp.moveaxis(jnp.where(area > 0, flux / jnp.where(area > 0, area, 1.0), 0.0), -1, k))
    return tuple(found), checks


@solver_jit
def _entropy(equation: Any, grid: Any, density: Any) -> tuple[Any, Checks]:
    system = semidiscrete(equation, grid, SECOND_ORDER)[0]
    operator, forcing, _ = system.formed(0.0)
    operator = operator.closed if system.among_states else operator
    state, checks = _state(system, grid, equation, density)
    least = jnp.min(state)
    content = state.reshape(operator.exit.shape) * system.weights.reshape(operator.exit.shape)
    operator_leak, total, one_way = operator.leak, jnp.zeros(()), jnp.array(False)
    if not hasattr(operator, "flows"):
        if not hasattr(operator, "jumps"):
            raise ValueError("entropy production is of hops between cells or states; leave exchange out")
        operator = dense(operator)
    for forth, back in operator.flows(content):
        both = (forth > 0) & (back > 0)
        ratio = jnp.where(both, forth, 1.0) / jnp.where(both, back, 1.0)
        total = total + jnp.sum((forth - back) * jnp.log(ratio))
        one_way |= jnp.any((forth > 0) != (back > 0))
    mask = getattr(grid, "mask", None)
    leak = operator_leak if mask is None else jnp.where(mask, operator_leak, 0.0)
    open_, fed = jnp.max(jnp.abs(leak)), jnp.max(jnp.abs(forcing))
    found = check(
        [
            (
                "content leaves at {value}, so entropy is no matter of this domain alone; close it",
                open_ > 0,
                0.0,
                open_,
            ),
            (
                "content enters at {value}, so entropy is no matter of this domain alone; drop sources",
                fed > 0,
                0.0,
                fed,
            ),
            ("the density is {value} somewhere; it must not be negative", least < 0, 0.0, least),
            ("entropy production is infinite: content goes between some cells one way only", one_way, 0.0, 0.0),
        ]
    )
    return total, checks + found


@solver_jit
def _effective(equation: Any, grid: Any) -> tuple[Any, Checks]:
    system = semidiscrete(equation, grid, SECOND_ORDER)[0]
    operator, _, conditions = system.formed(0.0)
    mask = getattr(grid, "mask", None)
    inside = True if mask is None else jnp.asarray(mask)
    leak = jnp.max(jnp.where(inside, jnp.abs(operator.leak), 0.0))
    apart = jnp.array(False) if mask is None else several(jax.lax.stop_gradient(operator), inside)
    if mask is not None:  # what is outside must not be singular
        operator = eqx.tree_at(lambda a: a.loss, operator, jnp.where(inside, operator.loss, jnp.max(operator.exit)))
    invert, rest = inverse(operator, 0.0, leak <= 0)
    each = lambda x: x if isinstance(x, tuple) else (x,)
    axes = []
    for k, (up, down, wraps) in enumerate(
        zip(*map(each, (operator.up, operator.down, operator.periodic)), strict=True)
    ):
        if wraps:
            x, (lower, *_, upper) = jnp.asarray(grid.centers[k]), jnp.asarray(grid.edges[k])
            above = (jnp.roll(x, -1) - x).at[-1].add(upper - lower)
            along = lambda h, k=k: h.reshape([-1 if j == k else 1 for j in range(rest.ndim)])
            axes.append(
                (k, up * along(above), down * along(jnp.roll(above, 1)), along(above), along(jnp.roll(above, 1)))
            )
    drift = lambda axis, content: jnp.sum((axis[1] - axis[2]) * content)
    velocity = jnp.stack([drift(axis, rest) for axis in axes])
    # Where content comes from decides how far it has come: what arrives, beside the mean.
    arriving = [
        jnp.roll(up * rest, 1, k) - jnp.roll(down * rest, -1, k) - v * rest
        for (k, up, down, *_), v in zip(axes, velocity, strict=True)
    ]
    lag = invert(jnp.stack([each.ravel() for each in arriving], axis=-1))
    lags = [lag[:, i].reshape(rest.shape) for i in range(len(axes))]
    across = jnp.stack([jnp.stack([drift(axis, lag) for lag in lags]) for axis in axes])
    spread = jnp.stack([jnp.sum((up * above + down * below) * rest) / 2 for _, up, down, above, below in axes])
    # The variance of hops is that of the diffusion between two cells times z/2 coth(z/2).
    beyond = jnp.stack([_beyond(up, down, above, k, rest) for k, up, down, above, _ in axes])
    diffusivity = jnp.diag(spread) + (across + across.T) / 2
    opened = (
        "content leaves at {value}, so that nothing is left over long times; close walls, and drop killing and decay"
    )
    stuck = "velocity and diffusivity are not finite; check the coefficients, and whether all cells hang together"
    coarse = "the cells are too large for the drift, whose hops from one to the next are {value} of the diffusivity; take more cells"
    still = "at a diffusivity of zero all that spreads is made by the cells; give a diffusivity above zero"
    channels = "there are several channels with no way between them, each with a velocity of its own; mask all but one"
    blocked = "nothing gets around along a periodic axis: what is in the way stops it, or lets so little by that it is lost to roundoff"
    share = jnp.max(beyond / jnp.diag(diffusivity))
    shut = jnp.any(jnp.diag(diffusivity) <= max(_BLOCKED, 1e3 * float(jnp.finfo(rest.dtype).eps)) * spread)
    finite = jnp.isfinite(velocity).all() & jnp.isfinite(diffusivity).all()
    return (velocity, diffusivity), check(
        [
            *conditions,
            (opened, leak > 0, 0.0, leak),
            (channels, apart, 0.0, 0.0),
            (stuck, ~finite, 0.0, 0.0),
            (blocked, shut, 0.0, 0.0),
            *([(still, share > 1.0 - 1e-6, 0.0, share)] if system.may_vanish else []),
            (coarse, share > _COARSE, 0.0, share),
        ]
    )


def _beyond(up: Any, down: Any, above: Any, k: int, rest: Any) -> Any:
    """What hops along axis k, `up` and `down` times their lengths, spread content at rest beyond what diffuses."""
    back = jnp.roll(down, -1, k)
    both = (up > 0) & (back > 0)
    half = jnp.log(jnp.where(both, up, 1.0) / jnp.where(both, back, 1.0)) / 2
    small = jnp.abs(half) < 1e-3
    share = jnp.where(small, half**2 / 3, 1 - jnp.tanh(half) / jnp.where(small, 1.0, half))
    flow = (up * rest + back * jnp.roll(rest, -1, k)) * above / 2
    return jax.lax.stop_gradient(jnp.sum(flow * jnp.where(both, share, 1.0)))


@as_written
def probability_current(equation: Any, grid: Any, density: Any = None) -> tuple[Float[Array, "*faces"], ...]:
    """The current of a density through all faces, upwards; of the one at rest where none is given.

        J = (f − (1 − α)∇D) p − D ∇p

    Args:
        equation: its coefficients constant in time.
        grid: the cells.
        density: cell averages `(*cells,)`, a number, or a callable of position; None: `steady_state`.

    Returns:
        For every axis J per area [unit of u · length/time], with one more entry along that axis than there are cells; on a periodic one
        the first and the last are one face. Of a `MasterEquation` one matrix, the net rate to the row from the column.

    Raises:
        ValueError: coefficients that depend on time, a `Tensor`, no state at rest.

    >>> import jaxdiff as jd
    >>> ends = {"x-": jd.Dirichlet(3.0), "x+": jd.Dirichlet(1.0)}
    >>> (current,) = jd.probability_current(jd.Diffusion(0.5, boundaries=ends), jd.Grid.uniform((0.0, 1.0, 4)))
    >>> [round(float(j), 5) for j in current]
    [1.0, 1.0, 1.0, 1.0, 1.0]
    """
    equation, grid, _ = steady_system(equation, grid)
    density = None if density is None else state_of(grid, plain(density))
    found, checks = _currents(equation, grid, density)
    return tuple(told(each, checks) for each in found)


@as_written
def entropy_production(equation: Any, grid: Any, density: Any = None) -> Float[Array, ""]:
    """The rate at which entropy is produced in a closed domain, by the density at rest where none is given.

        σ = Σ (a p₋ − b p₊) ln(a p₋/b p₊), over all faces, of rates a up and b down

    In units of kB; zero where detailed balance holds. At rest on a ring it is the work done against friction over kT, F v/D.

    Args:
        equation: its coefficients constant in time.
        grid: the cells.
        density: cell averages `(*cells,)`, a number, or a callable of position; None: `steady_state`.

    Returns:
        A number [1/time].

    Raises:
        ValueError: coefficients that depend on time, content that leaves or enters, hops that go one way only.

    >>> import jaxdiff as jd
    >>> tilted = jd.FokkerPlanck(2.0, 0.5, boundaries=jd.Periodic())
    >>> round(float(jd.entropy_production(tilted, jd.Grid.uniform((0.0, 1.0, 50)))), 4)
    8.0

    Seifert 2012, doi:10.1088/0034-4885/75/12/126001.
    """
    equation, grid, _ = steady_system(equation, grid)
    density = None if density is None else state_of(grid, plain(density))
    return told(*_entropy(equation, grid, density))


@as_written
def effective_diffusion(equation: Any, grid: Any) -> EffectiveDiffusion:
    """The velocity and the diffusivity over long times on periodic axes: in tilted potentials, or along a flow between walls.

        v = lim ⟨x⟩/t,   D_eff = lim ⟨(x − vt)²⟩/2t

    Args:
        equation: its coefficients constant in time.
        grid: the cells, at least one axis of them periodic.

    Returns:
        `EffectiveDiffusion`: `velocity` [length/time] and `diffusivity` [length²/time], numbers where one axis is periodic, else `(m,)` and
        `(m, m)` along the m that are.

    Raises:
        ValueError: no periodic axis, coefficients that depend on time, content that leaves.

    Taylor's dispersion in a channel of width 1 with a mean velocity of 1 is D (1 + 1/(210 D²)):

    >>> import jaxdiff as jd
    >>> channel = jd.FokkerPlanck((lambda x, y: 6 * y * (1 - y), 0.0), 0.1, boundaries={"x": jd.Periodic()})
    >>> velocity, spread = jd.effective_diffusion(channel, jd.Grid.uniform((0.0, 0.1, 4), (0.0, 1.0, 40)))
    >>> round(float(velocity), 2), round(float(spread), 2)
    (1.0, 0.15)

    Brenner & Edwards 1993, Macrotransport Processes; Reimann et al. 2001, doi:10.1103/PhysRevLett.87.010602.
    """
    equation, grid, system = steady_system(equation, grid)
    operator = jax.eval_shape(system.operator, 0.0)
    periodic = getattr(operator, "periodic", False)
    if (
        system.among_states
        or not hasattr(operator, "up")
        or hasattr(operator, "nearest")
        and operator.nearest is not operator
    ):
        raise ValueError(
            "velocity and diffusivity over long times are of hops along axes; Tensor, exchange and states have none"
        )
    if not any(periodic if isinstance(periodic, tuple) else (periodic,)):
        raise ValueError("no axis is periodic, so that nothing moves for ever; pass boundaries=jd.Periodic()")
    (velocity, diffusivity), checks = _effective(equation, grid)
    velocity, diffusivity = told(velocity, checks), told(diffusivity, checks)
    return (
        EffectiveDiffusion(velocity[0], diffusivity[0, 0])
        if len(velocity) == 1
        else EffectiveDiffusion(velocity, diffusivity)
    )
