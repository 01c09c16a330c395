"""The IP3 receptor of Sneyd & Dufour 2002: six states, fourteen rates, nine conditions; and the tables it comes in."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.inference.losses import choose
from jaxdiff.inference.objective import Objective, assemble
from jaxdiff.inference.run import Run
from jaxdiff.inference.uncertainty import uncertainty
from jaxdiff.integration.options import SolverOptions
from jaxdiff.runtime.progress import Progress

FOLDER = pathlib.Path(__file__).parents[2] / "data" / "sneyd_ip3"
RECEPTOR = jd.States(["O", "R", "I1", "S", "A", "I2"])


def receptor(Ca, IP3, k1, k2, k3, k4, k_1, k_2, k_3, k_4, l2, l4, l6, l_2, l_4, l_6):
    L1, L3, L5 = (k_1 / k1) / (l_2 / l2), (k_2 / k2) / (l_4 / l4), (k_4 / k4) / (l_6 / l6)
    rates = {
        "O R": (k_2 + l_4 * Ca) / (1 + Ca / L5),
        "R O": (k2 * L3 + l4 * Ca) / (L3 + Ca * (1 + L3 / L1)) * IP3,
        "R I1": (k1 * L1 + l2) * Ca / (L1 + Ca * (1 + L1 / L3)),
        "I1 R": k_1 + l_2,
        "O A": (k4 * L5 + l6) * Ca / (L5 + Ca),
        "A O": L1 * (k_4 + l_6) / (L1 + Ca),
        "A I2": (k1 * L1 + l2) * Ca / (L1 + Ca),
        "I2 A": k_1 + l_2,
        "O S": k3 * L5 / (L5 + Ca),
        "S O": k_3,
    }
    matrix = jnp.zeros((6, 6))
    for jump, rate in rates.items():
        source, target = map(RECEPTOR.labels.index, jump.split())
        matrix = matrix.at[target, source].set(rate)
    return jd.Observed(jd.MasterEquation(matrix), observe=lambda u: u**4)


def test_the_receptor_at_its_optimum():
    problem = jd.read_petab(FOLDER)
    opening = jd.Weighted([0.1, 0.0, 0.0, 0.0, 0.9, 0.0])
    data = problem.readings(RECEPTOR, RECEPTOR.delta("R"), opening)
    assert (len(data), sum(len(one.values) for one in data), len(problem.parameters)) == (9, 135, 14)
    marks = {name: jd.Positive(problem.values[name]) for name in problem.parameters}
    with jax.enable_x64(True):
        fitted, function, sources, _ = assemble(receptor, marks, tuple(data), ())
        objective = Objective(function, choose(None, data), *sources)
        run = Run(objective, fitted, tuple(data), SolverOptions(), Progress(False))
        run.prepare(run.start)
        here = jax.jit(lambda problem, z: problem.expand(z))(run.problem, run.start)
    here = jax.tree.map(np.asarray, here)
    np.testing.assert_allclose(here.value, -319.79177703938, atol=1e-6)
    decades = np.sqrt(np.maximum(np.linalg.eigvalsh(here.curvature), 0))[::-1] * np.log(10)
    np.testing.assert_allclose(decades[:8], [108, 66.5, 59.3, 18.9, 9.0, 7.9, 4.8, 2.4], rtol=0.02)
    notes = uncertainty(fitted, run.start, here, None, np.zeros(9, int)).notes
    assert any(note.startswith("8 of 14 directions are identified") for note in notes), notes


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
