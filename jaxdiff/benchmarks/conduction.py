"""The problem that the solvers share: ∂u/∂t = ∂ₓ(D ∂ₓu), no flux, D an array; its matrix, exact answer and gradient."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

T = 0.2
NODES = 20  # of the contour: e^(−2.3·20) is below the roundoff of 80-bit numbers


@dataclass(frozen=True)
class Conduction:
    """`cells` on (0, 1): a bump spreads through a medium whose diffusivity varies threefold.

    loss(D) = ½ ∫ u(T)² dx is differentiated with respect to D in every cell.
    """

    cells: int
    geometric: bool = False  # faces by geometric instead of harmonic mean

    @cached_property
    def x(self) -> np.ndarray:
        return (np.arange(self.cells) + 0.5) / self.cells

    @cached_property
    def diffusivity(self) -> np.ndarray:
        return 0.1 * (1.0 + 0.5 * np.sin(2 * np.pi * self.x))

    @cached_property
    def initial(self) -> np.ndarray:
        return np.exp(-0.5 * ((self.x - 0.3) / 0.05) ** 2)

    @cached_property
    def rates(self) -> np.ndarray:
        """D/h² on the inner faces."""
        return faces(self.diffusivity, np.sqrt if self.geometric else None) * self.cells**2

    @cached_property
    def bands(self) -> np.ndarray:
        """A as (upper, main, lower) rows, `(3, n)`."""
        upper, lower = np.pad(self.rates, (1, 0)), np.pad(self.rates, (0, 1))
        return np.stack([upper, -upper - lower, lower])

    @cached_property
    def exact(self) -> np.ndarray:
        """exp(TA) u₀, to about 1e-15 of the peak."""
        return _contour(self)[0]

    @cached_property
    def gradient(self) -> np.ndarray:
        """∂loss/∂D, `(n,)`."""
        by_rate = _contour(self)[1]
        d = self.diffusivity
        total = d[:-1] + d[1:]
        below, above = 2 * (d[1:] / total) ** 2, 2 * (d[:-1] / total) ** 2
        return self.cells**2 * (np.pad(by_rate * below, (0, 1)) + np.pad(by_rate * above, (1, 0)))

    def error(self, u: np.ndarray) -> float:
        """Largest deviation from the exact answer, relative to its peak."""
        return float(np.abs(np.asarray(u) - self.exact).max() / np.abs(self.exact).max())

    def gradient_error(self, gradient: np.ndarray) -> float:
        return float(np.abs(np.asarray(gradient) - self.gradient).max() / np.abs(self.gradient).max())


def faces(d, geometric=None):
    """Harmonic means of neighbours; works on NumPy and JAX arrays."""
    return geometric(d[:-1] * d[1:]) if geometric else 2.0 * d[:-1] * d[1:] / (d[:-1] + d[1:])


def _contour(problem: Conduction) -> tuple[np.ndarray, np.ndarray]:
    """u(T), and the gradient of the loss in the rates, by a contour integral in extended precision.

    u = (1/2πi) ∫ e^{zT} (z − A)⁻¹ u₀ dz, and with it e^{zT} (z − A)⁻¹ dA (z − A)⁻¹ for the derivative; the resolvents by
    elimination without subtraction. Hyperbola: Weideman & Trefethen 2007, doi:10.1090/S0025-5718-07-01945-X.
    """
    real, complex_ = np.longdouble, np.clongdouble
    mu, alpha, step = real("4.492075287") * NODES / T, real("1.172104229"), real("1.081792140") / NODES
    v = 1j * step * (np.arange(NODES) + real(0.5))
    z = mu * (1 + np.sin(v - alpha))
    weight = np.exp(z * T) * mu * np.cos(v - alpha) * step / np.arccos(real(-1))
    g = problem.rates.astype(real)

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
