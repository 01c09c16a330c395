"""Equations: `Diffusion`, `FokkerPlanck` and the base of one's own, with their coefficients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxdiff.model.boundaries import Boundary, reflecting, sides
from jaxdiff.model.coefficients import Tensor, absent, as_number, is_cells, varies
from jaxdiff.model.exchange import as_phases
from jaxdiff.parameters import numeric

_ALPHA = {"ito": 0.0, "stratonovich": 0.5, "isothermal": 1.0}


def copied(boundaries: Any) -> Any:
    return dict(boundaries) if isinstance(boundaries, dict) else boundaries


class Transport(NamedTuple):
    """What a scheme discretises: coefficients, and the law at each side.

        c ∂u/∂t = −∇·J − k u + s,   J = (f − (1 − α) ∇D) u − D ∇u

    drift: f, None where nothing drifts; diffusivity: D; loss: k; source: s; capacity: c, None for one
    alpha: where in a jump the diffusivity counts: 0 before (Itô), ½ midway, 1 after
    exchange: the phases that do not move, `jd.Exchange` each
    degenerate: whether D may be a number that is zero, all along an axis, where the drift carries content upwind
    """

    drift: Any
    diffusivity: Any
    loss: Any
    source: Any
    capacity: Any = None
    alpha: float = 1.0
    boundaries: Any = reflecting
    exchange: tuple[Any, ...] = ()
    degenerate: bool = False

    def transport(self) -> Transport:
        """Itself, as an equation says it."""
        return self

    def sides(self, grid: Any) -> tuple[Boundary, ...]:
        """The boundaries of the lower and upper side of every axis."""
        return sides(self.boundaries, grid)


class Equation(eqx.Module):
    """A linear equation of motion, du/dt = A u + b: the base of `Diffusion`, `FokkerPlanck` and of your own.

    Its fields are its parameters, which may be marked for fitting. An equation of one's own says one of two things:
    `transport()`, its drift, diffusivity, loss and source (`jaxdiff.discretisation.Transport`), and every scheme discretises
    it; or `semidiscretise(grid, scheme)`, a list of one system (`jaxdiff.discretisation.System`) with an operator of its own.
    The class says four facts:

    | name          | what                                                                          | default |
    |---------------|-------------------------------------------------------------------------------|---------|
    | `driftless`   | whether the operator is symmetric in the weights of the cells, as of diffusion | False   |
    | `probability` | whether the state is a density of mass one at rest                            | False   |
    | `discrete`    | whether cells are states of their own, so that other cells are another problem | False   |
    | `wave`        | whether the state is a wave: values at the centres of cells, complex in time   | False   |

    Random jumps between three states, each state a cell of width one:

    >>> import jaxdiff as jd
    >>> class Hops(jd.discretisation.System):
    ...     def operator(self, t):
    ...         return jd.operators.Dense(self.equation.rates)
    >>> class MasterEquation(jd.Equation):
    ...     rates: list  # from column to row
    ...     probability = discrete = True
    ...     def semidiscretise(self, grid, scheme):
    ...         return [Hops(self, grid)]
    >>> cycle = MasterEquation([[0.0, 0.0, 3.0], [1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    >>> [round(float(p), 6) for p in jd.steady_state(cycle, jd.Grid.uniform((-0.5, 2.5, 3)))]
    [0.545455, 0.272727, 0.181818]
    """

    driftless: ClassVar[bool] = False
    probability: ClassVar[bool] = False
    discrete: ClassVar[bool] = False
    wave: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for field in fields(self):
            if not (field.metadata.get("static") or "converter" in field.metadata):
                setattr(self, field.name, numeric(getattr(self, field.name)))

    def __repr__(self) -> str:
        return eqx.tree_pformat(self, short_arrays=False)

    def transport(self) -> Transport:
        """Drift, diffusivity, loss, source and boundaries, where the equation is one of transport."""
        raise TypeError(
            f"{type(self).__name__} has no drift and diffusivity; this takes jd.Diffusion or jd.FokkerPlanck"
        )

    def semidiscretise(self, grid: Any, scheme: Any) -> list[Any]:
        """The systems dN/dt = A(t) N + b(t) that stand for the equation on a grid: what the scheme makes of `transport`."""
        return scheme.systems(self, grid)

    def sides(self, grid: Any) -> tuple[Boundary, ...]:
        """The boundaries of the lower and upper side of every axis."""
        return self.transport().sides(grid)

    def on_cells(self, grid: Any, function: Callable[..., Any]) -> Any:
        """The state `(*cells,)` that a function of position stands for."""
        return grid.average(function)

    def sde(self, grid: Any) -> tuple[Callable, Callable, Callable]:
        """Itô drift, diffusivity and killing as functions of one position: dX = f dt + √(2D) dW."""
        drift, diffusivity, killing, source, _, alpha, _, exchange, _ = self.transport()
        if exchange:
            raise ValueError("paths of particles that are bound now and then are not predicted yet; leave exchange out")
        for name, c in (("drift", drift), ("diffusivity", diffusivity), ("killing", killing)):
            if varies(c):
                raise ValueError(f"paths need a {name} that does not depend on time")
            if isinstance(c, Tensor):
                raise ValueError("paths need a diffusivity that is a number or a function of position, got a Tensor")
        if not (absent(source) or isinstance(source, jax.core.Tracer)):  # traced, it was seen before
            raise ValueError("paths are of particles that are there from the start, got a source; leave it out")
        f, d, k = (_function(c, grid) for c in (drift, diffusivity, killing))
        if alpha == 0.0:
            return f, d, k
        return lambda x: f(x) + alpha * jax.grad(d)(x), d, k


class Diffusion(Equation):
    """Heat conduction, or diffusion of a substance.

        c ∂u/∂t = ∇·(D ∇u) − k u + s,   J = −D ∇u

    Args:
        diffusivity: D [length²/time], or with `capacity` a conductivity [energy/(length·time·u)]: a number, `PerAxis`, `Tensor`.
        decay: k [1/time], times the unit of `capacity`; negative for growth.
        source: s [u/time], times the unit of `capacity`.
        capacity: c, heat capacity per volume [energy/(length³·u)] where D is a conductivity; it must not depend on time.
        boundaries: one `Boundary` for all sides, or a dictionary {"x-": …, "x+": …}; a side not named is reflecting.
        exchange: phases that do not move, `Exchange` each, in a list.

    A coefficient is a number, an array over cells, a callable of one position, `TimeDependent`, or a `Series`; each may be
    marked for fitting.

    Raises:
        ValueError: a capacity that depends on time.

    A mode decays at the rate D k²:

    >>> from jaxdiff import Diffusion
    >>> import numpy as np
    >>> from jaxdiff import Grid, solve
    >>> grid = Grid.uniform((0.0, 1.0, 100))
    >>> mode = np.cos(np.pi * grid.centers[0])
    >>> u = solve(Diffusion(0.1), grid, mode, [0.0, 1.0]).values[-1]
    >>> bool(abs(u[0] / mode[0] - np.exp(-0.1 * np.pi**2)) < 1e-4)
    True

    Carslaw & Jaeger 1959, Conduction of Heat in Solids, Oxford; Crank 1975, The Mathematics of Diffusion, Oxford.
    """

    diffusivity: Any
    decay: Any = eqx.field(default=0.0, kw_only=True)
    source: Any = eqx.field(default=0.0, kw_only=True)
    capacity: Any = eqx.field(default=1.0, kw_only=True)
    boundaries: Any = eqx.field(converter=copied, default=reflecting, kw_only=True)
    exchange: Any = eqx.field(converter=as_phases, default=(), kw_only=True)
    driftless = True

    def __check_init__(self) -> None:
        if varies(self.capacity):
            raise ValueError("capacity must not depend on time; put the dependence into diffusivity, decay and source")

    def transport(self) -> Transport:
        more = {"boundaries": self.boundaries, "exchange": self.exchange}
        return Transport(None, self.diffusivity, self.decay, self.source, self.capacity, **more)


class FokkerPlanck(Equation):
    """The density of particles that drift and diffuse, dX = f dt + √(2D) dW.

        ∂p/∂t = −∇·(f p) + ∇²(D p) − k p + s

    Args:
        drift: f [length/time]: a number, an array over cells, a callable of one position, `TimeDependent`, or a `Potential`;
            on several axes a tuple of components, or a callable that returns them.
        diffusivity: D [length²/time], the same or `PerAxis` or `Tensor`; D = 0 is allowed at a wall, and as the number of a whole
            axis: of `PerAxis`, or on the only one. The drift then carries p upwind, of first order, and `Solution.method` says
            how large the numerical diffusion is, |f| h/2.
        killing: k [1/time].
        source: s [p/time], of particles that arrive: p is then their number per volume and not of mass one.
        interpretation: of the noise where D depends on position: "ito" (above), "stratonovich",
            J = f p − √D ∂ₓ(√D p), or "isothermal" (Hänggi–Klimontovich), J = f p − D ∂ₓp.
        boundaries: one `Boundary` for all sides, or a dictionary {"x-": …, "x+": …}; a side not named is reflecting. J is the
            flux of probability.
        exchange: phases that do not move, `Exchange` each, in a list; what is in them counts.

    Coefficients may be marked for fitting.

    Raises:
        ValueError: an interpretation that is none of the three.

    At rest in a potential the density is exp(−U/D), the Gibbs state:

    >>> import jax.numpy as jnp
    >>> from jaxdiff import FokkerPlanck
    >>> from jaxdiff import Grid, Potential, steady_state
    >>> p = steady_state(FokkerPlanck(Potential(lambda x: x**2), 0.5), Grid.uniform((-3.0, 3.0, 60)))
    >>> bool(abs(p[40] / p[30] - jnp.exp(-(1.05**2 - 0.05**2) / 0.5)) < 1e-6)
    True

    Risken 1989, The Fokker–Planck Equation, Springer, doi:10.1007/978-3-642-61544-3. Interpretations: Sokolov 2010,
    doi:10.1016/j.chemphys.2010.07.024.
    """

    drift: Any
    diffusivity: Any
    killing: Any = eqx.field(default=0.0, kw_only=True)
    source: Any = eqx.field(default=0.0, kw_only=True)
    interpretation: str = eqx.field(static=True, default="ito", kw_only=True)
    boundaries: Any = eqx.field(converter=copied, default=reflecting, kw_only=True)
    exchange: Any = eqx.field(converter=as_phases, default=(), kw_only=True)
    probability = True

    def __check_init__(self) -> None:
        if self.interpretation not in _ALPHA:
            raise ValueError(f"interpretation must be one of {', '.join(_ALPHA)}, got {self.interpretation!r}")

    def transport(self) -> Transport:
        more = {"alpha": _ALPHA[self.interpretation], "boundaries": self.boundaries, "exchange": self.exchange}
        return Transport(self.drift, self.diffusivity, self.killing, self.source, **more, degenerate=True)


def _function(coefficient: Any, grid: Any) -> Callable[[Any], Any]:
    if callable(coefficient):
        return lambda x: as_number(coefficient, jnp.asarray(x, jnp.result_type(float)))
    if is_cells(coefficient):
        return lambda x: grid.interpolate(coefficient, x)
    value = 0.0 if coefficient is None else coefficient
    return lambda x: jnp.asarray(value, jnp.result_type(float))
