"""What the solver leaves out, told of a fit at its optimum."""

from __future__ import annotations

import numpy as np

from jaxdiff.discretisation.schemes import upwinded
from jaxdiff.inference.run import Run
from jaxdiff.integration.boxes import lost_in_words, truncated
from jaxdiff.integration.solve import solve
from jaxdiff.parameters import plain

_NOTED = 1e-6  # of the probability, from which on it is said


def upwind(run: Run, z: np.ndarray) -> tuple[str, ...]:
    """What transport without diffusion costs at the optimum, which alternate cells do not show."""
    pairs = [(model, m) for model, m in zip(run.at(z), run.measurements, strict=True) if m.on_cells]
    scheme = run.options.scheme
    times = lambda m: np.unique(np.append(m.start, m.times[np.isfinite(m.times)]))
    found = [upwinded(plain(model.equation), m.grid, scheme, times(m)) for model, m in pairs]
    return tuple(dict.fromkeys(f"{each}; see how fit.check_grid() moves the estimates" for each in found if each))


def beyond(run: Run, z: np.ndarray) -> tuple[str, ...]:
    """What of the probability gets beyond the largest counts of the states, at the optimum."""
    found = []
    for model, m in zip(run.at(z), run.measurements, strict=True):
        equation = plain(model.equation)
        if not truncated(equation):
            continue
        if m.on_cells:
            initial = plain(m.initial if model.initial is None else model.initial)
            times = m.start, np.max(m.times, where=np.isfinite(m.times), initial=m.start)
        else:  # paths, from where they were seen
            initial = None if m.continuous else m.visited
            times = 0.0, np.max(m.durations)
        if times[1] > times[0] and initial is not None:
            values = solve(equation, m.grid, initial, times).values
            found.append(lost_in_words(equation, m.grid, initial, values, _NOTED))
    return tuple(dict.fromkeys(f"{each}, which predictions lack; allow larger ones" for each in found if each))


def of_predictors(run: Run, z: np.ndarray) -> tuple[str, ...]:
    """What predictors say that their predictions lack, at the optimum."""
    pairs = zip(run.predictors, run.at(z), strict=True)
    return tuple(dict.fromkeys(note for one, model in pairs for note in one.left_out(model.equation, model.initial)))
