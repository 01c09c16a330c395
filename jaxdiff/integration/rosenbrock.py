"""Coefficients that depend on time, on one axis: a Rosenbrock method of fifth order, which solves and never iterates."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.integration.frozen import inside
from jaxdiff.integration.steppers import ErrorControlled

_GAMMA = 0.21193756319429014
_FIFTH = [-7.502846399306121, 2.561846144803919, -11.627539656261098, -0.18268767659942256, 0.030198172008377946]
_BEFORE = [  # A: shares of the earlier k in the state at which a stage asks
    [],
    [3.0],
    [2.849394379747939, 0.45842242204463923],
    [-6.954028509809101, 2.489845061869568, -10.358996098473584],
    [2.8029986275628964, 0.5072464736228206, -0.3988312541770524, -0.04721187230404641],
    _FIFTH,
    [*_FIFTH, 1.0],
    [*_FIFTH, 1.0, 1.0],
]
_CARRIED = [  # C
    [],
    [-14.155112264123755],
    [-17.97296035885952, -2.859693295451294],
    [147.12150275711716, -1.41221402718213, 71.68940251302358],
    [165.43517024871676, -0.4592823456491126, 42.90938336958603, -5.961986721573306],
    [24.854864614690072, -3.0009227002832186, 47.4931110020768, 5.5814197821558125, -0.6610691825249471],
    [30.91273214028599, -3.1208243349937974, 77.79954646070892, 34.28646028294783, -19.097331116725623, -28.087943162872662],
    [37.80277123390563, -3.2571969029072276, 112.26918849496327, 66.9347231244047, -40.06618937091002, -54.66780262877968, -9.48861652309627],
]  # fmt: skip
_TIMES = np.array([0.0, 0.6358126895828704, 0.4095798393397535, 0.9769306725060716, 0.4288403609558664, 1.0, 1.0, 1.0])
_SLOPES = np.array(
    [_GAMMA, -0.42387512638858027, -0.3384627126235924, 1.8046452872882734, 2.325825639765069, 0.0, 0.0, 0.0]
)
_STAGES = len(_TIMES)
_ROWS = np.array([[np.pad(row, (0, _STAGES - len(row))) for row in pair] for pair in zip(_BEFORE, _CARRIED)])
# Of k₈: in each step, as a jump at an unknown time may hide three quarters of its error from k₈; and, as the result is of
# higher order, when thousands of steps add up in what neither spreads nor decays.
_FADING, _LASTING = 4.0, 0.2


class Rosenbrock(ErrorControlled):
    """Rodas5P: fifth order, eight stages that share one factorisation, L-stable, its order kept at moving walls.

        (I − γΔtA) kᵢ = γ (Δt F(t + cᵢΔt, u + Σ Aᵢⱼ kⱼ) + Σ Cᵢⱼ kⱼ + Δt² dᵢ ∂F/∂t),   F = A(t) u + b(t)
        u₊ = u + Σ A₈ⱼ kⱼ + k₈,   and k₈ is the error of the fourth order before it

    Steinebach 2023, doi:10.1007/s10543-023-00967-x.
    """

    order = 5  # of the error that is estimated, in one step
    description = "Rodas5P"

    def step(self, system: Any, t: Any, dt: Any, u: Any) -> Any:
        return self.step_with_error(system, t, dt, u)[0]

    def step_with_error(self, system: Any, t: Any, dt: Any, u: Any) -> tuple[Any, Any, Any]:
        """The step, its error as far as it adds up, and as far as it fades: most of it in a fast first layer."""
        times = inside(t, dt, _TIMES.astype(u.dtype))

        def rate(time: Any) -> Any:
            A, b = system.at(time, u)
            return A @ u + b, A

        _, slope, operator = jax.jvp(rate, (times[0],), (jnp.ones_like(times[0]),), has_aux=True)
        solve = operator.resolvent(1.0, -_GAMMA * dt)

        def stage(carry: Any, row: Any) -> Any:
            ks, _ = carry
            i, time, share, shares = row
            ahead, carried = jnp.tensordot(shares, ks, 1, precision="highest")
            at = u + ahead
            A, b = system.at(time, at)
            k = solve(_GAMMA * (dt * (A @ at + b + dt * share * slope) + carried)).astype(u.dtype)
            return (ks.at[i].set(k), at), None

        rows = (np.arange(_STAGES), times, jnp.asarray(_SLOPES, u.dtype), jnp.asarray(_ROWS, u.dtype))
        (ks, at), _ = jax.lax.scan(stage, (jnp.zeros((_STAGES, *u.shape), u.dtype), u), rows)
        return at + ks[-1], _LASTING * ks[-1], _FADING * ks[-1]
