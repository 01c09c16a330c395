"""What docs/generation.md shows runs, and is right."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "generation.md"


@pytest.mark.slow
def test_the_first_program_of_the_page():
    program = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[1]
    made = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(compile(program.replace("20_000", "4_000"), str(PAGE), "exec"), made)
    np.testing.assert_allclose(made["log_p"], made["clean"].log_density(made["x"]), atol=1e-3)
    for x in (made["x"], made["y"]):
        assert abs((x > 0).mean() - 0.7) < 0.04
