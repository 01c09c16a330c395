"""Diffusion coefficients and drifts from measurements, with honest error bars."""

from jaxdiff import interrupts  # isort: split

from jaxdiff import datasets
from jaxdiff.analysis import steady_state
from jaxdiff.bootstrap import Bootstrap, bootstrap
from jaxdiff.boundaries import Dirichlet, Flux, Neumann, Periodic, Robin, absorbing, reflecting
from jaxdiff.coefficients import Expression, PerAxis, Potential, Series, Tensor, TimeDependent
from jaxdiff.curves import MLP, Polynomial, Spline
from jaxdiff.decomposition import decompose
from jaxdiff.equations import Diffusion, FokkerPlanck
from jaxdiff.fit import Fit, fit, load
from jaxdiff.fits import Fits
from jaxdiff.grid import Grid
from jaxdiff.histograms import Histograms
from jaxdiff.levenberg_marquardt import LevenbergMarquardt, Minimum
from jaxdiff.losses import kl_divergence, mse, negative_log_likelihood
from jaxdiff.many import fit_many, multistart
from jaxdiff.parameters import Bounded, Fixed, Free, Positive
from jaxdiff.paths import Trajectory
from jaxdiff.readings import Readings
from jaxdiff.schemes import FiniteVolume
from jaxdiff.solve import Solution, memory_needed, solve
from jaxdiff.spectral import Spectral
from jaxdiff.steppers import (
    RKL2,
    TRBDF2,
    BackwardEuler,
    CrankNicolson,
    Exponential,
    ForwardEuler,
    RungeKutta4,
    Strang,
)

__version__ = "0.1.0"

interrupts.forget()
