"""Sweep into a store, from the first missing chunk to the last."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from layerflow._open import open_diagram
from layerflow.diagrams._variables import variables_of
from layerflow.engine._chunks import Batch, Plan
from layerflow.engine._machine import Machine
from layerflow.methods import Status
from layerflow.store._command import command
from layerflow.store._description import FORMAT, Description, describe, differences, grid_of, plans_of, with_chunks
from layerflow.store._lock import locked
from layerflow.store._log import Run
from layerflow.store._place import Place
from layerflow.store._store import Chunk, Store, description_at
from layerflow.store._writer import Progress, Stop, Writer, interrupts, not_written
from layerflow.sweeps._chunks import facts_of_run, progress_bar, solved
from layerflow.sweeps._record import device_in_words
from layerflow.sweeps._request import Asked

if TYPE_CHECKING:
    import xarray


def sweep_into(
    path: str | os.PathLike[str], asked: Asked, batches: list[Batch], on: Machine, progress: bool
) -> "xarray.Dataset":
    """Compute what the store lacks, or make it first; the diagram opened from it."""
    place = Place(path)
    there = description_at(place)
    if there is None:
        place.check_free()
    place.check_writable()
    crew = _Here(asked, batches, on) if on.client is None else _There(asked, batches, on)
    here = describe(asked, batches, crew.device)
    if there:
        _check_same(place, there, here, on)
    asked.judge(batches)
    with locked(place), interrupts() as stop:
        place.clean()
        store = _opened_or_made(place, asked, batches, here, on, crew)
        _fill(store, crew, progress, stop)
    if not any((store.read("status", chunk) != Status.OUTSIDE).any() for chunk in store.chunks):
        raise asked.outside()
    return open_diagram(path)


class _Here:
    """The devices of this process, which compute chunks while the one before is written."""

    def __init__(self, asked: Asked, batches: list[Batch], on: Machine) -> None:
        self.asked, self.batches, self.on, self.device = asked, batches, on, device_in_words()

    def plans(self) -> list[Plan]:
        return plans(self.asked, self.batches, self.on)

    def compute(self, store: Store, missing: list[Chunk], stop: Stop, bar: Any) -> Iterator[Progress]:
        grid, batches, how = self.asked.grid, self.batches, plans_of(store.description)
        devices = max(len(self.on.devices_for(store.cells, plan.size)) for plan in how)
        with contextlib.closing(Writer(store)) as writer:
            for number, batch in enumerate(batches):
                chunks = _chunks(store, missing, number, stop)
                for cells, values in solved(grid, batch, how[number], chunks, self.on, bar):
                    writer.put(number, cells, jax.device_get(values))
                    yield len(cells), {"devices": devices, **facts_of_run(batches, how)}


class _There:
    """The workers of a cluster."""

    def __init__(self, asked: Asked, batches: list[Batch], on: Machine) -> None:
        from layerflow.store._cluster import Cluster, Package

        self.on, self.package, self.cluster = on, Package.of(asked, batches), Cluster(on.client)
        self.device = self.cluster.device

    def plans(self) -> list[Plan]:
        return self.cluster.plans(self.package, self.on)

    def compute(self, store: Store, missing: list[Chunk], stop: Stop, bar: Any) -> Iterator[Progress]:
        return self.cluster.compute(store, self.package, missing, stop)


def plans(asked: Asked, batches: list[Batch], on: Machine) -> list[Plan]:
    """How the chunks of each combination are computed: of one size, for all are chunks of the same arrays."""
    found = [batch.plan(asked.grid.cells, on) for batch in batches]
    least = min(plan.size for plan in found)
    if all(plan.size == least for plan in found):
        return found
    return [batch.plan(asked.grid.cells, dataclasses.replace(on, chunk=least)) for batch in batches]


def _opened_or_made(
    place: Place, asked: Asked, batches: list[Batch], here: Description, on: Machine, crew: _Here | _There
) -> Store:
    """The store, made if it is not there."""
    there, variables = description_at(place), variables_of(asked.grid, batches[0])  # anew: it may have been made since
    if there:
        _check_same(place, there, here, on)
        store = Store(place, read_only=False)
        store.check_holds(variables)
        return store
    described = with_chunks(here, crew.plans()) | {"command": command()}
    try:
        return Store.create(place, described, variables, asked.grid)
    except OSError as error:
        said = f"The store {place} could not be made: {error.strerror or error}. Make room, or name another folder"
        raise OSError(error.errno, said) from error


def _check_same(place: Place, there: Description, here: Description, on: Machine) -> None:
    """Raise if the store is of another sweep, or of chunks and lanes other than those asked for."""
    if there["format"] < FORMAT:
        raise ValueError(
            f"The store {place} was made by layerflow {there['facts'].get('layerflow_version')}, whose fingerprint "
            f"does not tell apart all that can change a number (optimisers, solvers, rules of derivatives, settings of "
            f"JAX), so nothing is added to it. lf.open_diagram reads what it holds; name another folder for this sweep."
        )
    size = there["chunk"] if on.chunk is None else min(on.chunk, grid_of(there).cells)
    lanes = [count if count is None or on.lanes is None else min(on.lanes, size) for count in there["lanes"]]
    differing = differences(there, here | {"chunk": size, "lanes": lanes})
    if differing:
        raise ValueError(
            f"The store {place} is of another sweep. They differ in {'; '.join(differing)}. Name another folder for "
            f"this one, or make the two alike to go on."
        )


def _fill(store: Store, crew: _Here | _There, progress: bool, stop: Stop) -> None:
    """Compute and write every chunk that is missing."""
    done = store.check()
    missing = [chunk for chunk in store.chunks if chunk not in done]
    if not missing:
        return
    total, before = store.combinations * store.cells, sum(map(store.cells_of, done))
    try:
        run = Run(store.place, total, before)
    except OSError as error:
        raise not_written(store, error) from error
    try:
        with (
            progress_bar(total, progress, before) as bar,
            contextlib.closing(crew.compute(store, missing, stop, bar)) as computed,  # pyright: ignore[reportArgumentType]
        ):
            for cells, facts in computed:
                bar.update(cells)
                run.add(cells, **facts)
    finally:
        run.end()
    kept = len(store.done())
    if stop.asked and kept < len(store.chunks):
        how = "The same call" if store.description["command"] is None else f"`layerflow resume {store.place}`"
        raise KeyboardInterrupt(
            f"Stopped after a whole chunk: {kept} of {len(store.chunks)} chunks are kept in {store.place}. {how} goes "
            f"on from there."
        )


def _chunks(store: Store, missing: list[Chunk], number: int, stop: Stop) -> Iterator[np.ndarray]:
    """The cells of the missing chunks of one combination, until an interrupt asks to stop."""
    for chunk in missing:
        if stop.asked:
            return
        if chunk[0] == number:
            yield store.cells_in(chunk)
