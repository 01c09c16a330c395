"""What is printed runs: each Python block of the README, the first in a process of its own, and the example of every docstring."""

import contextlib
import doctest
import importlib
import io
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import jaxdiff

README = Path(__file__).resolve().parents[1] / "README.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PROGRAMS = BLOCK.findall(README.read_text(encoding="utf-8"))
PRINTED = re.compile(r"^```python\n(.*?)^```(?:\n```text\n(.*?)^```)?", re.MULTILINE | re.DOTALL)
SAID = dict(PRINTED.findall(README.read_text(encoding="utf-8")))
NUMBER = re.compile(r"-?\d+\.?\d*(?:e-?\d+)?")

# What a reader does next with the fits that a program leaves.
ONWARDS = """
import jaxdiff as jd
for one in [fit] if "fit" in globals() else [fits[0], fits[2]]:
    view, measurement = one.predict(), one.measurements[0]
    if one.loss_name == "mse":
        noise = 1.0 if measurement.sigma is None else measurement.sigma
        loss = np.mean(((measurement.values - view) / noise) ** 2)
        assert abs(loss / one.loss - 1) < 1e-6, (loss, one.loss)
    assert np.isfinite(view).all()
    one.plot().savefig("fit.png")
    assert one.report("fit.html").stat().st_size > 10_000
    drawn = jd.bootstrap(one, 20, progress=False)
    for name, bar in one.standard_errors.items():
        assert 0.5 < drawn.standard_errors[name] / bar < 2.0, (name, drawn.standard_errors[name], bar)
"""
MODULES = ["jaxdiff", *(found.name for found in pkgutil.walk_packages(jaxdiff.__path__, "jaxdiff."))]


def test_the_readme_has_its_programs():
    assert len(PROGRAMS) >= 3
    assert "jd.mse" in README.read_text(encoding="utf-8") and "jd.kl_divergence" in README.read_text(encoding="utf-8")


def run(program):
    """What it prints, as a program of its own in a reader's session."""
    with jax.enable_x64(False), contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(program, "README.md", "exec"), {"__name__": "__main__"})
    return printed.getvalue()


def run_in_a_process(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{program}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_a_program_of_the_readme_prints_what_it_says_and_goes_on(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program = PROGRAMS[number]
    printed = (run if number else run_in_a_process)(program + 'print("onwards")\n' + ONWARDS)
    if said := SAID[program]:
        found = printed.split("onwards")[0]
        assert NUMBER.sub("#", found).split() == NUMBER.sub("#", said).split()
        for one, other in zip(NUMBER.findall(found), NUMBER.findall(said), strict=True):
            assert abs(float(one) - float(other)) <= 0.02 * abs(float(other)), found


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_the_examples_of_the_docstrings(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    with jax.enable_x64(False):  # as a reader's session has it
        result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0, f"{result.failed} of {result.attempted} examples of {name} fail; see the output"
