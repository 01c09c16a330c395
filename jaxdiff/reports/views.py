"""`FitView`: a fit and the views of its measurements, predicted once for numbers and pictures alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from jaxdiff.figures.style import LABELS
from jaxdiff.measurements.view import View


class FitView:
    """A fit and the views of its measurements.

    Args:
        fit: what `jaxdiff.fit` returned.
        labels: names of the axes with their units, {"x": "position / cm", "t": …, "value": …}.
        names: of the experiments; their numbers from one on, if not given.
    """

    def __init__(self, fit: Any, labels: Mapping[str, str] | None = None, names: Sequence[str] = ()):
        self.fit = fit
        places = {"x": "state"} if any(m.grid.discrete for m in fit.measurements) else {}
        self.labels = {**LABELS, **places, **(labels or {})}
        several = len(fit.measurements) > 1
        self.names = [name or str(i) for i, name in enumerate(names, 1)] if several else []
        self.names = self.names or [str(i) for i in range(1, len(fit.measurements) + 1)]

    @property
    def conditions(self) -> list[dict[str, Any]]:
        """What numbers are known of each experiment."""
        given = self.fit.conditions or [{} for _ in self.names]
        return [{name: x for name, x in one.items() if isinstance(x, np.ndarray) and not x.ndim} for one in given]

    @property
    def experiments(self) -> list[tuple[str, str]]:
        """(name, conditions) of each experiment as text; none where there is nothing to tell them by."""
        rows = [
            (name, ", ".join(f"{key} = {x:.6g}" for key, x in known.items()) or "–")
            for name, known in zip(self.names, self.conditions, strict=True)
        ]
        return rows if len(rows) > 1 or any(self.conditions) else []

    def of(self, i: int) -> str:
        """By which experiment a quantity is told apart, in brackets; nothing where there is one."""
        return f" ({self.names[i]})" if len(self.names) > 1 else ""

    @cached_property
    def views(self) -> tuple[View, ...]:
        measured, held_out = self.fit.measurements, self.fit.held_out
        pairs = zip(measured, held_out if len(held_out) == len(measured) else [None] * len(measured), strict=True)
        return tuple(m.view(self.fit, other if type(other) is type(m) else None) for m, other in pairs)
