"""The shell: jaxdiff demo, fit, solve, generate, benchmark, info."""

from __future__ import annotations

import importlib
import os
import sys
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxdiff.runtime import interrupts
from jaxdiff.runtime.staging import WRITTEN, staged

FIT = ("report.html", "parameters.json", "predictions*.csv", "folds.csv", "sweep.csv", "*.png")  # what a fit writes
SOLUTION = ("solution*.csv", "solution*.png")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; a mistake of the user ends in one line on stderr and exit code 2, an interruption in 130."""
    WRITTEN.clear()
    try:
        with interrupts.noted(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a user must know is said in one line, by us
            code = _run(arguments)
    except KeyboardInterrupt:
        where = f"what there is lies in {WRITTEN[0]}" if WRITTEN else "nothing was written"
        _fail(f"interrupted; {where}", 130)
    sys.exit(code)


def _run(arguments: Sequence[str] | None) -> int:
    import click

    try:
        code = _commands().main(args=arguments, prog_name="jaxdiff", standalone_mode=False)
    except click.exceptions.Abort:  # click's word for an interrupt
        raise KeyboardInterrupt from None
    except click.ClickException as error:
        _fail(error.format_message(), 2)
    except (ValueError, TypeError, OSError, ArithmeticError, MemoryError, RecursionError) as error:
        if os.environ.get("JAXDIFF_DEBUG"):
            raise
        _fail(_message(error), 2)
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        _fail(_message(MemoryError()), 2)
    return code if isinstance(code, int) else 0


def _commands() -> Any:
    import click

    path = click.Path(path_type=Path)
    output = click.option("--output", type=path, help="Folder for the results.")
    config = click.argument("config", type=path)
    data = click.option("--data", type=path, help="A table in place of the one the configuration names.")

    @click.group(context_settings={"help_option_names": ["-h", "--help"]})
    @click.version_option(package_name="jaxdiff")
    def group() -> None:
        """Fit diffusion coefficients and drifts to measurements, with error bars."""

    @group.command()
    @click.argument("name", required=False)
    @output
    def demo(name: str | None, output: Path | None) -> None:
        """Two measured examples beside their published answers: rod, rates (both if none is named)."""
        run_demo(name, output or Path("demo"))

    @group.command()
    @config
    @data
    @output
    def fit(config: Path, data: Path | None, output: Path | None) -> None:
        """Fit what CONFIG, a TOML file, describes."""
        run_fit(config, data, output or Path(f"{config.stem}-fit"))

    @group.command()
    @config
    @data
    @output
    def solve(config: Path, data: Path | None, output: Path | None) -> None:
        """Solve the equation of CONFIG at the starts of its parameters."""
        run_solve(config, data, output or Path(f"{config.stem}-solve"))

    @group.command()
    @click.argument("case", required=False)
    @output
    @click.option("--smoke", is_flag=True, help="Tiny sizes, to see that it runs.")
    @click.option("--device", type=click.Choice(["cpu", "gpu", "tpu"]), help="One kind of device, not all.")
    @click.option("--dtype", type=click.Choice(["float64", "float32"]), help="One precision, not both.")
    def benchmark(case: str | None, output: Path | None, **options: Any) -> None:
        """How fast it is on these devices: throughput, peers, scaling (listed if none is named)."""
        run_benchmark(case, output or Path(f"benchmark-{case}"), **options)

    from jaxdiff.shell.generate import commands

    group.add_command(commands(prepare_jax))

    @group.command()
    def info() -> None:
        """Versions, devices, precision and where compiled code is kept."""
        run_info()

    return group


def run_demo(name: str | None, output: Path) -> None:
    prepare_jax()
    from jaxdiff.reports.text import table
    from jaxdiff.reports.views import FitView
    from jaxdiff.shell import demo

    if name is not None and name not in demo.DEMOS:
        raise ValueError(f"no demo is called {name!r}; choose one of {', '.join(demo.DEMOS)}")
    chosen = list(demo.DEMOS) if name is None else [name]
    stories: list[str] = []
    with staged(output, FIT) as folder:
        for one in chosen:
            for story in demo.DEMOS[one]():
                print(f"\n{story.title}\n{'=' * len(story.title)}\n{story.text}\n")
                shown = FitView(story.fit, story.labels)
                print(_result(shown))
                if story.comparison:
                    print("\nBeside what is known\n" + table(story.comparison))
                stories.append(story.name)
                (folder / story.name).mkdir()
                write_fit(shown, folder / story.name, title=story.title, comparison=story.comparison)
    print("\nReports and figures: " + ", ".join(str(output / name / "report.html") for name in stories))


def run_fit(config: Path, data: Path | None, output: Path) -> None:
    prepare_jax()
    with staged(output, FIT) as folder:
        import jaxdiff as jd
        from jaxdiff.reports.views import FitView
        from jaxdiff.shell.config import load

        interrupts.check()
        problem = load(config, data)
        if problem.measurement is None:
            raise ValueError(f"{config}: a fit needs readings; name them in [data]")
        if not problem.parameters:
            raise ValueError(f"{config}: nothing to fit; name the unknown numbers in [parameters]")
        interrupts.check()
        # Imported while the compiler, which leaves Python free, is at work.
        later = ("matplotlib.figure", "matplotlib.backends.backend_agg", "jinja2")
        threading.Thread(target=lambda: [*map(importlib.import_module, later)], daemon=True).start()
        options = {"parameters": problem.parameters, "progress": sys.stderr.isatty(), **problem.fit_options}
        try:
            fit, tables = _fitted(jd, problem, options)
        except ValueError as error:
            raise ValueError(f"{config}: {error}") from error
        for name, one in tables.items():
            one.to_frame().to_csv(folder / f"{name}.csv")
            one.plot().savefig(folder / f"{name}.png")
        title = problem.title or config.stem
        shown = FitView(fit, problem.labels, [one.name for one in problem.experiments])
        parts = [_result(shown), *(f"{name}\n\n{one}" for name, one in tables.items())]
        print("\n\n".join([title, *parts]))
        write_fit(shown, folder, title=title, source=config.read_text(encoding="utf-8-sig"))
    print(f"\nReport, figures and parameters: {output / 'report.html'}")


def _fitted(jd: Any, problem: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The fit of a configuration, by the best of its sweep where there is one, and {name: sweep or cross-validation}."""
    tables: dict[str, Any] = {}
    if problem.sweep:
        tables["sweep"] = jd.sweep(problem.model, problem.measurement, **problem.sweep, **options)
        fit = tables["sweep"].fit
    else:
        fit = jd.fit(problem.model, problem.measurement, **options)
    if problem.validation:
        again = {name: one for name, one in options.items() if name not in ("validation", "errors")}
        tables["folds"] = jd.cross_validate(problem.model, problem.measurement, **problem.validation, **again)
    return fit, tables


