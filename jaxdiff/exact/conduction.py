"""Solutions of the heat (diffusion) equation: half-spaces, walls, uptake, and the classic benchmarks."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from jaxdiff.exact.special import Number, arrays


def cosine_mode_rate(mode: Number, cells: Number, length: Number, diffusivity: Number) -> Any:
    """Eigenvalue of the second-order Laplacian with no flux at both ends: −(4D/h²) sin²(kπh/2L), h = L/n.

    mode: k = 0, 1, …; cells: n; length: L [length]; diffusivity: D [length²/time]; the mode is cos(kπx/L) at centres.
    Traceable. Source: Strang 1999, doi:10.1137/S0036144598336745.

    >>> print(f"{cosine_mode_rate(1, 1000, np.pi, 1.0):.6f}")
    -0.999999
    """
    xp, _, mode, cells, length, diffusivity = arrays(mode, cells, length, diffusivity)
    return -4 * diffusivity * (cells / length * xp.sin(mode * np.pi / (2 * cells))) ** 2


def two_media_step(x: Number, t: Number, conductivity: Any, capacity: Any, values: Any) -> Any:
    """Two half-spaces at different values, brought into contact at x = 0 (left of it the first of each pair).

    u = m + (u_i − m) erf(|x|/√(4D_i t)), D_i = k_i/c_i, m = (e₁u₁ + e₂u₂)/(e₁ + e₂), e_i = √(k_i c_i).
    x [length]; t > 0 [time]; conductivity: (k₁, k₂) of c ∂u/∂t = ∂(k ∂u/∂x)/∂x; capacity: (c₁, c₂); values: (u₁, u₂).
    Traceable. Source: Carslaw & Jaeger 1959, section 2.15, ISBN 978-0-19-853368-9.

    >>> print(two_media_step([-9.0, 0.0, 9.0], 0.01, (1.0, 9.0), (1.0, 1.0), (0.0, 1.0)))
    [0.   0.75 1.  ]
    """
    xp, sp, x, t, k1, k2, c1, c2, u1, u2 = arrays(x, t, *conductivity, *capacity, *values)
    e1, e2 = xp.sqrt(k1 * c1), xp.sqrt(k2 * c2)
    contact = (e1 * u1 + e2 * u2) / (e1 + e2)
    diffusivity, far = xp.where(x < 0, k1 / c1, k2 / c2), xp.where(x < 0, u1, u2)
    return contact + (far - contact) * sp.erf(abs(x) / xp.sqrt(4 * diffusivity * t))


def robin_half_space(
    x: Number, t: Number, diffusivity: Number, rate: Number, ambient: Number = 1.0, initial: Number = 0.0
) -> Any:
    """Half-space x ≥ 0 that exchanges through its wall: D ∂u/∂x = r(u − u_a) at x = 0.

    (u − u₀)/(u_a − u₀) = erfc(x/s) − e^{rx/D + r²t/D} erfc(x/s + r√(t/D)), s = √(4Dt).
    x [length]; t > 0 [time]; diffusivity: D [length²/time]; rate: r [length/time]; ambient: u_a; initial: u₀.
    Traceable. Source: Carslaw & Jaeger 1959, section 2.7, ISBN 978-0-19-853368-9.

    >>> print(f"{robin_half_space(0.0, 1.0, 1.0, 1.0):.6f}")  # 1 − e erfc(1)
    0.572416
    """
    xp, sp, x, t, diffusivity, rate, ambient, initial = arrays(x, t, diffusivity, rate, ambient, initial)
    z = x / xp.sqrt(4 * diffusivity * t)
    share = sp.erfc(z) - xp.exp(-(z**2)) * sp.erfcx(z + rate * xp.sqrt(t / diffusivity))
    return initial + (ambient - initial) * share


def flux_half_space(x: Number, t: Number, diffusivity: Number, flux: Number, initial: Number = 0.0) -> Any:
    """Half-space x ≥ 0 that a constant flux F enters at x = 0: u₀ + (F/D)(2√(Dt/π) e^{−x²/4Dt} − x erfc(x/√(4Dt))).

    x [length]; t > 0 [time]; diffusivity: D [length²/time]; flux: F [u · length/time], positive into the domain.
    Traceable. Source: Carslaw & Jaeger 1959, section 2.9, ISBN 978-0-19-853368-9.

    >>> print(f"{flux_half_space(0.0, np.pi, 1.0, 1.0):.6f}")
    2.000000
    """
    xp, sp, x, t, diffusivity, flux, initial = arrays(x, t, diffusivity, flux, initial)
    width = xp.sqrt(4 * diffusivity * t)
    wall = width / np.sqrt(np.pi) * xp.exp(-((x / width) ** 2))
    return initial + flux / diffusivity * (wall - x * sp.erfc(x / width))


def uptake(t: Number, diffusivity: Number, size: Number, geometry: str = "slab", terms: int = 200) -> Any:
    """Share of its final uptake that an empty body has taken up through a surface held constant: 1 − Σ w_n e^{−Dβ_n²t}.

    "slab", thickness l: β_n = (2n+1)π/l, w_n = 8/(2n+1)²π²; "cylinder", radius a: J₀(β_n a) = 0, w_n = 4/(β_n a)²;
    "sphere", radius a: β_n = nπ/a, w_n = 6/(nπ)². Full precision for Dt/size² > 4/terms².
    t [time]; diffusivity: D [length²/time]; size: l or a [length]. Traceable. Raises ValueError for another geometry.
    Source: Crank 1975, eqs 4.18, 5.23, 6.20, ISBN 978-0-19-853411-2.

    >>> print(f"{uptake(0.0491826849, 1.0, 1.0):.6f} {uptake(0.0305465243, 1.0, 1.0, 'sphere'):.6f}")
    0.500000 0.500000
    """
    n = np.arange(terms)
    if geometry == "slab":
        roots, scale = (2 * n + 1) * np.pi, 8.0
    elif geometry == "cylinder":
        roots, scale = _bessel_zeros(terms), 4.0
    elif geometry == "sphere":
        roots, scale = (n + 1) * np.pi, 6.0
    else:
        raise ValueError(f"geometry must be 'slab', 'cylinder' or 'sphere', got {geometry!r}")
    xp, _, t, diffusivity, size = arrays(t, diffusivity, size)
    decay = xp.exp(-((roots / size[..., None]) ** 2) * (diffusivity * t)[..., None])
    return 1 - xp.sum(scale / roots**2 * decay, axis=-1)


@functools.cache
def _bessel_zeros(count: int) -> np.ndarray:
    from scipy.special import jn_zeros

    return jn_zeros(0, count)


def flash_rear_face(t: Number, diffusivity: Number, thickness: Number, terms: int = 200) -> Any:
    """Rear face of an insulated slab heated by a flash on its front, over its final value: 1 + 2Σ(−1)ⁿ e^{−n²π²αt/L²}.

    t [time]; diffusivity: α [length²/time]; thickness: L [length]. Traceable.
    Source: Parker et al. 1961, doi:10.1063/1.1728417; half is reached at αt/L² = 0.138785297.

    >>> print(f"{flash_rear_face(0.138785297, 1.0, 1.0):.6f}")
    0.500000
    """
    xp, _, t, diffusivity, thickness = arrays(t, diffusivity, thickness)
    n = np.arange(1, terms + 1)
    decay = xp.exp(-((n * np.pi) ** 2) * (diffusivity * t / thickness**2)[..., None])
    return 1 + 2 * xp.sum((-1.0) ** n * decay, axis=-1)


def nafems_t3(x: Number = 0.08, t: Number = 32.0, terms: int = 4000) -> Any:
    """NAFEMS benchmark T3: a rod of L = 0.1 m, at zero at first, with u(0) = 0 and u(L) = 100 sin(πt/40).

    u = (x/L) A sin ωt − Aω Σ c_n sin(nπx/L) (λ_n cos ωt + ω sin ωt − λ_n e^{−λ_n t})/(λ_n² + ω²), λ_n = α(nπ/L)²,
    c_n = 2(−1)^{n+1}/nπ, α = 35/(7200 · 440.5) m²/s. x [m]; t [s]; result [°C]. Traceable.
    Source: NAFEMS, The Standard NAFEMS Benchmarks, TNSB rev. 3, 1990; the published target is 36.60 °C.

    >>> print(f"{nafems_t3():.7f}")
    36.6031160
    """
    xp, _, x, t = arrays(x, t)
    length, amplitude, omega = 0.1, 100.0, np.pi / 40
    n = np.arange(1, terms + 1)
    rate = 35 / (7200 * 440.5) * (n * np.pi / length) ** 2
    share = 2 * (-1.0) ** (n + 1) / (n * np.pi)
    cosine, sine, decay = (f(w * t[..., None]) for f, w in ((xp.cos, omega), (xp.sin, omega), (xp.exp, -rate)))
    response = (rate * cosine + omega * sine - rate * decay) / (rate**2 + omega**2)
    modes = share * xp.sin(n * np.pi / length * x[..., None]) * response
    return amplitude * (x / length * xp.sin(omega * t) - omega * xp.sum(modes, axis=-1))


def rod_temperature(x: Number, flux: Number, h: Number) -> Any:
    """Steady temperature of an uninsulated rod: kT″ = 2(a+b)/(ab) h(T − T_a), −kT′(0) = Φ, −kT′(L) = h(T(L) − T_a).

    T = T_a + (Φ/kγ)(kγ cosh γ(L−x) + h sinh γ(L−x))/(kγ sinh γL + h cosh γL), γ² = 2(a+b)h/(abk).
    x [cm]; flux: Φ into x = 0 [W/cm²]; h: convection [W/(cm² °C)]. The rod is that of `datasets.load("rod")`, of aluminium:
    sides a = b = 0.95 cm, length L = 70 cm, k = 2.37 W/(cm °C), T_a = 21.29 °C. Traceable.
    Source: Smith 2013, example 3.5, doi:10.1137/1.9781611973228.

    >>> print(f"{rod_temperature(10.0, 18.41, 0.00191):.2f}")
    95.85
    """
    xp, _, x, flux, h = arrays(x, flux, h)
    a, b, L, k, ambient = 0.95, 0.95, 70.0, 2.37, 21.29
    gamma = xp.sqrt(2 * (a + b) * h / (a * b * k))
    conduct, rest = k * gamma, gamma * (L - x)
    shape = conduct * xp.cosh(rest) + h * xp.sinh(rest)
    return ambient + flux / conduct * shape / (conduct * xp.sinh(gamma * L) + h * xp.cosh(gamma * L))
