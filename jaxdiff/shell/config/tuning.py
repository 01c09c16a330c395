"""The [validation] and the [sweep] of a configuration file: blocks that fits have not seen, and settings tried side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxdiff.shell.config.keys import check_keys, choose, count, flag, number

OPTIMIZERS = ("adam", "adamw", "sgd", "rmsprop")
OPTIONS = ("learning_rate", "batch_size", "optimizer")


def validation(section: Mapping[str, Any] | None) -> dict[str, Any]:
    """What `cross_validate` takes; empty without a section."""
    if section is None:
        return {}
    check_keys(section, "[validation]", ("folds", "forward"))
    folds = count(section.get("folds", 5), "[validation] folds", 2)
    return {"folds": folds, "forward": flag(section.get("forward", False), "[validation] forward")}


def sweep(section: Mapping[str, Any] | None, fit: Mapping[str, Any]) -> dict[str, Any]:
    """What `sweep` takes; empty without a section."""
    if section is None:
        return {}
    check_keys(section, "[sweep]", (*OPTIONS, "steps", "halving"))
    for name in ("optimizer", "batch_size", "steps", "errors"):
        if name in fit:
            raise ValueError(f"[fit] {name} does not go with [sweep], which says it for all; leave it out of [fit]")
    checks: dict[str, Any] = {
        "learning_rate": number,
        "batch_size": lambda value, where: None if value == "all" else count(value, where),
        "optimizer": lambda value, where: choose(value, where, OPTIMIZERS),
    }
    grid = {}
    for name in (name for name in OPTIONS if name in section):
        values, where = section[name], f"[sweep] {name}"
        if not isinstance(values, list) or not values:
            raise ValueError(f"{where} must be a list of values, got {values!r}; write [{values!r}] for one")
        grid[name] = [checks[name](value, where) for value in values]
    if not grid:
        raise ValueError(f"[sweep] names nothing to try; give a list for {', '.join(OPTIONS)}")
    found: dict[str, Any] = {"grid": grid}
    if "steps" in section:
        found["steps"] = count(section["steps"], "[sweep] steps")
    return {**found, "halving": flag(section.get("halving", True), "[sweep] halving")}
