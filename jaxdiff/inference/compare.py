"""`compare`: fits of the same data, by information criteria, data held out and likelihood ratios."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from jaxdiff.inference.comparison import CRITERIA, Comparison, LikelihoodRatio
from jaxdiff.inference.cross_validation import CrossValidation
from jaxdiff.inference.result import Fit
from jaxdiff.inference.run import Run, on_host
from jaxdiff.parameters import path_name
from jaxdiff.runtime.progress import Progress

SAME_LIKELIHOOD = 0.01  # nat, within which two likelihoods are one


@on_host
def compare(
    *fits: Any, names: Sequence[str] | None = None, by: str | None = None, nested: bool | None = None
) -> Comparison:
    """Compare fits of the same data, of one equation or of several: information criteria, fresh data, likelihood ratios.

        AIC = 2k − 2 ln L,  AICc = AIC + 2k(k + 1)/(n − k − 1),  BIC = k ln n − 2 ln L

    Args:
        fits: what `fit` returned, of the same data in the same order; or what `cross_validate` returned, of the same folds; or
            one mapping {name: fit}.
        names: of the fits; None: "1", "2", ….
        by: the criterion by which `.best` and `.ties` choose, "aic", "aicc", "bic" or "held_out"; None: "aic", of
            cross-validations "held_out".
        nested: which fits likelihood ratios test. None: where nesting can be shown, since the larger model, with the numbers
            of the smaller one and the others where the smaller one has them, or at zero, has the likelihood of the smaller; True:
            each in the next larger one, as you say; False: none.

    A score on data held out is compared where all fits have the same data held out. Criteria and tests hold for fits at the
    optimum of their likelihood; what is otherwise is said in `notes`.

    Returns:
        `Comparison`.

    Raises:
        ValueError: fits of different data, fewer than two, a fit that was loaded, or no likelihood by which to choose.
        TypeError: no fits.

    >>> import jaxdiff as jd, numpy as np
    >>> grid, times = jd.Grid.uniform((0.0, 1.0, 8)), np.linspace(0.1, 2.0, 20)
    >>> noise = 0.01 * np.random.default_rng(1).normal(size=20)
    >>> readings = jd.Readings(grid, 1.0, times, np.full(20, 0.5), np.exp(-0.5 * times) + noise, sigma=0.01)
    >>> decay = jd.fit(jd.Diffusion(1.0, decay=jd.Positive(1.0)), readings, progress=False)
    >>> sink = jd.fit(jd.Diffusion(1.0, source=jd.Free(-0.1)), readings, progress=False)
    >>> jd.compare({"decay": decay, "sink": sink}).choose()
    'decay'

    Burnham & Anderson 2002, Model Selection and Multimodel Inference, ISBN 978-0-387-95364-9; likelihood ratios: Wilks 1938,
    doi:10.1214/aoms/1177732360.
    """
    if len(fits) == 1 and isinstance(fits[0], Mapping):
        names, fits = tuple(map(str, fits[0])), tuple(fits[0].values())
    several: list[Any] = list(fits)
    titles = tuple(map(str, names)) if names is not None else tuple(str(i + 1) for i in range(len(several)))
    if len(several) < 2:
        raise ValueError(f"compare needs two fits at least, got {len(several)}; pass them one after the other")
    if len(titles) != len(several) or len(set(titles)) < len(titles):
        raise ValueError(f"names must be {len(several)} different ones, got {', '.join(titles)}")
    kind = CrossValidation if isinstance(several[0], CrossValidation) else Fit
    for one in several:
        if not isinstance(one, kind):
            raise TypeError(
                f"compare takes what jd.fit returned, or jd.cross_validate, all of one kind, got {type(one).__name__}"
            )
    by = by or ("held_out" if kind is CrossValidation else "aic")
    if by not in CRITERIA:
        raise ValueError(f"by must be one of {', '.join(map(repr, CRITERIA))}, got {by!r}")
    if kind is CrossValidation:
        if by != "held_out":
            raise ValueError(f"cross-validations are compared by 'held_out', got {by!r}; pass fits for the others")
        none = np.full(len(several), np.nan)
        for one in several[1:]:
            several[0].difference(one)  # refuses those of other folds
        held_out = np.array([one.mean for one in several])
        k = np.array([np.shape(one.x)[1] for one in several])
        return Comparison(tuple(several), titles, none, k, int(several[0].counts.sum()), held_out, by)
    return _of_fits(several, titles, by, nested)


def _of_fits(fits: list[Fit], names: tuple[str, ...], by: str, nested: bool | None) -> Comparison:
    for name, one in zip(names, fits, strict=True):
        if one.problem is None:
            raise ValueError(f"fit {name} was loaded without its data and model, got no likelihood; fit anew")
        if (reason := _differ(fits[0].measurements, one.measurements)) is not None:
            raise ValueError(f"fits of different data cannot be compared: {names[0]} and {name} {reason}")
    notes, found = _said_of(fits, names), []
    with jax.enable_x64(True):
        for name, one in zip(names, fits, strict=True):
            value, reason = log_likelihood(one)
            found.append(value)
            notes += [f"{name} has no likelihood: {reason}"] if reason else []
        likelihoods, k = np.array(found), np.array([estimated(one) for one in fits])
        n = sum(m.count for m in fits[0].measurements) if np.isfinite(likelihoods).any() else 0
        held_out, said = _held_out(fits)
        tests = () if nested is False else tuple(_ratios(fits, names, likelihoods, k, bool(nested)))
    comparison = Comparison(tuple(fits), names, likelihoods, k, n, held_out, by, tests, tuple(notes + said))
    if not np.isfinite(getattr(comparison, by)).any():
        others = [name for name in CRITERIA if np.isfinite(getattr(comparison, name)).any()]
        mend = f"take by={others[0]!r}" if others else "give validation=, or a loss with a likelihood"
        raise ValueError(f"none of the fits has {CRITERIA[by]}, got {'; '.join(comparison.notes)}; {mend}")
    if (k >= n - 1).any() and np.isfinite(likelihoods).any():
        few = f"{n} data are few for {int(k.max())} numbers: criteria say little"
        comparison = replace(comparison, notes=(*comparison.notes, few))
    return comparison


def log_likelihood(fit: Fit) -> tuple[float, str]:
    """ln L of a fit where it has ended, and why there is none."""
    losses = fit.problem.objective.losses
    for loss, one in zip(losses, fit.measurements, strict=True):
        if loss.as_likelihood is None:
            return np.nan, loss.no_noise(one) or f"{loss.name} has no noise model"
        try:
            loss.as_likelihood.suits(one)
        except ValueError as error:
            return np.nan, str(error)
    if all(loss.likelihood for loss in losses):
        return -float(fit.loss), ""
    predictions = fit.predictions() if callable(fit.predictions) else fit.predictions
    if not predictions or not fit.problem.predictors:
        return float(fit.objective(fit.objective.optimum)), ""
    parts = zip(losses, fit.problem.predictors, predictions, strict=True)
    return -sum(float(loss.as_likelihood.value(predictor, part[0])) for loss, predictor, part in parts), ""


def estimated(fit: Fit) -> float:
    """How many numbers a fit has estimated: parameters, or the freedom of smooth fields, a variance of each measurement without sigma, and correlation times."""
    variances = sum(m.unknown > 0 for m in fit.measurements)
    times = [np.unique(tau[tau > 0]).size for tau in map(np.asarray, filter(_given, fit.correlation_times))]
    own = len(fit.labels) if np.isnan(fit.degrees_of_freedom) else fit.degrees_of_freedom
    return own + variances + sum(times)


def _given(one: Any) -> bool:
    return one is not None


def _differ(ours: Sequence[Any], theirs: Sequence[Any]) -> str | None:
    """In what the data of two fits differ, or None."""
    if len(ours) != len(theirs):
        return f"have {len(ours)} and {len(theirs)} measurements"
    for one, other in zip(ours, theirs, strict=True):
        if type(one) is not type(other):
            return f"are of {type(one).__name__} and {type(other).__name__}"
        for name in ("times", "values", "censored", "positions", "bins", "total"):
            mine, yours = getattr(one, name, None), getattr(other, name, None)
            places = name in ("positions", "bins")
            if places and (one.grid.discrete or other.grid.discrete):
                if one.grid.discrete != other.grid.discrete and not one.on_cells:
                    return "are densities of positions and probabilities of states"
                continue  # cells and states are named otherwise, where the numbers are the same
            if not _equal(mine, yours):
                return _told(name, mine, yours)
    return None


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return one is other or (one is not None and other is not None and np.array_equal(one, other))


def _told(name: str, one: Any, other: Any) -> str:
    size = lambda part: sum(np.size(a) for a in part) if isinstance(part, tuple) else np.size(part)
    if one is None or other is None:
        return f"differ in {name}, which one of them has alone"
    if size(one) != size(other):
        return f"have {size(one)} and {size(other)} {name}"
    return f"have other {name}"


def _said_of(fits: list[Fit], names: tuple[str, ...]) -> list[str]:
    """Where likelihoods of the same data are not of the same kind, or not at their optimum."""
    notes = [f"{name} did not converge" for name, fit in zip(names, fits, strict=True) if not fit.converged]
    for parts in zip(*(fit.measurements for fit in fits), strict=True):
        known = [one.known for one in parts]
        sigma = [getattr(one, "sigma", None) for one in parts]
        if len(set(known)) > 1:
            which = ", ".join(name for name, one in zip(names, known, strict=True) if one)
            notes.append(
                f"sigma is known in {which} alone; elsewhere a variance is estimated, which counts as one number"
            )
        elif not all(_equal(one, sigma[0]) for one in sigma[1:]):
            notes.append(
                "the fits weigh the data differently, as their sigma differ; their likelihoods are of the same data"
            )
        densities = {getattr(one, "density", None) for one in parts}
        if len(densities) > 1:
            notes.append("some fits have exact densities and others those of Euler steps, which are another model")
    noisy = [name for name, fit in zip(names, fits, strict=True) if any(map(_given, fit.correlation_times))]
    if noisy and len(noisy) < len(fits):
        notes.append(
            f"the noise of {', '.join(noisy)} is fitted as correlated, elsewhere as independent; errors='iid' compares them alike"
        )
    for name, fit in zip(names, fits, strict=True):
        sizes = [
            np.unique(np.asarray(getattr(m, "size", 0))).size
            for m in fit.measurements
            if m.family == "multinomial" and m.known
        ]
        other = [loss.name for loss in fit.problem.objective.losses if loss.as_likelihood and not loss.likelihood]
        if other and (len(fit.measurements) > 1 or max(sizes, default=1) > 1):
            notes.append(
                f"{name} minimised {other[0]}, whose optimum is not that of its likelihood; pass loss=jd.negative_log_likelihood"
            )
    return notes


def _held_out(fits: list[Fit]) -> tuple[np.ndarray, list[str]]:
    """The loss of each fit on data held out, where it is the same data and the same loss."""
    scores = np.array([np.nan if fit.validation_loss is None else fit.validation_loss for fit in fits])
    if np.isnan(scores).all():
        return scores, []
    none, first = np.full(len(fits), np.nan), next(fit for fit in fits if fit.validation_loss is not None)
    if np.isnan(scores).any():
        return none, ["some fits have no data held out, which are then not compared"]
    if any(_differ(first.held_out, fit.held_out) for fit in fits):
        return none, ["other data are held out by each fit, which are then not compared"]
    if len({fit.loss_name for fit in fits}) > 1:
        return none, [f"the losses on data held out differ, {', '.join(sorted({fit.loss_name for fit in fits}))}"]
    return scores, []


def _ratios(fits: list[Fit], names: tuple[str, ...], likelihoods: np.ndarray, k: np.ndarray, asked: bool) -> Any:
    """Tests of each fit against the largest one that is nested in it."""
    from scipy import stats

    order = np.argsort(k, kind="stable")
    for place, j in enumerate(order):
        for i in order[:place][::-1]:
            if k[i] == k[j] or not np.isfinite(likelihoods[[i, j]]).all():
                continue
            known = "nested as you say" if asked else _nested(fits[i], fits[j], likelihoods[i])
            if known:
                freedom, statistic = float(k[j] - k[i]), 2 * float(likelihoods[j] - likelihoods[i])
                p = float(stats.chi2.sf(max(statistic, 0.0), freedom))
                yield LikelihoodRatio(names[i], names[j], statistic, freedom, p, known)
                break


def _nested(small: Fit, large: Fit, likelihood: float) -> str:
    """How it is known that the smaller model is the larger one with some numbers held, or nothing."""
    if not set(small.labels) < set(large.labels) or estimated(large) - estimated(small) != len(large.labels) - len(
        small.labels
    ):
        return ""
    own = dict(zip(small.labels, small.columns()[0], strict=True))
    tree = small.model if small.function is None else small.arguments
    leaves = {path_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}
    held = {label: _value_of(label, leaves) for label in large.labels if label not in own}
    parameters = large.problem.parameters
    transform = parameters.transform
    with np.errstate(all="ignore"):
        z = np.asarray(transform.inverse(np.array([own.get(label, held.get(label)) for label in large.labels])), float)
    limit = np.broadcast_to(np.asarray(transform.limit), z.shape)
    at_wall = (np.asarray(transform.kind) != 0) & ~(np.abs(z) < limit)
    z = np.clip(np.nan_to_num(z, nan=0.0, posinf=np.inf, neginf=-np.inf), -limit, limit)
    losses = tuple(loss.as_likelihood for loss in large.problem.objective.losses)
    objective = replace(large.problem.objective, losses=losses)
    try:
        there = -Run(objective, parameters, large.measurements, large.options, Progress(False)).value(z)
    except ValueError:
        return ""
    if not abs(there - likelihood) < SAME_LIKELIHOOD + 1e-9 * abs(likelihood):
        return ""
    at = ", ".join(f"{label} = {value:.4g}" for label, value in list(held.items())[:4])
    wall = "; held at the end of its range, where p is at most this" if at_wall.any() else ""
    return f"nested, as with {at} the larger has the likelihood of the smaller{wall}"


def _value_of(label: str, leaves: dict[str, Any]) -> float:
    """Where the smaller model has a number that the larger one fits; zero where it has none."""
    name, _, index = label.partition("[")
    leaf, at = np.asarray(leaves.get(name, 0.0)), tuple(int(i) for i in index.rstrip("]").split(",") if i)
    fits_in = len(at) == leaf.ndim and all(i < size for i, size in zip(at, leaf.shape, strict=True))
    return float(leaf[at]) if fits_in and np.issubdtype(leaf.dtype, np.number) else 0.0
