"""p(x₁, t | x₀) between fixed nodes: the exponential of the generator, by collocation with cosines.

With π = e^{∫f/D dx}/D the generator is symmetric, and ψ = √π g of a function g obeys

    ∂ψ/∂t = −(∂ − β)* D (∂ − β) ψ − k ψ,   β = ½ (f − D′)/D

Nodes are even in θ, x = X(θ); near both ends X turns like a cosine, so that what reflects there is smooth and even in θ. In the
interior they are even in √duration: three of them resolve a Gaussian to 1e-9 of its peak. Only D, D′, f and k at the nodes are asked for.
"""

from __future__ import annotations

import math
from functools import cache, partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxdiff.transition.lamperti import Scalar
from jaxdiff.transition.quadrature import antiderivative, chebyshev, chebyshev_points

LAYER = 2.0  # nodes over which X turns at an end that is far off; less spoils what is far from it, as a kink does
AT_WALL = 8.0  # the same where one end is a wall
NOISE = 1e-9  # of the largest symmetric density, which is what the nodes and rounding leave of it
COARSEST = 2.3  # nodes in √duration below which a Gaussian is not resolved


class Collocation(eqx.Module):
    """Nodes, and what turns coefficients there into densities; made at some coefficients, good for others near them. A pytree."""

    x: Any  # (n,) nodes
    weight: Any  # (n,) of quadrature in x
    x_within: Any  # (N,) points of quadrature where they are more than the nodes, as walls ask for; else none
    share: Any  # (N,) their weights
    value: Any  # (N, n) ψ there of n functions that are orthonormal
    derivative: Any  # (N, n) dψ/dx there
    back: Any  # (n, n) these functions at the nodes
    x_poly: Any  # (p,) Chebyshev points, where f/D is read
    integral: Any  # (n, p) from there to ∫f/D dx at the nodes
    durations: Any  # (T,)
    reach: Any  # (2,) first and last node that data see
    pad: Any  # (2,) what must lie beyond them, in y/√duration; −inf at a wall


class Densities(NamedTuple):
    """Of all pairs of nodes (T, n, n), from the first to the second."""

    logs: Float[Array, "t n n"]  # ln p [1/length]
    doubt: Float[Array, "t n n"]  # what each errs by, about
    resolved: Bool[Array, ""]  # whether the nodes are close enough, and reach far enough


def local(drift: Scalar, diffusivity: Scalar, killing: Scalar, x: Any) -> tuple[Any, Any, Any, Any]:
    """(f, D, D′, k) at points x (m,); NaN where D is not positive."""

    def one(x: Any) -> Any:
        real = lambda function: lambda x: jnp.asarray(function(x), x.dtype).reshape(())
        D, slope = jax.jvp(real(diffusivity), (x,), (jnp.ones_like(x),))
        return real(drift)(x), jnp.where(D > 0, D, jnp.nan), slope, real(killing)(x)

    return jax.vmap(one)(x)


def densities(drift: Scalar, diffusivity: Scalar, killing: Scalar, plan: Collocation) -> Densities:
    """Transition densities between all nodes; traceable, differentiable once.

    ln p = ln q + ½ (ln π₁ − ln π₀), q = ⟨x₁|e^{−tA}|x₀⟩; Boyd 2001, Chebyshev and Fourier Spectral Methods, ch. 4 and 19.
    """
    here = local(drift, diffusivity, killing, jnp.concatenate([plan.x, plan.x_within, plan.x_poly]))
    return densities_of(jnp, here, plan)


