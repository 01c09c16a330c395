"""Which transitions share nodes, and where these lie: on the host, once per plan."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import equinox as eqx
import numpy as np
from numpy.polynomial import chebyshev as series

from jaxdiff.runtime.compilation import bucket
from jaxdiff.transition.chart import Chart
from jaxdiff.transition.lamperti import BATCH
from jaxdiff.transition.quadrature import antiderivative, chebyshev_points, node_count, nodes
from jaxdiff.transition.substep_count import FAR, classes

CLEAR = 1e-3  # in √duration: nearer to a wall where D vanishes the regular part of V is lost in rounding, and is flat
FINER = 16  # nodes and transitions from which on sizes are rounded up to quarters of an octave
FRACTIONS = np.linspace(-0.98, 0.98, 99)
OPEN = ("open", "open")
PERIODIC = ("periodic", "periodic")
COMPILATION = 2e6  # nanoseconds that one window instead of several is worth, being one compilation


PER_WINDOW = tuple("x rate x_poly rate_poly x_start x_stop z_start z_stop duration pad".split())  # fields of a `Block`


class Block(eqx.Module):
    """Windows of one shape; a window is a stretch of x with nodes, and the transitions of one duration that it serves.

    The nodes are fixed numbers in x, close to even in y at the coefficients the plan was made with; y itself follows
    the coefficients that are being evaluated.
    """

    x: Any  # (windows, n) nodes
    rate: Any  # (windows, n) dx/dz, z the window's own coordinate in [−1, 1]
    x_poly: Any  # (windows, p) Chebyshev points of the window
    rate_poly: Any  # (windows, p)
    x_start: Any  # (windows, g) transitions, and their places in z
    x_stop: Any
    z_start: Any
    z_stop: Any
    duration: Any  # (windows,)
    pad: Any  # (windows, 2) what must lie beyond the data on either side, in y/√duration
    z: Any  # (n,) nodes in z
    z_clear: Any  # (n,) where their coefficients are taken: the same, but for a distance to walls where D vanishes
    weights: Any  # (n,) their quadrature weights
    steps: int = eqx.field(static=True)
    ends: tuple[str, ...] = eqx.field(static=True)
    squaring: bool = eqx.field(static=True)
    chunk: int = eqx.field(static=True)


def windows(chart: Chart, steps: list[int]) -> tuple[list[Block], np.ndarray]:
    """The blocks of a plan, and where each transition lies in them."""
    blocks, places, offset = [], np.zeros(len(chart.duration), np.int64), 0
    for members, substeps in _merged(classes(chart), steps):
        jump, wraps = chart.jump(members), chart.wraps(chart.duration[members])
        for kind in (wraps, ~wraps & (jump <= FAR), ~wraps & (jump > FAR)):
            chosen = np.flatnonzero(kind)
            if not len(chosen):
                continue
            periodic, alone = bool(wraps[chosen[0]]), bool(jump[chosen[0]] > FAR)
            window = np.arange(len(chosen))
            if periodic or not alone:
                window = _shared(chart, members, chosen, substeps, periodic)
            for ends, rows, stretch in _by_walls(chart, members[chosen], window, periodic):
                block, real, slots = _block(chart, rows, stretch, ends, substeps)
                blocks.append(block)
                places[real] = offset + slots
                offset += block.x_start.size
    return blocks, places


def _merged(members: list[np.ndarray], steps: list[int]) -> list[tuple[np.ndarray, int]]:
    """At most three groups, each with the most substeps any member needs: every group is compiled apart."""
    groups = [(rows, substep) for rows, substep in zip(members, steps)]
    while len(groups) > 1:
        cost = [
            len(a) * max(0, t - s) ** 1.5 + len(b) * max(0, s - t) ** 1.5 for (a, s), (b, t) in zip(groups, groups[1:])
        ]
        i = int(np.argmin(cost))
        if len(groups) <= 3 and cost[i] > 0.3 * sum(len(rows) * substep**1.5 for rows, substep in groups):
            break
        (a, s), (b, t) = groups[i : i + 2]
        groups[i : i + 2] = [(np.concatenate([a, b]), max(s, t))]
    return groups


def _cost(count: float, g: float, n: float, steps: int) -> tuple[float, bool]:
    """Rough nanoseconds of `count` windows of n nodes and g transitions, and whether to square the kernel rather than to
    apply it step by step."""
    kernel = 0.0 if steps == 1 else 10 * n**2
    advancing, squaring = 0.8 * (steps - 1) * g * n**2, 0.2 * (1 + math.log2(max(1, steps - 1))) * n**3 + 0.4 * g * n**2
    matrix = 0.0 if steps == 1 else min(advancing, squaring)
    return count * (60 * (n + 16) + g * (20 * n + 120) + kernel + matrix), steps > 1 and squaring < advancing


def _shared(chart: Chart, members: np.ndarray, chosen: np.ndarray, steps: int, periodic: bool) -> np.ndarray:
    """The number of the window of each chosen transition, by the cheapest of some ways to share.

    Those of one duration may share a window if their middles lie in one bin of `size` √duration, at most `most` of them:
    wide windows are few and have many nodes, narrow ones are many and have few.
    """
    of_all = chart.duration[members]
    _, group = np.unique(np.round(np.log(of_all / of_all.min()) * 1e8), return_inverse=True)
    group, rows = group[chosen], members[chosen]
    y0, y1, root, count = chart.y_start[rows], chart.y_stop[rows], np.sqrt(chart.duration[rows]), len(rows)
    low, high = chart.range(np.minimum(y0, y1), np.maximum(y0, y1), chart.duration[rows])
    middle, best = (y0 + y1) / 2, np.arange(count)

    def cost(windows: int, largest: float, first: Any, last: Any, root: Any) -> float:
        width = chart.length / root.min() if periodic else float(np.max((last - first) / root))
        return _cost(windows, largest, node_count(OPEN, width, steps), steps)[0]

    cheapest = cost(count, 1, low, high, root)
    for size in [np.inf] if periodic else [np.inf, 48.0, 24.0, 12.0, 6.0]:
        bins = np.floor((middle - middle.min()) / (size * root)).astype(np.int64)
        order = np.lexsort((middle, bins, group))
        begin = np.flatnonzero(_changes(bins[order]) | _changes(group[order]))
        rank = np.arange(count) - np.repeat(begin, np.diff(np.append(begin, count)))  # of each in its bin
        for most in (1024, 256, 32, 4):
            fresh = rank % most == 0  # the first of a window
            head = np.flatnonzero(fresh)
            if len(head) == count:
                continue
            largest = bucket(int(np.max(np.diff(np.append(head, count)))), FINER)
            first, last = np.minimum.reduceat(low[order], head), np.maximum.reduceat(high[order], head)
            found = cost(len(head), largest, first, last, root if periodic else root[order][head])
            if len(head) == 1 and found < cheapest + COMPILATION:
                return np.zeros(count, np.int64)
            if found < cheapest:
                cheapest, best = found, np.empty(count, np.int64)
                best[order] = np.cumsum(fresh) - 1
    return best


def _changes(sorted_: np.ndarray) -> np.ndarray:
    """Where an array differs from the entry before."""
    return np.concatenate([[True], np.diff(sorted_) != 0])


class Stretch(NamedTuple):
    """Windows, an entry each: their transitions, and the stretch of y that they take."""

    head: np.ndarray  # where its transitions begin among the rows
    sizes: np.ndarray  # how many they are
    first: np.ndarray  # the outermost of their ends
    last: np.ndarray
    low: np.ndarray  # between which y paths must be followed
    high: np.ndarray
    duration: np.ndarray

    def take(self, index: np.ndarray) -> Stretch:
        return Stretch(*(part[index] for part in self))


def _by_walls(
    chart: Chart, members: np.ndarray, window: np.ndarray, periodic: bool
) -> Iterator[tuple[tuple[str, ...], np.ndarray, Stretch]]:
    """(what is at the two ends, transitions in order of their window, windows) for each pair of walls that windows meet."""
    order = np.argsort(window, kind="stable")
    rows = members[order]
    head = np.flatnonzero(_changes(window[order]))
    sizes = np.diff(np.append(head, len(rows)))
    y0, y1 = chart.y_start[rows], chart.y_stop[rows]
    duration = np.add.reduceat(chart.duration[rows], head) / sizes
    if periodic:
        low, high = (np.full(len(head), y) for y in chart.y_bounds)
        yield PERIODIC, rows, Stretch(head, sizes, low, high, low, high, duration)
        return
    first, last = np.minimum.reduceat(np.minimum(y0, y1), head), np.maximum.reduceat(np.maximum(y0, y1), head)
    low, high = chart.range(first, last, duration)
    stretch, (left, right) = Stretch(head, sizes, first, last, low, high, duration), chart.ends(low, high)
    for at in ((False, False), (True, False), (False, True), (True, True)):
        index = np.flatnonzero((left == at[0]) & (right == at[1]))
        if len(index):
            yield tuple(chart.kind(k) if at[k] else "open" for k in (0, 1)), rows, stretch.take(index)


def _block(
    chart: Chart, rows: np.ndarray, stretch: Stretch, ends: tuple[str, ...], steps: int
) -> tuple[Block, np.ndarray, np.ndarray]:
    """(a `Block`, its transitions, the slots that they take in it)."""
    root, g = np.sqrt(stretch.duration), bucket(int(stretch.sizes.max()), FINER)
    pad = 0.8 * np.stack([stretch.first - stretch.low, stretch.high - stretch.last], axis=1) / root[:, None]
    width = float(np.max((stretch.high - stretch.low) / root))
    need = node_count(ends, width, steps)
    n = bucket(need, FINER)
    if ends != PERIODIC:
        low, high = _widened(chart, stretch.low, stretch.high, (width * math.sqrt(n / need)) * root, ends)
        stretch = stretch._replace(low=low, high=high)
    squaring = _cost(1, g, n, steps)[1]
    chunk = max(1, int((3e6 if steps == 1 else 5e5) // (3 * n * g + (n * n if steps > 1 else 0))))
    # a full block of windows and of slots in each: those left over repeat the last
    count = len(stretch.head)
    padded = count if count <= chunk else math.ceil(count / chunk) * chunk
    slot = np.minimum(np.arange(g)[None, :], stretch.sizes[:, None] - 1)
    table, real = rows[stretch.head[:, None] + slot], np.arange(g)[None, :] < stretch.sizes[:, None]
    chosen = np.minimum(np.arange(padded), count - 1)
    filled, duration = stretch.take(chosen), stretch.duration[chosen]

    frame = _Frame(chart, filled.low, filled.high)
    z, weights = nodes(ends, n, float(np.max((filled.high - filled.low) / np.sqrt(duration))))
    near = CLEAR * np.max(np.sqrt(duration) / (filled.high - filled.low))
    near = [2 * near if end.startswith("bessel") else 0.0 for end in ends]
    z_clear = np.clip(z, -1 + near[0], 1 - near[1])
    x, rate = frame.x(z_clear)
    x_poly, rate_poly = _resolving(chart, frame, duration)
    start, stop = chart.start[table[chosen]], chart.stop[table[chosen]]
    if ends == PERIODIC:
        lower, upper = chart.bounds
        stop = lower + np.mod(stop - lower, upper - lower)
    block = Block(
        x=x, rate=rate, x_poly=x_poly, rate_poly=rate_poly, x_start=start, x_stop=stop, z_start=frame.z(start),
        z_stop=frame.z(stop), duration=duration, pad=pad[chosen], z=z, z_clear=z_clear, weights=weights, steps=steps,
        ends=ends, squaring=squaring, chunk=chunk,
    )  # fmt: skip
    return block, table[real], (np.arange(count)[:, None] * g + np.arange(g)[None, :])[real]


class _Frame:
    """The coordinate z ∈ [−1, 1] of windows: q is a polynomial of z, so that z is about even in y.

    Any smooth map would serve; that of y itself would follow the coefficients, and x must be fixed numbers.
    """

    def __init__(self, chart: Chart, low: np.ndarray, high: np.ndarray) -> None:
        self.chart, self.centre, self.half = chart, (low + high) / 2, (high - low) / 2
        for degree in (14, 30, 62):
            at = np.cos(np.pi * np.arange(degree + 1) / degree)
            q = chart.q_of_y(self.centre[:, None] + self.half[:, None] * at)
            self.shape = series.chebfit(at, q.T, degree)  # (degree + 1, windows)
            self.slope = series.chebder(self.shape)
            pace = chart.q_slope(self.centre[:, None] + self.half[:, None] * FRACTIONS)
            even = self._value(self.slope, np.broadcast_to(FRACTIONS, pace.shape)) / self.half[:, None] / pace
            if np.max(np.abs(even - 1)) < 0.02:
                return
        raise ValueError(
            "the diffusivity varies too fast over the reach of one step of the path; give the path in finer steps, or a smoother diffusivity"
        )

    @staticmethod
    def _value(coefficients: np.ndarray, z: np.ndarray) -> np.ndarray:
        return series.chebval(z, coefficients[..., None], tensor=False)

    def x(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(x, dx/dz), (windows, n), at z (n,) of every window."""
        z = np.broadcast_to(z, (len(self.half), len(z)))
        return self.chart.x_of_q(self._value(self.shape, z), self._value(self.slope, z))

    def z(self, x: np.ndarray) -> np.ndarray:
        """Of x (windows, g), by Newton's method from where z would be if it were even in y."""
        q, z = self.chart.q(x), (self.chart.y(x) - self.centre[:, None]) / self.half[:, None]
        for _ in range(4):
            step = (self._value(self.shape, z) - q) / self._value(self.slope, z)
            z = np.clip(z - step, -1, 1)
            if np.max(np.abs(step)) < 1e-15:
                break
        return z


