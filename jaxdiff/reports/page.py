"""The report of a fit: one HTML page with everything in it, and the numbers as JSON and CSV."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import platform
from collections.abc import Iterable, Mapping
from datetime import datetime
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import numpy as np

from jaxdiff.measurements.view import View
from jaxdiff.reports import figures
from jaxdiff.reports.methods import methods
from jaxdiff.reports.text import DOUBT, finite, short
from jaxdiff.reports.views import FitView
from jaxdiff.runtime.staging import write_whole


def write(
    fit: Any,
    path: str | os.PathLike[str],
    *,
    title: str = "",
    labels: Mapping[str, str] | None = None,
    shown: FitView | None = None,
    source: str = "",
    comparison: Iterable[Iterable[Any]] = (),
    pictures: Mapping[str, bytes] | None = None,
) -> Path:
    """Write one self-contained HTML page about a fit: parameters, goodness, pictures, and how it was made.

    Args:
        fit: what `jaxdiff.fit` returned.
        path: of the HTML file; it is replaced only once the page is complete.
        title: heading of the page.
        labels: names of the axes, {"x": "position / cm", "t": …, "value": …}.
        source: a text to keep with it, such as the configuration.
        comparison: rows (quantity, here, elsewhere) to print beside the estimates.
        shown, pictures: of this fit, if they are at hand already; pictures as PNG.

    Raises:
        OSError: the file cannot be written.
    """
    from jinja2 import Environment

    shown = shown or FitView(fit, labels)
    pictures = images(shown) if pictures is None else pictures
    text = resources.files("jaxdiff.reports").joinpath("page.html.jinja").read_text(encoding="utf-8")
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(text)
    content = page.render(
        title=title or "Fit",
        date=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        rows=parameter_rows(fit),
        quality=goodness(shown),
        correlations=correlations(fit),
        converged=bool(fit.converged),
        verdict=fit.verdict,
        doubt=DOUBT if fit.verdict.describes is False else "",
        notes=(*fit.notes, *fit.verdict.remarks),
        comparison=[list(row) for row in comparison],
        pictures={name: base64.b64encode(png).decode() for name, png in pictures.items()},
        captions=captions(shown),
        experiments=shown.experiments,
        methods=methods(fit),
        source=source,
        versions=versions(),
    )
    try:
        return write_whole(path, content, errors="replace")
    except ValueError as error:
        raise OSError(str(error)) from None


CAPTIONS = {
    "fit": "Data and fit",
    "residuals": "Residuals",
    "course": "The fitted course",
    "fields": "Fields, with bands",
    "history": "Loss at each step",
}


def captions(shown: FitView) -> dict[str, str]:
    """What is written under each picture, {its name: caption}."""
    several = {
        f"{name}_{i + 1}": caption + shown.of(i) for i in range(len(shown.names)) for name, caption in CAPTIONS.items()
    }
    return {**CAPTIONS, **several}


def numbers(fit: Any) -> list[tuple[str, float, float, tuple[float, float]]]:
    """(name, estimate, standard error, 95 % interval) of every single number."""
    values, errors, ends = fit.columns()
    return list(zip(fit.labels, values.tolist(), errors.tolist(), map(tuple, ends.tolist()), strict=True))


def parameter_rows(fit: Any) -> list[dict[str, str]]:
    """The table of parameters as text, each estimate with the digits that its error supports."""
    rows = []
    for name, value, error, (low, high) in numbers(fit):
        interval = f"{digits(low, error)} … {digits(high, error)}" if math.isfinite(error) else "–"
        rows.append({"name": name, "estimate": digits(value, error), "error": short(error), "interval": interval})
    return rows


def digits(value: float, error: float) -> str:
    """A number with one digit more than its error has, six significant ones where the error is unknown.

    >>> digits(18.41489, 0.139), digits(1.0834e-4, 2.2e-7)
    ('18.415', '1.08340e-04')
    """
    if not math.isfinite(value):
        return str(value)
    if not (math.isfinite(error) and error > 0) or value == 0:
        return f"{value:.6g}"
    last = math.floor(math.log10(error)) - 2  # of the decimal places shown
    first = math.floor(math.log10(abs(value)))
    if -4 < first <= 6:
        return f"{value:.{max(-last, 0)}f}"
    return f"{value:.{max(first - last, 0)}e}"


def goodness(shown: FitView) -> list[tuple[str, str]]:
    """(what, value) pairs on how well the model describes the data."""
    fit = shown.fit
    rows: list[tuple[str, str]] = [(fit.loss_name.replace("_", " "), f"{fit.loss:.6g}")]
    if fit.validation_loss is not None:
        rows.append(("on the part held out", f"{fit.validation_loss:.6g}"))
    for i, view in enumerate(shown.views):
        rows += [(what + shown.of(i), value) for what, value in view.numbers]
    return rows


def correlations(fit: Any) -> dict[str, Any]:
    """Names and correlation matrix of the estimates; empty where no error bars are known or there are many."""
    names = list(fit.labels)
    if not 2 <= len(names) <= 8 or not np.isfinite(fit.covariance).all() or not np.all(np.diag(fit.covariance) > 0):
        return {}
    return {"names": names, "rows": [[f"{value:+.3f}" for value in row] for row in fit.correlation]}


def versions() -> dict[str, str]:
    import jax

    try:
        own = metadata.version("jaxdiff")
    except metadata.PackageNotFoundError:
        own = "not installed"
    device = jax.devices()[0]
    found = {"jaxdiff": own, "jax": jax.__version__, "numpy": np.__version__, "python": platform.python_version()}
    return {**found, "device": f"{device.platform}: {device.device_kind}"}


def to_json(shown: FitView, *, title: str = "") -> str:
    """The fitted numbers as JSON; what is not known is null."""
    fit, known = shown.fit, [{"conditions": one} for one in shown.conditions]
    content = {
        "title": title,
        "parameters": {
            name: {"estimate": value, "standard_error": error, "interval_95": ends}
            for name, value, error, ends in numbers(fit)
        },
        "experiments": [{"name": one, **x} for one, x in zip(shown.names, known, strict=True)],
        "covariance": fit.covariance,
        "loss": fit.loss,
        "validation_loss": fit.validation_loss,
        "converged": fit.converged,
        "notes": fit.notes,
        "verdict": fit.verdict.record(),
        "goodness": dict(goodness(shown)),
        "methods": methods(fit),
        "versions": versions(),
    }
    return json.dumps(finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_csv(view: View) -> str | None:
    """The data beside their predictions as CSV, those held out last; None for what is no list."""
    import pandas as pd

    return None if view.table is None else pd.DataFrame(view.table).to_csv(index=False, float_format="%.10g")


def images(shown: FitView) -> dict[str, bytes]:
    """The pictures of a fit as PNG."""
    found = {}
    for name, figure in figures.figures(shown).items():
        stream = io.BytesIO()
        figure.savefig(stream, format="png")
        found[name] = stream.getvalue()
    return found
