"""`LevenbergMarquardt`, the optimiser as users name it, and `minimize`, its use on residuals of one's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.inference.levenberg_marquardt_steps import Squares, State, begin, descend, quadratic, rescaled
from jaxdiff.inference.objective import start_vector
from jaxdiff.inference.uncertainty import at_bounds, diagnostics, listed
from jaxdiff.parameters import Free, Parameters, collect, is_mark, numeric
from jaxdiff.runtime.compilation import quick_jit

STEPS = 1000  # Jacobians, unless others are asked for
SINGULAR = 1e-11  # smallest singular value of a scaled Jacobian that still identifies something
INVOLVED = 1e-3  # share of a number in such a direction from which on it is not identified


@dataclass(frozen=True)
class Minimum:
    """What `LevenbergMarquardt.minimize` found, in NumPy float64.

        covariance = value / (n − p) (JᵀJ)⁻¹

    Attributes:
        x: as the start was, a number, an array or a pytree of them.
        value: Σ r².
        converged: True if that is a minimum.
        iterations: how many Jacobians were evaluated.
        covariance: `(p, p)` of the numbers of x in a row, NaN where n ≤ p and for what the residuals do not identify.
        notes: what a reader must know, in words.

    >>> import jaxdiff as jd
    >>> jd.LevenbergMarquardt().minimize(lambda x: x**2 - 2.0, 1.0).notes
    ('1 residuals leave no variance for 1 numbers: the covariance is NaN',)
    """

    x: Any
    value: float
    converged: bool
    iterations: int
    covariance: np.ndarray
    notes: tuple[str, ...] = ()


class LevenbergMarquardt(eqx.Module):
    """Damped Newton steps with the Gauss–Newton, Fisher or observed information as curvature.

        (H + λ D²) s = −g,  λ ≥ 0 such that |D s| ≤ Δ

    D are the largest slopes √Hᵢᵢ met so far, so that units do not matter, and the radius Δ grows where the loss falls as
    predicted and shrinks where it does not. Where residuals are at hand, each step gets a second-order correction for their
    curvature along it, by the Jacobian at its foot: curved valleys are followed in long steps.

    Args:
        tolerance: a fit has converged when an undamped step would change the loss by less than this fraction, or no
            parameter by more than a hundredth of it in relative terms; `minimize` when an undamped step is less than this
            many standard errors, or is predicted to gain no more than roundoff hides.
        damping: λ of the first step, at least.

    Raises:
        ValueError: a tolerance that is not between 0 and 0.1, or a damping that is not between 0 and 1e12.

    Sources: Marquardt 1963, doi:10.1137/0111030; scaling and radius: Moré 1978, doi:10.1007/BFb0067700; the correction:
    Transtrum & Sethna 2012, doi:10.48550/arXiv.1201.5885, here by one more residual instead of a second derivative.

    >>> import jaxdiff as jd
    >>> jd.LevenbergMarquardt(damping=1.0).damping
    1.0
    """

    tolerance: float = eqx.field(static=True, default=1e-10)
    damping: float = eqx.field(static=True, default=1e-3)

    def __check_init__(self) -> None:
        for name, most in (("tolerance", 0.1), ("damping", 1e12)):
            if not 0 < getattr(self, name) <= most:
                raise ValueError(f"{name} must lie between 0 and {most:g}, got {getattr(self, name)}")

    def __str__(self) -> str:
        return f"Levenberg–Marquardt to a tolerance of {self.tolerance:g}"

    def minimize(self, residuals: Callable[[Any], Any], start: Any, steps: int | None = None) -> Minimum:
        """Minimise a sum of squares of any scale, in double precision whatever the session's.

            x* = argmin Σᵢ rᵢ(x)²

        Args:
            residuals: x ↦ r, `(n,)`, traceable by JAX; what it is divided by is yours: the variance is taken from r.
            start: a number, an array or a pytree of them; `jd.Positive` keeps them positive, `jd.Bounded` in bounds.
            steps: Jacobians, at most; None: 1000.

        Returns:
            `Minimum`: x, value = Σ r², converged, iterations (Jacobians), covariance (p, p) = value / (n − p) (JᵀJ)⁻¹.

        A place where the slopes have vanished is no minimum: `converged` is False where parameters ran out of the range
        in which they matter. On NIST's 27 StRD problems from both starts it gives the certified parameters to 10 digits.

        Raises:
            ValueError: residuals that are not finite at the start or no vector; a start out of its bounds.
            TypeError: a start that is not numbers.

        >>> import jaxdiff as jd, jax.numpy as jnp
        >>> x, y = jnp.array([1.0, 2.0, 3.0, 5.0, 7.0, 10.0]), jnp.array([109.0, 149.0, 149.0, 191.0, 213.0, 224.0])
        >>> found = jd.LevenbergMarquardt().minimize(lambda b: b[0] * (1 - jnp.exp(-b[1] * x)) - y, [100.0, 0.75])
        >>> found.converged, found.x.round(4).tolist(), round(float(found.covariance[0, 0]) ** 0.5, 4)
        (True, [213.8094, 0.5472], 12.3545)
        """
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(start)):
            raise TypeError(
                "minimize decides by numbers and got tracers, as inside jax.jit, vmap or grad; call it outside"
            )
        if steps is not None and (isinstance(steps, bool) or not isinstance(steps, (int, np.integer)) or steps < 1):
            raise ValueError(f"steps must be a positive whole number, got {steps!r}")
        most = STEPS if steps is None else int(steps)
        with jax.enable_x64(True), np.errstate(all="ignore"):
            return _minimum(self, residuals, _parameters(start), most)


def _minimum(method: LevenbergMarquardt, residuals: Callable[[Any], Any], parameters: Parameters, most: int) -> Minimum:
    z, p = start_vector(parameters), parameters.count
    n = len(_values(residuals, parameters, z))
    zero = lambda *shape: np.zeros(shape)
    nothing = Squares(np.float64(np.inf), zero(p), zero(p, p), zero(n), zero(n, p))
    begun = begin(z, 1, 0, method.damping)._replace(here=nothing)

    def run(parameters: Parameters, state: State, until: int) -> State:
        kind, limit = parameters.transform.kind, parameters.transform.limit

        def expand(z: Any) -> Squares:
            r, J = map(np.asarray, _slopes(residuals, parameters, z))
            return Squares(r @ r, 2 * r @ J, 2 * J.T @ J, r, J)

        vector = lambda z: np.asarray(_values(residuals, parameters, z))
        return descend(expand, vector, kind, limit, state, until, method.tolerance)

    state = run(parameters, begun, 0)
    if state.stalled:
        where = [f"{label} = {x:.4g}" for label, x in zip(parameters.labels, parameters.start, strict=True)]
        raise ValueError(f"the residuals or their slopes are not finite at the start, {listed(where)}; start elsewhere")
    if (scaled := rescaled(parameters, state.here)) is not None:
        parameters, state = scaled, begun
    state = run(parameters, state, most - 1)
    z, value, transform = state.z, float(state.here.value), parameters.transform
    if state.converged:  # one more Newton step costs no Jacobian
        last = np.clip(z + quadratic(state.here, z, transform.limit).step(0.0), -transform.limit, transform.limit)
        found = np.asarray(_values(residuals, parameters, last))
        if found @ found <= (1 + 1e-8) * value:
            z, value = last, float(found @ found)
    at_bound = at_bounds(parameters, z[None], None)[0]
    unidentified, covariance = _covariance(parameters, z, state.here, at_bound)
    notes = (*diagnostics(parameters, z, at_bound), *_notes(parameters, state, unidentified & ~at_bound, most))
    ended = at_bound & (np.asarray(transform.kind) == 1)
    converged = bool(state.converged) and not ended.any() and (value == 0 or bool(state.here.jacobian.any()))
    x = parameters.rebuild(np.asarray(transform(z), float))["x"]
    return Minimum(x, value, converged, int(state.iteration) + 1, covariance, notes)


def _parameters(start: Any) -> Parameters:
    """What is marked in a start, and its bare numbers, each in a unit of its own."""
    start = numeric(jax.tree.map(lambda leaf: np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf, start))
    leaves = jax.tree.leaves(start)
    if any(np.iscomplexobj(leaf) for leaf in leaves):
        raise TypeError("start must hold real numbers, got complex ones; pass real and imaginary parts side by side")
    if not any(np.size(leaf) for leaf in leaves):
        raise TypeError("start must hold at least one number, got none; pass a number, an array or a pytree of them")
    free = lambda leaf: leaf if is_mark(leaf) else Free(leaf)
    parameters = collect({"x": jax.tree.map(free, start, is_leaf=is_mark)})
    x, transform = np.asarray(parameters.start), parameters.transform
    scale = np.where(transform.kind == 0, np.where(x != 0, np.abs(x), 1.0), transform.scale)
    return replace(parameters, transform=replace(transform, scale=scale))


def _vector(residuals: Callable[[Any], Any], parameters: Parameters, z: Any) -> Any:
    found = residuals(parameters.build(z)["x"])
    if not isinstance(found, (jax.Array, np.ndarray, float, int)) or jnp.iscomplexobj(found) or jnp.size(found) == 0:
        got = f"{found.dtype}{list(found.shape)}" if hasattr(found, "dtype") else type(found).__name__
        raise TypeError(f"residuals must return an array of real numbers, (n,), got {got}; put them in one vector")
    return jnp.ravel(jnp.asarray(found, float))


_values = quick_jit(_vector, static=0)


@partial(quick_jit, static=0)
def _slopes(residuals: Callable[[Any], Any], parameters: Parameters, z: Any) -> Any:
    """Residuals and their Jacobian."""
    push = lambda direction: jax.jvp(partial(_vector, residuals, parameters), (z,), (direction,))
    return jax.vmap(push, out_axes=(None, -1))(jnp.eye(len(z)))


def _covariance(
    parameters: Parameters, z: np.ndarray, here: Squares, at_bound: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(which numbers the residuals do not identify, covariance of x): NaN for those, and all of it where n ≤ p."""
    n, p = here.jacobian.shape
    scale = np.linalg.norm(here.jacobian, axis=0)
    left_out = at_bound | (scale <= 1e-12 * scale.max(initial=0.0) / np.maximum(1.0, np.abs(z)))
    scale = np.where(left_out, 1.0, scale)
    _, values, right = np.linalg.svd(np.where(left_out, 0.0, here.jacobian) / scale, full_matrices=n < p)
    values = np.concatenate([values, np.zeros(len(right) - len(values))])
    flat = values <= SINGULAR * values.max(initial=0.0)
    unidentified = left_out | (flat[:, None] & (np.abs(right) > INVOLVED)).any(axis=0)
    parts = right / np.where(flat, np.inf, values)[:, None] / scale * parameters.transform.slope(z)
    variance = here.value / (n - p) if n > p else np.nan
    return unidentified, np.where(unidentified | unidentified[:, None], np.nan, variance * parts.T @ parts)


def _notes(parameters: Parameters, state: State, unidentified: np.ndarray, steps: int) -> list[str]:
    notes, (n, p) = [], state.here.jacobian.shape
    if not state.converged and state.stalled:
        notes.append(
            "not converged: no step lowers the sum of squares any more; check the residuals, or start elsewhere"
        )
    elif not state.converged:
        notes.append(f"not converged: {steps} Jacobians were not enough; allow more with steps=, or start closer")
    if names := ", ".join(parameters.labels[i] for i in np.flatnonzero(unidentified)):
        notes.append(f"not identified by these residuals: {names}; fix one of them, or start where they matter")
    if n <= p:
        notes.append(f"{n} residuals leave no variance for {p} numbers: the covariance is NaN")
    return notes
