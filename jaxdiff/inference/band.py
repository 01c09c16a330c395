"""`Band`: a function of a fitted model along positions, and how well it is known, at each and everywhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.inference.uncertainty import listed, quantile
from jaxdiff.model.coefficients import Potential
from jaxdiff.runtime.compilation import quick_jit
from jaxdiff.simulation.simulate import as_key

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POINTS = 200
SHARE = 0.01  # of positions that are left out at either end
ROUNDOFF = 1e-12  # of the largest slope, below which a parameter does not count
MOST = 2000  # positions
TAIL = 5.0  # draws beyond a simultaneous band, at least
CLEAR = 4.0  # standard errors above zero from which on a function is positive
LOOKS = 100  # draws that tell whether a function may be below zero
AT_ONCE = 10**7  # numbers


@dataclass(frozen=True)
class Band:
    """A function along positions with its bands, in NumPy float64; see `Fit.band`.

        P(lower ≤ truth ≤ upper) = level at each position,   P(simultaneous_lower ≤ truth ≤ simultaneous_upper at all) = level

    Attributes:
        positions: `(n,)` or `(n, ndim)` [length].
        value: `(n,)`.
        errors: `(n,)`, standard errors, of the logarithm where `logarithmic`.
        lower, upper: `(n,)`, at each position.
        simultaneous_lower, simultaneous_upper: `(n,)`, at all; NaN where they were not asked for.
        critical: of the simultaneous band, in standard errors.
        level: of both.
        logarithmic: whether they are of the logarithm.
        name: of the function.

    >>> import numpy as np
    >>> from jaxdiff.inference.band import Band
    >>> one = np.ones(1)
    >>> Band(0 * one, one, one, 0 * one, 2 * one, -one, 3 * one, 2.0, 0.95, False, "drift").holds(lambda x: x + 1.5)
    True
    """

    positions: np.ndarray
    value: np.ndarray
    errors: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    simultaneous_lower: np.ndarray
    simultaneous_upper: np.ndarray
    critical: float
    level: float
    logarithmic: bool
    name: str

    def holds(self, truth: Callable[..., Any]) -> bool:
        """Whether a function lies in the simultaneous band at all positions."""
        at = self.positions if self.positions.ndim > 1 else self.positions[:, None]
        values = np.array([float(truth(*place)) for place in at])
        return bool(np.all((values >= self.simultaneous_lower) & (values <= self.simultaneous_upper)))

    def plot(self) -> Figure:
        """Draw the function with both bands; of several coordinates the value and its standard error over position.

        Returns:
            A matplotlib figure.
        """
        from jaxdiff.figures.bands import sheet

        return sheet([self])


def band(fit: Any, function: Any, at: Any, level: float, simultaneous: bool, draws: int, key: Any) -> Band:
    """See `Fit.band`."""
    parameters = fit.required_problem().parameters
    if isinstance(level, bool) or not isinstance(level, (int, float, np.number)) or not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level!r}")
    if isinstance(draws, bool) or not isinstance(draws, (int, np.integer)) or not 100 <= draws <= 1_000_000:
        raise ValueError(f"draws must be a whole number from 100 to 1000000, got {draws!r}")
    if simultaneous and draws * (1 - level) < TAIL:
        raise ValueError(
            f"a band of level {level:g} everywhere wants {int(np.ceil(TAIL / (1 - level)))} draws or more, got {draws}; pass draws=, or simultaneous=False"
        )
    name, function = _named(fit, function)
    positions = _positions(fit, at)
    places = positions if positions.ndim > 1 else positions[:, None]
    with jax.enable_x64(True):
        x = fit.columns()[0]
        evaluate = lambda x: _along(fit.problem.objective, function, parameters, x, places)
        value, slopes = (np.asarray(part, float) for part in _expanded(evaluate, x))
    if not (np.isfinite(value).all() and np.isfinite(slopes).all()):
        where = places[~(np.isfinite(value) & np.isfinite(slopes).all(1))][0]
        raise ValueError(f"{name} or its slope by a parameter is not finite at {where}; ask at other positions")
    root = _root(_covariance(fit, slopes, name))
    normal = np.asarray(jax.random.normal(as_key(0 if key is None else key), (int(draws), root.shape[1])), float)
    far = bool((value > CLEAR * np.sqrt(((slopes @ root) ** 2).sum(1))).all())
    logarithmic = far or (
        bool((value > 0).all()) and _stays_positive(evaluate, parameters.transform, x, normal[:LOOKS] @ root.T)
    )
    root = _root(_covariance(fit, slopes / value[:, None], name)) if logarithmic else root
    slopes = slopes / value[:, None] if logarithmic else slopes
    spread = slopes @ root
    errors = np.sqrt((spread**2).sum(1))
    freedom = _freedom(fit)
    pointwise, critical = float(quantile(level, freedom)), np.nan
    if simultaneous:
        known, largest = errors > 0, np.zeros(len(normal))
        for rows in np.array_split(np.arange(len(normal)), -(-normal.shape[0] * len(places) // AT_ONCE)):
            largest[rows] = np.max(np.abs(normal[rows] @ spread[known].T) / errors[known], axis=1, initial=0.0)
        if np.isfinite(freedom):
            largest /= np.sqrt(np.random.default_rng(0).chisquare(freedom, len(largest)) / freedom)
        critical = max(float(np.quantile(largest, level)), pointwise)
    centre = np.log(value) if logarithmic else value
    back = np.exp if logarithmic else np.asarray
    ends = [back(centre + sign * width * errors) for width in (pointwise, critical) for sign in (-1, 1)]
    low, high, lowest, highest = (np.asarray(one, float) for one in ends)
    return Band(positions, value, errors, low, high, lowest, highest, critical, float(level), logarithmic, name)


def _stays_positive(evaluate: Callable[[Any], Any], transform: Any, x: np.ndarray, moves: np.ndarray) -> bool:
    """Whether a function is positive wherever the error bars of parameters reach, each on its own scale.

    A number that is free to be zero or less has no logarithm, though its estimate is above zero.
    """
    z = np.asarray(transform.inverse(x), float)
    slope = np.asarray(transform.slope(z), float)
    reach = np.divide(moves, slope, out=np.zeros_like(moves), where=np.isfinite(slope) & (slope != 0))
    limit = np.broadcast_to(np.asarray(transform.limit), z.shape)
    there = np.asarray(transform(np.clip(np.where(np.isfinite(z), z + reach, z), -limit, limit)), float)
    there = np.where(np.isfinite(there), there, x)
    with jax.enable_x64(True):
        return bool(quick_jit(lambda rows: jnp.all(jax.lax.map(lambda row: jnp.min(evaluate(row)) > 0, rows)))(there))


def _freedom(fit: Any) -> float:
    """Degrees of freedom of Student's t, where the variance is that of residuals; else infinite."""
    losses = fit.problem.objective.losses
    sizes = [m.unknown * loss.squares for m, loss in zip(fit.measurements, losses, strict=True)]
    taken = float(np.nan_to_num(fit.degrees_of_freedom, nan=len(fit.labels)))
    return max(float(np.sum(sizes)) - taken, 1.0) if any(sizes) else np.inf


