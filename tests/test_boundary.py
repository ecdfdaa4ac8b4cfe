"""Boundaries: lines known beforehand are found where they are."""

import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pytest
import xarray

import layerflow as lf

mpl.use("agg")

TENTH = 0.1  # of a grid step: what boundary promises on smooth fields


@pytest.fixture(autouse=True)
def close_figures():
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


def field(function, lam, q, seeds=None):
    """`function(lam, q)`, or of the seed's number too, on a grid."""
    up, across = np.meshgrid(lam, q, indexing="ij")
    if seeds is None:
        return xarray.DataArray(function(up, across), {"lam": lam, "q": q}, name="loss")
    sheets = np.stack([function(up, across, seed) for seed in range(seeds)])
    return xarray.DataArray(sheets, {"seed": np.arange(seeds), "lam": lam, "q": q}, name="loss")


EVEN = np.linspace(-5.0, 5.0, 41)
AXES = {
    "even": np.linspace(1.0, 9.0, 33),
    "falling": np.linspace(9.0, 1.0, 33),
    "geometric": np.geomspace(1.0, 100.0, 33),
    "falling geometric": np.geomspace(100.0, 1.0, 33),
    "uneven": np.linspace(1.0, 5.0, 33) ** 1.5,
}


PATHS = {"straight": lambda s: 4 * s - 2, "curved": lambda s: 3 * np.sin(4 * s), "bent": lambda s: 8 * (s - 0.5) ** 2}


def along(q):
    """Where a value lies on an axis from 0 to 1, in the logarithm if that is how the axis runs."""
    scale = np.log if np.allclose(np.diff(np.log(q), 2), 0) else np.asarray
    return lambda value: (scale(value) - scale(q).min()) / np.ptp(scale(q))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("axis", AXES)
def test_a_level_line_lies_where_the_function_says(axis, path):
    s = along(AXES[axis])
    values = field(lambda lam, q: np.sinh((lam - PATHS[path](s(q))) / 4), EVEN, AXES[axis])

    line = lf.boundary(values, 0.0)

    assert np.abs(line.lam - PATHS[path](s(line.q))).max() < TENTH * 0.25
    assert np.ptp(line.q.values) > 0.98 * np.ptp(AXES[axis])


def test_with_log_the_line_is_that_of_the_geometric_mean():
    """Of seeds exp(+3a) and exp(-a), it is exp(a), and linear between cells in the logarithm."""
    values = field(lambda lam, q, seed: np.exp((3 if seed else -1) * (lam - 0.1) + q), EVEN, AXES["even"], seeds=2)

    line = lf.boundary(values, np.exp(4.0), log=True)

    np.testing.assert_allclose(line.lam, 4.1 - line.q, atol=1e-12)


def test_the_steepest_line_of_a_step_is_its_middle():
    values = field(lambda lam, q: np.tanh((lam - 0.3 * q) / 0.5), EVEN, AXES["even"])

    line = lf.boundary(values, "steepest")

    assert np.abs(line.lam - 0.3 * line.q).max() < TENTH * 0.25
    assert line.sizes["branch_number"] == 1
    assert line.slope.item() == pytest.approx(0.3, abs=1e-3)


@pytest.mark.parametrize("radius", [8.0, 15.0])
@pytest.mark.parametrize("width", [1.5, 3.0])
def test_the_steepest_line_of_a_round_step_is_the_circle(radius, width):
    cells = np.arange(41.0)
    values = field(lambda lam, q: np.tanh((np.hypot(lam - 20, q - 20) - radius) / width), cells, cells)

    line = lf.boundary(values, "steepest")

    assert np.abs(np.hypot(line.lam - 20, line.q - 20) - radius).max() < TENTH
    assert line.sizes["branch_number"] == 2  # the lower half and the upper


