"""Stencils as plain loops that numba compiles: the yardstick of a CPU, and what py-pde runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np


@cache
def euler(parallel: bool) -> Callable[[Any, Any, Any], None]:
    """`step(u, out, a)`: out = u + a Σ (neighbour − u), the five-point stencil between reflecting walls."""
    import numba

    rows = numba.prange if parallel else range

    @numba.njit(parallel=parallel)
    def step(u: Any, out: Any, a: Any) -> None:
        m, n = u.shape
        for i in rows(m):
            above, below = min(i + 1, m - 1), max(i - 1, 0)
            c = u[i, 0]
            out[i, 0] = c + a * ((u[above, 0] - c) + (u[below, 0] - c) + (u[i, 1] - c))
            for j in range(1, n - 1):
                c = u[i, j]
                out[i, j] = c + a * ((u[above, j] - c) + (u[below, j] - c) + (u[i, j + 1] - c) + (u[i, j - 1] - c))
            c = u[i, n - 1]
            out[i, n - 1] = c + a * ((u[above, n - 1] - c) + (u[below, n - 1] - c) + (u[i, n - 2] - c))

    return step


def with_walls(rates: tuple[Any, ...]) -> tuple[Any, ...]:
    """Rates on the inner faces of each axis, and zero on the walls."""
    return tuple(np.pad(rate, [(int(k == axis),) * 2 for k in range(rate.ndim)]) for axis, rate in enumerate(rates))


@cache
def cell_change() -> Callable[..., Any]:
    """`change(u, x, y, i, j)` of one cell of a plane, with rates x, y on the faces, walls included."""
    import numba

    @numba.njit
    def change(u: Any, x: Any, y: Any, i: int, j: int) -> Any:
        m, n = u.shape
        above, below, right, left, c = min(i + 1, m - 1), max(i - 1, 0), min(j + 1, n - 1), max(j - 1, 0), u[i, j]
        rise = x[i + 1, j] * (u[above, j] - c) + x[i, j] * (u[below, j] - c)
        return rise + y[i, j + 1] * (u[i, right] - c) + y[i, j] * (u[i, left] - c)

    return change


def changes(rates: tuple[Any, ...]) -> Callable[..., Any]:
    """`changes(u, t)` of all cells, of a line or a plane, for numba to compile."""

    def of_line(u: Any, t: float = 0) -> Any:
        out = np.zeros_like(u)
        for i in range(len(x)):
            flux = x[i] * (u[i + 1] - u[i])
            out[i] += flux
            out[i + 1] -= flux
        return out

    def of_plane(u: Any, t: float = 0) -> Any:
        out = np.empty_like(u)
        for i in range(u.shape[0]):
            for j in range(u.shape[1]):
                out[i, j] = change(u, x, y, i, j)
        return out

    if len(rates) == 1:
        (x,) = rates
        return of_line
    (x, y), change = with_walls(rates), cell_change()
    return of_plane


@cache
def heun() -> Callable[..., Any]:
    """`run(u, x, y, dt, steps)`: the second-order method with rates x, y on the faces, walls included."""
    import numba

    change = cell_change()

    @numba.njit
    def run(u: Any, x: Any, y: Any, dt: float, steps: int) -> Any:
        now, middle = u.copy(), np.empty_like(u)
        m, n = u.shape
        for _ in range(steps):
            for i in range(m):
                for j in range(n):
                    middle[i, j] = now[i, j] + dt * change(now, x, y, i, j)
            # u + Δt/2 (f(u) + f(v)) = (u + v)/2 + Δt/2 f(v): the first rate need not be kept
            for i in range(m):
                for j in range(n):
                    now[i, j] = 0.5 * (now[i, j] + middle[i, j] + dt * change(middle, x, y, i, j))
        return now

    return run
