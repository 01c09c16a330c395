"""Reports and pictures: every kind of measurement, digits, escaping, and what is not known."""

import json
import math
from dataclasses import dataclass

import jax
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.figures import style as panels
from jaxdiff.reports import figures as plot
from jaxdiff.reports import page as report
from jaxdiff.reports.views import FitView

GRID = jd.Grid.uniform((0.0, 1.0, 20))


@dataclass(frozen=True)
class Told(jd.Fit):
    """A fit whose predictions are given by a formula, so that nothing is computed."""

    def predict(self, measurement=None):
        if isinstance(measurement, jd.Readings):
            decay = np.where(np.isfinite(measurement.times), np.exp(-measurement.times), 0.0)
            return np.cos(np.pi * measurement.positions) * decay + 0.01
        return np.ones_like(measurement.mass) / measurement.mass.shape[1]


def told(*measurements, held=(), **changes):
    numbers = {
        "parameters": {"D": 1.0834e-4, "rates": np.array([1.0, 2.0])},
        "standard_errors": {"D": 2.2e-7, "rates": np.array([0.1, math.nan])},
        "intervals": {"D": (1.079e-4, 1.088e-4), "rates": (np.array([0.8, math.nan]), np.array([1.2, math.nan]))},
        "labels": ("D", "rates[0]", "rates[1]"),
        "covariance": np.diag([4.8e-14, 0.01, math.nan]),
    }
    loss = {"loss": 0.25, "loss_name": "mse", "history": np.array([10.0, 1.0, 0.25]), "converged": True}
    model = jd.FokkerPlanck(jd.Expression("0.5-x"), 0.1)
    return Told(model=model, measurements=measurements, held_out=held, **{**numbers, **loss, **changes})


def readings(times, positions, sigma=None, initial=0.0):
    t, x = (part.ravel() for part in np.meshgrid(times, positions, indexing="ij"))
    values = np.cos(np.pi * x) * np.where(np.isfinite(t), np.exp(-t), 0.0)
    return jd.Readings(GRID, initial, t, x, values, sigma=sigma)


def histograms(times):
    return jd.Histograms(GRID, 1.0, times, np.arange(1, 1 + len(times) * 20).reshape(len(times), 20))


def path():
    rng = np.random.default_rng(0)
    return jd.Trajectory(GRID, np.arange(200) * 0.1, 0.5 + 0.2 * np.sin(np.arange(200)) + 0.01 * rng.normal(size=200))


