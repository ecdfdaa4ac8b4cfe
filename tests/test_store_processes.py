"""Stores and real processes: killed, interrupted, side by side, and on a cluster."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray

import layerflow as lf

pytestmark = [
    pytest.mark.slow,
    pytest.mark.optimised,
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning:distributed"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

TASK = lf.random_regression(jax.random.key(1), n=10, inp=2, out=2, whiten=True)
AXES = {"lam": np.linspace(-5, 5, 40), "target": np.linspace(0.5, 4, 30)}
CHUNKS = 240  # of ten cells: 40 * 30 cells of two seeds
KILLS = 20


def cell(key, lam, target):
    return lf.Problem(lf.lambda_balanced(key, lam, 0.3, inp=2, hid=2, out=2), TASK.rescale(target=target))


def swept(store=None, **how):
    on = how.pop("on", lf.Machine(chunk=10, devices=1))
    observe = (lf.loss, lf.kernel_distance)
    return lf.sweep(cell, AXES, seeds=2, method=lf.Flow(t1=5.0), observe=observe, on=on, store=store, **how)


@pytest.fixture(scope="module")
def kept():
    return swept()


def assert_same(one, other):
    xarray.testing.assert_identical(one.drop_attrs(deep=False), other.drop_attrs(deep=False))
    assert all(one[name].values.tobytes() == other[name].values.tobytes() for name in other.variables)


_PROCESS = """
import sys, jax
sys.path.insert(0, {folder!r})
import conftest, layerflow as lf, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
lf.enable_compile_cache({cache!r})
import test_store_processes as test
print("ready", flush=True)
sys.stdin.readline()
test.swept({store!r}, progress=False)
print("done", flush=True)
"""


def go_on(process):
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.fixture
def start(request):
    """Start a process that sweeps into a store; it is at the sweep when this returns, or `waiting` for a line."""
    begun = []

    def start(store, waiting=False):
        where = {"folder": str(request.path.parent), "cache": jax.config.jax_compilation_cache_dir, "store": str(store)}
        command = [sys.executable, "-c", _PROCESS.format(**where)]
        process = subprocess.Popen(command, **dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE), text=True)
        begun.append(process)
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        if not waiting:
            go_on(process)
        return process

    yield start
    for process in begun:
        process.kill()
        process.communicate()


def chunks(store):
    """How many chunks are marked as whole."""
    folder = store / "status/c/0"
    return sum(not file.name.endswith(".partial") for file in folder.iterdir()) if folder.is_dir() else 0


def wait_for(condition, process=None, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        assert process is None or process.poll() is None, process.stderr.read()
        time.sleep(0.002)


def test_twenty_kills_lose_nothing(start, tmp_path, kept):
    """kill -9 at random moments, the making of the store included; each process takes the lock of the dead one.

    The store opens and reads after every kill, no chunk that was whole is lost, and the end is bit for bit the
    diagram of an uninterrupted sweep.
    """
    store, rng, whole = tmp_path / "diagram.zarr", random.Random(0), 0
    for number in range(KILLS):
        process, before = start(store), whole
        if number:  # the first is killed while it makes the store, or before
            wait_for(lambda before=before: chunks(store) > before, process)
        time.sleep(rng.uniform(0, 0.06))
        process.kill()
        process.wait()
        if not number:
            continue
        whole = chunks(store)
        assert before < whole < CHUNKS
        part = lf.open_diagram(store).load()
        there = (part.status != lf.Status.MISSING).values
        assert there.sum() == 10 * whole
        assert (part.loss.values[there] == kept.loss.values[there]).all()
    last = start(store)
    assert last.communicate()[0] == "done\n"

    assert_same(lf.open_diagram(store), kept)
    assert lf.open_diagram(store).attrs["runs"] >= KILLS
    assert not list(store.rglob("*.partial"))
    print(f"{KILLS} kills, {CHUNKS - chunks(store)} chunks lost")


def test_a_second_process_is_refused_by_name(start, tmp_path, kept):
    store = tmp_path / "diagram.zarr"
    first, second = (start(store, waiting=True) for _ in range(2))
    go_on(first)
    wait_for(lambda: chunks(store) > 3, first)

    with pytest.raises(BlockingIOError, match=rf"in use: process {first.pid} on .* writes to it since"):
        swept(store)
    go_on(second)
    _, said = second.communicate()

    assert second.returncode != 0
    assert f"process {first.pid} on" in said
    assert first.communicate()[0] == "done\n"
    assert_same(lf.open_diagram(store), kept)


def test_a_signal_ends_a_process_after_its_chunk(start, tmp_path, kept):
    store = tmp_path / "diagram.zarr"
    process = start(store)
    wait_for(lambda: chunks(store) > 3, process)

    process.send_signal(signal.SIGINT)
    _, said = process.communicate()

    there, stated = chunks(store), re.search(rf"Stopped after a whole chunk: (\d+) of {CHUNKS} chunks are kept", said)
    assert stated, said
    assert int(stated[1]) == there
    assert there < CHUNKS
    assert "The same call goes on from there." in said
    assert_same(swept(store), kept)


@pytest.fixture(scope="module")
def client():
    """Two worker processes."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50) as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture
