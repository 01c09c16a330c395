"""Files that keep finished parts: what they belong to, and what becomes of damaged ones."""

import functools
import io
import json
import os
import sys
import threading
import types
import zipfile

import equinox as eqx
import jax
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.runtime.checkpoints import Checkpoint, digest
from jaxdiff.runtime.staging import write_whole

GLOBAL = 0.1


class Slots:
    __slots__ = ("k",)

    def __init__(self, k):
        self.k = k

    def __call__(self, x):
        return self.k * x

    def __repr__(self):
        return "Slots"


class Static(eqx.Module):
    function: object = eqx.field(static=True)

    def __call__(self, x):
        return self.function(x)


def of_module(k, lazy=False):
    params = types.ModuleType("params_of_a_test")
    params.inner = types.ModuleType("inner")
    params.inner.v, params.itself = k, params
    sys.modules[params.__name__] = params
    space = {"params": params}
    exec("def f(x):\n    return params.inner.v * x", space)
    if lazy:
        exec("def f(x):\n    from params_of_a_test import inner\n    return inner.v * x", space)
    return space["f"]


def of_class(k):
    class Constants:
        value = k

    return lambda x: Constants.value * x


def of_method(k):
    space = {"__name__": "script"}
    exec(f"class Line:\n    def __call__(self, x):\n        return {k} * x", space)
    return space["Line"]()


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
    "slots": Slots,
    "module": of_module,
    "imported": lambda k: of_module(k, lazy=True),
    "class": of_class,
    "method of a class": of_method,
    "static": lambda k: Static(lambda x: k * x),
    "array of objects": lambda k: functools.partial(lambda a, x: a[0] * x, np.array([k, None], dtype=object)),
    "spline": lambda k: jd.Spline([0.0, 1.0], [k, 1.0]),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_digest_sees_all_that_a_coefficient_reads(name):
    one, two, again = (digest(jd.Diffusion(FUNCTIONS[name](k))) for k in (0.1, 0.5, 0.1))
    assert one == again != two


def of_header(words):
    """A stored array whose header says something else."""
    stream, array = io.BytesIO(), io.BytesIO()
    np.save(array, np.zeros(3))
    before = array.getvalue()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(
            "states.npy", before[:10] + words.ljust(len(before[10:-24]) - 1).encode() + b"\n" + before[-24:]
        )
    return stream.getvalue()


DAMAGED = {
    "empty": b"",
    "cut off": b"PK\x03\x04 cut off",
    "text": b"no archive at all",
    "an open bracket": of_header("{'descr': '<f8', 'shape': (3,"),
    "745 GiB": of_header("{'descr': '<f8', 'fortran_order': False, 'shape': (100000000000,), }"),
    "no digest": of_header("{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }"),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "run.npz"
    path.write_bytes(content)
    grid = jd.Grid.uniform((0.0, 1.0, 8))
    with pytest.raises(
        ValueError, match="cannot be read as saved results; name another|holds results of another model"
    ):
        jd.solve(jd.Diffusion(1.0), grid, 1.0, [0.0, 1.0], save=path)
    assert path.read_bytes() == content


@pytest.mark.slow
def test_another_precision_is_another_computation(tmp_path):
    grid, path = jd.Grid.uniform((0.0, 1.0, 8)), tmp_path / "run.npz"
    run = lambda: jd.solve(jd.Diffusion(1.0), grid, np.linspace(0.0, 1.0, 8), [0.0, 0.1], save=path)
    with jax.enable_x64(False):
        run()
    with pytest.raises(ValueError, match="holds results of another model"):
        run()


@pytest.mark.parametrize("kind", ["folder", "device", "pipe"])
def test_what_is_no_file_is_left_alone(tmp_path, kind):
    path = tmp_path / "place"
    if kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/null")
    else:
        os.mkfifo(path)
    grid = jd.Grid.uniform((0.0, 1.0, 8))
    with pytest.raises(ValueError, match="cannot be read as saved results"):
        jd.solve(jd.Diffusion(1.0), grid, 1.0, [0.0, 1.0], save=path)
    with pytest.raises(ValueError, match=r"place cannot be written: it is a (folder|device), no file"):
        write_whole(path, "text")
    assert list(tmp_path.iterdir()) == [path] and not path.is_file()


def test_threads_write_one_file(tmp_path):
    """Each writes a file of its own, and the last one stays."""
    failed, path = [], tmp_path / "run.npz"

    def write(number):
        try:
            for _ in range(20):
                kept = Checkpoint.__new__(Checkpoint)
                kept.path, kept.digest, kept.spent, kept.began = path, "same", 0.0, 0.0
                kept.pieces = [{"states": np.full((1, 8), number)}]
                kept.write()
        except ValueError as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and list(tmp_path.iterdir()) == [path]
    assert Checkpoint(path, "same").pieces[0]["states"].shape == (1, 8)


def test_a_link_to_a_file_stays_a_link(tmp_path):
    link = tmp_path / "link.json"
    link.symlink_to(tmp_path / "fit.json")
    write_whole(link, "text")
    assert link.is_symlink() and (tmp_path / "fit.json").read_text() == "text"


@pytest.fixture(scope="module")
def stored():
    grid = jd.Grid.uniform((0.0, 1.0, 8))
    readings = jd.Readings(
        grid, np.linspace(0.0, 1.0, 8), [0.05, 0.1, 0.2], [0.2, 0.2, 0.2], [0.3, 0.35, 0.4], sigma=0.1
    )
    return jd.fit(jd.Diffusion(jd.Positive(0.5)), readings, progress=False).record()


@pytest.mark.slow
def test_a_stored_fit_without_a_key_or_with_another_kind_of_value_is_refused(tmp_path, stored):
    path = tmp_path / "fit.json"
    path.write_text(json.dumps(stored))
    assert jd.load(path).record() == stored
    for key, value in stored.items():
        less = {name: part for name, part in stored.items() if name != key}
        wrong = [{**stored, key: other} for other in ("text", [[1.0], [2.0, "3"]], {"diffusivity": "2.0"}, {})]
        for content in wrong if key == "verdict" else [less, *wrong]:  # fits of before have no verdict
            if content in ({**stored, name: "text"} for name in ("loss_name", "search")):
                continue
            path.write_text(json.dumps(content))
            with pytest.raises(ValueError, match=r"fit.json is (a damaged|not a) stored fit") as refused:
                jd.load(path)
            assert "\n" not in str(refused.value), (key, value)
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="cannot be read as a stored fit"):
        jd.load(path)
