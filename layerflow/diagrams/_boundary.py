"""The line between two regimes, read off a diagram."""

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import ArrayLike

from layerflow.diagrams import _lines
from layerflow.diagrams._array import across_and_up, is_geometric, is_numeric, label, without_single
from layerflow.diagrams._classes import between, classes_of

if TYPE_CHECKING:
    import xarray

_NEAR = 0.25  # of the longer side of the grid: a seed's line farther off is another line


def boundary(
    array: "xarray.DataArray",
    level: ArrayLike | str | tuple[str, str],
    *,
    x: str | None = None,
    y: str | None = None,
    log: bool = False,
    over: str = "seed",
) -> "xarray.Dataset":
    """Find the line along which a measurement takes one value or changes fastest, or between two classes.

    The line is that of the mean f over seeds. With a number it is the contour f = level,
    linear between cells. With "steepest" it is where the gradient of f is largest along its
    own direction,

        grad f^T H grad f = 0,    with a maximum of |grad f| there, in units of grid steps,

    found on a cubic spline through local cubic fits of five cells, which take out noise, and kept
    where |grad f| is at least half its largest value and no failed cell is within three steps. Where
    the line turns back across, by two steps or more, it is cut. Pieces of any line that reach neither
    two steps nor a quarter of the shorter side are dropped, unless there are no others. Every branch
    gets two fits by least squares,

        y = slope * x + intercept    and    |y| = prefactor * |x|^exponent,

    both in the values of the axes, whether these are drawn evenly or geometrically, each with the share of
    the variance of y, or of log |y|, that it explains: `slope_r2` and `exponent_r2`, 1 where the branch is
    such a line. A branch that rises and falls, an arch, is neither: its fits are NaN, and the shares alone
    remain. To fit one side of an arch, or one range, select it first: diagram.loss.sel(lam=slice(0, None)).

    With the names of two classes, of an array as `phase` gives, it is where as many seeds are of one as of
    the other; cells of other classes are left out like those that failed.

    The band is the middle half of the seeds: each seed has a line of its own by the same rule, and the
    band's edges are the quartiles of how far these lie from the line, along its normal in grid
    steps. A seed whose line is anywhere farther than a quarter of the grid is left out of a branch. Failed cells
    are left out of the mean; the line ends where all seeds failed.

    Args:
        array: A variable of a diagram, of two dimensions besides `over`.
        level: A value of `array`, "steepest", or the names of two classes, ("lazy", "rich").
        x, y: Dimensions across and up; the last and the first if not given, as in a heat map.
        log: Take the geometric mean, and find the line in the logarithm.
        over: Dimension to average over, if `array` has it.

    Returns:
        Dataset whose coordinates called `x` and `y` (by their own names) run along the dimension
        `point`, from branch to branch; `branch` numbers them, the longest first. Edges of the band
        end in `_low` and `_high`, the low edge being that below the line (to the right of one that runs
        straight up), and `num_seeds` says how many seeds it rests on. Fits are per `branch_number`.
        Errors are standard deviations over the seeds that lie near the whole branch, of the same fit
        to the line displaced to theirs. An exponent leaves out points within half a grid step of
        zero, where the logarithm is all error, and is NaN if x or y still changes sign.

    Raises:
        TypeError: If `array` is no DataArray.
        ValueError: If `array` has other than two dimensions besides `over`, or axes that are not
            numbers or too short (3 values, 4 for "steepest"); if `level` is not finite, or not positive
            with `log`, or values are not; if it is no class of `array`, or `array` has classes and it is none;
            if all cells failed; if there is no such line.

    Example:
        >>> import numpy as np, xarray as xr, layerflow as lf
        >>> lam, scale = np.linspace(-2, 2, 9), np.linspace(1, 4, 7)
        >>> loss = xr.DataArray(np.subtract.outer(lam, 0.5 * scale), {"lam": lam, "scale": scale}, name="loss")
        >>> line = lf.boundary(loss, 0.0)
        >>> line.sizes["branch_number"], round(line.slope.item(), 6), round(line.exponent.item(), 6)
        (1, 0.5, 1.0)
    """
    array, level, said = _measured(array, level, log)
    array, x, y = _checked(array, x, y, over, smallest=4 if level == "steepest" else 3)
    sheets = array.values.astype(float)
    sheets[~np.isfinite(sheets)] = np.nan
    if np.isnan(sheets).all():
        endless = int(np.isinf(array.values.astype(float)).sum())
        why = f"{endless} cells are infinite, a level that is not reached, say" if endless else "every cell is NaN"
        raise ValueError(
            f"No line in `{array.name}`: {why}, and none is finite. See `status` of the diagram for cells that failed."
        )
    wanted = _checked_level(level, sheets, log, array.name)
    sheets = np.log(sheets) if log else sheets
    mean = np.ma.masked_invalid(sheets).mean(axis=0).filled(np.nan)
    lines = _lines.branches(mean, wanted)
    if not lines:
        raise ValueError(_no_line(mean, level, log, array.name, said))
    moves = _moves(sheets, wanted, lines)
    facts = {"x": x, "y": y, "measured": label(array), "level": said, "log": int(log), "over": over}
    return _dataset(lines, moves, array[x], array[y], facts)


