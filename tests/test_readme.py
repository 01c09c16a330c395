"""What is printed runs: each Python block of the README as a program of its own, and the example of every docstring."""

import doctest
import importlib
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
MODULES = ["jaxdiff", *(found.name for found in pkgutil.walk_packages(jaxdiff.__path__, "jaxdiff."))]


def test_the_readme_has_its_programs():
    assert len(PROGRAMS) >= 3
    assert "jd.mse" in README.read_text(encoding="utf-8") and "jd.kl_divergence" in README.read_text(encoding="utf-8")


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_a_program_of_the_readme_runs_as_printed(program, tmp_path):
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{program}\n{done.stderr}"


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_the_examples_of_the_docstrings(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    with jax.enable_x64(False):  # as a reader's session has it
        result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0, f"{result.failed} of {result.attempted} examples of {name} fail; see the output"
