"""How many states are enough, where there are more than can be counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.discretisation.rates import BEYOND
from jaxdiff.model.states import States

_TOLERANCE = 1e-9  # of all probability, that may get lost
BEYOND_COUNTS = "is beyond the largest counts"
_ROUNDOFF = 1e-13
_LEAST, _MOST = 32, 2**22  # states


def lost(values: Any, start: float = 0.0) -> float:
    """What is missing from the first of some states `(T, *cells)`, or from a larger start, by the last: where rates are right,
    their error in L1."""
    totals = np.asarray(values, float).reshape(len(values), -1).sum(1)
    return max(0.0, float(max(totals[0], start) - totals[-1]))


def beginning(states: States, initial: Any) -> float:
    """What a start that is a function of the counts sums up to where twice as many are allowed; 0 of other starts."""
    if not callable(initial):
        return 0.0
    return float(np.sum(States({name: 2 * n for name, n in zip(states.names, states.shape)}).average(initial)))


def truncated(equation: Any) -> bool:
    """Whether there are states beyond those that are followed."""
    return getattr(getattr(equation, "jumps", None), "truncated", False)


def lost_in_words(equation: Any, states: Any, initial: Any, values: Any, least: float = _ROUNDOFF) -> str:
    """What got beyond the largest counts, where there is such a thing, and more than `least`."""
    if not truncated(equation) or isinstance(values, jax.core.Tracer):
        return ""
    gone = lost(values, beginning(states, initial))
    least = max(least, 1e3 * float(jnp.finfo(values.dtype).eps))
    return f"{gone:.2g} of the probability {BEYOND_COUNTS}" if gone > least else ""


def growing(
    equation: Any, initial: Any, solution_on: Callable[[States], Any], tolerance: float | None, kept: bool = False
) -> Any:
    """The solution on the states of the equation, of which more are taken until what gets lost is below the tolerance."""
    states, open_ended = _first(equation, initial), truncated(equation)
    if kept and open_ended:
        raise ValueError("save= keeps the states of one grid, and None asks for as many as are needed; pass jd.States")
    while True:
        solution = solution_on(states)
        if isinstance(solution.values, jax.core.Tracer):
            if open_ended:
                raise ValueError(
                    "inside jit, grad and vmap states cannot be added as they are needed; pass jd.States in place of None"
                )
            return solution
        enough = max(tolerance or _TOLERANCE, 1e3 * float(jnp.finfo(solution.values.dtype).eps))
        if not open_ended or (gone := lost(solution.values, beginning(states, initial))) <= enough:
            return solution
        count = equation.jumps.given
        if count:
            raise ValueError(
                f"{gone:.2g} of the probability goes beyond the last count that rates are given for, {count - 1}; give more of them, or functions of the count"
            )
        states = _larger(states, solution.values)


def enough(equation: Any, at_rest_on: Callable[[States], Any]) -> Any:
    """The state at rest on the states of the equation, of which more are taken until few jumps lead beyond them."""
    states, shares = _first(equation, None), []
    while True:
        try:
            return at_rest_on(states)
        except ValueError as error:
            if not truncated(equation) or BEYOND not in str(error) or equation.jumps.given:
                raise
            shares.append(float(str(error).split()[0]))
        if len(shares) > 3 and shares[-1] > 0.9 * shares[-4]:
            raise ValueError(
                f"there is no steady state: {shares[-1]:.2g} {BEYOND}, however large they are; counts that grow have none"
            )
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
