"""Flat arrays of a store read as the labelled grid. Imported late, for xarray takes its time."""

import math
from typing import Any

import numpy as np
from xarray.backends import BackendArray
from xarray.core.indexing import IndexingSupport, explicit_indexing_adapter

from layerflow.store._retries import Retries
from layerflow.store._store import Store


class OnGrid(BackendArray):
    """One variable of a store, over the axes in the user's order; reads the chunks that are asked for."""

    def __init__(self, store: Store, retries: Retries, name: str) -> None:
        self.store, self.retries, self.name = store, retries, name
        self.array = None if name == "retried" else store.arrays[name]
        own, self.dtype = ((), np.dtype(np.uint8)) if self.array is None else (self.array.shape[2:], self.array.dtype)
        self.shape = (*(len(axis) for axis in store.grid.axes), *own)

    def __getitem__(self, key: Any) -> np.ndarray:
        return explicit_indexing_adapter(key, self.shape, IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> np.ndarray:
        """Part of the grid: along every dimension a number, a slice or a vector of positions."""
        grid = self.store.grid
        self._check_room(key)
        chosen = [np.arange(size)[k] for size, k in zip(self.shape, key, strict=True)]
        where = {axis.name: np.atleast_1d(at) for axis, at in zip(grid.axes, chosen, strict=False)}
        outer, inner = ([where[axis.name] for axis in axes] for axes in (grid.outer, grid.inner))
        rows, cells = _flat(outer, [len(a) for a in grid.outer]), _flat(inner, [len(a) for a in grid.inner])
        own = [np.atleast_1d(at) for at in chosen[len(grid.axes) :]]
        values = self._at(rows, cells, own)
        # Static axes lie outside in the store; back to the user's order, and numbers take their dimension away.
        ordered = [*grid.outer, *grid.inner]
        values = values.reshape([len(at) for at in [*outer, *inner, *own]])
        back = [ordered.index(axis) for axis in grid.axes]
        values = values.transpose([*back, *range(len(back), values.ndim)])
        return np.asarray(values[tuple(0 if np.ndim(at) == 0 else slice(None) for at in chosen)])

    def _check_room(self, key: tuple[Any, ...]) -> None:
        """Raise if what is asked for, and positions of it, have no room in memory."""
        sizes = [_count(size, k) for size, k in zip(self.shape, key, strict=True)]
        cells = math.prod(sizes[: len(self.store.grid.axes)])
        positions = 8 * (sum(self.shape) + cells * (4 if len(self.retries) else 1))
        self.store.check_room(
            self.name if self.array is not None else "status", positions + math.prod(sizes) * self.dtype.itemsize
        )

    def _at(self, rows: np.ndarray, cells: np.ndarray, own: list[np.ndarray]) -> np.ndarray:
        """Values by combination of static values and cell."""
        if self.array is None:
            values = np.zeros((len(rows), len(cells)), self.dtype)
        else:
            array, where = self.array, tuple(_run(at) for at in (rows, cells, *own))
            values = self.store.numbers(self.name, lambda: array.oindex[where])
            self._check_there(rows, cells, values)
        if len(self.retries):
            self.retries.lay_over(self.name, rows[:, None] * self.store.cells + cells, own, values)
        return values

    def _check_there(self, rows: np.ndarray, cells: np.ndarray, values: np.ndarray) -> None:
        """Raise for a chunk that was written and is gone, which zarr reads as if it held nothing."""
        fill = self.array.fill_value  # pyright: ignore[reportOptionalMemberAccess]
        empty = np.isnan(values) if fill != fill else values == fill  # noqa: PLR0124 - NaN is no number
        nothing: Any = np.asarray(empty).all(axis=tuple(range(2, values.ndim)))
        chunks, place = np.unique(cells // self.store.size, return_inverse=True)
        for row, of_cells in zip(rows.tolist(), nothing, strict=True):
            full = np.ones(len(chunks), bool)
            np.logical_and.at(full, place, of_cells)
            for chunk in chunks[full]:
                self.store.check_there(self.name, (row, int(chunk)))


def _count(size: int, key: Any) -> int:
    """How many positions a number, a slice or a vector asks for."""
    return len(range(size)[key]) if isinstance(key, slice) else np.size(key)


def _flat(positions: list[np.ndarray], shape: list[int]) -> np.ndarray:
    """Flat numbers of all combinations of positions along some axes."""
    if not positions:
        return np.zeros(1, int)
    return np.ravel_multi_index(np.ix_(*positions), shape).ravel()  # pyright: ignore[reportCallIssue, reportArgumentType]


def _run(positions: np.ndarray) -> Any:
    """Positions that follow one another as a slice, which zarr reads without a list of them."""
    size = len(positions)
    if size and positions[-1] - positions[0] == size - 1 and (size < 3 or (np.diff(positions) == 1).all()):
        return slice(int(positions[0]), int(positions[-1]) + 1)
    return positions