def densities_of(xp: Any, here: Any, plan: Collocation) -> Densities:
    """`densities` by the `local` coefficients at nodes and Chebyshev points, in NumPy or JAX."""
    n, within, fixed = plan.x.shape[0], plan.x_within.shape[0], jax.lax.stop_gradient if xp is jnp else lambda x: x
    cuts = [n, n + within]
    at_nodes, at_points, at_poly = ([part[cut] for part in here] for cut in map(slice, [0, *cuts], [*cuts, None]))
    log_weight = plan.integral @ (at_poly[0] / at_poly[1]) - xp.log(at_nodes[1])
    f, D, slope, killed = at_points if within else at_nodes
    share, durations = xp.asarray(plan.share), xp.asarray(plan.durations)
    rate, bias, lost = xp.sqrt(D * share), (f - slope) / (2 * D), killed * share
    if xp is jnp:
        basis = tuple(map(jnp.asarray, (plan.value, plan.derivative, plan.back)))
        q = symmetric(rate, bias, lost, *basis, durations)
    else:
        q = _symmetric(np, rate, bias, lost, plan.value, plan.derivative, plan.back, durations)[0]
    most = fixed(xp.max(q, axis=(1, 2), keepdims=True))
    floor = 1e-3 * NOISE * most
    doubt = NOISE * most / xp.maximum(fixed(q), floor)
    logs = xp.log(xp.maximum(q, floor)) + (log_weight - log_weight[:, None]) / 2
    pace = fixed(plan.weight / xp.sqrt(2 * at_nodes[1]))  # of y from node to node
    fine = xp.max(pace) * COARSEST <= xp.sqrt(xp.min(durations))
    place, (first, last) = np.arange(n), (plan.reach[0], plan.reach[1])
    far = xp.stack([xp.sum(xp.where(place < first, pace, 0.0)), xp.sum(xp.where(place > last, pace, 0.0))])
    wide = xp.all(far >= plan.pad * xp.sqrt(xp.max(durations)))
    return Densities(logs, doubt, fine & wide)


@jax.custom_jvp
def symmetric(rate: Any, bias: Any, lost: Any, value: Any, derivative: Any, back: Any, durations: Any) -> Any:
    """q = b e^{−tA} bᵀ `(T, n, n)`, A = Cᵀ C + ψᵀ diag(lost) ψ, C = diag(rate) (ψ′ − diag(bias) ψ), of nodes whose functions are
    ψ (value), ψ′ (derivative) and b (back).

    The derivative is that of Daleckii and Krein, by divided differences, which eigenvalues may share; it is differentiable no
    further. Among eigenvectors v the functions are ψv and ψ′v once and for all, and each derivative takes three products.

    Higham 2008, Functions of Matrices, doi:10.1137/1.9780898717778, ch. 3.
    """
    return _symmetric(jnp, rate, bias, lost, value, derivative, back, durations)[0]


def _symmetric(xp: Any, rate: Any, bias: Any, lost: Any, value: Any, derivative: Any, back: Any, durations: Any) -> Any:
    """(q, eigenvalues of A, its eigenvectors, those at the nodes)."""
    across = (derivative - bias[:, None] * value) * rate[:, None]
    A = _product(across.T, across) + _product((value * lost[:, None]).T, value)
    if xp is jnp:
        vectors, values = jax.lax.linalg.eigh(A, symmetrize_input=False)
    else:  # NumPy's waits for its threads: on a busy machine a hundred times as long as it computes
        from scipy.linalg import eigh

        values, vectors = eigh(A)
    seen = _product(back, vectors)
    return _product(seen * xp.exp(-durations[:, None, None] * values), seen.T), values, vectors, seen


@partial(symmetric.defjvp, symbolic_zeros=True)
def _symmetric_jvp(primals: Any, tangents: Any) -> Any:
    rate, bias, _, value, derivative, _, durations = primals
    q, values, vectors, seen = _symmetric(jnp, *primals)
    d_rate, d_bias, d_lost = tangents[:3]
    none = jax.custom_derivatives.SymbolicZero
    t = durations[:, None, None]
    gap = t * jnp.abs(values[:, None] - values)
    near = gap < 1e-8
    mean = jnp.where(near, 1 - gap / 2, -jnp.expm1(-gap) / jnp.where(near, 1.0, gap))
    share = -t * jnp.exp(-t * jnp.minimum(values[:, None], values)) * mean
    psi, slope = _product(value, vectors), _product(derivative, vectors)
    bent = slope - bias[:, None] * psi
    moved = 0.0 * bent
    if not isinstance(d_rate, none):
        moved = moved + d_rate[:, None] * bent
    if not isinstance(d_bias, none):
        moved = moved - (rate * d_bias)[:, None] * psi
    half = _product(moved.T, rate[:, None] * bent)
    if not isinstance(d_lost, none):
        half = half + _product((d_lost[:, None] * psi).T, psi) / 2
    return q, _product(_product(seen, share * (half + half.T)), seen.T)


