"""`fit_many`: many fits of one model, to a data set each, as one batch or one after the other."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np

from jaxdiff.inference.batch import FAILED, Batch, BatchData
from jaxdiff.inference.fit import FEW, as_tuple, checked_count, loss_name, no_noise, precision
from jaxdiff.inference.fits import Fits, gathered, results_of_chunk
from jaxdiff.inference.input_noise import has_input_noise
from jaxdiff.inference.levenberg_marquardt import LevenbergMarquardt
from jaxdiff.inference.losses import choose
from jaxdiff.inference.objective import Objective, assemble, start_vector
from jaxdiff.inference.run import STEPS, Run, on_host
from jaxdiff.inference.sequential import Sequential, together
from jaxdiff.integration.options import SolverOptions
from jaxdiff.measurements.measurement import Measurement
from jaxdiff.measurements.stacks import Stack, stack
from jaxdiff.model.equations import Equation
from jaxdiff.parameters import Parameters
from jaxdiff.runtime.checkpoints import Checkpoint, digest
from jaxdiff.runtime.devices import choose as chosen
from jaxdiff.runtime.progress import Progress


@on_host
def fit_many(
    model: Equation | Callable[..., Any],
    measurements: Measurement | Sequence[Any],
    values: Any = None,
    *,
    parameters: Mapping[str, Any] | None = None,
    loss: Callable[[Any, Any], Any] | None = None,
    optimizer: Any = None,
    steps: int | None = None,
    scheme: Any = None,
    stepper: Any = None,
    substeps: int | None = None,
    tolerance: float | None = None,
    dtype: Any = None,
    devices: Any = None,
    batch: int | None = None,
    save: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Fits:
    """Fit one model to each of many data sets, as one compiled batch where that can be; the results are those of `fit(errors="iid")` one by one.

        θ̂_b = argmin loss(prediction(θ), observation_b),  b = 1 … B

    Args:
        model, parameters, loss, steps, scheme, stepper, substeps, tolerance, dtype, progress: as in `fit`.
        measurements: one measurement, whose data are taken from `values`; or a sequence with an entry for each data set,
            a measurement or a tuple of several experiments, of the same kinds and on the same grids. Readings may differ
            in times and positions (all are solved for all of them) and in sigma, histograms in counts and totals, both
            in their initial states and conditions; paths on one axis in anything but the grid, at few distinct intervals. Tracks, paths of
            states or on several axes, at many intervals or of coefficients of time, and what differs in more, are fitted one after
            the other, by programs that they share, as a note says. `sensor` in `Observed` counts those of each data set.
        values: `(B, m)` like the values of `Readings`, or `(B, times, *bins)` like the counts of `Histograms`, or `(B, n)` like
            all frames of a `Trajectory`, one after the other; NaN is missing, each data set with its own gaps.
        optimizer: None or `LevenbergMarquardt(…)`.
        devices: over which the batch is cut: None for the default one, a number, "all", or a sequence of jax devices. On
            several hosts call `jax.distributed.initialize` first, and the same program on each with "all".
        batch: fits at once; None: as many as memory and caches hold.
        save: a file (.npz) that keeps finished fits; a call with the same model and data goes on from there.

    Fits that are not done after ten steps are gathered from all chunks and finished together. One that fails is flagged
    and leaves the others alone. An interruption (Ctrl-C) returns what is done.

    Returns:
        `Fits`.

    Raises:
        ValueError: nothing is marked, data sets do not suit each other or the model, a device is not there, `save` names
            fits of something else.
        TypeError: arguments of the wrong kind.

    >>> import jaxdiff as jd, numpy as np
    >>> grid, times = jd.Grid.uniform((0.0, 1.0, 40)), np.linspace(0.01, 0.1, 10)
    >>> start = 1 + np.cos(np.pi * grid.centers[0])
    >>> readings = jd.Readings(grid, start, times, np.full(10, 0.25), np.ones(10), sigma=0.01)
    >>> rates = np.array([[0.3], [0.5], [0.7]])
    >>> values = 1 + np.cos(np.pi * 0.25) * np.exp(-rates * np.pi**2 * times)
    >>> fits = jd.fit_many(jd.Diffusion(jd.Positive(1.0)), readings, values, progress=False)
    >>> fits.parameters["diffusivity"].round(2), fits.converged.all()
    (array([0.3, 0.5, 0.7]), np.True_)
    """
    method = batched_method(optimizer)
    steps, size = checked_count(steps, "steps") or STEPS, checked_count(batch, "batch")
    stacks = _stacks(measurements, values)
    with precision(dtype):
        over = chosen(devices)
        templates = tuple(one.template for one in stacks)
        losses = choose(loss, templates)
        fitted, function, sources, _ = assemble(model, parameters, templates, ())
        if fitted.count > FEW:
            raise ValueError(f"a batch of fits holds up to {FEW} parameters, got {fitted.count}; call jd.fit for each")
        if not all(one.weighted for one in losses) and any(np.isnan(one.values).any() for one in stacks):
            raise ValueError("your own loss cannot leave out missing values, got NaN; use jd.mse or jd.kl_divergence")
        objective = Objective(function, losses, *sources)
        start, leaves = _own_initials(model, parameters, stacks, fitted)
        data = BatchData(start, tuple(one.data() for one in stacks), leaves)
        run = Run(objective, fitted, templates, SolverOptions(scheme, stepper, substeps, tolerance), Progress(False))
        many, stacks = together(run, data, stacks, method, steps, over, size)
        return fit_batch(many, stacks, loss_name(objective, loss, len(stacks)), progress, save)


def fit_batch(
    many: Batch | Sequential,
    stacks: tuple[Stack, ...],
    loss_name: str,
    progress: bool,
    save: str | os.PathLike[str] | None = None,
) -> Fits:
    """All fits of a batch, with a bar and a file of what is done; an interruption returns what is done."""
    run, count = many.run, len(many.data.start)
    reason, checkpoint = no_noise(run.objective, run.measurements), None
    notes = [note for one in stacks for note in one.notes]
    if reason is None and has_input_noise(run):
        notes.append(
            "the noise of measured walls and starts is not in these error bars; jd.fit has it, one fit after another"
        )
    chunks: list[dict[str, np.ndarray]] = []
    if save is not None:
        problem = digest(run.parameters, run.objective.model, *run.objective.losses)
        checkpoint = Checkpoint(
            save, digest(problem, run.measurements, many.data, many.method, many.steps, run.options)
        )
        chunks = list(checkpoint.pieces)
    waiting = lambda: np.setdiff1d(np.arange(count), np.concatenate([[], *(chunk["index"] for chunk in chunks)]))
    bar, so_far = Progress(progress, "fit"), count - len(waiting())
    try:
        for ended in many.run_all(waiting()):
            chunks.append(results_of_chunk(ended, many, stacks, reason))
            if checkpoint is not None:
                checkpoint.add(chunks[-1])
            so_far += len(ended.which)
            bar.show(so_far, count)
    except KeyboardInterrupt:
        notes.append(f"interrupted: {count - so_far} of {count} fits were not finished")
    finally:
        bar.close()
    notes += many.notes
    if checkpoint is not None:
        checkpoint.write()
    if len(left := waiting()):
        chunks.append(results_of_chunk(many.unfinished(left), many, stacks, reason))
    found = gathered(many, stacks, chunks, reason=reason, loss_name=loss_name, notes=tuple(notes))
    if count and (found.status == FAILED).all():
        many.complain()
    return found


def generator(key: Any) -> np.random.Generator:
    """NumPy's generator for a key of jax.random, a number, or None."""
    key = jax.random.key(key or 0) if key is None or isinstance(key, int) else key
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())


