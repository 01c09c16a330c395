"""The log density of the parameters of a fit, for samplers and whatever else asks for one function."""

from __future__ import annotations

import warnings
from copy import copy
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.inference.objective import Problem
from jaxdiff.inference.run import Run
from jaxdiff.measurements.states_at_times import Unplannable
from jaxdiff.runtime.compilation import solver_jit
from jaxdiff.runtime.progress import Progress

RANGE = 6.0  # standard errors around the optimum that predictors resolve from the beginning


class LogDensity:
    """z ↦ log p(data | θ(z)), in float64: the log likelihood of a fit as a function of one vector, to be sampled or maximised.

        z ∈ ℝᵖ,  θ = scale · z (Free), scale · e^z (Positive), lower + width / (1 + e^−z) (Bounded)

    The prior is flat in z; of smooth fields it is their roughness, with the strengths of the fit. Constants that no parameter changes are left out. Where the noise is not given, its variance is
    the one that fits best at each z. Noise that was fitted as correlated is whitened as there; where error bars were only
    widened, this is narrower than they are. NaN where the model fails.

    It is traceable: `jax.grad`, `jax.vmap` and `jax.jit` take it, inside `jax.enable_x64(True)` or a session in double
    precision. There it is NaN beyond what the solver was prepared for: six standard errors around the optimum, of a path as
    few as one. A plain call prepares it anew and holds anywhere.

    optimum: z of the fit, (p,); labels: of its coordinates
    """

    def __init__(self, fit: Any):
        problem, losses = fit.required_problem(), []
        for loss, measurement in zip(problem.objective.losses, fit.measurements, strict=True):
            if (reason := loss.no_noise(measurement)) is not None or (likelihood := loss.as_likelihood) is None:
                raise ValueError(f"there is no log density: {reason or f'{loss.name} is no likelihood'}")
            losses.append(likelihood)
        objective = replace(problem.objective, losses=tuple(losses))
        self.labels = problem.parameters.labels
        with jax.enable_x64(True):
            self._run = Run(objective, problem.parameters, fit.measurements, fit.options, Progress(False))
            self._run.predictors, self._run.smoothing = problem.predictors, problem.smoothing
            values, errors, _ = fit.columns()
            self.optimum = np.asarray(problem.parameters.transform.inverse(values), float)
            if not problem.predictors:
                self._run.prepare(self.optimum)
            deviation = np.nan_to_num(errors / np.abs(problem.parameters.transform.slope(self.optimum)), posinf=0.0)
            if not self._run.paths:  # whose predictors hold around one place
                for move in RANGE * np.vstack([np.diag(deviation), -np.diag(deviation)]):
                    self(self.optimum + move)

    def __call__(self, z: Any) -> Any:
        if np.shape(z) != self.optimum.shape:
            raise ValueError(f"z must have the shape {self.optimum.shape} of its optimum, got {np.shape(z)}")
        if isinstance(z, jax.core.Tracer):
            z = jnp.asarray(z, float)
            if z.dtype != jnp.float64:
                raise ValueError(
                    "the log density is in float64; take jit, grad and vmap of it inside `with jax.enable_x64(True):`"
                )
            if self._run.paths:
                warnings.warn(
                    "inside jit the log density of a path is NaN where its plan ends, near the optimum", stacklevel=2
                )
            return -_value(self._run.problem, z)[0]
        run = copy(self._run) if self._run.paths else self._run  # predictors of paths hold around one place
        run.renewals = 0
        with jax.enable_x64(True):
            z = jnp.asarray(z, float)
            value, resolved = _value(run.problem, z)
            while not resolved.all():
                try:
                    run.renew(np.asarray(z), np.asarray(resolved))
                except Unplannable:
                    return jnp.asarray(np.nan)
                value, resolved = _value(run.problem, z)
            return -value

    def parameters(self, z: Any) -> Any:
        """θ(z), (…, p) in the order of `labels`."""
        return self._run.parameters.transform(z)


@solver_jit
def _value(problem: Problem, z: Any) -> tuple[Any, Any]:
    value, resolved = problem.value(z)
    return value * jnp.where(jnp.all(resolved), 1.0, jnp.nan), resolved  # so that its derivatives are NaN too
