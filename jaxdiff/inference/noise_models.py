"""The noise models behind error bars: independent, correlated in time (a fit with AR(1) noise, or widened), sandwich."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from jaxdiff.inference import smooth_search
from jaxdiff.inference.input_noise import InputNoise
from jaxdiff.inference.levenberg_marquardt import LevenbergMarquardt
from jaxdiff.inference.levenberg_marquardt_steps import begin
from jaxdiff.inference.loss import Expansion
from jaxdiff.inference.run import STEPS, Run, SearchResult
from jaxdiff.inference.uncertainty import Uncertainty, uncertainty
from jaxdiff.measurements.autocorrelation import LEVEL, correlations, effective, estimate

ERRORS = ("auto", "iid", "autocorrelated", "sandwich")
PASSES = 6  # of estimating the correlation time and fitting with it
SETTLED = 0.02  # relative change of what correlation leaves to one, at which a pass is the last
STEEP = 0.99  # correlation of neighbours beyond which noise is not distinguished from what a model misses
FAR = 3.0  # widened error bars that a refit may move an estimate
LITTLE = 0.1  # error bars that noise of inputs may move an estimate, and be left
LONE = 4  # independent readings below which a refit follows a misfit as readily as noise
FEW = 30  # independent readings below which a correlation time is hardly known


class Estimates(NamedTuple):
    """What a fit ends with under its noise model: z and the loss around it, the function that gives their uncertainty, notes,
    and per measurement the correlation time of the noise at each row, None where it is independent."""

    z: np.ndarray
    here: Expansion | None
    uncertainty: Callable[..., Uncertainty]
    notes: tuple[str, ...]
    correlation_times: tuple[np.ndarray | None, ...]

    def with_inputs(self, inputs: InputNoise, run: Run) -> tuple[Estimates, Uncertainty]:
        """The estimates with the noise of measured inputs taken off, and their uncertainty with it in."""
        bare = self.uncertainty()
        if not np.any(inputs.covariance):
            return self._replace(notes=(*self.notes, *inputs.notes)), bare
        found = self.uncertainty(inputs=inputs.covariance)
        deviation = np.sqrt(np.diag(found.covariance)) / np.abs(run.parameters.transform.slope(self.z))
        moved = np.abs(inputs.shift) / np.where(deviation > 0, deviation, np.inf)
        z, here, most = self.z, self.here, float(np.nanmax(moved, initial=0.0))
        times = f"{widening(found, bare):.2g} times those without it (sigma=0 if exact)"
        note = f"noise of {inputs.source} is in the error bars, {times}"
        if LITTLE < most < FAR:  # else it is not worth it, or too much for a first order
            z = np.asarray(self.z + inputs.shift)
            here, found = run.around(z), self.uncertainty(z=z, inputs=inputs.covariance)
            note += f", and what it moves on average, {most:.2g} error bars, is taken off the estimates"
        elif most >= FAR:
            note += f"; it also moves the estimates, by {most:.2g} error bars, which nothing here takes off"
        return self._replace(z=z, here=here, notes=(*self.notes, note)), found


class _Correlation(NamedTuple):
    """The correlation of the noise of one measurement: the row before each one (of readings alone), the correlation times."""

    last: np.ndarray
    tau: np.ndarray | None
    rho: np.ndarray | None  # of each row with the one before

    @property
    def independent(self) -> float:
        """How many independent readings it holds."""
        if not len(self.last):
            return np.inf
        return float(len(self.last)) if self.rho is None else effective(self.rho)

    @property
    def widening(self) -> float:
        """By what its correlation widens error bars."""
        return 1.0 if self.rho is None else float(np.sqrt(len(self.rho) / self.independent))

    @property
    def typical(self) -> float:
        """The correlation of neighbours in time, of those that have any."""
        return 0.0 if self.rho is None else float(np.median(self.rho[self.rho > 0]))


def estimates(run: Run, outcome: SearchResult, method: Any, errors: str, reason: str | None) -> Estimates:
    """The estimates of a fit under a noise model, fitted again where that asks for it, with what gives their error bars.

    errors: "iid" takes noise as independent; "auto" whitens the residuals by AR(1) noise at each sensor where correlation is
    found, and fits again until its correlation time stays; "autocorrelated" does so whether or not a test finds any;
    "sandwich" takes the square of each residual for its variance, over what the fit leaves of it (HC3)
    method: what minimised; after an optax transformation nothing is fitted again; reason: why there are no error bars, or None

    Where correlation is so steep, or a refit moves the estimates so far, that residuals rather follow what the model
    misses, the estimates stay and error bars are widened by √((1 + ρ)/(1 − ρ)).
    """
    measured, parameters, z, here = run.measurements, run.parameters, outcome.z, outcome.here
    unknown = np.array([m.unknown * loss.squares for m, loss in zip(measured, run.objective.losses, strict=True)])
    taken = lambda z, here: None if run.smoothing is None or here is None else smooth_search.prior(run, z, here)
    free = lambda z, here: len(z) if (prior := taken(z, here)) is None else prior.freedom
    of = lambda z, here, **how: partial(
        uncertainty, parameters, z=z, here=here, reason=reason, sizes=unknown, prior=taken(z, here), **how
    )
    anew = of(z, here)
    iid = Estimates(z, here, anew, (), (None,) * len(measured))
    if here is None or errors == "iid" or not np.isfinite((bare := anew()).errors).any():
        return iid
    iid = iid._replace(uncertainty=lambda **how: anew(**how) if how else bare)
    if errors == "sandwich":
        return _sandwich(run, iid, unknown)
    noise = _correlations(run, here, None, LEVEL if errors == "auto" else 1.0)
    if all(one.tau is None for one in noise):
        none = "errors='autocorrelated' found too few rows that follow each other at a sensor; noise is taken as independent"
        return iid if errors == "auto" else iid._replace(notes=(none,))
    broad = of(z, here, widening=np.array([one.widening for one in noise]), freedom=_count(noise) - free(z, here))
    wide = broad()
    kept = iid._replace(uncertainty=broad, correlation_times=tuple(one.tau for one in noise))
    if not isinstance(method, LevenbergMarquardt):
        return kept._replace(notes=_notes(noise, ":", wide, bare))
    predictors, smoothing, again = run.predictors, run.smoothing, _refitted(run, method, z, noise)
    if again is not None:
        moved = np.abs(parameters.transform(again[0]) - parameters.transform(z))
        if not np.nanmax(moved / np.where(wide.errors > 0, wide.errors, np.inf), initial=0.0) > FAR:
            z, here, fitted = again
            fine = of(z, here, freedom=_count(fitted) - free(z, here))
            notes = _notes(fitted, ": fitted with AR(1) noise,", fine(), bare)
            return Estimates(z, here, fine, notes, tuple(one.tau for one in fitted))
    run.predictors, run.smoothing = predictors, smoothing
    why = ", as where a model misses something, and the estimates are those for independent noise:"
    return kept._replace(notes=_notes(noise, why, wide, bare))


def _refitted(
    run: Run, method: LevenbergMarquardt, z: np.ndarray, noise: tuple[_Correlation, ...]
) -> tuple[np.ndarray, Expansion, tuple[_Correlation, ...]] | None:
    """(z, the loss around it, the noise) of a fit with AR(1) noise, repeated until its correlation time stays; None where
    correlation is too steep, or independent readings too few, to be noise."""
    steepest = lambda: max(one.typical for one in noise)
    for _ in range(PASSES):
        if steepest() > STEEP or _count(noise) < LONE:
            return None
        triples = zip(run.predictors, run.measurements, noise, strict=True)
        run.predictors = tuple(p if one.tau is None else p.correlated(m, one.tau) for p, m, one in triples)
        state = smooth_search.follow(run, method, begin(z, len(run.predictors), STEPS, method.damping), STEPS)
        if not (state.converged and np.isfinite(state.here.value)):
            return None
        z, here, fitted, before = np.asarray(state.z, float), state.here, noise, steepest()
        noise = _correlations(run, here, fitted, 1.0)
        if abs(steepest() - before) <= SETTLED * (1 - steepest()):
            break
    return None if steepest() > STEEP or _count(noise) < LONE else (z, here, fitted)


def _correlations(
    run: Run, here: Expansion, before: tuple[_Correlation, ...] | None, level: float
) -> tuple[_Correlation, ...]:
    """Estimate the correlation of the noise of each measurement; before: where it was found, and is to be estimated anew.

    Where the residuals are far below the noise, there is nothing to find.
    """
    total = sum(len(m.values) for m in run.measurements if m.has_residuals)
    several = sum(m.has_residuals for m in run.measurements)
    found = []
    for i, (m, loss, part) in enumerate(zip(run.measurements, run.objective.losses, here.predictions, strict=True)):
        if not (m.has_residuals and loss.squares):
            found.append(_Correlation(np.zeros(0, int), None, None))
            continue
        residual = m.residuals(np.asarray(part[0], float)[: len(m.values)])
        least = 0.1 * len(residual) if m.known else 1e-10 * np.sum(m.residuals(0.0) ** 2)
        old = None if before is None else before[i]
        last, tau = m.last if old is None else old.last, None
        if np.sum(residual**2) > least and (old is None or old.tau is not None):
            share = len(here.gradient) * len(residual) / total
            tau = estimate(residual, m.times, m.positions, share, level / several, last)
        if old is not None and old.tau is not None:
            tau = old.tau if tau is None else np.where(old.tau > 0, tau, 0.0)
        found.append(_Correlation(last, tau, None if tau is None else correlations(m.times, last, tau)))
    return tuple(found)


def _sandwich(run: Run, iid: Estimates, unknown: np.ndarray) -> Estimates:
    """The estimates with the covariance that squares of residuals give the gradient of the loss, g = f Jᵀ W r:

        V = f² Σ wᵢ² rᵢ²/(1 − hᵢ)² Jᵢ Jᵢᵀ,  hᵢ = f wᵢ Jᵢᵀ H⁻¹ Jᵢ

    HC3: MacKinnon & White 1985, doi:10.1016/0304-4076(85)90158-7.
    """
    here: Any = iid.here
    noise, inverse, others = np.array(here.noise), np.linalg.pinv(here.curvature), []
    for i, (m, loss, part) in enumerate(zip(run.measurements, run.objective.losses, here.predictions, strict=True)):
        if m.family != "gaussian" or not loss.squares:
            others.append(str(i + 1))
            continue
        n, sigma = len(m.values), getattr(m, "sigma", None)
        slopes = np.asarray(part[1], float)[:n] / np.reshape(1.0 if sigma is None else sigma, (-1, 1))
        if len(slopes) < n:
            raise ValueError(
                f"errors='sandwich' needs the Jacobian of all readings, got {n} × {len(here.gradient)} numbers, more than are kept; take 'auto'"
            )
        residual = m.residuals(np.asarray(part[0], float)[:n])
        f = float(loss.factor(m.known, float(n), np.sum(residual**2)))
        leverage = f * np.einsum("ni,ij,nj->n", slopes, inverse, slopes)
        scores = f * slopes * (residual / np.maximum(1 - leverage, 1e-3))[:, None]
        noise[i] = scores.T @ scores
    freedom = max(float(unknown.sum()) - len(iid.z), 1.0) if unknown.any() else np.inf
    found = partial(iid.uncertainty, here=here._replace(noise=noise), sizes=0 * unknown, freedom=freedom)
    which = "" if len(run.measurements) == 1 else f" of measurement {', '.join(others)}"
    note = f"errors='sandwich' is for squares of residuals; the noise{which} is that of its likelihood"
    return iid._replace(uncertainty=found, notes=(note,) if others else ())


def _count(noise: tuple[_Correlation, ...]) -> float:
    return sum(one.independent for one in noise)


def widening(found: Uncertainty, bare: Uncertainty) -> float:
    """How many times as wide error bars are as others."""
    known = np.isfinite(found.errors) & (bare.errors > 0)
    return float(np.median(found.errors[known] / bare.errors[known])) if known.any() else 1.0


def _notes(noise: tuple[_Correlation, ...], how: str, found: Uncertainty, bare: Uncertainty) -> tuple[str, ...]:
    which = [str(i + 1) for i, one in enumerate(noise) if one.tau is not None]
    of = "" if len(noise) == 1 else f" of measurement{'s' * (len(which) > 1)} {', '.join(which)}"
    correlated = f"the residuals{of} are correlated in time (lag-1 {max(one.typical for one in noise):.2g})"
    note = f"{correlated}{how} error bars are {widening(found, bare):.2g} times those of independent noise"
    if (count := _count(noise)) >= FEW:
        return (note,)
    few = f"the readings count as {count:.2g} independent ones: even these error bars are optimistic"
    return note, f"correlated as they are, {few}"
