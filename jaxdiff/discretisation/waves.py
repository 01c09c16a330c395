"""The Schrödinger equation as a system: values of the wave at the centres of cells, derivatives in the modes of the domain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.discretisation.lattice import kind_of
from jaxdiff.discretisation.system import System, TimeDependence, uneven_axis
from jaxdiff.model.coefficients import varies
from jaxdiff.model.schrodinger import at_centers
from jaxdiff.operators import Basis, Hamiltonian
from jaxdiff.runtime.conditions import Condition, cell

_FINE = 0.8  # of the shortest waves that cells hold; what is shorter is hardly resolved
_UNRESOLVED = 1e-2  # share of the norm
_MEETS = 1e-6  # of the peak, the density beside a wall that is met


class WaveSystem(System):
    """dψ/dt = i A ψ, or dψ/dτ = A ψ in imaginary time, for the values ψ `(*cells,)` themselves, A = −H/ħ."""

    monotone = False
    at_centers = True

    @property
    def weights(self) -> Any:
        return jnp.ones(())

    @property
    def forced(self) -> bool:
        return False

    def modes(self, real: bool) -> Basis:
        """Those that the walls allow, of real or of complex waves."""
        sides = self.equation.sides(self.grid)
        kinds = tuple(kind_of(*walls) for walls in zip(sides[::2], sides[1::2], strict=True))
        return Basis(kinds, self.grid.shape, real)

    def time_dependence(self) -> TimeDependence:
        return TimeDependence(operator=varies(self.equation.potential))

    def require_operator(self) -> None:
        """Raise unless walls and cells have modes."""
        equation, grid = self.equation, self.grid
        if grid.discrete:
            raise ValueError("waves are solved on a grid of space, got states; use jd.Grid.uniform")
        for number in ("mass", "hbar"):
            value = getattr(equation, number)
            if np.ndim(value) or jnp.iscomplexobj(value):
                got = "a complex one" if jnp.iscomplexobj(value) else f"shape {np.shape(value)}"
                raise ValueError(f"{number} is one real number, got {got}; for several use jax.vmap")
        if grid.geometry != "cartesian":
            raise ValueError(f"waves are solved on Cartesian grids, got a {grid.geometry} one; for r ψ take an axis r")
        if name := uneven_axis(grid):
            raise ValueError(
                f"waves are solved on equal cells, got widths that differ along {name}; use jd.Grid.uniform"
            )
        for name, wall in zip(grid.sides, equation.sides(grid), strict=True):
            if wall.open and not wall.fixes_value:
                raise ValueError(
                    f"at {name} a wave takes Dirichlet(), Neumann() or Periodic(), got {type(wall).__name__}"
                )
            if any(map(callable, wall.numbers.values())):
                raise ValueError(f"at {name} a wave takes a wall at zero, got {type(wall).__name__} with a function")

    def potential(self, t: Any) -> Any:
        """V/ħ at time t `(*cells,)` [1/time]."""
        return self._over_hbar(at_centers(self.grid, self.equation.potential, "potential", t))

    def glimpse(self, t: Any) -> Any:
        """V/ħ at time t in a few cells, wherever they are."""
        few = {1: 8, 2: 4, 3: 3}[self.grid.ndim]
        return self._over_hbar(at_centers(self.grid, self.equation.potential, "potential", t, few=few)).ravel()

    @property
    def absorption(self) -> Any:
        """Γ/ħ `(*cells,)` [1/time], None for none."""
        if self.equation.absorption is None:
            return None
        return self._over_hbar(at_centers(self.grid, self.equation.absorption, "absorption"))

    def kinetic(self, basis: Basis) -> Any:
        """ħk²/2m `(*modes,)` [1/time]."""
        found: Any = 0.0
        for k, edges in enumerate(map(jnp.asarray, self.grid.edges)):
            squared = (jnp.asarray(basis.wavenumbers(k), edges.dtype) / (edges[-1] - edges[0])) ** 2
            found = found + squared.reshape(-1, *(1,) * (self.grid.ndim - 1 - k))
        return self._hbar / (2 * jnp.asarray(self.equation.mass)) * found

    def _over_hbar(self, energies: Any) -> Any:
        return energies.astype(jnp.asarray(self.grid.edges[0]).dtype) / self._hbar

    @property
    def _hbar(self) -> Any:
        return jnp.asarray(self.equation.hbar)

    def operator(self, t: Any) -> Hamiltonian:
        return self.hamiltonian(t, self.equation.imaginary_time)

    def hamiltonian(self, t: Any, real: bool) -> Hamiltonian:
        """A, of real or of complex waves."""
        basis = self.modes(real)
        return Hamiltonian(self.kinetic(basis), self.potential(t), basis, self.absorption)

    def begin(self, u: Any, t: Any) -> tuple[Any, list[Condition]]:
        """The wave, which must have a norm, and be longer than cells."""
        u, _ = super().begin(u, t)
        norm, share = jax.lax.stop_gradient((self.norm(u), self.unresolved(u)))
        none = "the wave at the start has the norm {value}; it must be positive and finite"
        short = "the wave at the start has {value} of its norm in waves that are hardly longer than two cells; take smaller cells"
        found = [
            *self.conditions(t),  # before what follows from them
            (none, ~(jnp.isfinite(norm) & (norm > 0)), 0.0, norm),
            (short, share > _UNRESOLVED, 0.0, share),
        ]
        if not self.equation.imaginary_time:
            u = u.astype(jnp.result_type(u, jnp.complex64))
        return u, found

    def norm(self, u: Any) -> Any:
        """The root of ∫|ψ|² dV."""
        return jnp.sqrt(jnp.sum(density(u)) * jnp.asarray(self.grid.volumes).ravel()[0])

    def unresolved(self, u: Any) -> Any:
        """The share of the norm of a wave that is in waves that cells hardly hold."""
        basis, short = self.modes(real=False), np.zeros((), bool)
        for k, n in enumerate(self.grid.shape):
            fine = np.abs(basis.wavenumbers(k)) > _FINE * np.pi * n
            short = short | fine.reshape(-1, *(1,) * (self.grid.ndim - 1 - k))
        held = density(basis.analyse(u.astype(jnp.result_type(u, jnp.complex64)))) / basis.squares
        whole, missed = jnp.sum(held), jnp.sum(jnp.where(short, held, 0.0))
        return jnp.sqrt(missed / jnp.where(whole > 0, whole, 1.0))

    def watched(self, u: Any) -> Any:
        """What is watched of a wave on its way: the share that is `unresolved`, and the largest density beside each side."""
        each = density(u)
        beside = [jnp.max(jnp.take(each, cells, axis=k)) for k, n in enumerate(self.grid.shape) for cells in _beside(n)]
        return jnp.stack([self.unresolved(u), *beside])

    def held(self, watched: Any, known: Any) -> list[Condition]:
        """That cells hold a wave of which the most was `watched`, if it is `known`."""
        words = "the wave comes to have {value} of its norm in waves that are hardly longer than two cells; take smaller cells"
        return [(words, known & (watched[0] > _UNRESOLVED), 0.0, watched[0])]

    def conditions(self, t: Any) -> list[Condition]:
        """Finite numbers, a positive mass and ħ, nothing that grows, and walls at zero."""
        place = cell(self.grid.ndim)
        found: list[Condition] = []
        for name in ("mass", "hbar"):
            value = jnp.asarray(getattr(self.equation, name))
            good = jnp.isfinite(value) & (value > 0)
            found.append((f"{name} is {{value}}; it must be positive and finite", ~good, 0.0, value))
        found.append((f"potential is {{value}} in cell {place}; it must be finite", None, None, self.potential(t)))
        if (absorption := self.absorption) is not None:
            words = f"absorption is {{value}} over hbar in cell {place}; it must not be negative"
            found.append((words, ~(absorption >= 0), None, absorption))
        for name, wall in zip(self.grid.sides, self.equation.sides(self.grid), strict=True):
            for number, value in wall.numbers.items():
                words = f"a wave takes walls at zero, got {type(wall).__name__} with {number} {{value}} at {name}"
                found.append((words, jnp.asarray(value) != 0, 0.0, jnp.asarray(value)))
        return found

    def read(self, wave: Any, points: Any) -> Any:
        """The density of waves `(…, *cells)` at points `(m, ndim)`, or on one axis `(m,)`, by their modes: `(…, m)`."""
        ndim = self.grid.ndim
        if wave.ndim > ndim:
            return jax.vmap(lambda one: self.read(one, points))(wave)
        points = points.reshape(-1, ndim)
        basis = self.modes(real=False)
        left: Any = basis.analyse(wave.astype(jnp.result_type(wave, jnp.complex64)))[None]
        for k, edges in enumerate(map(jnp.asarray, self.grid.edges)):
            at = basis.modes_at(k, (points[:, k] - edges[0]) / (edges[-1] - edges[0]))
            left = jnp.broadcast_to(left, (len(points), *left.shape[1:]))
            left = jnp.einsum("mi,mi...->m...", at, left, precision="highest")
        return density(left)

    def on_mesh(self, wave: Any, places: tuple[Any, ...]) -> Any:
        """The density of a wave `(*cells,)` wherever places along all axes meet, by its modes."""
        basis = self.modes(real=False)
        left: Any = basis.analyse(wave.astype(jnp.result_type(wave, jnp.complex64)))
        for k, (edges, x) in enumerate(zip(map(jnp.asarray, self.grid.edges), places, strict=True)):
            at = basis.modes_at(k, (x - edges[0]) / (edges[-1] - edges[0]))
            left = jnp.moveaxis(jnp.tensordot(left, at, axes=(k, 1), precision="highest"), -1, k)
        return density(left)

    def _along(self, wave: Any, k: int, x: Any) -> tuple[Any, Any]:
        """The wave and its derivative along axis k at places on it, `(…, m)`."""
        basis = Basis((self.modes(real=False).kinds[k],), (self.grid.shape[k],), real=False)
        modes = basis.analyse(jnp.moveaxis(wave, k, -1).astype(jnp.result_type(wave, jnp.complex64)))
        dot = lambda matrix: jnp.matmul(modes, matrix.T, precision="highest")
        edges = jnp.asarray(self.grid.edges[k])
        length = edges[-1] - edges[0]
        places = (x - edges[0]) / length
        return dot(basis.modes_at(0, places)), dot(basis.modes_at(0, places, slope=True)) / length

    def fluxes(self, t: Any, u: Any, k: int = 0) -> Any:
        """The current (ħ/m) Im ψ*∂ψ through all faces across axis k, over the whole of each, `(n + 1,)`."""
        wave, slope = self._along(u, k, jnp.asarray(self.grid.edges[k]))
        area = jnp.asarray(self.grid.volumes).ravel()[0] / jnp.asarray(self.grid.widths[k])[0]
        current = self._hbar / jnp.asarray(self.equation.mass) * (jnp.conj(wave) * slope).imag
        return area * jnp.sum(current, axis=tuple(range(current.ndim - 1)))

    def at_wall(self, t: Any, u: Any, k: int, end: int) -> Any:
        """The mean density at one end of axis k."""
        return jnp.mean(density(self._along(u, k, jnp.asarray(self.grid.edges[k])[[0, -1]])[0][..., end]))

    def energy(self, t: Any, u: Any) -> Any:
        """∫ψ* H ψ dV."""
        volume = jnp.asarray(self.grid.volumes).ravel()[0]
        return -self._hbar * volume * jnp.sum((jnp.conj(u) * (self.operator(t) @ u)).real)

    def momentum(self, u: Any, k: int) -> Any:
        """∫ψ* (−iħ∂ψ) dV along axis k."""
        wave, slope = self._along(u, k, jnp.asarray(self.grid.centers[k]))
        return self._hbar * jnp.asarray(self.grid.volumes).ravel()[0] * jnp.sum((jnp.conj(wave) * slope).imag)

    def of_phase(self, phase: Any) -> Callable[[Any], Any]:
        """Measurements see the density, probes of what waves do the wave itself, phase 0."""
        if phase == 0:
            return lambda states: states
        if phase != "total":
            raise ValueError(f"a wave has no phases that are bound, got phase={phase!r}; leave it out")
        return density


def density(wave: Any) -> Any:
    """|ψ|²."""
    return wave.real**2 + wave.imag**2 if jnp.iscomplexobj(wave) else wave**2


def _beside(n: int) -> tuple[np.ndarray, np.ndarray]:
    """The cells beside the lower and the upper of two walls."""
    few = np.arange(max(1, n // 50))
    return few, n - 1 - few


def met_walls(equation: Any, grid: Any, values: Any, on_the_way: Any = None) -> str:
    """Which walls waves meet whose values at some times are `(T, *cells)`, with the densities beside walls that were `watched`
    between them, in words; empty where they meet none, and for other equations."""
    if not equation.wave or isinstance(values, jax.core.Tracer):
        return ""
    found, densities = [], np.asarray(density(values))
    sides = equation.sides(grid)
    for i, (name, wall) in enumerate(zip(grid.sides, sides, strict=True)):
        edge = np.take(densities, _beside(grid.shape[i // 2])[i % 2], axis=1 + i // 2).max()
        if on_the_way is not None and len(on_the_way):
            edge = max(edge, float(on_the_way[1 + i]))
        if edge > _MEETS * densities.max() and not (wall.periodic and i % 2):
            found.append(f"comes around along {name[:-1]}" if wall.periodic else f"meets the wall at {name}")
    return "the wave " + ", ".join(found) if found else ""