def _resolving(chart: Chart, frame: _Frame, duration: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(x, dx/dz) at so many Chebyshev points that the series of y and φ end before their last terms."""
    for p in (16, 32, 64, 128, 256):
        x, rate = frame.x(chebyshev_points(p))
        few = slice(max(1, 4 * BATCH // p))
        here = chart.at(x[few])
        push = here.drift / (2 * here.diffusivity)
        for wall, ratio in zip(chart.bounds, chart.ratios):
            push = push - (ratio / (2 * (x[few] - wall)) if ratio else 0.0)
        speed = rate[few] / np.sqrt(2 * here.diffusivity) / np.sqrt(duration[few, None])
        tails = [np.max(np.abs(each @ antiderivative(p))[:, -3:]) for each in (push * rate[few], speed)]
        if max(tails) < 1e-10:
            break
    return x, rate


def _widened(chart: Chart, low: Any, high: Any, width: Any, ends: tuple[str, ...]) -> tuple[Any, Any]:
    """Ranges of one width, kept inside the table and off walls that they did not reach."""
    margin = 1e-6 * (chart.y_high - chart.y_low)
    floor, ceiling = chart.y_low + margin, chart.y_high - margin
    # the kernel of an open window does not know the wall: keep half way off
    floor = np.where(np.isfinite(chart.y_walls[0]), np.maximum(floor, (low + chart.y_low) / 2), floor)
    ceiling = np.where(np.isfinite(chart.y_walls[1]), np.minimum(ceiling, (high + chart.y_high) / 2), ceiling)
    more = np.maximum(0, width - (high - low))
    if ends[0] == "open" and ends[1] == "open":
        low = np.maximum(np.minimum(low, np.maximum(low - more / 2, floor)), chart.y_low)
        high = np.minimum(np.maximum(high, np.minimum(high + more / 2, ceiling)), chart.y_high)
    elif ends[0] == "open":
        low = np.minimum(low, np.maximum(low - more, floor))
    elif ends[1] == "open":
        high = np.maximum(high, np.minimum(high + more, ceiling))
    return low, high
