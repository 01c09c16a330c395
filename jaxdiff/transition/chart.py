"""The coordinates of an SDE at concrete coefficients, tabulated as far as its paths reach.

Four coordinates are at work. x is the user's. y = ∫dx/√(2D) is Lamperti's, in which noise is of unit strength and
distances count in √duration. q lies between them: a closed form of x by which both x and y are smooth, also at a wall
where D vanishes, so that splines in q lead from one to the other. z ∈ [−1, 1] is a window's own.
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdiff.transition.lamperti import BATCH, Coefficients, Scalar, at_points, wall_ratio
from jaxdiff.transition.quadrature import cumulative

MAX_DISTANCE = 8.5  # √duration beyond the data at which paths no longer count
MAX_ACTION = 40.0  # action of a way out, beyond which paths no longer count
MAX_ORDER = 200.0  # order ν of a Bessel process beyond which paths keep away from the wall by themselves


class Chart:
    """An SDE at the coefficients a plan is made with: x, q and y of each other, V, and the walls within reach of the data.

    The order in which D vanishes at a wall decides what y and q are there:

    | D ~ r^k at a distance r | y       | q            | the wall is                                  |
    |-------------------------|---------|--------------|----------------------------------------------|
    | k = 0                   | finite  | x            | reflecting or absorbing, as given            |
    | k = 1, `vanishing`      | ~ 2√r   | √r, or arcsin| that of a Bessel process, ν = f/D′ − 1       |
    | k ≥ 2, `natural`        | ∞       | log r        | never met                                    |
    """

    def __init__(self, drift: Scalar, diffusivity: Scalar, killing: Scalar, start: Any, stop: Any, duration: Any,
                 lower: float, upper: float, walls: tuple[str, str]) -> None:  # fmt: skip
        self.functions = (drift, diffusivity, killing)
        self.start, self.stop, self.duration = start, stop, duration
        self.walls, self.periodic = walls, walls[0] == "periodic"
        self.bounds = float(lower), float(upper)
        low, high = min(start.min(), stop.min()), max(start.max(), stop.max())
        if self.periodic:
            low, high = min(low, lower), max(high, upper)
        self._classify(low, high)
        data = self.q(np.quantile(np.concatenate([start, stop]), np.linspace(0, 1, 513)))
        self._tabulate(self._march(self.q(low), self.q(high)), data)
        self.y_start, self.y_stop = self.y(start), self.y(stop)
        self.y_bounds = self.y(np.array(self.bounds)) if self.periodic else (np.nan, np.nan)
        self.period = self.y_bounds[1] - self.y_bounds[0]

    def _classify(self, low: float, high: float) -> None:
        """How D vanishes at the walls, of data between low and high."""
        drift, diffusivity, _ = self.functions
        scale = np.nanmax(self.at(np.array([low, (low + high) / 2, high])).diffusivity)

        def order(wall: float) -> int:
            if self.periodic or not abs(float(diffusivity(jnp.asarray(wall)))) <= 1e-12 * scale:
                return 0
            slope = float(1 / wall_ratio(lambda x: jnp.ones_like(x), diffusivity, wall))
            return 2 if slope == 0 or not np.isfinite(slope) else 1

        first, last = map(order, self.bounds)
        self.vanishing = (first == 1, last == 1)
        self.natural = (first == 2 and last != 1, last == 2 and first != 1)
        for wall, vanishing, edge in zip(self.bounds, self.vanishing, (low, high)):
            if vanishing and edge == wall:
                raise ValueError(
                    f"a position lies on the wall {wall:g}, where the diffusivity vanishes; drop or shift it"
                )
        self.ratios = [
            float(wall_ratio(drift, diffusivity, w)) if v else 0.0 for w, v in zip(self.bounds, self.vanishing)
        ]
        self.bessel = tuple(bool(v and abs(ratio - 1) < MAX_ORDER) for v, ratio in zip(self.vanishing, self.ratios))

    def at(self, x: Any) -> Coefficients:
        """Coefficients at points of any shape, in batches of one size."""
        flat = np.ravel(x)
        padded = np.concatenate([flat, np.full(-len(flat) % BATCH, flat[-1])]).reshape(-1, BATCH)
        parts = [at_points(self.functions, batch) for batch in padded]
        return Coefficients(*(np.concatenate(p)[: len(flat)].reshape(np.shape(x)) for p in zip(*parts)))

    def within_reach(self, x: Any, needed: Any = True) -> Coefficients:
        """Coefficients at points (m,) of which D must be positive at those that are `needed`."""
        here = self.at(x)
        bad = needed & ~np.isfinite(here.diffusivity)
        if bad.any():
            raise ValueError(
                f"the diffusivity is not positive at x = {x[bad][0]:g}, within reach of the path; give the equation a wall before it"
            )
        return here

    def q(self, x: Any) -> Any:
        (lower, upper), (left, right), (log_left, log_right) = self.bounds, self.vanishing, self.natural
        with np.errstate(divide="ignore"):
            if left and right:
                return 2 * np.arcsin(np.sqrt(np.clip((x - lower) / (upper - lower), 0, 1)))
            if log_left or log_right:
                return (np.log(x - lower) if log_left else 0) - (np.log(upper - x) if log_right else 0)
        return np.sqrt(x - lower) if left else -np.sqrt(upper - x) if right else x

    def x_of_q(self, q: Any, rate: Any) -> tuple[Any, Any]:
        """x, and dx/dz from `rate` = dq/dz."""
        (lower, upper), (left, right), (log_left, log_right) = self.bounds, self.vanishing, self.natural
        if left and right:
            return lower + (upper - lower) * np.sin(q / 2) ** 2, (upper - lower) * np.sin(q) / 2 * rate
        if log_left and log_right:
            part = 1 / (1 + np.exp(-q))
            return lower + (upper - lower) * part, (upper - lower) * part * (1 - part) * rate
        if log_left or log_right:
            gap = np.exp(q if log_left else -q)
            return (lower + gap if log_left else upper - gap), gap * rate
        return (lower + q**2, 2 * q * rate) if left else (upper - q**2, -2 * q * rate) if right else (q, rate)

    def _march(self, q_low: float, q_high: float) -> np.ndarray:
        """Places q from the data outwards, both ways at once: to a wall, or until no path that counts comes back.

        A step is half a √duration in y, or as short as the drift of y and the slope of D ask for.
        """
        ends, walls = np.array([q_low, q_high]), self.q(np.array(self.bounds))
        need, way, action = math.sqrt(self.duration.max()), np.zeros(2), np.zeros(2)
        outward, going, trail = np.array([-1.0, 1.0]), np.ones(2, bool), [ends]
        for _ in range(2000):
            x, rate = self.x_of_q(ends, 1.0)
            here = self.within_reach(x, going)
            sigma = np.sqrt(2 * here.diffusivity)
            with np.errstate(divide="ignore", invalid="ignore"):  # the drift 1/y at a vanishing wall is no barrier
                singular = sum(
                    (r - 0.5) * sigma / (2 * (x - w)) for r, w, b in zip(self.ratios, self.bounds, self.bessel) if b
                )
            speed = np.abs(np.nan_to_num(here.velocity - singular))
            bend = np.where(self.vanishing, 0.0, np.abs(here.slope) / sigma)  # a wall at y = ∞ stays there
            step = np.where(going, np.minimum(0.5 * need, 1 / (speed + 2 * bend + 1e-300)), 0.0)
            ends = ends + np.nan_to_num(outward * step * sigma / rate)
            way, action = way + step, action + speed * step
            if not self.periodic:
                going &= outward * (walls - ends) > 0
                ends = np.clip(ends, *walls)
            trail.append(ends)
            going &= (way < MAX_DISTANCE * need) & (action < MAX_ACTION)
            if not going.any():
                break
        return np.unique(np.concatenate(trail))

    def _tabulate(self, trail: np.ndarray, data: np.ndarray) -> None:
        """Splines y(q) and q(y), and V on points about even in y."""
        from scipy.interpolate import make_interp_spline

        q_low, q_high = trail[0], trail[-1]
        walls, span = self.q(np.array(self.bounds)), q_high - q_low
        at_wall = [not self.periodic and abs(end - wall) <= 1e-9 * span for end, wall in zip((q_low, q_high), walls)]
        inner = [1e-5 * span if at and v else 0.0 for at, v in zip(at_wall, self.vanishing)]  # 0/0 at the wall itself
        q = np.unique(np.concatenate([trail, data, np.linspace(q_low, q_high, 513)]))
        q = np.interp(np.linspace(0, len(q) - 1, BATCH // 2), np.arange(len(q)), q)
        q = np.clip(q, q_low + inner[0], q_high - inner[1])
        for even in (False, False, True):
            x, rate = self.x_of_q(q, 1.0)
            here = self.within_reach(x)
            speed = rate / np.sqrt(2 * here.diffusivity)
            if not even:
                y = cumulative(speed, q)
                q = np.interp(np.linspace(0, y[-1], len(q)), y, q)
        self._y_of_q = make_interp_spline(q, speed, k=5).antiderivative()
        knots = np.unique(np.concatenate([[q_low], q, [q_high]])) if any(inner) else np.unique(q)
        self.q_of_y = make_interp_spline(self._y_of_q(knots), knots, k=5)
        self.q_slope = self.q_of_y.derivative()
        self.table = self._y_of_q(q)
        self.potential = np.nan_to_num(here.potential, nan=0.0, posinf=1e300, neginf=-1e300)
        self.y_low, self.y_high = self._y_of_q(q_low), self._y_of_q(q_high)
        self.y_walls = tuple(
            y if at else beyond for y, at, beyond in zip((self.y_low, self.y_high), at_wall, (-np.inf, np.inf))
        )
        for wall, bessel, ratio in zip(self.y_walls, self.bessel, self.ratios):
            if bessel and np.isfinite(wall):  # the kernel there knows its singular part
                self.potential = self.potential - ((ratio - 1) ** 2 - 0.25) / 2 / (self.table - wall) ** 2
        self._action = cumulative(np.sqrt(2 * np.maximum(self.potential, 0)), self.table)

    def y(self, x: Any) -> Any:
        return self._y_of_q(self.q(x))

    def x(self, y: Any) -> Any:
        return self.x_of_q(self.q_of_y(y), 1.0)[0]

    @property
    def length(self) -> float:
        """How far apart in y the two ends are that both matter."""
        return float(self.period if self.periodic else self.y_walls[1] - self.y_walls[0])

    def wraps(self, duration: Any) -> Any:
        """Where a window takes the whole circle; else other ways round do not matter."""
        return self.periodic & (self.period < 60 * np.sqrt(duration))

    def jump(self, members: Any) -> np.ndarray:
        """How far transitions go, in √duration."""
        return np.abs(self.y_stop[members] - self.y_start[members]) / np.sqrt(self.duration[members])

    def range(self, low: Any, high: Any, duration: Any) -> tuple[Any, Any]:
        """Between which y paths from low to high must be followed: beyond, bridges weigh less than e^−23."""
        at = lambda y: np.interp(y, self.table, self.potential)
        dip = np.clip(duration * (np.maximum(at(low), at(high)) - self.potential.min()), 0, 60)
        pad = 1.2 * np.sqrt(duration * (23 + dip) / 2)
        action = lambda y, more: np.interp(
            np.interp(y, self.table, self._action) + more, self._action, self.table, left=-np.inf, right=np.inf
        )
        flat = 1e-12 * (self.table[-1] - self.table[0])  # np.interp of a flat action returns an end of the plateau
        left, right = action(low, -24.0), action(high, 24.0)
        left, right = np.where(left >= low - flat, -np.inf, left), np.where(right <= high + flat, np.inf, right)
        low, high = np.maximum(low - pad, left), np.minimum(high + pad, right)
        return np.maximum(low, self.y_low), np.minimum(high, self.y_high)

    def ends(self, low: Any, high: Any) -> tuple[Any, Any]:
        """Which of the walls lie within a range of y."""
        return low <= self.y_walls[0], high >= self.y_walls[1]

    def kind(self, side: int) -> str:
        """What a window meets at a wall."""
        if self.vanishing[side]:
            return "bessel absorbing" if self.walls[side] == "absorbing" else "bessel"
        return self.walls[side]
