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
from jaxdiff.runtime.conditions import Checks, check, enforce, raise_failed

_RELAXATION = {"ode": 1, "sde": 2}
_RUNGE_KUTTA = (0.0, 0.5, 0.5, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6), (0.0, 0.0, 0.0, 1.0)  # nodes, weights, ends
APART = 0.1  # standard deviations, as the score has it, between a standard normal start and the density there
FAR = 0.01  # the same of a likelihood
COARSE = 0.05  # of the root mean square: what steps may leave out of the flow


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

        "ode": dx = [−½β x − ½β s] dt,   "sde": dx = [−½β x − β s] dt + √β dW,   s = ∇ log pₜ(x),   t from 1 down to 0

    Both have the densities pₜ of the process. In the posterior mean x̂ = (x + σ² s)/α and ℓ = ln(α/σ) they are
    d(x/α) = −k (x/α − x̂) dℓ + noise, k = 1 or 2, and steps are equal in ℓ: exact for what is linear and for the noise, x̂ extrapolated
    from two steps. One evaluation of the score a step, of second order; for "sde" in distribution.

    Args:
        score: `score(x, t)`, of a batch `(n, *shape)` and a number, gives ∇ log pₜ(x), `(n, *shape)`; a pytree (a function, an
            `equinox.Module`, a `jax.tree_util.Partial`). A new function is compiled anew.
        process: the `Process` whose score it is.
        shape: of the samples, `(n, *shape)`; they start as standard normal noise.
        start: in place of that, where samples are at `times[0]`, `(n, *shape)`.
        key: of jax.random, or a whole number; the flow from a given start takes none.
        steps: how many.
        method: "ode", the probability flow, deterministic, or "sde", the reverse diffusion, which forgets earlier errors.
        times: from where to where, decreasing, within 1 and 0.
        dtype: of the samples; None: that of `start`, else the session's.

    Returns:
        `(n, *shape)`: samples of p at `times[1]`; at 0 with the noise of variance σ²(0) in them, 3.4e-4 as `Process` stands. Inside
        jit, grad and vmap it is traceable.

    Raises:
        ValueError: in one line: what is wrong with shapes, times and steps, and where a score is not finite.

    A warning says where the standard normal noise at t = 1 is not the density whose score this is, and where steps are
    too long: of the flow from what they leave out, of the diffusion from their length, as Gaussians have it.

    Two narrow peaks, from their exact score:

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
    steps, (begin, end) = _count(steps), _span(times, falls=True)
    drawn = start is None
    if key is None and (drawn or method == "sde"):
        raise ValueError("noise is drawn with a key, got none; pass key=0, or one of jax.random.key(…)")
    chosen, steered = jax.random.split(_key(0 if key is None else key))
    if drawn:
        dtype = jnp.result_type(float) if dtype is None else dtype
        start = jax.random.normal(chosen, _shape(shape), dtype)
    else:
        if shape is not None:
            raise ValueError("start has a shape of its own; leave shape out")
        start = _batch(start, "start", dtype)
    _require_score(score, start)
    x, checks, apart, left_out = _reverse(score, process, start, steered, steps, _RELAXATION[method], begin, end)
    if isinstance(checks.table, jax.core.Tracer):
        return enforce(x, checks)
    raise_failed(checks)
    if drawn and apart > APART:
        warnings.warn(_words_of_start(apart, begin), stacklevel=2)
    if left_out > COARSE:
        warnings.warn(
            f"{steps} steps leave out about {float(left_out):.2g} of the size of the samples; take more steps",
            stacklevel=2,
        )
    return x


