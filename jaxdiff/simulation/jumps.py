"""Paths of what jumps between states, jump by jump."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.runtime.compilation import solver_jit
from jaxdiff.runtime.conditions import Checks, check

MOST = 2**28  # jumps within one interval


@solver_jit
def paths(rates: Any, states: Any, start: Any, times: Any, keys: Any, bounded: bool) -> tuple[Any, Checks]:
    """States (paths, times, species) as numbers, NaN of those that are lost, and what must not be.

    The waiting time is exponential and forgets, so that each interval starts anew: exact, whatever the times.
    states: name the species, and with `bounded` are all there are; start: (paths, species) whole numbers; keys: (paths,)
    """
    moves = rates.moves(states)
    dtype = jnp.result_type(float)

    def path(state: Any, key: Any) -> Any:
        def interval(carry: Any, row: Any) -> Any:
            number, length = row

            def jump(carry: Any) -> Any:
                state, left, key, count, _ = carry
                key, wait, choice = jax.random.split(key, 3)
                each, targets = moves(state)
                upto = jnp.cumsum(each)
                total = upto[-1]
                left = left - jnp.where(total > 0, jax.random.exponential(wait, (), dtype) / total, jnp.inf)
                below = jnp.nextafter(total, jnp.zeros_like(total))  # a product that rounds up would find nobody
                which = jnp.argmax(upto > jnp.minimum(jax.random.uniform(choice, (), dtype) * total, below))
                state = jnp.where(left > 0, jnp.asarray(targets)[which], state).astype(state.dtype)
                wrong = ~jnp.isfinite(total) | jnp.any(each < 0)
                return state, left, key, count + 1, jnp.where(wrong, jnp.where(total > 0, total, -1.0), 0.0)

            def going(carry: Any) -> Any:
                state, left, _, count, wrong = carry
                return (left > 0) & there(state) & (count < MOST) & (wrong == 0)

            state, before = carry
            begin = (state, length, jax.random.fold_in(key, number), jnp.int32(0), before)
            state, left, _, count, wrong = jax.lax.while_loop(going, jump, begin)
            endless = (count >= MOST) & (left > 0)
            return (state, wrong), (jnp.where(there(state), state, jnp.nan), endless)

        def there(state: Any) -> Any:
            inside = jnp.all(state >= 0)
            return inside & jnp.all(state < jnp.asarray(states.shape)) if bounded else inside

        rows = jnp.arange(len(times) - 1), jnp.diff(times).astype(dtype)
        (_, wrong), (out, endless) = jax.lax.scan(interval, (state, jnp.zeros((), dtype)), rows)
        return jnp.concatenate([state[None].astype(dtype), out.astype(dtype)]), wrong, endless.any()

    found, wrong, endless = jax.vmap(path)(start, keys)
    off = wrong[jnp.argmax(wrong != 0)]
    return found, check(
        [
            ("rates out of a state sum to {value}, or one is negative; they must be from zero up", off != 0, 0.0, off),
            (f"a path jumps more than {MOST} times between two times; shorten them", endless.any(), 0.0, jnp.zeros(())),
        ]
    )