def _measured(
    array: "xarray.DataArray", level: Any, log: bool
) -> "tuple[xarray.DataArray, float | int | str, float | int | str]":
    """What to find a line of, at which level, and what to call that."""
    import xarray

    if not isinstance(array, xarray.DataArray):
        raise TypeError(
            f"Argument `array` needs one variable of a diagram, but it is a {type(array).__name__}. "
            "Name the variable, as in lf.boundary(diagram.kernel_distance, ...)."
        )
    named = isinstance(level, tuple | list) and len(level) == 2 and all(isinstance(name, str) for name in level)
    if not named:
        if classes := classes_of(array):
            raise ValueError(
                f"`{array.name}` holds classes, between which there is no number: name two of "
                f'{", ".join(classes.values())}, as in lf.boundary(array, ("...", "...")).'
            )
        level = _plain(level)
        return array, level, level
    if log:
        raise ValueError("Between two classes there is no logarithm: leave out log=True.")
    return between(array, tuple(level)), 0.5, " to ".join(level)


def _checked(
    array: "xarray.DataArray", x: str | None, y: str | None, over: str, smallest: int
) -> "tuple[xarray.DataArray, str, str]":
    """The array as (over, y, x) with rising axes, `over` of size one if it had none, and the names of x and y."""
    without = "" if over in array.dims else f" There is no dimension `{over}` to average over."
    array = array.expand_dims(over) if without else array
    if array.ndim > 3:
        array = without_single(array, (x, y, over))
    if array.ndim != 3:
        raise ValueError(
            f"A boundary needs two dimensions besides `{over}`, but `{array.name}` has {array.ndim - 1}: "
            f"{ {dim: size for dim, size in array.sizes.items() if dim != over} }. "
            f"Reduce the others first, as in .isel(t=-1).{without}"
        )
    x, y = across_and_up(array.isel({over: 0}), x, y)
    for dim in (x, y):
        values = array[dim].values
        if not is_numeric(values) or not np.isfinite(values).all() or len(np.unique(values)) < len(values):
            raise ValueError(f"A boundary needs axes of distinct finite numbers, but `{dim}` holds {values}.")
        if len(values) < smallest:
            raise ValueError(
                f"This boundary needs at least {smallest} values along each axis, but `{dim}` has {len(values)}."
            )
    return array.transpose(over, y, x).sortby([y, x]), x, y


def _plain(level: Any) -> float | int | str:
    """The level as one number, whatever array held it, or "steepest"; else an error."""
    if isinstance(level, str):
        if level != "steepest":
            raise ValueError(f'Argument `level` needs a number or "steepest", but it is "{level}".')
        return level
    if np.ndim(level) > 0:
        raise ValueError(
            f"Argument `level` is one value, but {np.size(level)} came. Draw one line after the other: "
            f"[lf.boundary(array, level) for level in levels]."
        )
    if np.asarray(level).dtype.kind not in "iuf":
        raise TypeError(f'Argument `level` needs a number or "steepest", but it is {level!r}.')
    return np.asarray(level).item()


