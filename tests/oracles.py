"""What several tests hold numbers against: SciPy's exponential of the matrix that the cells have, and differences."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from jaxdiff.discretisation.schemes import FiniteVolume
from jaxdiff.runtime.compilation import solver_jit


def each_way(f, x):
    """f(x), its derivative in reverse and forwards, (*f, *x) both, with f traced once."""
    value, push = jax.linearize(f, x)
    units = lambda a: jnp.eye(jnp.size(a)).reshape(-1, *jnp.shape(a))
    along = lambda linear, a: jax.vmap(linear)(units(a)) if jnp.ndim(a) else linear(jnp.ones(()))
    reverse = along(lambda y: jax.linear_transpose(push, x)(y)[0], value)
    forward = along(push, x) if jnp.ndim(x) == 0 else jnp.moveaxis(along(push, x), 0, -1)
    return value, *(part.reshape(jnp.shape(value) + jnp.shape(x)) for part in (reverse, forward))


def central(f, x, h=1e-3):
    """The derivative of f by a number x, from central differences over h and 2h."""
    return (8 * (f(x + h) - f(x - h)) - (f(x + 2 * h) - f(x - 2 * h))) / (12 * h)


def _parts(equation, grid, t):
    system = FiniteVolume().systems(equation, grid)[0]
    operator, n = system.operator(t), int(np.prod(grid.shape))
    unit = jnp.eye(n).reshape(n, *grid.shape)
    matrix = jax.vmap(lambda e: operator @ e)(unit).reshape(n, n).T
    return matrix, jnp.broadcast_to(system.forcing(t), grid.shape).ravel(), jnp.ravel(system.weights)


def dense(equation, grid):
    """A function of time: the matrix of an equation, what is fed in, and what a cell weighs, over the cells in a row."""
    parts = jax.jit(partial(_parts, equation, grid))
    return lambda t: tuple(map(np.asarray, parts(t)))


_once = solver_jit(_parts)  # one program for all equations that differ in numbers


def exponential(equation, grid, times):
    """A function of the initial state: cell averages at the times, with what is fed in as one more row of the matrix."""
    matrix, forcing, weights = map(np.asarray, _once(equation, grid, np.zeros(())))
    whole = np.pad(np.column_stack([matrix, forcing]), ((0, 1), (0, 0)))
    each = cache(lambda span: scipy.linalg.expm(span * whole))

    def values(initial):
        start = np.append(np.asarray(initial, float).ravel() * weights, 1.0)
        return np.stack([(each(t - times[0]) @ start)[:-1] / weights for t in times]).reshape(-1, *grid.shape)

    return values
