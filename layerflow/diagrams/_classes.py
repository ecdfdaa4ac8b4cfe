"""Classes of cells: regimes by conditions, and codes that say in words what they mean."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from layerflow.diagrams._array import are_among

if TYPE_CHECKING:
    import xarray

_CLASS = "condition of a class"  # a dimension that no axis is called


def phase(conditions: "Mapping[str, xarray.DataArray]") -> "xarray.DataArray":
    """Give every cell of a diagram the class whose condition it meets.

    Classes are numbered from 0 in the order given, and say what they mean like `status`, in the attributes
    `flag_values` and `flag_meanings`. `plot.heatmap` draws them with their names; `boundary` takes the line
    between two of them.

    Args:
        conditions: By the name of each class which cells belong to it: arrays of True and False from variables
            of a diagram, broadcast against one another. Every cell meets exactly one. What failed is NaN, and
            meets no comparison: give it a class of its own, {"failed": diagram.failed}.

    Returns:
        DataArray of codes, 8 bits each, called `phase`.

    Raises:
        TypeError: If a condition is no DataArray of True and False.
        ValueError: If there are no conditions or more than 127, a name is empty or has a space, axes differ in
            their values, or cells meet several conditions or none.

    Example:
        >>> import xarray as xr, layerflow as lf
        >>> moved = xr.DataArray([1e-4, 0.3, 2.0], {"scale": [10.0, 1.0, 0.1]}, name="kernel_distance")
        >>> lf.phase({"lazy": moved < 0.1, "rich": moved >= 0.1}).values.tolist()
        [0, 1, 1]
    """
    import xarray

    _check(conditions)
    try:
        together = xarray.align(*conditions.values(), join="exact", copy=False)
    except ValueError as error:
        raise ValueError(f"Conditions need axes of the same values: {error}. Take them from one diagram.") from error
    met = xarray.concat(xarray.broadcast(*together), dim=_CLASS).transpose(_CLASS, ...)
    _check_one_each(list(conditions), met.values)
    codes = met.argmax(_CLASS).astype(np.int8).rename("phase")
    return codes.assign_attrs(long_name="phase", units="1", **flags(dict(enumerate(conditions))))


def flags(classes: Mapping[int, str]) -> dict[str, Any]:
    """How an array of codes says what they mean, as the CF conventions have it; `classes_of` reads it."""
    return {"flag_values": list(classes), "flag_meanings": " ".join(classes.values())}


def classes_of(array: "xarray.DataArray") -> dict[int, str]:
    """What the codes of an array mean, none if it holds no codes; an error where it holds means of codes."""
    codes, meanings = (array.attrs.get(name) for name in ("flag_values", "flag_meanings"))
    if codes is None or meanings is None:
        return {}
    classes = dict(zip(map(int, np.atleast_1d(codes)), str(meanings).split(), strict=True))
    if not are_among(array.values, classes):
        raise ValueError(
            f"`{array.name}` has classes, {', '.join(classes.values())}, but holds numbers computed with their codes, "
            f"and a mean of codes is no code. Choose one seed, .isel(seed=0), or take the share of a class: "
            f"(array == {next(iter(classes))}).mean(...)."
        )
    return classes


def between(array: "xarray.DataArray", pair: tuple[str, str]) -> "xarray.DataArray":
    """0 where cells are of the first of two classes, 1 where of the second, NaN where of neither."""
    codes = {name: code for code, name in classes_of(array).items()}
    if not codes:
        raise ValueError(
            f"A line between two classes needs a variable of classes, as lf.phase gives, but `{array.name}` has none. "
            f'Give a number or "steepest" as `level`.'
        )
    unknown = [name for name in pair if name not in codes]
    if unknown or pair[0] == pair[1]:
        raise ValueError(f"Argument `level` names two different classes among {', '.join(codes)}, not {pair!r}.")
    first, second = (array.values == codes[name] for name in pair)
    for name, own in zip(pair, (first, second), strict=True):
        if not own.any():
            raise ValueError(f"No line between {' and '.join(pair)}: no cell of `{array.name}` is of class {name}.")
    share = array.copy(data=np.where(second, 1.0, np.where(first, 0.0, np.nan))).drop_attrs()
    return share.rename(f"{pair[1]} in place of {pair[0]}")


def _check(conditions: "Mapping[str, xarray.DataArray]") -> None:
    import xarray

    if not isinstance(conditions, Mapping):
        raise TypeError(
            f"Argument `conditions` needs a dictionary, as in {{'lazy': diagram.laziness > 0.9, ...}}, but it is a "
            f"{type(conditions).__name__}."
        )
    most = np.iinfo(np.int8).max
    if not 0 < len(conditions) <= most:
        raise ValueError(f"Argument `conditions` needs 1 to {most} classes, but it has {len(conditions)}.")
    for name, condition in conditions.items():
        if not isinstance(name, str) or not name or name.split() != [name]:
            raise ValueError(f"Names of classes are words without spaces, such as period_two, but one is {name!r}.")
        if not isinstance(condition, xarray.DataArray) or condition.dtype != bool:
            what = f"of dtype {condition.dtype}" if isinstance(condition, xarray.DataArray) else "no DataArray"
            raise TypeError(
                f"The condition of `{name}` needs True or False for each cell, as diagram.loss < 1e-3 gives, but it is "
                f"{what}: {type(condition).__name__}."
            )


def _check_one_each(names: list[str], met: np.ndarray) -> None:
    """Raise unless every cell meets exactly one condition; `met` has the classes first."""
    number, cells = met.sum(axis=0), met[0].size
    if (number > 1).any():
        twice = [name for name, own in zip(names, met, strict=True) if (own & (number > 1)).any()]
        raise ValueError(
            f"{(number > 1).sum()} of {cells} cells meet several conditions, among {', '.join(twice)}. Take out of one "
            f"what another has, as in a & ~b."
        )
    if (number == 0).any():
        raise ValueError(
            f'{(number == 0).sum()} of {cells} cells meet no condition. Add a class for them, {{"other": ~(a | b)}}; '
            f'cells that failed meet no comparison, {{"failed": diagram.failed}}.'
        )
