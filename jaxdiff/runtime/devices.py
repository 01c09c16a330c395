"""Which devices are meant, and arrays laid out over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh


def choose(devices: int | str | Sequence[Any] | None = None) -> tuple[Any, ...]:
    """The devices that are meant: None for the default one, a number for the first so many, "all", or a sequence of them.

    Raises ValueError if there are fewer or one is not there, TypeError for anything else.

    >>> len(choose(1)), len(choose("all")) == jax.device_count()
    (1, True)
    """
    present = tuple(jax.devices())
    if devices is None:
        return tuple(jnp.zeros(()).devices())
    if isinstance(devices, str):
        if devices != "all":
            raise ValueError(f"devices must be a number, 'all' or a sequence of jax devices, got {devices!r}")
        return present
    if isinstance(devices, (int, np.integer)) and not isinstance(devices, bool):
        if not 1 <= devices <= len(present):
            raise ValueError(f"devices={devices} is not possible, {_found(present)}; ask for at most so many")
        return present[:devices]
    wanted = tuple(devices) if isinstance(devices, (Sequence, np.ndarray)) else (devices,)
    for one in wanted:
        if not isinstance(one, jax.Device):
            raise TypeError(f"devices must be a number, 'all' or a sequence of jax devices, got {one!r}")
        if one not in jax.devices(one.platform):
            raise ValueError(f"device {one} is not there, {_found(present)}; name one of jax.devices()")
    if not wanted or len(set(wanted)) < len(wanted):
        raise ValueError(f"devices must name at least one, and each once, got {devices}")
    return wanted


def line(devices: Sequence[Any]) -> Mesh:
    """The devices as a mesh of one axis, along which arrays are cut."""
    return Mesh(np.array(devices), ("batch",), axis_types=(AxisType.Auto,))


def put(arrays: Any, layout: Any) -> Any:
    """Arrays that every host has, laid out over the devices of all of them."""
    if layout.is_fully_addressable:
        return jax.device_put(arrays, layout)
    part = lambda a: jax.make_array_from_callback(np.shape(a), layout, lambda where: np.asarray(a)[where])
    return jax.tree.map(part, arrays)


def _found(present: tuple[Any, ...]) -> str:
    return f"jax finds {len(present)} {present[0].platform} device{'' if len(present) == 1 else 's'}"
