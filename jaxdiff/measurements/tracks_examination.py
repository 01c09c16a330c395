"""Tests of a fitted model by tracks that are seen with noise or blur."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.integration.options import AUTOMATIC
from jaxdiff.measurements import trajectory_examination
from jaxdiff.measurements.residuals import Examination, Finding
from jaxdiff.measurements.track_dynamics import OTHER, terms
from jaxdiff.measurements.tracks import along, noise_of, states_of
from jaxdiff.runtime.compilation import quick_jit

if TYPE_CHECKING:
    from jaxdiff.measurements.trajectory import Trajectory

LEAST = 8  # tracks that a mixture is tested by
DRAWN = 2e6  # frames in all


def examined(m: Trajectory, equation: Any) -> Examination:
    """Tests of the standardised innovations of the filter along every axis, as of the steps of exact paths."""
    if equation is None:
        return Examination()
    if len(states_of(equation)) > 1:
        return mixed(m, equation)
    tests = Examination()
    starts = m.starts.reshape(len(m.durations), -1)
    for axis, each in enumerate(terms(equation, m.grid)):
        way = along(m, equation, each, axis, AUTOMATIC, whole=True)
        scores = np.asarray(_innovations(axis)(way, equation, m.grid, noise_of(m.initial), m.exposure or 0.0))
        seen: Any = SimpleNamespace(
            grid=SimpleNamespace(names=m.grid.names[axis:]), times=m.times, starts=starts[:, axis]
        )
        tests.add(*trajectory_examination.examined(seen, equation, scores).found)
    return tests


def mixed(m: Trajectory, equation: Any) -> Examination:
    """Tests of numbers of each track by their ranks among those of tracks that are drawn from the mixture."""
    tests = Examination("too few tracks are left to judge a mixture by")
    if len(m.times) < LEAST:
        return tests
    ways = []
    for state in equation.states:
        parts = enumerate(terms(state, m.grid))
        ways.append([along(m, state, each, axis, AUTOMATIC, whole=True) for axis, each in parts])
    if any(way.kind == OTHER for axes in ways for way in axes):
        return Examination("a mixture is judged where its states diffuse freely or in traps, far from walls")
    repeats = int(np.clip(DRAWN / sum(map(len, m.times)), 9, 99))
    keys = jax.random.split(jax.random.key(0), repeats)
    own, drawn = _statistics()(ways, equation, m.grid, noise_of(m.initial), m.exposure or 0.0, keys)
    ranks = np.sum(np.asarray(drawn) < np.asarray(own), axis=0) + np.random.default_rng(0).uniform(size=own.shape)
    for name, rank in zip(("log densities", "mean square steps", "products of successive steps"), ranks, strict=True):
        far, p = trajectory_examination.uniform(rank / (repeats + 1))
        text = f"{name} of tracks are not distributed as the mixture says, by {far:.2g} of all (Kolmogorov–Smirnov)"
        tests.add(Finding(p, far, text))
    return tests


@cache
def _statistics() -> Any:
    def statistics(ways: Any, equation: Any, grid: Any, noise: Any, exposure: Any, keys: Any) -> Any:
        """Of each track (3, tracks), and of those drawn (repeats, 3, tracks)."""
        every = [
            [(*way.numbers(each), noise**2, exposure) for way, each in zip(axes, terms(state, grid), strict=True)]
            for axes, state in zip(ways, equation.states, strict=True)
        ]
        first, shares = ways[0][0].uneven, equation.all_shares
        count = len(first.centres)

        def of(positions: Any) -> Any:
            logs = []
            for axes, numbers in zip(ways, every, strict=True):
                seen = [
                    way.uneven.at(x).log_densities(*each) for way, x, each in zip(axes, positions, numbers, strict=True)
                ]
                logs.append(sum(seen))
            likelihood = jax.nn.logsumexp(jnp.stack(logs) + jnp.log(shares)[:, None], axis=0)
            steps = [x.ravel()[first.frames] - x.ravel()[first.frames - x.shape[1]] for x in positions]
            follows = jnp.concatenate([jnp.zeros(1), first.owner[1:] == first.owner[:-1]])
            squares = sum(step**2 for step in steps)
            products = sum(jnp.roll(step, 1) * step * follows for step in steps)
            per = lambda each: jax.ops.segment_sum(each, first.owner, count, indices_are_sorted=True)
            return jnp.stack([likelihood, per(squares), per(products)])

        def draw(key: Any) -> Any:
            which, normal = jax.random.split(key)
            state = jax.random.categorical(which, jnp.log(shares), shape=(count,))[first.track]
            positions = []
            for axis, key in enumerate(jax.random.split(normal, len(ways[0]))):
                z = jax.random.normal(key, first.position.shape)
                each = [axes[axis].uneven.drawn(z, *numbers[axis]) for axes, numbers in zip(ways, every, strict=True)]
                positions.append(sum(jnp.where(state == i, x, 0.0) for i, x in enumerate(each)))
            return of(positions)

        return of([way.uneven.position for way in ways[0]]), jax.lax.map(draw, keys)

    return quick_jit(statistics)


@cache
def _innovations(axis: int) -> Any:
    return quick_jit(lambda way, equation, grid, *seen: way.innovations(equation, terms(equation, grid)[axis], *seen))
