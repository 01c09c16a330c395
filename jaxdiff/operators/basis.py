"""Operators that are diagonal in products of waves, cosines and sines: constant coefficients between walls at zero."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

# Modes of an axis by whether u is zero at its lower and upper wall, where otherwise ∂u/∂x is.
KINDS = {
    (False, False): "cosines",
    (True, True): "sines",
    (False, True): "quarter cosines",
    (True, False): "quarter sines",
}


class Basis(eqx.Module):
    """One kind of mode along each axis of a lattice, m = 0, 1, … at the centres x = (j + ½) L/n of n cells.

    | kind            | modes          | walls at x = 0 and L  | transform |
    |-----------------|----------------|-----------------------|-----------|
    | waves           | e^{2πimx/L}    | the two ends are one  | FFT       |
    | cosines         | cos(πmx/L)     | ∂u/∂x = 0 at both     | DCT-II    |
    | sines           | sin(π(m+1)x/L) | u = 0 at both         | DST-II    |
    | quarter cosines | cos(π(m+½)x/L) | ∂u/∂x = 0, then u = 0 | DCT-IV    |
    | quarter sines   | sin(π(m+½)x/L) | u = 0, then ∂u/∂x = 0 | DST-IV    |

    Modes stand in the order in which the transforms leave them, see `wavenumbers`. Each transform is one FFT of n
    numbers: Makhoul 1980, doi:10.1109/TASSP.1980.1163351.
    """

    kinds: tuple[str, ...] = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)
    real: bool = eqx.field(static=True, default=True)  # whether u is; of real ones half of the waves tell the others

    @property
    def periodic_axes(self) -> tuple[int, ...]:
        """The axes of waves, counted from the last."""
        return tuple(k - len(self.shape) for k, kind in enumerate(self.kinds) if kind == "waves")

    def wavenumbers(self, k: int) -> np.ndarray:
        """Those along axis k times its length L, one per mode."""
        kind, n = self.kinds[k], self.shape[k]
        if kind == "waves":
            halved = self.real and k - len(self.shape) == self.periodic_axes[-1]
            return 2 * np.pi * n * (np.fft.rfftfreq(n) if halved else np.fft.fftfreq(n))
        m = {"cosines": np.arange(n), "sines": np.arange(n, 0, -1)}.get(kind, 2 * _turns(n) + 0.5)
        return np.pi * m

    def odd(self, k: int) -> np.ndarray:
        """`wavenumbers` for odd derivatives: zero at the sawtooth, whose derivative the cells do not see."""
        found, n = self.wavenumbers(k), self.shape[k]
        return np.where(np.abs(found) < np.pi * n * (1 - 1e-12), found, 0.0)

    @property
    def squares(self) -> Any:
        """The sum over all cells of the square of each mode as it is in `analyse`, `(*modes,)` but for lengths of one."""
        found: Any = np.ones(())
        for k, (kind, n) in enumerate(zip(self.kinds, self.shape, strict=True)):
            m = self.wavenumbers(k)
            each = np.full(len(m), float(n)) if kind == "waves" else np.where(m % (np.pi * n) == 0, n, n / 2)
            found = found * each.reshape(-1, *(1,) * (len(self.shape) - 1 - k))
        return found

    def modes_at(self, k: int, places: Any, slope: bool = False) -> Any:
        """The modes along axis k at places `(m,)`, shares of its length, over their `squares`, `(m, modes)`: what makes values of
        coefficients; with `slope` their derivatives by the place."""
        kind, n, w = self.kinds[k], self.shape[k], self.wavenumbers(k)
        sums = Basis((kind,), (n,), self.real).squares
        angle = places[:, None] * w
        if kind == "waves":
            angle = angle - w / (2 * n)
            wave = jax.lax.complex(jnp.cos(angle), jnp.sin(angle))
            return (1j * self.odd(k) * wave if slope else wave) / sums
        if kind in ("cosines", "quarter cosines"):
            return (-w * jnp.sin(angle) if slope else jnp.cos(angle)) / sums
        return (w * jnp.cos(angle) if slope else jnp.sin(angle)) / sums

    def analyse(self, u: Any) -> Any:
        """Coefficients `(…, *modes)` of u `(…, *cells)`; complex where there are waves."""
        for axis, kind in enumerate(self.kinds, -len(self.shape)):
            if kind != "waves":
                u = _of_parts(_TRANSFORMS[kind][0], u, axis)
        if not self.periodic_axes:
            return u
        return jnp.fft.rfftn(u, axes=self.periodic_axes) if self.real else jnp.fft.fftn(u, axes=self.periodic_axes)

    def synthesise(self, coefficients: Any) -> Any:
        """u `(…, *cells)` from its coefficients, the inverse of `analyse`."""
        u = coefficients
        if self.periodic_axes and not self.real:
            u = jnp.fft.ifftn(u, axes=self.periodic_axes)
        elif self.periodic_axes:
            u = jnp.fft.irfftn(u, s=[self.shape[axis] for axis in self.periodic_axes], axes=self.periodic_axes)
        for axis, kind in enumerate(self.kinds, -len(self.shape)):
            if kind != "waves":
                u = _of_parts(_TRANSFORMS[kind][1], u, axis)
        return u


class Diagonal(eqx.Module):
    """A of du/dt = A u + b that multiplies every mode of a `basis` by its own rate [1/time].

    The rates (*modes,) are the sum of `parts`, each of length one along the axes that it does not depend on: then so are
    the factors of e^{tA}. No two depend on the same axis.
    """

    parts: tuple[Any, ...]
    basis: Basis

    @property
    def rates(self) -> Any:
        return sum(self.parts)

    def __matmul__(self, u: Any) -> Any:
        return self.basis.synthesise(self.rates * self.basis.analyse(u))

    def diagonal(self, basis: Basis) -> Diagonal:
        """Itself: it is in its basis."""
        return self

    def solution(self, u: Any, constant: Any = None) -> Callable[[Any], Any]:
        """The exact solution from u `(*cells,)` as a function of times `(T,)`, with values `(T, *cells)`.

        e^{tA}u + t φ₁(tA) b for a constant forcing b.
        """
        start = self.basis.analyse(u)
        forcing = None if constant is None else self.basis.analyse(constant)
        if forcing is not None:  # what balances to roundoff would add up in time
            least = 64 * jnp.finfo(constant.dtype).eps * jnp.sum(jnp.abs(constant))
            forcing = forcing - jax.lax.stop_gradient(jnp.where(jnp.abs(forcing) <= least, forcing, 0.0))

        def states(t: Any) -> Any:
            t = t.reshape(-1, *(1,) * len(self.basis.shape))
            # The slowest rates apart, so that a part that grows does not overflow where another decays faster.
            slowest = [jax.lax.stop_gradient(jnp.max(part.real)) for part in self.parts]
            found = start * jnp.exp(t * sum(slowest))
            for part, rate in zip(self.parts, slowest, strict=True):
                found = jnp.exp(t * (part - rate)) * found
            return self.basis.synthesise(found if forcing is None else found + t * phi(1, t * self.rates) * forcing)

        return states


def phi(order: int, z: Any) -> Any:
    """φₙ(z) = Σ zᵏ/(k + n)!, (eᶻ − 1)/z for n = 1, smooth through z = 0, and so are its derivatives."""
    small = jnp.abs(z) < 0.5
    s, a = jnp.where(small, z, 0.0), jnp.where(small, 1.0, z)
    series, large = jnp.ones_like(s), jnp.expm1(a) / a
    for k in range(14 + order, order, -1):
        series = 1.0 + s / k * series
    for n in range(1, order):
        large = (large - 1 / math.factorial(n)) / a
    return jnp.where(small, series / math.factorial(order), large)


def _of_parts(transform: Callable[[Any, int], Any], u: Any, axis: int) -> Any:
    """A real transform of what may be complex."""
    if not jnp.iscomplexobj(u) or transform in (_cosines, _cosines_back, _sines, _sines_back):
        return transform(u, axis)
    both = transform(jnp.stack([u.real, u.imag]), axis)
    return jax.lax.complex(both[0], both[1])


def _cosines(u: Any, axis: int) -> Any:
    """Σⱼ uⱼ cos(πm(j + ½)/n): an FFT of the even cells and the odd ones backwards gives modes m and n − m together."""
    n = u.shape[axis]
    folded = jnp.concatenate([_cut(u, axis, 0, n, 2), jnp.flip(_cut(u, axis, 1, n, 2), axis)], axis)
    if jnp.iscomplexobj(u):
        turn, wave = _half_turn(n, axis, u.dtype), jnp.fft.fft(folded, axis=axis)
        return (turn * wave + turn.conj() * jnp.roll(jnp.flip(wave, axis), 1, axis)) / 2
    wave = _quarter_turn(n, axis, u.dtype) * jnp.fft.rfft(folded, axis=axis)
    return jnp.concatenate([wave.real, -jnp.flip(_cut(wave.imag, axis, 1, (n + 1) // 2), axis)], axis)


def _cosines_back(modes: Any, axis: int) -> Any:
    n = modes.shape[axis]
    if jnp.iscomplexobj(modes):
        behind = jnp.flip(_cut(modes, axis, 1, n), axis)
        behind = jnp.concatenate([jnp.zeros_like(_cut(modes, axis, 0, 1)), behind], axis)
        wave = _half_turn(n, axis, modes.dtype).conj() * (modes - 1j * behind)
        return _unfolded(jnp.fft.ifft(wave, axis=axis), axis)
    low, high = _cut(modes, axis, 0, n // 2 + 1), _cut(jnp.flip(modes, axis), axis, 0, n // 2)
    wave = jax.lax.complex(low, -jnp.concatenate([jnp.zeros_like(_cut(low, axis, 0, 1)), high], axis))
    folded = jnp.fft.irfft(wave * _quarter_turn(n, axis, modes.dtype).conj(), n=n, axis=axis)
    return _unfolded(folded, axis)


def _unfolded(folded: Any, axis: int) -> Any:
    n, place = folded.shape[axis], axis + folded.ndim
    half = n - n // 2
    pairs = jnp.stack([_cut(folded, axis, 0, half), jnp.flip(_cut(folded, axis, n - half, n), axis)], place + 1)
    return _cut(jax.lax.collapse(pairs, place, place + 2), axis, 0, n)


def _sines(u: Any, axis: int) -> Any:
    """sin(π(n − q)x/L) = (−1)ʲ cos(πqx/L) at the centres."""
    return _cosines(u * _signs(u, axis), axis)


def _sines_back(modes: Any, axis: int) -> Any:
    return _cosines_back(modes, axis) * _signs(modes, axis)


def _minus_imag(wave: Any) -> Any:
    return -wave.imag


def _quarter_waves(part: Callable[[Any], Any], u: Any, axis: int) -> Any:
    """Σⱼ uⱼ e^{−iθ}, θ = (j + ½)(2p + ½)π/n = 2πjp/n + (j + ½)π/2n + πp/n, whose first term is the FFT's."""
    cells, modes = _twists(u, axis)
    return part(modes * jnp.fft.fft(cells * u, axis=axis))


