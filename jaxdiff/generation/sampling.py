"""Samples and likelihoods from a score: the process run backwards."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.generation.process import Process
from jaxdiff.quantities import numbers
from jaxdiff.runtime.compilation import as_written
from jaxdiff.runtime.conditions import check, enforce, raise_failed
from jaxdiff.simulation.simulate import as_key, whole_number

_RELAXATION = {"ode": 1, "sde": 2}
_RUNGE_KUTTA = (0.0, 0.5, 0.5, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6), (0.0, 0.0, 0.0, 1.0)  # nodes, weights, ends
COARSE = {"of the spread of the samples": 0.05, "nat in a dimension": 1e-3}  # what steps may leave out without a word
APART = {
    "of the spread of the samples": 0.1,
    "nat in a dimension": 0.01,
}  # standard deviations, by the score, from a normal start


def sample(
    score: Callable[[Any, Any], Any],
    process: Process,
    shape: tuple[int, ...] | None = None,
    *,
    start: Any = None,
    key: Any = None,
    steps: int = 40,
    method: str = "ode",
    times: tuple[float, float] = (1.0, 0.0),
    dtype: Any = None,
) -> Any:
    """Draw samples by running the process backwards, as an ordinary or a stochastic differential equation.

        "ode": dx = [−½β x − ½β s] dt,   "sde": dx = [−½β x − β s] dt + √β dW,   s = ∇ ln pₜ(x),   t from 1 down to 0

    Both have the densities pₜ of the process. One evaluation of the score a step, of second order; for "sde" in distribution.

    Args:
        score: `score(x, t)`, of a batch `(n, *shape)` and a number, gives ∇ ln pₜ(x), `(n, *shape)`; a pytree (a function, an
            `equinox.Module`, a `jax.tree_util.Partial`). A new function is compiled anew.
        process: the `Process` whose score it is.
        shape: of the samples, `(n, *shape)`; they start as standard normal noise.
        start: in place of that, where samples are at `times[0]`, `(n, *shape)`.
        key: of jax.random, or a whole number; the flow from a given start takes none.
        steps: how many, equal in log signal-to-noise.
        method: "ode", the probability flow, deterministic, or "sde", the reverse diffusion, which forgets earlier errors.
        times: from where to where, decreasing, within 1 and 0.
        dtype: of the samples; None: that of `start`, else the session's.

    Returns:
        `(n, *shape)`: samples of p at `times[1]`; at 0 with the noise of variance σ²(0) in them, 3.4e-4 as `Process` stands. Inside
        jit, grad and vmap it is traceable.

    Raises:
        ValueError: in one line: what is wrong with shapes, times and steps, and where a score is not finite.

    A warning says where the score is not that of the standard normal start, and where steps are too long.

    >>> import jaxdiff as jd
    >>> process = jd.generation.Process()
    >>> peaks = jd.generation.GaussianMixture([0.25, 0.75], [-1.0, 1.0], [0.01, 0.01])
    >>> x = jd.generation.sample(peaks.score(process), process, (4000,), key=0)
    >>> bool(abs((x > 0).mean() - 0.75) < 0.03), bool(abs(x[x > 0].std() - 0.1) < 0.01)
    (True, True)

    Lu et al. 2022, arXiv:2211.01095 (DPM-Solver++(2M)); the reverse equation: Anderson 1982,
    doi:10.1016/0304-4149(82)90051-5; the flow: Song et al. 2021, arXiv:2011.13456.
    """
    if method not in _RELAXATION:
        raise ValueError(f'method must be "ode" or "sde", got {method!r}')
    steps, span = whole_number(steps, "steps", 2), numbers(times, "times")
    if span.shape != (2,) or not 1 >= span[0] > span[1] >= 0:
        raise ValueError(f"times must be two decreasing numbers from 1, noise, to 0, the data, got {times!r}")
    drawn = start is None
    needs = drawn or method == "sde"
    keys: Any = jax.random.split(as_key(key)) if needs or key is not None else (None, None)
    chosen, steered = keys
    if drawn:
        if (
            not isinstance(shape, (tuple, list))
            or not shape
            or not all(isinstance(n, (int, np.integer)) and n > 0 for n in shape)
        ):
            raise ValueError(
                f"shape must be that of all samples, (n, *shape) in whole numbers from 1 on, got {shape!r}"
            )
        start = jax.random.normal(chosen, tuple(shape), jnp.result_type(float) if dtype is None else dtype)
    elif shape is not None:
        raise ValueError("start has a shape of its own; leave shape out")
    start = _batch(start, "start", score, process, dtype)
    found = _reverse(score, process, start, steered, steps, _RELAXATION[method], *map(float, span))
    return _told(found, steps, "of the spread of the samples", drawn)


def log_likelihood(
    score: Callable[[Any, Any], Any],
    process: Process,
    x: Any,
    *,
    steps: int = 100,
    probes: int | None = None,
    key: Any = None,
    base: Callable[[Any], Any] | None = None,
) -> Any:
    """Log density of samples by the probability flow.

        ln p₀(x) = ln p₁(x₁) − ½ ∫ β ∇·(x + s) dt,   dx = −½β (x + s) dt from x to x₁

    Args:
        score: `score(x, t)`, as in `sample`; each of a batch by itself.
        process: the `Process` whose score it is.
        x: samples `(n, *shape)`; p₀ is the density of the data with noise of variance σ²(0).
        steps: of Runge and Kutta's fourth order, equal in log signal-to-noise; half as many are taken beside them to see what they leave out.
        probes: None takes the divergence exactly, at the price of one derivative for each number in a sample. A number: its
            estimate from as many random directions (Hutchinson), with `key`; without bias.
        key: of jax.random, or a whole number.
        base: ln p₁, of `(n, *shape)`; None: standard normal.

    Returns:
        `(n,)` [nat]. Inside jit, grad and vmap it is traceable.

    Raises:
        ValueError: in one line: what is wrong with shapes and steps, and where a score is not finite.

    A warning says where the score at t = 1 is not standard normal, and where steps leave out 0.001 nat in a dimension.

    >>> import jaxdiff as jd, jax.numpy as jnp
    >>> process = jd.generation.Process(log_snr=(8.0, -16.0))
    >>> peaks = jd.generation.GaussianMixture([0.25, 0.75], [-1.0, 1.0], [0.01, 0.01])
    >>> x = jnp.array([-1.1, 0.9])
    >>> found = jd.generation.log_likelihood(peaks.score(process), process, x)
    >>> bool(abs(found - peaks.noised(process, 0.0).log_density(x)).max() < 1e-3)
    True

    Song et al. 2021, arXiv:2011.13456; Hutchinson 1990, doi:10.1080/03610919008812866.
    """
    steps, x = whole_number(steps, "steps", 2), _batch(x, "x", score, process)
    size = x[0].size
    if probes is not None:
        directions = jax.random.rademacher(as_key(key), (whole_number(probes, "probes"), *x.shape), x.dtype)
    else:
        directions = jnp.broadcast_to(jnp.eye(size, dtype=x.dtype).reshape(size, 1, *x.shape[1:]), (size, *x.shape))
    found = _flow(score, process, x, directions, probes is None, base, steps)
    return _told(found, steps, "nat in a dimension", base is None)


def _batch(x: Any, name: str, score: Any, process: Any, dtype: Any = None) -> Any:
    """x (n, *shape) in floating point, of which the score has the shape."""
    if not isinstance(process, Process):
        raise TypeError(f"process must be a Process, got {type(process).__name__}")
    kind = jax.dtypes.canonicalize_dtype(getattr(x, "dtype", float) if dtype is None else dtype)
    x = x if isinstance(x, jax.Array) else numbers(x, name)
    if jnp.iscomplexobj(x):
        raise ValueError(f"{name} must be real, got {x.dtype}")
    if np.ndim(x) < 1 or not np.size(x):
        raise ValueError(f"{name} must be a batch (n, *shape), got shape {np.shape(x)}")
    if not isinstance(x, jax.core.Tracer) and not np.isfinite(x).all():
        raise ValueError(f"{name} must be finite, got {int((~np.isfinite(x)).sum())} numbers that are not")
    x = jnp.asarray(x, kind if jnp.issubdtype(kind, jnp.floating) else jnp.result_type(float))
    if not callable(score):
        raise TypeError(f"score must be a function of (x, t), got {type(score).__name__}")
    return x


def _of_a_batch(score: Any) -> Any:
    """`score`, refused where what it gives has not the shape of its batch: when it is first traced, once."""

    def checked(x: Any, t: Any) -> Any:
        found = score(x, t)
        if getattr(found, "shape", None) != x.shape:
            got = f"shape {found.shape}" if hasattr(found, "shape") else type(found).__name__
            raise ValueError(f"score(x, t) must have the shape of x, {x.shape}, got {got}")
        return found

    return checked


def _told(computed: Any, steps: int, unit: str, normal: bool) -> Any:
    """What was computed; raises where it is none, warns where it is doubtful. normal: whether the noisy end was taken as such"""
    found, checks, apart, left_out = computed
    if isinstance(checks.table, jax.core.Tracer):
        return enforce(found, checks)
    raise_failed(checks)
    apart, left_out = float(apart), float(left_out)
    if normal and not apart <= APART[unit]:
        warnings.warn(
            f"the score at the noisy end is not that of standard normal noise, by about {apart:.2g} standard deviations in a dimension; end log_snr lower, scale the data, or pass start= or base=",
            stacklevel=3,
        )
    if not left_out <= COARSE[unit]:
        warnings.warn(f"{steps} steps leave out about {left_out:.2g} {unit}; take more steps", stacklevel=3)
    return found


@eqx.filter_jit
@as_written
def _reverse(score: Any, process: Process, start: Any, key: Any, steps: int, k: int, begin: float, end: float) -> Any:
    """Samples; what must not be; how far the start is from the score; and what steps leave out.

    In y = x/α, the posterior mean x̂ = (x + σ² s)/α and ℓ = ln(α/σ) both equations are dy = −k (y − x̂) dℓ + noise, and a step of h is
    y ↦ e^{−kh} y + k ∫ e^{−k(h−u)} x̂(u) du + noise, with x̂ linear through its last two values.
    """
    score = _of_a_batch(score)
    h = process.fall * (begin - end) / steps / 2
    to_value = -float(np.expm1(-k * h))  # the weight of x̂; of its difference to the last; of the second, left out
    to_slope = 1 - to_value / (k * h)
    to_bend = (to_slope + 1 - 2 * to_slope / (k * h)) / 2
    rms = lambda x: jnp.sqrt(jnp.mean(x**2))

    def step(carry: Any, i: Any) -> Any:
        x, last, before, left_out, apart, lost = carry
        s, t = (begin + (end - begin) * j.astype(x.dtype) / steps for j in (i, i + 1))
        there, signal = score(x, s), process.signal(s)
        denoised = (x + process.noise(s) ** 2 * there) / signal
        slope = jnp.where(i > 0, denoised - last, 0.0)
        bend = jnp.where(i > 1, slope - (last - before), 0.0)
        new = process.signal(t) * ((1 - to_value) * x / signal + to_value * denoised + to_slope * slope)
        if k == 2:
            noise = jax.random.normal(jax.random.fold_in(key, i), x.shape, x.dtype)
            new = new + process.noise(t) * to_value**0.5 * noise
        apart = jnp.where(i > 0, apart, rms(there + x))
        lost = jnp.where(jnp.isfinite(new).all(), lost, jnp.maximum(lost, s))
        spread = rms(new - (new.mean(0) if len(new) > 1 else 0.0))  # by which errors grow and fall too
        left_out = left_out + process.signal(t) * rms(to_bend * bend) / jnp.maximum(spread, process.noise(t))
        return (new, denoised, last, left_out, apart, lost), None

    zero, none = jnp.zeros((), start.dtype), jnp.zeros_like(start)
    carry, _ = jax.lax.scan(step, (start, none, none, zero, zero, zero - 1), jnp.arange(steps))
    x, *_, left_out, apart, lost = carry
    # Bends of x̂ that noise makes tell nothing: of Gaussians of any width the variance errs by 0.07 to 0.17 (kh)².
    doubts = jax.lax.stop_gradient((apart, left_out if k == 1 else 0.1 * (k * h) ** 2))
    return x, check([_finite(lost)]), *doubts


@eqx.filter_jit
@as_written
def _flow(score: Any, process: Process, x: Any, directions: Any, exact: bool, base: Any, steps: int) -> Any:
    """Log densities; what must not be; how far the score at the end is from that of normal noise; and what steps leave out.

    directions: `(m, n, *shape)`, along which the divergence is taken: unit vectors, or random ones
    """
    axes, score = tuple(range(1, x.ndim)), _of_a_batch(score)

    def rates(x: Any, t: Any) -> tuple[Any, Any]:
        moves, along = jax.linearize(lambda x: -process.rate(t) / 2 * (x + score(x, t)), x)
        each = jax.vmap(lambda way: jnp.sum(way * along(way), axes))(directions)
        return moves, jnp.sum(each, 0) if exact else jnp.mean(each, 0)

    def to_the_end(count: int) -> tuple[Any, Any, Any]:
        rows = (jnp.tile(jnp.asarray(c, x.dtype), count) for c in _RUNGE_KUTTA)  # one program for all stages

        def stage(carry: Any, row: Any) -> Any:
            begun, moves, x, gained, lost = carry
            i, at, of, after = row
            t = (i // 4 + at) / count
            moves, gains = rates(begun + at / count * moves, t)
            x, gained = x + of / count * moves, gained + of / count * gains
            lost = jnp.where(jnp.isfinite(x).all() & jnp.isfinite(gained).all(), lost, jnp.minimum(lost, t))
            return (jnp.where(after > 0, x, begun), moves, x, gained, lost), None

        start = (x, jnp.zeros_like(x), x, jnp.zeros(len(x), x.dtype), jnp.asarray(jnp.inf, x.dtype))
        (_, _, *found), _ = jax.lax.scan(stage, start, (jnp.arange(4 * count), *rows))
        return tuple(found)

    last = base if base is not None else lambda x: -jnp.sum(x**2 + np.log(2 * np.pi), axes) / 2
    (x1, gained, lost), (x2, coarse, _) = to_the_end(steps), to_the_end(steps // 2)
    found, other = (last(x) + g for x, g in ((x1, gained), (x2, coarse)))
    apart = jnp.sqrt(jnp.mean((x1 + score(x1, jnp.ones((), x.dtype))) ** 2))
    left_out = jnp.max(jnp.abs(found - other)) / 15 / x[0].size
    doubts = jax.lax.stop_gradient((apart, left_out))
    return found, check([_finite(jnp.where(jnp.isinf(lost), -1.0, lost))]), *doubts


def _finite(lost: Any) -> Any:
    """The condition that a score was finite; `lost`: the time when it was not, below zero where it always was."""
    words = (
        "the score is not finite at t = {where}; look at score(x, t) there: a solved density has none outside its times"
    )
    return words, lost >= 0, lost, lost
