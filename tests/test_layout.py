"""The floors of the house: who may import whom, what is imported only when used, how long a file may be."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "jaxdiff"

# From the ground up: a file imports, at its top or inside its functions, from its own floor and those before it.
FLOORS = (
    "quantities parameters figures datasets exact runtime operators model discretisation integration transition simulation "
    "measurements reports inference generation benchmarks shell"
).split()

USERS = ("benchmarks", "shell")  # of the public names, which stand above the floors before these

# Costly to import, or not needed by every use: imported inside functions.
HEAVY = {"optax", "optimistix", "lineax", "pandas", "matplotlib", "jinja2", "tqdm", "click", "scipy", "numba"}

FILES = {".".join(file.relative_to(ROOT).with_suffix("").parts): file for file in sorted(ROOT.rglob("*.py"))}


def imports(file, everywhere=True):
    """(line, dotted name) of what a file imports, or importing it does; blocks for the type checker do not count."""
    package = ["jaxdiff", *file.relative_to(ROOT).parts[:-1]]
    found = []

    def visit(node):
        if not everywhere and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            return
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.extend((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*base, *(node.module.split(".") if node.module else [])])
            within = base.removeprefix("jaxdiff").lstrip(".")
            for alias in node.names:  # from package import name: the name may be a module
                module = f"{within}.{alias.name}".lstrip(".")
                is_module = base.startswith("jaxdiff") and (module in FILES or f"{module}.__init__" in FILES)
                found.append((node.lineno, f"{base}.{alias.name}" if is_module else base))
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(file.read_text(encoding="utf-8")))
    return found


def within(file, everywhere=True):
    """(line, module) of what a file imports of the package; the public names, which stand above all floors, as ""."""
    for line, name in imports(file, everywhere):
        if name.split(".")[0] == "jaxdiff":
            yield line, name.removeprefix("jaxdiff").lstrip(".")


@pytest.mark.slow
def test_a_file_imports_from_its_own_floor_and_those_below():
    wrong = []
    for name, file in FILES.items():
        floor = name.split(".")[0]
        if floor in ("__init__", "__main__"):
            continue
        assert floor in FLOORS, f"{name} has no place in FLOORS: name it there and in docs/design.md"
        for line, other in within(file):
            reach = FLOORS[: FLOORS.index(floor) + 1] + [""] * (floor in USERS)
            if other.split(".")[0] not in reach:
                wrong.append(f"{name}, line {line}: {other or 'jaxdiff'}")
    assert not wrong, f"imports from above: {wrong}"


@pytest.mark.slow
def test_no_circle():
    graph = {name.removesuffix(".__init__"): {other for _, other in within(file)} for name, file in FILES.items()}
    tuple(TopologicalSorter({name: others - {"", name} for name, others in graph.items()}).static_order())


@pytest.mark.slow
def test_heavy_libraries_are_imported_when_used():
    wrong = [
        f"{name}, line {line}: {library}"
        for name, file in FILES.items()
        for line, library in imports(file, everywhere=False)
        if library.split(".")[0] in HEAVY
    ]
    assert not wrong


@pytest.mark.slow
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


def test_no_file_is_longer_than_400_lines():
    assert not {name: n for name, file in FILES.items() if (n := len(file.read_text("utf-8").splitlines())) > 400}
