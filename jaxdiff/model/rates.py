"""Rates between states: a matrix, births and deaths, reactions."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.model.arguments import at_place, takes
from jaxdiff.model.coefficients import at_time, varies
from jaxdiff.model.series import Series
from jaxdiff.model.states import States
from jaxdiff.model.time_dependent import TimeDependent
from jaxdiff.operators import Dense, ShiftSum, Sparse, Tridiagonal
from jaxdiff.parameters import numeric, plain

Moves = Callable[[Any], tuple[Any, Any]]


class Rates(eqx.Module):
    """Where a system jumps, and how often: a base."""

    truncated: ClassVar[bool] = False  # whether states beyond the last are left out, so that what goes there is lost

    @abstractmethod
    def operator(self, states: States, t: Any) -> Any:
        """The generator on these states at time t."""

    @abstractmethod
    def states(self, least: int) -> States:
        """The states where none are given, of an unbounded count up to at least so many."""

    @abstractmethod
    def moves(self, states: States) -> Moves:
        """(rates (r,), targets (r, species)) out of one state (species,), constant in time; a target of −1 is none, for what
        is lost. Where rates are functions of the counts, of states beyond the last too."""

    @property
    def given(self) -> int:
        """How many counts arrays of rates are for; 0: for any."""
        return 0

    @property
    def varies(self) -> bool:
        """Whether they depend on time."""
        return False


class Matrix(Rates):
    """A matrix `(n, n)` of rates [1/time], to the row from the column, or a `TimeDependent` one."""

    matrix: Any = eqx.field(converter=numeric)

    def __check_init__(self) -> None:
        value = plain(self.matrix)
        if not callable(value) and _known(value):
            require_columns(np.asarray(value, float))

    def operator(self, states: States, t: Any) -> Dense:
        matrix = at_time(self.matrix, t, ())
        matrix = matrix() if callable(matrix) else matrix
        found = Dense(_stacked(matrix))
        if found.loss.shape != states.shape:
            raise ValueError(
                f"rates between {len(found.loss)} states do not hold for {states.shape}; give both as many"
            )
        return found

    def moves(self, states: States) -> Moves:
        operator = self.operator(states, 0.0)
        targets = np.append(np.arange(len(operator.loss)), -1)[:, None]
        return lambda state: (jnp.append(operator.rates[:, state[0]], operator.loss[state[0]]), targets)

    def states(self, least: int) -> States:
        value = plain(self.matrix)
        return States(len(jax.eval_shape(value, 0.0) if callable(value) else value))

    @property
    def varies(self) -> bool:
        return varies(self.matrix)


class SparseMatrix(Rates):
    """The rates of a sparse matrix, and where they stand."""

    values: Any
    losses: Any
    sources: tuple[int, ...] = eqx.field(static=True)
    targets: tuple[int, ...] = eqx.field(static=True)
    count: int = eqx.field(static=True)

    def __init__(self, matrix: Any):
        target, source, values, shape = _entries(matrix)
        if len(shape) != 2 or shape[0] != shape[1]:
            raise ValueError(f"rates between n states are a matrix (n, n), got shape {shape}")
        off = source != target
        self.count, self.values = shape[0], values[np.flatnonzero(off)]
        self.sources, self.targets = tuple(source[off].tolist()), tuple(target[off].tolist())
        summed = lambda which, ends: jnp.zeros(shape[0]).at[ends[which]].add(values[np.flatnonzero(which)])
        with jax.enable_x64(True):
            diagonal, exits, entries = summed(~off, source), summed(off, source), summed(off, target)
            beyond = -diagonal - exits  # as of a matrix that is dense
            whole = jnp.abs(beyond) <= 1e3 * jnp.finfo(beyond.dtype).eps * (jnp.abs(diagonal) + exits)
            self.losses = jnp.where((diagonal >= 0) | whole, 0.0, beyond)
            if _known(values):
                self.losses = np.asarray(self.losses)
                _require_columns(*map(np.asarray, (diagonal, exits, entries)))

    def operator(self, states: States, t: Any) -> Any:
        if states.shape != (self.count,):
            raise ValueError(f"rates between {self.count} states do not hold for {states.shape}; give both as many")
        values = jnp.asarray(self.values)
        losses = jnp.asarray(self.losses, values.dtype)
        return Sparse(values, losses, np.asarray(self.sources), np.asarray(self.targets))

    def moves(self, states: States) -> Moves:
        self.operator(states, 0.0)  # raises unless there are as many states
        sources = np.asarray(self.sources, int)
        order, counts = np.argsort(sources, kind="stable"), np.bincount(sources, minlength=self.count)
        place = np.arange(len(sources)) - np.repeat(np.cumsum(counts) - counts, counts)
        which = np.full((self.count, counts.max(initial=0)), len(sources))
        which[sources[order], place] = order
        targets = jnp.asarray(np.append(np.asarray(self.targets, int), -1)[which])
        rates = jnp.append(jnp.asarray(self.values, jnp.result_type(float)), 0.0)[which]
        losses = jnp.asarray(self.losses, rates.dtype)

        def of(state: Any) -> tuple[Any, Any]:
            i = state[0]
            return jnp.append(rates[i], losses[i]), jnp.append(targets[i], -1)[:, None]

        return of

    def states(self, least: int) -> States:
        return States(self.count)


class BirthDeath(Rates):
    """The rates from n to n + 1 and from n to n − 1 [1/time], of the counts n from zero on."""

    birth: Any = eqx.field(converter=numeric)
    death: Any = eqx.field(converter=numeric)

    truncated = True

    def operator(self, states: States, t: Any) -> Tridiagonal:
        if states.ndim > 1:
            raise ValueError(f"births and deaths are of one species, got {', '.join(states.names)}; use from_reactions")
        named = ((self.birth, "birth"), (self.death, "death"))
        up, down = (jnp.broadcast_to(_value(rate, states, t, name), states.shape) for rate, name in named)
        return Tridiagonal(up, down.at[0].set(0.0), jnp.zeros_like(up))

    def moves(self, states: States) -> Moves:
        def of(state: Any) -> tuple[Any, Any]:
            up, down = (
                _value_at(rate, states, state, what) for rate, what in ((self.birth, "birth"), (self.death, "death"))
            )
            return jnp.stack([up, jnp.where(state[0] > 0, down, 0.0)]), state + np.array([[1], [-1]])

        return of

    def states(self, least: int) -> States:
        return States({"n": (self.given or least) - 1})

    @property
    def given(self) -> int:
        """How many counts arrays of rates are for; 0: for any."""
        both = plain(self.birth), plain(self.death)
        return max((len(rate) for rate in both if not callable(rate) and np.ndim(rate) == 1), default=0)

    @property
    def varies(self) -> bool:
        return varies(self.birth) or varies(self.death)


class Reaction(eqx.Module):
    """One reaction of a network.

        a(n) = rate · Π n!/(ν! (n − ν)!) over the reactants,   n → n − ν + ν′

    Args:
        reactants: {species: how many} that are used up, ν.
        products: {species: how many} that come of it, ν′.
        rate: of mass action, per combination of reactants [1/time], as Gillespie counts them: A + A → B has n(n − 1)/2 pairs.
            A number, which may be marked, or a `TimeDependent` or `Series` of one. A function of the counts by the names of
            the species is the propensity a(n) itself.

    Raises:
        ValueError: numbers of species that are not whole.

    >>> import jaxdiff as jd
    >>> jd.Reaction({"A": 2}, {"B": 1}, 0.1).shift
    {'A': -2, 'B': 1}

    Gillespie 1977, doi:10.1021/j100540a008.
    """

    rate: Any = eqx.field(converter=numeric)
    reactants: tuple[tuple[str, int], ...] = eqx.field(static=True)
    products: tuple[tuple[str, int], ...] = eqx.field(static=True)

    def __init__(self, reactants: Any, products: Any, rate: Any):
        self.rate = rate
        self.reactants, self.products = (_stoichiometry(side) for side in (reactants, products))

    @property
    def shift(self) -> dict[str, int]:
        """By how much each species changes."""
        found: dict[str, int] = {}
        for sign, side in ((-1, self.reactants), (1, self.products)):
            for name, count in side:
                found[name] = found.get(name, 0) + sign * count
        return found

    @property
    def species(self) -> tuple[str, ...]:
        """All that it takes or makes."""
        return tuple(self.shift)

    def propensity(self, states: States, t: Any) -> Any:
        """a `(*cells,)` at time t; zero where a reactant is short."""
        counts = dict(zip(states.names, np.moveaxis(states.counts, -1, 0).reshape(-1, *states.shape), strict=True))
        enough = np.all([counts[name] >= -change for name, change in self.shift.items()], axis=0)
        least = np.array([max(0, -self.shift.get(name, 0)) for name in states.names])
        rate = _value(self.rate, states, t, "a rate", least)
        if rate.ndim:
            return jnp.where(enough, rate, 0.0)
        ways = np.ones(states.shape)
        for name, count in self.reactants:
            ways = ways * np.array([math.comb(n, count) for n in range(counts[name].max() + 1)], float)[counts[name]]
        return rate * (ways * enough)

    def propensity_at(self, states: States, counts: Any) -> Any:
        """a at one state (species,), where the rate does not depend on time."""
        changes = np.array([self.shift.get(name, 0) for name in states.names])
        enough = jnp.all(counts >= -changes)
        if callable(self.rate):
            value = _value_at(self.rate, states, jnp.maximum(counts, np.maximum(0, -changes)), "a rate")
            return jnp.where(enough, value, 0.0)
        ways = jnp.ones(())
        for name, count in self.reactants:
            n = counts[states.names.index(name)]
            ways = ways * math.prod(jnp.maximum(n - k, 0) / (k + 1.0) for k in range(count))
        return self.rate * ways * enough


class Network(Rates):
    """Reactions among species."""

    reactions: tuple[Reaction, ...]
    box: tuple[tuple[str, int], ...] = eqx.field(static=True, default=())

    truncated = True

    @property
    def species(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for reaction in self.reactions for name in reaction.species))

    def operator(self, states: States, t: Any) -> ShiftSum:
        if unknown := [name for name in self.species if name not in states.names]:
            raise ValueError(f"the states do not count {unknown[0]!r}; name a largest count of every species")
        rates = jnp.stack([reaction.propensity(states, t).ravel() for reaction in self.reactions])
        shifts = tuple(tuple(one.shift.get(name, 0) for name in states.names) for one in self.reactions)
        return ShiftSum(rates, jnp.zeros(rates.shape[1:], rates.dtype), states.shape, shifts)

    def moves(self, states: States) -> Moves:
        shifts = np.array([[one.shift.get(name, 0) for name in states.names] for one in self.reactions])
        of = lambda state: jnp.stack([one.propensity_at(states, state) for one in self.reactions])
        return lambda state: (of(state), state + shifts)

    def states(self, least: int) -> States:
        given = dict(self.box)
        return States(
            {name: given.get(name, least - 1) for name in (*given, *(n for n in self.species if n not in given))}
        )

    @property
    def varies(self) -> bool:
        return any(varies(reaction.rate) for reaction in self.reactions)


def as_given(rates: Any) -> Any:
    """Rates as an equation keeps them: sparse ones as such, all others as numbers and functions."""
    sparse = hasattr(rates, "tocoo") or (hasattr(rates, "indices") and hasattr(rates, "data"))
    return SparseMatrix(rates) if sparse else numeric(rates)


def as_network(reactions: Sequence[Any], box: Any) -> Network:
    reactions = tuple(reactions)
    if not reactions or not all(isinstance(one, Reaction) for one in reactions):
        raise TypeError(
            "a network is a list of jd.Reaction, got " + (", ".join(type(r).__name__ for r in reactions) or "none")
        )
    network = Network(reactions, tuple(sorted(dict(box or {}).items(), key=lambda item: list(box).index(item[0]))))
    if unknown := [name for name in dict(box or {}) if name not in network.species]:
        raise ValueError(f"box names {unknown[0]!r}, which no reaction changes; it has {', '.join(network.species)}")
    return network


def require_columns(matrix: np.ndarray) -> None:
    """Raise if a matrix of rates is none, or is transposed."""
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"rates between n states are a matrix (n, n), from column to row, got shape {matrix.shape}")
    off = matrix - np.diag(np.diagonal(matrix))
    _require_columns(np.diagonal(matrix), off.sum(0), off.sum(1))


def _require_columns(diagonal: np.ndarray, exits: np.ndarray, entries: np.ndarray) -> None:
    """Raise if the diagonal is that of a matrix whose rows sum to zero, and columns do not."""
    size = np.maximum(np.abs(diagonal), 1e-300)
    by_columns, by_rows = (np.all(np.abs(diagonal + sums) <= 1e-6 * size) for sums in (exits, entries))
    if np.any(diagonal != 0) and by_rows and not by_columns:
        raise ValueError("rates sum to zero along rows, got [from, to]; rates[to, from] are wanted: transpose them")
    if np.any(diagonal > 0):
        i = int(np.argmax(diagonal > 0))
        raise ValueError(
            f"rates[{i}, {i}] is {diagonal[i]:g}; the diagonal is the negative sum of its column, or left out"
        )


def _entries(matrix: Any) -> tuple[np.ndarray, np.ndarray, Any, tuple[int, ...]]:
    """(rows, columns, values, shape) of a SciPy or BCOO matrix."""
    if hasattr(matrix, "indices") and not hasattr(matrix, "indptr"):
        rows, columns = np.asarray(matrix.indices).T
        there = np.flatnonzero((rows < matrix.shape[0]) & (columns < matrix.shape[1]))  # others are padding
        return rows[there], columns[there], matrix.data[there], tuple(matrix.shape)
    found = matrix.tocoo()
    return found.row, found.col, np.asarray(found.data, float), tuple(found.shape)


def _value(rate: Any, states: States, t: Any, what: str, least: Any = 0) -> Any:
    """A rate at time t: a number, or an array `(*cells,)` where it depends on the state, of no counts below `least`."""
    if isinstance(rate, Series):
        return rate(t)
    if not callable(rate):
        value = jnp.asarray(rate, jnp.result_type(float))
        if value.ndim and value.shape != states.shape:
            raise ValueError(
                f"{what}: expected a number, {states.shape} of them or a function of the counts, got {value.shape}"
            )
        return value
    if not isinstance(rate, TimeDependent):
        return states.evaluated(rate, what, least=least)
    return jnp.asarray(at_place(rate, ("t",), t)) if takes(rate, ("t",)) else states.evaluated(rate, what, t, least)


def _value_at(rate: Any, states: States, counts: Any, what: str) -> Any:
    """A rate that is constant in time in one state (species,)."""
    if callable(rate):
        return states.value_at(rate, jnp.asarray(counts, jnp.result_type(float)), what)
    value = jnp.asarray(rate, jnp.result_type(float))
    return value[tuple(counts)] if value.ndim else value


def _stacked(matrix: Any) -> Any:
    """An array, of lists of numbers that may be traced too."""
    return jnp.stack([_stacked(row) for row in matrix]) if isinstance(matrix, (list, tuple)) else jnp.asarray(matrix)


def _stoichiometry(side: Any) -> tuple[tuple[str, int], ...]:
    found = tuple(dict(side or {}).items())
    for name, count in found:
        if int(count) != count or count < 1:
            raise ValueError(f"a reaction takes whole numbers of a species from 1 on, got {count!r} of {name}")
    return tuple((str(name), int(count)) for name, count in found)


def _known(value: Any) -> bool:
    return not any(isinstance(leaf, jax.core.Tracer) or callable(leaf) for leaf in jax.tree.leaves(value))
