"""Diffusion run backwards: the noising process, scores, and what is drawn with them.

    dx = −½β x dt + √β dW forwards,   dx = [−½β x − β ∇ log pₜ] dt + √β dW backwards

Time runs from 0, the data, to 1, noise. A score is any function `score(x, t)`: of a batch x `(n, *shape)` and a number t it
gives ∇ log pₜ(x), `(n, *shape)`.
"""

from jaxdiff.datasets.captioned import Captioned, captioned, digits, from_folder
from jaxdiff.datasets.vocabulary import Vocabulary
from jaxdiff.exact.mixtures import GaussianMixture
from jaxdiff.generation.model import Generator
from jaxdiff.generation.process import Process
from jaxdiff.generation.sampling import log_likelihood, sample
from jaxdiff.generation.training import Settings, train
from jaxdiff.integration.score import solved_score

__all__ = [
    "Process", "GaussianMixture", "solved_score", "sample", "log_likelihood",
    "Captioned", "captioned", "digits", "from_folder", "Vocabulary", "Settings", "train", "Generator",
]  # fmt: skip
