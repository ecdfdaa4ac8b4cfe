"""Second results of cells that failed, kept beside the first ones.

A chunk is never written over: killed in the midst, it would hold old and new. Each retry is a group of its
own, of the cells that it ran alone, with a mark that comes last; readers lay them over the chunks.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from layerflow.base._memory import check_room
from layerflow.store._arrays import numbers_of, opened_array, opened_group
from layerflow.store._checked import Unlike, check_method
from layerflow.store._place import OWN
from layerflow.store._store import Store

WHOLE = "whole"  # the mark that comes last
MOST = 255  # retries of a store: their number marks a cell, in a byte


class Retries:
    """All retries of a store, the later over the earlier.

    Args:
        store: The store.

    Raises:
        ValueError: If one of them is not what `retry` writes.
    """

    def __init__(self, store: Store) -> None:
        self.methods: list[dict[str, Any]] = []
        self._groups: list[tuple[Callable[[str], np.ndarray], np.ndarray]] = []  # of a variable, and the cells in order
        place = store.place
        while place.exists(OWN, "retries", str(len(self._groups) + 1)):
            group = opened_group(place, *path_of(len(self._groups) + 1).split("/"))
            if not group.attrs.get(WHOLE):
                break
            try:
                self._groups.append(_checked(store, group))
                self.methods.append(_method_of(group))
                if len(self._groups) > MOST:
                    raise Unlike(f"there are more than {MOST}")
            except Unlike as wrong:
                where = path_of(len(self.methods) + 1)
                raise ValueError(
                    f"The retry {where} of the store {place} is not one that layerflow writes: {wrong}. Delete it "
                    f"and those of higher numbers; what the sweep computed is beside them."
                ) from None

    def __len__(self) -> int:
        return len(self._groups)

    def lay_over(self, name: str, chosen: np.ndarray, own: list[np.ndarray], values: np.ndarray) -> None:
        """Write what retries found of a variable over the values of some cells, told by flat number."""
        for number, (read, cells) in enumerate(self._groups, start=1):
            place = np.minimum(np.searchsorted(cells, chosen), len(cells) - 1)
            hit = cells[place] == chosen
            if hit.any():
                found: Any = number if name == "retried" else read(name)[place[hit]]
                values[hit] = found[np.ix_(np.arange(hit.sum()), *own)] if own else found


def status_in(store: Store, retries: Retries) -> np.ndarray:
    """The status of every cell, by combination of static values and cell."""
    store.check_room("status", 9 * store.combinations * store.cells)
    status = store.numbers("status", lambda: store.arrays["status"][:])
    retries.lay_over("status", np.arange(status.size).reshape(status.shape), [], status)
    return status


def _checked(store: Store, group: Any) -> tuple[Callable[[str], np.ndarray], np.ndarray]:
    """What reads a variable of a retry, and its cells in order."""
    arrays = {name: opened_array(store.place, group, name) for name in ("cells", *store.arrays)}
    count = arrays["cells"].shape[0]
    for name, array in arrays.items():
        own, dtype = ((), np.int64) if name == "cells" else (store.arrays[name].shape[2:], store.arrays[name].dtype)
        if array.shape != (count, *own) or array.dtype != dtype:
            raise Unlike(f"its array `{name}` has another shape or type than the store")

    def read(name: str) -> np.ndarray:
        array, what = arrays[name], f"`{name}` of {group.path} in the store {store.place}"
        check_room(2 * math.prod(array.shape) * array.dtype.itemsize, f"Reading {what}", "Delete that retry.")
        return numbers_of(lambda: array[:], what, "Delete that retry, and those of higher numbers.")

    cells = read("cells")
    if cells[0] < 0 or cells[-1] >= store.combinations * store.cells or (np.diff(cells) <= 0).any():
        raise Unlike("its cells are not in order, or not of the grid")
    return read, cells


def _method_of(group: Any) -> dict[str, Any]:
    """The facts of its method."""
    facts = group.attrs.get("method")
    check_method(facts)
    return dict(facts)


def path_of(number: int) -> str:
    """Where a retry lies in the store."""
    return f"{OWN}/retries/{number}"
