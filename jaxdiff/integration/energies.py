"""The lowest energies of a wave, and its modes."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.discretisation.schemes import semidiscrete
from jaxdiff.integration.options import SECOND_ORDER
from jaxdiff.integration.steady import DENSE
from jaxdiff.runtime.compilation import solver_jit
from jaxdiff.runtime.conditions import Checks, check

_PASSES = 400
_CONVERGED = 1e-6  # residual of a mode, of its energy above the bottom; of the energy it is the square
_UNRESOLVED = 1e-3
_NEAR = 1e3  # roundoffs of the largest energy within which modes mix
_APART = 1e2  # residuals


@cache
def lowest(count: int) -> Any:
    """A function of (equation, grid): energies `(count,)` and modes `(count, *cells)` of ∫ψ² dV = 1, and checks."""

    def energies(equation: Any, grid: Any) -> tuple[Any, Checks]:
        system = semidiscrete(equation, grid, SECOND_ORDER)[0]
        hamiltonian, volume = system.hamiltonian(0.0, real=True), jnp.asarray(grid.volumes).ravel()[0]
        if system.absorption is not None:
            raise ValueError("energies are those of waves that are not absorbed; leave absorption out")
        n = jnp.size(hamiltonian.potential)
        if n <= DENSE:
            units = jnp.eye(n, dtype=hamiltonian.potential.dtype).reshape(n, *grid.shape)
            # One by one: XLA would lay the matrix out in columns for LAPACK, of which its transforms take none.
            matrix = -jax.lax.map(hamiltonian.__matmul__, units).reshape(n, n)
            modes, error = _of_matrix((matrix + matrix.T) / 2, count), jnp.zeros((), matrix.dtype)
        else:
            modes, error = _iterated(jax.lax.stop_gradient(hamiltonian), count)
        modes = modes.reshape(count, *grid.shape)
        # By Hellmann and Feynman: an energy moves as that of a mode that stays.
        fixed = jax.lax.stop_gradient(modes)
        values = -jnp.sum((fixed * (hamiltonian @ fixed)).reshape(count, -1), axis=1) * jnp.asarray(equation.hbar)
        values = _shared(values, hamiltonian, error, jnp.asarray(equation.hbar))
        sizes = jnp.abs(fixed).reshape(count, -1)
        first = jnp.argmax(sizes > 0.999 * jnp.max(sizes, axis=1, keepdims=True), axis=1)[:, None]
        sign = jnp.sign(jnp.take_along_axis(fixed.reshape(count, -1), first, 1))
        modes = modes * sign.reshape(-1, *(1,) * grid.ndim) / jnp.sqrt(volume)
        short = jnp.max(jax.vmap(system.unresolved)(fixed))
        words = "the modes did not converge: {value} is left of one of them; ask for fewer, or take fewer cells"
        fine = "a mode has {value} of its norm in waves that are hardly longer than two cells; take smaller cells, or ask for fewer"
        found = [(words, ~(error <= _converged(error.dtype)), 0.0, error), (fine, short > _UNRESOLVED, 0.0, short)]
        return (values, modes), check([*system.conditions(0.0), *found])

    return solver_jit(energies)


def _converged(dtype: Any) -> float:
    return max(_CONVERGED, 256 * float(jnp.finfo(dtype).eps))


def _shared(values: Any, hamiltonian: Any, error: Any, hbar: Any) -> Any:
    """Energies of which those that modes do not tell apart share the mean of their derivatives."""
    levels, least = jax.lax.stop_gradient((values, hbar * jnp.min(hamiltonian.potential)))
    noise = jax.lax.stop_gradient(_NEAR * jnp.finfo(values.dtype).eps * hbar * hamiltonian.spread())
    gaps = jnp.abs(levels[:, None] - levels)
    near = gaps <= jnp.maximum(noise, _APART * error * (jnp.max(levels) - least))
    return levels + jnp.matmul(near / jnp.sum(near, axis=1, keepdims=True), values - levels, precision="highest")


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _of_matrix(matrix: Any, count: int) -> Any:
    """The first eigenvectors `(count, n)`."""
    return jnp.linalg.eigh(matrix)[1][:, :count].T


@_of_matrix.defjvp
def _of_matrix_jvp(count: int, primals: Any, tangents: Any) -> tuple[Any, Any]:
    """dvₖ = Σ vⱼ (vⱼ·dH vₖ)/(eₖ − eⱼ); not a number where two energies are one."""
    values, vectors = jnp.linalg.eigh(primals[0])
    first = vectors[:, :count]
    gaps = values[None, :count] - values[:, None]
    near = jnp.abs(gaps) < _NEAR * float(jnp.finfo(values.dtype).eps) * jnp.max(jnp.abs(values))
    own = jnp.arange(len(values))[:, None] == jnp.arange(count)
    share = jnp.where(own, 0.0, jnp.where(near, jnp.nan, 1.0 / jnp.where(near, 1.0, gaps)))
    dot = partial(jnp.matmul, precision="highest")
    return first.T, dot(vectors, share * dot(vectors.T, dot(tangents[0], first))).T


def _iterated(hamiltonian: Any, count: int) -> tuple[Any, Any]:
    """The same without a matrix, and what is left of them: Rayleigh–Ritz among modes, their residuals over T + c, and the last
    directions (Knyazev 2001, doi:10.1137/S1064827500366124)."""
    shape, basis = hamiltonian.potential.shape, hamiltonian.basis
    n, size, dtype = hamiltonian.potential.size, count + 4, hamiltonian.potential.dtype
    dot = partial(jnp.matmul, precision="highest")
    on = lambda rows: -(hamiltonian @ rows.reshape(-1, *shape)).reshape(-1, n)
    bottom, enough = jnp.min(hamiltonian.potential), _converged(dtype)

    def ritz(rows: Any) -> tuple[Any, Any, Any]:
        basis_rows = jnp.linalg.qr(rows.T)[0].T
        image = on(basis_rows)
        small = dot(basis_rows, image.T)
        values, turn = jnp.linalg.eigh((small + small.T) / 2)
        turn = turn[:, :size].T
        return values[:size], dot(turn, basis_rows), dot(turn, image)

    def more(state: Any) -> Any:
        return (state[4] < _PASSES) & ~(state[3] < 1e-2 * _CONVERGED + 0.25 * (enough - _CONVERGED))

    def again(state: Any) -> Any:
        modes, image, before, _, passes = state
        values = jnp.sum(modes * image, axis=1)
        residual = image - values[:, None] * modes
        level = (values - bottom).reshape(-1, *(1,) * len(shape))
        level = jnp.maximum(level, 1e-3 * jnp.max(level))
        waves = basis.analyse(residual.reshape(-1, *shape)) / (hamiltonian.kinetic + level)
        directions = basis.synthesise(waves).reshape(-1, n)
        values, new, image = ritz(jnp.concatenate([modes, directions, before]))
        left = jnp.linalg.norm(image - values[:, None] * new, axis=1) / jnp.maximum(values - bottom, 1e-300)
        return new, image, new - dot(dot(new, modes.T), modes), jnp.max(left[:count]), passes + 1

    # Low energies are smooth: random waves without the shortest.
    start = jax.random.normal(jax.random.key(0), (size, *shape), dtype)
    smooth = basis.synthesise(basis.analyse(start) / (hamiltonian.kinetic + jnp.max(hamiltonian.kinetic) / n) ** 2)
    values, modes, image = ritz(smooth.reshape(size, n))
    del values
    state = (modes, image, jax.random.normal(jax.random.key(1), (size, n), dtype) * 1e-3, jnp.array(jnp.inf, dtype), 0)
    modes, _, _, error, _ = jax.lax.while_loop(more, again, state)
    return modes[:count], error
