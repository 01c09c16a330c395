"""64-bit precision for every test, code compiled in haste, figures without a screen, and the measured data beside the
checkout."""

import gc
import os
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # workers keep the cores busy

import jax
import pytest

os.environ.setdefault("MPLBACKEND", "Agg")
# The suite spends its time tracing and compiling programs that run once: a third of it is saved by leaving machine code as
# it comes, in one piece (workers keep the cores busy), and another fifth without a traceback for every operation and with
# rarer garbage collections. XLA ends the process at a flag that it does not know.
FLAGS = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
FLAGS += ["--xla_cpu_use_fusion_emitters=false"] if jax.__version_info__ < (0, 11) else []
os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))
for name, value in {"jax_include_full_tracebacks_in_locations": False, "jax_traceback_in_locations_limit": 0}.items():
    os.environ.setdefault(name.upper(), str(int(value)))  # for the processes that tests start
    jax.config.update(name, value)

jax.config.update("jax_enable_x64", True)
# JAX prints what it maps or transposes, which of a linearised function is a whole program.
jax.tree_util.Partial.__repr__ = object.__repr__
gc.freeze()
gc.set_threshold(50_000, 20, 50)


@pytest.fixture(autouse=True, scope="module")
def forgotten():
    """Compiled programs go with the file that needed them: thousands of them use up the memory maps that a process may
    have, where XLA aborts it, and JAX 0.10 takes a constant of one for that of another where precisions are mixed."""
    yield
    jax.clear_caches()


@pytest.fixture
def run(capsys):
    """A function from the arguments of a command to its exit code, stdout and stderr."""
    from jaxdiff.shell import cli

    def call(*arguments):
        with pytest.raises(SystemExit) as stop:
            cli.main([str(argument) for argument in arguments])
        return stop.value.code, *capsys.readouterr()

    return call


@pytest.fixture
def refused(workplace, run):
    """A function from a message and the arguments of a command that is refused in one line and writes nothing."""

    def check(message, *arguments):
        before = sorted(workplace.rglob("*"))
        code, _, err = run(*arguments)
        assert code == 2
        assert err.startswith("error: ") and err.endswith("\n") and err.count("\n") == 1 and len(err) < 700
        assert message in err
        assert sorted(workplace.rglob("*")) == before

    return check


@pytest.fixture
def undrawn(monkeypatch):
    """A report of a fit with next to nothing as its picture, where something else is looked at."""
    monkeypatch.setattr("jaxdiff.reports.page.images", lambda outcome: {"fit": b"PNG"})


@pytest.fixture
def measured():
    """A function from a file's name to its path among the measured data beside the checkout; skips where absent."""

    def path(name):
        file = Path(__file__).resolve().parents[2] / "shared" / "data" / name
        if not file.exists():
            pytest.skip(f"the measured data shared/data/{name} do not lie beside this checkout")
        return file

    return path
