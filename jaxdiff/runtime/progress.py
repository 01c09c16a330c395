"""A progress bar that only shows itself when there is something to wait for."""

from __future__ import annotations

import time
from typing import Any

DELAY = 1.0  # seconds before a bar appears
BEAT = 0.2  # seconds of compiled work between two looks at it


class Progress:
    """Counts steps; silent for short work, and wherever `shown` is false."""

    def __init__(self, shown: bool, unit: str = "step", task: str = "fit"):
        self.shown, self.unit, self.task, self.began = shown, unit, task, time.perf_counter()
        self.bar: Any = None

    def portion(self, pace: float) -> int:
        """How many steps of `pace` seconds to run before the next look."""
        return 1 if pace <= 0 else max(1, min(1000, int(BEAT / pace)))

    def show(self, step: int, steps: int, loss: float | None = None, held_out: float | None = None) -> None:
        if not self.shown or (self.bar is None and time.perf_counter() - self.began < DELAY):
            return
        if self.bar is None:
            from tqdm.auto import tqdm

            self.bar = tqdm(total=steps, desc=self.task, unit=self.unit, leave=False, initial=step)
        self.bar.n = step
        words = ("loss", loss), ("held out", held_out)
        self.bar.set_postfix_str(", ".join(f"{name} {value:.6g}" for name, value in words if value is not None))

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