def test_the_steepest_line_leaves_out_ripples_and_the_gentlest_lines():
    """sin has its flattest lines between its steepest; the ripple's slope is a third of the step's."""
    values = field(lambda lam, q: np.tanh(lam - 2) + np.sin(4 * lam) / 12 * (lam < 0), EVEN, AXES["even"])

    line = lf.boundary(values, "steepest")

    assert np.abs(line.lam - 2).max() < TENTH * 0.25


def test_the_steepest_line_survives_noise():
    """Ten per cent of the step, in every cell of every seed: one line, within a step or so."""
    rng = np.random.default_rng(1)
    cells = np.arange(40.0)
    noise = lambda: 0.1 * rng.normal(size=(40, 40))
    values = field(lambda lam, q, seed: np.tanh((lam - 10 - 0.4 * q) / 2) + noise(), cells, cells, seeds=8)

    line = lf.boundary(values, "steepest")

    assert line.sizes["branch_number"] == 1
    assert line.attrs["num_seeds"] == 8
    assert line.slope.item() == pytest.approx(0.4, abs=0.02)


def test_lines_get_their_slope_and_power():
    q = np.geomspace(1.0, 100.0, 40)
    power = lf.boundary(field(lambda lam, q: np.log(lam) - np.log(3.0) + 0.7 * np.log(q), q / 20, q), 0.0)
    straight = lf.boundary(field(lambda lam, q: lam - 0.25 * q + 1, EVEN, AXES["even"]), 0.0)

    np.testing.assert_allclose(power.exponent, -0.7, atol=1e-6)
    np.testing.assert_allclose(power.prefactor, 3.0, rtol=1e-6)
    np.testing.assert_allclose((straight.slope[0], straight.intercept[0]), (0.25, -1.0), atol=1e-9)
    assert np.isnan(straight.exponent).all()  # lam goes from below zero to above
    assert np.isnan(straight.slope_error).all()  # no seeds
    assert np.isnan(lf.boundary(field(lambda lam, q: q, EVEN, AXES["even"]), 5.05).slope).all()  # straight up


@pytest.mark.parametrize("lam", [EVEN, EVEN[::-1]], ids=["rising", "falling"])
def test_the_band_is_the_quartiles_of_shifted_seeds(lam):
    """Shifts 0 to 8 along lam: their quartiles are 2 and 6 around a mean of 4, here in tenths."""
    values = field(lambda lam, q, seed: lam - 0.5 * q + 2 - 0.1 * seed, lam, AXES["even"], seeds=9)

    line = lf.boundary(values, 0.0)

    np.testing.assert_allclose(line.lam, 0.5 * line.q - 1.6, atol=1e-9)
    for end, shift in (("low", -0.2), ("high", 0.2)):
        edge = line[f"lam_{end}"] - (0.5 * line[f"q_{end}"] - 1.6)
        np.testing.assert_allclose(edge, shift, atol=1e-9)
    assert (line.num_seeds == 9).all()
    np.testing.assert_allclose(line.slope_error, 0.0, atol=1e-9)


def test_errors_of_the_fits_are_deviations_over_seeds():
    """Tilts of -1, 0 and 1 per mille have standard deviation 1 per mille."""
    values = field(lambda lam, q, seed: lam - (0.5 + 1e-3 * (seed - 1)) * q, EVEN, AXES["even"], seeds=3)

    line = lf.boundary(values, 0.0)

    # Along the normal in place of the vertical: off by the tilt, relative to the slope.
    np.testing.assert_allclose(line.slope_error, 1e-3, rtol=5e-3)
    # Through the origin, y = a x has exponent 1 for every a.
    np.testing.assert_allclose(line.exponent, 1.0, atol=1e-6)
    np.testing.assert_allclose(line.exponent_error, 0.0, atol=1e-4)


