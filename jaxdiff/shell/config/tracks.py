"""The [data] of trajectories: columns of times and positions, which track a row is of, and how positions are seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdiff.measurements import tables
from jaxdiff.measurements.trajectory import Trajectory
from jaxdiff.model.grid import Grid
from jaxdiff.parameters import Positive
from jaxdiff.shell.config.keys import check_keys, number, per_axis, text, text_or_number

if TYPE_CHECKING:
    from jaxdiff.shell.config.data import Data

KEYS = ("interval", "value", "track", "noise", "exposure", "density")
DENSITIES = ("exact", "euler")


def columns(value: Any, where: str, axes: Any) -> Any:
    """The column of positions; on several axes one for each."""
    found = per_axis(value, where, axes, text)
    return found if len(found) > 1 else found[0]


def noise(value: Any, where: str) -> Any:
    """A number, the name of a parameter, or {start} of one that is fitted."""
    if not isinstance(value, Mapping):
        return text_or_number(value, where)
    check_keys(value, where, ("start",))
    if "start" not in value:
        raise ValueError(f"{where} has no start; write {{ start = 0.02 }}")
    return Positive(number(value["start"], f"{where} start"))


def measurement(data: Data, grid: Grid, conditions: Any) -> Trajectory:
    s = data.settings
    names = data.required("value", "name the column of positions, on several axes one for each")
    several = [data.column(name, missing=True) for name in ([names] if isinstance(names, str) else names)]
    values = several[0] if len(several) == 1 else np.stack(several, axis=1)
    if ("time" in s) == ("interval" in s):
        raise ValueError(
            "[data] of a trajectory needs time = a column or interval = the constant step; give one of them"
        )
    if "time" in s:
        times = data.column(s["time"])
    else:
        times = float(s["interval"]) * np.arange(len(values))
    rows = tables.groups(data.frame, s.get("track"))
    paths: Any = [times[one] for one in rows], [values[one] for one in rows]
    paths = paths if len(rows) > 1 else (paths[0][0], paths[1][0])
    seen = {key: s[key] for key in ("noise", "exposure", "density") if key in s}
    found = Trajectory(grid, paths[0], paths[1], **seen, conditions=conditions)
    return found.every(s["every"]) if s.get("every", 1) > 1 else found
