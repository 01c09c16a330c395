"""The memory of a run, estimated before it is tried."""

from __future__ import annotations

import math
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.model.exchange import phases_of

_SMALL = 2**28  # bytes that every machine has


def needed(
    plan: Any, grid: Any, gradient: bool = False, drift: bool = False, observed: bool = False, phases: int = 1
) -> float:
    """Bytes that a plan holds on all devices together; counted in states, measured in what XLA allocates.

    | method   | states at once                               | more for a gradient by reverse mode                    |
    |----------|----------------------------------------------|--------------------------------------------------------|
    | Modes    | 4 + 3 T                                      | 3 T                                                    |
    | Lattice  | 8 d + 9 if forced + 3 T, matrices of products | 6 + 20 if forced + 65 d with a drift + 3 T            |
    | explicit | 4 d + 2 + 2 T                                | T, and eight times the root of substeps                |
    | implicit | 14 d + 12 + 2 T                              | the same                                               |
    | Adaptive | 18 d + 14 + 2 T                              | 280, T, and one for 8 steps                            |

    | on one axis: |                                          |                                                        |
    | Direct   | 65 for each time at once + 1.5 T             | the same                                               |
    | Contours | 6 for each node + T                          | the same                                               |
    | Segments | 60 + 12 for each length, up to 8, + 2 T      | the same, T                                            |
    | Adaptive | 150 + 2 T                                    | 280, T, and one for 8 steps                            |
    | implicit | 24 + 2 T                                     | the same                                               |

    d axes, T output times, each state of so many `phases`; those that are `observed` by contours are not kept. Order 4 takes half as much again.
    """
    states, more = plan.method.states_held(grid, plan.outputs, drift=drift, observed=observed)
    cells = float(np.prod([float(n) for n in grid.shape])) * (1.5 if getattr(plan.scheme, "order", 2) == 4 else 1.0)
    return (states + gradient * more) * phases * cells * jnp.dtype(jnp.result_type(float)).itemsize


def require(plan: Any, grid: Any, equation: Any, observed: bool = False) -> None:
    """Raise if a plan needs more than the devices in use have."""
    bytes_needed = needed(plan, grid, observed=observed)
    if bytes_needed > _SMALL / 16:
        what = f"cells and {plan.outputs} output time{'s' * (plan.outputs != 1)}"
        _refuse(bytes_needed * phases_of(equation), grid, what)


def require_at_rest(grid: Any, eliminated: float = 0.0) -> None:
    """Raise if a steady state, on several axes with the modes of each, needs more than the devices in use have.

    eliminated: numbers that an elimination holds, where it is one of blocks of states
    """
    modes = 4.0 * sum(float(n) ** 2 for n in grid.shape) if grid.ndim > 1 and not grid.discrete else 4.0 * eliminated
    states = 40.0 * float(np.prod([float(n) for n in grid.shape])) + modes
    _refuse(states * jnp.dtype(jnp.result_type(float)).itemsize, grid, "cells at rest")


def _refuse(bytes_needed: float, grid: Any, what: str) -> None:
    if bytes_needed < _SMALL:
        return
    mesh = jax.sharding.get_abstract_mesh()
    parts = 1 if mesh.empty else mesh.size
    room, where = _room(parts)
    if bytes_needed > room:
        cells = " × ".join(map(str, grid.shape))
        raise ValueError(
            f"{cells} {what} need about {bytes_needed / 2**30:.3g} GiB, {where} has {room / 2**30:.3g} free; "
            "take fewer cells or output times, float32, or more devices with jd.decompose"
        )


def _room(parts: int) -> tuple[float, str]:
    """Free bytes of the devices that share a problem."""
    device = jax.local_devices()[0]
    found = device.memory_stats() if device.platform != "cpu" else None
    if found and "bytes_limit" in found:
        return parts * float(found["bytes_limit"] - found.get("bytes_in_use", 0)), f"the {device.platform}"
    try:
        with open("/proc/meminfo") as table:
            rows = dict(line.split(":", 1) for line in table)
        free = 1024.0 * float(rows["MemAvailable"].split()[0])
    except (OSError, KeyError):
        if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
            return math.inf, "this machine"
        free = float(os.sysconf("SC_PAGE_SIZE")) * os.sysconf("SC_PHYS_PAGES")
    return free * jax.process_count(), "this machine"
