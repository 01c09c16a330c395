"""A linear function whose transpose is told: forward mode runs the one, reverse mode the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.tree_util import tree_unflatten as unflatten

from jaxdiff.runtime.compilation import as_written


def linear(
    function: Callable[[Any, Any], Any], transpose: Callable[[Any, Any], Any], known: Any, x: Any, *, like: Any
) -> Any:
    """function(known, x), which is linear in x and shaped as `like`; reverse mode calls transpose(known, cotangents),
    shaped as x, instead.

    All are pytrees of arrays. Unlike `jax.custom_vjp` this leaves forward mode to the function, and unlike
    `jax.custom_derivatives.linear_call` it holds in batches and may be differentiated by what is known.
    """
    (known_leaves, known_tree), (leaves, tree) = jax.tree.flatten(known), jax.tree.flatten(x)
    count, (like_leaves, like_tree) = len(known_leaves), jax.tree.flatten(like)

    def flat(f: Callable[[Any, Any], Any], inner: Any) -> Callable[..., list[Any]]:
        f = as_written(f)  # a transpose is traced late, by the rules of the session
        return lambda *xs: jax.tree.leaves(f(unflatten(known_tree, xs[:count]), unflatten(inner, xs[count:])))

    found = _linear.bind(
        *known_leaves,
        *leaves,
        function=flat(function, tree),
        transpose=flat(transpose, like_tree),
        count=count,
        like=tuple(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in like_leaves),
    )
    return unflatten(like_tree, found)


def _call(*xs: Any, function: Any, **_: Any) -> list[Any]:
    return function(*xs)


def _shapes(*xs: Any, like: Any, **_: Any) -> list[Any]:
    return [jax.core.ShapedArray(each.shape, each.dtype) for each in like]


def _jvp(primals: Any, tangents: Any, *, function: Any, count: int, **rest: Any) -> tuple[Any, Any]:
    moves = [ad.instantiate_zeros(t) for t in tangents]
    if any(type(t) is not ad.Zero for t in tangents[:count]):
        return jax.jvp(function, tuple(primals), tuple(moves))
    call = lambda xs: _linear.bind(*primals[:count], *xs, function=function, count=count, **rest)
    return call(primals[count:]), call(moves[count:])


def _transposed(cotangents: Any, *xs: Any, function: Any, transpose: Any, count: int, **_: Any) -> list[Any]:
    cotangents = [ad.instantiate_zeros(ct) for ct in cotangents]
    wanted = [ad.is_undefined_primal(x) for x in xs[count:]]
    avals = [x.aval if want else x for x, want in zip(xs[count:], wanted, strict=True)]
    like = tuple(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals)
    found = _linear.bind(*xs[:count], *cotangents, function=transpose, transpose=function, count=count, like=like)
    return [None] * count + [ct if want else None for ct, want in zip(found, wanted, strict=True)]


def _batched(
    xs: Any, dims: Any, *, function: Any, transpose: Any, count: int, like: Any
) -> tuple[list[Any], list[int]]:
    size = next(x.shape[d] for x, d in zip(xs, dims, strict=True) if d is not None)
    lead = lambda x, d: jnp.broadcast_to(x, (size, *x.shape)) if d is None else jnp.moveaxis(x, d, 0)
    each = lambda f: lambda *ys: jax.vmap(f, in_axes=(*dims[:count], *(0,) * (len(ys) - count)))(*ys)
    out = _linear.bind(
        *xs[:count],
        *map(lead, xs[count:], dims[count:]),
        function=each(function),
        transpose=each(transpose),
        count=count,
        like=tuple(jax.ShapeDtypeStruct((size, *a.shape), a.dtype) for a in like),
    )
    return out, [0] * len(out)


_linear = Primitive("linear_with_transpose")
_linear.multiple_results = True
_linear.def_impl(_call)
_linear.def_abstract_eval(_shapes)
ad.primitive_jvps[_linear] = _jvp
ad.primitive_transposes[_linear] = _transposed
batching.primitive_batchers[_linear] = _batched
mlir.register_lowering(_linear, mlir.lower_fun(_call, multiple_results=True))
