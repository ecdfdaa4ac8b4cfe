"""The middle of an ensemble as a line, and how far it spreads as a band."""

from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

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


def draw_band(ax: "Axes", x: Any, values: Any, *, color: Any, spread: Spread = "quartiles", **line: Any) -> None:
    """Draw members of shape (members, x) as a line and a band; a single one has no band.

    Args:
        ax: Where to draw.
        x: Positions across, shape (x,).
        values: The members, shape (members, x).
        color: Of the line, and of the band, which is paler.
        spread: "quartiles" about the median, one standard "deviation" about the mean, or the "range" of all about
            the median.
        **line: What else matplotlib takes for the line.
    """
    members = np.asarray(values, float)
    low, middle, high = low_middle_high(members, spread)
    ax.plot(x, middle, color=color, **line)
    if len(members) > 1:
        ax.fill_between(np.asarray(x), low, high, color=color, alpha=0.2, linewidth=0)