def test_seeds_without_a_line_nearby_are_left_out():
    shifts = [0.0, 0.0, 4.0, 20.0]  # the third is more than a quarter of the grid away, the last off it
    values = field(lambda lam, q, seed: np.clip(lam - shifts[seed], -1, 1), EVEN, AXES["even"], seeds=4)

    line = lf.boundary(values, -0.5)

    assert line.attrs["num_seeds"] == 2
    assert (line.num_seeds == 2).all()


def test_without_seeds_the_band_is_the_line():
    line = lf.boundary(field(lambda lam, q: lam - np.sqrt(q), EVEN, AXES["even"]), 0.0)

    for name in ("lam", "q"):
        np.testing.assert_array_equal(line[f"{name}_low"], line[name])
        np.testing.assert_array_equal(line[f"{name}_high"], line[name])
    assert line.attrs["num_seeds"] == 1


def test_an_arch_has_two_branches():
    """q = 8 - lam^2 / 2 turns back at q = 8, where lam changes sign."""
    line = lf.boundary(field(lambda lam, q: q - 8 + lam**2 / 2, EVEN, AXES["even"]), 0.0)

    assert line.sizes["branch_number"] == 2
    for number, side in ((0, -1), (1, 1)):
        branch = line.isel(point=line.branch == number)
        assert (np.diff(branch.q) > 0).all()
        tip = branch.isel(point=-1)
        np.testing.assert_allclose((tip.q, tip.lam), (8, 0), atol=TENTH * 0.25)
        assert (side * branch.lam[:-2] > 0).all()
        assert np.isfinite(line.exponent[number])  # the tip, where lam is zero, is left out


def test_an_arch_over_axes_exchanged_is_one_branch():
    values = field(lambda lam, q: q - 8 + lam**2 / 2, EVEN, AXES["even"])

    line = lf.boundary(values, 0.0, x="lam")

    assert line.sizes["branch_number"] == 1
    assert line.attrs["x"] == "lam"


def test_wiggles_and_islands_make_no_branches():
    """Noise of a tenth of what a step changes turns a steep line back, and one odd cell is an island."""
    rng = np.random.default_rng(0)
    values = field(lambda lam, q: 8 * (q - 5) - lam + 0.8 * rng.normal(size=q.shape), EVEN, AXES["even"])
    values[5, 28] = -100.0

    line = lf.boundary(values, 0.0)

    assert line.sizes["branch_number"] == 1
    assert (np.diff(line.q) < 0).any()


@pytest.mark.parametrize("level", [0.0, "steepest"])
def test_failed_cells_leave_the_rest_of_the_line(level):
    whole = field(lambda lam, q: np.tanh(lam - 0.3 * q), EVEN, AXES["even"])
    holed = whole.copy()
    holed[{"lam": 26, "q": 16}] = np.nan  # lam = 1.5, q = 5: on the line

    line = lf.boundary(holed, level)

    assert np.abs(line.lam - 0.3 * line.q).max() < TENTH * 0.25
    assert line.sizes["branch_number"] == 2
    assert line.sizes["point"] > 0.7 * lf.boundary(whole, level).sizes["point"]


def test_a_seed_that_failed_leaves_the_others():
    values = field(lambda lam, q, seed: lam - 0.3 * q, EVEN, AXES["even"], seeds=3)
    values[1] = np.nan

    line = lf.boundary(values, 0.0)

    assert line.attrs["num_seeds"] == 2
    np.testing.assert_allclose(line.lam_high, line.lam, atol=1e-9)


def test_the_result_is_labelled_and_can_be_stored():
    values = field(lambda lam, q: lam - 0.3 * q, EVEN, AXES["even"])
    values.lam.attrs |= {"long_name": "layer imbalance λ", "units": "weight²"}

    line = lf.boundary(values.assign_attrs(long_name="test loss"), 0.0)

    assert line.lam.attrs == line.lam_low.attrs == {"long_name": "layer imbalance λ", "units": "weight²"}
    expected = {"x": "q", "y": "lam", "measured": "test loss", "level": 0.0, "log": 0, "over": "seed", "num_seeds": 1}
    assert line.attrs == expected
    assert all(isinstance(value, int | float | str) for value in line.attrs.values())  # what netCDF and zarr hold


