"""Tests of residuals, each a p-value: of groups, of neighbours, of signs, of single rows; plain NumPy, on the host.

What a fit takes out of residuals is taken into account: r = Mε, M = 1 − QQᵀ, Q an orthonormal basis of the Jacobian. The
tests of groups are then the F tests of added columns, exact for linear models and normal noise, however few the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

LEVEL = 0.02  # of false alarms, over all tests of a fit
NORMAL = "the residuals are not normally distributed: error bars hold, their 95 % roughly"
EACH = 24  # groups that a test compares at most
MOST = 100  # outliers that are looked for


class Finding(NamedTuple):
    """The result of one test: its p-value, its weight (where, before how alike, before how large), and what it says."""

    p: float
    weight: float
    text: str


class Examination:
    """Tests of one measurement: how many there are, what they found, and what does not count against the model.

    unfit: why there are no tests, if there are none
    """

    def __init__(self, unfit: str = "too few data are left to judge by") -> None:
        self.found: list[Finding] = []
        self.late: list[Callable[[float], Finding]] = []  # tests that must know their level
        self.remarks: list[str] = []
        self.unfit = unfit

    def add(self, *findings: Finding | None) -> None:
        self.found += [one for one in findings if one is not None]

    @property
    def count(self) -> int:
        return len(self.found) + len(self.late)

    def failed(self, level: float) -> list[Finding]:
        """What the tests at this level of false alarms found, those of the largest weight first."""
        everything = self.found + [test(level) for test in self.late]
        return sorted((one for one in everything if one.p < level), key=lambda one: -one.weight)


def standard_errors(away: float) -> str:
    """How many standard errors something is off, in words."""
    count = f"{abs(away):.2g}"
    return f"{count} standard error{'' if count == '1' else 's'}"


class Whitened(NamedTuple):
    """Residuals with unit noise of a scale to be estimated: r (n,) and the basis Q (n, p) of the Jacobian, both whitened
    by each row's own and former residual, wᵢ = own·eᵢ − past·e_last, e over sigma."""

    r: np.ndarray
    basis: np.ndarray
    own: np.ndarray
    past: np.ndarray
    last: np.ndarray

    @property
    def freedom(self) -> int:
        return len(self.r) - self.basis.shape[1]


def whitened(e: np.ndarray, jacobian: np.ndarray, rho: Any, last: np.ndarray) -> Whitened:
    """From residuals over sigma (n,), their Jacobian (n, p), and the correlation (n,) of each with the row before it."""
    rho = np.where(last >= 0, rho, 0.0)
    own = 1 / np.sqrt(1 - rho**2)
    past = rho * own
    if past.any():
        e = own * e - past * e[last]
        jacobian = own[:, None] * jacobian - past[:, None] * jacobian[last]
    basis = _basis(jacobian)
    return Whitened(e - basis @ (basis.T @ e), basis, own, past, last)


def _basis(jacobian: np.ndarray) -> np.ndarray:
    """Orthonormal columns (n, rank) of what a Jacobian spans."""
    size = np.sqrt(np.einsum("ij,ij->j", jacobian, jacobian))
    scaled = jacobian[:, size > 0] / size[size > 0]
    values, vectors = np.linalg.eigh(scaled.T @ scaled)
    kept = values > 1e-10 * max(len(values), 1)
    rough = scaled @ (vectors[:, kept] / np.sqrt(values[kept]))
    if not kept.any():
        return rough
    return rough @ np.linalg.inv(np.linalg.cholesky(rough.T @ rough)).T  # once more: to roundoff


def groups(white: Whitened, labels: np.ndarray, name: Any, known: bool = False) -> Finding | None:
    """Whether the mean residual of some group differs from zero: the F test of a column for each, χ² where noise is known.

    labels: (n,) 0 … q−1, or -1; name(worst group, its mean, "3 standard errors" off zero) → words
    """
    from scipy import special

    r, basis, own, past = white.r, white.basis, white.own, white.past
    count = int(labels.max(initial=-1)) + 1
    if count < 1:
        return None
    former = labels[white.last]
    now, then = labels >= 0, (past != 0) & (former >= 0)
    both = now & then
    # the columns of the groups are whitened as residuals are: their products with one, and with each other
    sums = lambda v: (
        np.bincount(labels[now], (own * v)[now], count) - np.bincount(former[then], (past * v)[then], count)
    )
    cross = np.bincount(labels[both] * count + former[both], (own * past)[both], count**2).reshape(count, count)
    squares = np.bincount(labels[now], own[now] ** 2, count), np.bincount(former[then], past[then] ** 2, count)
    square = np.diag(squares[0]) - cross - cross.T + np.diag(squares[1])
    slope = sums(r)
    taken = np.stack([sums(column) for column in basis.T], axis=1) if basis.shape[1] else np.zeros((count, 0))
    left = square - taken @ taken.T
    scale = np.sqrt(np.where(np.diag(square) > 0, np.diag(square), 1.0))
    values, vectors = np.linalg.eigh(left / scale / scale[:, None])
    identified = values > 1e-6
    degrees = int(identified.sum())
    freedom = white.freedom - degrees
    if degrees < 1 or (freedom < 1 and not known):
        return None
    explained = float(np.sum((vectors[:, identified].T @ (slope / scale)) ** 2 / values[identified]))
    total = float(r @ r)
    rest = max(total - explained, 1e-300 + 1e-14 * total)
    noise = 1.0 if known else rest / freedom
    p = special.chdtrc(degrees, explained) if known else special.fdtrc(degrees, freedom, explained / degrees / noise)
    off = slope / np.sqrt(np.maximum(np.diag(left), 1e-6 * scale**2) * noise)
    mean = np.where(np.abs(off) > 0.8 * np.abs(off).max(), slope / scale**2, 0.0)  # a fit distributes what is off
    worst = int(np.argmax(np.abs(mean)))
    share = max(1 - rest / total * white.freedom / max(freedom, 1), 0.0) if total > 0 else 0.0
    return Finding(float(p), share, name(worst, float(mean[worst]), standard_errors(off[worst])))


