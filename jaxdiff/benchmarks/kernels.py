"""The loops that solves are made of, each with the cells it updates and the bytes that it cannot but move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from jaxdiff.benchmarks.loops import euler
from jaxdiff.integration.frozen import Constant
from jaxdiff.integration.stepping import march
from jaxdiff.operators import Tridiagonal, chebyshev

WORK = 2e7  # cell updates of one call, from which calls are long beside what starts them
LINE = 256  # cells of each line in a batch
TIMES = 32  # products of one call with the dense matrices of the axes


@dataclass(frozen=True)
class Work:
    """A call, how many cells it updates, and how many bytes must move for it: state read and written, coefficients read."""

    call: Callable[[], Any]
    updates: float
    bytes: float


@dataclass(frozen=True)
class Kernel:
    """`make(size, dtype)`; sizes are cells on each axis or lines in a batch, `cells(size)` what one update touches.

    arrays: of that many cells that a device must hold; needs: a package.
    """

    name: str
    make: Callable[[int, Any], Work]
    sizes: tuple[int, ...]
    cells: Callable[[int], int]
    label: str
    arrays: int = 12
    needs: str | None = None


def copy(size: int, dtype: Any) -> Work:
    """s x in a loop, into the memory of x: each pass reads and writes it all, and none waits for memory to be given."""
    passes = 10

    @partial(jax.jit, donate_argnums=0)
    def run(x: Any, s: Any) -> Any:
        return jax.lax.scan(lambda v, _: (s * v, None), x, None, length=passes)[0]

    state, scale = [jnp.ones(size, dtype)], jnp.ones((), dtype)

    def call() -> Any:
        state[0] = run(state[0], scale)
        return state[0]

    return Work(call, passes * size, passes * 2.0 * size * dtype.itemsize)


def explicit(axes: int, varies: bool, n: int, dtype: Any) -> Work:
    """Steps of Euler in a loop, on an operator that is formed before."""
    operator, u = _operator(axes, varies, n, dtype)
    steps = int(np.clip(WORK / u.size, 8, 200))
    dt = jnp.asarray(0.1 / (axes * n**2), dtype)

    @partial(jax.jit, donate_argnums=1)
    def run(operator: Any, u: Any) -> Any:
        return march(lambda _, v: jd.ForwardEuler().step(Constant(operator, 0.0), 0.0, dt, v), u, steps)

    state = [u]

    def call() -> Any:
        state[0] = run(operator, state[0])
        return state[0]

    return Work(call, steps * u.size, steps * (2 * u.nbytes + _coefficients(operator)))


def terms(axes: int, n: int, dtype: Any, kernel: bool = False) -> Work:
    """Chebyshev polynomials on a varying D: the last two states and the sum are read, two are written. The `kernel` takes
    two products in one pass, and is measured by what must move for each."""
    operator, u = _operator(axes, True, n, dtype)
    count = int(32 * np.clip(WORK / u.size // 32, 1, 8))
    end = jnp.asarray([count**2 / 25 / float(operator.bound())], dtype)
    run = jax.jit(lambda a, u: chebyshev(a, end, u, terms=count, needed=float(count), kernel=kernel)[0])
    return Work(partial(run, operator, u), count * u.size, count * (5 * u.nbytes + _coefficients(operator)))


def lines(batch: int, dtype: Any) -> Work:
    """Resolvents of many lines at once: rates up, rates down, loss and right side are read, solutions written."""
    rate = LINE**2 * (1.0 + 0.5 * np.random.default_rng(0).random((batch, LINE + 1)))
    up, down = jnp.asarray(rate[:, 1:], dtype), jnp.asarray(rate[:, :-1], dtype)
    loss, u = jnp.zeros((batch, LINE), dtype), jnp.ones((batch, LINE), dtype)
    one = lambda up, down, loss, u: Tridiagonal(up, down, loss).resolvent(1.0, -1e-3)(u)
    return Work(partial(jax.jit(jax.vmap(one)), up, down, loss, u), u.size, 5 * u.nbytes)


def products(n: int, dtype: Any) -> Work:
    """e^{tA} as a dense matrix on each of two axes, through equal intervals; the matrices are formed as well."""
    _, grid, u = _problem(2, False, n, dtype)
    times = np.linspace(0.0, 0.02, TIMES + 1)
    run = jax.jit(lambda d, u: jd.solve(jd.Diffusion(d), grid, u, times).values[-1])
    moved = TIMES * (2 * u.nbytes + 2 * n**2 * dtype.itemsize)
    return Work(partial(run, jnp.ones((), dtype), u), TIMES * u.size, moved)


def loop(parallel: bool, n: int, dtype: Any) -> Work:
    """The same explicit step on two axes as a numba loop."""
    step, a = euler(parallel), dtype.type(0.1)
    u, out = np.ones((n, n), dtype), np.ones((n, n), dtype)
    steps = int(np.clip(WORK / n**2, 4, 200)) // 2 * 2

    def call() -> Any:
        for _ in range(steps // 2):
            step(u, out, a)
            step(out, u, a)
        return u

    return Work(call, steps * u.size, steps * 2.0 * u.nbytes)


def _problem(axes: int, varies: bool, n: int, dtype: Any) -> tuple[Any, Any, Any]:
    grid = jd.Grid.uniform(*[(0.0, 1.0, n)] * axes)
    wave = 1.0 + 0.5 * jnp.sin(2 * np.pi * jnp.asarray(grid.centers[0], dtype))
    shape = (-1, *(1,) * (axes - 1))
    d = jnp.broadcast_to(wave.reshape(shape), grid.shape) if varies else jnp.ones((), dtype)
    bump = jnp.exp(-50 * (jnp.asarray(grid.centers[0], dtype) - 0.5) ** 2)
    return jd.Diffusion(d), grid, jnp.broadcast_to(bump.reshape(shape), grid.shape) + jnp.zeros((), dtype)


def _operator(axes: int, varies: bool, n: int, dtype: Any) -> tuple[Any, Any]:
    """The operator of a problem, formed before, and its initial state."""
    equation, grid, u = _problem(axes, varies, n, dtype)
    form = lambda d: jd.FiniteVolume().systems(jd.Diffusion(d), grid)[0].operator(0.0)
    return jax.jit(lambda d: jax.tree.map(lambda x: x.astype(dtype), form(d)))(equation.diffusivity), u


def _coefficients(operator: Any) -> float:
    """Bytes of the rates that a product reads: where they are symmetric, half of them."""
    rates = operator.up if getattr(operator, "symmetric", False) else (operator.up, operator.down)
    return float(sum(x.nbytes for x in jax.tree.leaves((rates, operator.loss))))


ONE_AXIS, TWO_AXES, THREE_AXES = (10**3, 10**5, 10**7), (64, 256, 1024, 4096, 8192), (16, 64, 256, 512)
KERNELS = (
    Kernel("explicit, 1-D", partial(explicit, 1, False), ONE_AXIS, lambda n: n, "{n}"),
    Kernel("explicit, 2-D", partial(explicit, 2, False), TWO_AXES, lambda n: n**2, "{n}²", 6),
    Kernel("explicit, 2-D, D an array", partial(explicit, 2, True), TWO_AXES, lambda n: n**2, "{n}²"),
    Kernel("explicit, 3-D", partial(explicit, 3, False), THREE_AXES, lambda n: n**3, "{n}³", 6),
    Kernel("Chebyshev products, 2-D", partial(terms, 2), TWO_AXES, lambda n: n**2, "{n}²", 20),
    Kernel("Chebyshev products, 3-D", partial(terms, 3), THREE_AXES, lambda n: n**3, "{n}³", 20),
    Kernel("tridiagonal solves", lines, (10, 10**3, 10**5), lambda k: LINE * k, f"{{n}} × {LINE}", 20),
    Kernel("dense exponentials", products, (64, 256, 1024, 2048), lambda n: n**2, "{n}²", 2 * TIMES),
)
FUSED = (
    Kernel("Chebyshev products, 2-D, kernel", partial(terms, 2, kernel=True), TWO_AXES[2:], lambda n: n**2, "{n}²", 20),
    Kernel(
        "Chebyshev products, 3-D, kernel", partial(terms, 3, kernel=True), THREE_AXES[1:], lambda n: n**3, "{n}³", 20
    ),
)
LOOPS = (
    Kernel("numba loop, 2-D", partial(loop, False), (256, 4096), lambda n: n**2, "{n}²", 2, "numba"),
    Kernel("numba loop, 2-D, parallel", partial(loop, True), (256, 4096), lambda n: n**2, "{n}²", 2, "numba"),
)
