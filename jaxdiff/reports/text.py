"""A fit told in words: aligned tables, and how far its error bars are to be believed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

MISFIT = "converged, but the model does not describe these data:"
DOUBT = ", not to be trusted"


def few(reasons: tuple[str, ...], most: int = 3) -> list[str]:
    """The first reasons, and how many more there are."""
    more = len(reasons) - most
    return [*reasons[:most], *([f"and {more} more, see fit.verdict.reasons"] if more > 0 else [])]


def table(rows: Sequence[Sequence[Any]], header: bool = False) -> str:
    """Rows as text in aligned columns; a rule under the first if it is a `header`."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    if header:
        lines.insert(1, "─" * max(map(len, lines)))
    return "\n".join(lines)
