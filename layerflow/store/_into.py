"""Chunks kept in a store, from the first missing one to the last."""

import contextlib
import os
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from layerflow.diagrams._variables import variables_of
from layerflow.engine._chunks import Batch
from layerflow.engine._machine import Machine, Plan
from layerflow.methods import Status
from layerflow.store._command import command
from layerflow.store._description import FORMAT, Description, describe, differences, grid_of, plans_of, with_chunks
from layerflow.store._diagram import diagram_in
from layerflow.store._lock import locked
from layerflow.store._log import Run
from layerflow.store._place import Place
from layerflow.store._store import Chunk, Store, description_at
from layerflow.store._writer import Writer, interrupts, not_written
from layerflow.sweeps._chunks import Crew, Facts, Keeper, Stop
from layerflow.sweeps._request import Request

if TYPE_CHECKING:
    import xarray


class InStore(Keeper):
    """The store of a sweep, there already or to be made.

    Attributes:
        store, lacking: The store and its missing chunks, once it is held.
    """

    store: Store
    lacking: list[Chunk]

    def __init__(
        self, path: str | os.PathLike[str], request: Request, batches: list[Batch], crew: Crew, on: Machine
    ) -> None:
        self.request, self.batches, self.crew, self.on, self.place = request, batches, crew, on, Place(path)
        self.cells, self.done = request.grid.cells * len(batches), 0
        there = description_at(self.place)
        if there is None:
            self.place.check_free()
        self.place.check_writable()
        self.here = describe(request, batches, crew.device)
        if there:
            self._check_same(there)

    @contextlib.contextmanager
    def held(self) -> Generator[Stop]:
        """Be the one process that writes, and write chunks while the next ones are computed."""
        with locked(self.place), interrupts() as stop:
            self.place.clean()
            self.store = store = self._opened_or_made()
            done = store.check()
            self.lacking = [chunk for chunk in store.chunks if chunk not in done]
            self.done = sum(map(store.cells_of, done))
            if self.lacking:
                with self._running(), contextlib.closing(Writer(store)) as self._writer:
                    yield stop
                self._say_if_stopped(stop)
            else:
                yield stop

    def missing(self, number: int) -> int:
        """How many cells of a combination of static values are missing."""
        return sum(self.store.cells_of(chunk) for chunk in self.lacking if chunk[0] == number)

    def plan(self, number: int) -> Plan | None:
        """As its first chunk was computed."""
        return plans_of(self.store.description)[number]

    def chunks(self, number: int, plan: Plan) -> Iterator[np.ndarray]:
        """The missing chunks of a combination."""
        return (self.store.cells_in(chunk) for chunk in self.lacking if chunk[0] == number)

    def put(self, number: int, cells: np.ndarray, values: dict[str, Any]) -> None:
        """Write a chunk, in the background."""
        self._writer.put(number, cells, values)

    def note(self, cells: int, facts: Facts) -> None:
        """Write into the log how far the run came."""
        self._run.add(cells, **facts)

    def dataset(self) -> "xarray.Dataset":
        """The diagram, opened from the store."""
        store = self.store
        if not any((store.read("status", chunk) != Status.OUTSIDE).any() for chunk in store.chunks):
            raise self.request.outside()
        return diagram_in(self.place)

    @contextlib.contextmanager
    def _running(self) -> Generator[None]:
        """Keep a record of this run."""
        try:
            self._run = Run(self.place, self.cells, self.done)
        except OSError as error:
            raise not_written(self.store, error) from error
        try:
            yield
        finally:
            self._run.end()

    def _say_if_stopped(self, stop: Stop) -> None:
        """Raise if an interrupt kept chunks from being computed."""
        store = self.store
        kept = len(store.done())
        if stop.asked and kept < len(store.chunks):
            how = "The same call" if store.description["command"] is None else f"`layerflow resume {self.place}`"
            raise KeyboardInterrupt(
                f"Stopped after a whole chunk: {kept} of {len(store.chunks)} chunks are kept in {self.place}. {how} "
                f"goes on from there."
            )

    def _opened_or_made(self) -> Store:
        """The store, made if it is not there."""
        there, variables = description_at(self.place), variables_of(self.request.grid, self.batches[0])
        if there:  # asked anew, for it may have been made since
            self._check_same(there)
            store = Store(self.place, read_only=False)
            store.check_holds(variables)
            return store
        described = with_chunks(self.here, self.crew.plans()) | {"command": command()}
        try:
            return Store.create(self.place, described, variables, self.request.grid)
        except OSError as error:
            why = f"The store {self.place} could not be made: {error.strerror or error}"
            raise OSError(error.errno, f"{why}. Make room, or name another folder") from error

    def _check_same(self, there: Description) -> None:
        """Raise if the store is of another sweep, or of chunks and lanes other than those asked for."""
        if there["format"] < FORMAT:
            raise ValueError(
                f"The store {self.place} was made by layerflow {there['facts'].get('layerflow_version')}, whose "
                f"fingerprint does not tell apart all that can change a number (optimisers, solvers, rules of "
                f"derivatives, settings of JAX), so nothing is added to it. lf.open_diagram reads what it holds; name "
                f"another folder for this sweep."
            )
        asked = self.on
        size = there["chunk"] if asked.chunk is None else min(asked.chunk, grid_of(there).cells)
        lanes = [count if count is None or asked.lanes is None else min(asked.lanes, size) for count in there["lanes"]]
        differing = differences(there, self.here | {"chunk": size, "lanes": lanes})
        if differing:
            raise ValueError(
                f"The store {self.place} is of another sweep. They differ in {'; '.join(differing)}. Name another "
                f"folder for this one, or make the two alike to go on."
            )
