"""How likely a passage is at a time that may be traced: the resolvents of one contour serve all times and both walls.

A density of first passage through a wall transforms to h(s) = rᵀ (s − A)⁻¹ w, r the rates out through it. The weights w read what
a backward equation would give in each cell off at the origin, by a cubic: all is smooth in that place, as it is not from a point mass
that cells share. What is not out yet transforms to (1 − h₋ − h₊)/s.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.discretisation.fluxes import lets_out
from jaxdiff.discretisation.line import LineSystem
from jaxdiff.discretisation.schemes import FiniteVolume, semidiscrete
from jaxdiff.model.coefficients import absent
from jaxdiff.runtime.conditions import Condition

LOWER, UPPER, EITHER, LATER = range(4)  # through which wall, through any, or not yet
SPAN = 60.0  # of times that one contour serves
# Nodes and weights of the trapezoidal rule on a hyperbola: exp to 4e-11 at all times of a window, which may be traced, where a fit of
# the weights, of fewer nodes, asks for numbers (Weideman & Trefethen 2007, doi:10.1090/S0025-5718-07-01945-X).
_MU, _ALPHA, _STEP = 0.2493614389, 0.8099578710, 0.1419916978
_V = 1j * _STEP * (np.arange(38) + 0.5)
POINTS = _MU * (1.0 + np.sin(_V - _ALPHA))
RESIDUES = _STEP / np.pi * _MU * np.cos(_V - _ALPHA)
NOISE = 1e-9  # of what a contour gives, over the time: what is smaller is not known
ROWS = 2**14  # times that are looked at together
HIDDEN = 1e-6  # of all passages, that may come before the contours see any
OTHER = 1.7  # times as long contours, by which is found out what sums lose that cancel
FOURTH_ORDER, SECOND_ORDER = FiniteVolume(order=4), FiniteVolume(order=2)
FED = (
    "content enters at {value} per time, and a passage is of what was there; drop sources, and values of walls but zero"
)
SHUT = "nothing ever leaves, so there is no passage time; let a wall absorb (jd.absorbing)"
# The logarithm of the terms whose sum is a density, vL/4D of a drift, whose sum errs by `NOISE` times its root: by a ten-thousandth.
MOST_TERMS = 2.0 * float(np.log(1e-4 / NOISE))


class Passages(NamedTuple):
    """What is known of the passages from one start, by the nodes of the contours.

    transforms: `(4, windows, nodes)`, of the densities through the lower wall, the upper, and either, and of what stays;
    coarse: the same of half as many cells, whose difference tells the error, None if there are none; delay: a rate at which all
    fades at least, taken out; lost: `(4,)`, how far the logarithm of what a contour errs by is raised by a drift that carries
    """

    transforms: Any
    coarse: Any
    delay: Any
    lost: Any
    conditions: list[Condition]


def open_walls(equation: Any, grid: Any) -> tuple[tuple[str, ...], bool]:
    """The walls through which a passage may be, and whether anything varies in time; raise unless passages on this grid are those of
    a line."""
    if grid.ndim > 1 or grid.discrete or grid.mask is not None:
        raise ValueError("passage times are those on one axis, without a mask; give a jd.Grid of one axis")
    system = semidiscrete(equation, grid, SECOND_ORDER)[0]
    if not isinstance(system, LineSystem):
        raise ValueError(
            f"passage times are of jd.FokkerPlanck or jd.Diffusion without exchange, got {type(equation).__name__}"
        )
    if not (absent(system.transport.loss) and absent(system.transport.source)):
        raise ValueError("passages are of what leaves through walls; leave killing, decay and sources out")
    found = tuple(
        name
        for name, side in zip(grid.sides, system.sides, strict=True)
        if not side.periodic and lets_out(side, system.driftless)
    )
    if not found:
        raise ValueError(
            'no wall absorbs, so nothing ever passes; give boundaries={"x+": jd.absorbing}, or for both walls jd.absorbing'
        )
    return found, not system.time_dependence().steady


def order_that_holds(equation: Any, grid: Any) -> FiniteVolume:
    """The fourth order where cells are equal and even in number, and coefficients smooth functions or numbers; else the second."""
    try:
        systems = semidiscrete(equation, grid, FOURTH_ORDER)
    except ValueError:
        return SECOND_ORDER
    even = jnp.full(grid.shape, 1.0)
    rough = FOURTH_ORDER.conditions(systems[0], 0.0, even)
    return SECOND_ORDER if any(bool(jnp.any(failed)) for _, failed, _, _ in rough) else FOURTH_ORDER


def nodes(top: Any, windows: int) -> Any:
    """Nodes of contours `(windows, k)` for the times down from `top`, each for those within a factor of `SPAN`."""
    return POINTS * (SPAN ** np.arange(1, windows + 1) / top)[:, None]


def passages(equation: Any, grid: Any, scheme: Any, origin: Any, top: Any, windows: int) -> Passages:
    """Passages from a place, or from a density of places, for times up to `top`; traceable."""
    of = lambda operator: (jnp.asarray(nodes(top, windows)).ravel(), 0.99 * _slowest(operator))
    shaped = lambda found: None if found is None else found.reshape(len(found), windows, -1)
    found = transformed(equation, grid, scheme, origin, of)
    return found._replace(transforms=shaped(found.transforms), coarse=shaped(found.coarse))


def transformed(equation: Any, grid: Any, scheme: Any, origin: Any, of: Any) -> Passages:
    """Passages from a place, or from a density of places, by transforms `(4, k)`; of: the operator → (nodes `(k,)`, the delay)."""
    systems = semidiscrete(equation, grid, scheme)
    operator, forcing, conditions = systems[0].formed(0.0)
    operators = [operator, *(system.operator(0.0) for system in systems[1:])]
    s, delay = of(operator)  # of half as many cells the slowest rate is less
    each = [_transforms(system, A, s - delay, origin) for system, A in zip(systems, operators, strict=True)]
    fine, coarse = each[0], each[1] if len(each) > 1 else None
    best = fine if coarse is None else (4.0 * fine - coarse) / 3.0
    most, leak = jnp.max(jnp.abs(forcing)), jnp.max(jnp.stack([operator.down[0], operator.up[-1]]))
    conditions = [*conditions, (FED, most != 0, 0.0, most), (SHUT, ~(leak > 0), 0.0, leak)]
    return Passages(best, coarse, delay, _raised(systems[0], operator, origin), conditions)


def carries(equation: Any, grid: Any, scheme: Any, origin: Any) -> Any:
    """Whether the drift carries so far beside diffusion that contours may lose what they sum."""
    system = semidiscrete(equation, grid, scheme)[0]
    return _raised(system, system.formed(0.0)[0], origin)[EITHER] > MOST_TERMS


def _transforms(system: Any, operator: Any, s: Any, origin: Any) -> Any:
    """`(4, k)` of one system."""
    seen = lambda values: seen_from(system.grid, values, origin)
    start = jax.linear_transpose(seen, jnp.zeros_like(operator.up))(jnp.ones((), operator.up.dtype))[0]
    u = operator.resolvent(s, -1.0)(start)
    lower, upper = operator.down[0] * u[0], operator.up[-1] * u[-1]
    return jnp.stack([lower, upper, lower + upper, (1.0 - lower - upper) / s])


def seen_from(grid: Any, values: Any, origin: Any) -> Any:
    """Values `(…, n)` of cells as they are from an origin: a place, or a density over places, whatever its mass."""
    if callable(origin):
        mass = grid.average(origin) * grid.volumes
        return values @ (mass / jnp.sum(mass)).astype(values.dtype)
    smooth = grid.equal[0] and grid.geometry == "cartesian" and grid.shape[0] >= 4
    return grid.interpolate(values, origin, order=4 if smooth else 2)


def _slowest(operator: Any) -> Any:
    """A rate at which everything fades at least, v²/4D of a drift v that nowhere rests: Gershgorin's, of the symmetric form."""
    up, down, loss = jax.lax.stop_gradient((operator.up, operator.down, operator.loss))
    hop = jnp.sqrt(jnp.maximum(up[:-1] * down[1:], 0.0))
    rows = up + down + loss - jnp.pad(hop, (0, 1)) - jnp.pad(hop, (1, 0))
    return jnp.maximum(jnp.min(rows), 0.0)


