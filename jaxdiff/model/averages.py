"""Averages of functions over cells, with what is doubtful about them; outside jit doubtful cells are divided."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.model.discontinuities import breakpoints, concrete, namespace

DOUBTFUL = 0.1  # error in one cell, of the whole, from which on a function is not resolved
_AGREED = 1e-5  # of the whole, up to which two rules may differ in a cell
_DEEPEST = 24  # halvings of a cell
_MOST = 2**18  # parts of cells looked at in all
_BLOCK = 512  # parts looked at together, so that their number compiles nothing

Found = tuple[Any, Any, Any]  # averages of f, of the error, and of |f|


@np.errstate(all="ignore")  # what is not finite is refused elsewhere
def quadrature(function: Callable[..., Any], edges: tuple[Any, ...], exponent: int) -> Found:
    """Averages of a function of one point over all cells, their errors, and those of its size.

    Gauss–Legendre, of 5 points on one axis, there between jumps, and of 3 along each of several. The error is that of the
    point in the middle, or half the square of what the function varies by, to the third power: tiny where a function is
    smooth, and of its size where it is not.
    """
    edges = tuple(concrete(jnp.asarray(each)) for each in edges)  # in the precision of the session
    if len(edges) == 1:
        lower, upper = edges[0][:-1], edges[0][1:]
        ends = breakpoints(function, lower, upper)
        ends = namespace(lower).stack([lower, upper], axis=1) if ends is None else ends
        middles, halves = (ends[:, 1:] + ends[:, :-1]) / 2, (ends[:, 1:] - ends[:, :-1]) / 2
        nodes, weights = _gauss(5, ends.dtype)
        at = middles[..., None] + halves[..., None] * nodes
        values = concrete(jax.vmap(function)(at.reshape(-1))).reshape(at.shape)
        shares = weights * halves[..., None] * at**exponent
        volume = shares.sum((1, 2))
        return tuple(each.sum(1) / volume for each in _compared(values, shares, 2))
    nodes, weights = _gauss(3, edges[0].dtype)
    mapped: Any = function
    for k in reversed(range(len(edges))):
        mapped = jax.vmap(mapped, in_axes=[0 if i == k else None for i in range(len(edges))])
    at = [((e[1:] + e[:-1])[:, None] + (e[1:] - e[:-1])[:, None] * nodes) / 2 for e in edges]
    shares = [weights * x ** (exponent if k == 0 else 0) for k, x in enumerate(at)]
    shares = [share / share.sum(1, keepdims=True) for share in shares]
    values = concrete(mapped(*(x.ravel() for x in at))).reshape([n for x in at for n in x.shape])
    xp = namespace(values, *at)
    together = np.ones((), values.dtype)
    for k, share in enumerate(shares):
        together = together * share.reshape([n for j, x in enumerate(at) for n in (x.shape if j == k else (1, 1))])
    inner = tuple(range(1, 2 * len(edges), 2))
    order = (*range(0, 2 * len(edges), 2), *inner)
    return _compared(values.transpose(order), xp.broadcast_to(together, values.shape).transpose(order), len(edges))


def _gauss(count: int, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return nodes.astype(dtype), weights.astype(dtype)


def _compared(values: Any, weights: Any, first: int) -> Found:
    """Integrals over the last axes, from `first` on, their errors and sizes."""
    xp, axes = namespace(values, weights), tuple(range(first, values.ndim))
    total = lambda each: (each * weights).sum(axes)
    whole, size, volume = total(values), total(xp.abs(values)), weights.sum(axes)
    middle = tuple(n // 2 for n in values.shape[first:])
    coarse = values[(..., *middle)] * volume
    safe = xp.where(size > 0, size, 1.0)
    mean = whole / xp.where(volume > 0, volume, 1.0)
    variation = total(xp.abs(values - mean.reshape(*mean.shape, *(1,) * len(axes)))) / safe
    share = xp.minimum(xp.maximum(xp.abs(whole - coarse) / safe, variation**2 / 2), 1.0)
    return whole, size * share**3, size


def adaptive_quadrature(
    function: Callable[..., Any], edges: tuple[Any, ...], exponent: int, volumes: Any, found: Found
) -> Any:
    """The averages, with cells divided until the rules agree; on the host. Raises `ValueError` if they do not."""
    average, error, size = (np.asarray(each, np.float64) for each in found)
    if not np.isfinite(size).all():
        return found[0]
    content, doubt, whole = average * volumes, error * volumes, float(np.sum(size * volumes))
    if not (doubt > _AGREED * whole).any():
        return found[0]
    dim = len(edges)
    nodes, weights = _gauss(3 if dim > 1 else 5, np.float64)
    product = lambda line: np.stack(np.meshgrid(*[line] * dim, indexing="ij"), -1).reshape(-1, dim)
    offsets, shares, corners = product(nodes), np.prod(product(weights / 2), axis=1), product([-0.5, 0.5])
    scale = np.ones(()) if exponent == 0 else volumes / _boxes(edges, exponent)
    shape = (len(nodes),) * dim

    def integrals(middles: np.ndarray, halves: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, ...]:
        at = middles[:, None] + halves[:, None] * np.concatenate([offsets, 2 * corners])
        weight = shares * np.prod(2 * halves, axis=1)[:, None] * at[:, : len(shares), 0] ** exponent
        padded = np.pad(at, ((0, -len(at) % _BLOCK), (0, 0), (0, 0)), mode="edge")
        blocks = padded.reshape(-1, _BLOCK * at.shape[1], dim)
        values = np.concatenate([np.asarray(jax.vmap(function)(*jnp.asarray(block.T))) for block in blocks])
        values, ends = np.split(values.reshape(-1, at.shape[1])[: len(at)].astype(np.float64), [len(shares)], axis=1)
        whole, error, size = _compared(values.reshape(-1, *shape), weight.reshape(-1, *shape), 1)
        room = np.sum(weight, axis=1)
        apart = room * np.max(np.abs(ends - (whole / room)[:, None]), axis=1)  # by what stands in the corners
        error = np.maximum(error, (size + apart) * (apart / np.maximum(size + apart, 1e-300)) ** 6 / 8)
        by = np.broadcast_to(scale, volumes.shape).ravel()[cells]
        return whole * by, error * by, size * by

    near = doubt > _AGREED * whole
    around = np.lib.stride_tricks.sliding_window_view(np.pad(near, 1), (3,) * dim)
    near = around.any(tuple(range(-dim, 0)))  # and the cells around: a peak at a face is seen by one side alone
    cells = np.flatnonzero(near)
    places = np.unravel_index(cells, volumes.shape)
    middles = np.stack([((e[1:] + e[:-1]) / 2)[i] for e, i in zip(map(np.asarray, edges), places)], 1)
    halves = np.stack([(np.diff(e) / 2)[i] for e, i in zip(map(np.asarray, edges), places)], 1)
    parts = integrals(middles, halves, cells)
    content, sizes = content.ravel().copy(), (size * volumes).ravel().copy()
    content[cells], sizes[cells] = 0.0, 0.0
    done, count = float(np.sum(sizes)), 0
    for _ in range(_DEEPEST):  # of the parts, those that agree are added up, and the others divided
        whole = done + float(np.sum(parts[2]))
        open_ = parts[1] > _AGREED * whole
        np.add.at(content, cells[~open_], parts[0][~open_])
        done += float(np.sum(parts[2][~open_]))
        middles, halves, cells = middles[open_], halves[open_], cells[open_]
        count += len(cells)
        if not len(cells):
            return (content.reshape(volumes.shape) / volumes).astype(found[0].dtype)
        if count > _MOST:
            break
        middles = (middles[:, None] + halves[:, None] * corners).reshape(-1, dim)
        halves, cells = np.repeat(halves / 2, 2**dim, axis=0), np.repeat(cells, 2**dim)
        parts = integrals(middles, halves, cells)
    doubt = float(np.sum(parts[1])) / whole if whole > 0 else 1.0
    if doubt > 1e-3 or not np.isfinite(doubt):
        raise ValueError(
            f"a function to be averaged over cells varies too fast: {doubt:.2g} of it is not resolved; pass cell averages"
        )
    np.add.at(content, cells, parts[0])
    return (content.reshape(volumes.shape) / volumes).astype(found[0].dtype)


def _boxes(edges: tuple[Any, ...], exponent: int) -> np.ndarray:
    """∫ r^exponent over each cell."""
    found = np.ones(())
    for k, e in enumerate(map(np.asarray, edges)):
        power = (exponent if k == 0 else 0) + 1
        found = found[..., None] * (e[1:] ** power - e[:-1] ** power) / power
    return found
