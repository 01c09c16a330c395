"""What was measured: shapes, missing values, steady rows, bins, paths, and the words for what is wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas
import pytest

import jaxdiff as jd
from jaxdiff.runtime.compilation import bucket

GRID = jd.Grid.uniform((0.0, 1.0, 100))
WALLS = {"x-": jd.Dirichlet(1.0), "x+": jd.Dirichlet(0.0)}


def bump(x):
    return jnp.exp(-(((x - 0.4) / 0.1) ** 2))


@jax.jit
def forward(plan, equation, initial):
    return plan.predict(equation, initial).values


def predicted(measurement, equation):
    return np.asarray(forward(measurement.prepare(equation, pad=False), equation, measurement.initial))


@pytest.mark.slow
def test_readings_agree_with_solve_in_any_order_and_at_the_start():
    equation = jd.Diffusion(0.1, boundaries=WALLS)
    times, places = np.array([0.3, 0.0, 0.1, 0.3, 0.0]), np.array([0.2, 0.41, 0.9, 0.003, 0.5])
    readings = jd.Readings(GRID, bump, times, places, np.zeros(5))
    solution = jd.solve(equation, GRID, bump, [0.0, 0.1, 0.3])
    expected = [
        GRID.interpolate(solution.values[{0.0: 0, 0.1: 1, 0.3: 2}[t]], np.array([x]))[0] for t, x in zip(times, places)
    ]
    np.testing.assert_allclose(predicted(readings, equation), expected, atol=2e-9)


@pytest.mark.slow
def test_a_time_of_inf_is_the_steady_state():
    equation = jd.Diffusion(0.1, boundaries=WALLS)
    readings = jd.Readings(GRID, bump, [np.inf, 0.0, np.inf], [0.25, 0.5, 1.0], np.zeros(3))
    start = float(GRID.interpolate(GRID.average(bump), np.array([0.5]))[0])
    np.testing.assert_allclose(predicted(readings, equation), [0.75, start, 0.0], atol=1e-10)


def test_steady_readings_need_no_initial_state():
    readings = jd.Readings(GRID, None, np.inf, [0.25, 0.5], np.zeros(2))
    np.testing.assert_allclose(predicted(readings, jd.Diffusion(0.1, boundaries=WALLS)), [0.75, 0.5], atol=1e-10)


def test_missing_values_are_dropped():
    readings = jd.Readings(
        GRID, 0.0, [1.0, np.nan, 2.0], [0.1, np.nan, 0.3], [5.0, np.nan, 6.0], sigma=[1.0, np.nan, 2.0]
    )
    assert readings.times.tolist() == [1.0, 2.0] and readings.sigma.tolist() == [1.0, 2.0]


@pytest.mark.slow
def test_many_rows_at_times_of_their_own():
    rng = np.random.default_rng(0)
    times, places = rng.uniform(0.01, 0.5, 200), rng.uniform(0, 1, 200)
    equation = jd.Diffusion(0.1, boundaries=WALLS)
    readings = jd.Readings(GRID, bump, times, places, np.zeros(200))
    few = jd.Readings(GRID, bump, times[:3], places[:3], np.zeros(3))
    np.testing.assert_allclose(predicted(readings, equation)[:3], predicted(few, equation), atol=2e-9)


def test_compilation_depends_on_a_bucket_of_rows():
    equation = jd.Diffusion(0.1, boundaries=WALLS)
    shapes = []
    for count in (33, 40, 48):
        times, places = np.linspace(0.1, 1.0, count), np.full(count, 0.5)
        plan = jd.Readings(GRID, bump, times, places, np.zeros(count)).prepare(equation)
        shapes.append((jax.tree.structure(plan), [np.shape(leaf) for leaf in jax.tree.leaves(plan)]))
    assert shapes[0] == shapes[1] == shapes[2]
    assert [bucket(n) for n in (1, 2, 3, 5, 7, 9, 13, 300)] == [1, 2, 3, 6, 8, 12, 16, 384]


def test_a_table_by_the_names_of_its_columns(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("t,x,T\n0.1,0.2,3\n0.2,0.4,\n")
    readings = jd.Readings.from_table(path, GRID, 0.0, time="t", position="x", value="T")
    assert (readings.times, readings.positions, readings.values) == ([0.1], [0.2], [3.0])
    wide = pandas.DataFrame({"t": [0.1, 0.2], "a": [1.0, 2.0], "b": [3.0, np.nan]})
    readings = jd.Readings.from_table(wide, GRID, 0.0, time="t", position={"a": 0.2, "b": 0.7})
    assert readings.values.tolist() == [1.0, 3.0, 2.0]


@pytest.mark.parametrize("geometry", ["cartesian", "cylindrical", "spherical"])
def test_bins_of_their_own_share_the_mass_of_cells(geometry):
    grid = jd.Grid((np.linspace(0, 1, 11) ** 1.3,), geometry=geometry)
    edges = np.array([0.0, 0.17, 0.5, 1.0])
    histograms = jd.Histograms(grid, 1.0, [0.0, 0.5], np.ones((2, 3)), edges=edges)
    power = {"cartesian": 1, "cylindrical": 2, "spherical": 3}[geometry]
    expected = np.diff(edges**power) * grid.volumes.sum()
    np.testing.assert_allclose(predicted(histograms, jd.Diffusion(0.1)), [expected, expected], rtol=1e-9)


def test_what_is_in_no_bin_is_one_more_with_a_total():
    histograms = jd.Histograms(GRID, 1.0, [0.1], [[30, 10]], edges=[0.0, 0.25, 0.5], total=100)
    np.testing.assert_allclose(predicted(histograms, jd.Diffusion(0.1)), [[0.25, 0.25, 0.5]], atol=1e-9)
    np.testing.assert_allclose(histograms.prepare(jd.Diffusion(0.1)).observation, [[0.3, 0.1, 0.6]])
    densities = jd.Histograms(GRID, 1.0, [0.1], [[1.2, 0.4]], edges=[0.0, 0.25, 0.5], total=100)
    np.testing.assert_allclose(densities.prepare(jd.Diffusion(0.1)).observation, [[0.3, 0.1, 0.6]])


@pytest.mark.slow
def test_what_is_in_no_bin_is_told_from_the_start_whatever_it_holds():
    """A start of another content than one: 0.4 came out 0.25 ± 0.009."""
    edges, times = np.linspace(-1.0, 1.0, 21), [0.2, 0.5, 1.0]
    grid, rng = jd.Grid.uniform((-3.0, 3.0, 120)), np.random.default_rng(0)
    counts = [np.histogram(rng.normal(0, np.sqrt(0.02 + 0.8 * t), 5000), edges)[0] for t in times]
    start, found = np.asarray(grid.average(lambda x: jnp.exp(-(x**2) / 0.04))), []
    for content in (1.0, 7.0):
        one = jd.Histograms(grid, content * start, times, counts, edges, total=5000)
        found.append(jd.fit(jd.Diffusion(jd.Positive(0.3)), one, progress=False))
    assert abs(found[0].parameters["diffusivity"] - 0.4) < 3 * found[0].standard_errors["diffusivity"]
    assert found[1].parameters["diffusivity"] == pytest.approx(found[0].parameters["diffusivity"], rel=1e-6)


@pytest.mark.slow
def test_nothing_lies_outside_of_bins_that_cover_a_closed_domain():
    histograms = jd.Histograms(GRID, 1.0, [0.1], [[40, 50]], edges=[0.0, 0.5, 1.0], total=100)
    with pytest.raises(ValueError, match="10 of 100 are in no bin at time 0.1, but the bins cover a domain"):
        jd.fit(jd.Diffusion(jd.Positive(0.1)), histograms, progress=False)
    assert predicted(histograms, jd.Diffusion(0.1, boundaries=jd.absorbing))[0][-1] > 0
    assert predicted(histograms, jd.Diffusion(0.1, decay=0.5))[0][-1] > 0
    grown = jd.Histograms(GRID, 1.0, [0.1], [[40, 50]], edges=[0.0, 0.5, 0.9], total=100)
    with pytest.raises(ValueError, match="something is born"):
        jd.fit(jd.Diffusion(jd.Positive(0.1), decay=-9.0), grown, progress=False)


def test_the_last_part_in_time_is_held_out():
    readings = jd.Readings(GRID, 0.0, [4.0, 1.0, 2.0, 3.0, 5.0], 0.5, np.arange(5.0))
    first, last = readings.split(0.4)
    assert (sorted(first.times), sorted(last.times)) == ([1.0, 2.0, 3.0], [4.0, 5.0])
    steady = jd.Readings(GRID, None, np.inf, np.linspace(0, 1, 10), np.arange(10.0))
    first, last = steady.split(0.2)
    assert len(last.values) == 2 and len(first.values) == 8
    path = jd.Trajectory(GRID, np.arange(11.0), np.linspace(0, 1, 11))
    first, last = path.split(0.3)
    assert first.times[0][-1] == last.times[0][0] == 7.0
    first, last = jd.Histograms(GRID, 1.0, [3.0, 1.0, 2.0], np.ones((3, 100))).split(0.3)
    assert last.times.tolist() == [3.0]


def test_paths_may_be_many_and_irregular():
    paths = jd.Trajectory(GRID, [[0.0, 0.1, 0.4], [5.0, 5.5]], [[0.1, 0.2, 0.3], [0.9, 0.8]])
    np.testing.assert_allclose(paths.durations, [0.1, 0.3, 0.5])
    assert (paths.starts.tolist(), paths.stops.tolist()) == ([0.1, 0.2, 0.9], [0.2, 0.3, 0.8])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: jd.Readings(GRID, 0.0, [1.0], [0.5], [np.nan]), "no reading is left, got 1 values, all missing"),
        (lambda: jd.Readings(GRID, 0.0, [], [], []), "no reading given"),
        (
            lambda: jd.Readings(GRID, 0.0, [1.0, 2.0], [0.5], [1.0, 2.0]),
            r"positions must match the 2 values, got shape \(1,\)",
        ),
        (lambda: jd.Readings(GRID, 0.0, [1.0], [1.5], [1.0]), "position 0 at 1.5 lies outside the grid"),
        (lambda: jd.Readings(GRID, 0.0, [-1.0], [0.5], [1.0]), "before the start, 0, got -1"),
        (lambda: jd.Readings(GRID, 0.0, [np.nan], [0.5], [1.0]), "times must be numbers"),
        (lambda: jd.Readings(GRID, 0.0, [1.0], [0.5], [np.inf]), "values must be finite or NaN, got inf in row 0"),
        (lambda: jd.Readings(GRID, 0.0, [1.0], [0.5], [1.0], sigma=0.0), "sigma must be positive, got 0.0"),
        (lambda: jd.Readings(GRID, [np.nan] * 100, [1.0], [0.5], [1.0]), "initial must be finite, got 100 values"),
        (lambda: jd.Readings(GRID, np.ones(7), [1.0], [0.5], [1.0]), r"shape \(100,\), got shape \(7,\)"),
        (lambda: jd.Readings(GRID, None, [1.0], [0.5], [1.0]).prepare(jd.Diffusion(1.0)), "no initial state"),
        (
            lambda: jd.Histograms(GRID, 1.0, [1.0], [[1, -2]], edges=[0, 0.5, 1]),
            "not negative, got -2 at time 1 in bin 1",
        ),
        (lambda: jd.Histograms(GRID, 1.0, [1.0], [[1, np.nan]], edges=[0, 0.5, 1]), "got nan at time 1 in bin 1"),
        (lambda: jd.Histograms(GRID, 1.0, [1.0], [[1, 2, 3]], edges=[0, 0.5, 1]), r"\(1, 2\), got \(1, 3\)"),
        (lambda: jd.Histograms(GRID, 1.0, [1.0], [[1, 2]], edges=[0, 0.5, 0.5]), "increasing"),
        (lambda: jd.Histograms(GRID, 1.0, [1.0], [[1, 2]], edges=[0, 0.5, 2]), "edge 2 at 2 lies outside the grid"),
        (
            lambda: jd.Histograms(GRID, 1.0, [1.0], [[0, 0]], edges=[0, 0.5, 1]),
            "hold something, got zeros only at time 1",
        ),
        (
            lambda: jd.Histograms(GRID, 1.0, [1.0], [[5, 5]], edges=[0, 0.5, 1], total=9),
            "less than what the bins hold, got 9",
        ),
        (lambda: jd.Trajectory(GRID, [0.0, 1.0, 1.0], [0.1, 0.2, 0.3]), "must increase, got 1 after 1 in row 2"),
        (lambda: jd.Trajectory(GRID, [0.0, 1.0], [0.1, 1.2]), "position 1 at 1.2 lies outside the grid"),
        (lambda: jd.Trajectory(GRID, [0.0, 1.0], [0.1, np.nan]), "must be finite, got nan at time 1.0 in row 1"),
        (lambda: jd.Trajectory(GRID, [0.0], [0.1]), "at least two points, got 1"),
        (lambda: jd.Trajectory(GRID, [0.0, 1.0], [0.1, 0.2, 0.3]), r"got \(2,\) and \(3,\)"),
        (
            lambda: jd.Trajectory(GRID, [0.0, 1.0], [0.1, 0.2]).prepare(jd.Diffusion(1.0, boundaries=WALLS)),
            "absorb or are periodic",
        ),
    ],
)
def test_errors_are_one_line(make, words):
    with pytest.raises(ValueError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_varying_model_has_no_steady_state():
    equation = jd.Diffusion(1.0, source=jd.TimeDependent(lambda t, x: t))
    with pytest.raises(ValueError, match="a time of inf is the steady state"):
        jd.Readings(GRID, 0.0, [np.inf], [0.5], [1.0]).prepare(equation)


def test_a_series_of_images_is_a_row_for_every_pixel():
    grid = jd.Grid.uniform((0.0, 1.0, 12), (0.0, 2.0, 10))
    x, y = np.meshgrid(*grid.centers, indexing="ij")
    images = np.exp(-4 * ((x - 0.4) ** 2 + (y - 0.7) ** 2))[None] * np.array([1.0, 0.7, 0.5])[:, None, None]
    hidden = np.ma.masked_greater(images, 0.99)
    images[1, 3, 4] = np.nan
    found = jd.Readings.from_images(grid, lambda x, y: x * y, [2.0, 3.0, 5.0], images, sigma=[0.1, 0.2, 0.3])
    assert found.start == 2.0 and len(found.values) == 3 * 120 - 1
    pixel = (found.times == 5.0) & (found.positions == [x[7, 2], y[7, 2]]).all(1)
    assert found.values[pixel] == images[2, 7, 2] and found.sigma[pixel] == 0.3
    masked = jd.Readings.from_images(grid, 1.0, [2.0, 3.0, 5.0], hidden, start=1.0)
    assert len(masked.values) == hidden.count() < 360 and masked.start == 1.0


@pytest.mark.slow
def test_images_tell_a_start_that_the_model_returns():
    """D, and the depth and width of a spot, within four standard errors; every image counts, also the first."""
    grid, times = jd.Grid.uniform((0.0, 8.0, 16), (0.0, 8.0, 16)), np.array([0.5, 1.0, 2.0, 3.0])

    def model(D, depth, width):
        spot = lambda x, y: 1 - depth * jnp.exp(-((x - 4) ** 2 + (y - 4) ** 2) / (2 * width**2))
        return jd.Diffusion(D), spot

    equation, spot = model(0.5, 0.8, 1.5)
    images = np.asarray(jd.solve(equation, grid, spot, np.append(0.0, times)).values[1:])
    images = images + np.random.default_rng(0).normal(0, 0.05, images.shape)
    starts = {"D": jd.Positive(1.0), "depth": jd.Positive(0.5), "width": jd.Positive(1.0)}
    fit = jd.fit(
        model, jd.Readings.from_images(grid, None, times, images, start=0.0), parameters=starts, progress=False
    )
    for name, true in {"D": 0.5, "depth": 0.8, "width": 1.5}.items():
        assert abs(fit.parameters[name] - true) < 4 * fit.standard_errors[name] < 0.3


GRID_OF_IMAGES, IMAGES = jd.Grid.uniform((0.0, 1.0, 4), (0.0, 1.0, 3)), np.arange(24.0).reshape(2, 4, 3)
series = lambda initial=1.0, images=IMAGES, **more: jd.Readings.from_images(
    GRID_OF_IMAGES, initial, [0.0, 1.0], images, **more
)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: series(images=np.ones((2, 3, 4))), r"one of shape \(4, 3\) for each of 2 times, got shape \(2, 3, 4\)"),
        (lambda: series(images=np.where(IMAGES == 14.0, np.inf, IMAGES)), r"image 1 is infinite in cell \(0, 2\)"),
        (lambda: series(sigma=np.ones(3)), r"for each pixel \(2, 4, 3\), got shape \(3,\)"),
        (lambda: series(IMAGES[0]), r"is the first image, .* pass times\[1:\] and images\[1:\], with start=times\[0\]"),
    ],
)  # fmt: skip
def test_what_a_series_of_images_cannot_be(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("huge", [1e308, -1e308, 1e200])
def test_coefficients_beyond_all_numbers_end_in_one_line(huge):
    grid, times = jd.Grid.uniform((-3.0, 3.0, 60)), np.arange(1.0, 5.0)
    path = jd.Trajectory(grid, times, [0.0, 0.1, -0.1, 0.2])
    coarse = jd.Grid.uniform((-3.0, 3.0, 12))  # 4096 exponentials are taken before a drift of 1e308 is given up
    readings = jd.Readings(coarse, 1.0, times[:2], [0.0, 0.1], times[:2])
    trap = jd.Expression("k*(m-x)", k=jd.Positive(1.0), m=huge)
    signed = (
        (jd.FokkerPlanck(trap, jd.Positive(0.05)), path),
        (jd.FokkerPlanck(jd.Free(huge), jd.Positive(1.0)), readings),
    )
    diffusive = lambda D: ((jd.FokkerPlanck(0.1, D), path), (jd.Diffusion(D), readings))
    for equation, data in signed + (diffusive(jd.Positive(huge)) if huge > 0 else ()):
        try:
            fit = jd.fit(equation, data, progress=False)
        except ValueError as error:
            assert "\n" not in str(error) and "NaN to integer" not in str(error)
        else:  # where numbers hold all the same, nothing is said to be found
            assert huge == 1e200 and not fit.converged and np.isnan(list(fit.standard_errors.values())).all()