def _raised(system: Any, operator: Any, origin: Any) -> Any:
    """½ ln π(wall)/π(origin) of what would rest, by which a contour, exact to its error for what is symmetric, errs more, `(4,)`."""
    up, down = jax.lax.stop_gradient((operator.up, operator.down))
    tiny = jnp.finfo(up.dtype).tiny
    force = jnp.log(jnp.maximum(up[:-1], tiny)) - jnp.log(jnp.maximum(down[1:], tiny))
    log = jnp.concatenate([jnp.zeros(1, up.dtype), jnp.cumsum(force)]) / 2.0
    grid = system.grid
    here = (
        seen_from(grid, log, jax.lax.stop_gradient(origin))
        if callable(origin)
        else grid.interpolate(log, jax.lax.stop_gradient(origin))
    )
    ends = log[0] - here, log[-1] - here
    return jnp.stack([*ends, jnp.maximum(*ends), jnp.max(log) - here])


def at_times(found: Passages, kinds: Any, times: Any, top: Any, coarse: bool = False) -> tuple[Any, Any]:
    """Densities of passage through the wall of each kind at times `(m,)` after the start, of kind `LATER` the chance that it is
    later, and what they err by, roughly; nothing has left before the last window."""
    table = found.coarse if coarse else found.transforms
    windows = table.shape[1]

    def some(part: Any) -> Any:
        kinds, times = part
        first = top / SPAN**windows
        early = times < first
        t = jnp.where(early, top, times)
        fixed = jax.lax.stop_gradient(t)
        window = jnp.clip(jnp.floor(jnp.log(top / fixed) / np.log(SPAN)).astype(int), 0, windows - 1)
        start = top / SPAN ** (window + 1.0)
        grown = jnp.exp(t[:, None] * (POINTS / start[:, None]))
        shares = grown * (RESIDUES / start[:, None])
        value = jnp.sum((shares * table[kinds, window]).real, axis=-1)
        fading = jnp.exp(-found.delay * t)
        later = kinds == LATER
        # What cancels is a smooth sum: it errs by less than its largest terms do.
        terms = jnp.minimum(found.lost[kinds] - jax.lax.stop_gradient(found.delay) * fixed, 80.0)
        error = max(NOISE, 300.0 * float(jnp.finfo(value.dtype).eps)) * jnp.exp(jnp.where(terms > 0, terms / 2, terms))
        error = error * jnp.where(later, 1.0, 1.0 / fixed)
        return jnp.where(early, 1.0 * later, value * fading), error

    if len(times) <= ROWS:
        return some((kinds, times))
    return jax.lax.map(
        jax.checkpoint(lambda one: jax.tree.map(lambda x: x[0], some(jax.tree.map(lambda x: x[None], one)))),
        (kinds, times),
        batch_size=ROWS,
    )


