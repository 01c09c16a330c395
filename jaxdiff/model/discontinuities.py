"""Where a function jumps between two points: read off the comparisons that it makes, not guessed from its values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

MAX_JUMPS = 4  # between two points

# What changes its sign where an operation jumps.
_MARGINS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("lt", "le", "gt", "ge"), lambda a, b: a - b),
    "sign": lambda a: a,
    "floor": lambda a: jnp.sin(jnp.pi * a),
    "ceil": lambda a: jnp.sin(jnp.pi * a),
    "round": lambda a: jnp.cos(jnp.pi * a),
    "rem": lambda a, b: jnp.sin(jnp.pi * a / b),
}
_CALLS = ("jit", "remat2", "checkpoint")  # of functions, with their jaxpr


def concrete(array: Any) -> Any:
    """In NumPy where it is no tracer: of operations on the host JAX compiles each for itself, and loops at every call."""
    return array if isinstance(array, jax.core.Tracer) else np.asarray(array)


def namespace(*arrays: Any) -> Any:
    """NumPy, or that of JAX for tracers."""
    return jnp if any(isinstance(array, jax.core.Tracer) for array in arrays) else np


def _named(step: Any) -> str:
    """What an operation is; one that makes a number whole jumps as floor does."""
    whole = step.primitive.name == "convert_element_type" and jnp.issubdtype(step.params["new_dtype"], jnp.integer)
    return "floor" if whole else str(step.primitive.name)


def _interpret(jaxpr: Any, consts: Any, given: list[Any], margins: list[Any], tables: bool = True) -> list[Any]:
    """Run a jaxpr on pairs (value, whether it depends on the position), collecting margins of what depends on it; with `tables`
    of what is looked up in one too."""
    values = dict(zip(jaxpr.constvars, ((const, False) for const in consts), strict=True))
    values.update(zip(jaxpr.invars, given, strict=True))
    read = lambda v: (v.val, False) if isinstance(v, Literal) else values[v]
    for step in jaxpr.eqns:
        name, pairs = _named(step), [read(v) for v in step.invars]
        numbers, moves = [pair[0] for pair in pairs], any(pair[1] for pair in pairs)
        if name == "jit" and step.params["name"] == "searchsorted" and pairs[1][1] and tables:
            margins.append(jnp.ravel(numbers[1] - numbers[0]))
        elif moves and name in _MARGINS and jnp.issubdtype(jnp.result_type(numbers[0]), jnp.floating):
            margins.append(jnp.ravel(_MARGINS[name](*numbers)))
        if name in _CALLS:
            inner = step.params["jaxpr"]
            found = _interpret(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), pairs, margins, tables)
        else:
            out = step.primitive.bind(*numbers, **step.primitive.get_bind_params(step.params))
            found = [(each, moves) for each in (out if step.primitive.multiple_results else [out])]
        values.update(zip(step.outvars, found, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _margins(function: Callable[[Any], Any], like: Any, tables: bool) -> Callable[..., Any] | None:
    """What changes sign where a function of one position jumps, `(m,)` of a position; None if it compares nothing.

    With `frozen`, without derivatives by the numbers in the function.
    """
    closed = jax.make_jaxpr(function)(like)
    if not _compares(closed.jaxpr):
        return None

    def margins(x: Any, frozen: bool = False) -> Any:
        consts = jax.lax.stop_gradient(closed.consts) if frozen else closed.consts
        found: list[Any] = []
        _interpret(closed.jaxpr, consts, [(x, True)], found, tables)
        return jnp.concatenate(found) if found else jnp.zeros(0, like.dtype)

    return margins if jax.eval_shape(margins, like).size else None


def _compares(jaxpr: Any) -> bool:
    inner = lambda call: getattr(call, "jaxpr", call)
    return any(
        _named(step) in _MARGINS or _named(step) in _CALLS and _compares(inner(step.params["jaxpr"]))
        for step in jaxpr.eqns
    )


@np.errstate(all="ignore")
def breakpoints(function: Callable[[Any], Any], lower: Any, upper: Any, tables: bool = True) -> Any:
    """The ends `(n, k + 2)` of the parts in which a function of one position is continuous between `lower` and `upper`
    (n,), of which some may have no length; None if it compares nothing. tables: whether what is looked up in one may jump.

    A jump is where a comparison changes: found by Newton, exact where it is linear in the position, from both ends, as
    |x − a| < w may change twice. Its derivative by the numbers in the function is that of the implicit function.
    """
    margins = _margins(function, jax.lax.stop_gradient(lower[0]), tables)
    if margins is None:
        return None
    low, high = jax.lax.stop_gradient((lower, upper))
    every = jax.vmap(lambda x: margins(x, frozen=True))
    first, last = concrete(every(low)), concrete(every(high))
    xp = namespace(first)
    crossed = (first < 0) != (last < 0)
    start, wide = xp.broadcast_to(low[:, None], first.shape), (high - low)[:, None]
    between = start + wide * first / xp.where(crossed, first - last, 1.0)
    guess = xp.concatenate([start, xp.where(crossed, between, start), start + wide], axis=1)
    which = np.broadcast_to(np.tile(np.arange(first.shape[1]), 3), guess.shape)

    def step(at: Any, which: Any, frozen: bool) -> Any:
        one = lambda x, j: jax.jvp(lambda y: margins(y, frozen)[j], (x,), (jnp.ones_like(x),))
        value, slope = map(concrete, jax.vmap(jax.vmap(one))(at, which))
        xp = namespace(value, slope)
        return xp.where(slope != 0, -value / xp.where(slope != 0, slope, 1.0), xp.where(value == 0, value, xp.inf))

    def closer(_: Any, at: Any) -> Any:
        return xp.clip(at + step(at, which, frozen=True), start[:, :1], start[:, :1] + wide)

    guess = _repeated(closer, guess, 12, 1e-6 * wide)
    inside = (guess > start[:, :1]) & (guess < start[:, :1] + wide)
    there = inside & (xp.abs(step(guess, which, frozen=True)) < 1e-3 * wide)
    guess = xp.where(there, guess, start[:, :1] + wide)
    order = xp.argsort(guess, axis=1)
    ordered, there, which = (xp.take_along_axis(each, order, axis=1) for each in (guess, there, which))
    again = xp.pad(xp.diff(ordered, axis=1) < 1e-6 * wide, ((0, 0), (1, 0)))  # what several starts have led to
    there = there & ~again
    guess = xp.where(there, ordered, start[:, :1] + wide)
    order = xp.argsort(guess, axis=1)[:, :MAX_JUMPS]
    guess, there, which = (xp.take_along_axis(each, order, axis=1) for each in (guess, there, which))
    move = step(jax.lax.stop_gradient(guess), which, frozen=False)
    xp = namespace(move, lower, upper)
    at = jax.lax.stop_gradient(guess) + xp.where(there, move, 0.0)
    ends = xp.where(there, xp.clip(at, lower[:, None], upper[:, None]), upper[:, None])
    return xp.concatenate([lower[:, None], xp.sort(ends, axis=1), upper[:, None]], axis=1)


def _repeated(closer: Callable[[Any, Any], Any], guess: Any, most: int, apart: Any) -> Any:
    """`guess` brought closer so many times; on the host until it stays, or goes to and fro where nothing jumps."""
    if isinstance(guess, jax.core.Tracer):
        return jax.lax.fori_loop(0, most, closer, guess)
    last = [guess]
    for k in range(most):
        last = [*last[-2:], closer(k, last[-1])]
        if (abs(last[-1] - last[0]) <= apart).all():
            break
    return last[-1]


def mean_between(
    function: Callable[[Any], Any], lower: Any, upper: Any, smooth: Any, power: int = 1, exponent: int = 0
) -> tuple[Any, Any]:
    """The mean of a function of one position between `lower` and `upper` (n,), and whether it jumps there.

        (∫ f^power r^exponent dr / ∫ r^exponent dr)^(1/power),  power 1 or −1

    Where it does not jump the mean is `smooth`; where it does, that of the middles of its parts.
    """
    ends = breakpoints(function, lower, upper)
    if ends is None:
        return smooth, jnp.zeros(jnp.shape(smooth), bool)
    lengths, middles = jnp.diff(ends, axis=1), (ends[:, 1:] + ends[:, :-1]) / 2
    values = jax.vmap(jax.vmap(function))(middles)
    there = lengths > 0
    weights = jnp.where(there, lengths * jnp.where(there, middles, 1.0) ** exponent, 0.0)
    safe = jnp.where(there, values, 1.0)
    if power == -1:
        least = jnp.min(jnp.where(there, values, jnp.inf), axis=1)
        safe = jnp.where(safe > 0, safe, 1.0)
    mean = (jnp.sum(weights * safe**power, axis=1) / jnp.sum(weights, axis=1)) ** power
    if power == -1:  # as it is where it is not positive, which is refused
        mean = jnp.where(least > 0, mean, least)
    cut = jnp.sum(there, axis=1) > 1
    return jnp.where(cut, mean, smooth), cut


def at_equal_places(function: Callable[[Any], Any], places: Any, values: Any) -> Any:
    """The `values` (n,) of a function of one position at equal places, and beside a jump what integrates it.

        h Σ vᵢ gᵢ ≈ ∫ f g dx

    A jump by J at a share θ on the way from a place to the next adds J ((1 − θ)²/2 − 1/12) and −J (θ²/2 − 1/12) to the two, so that
    it is exact for a step times a line: the error falls as h³ wherever the jump is, and has a derivative by its place.
    """
    if len(places) < 2:
        return values
    h, eps = places[1] - places[0], float(jnp.finfo(values.dtype).eps)
    aside = h * eps**0.375  # a jump at a place is after it
    ends = breakpoints(function, places[:-1] - aside, places[1:] - aside, tables=False)  # splines bend
    if ends is None:
        return values
    at, before = ends[:, 1:-1], places[:-1, None]
    there = (at > ends[:, :1]) & (at < ends[:, -1:])
    each = jax.vmap(jax.vmap(function))
    limit = lambda side: 2 * each(at + side / 2) - each(at + side)
    rise = limit(aside) - limit(-aside)
    there = there & (jnp.abs(rise) > eps**0.55 * jnp.max(jnp.abs(values)))  # else it bends
    share, rise = jnp.where(there, (at - before) / h, 0.0), jnp.where(there, rise, 0.0)
    cut = there.any(axis=1)
    beside = jnp.pad(cut, (0, 1)) | jnp.pad(cut, (1, 0))
    values = jnp.where(beside, jax.vmap(function)(places - aside), values)
    first, second = (jnp.sum(rise * (x**2 / 2 - 1 / 12), axis=1) for x in (1 - share, share))
    return values + jnp.pad(first, (0, 1)) - jnp.pad(second, (1, 0))