CASES = {
    "steady": (lambda: told(readings([np.inf], np.linspace(0, 1, 9))), {"fit", "residuals", "history"}),
    "profiles": (
        lambda: told(readings([0.1, 0.5, np.inf], np.linspace(0, 1, 9), 0.1)),
        {"fit", "residuals", "course", "history"},
    ),
    "courses": (
        lambda: told(readings(np.arange(30), [0.2, 0.8]), held=(readings(np.arange(30, 35), [0.2, 0.8]),)),
        {"fit", "residuals", "course", "history"},
    ),
    "long": (lambda: told(readings(np.arange(900), [0.2])), {"fit", "residuals", "course", "history"}),
    "scattered": (
        lambda: told(readings(np.arange(12), np.linspace(0, 1, 12))),
        {"fit", "residuals", "course", "history"},
    ),
    "one reading": (lambda: told(readings([1.0], [0.5])), {"fit", "residuals", "history"}),
    "histogram": (lambda: told(histograms([1.0])), {"fit", "residuals", "history"}),
    "histograms": (lambda: told(histograms(np.arange(1, 12))), {"fit", "residuals", "course", "history"}),
    "path": (
        lambda: told(path(), loss_name="negative_log_likelihood"),
        {"fit", "residuals", "course", "history"},
    ),
    "two": (
        lambda: told(readings([np.inf], [0.1, 0.2, 0.3]), histograms([1.0])),
        {"fit_1", "residuals_1", "fit_2", "residuals_2", "history"},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_pictures_and_page_of_every_kind(case, tmp_path):
    make, names = CASES[case]
    fit = make()
    shown = FitView(fit, {"x": "x / m"})
    figures = plot.figures(shown)
    assert set(figures) == names
    assert all(figure.axes for figure in figures.values())
    page = report.write(fit, tmp_path / "fit.html", shown=shown).read_text()
    assert page.count("data:image/png;base64,") == len(names)
    assert [path.name for path in tmp_path.iterdir()] == ["fit.html"]


LETTERS = {  # one as the label of x, and one as that of the values: what is given, and what is drawn
    "dollars, half of mathematics": (("cost $ and US$", "cost $ and US$"), (r"$\frac{1$", r"$\frac{1$")),
    "mathematics, greek": ((r"$\mu$m", r"$\mu$m"), ("Länge / µm", "Länge / µm")),
    "chinese, emoji": (("温度 / °C", "[U+6E29][U+5EA6] / °C"), ("heat 🔥\ufe0f", "heat [fire]\ufe0f")),
    "in mathematics, control": (("$T_温$", "$T_[U+6E29]$"), ("a\x07b\nc", "ab\nc")),
    "long": (("x" * 5000, "x" * 98 + " …"),) * 2,
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", LETTERS)
def test_labels_of_any_letters_are_drawn_without_a_warning(case, monkeypatch):
    monkeypatch.setattr(panels, "_font_with", lambda letters: None)  # as on a machine with no fonts but its own
    (across, drawn_across), (up, drawn_up) = LETTERS[case]
    shown = FitView(told(readings([np.inf], np.linspace(0, 1, 9))), {"x": across, "value": up})
    axes = plot.figures(shown)["fit"].axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == (drawn_across, drawn_up)
    report.images(shown)


def test_a_font_that_has_the_letters_is_taken(monkeypatch):
    monkeypatch.setattr(
        panels, "_letters", lambda path: frozenset(map(chr, range(128 if "DejaVuSans.ttf" in path else 9999)))
    )
    fit = told(readings([np.inf], np.linspace(0, 1, 9)))
    label = plot.figures(FitView(fit, {"x": "Länge"}))["fit"].axes[0].xaxis.label
    assert label.get_text() == "Länge" and len(label.get_fontfamily()) == 2


@pytest.mark.slow
def test_the_methods_of_the_results(tmp_path):
    fit = told(readings([np.inf], np.linspace(0, 1, 9)))
    assert len(fit.plot().subfigs) == 4
    page = fit.report(tmp_path / "fit.html")
    assert "<html" in page.read_text()
    solution = jd.solve(jd.Diffusion(0.1), GRID, np.ones(20), np.linspace(0.0, 1.0, 12))
    assert solution.plot().axes


def test_pictures_leave_the_settings_of_matplotlib_alone():
    import matplotlib

    before = dict(matplotlib.rcParams)
    told(readings([np.inf], np.linspace(0, 1, 9))).plot()
    assert dict(matplotlib.rcParams) == before


def test_what_is_not_known_is_said_and_what_is_said_is_text(tmp_path):
    fit = told(readings([np.inf], [0.1, 0.2]), converged=False, notes=("rates[1] is not identified <b>",))
    page = report.write(fit, tmp_path / "fit.html", title="<script>", source="a < b", pictures={}).read_text()
    assert "did not converge" in page
    assert "&lt;script&gt;" in page and "<script>" not in page and "a &lt; b" in page and "&lt;b&gt;" in page
    assert "–" in page  # no error bar


def test_numbers_as_json():
    fit = told(readings([np.inf], [0.1, 0.2]), validation_loss=0.5)
    found = json.loads(report.to_json(FitView(fit), title="t"))
    assert found["parameters"]["D"]["interval_95"] == [1.079e-4, 1.088e-4]
    assert found["parameters"]["rates[1]"]["standard_error"] is None
    assert found["covariance"][2][2] is None
    assert found["validation_loss"] == 0.5


@pytest.mark.parametrize(
    "value, error, text",
    [
        (18.41489, 0.139, "18.415"),
        (1.0834e-4, 2.2e-7, "1.08340e-04"),
        (123456.7, 2000.0, "123457"),
        (0.5, math.nan, "0.5"),
        (0.0, 0.1, "0"),
        (1.5e9, 1e6, "1.50000e+09"),
        (0.012345, 0.9, "0.012"),
        (math.nan, 0.1, "nan"),
    ],
)
def test_digits_follow_the_error(value, error, text):
    assert report.digits(value, error) == text


def test_goodness_of_readings_with_sigma():
    fit = told(readings([0.5], np.linspace(0, 1, 9), sigma=0.01))
    rows = dict(report.goodness(FitView(fit)))
    assert rows["readings"] == "9"
    assert float(rows["residual, root mean square"]) == pytest.approx(0.01)
    assert float(rows["reduced χ²"]) == pytest.approx(9 / 6, rel=1e-3)
    expected = -4.5 - 9 * math.log(0.01) - 4.5 * math.log(2 * math.pi)
    assert float(rows["log-likelihood"]) == pytest.approx(expected, rel=1e-5)


def test_a_report_that_cannot_be_written(tmp_path, undrawn):
    with pytest.raises(OSError):
        told(readings([np.inf], [0.1, 0.2])).report(tmp_path / "nowhere" / "fit.html")
    (tmp_path / "fit.html").mkdir()
    with pytest.raises(OSError, match="it is a folder, no file"):
        told(readings([np.inf], [0.1, 0.2])).report(tmp_path / "fit.html")


def test_a_measurement_is_predicted_once():
    calls = []

    @dataclass(frozen=True)
    class Counted(Told):
        def predict(self, measurement=None):
            calls.append(1)
            return super().predict(measurement)

    base = told(readings([0.1, 0.2], np.linspace(0, 1, 9)))
    fit = Counted(**{name: getattr(base, name) for name in base.__dataclass_fields__})
    shown = FitView(fit)
    plot.figures(shown)
    report.goodness(shown)
    assert len(calls) == 1


@pytest.mark.slow
def test_pictures_of_a_real_fit_in_a_session_of_single_precision():
    with jax.enable_x64(False):
        data = readings([0.1, 0.2, 0.4], [0.1, 0.5, 0.9], initial=jd.Expression("cos(pi*x)"))
        fit = jd.fit(jd.Diffusion(jd.Positive(0.2)), data, progress=False)
        assert fit.plot().subfigs
    assert fit.parameters["diffusivity"] == pytest.approx(1 / np.pi**2, rel=0.1)
