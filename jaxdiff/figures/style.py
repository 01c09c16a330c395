"""What all pictures share: colours, canvases, legends."""

from __future__ import annotations

import contextlib
import sys
import unicodedata
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito: distinct for colour-blind readers too. https://jfly.uni-koeln.de/color/
DATA, MODEL = "#444444", "#D55E00"
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#B0A030")
STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.formatter.use_mathtext": True,
    "axes.formatter.limits": (-4, 5),
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.dpi": 110,
    "savefig.dpi": 150,
}
LABELS = {"x": "position x", "y": "position y", "z": "position z", "r": "position r", "t": "time t", "value": "u"}
SIZE = (6.4, 4.0)
SHOWN = 120  # readings drawn of a sensor
LONGEST = 100  # letters of a label
MANY = 8  # times, beyond which a map is drawn too
POINT: dict[str, Any] = {"linestyle": "none", "marker": "o", "zorder": 3}


@contextlib.contextmanager
def canvas(width: float = SIZE[0], height: float = SIZE[1]) -> Iterator[Figure]:
    """A figure without pyplot: no window, no global state, safe in a server and in threads."""
    import matplotlib
    from matplotlib.figure import Figure

    if "IPython" in sys.modules:
        _load_backend()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        for text in figure.findobj(matplotlib.text.Text):
            _make_drawable(text)


def _make_drawable(text: Any) -> None:
    """Make a text one that can be drawn: with a font that has its letters, and as mathematics only where it is."""
    from matplotlib import font_manager
    from matplotlib.mathtext import MathTextParser

    words = text.get_text()
    if words.isascii() and words.isprintable() and "$" not in words and len(words) <= LONGEST:
        return
    words = words if len(words) <= LONGEST else f"{words[: LONGEST - 2]} …"
    missing = frozenset(letter for letter in words if letter != "\n") - _letters(font_manager.findfont("DejaVu Sans"))
    if missing:
        font = _font_with(missing)
        if font is None or "$" in words:  # mathematics has fonts of its own
            words = "".join(_spelled(letter) if letter in missing else letter for letter in words)
        else:
            text.set_fontfamily(["DejaVu Sans", font])
    text.set_text(words)
    try:
        MathTextParser("path").parse(words)
    except ValueError:
        text.set_parse_math(False)


@cache
def _letters(path: str) -> frozenset[str]:
    from matplotlib.ft2font import FT2Font

    return frozenset(map(chr, FT2Font(path).get_charmap()))


@cache
def _font_with(letters: frozenset[str]) -> str | None:
    """A font of this machine that has all of them."""
    from matplotlib import font_manager

    for entry in font_manager.fontManager.ttflist:
        if "Last Resort" not in entry.name and letters <= _letters(entry.fname):
            return str(entry.name)
    return None


def _spelled(letter: str) -> str:
    """A letter that no font has, by its name; nothing for what is no letter but joins or colours others."""
    if unicodedata.category(letter)[0] in "CM":
        return ""
    name = unicodedata.name(letter, "")
    return f"[{name.lower()}]" if name and "IDEOGRAPH" not in name else f"[U+{ord(letter):04X}]"


@cache
def _load_backend() -> None:
    """What lets a notebook show figures, once."""
    import matplotlib.pyplot

    matplotlib.pyplot.switch_backend(matplotlib.get_backend())


def bins(sample: np.ndarray) -> np.ndarray:
    """Edges for a histogram, also where all values are the same."""
    low, high = float(np.min(sample)), float(np.max(sample))
    least = 1e-9 * max(abs(low), abs(high)) or 1.0
    if high - low < least:
        low, high = low - least, high + least
    return np.linspace(low, high, max(8, min(40, len(sample) // 8)) + 1)


def with_side(figure: Any) -> Any:
    return figure.subplots(1, 2, sharey=True, width_ratios=(3.2, 1))


def time_label(t: float) -> str:
    return f"{t:.4g}" if np.isfinite(t) else "steady"


def ramp(count: int) -> list[Any]:
    from matplotlib import colormaps

    return [colormaps["viridis"](v) for v in np.linspace(0.0, 0.85, count)] if count > 1 else [COLORS[0]]


def zero_line(axes: Axes) -> None:
    axes.axhline(0.0, color="#888888", linewidth=0.9, zorder=1)


def legend(axes: Axes, title: str | None = None, outside: bool = False, source: Axes | None = None) -> None:
    """A legend, to the right of the axes if `outside`; `source` has what it names."""
    handles, texts = (source or axes).get_legend_handles_labels()
    if handles:
        place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0)} if outside else {}
        axes.legend(
            handles, texts, title=title, title_fontsize=9, markerscale=1.0 if len(handles) < 2 else 1.5, **place
        )
