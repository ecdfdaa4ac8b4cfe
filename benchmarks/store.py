"""What a store costs, what a second worker gains, and how fast a large store opens.

    python -m benchmarks.store

Writing: Figure 6(a) with 1000 points along each axis, in memory and into a store, in turns. Workers: a `LocalCluster`
of one and of two processes, each bound to one core. Opening: a process of its own opens 10^7 cells and reads slices.
"""

import functools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import layerflow as lf
from benchmarks import _measure

TURNS = 3


def cell(key: jax.Array, lam: jax.Array, weight_to_target: jax.Array) -> lf.Problem:
    """A cell of Figure 6(a)."""
    task = lf.random_regression(lf.fold(key, "task"), n=10, inp=2, out=2, whiten=True)
    start = lf.lambda_balanced(key, lam, jnp.sqrt(weight_to_target), inp=2, hid=2, out=2)
    return lf.Problem(start, task.rescale(target=1 / weight_to_target))


def sweep(grid: int, **how: Any) -> Any:
    """Figure 6(a) over a grid."""
    axes = {"lam": np.linspace(-9, 9, grid), "weight_to_target": np.linspace(1, 20, grid)}
    observe = (lf.loss, lf.kernel_distance)
    return lf.sweep(cell, axes, method=lf.Flow(t1=39.99), observe=observe, progress=False, **how)


def timed(run: Callable[[], Any]) -> float:
    """Seconds of one call."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def writing() -> dict[str, float]:
    """Seconds of 10^6 cells in memory and into a store, medians of turns."""
    memory, store, cpu = [], [], []
    sweep(40)
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(TURNS):
            begin = time.process_time()
            memory.append(timed(lambda: sweep(1000)))
            middle = time.process_time()
            store.append(timed(lambda turn=turn: sweep(1000, store=pathlib.Path(folder, f"{turn}.zarr"))))
            cpu.append((time.process_time() - middle) / (middle - begin) - 1)
        files = [file.stat().st_size for file in pathlib.Path(folder, "0.zarr").rglob("*") if file.is_file()]
    return {
        "memory_seconds": statistics.median(memory),
        "store_seconds": statistics.median(store),
        "cost": statistics.median(store) / statistics.median(memory) - 1,
        "cost_of_the_least": min(store) / min(memory) - 1,
        "cost_in_processor_time": statistics.median(cpu),
        "files": len(files),
        "mib": sum(files) / 2**20,
    }


def workers() -> dict[str, float]:
    """Seconds of 640,000 cells on one and on two workers of one core each, once they have compiled."""
    from distributed import Client, LocalCluster

    result = {}
    for count in (1, 2):
        with (
            tempfile.TemporaryDirectory() as folder,
            LocalCluster(n_workers=count, threads_per_worker=1, dashboard_address=":0") as cluster,
            Client(cluster) as client,
        ):
            pids: Any = client.run(os.getpid)
            for core, pid in enumerate(pids.values()):
                for thread in os.listdir(f"/proc/{pid}/task"):  # those that are there; others inherit it
                    os.sched_setaffinity(int(thread), {sorted(os.sched_getaffinity(0))[core]})
            on = lf.Machine(client=client, chunk=4096)
            sweep(200, on=on, store=pathlib.Path(folder, "warm.zarr"))
            before: Any
            run, before = functools.partial(sweep, 800, on=on), client.run(time.process_time)
            times = [timed(functools.partial(run, store=pathlib.Path(folder, f"{n}.zarr"))) for n in range(TURNS)]
            after: Any = client.run(time.process_time)
            result[f"seconds_with_{count}"] = statistics.median(times)
            # Of the worker that computed longest: what a core that others use too does not blur.
            busiest = max(seconds - before[worker] for worker, seconds in after.items())
            result[f"processor_seconds_with_{count}"] = busiest / TURNS
    ratio = lambda name: result[f"{name}_with_1"] / result[f"{name}_with_2"]
    return result | {"ratio": ratio("seconds"), "ratio_of_processor_seconds": ratio("processor_seconds")}


_PEAK = """
import re
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 2**10
"""
_WRITE = """
import json, sys, time
import jax, jax.numpy as jnp, numpy as np, layerflow as lf
jax.config.update("jax_enable_x64", True)
plain = lambda lam, target: lf.Problem(
    lf.DiagonalNetwork((jnp.full(1, 0.1), jnp.full(1, 0.1))), lf.Modes(jnp.ones(1), target=lam * target)
)
grid = int(sys.argv[2])
axes = {"lam": np.linspace(-9, 9, grid), "target": np.linspace(1, 20, grid)}
begin = time.perf_counter()
lf.sweep(plain, axes, method=lf.Exact(t1=1.0), on=lf.Machine(chunk=4096), store=sys.argv[1], progress=False)
print(json.dumps({"seconds": time.perf_counter() - begin, "mib": peak()}))
"""
_OPEN = """
import json, sys, time
import layerflow as lf, xarray, zarr
before, begin = peak(), time.perf_counter()
diagram = lf.open_diagram(sys.argv[1])
row = diagram.loss.isel(lam=1234).values
read, row_mib = time.perf_counter(), peak()
column = diagram.loss.isel(target=1234).values
print(json.dumps({"row_seconds": read - begin, "row_mib": row_mib, "column_seconds": time.perf_counter() - read,
    "column_mib": peak(), "imports_mib": before}))
"""


def _in_process(program: str, *arguments: object) -> dict[str, float]:
    """What a program of its own process prints."""
    command = [sys.executable, "-c", _PEAK + program, *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def opening() -> dict[str, float]:
    """Seconds and memory to write 10^6 and 10^7 cells, and to open the latter and read a slice along either axis."""
    with tempfile.TemporaryDirectory() as folder:
        small = _in_process(_WRITE, pathlib.Path(folder, "small.zarr"), 1000)
        large = _in_process(_WRITE, path := pathlib.Path(folder, "large.zarr"), 3163)
        parts = _in_process(_OPEN, path)
    written = {
        f"{size}_write_{name}": value for size, of in (("1e6", small), ("1e7", large)) for name, value in of.items()
    }
    return written | parts


if __name__ == "__main__":
    _measure.run("store", writing, opening, workers)