def neighbours(white: Whitened, one: np.ndarray, two: np.ndarray, name: Any, both: bool = False) -> Finding | None:
    """Whether residuals of pairs (one, two) are alike, or (both) unlike: r_one·r_two over the squares.

    The mean and variance under the projection are exact, and a beta distribution on [−1, 1] has them: Durbin & Watson 1951,
    doi:10.1093/biomet/38.1-2.159. name(correlation of the pairs) → words
    """
    from scipy import special

    r, basis, m = white.r, white.basis, white.freedom
    total = float(r @ r)
    if len(one) < 4 or m < 4 or not total > 0:
        return None
    products = float(r[one] @ r[two])
    n = len(r)
    touch = np.zeros_like(basis)  # the quadratic form of the pairs on the basis
    for column, out in zip(basis.T, touch.T, strict=True):
        out += np.bincount(one, column[two], n) + np.bincount(two, column[one], n)
    touch /= 2
    inner, degree = basis.T @ touch, np.bincount(one, minlength=n) + np.bincount(two, minlength=n)
    trace = -np.trace(inner)
    square = len(one) / 2 - 2 * np.sum(touch**2) + np.sum(inner**2)
    mean = trace / m
    variance = (trace**2 + 2 * square) / (m * (m + 2)) - mean**2
    most = max(1.0, 0.5 * degree.max())  # no quadratic form of them is larger
    x, centre, width = 0.5 * (1 + products / total / most), 0.5 * (1 + mean / most), variance / (2 * most) ** 2
    if not 0 < width < centre * (1 - centre):
        return None
    shape = centre * (1 - centre) / width - 1
    above = float(special.betainc((1 - centre) * shape, centre * shape, np.clip(1 - x, 0.0, 1.0)))
    below = float(special.betainc(centre * shape, (1 - centre) * shape, np.clip(x, 0.0, 1.0)))
    p = 2 * min(above, below) if both else above
    size = float(np.sqrt(r[one] @ r[one] * (r[two] @ r[two])))
    correlation = products / size if size > 0 else 0.0
    return Finding(p, abs(correlation) - 1, name(correlation))


def signs(white: Whitened, one: np.ndarray, two: np.ndarray, name: Any) -> Finding | None:
    """Whether residuals keep their sign too long from one row to the next: changes are binomial.

    name(changes, those by chance) → words
    """
    from scipy import special

    pairs = len(one)
    if pairs < 10:
        return None
    above = white.r > 0
    changes, up = int(np.sum(above[one] != above[two])), float(np.mean(above))
    chance = 2 * up * (1 - up)
    if not 0 < chance < 1:
        return None
    p = float(special.bdtr(changes, pairs, chance))
    return Finding(p, -changes / (chance * pairs), name(changes, chance * pairs))


