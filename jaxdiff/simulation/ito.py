"""An equation of transport as a stochastic one: drift, diffusivity and killing at one point and instant."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.model.arguments import at_place, one_number
from jaxdiff.model.coefficients import (
    PerAxis,
    Potential,
    Tensor,
    absent,
    as_number,
    at_time,
    is_cells,
    is_number,
    varies,
)
from jaxdiff.model.discontinuities import breakpoints


class Ito:
    """dX = a dt + √(2D) dW, killed at the rate k, of ∂u/∂t = −∇·J − k u with J = (f − (1 − α) ∇·D) u − D ∇u: a = f + α ∇·D.

    grid: None where there is none; points are (ndim,)
    """

    def __init__(self, equation: Any, grid: Any, ndim: int):
        self.grid, self.ndim, self.transport = grid, ndim, equation.transport()
        self.names = ("x", "y", "z")[:ndim]
        self.oblique = isinstance(self.transport.diffusivity, Tensor)
        self.capacity = 1.0 if self.transport.capacity is None else self.transport.capacity

    @property
    def drift_varies(self) -> bool:
        """Whether the drift depends on time."""
        drift = self.transport.drift
        parts = drift if isinstance(drift, (tuple, list)) else (getattr(drift, "energy", drift),)
        return any(map(varies, parts))

    def require(self) -> None:
        """Raise where no path stands for the equation."""
        _, diffusivity, _, source, _, alpha, _, exchange, _ = self.transport
        if exchange:
            raise ValueError("paths of particles that are bound now and then are not drawn; leave exchange out")
        if not absent(source):
            raise ValueError("paths are of particles that are there from the start, got a source; leave it out")
        if not is_number(self.capacity):
            raise ValueError("paths take a capacity that is one number, got a function or an array; divide D by it")
        if self.oblique and self.grid is not None:
            diffusivity.require_shape(self.grid.shape, self.names)
        if alpha and self.ndim == 1 and self.grid is not None and callable(diffusivity):
            self._require_smooth(at_time(diffusivity, 0.0, self.names))

    def _require_smooth(self, diffusivity: Any) -> None:
        """Refuse a D that jumps where its gradient drives, which no step would meet."""
        edges = jnp.asarray(self.grid.edges[0], jnp.result_type(float))
        value = lambda x: as_number(diffusivity, x) if callable(diffusivity) else diffusivity
        ends = breakpoints(value, edges[:-1], edges[1:])
        if ends is None:
            return
        at, near = np.asarray(ends)[:, 1:-1].ravel(), 1e-6 * float(edges[-1] - edges[0])
        below, above = (np.asarray(jax.vmap(value)(jnp.asarray(at + shift))) for shift in (-near, near))
        jump = np.abs(above - below) > 1e-3 * np.maximum(np.abs(above), np.abs(below))
        if jump.any():
            raise ValueError(
                f"the diffusivity jumps near x = {at[jump][0]:.6g}, which paths do not follow; make it steep but smooth"
            )

    def _value(self, coefficient: Any, t: Any, x: Any, what: str) -> Any:
        value = at_time(coefficient, t, self.names)
        if callable(value):
            return one_number(at_place(value, self.names, *x), x.dtype, what)
        if is_cells(value):
            return self._between_cells(value, x, what)
        return jnp.asarray(0.0 if value is None else value, x.dtype)

    def _between_cells(self, values: Any, x: Any, what: str) -> Any:
        if self.grid is None:
            raise ValueError(f"the {what} is an array over cells, of which there are none; pass grid=")
        return self.grid.interpolate(values, x[0] if self.ndim == 1 else x).astype(x.dtype)

    def force(self, t: Any, x: Any) -> Any:
        """f (ndim,)."""
        drift, ndim = self.transport.drift, self.ndim
        if isinstance(drift, Potential):
            energy = at_time(drift.energy, t, self.names)
            return -jax.grad(lambda x: one_number(at_place(energy, self.names, *x), x.dtype, "potential"))(x)
        if absent(drift):
            return jnp.zeros_like(x)
        if ndim == 1 and not isinstance(drift, (tuple, list)):
            return self._value(drift, t, x, "drift")[None]
        if isinstance(drift, (tuple, list)):
            parts: Any = drift
        elif callable(drift):
            found = at_time(drift, t, self.names)
            parts = at_place(found, self.names, *x) if callable(found) else found
        else:
            parts = drift
        count = len(parts) if isinstance(parts, (tuple, list)) else (np.shape(parts) or (1,))[0]
        if count != ndim:
            raise ValueError(f"a drift on {ndim} axes has {ndim} components, got {count}")
        return jnp.stack([self._value(part, t, x, "drift") for part in parts])

    def diffusivity(self, t: Any, x: Any) -> Any:
        """D (ndim,) along the axes, or (ndim, ndim) of a tensor."""
        given = self.transport.diffusivity
        if self.oblique:
            matrix = at_time(given.matrix, t, self.names)
            matrix = jnp.asarray(at_place(matrix, self.names, *x) if callable(matrix) else matrix, x.dtype)
            if matrix.ndim > 2:
                matrix = self._between_cells(jnp.moveaxis(matrix, (-2, -1), (0, 1)), x, "diffusivity")
            if matrix.shape != (self.ndim, self.ndim):
                raise ValueError(f"a Tensor on {self.ndim} axes is {(self.ndim, self.ndim)}, got shape {matrix.shape}")
            return matrix / self.capacity
        parts = given.coefficients if isinstance(given, PerAxis) else (given,) * self.ndim
        if len(parts) != self.ndim:
            raise ValueError(f"PerAxis needs {self.ndim} coefficients here, got {len(parts)}")
        return jnp.stack([self._value(part, t, x, "diffusivity") for part in parts]) / self.capacity

    def drift(self, t: Any, x: Any) -> Any:
        """a (ndim,)."""
        force, alpha = self.force(t, x), self.transport.alpha
        if not alpha or (is_number(self.transport.diffusivity) and not self.oblique):
            return force
        slopes = jax.jacfwd(lambda x: self.diffusivity(t, x))(x)
        return force + alpha * (jnp.einsum("ijj->i", slopes) if self.oblique else jnp.diagonal(slopes))

    def killing(self, t: Any, x: Any) -> Any:
        """k, a number."""
        return self._value(self.transport.loss, t, x, "killing") / self.capacity
