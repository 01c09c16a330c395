"""The problems that the solvers share: ∂u/∂t = ∇·(D ∇u) on a line and on a plane, no flux, D an array; matrices, exact answers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

import jaxdiff as jd

NODES = 20  # of the contour: e^(−2.3·20) is below the roundoff of 80-bit numbers


@dataclass(frozen=True)
class _Heat:
    """`cells` along each axis of the unit line or square; loss(D) = ½ ∫ u(end)² is differentiated in every cell of D."""

    cells: int
    geometric: bool = False  # faces by geometric instead of harmonic mean
    axes: ClassVar[int]
    end: ClassVar[float]
    diffusivity: ClassVar[Any]
    initial: ClassVar[Any]

    @cached_property
    def x(self) -> np.ndarray:
        return (np.arange(self.cells) + 0.5) / self.cells

    @property
    def grid(self) -> jd.Grid:
        return jd.Grid.uniform(*[(0.0, 1.0, self.cells)] * self.axes)

    def faces(self, d: Any) -> tuple[Any, ...]:
        """D/h² on the inner faces of each axis; works on NumPy and JAX arrays."""
        pairs = [(d[1:], d[:-1]), *([(d[:, 1:], d[:, :-1])] if d.ndim == 2 else [])]
        mean = (lambda a, b: np.sqrt(a * b)) if self.geometric else (lambda a, b: 2.0 * a * b / (a + b))
        return tuple(mean(a, b) * self.cells**2 for a, b in pairs)

    @cached_property
    def rates(self) -> tuple[np.ndarray, ...]:
        return self.faces(self.diffusivity)

    def matrix(self, rates: tuple[Any, ...]) -> Any:
        """A, as a sparse matrix of rates on the inner faces."""
        from scipy.sparse import coo_array, diags_array

        number = np.arange(self.cells**self.axes).reshape([self.cells] * self.axes)
        lower, upper = ([np.delete(number, end, axis).ravel() for axis in range(self.axes)] for end in (-1, 0))
        of_all = np.concatenate([rate.ravel() for rate in rates])
        half = coo_array((of_all, (np.concatenate(lower), np.concatenate(upper))), shape=(number.size,) * 2)
        exchange = (half + half.T).tocsc()
        return (exchange - diags_array(exchange.sum(axis=0))).tocsc()


@dataclass(frozen=True)
class Line(_Heat):
    """On (0, 1) a bump spreads through a medium whose diffusivity varies threefold."""

    axes = 1
    end = 0.2

    @cached_property
    def diffusivity(self) -> np.ndarray:
        return 0.1 * (1.0 + 0.5 * np.sin(2 * np.pi * self.x))

    @cached_property
    def initial(self) -> np.ndarray:
        return np.exp(-0.5 * ((self.x - 0.3) / 0.05) ** 2)

    def steps(self, limit: float) -> int:
        """Equal steps of an explicit method that is stable up to `limit` over the largest eigenvalue."""
        return int(np.ceil(self.end * 4 * self.rates[0].max() / limit))

    @cached_property
    def bands(self) -> np.ndarray:
        """A as (upper, main, lower) rows, `(3, n)`."""
        upper, lower = (np.pad(self.rates[0], ends) for ends in ((1, 0), (0, 1)))
        return np.stack([upper, -upper - lower, lower])

    @cached_property
    def exact(self) -> np.ndarray:
        """exp(end A) u₀, to about 1e-15 of the peak."""
        return _contour(self)[0]

    @cached_property
    def gradient(self) -> np.ndarray:
        """∂loss/∂D, `(n,)`."""
        by_rate = _contour(self)[1]
        d = self.diffusivity
        total = d[:-1] + d[1:]
        below, above = 2 * (d[1:] / total) ** 2, 2 * (d[:-1] / total) ** 2
        return self.cells**2 * (np.pad(by_rate * below, (0, 1)) + np.pad(by_rate * above, (1, 0)))


@dataclass(frozen=True)
class Plane(_Heat):
    """On the unit square a bump in the middle spreads."""

    axes = 2
    end = 0.02
    accurate: ClassVar[int] = 800  # equal steps: fewer would be stable on few cells, but not accurate

    @cached_property
    def diffusivity(self) -> np.ndarray:
        return 1.0 + 0.5 * np.outer(np.sin(2 * np.pi * self.x), np.cos(2 * np.pi * self.x))

    @cached_property
    def initial(self) -> np.ndarray:
        return np.exp(-50 * ((self.x[:, None] - 0.5) ** 2 + (self.x - 0.5) ** 2))

    def steps(self, limit: float) -> int:
        """Equal steps of an explicit method that is stable up to `limit` over the largest eigenvalue (Gershgorin)."""
        return max(int(np.ceil(-2 * self.end / limit * self.matrix(self.rates).diagonal().min())), self.accurate)

    def periodic(self, t: float) -> np.ndarray:
        """The bump and its images on a periodic square, as the differential equation with D = 1 has them at t."""
        width = 1 + 200 * t
        one = sum(np.exp(-50 * (self.x - 0.5 + image) ** 2 / width) for image in range(-6, 7)) / np.sqrt(width)
        return np.outer(one, one)

    @cached_property
    def periodic_exact(self) -> np.ndarray:
        """The same at the end by the three-point matrix, by Fourier."""
        rate = 4 * self.cells**2 * np.sin(np.pi * np.arange(self.cells) / self.cells) ** 2
        decay = np.exp(-self.end * rate)
        return np.fft.ifft2(np.fft.fft2(self.periodic(0.0)) * np.outer(decay, decay)).real


def error(u: Any, exact: np.ndarray) -> float:
    """Largest deviation, as a share of the largest value."""
    return float(np.abs(np.asarray(u) - exact).max() / np.abs(exact).max())


def _contour(problem: Line) -> tuple[np.ndarray, np.ndarray]:
    """u(end), and the gradient of the loss in the rates, by a contour integral in extended precision.

    u = (1/2πi) ∫ e^{z end} (z − A)⁻¹ u₀ dz, and with it e^{z end} (z − A)⁻¹ dA (z − A)⁻¹ for the derivative; the resolvents by
    elimination without subtraction. Hyperbola: Weideman & Trefethen 2007, doi:10.1090/S0025-5718-07-01945-X.
    """
    real, complex_, end = np.longdouble, np.clongdouble, problem.end
    mu, alpha, step = real("4.492075287") * NODES / end, real("1.172104229"), real("1.081792140") / NODES
    v = 1j * step * (np.arange(NODES) + real(0.5))
    z = mu * (1 + np.sin(v - alpha))
    weight = np.exp(z * end) * mu * np.cos(v - alpha) * step / np.arccos(real(-1))
    g = problem.rates[0].astype(real)

    def resolvent(b: np.ndarray) -> np.ndarray:
        y, pivot = np.empty((len(b), NODES), complex_), np.empty((len(b), NODES), complex_)
        e = z
        y[0] = b[0]
        for i, rate in enumerate(g):
            pivot[i] = e + rate
            e = z + rate * (e / pivot[i])
            y[i + 1] = b[i + 1] + rate * (y[i] / pivot[i])
        y[-1] /= e
        for i in range(len(g) - 1, -1, -1):
            y[i] = (y[i] + g[i] * y[i + 1]) / pivot[i]
        return y

    first = resolvent(problem.initial.astype(real))
    u = (first @ weight).real
    second = resolvent(u / problem.cells)
    by_rate = -((np.diff(first, axis=0) * np.diff(second, axis=0)) @ weight).real
    return u.astype(float), by_rate.astype(float)
