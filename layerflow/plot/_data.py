"""From a diagram to what one picture shows."""

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from layerflow._diagram import RESERVED

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes

# Of Okabe and Ito, told apart by the colour-blind.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
_FEW = 6


def chosen(data: "xarray.Dataset | xarray.DataArray", variable: str | None) -> "xarray.DataArray":
    """The variable to draw, labelled even after reductions dropped its attributes."""
    import xarray

    if isinstance(data, xarray.DataArray):
        return data if variable is None else data.rename(variable)
    if not isinstance(data, xarray.Dataset):
        raise TypeError(
            f"A diagram is needed, the xarray.Dataset of lf.sweep or a variable of it, not a {type(data).__name__}."
        )
    measured = [name for name in data.data_vars if name not in RESERVED]
    if variable is None:
        if len(measured) != 1:
            raise ValueError(f"The diagram holds {', '.join(f'`{n}`' for n in measured)}: name one, variable=...")
        variable = str(measured[0])
    if variable not in data:
        raise ValueError(f"The diagram does not hold `{variable}`, only {', '.join(f'`{n}`' for n in data.data_vars)}.")
    return data[variable]


def without_single(array: "xarray.DataArray", keep: tuple[str | None, ...]) -> "xarray.DataArray":
    """`array` without dimensions of one value, except those asked for."""
    return array.squeeze([dim for dim in array.dims if array.sizes[dim] == 1 and dim not in keep], drop=True)


def across_and_up(array: "xarray.DataArray", x: str | None, y: str | None) -> tuple[str, str]:
    """The dimensions across and up: the last and the first, unless named."""
    first, last = map(str, array.dims)
    for name in (x, y):
        if name is not None and name not in array.dims:
            raise ValueError(f"`{name}` is no dimension of `{array.name}`, which has `{first}` and `{last}`.")
    if x is None:
        x = last if y in (None, first) else first
    if y is None:
        y = first if x == last else last
    if x == y:
        raise ValueError(f"Two different dimensions are needed, but `x` and `y` are both `{x}`.")
    return x, y


def tick_at_values(ax: "Axes", direction: str, values: np.ndarray) -> None:
    """Ticks where the values are, if they are few."""
    if len(values) <= _FEW:
        axis = ax.xaxis if direction == "x" else ax.yaxis
        axis.set_ticks(values, [f"{value:.3g}" for value in values])
        axis.set_ticks([], minor=True)


def label(array: "xarray.DataArray") -> str:
    """Long name and unit, as it stands on an axis."""
    units = _without_names(array, str(array.attrs.get("units", "1")))
    return long_name(array) if units in ("1", "") else f"{long_name(array)} ({units})"


def long_name(array: "xarray.DataArray") -> str:
    """What a variable or an axis is called in a picture."""
    given = array.attrs.get("long_name") or str(array.name or "").replace("_", " ")
    return _without_names(array, str(given))


def _without_names(array: "xarray.DataArray", text: str) -> str:
    """A long name or a unit, which may hold mathtext, with the names that a sweep makes them of taken literally."""
    names = str(array.name or "").removesuffix("_error").split("_d_")
    literal = {name for one in names for name in (one, one.replace("_", " ")) if "$" in name}
    pattern = "|".join(map(re.escape, sorted(literal, key=len, reverse=True)))
    return re.sub(pattern, lambda found: verbatim(found[0]), text) if literal else text


def verbatim(text: object) -> str:
    """Text that is drawn as it is: between two dollar signs Matplotlib would read it as mathematics."""
    return str(text).replace("$", r"\$")


def is_numeric(values: np.ndarray) -> bool:
    """Whether a coordinate can be drawn to scale."""
    return values.dtype.kind in "iuf"


def is_geometric(values: np.ndarray) -> bool:
    """Whether a coordinate is spaced evenly in its logarithm, and over a range that shows it."""
    values = np.asarray(values, float)
    if len(values) < 3 or values.min() <= 0 or values.max() < 5 * values.min():
        return False
    ratios = np.diff(np.log(values))
    return bool(np.allclose(ratios, ratios[0], rtol=1e-3))


def axes_or_new(ax: "Axes | None") -> "Axes":
    """The given Axes, or those of a new figure."""
    if ax is not None:
        if not hasattr(ax, "plot"):
            raise TypeError(
                f"Argument `ax` needs matplotlib Axes, as figure.subplots() gives, not {type(ax).__name__}."
            )
        return ax
    import matplotlib.pyplot as plt

    _, ax = plt.subplots(layout="constrained")
    return ax


def colours(values: np.ndarray) -> list[Any]:
    """One colour per line: a ramp for numbers, the palette of Okabe and Ito for names."""
    import matplotlib as mpl

    if is_numeric(values) and len(values) > 1:
        return [mpl.colormaps["viridis"](position) for position in np.linspace(0.0, 0.85, len(values))]
    return [PALETTE[i % len(PALETTE)] for i in range(len(values))]
