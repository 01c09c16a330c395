"""A lattice cut into blocks, one per device: each computes its own cells and asks its neighbours for those beside them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec


def cuts(names: tuple[str, ...]) -> tuple[str | None, ...]:
    """For each of several axes its name if the mesh in use cuts it, else None."""
    mesh = jax.sharding.get_abstract_mesh()
    parts = {} if mesh.empty or len(names) == 1 else mesh.shape
    return tuple(name if parts.get(name, 1) > 1 else None for name in names)


def spread(array: Any, names: tuple[str, ...]) -> Any:
    """`array` `(…, *cells)` with its last axes cut as the mesh says; those of length one are not."""
    if not any(cuts(names)):
        return array
    return jax.lax.with_sharding_constraint(array, _blocks(array, cuts(names)))


def gathered(tree: Any, names: tuple[str, ...]) -> Any:
    """Arrays whole on every device."""
    whole = lambda array: jax.lax.with_sharding_constraint(array, PartitionSpec())
    return jax.tree.map(whole, tree) if any(cuts(names)) else tree


def _blocks(array: Any, cut: tuple[str | None, ...]) -> PartitionSpec:
    cells = jnp.shape(array)[-len(cut) :]
    lead = (None,) * (jnp.ndim(array) - len(cut))
    return PartitionSpec(*lead, *(name if n > 1 else None for name, n in zip(cut, cells, strict=True)))


def act(operator: Any, content: Any) -> Any:
    """A N for an `AxisSum` A on blocks. Either side of a cut forms the flux from the same two numbers, so that what leaves
    one block enters the next."""
    cut = cuts(operator.names)
    parts = jax.sharding.get_abstract_mesh().shape
    ndim, arrays = operator.ndim, (operator.up, operator.down, operator.loss, content)

    def local(up: Any, down: Any, loss: Any, v: Any) -> Any:
        out = -loss * v
        for k, (name, wraps) in enumerate(zip(cut, operator.periodic, strict=True)):
            axis = v.ndim - ndim + k
            end = lambda a, i, axis=axis: jax.lax.slice_in_dim(a, i, i + 1 or None, axis=axis)
            rise, fall = up[k] * v, down[k] * v
            below, above = end(rise, -1), end(fall, 0)  # what passes on to the next block, and to the last
            if name is not None:
                count = parts[name]
                forth = [(i, (i + 1) % count) for i in range(count if wraps else count - 1)]
                below = jax.lax.ppermute(below, name, forth)
                above = jax.lax.ppermute(above, name, [(j, i) for i, j in forth])
            elif not wraps:
                below, above = jnp.zeros_like(below), jnp.zeros_like(above)
            n = v.shape[axis]
            inner = jax.lax.slice_in_dim(rise, 0, n - 1, axis=axis) - jax.lax.slice_in_dim(fall, 1, n, axis=axis)
            out = out - jnp.diff(jnp.concatenate([below - end(fall, 0), inner, end(rise, -1) - above], axis), axis=axis)
        return out

    specs = jax.tree.map(lambda a: _blocks(a, cut), arrays)
    names = {name for name in cut if name is not None}
    return jax.shard_map(local, in_specs=specs, out_specs=specs[-1], axis_names=names)(*arrays)
