"""Whether cells are small enough for a drift on several axes: what the scheme itself spreads."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdiff.compilation import quick_jit
from jaxdiff.equations import Diffusion
from jaxdiff.histograms import Histograms
from jaxdiff.operators import AxisSum
from jaxdiff.schemes import FiniteVolume


def spread(objective: Any, parameters: Any, z: Any, measurement: Any) -> float:
    """The largest over the axes of what two-point fluxes add to the diffusivity, as a share of it, where the counts are.

        z/2 coth z/2 − 1,   z = f h/D,

    the mean over what histograms hold at finite times; zero for other measurements, without drift, and where detailed
    balance holds, which the fluxes keep. Scharfetter & Gummel 1969, doi:10.1109/T-ED.1969.16566.
    """
    if not isinstance(measurement, Histograms) or measurement.grid.ndim == 1:
        return 0.0
    moving = np.isfinite(measurement.times)
    if not moving.any():
        return 0.0
    found = _shares(objective, parameters, z, measurement.grid, np.asarray(measurement.times[moving][0]))
    held = measurement.mass[moving].sum(0).reshape(measurement.volumes.shape) / measurement.volumes
    for k, (edges, centers) in enumerate(zip(measurement.bins, measurement.grid.centers, strict=True)):
        inside = (centers > edges[0]) & (centers < edges[-1])
        held = np.take(held, np.clip(np.searchsorted(edges, centers) - 1, 0, len(edges) - 2), k)
        held = held * inside.reshape([-1 if j == k else 1 for j in range(held.ndim)])
    held = held * np.asarray(measurement.grid.volumes)
    return max((float(np.sum(held * np.asarray(share)) / np.sum(held)) for share in found), default=0.0)


@partial(quick_jit, static=0)
def _shares(objective: Any, parameters: Any, z: Any, grid: Any, t: Any) -> list[Any]:
    """Along each axis, at the face above every cell, `(*cells,)`."""
    equation = objective.build(parameters, z)[0]
    operator = FiniteVolume().systems(equation, grid)[0].operator(t)
    if isinstance(equation, Diffusion) or not isinstance(operator, AxisSum) or operator.balanced:
        return []
    found = []
    for k, n in enumerate(grid.shape):
        z = jnp.broadcast_to(operator.steps(k), grid.shape)
        if not operator.rings[k]:  # the last face is the wall
            z = jnp.take(z, jnp.minimum(jnp.arange(n), max(n - 2, 0)), k)
        half = jnp.where(jnp.abs(z) > 1e-3, z / 2, 1.0)
        found.append(jnp.where(jnp.abs(z) > 1e-3, half / jnp.tanh(half) - 1, z * z / 12))
    return found
