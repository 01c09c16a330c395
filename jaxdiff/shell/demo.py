"""Two measured examples beside what is published of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

import jaxdiff as jd
from jaxdiff.exact import cir_log_density, vasicek_log_density


@dataclass(frozen=True)
class Story:
    """A fit, and what is known of it from elsewhere."""

    name: str
    title: str
    text: str
    fit: jd.Fit
    comparison: list[tuple[str, ...]]
    labels: dict[str, str] = field(default_factory=dict)


def rod() -> Iterator[Story]:
    """The steady aluminium rod: h stands in the loss and in the end, the flux enters at x = 0."""
    table = jd.datasets.load("rod")
    a, b, length, k, ambient = (table.attrs[name] for name in ("a", "b", "L", "k", "ambient"))
    around = 2 * (a + b) / (a * b)

    def model(flux: Any, h: Any) -> jd.Diffusion:
        ends = {"x-": jd.Flux(-flux), "x+": jd.Robin(h, ambient)}
        return jd.Diffusion(k, decay=around * h, source=around * h * ambient, boundaries=ends)

    grid = jd.Grid.uniform((0.0, length, 400))
    readings = jd.Readings.from_table(table, grid, None, time=np.inf, position="x", value="T")
    starts = {"flux": 10.0, "h": jd.Positive(1e-3)}
    fit = jd.fit(model, readings, parameters=starts, loss=jd.mse, progress=False)
    published = {"flux": (18.41, 0.145), "h": (0.00191, 1.45e-5)}
    rows: list[tuple[str, ...]] = [("", "here", "published")]
    for name, (value, error) in published.items():
        here = f"{fit.parameters[name]:.5g} ± {fit.standard_errors[name]:.3g}"
        rows.append((name, here, f"{value:.4g} ± {error:.3g}"))
    yield Story(
        "rod",
        "Aluminium rod: heat flux into one end, loss to the air",
        "Steady temperatures at 15 places (R. C. Smith, Uncertainty Quantification, SIAM 2013, Table 3.2).\n"
        f"k T'' = 2(a+b)/(ab) h (T - {ambient:g}),  -k T'(0) = flux [W/cm²],  -k T'(L) = h (T(L) - {ambient:g}),\n"
        "h [W/(cm² °C)]. Published: x = 0 and L as here, ordinary least squares.",
        fit,
        rows,
        {"x": "position / cm", "value": "temperature / °C"},
    )


# title, noise, D(r), lower end of the grid, start of sigma, log density in closed form
MODELS: dict[str, tuple[str, str, str, float, float, Callable[..., Any]]] = {
    "vasicek": ("Vasicek", "sigma", "sigma**2/2", -40.0, 1.5, vasicek_log_density),
    "cir": ("Cox-Ingersoll-Ross", "sigma sqrt(r)", "sigma**2*x/2", 0.0, 0.6, cir_log_density),
}


def rates() -> Iterator[Story]:
    """Drift and diffusivity of an interest rate, by the transition density of every step."""
    table = jd.datasets.load("rates")
    interval = float(table.attrs["interval"])
    rate = table["rate"].to_numpy()
    times = float(table["year"].iloc[0]) + interval * np.arange(len(rate))
    for name, (title, noise, diffusivity, lower, sigma, closed) in MODELS.items():

        def model(kappa: Any, theta: Any, sigma: Any, diffusivity: str = diffusivity) -> jd.FokkerPlanck:
            drift = jd.Expression("kappa*(theta - x)", kappa=kappa, theta=theta)
            return jd.FokkerPlanck(drift, jd.Expression(diffusivity, sigma=sigma))

        path = jd.Trajectory(jd.Grid.uniform((lower, 60.0, 400)), times, rate)
        starts = {"kappa": jd.Positive(0.3), "theta": jd.Positive(5.0), "sigma": jd.Positive(sigma)}
        fit = jd.fit(model, path, parameters=starts, progress=False)
        numbers = {key: float(value) for key, value in fit.parameters.items()}
        exact = float(np.sum(closed(rate[1:], rate[:-1], interval, **numbers)))
        best, top = _maximum(partial(closed, rate[1:], rate[:-1], interval), numbers)
        rows: list[tuple[str, ...]] = [("", "here", "closed form")]
        rows += [(key, f"{numbers[key]:.5f}", f"{best[key]:.5f}") for key in numbers]
        rows.append(("log-likelihood at these estimates", f"{fit.predict().sum():.5f}", f"{exact:.5f}"))
        rows.append(("its maximum", "", f"{top:.5f}"))
        yield Story(
            f"rates-{name}",
            f"Three-month Treasury bill, 1959 to 2009: the {title} model",
            f"dr = kappa (theta - r) dt + {noise} dW, r in % a year; {len(rate)} quarterly values.\n"
            "Fitted by transition densities that know no formula; the closed form is for comparison only.",
            fit,
            rows,
            {"x": "rate / % a year", "t": "year"},
        )


def _maximum(log_density: Callable[..., Any], start: dict[str, float]) -> tuple[dict[str, float], float]:
    """Where the closed form is highest."""
    from scipy.optimize import minimize

    names = list(start)
    guess = np.log([start[name] for name in names])
    unpack = lambda z: dict(zip(names, np.exp(z).tolist(), strict=True))
    loss = lambda z: -float(np.sum(log_density(**unpack(z))))
    found = minimize(loss, guess, method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-9})
    return unpack(found.x), -float(found.fun)


DEMOS: dict[str, Callable[..., Iterator[Story]]] = {"rod": rod, "rates": rates}
