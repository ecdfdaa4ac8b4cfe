"""Chunks computed by the workers of a Dask cluster, which write them straight to the store.

A task names one chunk. What all tasks share is delivered once to each worker, as a plugin, which the scheduler
hands to workers that come later and to those that replace the dead as well. A chunk that is computed
twice, after a death say, is written twice with the same bits.
"""

import functools
import hashlib
import itertools
import threading
import uuid
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import cloudpickle
import jax
from distributed import Client, KilledWorker, WorkerPlugin, as_completed

from layerflow._asked import Asked, cells_of
from layerflow._diagram import measured
from layerflow._numerics import full_precision
from layerflow.engine._chunks import Batch, Plan
from layerflow.engine._machine import Machine
from layerflow.store._description import plans_of
from layerflow.store._place import Place
from layerflow.store._store import Chunk, Store
from layerflow.store._writer import Progress, Stop, not_written

_IN_FLIGHT = 1000  # chunks that the scheduler knows of at once: many for any cluster, few for its memory
_ALIKE = ("python", "layerflow", "jax", "jaxlib", "diffrax", "optax")
# What of JAX's settings the numbers, or the time it takes to compile, depend on; workers do not inherit them.
_SETTINGS = (
    "jax_enable_x64",
    "jax_numpy_dtype_promotion",
    "jax_numpy_rank_promotion",
    "jax_threefry_partitionable",
    "jax_default_prng_impl",
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)
_one_at_a_time = threading.RLock()  # of the threads of a worker: there is one device


class Package(NamedTuple):
    """What the workers need to know of a sweep."""

    settings: dict[str, Any]
    asked: bytes  # pickled apart: arrays take their precision from the settings when they are unpickled
    fingerprints: list[str]

    @classmethod
    def of(cls, asked: Asked, batches: list[Batch]) -> "Package":
        """A sweep, packed."""
        settings = {name: jax.config.values[name] for name in _SETTINGS}
        return cls(settings, cloudpickle.dumps(asked), [batch.fingerprint for batch in batches])


