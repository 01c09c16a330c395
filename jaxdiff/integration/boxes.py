"""How many states are enough, where there are more than can be counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxdiff.discretisation.rates import BEYOND
from jaxdiff.model.states import States

_TOLERANCE = 1e-9  # of all probability, that may get lost
_LEAST, _MOST = 32, 2**22  # states


def lost(values: Any) -> Any:
    """What is missing from the first of some states `(T, *cells)` by the last: where rates are right, their error in L1."""
    totals = np.asarray(values).reshape(len(values), -1).sum(1)
    return max(0.0, float(totals[0] - totals[-1]))


def truncated(equation: Any) -> bool:
    """Whether there are states beyond those that are followed."""
    return getattr(getattr(equation, "jumps", None), "truncated", False)


def lost_in_words(equation: Any, values: Any, least: float = 0.0) -> str:
    """What got beyond the largest counts, where there is such a thing, and more than `least`."""
    if not truncated(equation) or isinstance(values, jax.core.Tracer) or (gone := lost(values)) <= least:
        return ""
    return f"{gone:.2g} of the probability is beyond the largest counts"


def growing(equation: Any, initial: Any, solution_on: Callable[[States], Any], tolerance: float | None) -> Any:
    """The solution on the states of the equation, of which more are taken until what gets lost is below the tolerance."""
    states, open_ended = _first(equation, initial), truncated(equation)
    while True:
        solution = solution_on(states)
        if isinstance(solution.values, jax.core.Tracer):
            if open_ended:
                raise ValueError(
                    "inside jit, grad and vmap states cannot be added as they are needed; pass jd.States in place of None"
                )
            return solution
        if not open_ended or lost(solution.values) <= (_TOLERANCE if tolerance is None else tolerance):
            return solution
        states = _larger(states, solution.values)


def enough(equation: Any, at_rest_on: Callable[[States], Any]) -> Any:
    """The state at rest on the states of the equation, of which more are taken until few jumps lead beyond them."""
    states = _first(equation, None)
    while True:
        try:
            return at_rest_on(states)
        except ValueError as error:
            if not truncated(equation) or BEYOND not in str(error):
                raise
        more = {name: 2 * n for name, n in zip(states.names, states.shape, strict=True)}
        _require_room(states, [n + 1 for n in more.values()])
        states = States(more)


def _first(equation: Any, initial: Any) -> States:
    if not equation.discrete or not hasattr(equation, "jumps"):
        raise TypeError(f"{type(equation).__name__} needs a grid, such as jd.Grid.uniform((0.0, 1.0, 100)), got None")
    most = max((int(count) for count in initial.values()), default=0) if isinstance(initial, Mapping) else 0
    least = max(_LEAST, 2 * (most + 1))
    shape = np.shape(initial)
    states = equation.jumps.states(max([least, *shape]))
    if shape and shape != states.shape and equation.jumps.truncated and len(shape) == states.ndim:
        states = States(dict(zip(states.names, (n - 1 for n in shape), strict=True)))
    return states


def states_of(equation: Any) -> States:
    """The states of an equation without a grid, where it says how many there are."""
    states = _first(equation, None)
    if truncated(equation):
        raise ValueError(
            "how many states are enough is not known here; pass jd.States of largest counts in place of None"
        )
    return states


def _larger(states: States, values: Any) -> States:
    """Twice as many along the axes at whose end there is most."""
    values = np.asarray(values)
    layers = [np.moveaxis(values, 1 + k, -1)[..., -max(1, n // 8) :] for k, n in enumerate(states.shape)]
    mass = np.array([layer.reshape(len(values), -1).sum(1).max() for layer in layers])
    grow = mass >= 0.01 * mass.max()
    shape = [n * (1 + bool(more)) for n, more in zip(states.shape, grow, strict=True)]
    _require_room(states, shape)
    return States(dict(zip(states.names, (n - 1 for n in shape), strict=True)))


def _require_room(states: States, shape: Sequence[int]) -> None:
    if np.prod(shape) > _MOST:
        raise ValueError(
            f"{' × '.join(map(str, states.shape))} states are not enough, and more than {_MOST} are not taken; shorten the times, or give jd.States and read in Solution.method what is beyond them"
        )
