"""The experiments of a configuration file: one [data], its parts by a column, or a list [[data]]; and the model they share."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from jaxdiff.measurements.predictor import distinct
from jaxdiff.model.grid import Grid
from jaxdiff.parameters import Mark
from jaxdiff.shell.config import passages
from jaxdiff.shell.config.data import Data, read_data
from jaxdiff.shell.config.domain import read_boundaries
from jaxdiff.shell.config.initial import read_initial
from jaxdiff.shell.config.keys import mapping, shown, text
from jaxdiff.shell.config.model import TextModel

OWN = ("name", "initial", "boundaries")  # what an entry of [[data]] may have beside the keys of [data]


@dataclass(frozen=True)
class Setting:
    """What holds in one experiment, as the file says it; `place` begins its messages."""

    name: str
    place: str
    data: Data | None
    sides: dict[str, dict[str, Any]]
    initial: dict[str, Any]

    @property
    def conditions(self) -> dict[str, float]:
        return self.data.conditions if self.data else {}

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Errors within begin with the experiment, if there are several."""
        try:
            yield
        except (ValueError, TypeError) as error:
            raise ValueError(f"{self.place}: {error}" if self.place else str(error)) from error


@dataclass(frozen=True)
class Experiment:
    """One experiment, built: its model at given numbers, its data, and where and when it starts."""

    name: str
    model: TextModel
    measurement: Any
    initial: Any  # array or callable of position
    start: float
    times: np.ndarray | None


class Number(eqx.Module):
    """Which experiment it is: no array, since texts differ between experiments."""

    number: int = eqx.field(static=True)


@dataclass(frozen=True)
class SharedModel:
    """The model of each of several experiments; of the parameters `own` each has a number."""

    models: tuple[TextModel, ...]
    own: frozenset[str]

    def __call__(self, experiment: Number, **known: Any) -> Any:
        i = experiment.number
        return self.models[i](**{name: x[i] if name in self.own else x for name, x in known.items()})


def read_settings(
    content: Mapping[str, Any], folder: Path, table: str | os.PathLike[str] | None, grid: Grid, wave: bool
) -> tuple[bool, list[Setting]]:
    """Whether several experiments are described, or one with a name or conditions; and what holds in each."""
    sides = read_boundaries(content.get("boundaries", {}), grid)
    initial = read_initial(content.get("initial"), grid, wave)
    given = content.get("data")
    if not isinstance(given, list):
        if given is None and table is None:
            return False, [Setting("", "", None, sides, initial)]
        settings = mapping({} if given is None else given, "data", "[data]")
        parts = read_data(settings, folder, table, grid.names)
        apart = "experiment" in settings or "conditions" in settings
        several = len(parts) > 1
        return apart, [Setting(n, f"experiment {n!r}" if several else "", one, sides, initial) for n, one in parts]
    if not given:
        raise ValueError("data is an empty list; write a table [[data]] for each experiment")
    if (
        table is not None
        and len({(one.get("table"), one.get("dataset")) for one in given if isinstance(one, dict)}) > 1
    ):
        raise ValueError("--data takes the place of one table, and [[data]] names several; name it in the file")
    found = []
    for number, entry in enumerate(given, 1):
        entry = mapping(entry, "data", "[[data]]")
        head = Setting("", f"[[data]] {number}", None, sides, initial)
        with head.named():
            settings = {key: value for key, value in entry.items() if key not in OWN}
            name = text(entry.get("name", str(number)), "name")
            own = _own_sides(read_boundaries(entry.get("boundaries", {}), grid), sides, grid)
            start = read_initial(entry["initial"], grid, wave) if "initial" in entry else initial
            parts = read_data(settings, folder, table, grid.names, OWN)
        for part, data in parts:
            called = f"{name} {part}" if part and "name" in entry else part or name
            found.append(Setting(called, head.place + (f", experiment {part!r}" if part else ""), data, own, start))
    return True, found


def _own_sides(own: dict[str, Any], common: dict[str, Any], grid: Grid) -> dict[str, Any]:
    """The sides of one experiment, those of all where it names none."""
    if not own or not common:
        return own or common
    places = lambda side: [(table, key) for table in (own, common) for key in (side, side[:-1], "all") if key in table]
    return {side: table[key] for side in grid.sides for table, key in places(side)[:1]}


def read_own(section: Mapping[str, Any]) -> tuple[dict[str, Any], set[str]]:
    """[parameters] without `per`, and those of which each experiment has a number."""
    own = set()
    bare: dict[str, Any] = {}
    for name, entry in section.items():
        if isinstance(entry, Mapping) and "per" in entry:
            if entry["per"] != "experiment":
                raise ValueError(
                    f"[parameters] {name} per is {shown(entry['per'])}; choose 'experiment', or leave it out"
                )
            if entry.get("fixed"):
                raise ValueError(f"[parameters] {name} is fixed, one number for all; leave per out")
            own.add(name)
            entry = {key: value for key, value in entry.items() if key != "per"}
        bare[name] = entry
    return bare, own


def check_names(settings: list[Setting], models: list[TextModel], parameters: Mapping[str, Any], own: set[str]) -> None:
    """Refuse a parameter or a condition that stands in no text."""
    used: set[str] = set().union(*(model.names for model in models))
    used |= {name for one in settings if one.data for name in passages.named(one.data.settings)}
    if idle := set(parameters) - used:
        raise ValueError(f"the parameter {sorted(idle)[0]!r} stands in no coefficient; use it or leave it out")
    for one, model in zip(settings, models, strict=True):
        if idle := own - model.names - (passages.named(one.data.settings) if one.data else set()):
            raise ValueError(
                f"the parameter {sorted(idle)[0]!r} is one for each experiment, and stands in no text of {one.name!r}; use it there or leave per out"
            )
        if idle := set(one.conditions) - used:
            raise ValueError(f"the condition {sorted(idle)[0]!r} stands in no text; use it or leave it out")


def with_common_sensors(measurements: list[Any]) -> tuple[int, list[Any]]:
    """How many sensors there are in all experiments, and the readings, each with all of them."""
    sensors = distinct(np.concatenate([one.sensors for one in measurements]))
    return len(sensors), [eqx.tree_at(lambda m: m.sensors, one, sensors.copy()) for one in measurements]


def each_of(mark: Mark, *shape: int) -> Mark:
    """A mark of as many numbers, all with the start and the bounds of one."""
    return jax.tree.map(lambda number: np.full(shape, number), mark)