def log_likelihood(
    score: Callable[[Any, Any], Any],
    process: Process,
    x: Any,
    *,
    steps: int = 100,
    probes: int | None = None,
    key: Any = None,
    base: Callable[[Any], Any] | None = None,
    times: tuple[float, float] = (0.0, 1.0),
) -> Any:
    """Log density of samples by the probability flow.

        ln p₀(x) = ln p₁(x₁) − ½ ∫ β ∇·(x + s) dt,   dx = −½β (x + s) dt from x to x₁

    Steps are of Runge and Kutta's fourth order, equal in log signal-to-noise.

    Args:
        score: `score(x, t)`, as in `sample`; each of a batch by itself.
        process: the `Process` whose score it is.
        x: samples `(n, *shape)` at `times[0]`; at 0 they are those of the data with noise of variance σ²(0).
        steps: how many, of four evaluations each; half as many are taken beside them to see what they leave out.
        probes: None takes the divergence exactly, at the price of one derivative for each number in a sample. A number: its
            estimate from as many random directions (Hutchinson), with `key`; without bias.
        key: of jax.random, or a whole number.
        base: log density of `(n, *shape)` at `times[1]`; None: standard normal.
        times: from where to where, increasing, within 0 and 1.

    Returns:
        `(n,)` [nat]. Inside jit, grad and vmap it is traceable.

    Raises:
        ValueError: in one line: what is wrong with shapes, times and steps, and where a score is not finite.

    A warning says where the density at t = 1 is not standard normal, by more than 0.01 nat in a dimension, and where steps
    leave out 0.001 nat in a dimension.

    >>> import jaxdiff as jd, jax.numpy as jnp
    >>> process = jd.generation.Process(log_snr=(8.0, -16.0))
    >>> peaks = jd.generation.GaussianMixture([0.25, 0.75], [-1.0, 1.0], [0.01, 0.01])
    >>> x = jnp.array([-1.1, 0.9])
    >>> found = jd.generation.log_likelihood(peaks.score(process), process, x)
    >>> bool(abs(found - peaks.noised(process, 0.0).log_density(x)).max() < 1e-3)
    True

    Song et al. 2021, arXiv:2011.13456; Hutchinson 1990, doi:10.1080/03610919008812866.
    """
    steps, (begin, end) = _count(steps), _span(times, falls=False)
    x = _batch(x, "x", None)
    if probes is not None and key is None:
        raise ValueError("random directions are drawn with a key, got none; pass key=0, or one of jax.random.key(…)")
    if probes is not None:
        directions = jax.random.rademacher(_key(key), (_count(probes, "probes"), *x.shape), x.dtype)
    else:
        size = max(1, int(np.prod(x.shape[1:])))
        directions = jnp.broadcast_to(jnp.eye(size, dtype=x.dtype).reshape(size, 1, *x.shape[1:]), (size, *x.shape))
    _require_score(score, x)
    found, checks, apart, left_out = _flow(score, process, x, directions, probes is None, base, steps, begin, end)
    if isinstance(checks.table, jax.core.Tracer):
        return enforce(found, checks)
    raise_failed(checks)
    if base is None and apart > FAR:
        warnings.warn(_words_of_start(apart, end), stacklevel=2)
    if left_out > 1e-3:
        warnings.warn(
            f"{steps} steps leave out about {float(left_out):.2g} nat in a dimension; take more steps", stacklevel=2
        )
    return found


def _words_of_start(apart: Any, t: float) -> str:
    return f"at t = {t:g} the density whose score this is differs from standard normal noise, by about {float(apart):.2g} standard deviations in a dimension; end log_snr lower, scale the data, or pass where it starts"


