"""Transition densities of one-dimensional diffusions, accurate in the far tails and at walls."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxdiff.transition.chart import Chart
from jaxdiff.transition.kernel import Side, log_kernel
from jaxdiff.transition.lamperti import Coefficients, Scalar, Wrapped, coefficients, wall_ratio, wrap
from jaxdiff.transition.quadrature import antiderivative, chebyshev
from jaxdiff.transition.substep_count import count_substeps
from jaxdiff.transition.windows import CLEAR, PER_WINDOW, Block, windows


class DensityPlan(eqx.Module):
    """How the log densities of given transitions are computed; made by `prepare`, a pytree."""

    blocks: tuple[Block, ...]
    order: Any  # (m,) where transition i lies in the blocks laid end to end
    walls: Any  # (2,)
    stress: Any  # largest δ³ V_y² at the data that the substeps are good for
    periodic: bool = eqx.field(static=True)
    vanishing: tuple[bool, bool] = eqx.field(static=True)  # walls where D vanishes


def prepare(
    drift: Scalar,
    diffusivity: Scalar,
    killing: Scalar,
    start: Any,
    stop: Any,
    duration: Any,
    lower: float,
    upper: float,
    walls: tuple[str, str] = ("reflecting", "reflecting"),
    *,
    tolerance: float | None = None,
) -> DensityPlan:
    """Plan of the transition densities of dX = f dt + √(2D) dW with killing k, at concrete coefficients.

    drift [length/time], diffusivity [length²/time], killing [1/time]: traceable functions of one position. Give them as
    pytrees (`jax.tree_util.Partial(f, parameters)`, an `eqx.Module`) and another plan at other parameters compiles nothing.
    start, stop [length], duration [time]: (m,) transitions. lower, upper: the walls, "reflecting", "absorbing", or both
    "periodic". tolerance: error of the summed log density by the splitting in time [nat], 1e-4 or 1e-8 a transition.

    Raises: ValueError where the diffusivity is not positive within reach of the data, or for positions on a wall where it vanishes.
    """
    start, stop, duration = (np.atleast_1d(np.asarray(a, np.float64)) for a in (start, stop, duration))
    with jax.enable_x64(True):
        periodic = walls[0] == "periodic"
        terms = drift, diffusivity, killing
        if periodic:
            terms, start, stop = wrap(terms, start, stop, lower, upper)
        chart = Chart(*terms, start, stop, duration, lower, upper, walls)
        steps, stress = count_substeps(chart, max(1e-4, 1e-8 * len(start)) if tolerance is None else tolerance)
        blocks, order = windows(chart, steps)
    return DensityPlan(tuple(blocks), order, np.array([lower, upper], np.float64), stress, periodic, chart.vanishing)


def log_density(
    drift: Scalar, diffusivity: Scalar, killing: Scalar, plan: DensityPlan
) -> tuple[Float[Array, " m"], Bool[Array, ""]]:
    """(log p(stop, duration | start) of each transition [1/length], whether the plan resolves these coefficients).

    p(x₁|x₀) = e^{φ₁−φ₀} K(y₀, y₁)/√(2D(x₁)), φ = ∫ f/(2D) dx − ¼ ln D, K the kernel of exp(−t(−½∂² + V)) in y = ∫dx/√(2D).
    Traceable. NaN where D is not positive. Where the plan does not resolve the coefficients, prepare again.
    Aït-Sahalia, Econometrica 70, 223 (2002), doi:10.1111/1468-0262.00274.
    """
    lower, upper = plan.walls[0], plan.walls[1]
    terms: tuple[Scalar, Scalar, Scalar] = (drift, diffusivity, killing)
    if plan.periodic:
        terms = tuple(Wrapped(f, lower, upper - lower) for f in terms)  # type: ignore[assignment]
    ratios = tuple(
        wall_ratio(*terms[:2], wall) if vanishing else None for wall, vanishing in zip((lower, upper), plan.vanishing)
    )

    evaluate = partial(_log_densities, terms, plan, ratios)
    values, flags = [], []
    for block in plan.blocks:
        count = block.x.shape[0]
        if count > block.chunk:
            split = lambda a: jnp.asarray(a).reshape(-1, block.chunk, *a.shape[1:])  # noqa: B023, E731
            chunk = jax.checkpoint(lambda parts: evaluate(replace(block, **parts)))  # noqa: B023, called in this turn
            value, flag = jax.lax.map(chunk, {name: split(getattr(block, name)) for name in PER_WINDOW})
        else:
            value, flag = evaluate(block)
        values.append(value.reshape(-1))
        flags.append(jnp.all(flag))
    return jnp.concatenate(values)[plan.order], jnp.all(jnp.stack(flags))


class Places(NamedTuple):
    """Something of every place of a block: at its Chebyshev points, nodes, starts, stops, and the reflecting walls."""

    poly: Any  # (windows, p)
    nodes: Any  # (windows, n)
    start: Any  # (windows, g)
    stop: Any
    walls: Any  # (windows, 0 to 2)


class InY(NamedTuple):
    """The places of a block in y/√duration."""

    nodes: Any  # (windows, n)
    clear: Any  # (windows, n) nodes, a little off walls where D vanishes
    start: Any  # (windows, g)
    stop: Any
    ends: tuple[Any, Any]  # (windows, 1) each, of the window


class Energies(NamedTuple):
    """V and V_y in the units of `InY`."""

    potential: Any  # (windows, n)
    force: Any
    start: Any  # (windows, g) V there
    stop: Any


def _log_densities(terms: tuple[Scalar, Scalar, Scalar], plan: DensityPlan, ratios: Any, block: Block) -> Any:
    """(log p of a block's transitions, (windows, g); which of its windows resolve them, (windows,))."""
    duration = jnp.asarray(block.duration)[:, None]
    root = jnp.sqrt(duration)
    at = _coefficients(terms, plan.walls, block)
    y, phi, gain = _coordinates(block, at.poly, ratios, plan.walls, root)
    weights = block.weights * block.rate / jnp.sqrt(2 * at.nodes.diffusivity) / root
    V = Energies(
        at.nodes.potential * duration, at.nodes.force * duration * root,
        at.start.potential * duration, at.stop.potential * duration,
    )  # fmt: skip
    sides, velocities = [], iter(jnp.split(at.walls.velocity, max(1, block.ends.count("reflecting")), axis=1))
    for k, (kind, wall, ratio, inward) in enumerate(zip(block.ends, y.ends, ratios, (1, -1))):
        if kind == "reflecting":
            sides.append(Side(kind, wall, inward * next(velocities) * root))
        elif kind == "absorbing":
            sides.append(Side(kind, wall, jnp.zeros_like(root)))
        elif kind.startswith("bessel"):
            order = jnp.abs(ratio - 1) if kind == "bessel absorbing" else ratio - 1
            V = _without_singular(V, y, order, k)
            sides.append(Side("bessel", wall, jnp.broadcast_to(order, root.shape)))
    if block.ends[0] == "periodic":
        sides.append(Side("periodic", y.ends[1] - y.ends[0], gain))
    sides = [Side(kind, place[:, :, None], number[:, :, None]) for kind, place, number in sides]
    logs = log_kernel(
        jnp, y.nodes, weights, V.potential, V.force, y.start, y.stop, V.start + V.stop, steps=block.steps, sides=sides,
        squaring=block.squaring, tilted=block.x_start.shape[1] == 1,
    )  # fmt: skip
    value = phi - jnp.log(at.stop.diffusivity / at.start.diffusivity) / 4 - jnp.log(2 * at.stop.diffusivity) / 2
    return value + logs - jnp.log(duration) / 2, _resolved(block, plan, y, weights, at.start.force, duration)


def _coefficients(terms: tuple[Scalar, Scalar, Scalar], walls: Any, block: Block) -> Places:
    """`Coefficients` at all places of a block, by one evaluation."""
    reflecting = [wall for wall, end in zip((walls[0], walls[1]), block.ends) if end == "reflecting"]
    extra = [jnp.broadcast_to(jnp.asarray(wall), (len(block.x), 1)) for wall in reflecting]
    each = [block.x_poly, block.x, block.x_start, block.x_stop]
    everywhere = coefficients(*terms, jnp.concatenate([*each, *extra], axis=1))
    cuts = np.cumsum([part.shape[1] for part in each])
    parts = [jnp.split(part, cuts, axis=1) for part in everywhere]
    return Places(*(Coefficients(*some) for some in zip(*parts, strict=True)))


def _coordinates(block: Block, poly: Coefficients, ratios: Any, walls: Any, root: Any) -> tuple[InY, Any, Any]:
    """(y/√duration, φ from start to stop, φ once along the window) as integrals of series.

    φ' = f/2D is smooth once its poles ½ ratio/(x − wall) at vanishing walls are set apart, and integrated by hand.
    """
    p = block.x_poly.shape[1]
    push, apart = poly.drift / (2 * poly.diffusivity), 0.0
    for ratio, wall in zip(ratios, (walls[0], walls[1])):
        if ratio is not None:
            push = push - ratio / (2 * (block.x_poly - wall))
            apart = apart + ratio / 2 * jnp.log((block.x_stop - wall) / (block.x_start - wall))
    integral = jnp.asarray(antiderivative(p))
    y_series = (block.rate_poly / jnp.sqrt(2 * poly.diffusivity) / root) @ integral
    phi_series = (block.rate_poly * push) @ integral
    start, stop = chebyshev(block.z_start, p + 1), chebyshev(block.z_stop, p + 1)
    nodes, clear, first, last = (
        chebyshev(z, p + 1) for z in (block.z, block.z_clear, np.array([-1.0]), np.array([1.0]))
    )
    each = lambda terms, series: jnp.einsum("bgp,bp->bg", terms, series)
    y = InY(
        y_series @ nodes.T, y_series @ clear.T, each(start, y_series), each(stop, y_series),
        (y_series @ first.T, y_series @ last.T),
    )  # fmt: skip
    return y, each(stop - start, phi_series) + apart, phi_series @ (last - first).T


def _without_singular(V: Energies, y: InY, order: Any, side: int) -> Energies:
    """V less c/r², r the distance to a wall where D vanishes: that part the kernel of the Bessel process has exactly.

    Nearer than CLEAR the difference is lost in rounding, and is taken at the node next to the wall.
    """
    c, wall, inward = (order**2 - 0.25) / 2, y.ends[side], (1, -1)[side]
    potential = V.potential - c / (y.clear - wall) ** 2
    force = V.force + 2 * c / (y.clear - wall) ** 3
    at_wall = potential[:, :1] if side == 0 else potential[:, -1:]

    def regular(V: Any, r: Any) -> Any:
        return jnp.where(r > CLEAR, V - c / jnp.where(r > CLEAR, r, 1.0) ** 2, at_wall)

    start, stop = regular(V.start, inward * (y.start - wall)), regular(V.stop, inward * (y.stop - wall))
    return Energies(potential, force, start, stop)


def _resolved(block: Block, plan: DensityPlan, y: InY, weights: Any, force: Any, duration: Any) -> Any:
    """Which windows have nodes close enough, ends far enough off, and substeps short enough."""
    delta = 1 / block.steps
    fine = jnp.max(weights, axis=1) <= math.sqrt(delta / 2) / 1.35
    below = jnp.min(jnp.minimum(y.start, y.stop), axis=1) - y.nodes[:, 0]
    above = y.nodes[:, -1] - jnp.max(jnp.maximum(y.start, y.stop), axis=1)
    for k, gap in enumerate((below, above)):
        if block.ends[k] == "open":
            fine = fine & (gap >= block.pad[:, k])
    if any(end.startswith("bessel") for end in block.ends):
        return jnp.all(fine)
    return jnp.all(fine) & jnp.all(delta**3 * force**2 * duration**3 <= plan.stress)
