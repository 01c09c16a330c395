"""Diffusion coefficients and drifts from measurements, with honest error bars.

    equation (θ) × grid → solve → a measurement predicts → loss → fit → error bars → report

help(jaxdiff.fit) and its like say more; a base in the lists below is what kinds of your own derive from.

Where
    Grid                        cells on an interval, a rectangle, a box or a radius
    States                      states that a system jumps between, in place of cells

At its walls
    Dirichlet, Neumann, Robin   the value, its gradient, or exchange with surroundings
    Flux, Periodic              what flows out, or the other end
    reflecting, absorbing       Flux(0.0), Dirichlet(0.0)
    Boundary                    base

What moves
    Diffusion, FokkerPlanck     heat and substances; densities of random motion with a drift
    MasterEquation, Reaction    probabilities of states, by rates between them or reactions
    Schrodinger                 waves in a potential
    schrodinger_form            that of a FokkerPlanck equation
    Exchange                    with a phase that does not move: bound, trapped, immobile
    Mixture                     tracks of a few kinds, each of an equation of its own
    Moving                      between walls at given places, which may move
    Observed                    what an instrument sees of it: gain, offset, mixture
    Equation                    base

Coefficients
    TimeDependent, Series       of time: a function, a measured course
    PerAxis, Tensor, Potential  diffusivities along and across axes; the drift down an energy
    Polynomial, Spline, MLP     families of functions of position
    Expression                  a function written as text

What is fitted
    Free, Positive, Bounded     marks on numbers of an equation
    Fixed                       a mark that freezes

How it is solved
    FiniteVolume, Spectral      schemes in space
    ForwardEuler, RungeKutta4, RKL2, BackwardEuler, CrankNicolson, TRBDF2, Exponential, Strang
                                steppers in time; left out, the solver picks its way
    Stepper, Method             bases: of one step, and of a whole way through time
    solve, Solution             states through time
    steady_state                the state at rest
    mean_first_passage_time, splitting_probability
                                how long until it leaves, and through which wall
    survival, first_passage_density
                                what is left in time, and what leaves at each wall
    spectrum                    the slowest modes, and the rates at which they fade
    probability_current, entropy_production, effective_diffusion
                                what flows, at what price, and how far in the end
    memory_needed, decompose    bytes that a run holds; several devices for one grid
    simulate                    paths drawn at random, between walls and among states

What was measured
    Readings                    values at times and places
    Histograms                  counts or densities in bins
    Samples                     positions of individuals, each seen once
    Trajectory                  paths of single particles
    PassageTimes                when something first left, and through which wall
    Total, Mean, Interval, Moment, Weighted
                                probes, that read of a whole state: sums over cells
    FluxThrough, CumulativeFlux, BoundaryValue
                                what passes a wall or a place, and the value at a wall
    Energy, Momentum            what is expected of a wave
    Quantity                    a number that the equation has by itself: a time, a rate, a current
    read_petab                  conditions, readings and parameters of a PEtab problem
    Measurement, Probe          bases

How far off
    mse, kl_divergence, negative_log_likelihood
    energy_distance, wasserstein
                                of samples, which strangers hardly move
    Loss                        base

Fits
    fit, Fit, load              one, its result, and a stored one
    LevenbergMarquardt, Minimum the optimiser, also of residuals of your own
    Descent                     gradient descent by optax, with early stopping and averages
    fit_many, Fits, multistart  many data sets as one batch; one from many starts
    bootstrap, Bootstrap        errors from data drawn anew
    compare, Comparison         by information criteria, data held out, likelihood ratios
    cross_validate, CrossValidation
                                by blocks that a fit has not seen
    sweep, Sweep                settings of an optimiser and a model side by side
    datasets                    measured data to try it on

Backwards
    generation                  a diffusion run back from noise: process, scores, samplers, likelihoods
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from jaxdiff.runtime import interrupts

if TYPE_CHECKING:
    from jaxdiff import datasets, generation
    from jaxdiff.discretisation.modes import Spectral
    from jaxdiff.discretisation.schemes import FiniteVolume
    from jaxdiff.inference.bootstrap import Bootstrap, bootstrap
    from jaxdiff.inference.compare import compare
    from jaxdiff.inference.comparison import Comparison
    from jaxdiff.inference.cross_validation import CrossValidation, cross_validate
    from jaxdiff.inference.distances import energy_distance, wasserstein
    from jaxdiff.inference.fit import Fit, fit, load
    from jaxdiff.inference.fit_many import fit_many
    from jaxdiff.inference.fits import Fits
    from jaxdiff.inference.gradient_descent import Descent
    from jaxdiff.inference.levenberg_marquardt import LevenbergMarquardt, Minimum
    from jaxdiff.inference.loss import Loss
    from jaxdiff.inference.losses import kl_divergence, mse, negative_log_likelihood
    from jaxdiff.inference.multistart import multistart
    from jaxdiff.inference.sweep import Sweep, sweep
    from jaxdiff.integration.currents import effective_diffusion, entropy_production, probability_current
    from jaxdiff.integration.method import Method
    from jaxdiff.integration.passage import (
        first_passage_density,
        mean_first_passage_time,
        splitting_probability,
        survival,
    )
    from jaxdiff.integration.rkl2 import RKL2
    from jaxdiff.integration.solve import Solution, memory_needed, solve
    from jaxdiff.integration.spectrum import spectrum
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
    from jaxdiff.measurements.expectations import Energy, Momentum
    from jaxdiff.measurements.histograms import Histograms
    from jaxdiff.measurements.measurement import Measurement
    from jaxdiff.measurements.passage_times import PassageTimes
    from jaxdiff.measurements.petab import read_petab
    from jaxdiff.measurements.probes import (
        BoundaryValue,
        CumulativeFlux,
        FluxThrough,
        Interval,
        Mean,
        Moment,
        Probe,
        Total,
        Weighted,
    )
    from jaxdiff.measurements.quantity import Quantity
    from jaxdiff.measurements.readings import Readings
    from jaxdiff.measurements.samples import Samples
    from jaxdiff.measurements.trajectory import Trajectory
    from jaxdiff.model.boundaries import Boundary, Dirichlet, Flux, Neumann, Periodic, Robin, absorbing, reflecting
    from jaxdiff.model.coefficients import PerAxis, Potential, Tensor
    from jaxdiff.model.equations import Diffusion, Equation, FokkerPlanck
    from jaxdiff.model.exchange import Exchange
    from jaxdiff.model.expression import Expression
    from jaxdiff.model.families import MLP, Polynomial, Spline
    from jaxdiff.model.grid import Grid
    from jaxdiff.model.master import MasterEquation
    from jaxdiff.model.mixture import Mixture
    from jaxdiff.model.moving import Moving
    from jaxdiff.model.observed import Observed
    from jaxdiff.model.rates import Reaction
    from jaxdiff.model.schrodinger import Schrodinger
    from jaxdiff.model.schrodinger_form import schrodinger_form
    from jaxdiff.model.series import Series
    from jaxdiff.model.states import States
    from jaxdiff.model.time_dependent import TimeDependent
    from jaxdiff.parameters import Bounded, Fixed, Free, Positive
    from jaxdiff.runtime.sharding import decompose
    from jaxdiff.simulation.simulate import simulate

_LATER = {  # imported when first asked for: a command waits for what it needs
    "discretisation.modes": ("Spectral",),
    "discretisation.schemes": ("FiniteVolume",),
    "inference.bootstrap": (
        "Bootstrap",
        "bootstrap",
    ),
    "inference.compare": ("compare",),
    "inference.comparison": ("Comparison",),
    "inference.cross_validation": (
        "CrossValidation",
        "cross_validate",
    ),
    "inference.distances": (
        "energy_distance",
        "wasserstein",
    ),
    "inference.fit": (
        "Fit",
        "fit",
        "load",
    ),
    "inference.fit_many": ("fit_many",),
    "inference.fits": ("Fits",),
    "inference.gradient_descent": ("Descent",),
    "inference.levenberg_marquardt": (
        "LevenbergMarquardt",
        "Minimum",
    ),
    "inference.loss": ("Loss",),
    "inference.losses": (
        "kl_divergence",
        "mse",
        "negative_log_likelihood",
    ),
    "inference.multistart": ("multistart",),
    "inference.sweep": (
        "Sweep",
        "sweep",
    ),
    "integration.currents": (
        "effective_diffusion",
        "entropy_production",
        "probability_current",
    ),
    "integration.method": ("Method",),
    "integration.passage": (
        "first_passage_density",
        "mean_first_passage_time",
        "splitting_probability",
        "survival",
    ),
    "integration.rkl2": ("RKL2",),
    "integration.solve": (
        "Solution",
        "memory_needed",
        "solve",
    ),
    "integration.spectrum": ("spectrum",),
    "integration.steady": ("steady_state",),
    "integration.steppers": (
        "TRBDF2",
        "BackwardEuler",
        "CrankNicolson",
        "Exponential",
        "ForwardEuler",
        "RungeKutta4",
        "Stepper",
        "Strang",
    ),
    "measurements.expectations": (
        "Energy",
        "Momentum",
    ),
    "measurements.histograms": ("Histograms",),
    "measurements.measurement": ("Measurement",),
    "measurements.passage_times": ("PassageTimes",),
    "measurements.petab": ("read_petab",),
    "measurements.probes": (
        "BoundaryValue",
        "CumulativeFlux",
        "FluxThrough",
        "Interval",
        "Mean",
        "Moment",
        "Probe",
        "Total",
        "Weighted",
    ),
    "measurements.quantity": ("Quantity",),
    "measurements.readings": ("Readings",),
    "measurements.samples": ("Samples",),
    "measurements.trajectory": ("Trajectory",),
    "model.boundaries": (
        "Boundary",
        "Dirichlet",
        "Flux",
        "Neumann",
        "Periodic",
        "Robin",
        "absorbing",
        "reflecting",
    ),
    "model.coefficients": (
        "PerAxis",
        "Potential",
        "Tensor",
    ),
    "model.equations": (
        "Diffusion",
        "Equation",
        "FokkerPlanck",
    ),
    "model.exchange": ("Exchange",),
    "model.expression": ("Expression",),
    "model.families": (
        "MLP",
        "Polynomial",
        "Spline",
    ),
    "model.grid": ("Grid",),
    "model.master": ("MasterEquation",),
    "model.mixture": ("Mixture",),
    "model.moving": ("Moving",),
    "model.observed": ("Observed",),
    "model.rates": ("Reaction",),
    "model.schrodinger": ("Schrodinger",),
    "model.schrodinger_form": ("schrodinger_form",),
    "model.series": ("Series",),
    "model.states": ("States",),
    "model.time_dependent": ("TimeDependent",),
    "parameters": (
        "Bounded",
        "Fixed",
        "Free",
        "Positive",
    ),
    "runtime.sharding": ("decompose",),
    "simulation.simulate": ("simulate",),
}

__all__ = [
    "Grid", "States",
    "Dirichlet", "Neumann", "Robin", "Flux", "Periodic", "reflecting", "absorbing", "Boundary",
    "Diffusion", "FokkerPlanck", "MasterEquation", "Reaction", "Schrodinger", "schrodinger_form", "Exchange", "Mixture", "Moving", "Observed", "Equation",
    "TimeDependent", "Series", "PerAxis", "Tensor", "Potential", "Polynomial", "Spline", "MLP", "Expression",
    "Free", "Positive", "Bounded", "Fixed",
    "FiniteVolume", "Spectral",
    "ForwardEuler", "RungeKutta4", "BackwardEuler", "CrankNicolson", "TRBDF2", "Exponential", "Strang", "RKL2", "Stepper", "Method",
    "solve", "Solution", "steady_state", "memory_needed", "decompose",
    "mean_first_passage_time", "splitting_probability", "survival", "first_passage_density", "spectrum",
    "probability_current", "entropy_production", "effective_diffusion", "simulate",
    "Readings", "Histograms", "Samples", "Trajectory", "PassageTimes", "read_petab", "Measurement",
    "Total", "Mean", "Interval", "Moment", "Weighted", "FluxThrough", "CumulativeFlux", "BoundaryValue", "Energy", "Momentum", "Quantity", "Probe",
    "mse", "kl_divergence", "negative_log_likelihood", "energy_distance", "wasserstein", "Loss",
    "fit", "Fit", "load", "LevenbergMarquardt", "Minimum", "Descent", "fit_many", "Fits", "multistart", "bootstrap", "Bootstrap",
    "compare", "Comparison", "cross_validate", "CrossValidation", "sweep", "Sweep",
    "datasets", "generation",
]  # fmt: skip

__version__ = "0.1.0"

interrupts.forget()


def __dir__() -> list[str]:
    return list(__all__)


def __getattr__(name: str) -> object:
    home = next((module for module, names in _LATER.items() if name in names), None)
    if home is not None:
        globals()[name] = getattr(import_module(f"jaxdiff.{home}"), name)
        return globals()[name]
    if not name.startswith("_") and find_spec(f"jaxdiff.{name}"):
        return import_module(f"jaxdiff.{name}")
    raise AttributeError(f"module 'jaxdiff' has no attribute {name!r}")
