"""The Fokker–Planck equation in the clothes of the Schrödinger equation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxdiff.model.arguments import at_place, one_number
from jaxdiff.model.coefficients import Potential, is_number, varies
from jaxdiff.model.equations import FokkerPlanck
from jaxdiff.model.schrodinger import Schrodinger
from jaxdiff.parameters import plain

_NAMES = ("x", "y", "z")


def schrodinger_form(equation: FokkerPlanck, boundaries: Any = None) -> tuple[Schrodinger, Callable[..., Any]]:
    """The Schrödinger equation in imaginary time of a Fokker–Planck equation with a potential, and the weight between the two.

        p = e^{−U/2D} ψ,   ∂ψ/∂τ = D ∇²ψ − V ψ,   V = |∇U|²/4D − ∇²U/2 + k

    The rates at which p fades are the energies of ψ (ħ = 1, m = 1/2D), with the sign turned. What is at rest, p ∝ e^{−U/D}, is the
    ground state, of energy zero.

    Args:
        equation: its drift a `Potential` U or zero, its diffusivity D one number, killing k a number or a function of position, all
            constant in time.
        boundaries: of ψ. None: those of p, absorbing or periodic. Reflecting walls would be ∂ψ/∂n = −ψ ∂U/∂n /2D, which waves
            here don't have: where nothing is at the walls, pass `jd.Dirichlet()`.

    Returns:
        The equation of ψ, and e^{−U/2D} as a function of position.

    Raises:
        TypeError: another equation, or a drift that is no `Potential`.
        ValueError: a diffusivity or killing of another kind, walls that waves don't have.

    >>> import jaxdiff as jd
    >>> well = jd.FokkerPlanck(jd.Potential(lambda x: x**2 / 2), 0.5)
    >>> wave, weight = jd.schrodinger_form(well, boundaries=jd.Dirichlet())
    >>> energies, _ = jd.spectrum(wave, jd.Grid.uniform((-7.0, 7.0, 64)), 3)
    >>> [abs(round(float(energy), 6)) for energy in energies]
    [0.0, 1.0, 2.0]

    Risken 1989, The Fokker–Planck Equation, §5.4, doi:10.1007/978-3-642-61544-3.
    """
    equation = plain(equation)
    if not isinstance(equation, FokkerPlanck):
        raise TypeError(f"schrodinger_form takes a jd.FokkerPlanck, got {type(equation).__name__}")
    drift, diffusivity, killing = equation.drift, equation.diffusivity, equation.killing
    if not (isinstance(drift, Potential) and not varies(drift.energy)):
        raise TypeError("schrodinger_form takes a drift that is a jd.Potential, constant in time")
    if not is_number(diffusivity):
        raise ValueError("schrodinger_form takes a diffusivity that is one number")
    if varies(killing) or not (callable(killing) or is_number(killing)):
        raise ValueError("schrodinger_form takes a killing that is a number or a function of position")
    if boundaries is None:
        boundaries = equation.boundaries
        each = boundaries.values() if isinstance(boundaries, dict) else [boundaries]
        if not all(wall.periodic or wall.path == "absorbing" for wall in each):
            raise ValueError(
                "waves have no reflecting walls with a drift; where nothing is at the walls, pass boundaries=jd.Dirichlet()"
            )
    effective = _Effective(drift.energy, diffusivity, killing)
    wave = Schrodinger(effective, mass=1 / (2 * jnp.asarray(diffusivity)), imaginary_time=True, boundaries=boundaries)
    return wave, effective.weight


class _Effective(eqx.Module):
    """V = |∇U|²/4D − ∇²U/2 + k."""

    energy: Any
    diffusivity: Any
    killing: Any

    def _at(self, x: Any) -> Any:
        return one_number(at_place(self.energy, _NAMES[: len(x)], *x), x.dtype, "potential")

    def __call__(self, *x: Any) -> Any:
        place = jnp.stack([jnp.asarray(each, jnp.result_type(float)) for each in x])
        slope, bend = jax.grad(self._at)(place), jnp.trace(jax.hessian(self._at)(place))
        lost = at_place(self.killing, _NAMES[: len(x)], *x) if callable(self.killing) else self.killing
        return jnp.sum(slope**2) / (4 * self.diffusivity) - bend / 2 + lost

    def weight(self, *x: Any) -> Any:
        return jnp.exp(
            -self._at(jnp.stack([jnp.asarray(each, jnp.result_type(float)) for each in x])) / (2 * self.diffusivity)
        )
