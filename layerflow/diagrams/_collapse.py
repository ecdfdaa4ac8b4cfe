"""The power of a size that makes the boundaries of several sizes one line."""

from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import xarray

_SHARED = 0.5  # of the shorter of two lines of neighbouring sizes: less overlap fits by chance
_TRIED = 101  # exponents, before the best is made exact
_SAMPLES = 64  # points of a common range


class _Line(NamedTuple):
    """One boundary in logarithms, by rising values of the rescaled axis `u`; `v` is the other one."""

    log_size: float
    u: np.ndarray
    v: np.ndarray
    error: np.ndarray  # by how much one standard error moves u and v, shape (2, points); NaN without seeds


def collapse(
    boundaries: "Mapping[Any, xarray.Dataset] | Sequence[xarray.Dataset]",
    by: str = "size",
    *,
    axis: str | None = None,
    branch: int = 0,
) -> "xarray.Dataset":
    """Find the power of a size by which the boundaries of several sizes fall on one line: a scaling collapse.

    For lines y = F(x * size^p) of one function F, the exponent p is where lines differ least. In u = log(x) +
    p log(size) and v = log(y), each linear between its points, the measure is the mean square of v_i - v_j over the
    common ranges of all pairs of lines,

        S(p)^2 = sum_{i<j} integral (v_i(u) - v_j(u))^2 du / sum_{i<j} (length of the common range),

    least among the p at which lines of neighbouring sizes share half of the shorter of both or more, since lines that
    hardly overlap agree by chance.

    The error of p is a standard deviation. If every line has a band of two seeds or more it is by propagation: every
    line is moved as a whole, towards an edge of its band, by the standard error that normal seeds of these quartiles
    give its mean, and changes of p add in squares. Seeds whose noise is independent along a line make less than that.
    Otherwise it is the jackknife's over lines, for which each of three or more sizes is left out once. Neither knows
    corrections to scaling: leave out the smallest size, and see whether p moves by more than its error. `quality` far
    above the noise of the lines says the same. Lines between classes are made of whole cells; where a variable has the
    same line at a level, that one is finer.

    Args:
        boundaries: What `boundary` returned for each size, of equal axes: by size, {200: line, ...}, or a
            sequence of Datasets with a scalar coordinate called `by`.
        by: What the size is called in the result.
        axis: The axis to rescale, x of the boundaries if not given. With the name of their y it is
            x = F(y * size^p).
        branch: Which branch of each boundary to take, 0 for the longest.

    Returns:
        Dataset whose lines run along `point`, one after the other by size, with both axes as they were and
        `by` as coordinates, and `rescaled`, axis * size^p. Scalars are `exponent`, which is p, `exponent_error` and
        `quality`, the root of S^2: the distance of two lines in log(y), 0 for a perfect collapse. Its attribute
        `error_from` says "seeds" or "jackknife".

    Raises:
        TypeError: If `boundaries` is neither a mapping nor a sequence, or one of them is no Dataset.
        ValueError: If one is no boundary, their axes differ, or `axis` is none of them; if there are fewer than two
            sizes, three without seeds, or these are not positive, equal or missing; if a line has no such
            branch, turns back along `axis`, or has a value that is not positive; if lines do not overlap at any
            exponent, or are too level or too short to tell one.

    Example:
        >>> import numpy as np, xarray as xr, layerflow as lf
        >>> lines = {}
        >>> for width in (10, 100):
        ...     scale, target = np.geomspace(1e-3, 1, 25), np.geomspace(0.1, 1, 9)
        ...     excess = np.log(target)[:, None] - np.log(scale * width)
        ...     field = xr.DataArray(excess, {"target": target, "scale": scale}, name="excess")
        ...     lines[width] = lf.boundary(field.expand_dims(seed=2), 0.0)
        >>> found = lf.collapse(lines, by="width")
        >>> print(f"{found.exponent:.4f}")
        1.0000

    References:
        Bhattacharjee and Seno (2001), J. Phys. A 34, 6375, arXiv:cond-mat/0102515, for such measures.
    """
    sized = _by_size(boundaries, by)
    x, y = _axes(sized)
    axis = x if axis is None else axis
    if axis not in (x, y):
        raise ValueError(f"Argument `axis` names the axis to rescale, `{x}` or `{y}`, but it is {axis!r}.")
    if by in (x, y) or {by, x, y} & {"rescaled", "exponent", "exponent_error", "quality", "point"}:
        raise ValueError(
            f"The names `{x}`, `{y}` and by={by!r} need to differ from each other and from those of the result, "
            "point, rescaled, exponent, exponent_error and quality. Rename an axis, or give another `by`."
        )
    kept = {size: _branch(line, branch, size) for size, line in sized.items()}
    lines = [_logarithms(line, size, axis, y if axis == x else x) for size, line in kept.items()]
    by_seeds = all(np.isfinite(line.error).all() for line in lines)
    if not by_seeds and len(lines) < 3:
        raise ValueError(
            "Two sizes give no error of the exponent unless both lines have seeds. Add a third size, or sweep with "
            "seeds=, two or more."
        )
    exponent = _exponent(lines)
    error = _propagated(lines, exponent) if by_seeds else _jackknife(lines, exponent)
    found = {"exponent": exponent, "exponent_error": error, "quality": float(np.sqrt(_spread(exponent, lines)))}
    return _dataset(kept, found, (x, y), axis, by, "seeds" if by_seeds else "jackknife")


