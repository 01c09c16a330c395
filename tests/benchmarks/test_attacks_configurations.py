"""Damaged configurations through the whole shell: they run with honest numbers, or are refused in one line."""

import pytest
from configurations import changed

from jaxdiff.benchmarks.attacks import configurations
from jaxdiff.benchmarks.attacks.examples import EXAMPLES

SEED, COUNT = 1, 10


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_the_configurations_themselves_run(name):
    case = configurations.example(name)
    assert configurations.judged(case)[0] == "ran"


def test_damaged_configurations():
    found = configurations.run(COUNT, SEED)
    assert len(found) == COUNT
    wrong = [record for record in found if record["verdict"] not in ("ran", "refused")]
    assert not wrong


REFUSED = {
    "a word in place of a number": 'cells = "many"',
    "a misspelt key": "cell = 12",
    "two of one key": "cells = 12\ncells = 13",
}


@pytest.mark.slow
@pytest.mark.parametrize("line", REFUSED.values(), ids=REFUSED)
def test_what_must_be_refused_is_noticed_where_it_runs(line):
    """The judge itself: a mistake is refused; the same case, were it harmless, is found out."""
    case = configurations.example("wall")
    case.text = lambda: changed(EXAMPLES["wall"], ("cells = 12", line))
    case.must = True
    assert configurations.judged(case)[0] == "refused"
    case.text = lambda: EXAMPLES["plate"]
    case.command = "solve"
    assert configurations.judged(case) == ("WRONG", "it must be refused, and ran")
