"""A measured time series as a coefficient."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.model.time_dependent import TimeDependent
from jaxdiff.parameters import marked, numeric, plain

INTERPOLATIONS = ("linear", "previous")


class Series(eqx.Module):
    """A measured time series, constant beyond its ends.

        c(t) = vᵢ + (vᵢ₊₁ − vᵢ) (t − tᵢ)/(tᵢ₊₁ − tᵢ)   or, of "previous", vᵢ,   for tᵢ ≤ t < tᵢ₊₁

    Args:
        times: `(m,)` increasing [time], at least two; they may be marked for fitting.
        values: `(m,)` in the unit of what they stand for; they may be marked.
        interpolation: "linear" between times, or "previous": a value holds from its time until the next, as steps and pulses do.
        sigma: standard deviation of values that were measured, a number or `(m,)`, zero where they are exact; None: at a wall
            that of the readings, if the values are as rough. It enters the error bars of a fit, and numbers scale it.

    Raises:
        ValueError: times that are not finite and increasing, values that are missing or of another length.
        TypeError: arithmetic with a mark, or of which the result is neither linear nor constant between times.

    >>> import jaxdiff as jd
    >>> float(jd.Series([0.0, 1.0, 3.0], [0.0, 10.0, 20.0])(2.0))
    15.0
    >>> float(jd.Series([0.0, 1.0, 3.0], [0.0, 10.0, 0.0], "previous")(2.0))  # a pulse from 1 to 3
    10.0

    Series of one kind are added, and any is scaled and shifted by a number:

    >>> ramp, later = jd.Series([0.0, 1.0], [0.0, 10.0]), jd.Series([1.0, 2.0], [0.0, 1.0])
    >>> float((3 * ramp + later / 2 - 1)(1.5))
    29.25

    Of a measured temperature a rate by Arrhenius' law, at every instant and not only at those of the readings:

    >>> import jax.numpy as jnp
    >>> T = jd.Series([0.0, 60.0], [300.0, 400.0])
    >>> D = T.map(lambda T: 1e-9 * jnp.exp(-2000.0 / T))
    >>> f"{float(D(30.0)):.2e}"
    '3.30e-12'
    """

    times: Any
    values: Any
    interpolation: str = eqx.field(static=True)
    sigma: Any

    __array_ufunc__ = None  # a NumPy number on the left leaves the arithmetic to the Series

    def __init__(self, times: Any, values: Any, interpolation: str = "linear", sigma: Any = None):
        if interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"a Series is {' or '.join(map(repr, INTERPOLATIONS))} between times, got {interpolation!r}"
            )
        self.times, self.values, self.interpolation = _row(times), _row(values), interpolation
        start, numbers = plain(self.times), plain(self.values)
        if sigma is not None and not _traced(sigma):
            fine = not np.iscomplexobj(sigma) and ((np.asarray(sigma) >= 0) & np.isfinite(sigma)).all()
            if not fine or np.shape(sigma) not in ((), np.shape(start)):
                raise ValueError(f"sigma of a Series is a number, or one a value, from zero up, got {sigma}")
        self.sigma = None if sigma is None else numeric(sigma)
        if not _traced(start):
            known = np.asarray(start)
            if known.ndim != 1 or len(known) < 2 or not np.isfinite(known).all() or (np.diff(known) <= 0).any():
                raise ValueError("a Series needs at least two finite, increasing times; sort them and drop repeats")
        if np.shape(numbers) != np.shape(start):
            raise ValueError(f"a Series needs a value per time, got {len(start)} times, values {np.shape(numbers)}")
        if not _traced(numbers) and not np.isfinite(known := np.asarray(numbers)).all():
            bad = int(np.argmax(~np.isfinite(known)))
            raise ValueError(f"value {bad} of a Series is {known[bad]}; drop the times at which it is missing")

    def __call__(self, t: Any) -> Any:
        return self._at(t, jnp)

    def map(self, function: Callable[[Any], Any]) -> TimeDependent:
        """The coefficient function(c(t)) of one number, scalars in.

        It is followed where the series bends and jumps; what the function does at values that are passed in a moment may be missed.
        """
        return TimeDependent(_Mapped(function, self))

    def _at(self, t: Any, xp: Any) -> Any:
        times, values = xp.asarray(self.times), xp.asarray(self.values)
        if self.interpolation == "linear":
            return xp.interp(t, times, values)
        return values[xp.maximum(xp.searchsorted(times, t, side="right") - 1, 0)]

    __neg__ = lambda self: _join("*", -1.0, self)
    __add__ = lambda self, other: _join("+", self, other)
    __radd__ = lambda self, other: _join("+", other, self)
    __sub__ = lambda self, other: _join("-", self, other)
    __rsub__ = lambda self, other: _join("-", other, self)
    __mul__ = lambda self, other: _join("*", self, other)
    __rmul__ = lambda self, other: _join("*", other, self)
    __truediv__ = lambda self, other: _join("/", self, other)
    __rtruediv__ = lambda self, other: _join("/", other, self)


class _Mapped(eqx.Module):
    """A function of a series, as a function of time."""

    function: Any = eqx.field(converter=numeric)
    series: Series

    def __call__(self, t: Any) -> Any:
        return self.function(self.series(t))


def _traced(numbers: Any) -> bool:
    return any(isinstance(one, jax.core.Tracer) for one in jax.tree.leaves(numbers))


def _row(numbers: Any) -> Any:
    """As `numeric`; a list in which numbers are traced becomes an array."""
    return jnp.stack(numbers) if isinstance(numbers, (list, tuple)) and _traced(numbers) else numeric(numbers)


_ARITHMETIC = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


def _join(symbol: str, a: Any, b: Any) -> Series:
    """a + b, a - b, a * b or a / b, of which one is a Series and the other a Series or a number."""
    if marked((a, b)):
        raise TypeError(
            "arithmetic with a Series takes no marks, got one; write the model as a function of named parameters, jd.fit(lambda k: ..., ..., parameters={'k': jd.Free(1.0)})"
        )
    series = [one for one in (a, b) if isinstance(one, Series)]
    kinds = {one.interpolation for one in series}
    bent = isinstance(b, Series) and (symbol == "/" or (symbol == "*" and len(series) == 2))
    unknown = any(callable(one) and not isinstance(one, Series) for one in (a, b))
    if unknown or len(kinds) > 1 or (bent and "linear" in kinds):
        name = lambda one: f"Series({one.interpolation!r})" if isinstance(one, Series) else type(one).__name__
        calls = f"{'a(t)' if callable(a) else 'a'} {symbol} {'b(t)' if callable(b) else 'b'}"
        raise TypeError(
            f"{name(a)} {symbol} {name(b)} is neither linear nor constant between times; write jd.TimeDependent(lambda t: {calls})"
        )
    times = series[0].times
    if series[-1].times is not times:
        both = [one.times for one in series]
        times = jnp.sort(jnp.concatenate(both)) if _traced(both) else np.union1d(*both)

    def value(one: Any) -> Any:
        if isinstance(one, Series):
            return one.values if one.times is times else one._at(times, jnp if _traced((times, one)) else np)
        if np.shape(one):
            raise TypeError(
                f"arithmetic with a Series takes a number, got an array of shape {np.shape(one)}; take its numbers one by one"
            )
        return numeric(one)

    sigma = series[0].sigma
    if len(series) > 1 and any(one.sigma is not None for one in series):
        raise TypeError("a Series with sigma takes numbers alone, got a Series; join their values, and give a sigma")
    if sigma is not None and symbol in "*/":
        sigma = abs(_ARITHMETIC[symbol](sigma, numeric(b)) if series[0] is a else sigma * numeric(a))
    return Series(times, _ARITHMETIC[symbol](value(a), value(b)), series[0].interpolation, sigma)
