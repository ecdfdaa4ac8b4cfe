"""Second results of cells that failed, kept beside the first ones.

A chunk is never written over: killed in the midst, it would hold old and new. Each retry is a group of its
own, of the cells that it ran alone, with a mark that comes last; readers lay them over the chunks.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from layerflow._record import method_facts, now
from layerflow.methods import Method
from layerflow.store._lock import locked
from layerflow.store._place import OWN, Place
from layerflow.store._store import CODECS, Store

if TYPE_CHECKING:
    import xarray

_WHOLE = "whole"


class Retries:
    """All retries of a store, the later over the earlier.

    Args:
        place: Of the store.
    """

    def __init__(self, place: Place) -> None:
        self.methods: list[dict[str, Any]] = []
        self._groups: list[tuple[Any, np.ndarray]] = []  # with its cells, in order
        while place.exists(OWN, "retries", str(len(self._groups) + 1)):
            group: Any = zarr.open_group(place.zarr(read_only=True), path=_path(len(self._groups) + 1), mode="r")
            if not group.attrs.get(_WHOLE):
                break
            self._groups.append((group, np.asarray(group["cells"][:])))
            self.methods.append(dict(group.attrs["method"]))

    def __len__(self) -> int:
        return len(self._groups)

    def lay_over(self, name: str, chosen: np.ndarray, own: list[np.ndarray], values: np.ndarray) -> None:
        """Write what retries found of a variable over the values of some cells, told by flat number."""
        for number, (group, cells) in enumerate(self._groups, start=1):
            place = np.minimum(np.searchsorted(cells, chosen), len(cells) - 1)
            hit = cells[place] == chosen
            if hit.any():
                found: Any = number if name == "retried" else group[name][:][place[hit]]
                values[hit] = found[np.ix_(np.arange(hit.sum()), *own)] if own else found


def status_in(store: Store, retries: Retries) -> np.ndarray:
    """The status of every cell, by combination of static values and cell."""
    status = np.asarray(store.arrays["status"][:])
    retries.lay_over("status", np.arange(status.size).reshape(status.shape), [], status)
    return status


def retry_in(diagram: "xarray.Dataset", method: Method, compute: Callable[[np.ndarray], Any]) -> "xarray.Dataset":
    """Keep what comes of the failed cells in the store of a diagram."""
    from layerflow.store._open import open_diagram

    place = Place(diagram.attrs["store"])
    store = Store(place, read_only=False)
    if any(diagram.sizes.get(axis.name) != len(axis) for axis in store.grid.axes):
        raise ValueError(f"A retry in a store takes the whole diagram: lf.open_diagram({str(place)!r}).")
    with locked(place):
        retries = Retries(place)
        (rows, cells), values = compute(status_in(store, retries))
        group = zarr.create_group(place.zarr(), path=_path(len(retries) + 1), overwrite=True)
        flat = rows * store.cells + cells
        order = np.argsort(flat)
        for name, own in {"cells": flat, **values}.items():
            dtype = store.arrays[name].dtype if name in store.arrays else np.int64
            group.create_array(name, data=np.asarray(own, dtype)[order], compressors=CODECS)
        group.attrs.put({"method": method_facts(method), "created": now(), _WHOLE: True})
    return open_diagram(place.url)


def _path(number: int) -> str:
    return f"{OWN}/retries/{number}"
