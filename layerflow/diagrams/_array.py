"""What a labelled array of a diagram is asked: its status, its names and labels, what of it is chosen."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from layerflow.methods import FAILURES, Status

if TYPE_CHECKING:
    import xarray

RESERVED = ("status", "num_steps", "end", "retried")
TAKEN = (*RESERVED, "failed")  # names that mean something of a diagram itself
RETRIED = {"long_name": "number of the retry that gave the cell, 0 if none did"}


def axes_of(diagram: "xarray.Dataset") -> tuple[Any, ...]:
    """The axes of a diagram, which are those of its status, or an error."""
    if "status" not in getattr(diagram, "data_vars", {}):
        raise ValueError(
            "A diagram as lf.sweep or lf.open_diagram returns it is needed, with its variable `status`, but a "
            f"{type(diagram).__name__} without one came."
        )
    return diagram["status"].dims


def status_of(diagram: "xarray.Dataset") -> "xarray.DataArray":
    """The status of every cell, or an error where something was computed with the codes."""
    axes_of(diagram)
    status = diagram["status"]
    if not _are_codes(status):
        raise ValueError(
            f"The variable `status` holds one code per cell (lf.Status), but here it holds numbers computed with "
            f"them, of dtype {status.dtype}, and a mean of codes is no code. Give the diagram as lf.sweep or "
            f"lf.open_diagram returned it, or a selection of it. The share of cells that failed is "
            f"diagram.failed.mean(...)."
        )
    return status


def _are_codes(status: "xarray.DataArray") -> bool:
    """Whether a status holds codes still. Those of sweeps are not read, as a store may hold many of them."""
    if status.dtype in (np.uint8, np.int8):  # the latter in a netCDF 3 file
        return True
    # Where cells are masked or added, xarray turns codes into float32 and NaN; means and the like are float64, and
    # may be whole numbers by chance.
    if status.dtype.kind not in "iu" and status.dtype != np.float32:
        return False
    return are_among(status.values, Status)


def are_among(values: np.ndarray, codes: Iterable[int]) -> bool:
    """Whether every number that is not NaN is one of the codes."""
    return bool(np.isin(values[~np.isnan(values)], list(codes)).all())


def has_failed(status: np.ndarray) -> np.ndarray:
    """Whether cells failed; those that are missing did not."""
    return np.isin(status, sorted(FAILURES))


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
    names = [str(name) for name in (array.name, array.attrs.get("of"), array.attrs.get("by")) if name]
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


def over_seeds(array: "xarray.DataArray", *, log: bool = False) -> "xarray.DataArray":
    """The mean over seeds: the geometric one for a logarithmic map, which one seed's values estimate.

    Args:
        array: A variable of a diagram, with the dimension `seed`.
        log: The geometric mean.

    Returns:
        The variable without `seed`, with its labels.

    Example:
        >>> import xarray as xr, layerflow as lf
        >>> loss = xr.DataArray([1.0, 100.0], dims="seed", name="loss")
        >>> float(lf.plot.over_seeds(loss)), round(float(lf.plot.over_seeds(loss, log=True)), 9)
        (50.5, 10.0)
    """
    if not log:
        return array.mean("seed", keep_attrs=True)
    with np.errstate(divide="ignore"):
        logarithms = array.copy(data=np.log(array.values)).mean("seed")
    return logarithms.copy(data=np.exp(logarithms.values)).assign_attrs(array.attrs).rename(array.name)
