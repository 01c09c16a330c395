"""The settings of a sweep: combinations of options, and which of them are those of an optimiser or of the model."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdiff.inference.gradient_descent import METHODS, by_options, checked_count
from jaxdiff.model.equations import Equation

MOST = 10_000  # settings


def combinations(grid: Any) -> tuple[dict[str, list[Any]], list[dict[str, Any]]]:
    """(values of each option, all combinations)."""
    if not isinstance(grid, Mapping) or not grid:
        raise TypeError(f"grid must be {{option: values}}, such as {{'learning_rate': [0.01, 0.1]}}, got {grid!r}")
    values: dict[str, list[Any]] = {}
    for name, some in grid.items():
        if isinstance(some, (str, bytes)) or not hasattr(some, "__len__") or not len(some):
            raise ValueError(f"grid[{name!r}] must be a list of values, got {some!r}; write [{some!r}] for one")
        values[name] = [one.item() if isinstance(one, np.generic) else one for one in some]
    if (count := int(np.prod([len(some) for some in values.values()], dtype=float))) > MOST:
        raise ValueError(f"a sweep takes up to {MOST} settings, got {count}; give fewer values")
    return values, [dict(zip(values, one, strict=True)) for one in itertools.product(*values.values())]


def options_of(names: list[Any], values: Mapping[str, Any]) -> tuple[str, ...]:
    """Which options of the grid are those of the optimisers."""
    import optax

    found: set[str] = set()
    for name in names:
        make = getattr(optax, name) if name in METHODS else None
        taken = set(inspect.signature(make).parameters) if callable(make) else set()
        if "learning_rate" not in taken or name in ("lbfgs", "noisy_sgd"):  # whose states no lane holds
            raise ValueError(
                f"optimizer must be the name of one of optax that takes a learning rate, like 'adam' or 'sgd', got {name!r}"
            )
        own = {option for option in values if option in taken}
        if found and own != found:
            raise ValueError(
                f"{', '.join(sorted(own ^ found))} is no option of every optimizer in the grid; sweep them one after the other"
            )
        found = own or found
    return tuple(sorted(found | {"learning_rate"}))


def arguments_of(model: Any, parameters: Any, values: Mapping[str, Any], known: tuple[str, ...]) -> tuple[str, ...]:
    """Which options of the grid are arguments of the model function."""
    names = tuple(name for name in values if name not in ("batch_size", "optimizer", *known))
    taken: set[str] = set()
    if not isinstance(model, Equation) and callable(model):
        signature = inspect.signature(model).parameters.values()
        taken = {one.name for one in signature} | (
            set(names) if any(one.kind == one.VAR_KEYWORD for one in signature) else set()
        )
    for name in names:
        if name not in taken or name in (parameters or {}):
            also = (
                "a parameter too"
                if name in (parameters or {})
                else "no option of the optimizer and no argument of the model"
            )
            raise ValueError(
                f"grid[{name!r}] is {also}; name options like learning_rate, or arguments of a model function"
            )
    return names


def check_setting(setting: Mapping[str, Any]) -> None:
    if "batch_size" in setting:
        checked_count(setting["batch_size"], "batch_size")
    rate = setting.get("learning_rate", 1.0)
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < np.inf:
        raise ValueError(f"learning_rate must be a positive number, got {rate!r}; 0.01 is usual")


def transformation(chosen: dict[str, Any], known: tuple[str, ...]) -> Any:
    return by_options(chosen["optimizer"], **{name: chosen[name] for name in known if name in chosen})
