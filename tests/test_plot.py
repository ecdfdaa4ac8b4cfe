"""Pictures: what they are made of."""

import matplotlib as mpl
import numpy as np
import pytest
import xarray

import layerflow as lf

mpl.use("agg")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


@pytest.fixture
def diagram():
    values = np.geomspace(1e-12, 1e-1, 12).reshape(3, 4)
    values[0, 0], values[2, 3] = 0.0, np.nan
    kernel = xarray.DataArray(values, dims=("lam", "scale"), attrs={"long_name": "kernel distance", "units": "1"})
    lam = ("lam", [-1.0, 0.0, 1.0], {"long_name": "layer imbalance λ", "units": "weight²"})
    return xarray.Dataset({"kernel_distance": kernel}, {"lam": lam, "scale": [1.0, 10.0, 100.0, 1000.0]})


def drawn(ax):
    """The only mesh of a heat map, drawn."""
    ax.figure.canvas.draw()
    (mesh,) = ax.collections
    return mesh


def test_a_heat_map_on_a_log_scale_adds_nothing_to_tiny_values(diagram):
    ax = lf.plot.heatmap(diagram, log=True)
    mesh = drawn(ax)

    assert mesh.norm.vmin == diagram.kernel_distance.where(diagram.kernel_distance > 0).min()
    assert mesh.norm.vmax == np.nanmax(diagram.kernel_distance)
    colours = mesh.get_facecolors()
    tiny, zero = colours[1], colours[0]
    np.testing.assert_allclose(tiny, mpl.colormaps["viridis"](0.0), atol=1e-3)
    np.testing.assert_allclose(zero, tiny, atol=1e-3)


def test_failed_cells_are_hatched_and_named(diagram):
    ax = lf.plot.heatmap(diagram, log=True)
    mesh = drawn(ax)

    assert mesh.get_facecolors()[-1][3] == 0  # transparent: the ground shows
    assert ax.patch.get_hatch()
    assert ax.get_legend().get_texts()[0].get_text() == "failed"
    whole = lf.plot.heatmap(diagram.isel(lam=[0, 1]), log=True)
    assert whole.get_legend() is None


def test_infinite_cells_are_grey_and_named_apart_from_failed_ones(diagram):
    """A delay may be infinite in a cell that did not fail."""
    array = diagram.kernel_distance.where(diagram.lam != diagram.lam[0], np.inf)

    ax = lf.plot.heatmap(array)
    ax.figure.canvas.draw()

    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["failed", "infinite"]
    colours = ax.collections[1].get_facecolors().reshape(*array.shape, 4)
    np.testing.assert_allclose(colours[0], [[0.75, 0.75, 0.75, 1.0]] * array.shape[1], atol=0.01)
    assert (colours[1:, :, 3] == 0).all()


def test_a_heat_map_is_labelled_with_units_and_keeps_its_scale(diagram):
    ax = lf.plot.heatmap(diagram)

    assert ax.get_ylabel() == "layer imbalance λ (weight²)"
    assert ax.get_xscale() == "log"
    assert ax.get_yscale() == "linear"
    assert [a.get_ylabel() for a in ax.figure.axes if a is not ax] == ["kernel distance"]
    swapped = lf.plot.heatmap(diagram, x="lam")
    assert swapped.get_xlabel() == "layer imbalance λ (weight²)"


def test_cells_lie_where_their_values_are(diagram):
    mesh = drawn(lf.plot.heatmap(diagram.isel(scale=slice(None, None, -1)), x="lam"))
    corners = mesh.get_coordinates()

    np.testing.assert_allclose(corners[0, :, 0], [-1.5, -0.5, 0.5, 1.5])
    np.testing.assert_allclose(corners[:, 0, 1], 10.0 ** np.array([3.5, 2.5, 1.5, 0.5, -0.5]))


def test_pictures_are_drawn_where_told_and_never_shown(diagram, monkeypatch):
    import matplotlib.pyplot as plt

    monkeypatch.setattr(plt, "show", lambda *_, **__: pytest.fail("shown"))
    _, ax = plt.subplots()

    assert lf.plot.heatmap(diagram, ax=ax) is ax
    assert lf.plot.curves(diagram, x="scale", ax=ax) is ax


