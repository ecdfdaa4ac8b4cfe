"""The failed cells of a store run again, and kept beside the first results."""

import contextlib
from collections.abc import Generator
from typing import TYPE_CHECKING

import numpy as np
import zarr

from layerflow.methods import Method
from layerflow.store._arrays import CODECS
from layerflow.store._diagram import diagram_in
from layerflow.store._lock import locked
from layerflow.store._place import Place
from layerflow.store._retries import MOST, WHOLE, Retries, path_of, status_in
from layerflow.store._store import Store
from layerflow.sweeps._chunks import Stop
from layerflow.sweeps._failed import FailedCells
from layerflow.sweeps._record import method_facts, now

if TYPE_CHECKING:
    import xarray


class AgainInStore(FailedCells):
    """The failed cells of a diagram opened from a store, to be run by a method; how many, is known once it is held."""

    def __init__(self, diagram: "xarray.Dataset", method: Method) -> None:
        self.place, self.method = Place(diagram.attrs["store"]), method
        self.store = Store(self.place, read_only=False)
        if any(diagram.sizes.get(axis.name) != len(axis) for axis in self.store.grid.axes):
            raise ValueError(f"A retry in a store takes the whole diagram: lf.open_diagram({str(self.place)!r}).")
        self.place.check_writable()

    @contextlib.contextmanager
    def held(self) -> Generator[Stop]:
        """Be the one process that writes; what came of the cells is written when all are done."""
        with locked(self.place):
            retries = Retries(self.store)
            if len(retries) == MOST:
                raise ValueError(f"The store {self.place} holds {MOST} retries, the most that it can.")
            super().__init__(status_in(self.store, retries))
            yield Stop()
            self._write(path_of(len(retries) + 1))

    def _write(self, path: str) -> None:
        """Make a group of the cells that were run again."""
        (rows, cells), values = self.found()
        group = zarr.create_group(self.place.zarr(), path=path, overwrite=True)
        flat = rows * self.store.cells + cells
        order = np.argsort(flat)
        for name, own in {"cells": flat, **values}.items():
            dtype = self.store.arrays[name].dtype if name in self.store.arrays else np.int64
            group.create_array(name, data=np.asarray(own, dtype)[order], compressors=CODECS)
        group.attrs.put({"method": method_facts(self.method), "created": now(), WHOLE: True})

    def dataset(self) -> "xarray.Dataset":
        """The diagram, opened anew."""
        return diagram_in(self.place)
