"""The [grid] and the [boundaries] of a configuration file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxdiff.model.grid import Grid
from jaxdiff.shell.config.keys import check_keys, choose, count, edges, mapping, number, shown, text, text_or_number
from jaxdiff.shell.config.model import BOUNDARIES


def read_grid(table: Mapping[str, Any], folder: Path) -> Grid:
    """The grid, with the mask of a file that is looked for in `folder`."""
    grid = _read_box(table)
    if "mask" not in table:
        return grid
    path = folder / os.path.expanduser(text(table["mask"], "[grid] mask"))
    try:
        mask = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"[grid] mask: {path} is no array as np.save(file, mask) writes it: {error}") from None
    if not isinstance(mask, np.ndarray):
        raise ValueError(f"[grid] mask: {path} holds several arrays; save one, with np.save(file, mask)")
    try:
        return Grid(grid.edges, grid.geometry, mask)
    except ValueError as error:
        raise ValueError(f"[grid] mask: {error}") from None


def _read_box(table: Mapping[str, Any]) -> Grid:
    geometry = choose(table.get("geometry", "cartesian"), "[grid] geometry", ("cartesian", "cylindrical", "spherical"))
    try:
        if "edges" in table:
            return Grid(tuple(np.asarray(axis) for axis in edges(table["edges"], "[grid] edges")), geometry)
        for key in ("lower", "upper", "cells"):
            if key not in table:
                raise ValueError(f"[grid] has no {key}; give lower, upper and cells, or edges")
        columns = [
            value if isinstance(value, list) else [value] for value in map(table.get, ("lower", "upper", "cells"))
        ]
        counts = [len(column) for column in columns]
        if len(set(counts)) > 1:
            raise ValueError(
                "[grid] needs a lower, an upper and cells for every axis, got {}, {} and {}".format(*counts)
            )
        axes = []
        for lower, upper, cells in zip(*columns, strict=True):
            ends = number(lower, "[grid] lower"), number(upper, "[grid] upper")
            if not ends[0] < ends[1]:
                raise ValueError(f"[grid] needs lower < upper, got {ends[0]:g} and {ends[1]:g}")
            axes.append((*ends, count(cells, "[grid] cells", most=1_000_000)))
        return Grid.uniform(*axes) if geometry == "cartesian" else Grid.radial(*axes, geometry=geometry)
    except TypeError as error:
        raise ValueError(f"[grid]: {error}") from None


def read_boundaries(table: Any, grid: Grid) -> dict[str, dict[str, Any]]:
    """{side: {"kind": …, its numbers and texts}}; a side is "x-", both of an axis "x", or "all"."""
    if isinstance(table, str):
        table = {"all": table}
    if not isinstance(table, Mapping):
        raise ValueError(f"boundaries must be a table of sides or one word, got {shown(table)}")
    if "kind" in table:
        table = {"all": table}
    check_keys(table, "[boundaries]", ("all",) if "all" in table else (*grid.sides, *grid.names, "all"))
    sides: dict[str, dict[str, Any]] = {}
    for side, entry in table.items():
        where = f"[boundaries] {side}"
        entry = (
            {"kind": entry} if isinstance(entry, str) else mapping(entry, where, "{ kind = 'dirichlet', value = 1.0 }")
        )
        kind = choose(entry.get("kind"), f"{where} kind", tuple(BOUNDARIES))
        check_keys(entry, where, ("kind", *BOUNDARIES[kind][1]))
        if kind == "robin" and "rate" not in entry:
            raise ValueError(f"{where}: robin needs a rate, as in {{ kind = 'robin', rate = 'h', ambient = 20.0 }}")
        for key in BOUNDARIES[kind][1]:
            if key in entry:
                text_or_number(entry[key], f"{where} {key}")
        sides[side] = {**entry, "kind": kind}
    return sides