class ByTransforms(eqx.Module):
    """Passages where nothing varies in time, by sums over resolvents at nodes that serve all times.

    of_grid: whether they are those of the cells
    """

    of_grid: ClassVar[bool] = True

    def passages(self, equation: Any, grid: Any, scheme: Any, origin: Any, top: Any) -> Any:
        raise NotImplementedError

    def at(self, found: Any, kinds: Any, times: Any, top: Any, coarse: bool = False) -> tuple[Any, Any]:
        """Densities or chances, and what they err by."""
        raise NotImplementedError

    def first(self, top: Any) -> Any:
        """The time from which on they are known."""
        return 0.0

    def of_cells(self, found: Any, kinds: Any, times: Any, top: Any) -> Any:
        """What was taken out as the error of cells; None: nothing was."""
        if found.coarse is None:
            return None
        return (self.at(found, kinds, times, top)[0] - self.at(found, kinds, times, top, coarse=True)[0]) / 3.0

    def by_steps(self, found: Any, kinds: Any, times: Any, top: Any, share: Any) -> Any:
        """There are none."""
        return jnp.zeros(())

    def lost(self, equation: Any, grid: Any, scheme: Any, origin: Any, top: Any, kinds: Any, times: Any) -> Any:
        """What other nodes make of densities and chances, `(m,)`: what roundoff takes from sums that cancel."""
        tops = top * jnp.array([1.0, OTHER])
        both = jax.lax.map(lambda end: self.passages(equation, grid, scheme, origin, end)._replace(conditions=[]), tops)
        found, other = (jax.tree.map(lambda x, i=i: x[i], both) for i in (0, 1))
        moved = jnp.abs(self.at(other, kinds, times, tops[1])[0] - self.at(found, kinds, times, top)[0])
        return jnp.where(times > self.first(tops[1]), moved, 0.0)


class ByContours(ByTransforms):
    """By contours that go down from the longest time in so many windows."""

    windows: int = eqx.field(static=True)
    most: ClassVar[int] = 8

    @classmethod
    def reaching(cls, least: float, top: float) -> ByContours:
        """With windows down to the least time."""
        return cls(int(np.clip(np.ceil(np.log(top / least) / np.log(SPAN)), 2, cls.most)))

    def passages(self, equation: Any, grid: Any, scheme: Any, origin: Any, top: Any) -> Passages:
        return passages(equation, grid, scheme, origin, top, self.windows)

    def at(self, found: Any, kinds: Any, times: Any, top: Any, coarse: bool = False) -> tuple[Any, Any]:
        return at_times(found, kinds, times, top, coarse)

    def first(self, top: Any) -> Any:
        return top / SPAN**self.windows

    def resolved(self, found: Any, kinds: Any, times: Any, top: Any, share: Any) -> Any:
        """Whether hardly any passage comes before the last window, where rows with a share are, and none is of sums that cancel."""
        first = self.first(top)
        before = at_times(found, jnp.array([EITHER]), jnp.array([1.0001]) * first, top)[0][0]
        hidden = (times > 0) & (times < first) & (kinds != LATER) & (share > 0)
        seen = (times >= first) & (share > 0)
        cancel = seen & (found.lost[kinds] - found.delay * times > MOST_TERMS)
        return ~jnp.any(cancel) & (~jnp.any(hidden) | (before * first < HIDDEN))

    def refined(self) -> ByContours | None:
        """With another window; None beyond what times are of one unit."""
        return ByContours(self.windows + 1) if self.windows < self.most else None

    @property
    def numbers(self) -> float:
        """How many for each cell are held."""
        return float(self.windows * len(POINTS))