@eqx.filter_jit
@as_written
def _reverse(
    score: Any, process: Process, start: Any, key: Any, steps: int, k: int, begin: float, end: float
) -> tuple[Any, Checks, Any, Any]:
    """Samples; what must not be; how far the start is from the score; and what the flow leaves out.

    y = x/α relaxes to x̂: y ↦ e^{−kh} y + k ∫ e^{−k(h−u)} x̂(u) du, with x̂ linear through its last two values.
    """
    h = process.fall * (begin - end) / steps / 2
    decay = float(np.exp(-k * h))
    to_value = -float(
        np.expm1(-k * h)
    )  # weights of x̂, of its difference to the last, and of the second difference, left out
    to_slope = 1 - to_value / (k * h)
    to_bend = (to_slope + 1 - 2 * to_slope / (k * h)) / 2

    def step(carry: Any, i: Any) -> Any:
        x, last, before, left_out, apart, lost = carry
        s, t = (begin + (end - begin) * j.astype(x.dtype) / steps for j in (i, i + 1))
        there = score(x, s)
        denoised = (x + process.noise(s) ** 2 * there) / process.signal(s)
        slope = jnp.where(i > 0, denoised - last, 0.0)
        bend = jnp.where(i > 1, slope - (last - before), 0.0)
        y = decay * x / process.signal(s) + to_value * denoised + to_slope * slope
        new = process.signal(t) * y
        if k == 2:
            fresh = jax.random.normal(jax.random.fold_in(key, i), x.shape, x.dtype)
            new = new + process.noise(t) * to_value**0.5 * fresh
        left_out = left_out + jnp.sqrt(jnp.mean((to_bend * bend) ** 2))
        apart = jnp.where(i > 0, apart, jnp.sqrt(jnp.mean((there + x) ** 2)))
        lost = jnp.where(jnp.isfinite(new).all(), lost, jnp.maximum(lost, s))
        return (new, denoised, last, left_out, apart, lost), None

    zero = jnp.zeros((), start.dtype)
    none = jnp.zeros_like(start)
    carry, _ = jax.lax.scan(step, (start, none, none, zero, zero, zero - 1), jnp.arange(steps))
    x, *_, left_out, apart, lost = carry
    size = jnp.sqrt(jnp.mean(x**2))
    of_flow = process.signal(end) * left_out / jnp.where(size > 0, size, 1.0)
    # Bends of x̂ that noise makes tell nothing: of Gaussians of any width the variance errs by 0.07 to 0.17 (kh)².
    doubts = jax.lax.stop_gradient((apart, of_flow if k == 1 else 0.1 * (k * h) ** 2))
    return x, check([_finite(lost)]), *doubts


