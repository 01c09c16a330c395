"""`FitView`: a fit and the views of its measurements, predicted once for numbers and pictures alike."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from jaxdiff.figures.style import LABELS
from jaxdiff.measurements.view import View


class FitView:
    """A fit and the views of its measurements.

    Args:
        fit: what `jaxdiff.fit` returned.
        labels: names of the axes with their units, {"x": "position / cm", "t": …, "value": …}.
    """

    def __init__(self, fit: Any, labels: Mapping[str, str] | None = None):
        self.fit = fit
        self.labels = {**LABELS, **(labels or {})}

    @cached_property
    def views(self) -> tuple[View, ...]:
        measured, held_out = self.fit.measurements, self.fit.held_out
        pairs = zip(measured, held_out if len(held_out) == len(measured) else [None] * len(measured), strict=True)
        return tuple(m.view(self.fit, other if type(other) is type(m) else None) for m, other in pairs)
