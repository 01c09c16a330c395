"""Time cut where the output times and the knots of measured series are, and finely after the start."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.operators import CUTS


class Stretches(eqx.Module):
    """Stretches of time that follow each other: `starts` and `durations` `(s,)`; durations that differ, `distinct`, and
    `which` of them each stretch has; the stretch that `ends` at each output time `(T,)`."""

    starts: Any
    durations: Any
    distinct: Any
    which: Any
    ends: Any


def cut(times: Any, knots: Any = (), most: int = CUTS) -> Stretches:
    """Cut time at outputs and knots, and what follows the start in several, at `most`."""
    if isinstance(times, jax.core.Tracer):
        if len(knots):
            raise ValueError("output times inside jit cannot be merged with those of a Series; pass them as numbers")
        first = times[0] + (times[1] - times[0]) * jnp.arange(most) / most
        ends = jnp.concatenate([first[1:], times[1:]])
        starts = jnp.concatenate([times[:1], ends[:-1]])
        lengths = ends - starts
        return Stretches(starts, lengths, lengths, np.arange(len(ends)), np.arange(len(times) - 1) + most - 1)
    inner = [k[(k > times[0]) & (k < times[-1])] for k in map(np.asarray, knots)]
    nodes = np.unique(np.concatenate([times, *inner]))
    # What a stretch still has to smooth out is as fast as the time before it is short.
    spans, since = np.diff(nodes), nodes[1:] - nodes[0]
    pieces = 2 ** np.round(np.log2(np.clip(CUTS * spans / since, 1, most))).astype(int)
    durations: Any = np.repeat(spans / pieces, pieces)
    last = np.cumsum(pieces) - 1
    place = np.arange(len(durations)) - np.repeat(last + 1 - pieces, pieces)
    starts = np.repeat(nodes[:-1], pieces) + durations * place
    # Equal to roundoff counts as equal: 0.1 s apart, however the sums were rounded.
    scale = 10.0 ** np.minimum(12 - np.ceil(np.log10(durations)), 300)
    rounded = np.where(durations > 1e-280, np.round(durations * scale) / scale, durations)
    distinct, which = np.unique(rounded, return_inverse=True)
    if len(distinct) > 5:
        distinct, which = np.unique(durations, return_inverse=True)
    return Stretches(starts, durations, distinct, which, last[np.searchsorted(nodes, times[1:]) - 1])