@eqx.filter_jit
@as_written
def _flow(
    score: Any,
    process: Process,
    x: Any,
    directions: Any,
    exact: bool,
    base: Any,
    steps: int,
    begin: float,
    end: float,
) -> tuple[Any, Checks, Any, Any]:
    """Log densities; what must not be; how far the score at the end is from that of standard normal noise; and what steps leave out.

    directions: `(m, n, *shape)`, along which the divergence is taken: unit vectors, or random ones
    """
    axes = tuple(range(1, x.ndim))
    size = max(1, int(np.prod(x.shape[1:])))

    def rates(x: Any, t: Any) -> tuple[Any, Any]:
        velocity = lambda x: -process.rate(t) / 2 * (x + score(x, t))
        moves, along = jax.linearize(velocity, x)
        each = jax.vmap(lambda way: jnp.sum(way * along(way), axes))(directions)
        return moves, jnp.sum(each, 0) if exact else jnp.mean(each, 0)

    def to_the_end(count: int) -> tuple[Any, Any, Any]:
        dt = (end - begin) / count
        at, of, after = (jnp.tile(jnp.asarray(c, x.dtype), count) for c in _RUNGE_KUTTA)  # one program for all stages

        def stage(carry: Any, row: Any) -> Any:
            begun, moves, x, gained, lost = carry
            i, at, of, after = row
            t = begin + dt * (i // 4 + at)
            moves, gains = rates(begun + dt * at * moves, t)
            x, gained = x + dt * of * moves, gained + dt * of * gains
            lost = jnp.where(jnp.isfinite(x).all() & jnp.isfinite(gained).all(), lost, jnp.minimum(lost, t))
            return (jnp.where(after > 0, x, begun), moves, x, gained, lost), None

        start = (x, jnp.zeros_like(x), x, jnp.zeros(len(x), x.dtype), jnp.asarray(jnp.inf, x.dtype))
        (_, _, *found), _ = jax.lax.scan(stage, start, (jnp.arange(4 * count), at, of, after))
        return tuple(found)

    (x1, gained, lost), (x2, coarse, _) = to_the_end(steps), to_the_end(steps // 2)
    normal = lambda x: -jnp.sum(x**2, axes) / 2 - size / 2 * np.log(2 * np.pi)
    last = normal if base is None else base
    found, other = last(x1) + gained, last(x2) + coarse
    apart = jnp.sqrt(jnp.mean((x1 + score(x1, jnp.asarray(end, x.dtype))) ** 2))
    left_out = jnp.max(jnp.abs(found - other)) / 15 / size
    doubts = jax.lax.stop_gradient((apart, left_out))
    return found, check([_finite(jnp.where(jnp.isinf(lost), -1.0, lost))]), *doubts


def _finite(lost: Any) -> Any:
    """The condition that a score was finite; `lost`: the time when it was not, below zero where it always was."""
    message = (
        "the score is not finite at t = {where}; look at score(x, t) there: a solved density has none outside its times"
    )
    return message, lost >= 0, lost, lost


def _count(number: Any, name: str = "steps") -> int:
    least = 2 if name == "steps" else 1
    if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or number < least:
        raise ValueError(f"{name} must be a whole number from {least} on, got {number!r}")
    return int(number)


def _span(times: Any, falls: bool) -> tuple[float, float]:
    found = numbers(times, "times")
    if (
        found.shape != (2,)
        or not ((found >= 0) & (found <= 1)).all()
        or (found[0] > found[1]) != falls
        or found[0] == found[1]
    ):
        way = "decreasing, (1, 0) for all the way" if falls else "increasing, (0, 1) for all the way"
        raise ValueError(f"times must be two numbers from 0, the data, to 1, noise, {way}, got {times!r}")
    return float(found[0]), float(found[1])


def _key(key: Any) -> Any:
    if isinstance(key, bool) or not isinstance(key, (int, np.integer, jax.Array)):
        raise TypeError(f"key must be one of jax.random.key(…), or a whole number, got {key!r}")
    return jax.random.key(key) if isinstance(key, (int, np.integer)) else key


def _shape(shape: Any) -> tuple[int, ...]:
    whole = lambda n: isinstance(n, (int, np.integer)) and not isinstance(n, bool) and n >= 1
    if not isinstance(shape, (tuple, list)) or not shape or not all(map(whole, shape)):
        raise ValueError(
            f"shape must be that of the samples, (count, *shape) in whole numbers from 1 on, got {shape!r}"
        )
    return tuple(map(int, shape))


def _batch(x: Any, name: str, dtype: Any) -> Any:
    """x (n, *shape) in floating point."""
    x = x if isinstance(x, jax.Array) else numbers(x, name)
    if np.ndim(x) < 1 or not np.size(x):
        raise ValueError(f"{name} must be a batch (n, *shape), got shape {np.shape(x)}")
    if not isinstance(x, jax.core.Tracer) and not np.isfinite(x).all():
        raise ValueError(f"{name} must be finite, got {int((~np.isfinite(x)).sum())} numbers that are not")
    kind = jnp.result_type(float) if not jnp.issubdtype(x.dtype, jnp.floating) else x.dtype
    return jnp.asarray(x, kind if dtype is None else dtype)


def _require_score(score: Any, x: Any) -> None:
    """Raise where a score of x is no batch of the shape of x."""
    if not callable(score):
        raise TypeError(f"score must be a function of (x, t), got {type(score).__name__}")
    found = eqx.filter_eval_shape(score, x, jnp.ones((), x.dtype))
    if getattr(found, "shape", None) != x.shape:
        got = f"shape {found.shape}" if hasattr(found, "shape") else type(found).__name__
        raise ValueError(f"score(x, t) must have the shape of x, {x.shape}, got {got}")
