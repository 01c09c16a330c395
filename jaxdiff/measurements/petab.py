"""PEtab problems: conditions, measurements and parameters of published fits, as tables of tab-separated values."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdiff.measurements.readings import Readings
from jaxdiff.parameters import Bounded

if TYPE_CHECKING:
    import pandas as pd

_KINDS = {  # of tables, by a column that no other has
    "measurements": ("observableId", "simulationConditionId", "measurement", "time"),
    "conditions": ("conditionId",),
    "parameters": ("parameterId", "parameterScale", "lowerBound", "upperBound", "estimate"),
}
_SCALES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "lin": (lambda x: x, lambda x: x),
    "log10": (np.log10, lambda x: 10.0**x),
    "log": (np.log, lambda x: np.e**x),
}
_INSIDE = 1e-4  # share of the width that a start keeps from its bounds


@dataclass(frozen=True)
class Petab:
    """What the tables of a PEtab problem hold; the model is the user's.

    conditions: {condition: {name: number}}; parameters: {name: mark}, between its bounds, on the scale of the table: a rate of
    scale log10 is fitted as its logarithm; values: {name: nominal value} of all, not scaled, NaN where there is none; scales:
    {name: "lin", "log10" or "log"}; measurements: the table
    """

    conditions: dict[str, dict[str, float]]
    parameters: dict[str, Bounded]
    values: dict[str, float]
    scales: dict[str, str]
    measurements: pd.DataFrame

    def natural(self, scaled: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters as they stand in a model, of those that are fitted and may be logarithms; traceable."""
        return {name: _SCALES[self.scales[name]][1](value) for name, value in scaled.items()}

    def readings(
        self, grid: Any, initial: Any, positions: Any, observable: str | None = None, sigma: Any = None
    ) -> list[Readings]:
        """The readings of an observable under each condition, in the order of the table of conditions.

        grid, initial: as in `Readings`; positions: a probe, or one place; observable: None where there is only one; sigma:
        None: that of the table, which of a parameter is its nominal value
        """
        table, known = self.measurements, list(dict.fromkeys(self.measurements["observableId"]))
        if observable is None and len(known) > 1:
            raise ValueError(f"there are several observables, {', '.join(known)}; name one, observable={known[0]!r}")
        if observable is not None and observable not in known:
            raise ValueError(f"there is no observable {observable!r}; there are {', '.join(known)}")
        table = table[table["observableId"] == (observable or known[0])]
        found = []
        for name, given in self.conditions.items():
            rows = table[table["simulationConditionId"] == name]
            if len(rows):
                places = (
                    np.full(len(rows), positions) if np.ndim(positions) == 0 and _is_number(positions) else positions
                )
                noise = self._noise(rows) if sigma is None else sigma
                values = rows["measurement"].to_numpy(float)
                times = rows["time"].to_numpy(float)
                found.append(Readings(grid, initial, times, places, values, sigma=noise, conditions=given or None))
        return found

    def _noise(self, rows: pd.DataFrame) -> np.ndarray | None:
        given = rows.get("noiseParameters")
        if given is None:
            return None
        noise = np.array([self.values.get(one, np.nan) if isinstance(one, str) else one for one in map(_entry, given)])
        return None if np.isnan(noise.astype(float)).any() else noise.astype(float)


