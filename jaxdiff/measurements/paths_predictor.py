"""Paths on several axes, or of a drift or D that depends on time, predicted by the Gaussian pieces of every step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.measurements.measurement import Measurement
from jaxdiff.measurements.predictor import Prediction, Predictor
from jaxdiff.measurements.states_at_times import Unplannable
from jaxdiff.model.coefficients import absent, jumps, varies
from jaxdiff.runtime.conditions import Checks
from jaxdiff.simulation.ito import Ito
from jaxdiff.transition.closure import Dynamics
from jaxdiff.transition.near_walls import Kinds
from jaxdiff.transition.steps import StepsPlan, log_density, prepare

if TYPE_CHECKING:
    from jaxdiff.measurements.trajectory import Trajectory


class Place(eqx.Module):
    """Drift (0), diffusivity (1) or killing (2) at a time and a place, wrapped round periodic axes; a pytree, so that other
    numbers compile nothing."""

    equation: Any
    grid: Any
    around: tuple[bool, ...] = eqx.field(static=True)
    which: int = eqx.field(static=True)

    def __call__(self, t: Any, x: Any) -> Any:
        if any(self.around):
            ends = jnp.asarray([(edges[0], edges[-1] - edges[0]) for edges in self.grid.edges])
            wrapped = ends[:, 0] + jnp.mod(x - ends[:, 0], ends[:, 1])
            x = jnp.where(jnp.asarray(self.around), wrapped, x)
        ito = Ito(self.equation, self.grid, self.grid.ndim)
        if self.which != 1:
            return ito.drift(t, x) if self.which == 0 else ito.killing(t, x)
        diffusivity = ito.diffusivity(t, x)
        return diffusivity if ito.oblique else jnp.diag(diffusivity)


def depends_on_time(equation: Any) -> bool:
    """Whether drift, diffusivity or killing do."""
    transport = equation.transport()
    parts = jax.tree.leaves((transport.drift, transport.diffusivity, transport.loss), is_leaf=varies)
    return any(map(varies, parts))


def _knots(equation: Any) -> Any:
    """(k,) times where coefficients jump or bend."""
    transport = equation.transport()
    parts = jax.tree.leaves((transport.drift, transport.diffusivity, transport.loss), is_leaf=varies)
    found = [jnp.ravel(one) for part in parts if varies(part) for one in jumps(part)]
    return jnp.concatenate(found) if found else jnp.zeros(0)


def dynamics_of(path: Trajectory, equation: Any) -> tuple[Dynamics, Kinds]:
    """The stochastic equation of a path, and what its walls do; ValueError where no path stands for it."""
    Ito(equation, path.grid, path.grid.ndim).require()
    kinds = []
    for side in equation.sides(path.grid):
        if side.path is None:
            raise ValueError(
                f"a path needs walls that reflect, absorb or are periodic, got {type(side).__name__}; use jd.reflecting or jd.absorbing"
            )
        kinds.append(side.path)
    return _dynamics(path.grid, equation, tuple(kinds)), tuple(kinds)


def _dynamics(grid: Any, equation: Any, kinds: Kinds) -> Dynamics:
    around = tuple(kind == "periodic" for kind in kinds[::2])
    place = lambda which: Place(equation, grid, around, which)
    return Dynamics(place(0), place(1), None if absent(equation.transport().loss) else place(2))


def steps_of(path: Trajectory) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times (n, 2), starts and stops (n, d) of all steps."""
    ndim = path.grid.ndim
    time = np.concatenate([np.stack([t[:-1], t[1:]], 1) for t in path.times])
    return time, path.starts.reshape(-1, ndim), path.stops.reshape(-1, ndim)


def prepared(path: Trajectory, equation: Any, like: StepsPlan | None = None) -> PathsPredictor:
    """A predictor whose plan suits this equation, whose coefficients are numbers; like: a plan of another path of this design."""
    dynamics, kinds = dynamics_of(path, equation)
    walls = np.array([(edges[0], edges[-1]) for edges in path.grid.edges], float)
    with jax.enable_x64(True):
        knots = np.asarray(_knots(equation), float)
        try:
            with np.errstate(all="ignore"):  # what is not finite is found, and refused
                plan = prepare(dynamics, *steps_of(path), kinds, walls, knots, depends_on_time(equation), like)
        except (ValueError, FloatingPointError) as error:
            raise Unplannable(str(error)) from None
        except MemoryError:
            few = "the densities of its steps need more memory than there is; take fewer or shorter steps"
            raise Unplannable(few) from None
    return eqx.tree_at(lambda one: one.plan, rough(path), plan, is_leaf=lambda x: x is None)


def rough(path: Trajectory) -> PathsPredictor:
    """A predictor that knows Euler steps only."""
    time, start, stop = steps_of(path)
    count = len(time)
    return PathsPredictor(
        observation=stop.ravel(),
        weight=np.ones(count),
        size=np.float64(count),
        known=True,
        time=time,
        start=start,
        grid=path.grid,
        plan=None,
    )


class PathsPredictor(Predictor):
    """The predictor of a path by its steps.

    observation: (m·d,) where steps end; time: (m, 2); start: (m, d)
    """

    family: ClassVar[str] = "density"
    on_cells: ClassVar[bool] = False
    observation: Any
    weight: Any
    size: Any
    time: Any
    start: Any
    grid: Any
    plan: StepsPlan | None
    known: bool = eqx.field(static=True)

    def predict(self, equation: Any, initial: Any) -> Prediction:
        assert self.plan is not None
        values, resolved = log_density(_dynamics(self.grid, equation, self.plan.kinds), self.plan, _knots(equation))
        return Prediction(values, resolved=resolved)

    def renewed(self, measurement: Measurement, equation: Any, checks: Checks) -> Predictor:
        return measurement.prepare(equation)

    def of_other(self, measurement: Any, equation: Any, *more: Any) -> Predictor:
        return prepared(measurement, equation, self.plan)

    def euler(self, equation: Any) -> tuple[Any, Any]:
        """Means and variances (m·d,) of Euler steps: crude, but they know where to start."""
        # what a wall does to a path may depend on its number, which is traced here; whether it goes round does not
        kinds = tuple("periodic" if side.periodic else "reflecting" for side in equation.sides(self.grid))
        dynamics, (n, d) = _dynamics(self.grid, equation, kinds), self.start.shape
        _, drift, twice, _ = dynamics.traced(self.time[:, 0], self.start, jnp.zeros((n, d, d)))
        span = (self.time[:, 1] - self.time[:, 0])[:, None]
        mean = self.start + drift * span
        for k in range(d):
            if kinds[2 * k] == "periodic":  # the way round that ends nearest
                period = self.grid.edges[k][-1] - self.grid.edges[k][0]
                stop = jnp.reshape(self.observation, (n, d))[:, k]
                mean = mean.at[:, k].add(jax.lax.stop_gradient(jnp.round((stop - mean[:, k]) / period)) * period)
        return mean.ravel(), (jnp.diagonal(twice, axis1=1, axis2=2) * span).ravel()
