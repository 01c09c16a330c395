"""Small real measurements that ship with the package, each with its source in the header of its CSV."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def names() -> tuple[str, ...]:
    """The names that `load` knows.

    >>> names()
    ('rates', 'rod')
    """
    files = resources.files(__name__).iterdir()
    return tuple(sorted(file.name.removesuffix(".csv") for file in files if file.name.endswith(".csv")))


def load(name: str) -> pd.DataFrame:
    """A data set as a table; its `attrs` hold source, licence, units and the constants of the experiment.

    `rod`: columns x [cm] and T [°C]; attrs a, b, L [cm], k [W/(cm °C)], ambient [°C].
    `rates`: columns year [decimal years], quarter and rate [per cent a year]; attrs interval [years].

    Raises ValueError if there is no such data set.

    >>> rod = load("rod")
    >>> rod.shape, rod.attrs["L"]
    ((15, 2), 70.0)
    """
    import pandas as pd

    if name not in names():
        raise ValueError(f"no data set is called {name!r}; choose one of {', '.join(names())}")
    file = resources.files(__name__) / f"{name}.csv"
    with file.open(encoding="utf-8") as stream:
        table = pd.read_csv(stream, comment="#")
    lines = file.read_text(encoding="utf-8").splitlines()
    header = dict(line[2:].split(": ", 1) for line in lines if line.startswith("# "))
    table.attrs = {key: _number(text) for key, text in header.items()}
    return table


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