def _product(one: Any, other: Any) -> Any:
    return one @ other if isinstance(one, np.ndarray) else jnp.matmul(one, other, precision="highest")


_antiderivative = cache(antiderivative)


class Frame:
    """x = X(θ): a polynomial of s, which is θ but for a turn at either end, s = −1 … 1 over θ = 0 … π."""

    def __init__(self, coefficients: np.ndarray, count: int, at_wall: bool) -> None:
        self.series = np.polynomial.chebyshev.Chebyshev(coefficients)
        self.slope = self.series.deriv()
        self.count, self.at_wall = count, at_wall
        self.turn = (AT_WALL if at_wall else LAYER) * math.pi / count
        self.stretch = math.asin(1 / math.sqrt(1 + self.turn**2))

    def collocation(self, points: int, durations: np.ndarray, reach: Any, pad: Any) -> Collocation:
        """The nodes, the functions, and the integral of f/D from so many points of its own.

        Products of two functions have twice as many waves as there are nodes. Between far ends the nodes integrate them all the same, where both
        are small; from wall to wall it takes twice as many points.
        """
        theta, x, weight, series = self._points(self.count)
        within, x_within, share, _ = self._points(2 * self.count) if self.at_wall else (theta, x, weight, None)
        order = np.arange(self.count)
        value, slope = np.cos(within[:, None] * order) @ series, (-order * np.sin(within[:, None] * order)) @ series
        mass = (value.T * share) @ value if self.at_wall else np.diag(weight)
        back = np.linalg.inv(np.linalg.cholesky(mass)).T
        at = chebyshev_points(points)
        integral = chebyshev(self.s(theta), points + 1, np) @ _antiderivative(points).T * self.slope(at)
        return Collocation(
            x=x, weight=weight, x_within=x_within if self.at_wall else x[:0], share=share, value=value @ back,
            derivative=slope @ back / self.x(within)[1][:, None], back=back, x_poly=self.series(at), integral=integral,
            durations=durations, reach=np.asarray(reach), pad=np.asarray(pad),
        )  # fmt: skip

    def _points(self, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """So many points: θ, x, weights of a quadrature in x, which from wall to wall is
        exact for that many cosines, and (count, count) from values to their series."""
        theta, order = math.pi / count * (np.arange(count) + 0.5), np.arange(count)
        series = np.cos(theta * order[:, None]) * np.where(order == 0, 1.0, 2.0)[:, None] / count
        x, rate = self.x(theta)
        if not self.at_wall:
            return theta, x, rate * math.pi / count, series
        near, share = np.polynomial.legendre.leggauss(8)
        fine = (theta[:, None] + math.pi / count / 2 * near).ravel()
        moments = np.cos(fine * order[:, None]) @ (self.x(fine)[1] * np.tile(share, count) * math.pi / count / 2)
        return theta, x, moments @ series, series

    def s(self, theta: np.ndarray) -> np.ndarray:
        return -np.arcsin(np.cos(theta) / math.sqrt(1 + self.turn**2)) / self.stretch

    def x(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x and dx/dθ."""
        s, wave = self.s(theta), np.sin(theta)
        return self.series(s), self.slope(s) * wave / np.sqrt(wave**2 + self.turn**2) / self.stretch

    def place(self, x: np.ndarray, near: np.ndarray) -> np.ndarray:
        """Where x lies among the nodes, which are at 0, 1, …; near: s, from which Newton's method starts."""
        s = near
        for _ in range(20):
            step = (self.series(s) - x) / self.slope(s)
            s = np.clip(s - step, -1.0, 1.0)
            if np.max(np.abs(step)) < 1e-14:
                break
        theta = np.arccos(np.clip(-math.sqrt(1 + self.turn**2) * np.sin(self.stretch * s), -1.0, 1.0))
        return theta * self.count / math.pi - 0.5
