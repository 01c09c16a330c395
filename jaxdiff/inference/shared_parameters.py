"""Parameters that measurements name: several share them, and the model function need not take them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from jaxdiff.parameters import is_named


@dataclass(frozen=True)
class Sharing:
    """A model function that may be called with parameters that measurements alone name."""

    function: Callable[..., Any]
    names: tuple[str, ...]

    def __call__(self, **numbers: Any) -> Any:
        return self.function(**{name: x for name, x in numbers.items() if name not in self.names})

    @property
    def __signature__(self) -> inspect.Signature:
        own = inspect.signature(self.function)
        more = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in self.names]
        return own.replace(parameters=[*own.parameters.values(), *more])


def named(measurements: Iterable[Any]) -> list[str]:
    """The parameters that measurements name in place of numbers."""
    starts = [getattr(one, "initial", None) for one in measurements]
    return list(dict.fromkeys(node.name for node in jax.tree.leaves(starts, is_leaf=is_named) if is_named(node)))


def sharing(function: Callable[..., Any], starts: Mapping[str, Any], measurements: Iterable[Any]) -> Callable[..., Any]:
    """The function, which leaves alone those of the parameters that it does not take and measurements name."""
    names = named(measurements)
    if unknown := [name for name in names if name not in starts]:
        raise ValueError(
            f"{unknown[0]!r} names no parameter; parameters= has {', '.join(starts)}: give its start there"
        )
    try:
        taken = inspect.signature(function).parameters
    except ValueError:
        return function
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in taken.values()):
        return function
    left = tuple(name for name in names if name not in taken)
    return Sharing(function, left) if left else function
