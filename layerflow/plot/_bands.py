"""The middle of an ensemble as a line, and how far it spreads as a band."""

from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from layerflow.plot._data import axes_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Spread = Literal["quartiles", "deviation", "range"]


def check_spread(spread: str) -> None:
    """Raise unless `spread` names a kind of band."""
    if spread not in get_args(Spread):
        names = ", ".join(f'"{name}"' for name in get_args(Spread))
        raise ValueError(f"Argument `spread` is one of {names}, but it is {spread!r}.")


def low_middle_high(values: np.ndarray, spread: Spread) -> np.ndarray:
    """Of the members, along the first axis: edges of the band and the line between, shape (3, x).

    NaN is left out, and stays where all members have it.
    """
    found = np.full((3, *values.shape[1:]), np.nan)
    seen = ~np.isnan(values).all(axis=0)
    members = values[:, seen]
    if spread == "deviation":
        middle, deviation = np.nanmean(members, axis=0), np.nanstd(members, axis=0)
        found[:, seen] = middle - deviation, middle, middle + deviation
    else:
        found[:, seen] = np.nanquantile(members, [0.0, 0.5, 1.0] if spread == "range" else [0.25, 0.5, 0.75], axis=0)
    return found


def band(
    x: Any,
    values: Any,
    *,
    spread: Spread = "quartiles",
    ax: "Axes | None" = None,
    **line: Any,
) -> "Axes":
    """Draw the members of an ensemble as a line and a paler band; a single one has no band.

    Members that are NaN are left out.

    Args:
        x: Positions across, an array of shape (x,).
        values: The members, shape (members, x).
        spread: "quartiles" about the median, one standard "deviation" about the mean, or the "range" of all about
            the median.
        ax: Where to draw; a new figure if not given.
        **line: What else matplotlib takes for the line: `color`, which the band shares, `label` and so on.

    Returns:
        The matplotlib Axes.

    Raises:
        ValueError: If `spread` names no kind of band.

    Example:
        >>> import layerflow as lf
        >>> ax = lf.plot.band([0.0, 1.0], [[1.0, 2.0], [3.0, 4.0], [2.0, 9.0]], spread="range")
        >>> ax.lines[0].get_ydata().tolist()
        [2.0, 4.0]
    """
    check_spread(spread)
    ax = axes_or_new(ax)
    members = np.asarray(values, float)
    low, middle, high = low_middle_high(members, spread)
    (drawn,) = ax.plot(np.asarray(x), middle, **line)
    if len(members) > 1:
        ax.fill_between(np.asarray(x), low, high, color=drawn.get_color(), alpha=0.2, linewidth=0)
    return ax
