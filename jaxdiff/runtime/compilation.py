"""Compiling for code that runs a few times: less polish, half the wait."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import equinox as eqx
import jax
import numpy as np

# Measured on jax 0.10: 5.2 s become 2.7 s for a Levenberg–Marquardt loop over 50 output times, at the same speed of running.
OPTIONS = {"xla_cpu_use_fusion_emitters": False, "xla_llvm_disable_expensive_passes": True}
KEPT, YOUNG = 2**30, 3600.0  # bytes of compiled code that are kept; seconds in which a file is not old
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


_P = ParamSpec("_P")
_T = TypeVar("_T")


def as_written(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """`function` by the rules it was written for, whatever those of the session: ranks and dtypes are promoted, and matrix
    products, a user's among them, keep the precision of what they multiply.

    Accelerators round float32 to ten bits there by default, and a wall that varied in time was 0.03 off on one.
    """

    @wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        with (
            jax.numpy_rank_promotion("allow"),
            jax.numpy_dtype_promotion("standard"),
            jax.default_matmul_precision("highest"),
        ):
            return function(*args, **kwargs)

    return call


def _afresh(function: Callable[..., Any], *args: Any) -> Any:
    """function(*args), once more with empty caches where JAX 0.10 takes a constant of another program, of float64 and
    float32 the other one."""
    try:
        return function(*args)
    except (TypeError, ValueError, jax.errors.JaxRuntimeError) as error:
        mixed = any(words in str(error) for words in ("to have the same dtypes", "verifier errors", "InputMismatch"))
        if not mixed or any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(args)):
            raise
    jax.clear_caches()
    return function(*args)


def quick_jit(function: Callable[..., Any], static: Any = ()) -> Callable[..., Any]:
    """`jax.jit` with positional static arguments, for the backend in use when it is first called."""
    function = as_written(function)

    @cache
    def compiled(backend: str, large: bool) -> Callable[..., Any]:
        return jax.jit(function, static_argnums=static, compiler_options=_options(backend, large))

    @wraps(function)
    def call(*args: Any) -> Any:
        large = any(np.ndim(leaf) > 1 and np.size(leaf) >= _LARGE for leaf in jax.tree.leaves(args))
        return _afresh(compiled(jax.default_backend(), large), *args)

    return call


def solver_jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile once per structure, for calls by the user: at top level, inside a transformation, with any model.

    XLA takes options at top level alone, and `jax.jit` takes arrays alone; what does not fit goes the general way.
    """
    full = as_written(function)
    quick, plain, general = quick_jit(function), jax.jit(full), eqx.filter_jit(full)

    @wraps(function)
    def call(*args: Any) -> Any:
        leaves = jax.tree.leaves(args)
        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            arrays = all(isinstance(leaf, (np.ndarray, jax.Array)) for leaf in leaves)
            return (plain if arrays else general)(*args)
        if not all(isinstance(leaf, (np.ndarray, jax.Array)) for leaf in leaves):
            return _afresh(general, *args)
        try:
            return quick(*args)
        except ValueError as error:
            if "compiler_options" not in str(error):
                raise
            return plain(*args)  # a function of position closes over a tracer

    return call


def keep(folder: Path) -> str:
    """Keep compiled code in a folder, at most `KEPT` bytes of it; returns the folder, or "off" and why.

    What lies there is run. So it is made for this user alone, and not used where another owns it or may write to it.
    """
    try:
        for place in (folder.parent, folder):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.mkdir(mode=0o700, exist_ok=True)
            found = place.stat()
            if hasattr(os, "getuid") and (found.st_uid != os.getuid() or found.st_mode & 0o022):
                return f"off: {place} belongs to another or can be written by others; remove it"
        _trim(folder)
    except OSError as error:
        return f"off: {folder} cannot be used: {error.strerror or error}"
    if not os.access(folder, os.W_OK):
        return f"off: {folder} cannot be written"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return str(folder)


def _trim(folder: Path) -> None:
    """Remove the oldest files beyond `KEPT` bytes."""
    files = [(file.stat(), file) for file in folder.iterdir() if file.is_file()]
    size = 0
    for found, file in sorted(files, key=lambda each: -each[0].st_mtime):
        size += found.st_size
        if size > KEPT and time.time() - found.st_mtime > YOUNG:  # another run may be writing younger ones
            file.unlink(missing_ok=True)


def bucket(count: float, finer: float = math.inf) -> int:
    """The next of 1, 2, 3, 4, 6, 8, 12, 16, …, two an octave and four beyond `finer`: padded to it, other sizes share
    compiled code."""
    if count <= 4:
        return max(1, math.ceil(count))
    unit = 2 ** (math.ceil(math.log2(count)) - (3 if count > finer else 2))
    return math.ceil(count / unit) * unit
