"""Passages in tables: which wall an entry stands for, and which rows have which conditions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdiff.measurements import tables
from jaxdiff.quantities import described

if TYPE_CHECKING:
    import pandas as pd


def walls(frame: pd.DataFrame, side: str | None, sides: Mapping[Any, str] | None) -> list[Any] | None:
    """The wall of each row, None where it is not known."""
    if side is None:
        if sides is not None:
            raise ValueError("sides says what the entries of a column stand for, and no column is named; give side=")
        return None
    entries = list(tables.entries_of(frame, side))
    missing = [entry is None or entry != entry or entry == "" for entry in entries]
    if sides is None:
        other = next((e for e, gone in zip(entries, missing, strict=True) if not gone and not isinstance(e, str)), None)
        if other is not None:
            raise ValueError(
                f"column {side!r} holds {described(other)}, and no names of walls; say what they stand for, sides={{1: 'x+', 0: 'x-'}}"
            )
        return [None if gone else entry for entry, gone in zip(entries, missing, strict=True)]
    for i, (entry, gone) in enumerate(zip(entries, missing, strict=True)):
        if not gone and entry not in sides:
            known = ", ".join(map(repr, sides))
            raise ValueError(
                f"row {i + 1} of column {side!r} holds {described(entry)}, and sides= has {known}; name it there too"
            )
    return [None if gone else sides[entry] for entry, gone in zip(entries, missing, strict=True)]


def flags(frame: pd.DataFrame, name: str) -> np.ndarray:
    """A column of 1 and 0, or of True and False."""
    if (entries := tables.entries_of(frame, name)).dtype == bool:
        return entries
    found = tables.column(frame, name, missing=False)
    if not np.isin(found, (0, 1)).all():
        raise ValueError(
            f"column {name!r} must hold 1 where a row is censored and 0 elsewhere, got {found[~np.isin(found, (0, 1))][0]:g}"
        )
    return found == 1


def conditions(frame: pd.DataFrame, given: Any) -> list[tuple[np.ndarray, dict[str, float]]] | None:
    """Which rows have each of the different conditions, in rising order; None where there are none."""
    if given is None:
        return None
    named = (
        {name: name for name in ([given] if isinstance(given, str) else given)}
        if not isinstance(given, Mapping)
        else dict(given)
    )
    known = {
        name: tables.column(frame, one, missing=False) if isinstance(one, str) else np.full(len(frame), float(one))
        for name, one in named.items()
    }
    table = np.stack(list(known.values()), axis=1)
    distinct, which = np.unique(table, axis=0, return_inverse=True)
    which = which.ravel()
    return [(which == i, dict(zip(known, map(float, row), strict=True))) for i, row in enumerate(distinct)]