def own_client():
    """Two worker processes that may be left in any state."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50) as cluster,
        Client(cluster) as client,
    ):
        yield client


def on(client, **how):
    return lf.Machine(client=client, chunk=10, **how)


def local_cell(task):
    """A cell function of no module, as in a notebook."""

    def cell(key, lam, target):
        return lf.Problem(lf.lambda_balanced(key, lam, 0.3, inp=2, hid=2, out=2), task.rescale(target=target))

    return cell


def stored_by(client, store):
    """The sweep of `kept` by the workers of a cluster."""
    method, observe = lf.Flow(t1=5.0), (lf.loss, lf.kernel_distance)
    return lf.sweep(local_cell(TASK), AXES, seeds=2, method=method, observe=observe, on=on(client), store=store)


def test_a_cluster_gives_the_bits_of_one_process(client, tmp_path, kept):
    """In float64, which workers do not inherit; a function that no module holds, with the data it closes over."""
    stored = stored_by(client, tmp_path / "d.zarr")

    assert stored.attrs["devices"] == 2
    assert_same(stored, kept)


def test_another_store_in_the_same_place_is_another_store(client, tmp_path):
    """Workers keep nothing of the one that was there."""
    few = lambda lam: lf.Problem(lf.linear_model(jnp.array([lam])), lf.Modes(jnp.ones(1), lam))
    for cells, chunk in ((40, 10), (60, 7)):
        axes, store = {"lam": np.linspace(0.0, 1.0, cells)}, tmp_path / "d.zarr"
        shutil.rmtree(store, ignore_errors=True)
        stored = lf.sweep(
            few, axes, method=lf.Flow(t1=0.1), on=lf.Machine(client=client, chunk=chunk, lanes=4), store=store
        )
        assert_same(stored, lf.sweep(few, axes, method=lf.Flow(t1=0.1), on=lf.Machine(chunk=chunk, lanes=4)))


def test_a_killed_worker_loses_nothing(client, tmp_path, kept):
    """Its chunks go to the other, and to the one that the cluster starts in its place."""
    store, pid = tmp_path / "d.zarr", next(iter(client.run(os.getpid).values()))

    def kill():
        wait_for(lambda: chunks(store) > 30)
        os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    stored = stored_by(client, store)
    killer.join()

    assert_same(stored, kept)
    client.wait_for_workers(2, timeout=60)


def by_shape(key, lam, shape):
    inp, hid, out = shape
    task = lf.random_regression(key, n=10, inp=inp, out=out, whiten=True)
    return lf.Problem(lf.lambda_balanced(key, lam, 1.0, inp=inp, hid=hid, out=out), task)


def test_static_axes_paths_and_derivatives_go_to_a_cluster(client, tmp_path):
    """A function of a module that workers cannot import goes with its module's consent, as cloudpickle has it."""
    import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    run = lambda **how: lf.sweep(
        by_shape,
        {"lam": [-1.0, 0.0, 1.0], "shape": lf.static({"funnel": (3, 2, 2), "square": (2, 2, 2)})},
        seeds=2,
        method=lf.Flow(t1=1.0),
        ts=[0.0, 0.5, 1.0],
        observe=lf.loss,
        derivative=("lam",),
        **how,
    )

    stored = run(on=lf.Machine(client=client, chunk=4, lanes=2), store=tmp_path / "d.zarr")

    assert_same(stored, run(on=lf.Machine(chunk=4, lanes=2)))
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.mark.usefixtures("_ctrl_c")
def test_an_interrupt_leaves_a_cluster_with_its_running_chunks(client, tmp_path, kept):
    store = tmp_path / "d.zarr"
    run = lambda: stored_by(client, store)

    def interrupt():
        wait_for(lambda: chunks(store) > 20)
        os.kill(os.getpid(), signal.SIGINT)

    impatient = threading.Thread(target=interrupt)
    impatient.start()
    with pytest.raises(KeyboardInterrupt, match=rf"of {CHUNKS} chunks are kept in .*The same call goes on"):
        run()
    impatient.join()

    assert 20 < chunks(store) < CHUNKS
    assert_same(run(), kept)


