"""The energy of waves: kinetic in the modes of the domain, potential in its cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxdiff.operators.basis import Basis


class Hamiltonian(eqx.Module):
    """A = −H/ħ of dψ/dτ = A ψ for waves ψ `(…, *cells)`, in real time dψ/dt = i A ψ.

        A ψ = −(T + V) ψ − Γ ψ/i,   T diagonal in the modes of a `basis`

    `kinetic` T `(*modes,)`, `potential` V and `absorption` Γ ≥ 0 `(*cells,)`, None for none, all over ħ [1/time]. Without Γ it is
    real and symmetric.
    """

    kinetic: Any
    potential: Any
    basis: Basis
    absorption: Any = None

    diffusive: ClassVar[bool] = True

    @property
    def leak(self) -> Any:
        """Γ: what leaves is absorbed."""
        return jnp.zeros(()) if self.absorption is None else self.absorption

    def __matmul__(self, wave: Any) -> Any:
        """A ψ, without absorption."""
        return _act(self.basis, -self.kinetic, -self.potential, wave)

    def action(self, scale: Any = 1.0, shift: Any = 0.0) -> Callable[[Any], Any]:
        """ψ ↦ scale (A − shift) ψ for use in a loop."""
        return eqx.Partial(_act, self.basis, -scale * self.kinetic, -scale * (self.potential + shift))

    def spectrum(self) -> tuple[Any, Any, Any]:
        """How far the eigenvalues of A reach below zero, above it, and off the real axis."""
        least = jnp.min(self.potential)
        return jnp.max(self.kinetic) + jnp.max(self.potential), -least, jnp.zeros_like(least)

    def spread(self) -> Any:
        """The largest eigenvalue less the smallest, at most."""
        return jnp.max(self.kinetic) + jnp.max(self.potential) - jnp.min(self.potential)


def _act(basis: Basis, kinetic: Any, potential: Any, wave: Any) -> Any:
    if basis.real and jnp.iscomplexobj(wave):
        return jax.lax.complex(*(_act(basis, kinetic, potential, part) for part in (wave.real, wave.imag)))
    return potential * wave + basis.synthesise(kinetic * basis.analyse(wave))
