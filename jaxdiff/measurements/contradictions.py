"""Rows of a table that cannot both be right, or that look as if nothing had been measured yet."""

from __future__ import annotations

import numpy as np

FAR = 8.0  # typical steps between neighbours in time, or standard deviations of a difference, that no replicate is off
RUN = 3  # equal values at the head of a sensor that are asked about where the next one jumps
APART = 3.0  # largest later steps, that such a jump is at least
MOST = 10_000  # rows; images hold every pixel once


def doubts(times: np.ndarray, positions: np.ndarray, values: np.ndarray, sigma: np.ndarray | None) -> tuple[str, ...]:
    """What to ask about readings (m,): equal times and places with values far apart, compared with the steps between
    neighbours in time or sigma; and one value repeated at the head of a sensor, from which the next one jumps."""
    if len(values) > MOST:
        return ()
    places = positions.reshape(len(times), -1)
    order = np.lexsort((np.arange(len(times)), times, *places.T))
    one, two = order[:-1], order[1:]
    adjacent = (places[one] == places[two]).all(1)
    same, step = adjacent & (times[one] == times[two]), np.abs(values[two] - values[one])
    later = step[adjacent & ~same]
    typical = float(np.median(later)) if len(later) else float(np.median(step[same])) if same.sum() >= 10 else np.nan
    far = np.full(len(step), FAR * typical)
    if sigma is not None:
        far = np.where(np.isnan(far), 0.0, far)
        far = np.maximum(far, FAR * np.hypot(sigma[one], sigma[two]))
    found = []
    off = same & (step > np.maximum(far, 1e-9 * np.abs(values).max()))
    if off.any():
        i, pairs = int(np.argmax(off)), [_rows(which[off]) for which in (one, two)]
        found.append(
            f"readings {pairs[0]} and {pairs[1]} give other values for the same time and place, as {values[one[i]]:.4g} and {values[two[i]]:.4g} at t = {times[one[i]]:.4g}; are both measured?"
        )
    by_row = np.lexsort((np.arange(len(times)), *places.T))
    ends = np.flatnonzero((places[by_row][1:] != places[by_row][:-1]).any(1)) + 1
    first = np.concatenate([[0], ends])
    if not (values[by_row[first]] == values[by_row[np.minimum(first + 1, len(values) - 1)]]).any():
        return tuple(found)
    heads = []
    for rows in np.split(by_row, ends) if len(ends) < 200 else ():
        changes = np.flatnonzero(values[rows] != values[rows[0]])
        count = int(changes[0]) if len(changes) else 0
        rest = values[rows[count:]]
        if count < RUN or len(rest) <= count or not abs(rest[0] - values[rows[0]]) > FAR * typical:
            continue
        # what begins to rise goes on to rise
        gap, steps = np.abs(rest - values[rows[0]]).min(), np.abs(np.diff(rest))
        if gap > APART * steps.max() and gap > np.ptp(rest) / 2:
            heads.append(rows[:count])
    if heads:
        rows = heads[0]
        found.append(
            f"readings {_rows(np.concatenate(heads))} are all {values[rows[0]]:.4g}, from which the next ones jump; were they measured?"
        )
    return tuple(found)


def _rows(rows: np.ndarray, most: int = 3) -> str:
    """1–5, 8: rows counted from one."""
    rows = np.unique(rows) + 1
    parts = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    text = [f"{part[0]}–{part[-1]}" if len(part) > 1 else f"{part[0]}" for part in parts]
    return ", ".join(text[:most]) + (", …" if len(text) > most else "")
