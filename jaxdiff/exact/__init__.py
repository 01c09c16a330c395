"""Closed-form solutions, shared by tests, benchmarks and notebooks.

Every function takes numbers or arrays that broadcast. Plain numbers and NumPy arrays are computed in NumPy, in float64
whatever the session's precision; with a JAX array or a tracer among them the same formula is traceable.
Processes obey dX = f dt + √(2D) dW; Vasicek and CIR keep the σ of finance.
"""

from jaxdiff.exact.conduction import (
    cosine_mode_rate,
    flash_rear_face,
    flux_half_space,
    nafems_t3,
    robin_half_space,
    rod_temperature,
    two_media_step,
    uptake,
)
from jaxdiff.exact.mixtures import GaussianMixture
from jaxdiff.exact.processes import (
    absorbed_density,
    absorbed_interval_density,
    benes_density,
    cir_log_density,
    exit_density,
    exit_survival,
    first_passage_density,
    gibbs_density,
    heat_kernel,
    kramers_rate,
    mean_exit_time,
    ornstein_uhlenbeck_density,
    reflected_density,
    reflected_interval_density,
    survival,
    vasicek_log_density,
)
from jaxdiff.exact.special import log_bessel_i
