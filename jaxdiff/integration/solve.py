"""The forward problem: `solve` and its `Solution`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdiff.discretisation.schemes import semidiscrete, upwinded
from jaxdiff.discretisation.waves import met_walls
from jaxdiff.integration import memory
from jaxdiff.integration.boxes import BEYOND_COUNTS, growing, lost_in_words
from jaxdiff.integration.evolve import evolve
from jaxdiff.integration.options import SolverOptions
from jaxdiff.integration.plan import Plan, lay_out, prepare
from jaxdiff.model.exchange import phases_of
from jaxdiff.model.grid import Grid
from jaxdiff.parameters import plain
from jaxdiff.runtime.checkpoints import Checkpoint, digest
from jaxdiff.runtime.compilation import as_written, solver_jit
from jaxdiff.runtime.conditions import enforce, raise_failed
from jaxdiff.runtime.progress import Progress
from jaxdiff.runtime.sharding import whole

if TYPE_CHECKING:
    from matplotlib.animation import FuncAnimation
    from matplotlib.figure import Figure


@partial(jax.tree_util.register_dataclass, data_fields=["times", "values", "grid"], meta_fields=["method"])
@dataclass(frozen=True)
class Solution:
    """The states that `solve` found.

        values[k] ≈ u(times[k]),   values[0] the initial state

    Attributes:
        times: `(T,)` [time].
        values: cell averages `(T, *cells)`, or `(T, 1 + phases, *cells)` with an `Exchange`; of waves ψ at the centres of cells.
        grid: the `Grid` of these cells.
        method: how the values were found, in a few words; with the numerical diffusion along axes where D is zero.

    >>> import jaxdiff as jd
    >>> solution = jd.solve(jd.Diffusion(1.0), jd.Grid.uniform((0.0, 1.0, 4)), 1.0, [0.0, 0.1, 0.3])
    >>> solution.values.shape, solution.method
    ((3, 4), 'direct: 4 resolvents per time')
    """

    times: Float[Array | np.ndarray, " T"]
    values: Float[Array, " T *cells"]
    grid: Grid
    method: str = ""

    def plot(self) -> Figure:
        """Draw profiles over position, coloured by time; on two axes heat maps. Of waves the density.

        Returns:
            A matplotlib figure.
        """
        from jaxdiff.figures import states

        return states.solution(self)

    def animate(self, seconds: float = 5.0) -> FuncAnimation:
        """Play the states one after the other: a profile, on two axes a heat map; of waves the density.

        Args:
            seconds: how long it takes.

        Returns:
            A matplotlib animation, whose `to_jshtml()` plays in a notebook.

        Raises:
            ValueError: more axes than two.
        """
        from jaxdiff.figures import animation

        return animation.of_states(self.grid, self.times, self.values, seconds)


_compiled = solver_jit(evolve)


@as_written
def solve(
    equation: Any,
    grid: Grid,
    initial: Any,
    times: Any,
    *,
    scheme: Any = None,
    stepper: Any = None,
    substeps: int | None = None,
    tolerance: float | None = None,
    progress: bool = False,
    save: str | os.PathLike[str] | None = None,
) -> Solution:
    """Solve an equation from an initial state through the given times.

        ∂u/∂t = A(t) u + b(t),   u(times[0]) = initial

    Args:
        equation: `Diffusion`, `FokkerPlanck` or an `Equation` of your own; marks for fitting are read as their values.
        grid: the cells; `States` of a `MasterEquation`, or None, and as many are taken as are needed.
        initial: the state at `times[0]`: cell averages `(*cells,)`, a number, or a callable of position; with an `Exchange` of
            what moves, or of all phases, `(1 + phases, *cells)`.
        times: `(T,)` increasing [time], at least two.
        scheme: `FiniteVolume(order=2)` by default; `Spectral()` for constant coefficients between walls at zero.
        stepper: None picks exact exponentials where coefficients are constant in time; else under error control exponentials
            with the forcing interpolated, or Rodas5P where A itself varies, or on several axes extrapolated exponentials.
            `Solution.method` says what it took. A `Stepper` of your own serves as those here, and so does a `Method`.
        substeps: equal steps in every interval of times, of a stepper you name; None: 1.
        tolerance: largest error in time, of the peak: 1e-9 unless given where coefficients are constant (1e-11 on several axes
            that are not separable; diffusion keeps 1e-13 unless 1e-7 or more is asked), 1e-6 where they vary. In float64, that
            is: a session without `jax_enable_x64` solves in float32, to 1e-4, or 5e-4 where a drift on several axes turns
            many times.
        progress: show a bar over the intervals (steps taken one interval per call).
        save: a file (.npz) that keeps the states reached, one interval per call; the same call goes on from there, also on
            other devices than before. Steps are chosen anew in every interval, so numbers differ within `tolerance`.

    Returns:
        `Solution`, with values `(T, *cells)`. Inside jit, grad and vmap it is traceable.

    Raises:
        ValueError: in one line: what is wrong with coefficients, initial state, times or step, and where.

    >>> import jaxdiff as jd, numpy as np
    >>> grid = jd.Grid.uniform((0.0, 1.0, 100))
    >>> mode = np.cos(np.pi * grid.centers[0])
    >>> u = jd.solve(jd.Diffusion(0.1), grid, mode, [0.0, 1.0]).values[-1]
    >>> bool(abs(u[0] / mode[0] - np.exp(-0.1 * np.pi**2)) < 1e-4)
    True

    Exponentials: Trefethen, Weideman & Schmelzer 2006, doi:10.1007/s10543-006-0077-9. Rodas5P: Steinebach 2023,
    doi:10.1007/s10543-023-00967-x.
    """
    equation, initial = plain(equation), plain(initial)
    options = SolverOptions(scheme, stepper, substeps, tolerance)
    if grid is None:
        on = partial(solve, equation, initial=initial, times=times, progress=progress, save=save, **vars(options))
        return growing(equation, initial, on, tolerance, save is not None)
    plan = prepare(equation, grid, times, options)
    u = equation.on_cells(grid, initial) if equation.wave and callable(initial) else state_of(grid, initial)
    kind = getattr(u, "dtype", np.dtype(float))
    kind = kind if jnp.issubdtype(kind, jnp.inexact) else np.dtype(float)  # whole numbers are states too
    dtype = jnp.finfo(jax.dtypes.canonicalize_dtype(kind)).dtype
    times = plan.times
    _require_resolved(times, dtype)
    _require_cells_resolved(grid, dtype)
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((equation, grid, u, times)))
    if save is not None and traced:
        raise ValueError(
            "save= keeps numbers, and inside jit, vmap or grad there are none; solve outside, or leave it out"
        )
    if (progress or save is not None) and not traced:
        values, method = _interval_by_interval(equation, grid, u, times, options, progress, save)
        own = [words for words in method.split("; ") if BEYOND_COUNTS not in words]  # of the last interval
        return Solution(
            times, values, grid, "; ".join(filter(None, (*own, lost_in_words(equation, grid, initial, values))))
        )
    plan, values, checks = attended(_compiled, equation, grid, u, plan)
    if isinstance(values, jax.core.Tracer):
        return Solution(times, values, grid, plan.method.describe())
    if tolerance is not None and (closer := plan.closer(values)) is not plan:
        plan, values, checks = attended(_compiled, equation, grid, u, closer)
    how = (
        plan.method.describe(checks.needed),
        upwinded(equation, grid, plan.scheme, times),
        met_walls(equation, grid, values, checks.watched),
        lost_in_words(equation, grid, initial, values),
    )
    return Solution(times, values, grid, "; ".join(filter(None, how)))


def attended(run: Any, equation: Any, grid: Grid, u: Any, plan: Plan) -> tuple[Plan, Any, Any]:
    """What `run(equation, grid, u, plan)`, compiled of `evolve`, returns by a plan that it does not ask more of, and that plan.

    Inside jit, grad and vmap by one that no host looks after, with what must not be as errors of the compiled program.
    """
    alone = plan.unattended()
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((equation, grid, u, plan.times)))
    if alone is not plan and (traced or isinstance(jnp.zeros(()), jax.core.Tracer)):  # in jit, whatever the arguments
        plan = alone
    values, checks = run(equation, grid, u, plan)
    if any(isinstance(x, jax.core.Tracer) for x in (checks.table, checks.needed)):
        if plan is not alone:  # a function closes over numbers that grad or vmap looks after
            plan = alone
            values, checks = run(equation, grid, u, plan)
        short = ~plan.allows(checks.needed)
        message = "inside jit this problem needs more substeps; pass stepper= and substeps=, or a tolerance"
        return plan, enforce(values, checks, (message, short)), checks
    while not np.asarray(checks.table)[:, 0].any() and (finer := plan.refined(checks.needed, grid)) is not plan:
        plan = finer
        values, checks = run(equation, grid, u, plan)
    raise_failed(checks)
    return plan, values, checks


def _require_resolved(times: Any, dtype: Any) -> None:
    """Raise if a clock is too far from zero for its first interval: in float32 a date in seconds has steps of two minutes."""
    if isinstance(times, jax.core.Tracer) or not jnp.issubdtype(dtype, jnp.floating):
        return
    first, second = times[:2]
    if float(jnp.finfo(dtype).eps) * max(abs(first), abs(second)) > 1e-3 * (second - first):
        raise ValueError(
            f"times near {first:g} that are {second - first:g} apart are not told apart in {dtype}; count them from the start, or use float64"
        )


def _require_cells_resolved(grid: Grid, dtype: Any) -> None:
    """Raise if cells are too far from zero for their widths: in float32 those of a millimetre at a hundred metres.

    Equal cells of a domain that reaches to zero share their rounding, which evens out.
    """
    if not jnp.issubdtype(dtype, jnp.floating):
        return
    for name, edges, equal in zip(grid.names, grid.edges, grid.equal, strict=True):
        if isinstance(edges, jax.core.Tracer):
            continue
        edges = np.asarray(edges, float)
        place, widths = np.maximum(np.abs(edges[1:]), np.abs(edges[:-1])), np.diff(edges)
        worst = int(np.argmax(place / widths))
        rounded = float(jnp.finfo(dtype).eps) * place[worst] / widths[worst]
        if rounded > 3e-5 and (place.max() > 4 * np.ptp(edges) or (not equal and rounded > 1e-4)):
            raise ValueError(
                f"cells along {name} are {widths[worst]:.3g} wide at {place[worst]:.3g}, which {dtype} does not tell apart; count {name} from where they are finest, or use float64"
            )


def _interval_by_interval(
    equation: Any, grid: Grid, u: Any, times: Any, options: SolverOptions, progress: bool, save: Any
) -> tuple[Any, str]:
    """The states `(len(times), *cells)`, each from the last, with a bar and a file of those that are done; and how."""
    start = semidiscrete(equation, grid, options.scheme)[0].begin(jnp.asarray(u), times[0])[0]
    kept, values, method = None, [start], "read from the file"
    if save is not None:
        kept = Checkpoint(save, digest(equation, grid, np.asarray(u), times, options, str(jnp.result_type(float))))
        values += [jnp.asarray(state) for piece in kept.pieces for state in piece["states"]]
    bar = Progress(progress, "interval", "solve")
    try:
        for pair in zip(times[len(values) - 1 :], times[len(values) :]):
            part = solve(equation, grid, values[-1], pair, **vars(options))
            values, method = [*values, part.values[-1]], f"{part.method}, for the last interval"
            if kept is not None:
                kept.add({"states": whole(values[-1])[None]})
            bar.show(len(values) - 1, len(times) - 1)
    finally:
        bar.close()
        if kept is not None:
            kept.write()
    return jnp.stack(values), method


@as_written
def memory_needed(
    equation: Any,
    grid: Grid,
    times: Any,
    *,
    gradient: bool = False,
    scheme: Any = None,
    stepper: Any = None,
    substeps: int | None = None,
    tolerance: float | None = None,
) -> float:
    """Bytes that `solve` holds at once, all devices together; estimated to within a factor of two.

    Args:
        equation, grid, times, scheme, stepper, substeps, tolerance: as in `solve`, which refuses what does not fit.
        gradient: add what a gradient of the solution by reverse mode holds.

    Numbers are of the precision of the session. A mesh of k devices holds a k-th on each.

    Raises:
        ValueError: times that do not increase, a scheme or stepper that does not suit the problem.

    >>> import jaxdiff as jd
    >>> grid = jd.Grid.uniform((0.0, 1.0, 1000), (0.0, 1.0, 1000))
    >>> jd.memory_needed(jd.Diffusion(1.0), grid, [0.0, 1.0]) < 2**27
    True
    """
    plan = lay_out(equation, grid, times, SolverOptions(scheme, stepper, substeps, tolerance))
    return memory.needed(plan, grid, gradient, drift=not equation.driftless, phases=phases_of(equation))


def state_of(grid: Grid, initial: Any) -> Any:
    if callable(initial):
        return grid.average(initial)
    initial = grid.start(initial)
    shape = np.shape(initial)
    if shape[-grid.ndim :] == grid.shape:  # whether for all phases, the system says
        return initial
    if shape == () and isinstance(initial, jax.Array):
        return jnp.broadcast_to(initial, grid.shape)
    if shape == ():
        return np.broadcast_to(np.asarray(initial, np.result_type(float, initial)), grid.shape)
    raise ValueError(
        f"initial has shape {shape}, the grid {grid.shape}; pass one cell average per cell, a number, or a callable"
    )
