"""Which cells hang together and which reach which, by whether there are rates between neighbours."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import jax
import jax.numpy as jnp


def parts(operator: Any) -> Any:
    """A number for every cell `(*cells,)`, the same in all that content may travel between, one way at least."""
    shape = operator.weights.shape if hasattr(operator, "weights") else operator.up.shape
    size = prod(shape)
    joined = [(up > 0) | _neighbour(down > 0, -1, k, wraps, False) for k, up, down, wraps in _axes(operator)]

    def least(label: Any) -> Any:
        for (k, _, _, wraps), above in zip(_axes(operator), joined, strict=True):
            label = jnp.minimum(label, jnp.where(above, _neighbour(label, -1, k, wraps, size), size))
            below = _neighbour(jnp.broadcast_to(above, shape), 1, k, wraps, False)
            label = jnp.minimum(label, jnp.where(below, _neighbour(label, 1, k, wraps, size), size))
        return label

    return _until_still(least, jnp.arange(size).reshape(shape))


def reaching(operator: Any, ends: Any) -> Any:
    """Whether what is in a cell can come to one of the cells `ends` `(*cells,)`, along rates that are not zero."""
    both_ways = jnp.array(True)
    for k, up, down, wraps in _axes(operator):
        last, first = (jnp.arange(up.shape[k]) == i for i in (up.shape[k] - 1, 0))
        along = lambda end, k=k, up=up: end.reshape([-1 if j == k else 1 for j in range(up.ndim)])
        open_ = jnp.array(not wraps)
        both_ways &= ((up > 0) | (along(last) & open_)).all() & ((down > 0) | (along(first) & open_)).all()

    def further(reached: Any) -> Any:
        for k, up, down, wraps in _axes(operator):
            reached |= ((up > 0) & _neighbour(reached, -1, k, wraps, False)) | (
                (down > 0) & _neighbour(reached, 1, k, wraps, False)
            )
        return reached

    return _until_still(further, ends | (both_ways & ends.any()))


def leading(operator: Any) -> tuple[Any, Any]:
    """(step back, step on) of an operator among states: from some of them `(n,)` to all that lead to them, or that they lead to."""
    if hasattr(operator, "rates") and not hasattr(operator, "jumps"):  # a matrix
        joined = operator.rates > 0
        return (
            lambda found: found | (joined & found[:, None]).any(0),
            lambda found: found | (joined & found).any(1),
        )
    source, target, rates = operator.jumps
    joined, n = rates > 0, len(operator.loss)
    along = lambda found, begin, end: found | (jax.ops.segment_max(1 * (joined & found[begin]), end, n) > 0)
    return lambda found: along(found, target, source), lambda found: along(found, source, target)


def led_to(operator: Any, starts: Any) -> Any:
    """Which states can be come to from `starts` `(n,)`."""
    return _until_still(leading(operator)[1], starts)


def leading_to(operator: Any, ends: Any) -> Any:
    """From which states one of `ends` `(n,)` can be come to."""
    return _until_still(leading(operator)[0], ends)


def never_left(operator: Any, content: Any) -> Any:
    """A state `(n,)` that all those it leads to lead back to; of large `content`."""
    order = jnp.arange(len(content))

    def again(found: tuple[Any, Any]) -> tuple[Any, Any]:
        state, _ = found
        gone = led_to(operator, order == state) & ~leading_to(operator, order == state)
        return jnp.where(gone.any(), jnp.argmax(jnp.where(gone, content, -1.0)), state), gone.any()

    return order == jax.lax.while_loop(lambda found: found[1], again, (jnp.argmax(content), jnp.array(True)))[0]


def several(operator: Any, mask: Any) -> Any:
    """Whether there are cells or states from which content stays among them for good, and others where it does not; mask:
    `(*cells,)` of a grid, whose cells go both ways, None for states."""
    if mask is None:
        out = operator.leak > 0
        ends = jnp.where(out.any(), out, never_left(operator, jnp.ones(out.shape)))
        return ~leading_to(operator, ends).all()
    part, out = parts(operator).ravel(), jnp.ravel(mask & (operator.leak > 0))
    there, open_ = (jax.ops.segment_max(1 * x, part, part.size) > 0 for x in (jnp.ravel(mask), out))
    shut = jnp.sum(there & ~open_)
    return (shut > 1) | ((shut == 1) & open_.any())


def _axes(operator: Any) -> list[tuple[int, Any, Any, bool]]:
    """Of each axis its number, rates up and down, and whether it is periodic."""
    each = lambda x: x if isinstance(x, tuple) else (x,)
    return [(k, *rest) for k, rest in enumerate(zip(*map(each, (operator.up, operator.down, operator.periodic))))]


def _neighbour(x: Any, by: int, k: int, wraps: bool, beyond: Any) -> Any:
    """The value of the neighbour along an axis, by = 1 from below, −1 from above; `beyond` past an open end."""
    moved = jnp.roll(x, by, k)
    return moved if wraps else moved.at[(slice(None),) * k + (0 if by == 1 else -1,)].set(beyond)


def _until_still(step: Callable[[Any], Any], start: Any) -> Any:
    def again(state: Any) -> Any:
        new = step(state[0])
        return new, (new != state[0]).any()

    return jax.lax.while_loop(lambda state: state[1], again, (start, jnp.array(True)))[0]
