"""Who wrote to a store, when and how far: one record for each run, kept in the store."""

import contextlib
import os
import socket
import time
from typing import Any

from layerflow.store._arrays import opened_group
from layerflow.store._checked import Unlike, check_run, each
from layerflow.store._place import OWN, Place
from layerflow.sweeps._record import Record, now

_PATH = f"{OWN}/log"
_SECONDS = 1.0  # between records of a run under way


def runs(place: Place) -> list[Record]:
    """The records of all runs, the oldest first.

    Raises:
        ValueError: If they are none.
    """
    try:
        records: Any = opened_group(place, *_PATH.split("/")).attrs.get("runs", [])
        each(records, check_run)
    except FileNotFoundError:
        return []
    except Unlike as wrong:
        raise ValueError(
            f"The log of the store {place} is not one that layerflow writes: {wrong}. Delete {_PATH} there; it holds "
            f"times alone."
        ) from None
    return records


class Run:
    """The record of this run, written as it goes on.

    Args:
        place: Of the store.
        total: Cells of the sweep.
        done: How many were there before.
    """

    def __init__(self, place: Place, total: int, done: int) -> None:
        self._before = runs(place)
        self._group = opened_group(place, *_PATH.split("/"), mode="a")
        self._begin = self._written = time.perf_counter()
        begin = now()
        whose = {"host": socket.gethostname(), "pid": os.getpid()}
        self.record: Record = whose | {
            "begin": begin,
            "updated": begin,
            "seconds": 0.0,
            "total": total,
            "done_before": done,
            "done": done,
            "ended": False,
        }
        self._write()

    def add(self, cells: int, **facts: Any) -> None:
        """Count cells that are done; written once a second at most."""
        self.record |= facts | {"done": self.record["done"] + cells}
        if time.perf_counter() - self._written >= _SECONDS:
            self._try_to_write()

    def end(self) -> None:
        """Say that the run is over."""
        self.record["ended"] = True
        self._try_to_write()

    def _try_to_write(self) -> None:
        with contextlib.suppress(OSError):  # where no space is left, the chunk that finds none says so
            self._write()

    def _write(self) -> None:
        self._written = time.perf_counter()
        self.record |= {"updated": now(), "seconds": round(self._written - self._begin, 3)}
        self._group.attrs["runs"] = [*self._before, self.record]
