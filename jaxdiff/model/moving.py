"""`Moving`: an equation between walls that move, seen from cells that move with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.model.coefficients import Potential, absent, as_number, at_points, at_time, is_cells, number, varies
from jaxdiff.model.equations import Equation, Transport
from jaxdiff.model.series import Series
from jaxdiff.model.time_dependent import TimeDependent
from jaxdiff.parameters import numeric

MET = 1e-3  # of the first distance of the walls, below which they count as met: what was between has left long before


def _wall(value: Any) -> Any:
    """A place, or a function of time, which a plain function here is."""
    value = numeric(value)
    return TimeDependent(value) if callable(value) and not varies(value) else value


class Moving(Equation):
    """An equation between walls at given places that may move, on cells that keep their shares of the way between them.

        x = l(t) + w(t) (ξ − ξ₀),   w(t) = (u(t) − l(t))/(ξ₁ − ξ₀)
        ∂p/∂t = −∂/∂ξ[(f − l′ − w′ (ξ − ξ₀))/w · p] + ∂²/∂ξ²[D/w² · p],   ξ₀ ≤ ξ ≤ ξ₁ the ends of the grid

    States are densities over ξ, of the same mass. On a grid from −1 to 1 between walls at ±b(t) a place is x = b(t) ξ: the bounds
    of a decision that collapse, or that are fitted, on one and the same cells.

    Args:
        equation: a `FokkerPlanck` in x, whose coefficients may depend on x and t.
        lower: the place of the lower wall [length]: a number, which may be marked, a callable of t such as a function or an
            `Expression` whose numbers may be marked, or a linear `Series`; None: at the end of the grid.
        upper: that of the upper wall.

    Walls absorb or reflect. Where they come closer than a thousandth of their first distance they count as met: they stop there, and what
    is between them leaves.

    Raises:
        TypeError: what is no `FokkerPlanck`.
        ValueError: arrays over cells, exchange, other walls; in use, walls that start in each other's place.

    Decisions by a leaky sum of evidence, between bounds that collapse:

    >>> import jax.numpy as jnp, jaxdiff as jd
    >>> def model(k, leak, b, tau):
    ...     bound = lambda t: b * jnp.exp(-t / tau)
    ...     evidence = jd.FokkerPlanck(lambda x: k - leak * x, 0.5, boundaries=jd.absorbing)
    ...     return jd.Moving(evidence, lower=lambda t: -bound(t), upper=bound)
    >>> grid = jd.Grid.uniform((-1.0, 1.0, 100))
    >>> p = jd.solve(model(1.0, 0.5, 1.5, 2.0), grid, grid.delta(0.0), [0.0, 1.0]).values[-1]
    >>> round(float(grid.integrate(p)), 2)  # who has not decided yet
    0.33

    Crank 1984, Free and Moving Boundary Problems, §5; decisions: Drugowitsch et al. 2012, doi:10.1523/JNEUROSCI.4010-11.2012.
    """

    equation: Any
    lower: Any = eqx.field(converter=_wall, default=None)
    upper: Any = eqx.field(converter=_wall, default=None)
    probability = True

    def __check_init__(self) -> None:
        if not isinstance(self.equation, Equation) or not self.equation.probability or self.equation.discrete:
            raise TypeError(f"Moving takes a jd.FokkerPlanck between its walls, got {type(self.equation).__name__}")
        if isinstance(self.equation, Moving):
            raise TypeError(
                "Moving takes a jd.FokkerPlanck between its walls, got another Moving; give both walls to one"
            )
        for side, value in (("lower", self.lower), ("upper", self.upper)):
            if isinstance(value, Series) and value.interpolation != "linear":
                raise ValueError(f"{side} is a Series of steps, and a wall does not jump; make it linear")
            if value is not None and not callable(value) and np.shape(jax.tree.leaves(value)[0]) != ():
                raise ValueError(f"{side} must be one place or a function of time, got an array")

    def semidiscretise(self, grid: Any, scheme: Any) -> list[Any]:
        return scheme.systems(self.between(grid), grid)

    def sides(self, grid: Any) -> tuple[Any, ...]:
        return self.equation.sides(grid)

    def between(self, grid: Any) -> BetweenWalls:
        """The equation in ξ on this grid."""
        if grid.ndim > 1 or grid.geometry != "cartesian" or grid.mask is not None:
            raise ValueError("walls move along one Cartesian axis without a mask; give such a jd.Grid")
        for name, side in zip(grid.sides, self.sides(grid), strict=True):
            shut = not side.open
            if side.periodic or not (shut or side.fixes_value) or not all(map(_zero, side.numbers.values())):
                raise ValueError(
                    f"a wall that moves absorbs or reflects, got {side!r} at {name}; take jd.absorbing or jd.reflecting"
                )
        return BetweenWalls(self, grid.edges[0][0], grid.edges[0][-1])


def _zero(value: Any) -> bool:
    return absent(value) or isinstance(value, jax.core.Tracer)


class BetweenWalls(Equation):
    """What `Moving` is on cells from ξ₀ to ξ₁."""

    moving: Moving
    first: Any
    last: Any
    probability = True

    @property
    def varies(self) -> bool:
        """Whether anything depends on time."""
        inner = self.moving.equation.transport()
        parts = [inner.drift, inner.diffusivity, inner.loss, inner.source, self.moving.lower, self.moving.upper]
        parts += [part.energy for part in parts if isinstance(part, Potential)]
        return any(map(varies, parts))

    def transport(self) -> Transport:
        inner = self.moving.equation.transport()
        for name, part in (("drift", inner.drift), ("diffusivity", inner.diffusivity), ("killing", inner.loss)):
            if is_cells(part):
                raise ValueError(
                    f"between walls that move {name} is a function of position, got an array over cells; give jd.Spline or a function"
                )
        if inner.exchange:
            raise ValueError("between walls that move there is no exchange yet; leave it out")
        killing = inner.loss if absent(inner.loss) else self._seen(lambda t, x, *_: at_one(inner.loss, t, x, "killing"))
        made = self._seen(lambda t, x, share, pace, width, _: width * at_one(inner.source, t, x, "source"))
        more = {"alpha": inner.alpha, "boundaries": inner.boundaries, "degenerate": inner.degenerate}
        return Transport(self.drift, self.diffusivity, killing, inner.source if absent(inner.source) else made, **more)

    @property
    def drift(self) -> Any:
        f = self.moving.equation.transport().drift

        def seen(t: Any, x: Any, share: Any, pace: Any, width: Any, widening: Any) -> Any:
            return (at_one(f, t, x, "drift") - pace - widening * share) / width

        return self._seen(seen)

    @property
    def diffusivity(self) -> Any:
        D = self.moving.equation.transport().diffusivity
        if not (callable(D) or varies(D) or self.varies):
            return D / self.walls(0.0)[2] ** 2
        return self._seen(lambda t, x, share, pace, width, widening: at_one(D, t, x, "diffusivity") / width**2)

    def walls(self, t: Any) -> tuple[Any, Any, Any, Any]:
        """l, l′, w and w′ at time t."""
        t = jnp.asarray(t, jnp.result_type(float))
        places = [
            self._place(wall, end) for wall, end in ((self.moving.lower, self.first), (self.moving.upper, self.last))
        ]
        (lower, upper), (down, up) = jax.jvp(lambda t: (places[0](t), places[1](t)), (t,), (jnp.ones_like(t),))
        span, at_start = self.last - self.first, jnp.asarray(places[1](0.0 * t) - places[0](0.0 * t))
        apart = upper - lower > MET * at_start
        return (
            lower,
            down,
            jnp.where(apart, upper - lower, MET * at_start) / span,
            jnp.where(apart, up - down, 0.0) / span,
        )

    def _place(self, wall: Any, end: Any) -> Callable[[Any], Any]:
        return lambda t: jnp.asarray(end if wall is None else number(wall, t), t.dtype)

    def _seen(self, function: Callable[..., Any]) -> Any:
        """A coefficient of ξ, and of t where anything depends on it, from one of t, x, ξ − ξ₀, l′, w, w′."""

        def at(t: Any, x: Any) -> Any:
            lower, pace, width, widening = self.walls(t)
            share = x - self.first
            return function(t, lower + width * share, share, pace, width, widening)

        return TimeDependent(at) if self.varies else lambda x: at(jnp.zeros((), x.dtype), x)


def at_one(coefficient: Any, t: Any, x: Any, what: str) -> Any:
    """A coefficient at one time and place."""
    if coefficient is None:
        return jnp.zeros_like(x)
    if isinstance(coefficient, Potential):
        return -jax.grad(lambda y: as_number(at_time(coefficient.energy, t), y, "potential"))(x)
    return at_points(coefficient, x[None], t, what)[0]