def _by_size(boundaries: Any, by: str) -> "dict[float, xarray.Dataset]":
    """Boundaries by size, smallest first."""
    import xarray

    if isinstance(boundaries, xarray.Dataset) or not isinstance(boundaries, Mapping | Sequence):
        raise TypeError(
            "Argument `boundaries` needs one boundary per size, {200: lf.boundary(...), ...}, or a sequence of them, "
            f"but it is a {type(boundaries).__name__}."
        )
    given = list(boundaries.items()) if isinstance(boundaries, Mapping) else [(None, line) for line in boundaries]
    for _, line in given:
        if not isinstance(line, xarray.Dataset):
            raise TypeError(f"Each boundary is the Dataset that lf.boundary returns, but one is {type(line).__name__}.")
        if "point" not in line.dims or "branch" not in line.coords or not {"x", "y"} <= line.attrs.keys():
            held = ", ".join(map(str, line))
            raise ValueError(
                f"Each boundary is the Dataset that lf.boundary returns, but one holds {held!r} and no "
                "branches of points. Find the line of each size first, as in lf.boundary(diagram.loss, 1e-3)."
            )
    sizes = [_size(size, line, by) for size, line in given]
    if len(set(sizes)) < len(sizes) or len(sizes) < 2:
        raise ValueError(f"A collapse needs two or more different sizes, but {by} is {sizes}.")
    if not all(np.isfinite(size) and size > 0 for size in sizes):
        raise ValueError(f"Sizes are raised to a power and need to be positive and finite, but {by} is {sizes}.")
    return dict(sorted(zip(sizes, (line for _, line in given), strict=True), key=lambda pair: pair[0]))


def _size(size: Any, line: "xarray.Dataset", by: str) -> float:
    """The size of a boundary, by its key or its coordinate."""
    if size is None:
        if by not in line.coords or line[by].ndim > 0:
            raise ValueError(
                f"In a sequence each boundary needs a scalar coordinate `{by}`, but one has none. Add it, as in "
                f"line.assign_coords({by}=200), or give a mapping, {{200: line, ...}}."
            )
        size = line[by].item()
    if isinstance(size, bool) or not isinstance(size, int | float | np.integer | np.floating):
        raise TypeError(f"Sizes are numbers, but one {by} is {size!r}.")
    return float(size)


def _axes(sized: "Mapping[float, xarray.Dataset]") -> tuple[str, str]:
    axes = {size: (line.attrs["x"], line.attrs["y"]) for size, line in sized.items()}
    if len(set(axes.values())) > 1:
        raise ValueError(f"All boundaries need equal axes, across and up, but by size they are {axes}.")
    return next(iter(axes.values()))


def _branch(line: "xarray.Dataset", branch: int, size: float) -> "xarray.Dataset":
    kept = line.isel(point=(line.branch == branch).values)
    if kept.sizes["point"] < 2:
        raise ValueError(
            f"The boundary of size {size:g} has no branch {branch} of two points or more; its branches are "
            f"{sorted({*line.branch.values.tolist()})}, the longest 0."
        )
    return kept


def _logarithms(line: "xarray.Dataset", size: float, axis: str, other: str) -> _Line:
    """A line by rising values of the rescaled axis, or why it has no such logarithms."""
    for name in (axis, other):
        if not (line[name] > 0).all():
            raise ValueError(
                f"A collapse is one of logarithms and needs positive axes, but `{name}` comes down to "
                f"{float(line[name].min()):.3g} at size {size:g}. Select one side first, as in "
                f"diagram.sel({name}=slice(1e-3, None)), or measure from where the axis turns."
            )
    u, v = (np.log(line[name].values) for name in (axis, other))
    if np.abs(np.diff(u)).sum() > 1.5 * np.ptp(u) or np.ptp(u) == 0:
        raise ValueError(
            f"The boundary of size {size:g} is no function of `{axis}`: it turns back or runs straight across it. "
            f'Rescale the other axis, axis="{other}", or select a part.'
        )
    order = np.argsort(u, kind="stable")
    return _Line(float(np.log(size)), u[order], v[order], _standard_error(line, axis, other)[:, order])


def _standard_error(line: "xarray.Dataset", axis: str, other: str) -> np.ndarray:
    """By how much the mean over seeds moves the logarithms, from the quartiles; NaN without seeds.

    Of n normal seeds the third quartile is expected at the normal quantile of (0.75 (n - 1) + 0.625) / (n + 0.25),
    Blom's rule.
    """
    from scipy.special import ndtri

    seeds = np.where(line.num_seeds > 1, line.num_seeds, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):  # a band may reach below the axis
        wide = [np.log(line[f"{name}_high"].values / line[f"{name}_low"].values) for name in (axis, other)]
    error = 0.5 * np.array(wide) / (ndtri((0.75 * (seeds - 1) + 0.625) / (seeds + 0.25)) * np.sqrt(seeds))
    known = np.isfinite(error).all(axis=0)
    mean = error[:, known].mean(axis=1, keepdims=True) if known.any() else np.full((2, 1), np.nan)
    return np.where(known, error, mean)