def read_petab(folder: str | os.PathLike[str]) -> Petab:
    """Read the tables of a PEtab problem: conditions, measurements and parameters.

    Args:
        folder: where they lie, one table each, as *.tsv; told apart by their columns.

    The equations are not read: a model is a function of your own, whose arguments are the conditions and the parameters, and
    must be linear in its state; what is observed of the state is `Observed`. Formulas of observables, prior distributions and
    SBML files count for nothing. Parameters are fitted on the scale of the table, between its bounds, so that `multistart`
    draws as the table says; `natural` takes them back. Noise that is a parameter is that parameter's nominal value, and is not
    fitted.

    Returns:
        `conditions`, `parameters` (marks), `values`, `scales`, `measurements` (a table), and `readings(grid, initial,
        positions)`, a list of `Readings` with their conditions.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: a table that is missing or there twice, a column that is missing, or what is not read: conditions that
            name parameters, states at rest before the start, parameters of observables, transformed readings.

    >>> import jaxdiff as jd, pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for name, text in {
    ...     "conditions": "conditionId dose|low 0.5|high 2.0",
    ...     "measurements": "observableId simulationConditionId measurement time|y low 0.39 1.0|y high 0.86 1.0",
    ...     "parameters": "parameterId parameterScale lowerBound upperBound nominalValue estimate|k log10 0.01 100 1 1",
    ... }.items():
    ...     _ = (folder / f"{name}.tsv").write_text(text.replace(" ", "\\t").replace("|", "\\n"))
    >>> problem, gene = jd.read_petab(folder), jd.States(["off", "on"])
    >>> def model(dose, **scaled):
    ...     return jd.MasterEquation([[0.0, 0.0], [dose * problem.natural(scaled)["k"], 0.0]])
    >>> data = problem.readings(gene, gene.delta("off"), jd.Weighted([0.0, 1.0]), sigma=0.01)
    >>> fit = jd.fit(model, data, parameters=problem.parameters, progress=False)
    >>> round(float(10 ** fit.parameters["k"]), 2)
    0.99

    Schmiester et al. 2021, doi:10.1371/journal.pcbi.1008646.
    """
    tables = _tables(Path(folder))
    conditions, measured, listed = (tables[kind] for kind in ("conditions", "measurements", "parameters"))
    _require_plain(measured)
    numbers = [name for name in conditions.columns if name not in ("conditionId", "conditionName")]
    for name in numbers:
        wrong = [one for one in map(_entry, conditions[name]) if isinstance(one, str)]
        if wrong:
            raise ValueError(
                f"conditions are numbers here, got {wrong[0]!r} for {name}; let the model choose between them"
            )
    known = {row["conditionId"]: {name: float(row[name]) for name in numbers} for _, row in conditions.iterrows()}
    if unknown := [one for one in measured["simulationConditionId"] if one not in known]:
        raise ValueError(f"measurements under a condition {unknown[0]!r} that the table of conditions does not have")
    scales = dict(zip(listed["parameterId"], listed["parameterScale"].fillna("lin"), strict=True))
    if unknown := [one for one in scales.values() if one not in _SCALES]:
        raise ValueError(f"a scale of parameters is {', '.join(_SCALES)}, got {unknown[0]!r}")
    nominal = listed["nominalValue"] if "nominalValue" in listed else np.full(len(listed), np.nan)
    values = dict(zip(listed["parameterId"], map(float, nominal), strict=True))
    noise = set(map(_entry, measured.get("noiseParameters", ())))
    marks = {
        row["parameterId"]: _mark(row, values[row["parameterId"]])
        for _, row in listed.iterrows()
        if int(row["estimate"]) and row["parameterId"] not in noise
    }
    return Petab(known, marks, values, scales, measured)


def _tables(folder: Path) -> dict[str, pd.DataFrame]:
    import pandas as pd

    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {str(folder)!r} of PEtab tables")
    found: dict[str, pd.DataFrame] = {}
    for file in sorted(folder.glob("*.tsv")):
        table = pd.read_csv(file, sep="\t")
        kind = next((kind for kind, (name, *_) in _KINDS.items() if name in table.columns), None)
        if kind == "measurements" and "measurement" not in table.columns:
            scale = table.get("observableTransformation")
            if scale is not None and (scale.dropna() != "lin").any():
                raise ValueError(f"{file.name} transforms observables, which is not read; transform the readings")
            continue
        if kind in found:
            raise ValueError(f"{folder} holds two tables of {kind}, the second {file.name}; keep those of one problem")
        if kind is not None:
            if missing := [name for name in _KINDS[kind] if name not in table.columns]:
                raise ValueError(f"{file.name} has no column {missing[0]}")
            found[kind] = table
    if missing := [kind for kind in _KINDS if kind not in found]:
        raise ValueError(f"{folder} holds no table of {missing[0]} (*.tsv with a column {_KINDS[missing[0]][0]})")
    return found


def _require_plain(measured: pd.DataFrame) -> None:
    """Refuse what would change the meaning of the readings, and is not read."""
    refused = {
        "preequilibrationConditionId": "states at rest before the start are not read; give the start of each condition",
        "observableParameters": "parameters of observables are not read; take them into observe of jd.Observed",
    }
    for name, words in refused.items():
        if name in measured and measured[name].notna().any():
            raise ValueError(f"{words}; got {name} {measured[name].dropna().iloc[0]!r}")


def _mark(row: Any, nominal: float) -> Bounded:
    """A number between its bounds on its scale; a start at a bound is put inside."""
    scale = _SCALES[row["parameterScale"] if isinstance(row["parameterScale"], str) else "lin"][0]
    lower, upper = (float(scale(float(row[name]))) for name in ("lowerBound", "upperBound"))
    start = 0.5 * (lower + upper) if np.isnan(nominal) else float(scale(nominal))
    margin = _INSIDE * (upper - lower)
    return Bounded(float(np.clip(start, lower + margin, upper - margin)), lower, upper)


def _entry(value: Any) -> Any:
    """A number where it is one, else a text."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


def _is_number(value: Any) -> bool:
    return isinstance(_entry(value), float)
