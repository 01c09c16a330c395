"""Tracks by any drift, diffusivity and walls, seen with noise: the filter of hidden Markov chains, on the cells."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.transition.kalman import FilteredTracks

_ORDER = 12  # of the series of e^{hA}, for exits of a half within h
_LEAST = 1e-290  # of the probability in a cell


class CellTracks(eqx.Module):
    """The log densities of tracks by p ← P(Δ)(p ∘ N(yᵢ − x; s))/sum on the cells, N a mean over each, of a system, from a flat prior.

        log p(y₁ … | y₀) = Σᵢ log Σₓ pᵢ(x) N(yᵢ − x; s)

    lanes: the tracks, as for the Kalman filter; lengths: (d,) the different intervals; which: (frames, lanes) which of them
    came before each frame; squarings: of a step within which half of a cell is left at most

    Baum, Petrie, Soules & Weiss 1970, doi:10.1214/aoms/1177697196.
    """

    lanes: FilteredTracks
    lengths: Any
    which: Any
    squarings: int = eqx.field(static=True)

    @property
    def positions(self) -> Any:
        """(frames, lanes) where each was seen."""
        return self.lanes.position + self.lanes.centres[self.lanes.track]

    def log_densities(self, system: Any, deviation: Any) -> tuple[Any, Any]:
        """(tracks,), and whether the steps of the exponential are short enough."""
        values, _, fine = self.filtered(system, deviation)
        each, owner = values.ravel()[self.lanes.frames], self.lanes.owner
        return jax.ops.segment_sum(each, owner, len(self.lanes.centres), indices_are_sorted=True), fine

    def filtered(self, system: Any, deviation: Any) -> tuple[Any, Any, Any]:
        """(log density of every frame but first ones, the chance to be seen below it, whether steps are short enough)."""
        (x,), volumes = system.grid.centers, jnp.asarray(system.grid.volumes)
        edges = system.grid.edges[0]
        period = edges[-1] - edges[0] if system.periodic else None
        moves, fine = propagators(system.operator(0.0), self.lengths, self.squarings)

        half = jnp.diff(edges) / (2 * deviation)

        def step(p: Any, part: Any) -> Any:
            y, first, which = part
            p = jnp.einsum("wij,wj->wi", moves[which], p) if len(self.lengths) > 1 else p @ moves[0].T
            p = jnp.where(first[:, None], volumes / jnp.sum(volumes), p)
            away = y[:, None] - x
            away = away if period is None else (away + period / 2) % period - period / 2
            away = away / deviation
            below = jnp.sum(p * jax.scipy.special.ndtr(away), axis=1)
            near = jnp.abs(away)  # the mean of the noise over a cell, which no cell is too wide for
            share = jax.scipy.special.ndtr(half - near) - jax.scipy.special.ndtr(-half - near)
            seen = p * (share / (2 * half * deviation)) + _LEAST
            total = jnp.sum(seen, axis=1)
            return seen / total[:, None], (jnp.log(total), below)

        start = jnp.zeros((self.which.shape[1], len(x)))
        values, below = jax.lax.scan(
            step, start, (self.positions, jnp.asarray(self.lanes.first), jnp.asarray(self.which))
        )[1]
        return values, below, fine


def propagators(operator: Any, lengths: Any, squarings: int) -> tuple[Any, Any]:
    """(e^{tA} for each of the lengths of time (d, n, n), whether the series behind them have converged).

    All is sums and products of positive numbers, so that what is far away keeps its digits: e^{hA} = e^{−qh} Σ (qh)ᵏ/k! (I + A/q)ᵏ.
    """
    n = len(operator.loss)
    q = jax.lax.stop_gradient(jnp.max(operator.exit))
    once = jax.vmap(lambda u: u + (operator @ u) / q, in_axes=1, out_axes=1)

    def one(t: Any) -> Any:
        h = q * t * 0.5**squarings

        def add(carry: Any, k: Any) -> Any:
            term = once(carry[0]) * (h / k)
            return (term, carry[1] + term), None

        matrix = jnp.exp(-h) * jax.lax.scan(add, (jnp.eye(n), jnp.eye(n)), jnp.arange(1.0, _ORDER + 1))[0][1]
        return jax.lax.fori_loop(0, squarings, lambda _, P: jnp.matmul(P, P, precision="highest"), matrix)

    return jax.lax.map(one, jnp.asarray(lengths)), q * jnp.max(jnp.asarray(lengths)) * 0.5**squarings <= 1.0


def squarings_for(exit: Any, longest: float) -> int:
    """Halvings of the longest interval after which half of a cell is left at most, and two to spare."""
    return max(0, int(np.ceil(np.log2(max(float(exit) * longest, 1e-300)))) + 2)
