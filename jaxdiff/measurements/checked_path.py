"""What is asked of the times and positions of a path."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxdiff.measurements import tracks
from jaxdiff.model.grid import Grid
from jaxdiff.quantities import refuse, times_as_numbers


def checked_path(
    grid: Grid, times: Any, positions: Any, which: str, unit: str | None, continuous: bool, short: bool, seen: bool
) -> tuple[np.ndarray, np.ndarray, int]:
    """Times and positions of the frames that have one, and how many have none."""
    times, _ = times_as_numbers(times, 0.0, unit, f"times{which}")
    positions = grid.numbered(positions, f"positions{which}")
    positions = positions[:, 0] if positions.ndim == 2 and positions.shape[1] == 1 else positions
    shape = (len(times), grid.ndim) if times.ndim == 1 and grid.ndim > 1 else times.shape
    if times.ndim != 1 or shape != positions.shape:
        columns = "the same shape (n,)" if grid.ndim == 1 else f"shapes (n,) and (n, {grid.ndim})"
        raise ValueError(f"times and positions{which} must have {columns}, got {times.shape} and {positions.shape}")
    if len(times) < 2 and not short:
        raise ValueError(f"a path needs at least two points, got {len(times)}{which}")
    each = (lambda x: x) if grid.ndim == 1 else (lambda x: x.any(1))
    if continuous and len(times) > 1 and each(np.isnan(positions[-1:]))[0]:
        positions[-1] = positions[-2]
    kept = ~each(np.isnan(positions))
    refuse(
        ~kept & continuous,
        lambda i: (
            f"the state{which} must be seen all along, got none in row {i}; leave continuous out, or end the path"
        ),
    )
    kept = kept if kept.sum() > 1 or short else np.ones_like(kept)
    times, positions, missing = times[kept], positions[kept], int(np.sum(~kept))
    refuse(
        ~np.isfinite(times) | each(~np.isfinite(positions)),
        lambda i: (
            f"times and positions{which} must be finite, got {positions[i]} at time {times[i]} in row {i}; drop that row"
        ),
    )
    refuse(
        np.diff(times) <= 0,
        lambda i: (
            f"times{which} must increase, got {times[i + 1]:g} after {times[i]:g} in row {i + 1}; sort or drop rows"
        ),
    )
    if grid.mask is not None:
        raise ValueError(
            "a path takes no mask, whose outline transition densities do not see; narrow the grid to its part"
        )
    if not seen:
        grid.require_inside(positions, f"position{which}")
    else:
        tracks.require_near(grid, positions, which)
    return times, positions, missing
