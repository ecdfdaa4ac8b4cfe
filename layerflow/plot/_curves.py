"""Curves with bands over seeds."""

from typing import TYPE_CHECKING, Any

import numpy as np

from layerflow.diagrams._array import chosen, is_geometric, is_numeric, label, long_name, verbatim, without_single
from layerflow.plot import _bands
from layerflow.plot._bands import Spread, check_spread
from layerflow.plot._data import axes_or_new, colours, tick_at_values

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes

_MANY = 8  # lines, beyond which a colour bar says more than a legend


def curves(
    data: "xarray.Dataset | xarray.DataArray",
    variable: str | None = None,
    *,
    x: str | None = None,
    hue: str | None = None,
    band: str = "seed",
    spread: Spread = "quartiles",
    log: bool = False,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw a diagram as curves, one per value of `hue`, with a band over seeds.

    The line is the median over `band` and the band runs from the first to the third quartile, unless
    `spread` says otherwise; failed cells are left out.

    Args:
        data: A diagram, or one variable of it.
        variable: Which variable of a diagram.
        x: Dimension across; `t` or `step` if there, else the last but `band`.
        hue: Dimension told by colour; the remaining one if not given.
        band: Dimension of the ensemble, where the data have it.
        spread: "quartiles" about the median, one standard "deviation" about the mean, or the "range" of all
            about the median.
        log: Logarithmic vertical axis.
        ax: Where to draw; a new figure if not given.

    Returns:
        The matplotlib Axes.

    Raises:
        ValueError: If dimensions are left over, or one named is not there; if there is no such `spread`.

    Example:
        >>> import numpy as np, xarray as xr, layerflow as lf
        >>> paths = xr.DataArray(np.ones((2, 5)), dims=("mode", "t"), name="strength")
        >>> len(lf.plot.curves(paths).lines)
        2
    """
    check_spread(spread)
    array = without_single(chosen(data, variable), (x, hue, "t", "step"))
    x, hue = _across_and_hue(array, x, hue, band)
    ax = axes_or_new(ax)
    across = array[x].values
    positions = across if is_numeric(across) else np.arange(len(across))
    names = array[hue].values if hue is not None else np.array([""])
    ramp = hue is not None and is_numeric(names) and len(names) > _MANY
    for i, (name, colour) in enumerate(zip(names, colours(names), strict=True)):
        line = array if hue is None else array.isel({hue: i})
        members = line if band in line.dims else line.expand_dims(band)
        text = None if hue is None or ramp else _name(array[hue], name)
        _bands.band(positions, members.transpose(band, x), ax=ax, color=colour, spread=spread, label=text)
    ax.set(xlabel=label(array[x]), ylabel=label(array))
    if not is_numeric(across):
        ax.set(xticks=positions, xticklabels=list(map(verbatim, across)))
    elif is_geometric(across):
        ax.set_xscale("log")
        tick_at_values(ax, "x", across)
    if log:
        ax.set_yscale("log")
    if ramp:
        _colour_bar(ax, array[hue])
    elif hue is not None:
        ax.legend()
    return ax


def _name(hue: "xarray.DataArray", value: Any) -> str:
    """A line in the legend."""
    if not is_numeric(hue.values):
        return verbatim(value)
    units = hue.attrs.get("units", "1")
    return f"{long_name(hue)} = {value:.3g}{'' if units == '1' else f' {units}'}"


def _across_and_hue(array: "xarray.DataArray", x: str | None, hue: str | None, band: str) -> tuple[str, str | None]:
    """The dimension across and the one told by colour."""
    dims = [str(dim) for dim in array.dims if dim != band]
    for name in (x, hue):
        if name is not None and name not in array.dims:
            raise ValueError(
                f"`{name}` is no dimension of `{array.name}`, which has {', '.join(f'`{d}`' for d in array.dims)}."
            )
    if x is None:
        free = [dim for dim in dims if dim != hue]
        if not free:
            raise ValueError(f"`{array.name}` has no dimension to draw across besides `{band}`.")
        x = next((dim for dim in ("t", "step") if dim in free), free[-1])
    left = [dim for dim in dims if dim not in (x, hue)]
    if hue is None and len(left) == 1:
        hue, left = left[0], []
    if left:
        raise ValueError(
            f"Curves show one dimension across and one by colour, but {', '.join(f'`{d}`' for d in left)} "
            f"of `{array.name}` {'is' if len(left) == 1 else 'are'} left over. "
            f"Select or reduce it first, as in .isel({left[0]}=0)."
        )
    return x, hue


def _colour_bar(ax: "Axes", hue: "xarray.DataArray") -> None:
    """A colour bar in place of a long legend."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, ListedColormap

    values = hue.values
    colour_map = ListedColormap(colours(values))
    edges = np.concatenate([values[:1], 0.5 * (values[1:] + values[:-1]), values[-1:]]).astype(float)
    ax.figure.colorbar(ScalarMappable(BoundaryNorm(edges, len(values)), colour_map), ax=ax, label=label(hue))
