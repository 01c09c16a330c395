"""How finely time and space must be cut, and which transitions share nodes: on the host, once per plan."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from jaxdiff.runtime.compilation import bucket
from jaxdiff.transition.chart import BATCH, Reference
from jaxdiff.transition.kernel import Side, antiderivative, chebyshev_points, log_kernel

FINENESS = 1.8  # √(δ/2) over node spacing; trapezoid sums are exact to 5e-10 at 1.5, so σ may shrink by a quarter
FAR = 12.0  # jumps beyond so many √duration have windows of their own
CLEAR = 1e-3  # in √duration: nearer to a wall where D vanishes the regular part of V drowns in rounding, and is flat
FINER = 16  # nodes and transitions from which on sizes are told apart in quarters of an octave
FRACTIONS = np.linspace(-0.98, 0.98, 99)


def nodes(ends: tuple[str, ...], count: int, width: float) -> tuple[np.ndarray, np.ndarray]:
    """Quadrature on [−1, 1]: the trapezoid rule, Gauss–Legendre where a wall cuts the line, drawn towards a vanishing D."""
    if ends[0] == "periodic":
        return (2 * np.arange(count) + 1) / count - 1, np.full(count, 2 / count)
    if ends == ("open", "open"):
        return np.linspace(-1, 1, count), np.full(count, 2 / (count - 1))
    (t, w), (left, right) = np.polynomial.legendre.leggauss(count), (end.startswith("bessel") for end in ends)
    if not (left or right):
        return t, w
    if left and right:  # u = t ∈ [−1, 1]: z' ∝ (1 − t²)²
        return (15 * t - 10 * t**3 + 3 * t**5) / 8, w * 15 / 8 * (1 - t**2) ** 2
    # distance r ~ u³ at the wall, so that r^{2ν+1} is smooth enough, and ~ u beyond two units
    u, c = (t + 1) / 2, 2.0 / width
    r, dr = u**3 / (u**2 + c**2) * (1 + c**2), (u**4 + 3 * c**2 * u**2) / (u**2 + c**2) ** 2 * (1 + c**2)
    return (2 * r - 1, w * dr) if left else ((1 - 2 * r)[::-1], (w * dr)[::-1])


def node_count(ends: tuple[str, ...], width: float, steps: int) -> int:
    """Nodes for a window `width` √duration wide."""
    spacing = math.sqrt(0.5 / steps) / FINENESS
    stretch = 1.0 if ends in (("open", "open"), ("periodic", "periodic")) else math.pi / 2
    if any(end.startswith("bessel") for end in ends):
        stretch *= 1.5
    return max(12, math.ceil(stretch * width / spacing) + 1)


def fewest_steps(length: float) -> int:
    """Substeps for which one image at each end of a domain `length` √duration long suffices."""
    steps = 1
    while 0.5 / steps > (length / 8) ** 2:
        steps = _doubled(steps)
    return steps


def is_ring(reference: Reference, duration: Any) -> Any:
    """Whether a window takes the whole circle; else other ways round do not matter."""
    return reference.periodic & (reference.turn < 60 * np.sqrt(duration))


def classes(reference: Reference) -> list[np.ndarray]:
    """Transitions whose durations are within a factor of four share their number of substeps; far jumps have their own."""
    key = 2 * np.floor(np.log(reference.duration / reference.duration.min() * (1 + 1e-9)) / math.log(4.0))
    key = key + (_jump(reference, slice(None)) > FAR)
    return [np.flatnonzero(key == k) for k in np.unique(key)]


def _jump(reference: Reference, members: Any) -> np.ndarray:
    return np.abs(reference.s_stop[members] - reference.s_start[members]) / np.sqrt(reference.duration[members])


def substeps(reference: Reference, tolerance: float) -> tuple[list[int], float, float]:
    """Substeps of each class: M is enough when M and 2M agree on a sample, the extreme transitions included."""
    random, chosen, errors, stress, groups = np.random.default_rng(0), [], 0.0, 0.0, classes(reference)
    for members in groups:
        s0, s1, time = reference.s_start[members], reference.s_stop[members], reference.duration[members]
        alike, share = np.ptp(time) < 1e-9 * time[0], tolerance / len(groups)
        few = 3 if alike else 1
        share = min(share, 1e-6 * len(members)) if _jump(reference, members[:1])[0] > FAR else share
        rank = [np.argsort(-np.abs(s1 - s0) / np.sqrt(time))[:few], np.argsort(s0)[:few], np.argsort(-s0)[:few]]
        special = np.unique(np.concatenate(rank))
        others = np.setdiff1d(np.arange(len(members)), special) if len(members) < 100000 else np.arange(len(members))
        sample = random.choice(others, min(16 if alike else 5, len(others)), replace=False) if len(others) else others
        pick = np.concatenate([special, sample]).astype(int)
        weight = np.concatenate([np.ones(len(special)), np.full(len(sample), len(others) / max(1, len(sample)))])
        burden = reference.at(reference.start[members[pick]]).force ** 2 * time[pick] ** 3  # δ³V_y² at M = 1
        least = max(fewest_steps(_length(reference) / math.sqrt(t)) for t in (time.max(), time.min()))
        steps = max(least, fewest_steps(8 / math.sqrt(2 * max(0.5, float(np.median(burden)) ** (1 / 3)))))
        value, before, stuck = _trial(reference, members[pick], steps), math.inf, 0
        while True:
            better = _trial(reference, members[pick], _doubled(steps))
            error = float(np.sum(np.abs(value - better) * weight))
            stuck = stuck + 1 if error > 0.5 * before else 0  # a kink limits what finer time can do
            if error <= share or stuck == 2 or steps > (2**13 if np.isfinite(error) else 2**8):
                break
            steps, value, before = _doubled(steps), better, error
        if not np.isfinite(error):
            raise ValueError(
                "the transition densities are not finite; check drift, diffusivity and killing near the path"
            )
        chosen.append(steps)
        errors += error
        ease = 4 * max(1.0, min(16.0, share / max(error, 1e-300)))
        stress = max(
            stress,
            ease * steps**-3.0 * float(np.max(reference.at(reference.start[members]).force ** 2 * time**3)),
            1e-6,
        )
    return chosen, errors, stress


def _doubled(steps: int) -> int:
    return 2 if steps == 1 else 2 * steps - 1


def _length(reference: Reference) -> float:
    """How far apart the two ends are that both matter."""
    if reference.periodic:
        return float(reference.turn)
    return float(reference.s_walls[1] - reference.s_walls[0])


def _trial(reference: Reference, members: np.ndarray, steps: int) -> np.ndarray:
    """Log kernels of a few transitions at the reference, in a window of their own or one for all if that is not much wider."""
    s0, s1, time = reference.s_start[members], reference.s_stop[members], reference.duration[members]
    low, high = reference.range(np.minimum(s0, s1), np.maximum(s0, s1), time)
    values = np.zeros(len(members))
    alike = np.ptp(time) < 1e-9 * time[0] and np.max(np.abs(s1 - s0)) < FAR * math.sqrt(time[0])
    if alike and np.max(high) - np.min(low) < 4 * np.max(high - low):
        groups = [np.arange(len(members))]
    else:
        groups = [np.array([i]) for i in range(len(members))]
    for group in groups:
        values[group] = _trial_window(
            reference, s0[group], s1[group], low[group].min(), high[group].max(), time[group[0]], steps
        )
    return values


def _trial_window(
    reference: Reference, s0: Any, s1: Any, low: float, high: float, time: float, steps: int
) -> np.ndarray:
    root, count, sides = math.sqrt(time), len(s0), []
    if is_ring(reference, time):
        low, high = reference.s_bounds
        s1 = low + np.mod(s1 - low, reference.turn)
        ends: tuple[str, ...] = ("periodic", "periodic")
    else:
        ends = tuple(reference.kind(k) if at else "open" for k, at in enumerate(reference.ends(low, high)))
    z, w = nodes(ends, node_count(ends, (high - low) / root, steps), (high - low) / root)
    half = (high - low) / 2
    s = np.concatenate([(low + high) / 2 + half * z, s0, s1])
    here = reference.at(reference.x(s))
    potential, force = here.potential * time, here.force * time * root
    if any(end.startswith("bessel") for end in ends):
        potential = time * np.interp(s, reference.table, reference.potential)
        force = time * root * np.interp(s, reference.table, np.gradient(reference.potential, reference.table))
    for k, end in enumerate(ends):
        place, sign = (low, high)[k], (1, -1)[k]
        if end.startswith("bessel"):
            order = reference.ratios[k] - 1
            sides.append(Side("bessel", place / root, abs(order) if end == "bessel absorbing" else order))
        elif end in ("reflecting", "absorbing"):
            mu = float(reference.at(np.array([reference.bounds[k]])).velocity[0])
            sides.append(Side(end, place / root, sign * mu * root))
    if ends[0] == "periodic":
        there = reference.at(np.linspace(*reference.bounds, 513)[:-1])
        gain = np.mean(there.drift / (2 * there.diffusivity)) * (reference.bounds[1] - reference.bounds[0])
        sides.append(Side("periodic", (high - low) / root, gain))
    n = len(z)
    with np.errstate(all="ignore"):
        return log_kernel(
            np, s[None, :n] / root, w[None] * half / root, potential[None, :n], force[None, :n], s0[None] / root, s1[None] / root,
            (potential[n : n + count] + potential[n + count :])[None], steps=steps, sides=sides,
            squaring=steps > 2 and 2 * steps * count > n * steps.bit_length(), tilted=count == 1,
        )[0]  # fmt: skip


def windows(reference: Reference, steps: list[int]) -> tuple[list[dict[str, Any]], np.ndarray]:
    """The blocks of a plan, and where each transition lies in them."""
    parts, places, offset = [], np.zeros(len(reference.duration), np.int64), 0
    for members, substep in _merged(classes(reference), steps):
        time = reference.duration[members]
        s0, s1 = reference.s_start[members], reference.s_stop[members]
        _, group = np.unique(np.round(np.log(time / time.min()) * 1e8), return_inverse=True)
        jump = _jump(reference, members)
        around = is_ring(reference, time)
        for kind in (around, ~around & (jump <= FAR), ~around & (jump > FAR)):
            chosen = np.flatnonzero(kind)
            if not len(chosen):
                continue
            ring, alone = bool(around[chosen[0]]), bool(jump[chosen[0]] > FAR)
            cluster = _share(
                s0[chosen], s1[chosen], time[chosen], group[chosen], substep, ring, alone and not ring, reference
            )
            for part, rows, slots in _blocks(reference, members[chosen], cluster, substep, ring):
                parts.append(part)
                places[rows] = offset + slots
                offset += part["x_start"].size
    return parts, places


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
    """Rough nanoseconds, and whether to square the kernel rather than to apply it step by step."""
    kernel = 0.0 if steps == 1 else 10 * n**2
    chain, squares = 0.8 * (steps - 1) * g * n**2, 0.2 * (1 + math.log2(max(1, steps - 1))) * n**3 + 0.4 * g * n**2
    matrix = 0.0 if steps == 1 else min(chain, squares)
    return count * (60 * (n + 16) + g * (20 * n + 120) + kernel + matrix), steps > 1 and squares < chain


def _share(
    s0: Any, s1: Any, time: Any, group: Any, steps: int, ring: bool, alone: bool, reference: Reference
) -> np.ndarray:
    """Numbers of clusters: transitions of one duration, near each other, that share a window."""
    m, middle, root = len(s0), (s0 + s1) / 2, np.sqrt(time)
    best = np.arange(m)
    if alone:
        return best
    low, high = reference.range(np.minimum(s0, s1), np.maximum(s0, s1), time)
    span = lambda first, last, r: float(np.max((last - first) / r))
    width = _length(reference) / root.min() if ring else span(low, high, root)
    cheapest = _cost(m, 1, node_count(("open", "open"), width, steps), steps)[0]
    for size in [np.inf] if ring else [np.inf, 48.0, 24.0, 12.0, 6.0]:
        bins = (
            np.floor((middle - middle.min()) / (size * root)).astype(np.int64)
            if np.isfinite(size)
            else np.zeros(m, np.int64)
        )
        order = np.lexsort((middle, bins, group))
        fresh = np.concatenate([[True], (np.diff(bins[order]) != 0) | (np.diff(group[order]) != 0)])
        begin = np.flatnonzero(fresh)
        rank = np.arange(m) - np.repeat(begin, np.diff(np.append(begin, m)))
        for cap in (1024, 256, 32, 4):
            head = np.flatnonzero(rank % cap == 0)
            if len(head) == m:
                continue
            if not ring:
                width = span(
                    np.minimum.reduceat(low[order], head), np.maximum.reduceat(high[order], head), root[order][head]
                )
            largest = int(np.max(np.diff(np.append(head, m))))
            cost = _cost(len(head), bucket(largest, FINER), node_count(("open", "open"), width, steps), steps)[0]
            if len(head) == 1 and cost < cheapest + 2e6:  # one window is one compilation, worth two milliseconds
                return np.zeros(m, np.int64)
            if cost < cheapest:
                cheapest, best = cost, np.empty(m, np.int64)
                best[order] = np.cumsum(rank % cap == 0) - 1
    return best


def _blocks(reference: Reference, members: np.ndarray, cluster: np.ndarray, steps: int, ring: bool) -> Any:
    """Yields (fields of a `Block`, transitions, their slots) for each combination of walls that windows meet."""
    order = np.argsort(cluster, kind="stable")
    rows = members[order]
    head = np.flatnonzero(np.concatenate([[True], np.diff(cluster[order]) != 0]))
    sizes = np.diff(np.append(head, len(rows)))
    s0, s1 = reference.s_start[rows], reference.s_stop[rows]
    time = np.add.reduceat(reference.duration[rows], head) / sizes
    if ring:
        low, high = (np.full(len(head), s) for s in reference.s_bounds)
        first, last, signature = low, high, np.full(len(head), -1)
    else:
        first, last = np.minimum.reduceat(np.minimum(s0, s1), head), np.maximum.reduceat(np.maximum(s0, s1), head)
        low, high = reference.range(first, last, time)
        at = reference.ends(low, high)
        signature = at[0] + 2 * at[1]
    for code in np.unique(signature):
        index = np.flatnonzero(signature == code)
        ends = (
            ("periodic", "periodic") if ring else tuple(reference.kind(k) if code >> k & 1 else "open" for k in (0, 1))
        )
        yield _block(
            reference,
            rows,
            head[index],
            sizes[index],
            first[index],
            last[index],
            low[index],
            high[index],
            time[index],
            ends,
            steps,
        )


def _block(reference: Reference, rows: Any, head: Any, sizes: Any, first: Any, last: Any, low: Any, high: Any, time: Any,
           ends: tuple[str, ...], steps: int) -> Any:  # fmt: skip
    root, g = np.sqrt(time), bucket(int(sizes.max()), FINER)
    pad = 0.8 * np.stack([first - low, high - last], axis=1) / root[:, None]
    width = float(np.max((high - low) / root))
    need = node_count(ends, width, steps)
    n = bucket(need, FINER)
    if ends != ("periodic", "periodic"):
        low, high = _widened(reference, low, high, (width * math.sqrt(n / need)) * root, ends)
    squaring, chunk = (
        _cost(1, g, n, steps)[1],
        max(1, int((3e6 if steps == 1 else 5e5) // (3 * n * g + (n * n if steps > 1 else 0)))),
    )
    count = len(head)
    padded = count if count <= chunk else math.ceil(count / chunk) * chunk
    chosen = np.minimum(np.arange(padded), count - 1)
    slot = np.minimum(np.arange(g)[None, :], sizes[:, None] - 1)
    table = rows[head[:, None] + slot][chosen]
    low, high, time, pad = low[chosen], high[chosen], time[chosen], pad[chosen]

    value = lambda c, z: np.polynomial.chebyshev.chebval(z, c[..., None], tensor=False)
    centre, half = (low + high) / 2, (high - low) / 2
    for degree in (14, 30, 62):  # z → t, a polynomial: any smooth map serves whose nodes are about even in y
        fit = np.cos(np.pi * np.arange(degree + 1) / degree)
        t = reference.t(centre[:, None] + half[:, None] * fit)
        shape = np.polynomial.chebyshev.chebfit(fit, t.T, degree)  # (degree + 1, windows)
        slope = np.polynomial.chebyshev.chebder(shape)
        even = (value(slope, np.broadcast_to(FRACTIONS, (padded, 99))) / half[:, None]
                / reference.t_rate(centre[:, None] + half[:, None] * FRACTIONS))  # fmt: skip
        if np.max(np.abs(even - 1)) < 0.02:
            break
    else:
        raise ValueError(
            "the diffusivity varies too fast over the reach of one step of the path; give the path in finer steps, or a smoother diffusivity"
        )

    def place(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        z = np.broadcast_to(z, (padded, np.shape(z)[-1]))
        return reference.x_of_t(value(shape, z), value(slope, z))

    def invert(x: np.ndarray) -> np.ndarray:
        t, z = reference.to_t(x), (reference.s(x) - centre[:, None]) / half[:, None]
        for _ in range(4):
            step = (value(shape, z) - t) / value(slope, z)
            z = np.clip(z - step, -1, 1)
            if np.max(np.abs(step)) < 1e-15:
                break
        return z

    z, weights = nodes(ends, n, float(np.max((high - low) / np.sqrt(time))))
    near = [2 * CLEAR * np.max(np.sqrt(time) / (high - low)) if end.startswith("bessel") else 0.0 for end in ends]
    z_clear = np.clip(z, -1 + near[0], 1 - near[1])
    x, rate = place(z_clear)
    start, stop = reference.start[table], reference.stop[table]
    if ends[0] == "periodic":
        lower, upper = reference.bounds
        stop = lower + np.mod(stop - lower, upper - lower)
    for p in (16, 32, 64, 128, 256):
        x_poly, rate_poly = place(chebyshev_points(p))
        here = reference.at(x_poly[: max(1, 4 * BATCH // p)])
        push = here.drift / (2 * here.diffusivity)
        for wall, ratio in zip(reference.bounds, reference.ratios):
            push = push - (ratio / (2 * (x_poly[: len(push)] - wall)) if ratio else 0.0)
        speed = rate_poly[: len(push)] / np.sqrt(2 * here.diffusivity) / np.sqrt(time[: len(push), None])
        if (
            max(np.max(np.abs(rate @ antiderivative(p))[:, -3:]) for rate in (push * rate_poly[: len(push)], speed))
            < 1e-10
        ):
            break
    part = {
        "x": x, "rate": rate, "x_poly": x_poly, "rate_poly": rate_poly, "x_start": start, "x_stop": stop,
        "z_start": invert(start), "z_stop": invert(stop), "duration": time, "pad": pad, "z": z, "z_clear": z_clear,
        "weights": weights, "steps": steps, "ends": ends, "squaring": squaring, "chunk": chunk,
    }  # fmt: skip
    real = np.arange(g)[None, :] < sizes[:, None]
    return part, rows[(head[:, None] + slot)][real], (np.arange(count)[:, None] * g + np.arange(g)[None, :])[real]


def _widened(reference: Reference, low: Any, high: Any, width: Any, ends: tuple[str, ...]) -> tuple[Any, Any]:
    """Ranges of one width, kept inside the table and off walls that they did not reach."""
    margin = 1e-6 * (reference.s_high - reference.s_low)
    floor, ceiling = reference.s_low + margin, reference.s_high - margin
    # the kernel of an open window does not know the wall: keep half way off
    floor = np.where(np.isfinite(reference.s_walls[0]), np.maximum(floor, (low + reference.s_low) / 2), floor)
    ceiling = np.where(np.isfinite(reference.s_walls[1]), np.minimum(ceiling, (high + reference.s_high) / 2), ceiling)
    more = np.maximum(0, width - (high - low))
    if ends[0] == "open" and ends[1] == "open":
        low = np.maximum(np.minimum(low, np.maximum(low - more / 2, floor)), reference.s_low)
        high = np.minimum(np.maximum(high, np.minimum(high + more / 2, ceiling)), reference.s_high)
    elif ends[0] == "open":
        low = np.minimum(low, np.maximum(low - more, floor))
    elif ends[1] == "open":
        high = np.maximum(high, np.minimum(high + more, ceiling))
    return low, high
