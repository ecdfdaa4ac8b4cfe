"""The cells of `benchmarks.lanes` against torchode, torchdiffeq and SciPy. Not part of CI.

    pip install torch torchode torchdiffeq
    python -m benchmarks.lanes_torch

How each library is used, `benchmarks.suite.outside_jax` says. layerflow has one virtual device per core, as on its
command line, and torchode one thread or one per core, whichever is faster; layerflow on one device is held against
torchode on one thread. They take turns, so that other work treats them alike. torchdiffeq, on one thread, and SciPy, on
some of the cells with its seconds scaled up to all, are measured once.
"""

import functools
import os
import statistics
import time
from importlib.metadata import version
from typing import Any

import jax
import numpy as np

import layerflow as lf
from benchmarks import _measure, lanes
from benchmarks.suite import outside_jax
from benchmarks.suite.problems import problems

CORES = sorted({1, len(os.sched_getaffinity(0))})
EVERY = 64  # SciPy solves one cell in so many
SPIN = 1.0  # seconds that threads of torch may spin after their work, on a core that others want
LIBRARIES = ("torch", "torchode", "torchdiffeq", "scipy")


def compare(kind: str, repeats: int = 5) -> dict[str, float]:
    """Seconds of layerflow and of each library, and how far apart their answers are."""
    problem = problems()[kind]
    given = problem.draw(problem.cells)
    on = lambda n: functools.partial(lanes.sweep, problem, given, on=lf.Machine(devices=n, chunk=problem.cells // n))
    ours = {f"layerflow_{n}_devices": on(n) for n in CORES}
    diagram = ours[f"layerflow_{CORES[-1]}_devices"]()
    result: dict[str, float] = {"cells": problem.cells, "layerflow_succeeded": int((diagram.status == 0).sum())}

    def answers(name: str, ends: Any, succeeded: np.ndarray, every: int = 1) -> dict[str, float]:
        some = {"scale": given["scale"][::every]}
        apart = lanes.apart(diagram.isel(cell=slice(None, None, every)), ends, some)
        return {f"{name}_succeeded": int(succeeded.sum()), f"{name}_largest_difference": apart}

    outside_jax.forget()
    turns = {}
    for n in CORES:
        turns[f"torchode_{n}_threads"], read = outside_jax.torchode(problem, given, lanes.RTOL, threads=n)
        result |= answers("torchode", *read(turns[f"torchode_{n}_threads"]()))
    seconds = {name: [_measure.seconds(turn, repeats=1)] for name, turn in turns.items()}
    first = min(times[0] for times in seconds.values())
    again = [name for name, times in seconds.items() if times[0] < 2 * first]  # a slower one cannot win
    for name, sweep in ours.items():
        sweep()
        seconds[name] = []
    for _ in range(repeats):
        for name, sweep in ours.items():
            time.sleep(SPIN)
            sweep()  # what ran before has left its data in the cache
            seconds[name].append(_measure.in_programs(sweep, repeats=1))
        for name in again:
            turns[name]()
            seconds[name].append(_measure.seconds(turns[name], repeats=1))
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    best = min(medians[name] for name in ours)
    least = {"torchode": min(medians[name] for name in turns)}
    result["torchode_ratio_on_one_core"] = medians["torchode_1_threads"] / medians["layerflow_1_devices"]
    print(kind, medians, flush=True)

    run, read = outside_jax.torchdiffeq(problem, given, lanes.RTOL)
    run()
    begin = time.perf_counter()
    solved = run()
    least["torchdiffeq"] = time.perf_counter() - begin
    result |= answers("torchdiffeq", *read(solved))

    some = {name: array[::EVERY] for name, array in given.items()}
    run, read = outside_jax.scipy(problem, some, lanes.RTOL)
    begin = time.perf_counter()
    solved = run()
    measured = len(some["scale"])
    least["scipy"] = (time.perf_counter() - begin) * problem.cells / measured
    result |= {"scipy_cells_measured": measured} | answers("scipy", *read(solved), every=EVERY)

    result |= {f"{name}_seconds": median for name, median in (medians | least).items()}
    return result | {f"{library}_ratio": s / best for library, s in least.items()}


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", CORES[-1])
    jax.config.update("jax_enable_x64", True)
    result: dict[str, Any] = {
        "libraries": {name: version(name) for name in LIBRARIES},
        "methods": {
            "torchode": "Tsit5, torch.compile, a step size for each cell",
            "torchdiffeq": "dopri5, compiled velocity, one step size for all cells, one thread",
            "scipy": "RK45 in a loop, seconds scaled up from scipy_cells_measured",
        },
        "load_before": os.getloadavg()[0],
    }
    for kind in ("wide", "uniform"):
        result[kind] = compare(kind)
        print(kind, {name: float(f"{value:.4g}") for name, value in result[kind].items()}, flush=True)
    _measure.save("lanes_torch", result)
