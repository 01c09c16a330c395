"""Random tables, each read right, or refused in one line."""

from collections import Counter

from jaxdiff.benchmarks.attacks.tables import run


def test_tables_are_read_right_or_refused():
    records = run(40)
    found = Counter(record["verdict"] for record in records)
    assert not [record for record in records if record["verdict"] not in ("right", "refused")]
    assert found["right"] >= 12
