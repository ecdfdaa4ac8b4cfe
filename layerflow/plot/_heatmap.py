"""Heat maps of two-dimensional diagrams."""

from typing import TYPE_CHECKING, Any

import numpy as np

from layerflow.diagrams._array import across_and_up, chosen, is_geometric, is_numeric, label, verbatim, without_single
from layerflow.diagrams._classes import classes_of
from layerflow.plot._data import axes_or_new, tick_at_values

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes


_GREY = 0.75  # of infinite cells: between the dark and the light end of the scale, and without its hue


def heatmap(
    data: "xarray.Dataset | xarray.DataArray",
    variable: str | None = None,
    *,
    x: str | None = None,
    y: str | None = None,
    log: bool = False,
    vmin: float | None = None,
    vmax: float | None = None,
    cmap: str = "viridis",
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw a diagram over two of its axes.

    A variable of classes, as `lf.phase` gives and as `status` is, has a colour for each class that is there,
    named beside it. Failed cells, which are NaN, are hatched, and infinite ones (a level never reached, say) are grey.
    On a logarithmic scale every positive value has its true colour, however small; nothing is added
    to it. Values of zero or below take the colour of the low end, which the colour bar then shows as
    open.

    Args:
        data: A diagram, or one variable of it, of two dimensions once reduced.
        variable: Which variable of a diagram.
        x, y: Dimensions across and up; the last and the first if not given.
        log: Logarithmic colour scale, not of classes.
        vmin, vmax: Ends of the colour scale, not of classes; those of the data if not given.
        cmap: A matplotlib colour map. The default reads in grey and to the colour-blind.
        ax: Where to draw; a new figure if not given.

    Returns:
        The matplotlib Axes.

    Raises:
        ValueError: If `data` does not have two dimensions, `x` or `y` is none of them, or classes are given a scale.

    Example:
        >>> import numpy as np, xarray as xr, layerflow as lf
        >>> diagram = xr.DataArray(np.ones((3, 4)), dims=("lam", "scale"), name="loss")
        >>> lf.plot.heatmap(diagram).get_ylabel()
        'lam'
    """
    array = chosen(data, variable)
    if array.ndim > 2:
        array = without_single(array, (x, y))
    if array.ndim != 2:
        reduced = ".isel(seed=0)" if classes_of(array) else f'diagram.{array.name}.mean("seed")'
        raise ValueError(
            f"A heat map needs two dimensions, but `{array.name}` has {array.ndim}: {dict(array.sizes)}. Reduce the "
            f"others first, as in {reduced} or .isel(t=-1)."
        )
    x, y = across_and_up(array, x, y)
    array = array.transpose(y, x)
    for dim in (x, y):
        values = array[dim].values
        if is_numeric(values) and not (np.all(np.diff(values) > 0) or np.all(np.diff(values) < 0)):
            array = array.sortby(dim)
    ax = axes_or_new(ax)
    # The hatched ground shows through wherever a cell has no value.
    ax.patch.set(facecolor="white", edgecolor="0.55", hatch="////", linewidth=0)
    edges = _positions(ax, array, x, "x"), _positions(ax, array, y, "y")
    bar_how: dict[str, Any]
    if classes := classes_of(array):
        if log or vmin is not None or vmax is not None:
            raise ValueError(f"`{array.name}` holds classes, which have no scale: leave out log, vmin and vmax.")
        values, how, bar_how = _classed(np.asarray(array.values, float), classes, cmap)
    else:
        values, norm, extend = _scaled(np.asarray(array.values, float), log, vmin, vmax)
        how, bar_how = {"norm": norm, "cmap": _with_ends(cmap)}, {"extend": extend}
    mesh = ax.pcolormesh(*edges, values, **how, rasterized=True)
    infinite = np.isinf(values)
    if infinite.any():
        ax.pcolormesh(*edges, np.where(infinite, _GREY, np.nan), vmin=0, vmax=1, cmap="gray", rasterized=True)
    ax.grid(False)
    bar = ax.figure.colorbar(mesh, ax=ax, **bar_how)
    bar.set_label(label(array))
    if classes:
        bar.minorticks_off()
    _explain(ax, failed=bool(np.isnan(values).any()), infinite=bool(infinite.any()))
    return ax


def _positions(ax: "Axes", array: "xarray.DataArray", dim: str, direction: str) -> np.ndarray:
    """Where the cells lie along one dimension; labels and scales that axis of the picture."""
    values = array[dim].values
    ax.set(**{f"{direction}label": label(array[dim])})
    if not is_numeric(values):
        ax.set(**{f"{direction}ticks": range(len(values)), f"{direction}ticklabels": list(map(verbatim, values))})
        return np.arange(len(values) + 1) - 0.5
    if is_geometric(values):
        ax.set(**{f"{direction}scale": "log"})
    tick_at_values(ax, direction, values)
    return _edges(values, is_geometric(values))


def _edges(values: np.ndarray, geometric: bool) -> np.ndarray:
    """Cell boundaries halfway between the values."""
    if len(values) == 1:
        return np.array([values[0] - 0.5, values[0] + 0.5])
    scale = np.log(values) if geometric else np.asarray(values, float)
    middle = 0.5 * (scale[1:] + scale[:-1])
    edges = np.concatenate([[2 * scale[0] - middle[0]], middle, [2 * scale[-1] - middle[-1]]])
    return np.exp(edges) if geometric else edges


def _scaled(values: np.ndarray, log: bool, vmin: float | None, vmax: float | None) -> tuple[np.ndarray, Any, str]:
    """Values with their colour scale, and at which ends it is open."""
    from matplotlib.colors import LogNorm, Normalize

    seen = values[np.isfinite(values) & (values > 0)] if log else values[np.isfinite(values)]
    if seen.size == 0:
        return values, None, "neither"
    low = seen.min() if vmin is None else vmin
    high = max(low, seen.max()) if vmax is None else vmax
    if log and not low > 0:
        raise ValueError(f"A logarithmic scale needs vmin above 0, but it is {vmin}.")
    if low == high:
        low, high = (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
    extends = {(True, True): "both", (True, False): "min", (False, True): "max", (False, False): "neither"}
    finite = values[np.isfinite(values)]
    extend = extends[bool((finite < low).any()), bool((finite > high).any())]
    if log:
        values = np.where(values <= 0, low * 1e-3, values)
    return values, (LogNorm if log else Normalize)(low, high), extend


def _classed(
    values: np.ndarray, classes: dict[int, str], cmap: str
) -> tuple[np.ndarray, dict[str, Any], dict[str, Any]]:
    """Numbers of the classes that are there, how to draw these, and how to name them beside."""
    import matplotlib as mpl
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.ticker import FixedFormatter

    there = [code for code in sorted(classes) if (values == code).any()]
    numbers = np.full(values.shape, np.nan)
    for number, code in enumerate(there):
        numbers[values == code] = number
    names = [verbatim(classes[code].replace("_", " ")) for code in there]
    shades = ListedColormap(mpl.colormaps[cmap](np.linspace(0.0, 0.9, len(there)))).with_extremes(bad=(0, 0, 0, 0))
    how = {"norm": BoundaryNorm(np.arange(len(there) + 1) - 0.5, len(there)), "cmap": shades}
    return numbers, how, {"ticks": range(len(there)), "format": FixedFormatter(names), "drawedges": True}


def _with_ends(cmap: str) -> Any:
    """The colour map with NaN left transparent, so that the hatching shows."""
    import matplotlib as mpl

    return mpl.colormaps[cmap].with_extremes(bad=(0, 0, 0, 0))


def _explain(ax: "Axes", *, failed: bool, infinite: bool) -> None:
    """A legend of what has no colour of the scale."""
    from matplotlib.patches import Patch

    patches = []
    if failed:
        patches.append(Patch(facecolor="white", edgecolor="0.55", hatch="////", label="failed"))
    if infinite:
        patches.append(Patch(facecolor=str(_GREY), edgecolor="0.55", label="infinite"))
    if patches:
        ax.legend(handles=patches, loc="upper right", framealpha=0.9)