def _exponent(lines: Sequence[_Line]) -> float:
    """Where the spread is least."""
    from scipy.optimize import minimize_scalar

    low, high = _overlapping(lines)
    tried = np.linspace(low, high, _TRIED)
    best = int(np.argmin([_spread(p, lines) for p in tried]))
    if best in (0, _TRIED - 1):
        raise ValueError(
            f"The lines tell no exponent: they differ least at {tried[best]:.3g}, where they hardly overlap. Lines "
            "that run level along the rescaled axis are the same at any exponent: rescale the other axis, or widen the "
            "axes until lines bend or are longer."
        )
    found: Any = minimize_scalar(
        _spread, bounds=(tried[best - 1], tried[best + 1]), args=(lines,), method="bounded", options={"xatol": 1e-9}
    )
    return float(found.x)


def _overlapping(lines: Sequence[_Line]) -> tuple[float, float]:
    """The exponents at which lines of neighbouring sizes share enough."""
    ends = []
    for one, two in pairwise(lines):
        apart, least = two.log_size - one.log_size, _SHARED * min(np.ptp(one.u), np.ptp(two.u))
        ends.append([(one.u[0] + least - two.u[-1]) / apart, (one.u[-1] - least - two.u[0]) / apart])
    low, high = max(end[0] for end in ends), min(end[1] for end in ends)
    if low >= high:
        sizes = ", ".join(f"{np.exp(line.log_size):g}" for line in lines)
        raise ValueError(
            f"At no exponent do the lines of sizes {sizes} overlap, each with the next over half of the shorter one. "
            "Widen the axes, or leave out sizes whose line is a piece."
        )
    return low, high


def _spread(p: float, lines: Sequence[_Line]) -> float:
    """S^2, the mean square of the difference of two lines on the range that they share."""
    moved = [(line.u + p * line.log_size, line.v) for line in lines]
    squares = length = 0.0
    for (u, v), (other_u, other_v) in combinations(moved, 2):
        low, high = max(u[0], other_u[0]), min(u[-1], other_u[-1])
        if low < high:
            at = np.linspace(low, high, _SAMPLES)
            squares += (high - low) * np.mean((np.interp(at, u, v) - np.interp(at, other_u, other_v)) ** 2)
            length += high - low
    return squares / length if length > 0 else np.inf


def _propagated(lines: Sequence[_Line], exponent: float) -> float:
    """The error of the exponent from the lines' own."""

    def moved(k: int, sign: float) -> float:
        line = lines[k]
        u, v = (at + sign * error for at, error in zip((line.u, line.v), line.error, strict=True))
        order = np.argsort(u, kind="stable")
        return _nearby([*lines[:k], line._replace(u=u[order], v=v[order]), *lines[k + 1 :]], exponent)

    return float(np.hypot.reduce([0.5 * (moved(k, 1.0) - moved(k, -1.0)) for k in range(len(lines))]))


def _jackknife(lines: Sequence[_Line], exponent: float) -> float:
    """The error of the exponent from those with one line left out."""
    without = [_nearby([*lines[:k], *lines[k + 1 :]], exponent) for k in range(len(lines))]
    return float(np.sqrt((len(lines) - 1) * np.var(without)))


def _nearby(lines: Sequence[_Line], exponent: float) -> float:
    """Where the spread of lines that have changed a little is least, from where it was."""
    from scipy.optimize import minimize_scalar

    found: Any = minimize_scalar(_spread, bracket=(exponent - 1e-2, exponent + 1e-2), args=(lines,), tol=1e-6)
    return float(found.x)


def _dataset(
    kept: "Mapping[float, xarray.Dataset]",
    found: Mapping[str, float],
    axes: tuple[str, str],
    axis: str,
    by: str,
    error_from: str,
) -> "xarray.Dataset":
    import xarray

    data: dict[str, Any] = {}
    sizes = np.concatenate([np.full(line.sizes["point"], size) for size, line in kept.items()])
    first = next(iter(kept.values()))
    for name in axes:
        data[name] = ("point", np.concatenate([line[name].values for line in kept.values()]), first[name].attrs)
    words = f"{first[axis].attrs.get('long_name', axis)} × {by}^{found['exponent']:.3g}"
    data |= {
        by: ("point", sizes),
        "rescaled": ("point", data[axis][1] * sizes ** found["exponent"], {"long_name": words}),
    }
    facts = {"x": axes[0], "y": axes[1], "axis": axis, "by": by, "error_from": error_from}
    result = xarray.Dataset(data | {name: ((), value) for name, value in found.items()}, attrs=facts)
    return result.set_coords([*axes, by])
