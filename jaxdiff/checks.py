"""Conditions on traced values: flags that a compiled core returns and the host turns into one-line errors."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

Condition = tuple[str, Any, Any, Any]  # message with {where} and {value}; arrays: where it fails, the place, the number


class Checks(eqx.Module):
    """Messages, and rows (number of the failed message from 1, or 0; where; value) of `table`."""

    messages: tuple[str, ...] = eqx.field(static=True, default=())
    table: Any = None
    needed: Any = None  # (substeps, steps) that a plan must allow, see `Plan.refined`

    def __add__(self, other: Checks) -> Checks:
        if not self.messages or not other.messages:
            return self if self.messages else other
        shift = jnp.where(other.table[:, :1] > 0, len(self.messages), 0) * jnp.array([1.0, 0.0, 0.0])
        return Checks(self.messages + other.messages, jnp.concatenate([self.table, other.table + shift]), self.needed)


def check(conditions: list[Condition], needed: Any = None) -> Checks:
    """The first condition that fails, with the first place where it does; one reduction for all of them."""
    rows = [jnp.broadcast_arrays(*(jnp.atleast_1d(jnp.asarray(x)) for x in condition[1:])) for condition in conditions]
    number = np.concatenate([np.full(len(row[0]), i + 1.0) for i, row in enumerate(rows)])
    dtype = jnp.result_type(float)
    bad, where, value = (jnp.concatenate([row[i].astype(dtype) for row in rows]) for i in range(3))
    first = jnp.min(jnp.where(bad > 0, jnp.arange(len(number)), len(number) - 1))
    row = jnp.stack([bad[first] * jnp.asarray(number, dtype)[first], where[first], value[first]])[None]
    return jax.lax.stop_gradient(Checks(tuple(condition[0] for condition in conditions), row, needed))


def raise_failed(checks: Checks) -> None:
    """Raise `ValueError` with the message of the first failed check."""
    if not checks.messages:
        return
    table = np.asarray(checks.table).reshape(-1, 3)
    failed = np.flatnonzero(table[:, 0])
    if len(failed):
        code, where, value = table[failed[0]]
        raise ValueError(checks.messages[int(code) - 1].format(where=f"{where:.6g}", value=f"{value:.6g}"))


def enforce(value: Any, checks: Checks) -> Any:
    """Inside a user's own jit: the same errors, raised when the compiled program runs."""
    for i, message in enumerate(checks.messages):
        text = message.replace("{where}", "a point").replace("{value}", "out of range")
        value = eqx.error_if(value, (checks.table[:, 0] == i + 1).any(), text)
    return value
