"""The Schrödinger equation of one particle, or of whatever waves as it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.model.arguments import at_place, one_number
from jaxdiff.model.boundaries import Dirichlet, sides
from jaxdiff.model.coefficients import at_time, varies
from jaxdiff.model.discontinuities import at_equal_places
from jaxdiff.model.equations import Equation, copied


class Schrodinger(Equation):
    """The wave of a particle in a potential.

        iħ ∂ψ/∂t = −ħ²/2m ∇²ψ + V ψ − iΓ ψ;   in imaginary time ħ ∂ψ/∂τ = ħ²/2m ∇²ψ − V ψ

    A state is complex, the values of ψ at the centres of the cells, on one to three axes of equal cells; a callable initial state is
    evaluated there. Derivatives are those of the modes that the walls allow, so that errors fall faster than any power of the width
    of the cells while V and ψ are smooth. Where a function V jumps by a comparison of its own they fall as the cube of the width on
    one axis, wherever the jump is; on several, and of arrays, as its square if the jump is at a face, else as the width itself. When V
    jumps in time is read off an `Expression`; a pulse shorter than 1/4000 of all the time may be stepped over, unless output times
    stand around it. `Readings` see the density |ψ|² [1/length^d] of waves that begin with ∫|ψ|² dV = 1, probes of fluxes the current
    (ħ/m) Im ψ*∇ψ, `Energy` and `Momentum` what they say.

    Args:
        potential: V [energy]: a number, an array over cells, a callable of one position, `TimeDependent`, or a `Series`.
        mass: m [energy·time²/length²], a number.
        hbar: ħ [energy·time], a number.
        absorption: Γ ≥ 0 [energy], None for none, constant in time, of layers at the edges that take up what comes: |ψ|² fades there at the rate 2Γ/ħ. Where it
            sets in slower than a wavelength little comes back.
        imaginary_time: whether times are those of e^{−Hτ/ħ}, in which the ground state stays: divide by the norm. V is constant then,
            and of a start that has next to nothing of that state what roundoff makes is refused: for the lowest odd
            state take half of the domain, whose ground state it is.
        boundaries: `Dirichlet()`, a wall that no wave enters, `Neumann()`, a mirror, or `Periodic()`; one for all sides, or a
            dictionary {"x-": …, "x+": …}, in which a side not named is a wall. What comes to a wall is sent back; `Solution.method` says so.

    Numbers of the potential, mass, ħ and absorption may be marked for fitting.

    Raises:
        ValueError: a potential that is None, a mass or ħ that is a function, an absorption of time; in imaginary time, a potential of time or an absorption.

    A wave in a harmonic well comes back after a period, with its sign turned:

    >>> import jax.numpy as jnp, jaxdiff as jd, numpy as np
    >>> well, grid = jd.Schrodinger(lambda x: x**2 / 2), jd.Grid.uniform((-10.0, 10.0, 128))
    >>> wave = lambda x: jnp.pi**-0.25 * jnp.exp(-((x - 2.0) ** 2) / 2)
    >>> psi = jd.solve(well, grid, wave, [0.0, 2 * np.pi]).values
    >>> bool(jnp.abs(psi[1] + psi[0]).max() < 1e-4)
    True

    Split steps: Blanes & Moan 2002, doi:10.1016/S0377-0427(01)00492-7. Chebyshev: Tal-Ezer & Kosloff 1984, doi:10.1063/1.448136.
    """

    potential: Any
    mass: Any = eqx.field(default=1.0, kw_only=True)
    hbar: Any = eqx.field(default=1.0, kw_only=True)
    absorption: Any = eqx.field(default=None, kw_only=True)
    imaginary_time: bool = eqx.field(static=True, default=False, kw_only=True)
    boundaries: Any = eqx.field(converter=copied, default=Dirichlet(0.0), kw_only=True)
    wave = True

    def __check_init__(self) -> None:
        if self.potential is None:
            raise ValueError(
                "potential is None; it is a number, an array over cells or a function of position, 0.0 for none"
            )
        for name in ("mass", "hbar"):
            if callable(getattr(self, name)):
                raise ValueError(f"{name} is one number, got a function; leave position and time out")
        if varies(self.absorption):
            raise ValueError("absorption must not depend on time; put the dependence into the potential")
        if self.imaginary_time and varies(self.potential):
            raise ValueError("in imaginary time the potential must not depend on time; leave imaginary_time out")
        if self.imaginary_time and self.absorption is not None:
            raise ValueError("in imaginary time nothing is absorbed; leave absorption or imaginary_time out")

    def semidiscretise(self, grid: Any, scheme: Any) -> list[Any]:
        return scheme.of_waves(self, grid)

    def sides(self, grid: Any) -> tuple[Any, ...]:
        return sides(self.boundaries, grid, unnamed=Dirichlet(0.0))

    def on_cells(self, grid: Any, function: Callable[..., Any]) -> Any:
        """A wave, real or complex, at the centres."""
        return at_centers(grid, function, "a wave", complexes=True)


def at_centers(
    grid: Any, coefficient: Any, what: str, t: Any = None, complexes: bool = False, few: int | None = None
) -> Any:
    """A number, an array over cells or a function of position at the centres of the cells `(*cells,)`; at time t.

    Of an axis alone what integrates a real function where it jumps, see `at_equal_places`. few: of about so many centres along each axis.
    """
    chosen = tuple(slice(None, None, max(1, n // few) if few else 1) for n in grid.shape)
    value = at_time(coefficient, t, grid.names)
    mend = "leave i out" if what == "absorption" else "what is taken up is absorption="
    imaginary = f"{what} is real, got complex numbers; {mend}"
    if not callable(value):
        value = jnp.asarray(np.array(value) if isinstance(value, np.ndarray) else value)
        if value.ndim and value.shape != grid.shape:
            raise ValueError(
                f"{what}: expected a number, a function of position or {grid.shape} values, got shape {value.shape}"
            )
        if jnp.iscomplexobj(value) and not complexes:
            raise ValueError(imaginary)
        return jnp.broadcast_to(value, grid.shape)[chosen]

    def at_one(*x: Any) -> Any:
        found = jnp.asarray(at_place(value, grid.names, *x))
        if not complexes:
            if jnp.iscomplexobj(found):
                raise ValueError(imaginary)
            return one_number(found, x[0].dtype, what)
        if found.shape:
            raise ValueError(f"{what}: expected one number at each point, got shape {found.shape}")
        return found.astype(jnp.result_type(found, x[0].dtype))

    at_all: Any = at_one
    for k in reversed(range(grid.ndim)):
        at_all = jax.vmap(at_all, in_axes=[0 if j == k else None for j in range(grid.ndim)])
    found = at_all(
        *(jnp.asarray(x, jnp.result_type(float))[each] for x, each in zip(grid.centers, chosen, strict=True))
    )
    if complexes or few or grid.ndim > 1 or getattr(value, "continuous", False):
        return found
    return at_equal_places(at_one, jnp.asarray(grid.centers[0], found.dtype), found)


def between_centers(grid: Any, points: np.ndarray) -> bool:
    """Whether some of the points `(m, ndim)`, or on one axis `(m,)`, lie between the centres of cells."""
    points = np.asarray(points).reshape(len(points), -1)
    for x, centers, widths in zip(points.T, grid.centers, grid.widths, strict=True):
        cells = (x - np.asarray(centers)[0]) / np.asarray(widths)[0]
        if (np.abs(cells - np.round(cells)) > 1e-9).any():
            return True
    return False
