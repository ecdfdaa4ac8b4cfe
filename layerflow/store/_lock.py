"""One writer at a time."""

import contextlib
import socket
from collections.abc import Generator

import filelock
import psutil

from layerflow.store._log import Record, runs
from layerflow.store._place import OWN, Place


@contextlib.contextmanager
def locked(place: Place) -> Generator[None]:
    """Hold the store, or raise with the name of the process that does.

    In a folder the operating system holds the lock, and lets go of it when the process dies, however it
    dies. Behind a URL the log of the store says who writes: a process of this host that is gone has
    lost its hold; of another host none can tell, so its hold stays until its record is deleted.

    Raises:
        BlockingIOError: If another process writes to the store.
        OSError: If nothing can be written there.
    """
    if place.local is None:
        _check_log(place)
        yield
        return
    lock = place.local / OWN / "lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(lock, timeout=0):
            yield
    except filelock.Timeout:
        raise BlockingIOError(
            f"The store {place} is in use: {_whose(runs(place))}. Wait for it, or end it; what it wrote stays."
        ) from None


def _check_log(place: Place) -> None:
    """Raise if the last run that the log knows may still be under way."""
    records = runs(place)
    if not records or records[-1]["ended"]:
        return
    last = records[-1]
    if last["host"] == socket.gethostname() and not psutil.pid_exists(last["pid"]):
        return
    raise BlockingIOError(
        f"The store {place} is in use: {_whose(records)}. Wait for it, or end it; what it wrote stays. If it is gone "
        f"already, delete {OWN}/log there, which is its record."
    )


def _whose(records: list[Record]) -> str:
    if not records:
        return "another process is making it"
    last = records[-1]
    return f"process {last['pid']} on {last['host']} writes to it since {last['begin']}"
