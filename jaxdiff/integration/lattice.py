"""Coefficients constant in time on several axes: a product of exponentials, one of each axis, or Chebyshev polynomials."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.integration.adaptive import MOST_STEPS
from jaxdiff.integration.method import Method, counted, only_substeps, room_for
from jaxdiff.integration.segments import Stretches, squared
from jaxdiff.integration.steppers import not_below_zero
from jaxdiff.operators import CUTS, Pade, chebyshev, most_of_batch, parts_needed, propagate, terms_needed

_MOST_PRODUCTS = 2**20
_ROOM = 8  # substeps that an operator with a drift may take, if it needs them
_FEW = 4  # durations of which the matrices are kept together


class Lattice(Method):
    """Stretch by stretch: matrices of the axes where they are separable and nothing is forced, else sums of Chebyshev polynomials.

    capacity: polynomials of a sum at most; substeps: sums in a stretch; kernel: whether products are taken two in a pass
    """

    stretches: Stretches
    tolerance: float = eqx.field(static=True)
    substeps: int = eqx.field(static=True)
    capacity: int = eqx.field(static=True)
    forced: bool = eqx.field(static=True)
    kernel: bool = eqx.field(static=True, default=False)

    observes = all_or_none = True

    def run(self, system: Any, times: Any, start: Any, *, observe: Any = None, sound: Any = True) -> Any:
        operator = system.operator(times[0])
        if operator.separable and not self.forced:
            return *_product(self, operator.lines(), start, system.weights, observe), []
        return *_polynomials(self, system, operator, times[0], start, observe), []

    def describe(self, needed: Any = None) -> str:
        if needed is None:
            return "lattice: product of exponentials per axis, or Chebyshev"
        products = int(needed[1])
        return f"lattice: Chebyshev, {products} products" if products else "lattice: product of exponentials per axis"

    def states_held(self, grid: Any, outputs: int, *, drift: bool = False, observed: bool = False) -> Any:
        states = 8.0 * grid.ndim + 9 * self.forced + 3 * outputs
        return states, 6.0 + 20 * self.forced + 65 * grid.ndim * drift + 3 * outputs

    @property
    def allowed(self) -> Any:
        return self.substeps, self.capacity

    def refined(self, needed: Any, times: Any, grid: Any = None) -> Lattice:
        substeps, terms = counted(needed)
        if substeps * terms > _MOST_PRODUCTS or terms > MOST_STEPS:
            raise ValueError(
                f"the longest interval takes more than {MOST_STEPS} products with the operator; what has come to rest by then jd.steady_state gives, and what has not jd.TRBDF2() or jd.BackwardEuler(){_smallest(grid)}"
            )
        if substeps <= self.substeps and terms <= self.capacity:
            return self
        substeps, terms = max(substeps, self.substeps), max(terms, self.capacity)
        return replace(self, substeps=room_for(substeps), capacity=room_for(terms))


def _smallest(grid: Any) -> str:
    """The width of the smallest cells, in words, where it is known."""
    if grid is None or any(isinstance(edges, jax.core.Tracer) for edges in grid.edges):
        return ""
    width, name = min((float(np.diff(edges).min()), name) for edges, name in zip(grid.edges, grid.names, strict=True))
    return f"; the smallest cells, {width:.3g} wide along {name}, ask for so many"


def _polynomials(method: Lattice, system: Any, operator: Any, t0: Any, u: Any, observe: Any) -> tuple[Any, Any]:
    """The states at the outputs as sums of Chebyshev polynomials of A, and what was needed.

    Of a pure diffusion that is observed in part, one sum serves all output times, each with coefficients of its own. Else every
    stretch takes a sum from where the last one ended: as many as its substeps, which a drift may ask for.
    """
    room = method.substeps * (1 if operator.diffusive else _ROOM)
    starts, durations = (jnp.asarray(x, u.dtype) for x in (method.stretches.starts, method.stretches.durations))
    from_start = observe is not None and room == 1 and len(starts) == len(method.stretches.ends) and not system.knots
    longest = jnp.sum(durations) if from_start else jnp.max(durations)
    substeps, terms = terms_needed(operator, longest, method.tolerance)
    needed = jnp.stack([jnp.ceil(substeps / room * method.substeps), terms])
    durations = jnp.where(substeps <= room, durations, 0.0)  # else it may overflow before it is asked anew
    options: dict[str, Any] = {"terms": method.capacity, "needed": terms, "kernel": method.kernel}
    forcing = system.forcing(t0) if method.forced else None
    if from_start:
        constant = None if forcing is None else (forcing, jnp.zeros_like(u))
        return chebyshev(operator, jnp.cumsum(durations), u, constant, observe=observe, **options), needed
    observed = (lambda v: v) if observe is None else observe
    parts = jnp.minimum(substeps, room)
    most, changes = most_of_batch(parts), bool(system.knots)

    def stretch(v: Any, row: Any) -> Any:
        start, whole = row
        dt, b, slope = whole / parts, forcing, jnp.zeros_like(u)
        if changes:
            b = system.forcing(start)
            slope = jnp.where(whole > 0, (system.forcing(start + whole) - b) / jnp.where(whole > 0, whole, 1.0), 0.0)

        def substep(w: Any, i: Any) -> Any:
            def advanced(w: Any) -> Any:
                linear = None if b is None else (b + i * dt * slope, slope)
                return jnp.where(i < parts, chebyshev(operator, dt[None], w, linear, **options)[0], w)

            return jax.lax.cond(i < most, advanced, lambda w: w, w), None

        substep = substep if room == 1 else jax.checkpoint(substep)
        w = jax.lax.scan(substep, v, jnp.arange(room, dtype=u.dtype))[0]
        least = jnp.zeros(()) if b is None else jnp.minimum(b, b + whole * slope)
        v = not_below_zero(w, jnp.all(v >= 0) & jnp.all(least >= 0))
        return v, observed(v)

    # A gradient keeps a state for every stretch, and those of the terms for one stretch at a time.
    stretch = stretch if len(starts) == 1 else jax.checkpoint(stretch)
    _, out = jax.lax.scan(stretch, u, (starts, durations))
    return out[jnp.asarray(method.stretches.ends)], needed


def _product(method: Lattice, lines: list[Any], u: Any, weights: Any, observe: Any) -> tuple[Any, Any]:
    """The states at the outputs by e^{tA} = e^{tA₁} ⊗ e^{tA₂} ⊗ …, and what was needed.

    A dense matrix for each axis and distinct duration; with a drift squared up from substeps, whose errors are looked at as on
    one axis.
    """
    stretches, parts, observed = method.stretches, method.substeps, (lambda v: v) if observe is None else observe
    drift = not all(line.diffusive for line in lines)
    rational = Pade(u.dtype, method.tolerance)
    count = 4 * CUTS * rational.substeps * parts  # squaring makes them cheap
    size = lambda v: jnp.max(jnp.abs(v / weights))

    def matrices(dt: Any) -> Any:
        if drift:
            step = lambda line: rational.step(line, dt / count)
            return tuple(squared(step(line), len(line.up), u.dtype, count) for line in lines)
        eye = lambda line: jnp.eye(len(line.up), dtype=u.dtype)
        column = lambda line: lambda e: propagate(line, dt / parts, e, tolerance=method.tolerance)
        return tuple((jax.vmap(column(line), out_axes=1)(eye(line)), None) for line in lines)

    def along(k: int, matrix: Any, v: Any) -> Any:
        return jnp.moveaxis(jnp.tensordot(matrix, v, axes=(1, k), precision="highest"), 0, k)

    def along_all(v: Any, pairs: Any) -> Any:
        for k, (matrix, _) in enumerate(pairs):
            v = along(k, matrix, v)
        return v

    def missed(w: Any, pairs: Any) -> Any:
        """The error of the substeps to w, from q² of each axis; what roundoff puts there aside."""
        if not drift:
            return jnp.zeros((), u.dtype)
        again = [size(along(k, squares, w)) for k, (_, squares) in enumerate(pairs)]
        noise = 2.0 * rational.noise * size(w)
        return jax.lax.stop_gradient(2.0 * count * sum(jnp.maximum(m - noise, 0.0) for m in again))

    few = len(stretches.distinct) <= _FEW
    known = jax.lax.map(matrices, jnp.asarray(stretches.distinct, u.dtype)) if few else None

    def stretch(v: Any, row: Any) -> Any:
        i, dt = row
        pairs = matrices(dt) if known is None else jax.tree.map(lambda x: x[i], known)
        w = jax.lax.scan(lambda w, _: (along_all(w, pairs), None), v, None, length=1 if drift else parts)[0]
        error = missed(w, pairs)
        v = not_below_zero(w, jnp.all(v >= 0))
        return v, (observed(v), error, size(v))

    durations = jnp.asarray(stretches.durations, u.dtype)
    _, (out, errors, sizes) = jax.lax.scan(stretch, u, (jnp.asarray(stretches.which), durations))
    if drift:
        peaks = jnp.maximum(jax.lax.stop_gradient(sizes), 1e-3 * size(jax.lax.stop_gradient(u)))
        worst = jnp.max(jnp.cumsum(errors) / jnp.maximum(peaks, jnp.finfo(u.dtype).tiny)) / method.tolerance
        factor = jnp.where(worst > 1.0, jnp.ceil(worst ** (1.0 / rational.power)), 1.0)
        wanted = parts * jnp.minimum(jnp.where(jnp.isnan(factor), 8.0, factor), 8.0)
    else:
        wanted = jnp.max(jnp.stack([parts_needed(line, jnp.max(durations)) for line in lines]))
    return out[jnp.asarray(stretches.ends)], only_substeps(wanted)
