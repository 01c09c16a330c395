"""`multistart`: fits of one model to the same data from many starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from jaxdiff.inference.batch import LEFT, BatchData
from jaxdiff.inference.fit import as_tuple, checked_count, finished, loss_name, precision
from jaxdiff.inference.fit_many import batched_method, fit_batch, generator
from jaxdiff.inference.fits import Fits
from jaxdiff.inference.losses import choose
from jaxdiff.inference.objective import Objective, assemble, start_vector
from jaxdiff.inference.result import Fit
from jaxdiff.inference.run import STEPS, Run, on_host
from jaxdiff.inference.sequential import together
from jaxdiff.integration.options import SolverOptions
from jaxdiff.measurements.measurement import Measurement
from jaxdiff.measurements.stacks import repeated
from jaxdiff.model.equations import Equation
from jaxdiff.parameters import Parameters
from jaxdiff.runtime.devices import choose as chosen
from jaxdiff.runtime.progress import Progress

SHARE, LEAST = 4, 8  # one start in so many goes on after the triage, and so many at least
SAME_LOSS = 1e-6  # relative difference of the losses of one optimum
SAME_PLACE = 1e-4  # of the loss: what the quadratic says of the difference between two places at one optimum


@on_host
def multistart(
    model: Equation | Callable[..., Any],
    measurements: Measurement | Sequence[Measurement],
    *,
    starts: int = 64,
    spread: float = 1.5,
    triage: int | None = 30,
    key: Any = None,
    parameters: Mapping[str, Any] | None = None,
    loss: Callable[[Any, Any], Any] | None = None,
    optimizer: Any = None,
    steps: int | None = None,
    scheme: Any = None,
    stepper: Any = None,
    substeps: int | None = None,
    tolerance: float | None = None,
    dtype: Any = None,
    devices: Any = None,
    batch: int | None = None,
    progress: bool = True,
) -> Fit:
    """Fit from many starts, and return the best, refined by `fit` from there.

        zₖ = z₀ + spread Φ⁻¹(uₖ),   u a Latin hypercube, z what the optimiser sees

    The first start is the model's own. The others scatter: a Free number normally around its start, with `spread` times its
    magnitude (1 where it is zero and the data tell no scale); a Positive one lognormally, by factors of e^±spread; a
    Bounded one evenly over its interval. The fits are one batch where `fit_many` takes such measurements, else they follow one another.

    Args:
        model, measurements, parameters, loss, steps, scheme, stepper, substeps, tolerance, dtype, progress: as in `fit`.
        optimizer, devices, batch: as in `fit_many`.
        starts: how many.
        spread: of the starts [1].
        triage: steps that all take; of those that are not at an optimum by then the lowest quarter, and eight at least, go on, and the others
            are left behind. None: all go on.
        key: of jax.random, by which they are drawn; None: jax.random.key(0).

    Returns:
        `Fit`, whose `optima` are the distinct optima, best first: {"parameters", "loss", "count"} with the number of starts
        that ended there. A note says how many ended at each, and how many were left behind.

    Raises:
        ValueError: no start converges, or as `fit_many`.
        TypeError: arguments of the wrong kind.

    >>> import jaxdiff as jd, numpy as np
    >>> grid, times = jd.Grid.uniform((0.0, 1.0, 40)), np.linspace(0.01, 0.1, 10)
    >>> values = 1 + np.cos(np.pi * 0.25) * np.exp(-0.5 * np.pi**2 * times)
    >>> start = 1 + np.cos(np.pi * grid.centers[0])
    >>> readings = jd.Readings(grid, start, times, np.full(10, 0.25), values, sigma=0.01)
    >>> fit = jd.multistart(jd.Diffusion(jd.Positive(9.0)), readings, starts=8, progress=False)
    >>> round(fit.parameters["diffusivity"], 2), fit.optima[0]["count"]
    (0.5, 8)

    Latin hypercube: McKay, Beckman & Conover 1979, doi:10.1080/00401706.1979.10489755.
    """
    method = batched_method(optimizer)
    steps, size = checked_count(steps, "steps") or STEPS, checked_count(batch, "batch")
    count, few = checked_count(starts, "starts") or 1, checked_count(triage, "triage")
    if not 0 < spread < np.inf:
        raise ValueError(f"spread must be positive and finite, got {spread!r}; 1.5 scatters by factors of about four")
    measured = as_tuple(measurements, "measurements")
    with precision(dtype):
        fitted, function, sources, _ = assemble(model, parameters, measured, ())
        objective = Objective(function, choose(loss, measured), *sources)
        options = SolverOptions(scheme, stepper, substeps, tolerance)
        stacks = tuple(repeated(one, count) for one in measured)
        run = Run(objective, fitted, tuple(one.template for one in stacks), options, Progress(False))
        own = tuple({} if one.template.discretised else one.data() for one in stacks)
        data = BatchData(_starts(fitted, count, float(spread), generator(key)), own, {})
        many, stacks = together(run, data, stacks, method, steps, chosen(devices), size)
        many.triage = None if few is None else (few, max(-(-count // SHARE), LEAST))
        run = many.run
        fits = fit_batch(many, stacks, loss_name(objective, loss, len(measured)), progress)
        optima = _optima(fits)
        if not optima:
            raise ValueError(
                f"none of {count} starts converged; bound the parameters with jd.Bounded, or start elsewhere"
            )
        best = replace(run.parameters, start=fits.x[optima[0][0]])
        refined = Run(objective, best, measured, options, Progress(progress))
        try:
            found, _ = finished(refined, refined.levenberg_marquardt(method, steps), loss, measured, method, "auto")
        finally:
            refined.progress.close()
    listed = tuple(
        {"parameters": run.parameters.split(fits.x[i]), "loss": float(fits.loss[i]), "count": size}
        for i, size in optima
    )
    left = int((fits.status == LEFT).sum())
    failed = int((~fits.converged).sum()) - left
    note = f"{optima[0][1]} of {count} starts ended at this optimum{_told(listed[1:])}"
    note += f"; {failed} did not converge" if failed else ""
    note += f"; {left} were left behind after {few} steps, as others were lower" if left else ""
    start = run.parameters.split(np.asarray(fitted.start))
    return replace(found, optima=listed, start=start, notes=(*found.notes, *fits.notes, note))


def _told(others: tuple[dict[str, Any], ...]) -> str:
    """How many starts ended at each of the other optima."""
    if not others:
        return ""
    each = [f"{one['count']} with loss {one['loss']:.6g}" for one in others[:3]]
    more = [f"{sum(one['count'] for one in others[3:])} at {len(others) - 3} more"] if len(others) > 3 else []
    what = "optimum" if len(others) == 1 else "optima"
    return f"; {len(others)} other {what}: {', '.join([*each, *more])}"


def _starts(fitted: Parameters, count: int, spread: float, rng: Any) -> np.ndarray:
    """A Latin hypercube of starts (starts, p) in the optimiser's coordinates, the first at the model's own."""
    from scipy import special

    own, kind = start_vector(fitted), np.asarray(fitted.transform.kind)
    order = rng.permuted(np.tile(np.arange(count)[:, None], (1, len(own))), axis=0)
    share = (order + rng.uniform(size=order.shape)) / count
    logit = np.log(share) - np.log1p(-share)
    z = np.where(kind == 2, logit, own + spread * special.ndtri(share))
    limit = 0.9 * np.asarray(fitted.transform.limit)
    z = np.clip(z, -limit, limit)
    z[0] = own
    return z


def _optima(fits: Fits) -> list[tuple[int, int]]:
    """(the best fit of it, how many ended there) for every distinct optimum, best first."""
    left = np.flatnonzero(fits.converged)
    left = left[np.argsort(fits.loss[left], kind="stable")]
    begun = np.abs(fits.history[:, 0])
    floor = 1e-10 * np.nanmedian(begun[np.isfinite(begun)]) if np.isfinite(begun).any() else 0.0
    found = []
    while len(left):
        i = left[0]
        level = np.abs(fits.loss[left]) * SAME_LOSS + floor
        move = fits.z[left] - fits.z[i]
        between = np.einsum("bi,ij,bj->b", move, fits.curvature[i], move)
        near = (np.abs(move) <= 1e-3 * (1 + np.abs(fits.z[i]))).all(1)
        same = (fits.loss[left] - fits.loss[i] <= level) & (
            near | (np.abs(between) <= SAME_PLACE * np.abs(fits.loss[i]) + floor)
        )
        same[0] = True
        found.append((int(i), int(same.sum())))
        left = left[~same]
    return found
