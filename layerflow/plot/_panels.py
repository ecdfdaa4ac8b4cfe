"""Heat maps of one diagram side by side."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from layerflow.diagrams._array import label
from layerflow.plot._boundary import boundary
from layerflow.plot._heatmap import heatmap

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure


_COLUMNS = 3  # more would be unreadable on a page


def panels(
    drawn: "Sequence[tuple[xarray.DataArray, Mapping[str, Any]]]",
    *,
    x: str,
    title: str = "",
    line: "xarray.Dataset | None" = None,
    columns: int = _COLUMNS,
) -> "Figure":
    """Draw heat maps side by side that share the vertical axis.

    Args:
        drawn: For each panel its values, of two dimensions, and what to tell `heatmap` besides.
        x: Dimension across.
        title: Above all.
        line: A boundary found in the first panel, to draw over every one.
        columns: Panels to a row.

    Returns:
        The matplotlib Figure.

    Example:
        >>> import numpy as np, xarray as xr, layerflow as lf
        >>> diagram = xr.Dataset({"loss": (("lam", "scale"), np.ones((3, 4)))})
        >>> figure = lf.plot.panels([(diagram.loss, {"log": True}), (2 * diagram.loss, {"cmap": "cividis"})], x="scale")
        >>> [ax.get_title() for ax in figure.axes if ax.get_title()]
        ['loss', 'loss']
    """
    from matplotlib.figure import Figure

    columns = min(len(drawn), columns)
    rows = -(-len(drawn) // columns)
    figure = Figure(figsize=(3.6 * columns, 0.4 + 2.8 * rows), layout="constrained")
    for number, (array, how) in enumerate(drawn):
        first = figure.axes[0] if number else None
        ax = figure.add_subplot(rows, columns, number + 1, sharey=first)
        heatmap(array, x=x, ax=ax, **how)
        ax.figure.axes[-1].set_ylabel("")  # the colour bar's: it would stand next to the other panel's axis
        told = ""
        if line is not None:
            boundary(line, ax=ax)
            # In the title of the panel it was found in: a legend would lie over the map.
            told = "" if number else f", line at {line.attrs['level']}"
        ax.set_title(f"{label(array)}{told}", fontsize="medium")
        if number % columns:
            ax.set_ylabel("")
            ax.tick_params(labelleft=False)
    if title:
        figure.suptitle(title, fontsize="medium")
    return figure
