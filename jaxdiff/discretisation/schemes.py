"""How space is discretised: which systems stand for an equation on a grid, and how their states combine."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.discretisation.exchange import ExchangeSystem, finite_volumes
from jaxdiff.discretisation.line import LineSystem
from jaxdiff.discretisation.rates import RatesSystem
from jaxdiff.discretisation.system import System, TransportSystem, uneven_axis
from jaxdiff.discretisation.waves import WaveSystem
from jaxdiff.model.coefficients import Potential, Tensor, absent, at_points, is_cells, is_number
from jaxdiff.model.equations import Equation, Transport
from jaxdiff.model.grid import Grid
from jaxdiff.model.series import Series
from jaxdiff.runtime.conditions import Condition


def semidiscrete(equation: Equation, grid: Grid, scheme: Any) -> list[Any]:
    """The systems that stand for an equation on a grid; raise if they are its own, and the scheme wants those it makes."""
    systems = equation.semidiscretise(grid, scheme)
    if not isinstance(systems, list | tuple) or not all(isinstance(system, System) for system in systems):
        raise TypeError(
            f"{type(equation).__name__}.semidiscretise must return a list of systems, got {type(systems).__name__}"
        )
    if not scheme.holds(systems):
        raise ValueError(f"{type(equation).__name__} is discretised by itself, got scheme={scheme}; leave scheme out")
    if not all(isinstance(system, (TransportSystem, ExchangeSystem)) for system in systems):
        own = f"{type(equation).__name__} brings a system of its own, which"
        if grid.ndim > 1 and not all(system.among_states or equation.wave for system in systems):
            raise ValueError(f"{own} is solved on one axis; number its states in one row")
        if grid.mask is not None:
            raise ValueError(f"{own} takes no mask; leave out the states that there are not")
    for system in systems:
        system.require_operator()
    return systems


def upwinded(equation: Any, grid: Grid, scheme: Any, times: Any) -> str:
    """What transport along axes of zero diffusivity costs, in words: the first order of its fluxes; empty where there is none."""
    diffusivity = getattr(equation, "diffusivity", None)
    if not any(is_number(one) and absent(one) for one in getattr(diffusivity, "coefficients", (diffusivity,))):
        return ""
    system, looked = semidiscrete(equation, grid, scheme)[0], times[:1]
    if system.operator_varies and len(times) > 1:
        looked = np.interp(np.linspace(0, len(times) - 1, 8 * min(len(times), 1000)), np.arange(len(times)), times)
    each = jax.vmap(system.numerical_diffusion)(jnp.asarray(looked))
    if any(isinstance(value, jax.core.Tracer) for value in each.values()):
        return "upwind where D = 0, with a numerical diffusion of up to |f| h/2"
    axes = " and ".join(f"{float(jnp.max(value)):.3g} along {name}" for name, value in each.items())
    return f"upwind where D = 0, numerical diffusion |f| h/2 of up to {axes}" if axes else ""


class Scheme(eqx.Module):
    """How an equation on a grid becomes systems, and their states one solution."""

    in_modes: ClassVar[bool] = False  # whether A is diagonal in a basis, so that time needs no method of its own

    @abstractmethod
    def systems(self, equation: Equation, grid: Grid) -> list[Any]:
        """The systems to evolve; raise where the scheme does not hold."""

    def among_states(self, equation: Equation, states: Any) -> list[Any]:
        """The systems of a master equation, which has no space to discretise."""
        return [RatesSystem(equation, states)]

    def of_waves(self, equation: Equation, grid: Grid) -> list[Any]:
        """The systems of a Schrödinger equation, whose derivatives are those of modes."""
        return [WaveSystem(equation, grid)]

    @abstractmethod
    def holds(self, systems: list[Any]) -> bool:
        """Whether these systems are such that their states can be combined."""

    def conditions(self, system: Any, t: Any, u: Any) -> list[Condition]:
        """What must not be, beside the conditions of the system: of the initial state u, say."""
        return []

    def restrict(self, u: Any) -> list[Any]:
        """The initial state on each of the systems' grids."""
        return [u]

    def combine(self, values: list[Any], periodic: bool) -> Any:
        """The solution, from the states of the systems."""
        return values[0]