def _named(fit: Any, function: Any) -> tuple[str, Callable[..., Any]]:
    if not isinstance(function, str):
        if not callable(function):
            raise TypeError(
                f"band takes a function(model, x) or the name of a coefficient, got {type(function).__name__}"
            )
        return getattr(function, "__name__", "function").replace("<lambda>", "function"), function
    coefficient = getattr(fit.models[0].equation, function, None)
    if coefficient is None or function.startswith("_"):
        raise ValueError(
            f"the equation {type(fit.models[0].equation).__name__} has no {function!r}; pass function(model, x)"
        )
    if isinstance(coefficient, Potential):
        return function, lambda model, *x: -jax.grad(lambda first: getattr(model, function).energy(first, *x[1:]))(x[0])

    def read(model: Any, *x: Any) -> Any:
        found = getattr(model, function)
        return found(*x) if callable(found) else jnp.asarray(found)

    return function, read


def _positions(fit: Any, at: Any) -> np.ndarray:
    grid = fit.measurements[0].grid
    if at is None:
        if grid.ndim > 1 or grid.discrete:
            raise ValueError("positions on several axes or of states are not chosen by themselves; pass at=, (n, ndim)")
        seen = [np.ravel(one) for m in fit.measurements for one in _seen(m)]
        ends = np.quantile(np.concatenate(seen), [SHARE, 1 - SHARE]) if seen else grid.edges[0][[0, -1]]
        return np.linspace(float(ends[0]), float(ends[1]), POINTS)
    at = np.atleast_1d(np.asarray(at, float))
    if at.ndim > 2 or not 1 <= len(at) <= MOST or not np.isfinite(at).all():
        raise ValueError(f"at must be 1 to {MOST} finite positions, (n,) or (n, ndim), got the shape {at.shape}")
    if (at.shape[1] if at.ndim > 1 else 1) != grid.ndim:
        raise ValueError(f"at must have {grid.ndim} coordinates at each position, got the shape {at.shape}")
    return at


def _seen(measurement: Any) -> tuple[Any, ...]:
    """Where individuals were."""
    if measurement.on_cells and measurement.family != "samples":
        return ()
    found = getattr(measurement, "positions", None) or getattr(measurement, "samples", None) or ()
    return tuple(found)


def _along(objective: Any, function: Any, parameters: Any, x: Any, places: Any) -> Any:
    model = objective.unpack(parameters.rebuild(x))[0].equation

    def one(place: Any) -> Any:
        found = jnp.asarray(function(model, *place))
        if found.size != 1:
            raise ValueError(f"the function must give one number at a point, got the shape {found.shape}")
        return found.reshape(())

    return jax.vmap(one)(jnp.asarray(places))


def _expanded(evaluate: Callable[[Any], Any], x: np.ndarray) -> tuple[Any, Any]:
    return quick_jit(lambda x: (evaluate(x), jax.jacfwd(evaluate)(x)))(x)


def _covariance(fit: Any, slopes: np.ndarray, name: str) -> np.ndarray:
    """That of the parameters that count."""
    counts = np.any(np.abs(slopes) > ROUNDOFF * np.abs(slopes).max(initial=0.0), axis=0)
    unknown = counts & ~np.isfinite(np.diag(fit.covariance))
    if unknown.any():
        names = listed([fit.labels[i] for i in np.flatnonzero(unknown)])
        raise ValueError(f"there is no band of {name}, as {names} have no error bars; see fit.notes")
    return np.where(np.isfinite(fit.covariance) & counts & counts[:, None], fit.covariance, 0.0)


def _root(covariance: np.ndarray) -> np.ndarray:
    """L, L Lᵀ = cov, in units in which all numbers are alike."""
    scale = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    unit = np.where(scale > 0, scale, 1.0)
    values, vectors = np.linalg.eigh(covariance / unit / unit[:, None])
    return unit[:, None] * vectors * np.sqrt(np.maximum(values, 0.0))
