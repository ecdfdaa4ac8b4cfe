"""The type of a diagram, and the card it shows. Imported late, for xarray takes its time."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray

from layerflow import _accessor as _accessor  # noqa: PLC0414  where there are diagrams, there is diagram.lf
from layerflow._card import Card
from layerflow._failures import has_failed, status_of
from layerflow.methods import Status


class Diagram(xarray.Dataset):
    """An `xarray.Dataset` of which `print` shows a card: sizes, method, failures, steps, seconds, memory.

    Everything else, its `repr` and its table in a notebook too, is xarray's.
    """

    __slots__ = ()

    def __str__(self) -> str:
        """The card, or xarray's own text where a reduction or a selection left the facts behind."""
        return str(card_of(self)) if _says_all(self) else repr(self)


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
    if status.size == 0:
        return Card(f"Diagram of `{attrs['title']}`: no cells", ())
    sizes = " x ".join(f"{size} {name}" for name, size in status.sizes.items())
    lines = [
        ("axes", ", ".join(map(_range, (diagram[name] for name in status.dims if name in diagram.coords)))),
        ("measured", ", ".join(_measured(diagram))),
        ("method", method_in_words(attrs)),
        ("cells", _cells(status.values)),
        ("verified", _verified(diagram)),
        (
            "steps",
            f"{np.median(diagram['num_steps']):.0f} in the median cell, {int(diagram['num_steps'].max())} at most",
        ),
        (
            "seconds",
            f"{attrs['wall_seconds']:.2f}, of which {attrs['compile_seconds']:.2f} for compiling, for the whole sweep",
        ),
        ("memory", f"{_in_bytes(diagram.nbytes)} of results, {_in_bytes(attrs['chunk_bytes'])} to compute a chunk"),
        ("made", f"{attrs['dtype']} on {attrs['device']}, layerflow {attrs['layerflow_version']}, {attrs['created']}"),
    ]
    cells = f"{status.size} cell{'' if status.size == 1 else 's'}"
    title = f"Diagram of `{attrs['title']}`: {f'{sizes} = ' if sizes else ''}{cells}"
    return Card(title, tuple(line for line in lines if line[1]))


def method_in_words(attrs: dict[str, Any]) -> str:
    """How the cells were solved, from the facts of a diagram."""
    if attrs["method"] == "Exact":
        return "closed form" + (f" to t = {attrs['t1']:g}" if "t1" in attrs else "")
    if attrs["method"] == "Flow":
        tolerance = f", rtol {attrs['rtol']:g}" if "rtol" in attrs else ""
        end = f" to t = {attrs['t1']:g}" if "t1" in attrs else ""
        return f"gradient flow{end}, {attrs['solver']}{tolerance}"
    steps, rate = attrs.get("steps"), attrs.get("learning_rate")
    batch = f", batches of {attrs['batch']}" if "batch" in attrs else ""
    taken = "" if steps is None else f"{steps} step{'' if steps == 1 else 's'} of "
    return f"{taken}{attrs['optimiser']}{_at_rate(rate)}{batch}"


def _verified(diagram: xarray.Dataset) -> str:
    """What holding the cells against theory showed; nothing if that was not asked for."""
    if "error_over_tolerance" not in diagram or np.isnan(diagram["error_over_tolerance"]).all():
        return ""
    text = f"{int(diagram['verified'].sum())} cells, worst error {float(diagram['error_over_tolerance'].max()):.2g} of "
    text += "what the tolerance allows"
    return text + (f", worst drift {float(diagram['drift'].max()):.2g}" if "drift" in diagram else "")


def _at_rate(rate: Any) -> str:
    return f" at rate {rate:g}" if isinstance(rate, int | float) else ""


def _measured(diagram: xarray.Dataset) -> Iterable[str]:
    """Every variable with its own dimensions."""
    for name, variable in diagram.data_vars.items():
        if name not in ("status", "num_steps", "end"):
            own = [str(dim) for dim in variable.dims if dim not in diagram["status"].dims]
            yield f"{name} ({', '.join(own)})" if own else str(name)


def _range(axis: xarray.DataArray) -> str:
    """The name of an axis and from where to where it runs."""
    return f"{axis.name} {ends(axis)}"


def ends(axis: xarray.DataArray) -> str:
    """From where to where an axis runs."""
    number = lambda value: f"{value:g}" if isinstance(value, int | float | np.number) else str(value)
    first, last = number(axis.values[0]), number(axis.values[-1])
    return first if axis.size == 1 else f"{first} to {last}"


def _cells(status: np.ndarray) -> str:
    """How many cells are done, failed and, in a store, still missing."""
    missing = int((status == Status.MISSING).sum())
    return f"{status.size - missing} done, {_failures(status)}" + (f", {missing} missing" if missing else "")


def _failures(status: np.ndarray) -> str:
    """How many cells failed, and how."""
    codes, counts = np.unique(status[has_failed(status)], return_counts=True)
    how = ", ".join(f"{n} {Status(int(code)).name.lower()}" for code, n in zip(codes, counts, strict=True))
    return f"{counts.sum()} failed" + (f" ({how})" if how else "")


def _in_bytes(size: int) -> str:
    """A size with the unit that suits it."""
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    power = min(int(np.log2(max(size, 1)) // 10), len(units) - 1)
    return f"{size / 2 ** (10 * power):.3g} {units[power]}"
