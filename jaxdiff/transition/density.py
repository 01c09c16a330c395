"""Transition densities of one-dimensional diffusions, accurate in the far tails and at walls."""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.transition.chart import Reference, Turn
from jaxdiff.transition.kernel import Scalar, Side, antiderivative, chebyshev, coefficients, log_kernel, wall_ratio
from jaxdiff.transition.windows import CLEAR, substeps, windows


class Block(eqx.Module):
    """Windows of one shape; a window is a stretch of x with nodes, and the transitions of one duration that it serves.

    The nodes are fixed numbers in x, close to even in y at the coefficients the plan was made with; y itself follows
    the coefficients that are being evaluated.
    """

    x: Any  # (windows, n) nodes
    rate: Any  # (windows, n) dx/dz, z the window's own coordinate in [−1, 1]
    x_poly: Any  # (windows, p) Chebyshev points of the window
    rate_poly: Any  # (windows, p)
    x_start: Any  # (windows, g) transitions, and their places in z
    x_stop: Any
    z_start: Any
    z_stop: Any
    duration: Any  # (windows,)
    pad: Any  # (windows, 2) what must lie beyond the data on either side, in y/√duration
    z: Any  # (n,) nodes in z
    z_clear: Any  # (n,) where their coefficients are taken: the same, but for a distance to walls where D vanishes
    weights: Any  # (n,) their quadrature weights
    steps: int = eqx.field(static=True)
    ends: tuple[str, ...] = eqx.field(static=True)
    squaring: bool = eqx.field(static=True)
    chunk: int = eqx.field(static=True)


class Plan(eqx.Module):
    """How the log densities of given transitions are computed; made by `prepare`, a pytree."""

    blocks: tuple[Block, ...]
    order: Any  # (m,) where transition i lies in the blocks laid end to end
    walls: Any  # (2,)
    stress: Any  # largest δ³ V_y² at the data that the substeps are good for
    error: Any  # estimated error of the sum of log densities [nat]
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
) -> Plan:
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
        if periodic:
            turn = upper - lower
            start = lower + np.mod(start - lower, turn)
            stop = start + np.mod(stop - start + turn / 2, turn) - turn / 2
            drift, diffusivity, killing = (Turn(f, lower, turn) for f in (drift, diffusivity, killing))
        reference = Reference(drift, diffusivity, killing, start, stop, duration, lower, upper, walls)
        steps, error, stress = substeps(reference, max(1e-4, 1e-8 * len(start)) if tolerance is None else tolerance)
        parts, order = windows(reference, steps)
    blocks = tuple(Block(**part) for part in parts)
    return Plan(blocks, order, np.array([lower, upper], np.float64), stress, error, periodic, reference.vanishing)


def log_density(drift: Scalar, diffusivity: Scalar, killing: Scalar, plan: Plan) -> Any:
    """log p(stop, duration | start) of each transition of the plan, (m,), in 1/length; traceable.

    p(x₁|x₀) = e^{φ₁−φ₀} K(y₀, y₁)/√(2D(x₁)), φ = ∫ f/(2D) dx − ¼ ln D, K the kernel of exp(−t(−½∂² + V)) in y = ∫dx/√(2D).
    NaN where D is not positive. Aït-Sahalia, Econometrica 70, 223 (2002), doi:10.1111/1468-0262.00274.
    """
    return checked_log_density(drift, diffusivity, killing, plan)[0]


def resolved(drift: Scalar, diffusivity: Scalar, plan: Plan, killing: Scalar = lambda x: 0.0) -> Any:
    """Whether the plan still resolves these coefficients (traced bool); prepare again if not."""
    return checked_log_density(drift, diffusivity, killing, plan)[1]


def checked_log_density(drift: Scalar, diffusivity: Scalar, killing: Scalar, plan: Plan) -> tuple[Any, Any]:
    """`log_density` and `resolved` from one evaluation."""
    lower, upper = plan.walls[0], plan.walls[1]
    if plan.periodic:
        drift, diffusivity, killing = (Turn(f, lower, upper - lower) for f in (drift, diffusivity, killing))
    ratios = tuple(
        wall_ratio(drift, diffusivity, wall) if vanishing else None
        for wall, vanishing in zip((lower, upper), plan.vanishing)
    )

    def evaluate(block: Block) -> Any:
        return _densities(drift, diffusivity, killing, plan, ratios, block)

    values, flags = [], []
    for block in plan.blocks:
        count = block.x.shape[0]
        if count > block.chunk:
            split = lambda a: jnp.asarray(a).reshape(-1, block.chunk, *a.shape[1:])  # noqa: B023, E731
            shared = ("z", "z_clear", "weights", "steps", "ends", "squaring", "chunk")
            names = [name for name in block.__dataclass_fields__ if name not in shared]
            rest = {name: getattr(block, name) for name in shared}
            value, flag = jax.lax.map(
                jax.checkpoint(lambda parts: evaluate(Block(**parts, **rest))),  # noqa: B023
                {name: split(getattr(block, name)) for name in names},
            )
        else:
            value, flag = evaluate(block)
        values.append(value.reshape(-1))
        flags.append(jnp.all(flag))
    return jnp.concatenate(values)[plan.order], jnp.all(jnp.stack(flags))