def test_curves_are_medians_with_quartile_bands():
    values = np.arange(10.0)[:, None] * np.ones(6)
    values[9] = np.nan
    paths = xarray.DataArray(values, dims=("seed", "t"), name="loss", coords={"t": np.linspace(0, 5, 6)})

    ax = lf.plot.curves(paths)

    (line,) = ax.lines
    np.testing.assert_allclose(line.get_ydata(), 4.0)
    (band,) = ax.collections
    assert band.get_paths()[0].get_extents().ymin == 2.0
    assert band.get_paths()[0].get_extents().ymax == 6.0
    assert ax.get_xlabel() == "t"


@pytest.mark.parametrize(
    ("spread", "low", "middle", "high"),
    [("quartiles", 1.0, 2.0, 3.0), ("range", 0.0, 2.0, 9.0), ("deviation", 3.0 - 10**0.5, 3.0, 3.0 + 10**0.5)],
)
def test_a_band_spreads_as_told(spread, low, middle, high):
    """Members 0, 1, 2, 3, 9: mean 3, variance (9 + 4 + 1 + 0 + 36) / 5. One that failed counts for nothing."""
    values = np.array([0.0, 1.0, 2.0, 3.0, 9.0, np.nan])[:, None] * np.ones(4)
    paths = xarray.DataArray(values, dims=("start", "t"), name="loss")

    ax = lf.plot.curves(paths, band="start", spread=spread)

    np.testing.assert_allclose(ax.lines[0].get_ydata(), middle)
    edges = ax.collections[0].get_paths()[0].get_extents()
    np.testing.assert_allclose([edges.ymin, edges.ymax], [low, high])


def test_a_band_is_open_where_all_members_failed():
    values = np.ones((3, 5))
    values[:, 2] = np.nan
    ax = lf.plot.curves(xarray.DataArray(values, dims=("seed", "t"), name="loss"), spread="deviation")

    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [1, 1, np.nan, 1, 1])


@pytest.mark.usefixtures("as_users_see_it")
def test_an_unknown_spread_is_refused_with_those_there_are():
    paths = xarray.DataArray(np.ones((3, 5)), dims=("seed", "t"), name="loss")

    with pytest.raises(ValueError, match='one of "quartiles", "deviation", "range", but it is \'std\''):
        lf.plot.curves(paths, spread="std")
    with pytest.raises(ValueError, match="but it is 'std'"):
        lf.plot.band([0.0], [[1.0]], spread="std")


@pytest.mark.parametrize(("count", "bar"), [(3, False), (20, True)])
def test_many_curves_get_a_colour_bar_in_place_of_a_legend(count, bar):
    paths = xarray.DataArray(np.ones((count, 5)), dims=("lam", "t"), name="loss", coords={"lam": np.arange(count)})

    ax = lf.plot.curves(paths, log=True)

    assert len(ax.lines) == count
    assert (ax.get_legend() is None) == bar
    assert (len(ax.figure.axes) == 2) == bar
    assert ax.get_yscale() == "log"


def test_a_sweep_draws_without_further_words():
    def cell(scale):
        start = lf.DiagonalNetwork((np.sqrt(0.1) * np.ones(2),) * 2)
        return lf.Problem(start, lf.Modes(variance=np.array([1.0, 0.5]), target=scale))

    diagram = lf.sweep(
        cell, {"scale": [1.0, 2.0]}, method=lf.Flow(t1=3.0), ts=np.linspace(0, 3, 5), observe=lf.mode_strengths
    )

    ax = lf.plot.curves(diagram.isel(scale=0))
    assert ax.get_xlabel() == "gradient-flow time"
    assert ax.get_ylabel() == "mode strength"
    assert len(ax.lines) == 2


TS = np.linspace(0.0, 30.0, 40)


def solved(target, *, ts=TS):
    """Two modes from small weights."""
    start = lf.DiagonalNetwork((np.sqrt(0.01) * np.ones(2),) * 2)
    problem = lf.Problem(start, lf.Modes(variance=np.array([1.0, 0.5]), target=np.asarray(target)))
    return lf.solve(problem, lf.Flow(t1=30.0), ts=ts, observe=lf.mode_strengths)