def _quarter_waves_back(part: Callable[[Any], Any], u: Any, axis: int) -> Any:
    cells, modes = _twists(u, axis)
    return 2 / u.shape[axis] * part(cells * jnp.fft.fft(modes * u, axis=axis))


_TRANSFORMS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "cosines": (_cosines, _cosines_back),
    "sines": (_sines, _sines_back),
    "quarter cosines": (partial(_quarter_waves, jnp.real), partial(_quarter_waves_back, jnp.real)),
    "quarter sines": (partial(_quarter_waves, _minus_imag), partial(_quarter_waves_back, _minus_imag)),
}


def _turns(n: int) -> np.ndarray:
    """The integers p of a discrete Fourier transform; |2p + ½| are all of ½, 3/2, … below n."""
    return np.round(np.fft.fftfreq(n) * n)


def _twists(u: Any, axis: int) -> tuple[Any, Any]:
    n = u.shape[axis]
    cells, modes = np.exp(-0.5j * np.pi * (np.arange(n) + 0.5) / n), np.exp(-1j * np.pi * _turns(n) / n)
    dtype = jnp.result_type(u, jnp.complex64)
    return _along(cells, axis, dtype), _along(modes, axis, dtype)


def _quarter_turn(n: int, axis: int, dtype: Any) -> Any:
    return _along(np.exp(-0.5j * np.pi * np.arange(n // 2 + 1) / n), axis, jnp.result_type(dtype, jnp.complex64))


def _half_turn(n: int, axis: int, dtype: Any) -> Any:
    return _along(np.exp(-0.5j * np.pi * np.arange(n) / n), axis, dtype)


def _signs(u: Any, axis: int) -> Any:
    return _along((-1.0) ** np.arange(u.shape[axis]), axis, u.real.dtype)


def _cut(u: Any, axis: int, start: int, stop: int, stride: int = 1) -> Any:
    return jax.lax.slice_in_dim(u, start, stop, stride, axis=axis)


def _along(values: np.ndarray, axis: int, dtype: Any) -> Any:
    return jnp.asarray(values.reshape(-1, *(1,) * (-1 - axis)), dtype)
