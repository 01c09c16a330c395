"""Which results of a function depend on an axis: separable coefficients are found, not declared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import jaxpr_as_fun


def over_axis(function: Callable[..., Any], axes: Any) -> Callable[..., Any]:
    """Map a function over one more axis of its arguments; results get it in front, with length one where they do not depend
    on it.

    A coefficient is written for one point, so its program, the jaxpr, tells on which coordinates it depends: what a mapped
    input enters is touched, and so is all that follows from it. Results that stay untouched are computed once, and their
    shapes tell the operators which axes are separable.

    Args:
        function: of arrays or pytrees of them, traceable.
        axes: for every leaf of the arguments the axis to map over, None for those that have none.

    >>> import jax.numpy as jnp
    >>> outer = over_axis(over_axis(lambda x, y: (x + y, 2 * y, x * x), (None, 0)), (0, None))
    >>> [found.shape for found in outer(jnp.zeros(3), jnp.zeros(4))]
    [(3, 4), (1, 4), (3, 1)]
    """

    def call(*args: Any) -> Any:
        leaves, tree = jax.tree.flatten(args)
        places = jax.tree.leaves(axes, is_leaf=lambda x: x is None)
        one = [x if i is None else jax.lax.index_in_dim(x, 0, i, keepdims=False) for x, i in zip(leaves, places)]
        closed, shape = jax.make_jaxpr(lambda *x: function(*jax.tree.unflatten(tree, x)), return_shape=True)(*one)
        depends = _touched(closed.jaxpr, [i is not None for i in places])
        out_axes = [0 if d else None for d in depends]
        found = jax.vmap(jaxpr_as_fun(closed), in_axes=places, out_axes=out_axes)(*leaves)  # not traced once more
        found = [x if d else x[None] for x, d in zip(found, depends, strict=True)]
        return jax.tree.unflatten(jax.tree.structure(shape), found)

    return call


def depends(function: Callable[..., Any], *args: Any) -> list[bool]:
    """On which of its arguments, each an array or a number, a result of a function depends.

    >>> depends(lambda x, y, z: x + 0 * z, 1.0, 2.0, 3.0)
    [True, False, True]
    """
    program = jax.make_jaxpr(function)(*args).jaxpr
    return [any(_touched(program, [i == j for j in range(len(args))])) for i in range(len(args))]


def _touched(program: Any, entered: list[bool]) -> list[bool]:
    """Which results of a program follow from the arguments that something entered."""
    touched = {id(v) for v, into in zip(program.invars, entered, strict=True) if into}
    for equation in program.eqns:
        if any(id(v) in touched for v in equation.invars):
            touched.update(id(v) for v in equation.outvars)
    return [id(v) in touched for v in program.outvars]
