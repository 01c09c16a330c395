"""States one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdiff.figures.style import LABELS, SIZE, canvas, time_label

if TYPE_CHECKING:
    from matplotlib.animation import FuncAnimation


def of_states(grid: Any, times: Any, values: Any, seconds: float) -> FuncAnimation:
    """The states `(T, *cells)` at all times, as long as that."""
    from matplotlib.animation import FuncAnimation

    values, name = np.asarray(values), LABELS["value"]
    if np.iscomplexobj(values):
        values, name = np.abs(values) ** 2, "|ψ|²"
    if grid.ndim > 2 or values.ndim > grid.ndim + 1:
        raise ValueError(f"states on one or two axes are played, got values of shape {values.shape}")
    most, least = float(values.max()), min(0.0, float(values.min()))
    with canvas(*SIZE) as figure:
        axes = figure.subplots()
        axes.set(xlabel=LABELS["x"] if grid.ndim == 1 else grid.names[0])
        if grid.ndim == 1:
            (drawn,) = axes.plot(np.asarray(grid.centers[0]), values[0])
            axes.set(ylim=(least, 1.05 * most), ylabel=name)
            show = lambda i: drawn.set_ydata(values[i])
        else:
            x, y = (np.asarray(edges) for edges in grid.edges)
            mesh = axes.pcolormesh(x, y, values[0].T, vmin=least, vmax=most, cmap="cividis", rasterized=True)
            axes.set(ylabel=grid.names[1], aspect="equal")
            figure.colorbar(mesh, ax=axes, label=name)
            show = lambda i: mesh.set_array(values[i].T)

        def frame(i: int) -> list[Any]:
            show(i)
            axes.set_title(f"t = {time_label(times[i])}")
            return []

        frame(0)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # found once: every frame would be laid out anew

        return FuncAnimation(figure, frame, len(values), interval=1e3 * seconds / len(values))
