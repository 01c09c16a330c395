"""The IP3 receptor of Sneyd & Dufour 2002: six states, fourteen rates, nine conditions; and the tables it comes in."""

import pathlib

import jax
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.benchmarks.receptor import OPTIMUM, from_starts, problem, receptor
from jaxdiff.inference.losses import choose
from jaxdiff.inference.objective import Objective, assemble
from jaxdiff.inference.run import Run
from jaxdiff.inference.uncertainty import uncertainty
from jaxdiff.integration.options import SolverOptions
from jaxdiff.runtime.progress import Progress

FOLDER = pathlib.Path(__file__).parents[2] / "data" / "sneyd_ip3"


@pytest.mark.slow
def test_the_receptor_at_its_optimum():
    tables, data, _ = problem()
    assert (len(data), sum(len(one.values) for one in data), len(tables.parameters)) == (9, 135, 14)
    marks = {name: jd.Positive(tables.values[name]) for name in tables.parameters}
    with jax.enable_x64(True):
        fitted, function, sources, _ = assemble(receptor, marks, tuple(data), ())
        objective = Objective(function, choose(None, data), *sources)
        run = Run(objective, fitted, tuple(data), SolverOptions(), Progress(False))
        run.prepare(run.start)
        here = jax.jit(lambda problem, z: problem.expand(z))(run.problem, run.start)
    here = jax.tree.map(np.asarray, here)
    np.testing.assert_allclose(here.value, OPTIMUM, atol=1e-6)
    decades = np.sqrt(np.maximum(np.linalg.eigvalsh(here.curvature), 0))[::-1] * np.log(10)
    np.testing.assert_allclose(decades[:8], [108, 66.5, 59.3, 18.9, 9.0, 7.9, 4.8, 2.4], rtol=0.02)
    notes = uncertainty(fitted, run.start, here, None, np.zeros(9, int)).notes
    assert any(note.startswith("8 of 14 directions are identified") for note in notes), notes


@pytest.mark.slow
def test_starts_where_no_channel_ever_opens_are_left():
    """At them open probabilities are below 1e-8, as far as 1e-20, and so are all slopes of the loss beside itself."""
    shares = np.random.default_rng(0).uniform(size=(50, 14))[[30, 34, 44]]
    with jax.enable_x64(True):
        rows, _ = from_starts(shares, 40)
    assert all(row["first"] > 726.9 for row in rows) and all(row["loss"] < 600.0 for row in rows), rows


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        ("conditions", "10.000\t0.100", "k1\t0.100", "conditions are numbers here, got 'k1' for IP3"),
        ("parameters", "parameterScale", "scale", "has no column parameterScale"),
        ("parameters", "log10", "log2", "a scale of parameters is lin, log10, log, got 'log2'"),
        ("measurements", "\t\tCa_dose_response__1", "\tCa_dose_response__1\tCa_dose_response__1", "at rest before"),
        ("measurements", "\tCa_dose_response__1\t", "\tnone\t", "under a condition 'none'"),
        ("measurements", "simulationConditionId", "condition", "has no column simulationConditionId"),
    ],
)
def test_tables_that_are_not_read(tmp_path, name, old, new, words):
    for file in FOLDER.glob("*.tsv"):
        text = file.read_text()
        (tmp_path / file.name).write_text(text.replace(old, new) if file.stem == name else text)
    with pytest.raises(ValueError) as caught:
        jd.read_petab(tmp_path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_table_that_is_missing(tmp_path):
    for file in FOLDER.glob("[mp]*.tsv"):
        (tmp_path / file.name).write_text(file.read_text())
    with pytest.raises(ValueError, match=r"holds no table of conditions \(\*.tsv with a column conditionId"):
        jd.read_petab(tmp_path)