def run_solve(config: Path, data: Path | None, output: Path) -> None:
    prepare_jax()
    with staged(output, SOLUTION) as folder:
        from jaxdiff.discretisation.waves import density
        from jaxdiff.figures import states
        from jaxdiff.shell.config import load

        interrupts.check()
        problem = load(config, data)
        grid, several, lines = problem.grid, len(problem.experiments) > 1, []
        for number, one in enumerate(problem.experiments, 1):
            interrupts.check()
            try:
                wave, times, values, method = _solved(problem, one)
            except ValueError as error:
                message = str(error).replace("pass initial=", "add [initial]")
                raise ValueError(f"{config}: {message}") from error
            name = f"solution_{number}" if several else "solution"
            table = _wave_table(grid, times, values) if wave else _table(grid, times, values)
            table.to_csv(folder / f"{name}.csv", index=False, float_format="%.10g")
            values, labels = (density(values), {"value": "|ψ|²"}) if wave else (values, {})
            states.profiles(grid, times, values, {**labels, **problem.labels}).savefig(folder / f"{name}.png")
            size = f"{len(times)} time{'s' * (len(times) != 1)}, {' × '.join(map(str, grid.shape))} cells"
            which = f"experiment {one.name}: " if several else ""
            inside = values[..., grid.holds(grid.points).reshape(grid.shape)]
            lines.append(f"{which}{size}, values {inside.min():.6g} to {inside.max():.6g}")
            lines += [f"Method: {method}"] if method else []
            lines.append(f"Solution: {output / name}.csv, {output / name}.png")
    print("\n".join(lines))


