"""An order of the states of a sparse graph in which jumps reach neighbouring blocks at most."""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.operators.block_tridiagonal import BlockTridiagonal

_TRIALS = 200  # sizes of blocks


class Blocking:
    """The jumps of a generator from `sources` `(m,)` to `targets` `(m,)` among so many states, in `blocks` of `size` states each.

    Equal ones are one object, found once. `order` is the state `(states,)` at each place: that of Cuthill and McKee, backwards
    (1969, doi:10.1145/800195.805928), that of the numbers, or, where states are those of a box of some `shape`, along its longest
    axis, whichever asks for the smallest blocks. After the last state come places that nothing enters.

    >>> from jaxdiff.operators.blocking import blocking
    >>> circle = blocking([0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 0], 6)
    >>> circle.blocks, circle.size
    (3, 2)
    """

    def __init__(self, sources: np.ndarray, targets: np.ndarray, states: int, shape: tuple[int, ...] | None):
        self.sources, self.targets, self.states, self.shape = sources, targets, states, shape

    @cached_property
    def _found(self) -> tuple[int, np.ndarray]:
        return min(((self._smallest(order), order) for order in self._orders()), key=lambda found: found[0])

    @property
    def size(self) -> int:
        return self._found[0]

    @property
    def order(self) -> np.ndarray:
        return self._found[1]

    @property
    def blocks(self) -> int:
        return -(-self.states // self.size)

    @cached_property
    def place(self) -> np.ndarray:
        """Of each state `(states,)`."""
        return _inverted(self.order)

    def gather(self, content: Any) -> Any:
        """Contents `(blocks size, …)` in order, of those of states `(states, …)`."""
        beyond = np.full(self.blocks * self.size - self.states, self.states)
        return jnp.asarray(content).at[np.concatenate([self.order, beyond])].get(mode="fill", fill_value=0)

    def scatter(self, content: Any) -> Any:
        """Contents of states `(states, …)`, of those in order `(blocks size, …)`."""
        return content[self.place]

    def blocked(self, rates: Any, loss: Any = 0.0) -> BlockTridiagonal:
        """The generator with these `rates` `(m,)` and `loss` `(states,)`, its contents in order."""
        n, size = self.blocks, self.size
        (block, column), (onto, row) = (divmod(self.place[ends], size) for ends in (self.sources, self.targets))
        index = (((onto - block) % 3 * n + block) * size + row) * size + column
        within, up, down = jnp.zeros(3 * n * size**2, rates.dtype).at[index].add(rates).reshape(3, n, size, size)
        beyond = jnp.max(rates, initial=0.0)  # not to be singular
        beyond = jnp.where(beyond > 0, beyond, 1.0)
        loss = self.gather(jnp.broadcast_to(loss, self.states)).at[self.states :].set(beyond)
        return BlockTridiagonal(up, down, within, loss.reshape(n, size))

    def _orders(self) -> list[np.ndarray]:
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import reverse_cuthill_mckee

        numbers = np.arange(self.states)
        found = [numbers]
        if self.shape is not None:
            axes = np.argsort(self.shape, kind="stable")[::-1]
            found.append(numbers.reshape(self.shape).transpose(axes).ravel())
        ends = np.r_[self.sources, self.targets], np.r_[self.targets, self.sources]
        graph = coo_array((np.ones(len(ends[0])), ends), shape=(self.states, self.states)).tocsr()
        return [*found, np.asarray(reverse_cuthill_mckee(graph, symmetric_mode=True))]

    def _smallest(self, order: np.ndarray) -> int:
        place = _inverted(order)
        one, other = place[self.sources], place[self.targets]
        widest = int(np.max(np.abs(one - other), initial=1))
        far = 2 * np.abs(one - other) > widest
        one, other = one[far], other[far]
        sizes = range(widest // 2 + 1, widest, max(1, widest // _TRIALS))
        return next((s for s in sizes if (np.abs(one // s - other // s) <= 1).all()), widest)

    @cached_property
    def entering(self) -> np.ndarray | None:
        """Numbers of the jumps into each state `(most, states)`, m where there are fewer; None where one state has most of them."""
        return self._rows(self.targets)

    @cached_property
    def leaving(self) -> np.ndarray | None:
        """Numbers of the jumps out of each state `(most, states)`, likewise."""
        return self._rows(self.sources)

    @cached_property
    def origins(self) -> Any:
        """The states that `entering` come from, and where there is none a state itself."""
        return self._others(self.entering, self.sources)

    @cached_property
    def destinations(self) -> Any:
        """The states that `leaving` go to, likewise."""
        return self._others(self.leaving, self.targets)

    def _others(self, rows: Any, ends: np.ndarray) -> np.ndarray:
        own = np.broadcast_to(np.arange(self.states), rows.shape)
        return np.where(rows < len(ends), np.append(ends, 0)[rows], own)

    def _rows(self, ends: np.ndarray) -> np.ndarray | None:
        m, counts = len(ends), np.bincount(ends, minlength=self.states)
        most = int(counts.max(initial=0))
        if most * self.states > 4 * m + 16 * self.states:
            return None
        jumps = np.argsort(ends, kind="stable")
        rank = np.arange(m) - (np.cumsum(counts) - counts)[ends[jumps]]
        table = np.full((most, self.states), m)
        table[rank, ends[jumps]] = jumps
        return table


def _inverted(order: np.ndarray) -> np.ndarray:
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return place


def blocking(sources: Any, targets: Any, states: int, shape: tuple[int, ...] | None = None) -> Blocking:
    """The `Blocking` of jumps from `sources` `(m,)` to `targets` `(m,)`."""
    if isinstance(sources, jax.core.Tracer) or isinstance(targets, jax.core.Tracer):
        raise TypeError("sources and targets of jumps are numbers of states, not traced; pass NumPy arrays")
    sources, targets = (np.asarray(ends) for ends in (sources, targets))
    whole = all(ends.dtype.kind in "iu" or not len(ends) for ends in (sources, targets))
    if sources.ndim != 1 or sources.shape != targets.shape or not whole:
        raise ValueError(
            f"sources and targets are whole numbers of states (m,), one of each for a jump, got {sources.dtype} {sources.shape} and {targets.dtype} {targets.shape}"
        )
    for ends in (sources, targets):
        if len(ends) and not 0 <= ends.min() <= ends.max() < states:
            raise ValueError(f"jumps are between states 0 to {states - 1}, got {ends.min()} to {ends.max()}")
    return _blocking(sources.astype(np.int64).tobytes(), targets.astype(np.int64).tobytes(), states, shape)


@lru_cache(maxsize=64)
def _blocking(sources: bytes, targets: bytes, states: int, shape: tuple[int, ...] | None) -> Blocking:
    return Blocking(np.frombuffer(sources, np.int64), np.frombuffer(targets, np.int64), states, shape)
