"""e^{tA}u and its forced companions by rational functions: a few resolvents for any time and stiffness."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# exp(x) ≈ r∞ + 2 Re Σ c/(x − z) on x ≤ 0: Carathéodory–Fejér, Trefethen, Weideman & Schmelzer 2006,
# doi:10.1007/s10543-006-0077-9. Error 1.2e-8 (8) and 9.7e-14 (14).
_TABLES = {
    8: (
        1.1722603110442265e-08,
        [
            3.2209452450543408 + 1.1936196054193322j,
            2.2922491478210563 + 3.6007714960771353j,
            0.2694909873674965 + 6.082032592700096j,
            -3.4085395014618016 + 8.773034564408094j,
        ],
        [
            -1.8317717106328966 - 9.525608129943738j,
            2.436240732924865 + 3.7167556408605296j,
            -0.6325880537326855 - 0.443923102700152j,
            0.028129757161818793 + 0.011577384568874135j,
        ],
    ),
    14: (
        4.418687638008123e-14,
        [
            5.62317153475742 + 1.1940664287021552j,
            5.089374564875054 + 3.588816095602845j,
            3.993400429650635 + 6.004818060139016j,
            2.2698165258521406 + 8.461717806877203j,
            -0.20872377764902525 + 10.991232026333313j,
            -3.703239160176677 + 13.656333463712498j,
            -8.897735413180298 + 16.63093520842446j,
        ],
        [
            -27.876162291177156 - 102.15000629291019j,
            46.93490458700584 + 45.644543838980354j,
            -23.49897941909133 - 5.808219208333141j,
            4.807233308906512 - 1.3211122031487392j,
            -0.37636336734574083 + 0.33520468313104734j,
            0.009438720567093254 - 0.017185736312372236j,
            -7.153878179758697e-05 + 0.00014361901788104045j,
        ],
    ),
}

# Hyperbolic contours z(v) = μ(1 + sin(iv − α)), v = h(k + ½), serving every t in [t₀, Λt₀] at once (Weideman &
# Trefethen 2007, doi:10.1090/S0025-5718-07-01945-X): (Λ, nodes, largest error, μt₀, α, h).
_CONTOURS = (
    (10.0, 12, 1e-6, 1.592669, 0.995111, 0.237042),
    (10.0, 20, 3e-10, 2.402819, 1.012692, 0.149868),
    (60.0, 20, 5e-7, 0.045380, 0.781570, 0.324040),
    (60.0, 32, 1e-10, 0.112892, 0.800655, 0.191421),
)


class Poles:
    """Poles and residues of the exponential, chosen by precision."""

    def __init__(self, dtype: Any, tolerance: float | None = None):
        double = jnp.finfo(dtype).bits == 64
        count = 14 if double and (tolerance is None or tolerance < 1e-7) else 8
        constant, poles, residues = _TABLES[count]
        self.constant, self.poles, self.residues = constant, np.array(poles), np.array(residues)
        # Exact at zero, so that conserved content stays conserved to roundoff over any number of intervals.
        at_zero = constant - 2.0 * np.real(np.sum(self.residues / self.poles))
        self.constant, self.residues = float(constant / at_zero), self.residues / at_zero


class Contour:
    """One hyperbola for a window of times [t₀, Λt₀]."""

    def __init__(self, span: float, tolerance: float):
        """The fewest nodes that hold `tolerance` for times spread over a factor `span`."""
        choices = [c for c in _CONTOURS if c[0] >= span and c[2] <= tolerance]
        if not choices:
            raise ValueError(f"no contour serves times over a factor {span:g} at tolerance {tolerance:g}")
        self.span, self.nodes, self.error, mu, alpha, step = min(choices, key=lambda c: c[1])
        v = 1j * step * (np.arange(self.nodes) + 0.5)
        self.points = mu * (1.0 + np.sin(v - alpha))
        self.weights = step / (2j * np.pi) * mu * 1j * np.cos(v - alpha)


def _complex(dtype: Any) -> Any:
    return jnp.complex128 if jnp.finfo(dtype).bits == 64 else jnp.complex64


def propagate(
    operator: Any, t: Any, u: Any, constant: Any = 0.0, slope: Any = 0.0, *, tolerance: float | None = None
) -> Any:
    """u(t) of du/dt = A u + b₀ + b₁ s from u(0), exact in time.

    u(t) = r∞ u + 2 Re Σ wₖ, (tA − zₖ) wₖ = cₖ (u + (t/zₖ) b₀ + (t/zₖ)² b₁): no division by A, so a singular A is
    nothing special. Growth moves the poles by tμ, μ the bound on it. `t` may be an array `(T,)` of times from the same
    start; the result is then `(T, n)`.
    """
    dtype = jnp.result_type(u)
    rational = Poles(dtype, tolerance)
    t = jnp.asarray(t, dtype)
    times = t.reshape(-1, 1)
    shift = times * jax.lax.stop_gradient(operator.growth())
    poles = (rational.poles + shift).astype(_complex(dtype))
    scale = jnp.exp(shift)
    weights = (rational.residues * scale).astype(_complex(dtype))
    # On the shifted function r(0) = 1 holds only to the table's error times growth.
    s = times / poles
    k = poles.shape[1]
    lanes = [x.reshape(-1) for x in (poles, jnp.broadcast_to(times, poles.shape), s)]
    column = lambda x: jnp.asarray(x, dtype).reshape(-1, 1)
    rhs = column(u) + lanes[2] * (column(constant) + lanes[2] * column(slope))
    w = operator.resolvent(lanes[0], -lanes[1])(jnp.broadcast_to(rhs, (len(u), len(lanes[0]))))
    w = w.reshape(len(u), -1, k)
    # Real parts by hand: a complex contraction this small costs more than the solve.
    out = rational.constant * scale * u - 2.0 * jnp.sum(w.real * weights.real - w.imag * weights.imag, axis=-1).T
    return out.reshape(*t.shape, len(u))


def propagate_window(
    operator: Any, contour: Contour, first: Any, window: Any, t: Any, u: Any, constant: Any = 0.0, observe: Any = None
) -> Any:
    """u(t) `(T, n)` for many times: `window` (T,) says in which [first, Λ·first] each lies, `first` is `(W,)`.

    u(t) ≈ 2 Re Σ wₖ(t) (zₖ − A)⁻¹ (u + b₀/zₖ): the resolvents do not depend on the time within a window, and a linear
    map `observe` of states may as well be applied to them.
    """
    dtype = jnp.result_type(u)
    shift = jax.lax.stop_gradient(operator.growth())
    z = (jnp.asarray(contour.points) / first[:, None] + shift).astype(_complex(dtype))
    lanes = z.reshape(-1)
    column = lambda x: jnp.asarray(x, dtype).reshape(-1, 1)
    rhs = column(u) + column(constant) / lanes
    w = operator.resolvent(lanes, -jnp.ones(lanes.shape, dtype))(jnp.broadcast_to(rhs, (len(u), len(lanes))))
    seen = w.T if observe is None else observe(w.T)
    weights = jnp.exp(t[:, None] * z[window]) * (jnp.asarray(contour.weights) / first[window, None]).astype(z.dtype)
    member = jax.nn.one_hot(window, len(first), dtype=dtype)
    spread = (member[:, :, None] * weights[:, None, :]).reshape(len(t), -1)
    return 2.0 * jnp.matmul(spread, seen, precision="highest").real
