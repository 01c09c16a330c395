"""Transition densities, passage times and rates of processes dX = f dt + √(2D) dW."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxdiff.exact.special import Number, arrays, log_bessel_i


def heat_kernel(x: Number, start: Number, t: Number, diffusivity: Number, drift: Number = 0.0) -> Any:
    """Density of free Brownian motion with drift μ: p = (4πDt)^{−½} exp(−(x − x₀ − μt)²/4Dt).

    x, start: positions [length]; t > 0 [time]; diffusivity: D [length²/time]; drift: μ [length/time].
    Traceable. Source: Einstein 1905, doi:10.1002/andp.19053220806.

    >>> print(f"{heat_kernel(0.0, 0.0, 1.0, 1.0):.6f}")
    0.282095
    """
    xp, _, x, start, t, diffusivity, drift = arrays(x, start, t, diffusivity, drift)
    spread = 4 * diffusivity * t
    return xp.exp(-((x - start - drift * t) ** 2) / spread) / xp.sqrt(np.pi * spread)


def ornstein_uhlenbeck_density(
    x: Number, start: Number, t: Number, rate: Number, mean: Number, diffusivity: Number
) -> Any:
    """Transition density of dX = k(m − X) dt + √(2D) dW: normal, mean m + (x₀ − m)e^{−kt}, variance D(1 − e^{−2kt})/k.

    x, start: positions [length]; t > 0 [time]; rate: k > 0 [1/time]; mean: m [length]; diffusivity: D [length²/time].
    Traceable. Source: Uhlenbeck & Ornstein 1930, doi:10.1103/PhysRev.36.823.

    >>> print(f"{ornstein_uhlenbeck_density(0.0, 5.0, 50.0, 1.0, 0.0, 1.0):.6f}")  # the stationary normal density
    0.398942
    """
    xp, _, x, start, t, rate, mean, diffusivity = arrays(x, start, t, rate, mean, diffusivity)
    return xp.exp(vasicek_log_density(x, start, t, rate, mean, xp.sqrt(2 * diffusivity)))


def vasicek_log_density(x: Number, start: Number, t: Number, kappa: Number, theta: Number, sigma: Number) -> Any:
    """Log transition density of dr = κ(θ − r) dt + σ dW: normal, variance σ²(1 − e^{−2κt})/2κ.

    x, start: rates [1/year] a time t > 0 [year] apart; kappa: κ > 0 [1/year]; theta: θ; sigma: σ [unit of θ/year^½].
    Traceable. Source: Vasicek 1977, doi:10.1016/0304-405X(77)90016-2.

    >>> print(f"{vasicek_log_density(0.07, 0.06, 1 / 12, 0.26, 0.07, 0.022):.6f}")
    2.938018
    """
    xp, _, x, start, t, kappa, theta, sigma = arrays(x, start, t, kappa, theta, sigma)
    variance = -(sigma**2) * xp.expm1(-2 * kappa * t) / (2 * kappa)
    deviation = x - theta - (start - theta) * xp.exp(-kappa * t)
    return -0.5 * (deviation**2 / variance + xp.log(2 * np.pi * variance))


def cir_log_density(x: Number, start: Number, t: Number, kappa: Number, theta: Number, sigma: Number) -> Any:
    """Log transition density of dr = κ(θ − r) dt + σ√r dW, a noncentral χ².

    p = c e^{−u−v} (v/u)^{q/2} I_q(2√(uv)), c = 2κ/σ²(1 − e^{−κt}), u = c x₀ e^{−κt}, v = c x, q = 2κθ/σ² − 1.
    x, start > 0: rates a time t > 0 [year] apart; kappa: κ [1/year]; theta: θ; sigma: σ [(unit of θ/year)^½].
    Traceable. Source: Cox, Ingersoll & Ross 1985, doi:10.2307/1911242.

    >>> print(f"{cir_log_density(0.07, 0.06, 1 / 12, 0.22, 0.07, 0.067):.6f}")
    2.306145
    """
    xp, _, x, start, t, kappa, theta, sigma = arrays(x, start, t, kappa, theta, sigma)
    c = -2 * kappa / (sigma**2 * xp.expm1(-kappa * t))
    u, v, q = c * start * xp.exp(-kappa * t), c * x, 2 * kappa * theta / sigma**2 - 1
    roots = xp.sqrt(u) - xp.sqrt(v)
    return xp.log(c) - roots**2 + 0.5 * q * xp.log(v / u) + log_bessel_i(q, 2 * xp.sqrt(u * v))


def benes_density(x: Number, start: Number, t: Number) -> Any:
    """Transition density of dX = tanh(X) dt + dW: p = (2πt)^{−½} (cosh x/cosh x₀) e^{−t/2} exp(−(x − x₀)²/2t).

    x, start [1]; t > 0 [1]; D = ½. Traceable. Source: Beneš 1981, doi:10.1080/17442508108833174.

    >>> print(f"{benes_density(1.0, 0.0, 1.0):.6f}")
    0.226467
    """
    xp, _, x, start, t = arrays(x, start, t)
    growth = xp.logaddexp(x, -x) - xp.logaddexp(start, -start)
    return xp.exp(growth - t / 2 - (x - start) ** 2 / (2 * t)) / xp.sqrt(2 * np.pi * t)


def absorbed_density(x: Number, start: Number, t: Number, diffusivity: Number, drift: Number = 0.0) -> Any:
    """Density on x ≥ 0 of Brownian motion with drift μ that is absorbed at 0: G(x − x₀) − e^{−μx₀/D} G(x + x₀).

    x, start ≥ 0 [length]; t > 0 [time]; diffusivity: D [length²/time]; drift: μ [length/time]; G: `heat_kernel`.
    Traceable. Source: Redner 2001, section 3.2, doi:10.1017/CBO9780511606014.

    >>> print(f"{absorbed_density(1.0, 1.0, 0.5, 1.0):.6f}")
    0.344951
    """
    xp, _, x, start, t, diffusivity, drift = arrays(x, start, t, diffusivity, drift)
    image = xp.exp(-drift * start / diffusivity) * heat_kernel(x, -start, t, diffusivity, drift)
    return heat_kernel(x, start, t, diffusivity, drift) - image


def reflected_density(x: Number, start: Number, t: Number, diffusivity: Number, drift: Number = 0.0) -> Any:
    """Density on x ≥ 0 of Brownian motion with drift μ that is reflected at 0.

    G(x − x₀) + e^{−μx₀/D} G(x + x₀) − (μ/2D) e^{μx/D} erfc((x + x₀ + μt)/√(4Dt)); arguments as `absorbed_density`.
    Traceable. Source: Smoluchowski 1916; Chandrasekhar 1943, doi:10.1103/RevModPhys.15.1.

    >>> print(f"{reflected_density(0.0, 1.0, 0.5, 1.0):.6f}")
    0.483941
    """
    xp, sp, x, start, t, diffusivity, drift = arrays(x, start, t, diffusivity, drift)
    image = xp.exp(-drift * start / diffusivity) * heat_kernel(x, -start, t, diffusivity, drift)
    tail = sp.erfc((x + start + drift * t) / xp.sqrt(4 * diffusivity * t))
    layer = drift / (2 * diffusivity) * xp.exp(drift * x / diffusivity) * tail
    return heat_kernel(x, start, t, diffusivity, drift) + image - layer


def absorbed_interval_density(
    x: Number, start: Number, t: Number, width: Number, diffusivity: Number, drift: Number = 0.0, terms: int = 200
) -> Any:
    """Density on [0, a] of Brownian motion with drift μ, absorbed at both ends.

    (2/a) e^{μ(x−x₀)/2D − μ²t/4D} Σ sin(nπx/a) sin(nπx₀/a) e^{−n²π²Dt/a²}; full precision for Dt/a² > 4/terms².
    x, start, width: a [length]; t [time]; diffusivity: D [length²/time]; drift: μ [length/time]. Traceable.
    Source: Cox & Miller 1965, section 5.7, doi:10.1201/9780203719152.

    >>> print(f"{absorbed_interval_density(0.5, 0.5, 0.1, 1.0, 1.0):.6f}")
    0.745693
    """
    xp, _, *given = arrays(x, start, t, width, diffusivity, drift)
    x, start, t, width, diffusivity, drift = (number[..., None] for number in given)
    n = np.pi * np.arange(1, terms + 1) / width
    modes = xp.sin(n * x) * xp.sin(n * start) * xp.exp(-diffusivity * t * n**2)
    tilt = xp.exp(drift * (x - start) / (2 * diffusivity) - drift**2 * t / (4 * diffusivity))
    return xp.sum(2 / width * tilt * modes, axis=-1)


def reflected_interval_density(
    x: Number, start: Number, t: Number, width: Number, diffusivity: Number, drift: Number = 0.0, terms: int = 200
) -> Any:
    """Density on [0, a] of Brownian motion with drift μ, reflected at both ends.

    πₛ(x) + (2/a) e^{μ(x−x₀)/2D − μ²t/4D} Σ g_n(x) g_n(x₀) e^{−n²π²Dt/a²}/(1 + s_n²), g_n = cos(nπx/a) + s_n sin(nπx/a),
    s_n = μa/2Dnπ, πₛ ∝ e^{μx/D}; full precision for Dt/a² > 4/terms². Arguments as `absorbed_interval_density`.
    Traceable. Source: Cox & Miller 1965, section 5.7, doi:10.1201/9780203719152.

    >>> print(f"{reflected_interval_density(0.5, 0.5, 10.0, 1.0, 1.0):.6f}")
    1.000000
    """
    xp, _, *given = arrays(x, start, t, width, diffusivity, drift)
    x, start, t, width, diffusivity, drift = (number[..., None] for number in given)
    n = np.pi * np.arange(1, terms + 1) / width
    slope = drift / (2 * diffusivity * n)
    shape = lambda position: xp.cos(n * position) + slope * xp.sin(n * position)
    modes = shape(x) * shape(start) * xp.exp(-diffusivity * t * n**2) / (1 + slope**2)
    tilt = xp.exp(drift * (x - start) / (2 * diffusivity) - drift**2 * t / (4 * diffusivity))
    push = drift / diffusivity
    still = push == 0
    gibbs = xp.where(still, 1.0, push) / xp.expm1(xp.where(still, 1.0, push) * width) * xp.exp(push * x)
    return (xp.where(still, 1 / width, gibbs))[..., 0] + xp.sum(2 / width * tilt * modes, axis=-1)


def first_passage_density(t: Number, start: Number, diffusivity: Number, drift: Number = 0.0) -> Any:
    """Density of the time at which Brownian motion from x₀ > 0 first meets 0: x₀ (4πDt³)^{−½} exp(−(x₀ + μt)²/4Dt).

    t > 0 [time]; start: x₀ [length]; diffusivity: D [length²/time]; drift: μ [length/time] (negative: towards 0).
    Traceable. Source: Schrödinger 1915; Redner 2001, section 3.2, doi:10.1017/CBO9780511606014.

    >>> print(f"{first_passage_density(1.0, 1.0, 0.5, -1.0):.6f}")
    0.398942
    """
    _, _, t, start, diffusivity, drift = arrays(t, start, diffusivity, drift)
    return start / t * heat_kernel(0.0, start, t, diffusivity, drift)


def survival(t: Number, start: Number, diffusivity: Number, drift: Number = 0.0) -> Any:
    """Chance that Brownian motion from x₀ > 0 has not met 0 by t: ½ erfc(−(x₀+μt)/s) − ½ e^{−μx₀/D} erfc((x₀−μt)/s).

    s = √(4Dt); arguments as `first_passage_density`. Traceable. Source: Redner 2001, doi:10.1017/CBO9780511606014.

    >>> print(f"{survival(1.0, 1.0, 0.5):.6f}")
    0.682689
    """
    xp, sp, t, start, diffusivity, drift = arrays(t, start, diffusivity, drift)
    width = xp.sqrt(4 * diffusivity * t)
    stays = sp.erfc(-(start + drift * t) / width)
    return 0.5 * (stays - xp.exp(-drift * start / diffusivity) * sp.erfc((start - drift * t) / width))


def exit_density(
    t: Number, start: Number, width: Number, diffusivity: Number, drift: Number = 0.0, *, side: str
) -> Any:
    """Density of the time at which Brownian motion from x₀ leaves [0, a] through one end; its integral is that chance.

    "lower": e^{−μx₀/2D − μ²t/4D} times (2πD/a²) Σ n sin(nπx₀/a) e^{−n²π²Dt/a²}, or for short times
    (4πDt³)^{−½} Σ (x₀ + 2na) e^{−(x₀ + 2na)²/4Dt}; "upper": the same seen from a. To roundoff at all times, 0 for t ≤ 0.
    Arguments as `absorbed_interval_density`; side: "lower" or "upper". Traceable. Raises ValueError for another side.
    Source: Feller 1968, section XIV.6; Ratcliff 1978, doi:10.1037/0033-295X.85.2.59; Navarro & Fuss 2009, doi:10.1016/j.jmp.2009.02.003.

    >>> print(f"{exit_density(0.1, 0.5, 1.0, 1.0, side='lower'):.6f}")
    2.339177
    """
    if side not in ("lower", "upper"):
        raise ValueError(f"side must be 'lower' or 'upper', got {side!r}")
    xp, _, t, start, width, diffusivity, drift = arrays(t, start, width, diffusivity, drift)
    start, drift = (width - start, -drift) if side == "upper" else (start, drift)
    after, w, s, later = _in_widths(xp, t, start, width, diffusivity)
    c, pace = drift * width / (2 * diffusivity), diffusivity / width**2
    tilt = lambda time: -c * w - c**2 * time  # in one exponent with what it is beside: each may be out of range
    image = lambda away: away * xp.exp(tilt(s) - away**2 / (4 * s))
    images = sum(image(w + 2 * n) for n in _IMAGES) / xp.sqrt(4 * np.pi * s**3)
    waves = sum(2 * k * xp.sin(k * w) * xp.exp(tilt(later) - k**2 * later) for k in (np.pi * n for n in _MODES))
    return xp.where(after, pace * xp.maximum(xp.where(pace * t < _SHORT, images, waves), 0.0), 0.0)


def exit_survival(t: Number, start: Number, width: Number, diffusivity: Number, drift: Number = 0.0) -> Any:
    """Chance that Brownian motion from x₀ has not left [0, a] by t, the integral of `absorbed_interval_density`.

    Arguments as there. By images for short times, by modes for long ones: to roundoff at all times, 1 for t ≤ 0. Traceable.
    Source: Cox & Miller 1965, section 5.7, doi:10.1201/9780203719152.

    >>> print(f"{exit_survival(0.1, 0.5, 1.0, 1.0):.6f}")
    0.474487
    """
    xp, sp, t, start, width, diffusivity, drift = arrays(t, start, width, diffusivity, drift)
    after, w, s, later = _in_widths(xp, t, start, width, diffusivity)
    c = drift * width / (2 * diffusivity)

    tail = lambda z, log: _scaled_tail(xp, sp, z, log)

    def image(place: Any, log: Any) -> Any:
        """What is within [0, 1] of a normal density that starts at a place, times e^log: the difference of the smaller tails."""
        low, high = ((end - place - 2 * c * s) / xp.sqrt(2 * s) for end in (0.0, 1.0))
        beyond = low > 0
        return tail(xp.where(beyond, low, -high), log) - tail(xp.where(beyond, high, -low), log)

    def wave(n: int) -> Any:
        k, sign = n * np.pi, (-1) ** n
        tilts = xp.exp(-c * w - (c**2 + k**2) * later) - sign * xp.exp(c * (1 - w) - (c**2 + k**2) * later)
        return 2 * k * xp.sin(k * w) * tilts / (c**2 + k**2)

    n = np.reshape(
        2.0 * np.asarray(_IMAGES), (-1, *(1,) * xp.ndim(c * w * s))
    )  # one loop for all: tails are long programs
    images = xp.sum(image(w + n, n * c) - image(n - w, c * (n - 2 * w)), axis=0)
    chance = xp.where(diffusivity / width**2 * t < _SHORT, images, sum(map(wave, _MODES)))
    return xp.where(after, xp.clip(chance, 0.0, 1.0), 1.0)


_SHORT = 0.1  # of a²/D: images serve shorter times, modes longer ones, so few that each sum errs by 1e-16
_IMAGES = range(
    -2, 3
)  # written out, not over an axis: XLA makes one kernel of them, which takes a twentieth of the time
_MODES = range(1, 8)


def _scaled_tail(xp: Any, sp: Any, z: Any, log: Any) -> Any:
    """e^log (1 − Φ(z)), of which either factor may be out of range: by erfc, and from 20 on by the asymptotic series."""
    far = z > 20.0
    near, beyond = xp.where(far, 0.0, z), xp.where(far, z, 20.0)
    series = 1.0
    for k in range(8, 0, -1):
        series = 1.0 - (2 * k - 1) / beyond**2 * series
    close = 0.5 * sp.erfc(near / np.sqrt(2.0)) * xp.exp(xp.where(far, 0.0, log))
    return xp.where(far, series * xp.exp(log - beyond**2 / 2) / (beyond * np.sqrt(2 * np.pi)), close)


def _in_widths(xp: Any, t: Any, start: Any, width: Any, diffusivity: Any) -> tuple[Any, Any, Any, Any]:
    """Whether it is after the start, the place in units of the width, and times in that of width²/D as images and modes may take them."""
    time = diffusivity / width**2 * t
    after = t > 0
    return after, start / width, xp.where(after & (time < _SHORT), time, _SHORT), xp.maximum(time, _SHORT)


def mean_exit_time(start: Number, width: Number, diffusivity: Number) -> Any:
    """Mean time for free Brownian motion from x₀ to leave [0, a]: x₀(a − x₀)/2D.

    start: x₀ [length]; width: a [length]; diffusivity: D [length²/time]. Traceable.
    Source: Redner 2001, section 2.2, doi:10.1017/CBO9780511606014.

    >>> print(mean_exit_time(0.5, 1.0, 1.0))
    0.125
    """
    _, _, start, width, diffusivity = arrays(start, width, diffusivity)
    return start * (width - start) / (2 * diffusivity)


def kramers_rate(well: Number, barrier: Number, height: Number, diffusivity: Number) -> Any:
    """Rate of escape of dX = −U′ dt + √(2D) dW over a high barrier: √(U″(a) |U″(b)|)/2π · e^{−ΔU/D}.

    well, barrier: U″ at the minimum and at the top [1/time]; height: ΔU [length²/time]; diffusivity: D [length²/time].
    Right to a relative O(D/ΔU). Traceable. Source: Kramers 1940, doi:10.1016/S0031-8914(40)90098-2.

    >>> print(f"{kramers_rate(2.0, -1.0, 1.0, 0.1):.4e}")
    1.0219e-05
    """
    xp, _, well, barrier, height, diffusivity = arrays(well, barrier, height, diffusivity)
    return xp.sqrt(well * abs(barrier)) / (2 * np.pi) * xp.exp(-height / diffusivity)


def gibbs_density(energy: Number, diffusivity: Number, volumes: Number) -> Any:
    """Stationary density over cells of dX = −U′ dt + √(2D) dW: p_i = e^{−U_i/D} / Σ V_j e^{−U_j/D}.

    energy: U in each cell (n,) [length²/time]; diffusivity: D [length²/time]; volumes: V (n,) [length]. Traceable.
    Source: Risken 1989, section 5.2, doi:10.1007/978-3-642-61544-3.

    >>> print(gibbs_density([0.0, 1e3], 1.0, [0.5, 0.5]))
    [2. 0.]
    """
    xp, _, energy, diffusivity, volumes = arrays(energy, diffusivity, volumes)
    weight = xp.exp(-(energy - xp.min(energy)) / diffusivity)
    return weight / xp.sum(weight * volumes)
