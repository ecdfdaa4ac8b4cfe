"""Chunks computed by the workers of a Dask cluster, which write them straight to the store.

A task names one chunk. What all tasks share is delivered once to each worker, as a plugin, which the scheduler
hands to workers that come later and to those that replace the dead as well. A chunk that is computed
twice, after a death say, is written twice with the same bits.
"""

import functools
import hashlib
import importlib.metadata
import itertools
import platform
import threading
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, NamedTuple

import cloudpickle
import jax
from distributed import KilledWorker, WorkerPlugin, as_completed

from layerflow.base._jax import settings_of
from layerflow.base._numerics import full_precision, undisturbed
from layerflow.engine._chunks import Batch
from layerflow.engine._identity import SETTINGS
from layerflow.engine._machine import Machine, Plan
from layerflow.store._description import plans_of
from layerflow.store._into import InStore
from layerflow.store._place import Place
from layerflow.store._store import Chunk, Store
from layerflow.store._writer import not_written
from layerflow.sweeps._chunks import Facts, Here, Stop, solved
from layerflow.sweeps._record import device_in_words
from layerflow.sweeps._request import Request

_IN_FLIGHT = 1000  # chunks that the scheduler knows of at once: many for any cluster, few for its memory
_DEADLY = 3  # chunks that kill worker after worker: enough to give up
# What of JAX's settings what is traced, or the time it takes to compile, depends on; workers do not inherit them.
_SETTINGS = (
    *SETTINGS,
    "jax_numpy_dtype_promotion",
    "jax_numpy_rank_promotion",
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)
_one_at_a_time = threading.RLock()  # of the threads of a worker: there is one device


class Package(NamedTuple):
    """What the workers need to know of a sweep."""

    settings: dict[str, Any]
    request: bytes  # pickled apart: arrays take their precision from the settings when they are unpickled
    fingerprints: list[str]

    @classmethod
    def of(cls, request: Request, batches: list[Batch]) -> "Package":
        """A sweep, packed."""
        return cls(settings_of(_SETTINGS), cloudpickle.dumps(request), [batch.identity.digest for batch in batches])