def test_a_cluster_goes_on_with_what_one_process_began(client, tmp_path, kept):
    store = tmp_path / "d.zarr"
    first = local_cell(TASK)
    run = lambda machine: lf.sweep(
        first, AXES, seeds=2, method=lf.Flow(t1=5.0), observe=(lf.loss, lf.kernel_distance), on=machine, store=store
    )
    run(lf.Machine(chunk=10, devices=1))
    for number in range(0, CHUNKS, 2):
        (store / f"status/c/0/{number}").unlink()

    assert_same(run(lf.Machine(client=client)), kept)


def test_a_chunk_that_kills_its_workers_is_named_and_all_others_are_kept(own_client, tmp_path):
    """As one does that takes too much memory."""
    from distributed import WorkerPlugin

    class Poison(WorkerPlugin):
        name = "poison"

        def setup(self, worker):
            from layerflow.sweeps import _chunks

            self.cells_of = _chunks.cells_of

            def poisoned(grid, cells, size):
                if cells[0] == 20:
                    os.kill(os.getpid(), signal.SIGKILL)
                return self.cells_of(grid, cells, size)

            _chunks.cells_of = poisoned

        def teardown(self, worker):
            from layerflow.sweeps import _chunks

            _chunks.cells_of = self.cells_of

    def few(lam):
        return lf.Problem(lf.linear_model(jnp.array([lam])), lf.Modes(jnp.ones(1), lam))

    run = lambda: lf.sweep(
        few, {"lam": np.arange(60.0)}, method=lf.Flow(t1=0.1), on=on(own_client), store=tmp_path / "d.zarr"
    )
    own_client.register_plugin(Poison())
    try:
        with pytest.raises(
            RuntimeError, match=r"1 of 6 chunks killed every worker that took them, chunk 2 of 10 cells"
        ):
            run()
        assert (lf.open_diagram(tmp_path / "d.zarr").status == 255).values.nonzero()[0].tolist() == list(range(20, 30))
    finally:
        own_client.unregister_worker_plugin("poison")
    own_client.wait_for_workers(2, timeout=120)
    assert (run().status == 0).all()


def test_workers_that_lack_something_are_refused(client, tmp_path, monkeypatch):
    from layerflow.store import _cluster

    for installed, words in (
        ({"no-such-package": "1.0"}, r"worker tcp://.* lacks no-such-package. Install version 1.0 there"),
        ({"jax": "0.9.0"}, r"worker tcp://.* has jax .*, but here it is 0.9.0, and numbers depend on it"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(_cluster, "_installed", lambda installed=installed: installed)
            with pytest.raises(RuntimeError, match=words):
                swept(tmp_path / "d.zarr", on=on(client))
    assert not (tmp_path / "d.zarr").exists()
    with pytest.raises(ValueError, match=r"write to a store that all can reach. Name it: store="):
        swept(on=on(client))
    with pytest.raises(TypeError, match=r"`devices` and `client` exclude one another"):
        lf.Machine(client=client, devices=1)
    with pytest.raises(TypeError, match=r"needs a dask.distributed.Client"):
        lf.Machine(client="tcp://127.0.0.1:8786")