class FiniteVolume(Scheme):
    """Conservative finite volumes, with exponentially fitted fluxes where there is a drift.

        dNᵢ/dt = −(Jᵢ₊½ − Jᵢ₋½) − kᵢ Nᵢ/cᵢ + sᵢ Vᵢ,   Jᵢ₊½ = (D A/h) (B(−z) uᵢ − B(z) uᵢ₊₁),   B(z) = z/(eᶻ − 1)

    with z = ∫b/D dx between the centres, h apart, of two cells that share a face of area A: exact for constant coefficients in
    between, so that no density turns negative and the Gibbs state of a `Potential` stays, on any cells.

    Args:
        order: 2 keeps mass, positivity and equilibrium to roundoff, with errors of order h². 4 combines the cells with pairs
            of them (Richardson); it keeps mass, may go slightly negative, and wants smooth coefficients and start on one
            Cartesian axis of equal cells, an even number of at least 8.

    Raises:
        ValueError: an order that is neither; for order 4 in `solve`, also grids and coefficients for which it does not hold.

    >>> import jax.numpy as jnp, jaxdiff as jd
    >>> grid, rest = jd.Grid.uniform((0.0, 1.0, 10)), lambda x: jnp.exp(-20.0 * x)
    >>> steep = jd.FokkerPlanck(jd.Potential(lambda x: 20.0 * x), 1.0)
    >>> u = jd.solve(steep, grid, lambda x: rest(x), [0.0, 1.0], scheme=jd.FiniteVolume()).values[-1]
    >>> bool(u.min() > 0), round(float(u[1] / u[0] / rest(0.1)), 4)
    (True, 1.0)

    Scharfetter & Gummel 1969, doi:10.1109/T-ED.1969.16566; the same fluxes for Fokker–Planck equations: Chang & Cooper 1970,
    doi:10.1016/0021-9991(70)90001-X.
    """

    order: int = eqx.field(static=True, default=2)

    def __check_init__(self) -> None:
        if self.order not in (2, 4):
            raise ValueError(f"order must be 2 or 4, got {self.order!r}")

    def systems(self, equation: Equation, grid: Grid) -> list[Any]:
        """On the grid itself and, for order 4, on the grid of paired cells."""
        transport = equation.transport()
        if not isinstance(transport, Transport):
            raise TypeError(
                f"{type(equation).__name__}.transport must return a jaxdiff.discretisation.Transport, got {type(transport).__name__}"
            )
        if isinstance(transport.diffusivity, Tensor) and self.order == 4:
            raise ValueError("order=4 takes no Tensor; use order=2")
        if isinstance(transport.diffusivity, Tensor) and grid.mask is not None:
            raise ValueError("a Tensor takes no mask, whose outline its oblique edges would cross; use jd.PerAxis")
        if self.order == 2:
            if transport.exchange:
                return [ExchangeSystem(equation, grid)]
            return [finite_volumes(equation, grid, transport)]
        if transport.exchange:
            raise ValueError("order=4 takes no exchange; use order=2")
        if grid.mask is not None:
            raise ValueError("order=4 takes no mask; use order=2")
        if grid.ndim > 1:
            raise ValueError(f"order=4 holds on one axis; use order=2 on a grid of {grid.ndim}")
        if grid.geometry != "cartesian":
            raise ValueError("order=4 holds on Cartesian grids; use order=2 on a radial one")
        n = grid.shape[0]
        if n % 2 or n < 8:
            raise ValueError(f"order=4 pairs cells and needs an even number of at least 8, got {n}")
        if uneven_axis(grid):
            raise ValueError("order=4 holds on uniform cells; use order=2 on a non-uniform grid")
        for name in ("drift", "diffusivity", "decay", "killing", "source", "capacity"):
            if is_cells(getattr(equation, name, 0.0)):
                raise ValueError(
                    f"order=4 needs smooth coefficients: {name} is an array over cells, give a number or a function of position"
                )
        return [LineSystem(equation, grid), LineSystem(equation, Grid((grid.edges[0][::2],)))]

    def holds(self, systems: list[Any]) -> bool:
        return len(systems) == self.order // 2

    def conditions(self, system: LineSystem, t: Any, u: Any) -> list[Condition]:
        """For order 4: no coefficient jumps, that is, changes over half a cell by far more than beside it; and no cell
        holds a third of the initial state u."""
        if self.order == 2:
            return []
        x, e = jnp.asarray(system.grid.centers[0]), jnp.asarray(system.grid.edges[0])
        points = jnp.concatenate([jnp.stack([e[:-1], x], axis=1).ravel(), e[-1:]])
        held = jnp.abs(u) * jnp.asarray(system.grid.volumes)
        share = held / jnp.maximum(jnp.sum(held), jnp.finfo(held.dtype).tiny)
        message = f"order=4 needs a smooth initial state: the cell at {system.grid.sides[0][0]} = {{where}} holds {{value}} of it; use order=2"
        found: list[Condition] = [(message, share > 1 / 3, x, share)]
        if system.may_vanish:
            least = jnp.min(jnp.asarray(system.transport.diffusivity))
            words = "order=4 needs diffusion: D is {value}, where the drift goes upwind, of first order; use order=2"
            found.append((words, least == 0, 0.0, least))
        for name in ("diffusivity", "drift", "decay", "killing", "source", "capacity"):
            coefficient = getattr(system.equation, name, None)
            if not callable(coefficient) or isinstance(coefficient, (Potential, Series)):
                continue
            values = at_points(coefficient, points, t, name)
            change = jnp.pad(jnp.abs(jnp.diff(values)), 1)
            beside = jnp.maximum(change[:-2], change[2:])
            jump = (change[1:-1] > 8.0 * beside) & (change[1:-1] > 0.02 * jnp.max(jnp.abs(values)))
            message = f"order=4 needs smooth coefficients: {name} jumps by {{value}} near {system.grid.sides[0][0]} = {{where}}; use order=2"
            found.append((message, jump, (points[1:] + points[:-1]) / 2, change[1:-1]))
        return found

    def restrict(self, u: Any) -> list[Any]:
        return [u] if self.order == 2 else [u, 0.5 * (u[..., ::2] + u[..., 1::2])]

    def combine(self, values: list[Any], periodic: bool) -> Any:
        """u₄ = u_h + P[(pair(u_h) − u₂ₕ)/3] with a conservative linear prolongation P."""
        if self.order == 2:
            return values[0]
        fine, coarse = values
        excess = (0.5 * (fine[..., ::2] + fine[..., 1::2]) - coarse) / 3.0
        if periodic:
            slope = (jnp.roll(excess, -1, -1) - jnp.roll(excess, 1, -1)) / 2.0
        else:
            slope = jnp.asarray(jnp.gradient(excess, axis=-1))
        return fine + jnp.stack([excess - slope / 4.0, excess + slope / 4.0], axis=-1).reshape(fine.shape)
