"""Whether a fitted model describes the data: tests of what it leaves, at one level for all of them together."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat
from typing import Any, NamedTuple

from jaxdiff.inference.losses import as_loss
from jaxdiff.measurements.residuals import LEVEL, NORMAL, Examination


class Verdict(NamedTuple):
    """Whether the model describes the data; None where that cannot be judged.

    reasons: why not, or why it cannot be judged, the most telling first; remarks: what else the residuals show, which
    leaves the model its due
    """

    describes: bool | None
    reasons: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """What is stored of it."""
        return {"describes": self.describes, "reasons": list(self.reasons), "remarks": list(self.remarks)}

    @classmethod
    def restored(cls, stored: Any) -> Verdict:
        """From what `record` gave; ValueError if it did not."""
        if stored is None:
            return cls(None, ("the fit was stored without a verdict",))
        lists: list[Any] = [stored.get("reasons"), stored.get("remarks")] if isinstance(stored, dict) else [None]
        texts = all(isinstance(some, list) and all(isinstance(text, str) for text in some) for some in lists)
        if not texts or not isinstance(stored.get("describes"), bool | None):
            raise ValueError("verdict holds describes (true, false or null), and lists of texts, reasons and remarks")
        return cls(stored["describes"], *map(tuple, lists))


def verdict(
    measurements: Iterable[Any],
    losses: Iterable[Any],
    predictions: Iterable[Any],
    times: Iterable[Any],
    equations: Iterable[Any] = repeat(None),
) -> Verdict:
    """Test what a fit leaves of its data, and judge whether the model describes them.

    predictions: of each measurement, with its Jacobian; times: the correlation time of the noise at each of its
    rows, or None; equations: the fitted ones, by which paths are judged

    All tests share one level of false alarms, 2 %, by Šidák's inequality. Each takes out what a fit takes out of residuals.
    """
    every: list[Examination] = []
    for m, loss, part, tau, equation in zip(measurements, losses, predictions, times, equations, strict=False):
        prediction, jacobian = part or (None, None)  # log densities are not kept
        every.append(as_loss(loss).examine(m, prediction, jacobian, tau, equation))
    level = 1 - (1 - LEVEL) ** (1 / max(sum(tests.count for tests in every), 1))
    named = [(f"measurement {i + 1}: " if len(every) > 1 else "", tests) for i, tests in enumerate(every)]
    failed = [(one.weight, name + one.text) for name, tests in named for one in tests.failed(level)]
    reasons = tuple(text for _, text in sorted(failed, key=lambda one: -one[0]))
    remarks = tuple(name + text for name, tests in named for text in tests.remarks)
    if reasons:
        return Verdict(False, reasons, tuple(text for text in remarks if not text.endswith(NORMAL)))
    if not any(tests.count for tests in every):
        return Verdict(None, tuple(dict.fromkeys(tests.unfit for tests in every)), remarks)
    return Verdict(True, (), remarks)
