"""Which devices share a problem."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from jaxdiff.runtime.devices import choose


@contextmanager
def decompose(*, devices: Any = None, **parts: int) -> Iterator[Mesh]:
    """Cut grids of two and three axes over devices: within this context every solve, fit and gradient runs on all of them.

        with jd.decompose(x=4, y=2): jd.solve(...)

    Each device holds a block of cells and exchanges the cells beside it with its neighbours. Results are those of one
    device to roundoff. On several hosts call `jax.distributed.initialize` first, and the same program on each. Grids of
    one axis are not cut.

    Args:
        parts: into how many parts each named axis is cut; all devices along x if none is named.
        devices: a number, "all" (also if left out) or a sequence of jax devices; of all hosts, the first as many as there are
            parts.

    Raises:
        ValueError: fewer devices than parts; in a solve, a cut that does not divide the cells of its axis.

    >>> import jaxdiff as jd
    >>> grid = jd.Grid.uniform((0.0, 1.0, 8), (0.0, 1.0, 8))
    >>> with jd.decompose(x=1):
    ...     u = jd.solve(jd.Diffusion(lambda x, y: 1.0 + x * y), grid, 1.0, [0.0, 1.0]).values
    """
    found = list(choose("all" if devices is None else devices))
    parts = parts or {"x": len(found)}
    for name, count in parts.items():
        if name not in ("x", "y", "z", "r"):
            raise ValueError(f"axes are cut by their names x, y, z or r, got {name!r}")
        if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 1:
            raise ValueError(f"an axis is cut into a positive whole number of parts, got {name}={count!r}")
    asked = math.prod(parts.values())
    if asked > len(found):
        raise ValueError(
            f"{' × '.join(f'{name}={count}' for name, count in parts.items())} needs {asked} devices, there are {len(found)} ({found[0].platform})"
        )
    mesh = jax.make_mesh(
        tuple(parts.values()), tuple(parts), axis_types=(AxisType.Auto,) * len(parts), devices=found[:asked]
    )
    with jax.set_mesh(mesh):
        yield mesh


def require_whole_blocks(grid: Any) -> None:
    """Raise unless the mesh in use divides the grid into equal blocks."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return
    if unknown := set(mesh.axis_names) & set("xyzr") - set(grid.names):
        raise ValueError(
            f"the mesh cuts axis {sorted(unknown)[0]!r}, which this grid has not; its axes are {', '.join(grid.names)}"
        )
    for name, cells in zip(grid.names, grid.shape, strict=True):
        count = mesh.shape.get(name, 1)
        if cells % count:
            fit = max(n for n in range(1, count) if cells % n == 0)
            raise ValueError(
                f"{cells} cells along {name} cannot be cut into {count} equal parts; take {fit}, or a multiple of {count} cells"
            )


def whole(arrays: Any) -> Any:
    """All of every array of a tree, whichever devices and hosts hold it."""
    if not all(getattr(array, "is_fully_addressable", True) for array in jax.tree.leaves(arrays)):
        from jax.experimental.multihost_utils import process_allgather

        arrays = process_allgather(arrays, tiled=True)
    return jax.tree.map(np.asarray, arrays)


def meet() -> None:
    """Wait for all hosts, so that what one has written is there for all."""
    if jax.process_count() > 1:
        from jax.experimental.multihost_utils import sync_global_devices

        sync_global_devices("jaxdiff")


def agreed(number: int) -> bool:
    """Whether all hosts say the same."""
    if jax.process_count() == 1:
        return True
    from jax.experimental.multihost_utils import process_allgather

    return len(np.unique(process_allgather(np.asarray(number)))) == 1