def outliers(white: Whitened, level: float) -> tuple[np.ndarray, np.ndarray]:
    """(rows too far off for normal noise, by how many standard deviations): the generalised test of Rosner 1983.

    Technometrics 25, 165, doi:10.1080/00401706.1983.10487848. Each row is compared with its own standard deviation, which
    leverage lessens, and against the fit without it.
    """
    from scipy import special

    r, n, m = white.r, len(white.r), white.freedom
    count = int(min(max(n // 8, 1), MOST, m - 4))
    total = float(r @ r)
    if count < 1 or not total > 0:
        return np.zeros(0, int), np.zeros(0)
    size = np.abs(r) / np.sqrt(np.maximum(1 - np.einsum("ij,ij->i", white.basis, white.basis), 1e-3))
    first = np.argpartition(-size, count - 1)[:count]
    first = first[np.argsort(-size[first])]
    left = (1 + 1e-9) * np.eye(count) - white.basis[first] @ white.basis[first].T  # of their noise, by the fit
    apart = np.linalg.solve(np.linalg.cholesky(left), r[first])  # each without the ones before it
    steps = np.arange(1, count + 1)
    rest = np.maximum(total - np.cumsum(apart**2), 1e-14 * total) / (m - steps)
    p = 2 * (n - steps + 1) * special.stdtr(m - steps, -np.abs(apart) / np.sqrt(rest))
    found = int(np.max(np.flatnonzero(p < level), initial=-1)) + 1
    if not found:
        return first[:0], apart[:0]
    away = np.abs(np.linalg.solve(left[:found, :found], r[first[:found]])) / np.sqrt(rest[found - 1])
    order = np.argsort(-away)
    return first[:found][order], away[order]


def normality(r: np.ndarray) -> float:
    """p-value of Anderson and Darling's test that values are normal, of a mean and variance of their own.

    Stephens 1974, doi:10.1080/01621459.1974.10480196; tail of D'Agostino & Stephens, Goodness-of-Fit Techniques, 1986, table 4.9.
    """
    from scipy import special

    n = len(r)
    if n < 8 or not np.ptp(r) > 0:
        return 1.0
    z = np.sort((r - r.mean()) / r.std(ddof=1))
    odd = 2 * np.arange(n) + 1
    a = -n - np.mean(odd * (special.log_ndtr(z) + special.log_ndtr(-z[::-1])))
    a *= 1 + 0.75 / n + 2.25 / n**2
    return float(np.exp(1.2937 - 5.709 * a + 0.0186 * a**2)) if 0.6 < a < 150 else float(a <= 0.6)


class Axis(NamedTuple):
    """Times, or coordinates along one axis: its distinct values and where each row stands among them."""

    name: str
    values: np.ndarray
    rows: np.ndarray

    @classmethod
    def of(cls, name: str, rows: Any) -> Axis:
        return cls(name, *np.unique(rows, return_inverse=True))

    def cut(self, most: int) -> tuple[np.ndarray, list[str]]:
        """(label of each row, a text for each label): values by themselves, or at most so many stretches of as many values."""
        count = len(self.values)
        bounds = np.unique(np.linspace(0, count, min(most, count) + 1).astype(int))
        texts = []
        for low, high in zip(self.values[bounds[:-1]], self.values[bounds[1:] - 1], strict=True):
            texts.append(f"{self.name} = {low:.4g}" + ("" if low == high else f" … {high:.4g}"))
        return np.searchsorted(bounds, self.rows, side="right") - 1, texts


Cells = tuple[np.ndarray, list[str]]


def _crossed(parts: list[Cells]) -> Cells:
    """Cells of several axes."""
    labels, texts = parts[0]
    for more, names in parts[1:]:
        labels = labels * len(names) + more
        texts = [f"{one}, {two}" for one in texts for two in names]
    kept, labels = np.unique(labels, return_inverse=True)
    return labels, [texts[i] for i in kept]


def _spaced(axes: list[Axis], most: int) -> list[Cells]:
    """Each axis cut so that there are about so many cells in all."""
    parts: list[Cells] = []
    for axis, left in zip(axes, range(len(axes), 0, -1), strict=True):
        parts.append(axis.cut(max(int(most ** (1 / left) + 1e-9), 1)))
        most = max(most // len(parts[-1][1]), 1)
    return parts


def groupings(when: Axis, where: list[Axis], most: int) -> list[Cells]:
    """Places, times, and both: what residuals are averaged over. Pixels hide what their means show."""
    size = EACH if most < 50 * EACH else 3 * EACH  # so many rows resolve more
    few, both = min(size, most), min(2 * size, most)
    share = _spaced(where, max(int(both**0.5) if len(where) == 1 else both // 3, 2 if both >= 4 else 1))
    later = when.cut(max(both // int(np.prod([len(names) for _, names in share])), 1))
    found = [_crossed(_spaced(where, few)), when.cut(few), _crossed([*share, later])]
    sizes = [len(names) for _, names in found]
    if sizes[2] <= max(sizes[:2]):  # one of the axes alone
        found.pop()
    return [cells for cells in found if len(cells[1]) > 1]


def adjacent(axes: list[Axis]) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of rows that follow each other along each of the first axes, all other coordinates the same; the last is time."""
    pairs = []
    for k in range(len(axes) - 1):
        line = np.zeros(len(axes[0].rows), np.int64)
        for axis in axes[:k] + axes[k + 1 :]:
            line = line * len(axis.values) + axis.rows
        key = line * len(axes[k].values) + axes[k].rows
        order = np.argsort(key, kind="stable")
        near = (line[order[1:]] == line[order[:-1]]) & (key[order[1:]] != key[order[:-1]])
        pairs.append((order[:-1][near], order[1:][near]))
    one, two = (np.concatenate(part) for part in zip(*pairs, strict=True))
    return one, two
