"""Conditions on traced values: flags that a compiled core returns and the host turns into one-line errors."""

from __future__ import annotations

import re
import warnings
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

# A message with {where} and {value}; arrays: whether it fails (None: where it is not finite), the place (None: the index of
# the number), the number. A place on several axes is a tuple of arrays, {where}, {where1}, {where2} in the message.
Condition = tuple[str, Any, Any, Any]


_MANY = 2**14  # numbers from which looking at all of them costs more than the 50 µs of a branch


class Checks(eqx.Module):
    """Messages, and rows (number of the failed message from 1, or 0; value; where) of `table`."""

    messages: tuple[str, ...] = eqx.field(static=True, default=())
    table: Any = None
    needed: Any = None  # (substeps, steps) that a plan must allow, see `Method.refined`
    watched: Any = None  # what else a method says of its way

    def __add__(self, other: Checks) -> Checks:
        if not self.messages or not other.messages:
            return self if self.messages else other
        wide = max(self.table.shape[1], other.table.shape[1])
        one, two = (jnp.pad(checks.table, ((0, 0), (0, wide - checks.table.shape[1]))) for checks in (self, other))
        two = two.at[:, 0].add(jnp.where(two[:, 0] > 0, len(self.messages), 0))
        return Checks(self.messages + other.messages, jnp.concatenate([one, two]), self.needed)


def check(conditions: list[Condition], needed: Any = None) -> Checks:
    """The first condition that fails, with the first place where it does; of many, that is looked for if any may."""
    dtype = jnp.result_type(float)

    def row(failed: Any, where: Any, value: Any) -> list[Any]:
        failed = ~jnp.isfinite(value) if failed is None else failed
        if where is None:
            where = tuple(x.ravel() for x in jnp.indices(jnp.shape(value)))
            failed, value = jnp.ravel(failed), jnp.ravel(value)
        places = where if isinstance(where, tuple) else (where,)
        return jnp.broadcast_arrays(*(jnp.atleast_1d(jnp.asarray(x)) for x in (failed, value, *places)))

    def first_of() -> Any:
        rows = [row(*condition[1:]) for condition in conditions]
        number = np.concatenate([np.full(len(row[0]), i + 1.0) for i, row in enumerate(rows)])
        none = [jnp.zeros(1)]
        columns = [
            jnp.concatenate([jnp.broadcast_to((row[i : i + 1] or none)[0], row[0].shape).astype(dtype) for row in rows])
            for i in range(width)
        ]
        first = jnp.min(jnp.where(columns[0] > 0, jnp.arange(len(number)), len(number) - 1))
        columns[0] = columns[0] * jnp.asarray(number, dtype)
        return jnp.stack([column[first] for column in columns])

    axes = [
        np.ndim(value) if where is None else len(where) if isinstance(where, tuple) else 1
        for _, _, where, value in conditions
    ]
    width = 2 + max(axes)
    seen = [(failed is None, value if failed is None else failed) for _, failed, _, value in conditions]
    if sum(jnp.size(x) for _, x in seen) < _MANY:
        found = first_of()[None]
    else:  # a sum of finite numbers may overflow: then none is found to fail
        doubt = [~jnp.isfinite(jnp.sum(x)) if summed else jnp.any(x) for summed, x in seen]
        found = jax.lax.cond(jnp.stack(doubt).any(), first_of, lambda: jnp.zeros(width, dtype))[None]
    return jax.lax.stop_gradient(Checks(tuple(condition[0] for condition in conditions), found, needed))


def cell(axes: int) -> str:
    """The words for an index as the place."""
    return "{where}" if axes == 1 else "(" + ", ".join(f"{{where{i or ''}}}" for i in range(axes)) + ")"


def raise_failed(checks: Checks) -> None:
    """Raise `ValueError` with the message of the first failed check."""
    if not checks.messages:
        return
    table = np.asarray(checks.table)
    table = table.reshape(-1, table.shape[-1])
    failed = np.flatnonzero(table[:, 0])
    if len(failed):
        code, value, *places = table[failed[0]]
        names = ("where", "where1", "where2")
        where = {name: f"{place:.6g}" for name, place in zip(names, places, strict=False)}
        raise ValueError(checks.messages[int(code) - 1].format(value=f"{value:.6g}", **where))


def enforce(value: Any, checks: Checks, last: tuple[str, Any] | None = None) -> Any:
    """Inside a user's own jit: the same errors, raised when the compiled program runs; `last` (message, whether) after all.
    In a `vmap` the lane that fails is not a number, and a warning says which and why.

    One call to the host for all messages, as each takes time to compile; tied to a factor of one, as what an error is
    tied to goes through one device.
    """
    places = {
        r"in cell (\(\{where.*?\)|\{where\})": "in some cell",
        r"\{where\d?\}": "a point",
        r"\{value\}": "out of range",
    }
    messages = list(checks.messages)
    for place, words in places.items():
        messages = [re.sub(place, words, message) for message in messages]
    codes = checks.table[:, 0].astype(jnp.int32)
    code = codes[jnp.argmax(codes > 0)]
    if last is not None:
        messages.append(last[0])
        code = jnp.where((code == 0) & last[1], len(messages), code)
    dtype = value.dtype

    @jax.custom_batching.custom_vmap
    def factor(code: Any) -> Any:
        return eqx.branched_error_if(jnp.ones((), dtype), code > 0, jnp.maximum(code - 1, 0), messages)

    @factor.def_vmap
    def lanes(size: int, batched: Any, codes: Any) -> Any:
        jax.debug.callback(partial(_told, messages), codes)
        return jnp.where(codes > 0, jnp.nan, 1.0).astype(dtype), True

    return value * factor(jax.lax.stop_gradient(code))


def _told(messages: list[str], codes: Any) -> None:
    """A word on the lanes of a batch that failed."""
    failed = np.flatnonzero(np.asarray(codes))
    if len(failed):
        first = messages[int(np.ravel(codes)[failed[0]]) - 1]
        warnings.warn(
            f"{len(failed)} of {np.size(codes)} in this batch are NaN, the first at {failed[0]}: {first}", stacklevel=2
        )
