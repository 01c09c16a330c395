"""Diffusion coefficients and drifts from measurements, with honest error bars."""

from jaxdiff.model.expression import Expression
from jaxdiff.model.series import Series
from jaxdiff.runtime import interrupts  # isort: split

from jaxdiff import datasets
from jaxdiff.discretisation.modes import Spectral
from jaxdiff.discretisation.schemes import FiniteVolume
from jaxdiff.inference.bootstrap import Bootstrap, bootstrap
from jaxdiff.inference.fit import Fit, fit, load
from jaxdiff.inference.fit_many import fit_many, multistart
from jaxdiff.inference.fits import Fits
from jaxdiff.inference.levenberg_marquardt import LevenbergMarquardt, Minimum
from jaxdiff.inference.loss import Loss
from jaxdiff.inference.losses import kl_divergence, mse, negative_log_likelihood
from jaxdiff.integration.method import Method
from jaxdiff.integration.rkl2 import RKL2
from jaxdiff.integration.solve import Solution, memory_needed, solve
from jaxdiff.integration.steady import steady_state
from jaxdiff.integration.steppers import (
    TRBDF2,
    BackwardEuler,
    CrankNicolson,
    Exponential,
    ForwardEuler,
    RungeKutta4,
    Stepper,
    Strang,
)
from jaxdiff.measurements.histograms import Histograms
from jaxdiff.measurements.measurement import Measurement
from jaxdiff.measurements.readings import Readings
from jaxdiff.measurements.trajectory import Trajectory
from jaxdiff.model.boundaries import Boundary, Dirichlet, Flux, Neumann, Periodic, Robin, absorbing, reflecting
from jaxdiff.model.coefficients import PerAxis, Potential, Tensor, TimeDependent
from jaxdiff.model.equations import Diffusion, Equation, FokkerPlanck
from jaxdiff.model.families import MLP, Polynomial, Spline
from jaxdiff.model.grid import Grid
from jaxdiff.parameters import Bounded, Fixed, Free, Positive
from jaxdiff.runtime.sharding import decompose

__version__ = "0.1.0"

interrupts.forget()
