"""How a fit was made, in sentences for a paper: every setting that its numbers depend on."""

from __future__ import annotations

import platform
from collections import Counter
from importlib import metadata
from typing import Any

import numpy as np

from jaxdiff.model.coefficients import is_number

_LOSSES = {
    "mse": "mean square",
    "kl_divergence": "Kullback–Leibler divergence",
    "negative_log_likelihood": "negative log likelihood",
}
_MARKS = ("", "positive", "bounded")  # by `Transform.kind`


def methods(fit: Any) -> str:
    """The paragraph on methods: data, model, discretisation, parameters and starts, loss, search, error bars, software.

    >>> import jaxdiff as jd, numpy as np
    >>> grid, times = jd.Grid.uniform((0.0, 1.0, 8)), np.array([1.0, 2.0, 3.0])
    >>> readings = jd.Readings(grid, 1.0, times, np.full(3, 0.5), np.exp(-0.7 * times), sigma=0.01)
    >>> fit = jd.fit(jd.Diffusion(1.0, decay=jd.Positive(1.0)), readings, progress=False)
    >>> print(methods(fit).split(". ")[0])
    3 values (Readings) were described by jaxdiff.Diffusion on 8 cells of x from 0 to 1, with x-: reflecting, x+: reflecting
    """
    sentences = [*_model(fit), *_numbers(fit), *_search(fit), *_errors(fit), _software()]
    return " ".join(sentence + "." for sentence in sentences)


def _model(fit: Any) -> list[str]:
    if not fit.measurements:
        return []
    counts: Counter[str] = Counter()
    for one in fit.measurements:
        counts[type(one).__name__] += one.count
    data = " and ".join(f"{n:,} values ({kind})" for kind, n in counts.items())
    several = f" of {len(fit.measurements)} experiments" if len(fit.measurements) > 1 else ""
    equations = [fit.equation_of(one) for one in fit.measurements]
    models = dict.fromkeys(
        f"{_equation(equation)} on {_grid(one.grid)}{_walls(equation, one.grid)}"
        for equation, one in zip(equations, fit.measurements, strict=True)
    )
    options = fit.options
    steps = "steps in time chosen by the library"
    if options.stepper is not None:
        steps = f"{options.substeps or 1} steps of {type(options.stepper).__name__} between outputs"
    tolerance = "" if options.tolerance is None else f", tolerance {options.tolerance:g} of the peak"
    return [
        f"{data}{several} were described by {'; '.join(models)}",
        f"Space was discretised by {_scheme(options.scheme)}, with {steps}{tolerance}",
    ]


def _scheme(scheme: Any) -> str:
    return "modes" if scheme.in_modes else f"finite volumes of order {scheme.order}"


def _equation(equation: Any) -> str:
    name = f"jaxdiff.{type(equation).__name__}"
    sense = getattr(equation, "interpretation", None)
    return name if sense is None else f"{name} (interpretation: {sense})"


def _grid(grid: Any) -> str:
    if grid.discrete:
        return f"{int(np.prod(grid.shape)):,} states"
    axes = [
        f"{n} cells of {name} from {edges[0]:g} to {edges[-1]:g}"
        for name, n, edges in zip(grid.names, grid.shape, grid.edges, strict=True)
    ]
    return " × ".join(axes) + ("" if grid.geometry == "cartesian" else f" ({grid.geometry})")


def _walls(equation: Any, grid: Any) -> str:
    if grid.discrete or not hasattr(equation, "transport"):
        return ""
    sides = zip(grid.sides, equation.transport().sides(grid), strict=True)
    return ", with " + ", ".join(f"{name}: {_wall(side)}" for name, side in sides)


def _wall(side: Any) -> str:
    kind, zero = type(side).__name__, all(is_number(x) and x == 0 for x in side.numbers.values())
    return {"Flux": "reflecting", "Dirichlet": "absorbing"}.get(kind, kind) if zero else kind


def _numbers(fit: Any) -> list[str]:
    if not fit.labels or len(fit.labels) > 20:
        return [f"{len(fit.labels)} numbers were fitted"]
    kinds = [0] * len(fit.labels) if fit.problem is None else np.asarray(fit.problem.parameters.transform.kind)
    starts = [f"from {x:g}" for value in fit.start.values() for x in np.ravel(value)] or [""] * len(fit.labels)
    hows = [", ".join(filter(None, (_MARKS[kind], start))) for kind, start in zip(kinds, starts, strict=False)]
    told = [f"{label} ({how})" if how else label for label, how in zip(fit.labels, hows, strict=True)]
    return [f"Fitted were {', '.join(told)}"]


def _search(fit: Any) -> list[str]:
    steps = max(len(fit.history) - 1, 0)
    by = f" by {fit.search}" if fit.search else ""
    end = "at an optimum" if fit.converged else "before an optimum was reached"
    name = _LOSSES.get(fit.loss_name, fit.loss_name.replace("_", " "))
    found = [f"The {name} was minimised{by}, which ended {end} after {steps} steps"]
    if fit.validation_loss is not None:
        held = sum(one.count for one in fit.held_out)
        found.append(f"{held:,} values were held out, on which the loss is {fit.validation_loss:.6g}")
    return found


def _errors(fit: Any) -> list[str]:
    if not np.isfinite(fit.covariance).any():
        return ["No standard errors are known"]
    kinds = {one.family for one in fit.measurements}
    information = {
        "gaussian": "the Gauss–Newton curvature of readings",
        "multinomial": "Fisher's information of counts",
        "density": "the observed information",
    }
    of = " and ".join(information[kind] for kind in information if kind in kinds) or "the curvature of the loss"
    found = [str(one)[0].upper() + str(one)[1:] for one in fit.smooths]
    if fit.smooths:
        of = "the Bayesian covariance, of the expected information and the roughness of smooth fields"
    if "sandwich" in fit.search:
        of = "the square of each residual (sandwich, HC3)"
    found.append(f"Standard errors are from {of}, 95 % intervals symmetric in the scale of the search")
    if any(tau is not None for tau in fit.correlation_times):
        found.append("Noise was taken as correlated in time, first-order autoregressive at each position")
    describes = {True: "describes", False: "does not describe", None: "could not be tested on"}[fit.verdict.describes]
    return [*found, f"By tests of the residuals at a level of 2 % in all, the model {describes} these data"]


def _software() -> str:
    try:
        own = f"jaxdiff {metadata.version('jaxdiff')}"
    except metadata.PackageNotFoundError:
        own = "jaxdiff"
    import jax

    device = jax.devices()[0]
    return f"Computed with {own} on JAX {jax.__version__} ({device.platform}), Python {platform.python_version()}"