def _checked_level(level: Any, sheets: np.ndarray, log: bool, name: Any) -> float | str:
    """The level to look for in the values, or in their logarithms."""
    if log and np.nanmin(sheets) <= 0:
        raise ValueError(
            f"With log=True all values of `{name}` need to be positive, but the smallest is {np.nanmin(sheets):.3g}. "
            f"Drop those, as in array.where(array > 0), or use log=False."
        )
    if isinstance(level, str):
        return level
    if not np.isfinite(level):
        raise ValueError(f'Argument `level` needs a finite number or "steepest", but it is {level}.')
    if log and level <= 0:
        raise ValueError(f"With log=True `level` needs to be positive, but it is {level}.")
    return float(np.log(level) if log else level)


def _no_line(mean: np.ndarray, level: float | str, log: bool, name: Any, said: Any) -> str:
    """Why there is no line, and what to do."""
    if isinstance(said, str) and said != "steepest":
        return (
            f"No line of {said}: no two neighbouring cells are of these two, others lie between. "
            f'Make one class of several, lf.phase({{"settled": array.isin([1, 2]), ...}}), or name two that touch.'
        )
    low, high = (np.exp(end) if log else end for end in (np.nanmin(mean), np.nanmax(mean)))
    runs = f"the {'geometric ' if log else ''}mean of `{name}` runs from {low:.3g} to {high:.3g}"
    if level == "steepest":
        return (
            f"No steepest line: {runs}, but its slope has no maximum inside the grid, away from failed cells. "
            "Widen the axes, or give a number as `level`."
        )
    return (
        f"No line at level={level}: {runs}, with no two neighbours on either side of the level. "
        "Choose a level between, or widen the axes."
    )


def _moves(sheets: np.ndarray, level: float | str, lines: list[np.ndarray]) -> list[np.ndarray]:
    """How far each seed's line lies to the left of each branch, shapes (seed, points); NaN where nowhere near."""
    if len(sheets) == 1:
        return [np.zeros((1, len(line))) for line in lines]
    own = [[] if np.isnan(sheet).all() else _lines.branches(sheet, level) for sheet in sheets]
    return [np.stack([_move(line, others, max(sheets.shape[1:])) for others in own]) for line in lines]


def _move(line: np.ndarray, others: list[np.ndarray], side: int) -> np.ndarray:
    """How far `others` lie to the left of each point of one branch."""
    if not others:
        return np.full(len(line), np.nan)
    way = _lines.nearest(line, others) - line
    # All along the branch or not at all: a band whose seeds change on the way would jump.
    if (np.linalg.norm(way, axis=1) > _NEAR * side).any():
        return np.full(len(line), np.nan)
    return (way * _lines.normals(line)).sum(axis=1)


def _dataset(
    lines: list[np.ndarray],
    moves: list[np.ndarray],
    x: "xarray.DataArray",
    y: "xarray.DataArray",
    facts: dict[str, Any],
) -> "xarray.Dataset":
    """The labelled result, in values of the axes."""
    import xarray

    move = np.concatenate(moves, axis=1)
    here, low, high = (_placed(lines, shift, x, y) for shift in (None, *_quartiles(move)))
    data: dict[str, Any] = {}
    for axis, at, below, above in zip((x, y), here, low, high, strict=True):
        data[f"{axis.name}"] = ("point", at, axis.attrs)
        data[f"{axis.name}_low"] = ("point", below, axis.attrs)
        data[f"{axis.name}_high"] = ("point", above, axis.attrs)
    seeds = np.isfinite(move)
    numbers = np.repeat(np.arange(len(lines)), [len(line) for line in lines])
    own = {
        "branch": ("point", numbers, {"long_name": "branch of the line"}),
        "branch_number": ("branch_number", np.arange(len(lines)), {"long_name": "branch of the line"}),
        "num_seeds": ("point", seeds.sum(axis=0), {"long_name": "seeds in the band", "units": "1"}),
    }
    fits = [_fits(line, shifts, x, y) for line, shifts in zip(lines, moves, strict=True)]
    own |= {name: ("branch_number", np.array([fit[name] for fit in fits])) for name in fits[0]}
    taken = [name for name in data if name in own or name == "point"]
    if taken or len(data) < 6:
        raise ValueError(
            f"The axes `{x.name}` and `{y.name}` bear a name that the result uses itself. "
            f'Rename them first, as in array.rename({x.name}="width").'
        )
    coordinates = [str(x.name), str(y.name), "branch"]
    facts |= {"num_seeds": int(seeds.any(axis=1).sum())}
    return xarray.Dataset(data | own, attrs=facts).set_coords(coordinates)


