"""Sweep into a store, from the first missing chunk to the last."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from layerflow._asked import Asked
from layerflow._diagram import device_in_words, variables_of
from layerflow._run import facts_of_run, progress_bar, solved
from layerflow.engine._chunks import Batch, Plan
from layerflow.engine._machine import Machine
from layerflow.methods import Status
from layerflow.store._description import Description, describe, differences, plans_of, with_chunks
from layerflow.store._lock import locked
from layerflow.store._log import Run
from layerflow.store._open import open_diagram
from layerflow.store._place import Place
from layerflow.store._store import Chunk, Store, description_at
from layerflow.store._writer import Stop, Writer, interrupts, not_written

if TYPE_CHECKING:
    import xarray


def sweep_into(
    path: str | os.PathLike[str], asked: Asked, batches: list[Batch], on: Machine, progress: bool
) -> "xarray.Dataset":
    """Compute what the store lacks, or make it first; the diagram opened from it."""
    place = Place(path)
    there = description_at(place)
    if there:
        place.check_writable()
    elif there is None:
        place.check_free()
    here = describe(asked, batches, device_in_words())
    if there:
        _check_same(place, there, here, on)
    asked.judge(batches)
    with locked(place), interrupts() as stop:
        place.clean()
        store = _store(place, asked, batches, here, on)
        _fill(store, asked, batches, on, progress, stop)
    return open_diagram(path)


def _store(place: Place, asked: Asked, batches: list[Batch], here: Description, on: Machine) -> Store:
    """The store, made if it is not there."""
    there = description_at(place)  # anew: it may have been made since
    if there:
        _check_same(place, there, here, on)
        return Store(place, read_only=False)
    plans = _plans(asked, batches, on)
    try:
        return Store.create(place, with_chunks(here, plans), variables_of(asked.grid, batches[0]), asked.grid)
    except OSError as error:
        raise OSError(
            error.errno, f"The store {place} could not be made: {error.strerror}. Name another folder"
        ) from error


def _plans(asked: Asked, batches: list[Batch], on: Machine) -> list[Plan]:
    """How the chunks of each combination are computed: of one size, for all are chunks of the same arrays."""
    plans = [batch.plan(asked.grid.cells, on) for batch in batches]
    least = min(plan.size for plan in plans)
    if all(plan.size == least for plan in plans):
        return plans
    return [batch.plan(asked.grid.cells, dataclasses.replace(on, chunk=least)) for batch in batches]


def _check_same(place: Place, there: Description, here: Description, on: Machine) -> None:
    """Raise if the store is of another sweep, or of chunks and lanes other than those asked for."""
    grid_cells = there["chunk"] if on.chunk is None else min(on.chunk, _cells(there))
    asked_for: Description = {"chunk": grid_cells, "lanes": there["lanes"]}
    if on.lanes is not None:
        asked_for["lanes"] = [None if lanes is None else min(on.lanes, there["chunk"]) for lanes in there["lanes"]]
    differing = differences(there, here | asked_for)
    if differing:
        raise ValueError(
            f"The store {place} is of another sweep. They differ in {'; '.join(differing)}. Name another folder for "
            f"this one, or make the two alike to go on."
        )


def _cells(description: Description) -> int:
    from layerflow.store._description import grid_of

    return grid_of(description).cells


def _fill(store: Store, asked: Asked, batches: list[Batch], on: Machine, progress: bool, stop: Stop) -> None:
    """Compute and write every chunk that is missing."""
    done = store.check()
    missing = [chunk for chunk in store.chunks if chunk not in done]
    if not missing:
        return
    plans, total = plans_of(store.description), store.combinations * store.cells
    before, inside = sum(map(store.cells_of, done)), bool(done)
    run = _started(store, total, before)
    with progress_bar(total, progress, before) as bar, contextlib.closing(Writer(store, run)) as writer:
        try:
            for number, ((_, words), batch) in enumerate(zip(asked.grid.combinations(), batches, strict=True)):
                bar.set_description(words or "sweep", refresh=False)
                for cells, values in solved(
                    asked.grid, batch, plans[number], _begins(store, missing, number, stop), on
                ):
                    writer.put(number, cells, values)
                    inside = inside or (np.asarray(values["status"]) != Status.OUTSIDE).any()
                    bar.update(len(cells))
            writer.wait()
        finally:
            devices = max(len(on.devices_for(store.cells, plan.size)) for plan in plans)
            with contextlib.suppress(OSError):  # where the disk is full the error under way says so
                run.end(devices=devices, **facts_of_run(batches, plans))
    if stop.asked and len(store.done()) < len(store.chunks):
        raise KeyboardInterrupt(how_to_go_on(store))
    if not inside:
        raise asked.outside()


def _started(store: Store, total: int, done: int) -> Run:
    try:
        return Run(store.place, total, done)
    except OSError as error:
        raise not_written(store, error) from error


def _begins(store: Store, missing: list[Chunk], number: int, stop: Stop) -> Iterator[int]:
    """Where the missing chunks of one combination begin, until an interrupt asks to stop."""
    for combination, chunk in missing:
        if stop.asked:
            return
        if combination == number:
            yield chunk * store.size


def how_to_go_on(store: Store) -> str:
    """What an interrupted sweep says."""
    return (
        f"Stopped after a whole chunk: {len(store.done())} of {len(store.chunks)} chunks are kept in {store.place}. "
        f"The same call goes on from there."
    )
