"""Paths of states: seen at some times, or jump by jump."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.discretisation.schemes import FiniteVolume, semidiscrete
from jaxdiff.integration.jumps import MATRIX_STATES, distinct_lengths
from jaxdiff.measurements.measurement import Measurement
from jaxdiff.measurements.predictor import Prediction, Predictor, padded
from jaxdiff.measurements.states_at_times import Unplannable
from jaxdiff.operators import dense, doubled, doublings_needed, products_needed
from jaxdiff.operators.uniformisation import poisson
from jaxdiff.runtime.compilation import bucket
from jaxdiff.runtime.conditions import Checks, check

if TYPE_CHECKING:
    from jaxdiff.measurements.trajectory import Trajectory

_HELD = 2**24  # numbers that are held at once
_MOST_PRODUCTS = 2**18
_TOGETHER = 64  # matrices that are squared at once


class JumpsPredictor(Predictor):
    """The predictor of paths of states: the log density of each row, a state and the one after it.

    observation, starts, durations: (m,) where each row ends and begins, by the number of its state, and how long it takes
    path, number: (m,) of which path it is, and which row there
    """

    family: ClassVar[str] = "density"
    on_cells: ClassVar[bool] = False
    observation: Any
    weight: Any
    size: Any
    starts: Any
    durations: Any
    path: Any
    number: Any
    grid: Any
    known: bool = eqx.field(static=True)

    def predict(self, equation: Any, initial: Any) -> Prediction:
        system = semidiscrete(equation, self.grid, FiniteVolume())[0]
        values, resolved = self.log_densities(system.operator(0.0))
        words = "row {where2} of path {value} leads from state {where} to {where1}, which has no chance at these rates"
        if self.grid.labels:
            words += f" (from 0: {', '.join(self.grid.labels)})"
        places = (self.starts, self.observation, self.number)
        impossible = (words + "; correct it, or allow that", resolved & (values == -jnp.inf), places, self.path)
        checks = check([*system.conditions(0.0), impossible])
        return Prediction(values, checks, resolved)

    def log_densities(self, operator: Any) -> tuple[Any, Any]:
        """(m,), and whether they are resolved at these rates."""
        raise NotImplementedError

    def renewed(self, measurement: Measurement, equation: Any, checks: Checks) -> Predictor:
        return measurement.prepare(equation)


class Jumps(JumpsPredictor):
    """Every jump was seen: ln rate[x₁, x₀] of a jump, and −exit[x₀] Δ of what passes before it.

    jump: (j,) which of the jumps of the operator, None of a matrix; row: (j,) whose rate it adds to
    """

    jump: Any
    row: Any

    def log_densities(self, operator: Any) -> tuple[Any, Any]:
        if self.jump is None:
            rates = operator.rates[self.observation, self.starts]
        else:
            rates = jnp.zeros(len(self.starts)).at[self.row].add(operator.jumps[2][self.jump])
        stayed = self.observation == self.starts
        return _log(jnp.where(stayed, 1.0, rates)) - operator.exit[self.starts] * self.durations, jnp.array(True)


class Squared(JumpsPredictor):
    """ln P(Δ)[x₁, x₀] by the matrix of every length of time, squared up from a tiny step.

    distinct: (d,) lengths; ends, begins: (d, g) the different jumps in each of them; place: (m,) of each row in (d g,)
    """

    distinct: Any
    ends: Any
    begins: Any
    place: Any
    squarings: int = eqx.field(static=True)

    def log_densities(self, operator: Any) -> tuple[Any, Any]:
        rates = dense(operator)
        needed = doublings_needed(jnp.max(rates.exit), jnp.max(self.distinct))

        @jax.checkpoint
        def chances(part: Any) -> Any:
            t, ends, begins = part
            moves, stays = doubled(rates, t, self.squarings)
            return jnp.where(ends == begins, stays[begins], moves[ends, begins])

        together = max(1, min(_TOGETHER, _HELD // (self.squarings * len(rates.loss) ** 2)))
        found = jax.lax.map(chances, (self.distinct, self.ends, self.begins), batch_size=together)
        return _log(found.ravel()[self.place]), needed <= self.squarings


class Powers(JumpsPredictor):
    """ln P(Δ)[x₁, x₀] by uniformisation: powers of one matrix for all lengths of time, with weights for each.

        P(Δ) = Σₖ e^{−qΔ}(qΔ)ᵏ/k! Xᵏ,   X = I + A/q,   q the largest exit

    distinct: (d,) lengths; which: (u,) the length of the different rows, from the start `column` to the state `ends`;
    place: (m,) which of these each row is; columns: (c, s) different starts, the states whose columns of X are followed at once
    """

    distinct: Any
    which: Any
    ends: Any
    column: Any
    place: Any
    columns: Any
    products: int = eqx.field(static=True)

    def log_densities(self, operator: Any) -> tuple[Any, Any]:
        largest = jax.lax.stop_gradient(jnp.max(operator.exit))
        q, count = jnp.where(largest > 0, largest, 1.0), len(operator.loss)
        needed = _products(q * jnp.max(self.distinct), count)
        each, times_x = 2 ** (round(np.log2(self.products)) // 2), _times_x(operator, q)
        means = q * self.distinct
        first = np.arange(0, self.products, each)
        weights = jax.vmap(poisson, (0, None), 1)(means, first)  # and of those between by the one before
        means = means[self.which]

        def step(carry: Any, k: Any) -> Any:
            x, total, within, weight = carry
            total = total + jnp.where(within >= 0, weight * x[self.ends, within], 0.0)
            return (times_x(x), total, within, weight * means / (k + 1)), None

        @jax.checkpoint
        def block(carry: Any, part: Any) -> Any:
            k, weight = part
            carry = (*carry, weight[self.which])
            return jax.lax.scan(step, carry, k + jnp.arange(each))[0][:-1], None

        def some(total: Any, part: Any) -> Any:
            starts, number = part
            x = jnp.zeros((count, len(starts))).at[starts, jnp.arange(len(starts))].set(1.0)
            within = self.column - number
            within = jnp.where((within >= 0) & (within < len(starts)), within, -1)
            return jax.lax.scan(block, (x, total, within), (first, weights))[0][1], None

        numbers = np.arange(len(self.columns)) * self.columns.shape[1]
        some = some if len(self.columns) == 1 else jax.checkpoint(some)
        found = jax.lax.scan(some, jnp.zeros(len(self.ends)), (self.columns, numbers))[0]
        return _log(found[self.place]), needed <= self.products


def prepared(path: Trajectory, equation: Any, pad: bool = False) -> JumpsPredictor:
    """The predictor of a path of states at these rates; pad: whether rows that count for nothing may be added, so that paths of
    other jumps share a program."""
    system = semidiscrete(equation, path.grid, FiniteVolume())[0]
    if not system.among_states:
        raise TypeError(f"a path of states is that of a jd.MasterEquation, got {type(equation).__name__}")
    if system.operator_varies:
        raise ValueError("a path of states needs rates that do not depend on time")
    starts, stops = numbers_of(path)
    operator, durations, rows = system.operator(0.0), path.durations, len(starts)
    size = (lambda n: bucket(n, 16)) if pad else (lambda n: n)
    filled = lambda column, fill: padded(column, size(rows), fill)
    common: dict[str, Any] = {
        "observation": filled(stops, 0),
        "weight": filled(np.ones(rows), 0.0),
        "size": np.float64(rows),
        "starts": filled(starts, 0),
        "durations": filled(durations, 0.0),
        "path": filled(np.concatenate([np.full(len(t) - 1, i) for i, t in enumerate(path.times)]), 0),
        "number": filled(np.concatenate([np.arange(1, len(t)) for t in path.times]), 0),
        "grid": path.grid,
        "known": True,
    }
    count, exit = len(operator.loss), float(np.max(operator.exit))
    if path.continuous:
        return Jumps(**common, **_jumps(operator, starts, stops, count, size))
    distinct, which = distinct_lengths(durations)
    triples, place = np.unique(np.stack([which, starts, stops]), axis=1, return_inverse=True)
    place = filled(place.ravel(), 0)
    known = exit * distinct.max() if np.isfinite(exit) and exit > 0 else 1.0
    products = 2 ** int(np.ceil(np.log2(float(_products(known, count)))))
    columns, column = np.unique(triples[1], return_inverse=True)
    of_matrices = len(distinct) * 2 * count**3 * 48
    of_powers = products * (len(columns) * count * min(count, 8) + triples.shape[1])
    if count <= MATRIX_STATES and of_matrices < max(of_powers, 2**20):
        squarings = -(-int(doublings_needed(exit, distinct.max())) // 8) * 8
        return Squared(**common, distinct=distinct, squarings=max(squarings, 48), **_by_length(triples, place, size))
    if products > _MOST_PRODUCTS:
        raise Unplannable(
            f"between two times of a path {known:.3g} jumps may come, more than are followed; check the rates and their unit"
        )
    different, shown = size(triples.shape[1]), min(count, size(len(columns)))
    width = max(1, min(shown, _HELD // round(count * products**0.5)))
    return Powers(
        **common,
        distinct=distinct,
        which=padded(triples[0], different),
        ends=padded(triples[2], different),
        column=padded(column.ravel(), different),
        place=place,
        columns=np.resize(columns, (-(-shown // width), width)),
        products=products,
    )


def numbers_of(path: Trajectory) -> tuple[np.ndarray, np.ndarray]:
    """Where each row begins and ends, `(m,)` each, by the numbers of states in one row."""
    columns = lambda x: tuple(np.atleast_2d(x.astype(int).T))
    starts, stops = (np.ravel_multi_index(columns(x), path.grid.shape) for x in (path.starts, path.stops))
    return starts, stops


def _products(mean: Any, count: int) -> Any:
    """Products after which what is left out is roundoff in every entry: where a state is reached by rare jumps alone, there are
    as many more as it takes of those."""
    return products_needed(mean) + min(count, 64)


def _by_length(triples: np.ndarray, place: np.ndarray, size: Any) -> dict[str, Any]:
    """The different (length, start, stop) in a table with a row for each length, and where those of each row of data stand."""
    which, starts, stops = triples
    sizes = np.bincount(which)
    within = np.arange(len(which)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    width = size(sizes.max())
    ends, begins = np.zeros((2, len(sizes), width), int)
    ends[which, within], begins[which, within] = stops, starts
    return {"ends": ends, "begins": begins, "place": (which * width + within)[place]}


def _jumps(operator: Any, starts: np.ndarray, stops: np.ndarray, count: int, size: Any) -> dict[str, Any]:
    """Which jumps of an operator each row is; a matrix is read as it stands."""
    if not hasattr(operator, "jumps"):
        return {"jump": None, "row": None}
    source, target, _ = operator.jumps
    key = np.asarray(source, np.int64) * count + np.asarray(target)
    order = np.argsort(key, kind="stable")
    wanted = starts.astype(np.int64) * count + stops
    first, last = (np.searchsorted(key[order], wanted, side) for side in ("left", "right"))
    sizes = last - first
    at = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes) + np.repeat(first, sizes)
    jump, row = order[at], np.repeat(np.arange(len(starts)), sizes)
    long = size(len(jump))
    return {
        "jump": padded(jump, long),
        "row": padded(row, long, size(len(starts))),
    }  # beyond all rows, where nothing is added


def _times_x(operator: Any, q: Any) -> Any:
    """x ↦ X x of columns `(n, s)`, by sums and products of positive numbers alone."""
    if hasattr(operator, "action"):
        action = operator.action(1 / q, -q)
        return jax.vmap(action, in_axes=-1, out_axes=-1)
    rates, stay = operator.rates / q, (1 - operator.exit / q)[:, None]
    return lambda x: jnp.matmul(rates, x, precision="highest") + stay * x


def _log(p: Any) -> Any:
    """ln p, whose derivative is that of no chance where there is none."""
    some = p > 0
    return jnp.where(some, jnp.log(jnp.where(some, p, 1.0)), -jnp.inf)
