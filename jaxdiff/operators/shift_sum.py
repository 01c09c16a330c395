"""Generators of reactions in a box of counts: every one moves all states by the same shift."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.operators.linear import linear


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

    by_products: ClassVar[bool] = True
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
    def jumps(self) -> tuple[np.ndarray, np.ndarray, Any]:
        """From which state `(m,)` to which `(m,)`, and at which rate `(m,)`, within the box."""
        strides = np.cumprod([1, *self.shape[:0:-1]])[::-1]
        reaction, source = np.nonzero(self._stays)
        return source, source + (np.asarray(self.shifts) @ strides)[reaction], self.rates[reaction, source]

    def __matmul__(self, content: Any) -> Any:
        """A N along the first axis."""
        if content.ndim > 1:
            return jax.vmap(self.__matmul__, in_axes=-1, out_axes=-1)(content)
        return self.action()(content)

    def action(self, scale: Any = 1.0, shift: Any = 0.0) -> Callable[[Any], Any]:
        """N ↦ scale (A − shift) N for use in a loop; of −shift above all exits it adds and multiplies positive numbers alone."""
        box = lambda x: x.reshape(*x.shape[:-1], *self.shape)
        leaving = box(scale * jnp.where(self._stays, self.rates, 0.0))
        arriving = jnp.stack([_moved(rate, by) for rate, by in zip(leaving, self.shifts, strict=True)])
        stay = box(-scale * (self.exit + shift))
        return eqx.Partial(_product, (self.shape, self.shifts), arriving, leaving, stay)


def _moved(x: Any, by: tuple[int, ...]) -> Any:
    """x at n − by, zero where that is outside."""
    return _reader(x, [by])(by)


def _reader(x: Any, shifts: Any) -> Callable[[tuple[int, ...]], Any]:
    """A function of a shift: x at n − shift. One padded copy serves all, as XLA fuses slices and not pads."""
    margin = np.max(np.abs(np.reshape(shifts, (-1, x.ndim))), axis=0)
    padded = jnp.pad(x, [(int(m), int(m)) for m in margin])
    starts = lambda by: [int(m - b) for m, b in zip(margin, by, strict=True)]
    return lambda by: jax.lax.slice(padded, starts(by), [i + n for i, n in zip(starts(by), x.shape, strict=True)])


@eqx.filter_custom_jvp
def _product(static: Any, arriving: Any, leaving: Any, stay: Any, content: Any) -> Any:
    """Of arriving, leaving and stay the derivative is linear too; leaving serves the transpose alone."""
    shape, shifts = static
    x = content.reshape(shape)
    read = _reader(x, shifts)
    return (stay * x + sum(rate * read(by) for rate, by in zip(arriving, shifts, strict=True))).reshape(content.shape)


@_product.def_jvp
def _product_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    static, arriving, leaving, stay, content = primals
    _, d_arriving, _, d_stay, d_content = tangents
    shape, shifts = static

    def of_content(known: Any, x: Any) -> Any:
        return _product(static, *known, x)

    def to_content(known: Any, y: Any) -> Any:
        arriving, leaving, stay = known
        back = tuple(tuple(-b for b in by) for by in shifts)
        return _product((shape, back), leaving, arriving, stay, y)

    def of_rates(content: Any, rates: Any) -> Any:
        return _product(static, rates[0], jnp.zeros_like(rates[0]), rates[1], content)

    def to_rates(content: Any, y: Any) -> Any:
        x, y = content.reshape(shape), y.reshape(shape)
        read = _reader(x, shifts)
        return jnp.stack([y * read(by) for by in shifts]), y * x

    out = _product(static, arriving, leaving, stay, content)
    moved: Any = jnp.zeros_like(out)
    if d_content is not None:
        moved = moved + linear(of_content, to_content, (arriving, leaving, stay), d_content, like=out)
    if d_arriving is not None or d_stay is not None:
        rates = (
            jnp.zeros_like(arriving) if d_arriving is None else d_arriving,
            jnp.zeros_like(stay) if d_stay is None else d_stay,
        )
        moved = moved + linear(of_rates, to_rates, content, rates, like=out)
    return out, moved
