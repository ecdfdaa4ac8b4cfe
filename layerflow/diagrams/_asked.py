"""What a diagram says that its sweep was asked for."""

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from layerflow.diagrams._array import status_of

if TYPE_CHECKING:
    import xarray

Record = dict[str, Any]


def asked_again(diagram: "xarray.Dataset") -> Record:
    """What the sweep was asked for; raises for what is no longer a diagram of one sweep, or a part of it."""
    status = status_of(diagram)
    if "asked" not in diagram.attrs:
        raise ValueError(
            "The diagram does not say how it was made, as computing with it takes its `attrs` away. Give it as "
            "lf.sweep or lf.open_diagram returned it."
        )
    asked = json.loads(diagram.attrs["asked"])
    _check_one_sweep(status, asked)
    return asked


def _check_one_sweep(status: "xarray.DataArray", asked: Record) -> None:
    """Raise where cells are not all of the sweep that `asked` tells of."""
    axes = {axis["name"]: axis.get("values") for axis in asked["axes"]}  # records of old have no values
    for dim in status.dims:
        if dim not in axes:
            raise ValueError(f"The diagram has a dimension `{dim}`, which is no axis of its sweep. {_SEVERAL}")
    for name, values in axes.items():
        if name in status.coords and values is not None:
            _check_values(name, np.atleast_1d(status[name].values), values)


def _check_values(name: str, here: np.ndarray, of_sweep: Record | list[Any]) -> None:
    """Raise where an axis of a diagram has values that its sweep had not, or more often."""
    if isinstance(of_sweep, dict):  # a long axis, by its ends
        many, ends = of_sweep["count"], [of_sweep["first"], of_sweep["last"]]
        if len(here) > many or (len(here) == many and here[[0, -1]].tolist() != ends):
            raise ValueError(
                f"Axis `{name}` had {many} values in the sweep, from {ends[0]} to {ends[1]}, but has {len(here)} in "
                f"the diagram, from {here[0]} to {here[-1]}. {_SEVERAL}"
            )
        return
    surplus = list((Counter(here.tolist()) - Counter(of_sweep)).elements())
    if surplus:
        how = "more often than its sweep had it" if surplus[0] in of_sweep else "which its sweep did not have"
        raise ValueError(f"The diagram has {name}={surplus[0]}, {how}. {_SEVERAL}")


_SEVERAL = (
    "It is put together from several sweeps, or its axes were changed, and what it says of how it was made is true of "
    "the first alone. Combine the answers, not the diagrams; or give each part as lf.sweep or lf.open_diagram "
    "returned it."
)
