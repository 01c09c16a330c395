"""Constant coefficients between walls at zero: the modes of the domain, each decaying by itself."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.discretisation.lattice import LatticeSystem, kind_of
from jaxdiff.discretisation.schemes import Scheme
from jaxdiff.discretisation.system import TransportSystem, uneven_axis
from jaxdiff.model.coefficients import PerAxis, Potential, Tensor, absent, varies
from jaxdiff.model.equations import Equation
from jaxdiff.model.grid import Grid
from jaxdiff.model.series import Series
from jaxdiff.model.time_dependent import TimeDependent
from jaxdiff.operators import Basis, Diagonal
from jaxdiff.runtime.conditions import Condition, cell

_MEND = "use jd.FiniteVolume()"


class Spectral(Scheme):
    """The exact solution for constant coefficients, as a sum of the modes that the walls allow.

        u(t) = Σ e^{λt} û(0) + t φ₁(λt) ŝ/c,   λ = −(Σ D k² + i f·k + decay)/c

    with the wavenumbers k of the continuous problem, on one to three axes of equal cells, at O(n log n) per output time.

    | walls of an axis                     | modes           | k [1/length]         |
    |--------------------------------------|-----------------|----------------------|
    | `Periodic()`                         | waves           | 2πm/L, m = 0, ±1, …  |
    | both `Flux(0)` or `Neumann(0)`       | cosines         | πm/L, m = 0, 1, …    |
    | both `Dirichlet(0)`                  | sines           | πm/L, m = 1, 2, …    |
    | one of each                          | quarter waves   | π(m + ½)/L           |

    Takes no arguments. Diffusivity (one for every axis with `PerAxis`, or a `Tensor` if all axes are periodic), decay, killing,
    capacity and each component of a drift are numbers; a drift stands along periodic axes alone. A source is a number, an array
    over cells, or a function of position, which like an initial state is averaged over cells. A `Boundary` of your own has modes
    where it is not `open` or fixes the value, and all its numbers are zero.

    Exact in time; a mode below one per two cells is exact in space, for cell averages as for values at cell centres. What the
    cells resolve and the walls allow is thus exact to roundoff; jumps, and states or sources that contradict a wall, oscillate,
    also below zero.

    Raises:
        ValueError: in one line, for coefficients that vary, cells that are not equal, radial grids, and walls that are
            not at zero or of another kind.

    >>> import numpy as np
    >>> from jaxdiff import Grid, Spectral
    >>> from jaxdiff import Diffusion, solve
    >>> grid = Grid.uniform((0.0, 1.0, 10))
    >>> mode = np.cos(np.pi * grid.centers[0])
    >>> u = solve(Diffusion(0.1), grid, mode, [0.0, 1.0], scheme=Spectral()).values[-1]
    >>> bool(abs(u[0] / mode[0] - np.exp(-0.1 * np.pi**2)) < 1e-6)
    True

    The transforms: Strang 1999, The Discrete Cosine Transform, doi:10.1137/S0036144598336745.
    """

    in_modes = True

    def systems(self, equation: Equation, grid: Grid) -> list[Any]:
        """The one system to evolve, if the modes are those of the equation."""
        if equation.transport().exchange:
            raise ValueError(
                "Spectral() takes no exchange; leave scheme out, which finds the modes of the cells where they have some"
            )
        system = SpectralSystem(equation, grid)
        system.require_modes()
        return [system]

    def holds(self, systems: list[Any]) -> bool:
        return isinstance(systems[0], SpectralSystem)


class SpectralSystem(TransportSystem):
    """du/dt = A u + b for the values u themselves, A diagonal in the `basis`."""

    monotone = False

    @property
    def basis(self) -> Basis:
        return Basis(tuple(kind_of(*walls) for walls in self._axes()), self.grid.shape)

    @property
    def weights(self) -> Any:
        return jnp.ones(())

    @property
    def forced(self) -> bool:
        """Whether there may be a source: one that is known to be zero is none."""
        return not absent(self.transport.source)

    def operator(self, t: Any) -> Diagonal:
        """A at any time."""
        ndim, basis = self.grid.ndim, self.basis
        parts = [-self._loss.reshape((1,) * ndim)]
        for k in range(ndim):
            drift, diffusivity = self._along(k)
            edges = jnp.asarray(self.grid.edges[k])
            scale = 1.0 / (edges[-1] - edges[0])
            each = -diffusivity * (jnp.asarray(basis.wavenumbers(k), edges.dtype) * scale) ** 2
            if drift is not None and basis.kinds[k] == "waves":
                each = jax.lax.complex(each, -drift * jnp.asarray(basis.odd(k), edges.dtype) * scale)
            parts.append(each.reshape(-1, *(1,) * (ndim - 1 - k)))
            for j in range(k) if self._matrix is not None else ():  # D_jk and D_kj
                both = [basis.odd(i) / (self.grid.edges[i][-1] - self.grid.edges[i][0]) for i in (j, k)]
                mixed = -2 * self._matrix[j, k] * both[0].reshape(-1, *(1,) * (k - j)) * both[1]
                parts.append(mixed.reshape(*mixed.shape, *(1,) * (ndim - 1 - k)))
        if self._matrix is not None:  # what is mixed grows where the axes decay: no factor of its own
            parts = [sum(parts)]
        return Diagonal(tuple(part / self._capacity for part in parts), basis)

    def forcing(self, t: Any, rates: Any = None) -> Any:
        """b at any time, `(*cells,)`."""
        return self.grid.average(self.transport.source) / self._capacity

    def conditions(self, t: Any) -> list[Condition]:
        """Diffusivity and capacity positive, numbers finite, nothing at a wall."""
        found: list[Condition] = []
        for k, (name, walls) in enumerate(zip(self.grid.names, self._axes())):
            drift, diffusivity = self._along(k)
            message = f"diffusivity is {{value}} along {name}; it must be positive"
            found.append((message, ~(diffusivity > 0), 0.0, diffusivity))
            if drift is not None and walls[0].periodic:
                message = f"drift is {{value}} along {name}; it must be finite"
                found.append((message, ~jnp.isfinite(drift), 0.0, drift))
            elif drift is not None:
                message = f"Spectral takes a drift along periodic axes alone, got {{value}} along {name}; {_MEND}"
                found.append((message, _at_zero(drift) != 0, 0.0, drift))
            for wall, end in zip(walls, "-+"):
                for value in map(jnp.asarray, wall.numbers.values()):
                    kind, message = type(wall).__name__, f"of {{value}} at {name}{end}; {_MEND}"
                    message = f"Spectral takes walls at zero, got {kind} {message}"
                    found.append((message, _at_zero(value) != 0, 0.0, value))
        if self._matrix is not None:
            least = jnp.linalg.eigvalsh(jax.lax.stop_gradient(self._matrix))[0]
            message = "the Tensor has the eigenvalue {value}; it must be positive definite"
            found.append((message, ~(least > 0), 0.0, least))
        loss, capacity = self._loss, jnp.asarray(self._capacity)
        found.append(("decay or killing is {value}; it must be finite", ~jnp.isfinite(loss), 0.0, loss))
        found.append(("capacity is {value}; it must be positive", ~(capacity > 0), 0.0, capacity))
        source = self.forcing(t)
        message = f"source over capacity is {{value}} in cell {cell(self.grid.ndim)}; it must be finite"
        return [*found, (message, None, None, source)]

    def require_modes(self) -> None:
        """Raise unless structure allows for modes; what numbers must satisfy is among the conditions."""
        if self.grid.mask is not None:
            raise ValueError(f"Spectral takes no mask, whose domain has modes of its own; {_MEND}")
        if self.grid.geometry != "cartesian":
            raise ValueError(f"Spectral holds on Cartesian grids, got a {self.grid.geometry} one; {_MEND}")
        if name := uneven_axis(self.grid):
            raise ValueError(f"Spectral holds on uniform cells, got widths that differ along {name}; {_MEND}")
        for name, wall in zip(self.grid.sides, (wall for walls in self._axes() for wall in walls)):
            if wall.open and not wall.fixes_value:
                raise ValueError(
                    f"Spectral takes Periodic, Dirichlet(0), Flux(0) or Neumann(0), got {type(wall).__name__} at {name}; {_MEND}"
                )
            for value in wall.numbers.values():
                _constant(f"a value at {name}", value)
        tensor, square = self.transport.diffusivity, (self.grid.ndim,) * 2
        if isinstance(tensor, Tensor) and (set(self.basis.kinds) != {"waves"} or np.shape(tensor.matrix) != square):
            raise ValueError(
                f"Spectral takes a Tensor that is one matrix {square} where all axes are periodic; {_MEND}"
            )
        names = ("a drift", "a diffusivity", "a decay or killing", "a source", "a capacity")
        for k in range(self.grid.ndim):
            for name, coefficient in zip(names, self._coefficients(k)):
                if name != "a source":
                    _constant(name, coefficient)
                elif varies(coefficient):
                    raise ValueError(
                        f"Spectral takes a source that is constant in time, got {type(coefficient).__name__}; {_MEND}"
                    )

    def _axes(self) -> list[tuple[Any, Any]]:
        """The lower and upper wall of every axis."""
        return list(zip(self.sides[::2], self.sides[1::2]))

    def _coefficients(self, k: int) -> list[Any]:
        """Drift and diffusivity along axis k; along the first also loss, source and capacity."""
        if self.grid.ndim > 1:
            return LatticeSystem(self.equation, self.grid)._coefficients(k)
        return list(self.transport[:5])

    def _along(self, k: int) -> tuple[Any, Any]:
        """Drift, None in an equation that has none, and diffusivity."""
        drift, diffusivity, *_ = self._coefficients(k)
        return None if drift is None else jnp.asarray(drift), jnp.asarray(diffusivity)

    @property
    def _matrix(self) -> Any:
        """The diffusivity where it is a `Tensor`, else None."""
        tensor = self.transport.diffusivity
        if not isinstance(tensor, Tensor):
            return None
        matrix = jnp.asarray(tensor.matrix)
        return (matrix + matrix.T) / 2

    @property
    def _loss(self) -> Any:
        return jnp.asarray(self.transport.loss)

    @property
    def _capacity(self) -> Any:
        return 1.0 if self.transport.capacity is None else self.transport.capacity


def _constant(name: str, value: Any) -> None:
    """Raise unless a coefficient is a number."""
    if isinstance(value, (Series, TimeDependent, Potential, PerAxis)):
        got = type(value).__name__
    elif callable(value):
        got = "a function"
    elif np.ndim(value):
        got = f"an array of shape {np.shape(value)}"
    else:
        return
    raise ValueError(f"Spectral takes {name} that is one number, got {got}; {_MEND}")


@jax.custom_jvp
def _at_zero(value: Any) -> Any:
    """A number that must be zero: what else it does to the solution is not known, so neither is a derivative."""
    return value


@_at_zero.defjvp
def _no_derivative(primals: Any, tangents: Any) -> Any:
    raise ValueError(f"Spectral has no derivative in the value of a wall or in a drift towards it; {_MEND}")