def _stress(delta: float, force: Any, time: Any) -> Any:
    return delta**3 * force**2 * time**3


def _densities(drift: Scalar, diffusivity: Scalar, killing: Scalar, plan: Plan, ratios: Any, block: Block) -> Any:
    count, n = block.x.shape
    p, g = block.x_poly.shape[1], block.x_start.shape[1]
    lower, upper = plan.walls[0], plan.walls[1]
    time = jnp.asarray(block.duration)[:, None]
    root = jnp.sqrt(time)
    robin = [end == "reflecting" for end in block.ends]
    extra = [jnp.broadcast_to(jnp.asarray(wall), (count, 1)) for wall, use in zip((lower, upper), robin) if use]
    points = jnp.concatenate([block.x_poly, block.x, block.x_start, block.x_stop, *extra], axis=1)
    everywhere = coefficients(drift, diffusivity, killing, points)
    poly, nodes, start, stop, edge = (
        jax.tree.map(lambda a: a[:, i:j], everywhere)  # noqa: B023
        for i, j in ((0, p), (p, p + n), (p + n, p + n + g), (p + n + g, p + n + 2 * g), (p + n + 2 * g, None))
    )
    # y and φ are antiderivatives along the window, smooth once the logarithms at vanishing walls are set apart
    push, apart = poly.drift / (2 * poly.diffusivity), 0.0
    for ratio, wall in zip(ratios, (lower, upper)):
        if ratio is not None:
            push = push - ratio / (2 * (block.x_poly - wall))
            apart = apart + ratio / 2 * jnp.log((block.x_stop - wall) / (block.x_start - wall))
    integral = jnp.asarray(antiderivative(p))
    y_poly = (block.rate_poly / jnp.sqrt(2 * poly.diffusivity) / root) @ integral
    phi_poly = (block.rate_poly * push) @ integral
    chart_start, chart_stop = chebyshev(block.z_start, p + 1), chebyshev(block.z_stop, p + 1)
    place = lambda chart: jnp.einsum("bgp,bp->bg", chart, y_poly)
    y, y_start, y_stop = y_poly @ chebyshev(block.z, p + 1).T, place(chart_start), place(chart_stop)
    y_clear = y_poly @ chebyshev(block.z_clear, p + 1).T
    phi = jnp.einsum("bgp,bp->bg", chart_stop - chart_start, phi_poly) + apart
    weights = block.weights * block.rate / jnp.sqrt(2 * nodes.diffusivity) / root

    potential, force = nodes.potential * time, nodes.force * time * root
    ends: Any = (start.potential * time, stop.potential * time)
    sides, used = [], 0
    first, last = (y_poly @ chebyshev(np.array([z]), p + 1).T for z in (-1.0, 1.0))
    for kind, wall_y, sign, ratio in zip(block.ends, (first, last), (1, -1), ratios):
        number = jnp.zeros((count, 1))
        if kind == "reflecting":
            number, used = sign * edge.velocity[:, used : used + 1] * root, used + 1
        elif kind.startswith("bessel"):
            kind, number = "bessel", jnp.abs(ratio - 1) if kind == "bessel absorbing" else ratio - 1
            c = (number**2 - 0.25) / 2
            potential = potential - c / (y_clear - wall_y) ** 2
            force = force + 2 * c / (y_clear - wall_y) ** 3
            at_wall = potential[:, :1] if sign == 1 else potential[:, -1:]
            ends = tuple(
                jnp.where(r > CLEAR, V - c / jnp.where(r > CLEAR, r, 1.0) ** 2, at_wall)
                for V, r in zip(ends, (sign * (y_start - wall_y), sign * (y_stop - wall_y)))
            )
            number = jnp.broadcast_to(number, (count, 1))
        elif kind == "periodic":
            number, wall_y = (
                (phi_poly @ (chebyshev(np.array([1.0]), p + 1) - chebyshev(np.array([-1.0]), p + 1)).T),
                last - first,
            )
        if kind in ("reflecting", "absorbing", "bessel") or (kind == "periodic" and sign == 1):
            sides.append(Side(kind, wall_y[:, :, None], number[:, :, None]))
    logs = log_kernel(
        jnp,
        y,
        weights,
        potential,
        force,
        y_start,
        y_stop,
        ends[0] + ends[1],
        steps=block.steps,
        sides=sides,
        squaring=block.squaring,
        tilted=g == 1,
    )
    value = phi - jnp.log(stop.diffusivity / start.diffusivity) / 4 - jnp.log(2 * stop.diffusivity) / 2
    value = value + logs - jnp.log(time) / 2

    delta = 1 / block.steps
    fine = jnp.max(weights, axis=1) <= math.sqrt(delta / 2) / 1.35
    low = jnp.min(jnp.minimum(y_start, y_stop), axis=1) - y[:, 0]
    high = y[:, -1] - jnp.max(jnp.maximum(y_start, y_stop), axis=1)
    open_ends = [end == "open" for end in block.ends]
    wide = (low >= block.pad[:, 0] if open_ends[0] else True) & (high >= block.pad[:, 1] if open_ends[1] else True)
    calm = (
        True
        if any(end.startswith("bessel") for end in block.ends)
        else jnp.all(_stress(delta, start.force, time) <= plan.stress)
    )
    return value, jnp.all(fine & wide) & calm
