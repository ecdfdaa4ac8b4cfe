"""Classes of cells: conditions, their picture, and the line between two of them."""

import matplotlib as mpl
import numpy as np
import pytest
import xarray

import layerflow as lf

mpl.use("agg")
LAM, SCALE = np.linspace(-2.0, 2.0, 9), np.linspace(0.5, 4.5, 5)


@pytest.fixture(scope="module")
def diagram():
    """Moved by λ + scale/2 in the first of three seeds, further in the others; one cell of one seed failed."""
    moved = np.add.outer(np.add.outer(LAM, 0.5 * SCALE), [0.0, 0.5, 1.0])
    moved[0, 0, 0] = np.nan
    axes = {"lam": LAM, "scale": SCALE, "seed": range(3)}
    return xarray.DataArray(moved, axes, name="moved").to_dataset()


@pytest.fixture(scope="module")
def phase(diagram):
    moved = diagram.moved
    return lf.phase({"lazy": moved < 1, "rich": moved >= 1, "failed": moved.isnull()})


def test_every_cell_has_the_class_whose_condition_it_meets(diagram, phase):
    names = np.array(phase.attrs["flag_meanings"].split())[phase.values]

    assert phase.dtype == np.int8
    assert phase.dims == diagram.moved.dims
    assert phase.attrs["flag_values"] == [0, 1, 2]
    assert ((names == "lazy") == (diagram.moved.values < 1)).all()
    assert ((names == "failed") == np.isnan(diagram.moved.values)).all()


def test_conditions_are_broadcast_against_one_another(diagram):
    moved, side = diagram.moved, diagram.lam > 0
    classes = lf.phase({"right": side, "low": ~side & (diagram.scale < 2), "high": ~side & (diagram.scale >= 2)})

    assert set(classes.dims) == {"lam", "scale"}
    assert int(classes.sel(lam=-1.0, scale=0.5)) == 1
    assert int(lf.phase({"a": moved.notnull(), "b": moved.isnull()}).sum()) == 1


def test_classes_survive_a_file(phase, tmp_path):
    phase.to_netcdf(tmp_path / "phase.nc")
    with xarray.open_dataarray(tmp_path / "phase.nc") as read:
        line, again = (lf.boundary(one, ("lazy", "rich")) for one in (phase, read))

    xarray.testing.assert_equal(line, again)


def test_the_line_between_two_classes_lies_between_their_cells(phase):
    """Halfway between neighbours: λ + scale/2 = 1 to half a step of the grid."""
    line = lf.boundary(phase.isel(seed=0), ("lazy", "rich"))

    assert np.abs(line.lam + 0.5 * line.scale - 1).max() <= 0.25 + 1e-12
    assert line.slope.item() == pytest.approx(-0.5, rel=0.1)
    assert line.attrs["level"] == "lazy to rich"


def test_the_line_is_where_as_many_seeds_are_of_one_class_as_of_the_other(phase):
    first, middle, last = (lf.boundary(phase.isel(seed=i), ("lazy", "rich")).sel(point=0).lam for i in range(3))
    together = lf.boundary(phase, ("rich", "lazy")).sel(point=0).lam

    assert first > middle > last
    assert together == pytest.approx(float(middle), abs=0.1)


def test_status_is_of_classes_too():
    codes = np.where(np.add.outer(LAM, SCALE) > 2.2, int(lf.Status.CONVERGED), int(lf.Status.NOT_FINITE))
    attrs = {
        "flag_values": [int(code) for code in lf.Status],
        "flag_meanings": " ".join(code.name.lower() for code in lf.Status),
    }
    status = xarray.DataArray(codes.astype(np.uint8), {"lam": LAM, "scale": SCALE}, name="status", attrs=attrs)
    line = lf.boundary(status, ("converged", "not_finite"))
    ax = lf.plot.heatmap(status)

    assert np.abs(line.lam + line.scale - 2.2).max() < 0.5
    assert [text.get_text() for text in ax.figure.axes[1].get_yticklabels()] == ["converged", "not finite"]