def test_modes_of_a_trajectory_end_at_dashed_targets_of_their_colour():
    ax = lf.plot.modes(solved([2.0, 1.0]))

    strengths, targets = ax.lines[:2], [line for line in ax.lines[2:] if len(line.get_xdata())]
    assert [line.get_linestyle() for line in targets] == ["--", "--"]
    at = {line.get_color(): line.get_ydata()[0] for line in targets}
    for line in strengths:
        np.testing.assert_allclose(line.get_ydata()[-1], at[line.get_color()], rtol=1e-4)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["mode = 0", "mode = 1", "target"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("gradient-flow time", "mode strength")


def test_a_target_that_modes_share_has_the_colour_of_neither():
    ax = lf.plot.modes(solved([1.0, 1.0]))

    (target,) = (line for line in ax.lines[2:] if len(line.get_xdata()))
    assert target.get_color() not in {line.get_color() for line in ax.lines[:2]}


def test_targets_of_data_are_the_strengths_of_the_best_linear_map():
    """From zero weights a linear model comes to it, whatever the inputs."""
    rng = np.random.default_rng(0)
    task = lf.Moments.from_samples(rng.normal(size=(20, 2)), rng.normal(size=(20, 2)))
    problem = lf.Problem(lf.LinearNetwork((np.zeros((2, 2)),)), task)
    path = lf.solve(problem, lf.Flow(t1=60.0), ts=TS * 2, observe=lf.mode_strengths)

    ax = lf.plot.modes(path)

    ends, targets = (
        {line.get_ydata()[-1] for line in lines if len(line.get_xdata())} for lines in np.split(ax.lines, [2])
    )
    np.testing.assert_allclose(sorted(ends), sorted(targets), atol=1e-4)


def test_modes_of_a_diagram_have_bands_and_the_targets_they_are_given():
    values = np.arange(5.0)[:, None, None] * np.ones((3, 2))
    diagram = xarray.Dataset({"mode_strengths": (("seed", "t", "mode"), values)}, {"t": [1.0, 10.0, 100.0]})

    ax = lf.plot.modes(diagram, target=4.0, spread="range")

    assert len(ax.collections) == 2
    assert ax.get_xscale() == "log"
    assert ax.lines[2].get_ydata()[0] == 4.0
    assert len(lf.plot.modes(diagram).lines) == 2


def test_modes_say_what_they_lack():
    array = xarray.DataArray(np.ones((3, 2)), dims=("t", "mode"), name="mode_strengths")

    with pytest.raises(ValueError, match=r"needs shape \(2,\), but it has shape \(3,\)"):
        lf.plot.modes(array, target=np.ones(3))
    with pytest.raises(ValueError, match=r'array.rename\(skill="mode"\)'):
        lf.plot.modes(array.rename(mode="skill"))
    with pytest.raises(ValueError, match="measured at its end only"):
        lf.plot.modes(solved([1.0, 1.0], ts=None))


@pytest.fixture
def turning():
    """One feature that turns and grows, one that turns about: shape (t, feature, coordinate)."""
    tips = [[[1.0, 0.0], [-1.0, 0.0]], [[1.0, 0.5], [-0.5, 0.2]], [[1.0, 1.0], [0.0, 0.5]]]
    return xarray.DataArray(tips, dims=("t", "feature", "coordinate"), name="features")


def tips(ax):
    """Where arrows lead, and their colours."""
    return [(float(a.U[0]), float(a.V[0]), mpl.colors.to_hex(a.get_facecolor()[0])) for a in ax.collections]


def test_arrows_lead_from_start_to_end_in_the_colour_of_their_side(turning):
    ax = lf.plot.arrows(turning, target=[1.0, 1.5])

    blue, vermilion = "#0072b2", "#d55e00"
    assert tips(ax) == [(1, 0, blue), (1, 1, blue), (-1, 0, vermilion), (0, 0.5, vermilion)]
    starts = [a.get_alpha() for a in ax.collections]
    assert starts[0] < 1
    assert starts[1] is None
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), turning[:, 0])
    assert ax.get_aspect() == 1
    assert ax.get_xlim()[1] > 1
    assert ax.get_ylim()[1] > 1.5


def test_arrows_of_one_coordinate_lie_side_by_side_start_above_end(turning):
    ax = lf.plot.arrows(turning.isel(coordinate=0), target=1.0)

    heights = [float(a.Y[0]) for a in ax.collections]
    assert heights == sorted(heights, reverse=True)
    assert len(set(heights)) == 4
    assert [label.get_text() for label in ax.get_yticklabels()] == ["start", "end"]
    assert [float(a.U[0]) for a in ax.collections] == [1, -1, 1, 0]


def test_arrows_of_one_moment_neither_move_nor_need_a_legend(turning):
    ax = lf.plot.arrows(turning.isel(t=-1))

    assert len(ax.collections) == 2
    assert ax.get_legend() is None
    assert lf.plot.arrows(turning.isel(t=-1, coordinate=0)).get_yticks().size == 0


