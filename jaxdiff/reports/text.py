"""Text of results: aligned tables, short numbers, and how far error bars are to be believed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

MISFIT = "converged, but the model does not describe these data:"
DOUBT = ", not to be trusted"


def few(reasons: tuple[str, ...], most: int = 3) -> list[str]:
    """The first reasons, and how many more there are."""
    more = len(reasons) - most
    return [*reasons[:most], *([f"and {more} more, see fit.verdict.reasons"] if more > 0 else [])]


def short(value: float) -> str:
    """A number to two digits, a dash where there is none."""
    return f"{value:.2g}" if np.isfinite(value) else "–"


def finite(value: Any) -> Any:
    """Numbers, arrays and text for JSON, in lists and dictionaries; None for what is not finite."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def table(rows: Sequence[Sequence[Any]], header: bool = False) -> str:
    """Rows as text in aligned columns; a rule under the first if it is a `header`."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    if header:
        lines.insert(1, "─" * max(map(len, lines)))
    return "\n".join(lines)