def test_a_map_of_classes_names_those_that_are_there(phase):
    ax = lf.plot.heatmap(phase.isel(seed=0))
    bar = ax.figure.axes[1]
    there = ax.collections[0].get_array().reshape(LAM.size, SCALE.size)

    assert [text.get_text() for text in bar.get_yticklabels()] == ["lazy", "rich", "failed"]
    assert (np.asarray(there) == phase.isel(seed=0).values).all()
    later = lf.plot.heatmap(phase.isel(seed=1))
    assert [text.get_text() for text in later.figure.axes[1].get_yticklabels()] == ["lazy", "rich"]
    mpl.pyplot.close("all")


MOVED = xarray.DataArray([0.5, 1.5, np.nan], {"lam": [0.0, 1.0, 2.0]}, name="moved")
CLASSES = {"lazy": MOVED < 1, "rich": MOVED >= 1, "failed": MOVED.isnull()}
BAD = {
    "overlap": (lambda: lf.phase(CLASSES | {"rich": MOVED > 0}), ValueError, "1 of 3 cells meet several.*lazy, rich"),
    "none": (lambda: lf.phase({"lazy": MOVED < 1}), ValueError, "2 of 3 cells meet no condition.*diagram.failed"),
    "numbers": (lambda: lf.phase({"lazy": MOVED}), TypeError, "True or False.*float64"),
    "array": (lambda: lf.phase({"lazy": np.array([True])}), TypeError, "no DataArray: ndarray"),
    "list": (lambda: lf.phase([MOVED < 1]), TypeError, "dictionary"),
    "no classes": (lambda: lf.phase({}), ValueError, "1 to 127 classes"),
    "a name of two words": (lambda: lf.phase({"period two": MOVED < 1}), ValueError, "period_two"),
    "other axes": (
        lambda: lf.phase({"a": MOVED < 1, "b": MOVED.assign_coords(lam=[5.0, 6.0, 7.0]) >= 1}),
        ValueError,
        "axes of the same values",
    ),
}
BAD_LINES = {
    "a number": (dict(level=0.5), "holds classes.*lazy, rich, failed"),
    "an unknown class": (dict(level=("lazy", "wild")), "among lazy, rich, failed"),
    "the same twice": (dict(level=("lazy", "lazy")), "two different classes"),
    "a logarithm": (dict(level=("lazy", "rich"), log=True), "no logarithm"),
    "one that is nowhere": (dict(level=("lazy", "failed")), "no cell of `phase` is of class failed"),
}


@pytest.mark.parametrize("case", BAD)
def test_conditions_that_make_no_classes_are_told(case):
    call, error, words = BAD[case]
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("case", BAD_LINES)
def test_lines_that_are_between_no_classes_are_told(case, phase):
    how, words = BAD_LINES[case]
    with pytest.raises(ValueError, match=words):
        lf.boundary(phase.isel(seed=1), **how)


def test_without_classes_there_is_nothing_between(diagram, phase):
    with pytest.raises(ValueError, match=r"as lf\.phase gives, but `moved` has none"):
        lf.boundary(diagram.moved, ("lazy", "rich"))
    mean = phase.mean("seed").assign_attrs(phase.attrs)
    for call in (lf.plot.heatmap, lambda array: lf.boundary(array, ("lazy", "rich"))):
        with pytest.raises(ValueError, match="a mean of codes is no code"):
            call(mean)
    with pytest.raises(ValueError, match="no scale"):
        lf.plot.heatmap(phase.isel(seed=0), log=True)


def test_an_axis_may_be_called_class_and_classes_apart_have_no_line():
    small = xarray.DataArray([True, False], {"class": [1.0, 2.0]})
    assert lf.phase({"a": small, "b": ~small}).values.tolist() == [0, 1]

    field = xarray.DataArray(np.repeat([[0.0], [1.0], [2.0]], 3, axis=1), dims=("up", "across"), name="loss")
    thirds = lf.phase({"low": field == 0, "middle": field == 1, "high": field == 2})
    with pytest.raises(ValueError, match="No line of low to high: no two neighbouring cells are of these two"):
        lf.boundary(thirds, ("low", "high"))
    with pytest.raises(ValueError, match=r"isel\(seed=0\)"):
        lf.plot.heatmap(thirds.expand_dims(seed=2))
