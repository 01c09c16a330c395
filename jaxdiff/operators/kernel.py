"""Two products with A in one pass over memory, as a kernel of our own for GPUs; the reference is `AxisSum.action`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

TILE = {2: (4, 128), 3: (1, 4, 128)}  # cells of one program, so few that what it holds stays in registers


def leapfrog(
    faces: tuple[Any, ...], periodic: tuple[bool, ...], leak: Any, interpret: bool = False
) -> Callable[..., Any]:
    """(a, b) ↦ (a + A b, b − A(a + A b)) for contents `(…, *cells)`, where rates across faces are symmetric.

    A takes the neighbours of a cell, and A after A those of them: each program forms the first product once more around
    its tile. So no program waits for another, a and b are read once, and nothing but the results is written. `interpret`
    runs it as XLA's, anywhere.
    """
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    ndim = len(periodic)

    def call(a: Any, b: Any) -> Any:
        cells = a.shape
        arrays = (a, b, jnp.broadcast_to(leak, (1,) * ndim) if jnp.ndim(leak) == 0 else leak, *faces)
        return pl.pallas_call(
            partial(_program, periodic=periodic, load=triton.load, store=triton.store, program=pl.program_id),
            out_shape=(jax.ShapeDtypeStruct(cells, a.dtype),) * 2,
            grid=tuple(-(-n // size) for n, size in zip(cells, TILE[ndim], strict=True)),
            in_specs=[pl.BlockSpec(memory_space=pl.ANY)] * len(arrays),
            out_specs=(pl.BlockSpec(memory_space=pl.ANY),) * 2,
            compiler_params=triton.CompilerParams(num_warps=4),
            interpret=interpret,
        )(*arrays)

    def lanes(a: Any, b: Any) -> Any:
        return call(a, b) if a.ndim == ndim else jax.vmap(lanes)(a, b)

    return lanes


def _program(a: Any, b: Any, leak: Any, *refs: Any, periodic: Any, load: Any, store: Any, program: Any) -> None:
    *faces, a_new, b_new = refs
    ndim, cells = len(periodic), a.shape
    tile = [
        (program(k) * size + jnp.arange(size, dtype=jnp.int32)).reshape([-1 if j == k else 1 for j in range(ndim)])
        for k, size in enumerate(TILE[ndim])
    ]
    known: dict[Any, Any] = {}

    def read(name: Any, ref: Any, at: tuple[int, ...], face: int | None = None) -> Any:
        """Values at the cells `at` from those of the tile, or of the faces above them; zero where there are none."""
        if (name, at) not in known:
            index, there = [], jnp.ones([1] * ndim, bool)
            for k, (n, wraps) in enumerate(zip(cells, periodic, strict=True)):
                i = tile[k] + at[k]
                last = n - 1 if face == k and not wraps else n
                if not wraps:
                    there = there & (i >= 0) & (i < last)
                i = (i + n) % n if wraps else jnp.clip(i, 0, last - 1)
                index.append(jnp.zeros_like(i) if ref.shape[k] == 1 else i)
            there = jnp.broadcast_to(there, TILE[ndim])
            known[name, at] = load(ref.at[tuple(index)], mask=there, other=0.0)
        return known[name, at]

    def product(v: Callable[[tuple[int, ...]], Any], at: tuple[int, ...]) -> Any:
        here = v(at)
        out = -read("leak", leak, at) * here
        for k, face in enumerate(faces):
            above, below = (tuple(x + d * (j == k) for j, x in enumerate(at)) for d in (1, -1))
            flux = read(k, face, at, k) * (here - v(above)) - read(k, face, below, k) * (v(below) - here)
            out = out - flux
        return out

    def first(at: tuple[int, ...]) -> Any:
        if ("first", at) not in known:
            known["first", at] = read("a", a, at) + product(lambda at: read("b", b, at), at)
        return known["first", at]

    origin = (0,) * ndim
    inside = jnp.ones(TILE[ndim], bool)
    for k, n in enumerate(cells):
        inside = inside & (tile[k] < n)
    store(a_new.at[tuple(tile)], first(origin), mask=inside)
    store(b_new.at[tuple(tile)], read("b", b, origin) - product(first, origin), mask=inside)
