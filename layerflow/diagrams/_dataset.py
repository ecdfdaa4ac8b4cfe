"""The type of a diagram, and the card it shows. Imported late, for xarray takes its time."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray

from layerflow.base._card import Card
from layerflow.diagrams._array import has_failed, status_of
from layerflow.diagrams._asked import asked_again
from layerflow.diagrams._words import (
    ends,
    failures_in_words,
    followed_failures,
    in_bytes,
    method_in_words,
    settings_in_words,
    stopped_early,
)
from layerflow.methods import Status


class Diagram(xarray.Dataset):
    """An `xarray.Dataset` of which `print` shows a card: sizes, method, failures, steps, seconds, memory.

    Everything else, its `repr` and its table in a notebook too, is xarray's.
    """

    __slots__ = ()

    def _binary_op(self, other: Any, f: Any, *how: Any, **named: Any) -> Any:
        """What arithmetic makes of a diagram: its `status` is no code any more, and does not look like one."""
        found: Any = super()._binary_op(other, f, *how, **named)
        if isinstance(found, xarray.Dataset) and "status" in found and found["status"].dtype.kind in "iu":
            found["status"] = found["status"].astype(float)
        return found

    @property
    def failed(self) -> xarray.DataArray:
        """Whether each cell failed, a Boolean per cell."""
        return failed_of(self)

    def __str__(self) -> str:
        """The card, or xarray's own text where the facts are no longer there, or no longer those of all cells."""
        try:
            return str(card_of(self)) if _says_all(self) else repr(self)
        except ValueError:  # put together from several sweeps
            return repr(self)


def failed_of(diagram: xarray.Dataset) -> xarray.DataArray:
    """Whether each cell failed, by its status; those that are missing or stopped at their tolerance did not."""
    status = status_of(diagram)
    return xarray.DataArray(has_failed(status.values), status.coords, status.dims, "failed")


def _says_all(diagram: xarray.Dataset) -> bool:
    """Whether a diagram, whole or in part, still has all that a card tells."""
    whole = "chunk_bytes" in diagram.attrs and "status" in diagram and "num_steps" in diagram
    return whole and diagram["status"].dtype in (np.uint8, np.int8)  # the latter in a netCDF file


def card_of(diagram: xarray.Dataset) -> Card:
    """The card of a diagram, whole or in part."""
    attrs, status = diagram.attrs, status_of(diagram)
    if not _says_all(diagram):
        raise ValueError(
            "The diagram does not say how it was made, as computing with it takes its `attrs` away. Ask for the card "
            "of what lf.sweep or lf.open_diagram returned, or of a selection of it."
        )
    if "asked" in attrs:
        asked_again(diagram)  # raises where the facts are not those of all cells
    if status.size == 0:
        return Card(f"Diagram of `{attrs['title']}`: no cells", ())
    sizes = " x ".join(f"{size} {name}" for name, size in status.sizes.items())
    lines = [
        ("axes", ", ".join(map(_range, (diagram[name] for name in status.dims if name in diagram.coords)))),
        ("measured", ", ".join(_measured(diagram))),
        ("method", method_in_words(attrs)),
        ("settings", ", ".join(settings_in_words(attrs))),
        ("cells", _cells(status.values)),
        ("beside", followed_failures(diagram)),
        ("stopped", stopped_early(diagram)),
        ("verified", _verified(diagram)),
        (
            "steps",
            f"{np.median(diagram['num_steps']):.0f} in the median cell, {int(diagram['num_steps'].max())} at most",
        ),
        (
            "seconds",
            f"{attrs['wall_seconds']:.2f}, of which {attrs['compile_seconds']:.2f} for compiling, for the whole sweep",
        ),
        ("memory", f"{in_bytes(diagram.nbytes)} of results, {in_bytes(attrs['chunk_bytes'])} to compute a chunk"),
        ("made", f"{attrs['dtype']} on {attrs['device']}, layerflow {attrs['layerflow_version']}, {attrs['created']}"),
    ]
    cells = f"{status.size} cell{'' if status.size == 1 else 's'}"
    title = f"Diagram of `{attrs['title']}`: {f'{sizes} = ' if sizes else ''}{cells}"
    return Card(title, tuple(line for line in lines if line[1]))


def _verified(diagram: xarray.Dataset) -> str:
    """What holding the cells against theory showed; nothing if that was not asked for."""
    if "error_over_tolerance" not in diagram or np.isnan(diagram["error_over_tolerance"]).all():
        return ""
    text = f"{int(diagram['verified'].sum())} cells, worst error {float(diagram['error_over_tolerance'].max()):.2g} of "
    text += "what the tolerance allows"
    return text + (f", worst drift {float(diagram['drift'].max()):.2g}" if "drift" in diagram else "")


def _measured(diagram: xarray.Dataset) -> Iterable[str]:
    """Every variable with its own dimensions."""
    for name, variable in diagram.data_vars.items():
        if name not in ("status", "num_steps", "end"):
            own = [str(dim) for dim in variable.dims if dim not in diagram["status"].dims]
            yield f"{name} ({', '.join(own)})" if own else str(name)


def _range(axis: xarray.DataArray) -> str:
    """The name of an axis and from where to where it runs."""
    return f"{axis.name} {ends(axis)}"


def _cells(status: np.ndarray) -> str:
    """How many cells are done, failed and, in a store, still missing."""
    missing = int((status == Status.MISSING).sum())
    return f"{status.size - missing} done, {failures_in_words(status)}" + (f", {missing} missing" if missing else "")
