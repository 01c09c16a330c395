"""What planning a path needs to know of an SDE at concrete coefficients: y, its inverse, V, and the walls within reach."""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from jaxdiff.transition.kernel import Coefficients, Scalar, coefficients, wall_ratio

BATCH = 4096


class Turn(eqx.Module):
    """A function of position on a circle."""

    function: Any
    lower: Any
    length: Any

    def __call__(self, x: Any) -> Any:
        return self.function(self.lower + jnp.mod(x - self.lower, self.length))


at_points = eqx.filter_jit(coefficients)


class Reference:
    """The SDE at the coefficients a plan is made with: y = s(x) and its inverse, V, and the walls within reach of the data."""

    def __init__(self, drift: Scalar, diffusivity: Scalar, killing: Scalar, start: Any, stop: Any, duration: Any,
                 lower: float, upper: float, walls: tuple[str, str]) -> None:  # fmt: skip
        self.functions = (drift, diffusivity, killing)
        self.start, self.stop, self.duration = start, stop, duration
        self.walls, self.periodic = walls, walls[0] == "periodic"
        lower, upper = self.bounds = float(lower), float(upper)
        low, high = min(start.min(), stop.min()), max(start.max(), stop.max())
        if self.periodic:
            low, high = min(low, lower), max(high, upper)
        scale = np.nanmax(self.at(np.array([low, (low + high) / 2, high])).diffusivity)
        order = [self._order(wall, scale) for wall in self.bounds]
        self.vanishing = (order[0] == 1, order[1] == 1)
        self.natural = (order[0] == 2 and order[1] != 1, order[1] == 2 and order[0] != 1)
        for wall, vanishing, edge in zip(self.bounds, self.vanishing, (low, high)):
            if vanishing and edge == wall:
                raise ValueError(
                    f"a position lies on the wall {wall:g}, where the diffusivity vanishes; drop or shift it"
                )
        self.ratios = [
            float(wall_ratio(drift, diffusivity, w)) if v else 0.0 for w, v in zip(self.bounds, self.vanishing)
        ]
        # a larger order keeps paths from the wall by itself
        self.bessel = tuple(bool(v and abs(ratio - 1) < 200) for v, ratio in zip(self.vanishing, self.ratios))
        data = self.to_t(np.quantile(np.concatenate([start, stop]), np.linspace(0, 1, 513)))
        self._tabulate(self._march(self.to_t(low), self.to_t(high)), data)
        self.s_start, self.s_stop = self.s(start), self.s(stop)
        self.s_bounds = self.s(np.array([lower, upper])) if self.periodic else (np.nan, np.nan)
        self.turn = self.s_bounds[1] - self.s_bounds[0]

    def _order(self, wall: float, scale: float) -> int:
        """0: D > 0 at the wall, 1: it vanishes linearly there, 2: faster (y is infinite there)."""
        if self.periodic:
            return 0
        D = float(self.functions[1](jnp.asarray(wall)))
        slope = float(1 / wall_ratio(lambda x: jnp.ones_like(x), self.functions[1], wall))
        return 0 if not abs(D) <= 1e-12 * scale else 2 if slope == 0 or not np.isfinite(slope) else 1

    def at(self, x: Any) -> Coefficients:
        """Coefficients at points of any shape, in batches of one size."""
        flat = np.ravel(x)
        padded = np.concatenate([flat, np.full(-len(flat) % BATCH, flat[-1])]).reshape(-1, BATCH)
        parts = [at_points(*self.functions, batch) for batch in padded]
        return Coefficients(*(np.concatenate(p)[: len(flat)].reshape(np.shape(x)) for p in zip(*parts)))

    # t: a coordinate in which x and y are smooth where D vanishes at a wall
    def to_t(self, x: Any) -> Any:
        (lower, upper), (left, right), (log_left, log_right) = self.bounds, self.vanishing, self.natural
        with np.errstate(divide="ignore"):
            if left and right:
                return 2 * np.arcsin(np.sqrt(np.clip((x - lower) / (upper - lower), 0, 1)))
            if log_left or log_right:
                return (np.log(x - lower) if log_left else 0) - (np.log(upper - x) if log_right else 0)
        return np.sqrt(x - lower) if left else -np.sqrt(upper - x) if right else x

    def x_of_t(self, t: Any, rate: Any) -> tuple[Any, Any]:
        """x and dx/dz from t and dt/dz."""
        (lower, upper), (left, right), (log_left, log_right) = self.bounds, self.vanishing, self.natural
        if left and right:
            return lower + (upper - lower) * np.sin(t / 2) ** 2, (upper - lower) * np.sin(t) / 2 * rate
        if log_left and log_right:
            part = 1 / (1 + np.exp(-t))
            return lower + (upper - lower) * part, (upper - lower) * part * (1 - part) * rate
        if log_left or log_right:
            gap = np.exp(t if log_left else -t)
            return (lower + gap if log_left else upper - gap), gap * rate
        return (lower + t**2, 2 * t * rate) if left else (upper - t**2, -2 * t * rate) if right else (t, rate)

    def _march(self, t_low: float, t_high: float) -> np.ndarray:
        """Outwards from the data to a wall, eight and a half √duration, or where the way there and back costs e^−80."""
        ends, walls = np.array([t_low, t_high]), self.to_t(np.array(self.bounds))
        need, way, action = math.sqrt(self.duration.max()), np.zeros(2), np.zeros(2)
        outward, going, trail = np.array([-1.0, 1.0]), np.ones(2, bool), [ends]
        for _ in range(2000):
            x, rate = self.x_of_t(ends, 1.0)
            here = self.at(x)
            if not np.all(np.isfinite(here.diffusivity[going])):
                bad = x[going][~np.isfinite(here.diffusivity[going])][0]
                raise ValueError(
                    f"the diffusivity is not positive at x = {bad:g}, within reach of the path; give the equation a wall before it"
                )
            sigma = np.sqrt(2 * here.diffusivity)
            with np.errstate(divide="ignore", invalid="ignore"):  # the drift 1/y at a vanishing wall is no barrier
                singular = sum(
                    (r - 0.5) * sigma / (2 * (x - w)) for r, w, b in zip(self.ratios, self.bounds, self.bessel) if b
                )
            speed = np.abs(np.nan_to_num(here.velocity - singular))
            bend = np.where(
                self.vanishing, 0.0, np.abs(here.slope) / np.sqrt(2 * here.diffusivity)
            )  # a wall at y = ∞ stays there
            step = np.where(going, np.minimum(0.5 * need, 1 / (speed + 2 * bend + 1e-300)), 0.0)
            ends = ends + np.nan_to_num(outward * step * np.sqrt(2 * here.diffusivity) / rate)
            way, action = way + step, action + speed * step
            if not self.periodic:
                going &= outward * (walls - ends) > 0
                ends = np.clip(ends, *walls)
            trail.append(ends)
            going &= (way < 8.5 * need) & (action < 40)
            if not going.any():
                break
        return np.unique(np.concatenate(trail))

    def _tabulate(self, trail: np.ndarray, data: np.ndarray) -> None:
        from scipy.interpolate import make_interp_spline

        t_low, t_high = trail[0], trail[-1]
        walls, span = self.to_t(np.array(self.bounds)), t_high - t_low
        at_wall = [not self.periodic and abs(end - wall) <= 1e-9 * span for end, wall in zip((t_low, t_high), walls)]
        inner = [1e-5 * span if at and v else 0.0 for at, v in zip(at_wall, self.vanishing)]  # 0/0 at the wall itself
        t = np.unique(np.concatenate([trail, data, np.linspace(t_low, t_high, 513)]))
        t = np.interp(np.linspace(0, len(t) - 1, BATCH // 2), np.arange(len(t)), t)
        t = np.clip(t, t_low + inner[0], t_high - inner[1])
        for even in (False, False, True):
            x, rate = self.x_of_t(t, 1.0)
            here = self.at(x)
            if not np.all(np.isfinite(here.diffusivity)):
                bad = x[~np.isfinite(here.diffusivity)][0]
                raise ValueError(
                    f"the diffusivity is not positive at x = {bad:g}, within reach of the path; give the equation a wall before it"
                )
            speed = rate / np.sqrt(2 * here.diffusivity)
            if not even:
                way = np.concatenate([[0.0], np.cumsum((speed[1:] + speed[:-1]) / 2 * np.diff(t))])
                t = np.interp(np.linspace(0, way[-1], len(t)), way, t)
        self._s_of_t = make_interp_spline(t, speed, k=5).antiderivative()
        edges = np.concatenate([[t_low], t, [t_high]]) if any(inner) else t
        edges = np.unique(edges)
        self._t_of_s = make_interp_spline(self._s_of_t(edges), edges, k=5)
        self.t_rate = self._t_of_s.derivative()
        self.table, self.potential = (
            self._s_of_t(t),
            np.nan_to_num(here.potential, nan=0.0, posinf=1e300, neginf=-1e300),
        )
        self.s_low, self.s_high = self._s_of_t(t_low), self._s_of_t(t_high)
        self.s_walls = tuple(
            s if at else inf for s, at, inf in zip((self.s_low, self.s_high), at_wall, (-np.inf, np.inf))
        )
        for wall, bessel, ratio in zip(self.s_walls, self.bessel, self.ratios):
            if bessel and np.isfinite(wall):  # the kernel there knows its singular part
                self.potential = self.potential - ((ratio - 1) ** 2 - 0.25) / 2 / (self.table - wall) ** 2
        cost = np.sqrt(2 * np.maximum(self.potential, 0))
        self._action = np.concatenate([[0.0], np.cumsum((cost[1:] + cost[:-1]) / 2 * np.diff(self.table))])

    def s(self, x: Any) -> Any:
        return self._s_of_t(self.to_t(x))

    def x(self, s: Any) -> Any:
        return self.x_of_t(self._t_of_s(s), 1.0)[0]

    def t(self, s: Any) -> Any:
        return self._t_of_s(s)

    def range(self, low: Any, high: Any, duration: Any) -> tuple[Any, Any]:
        """Between which s paths from low to high (in s) must be followed: beyond, bridges weigh less than e^−23."""
        at = lambda s: np.interp(s, self.table, self.potential)
        dip = np.clip(duration * (np.maximum(at(low), at(high)) - self.potential.min()), 0, 60)
        pad = 1.2 * np.sqrt(duration * (23 + dip) / 2)
        action = lambda s, more: np.interp(
            np.interp(s, self.table, self._action) + more, self._action, self.table, left=-np.inf, right=np.inf
        )
        flat = 1e-12 * (self.table[-1] - self.table[0])  # np.interp of a flat action returns an end of the plateau
        left, right = action(low, -24.0), action(high, 24.0)
        left, right = np.where(left >= low - flat, -np.inf, left), np.where(right <= high + flat, np.inf, right)
        return np.maximum(np.maximum(low - pad, left), self.s_low), np.minimum(
            np.minimum(high + pad, right), self.s_high
        )

    def ends(self, low: Any, high: Any) -> tuple[Any, Any]:
        """Which of the walls lie within a range."""
        return low <= self.s_walls[0], high >= self.s_walls[1]

    def kind(self, side: int) -> str:
        if self.vanishing[side]:
            return "bessel absorbing" if self.walls[side] == "absorbing" else "bessel"
        return self.walls[side]