def test_arrows_say_what_they_cannot_draw(turning):
    with pytest.raises(ValueError, match=r"shape \(2,\), but it has shape \(3,\)"):
        lf.plot.arrows(turning, target=[1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match=r"3 coordinates. Select two, as in .isel\(coordinate=\[0, 1\]\)"):
        lf.plot.arrows(xarray.DataArray(np.ones((2, 3)), dims=("t", "coordinate")))
    with pytest.raises(ValueError, match=r"has `setup`, `feature`. Select or reduce, as in .isel\(setup=0\)"):
        lf.plot.arrows(turning.expand_dims("setup"))


@pytest.mark.parametrize(("columns", "width"), [(1, 3.25), (2, 6.75)])
def test_a_style_has_the_width_of_its_columns_and_ends_with_its_context(diagram, tmp_path, columns, width):
    before = dict(mpl.rcParams)

    with lf.plot.style(columns):
        ax = lf.plot.heatmap(diagram, log=True)
        ax.figure.savefig(tmp_path / "figure.pdf")

    assert ax.figure.get_figwidth() == width
    assert ax.xaxis.label.get_size() == 8
    assert ax.get_xticklabels()[0].get_size() == 7
    assert b"/Type3" not in (tmp_path / "figure.pdf").read_bytes()
    assert dict(mpl.rcParams) == before


@pytest.mark.usefixtures("as_users_see_it")
def test_a_style_of_three_columns_is_refused():
    with pytest.raises(ValueError, match="is 1 or 2"):
        lf.plot.style(columns=3)


def test_a_band_of_one_member_is_a_line_in_the_colour_of_its_turn():
    ax = lf.plot.band([0.0, 1.0], [[1.0, 2.0]])
    assert not ax.collections
    assert lf.plot.band([0.0, 1.0], [[1.0, 2.0], [3.0, 2.0]], spread="deviation", ax=ax) is ax

    line, (band,) = ax.lines[1], ax.collections
    np.testing.assert_array_equal(band.get_facecolor()[0][:3], mpl.colors.to_rgb(line.get_color()))
    assert line.get_color() != ax.lines[0].get_color()
    assert (band.get_paths()[0].get_extents().ymin, band.get_paths()[0].get_extents().ymax) == (1.0, 3.0)


def test_means_over_seeds_keep_their_labels_and_are_geometric_where_asked():
    values = xarray.DataArray([[1.0, 100.0], [0.0, 1.0]], dims=("lam", "seed"), name="loss", attrs={"units": "1"})
    for log, expected in ((False, [50.5, 0.5]), (True, [10.0, 0.0])):
        mean = lf.plot.over_seeds(values, log=log)
        np.testing.assert_allclose(mean, expected)
        assert (mean.name, mean.attrs, mean.dims) == ("loss", {"units": "1"}, ("lam",))


def test_panels_share_an_axis_and_a_line_and_have_a_title_if_given(diagram):
    maps = [(diagram.kernel_distance, {"log": True}), (2 * diagram.kernel_distance, {}), (diagram.kernel_distance, {})]
    line = lf.boundary(diagram.kernel_distance, 1e-6, x="scale")

    figure = lf.plot.panels(maps, x="scale", title="Rich or lazy", line=line, columns=2)
    first, second, third = (ax for ax in figure.axes if ax.get_title())

    assert figure.get_suptitle() == "Rich or lazy"
    assert lf.plot.panels(maps, x="scale").get_suptitle() == ""
    assert first.get_ylim() == second.get_ylim() == third.get_ylim()
    assert first.get_title() == "kernel distance, line at 1e-06"
    assert second.get_ylabel() == ""
    assert third.get_ylabel() == first.get_ylabel() == "layer imbalance λ (weight²)"
    assert all(ax.lines for ax in (first, second, third))


def test_colours_are_a_ramp_of_numbers_and_the_palette_of_names():
    ramp = lf.plot.colours(np.linspace(0.0, 1.0, 9))
    assert len(set(ramp)) == 9
    names = lf.plot.colours(np.array([f"mode {k}" for k in range(9)]))
    assert names == [*lf.plot.PALETTE, lf.plot.PALETTE[0]]


def test_arrows_of_the_start_alone(turning):
    both, starts = (lf.plot.arrows(turning, ends=ends).collections for ends in (True, False))
    assert len(starts) == len(both) / 2
