"""Compiling for code that runs a few times: less polish, half the wait."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import equinox as eqx
import jax
import numpy as np

# Measured on jax 0.10: 5.2 s become 2.7 s for a Levenberg–Marquardt loop over 50 output times, at the same speed of running.
OPTIONS = {"xla_cpu_use_fusion_emitters": False, "xla_llvm_disable_expensive_passes": True}
_LARGE = 2**18  # cells on several axes: the emitters compile 1.5 s longer, and halve the time of a pass over a lattice


@cache
def _options(backend: str, large: bool) -> dict[str, Any] | None:
    """The options that this version of XLA takes on this backend."""
    if backend != "cpu":
        return None
    options = {name: value for name, value in OPTIONS.items() if not (large and "emitters" in name)}
    try:
        jax.jit(lambda: 0, compiler_options=options)()
    except Exception:  # an option that is gone is only a slower compilation
        return None
    return options


def _in_full(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with all matrix products, a user's among them, in the precision of what they multiply: accelerators round
    float32 to ten bits there, and a wall that varied in time was 0.03 off on one."""

    @wraps(function)
    def call(*args: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return function(*args)

    return call


def quick_jit(function: Callable[..., Any], static: Any = ()) -> Callable[..., Any]:
    """`jax.jit` with positional static arguments, for the backend in use when it is first called."""
    function = _in_full(function)

    @cache
    def compiled(backend: str, large: bool) -> Callable[..., Any]:
        return jax.jit(function, static_argnums=static, compiler_options=_options(backend, large))

    @wraps(function)
    def call(*args: Any) -> Any:
        large = any(np.ndim(leaf) > 1 and np.size(leaf) >= _LARGE for leaf in jax.tree.leaves(args))
        return compiled(jax.default_backend(), large)(*args)

    return call


def solver_jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile once per structure, for calls by the user: at top level, inside a transformation, with any model.

    XLA takes options at top level alone, and `jax.jit` takes arrays alone; what does not fit goes the general way.
    """
    full = _in_full(function)
    quick, plain, general = quick_jit(function), jax.jit(full), eqx.filter_jit(full)

    @wraps(function)
    def call(*args: Any) -> Any:
        leaves = jax.tree.leaves(args)
        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            arrays = all(isinstance(leaf, (np.ndarray, jax.Array)) for leaf in leaves)
            return (plain if arrays else general)(*args)
        if not all(isinstance(leaf, (np.ndarray, jax.Array)) for leaf in leaves):
            return general(*args)
        try:
            return quick(*args)
        except ValueError as error:
            if "compiler_options" not in str(error):
                raise
            return plain(*args)  # a function of position closes over a tracer

    return call
