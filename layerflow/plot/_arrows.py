"""Functions as arrows: how features move in function space."""

from typing import TYPE_CHECKING, Any

import numpy as np

from layerflow.diagrams._array import chosen, label, verbatim
from layerflow.plot._data import PALETTE, axes_or_new

if TYPE_CHECKING:
    import xarray
    from jaxtyping import ArrayLike
    from matplotlib.axes import Axes

ALIGNED, AGAINST = PALETTE[:2]
_GREY = "0.35"
_PALE = 0.35  # of the start
LEVELS = {"start": 1.0, "end": 0.0}  # heights of arrows that lie along a line
BELOW = -0.3  # of the level, where the target is


def arrows(
    data: "xarray.Dataset | xarray.DataArray",
    variable: str | None = None,
    *,
    target: "ArrayLike | None" = None,
    coordinate: str = "coordinate",
    ends: bool = True,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw functions as arrows from the origin of function space: where they start, their way, where they end.

    A feature h_k(x) = sum_i h_ki e_i(x) is an arrow with the coordinates h_k, the output f = sum_k h_k their sum, and
    the target a point. In the plane, starts are pale and ends full, with the way of the tip between; along
    a line, starts lie above and ends below. With a target, blue is what starts along it, h . S > 0, and vermilion
    what starts against it.

    Args:
        data: A diagram, or one variable of it: the coordinates of one or more functions, over time or at
            one moment.
        variable: Which variable of a diagram.
        target: Coordinates of the target S, as many as the functions have.
        coordinate: Dimension of the coordinates, of size 1 or 2; a variable without it lies along a line.
        ends: Draw the arrows at the end; without them the plane shows the starts and the way alone.
        ax: Where to draw; a new figure if not given.

    Returns:
        The matplotlib Axes.

    Raises:
        ValueError: If there are more than two coordinates, dimensions are left over, or `target` does not have
            the same coordinates.

    Example:
        >>> import numpy as np, xarray as xr, layerflow as lf
        >>> turning = np.stack([[[1.0, 0.0], [-1.0, 0.0]], [[1.0, 1.0], [0.0, 0.5]]])
        >>> features = xr.DataArray(turning, dims=("t", "feature", "coordinate"))
        >>> ax = lf.plot.arrows(features, target=[1.0, 1.5])
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['aligned', 'anti-aligned', 'start', 'end', 'target']

    References:
        Nam et al. (2025), arXiv:2502.21009, Figures 7 and 9.
    """
    array, ax = chosen(data, variable), axes_or_new(ax)
    draw_arrows(ax, array, target=target, coordinate=coordinate, ends=ends)
    in_plane = array.sizes.get(coordinate) == 2
    if in_plane:
        names = [f"{label(array[coordinate])} {verbatim(value)}" for value in array[coordinate].values]
        ax.set(xlabel=names[0], ylabel=names[1])
    else:
        ax.set(xlabel=label(array))
    if key := key_of_arrows(ax, moves=in_plane and ends and _time_of(array) is not None):
        ax.legend(handles=key, framealpha=0.9)
    return ax


def draw_arrows(
    ax: "Axes",
    array: "xarray.DataArray",
    *,
    target: "ArrayLike | None" = None,
    coordinate: str = "coordinate",
    ends: bool = True,
) -> None:
    """The arrows and the target, with limits that hold them all; neither labels nor a legend.

    With ends=False the plane has arrows at the start alone, to look at it closely.
    """
    paths = _paths(array, coordinate)
    goal = None if target is None else np.atleast_1d(np.asarray(target, float))
    if goal is not None and goal.shape != paths.shape[2:]:
        raise ValueError(
            f"Argument `target` needs the coordinates of a function as `{array.name}` has them, shape "
            f"{paths.shape[2:]}, but it has shape {goal.shape}."
        )
    colours = [ALIGNED if goal is None or path[0] @ goal > 0 else AGAINST for path in paths]
    if paths.shape[2] == 2:
        _draw_in_plane(ax, paths, colours, goal, ends=ends)
    else:
        _draw_along_line(ax, paths, colours, goal)
    ax.axvline(0.0, color="0.8", linewidth=0.6, zorder=0)


def key_of_arrows(ax: "Axes", *, moves: bool) -> list[Any]:
    """Handles of a legend: the two colours, what pale and full are where arrows move, and what `ax` labels."""
    from matplotlib.patches import Patch

    labelled, _ = ax.get_legend_handles_labels()
    colours = [Patch(color=ALIGNED, label="aligned"), Patch(color=AGAINST, label="anti-aligned")]
    moments = [Patch(color=_GREY, alpha=_PALE, label="start"), Patch(color=_GREY, label="end")]
    return [*(colours if any(h.get_label() == "target" for h in labelled) else []), *(moments * moves), *labelled]


def _time_of(array: "xarray.DataArray") -> str | None:
    """The dimension of time, if there is one."""
    return next((str(dim) for dim in array.dims if dim in ("t", "step")), None)


def _paths(array: "xarray.DataArray", coordinate: str) -> np.ndarray:
    """Coordinates of every function over time, shape (function, t, coordinate)."""
    time = _time_of(array)
    array = array if coordinate in array.dims else array.expand_dims(coordinate)
    array = array.expand_dims("t") if time is None else array.rename({time: "t"})
    left = [str(dim) for dim in array.dims if dim not in (coordinate, "t")]
    if array.sizes[coordinate] > 2:
        raise ValueError(
            f"Arrows lie along a line or in a plane, but `{array.name}` has {array.sizes[coordinate]} coordinates. "
            f"Select two, as in .isel({coordinate}=[0, 1])."
        )
    if len(left) > 1:
        raise ValueError(
            f"Arrows need one dimension beside time and `{coordinate}`, one function each, but `{array.name}` has "
            f"{', '.join(f'`{dim}`' for dim in left)}. Select or reduce, as in .isel({left[0]}=0)."
        )
    return array.transpose(*left, "t", coordinate).values.reshape(-1, array.sizes["t"], array.sizes[coordinate])


def _draw_in_plane(ax: "Axes", paths: np.ndarray, colours: list[Any], target: np.ndarray | None, *, ends: bool) -> None:
    """Arrows at the start, pale, and at the end, and the way of their tips."""
    for path, colour in zip(paths, colours, strict=True):
        ax.plot(*path.T, color=colour, linewidth=1.0)
        if len(path) > 1:
            _arrow(ax, (0.0, 0.0), path[0], width=0.02, color=colour, alpha=_PALE)
        if ends:
            _arrow(ax, (0.0, 0.0), path[-1], width=0.011, color=colour)
    if target is not None:
        ax.plot(*target, "o", color="black", markersize=6, label="target", zorder=3)
    limits = _limits(paths, target)
    ax.set(xlim=limits, ylim=limits, aspect="equal")
    ax.axhline(0.0, color="0.8", linewidth=0.6, zorder=0)


def _draw_along_line(ax: "Axes", paths: np.ndarray, colours: list[Any], target: np.ndarray | None) -> None:
    """Arrows at the start above, at the end below, side by side."""
    moments = {"start": 0, "end": -1} if paths.shape[1] > 1 else {"end": 0}
    beside = np.linspace(-BELOW, BELOW, len(paths) + 2)[1:-1]
    for name, moment in moments.items():
        for tip, height, colour in zip(paths[:, moment, 0], LEVELS[name] + beside, colours, strict=True):
            _arrow(ax, (0.0, height), (tip, 0.0), width=0.012, color=colour)
    levels = [LEVELS[name] for name in moments]
    if target is not None:
        at = [level + BELOW for level in levels]
        ax.plot(np.repeat(target, len(at)), at, "o", color="black", markersize=5, label="target")
    ax.set(xlim=_limits(paths, target), ylim=(-0.5, max(levels) + 0.5))
    ax.set_yticks(levels if len(moments) > 1 else [], list(moments) if len(moments) > 1 else [])
    ax.tick_params(axis="y", length=0)
    if len(moments) > 1:
        ax.axhline(0.5, color="0.8", linewidth=0.6, zorder=0)


def _limits(paths: np.ndarray, target: np.ndarray | None) -> tuple[float, float]:
    """Where an axis begins and ends: about all there is, with the origin inside."""
    reached = np.append(paths.ravel(), 0.0 if target is None else target)
    reach = float(np.nanmax(np.abs(reached))) or 1.0
    low, high = (float(end(reached, initial=0.0)) for end in (np.nanmin, np.nanmax))
    return min(low - 0.12 * reach, -0.15 * reach), max(high + 0.12 * reach, 0.15 * reach)


def _arrow(ax: "Axes", tail: Any, way: Any, **how: Any) -> None:
    """An arrow in the units of the axes."""
    ax.quiver(*tail, *way, angles="xy", scale_units="xy", scale=1.0, **how)
    # A legend looks for room beside lines alone.
    ax.plot([tail[0], tail[0] + way[0]], [tail[1], tail[1] + way[1]], linewidth=0)
