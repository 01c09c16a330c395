"""Generators of reactions in a box of counts: every one moves all states by the same shift."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.operators.block_tridiagonal import by_factors
from jaxdiff.operators.blocking import Blocking, blocking
from jaxdiff.operators.linear import linear
from jaxdiff.operators.sparse import Sparse


class ShiftSum(eqx.Module):
    """A of dN/dt = A N for contents N `(states,)` of the states of a box of `shape`, the last axis varying fastest.

        dN(n)/dt = Σᵣ [aᵣ(n − νᵣ) N(n − νᵣ) − aᵣ(n) N(n)] − loss(n) N(n)

    `rates` a `(reactions, states)` [1/time] stand at the state that is left; `shifts` ν are whole numbers, one for each axis.
    What a reaction carries out of the box is lost: `leak`.
    """

    rates: Any
    loss: Any
    shape: tuple[int, ...] = eqx.field(static=True)
    shifts: tuple[tuple[int, ...], ...] = eqx.field(static=True)

    without_subtraction: ClassVar[bool] = True
    diffusive: ClassVar[bool] = False
    detailed_balance: ClassVar[bool] = False

    @property
    def exit(self) -> Any:
        """Total rate out of each state, the negative diagonal."""
        return jnp.sum(self.rates, axis=0) + self.loss

    @property
    def leak(self) -> Any:
        """Rate at which each state loses content for good, the negative column sum."""
        return jnp.sum(jnp.where(self._stays, 0.0, self.rates), axis=0) + self.loss

    @property
    def weights(self) -> Any:
        return jnp.ones_like(self.loss)

    @property
    def closed(self) -> ShiftSum:
        """The same without what leaves the box."""
        return replace(self, rates=jnp.where(self._stays, self.rates, 0.0))

    @property
    def _stays(self) -> np.ndarray:
        """Whether a reaction stays in the box, `(reactions, states)`."""
        counts, most = np.indices(self.shape).reshape(len(self.shape), -1), np.asarray(self.shape)[:, None]
        after = [counts + np.asarray(shift)[:, None] for shift in self.shifts]
        return np.stack([((n >= 0) & (n < most)).all(0) for n in after])

    @property
    def offsets(self) -> np.ndarray:
        """By how many states a reaction moves one along the row of all of them, `(reactions,)`."""
        return np.asarray(self.shifts) @ np.cumprod([1, *self.shape[:0:-1]])[::-1]

    @property
    def jumps(self) -> tuple[np.ndarray, np.ndarray, Any]:
        """From which state `(m,)` to which `(m,)`, and at which rate `(m,)`, within the box."""
        reaction, source = np.nonzero(self._stays)
        return source, source + self.offsets[reaction], self.rates[reaction, source]

    @property
    def blocking(self) -> Blocking:
        """The order of states in which its resolvents eliminate them."""
        reaction, source = np.nonzero(self._stays)
        return blocking(source, source + self.offsets[reaction], int(np.prod(self.shape)), self.shape)

    def cut_off(self, content: Any) -> tuple[Any, Any]:
        """Of each reaction what leads out of the box, as a share, and the content of the states from which it does."""
        out = jnp.where(self._stays, 0.0, self.rates)
        all_ = self.rates @ content
        return out @ content / jnp.where(all_ > 0, all_, 1.0), (out > 0) @ content

    @property
    def block_size(self) -> int:
        """How many states a block of a resolvent has."""
        return self.blocking.size

    @property
    def sparse(self) -> Sparse:
        """The same by its jumps, which brings resolvents."""
        return Sparse(self.jumps[2], self.leak, self.blocking)

    def resolvent(self, a: Any, b: Any, factors: Any = None) -> Callable[[Any], Any]:
        """u ↦ (aI + bA)⁻¹ u; `a`, `b` may be arrays `(k,)`, then u is `(n,)` or `(n, k)` and the result `(n, k)`."""
        return by_factors(self, a, b, factors)

    def factors(self, a: Any, b: Any) -> Any:
        """What `resolvent(a, b)` eliminates with, a pytree of arrays without derivatives."""
        return self.sparse.factors(a, b)

    def stopped(self, target: Any) -> Sparse:
        """The same until content comes to states of `target` `(n,)`."""
        return self.sparse.stopped(target)

    def bound(self) -> Any:
        """Gershgorin bound on |λ|."""
        return self.sparse.bound()

    def imaginary_bound(self) -> Any:
        """Gershgorin bound on |Im λ|."""
        return self.sparse.imaginary_bound()

    def growth(self) -> Any:
        """Upper bound on the growth rate."""
        return self.sparse.growth()

    def advection(self) -> Any:
        """How fast A leaves what is normal [1/time]."""
        return self.sparse.advection()

    def __matmul__(self, content: Any) -> Any:
        """A N along the first axis."""
        if content.ndim > 1:
            return jax.vmap(self.__matmul__, in_axes=-1, out_axes=-1)(content)
        return self.action()(content)

    def action(self, scale: Any = 1.0, shift: Any = 0.0) -> Callable[[Any], Any]:
        """N ↦ scale (A − shift) N for use in a loop; of −shift above all exits it adds and multiplies positive numbers alone.

        What stays in the box is moved along the row of all states by one offset, whatever the shape of the box.
        """
        stay = -scale * (self.exit + shift)
        leaving = scale * jnp.where(self._stays, self.rates, 0.0)
        offsets = self.offsets.tolist()
        arriving = [_reader(rate, [by])(by) for rate, by in zip(leaving, offsets, strict=True)]
        stacked = jnp.stack([*arriving, stay]), jnp.concatenate([leaving, stay[None]])
        return eqx.Partial(_product, (*offsets, 0), *stacked)


def _reader(x: Any, offsets: Any) -> Callable[[int], Any]:
    """A function of an offset: x `(n,)` at i − offset, zero outside. One padded copy serves all, as XLA fuses slices and not
    pads."""
    margin = max(abs(by) for by in offsets)
    padded = jnp.pad(x, margin)
    return lambda by: jax.lax.slice(padded, [margin - by], [margin - by + len(x)])


@eqx.filter_custom_jvp
def _product(offsets: Any, arriving: Any, leaving: Any, content: Any) -> Any:
    """Σ arrivingᵣ(i) content(i − offsetᵣ), rates `(r, n)` of which `leaving` stand where the transpose reads them."""
    read = _reader(content, offsets)
    return sum(rate * read(by) for rate, by in zip(arriving, offsets, strict=True))


@_product.def_jvp
def _product_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    offsets, arriving, leaving, content = primals
    _, d_arriving, _, d_content = tangents

    def of_content(known: Any, x: Any) -> Any:
        return _product(offsets, *known, x)

    def to_content(known: Any, y: Any) -> Any:
        arriving, leaving = known
        return _product(tuple(-by for by in offsets), leaving, arriving, y)

    def of_rates(content: Any, rates: Any) -> Any:
        return _product(offsets, rates, rates, content)

    def to_rates(content: Any, y: Any) -> Any:
        read = _reader(content, offsets)
        found = y * jnp.stack([read(by) for by in offsets])  # one array: XLA adds it up in one pass
        return found if jnp.iscomplexobj(arriving) else found.real  # contents may be complex where rates are not

    out = _product(offsets, arriving, leaving, content)
    moved: Any = jnp.zeros_like(out)
    if d_content is not None:
        moved = moved + linear(of_content, to_content, (arriving, leaving), d_content, like=out)
    if d_arriving is not None:
        moved = moved + linear(of_rates, to_rates, content, d_arriving, like=out)
    return out, moved
