"""Files that keep finished parts: what they belong to, and what becomes of damaged ones."""

import functools

import jax
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.checkpoint import digest

GLOBAL = 0.1


class Slope:
    def __init__(self, k):
        self.k = k

    def __call__(self, x):
        return self.k * (1 + x)

    def at(self, x):
        return self.k * x


def of_array(k):
    array = np.linspace(0.0, 1.0, 3000)
    array[1500] = k
    return lambda x: array[0] * x


def of_global(k):
    space = {"k": k}
    exec("def f(x):\n    return k * x", space)
    return space["f"]


FUNCTIONS = {
    "closure": lambda k: lambda x: k * x,
    "default": lambda k: lambda x, c=k: c * x,
    "object": Slope,
    "method": lambda k: Slope(k).at,
    "array": of_array,
    "global": of_global,
    "compiled": lambda k: jax.jit(lambda x: k * x),
    "partial": lambda k: functools.partial(lambda c, x: c * x, k),
    "inner": lambda k: lambda x: (lambda y: k * y)(x),
    "expression": lambda k: jd.Expression("k*x", k=k),
    "spline": lambda k: jd.Spline([0.0, 1.0], [k, 1.0]),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_digest_sees_all_that_a_coefficient_reads(name):
    one, two, again = (digest(jd.Diffusion(FUNCTIONS[name](k))) for k in (0.1, 0.5, 0.1))
    assert one == again != two


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"no archive at all"])
def test_a_damaged_file_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "run.npz"
    path.write_bytes(content)
    grid = jd.Grid.uniform((0.0, 1.0, 8))
    with pytest.raises(ValueError, match="cannot be read as saved results; name another file, or remove it"):
        jd.solve(jd.Diffusion(1.0), grid, 1.0, [0.0, 1.0], save=path)
    assert path.read_bytes() == content


def test_another_precision_is_another_computation(tmp_path):
    grid, path = jd.Grid.uniform((0.0, 1.0, 8)), tmp_path / "run.npz"
    run = lambda: jd.solve(jd.Diffusion(1.0), grid, np.linspace(0.0, 1.0, 8), [0.0, 0.1], save=path)
    with jax.enable_x64(False):
        run()
    with pytest.raises(ValueError, match="holds results of another model"):
        run()
