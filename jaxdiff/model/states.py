"""States that a system jumps between, in place of a grid."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdiff.model.arguments import at_place, one_number
from jaxdiff.model.grid import Grid
from jaxdiff.quantities import numbers
from jaxdiff.runtime.compilation import as_written
from jaxdiff.runtime.conditions import Condition


class States(Grid):
    """The states of a master equation: numbered, named, or the counts of several species up to a most.

        pᵢ, the probability of state i, or of the counts (n₁, n₂, …)

    It stands where a `Grid` does: a state of the solver is an array of probabilities, of its `shape`, and every position is
    that of a state.

    Args:
        states: how many, 0, 1, …; their names; or {species: the largest count} for counts from zero on, an axis each.

    Raises:
        ValueError: no state, or a name that comes twice.

    >>> import jaxdiff as jd
    >>> jd.States(["closed", "open"]).delta("open")
    array([0., 1.])
    >>> jd.States({"mRNA": 3, "protein": 20}).shape
    (4, 21)
    """

    discrete = True
    species: tuple[str, ...] = eqx.field(static=True, default=("n",))
    labels: tuple[str, ...] = eqx.field(static=True, default=())

    def __init__(self, states: Any):
        self.labels, self.species = (), ("n",)
        if isinstance(states, Mapping):
            self.species, shape = tuple(states), tuple(_whole(most, 0) + 1 for most in states.values())
        elif isinstance(states, (list, tuple)):
            self.labels, shape = tuple(map(str, states)), (len(states),)
        else:
            shape = (_whole(states, 1),)
        if not shape or not all(shape):
            raise ValueError(f"states are a number of them, their names, or {{species: largest count}}, got {states!r}")
        if len(set(self.labels)) < len(self.labels):
            raise ValueError(f"every state needs a name of its own, got {', '.join(self.labels)}")
        self.edges = tuple(np.arange(n + 1) - 0.5 for n in shape)
        self.geometry, self.equal, self.mask = "cartesian", (True,) * len(shape), None

    @property
    def names(self) -> tuple[str, ...]:
        """The species, or n where states are numbered."""
        return self.species

    @property
    def counts(self) -> np.ndarray:
        """The counts of all states, `(states, species)`, the last species varying fastest."""
        return np.stack(np.meshgrid(*map(np.arange, self.shape), indexing="ij"), -1).reshape(-1, self.ndim)

    @property
    def volumes(self) -> Any:
        """One for every state."""
        return np.ones(self.shape)

    @property
    def widths(self) -> tuple[Any, ...]:
        """One for every state."""
        return tuple(np.ones(n) for n in self.shape)

    def axis(self, k: int) -> Grid:
        """One species as cells of width one."""
        return Grid((self.edges[k],))

    def evaluated(
        self, function: Callable[..., Any], what: str, t: Any = None, least: Any = 0
    ) -> Float[Array, "*cells"]:
        """A function of the counts, and of t if it is given, at every state: of some of them by name, or of all in order; where
        there are fewer than `least`, of those."""
        of_one = lambda n: self.value_at(function, n, what, t)
        counts = jnp.asarray(np.maximum(self.counts, least), jnp.result_type(float))
        return jax.vmap(of_one)(counts).reshape(self.shape)

    def value_at(self, function: Callable[..., Any], counts: Any, what: str, t: Any = None) -> Any:
        """A function of the counts, and of t if it is given, at one state (species,), which may be beyond the last."""
        names, values = (self.names, tuple(counts)) if t is None else (("t", *self.names), (t, *counts))
        own = list(inspect.signature(function).parameters)
        if own and set(own) <= set(names):
            given = dict(zip(names, values, strict=True))
            return one_number(function(**{name: given[name] for name in own}), jnp.result_type(float), what)
        return one_number(at_place(function, names, *values), jnp.result_type(float), what)

    @as_written
    def average(self, function: Any) -> Float[Array, "*cells"]:
        """A function of the counts at every state; or a number, or an array of the `shape`.

        Args:
            function: f(n), or f(A, B, …) by the names of the species, written for one state.

        Returns:
            An array of the `shape`.

        Raises:
            ValueError: an array of another shape.

        >>> import jaxdiff as jd
        >>> [float(p) for p in jd.States(3).average(lambda n: n**2)]
        [0.0, 1.0, 4.0]
        """
        return self.evaluated(function, "a function of the state") if callable(function) else super().average(function)

    def unresolved(self, function: Callable[..., Any], what: str) -> Condition:
        return "", jnp.array(False), 0.0, 0.0

    def delta(self, point: Any) -> Float[np.ndarray, "*cells"]:
        """All probability in one state.

        Args:
            point: its number or its name; on several axes the counts, `(species,)` or {species: count}, of which those left
                out are zero.

        Returns:
            An array of the `shape`.

        Raises:
            ValueError: a state that there is not.
        """
        if isinstance(point, Mapping):
            if unknown := [name for name in point if name not in self.species]:
                raise ValueError(f"there is no species {unknown[0]!r} here; there are {', '.join(self.species)}")
            point = [point.get(name, 0) for name in self.species]
        found = np.zeros(self.shape)
        found[self._place(point)] = 1.0
        return found

    def numbered(self, points: Any, what: str) -> np.ndarray:
        """Numbers of states that may be given by name; NaN where one is missing."""
        names = np.asarray(points)
        if names.dtype.kind not in "USO" or not any(isinstance(name, str) for name in names.flat):
            return numbers(points, what)
        known = {name: float(i) for i, name in enumerate(self.labels)}
        missing = lambda name: name is None or name == "" or name != name
        if unknown := [str(name) for name in names.flat if not missing(name) and str(name) not in known]:
            raise ValueError(
                f"there is no state {unknown[0]!r} here; there are {', '.join(self.labels) or 'numbers alone'}"
            )
        return np.reshape([np.nan if missing(name) else known[str(name)] for name in names.flat], names.shape)

    def start(self, initial: Any) -> Any:
        """The state `(*cells,)` that counts stand for, {species: count}; an array as it is.

        Raises:
            ValueError: a number, which is no state.
        """
        if isinstance(initial, (Mapping, str)):
            return self.delta(initial)
        if np.ndim(initial) == 0:
            one = "{" + ", ".join(f"{name!r}: 3" for name in self.species) + "}"
            raise ValueError(
                f"initial is a number, which no state is; pass {one} or states.delta(…), or the probability of each state"
            )
        return initial

    def _place(self, point: Any) -> tuple[int, ...]:
        names = np.atleast_1d(self.numbered(point, "a state"))
        if names.shape != (self.ndim,):
            raise ValueError(f"a state has {self.ndim} numbers here, got {names.tolist()}")
        self.require_inside(names[None].astype(float), "state")
        return tuple(names.astype(int))

    @as_written
    def interpolate(self, u: Any, points: Any, order: int = 2) -> Float[Array, "*points"]:
        """What u is in states, by their numbers.

        Args:
            u: `(…, *cells)`.
            points: `(m,)`, or on several axes `(m, species)`; whole numbers.
            order: of no meaning here.

        Returns:
            `(…, m)`.
        """
        u, points = jnp.asarray(u), jnp.asarray(points)
        flat = self.ndim == 1 and points.ndim <= 1
        places = jnp.round(points).astype(int)
        return u[..., places] if flat else u[(..., *jnp.moveaxis(places, -1, 0))]

    def require_inside(self, points: Any, what: str) -> None:
        """Raise if a point, (m,) or (m, species), is no state."""
        columns = np.reshape(np.asarray(points, float), (-1, self.ndim))
        wrong = ~((columns >= 0) & (columns < self.shape) & (columns == np.round(columns))).all(1)
        if wrong.any():
            i = int(np.argmax(wrong))
            most = ", ".join(f"{name} from 0 to {n - 1}" for name, n in zip(self.names, self.shape, strict=True))
            got = ", ".join(f"{x:g}" for x in columns[i])
            raise ValueError(f"{what} {i} at {got} is none of the states, {most}; drop it, or allow more states")


def _whole(number: Any, least: int) -> int:
    try:
        whole = int(number)
    except (TypeError, ValueError):
        whole = -1
    if whole < least or whole != number:
        raise ValueError(f"states are counted by whole numbers from {least} on, got {number!r}")
    return whole