def _table(grid: Any, times: Any, values: Any) -> Any:
    """States (times, *cells): on one axis a column per time, else a row per time and cell, as [data] reads it; phases beneath
    each other."""
    import numpy as np
    import pandas as pd

    if values.ndim > grid.ndim + 1:
        each = [_table(grid, times, values[:, j]) for j in range(values.shape[1])]
        return pd.concat(each, keys=range(len(each)), names=["phase"]).reset_index("phase")
    if grid.ndim == 1:
        frame = pd.DataFrame(values.T, columns=[f"t={t:.10g}" for t in times])
        frame.insert(0, grid.names[0], grid.centers[0])
    else:
        frame = _rows(grid, times, u=values)
    if grid.mask is None:
        return frame
    return frame[np.tile(np.ravel(grid.mask), len(frame) // np.size(grid.mask))]  # rows of cells that there are


def _wave_table(grid: Any, times: Any, values: Any) -> Any:
    """Waves (times, *cells): a row per time and cell."""
    from jaxdiff.discretisation.waves import density

    return _rows(grid, times, density=density(values), real=values.real, imaginary=values.imag)


def _rows(grid: Any, times: Any, **columns: Any) -> Any:
    import numpy as np
    import pandas as pd

    mesh = dict(zip(("t", *grid.names), np.meshgrid(times, *grid.centers, indexing="ij"), strict=True))
    return pd.DataFrame({name: np.ravel(column) for name, column in {**mesh, **columns}.items()})


def _solved(problem: Any, experiment: Any) -> tuple[bool, Any, Any, str]:
    """Whether the states are waves, the times that a configuration asks for in an experiment, the states there (times, *cells),
    and the method in words."""
    import numpy as np

    import jaxdiff as jd
    from jaxdiff.model.observed import Observed

    equation = Observed.of(experiment.model(**problem.starts)).equation
    times, start, grid = experiment.times, experiment.start, problem.grid
    wave, initial = equation.wave, experiment.initial
    if initial is not None and not wave:
        initial = np.asarray(grid.average(initial))
    if times is None:
        raise ValueError("no times to solve for; add [solve] with times = [0.0, 1.0] or inf")
    if np.all(times == np.inf):
        return wave, times[:1], np.asarray(jd.steady_state(equation, grid, initial))[None], ""
    if not np.all(np.isfinite(times)):
        raise ValueError("[solve] times mixes finite times with inf; ask for the steady state alone")
    if initial is None:
        raise ValueError("the file has no [initial] state; add initial = 20.0 or an expression of x")
    if times[0] < start:
        raise ValueError(
            f"[solve] times must not come before the initial state, at {start:g}, got {times[0]:g}; set [initial] start"
        )
    options = {"progress": sys.stderr.isatty(), **problem.solve_options}
    lead = times[0] > start
    solution = jd.solve(equation, grid, initial, [start, *times] if lead else times, **options)
    return wave, times, np.asarray(solution.values)[int(lead) :], solution.method


def run_benchmark(case: str | None, output: Path, **options: Any) -> None:
    from jaxdiff import benchmarks
    from jaxdiff.reports.text import table

    if case is None:
        print(table([*benchmarks.CASES.items()]).replace("  ", " ", 1))
        return
    benchmarks.run(case, output, **options)
    print(f"Results: {output}")


def run_info() -> None:
    import jax

    from jaxdiff.reports.page import versions

    kept = prepare_jax()
    facts = {**versions(), "devices": ", ".join(str(d) for d in jax.devices())}
    for name, fact in {**facts, "precision": "float64 in the shell and in fits", "cache": kept}.items():
        print(f"{name:10s} {fact}")


def prepare_jax() -> str:
    """Float64, and compiled code kept between runs; returns the folder of that cache, or why there is none."""
    import jax

    from jaxdiff.runtime.compilation import keep

    jax.config.update("jax_enable_x64", True)
    return jax.config.values["jax_compilation_cache_dir"] or keep(cache_folder())


def cache_folder() -> Path:
    """Where compiled code of this user is kept."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "jaxdiff" / "compiled"


def write_fit(shown: Any, folder: Path, *, title: str, **more: Any) -> None:
    from jaxdiff.reports import page

    pictures = page.images(shown)
    for name, png in pictures.items():
        (folder / f"{name}.png").write_bytes(png)
    (folder / "parameters.json").write_text(page.to_json(shown, title=title), encoding="utf-8")
    for i, view in enumerate(shown.views):
        if (text := page.to_csv(view)) is not None:
            name = "predictions.csv" if len(shown.views) == 1 else f"predictions_{i + 1}.csv"
            (folder / name).write_text(text, encoding="utf-8")
    page.write(shown.fit, folder / "report.html", title=title, shown=shown, pictures=pictures, **more)


def _result(shown: Any) -> str:
    from jaxdiff.reports import page
    from jaxdiff.reports.text import DOUBT, MISFIT, few, table

    fit = shown.fit
    doubt = DOUBT if fit.verdict.describes is False else ""
    rows = [("name", "estimate", "standard error" + doubt, "95 % interval")]
    rows += [(row["name"], row["estimate"], row["error"], row["interval"]) for row in page.parameter_rows(fit)]
    state = "converged" if fit.converged else "did NOT converge; take the numbers as provisional"
    parts = [table(rows, header=True)]
    if shown.experiments:
        parts.append(table([("experiment", "conditions"), *shown.experiments], header=True))
    parts.append(table([*page.goodness(shown), ("state", state)]))
    if doubt:
        parts.append("\n".join([MISFIT, *(f"  {reason}" for reason in few(fit.verdict.reasons))]))
    return "\n\n".join([*parts, *(f"note: {note}" for note in (*fit.notes, *fit.verdict.remarks))])


def _message(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "memory is not enough for this; take fewer cells or times"
    if isinstance(error, RecursionError):
        return "the file holds something that is nested too deep; write it in fewer levels"
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())[:600] or type(error).__name__


def _fail(message: str, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)