PLANE = field(lambda lam, q: lam + q, EVEN, AXES["even"])
CASES = {
    "a whole diagram": (lambda: lf.boundary(PLANE.to_dataset(), 0.0), TypeError, r"Name the variable"),
    "one dimension": (lambda: lf.boundary(PLANE[0], 0.0), ValueError, r"two dimensions besides `seed`.* has 1"),
    "no such dimension": (lambda: lf.boundary(PLANE, 0.0, x="t"), ValueError, r"`t` is no dimension of `loss`"),
    "twice the same": (lambda: lf.boundary(PLANE, 0.0, x="q", y="q"), ValueError, r"Two different dimensions"),
    "axis of text": (
        lambda: lf.boundary(PLANE[:, :3].assign_coords(q=["a", "b", "c"]), 0.0),
        ValueError,
        r"axes of distinct finite numbers, but `q`",
    ),
    "small grid": (lambda: lf.boundary(PLANE[:2], 0.0), ValueError, r"at least 3 values.*`lam` has 2"),
    "small grid for a spline": (
        lambda: lf.boundary(PLANE[:3], "steepest"),
        ValueError,
        r"at least 4 values.*`lam` has 3",
    ),
    "level of infinity": (
        lambda: lf.boundary(PLANE, np.inf),
        ValueError,
        r"finite number or \"steepest\", but it is inf",
    ),
    "unknown rule": (lambda: lf.boundary(PLANE, "middle"), ValueError, r"\"steepest\", but it is \"middle\""),
    "level of zero": (
        lambda: lf.boundary(np.exp(PLANE), 0.0, log=True),
        ValueError,
        r"`level` needs to be positive, but it is 0",
    ),
    "values below zero": (lambda: lf.boundary(PLANE, 1.0, log=True), ValueError, r"`loss` need to be positive.* is -4"),
    "nothing there": (lambda: lf.boundary(PLANE * np.nan, 0.0), ValueError, r"every cell is NaN"),
    "never there": (lambda: lf.boundary(PLANE * 0 + np.inf, 0.0), ValueError, r"none is finite"),
    "level above all": (
        lambda: lf.boundary(np.exp(PLANE).rename("loss"), 1e9, log=True),
        ValueError,
        r"geometric mean of `loss` runs from 0.0183 to 1.2e\+06.*Choose a level between",
    ),
    "no steepest line": (lambda: lf.boundary(PLANE, "steepest"), ValueError, r"slope has no maximum inside"),
    "steepest of nothing": (lambda: lf.boundary(PLANE * 0, "steepest"), ValueError, r"slope has no maximum inside"),
    "an axis called slope": (
        lambda: lf.boundary(PLANE.rename(q="slope"), 0.0),
        ValueError,
        r"bear a name that the result uses",
    ),
    "a picture of no boundary": (
        lambda: lf.plot.boundary(PLANE.to_dataset()),
        ValueError,
        r"the Dataset that lf.boundary returns",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_told_in_the_users_words(case):
    call, kind, words = CASES[case]
    with pytest.raises(kind, match=words):
        call()


def test_a_boundary_lies_over_its_heat_map_and_leaves_its_edges():
    q = AXES["geometric"]
    values = field(lambda lam, q, seed: lam - np.log(q) + 0.8 * seed, EVEN, q, seeds=4)
    ax = lf.plot.heatmap(values.mean("seed"))
    edges = ax.axis()

    line = lf.boundary(values, 0.0)
    assert lf.plot.boundary(line, ax=ax) is ax

    assert ax.axis() == edges
    assert ax.get_legend() is None
    (drawn,), (band,) = ax.lines, ax.patches
    np.testing.assert_allclose(drawn.get_ydata(), np.log(drawn.get_xdata()) - 1.2, atol=1e-9)
    corners = band.get_xy()
    assert (np.log(corners[:, 0]) - 1.2 - corners[:, 1]).min() == pytest.approx(-0.6)


def test_branches_of_a_picture_are_apart_and_the_legend_keeps_what_it_had():
    values = field(lambda lam, q: q - 5 + lam**2 / 2 - 2, EVEN, AXES["even"])
    values[:3, :3] = np.nan
    ax = lf.plot.heatmap(values)

    lf.plot.boundary(lf.boundary(values, 0.0), ax=ax, label="loss = 0")
    lf.plot.boundary(lf.boundary(values, 1.0), ax=ax, label="loss = 1")

    assert np.isnan(ax.lines[0].get_xdata()).sum() == 1
    legend = ax.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["failed", "loss = 0", "loss = 1"]
    assert all(handle.get_path_effects() for handle in legend.legend_handles[1:])  # white on white without
    ax.figure.canvas.draw()


def test_a_level_may_be_what_jax_computed():
    field = xarray.DataArray(np.subtract.outer(np.arange(4.0), np.arange(5.0)), dims=("lam", "scale"), name="loss")

    lines = [lf.boundary(field, level) for level in (0.5, jnp.asarray(0.5), np.array(0.5))]

    assert all(line.drop_attrs().equals(lines[0].drop_attrs()) for line in lines)


def test_axes_of_one_label_are_not_the_other_way_round():
    same = {"long_name": "weight"}
    coords = {"a": ("a", np.arange(4.0), same), "b": ("b", np.arange(5.0), same)}
    field = xarray.DataArray(np.subtract.outer(np.arange(4.0), np.arange(5.0)), coords, ("a", "b"), name="loss")

    assert lf.plot.boundary(lf.boundary(field, 0.5), ax=lf.plot.heatmap(field)).lines


ARCHES = {
    "parabola": lambda q: 3 - (q - 5) ** 2 / 4,
    "roof": lambda q: 3 - 1.5 * np.abs(q - 4),
    "valley": lambda q: (q - 5.5) ** 2 / 4 - 2,
    "gentle slope and steep": lambda q: np.minimum(0.4 * q, 43.0 - 5 * q),
}
LINES = {
    "level": lambda q: 0 * q,
    "steep": lambda q: 1.2 * q - 6,
    "curved": np.log,
    "saturating": lambda q: 4 - 8 * np.exp(1 - q),
}


@pytest.mark.parametrize("arch", ARCHES)
def test_an_arch_is_neither_a_straight_line_nor_a_power_law(arch):
    """Least squares would give some slope, which says nothing of a line that rises and falls."""
    line = lf.boundary(field(lambda lam, q: lam - ARCHES[arch](q), EVEN, AXES["even"]), 0.0)

    assert line.sizes["branch_number"] == 1
    for fit in ("slope", "slope_error", "intercept", "exponent", "exponent_error", "prefactor"):
        assert np.isnan(line[fit]).all()
    assert (line.slope_r2 < 0.5).all()
    side = lf.boundary(field(lambda lam, q: lam - ARCHES[arch](q), EVEN, AXES["even"]).sel(q=slice(None, 4.0)), 0.0)
    assert np.isfinite(side.slope).all()


@pytest.mark.parametrize("shape", LINES)
def test_lines_that_do_not_turn_back_keep_their_fits(shape):
    """Noise of half a step turns a level line back many times, and yet it is level."""
    rng = np.random.default_rng(2)
    noise = 0.125 * rng.normal(size=AXES["even"].size)
    values = field(lambda lam, q: lam - LINES[shape](q) - noise, EVEN, AXES["even"])

    line = lf.boundary(values, 0.0)

    assert np.isfinite(line.slope).all()
    share = np.corrcoef(line.q, line.lam)[0, 1] ** 2
    assert line.slope_r2.item() == pytest.approx(share, abs=1e-9)
