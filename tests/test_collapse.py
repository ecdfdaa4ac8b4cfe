"""Scaling collapses: boundaries of known exponent fall on one line, and the error is what draws scatter by."""

import numpy as np
import pytest
import xarray

import layerflow as lf

SIZES = (20, 60, 200, 600)
TRUE = 0.7


def bent(z):
    """F of y = F(x size^p), no power law."""
    return z / (1 + z)


def line(size, *, p=TRUE, shifts=(0.0,), function=bent, points=41, x=(1e-3, 1.0)):
    """The boundary of one size, of seeds whose lines are moved up by factors exp(shift)."""
    across, up = np.geomspace(*x, points), np.geomspace(1e-2, 1.2, points)
    excess = np.log(up)[:, None] - np.log(function(across * size**p))
    seeds = excess - np.asarray(shifts)[:, None, None]
    return lf.boundary(xarray.DataArray(seeds, {"seed": np.arange(len(shifts)), "y": up, "x": across}, name="f"), 0.0)


@pytest.fixture(scope="module")
def lines():
    return {size: line(size) for size in SIZES}


def test_the_exponent_of_lines_without_noise_is_the_true_one(lines):
    found = lf.collapse(lines, by="width")

    # Linear pieces between points a sixth of an e-fold apart.
    assert found.exponent.item() == pytest.approx(TRUE, abs=2e-3)
    assert found.exponent_error.item() < 5e-3
    assert found.quality.item() < 5e-3
    assert found.attrs["error_from"] == "jackknife"


def test_the_measure_is_the_mean_square_of_differences_on_common_ranges(lines):
    """By quadrature on the union of the knots, where each piece is a parabola."""
    from itertools import combinations

    found = lf.collapse(lines, by="width")
    pieces = [(np.log(part.rescaled.values), np.log(part.y.values)) for _, part in found.groupby("width")]
    squares = length = 0.0
    for (u, v), (s, w) in combinations(pieces, 2):
        low, high = max(u[0], s[0]), min(u[-1], s[-1])
        knots = np.union1d(np.clip([*u, *s], low, high), [low, high])
        middle = (knots[1:] + knots[:-1]) / 2
        begin, half, end = ((np.interp(at, u, v) - np.interp(at, s, w)) ** 2 for at in (knots[:-1], middle, knots[1:]))
        squares += ((begin + 4 * half + end) * np.diff(knots) / 6).sum()
        length += high - low
    assert found.quality.item() == pytest.approx(np.sqrt(squares / length), rel=0.05)


def test_a_power_law_collapses_exactly():
    """Boundaries of power laws are straight in logarithms, so nothing is lost between points: 1e-6 of rounding."""
    found = lf.collapse({size: line(size, p=1.0, function=lambda z: 0.1 * z, x=(1e-3, 1)) for size in SIZES})

    assert found.exponent.item() == pytest.approx(1.0, abs=1e-6)
    assert found.quality.item() < 1e-6


def test_the_other_axis_may_be_the_one_rescaled():
    """y = F(x n^p) for F(z) = 0.1 z^2 is x = (10 y n^(-2p))^(1/2)."""
    lines = {size: line(size, p=0.4, function=lambda z: 0.1 * z**2) for size in SIZES}

    assert lf.collapse(lines, axis="x").exponent.item() == pytest.approx(0.4, abs=1e-6)
    assert lf.collapse(lines, axis="y").exponent.item() == pytest.approx(-0.8, abs=1e-6)


def test_the_result_holds_the_lines_and_what_they_were_rescaled_to(lines, tmp_path):
    unsorted = [lines[size].assign_coords(width=size) for size in SIZES[::-1]]

    found = lf.collapse(unsorted, by="width")

    xarray.testing.assert_identical(found, lf.collapse(lines, by="width"))
    np.testing.assert_allclose(found.rescaled, found.x * found.width**found.exponent, rtol=1e-12)
    np.testing.assert_array_equal(found.y[found.width == 60], lines[60].y[lines[60].branch == 0])
    assert [*dict.fromkeys(found.width.values)] == [*SIZES]
    found.to_netcdf(tmp_path / "collapse.nc", engine="scipy")


def covered(draw, draws):
    """The share of draws whose error covers the truth, and the mean error over the scatter."""
    found = [draw(np.random.default_rng(k)) for k in range(draws)]
    p, error = (np.array([float(one[name]) for one in found]) for name in ("exponent", "exponent_error"))
    return np.mean(np.abs(p - TRUE) < error), np.sqrt(np.mean(error**2)) / np.std(p)


@pytest.mark.parametrize(("seeds", "draws"), [pytest.param(8, 200, marks=pytest.mark.slow)])
def test_the_error_by_seeds_covers_the_truth_in_two_of_three_draws(seeds, draws):
    """Lines of seeds are moved by factors of e^(0.2 normal); within three standard deviations of the draws."""

    def draw(random):
        found = lf.collapse({n: line(n, shifts=random.normal(0, 0.2, seeds), points=17) for n in SIZES})
        assert found.attrs["error_from"] == "seeds"
        return found

    share, ratio = covered(draw, draws)
    assert abs(share - 0.66) < 3 * np.sqrt(0.22 / draws)
    assert abs(ratio - 1) < 3 / np.sqrt(2 * draws) + 0.1