def batched_method(optimizer: Any) -> LevenbergMarquardt:
    if optimizer is None or optimizer is LevenbergMarquardt:
        return LevenbergMarquardt()
    if not isinstance(optimizer, LevenbergMarquardt):
        raise TypeError(
            f"a batch of fits is minimised by jd.LevenbergMarquardt(), got {type(optimizer).__name__}; call jd.fit for each to use another"
        )
    return optimizer


def _stacks(measurements: Any, values: Any) -> tuple[Stack, ...]:
    """One stack per experiment."""
    if values is not None or isinstance(measurements, Measurement):
        if values is None:
            raise ValueError(
                "fit_many needs many data sets, got one measurement; pass an array of values too, or a list of measurements"
            )
        if not isinstance(measurements, Measurement):
            raise TypeError(
                f"values belong to one measurement, got {type(measurements).__name__}; pass a list of measurements without values"
            )
        return (stack(measurements, values),)
    if not isinstance(measurements, Sequence) or not len(measurements):
        raise ValueError(f"measurements must be a measurement or a list with at least one, got {measurements!r}")
    sets = [as_tuple(one, "a data set") for one in measurements]
    if len({len(one) for one in sets}) > 1:
        raise ValueError("every data set must have as many experiments as the first; fit the others on their own")
    return tuple(stack(column) for column in zip(*sets, strict=True))


def _own_initials(
    model: Any, starts: Any, stacks: tuple[Stack, ...], fitted: Parameters
) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """(starts z (B, p), leaves of the model that differ between data sets {place: (B, ...)})."""
    count, own = len(stacks[0]), start_vector(fitted)
    if all(one.initials is None and one.conditions is None for one in stacks):
        return np.tile(own, (count, 1)), {}
    z, leaves, checked = [], [], {b""}
    for i in range(count):
        own_of = lambda one, i=i: SimpleNamespace(
            initial=one.initial_of(i), conditions=one.conditions_of(i), grid=one.template.grid
        )
        apart: Any = tuple(map(own_of, stacks))
        mine = assemble(model, starts, apart, (), checked)[0]
        shapes = [np.shape(a) == np.shape(b) for a, b in zip(mine.leaves, fitted.leaves, strict=False)]
        if mine.treedef != fitted.treedef or mine.places != fitted.places or not all(shapes):
            raise ValueError(
                f"the initial state of data set {i} has another structure than that of the first, or its conditions have; pass arrays over cells, or one function for all"
            )
        z.append(fitted.transform.inverse(np.asarray(mine.start)))
        leaves.append(mine.leaves)
    differ = [k for k, leaf in enumerate(fitted.leaves) if k not in fitted.places and hasattr(leaf, "dtype")]
    columns = {k: np.stack([leaf[k] for leaf in leaves]) for k in differ}
    return np.stack(z), {k: column for k, column in columns.items() if (column != column[:1]).any()}
