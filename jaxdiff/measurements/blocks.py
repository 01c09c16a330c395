"""Which rows are held out together: blocks of neighbours in time, or rows dealt out where each is a trial of its own."""

from __future__ import annotations

from typing import Any

import numpy as np


def by_time(times: np.ndarray, folds: int, what: str = "times") -> np.ndarray:
    """The block of each row (m,), 0 … folds − 1: different times in a row, blocks of about as many rows."""
    distinct, which, counts = np.unique(times, return_inverse=True, return_counts=True)
    require(len(distinct), folds, f"different {what}")
    middle = np.cumsum(counts) - 0.5 * counts
    block = np.minimum((middle / counts.sum() * folds).astype(int), folds - 1)
    if len(np.unique(block)) < folds:  # a few times hold most of the rows
        block = np.arange(len(distinct)) * folds // len(distinct)
    return np.asarray(block[which.ravel()])


def in_order(count: int, folds: int, what: str) -> np.ndarray:
    """The block of each of so many rows as they come, (m,)."""
    require(count, folds, what)
    return np.arange(count) * folds // count


def dealt(order: np.ndarray, folds: int, what: str) -> np.ndarray:
    """The block of each row (m,), of rows in this order in turn, so that each block has as many of every kind."""
    require(len(order), folds, what)
    block = np.empty(len(order), int)
    block[order] = np.arange(len(order)) % folds
    return block


def require(count: int, folds: int, what: str) -> None:
    if count < folds:
        raise ValueError(f"folds={folds} needs as many {what}, got {count}; take fewer folds")


def pieces(paths: Any, kept: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """[(times, positions), …] of the steps that are kept (m,), where each run of them is a path of its own."""
    found, at = [], 0
    for t, x in paths:
        mine = np.concatenate([[False], kept[at : at + len(t) - 1], [False]])
        at += len(t) - 1
        ends = np.flatnonzero(mine[1:] != mine[:-1]).reshape(-1, 2)
        found += [(t[first : last + 1], x[first : last + 1]) for first, last in ends]
    return found
