"""Error bars of residuals that are not independent: of a fit with AR(1) noise, widened, or by their own squares."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

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
STEEP = 0.99  # correlation of neighbours beyond which noise cannot be told from what a model misses
FAR = 3.0  # widened error bars that a refit may move an estimate
LITTLE = 0.1  # error bars that noise of inputs may move an estimate, and be left
LONE = 4  # independent readings below which a refit follows a misfit as readily as noise
FEW = 30  # independent readings below which a correlation time is hardly known


class Repair(NamedTuple):
    """z and the loss around it, what gives the error bars, what there is to say, and per measurement the correlation time of
    the noise at each row, None where it is independent."""

    z: np.ndarray
    here: Expansion | None
    bars: Callable[..., Uncertainty]
    notes: tuple[str, ...]
    times: tuple[np.ndarray | None, ...]

    def beside(self, inputs: InputNoise, run: Run) -> tuple[Repair, Uncertainty]:
        """The same with the noise of measured inputs: estimates that it does not move, and the error bars."""
        if not np.any(inputs.covariance):
            return self._replace(notes=(*self.notes, *inputs.notes)), self.bars()
        bare, bars = self.bars(), self.bars(inputs=inputs.covariance)
        spread = np.sqrt(np.diag(bars.covariance)) / np.abs(run.parameters.transform.slope(self.z))
        moved = np.abs(inputs.shift) / np.where(spread > 0, spread, np.inf)
        z, here, most = self.z, self.here, float(np.nanmax(moved, initial=0.0))
        note = (
            f"noise of {inputs.notes[0]} is in the error bars, {_times(bars, bare)} those without it (sigma=0 if exact)"
        )
        if LITTLE < most < FAR:  # else it is not worth it, or too much for a first order
            z = np.asarray(self.z + inputs.shift)
            here, bars = run.around(z), self.bars(z=z, inputs=inputs.covariance)
            note += f", and what it moves on average, {most:.2g} error bars, is taken off the estimates"
        elif most >= FAR:
            note += f"; it also moves the estimates, by {most:.2g} error bars, which nothing here takes off"
        return self._replace(z=z, here=here, notes=(*self.notes, note)), bars


class _Noise(NamedTuple):
    """What is known of the noise of one measurement: the row before each one, no row but of readings, the correlation times."""

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


def repaired(run: Run, outcome: SearchResult, method: Any, errors: str, reason: str | None) -> Repair:
    """The error bars of a fit, and the fit itself where noise that remembers is given its due.

    errors: "iid" takes noise as independent; "auto" whitens the residuals by AR(1) noise at each sensor where correlation is
    found, and fits again until its correlation time stays; "autocorrelated" does so whether or not a test finds any;
    "sandwich" takes the square of each residual for its variance, over what the fit leaves of it (HC3)
    method: what minimised; after an optax transformation nothing is fitted again; reason: why there are no error bars, or None

    Where correlation is so steep, or a refit moves the estimates so far, that residuals rather follow what the model
    misses, the estimates stay and error bars are widened by √((1 + ρ)/(1 − ρ)).
    """
    measured, parameters, z, here = run.measurements, run.parameters, outcome.z, outcome.here
    pairs = list(zip(measured, run.objective.losses, strict=True))
    unknown = np.array([m.unknown * loss.squares for m, loss in pairs])
    bars = lambda z, here, **how: partial(uncertainty, parameters, z=z, here=here, reason=reason, sizes=unknown, **how)
    plain = Repair(z, here, bars(z, here), (), (None,) * len(measured))
    if here is None or errors == "iid" or not np.isfinite((bare := plain.bars()).errors).any():
        return plain
    anew = plain.bars
    plain = plain._replace(bars=lambda **other: anew(**other) if other else bare)
    if errors == "sandwich":
        own, others = _squared(run, here), [i + 1 for i, (m, loss) in enumerate(pairs) if not _squares(m, loss)]
        squared = partial(plain.bars, here=own, sizes=0 * unknown, freedom=_left(unknown, z))
        which = "" if len(measured) == 1 else f" of measurement {', '.join(map(str, others))}"
        none = f"errors='sandwich' is for squares of residuals; the noise{which} is that of its likelihood"
        return plain._replace(bars=squared, notes=(none,) if others else ())
    noise = _estimated(run, here, None, LEVEL if errors == "auto" else 1.0)
    if all(one.tau is None for one in noise):
        none = "errors='autocorrelated' found too few rows that follow each other at a sensor; noise is taken as independent"
        return plain if errors == "auto" else plain._replace(notes=(none,))
    broad = bars(z, here, widening=np.array([one.widening for one in noise]), freedom=_count(noise) - len(z))
    kept, wide = plain._replace(bars=broad, times=tuple(one.tau for one in noise)), broad()
    told = _told(noise)
    if not isinstance(method, LevenbergMarquardt):
        return kept._replace(
            notes=(f"{told}: error bars are {_times(wide, bare)} those of independent noise", *_few(noise))
        )
    predictors, state, steep = run.predictors, None, max(one.typical for one in noise)
    for _ in range(PASSES):
        if steep > STEEP or _count(noise) < LONE:
            break
        triples = zip(run.predictors, measured, noise, strict=True)
        run.predictors = tuple(p if one.tau is None else p.correlated(m, one.tau) for p, m, one in triples)
        state = run.follow(method, begin(z, len(predictors), STEPS, method.damping), STEPS)
        if not (state.converged and np.isfinite(state.here.value)):
            break
        z, here, fitted = np.asarray(state.z, float), state.here, noise
        noise, before = _estimated(run, here, noise, 1.0), steep
        steep = max(one.typical for one in noise)
        if abs(steep - before) <= SETTLED * (1 - steep):
            break
    x = lambda z: np.asarray(parameters.transform(z), float)
    moved = np.abs(x(z) - x(plain.z)) / np.where(wide.errors > 0, wide.errors, np.inf)
    if (
        state is None
        or not state.converged
        or steep > STEEP
        or _count(noise) < LONE
        or np.nanmax(moved, initial=0.0) > FAR
    ):
        run.predictors = predictors
        why = "as where a model misses something, and the estimates are those for independent noise"
        return kept._replace(
            notes=(f"{told}, {why}: error bars are {_times(wide, bare)} those of independent noise", *_few(noise))
        )
    fine = bars(z, here, freedom=_count(fitted) - len(z))
    ratio = _times(fine(), bare)
    notes = (
        f"{_told(fitted)}: fitted with AR(1) noise, error bars are {ratio} those of independent noise",
        *_few(fitted),
    )
    return Repair(z, here, fine, notes, tuple(one.tau for one in fitted))


def _estimated(run: Run, here: Expansion, before: tuple[_Noise, ...] | None, level: float) -> tuple[_Noise, ...]:
    """The noise of each measurement; before: where correlation was found, and is to be estimated anew.

    Where the residuals are no noise, but far below it, there is nothing to find.
    """
    total = sum(len(m.values) for m in run.measurements if m.has_residuals)
    several = sum(m.has_residuals for m in run.measurements)
    found = []
    for i, (m, loss, seen) in enumerate(zip(run.measurements, run.objective.losses, here.seen, strict=True)):
        if not _squares(m, loss):
            found.append(_Noise(np.zeros(0, int), None, None))
            continue
        residual = m.residuals(np.asarray(seen[0], float)[: len(m.values)])
        least = 0.1 * len(residual) if m.known else 1e-10 * np.sum(m.residuals(0.0) ** 2)
        old = None if before is None else before[i]
        last, tau = m.last if old is None else old.last, None
        if np.sum(residual**2) > least and (old is None or old.tau is not None):
            share = len(here.gradient) * len(residual) / total
            tau = estimate(residual, m.times, m.positions, share, level / several, last)
        if old is not None and old.tau is not None:
            tau = old.tau if tau is None else np.where(old.tau > 0, tau, 0.0)
        found.append(_Noise(last, tau, None if tau is None else correlations(m.times, last, tau)))
    return tuple(found)


def _squares(measurement: Any, loss: Any) -> bool:
    """Whether residuals of rows, and the sum of their squares alone, make the loss."""
    return measurement.has_residuals and loss.squares


def _squared(run: Run, here: Expansion) -> Expansion:
    """The loss with the covariance that squares of residuals give its gradient, g = f Jᵀ W r:

        V = f² Σ wᵢ² rᵢ²/(1 − hᵢ)² Jᵢ Jᵢᵀ,  hᵢ = f wᵢ Jᵢᵀ H⁻¹ Jᵢ

    HC3: MacKinnon & White 1985, doi:10.1016/0304-4076(85)90158-7.
    """
    noise, inverse = np.array(here.noise), np.linalg.pinv(here.curvature)
    for i, (m, loss, seen) in enumerate(zip(run.measurements, run.objective.losses, here.seen, strict=True)):
        if _squares(m, loss):
            n, sigma = len(m.values), 1.0 if m.sigma is None else m.sigma
            slopes = np.asarray(seen[1], float)[:n] / np.reshape(sigma, (-1, 1))
            if len(slopes) < n:
                raise ValueError(
                    f"errors='sandwich' needs the Jacobian of all readings, got {n} × {len(here.gradient)} numbers, more than are kept; take 'auto'"
                )
            residual = m.residuals(np.asarray(seen[0], float)[:n])
            f = float(loss.factor(m.known, float(n), np.sum(residual**2)))
            leverage = f * np.einsum("ni,ij,nj->n", slopes, inverse, slopes)
            pulls = f * slopes * (residual / np.maximum(1 - leverage, 1e-3))[:, None]
            noise[i] = pulls.T @ pulls
    return here._replace(noise=noise)


def _left(unknown: np.ndarray, z: np.ndarray) -> float:
    return max(float(unknown.sum()) - len(z), 1.0) if unknown.any() else np.inf


def _count(noise: tuple[_Noise, ...]) -> float:
    return sum(one.independent for one in noise)


def _told(noise: tuple[_Noise, ...]) -> str:
    which = [i for i, one in enumerate(noise) if one.tau is not None]
    of = "" if len(noise) == 1 else f" of measurement{'s' * (len(which) > 1)} {', '.join(str(i + 1) for i in which)}"
    return f"the residuals{of} are correlated in time (lag-1 {max(one.typical for one in noise):.2g})"


def widened(bars: Uncertainty, bare: Uncertainty) -> float:
    """How many times as wide error bars are as others."""
    known = np.isfinite(bars.errors) & (bare.errors > 0)
    return float(np.median(bars.errors[known] / bare.errors[known])) if known.any() else 1.0


def _times(bars: Uncertainty, bare: Uncertainty) -> str:
    return f"{widened(bars, bare):.2g} times"


def _few(noise: tuple[_Noise, ...]) -> tuple[str, ...]:
    if (count := _count(noise)) >= FEW:
        return ()
    return (
        f"correlated as they are, the readings count as {count:.2g} independent ones: even these error bars are optimistic",
    )