@pytest.mark.parametrize("draws", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_the_error_by_jackknife_covers_the_truth_in_two_of_three_draws(draws):
    """Six lines without seeds, of factors e^(0.1 normal)."""
    sizes = np.geomspace(20, 600, 6)

    def draw(random):
        return lf.collapse({n: line(n, shifts=random.normal(0, 0.1, 1), points=17) for n in sizes})

    share, ratio = covered(draw, draws)
    assert abs(share - 0.66) < 3 * np.sqrt(0.22 / draws)
    assert abs(ratio - 1) < 3 / np.sqrt(2 * draws) + 0.2


def test_lines_with_seeds_need_only_two_sizes():
    seeds = (-0.1, 0.1)
    found = lf.collapse({n: line(n, shifts=seeds) for n in (20, 60)})

    # A move of either line by its standard error, 0.1 of log y or less, over the logarithm of 3.
    assert found.exponent.item() == pytest.approx(TRUE, abs=5e-3)
    assert 0.02 < found.exponent_error.item() < 0.3


def test_a_branch_other_than_the_longest_may_be_taken():
    def two(size):
        one, other = (line(size, p=p).drop_dims("branch_number") for p in (TRUE, 0.4))
        return xarray.concat([one, other.assign_coords(branch=other.branch + 1)], "point")

    lines = {size: two(size) for size in SIZES}
    for branch, p in ((0, TRUE), (1, 0.4)):
        assert lf.collapse(lines, branch=branch).exponent.item() == pytest.approx(p, abs=2e-3)


PLANE = line(20)
FLAT = {n: line(n, function=lambda z: 0.1 + 0 * z) for n in SIZES}


def only(size, **changed):
    return {20: PLANE, 60: line(60), size: line(200)} | changed


CASES = {
    "one size": (lambda: lf.collapse({20: PLANE}), ValueError, r"two or more different sizes"),
    "equal sizes": (
        lambda: lf.collapse([PLANE.assign_coords(width=2)] * 3, by="width"),
        ValueError,
        r"different sizes, but width is \[2.0, 2.0, 2.0\]",
    ),
    "two sizes without seeds": (lambda: lf.collapse({20: PLANE, 60: line(60)}), ValueError, r"Add a third size"),
    "a negative size": (lambda: lf.collapse(only(-1)), ValueError, r"need to be positive and finite"),
    "an infinite size": (lambda: lf.collapse(only(np.inf)), ValueError, r"need to be positive and finite"),
    "a size in words": (lambda: lf.collapse(only("wide")), TypeError, r"Sizes are numbers, but one size is 'wide'"),
    "no mapping": (lambda: lf.collapse(PLANE), TypeError, r"one boundary per size.*it is a Dataset"),
    "no Dataset": (lambda: lf.collapse({1: PLANE, 2: 3.0}), TypeError, r"but one is float"),
    "no boundary": (
        lambda: lf.collapse({1: PLANE, 2: xarray.Dataset({"loss": 1.0})}),
        ValueError,
        r"holds 'loss' and no branches",
    ),
    "no coordinate": (
        lambda: lf.collapse([PLANE, PLANE], by="width"),
        ValueError,
        r"line\.assign_coords\(width=200\)",
    ),
    "other axes": (
        lambda: lf.collapse(only(200) | {200: line(200).rename(x="z").assign_attrs(x="z")}),
        ValueError,
        r"need equal axes",
    ),
    "an unknown axis": (lambda: lf.collapse(only(200), axis="t"), ValueError, r"`x` or `y`, but it is 't'"),
    "a name taken": (lambda: lf.collapse(only(200), by="x"), ValueError, r"need to differ"),
    "no such branch": (lambda: lf.collapse(only(200), branch=3), ValueError, r"no branch 3 of two points.*\[0\]"),
    "negative values": (
        lambda: lf.collapse({n: each.assign_coords(x=-each.x) for n, each in only(200).items()}),
        ValueError,
        r"`x` comes down to -.* at size 20",
    ),
    "a line that turns back": (
        lambda: lf.collapse({n: each.assign_coords(x=1 + each.y * 0) for n, each in only(200).items()}),
        ValueError,
        r'no function of `x`.*axis="y"',
    ),
    "pieces that do not overlap": (
        lambda: lf.collapse(
            {n: line(n, function=bent, p=0, x=(low, 3 * low)) for n, low in ((2, 0.1), (4, 0.9), (8, 0.9), (8.1, 0.1))}
        ),
        ValueError,
        r"At no exponent do the lines of sizes 2, 4, 8, 8.1 overlap",
    ),
    "level lines": (lambda: lf.collapse(FLAT), ValueError, r"The lines tell no exponent"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_told_in_the_users_words(case):
    call, kind, words = CASES[case]
    with pytest.raises(kind, match=words):
        call()
