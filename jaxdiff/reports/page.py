"""What a fit leaves behind: one HTML page with everything in it, and the numbers as JSON and CSV."""

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

from jaxdiff.measurements.histograms import Histograms
from jaxdiff.measurements.readings import Readings
from jaxdiff.measurements.trajectory import Trajectory
from jaxdiff.reports import figures
from jaxdiff.reports.text import DOUBT
from jaxdiff.reports.views import Outcome, View, shares
from jaxdiff.runtime.staging import replacing


def write(
    fit: Any,
    path: str | os.PathLike[str],
    *,
    title: str = "",
    labels: Mapping[str, str] | None = None,
    outcome: Outcome | None = None,
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
        outcome, pictures: of this fit, if they are at hand already; pictures as PNG.

    Raises:
        OSError: the file cannot be written.
    """
    from jinja2 import Environment

    path = Path(path)
    outcome = outcome or Outcome(fit, labels)
    pictures = images(outcome) if pictures is None else pictures
    text = resources.files("jaxdiff.reports").joinpath("page.html.jinja").read_text(encoding="utf-8")
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(text)
    content = page.render(
        title=title or "Fit",
        date=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        rows=parameter_rows(fit),
        quality=goodness(outcome),
        correlations=correlations(fit),
        converged=bool(fit.converged),
        verdict=fit.verdict,
        doubt=DOUBT if fit.verdict.describes is False else "",
        notes=(*fit.notes, *fit.verdict.remarks),
        comparison=[list(row) for row in comparison],
        pictures={name: base64.b64encode(png).decode() for name, png in pictures.items()},
        captions=CAPTIONS,
        source=source,
        versions=versions(),
    )
    try:
        with replacing(path) as part:
            part.write_text(content, encoding="utf-8", errors="replace")
    except ValueError as error:
        raise OSError(str(error)) from None
    return path


CAPTIONS = {
    "fit": "Data and fit",
    "residuals": "Residuals",
    "course": "The fitted course",
    "history": "Loss at each step",
}


def numbers(fit: Any) -> list[tuple[str, float, float, tuple[float, float]]]:
    """(name, estimate, standard error, 95 % interval) of every single number."""
    values, errors, ends = fit.columns()
    rows = zip(fit.labels, values, errors, ends, strict=True)
    return [(label, float(value), float(error), (float(low), float(high))) for label, value, error, (low, high) in rows]


def parameter_rows(fit: Any) -> list[dict[str, str]]:
    """The table of parameters as text, each estimate with the digits that its error supports."""
    rows = []
    for name, value, error, (low, high) in numbers(fit):
        known = math.isfinite(error)
        rows.append(
            {
                "name": name,
                "estimate": digits(value, error),
                "error": f"{error:.2g}" if known else "–",
                "interval": f"{digits(low, error)} … {digits(high, error)}" if known else "–",
            }
        )
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


def goodness(outcome: Outcome) -> list[tuple[str, str]]:
    """(what, value) pairs that tell how well the model describes the data."""
    fit = outcome.fit
    rows: list[tuple[str, str]] = [(fit.loss_name.replace("_", " "), f"{fit.loss:.6g}")]
    if fit.validation_loss is not None:
        rows.append(("on the part held out", f"{fit.validation_loss:.6g}"))
    for i, view in enumerate(outcome.views):
        which = "" if len(outcome.views) == 1 else f" ({i + 1})"
        rows += [(what + which, value) for what, value in _quality(outcome, view)]
    return rows


def _quality(outcome: Outcome, view: View) -> list[tuple[str, str]]:
    m, count = view.measurement, len(outcome.fit.labels)
    if isinstance(m, Readings):
        return _reading_quality(m, m.values - np.asarray(view.prediction), count)
    if isinstance(m, Histograms):
        return _histogram_quality(m, np.asarray(view.prediction), count)
    if isinstance(m, Trajectory):
        total, steps = outcome.likelihood(view), len(m.durations)
        rows = [("steps", f"{steps}"), ("log-likelihood", f"{total:.6f}")]
        return [*rows, ("log-likelihood per step", f"{total / steps:.6f}"), ("AIC", f"{2 * count - 2 * total:.6g}")]
    return []


def _reading_quality(m: Readings, residual: np.ndarray, count: int) -> list[tuple[str, str]]:
    n, rms = len(residual), float(np.sqrt(np.mean(residual**2)))
    rows = [("readings", f"{n}"), ("residual, root mean square", f"{rms:.5g}")]
    if np.var(m.values) > 0:
        rows.append(("R²", f"{1 - rms**2 / np.var(m.values):.6f}"))
    if m.sigma is not None:
        chi = float(np.sum((residual / m.sigma) ** 2))
        if n > count:
            rows.append(("reduced χ²", f"{chi / (n - count):.4g}"))
        rows.append(("log-likelihood", f"{-0.5 * chi - np.sum(np.log(m.sigma)) - 0.5 * n * math.log(2 * math.pi):.6g}"))
    elif rms > 0:
        rows.append(("log-likelihood", f"{-0.5 * n * (math.log(2 * math.pi * rms**2) + 1):.6g}"))
    return rows


def _histogram_quality(m: Histograms, prediction: np.ndarray, count: int) -> list[tuple[str, str]]:
    q, p = shares(m.mass), shares(np.maximum(prediction[:, : m.mass.shape[1]], 1e-300))
    kl = float(np.mean(np.sum(np.where(q > 0, q * np.log(np.where(q > 0, q, 1.0) / p), 0.0), axis=1)))
    rows = [("histograms", f"{len(q)} of {q.shape[1]} bins"), ("KL(data‖model), mean over times", f"{kl:.5g}")]
    if m.size is not None:
        expected = np.asarray(m.size)[:, None] * p
        filled = expected >= 5  # where counts are near enough to normal
        freedom = int(filled.sum()) - len(q) - count
        if freedom > 0:
            chi = float(np.sum((np.asarray(m.size)[:, None] * q - expected)[filled] ** 2 / expected[filled]))
            rows.append(("reduced χ², bins with 5 or more", f"{chi / freedom:.4g}"))
    return rows


def correlations(fit: Any) -> dict[str, Any]:
    """Names and correlation matrix of the estimates; empty where no error bars are known or there are many."""
    names = list(fit.labels)
    if not 2 <= len(names) <= 8 or not np.isfinite(fit.covariance).all() or not np.all(np.diag(fit.covariance) > 0):
        return {}
    return {"names": names, "rows": [[f"{value:+.3f}" for value in row] for row in fit.correlation]}


def versions() -> dict[str, str]:
    import jax

    found = {"jaxdiff": _version("jaxdiff"), "jax": jax.__version__, "numpy": np.__version__}
    device = jax.devices()[0]
    return {**found, "python": platform.python_version(), "device": f"{device.platform}: {device.device_kind}"}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def to_json(outcome: Outcome, *, title: str = "") -> str:
    """The fitted numbers as JSON; what is not known is null."""
    fit = outcome.fit
    content = {
        "title": title,
        "parameters": {
            name: {"estimate": value, "standard_error": error, "interval_95": list(ends)}
            for name, value, error, ends in numbers(fit)
        },
        "covariance": fit.covariance.tolist(),
        "loss": fit.loss,
        "validation_loss": fit.validation_loss,
        "converged": fit.converged,
        "notes": list(fit.notes),
        "verdict": fit.verdict.record(),
        "goodness": dict(goodness(outcome)),
        "versions": versions(),
    }
    return json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_csv(view: View) -> str | None:
    """Each reading beside its prediction as CSV, those held out last; None for what is no list of readings."""
    import pandas as pd

    frames = []
    for m, fitted in ((view.measurement, view.prediction), (view.held, view.held_prediction)):
        if isinstance(m, Readings):
            places = (
                {"position": m.positions} if m.grid.ndim == 1 else dict(zip(m.grid.names, m.positions.T, strict=True))
            )
            table = {"time": m.times, **places, "measured": m.values, "fitted": fitted}
            held = m is view.held
            frames.append(pd.DataFrame({**table, "residual": m.values - fitted, "held_out": int(held)}))
    return pd.concat(frames).to_csv(index=False, float_format="%.10g") if frames else None


def images(outcome: Outcome) -> dict[str, bytes]:
    """The pictures of a fit as PNG."""
    found = {}
    for name, figure in figures.sheets(outcome).items():
        stream = io.BytesIO()
        figure.savefig(stream, format="png")
        found[name] = stream.getvalue()
    return found
