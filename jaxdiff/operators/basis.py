"""Operators that are diagonal in products of waves, cosines and sines: constant coefficients between walls at zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.scipy.fft import dct, idct


class Basis(eqx.Module):
    """One kind of mode along each axis of a lattice, m = 0, 1, … at the centres x = (j + ½) L/n of n cells.

    | kind           | modes           | walls at x = 0 and L     | transform                        |
    |----------------|-----------------|--------------------------|----------------------------------|
    | waves          | e^{2πimx/L}     | the two ends are one     | FFT of real numbers              |
    | cosines        | cos(πmx/L)      | ∂u/∂x = 0 at both        | DCT-II                           |
    | sines          | sin(π(m+1)x/L)  | u = 0 at both            | DST-II: DCT-II of (−1)ʲu         |
    | quarter cosines| cos(π(m+½)x/L)  | ∂u/∂x = 0, then u = 0    | DCT-IV: FFT with twisted phases  |
    | quarter sines  | sin(π(m+½)x/L)  | u = 0, then ∂u/∂x = 0    | DST-IV                           |

    Modes stand in the order in which the transforms leave them, see `wavenumbers`.
    """

    kinds: tuple[str, ...] = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)

    @property
    def rings(self) -> tuple[int, ...]:
        """The axes of waves, counted from the last."""
        return tuple(k - len(self.shape) for k, kind in enumerate(self.kinds) if kind == "waves")

    def wavenumbers(self, k: int) -> np.ndarray:
        """Those along axis k times its length L, one per mode."""
        kind, n = self.kinds[k], self.shape[k]
        if kind == "waves":
            halved = k - len(self.shape) == self.rings[-1]
            return 2 * np.pi * n * (np.fft.rfftfreq(n) if halved else np.fft.fftfreq(n))
        m = {"cosines": np.arange(n), "sines": np.arange(n, 0, -1)}.get(kind, 2 * _turns(n) + 0.5)
        return np.pi * m

    def odd(self, k: int) -> np.ndarray:
        """`wavenumbers` for odd derivatives: zero at the sawtooth, whose derivative the cells do not see."""
        found, n = self.wavenumbers(k), self.shape[k]
        return np.where(np.abs(found) < np.pi * n * (1 - 1e-12), found, 0.0)

    def analyse(self, u: Any) -> Any:
        """Coefficients `(…, *modes)` of u `(…, *cells)`; complex where there are waves."""
        for k, kind in enumerate(self.kinds):
            axis = k - len(self.shape)
            if kind in ("cosines", "sines"):
                u = dct(u * _signs(kind, self.shape, axis, u.dtype), axis=axis, norm="ortho")
            elif kind != "waves":
                before, after = _twists(self.shape, axis, u.dtype)
                u = _part(kind, after * jnp.fft.fft(before * u, axis=axis))
        return jnp.fft.rfftn(u, axes=self.rings) if self.rings else u

    def synthesise(self, coefficients: Any) -> Any:
        """u `(…, *cells)` from its coefficients, the inverse of `analyse`."""
        u = coefficients
        if self.rings:
            u = jnp.fft.irfftn(u, s=[self.shape[axis] for axis in self.rings], axes=self.rings)
        for k, kind in enumerate(self.kinds):
            axis = k - len(self.shape)
            if kind in ("cosines", "sines"):
                u = idct(u, axis=axis, norm="ortho") * _signs(kind, self.shape, axis, u.dtype)
            elif kind != "waves":
                before, after = _twists(self.shape, axis, u.dtype)
                u = 2 / self.shape[axis] * _part(kind, before * jnp.fft.fft(after * u, axis=axis))
        return u


class Diagonal(eqx.Module):
    """A of du/dt = A u + b that multiplies every mode of a `basis` by its own of the `rates` (*modes,) [1/time]."""

    rates: Any
    basis: Basis

    def __matmul__(self, u: Any) -> Any:
        return self.basis.synthesise(self.rates * self.basis.analyse(u))

    def course(self, u: Any, constant: Any = None) -> Callable[[Any], Any]:
        """The exact solution from u `(*cells,)` as a function of times `(T,)`, with values `(T, *cells)`.

        e^{tA}u + t φ₁(tA) b for a constant forcing b.
        """
        start = self.basis.analyse(u)
        feed = None if constant is None else self.basis.analyse(constant)

        def states(t: Any) -> Any:
            t = t.reshape(-1, *(1,) * self.rates.ndim)
            z = t * self.rates
            found = jnp.exp(z) * start
            return self.basis.synthesise(found if feed is None else found + t * phi_1(z) * feed)

        return states


def phi_1(z: Any) -> Any:
    """φ₁(z) = (eᶻ − 1)/z, smooth through z = 0, and so are its derivatives."""
    small = jnp.abs(z) < 0.5
    s, a = jnp.where(small, z, 0.0), jnp.where(small, 1.0, z)
    series = jnp.ones_like(s)
    for order in range(15, 1, -1):
        series = 1.0 + s / order * series
    return jnp.where(small, series, jnp.expm1(a) / a)


def _turns(n: int) -> np.ndarray:
    """The integers p of a discrete Fourier transform; |2p + ½| are all of ½, 3/2, … below n."""
    return np.round(np.fft.fftfreq(n) * n)


def _signs(kind: str, shape: tuple[int, ...], axis: int, dtype: Any) -> Any:
    """sin(π(n − q)x/L) = (−1)ʲ cos(πqx/L) at the centres."""
    return 1.0 if kind == "cosines" else _along((-1.0) ** np.arange(shape[axis]), axis, dtype)


def _twists(shape: tuple[int, ...], axis: int, dtype: Any) -> tuple[Any, Any]:
    """Phases of cells and modes: (j + ½)(2p + ½)π/n = 2πjp/n + (j + ½)π/2n + πp/n, whose first term is the FFT's."""
    n = shape[axis]
    wide = jnp.result_type(dtype, jnp.complex64)
    cells, modes = np.exp(-0.5j * np.pi * (np.arange(n) + 0.5) / n), np.exp(-1j * np.pi * _turns(n) / n)
    return _along(cells, axis, wide), _along(modes, axis, wide)


def _part(kind: str, wave: Any) -> Any:
    return wave.real if kind == "quarter cosines" else -wave.imag


def _along(values: np.ndarray, axis: int, dtype: Any) -> Any:
    return jnp.asarray(values.reshape(-1, *(1,) * (-1 - axis)), dtype)