class There:
    """The workers of a cluster, which all have what this process has.

    Raises:
        RuntimeError: If workers lack layerflow, or have another version of what decides the numbers, or
            another kind of device.
    """

    def __init__(self, request: Request, batches: list[Batch], on: Machine) -> None:
        self.package, self.on, self.client = Package.of(request, batches), on, on.client
        self.client.wait_for_workers(1)
        # Request by functions of Python's own: a worker may lack layerflow.
        self._check_alike("python", platform.python_version(), platform.python_version)
        for name, here in _installed().items():
            self._check_alike(name, here, importlib.metadata.version, name)
        devices = sorted(set(self._of_workers(device_in_words).values()))
        if len(devices) > 1:
            raise RuntimeError(
                f"The workers have devices of {len(devices)} kinds, {', '.join(devices)}, whose numbers differ in the "
                f"last bits. Sweep on one kind."
            )
        (self.device,) = devices

    def _check_alike(self, name: str, here: str, ask: Callable[..., Any], *arguments: Any) -> None:
        """Raise if a worker has another version than this process, or none."""
        for worker, there in self._of_workers(ask, *arguments).items():
            if isinstance(there, BaseException):
                raise RuntimeError(
                    f"The Dask worker {worker} lacks {name}. Install version {here} there, as it is here."
                )
            if there != here:
                raise RuntimeError(
                    f"The Dask worker {worker} has {name} {there}, but here it is {here}, and numbers depend on it. "
                    f"Install the same on both sides."
                )

    def _of_workers(self, ask: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        answers: Any = self.client.run(ask, *arguments, on_error="return")
        return answers

    def plans(self) -> list[Plan]:
        """How chunks are computed, as one of the workers finds out."""
        how = {name: getattr(self.on, name) for name in ("memory", "chunk", "lanes")}
        return self.client.submit(_plan, self.package, how, pure=False).result()

    def compute(self, keeper: InStore, stop: Stop, bar: Any) -> Generator[tuple[int, Facts]]:
        """Have missing chunks computed, and written to the store by who computes them."""
        run, store, blamed, deadly = f"layerflow-{uuid.uuid4().hex}", keeper.store, [], []
        if not keeper.lacking:
            return
        self.client.register_plugin(_Delivery(run, self.package))
        try:
            for chunk, killed in self._flown(run, "first", store, keeper.lacking, _IN_FLIGHT, stop):
                if killed:
                    blamed.append(chunk)
                else:
                    yield store.cells_of(chunk), {}
            # A chunk that waits at a worker behind a deadly one is blamed with it: alone, each shows what it is.
            alone = itertools.takewhile(lambda _: len(deadly) < _DEADLY, blamed)
            for chunk, killed in self._flown(run, "alone", store, alone, 1, stop):
                if killed:
                    deadly.append(chunk)
                else:
                    yield store.cells_of(chunk), {}
            yield 0, _together(self._of_workers(_facts, run))
        finally:
            self.client.unregister_worker_plugin(run)
        if deadly:
            raise RuntimeError(
                f"{len(deadly)} of {len(store.chunks)} chunks killed every worker that took them, chunk {deadly[0][1]} "
                f"of {store.size} cells first; what others computed is kept in {store.place}. Workers may need more "
                f"memory, or smaller chunks, lf.Machine(chunk=...), in another folder."
            )

    def _flown(
        self, run: str, name: str, store: Store, chunks: Iterable[Chunk], most: int, stop: Stop
    ) -> Iterator[tuple[Chunk, bool]]:
        """Send chunks, so many at a time, until an interrupt asks to stop; each as it ends, and whether it killed."""
        queue, flying = iter(chunks), {}

        def send(chunk: Chunk) -> Any:
            future = self.client.submit(_work, run, store.place.url, chunk, key=f"{run}-{name}-{chunk}", pure=False)
            flying[future.key] = future, chunk
            return future

        tasks: Any = as_completed([send(chunk) for chunk in itertools.islice(queue, most)])
        try:
            for future in tasks:
                _, chunk = flying.pop(future.key)
                error = future.exception() if future.status == "error" else None
                if isinstance(error, OSError):
                    raise not_written(store, error) from error
                # What a task returned may have died with its worker (it is "lost" then), not what it wrote.
                if future.status not in ("finished", "lost") and not isinstance(error, KilledWorker):
                    raise error or RuntimeError(f"The cluster gave up chunk {chunk}: its task is {future.status}.")
                yield chunk, error is not None
                if stop.asked:
                    return
                for after in itertools.islice(queue, 1):
                    tasks.add(send(after))
        finally:
            self.client.cancel([future for future, _ in flying.values()])


def _together(of_workers: dict[str, Any]) -> dict[str, Any]:
    """Facts of all workers that took part."""
    seen = [facts for facts in of_workers.values() if isinstance(facts, dict)]
    return {
        "devices": len(seen),
        "calls_split": sum(facts["calls_split"] for facts in seen),
        "chunk_bytes": max((facts["chunk_bytes"] for facts in seen), default=0),
        "compile_seconds": round(sum(facts["compile_seconds"] for facts in seen), 3),
    }


def _installed() -> dict[str, str]:
    """Versions of what decides the numbers."""
    return {name: importlib.metadata.version(name) for name in ("layerflow", "jax", "jaxlib", "diffrax", "optax")}


class _Delivery(WorkerPlugin):
    """Hands a package to all workers, those that come later included."""

    def __init__(self, run: str, package: Package) -> None:
        self.name, self.package = run, package

    def setup(self, worker: Any) -> None:
        """The package is here."""
        _packages[self.name] = self.package

    def teardown(self, worker: Any) -> None:
        """The sweep is over."""
        _packages.pop(self.name, None)
        _opened.clear()


_packages: dict[str, Package] = {}
_opened: dict[str, tuple[Request, list[Batch]]] = {}


def _open(package: Package) -> tuple[Request, list[Batch]]:
    """Unpack and trace a sweep, once in each process."""
    for name, value in package.settings.items():
        jax.config.update(name, value)
    name = hashlib.sha256(package.request + repr(package.settings).encode()).hexdigest()
    if name not in _opened:
        request: Request = cloudpickle.loads(package.request)
        batches = request.batches()
        if [batch.identity.digest for batch in batches] != package.fingerprints:
            raise RuntimeError(
                "A worker traces something else of this cell function than the client does. A module that it uses "
                "differs between the two, or it holds something that no two processes can compare ("
                + ", ".join(sorted(frozenset[str]().union(*(batch.identity.strange for batch in batches))))
                + ")."
            )
        _opened.clear()  # one sweep at a time
        _opened[name] = request, batches
    return _opened[name]


@full_precision()
@undisturbed()
def _plan(package: Package, how: dict[str, Any]) -> list[Plan]:
    """How a worker computes chunks."""
    with _one_at_a_time:
        request, batches = _open(package)
        return Here(request, batches, Machine(devices=1, **how)).plans()


@full_precision()
@undisturbed()
def _work(run: str, url: str, chunk: Chunk) -> None:
    """Compute and write one chunk, unless it is there."""
    with _one_at_a_time:
        store, number = _store(run, url), chunk[0]
        if store.is_done(chunk):
            return
        request, batches = _open(_packages[run])
        cells, plan = store.cells_in(chunk), plans_of(store.description)[number]
        store.write(number, cells, solved(request.grid, batches[number], plan, jax.local_devices()[0], cells))


def _facts(run: str) -> dict[str, Any] | None:
    """What a worker says of how the run went; None if it took no part."""
    if run not in _packages or not _opened:
        return None
    ((_, batches),) = _opened.values()
    return {
        "calls_split": sum(batch.calls_split for batch in batches),
        "chunk_bytes": max(batch.chunk_bytes for batch in batches),
        "compile_seconds": sum(batch.compile_seconds for batch in batches),
    }


@functools.lru_cache(maxsize=1)
def _store(run: str, url: str) -> Store:  # noqa: ARG001 - a later run may find another store there
    return Store(Place(url), read_only=False)
