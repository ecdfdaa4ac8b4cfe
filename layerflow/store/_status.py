"""How far a sweep in a store is."""

import os
from dataclasses import dataclass

import numpy as np

from layerflow.diagrams._array import has_failed
from layerflow.store._log import runs
from layerflow.store._place import Place
from layerflow.store._retries import Retries
from layerflow.store._store import Store


@dataclass(frozen=True)
class Progress:
    """Cells of a sweep by how they stand, and how fast they come.

    Attributes:
        cells: All of them.
        done: Computed, failed ones included.
        failed: Those that failed.
        missing: Not computed yet.
        rate: Cells a second of the last run; None if it did none.
        seconds_left: Until all are done at that rate; None if it is not known.
        last: What the last run says of itself; nothing if there was none.
    """

    cells: int
    done: int
    failed: int
    missing: int
    rate: float | None
    seconds_left: float | None
    last: dict[str, object]


def progress_of(path: str | os.PathLike[str]) -> Progress:
    """How far a sweep in a store is, finished or not."""
    place = Place(path)
    store = Store(place)
    retries = Retries(store)
    done = failed = 0
    for chunk in sorted(store.done()):
        status = store.numbers("status", lambda chunk=chunk: store.read("status", chunk))
        retries.lay_over("status", chunk[0] * store.cells + store.cells_in(chunk), [], status)
        done += store.cells_of(chunk)
        failed += int(np.sum(has_failed(status)))
    cells, last = store.combinations * store.cells, (runs(place) or [{}])[-1]
    computed, seconds = last.get("done", 0) - last.get("done_before", 0), last.get("seconds", 0.0)
    rate = computed / seconds if computed and seconds else None
    left = None if rate is None else (cells - done) / rate
    return Progress(cells, done, failed, cells - done, rate, left, last)
