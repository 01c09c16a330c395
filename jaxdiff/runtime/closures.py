"""Functions as pytrees: a lambda made again that closes over other numbers compiles nothing."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache, wraps
from types import CellType, FunctionType
from typing import Any

import equinox as eqx
import jax
import numpy as np

from jaxdiff.parameters import Function
from jaxdiff.runtime.checkpoints import digest


class Closure(eqx.Module):
    """A function of the user; the numbers that it closes over are leaves, and the rest is known by what it says and reads."""

    numbers: tuple[Any, ...]
    origin: Origin = eqx.field(static=True)

    @property
    def __name__(self) -> str:
        return self.origin.function.__name__

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.origin.function)

    def __call__(self, *args: Any, **named: Any) -> Any:
        return self.origin.with_numbers(self.numbers)(*args, **named)


class Origin:
    """A function by its meaning, but for the cells at some places."""

    def __init__(self, function: FunctionType, places: tuple[int, ...]):
        self.function, self.places = function, places
        self.meaning = digest(self.with_numbers([np.zeros(()) for _ in places]))

    def with_numbers(self, numbers: Any) -> FunctionType:
        function, cells = self.function, list(self.function.__closure__ or ())
        for place, number in zip(self.places, numbers, strict=True):
            cells[place] = CellType(number)
        made = FunctionType(
            function.__code__, function.__globals__, function.__name__, function.__defaults__, tuple(cells)
        )
        made.__kwdefaults__ = function.__kwdefaults__
        return made

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Origin) and (self.places, self.meaning) == (other.places, other.meaning)

    def __hash__(self) -> int:
        return hash(self.meaning)


def opened(tree: Any) -> Any:
    """The tree with a `Closure` for each function that can be known by what it says and reads."""
    return jax.tree.map(_opened, tree, is_leaf=lambda node: isinstance(node, Function))


def _opened(leaf: Any) -> Any:
    function = leaf.function if isinstance(leaf, Function) else leaf
    if type(function) is not FunctionType or (origin := _origin(function)) is None:
        return leaf
    cells = function.__closure__ or ()
    return Closure(tuple(np.asarray(cells[i].cell_contents) for i in origin.places), origin)


@lru_cache(maxsize=64)
def _origin(function: FunctionType) -> Origin | None:
    try:
        held = [cell.cell_contents for cell in function.__closure__ or ()]
        return Origin(function, tuple(i for i, one in enumerate(held) if _is_number(one)))
    except Exception:  # an empty cell, or what holds more than can be seen: compiling is all that is lost
        return None


def _is_number(held: Any) -> bool:
    return isinstance(held, (np.ndarray, np.floating, jax.Array)) and np.issubdtype(held.dtype, np.floating)


def jit_by_meaning(function: Callable[..., Any]) -> Callable[..., Any]:
    """`eqx.filter_jit` of function(model, *arrays), for which two models are the same whose functions say and read the same."""
    compiled = eqx.filter_jit(function)
    latest: tuple[Any, Any] = None, None  # and what it is opened, which is asked for again and again

    @wraps(function)
    def call(model: Any, *arrays: Any) -> Any:
        nonlocal latest
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(arrays)):
            return compiled(model, *arrays)
        before, known = latest
        if before is not model:
            known = opened(model)
        try:
            found = compiled(known, *arrays)
        except TypeError:  # a number was asked for its value
            known = model
            found = compiled(model, *arrays)
        latest = model, known
        return found

    return call
