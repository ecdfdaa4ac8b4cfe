"""Boundaries drawn over heat maps."""

from typing import TYPE_CHECKING

import numpy as np

from layerflow.diagrams._array import label as axis_label
from layerflow.plot._data import axes_or_new

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D


def boundary(line: "xarray.Dataset", *, ax: "Axes | None" = None, label: str | None = None) -> "Axes":
    """Draw a boundary and its band, over a heat map of the same dimensions across and up.

    White with a dark outline, the line reads on any colour map, in print and to the colour-blind.

    Args:
        line: What `lf.boundary` returns.
        ax: Where to draw; a new figure if not given.
        label: What to call it in the legend, beside what stands there already.

    Returns:
        The matplotlib Axes.

    Raises:
        ValueError: If `line` is no boundary, or the heat map has its dimensions the other way round.

    Example:
        >>> import numpy as np, xarray as xr, layerflow as lf
        >>> field = xr.DataArray(np.subtract.outer(np.arange(4.0), np.arange(4.0)), dims=("lam", "scale"))
        >>> len(lf.plot.boundary(lf.boundary(field, 0.5)).lines)
        1
    """
    x, y = (line.attrs.get(name) for name in ("x", "y"))
    if x is None or y is None or "branch" not in line:
        raise ValueError("A boundary is needed, the Dataset that lf.boundary returns.")
    new, ax = ax is None, axes_or_new(ax)
    across, up = axis_label(line[x]), axis_label(line[y])
    if new:
        ax.set(xlabel=across, ylabel=up)
    elif (ax.get_xlabel(), ax.get_ylabel()) == (up, across) != (across, up):
        raise ValueError(
            f"The heat map has `{y}` across and `{x}` up, but the boundary was found with `{x}` across. Find it "
            f"the same way round: lf.boundary(..., x={y!r}, y={x!r})."
        )
    limits = ax.axis()
    if line.attrs["num_seeds"] > 1:
        for number in line.branch_number.values:
            _draw_band(ax, line.isel(point=line.branch.values == number), x, y)
    drawn = _draw_line(ax, line, x, y)
    if not new:
        ax.axis(limits)  # a band may reach past the last cells
    if label is not None:
        _add_to_legend(ax, drawn, label)
    return ax


def _draw_line(ax: "Axes", line: "xarray.Dataset", x: str, y: str) -> "Line2D":
    """All branches as one line with gaps, or the outline of one would cross the next where they meet."""
    from matplotlib.patheffects import Normal, Stroke

    gaps = np.flatnonzero(np.diff(line.branch.values)) + 1
    outline = [Stroke(linewidth=3.4, foreground="0.1"), Normal()]
    (drawn,) = ax.plot(
        *(np.insert(line[name].values, gaps, np.nan) for name in (x, y)),
        color="white",
        linewidth=1.6,
        solid_capstyle="round",
        path_effects=outline,
        zorder=3,
    )
    return drawn


def _draw_band(ax: "Axes", piece: "xarray.Dataset", x: str, y: str) -> None:
    """The band of one branch, in parts where no seed lies near."""
    edges = [np.stack([piece[f"{x}_{end}"], piece[f"{y}_{end}"]], axis=1) for end in ("low", "high")]
    for run in np.ma.clump_unmasked(np.ma.masked_invalid(edges[0][:, 0])):
        outline = np.concatenate([edges[0][run], edges[1][run][::-1]])
        ax.fill(*outline.T, facecolor="white", edgecolor="none", alpha=0.5, zorder=2.5)


def _add_to_legend(ax: "Axes", drawn: "Line2D", label: str) -> None:
    """One more entry, after those of a legend made by hand, as that of failed cells is."""
    old = ax.get_legend()
    entries = [] if old is None else list(zip(old.legend_handles, (t.get_text() for t in old.get_texts()), strict=True))
    handles, labels = zip(*entries, (drawn, label), strict=True)
    ax.legend(handles, labels, loc="best", framealpha=0.9)
