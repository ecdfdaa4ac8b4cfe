"""Figure 6(a) by layerflow, against the loop it replaces; from process start to picture; and 10^6 cells.

    python -m benchmarks.phase_diagram

The loop is descent on the second moments in NumPy on one thread, 4000 steps a cell and the kernel distance at the end,
over the same cells: the published script without what made it slow. Both answers are compared.
"""

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # NumPy's threads; XLA keeps its own

import json
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

import layerflow as lf
from benchmarks import _measure
from benchmarks.closed_form import sweep
from benchmarks.suite.problems import problems, task_6a

GRID = 40


def starts() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Starting weights, target scales and moments of the cells of Figure 6(a), one seed."""
    problem, moments = problems()["closed-form"], task_6a()
    given = problem.draw(GRID**2)
    w1, w2 = problem.layers(given["w"])
    return w1, w2, 1 / given["scale"], np.asarray(moments.xx), np.asarray(moments.yx)


def kernel(w1: np.ndarray, w2: np.ndarray, xx: np.ndarray) -> np.ndarray:
    """The tangent kernel on moments, as a small dense matrix."""
    return np.kron(np.eye(len(w2)), w1.T @ w1 @ xx) + np.kron(w2 @ w2.T, xx)


def numpy_loop(w1s: np.ndarray, w2s: np.ndarray, ratios: np.ndarray, xx: np.ndarray, yx: np.ndarray) -> np.ndarray:
    """Kernel distance of every cell, one after the other."""
    distances = []
    for w1, w2, ratio in zip(w1s, w2s, ratios, strict=True):
        k0, target = kernel(w1, w2, xx), yx / ratio
        for _ in range(4000):
            miss = target - w2 @ w1 @ xx
            w1, w2 = w1 + 0.01 * (w2.T @ miss), w2 + 0.01 * (miss @ w1.T)  # noqa: PLW2901
        k1 = kernel(w1, w2, xx)
        distances.append(1 - np.sum(k0 * k1) / np.linalg.norm(k0) / np.linalg.norm(k1))
    return np.array(distances)


def against_the_loop() -> dict[str, float]:
    """Seconds of both, and how far apart their kernel distances are."""
    cold = time.perf_counter()
    diagram = sweep(lf.Flow(t1=39.99), GRID)
    cold = time.perf_counter() - cold
    ours = _measure.seconds(lambda: sweep(lf.Flow(t1=39.99), GRID).loss.values)
    begin = time.perf_counter()
    loop = numpy_loop(*starts())
    theirs = time.perf_counter() - begin
    return {
        "layerflow_seconds": ours,
        "layerflow_first_call_seconds": cold,
        "numpy_loop_seconds": theirs,
        "ratio": theirs / ours,
        "cells_that_succeeded": int((diagram.status == 0).sum()),
        "largest_difference_of_kernel_distance": float(np.abs(diagram.kernel_distance.values.ravel() - loop).max()),
    }


_PARTS = """
import json, pathlib, sys, time
begin = time.perf_counter()
from layerflow.cli._shared import draw, keep, set_up
set_up("float64")
from layerflow.figures import FIGURES
imported = time.perf_counter()
diagram = FIGURES["6a"].compute()
computed = time.perf_counter()
draw(lambda: FIGURES["6a"].draw(diagram), keep(diagram, pathlib.Path(sys.argv[1], "parts")))
compiling, drawn = diagram.attrs["compile_seconds"], time.perf_counter()
running = computed - imported - compiling
print(json.dumps({"import": imported - begin, "compile": compiling, "run": running, "draw": drawn - computed}))
"""


def parts_of_a_figure() -> dict[str, float]:
    """Seconds of Figure 6(a) in a process, by what they go into: cold, and in a second process with a warm cache."""
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("cold", "warm"):
            environment = os.environ | {"XDG_CACHE_HOME": folder}
            command = [sys.executable, "-c", _PARTS, folder]
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
            parts = json.loads(done.stdout.splitlines()[-1])
            result |= {f"{kind}_{name}_seconds": seconds for name, seconds in parts.items()}
    return result


def process_to_picture() -> dict[str, float]:
    """Seconds from the start of a process to its end, cold and with a warm compile cache."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "layerflow.cli", "figure", "6a", "--grid", str(GRID), "--out", folder]
        environment = os.environ | {"XDG_CACHE_HOME": folder}
        times = []
        for _ in range(4):
            begin = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, env=environment)
            times.append(time.perf_counter() - begin)
        assert pathlib.Path(folder, "figure_6a.png").exists()
    return {"cold_seconds": times[0], "warm_seconds": float(np.median(times[1:]))}


def million_cells() -> dict[str, float]:
    """Figure 6(a) with a thousand points along each axis, and the memory it took."""
    before = _measure.peak_gib()
    begin = time.perf_counter()
    diagram = sweep(lf.Flow(t1=39.99), 1000)
    return {
        "seconds": time.perf_counter() - begin,
        "peak_gib": _measure.peak_gib(),
        "peak_gib_before": before,
        "cells_that_succeeded": int((diagram.status == 0).sum()),
    }


if __name__ == "__main__":
    _measure.run("phase_diagram", process_to_picture, parts_of_a_figure, against_the_loop, million_cells)
