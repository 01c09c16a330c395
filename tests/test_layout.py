"""The walls of the house: who may import whom, what is imported only when used, how long a file may be."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "jaxdiff"

# Each module imports, when it is imported, only from those above it (docs/design.md). A folder counts as one.
ORDER = """
    interrupts staging
    quantities parameters arguments checks compilation devices decomposition checkpoint progress interfaces averages grid expression coefficients curves operators boundaries equations systems lattice tensors schemes spectral problem steppers magnus
    quadrature rosenbrock segments adaptive plan methods memory evolve solve analysis lamperti reference windows transition
    autocorrelation contradictions measurements readings histograms paths stacks losses objective uncertainty trust_region levenberg_marquardt gradient_descent run batch residuals innovations verdict result alternate coarseness inputs repair search fit fits many bootstrap
    exact datasets delimited tables panels maps outcome plot report config demo cli __init__ __main__ benchmarks
""".split()

# Costly to import, or not needed by every use: imported inside functions.
HEAVY = {"optax", "optimistix", "lineax", "pandas", "matplotlib", "jinja2", "tqdm", "click", "scipy", "numba"}

FILES = sorted(ROOT.rglob("*.py"))
ids = [str(file.relative_to(ROOT)) for file in FILES]


def module(file):
    """The name in ORDER that a file counts as."""
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(file):
    """(line, dotted name) of what importing the file imports; blocks for the type checker do not count."""
    package = ["jaxdiff", *file.relative_to(ROOT).parts[:-1]]
    found = []

    def visit(node):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            return
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.extend((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *(node.module.split(".") if node.module else [])]
            if base == ["jaxdiff"]:  # from . import name: each name is a module
                found.extend((node.lineno, f"jaxdiff.{alias.name}") for alias in node.names)
            else:
                found.append((node.lineno, ".".join(base)))
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(file.read_text(encoding="utf-8")))
    return found


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_a_file_imports_only_from_those_above_it(file):
    here = module(file)
    assert here in ORDER, f"{file.name} has no place in ORDER: name it there and in docs/design.md"
    above = ORDER[: ORDER.index(here)]
    allowed = {"jaxdiff." + name for name in [*above, here]} | ({"jaxdiff"} if "__init__" in above else set())
    wrong = [
        f"line {line}: {name}"
        for line, name in imports(file)
        if name.split(".")[0] == "jaxdiff" and ".".join(name.split(".")[:2]) not in allowed
    ]
    assert not wrong, f"{here} imports from below: {wrong}"


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_heavy_libraries_are_imported_when_used(file):
    assert [f"line {line}: {name}" for line, name in imports(file) if name.split(".")[0] in HEAVY] == []


def test_importing_the_package_imports_nothing_heavy_and_changes_no_setting():
    program = f"""
import sys, jax, equinox
before, settings = set(sys.modules), dict(jax.config.values)
import jaxdiff
new = {{name.split(".")[0] for name in set(sys.modules) - before}} & {HEAVY!r}
changed = {{name for name, value in jax.config.values.items() if value != settings[name]}}
assert not new, f"imported: {{new}}"
assert not changed, f"changed: {{changed}}"
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_no_file_is_longer_than_400_lines(file):
    length = len(file.read_text(encoding="utf-8").splitlines())
    assert length <= 400