class Cluster:
    """The workers of a client, which all have what this process has.

    Raises:
        RuntimeError: If workers lack layerflow, or have another version of what decides the numbers, or
            another kind of device.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        client.wait_for_workers(1)
        here = _probe(devices=False)()
        there: Any = client.run(_probe(), on_error="return")
        for worker, versions in there.items():
            if isinstance(versions, BaseException):
                raise RuntimeError(f"The Dask worker {worker} cannot be asked what is installed: {versions!r}")
            missing = [name for name in _ALIKE if versions[name] is None]
            if missing:
                raise RuntimeError(
                    f"The Dask worker {worker} lacks {', '.join(missing)}. Install there what is installed here: "
                    f"layerflow {here['layerflow']}, jax {here['jax']}."
                )
            differ = [
                f"{name} {versions[name]} there, {here[name]} here" for name in _ALIKE if versions[name] != here[name]
            ]
            if differ:
                raise RuntimeError(
                    f"The Dask worker {worker} has another version of what decides the numbers: {'; '.join(differ)}. "
                    f"Install the same on both sides."
                )
        devices = {versions["device"] for versions in there.values()}
        if len(devices) > 1:
            raise RuntimeError(
                f"The workers have devices of {len(devices)} kinds, {', '.join(sorted(devices))}, whose numbers "
                f"differ in the last bits. Sweep on one kind."
            )
        (self.device,) = devices

    def plans(self, package: Package, on: Machine) -> list[Plan]:
        """How chunks are computed, as one of the workers finds out."""
        how = {"memory": on.memory, "chunk": on.chunk, "lanes": on.lanes}
        return self.client.submit(_plan, package, how, pure=False).result()

    def compute(self, store: Store, package: Package, missing: Iterable[Chunk], stop: Stop) -> Iterator[Progress]:
        """Have chunks computed and written."""
        run, queue, lost = f"layerflow-{uuid.uuid4().hex}", iter(missing), []
        flying: dict[Any, tuple[Any, Chunk]] = {}

        def send(chunk: Chunk) -> Any:
            future = self.client.submit(_work, run, store.place.url, chunk, key=f"{run}-{chunk}", pure=False)
            flying[future.key] = future, chunk
            return future

        self.client.register_plugin(_Delivery(run, package))
        try:
            tasks: Any = as_completed([send(chunk) for chunk in itertools.islice(queue, _IN_FLIGHT)])
            for future in tasks:
                _, chunk = flying.pop(future.key)
                error = future.exception() if future.status == "error" else None
                if isinstance(error, KilledWorker):
                    lost.append(chunk)
                elif isinstance(error, OSError):
                    raise not_written(store, error) from error
                elif future.status != "finished":
                    raise error or RuntimeError(f"The cluster gave up chunk {chunk}: its task is {future.status}.")
                else:  # what the task returned may have died with its worker; what it wrote has not
                    yield store.cells_of(chunk), {}
                if stop.asked:
                    break
                for after in itertools.islice(queue, 1):
                    tasks.add(send(after))
            yield 0, _together(self.client.run(_facts, run))
        finally:
            self.client.cancel([future for future, _ in flying.values()])
            self.client.unregister_worker_plugin(run)
        if lost:
            raise RuntimeError(
                f"{len(lost)} of {len(store.chunks)} chunks killed every worker that took them, chunk {lost[0][1]} of "
                f"{store.size} cells first; all others are kept in {store.place}. Workers may need more memory, or "
                f"smaller chunks, lf.Machine(chunk=...), in another folder."
            )


def _together(of_workers: Any) -> dict[str, Any]:
    """Facts of all workers that took part."""
    seen = [facts for facts in of_workers.values() if facts is not None]
    return {
        "devices": len(seen),
        "calls_split": sum(facts["calls_split"] for facts in seen),
        "chunk_bytes": max((facts["chunk_bytes"] for facts in seen), default=0),
        "compile_seconds": round(sum(facts["compile_seconds"] for facts in seen), 3),
    }


def _probe(*, devices: bool = True) -> Any:
    """A function that tells what a process has; of no module, so that it is pickled whole: layerflow may be missing."""
    names = _ALIKE[1:]

    def probe() -> dict[str, str | None]:
        import importlib.metadata
        import platform

        found: dict[str, str | None] = {"python": ".".join(platform.python_version_tuple()[:2])}
        for name in names:
            try:
                found[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                found[name] = None
        if devices and found["jax"] is not None:
            import jax

            found["device"] = f"{jax.devices()[0].platform}: {jax.devices()[0].device_kind}"
        return found

    return probe


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
_opened: dict[str, tuple[Asked, list[Batch]]] = {}


def _open(package: Package) -> tuple[Asked, list[Batch]]:
    """Unpack and trace a sweep, once in each process."""
    for name, value in package.settings.items():
        jax.config.update(name, value)
    name = hashlib.sha256(package.asked).hexdigest()
    if name not in _opened:
        asked: Asked = cloudpickle.loads(package.asked)
        batches = asked.batches()
        if [batch.fingerprint for batch in batches] != package.fingerprints:
            raise RuntimeError(
                "A worker traces something else of this cell function than the client does. A module that it uses "
                "differs between the two: bring them to one state."
            )
        _opened.clear()  # one sweep at a time
        _opened[name] = asked, batches
    return _opened[name]


@full_precision
def _plan(package: Package, how: dict[str, Any]) -> list[Plan]:
    """How a worker computes chunks."""
    from layerflow.store._into import plans

    with _one_at_a_time:
        return plans(*_open(package), Machine(devices=1, **how))


@full_precision
def _work(run: str, url: str, chunk: Chunk) -> None:
    """Compute and write one chunk, unless it is there."""
    with _one_at_a_time:
        store, number = _store(url), chunk[0]
        if store.is_done(chunk):
            return
        asked, batches = _open(_packages[run])
        batch, plan = batches[number], plans_of(store.description)[number]
        cells = store.cells_in(chunk)
        values = measured(batch, *batch.run(jax.local_devices()[0], cells_of(asked.grid, cells, plan.size), plan))
        store.write(number, cells, jax.device_get(values))


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
def _store(url: str) -> Store:
    return Store(Place(url), read_only=False)
