"""Grids cut over eight devices and over two processes: the numbers of one device."""

import importlib
import os
import socket
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest

import jaxdiff as jd

COMMON = """
import gc
gc.set_threshold(50_000, 20, 50)
import jax, jax.numpy as jnp, numpy as np
import jaxdiff as jd
from jaxdiff.runtime.sharding import whole
jax.config.update("jax_enable_x64", True)
rng = np.random.default_rng(0)
plane, D, u = jd.Grid.uniform((0, 1, 16), (0, 2, 12)), rng.random((16, 12)) + 0.5, rng.random((16, 12))
walls = {"x-": jd.Dirichlet(lambda y: y), "y": jd.Robin(2.0, 0.5)}
times = [0.0, 0.002, 0.005]
plate = lambda d: jd.solve(jd.Diffusion(d, source=0.3, boundaries=walls), plane, u, times).values

pairs = []  # what is compared at the end, so that no process waits for another meanwhile

def compare(run, cut, tolerance=1e-12, **parts):
    with jd.decompose(**parts):
        several = jax.tree.leaves(run())
        found = several[0].sharding if cut else None
        assert not cut or len(found.device_set) == np.prod(list(parts.values())) and not found.is_fully_replicated, found
        pairs.append((run, list(map(whole, several)), tolerance))

def fitted():
    places, at = rng_places * [1, 2], np.repeat(times[1:], 10)
    readings = jd.Readings(plane, lambda x, y: x * y, at, places, 0.2 * places[:, 0] * places[:, 1])
    model, steps = jd.Diffusion(jd.Positive(0.5), decay=jd.Free(1.0)), {"stepper": jd.ForwardEuler(), "substeps": 3}
    return np.array(list(jd.fit(model, readings, steps=2, progress=False, **steps).parameters.values()))
rng_places = rng.random((20, 2))
"""

END = """
for run, several, tolerance in pairs if jax.process_index() == 0 else ():
    for one, cut in zip(map(np.asarray, jax.tree.leaves(run())), several, strict=True):
        np.testing.assert_allclose(cut, one, rtol=0, atol=tolerance * np.abs(one).max())
"""

EIGHT = """
box = jd.Grid.uniform((0, 1, 6), (0, 1, 4), (0, 1, 4))
swirl = jd.FokkerPlanck(lambda x, y, z: (y - z, z - x, x - y), lambda x, y, z: 0.2 + 0.1 * x, boundaries=jd.Periodic())
start = rng.random(box.shape)
squares = lambda d: (lambda values: (jnp.sum(values[-1] ** 2), values))(plate(d))
compare(lambda: jax.grad(squares, has_aux=True)(D)[::-1], True, x=4, y=2)
compare(lambda: jd.solve(swirl, box, start, [0.0, 0.05]).values, True, x=2, y=2, z=2)
explicit = {"stepper": jd.RungeKutta4(), "substeps": 40}
compare(lambda: jd.solve(jd.Diffusion(D), plane, u, times, **explicit).values, True, x=8)
compare(lambda: jd.solve(jd.Diffusion(0.1), plane, u, times).values, True, x=2, y=4)
"""

TWO = """
line, instants = jd.Grid.uniform((0, 1, 30)), np.linspace(0.01, 0.1, 8)
sensor = jd.Readings(line, lambda x: 1 + jnp.cos(np.pi * x), instants, np.full(8, 0.25), np.ones(8), sigma=0.01)
curves = 1 + np.cos(np.pi / 4) * np.exp(-rng.uniform(0.2, 2, (11, 1)) * np.pi**2 * instants) + 0.01 * rng.normal(size=(11, 8))
model = jd.Diffusion(jd.Positive(1.0))
many = lambda devices=None: jd.fit_many(model, sensor, curves, devices=devices, progress=False)
kept = many("all")
assert kept.converged.all() and len(kept.batch.mesh.devices) == 4
pairs.append((lambda: many().x, [kept.x], 1e-12))
if jax.process_index() == 0:
    try:
        many(jax.devices()[2:])
        raise AssertionError("devices of the other process alone were taken")
    except ValueError as error:
        assert "devices of some processes only" in str(error), error

compare(lambda: plate(D), True, x=4)
compare(fitted, False, 1e-9, x=2, y=2)
"""


def python(program, devices):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    command = [sys.executable, "-c", textwrap.dedent(program)]
    return subprocess.Popen(
        command,
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(*processes):
    for process in processes:
        out, _ = process.communicate(timeout=600)
        assert process.returncode == 0, out.decode()[-3000:]


@pytest.mark.slow
def test_eight_devices_agree_with_one():
    finish(python(COMMON + EIGHT + END, 8))


@pytest.mark.slow
def test_two_processes_agree_with_one_device():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    join = lambda i: f'import jax; jax.distributed.initialize("localhost:{port}", 2, {i})\n'
    finish(*[python(join(i) + COMMON + TWO + END, 2) for i in range(2)])


def test_a_mesh_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"x=3 × y=2000 needs 6000 devices, there are \d+ \(cpu\)"):
        with jd.decompose(x=3, y=2000):
            pass
    with pytest.raises(ValueError, match="positive whole number of parts, got x=0"):
        with jd.decompose(x=0):
            pass


@pytest.mark.parametrize(
    "parts, message",
    [
        ({"x": 5}, "12 cells along x cannot be cut into 5 equal parts; take 4, or a multiple of 5 cells"),
        ({"z": 2}, "cuts axis 'z', which this grid has not; its axes are x, y"),
    ],
)
def test_a_cut_that_does_not_divide_the_grid_is_refused(parts, message):
    from jax.sharding import AxisType

    from jaxdiff.runtime.sharding import require_whole_blocks

    mesh = jax.sharding.AbstractMesh(tuple(parts.values()), tuple(parts), axis_types=(AxisType.Auto,))
    with jax.sharding.use_abstract_mesh(mesh), pytest.raises(ValueError, match=message):
        require_whole_blocks(jd.Grid.uniform((0.0, 1.0, 12), (0.0, 1.0, 10)))


@pytest.mark.slow
def test_a_solve_goes_on_from_the_file_it_keeps(tmp_path, monkeypatch):
    grid = jd.Grid.uniform((0.0, 1.0, 12), (0.0, 1.0, 8))
    equation, times = jd.Diffusion(lambda x, y: 0.1 + x * y), [0.0, 0.1, 0.2, 0.3]
    whole = jd.solve(equation, grid, lambda x, y: x + y, times).values
    solving = importlib.import_module("jaxdiff.integration.solve")
    path, original, calls = tmp_path / "run.npz", solving._compiled, []

    def two(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(solving, "_compiled", two)
    with pytest.raises(KeyboardInterrupt):
        jd.solve(equation, grid, lambda x, y: x + y, times, save=path)
    assert list(tmp_path.iterdir()) == [path]
    again = jd.solve(equation, grid, lambda x, y: x + y, times, save=path).values
    assert len(calls) == 4  # the last interval alone
    np.testing.assert_allclose(again, whole, rtol=1e-5)
    with pytest.raises(ValueError, match="holds results of another model"):
        jd.solve(jd.Diffusion(0.2), grid, lambda x, y: x + y, times, save=path)
