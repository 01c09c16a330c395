"""Conditions on traced values: flags that a compiled core returns and the host turns into one-line errors."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


class Checks(eqx.Module):
    """Messages and their flags: `table` holds a row (failed, where, value) for each message."""

    messages: tuple[str, ...] = eqx.field(static=True, default=())
    table: Any = None
    needed: Any = None  # (substeps, steps) that a plan must allow, see `Plan.refined`

    def __add__(self, other: Checks) -> Checks:
        if not self.messages or not other.messages:
            return self if self.messages else other
        return Checks(self.messages + other.messages, jnp.concatenate([self.table, other.table]))


def check(message: str, bad: Any, where: Any = 0.0, value: Any = 0.0) -> Checks:
    """One condition; `message` may use {where} and {value}, taken at the first bad entry."""
    bad = jnp.atleast_1d(bad)
    first = jnp.argmax(bad)
    pick = lambda x: jnp.broadcast_to(jnp.asarray(x), bad.shape)[first]  # noqa: E731
    row = jnp.stack([jnp.asarray(x, jnp.result_type(float)) for x in (bad.any(), pick(where), pick(value))])
    return Checks((message,), jax.lax.stop_gradient(row)[None])


def raise_failed(checks: Checks) -> None:
    """Raise `ValueError` with the message of the first failed check."""
    if not checks.messages:
        return
    table = np.asarray(checks.table)
    if table[..., 0].any():
        table = table.reshape(-1, *table.shape[-2:])[np.argmax(table.reshape(-1, *table.shape[-2:])[..., 0].any(-1))]
        i = int(np.argmax(table[:, 0]))
        raise ValueError(checks.messages[i].format(where=f"{table[i, 1]:.6g}", value=f"{table[i, 2]:.6g}"))


def enforce(value: Any, checks: Checks) -> Any:
    """Inside a user's own jit: the same errors, raised when the compiled program runs."""
    if checks.messages:
        for i, message in enumerate(checks.messages):
            text = message.replace("{where}", "a point").replace("{value}", "out of range")
            value = eqx.error_if(value, checks.table[i, 0] > 0, text)
    return value
