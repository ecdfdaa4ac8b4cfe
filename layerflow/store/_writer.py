"""Chunks go to disk while the next ones are computed."""

import contextlib
import errno
import signal
import threading
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from layerflow.store._store import Store
from layerflow.sweeps._chunks import Stop

_FULL = (errno.ENOSPC, errno.EDQUOT)


class Writer:
    """Writes one chunk at a time, in a thread; an error is raised by the next call."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="layerflow-store")
        self._pending: Future[None] | None = None

    def put(self, number: int, cells: np.ndarray, values: dict[str, Any]) -> None:
        """Hand over a chunk, once the one before it is written."""
        self.wait()
        self._pending = self._pool.submit(self.store.write, number, cells, values)

    def wait(self) -> None:
        """Wait for the last chunk."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except OSError as error:
            raise not_written(self.store, error) from error

    def close(self) -> None:
        """Wait, and let go of the thread."""
        try:
            self.wait()
        finally:
            self._pool.shutdown()


def not_written(store: Store, error: OSError) -> OSError:
    """The error of a chunk that could not be written, with what is kept and how to go on."""
    why, mend = ("no space is left", "Make space") if error.errno in _FULL else (error.strerror or error, "Mend that")
    kept = f"{len(store.done())} of {len(store.chunks)} chunks are kept"
    return OSError(
        error.errno, f"{why} for the store {store.place}; {kept}. {mend}, and the same call goes on from there"
    )


@contextlib.contextmanager
def interrupts() -> Generator[Stop]:
    """Let the first Ctrl-C ask to stop, between chunks; the second one interrupts at once.

    Where a process was told to ignore it, as jobs in the background are, it stays ignored.
    """
    stop, before = Stop(), signal.getsignal(signal.SIGINT)
    in_main = threading.current_thread() is threading.main_thread()  # which alone hears signals
    if before in (signal.SIG_IGN, None) or not in_main:
        yield stop
        return

    def ask(*_: Any) -> None:
        stop.asked = True
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