def _quartiles(move: np.ndarray) -> np.ndarray:
    """First and third quartile over seeds, shape (2, points)."""
    quartiles = np.full((2, move.shape[1]), np.nan)
    seen = np.isfinite(move).any(axis=0)
    quartiles[:, seen] = np.nanquantile(move[:, seen], [0.25, 0.75], axis=0)
    return quartiles


def _placed(
    lines: list[np.ndarray], shift: np.ndarray | None, x: "xarray.DataArray", y: "xarray.DataArray"
) -> tuple[np.ndarray, np.ndarray]:
    """Values of x and y along the lines, moved to the left by `shift`."""
    points = np.concatenate(lines)
    if shift is not None:
        points = points + shift[:, None] * np.concatenate([_lines.normals(line) for line in lines])
    return _value_at(x.values, points[:, 0]), _value_at(y.values, points[:, 1])


def _value_at(values: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """The value of an axis some grid steps from its first, linear between and beyond, or in the logarithm."""
    scale = np.log(values) if is_geometric(values) else np.asarray(values, float)
    # A band may reach past the last cell; NaN stays NaN.
    before = np.nan_to_num(np.clip(np.floor(steps), 0, len(values) - 2)).astype(int)
    at = scale[before] + (steps - before) * np.diff(scale)[before]
    return np.exp(at) if is_geometric(values) else at


def _fits(line: np.ndarray, moves: np.ndarray, x: "xarray.DataArray", y: "xarray.DataArray") -> dict[str, float]:
    """Straight line and power law through one branch, and how they differ from seed to seed."""
    slope, intercept = _straight(*_placed([line], None, x, y))
    exponent, logarithm = _straight(*_logarithms(line, None, x, y))
    whole = [shift for shift in moves if np.isfinite(shift).all()]
    slopes = [_straight(*_placed([line], shift, x, y))[0] for shift in whole]
    exponents = [_straight(*_logarithms(line, shift, x, y))[0] for shift in whole]
    spread = lambda values: float(np.std(values, ddof=1)) if len(values) > 1 else np.nan
    fits = {
        "slope": slope,
        "slope_error": spread(slopes),
        "intercept": intercept,
        "exponent": exponent,
        "exponent_error": spread(exponents),
        "prefactor": float(np.exp(logarithm)),
    }
    shares = {
        "slope_r2": _explained(*_placed([line], None, x, y)),
        "exponent_r2": _explained(*_logarithms(line, None, x, y)),
    }
    return (dict.fromkeys(fits, np.nan) if _lines.is_arch(line) else fits) | shares


def _logarithms(
    line: np.ndarray, shift: np.ndarray | None, x: "xarray.DataArray", y: "xarray.DataArray"
) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of |x| and |y| along a branch, of which a power law is a straight line; NaN if a sign changes."""
    kept = _off_zero(x.values, line[:, 0]) & _off_zero(y.values, line[:, 1])
    xs, ys = (values[kept] for values in _placed([line], shift, x, y))
    if any(len(set(np.sign(values))) != 1 or (values == 0).any() for values in (xs, ys)):
        return np.full(1, np.nan), np.full(1, np.nan)
    return np.log(np.abs(xs)), np.log(np.abs(ys))


def _off_zero(values: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Which points are at least half a grid step from the zero of an axis, if it has one."""
    if not values[0] <= 0 <= values[-1]:
        return np.ones(len(steps), bool)
    return np.abs(steps - np.interp(0.0, values, np.arange(len(values)))) >= 0.5


def _straight(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of the least-squares line; NaN if all x are the same."""
    from_mean = x - x.mean()
    spread = (from_mean**2).sum()
    # Rounding of a line straight up is no spread.
    if spread <= (1e-9 * np.abs(x).max()) ** 2 * len(x):
        return np.nan, np.nan
    slope = (from_mean * y).sum() / spread
    return float(slope), float(y.mean() - slope * x.mean())


def _explained(x: np.ndarray, y: np.ndarray) -> float:
    """The share of the variance of y that the least-squares line explains; NaN if there is none."""
    slope, intercept = _straight(x, y)
    varied = ((y - y.mean()) ** 2).sum()
    return float(1 - ((y - slope * x - intercept) ** 2).sum() / varied) if varied > 0 else np.nan
