"""Whatever accelerator is there: right answers first, then how fast.

    python -m benchmarks.gpu

In float64 and in float32, each in a process of its own, in under eight minutes; on a CPU with fewer cells. It holds
flows against closed forms, times the wide and the uniform cells of `benchmarks.lanes` and the best arrangement by hand,
counts what the device launched, tries numbers of lanes, and computes Figure 6(a) at 10^6 cells. Results carry the
device's name. What a process has no time for is left out by name.
"""

import functools
import glob
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import layerflow as lf
from benchmarks import _measure
from benchmarks._shared import DTYPES

SECONDS = 210.0  # after which a process begins with nothing new
BY_HAND = (512, 2**13, 2**17)  # cells of a chunk


def right() -> dict[str, float]:
    """Figure 6(a) by its flow against its closed form, 40 x 40 cells."""
    from benchmarks import closed_form

    flow, exact = (closed_form.sweep(method) for method in (lf.Flow(t1=closed_form.T1), lf.Exact(t1=closed_form.T1)))
    apart = lambda name: float(np.abs(flow[name] - exact[name]).max())
    return {
        "flow_succeeded": int((flow.status == 0).sum()),
        "exact_succeeded": int((exact.status == 0).sum()),
        "kernel_distance_apart": apart("kernel_distance"),
        "loss_apart": apart("loss"),
    }


def cells(kind: str, many: int) -> dict[str, float]:
    """Cells of one kind, by layerflow and by `diffeqsolve` in chunks, sorted by hardness beforehand."""
    from benchmarks import lanes
    from benchmarks.suite import in_jax
    from benchmarks.suite.problems import problems

    problem = problems()[kind]
    given = problem.draw(many)
    run = functools.partial(lanes.sweep, problem, given)
    diagram = run()
    by_hand = {}  # on a CPU small chunks are the best, on a GPU large ones
    for size in BY_HAND:
        solve, read = in_jax.sorted_chunks(problem, given, lanes.RTOL, size=min(size, many))
        answers = read(solve())
        by_hand[size] = _measure.seconds(solve, repeats=1), answers
    size = min(by_hand, key=lambda size: by_hand[size][0])
    theirs, (ends, succeeded) = by_hand[size]
    ours = _measure.in_programs(run, repeats=3)
    return {
        "cells": many,
        "program_seconds": ours,
        "call_seconds": _measure.seconds(lambda: run().measured_matrix.values, repeats=3),
        "compile_seconds": diagram.attrs["compile_seconds"],
        "succeeded": int((diagram.status == 0).sum()),
        "lanes": diagram.attrs["lanes"],
        "chunk": diagram.attrs["chunk"],
        "by_hand_seconds": theirs,
        "by_hand_chunk": size,
        "by_hand_ratio": theirs / ours,
        "by_hand_succeeded": int(succeeded.sum()),
        "apart": lanes.apart(diagram, ends, given),
        "launches": launches(run),
        "most_steps": int(diagram.num_steps.max()),
    }


def launches(run: Callable[[], Any]) -> int:
    """How many kernels the device began in one call, by JAX's profiler; on a CPU, which launches none, 0."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run()
        (path,) = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
        planes = jax.profiler.ProfileData.from_file(path).planes
        lines = [line for plane in planes if plane.name.startswith("/device:") for line in plane.lines]
        return sum(1 for line in lines if line.name.startswith(("Stream", "XLA Ops")) for _ in line.events)


def numbers_of_lanes(many: int) -> dict[str, float]:
    """Seconds of programs for uniform cells, by how many lanes there are."""
    from benchmarks import lanes
    from benchmarks.suite.problems import problems

    problem = problems()["uniform"]
    given, result = problem.draw(many), {}
    for power in range(12, 21):
        if 2**power > many:
            break
        run = functools.partial(lanes.sweep, problem, given, on=lf.Machine(lanes=2**power, chunk=many, devices=1))
        run()
        result[str(2**power)] = _measure.in_programs(run, repeats=3)
    return result


def figure_6a(grid: int) -> dict[str, float]:
    """Figure 6(a) in one call."""
    from benchmarks import closed_form

    run = lambda: closed_form.sweep(lf.Flow(t1=closed_form.T1), grid)
    diagram = run()
    return {
        "cells": grid**2,
        "call_seconds": _measure.seconds(lambda: run().loss.values, repeats=1),
        "compile_seconds": diagram.attrs["compile_seconds"],
        "succeeded": int((diagram.status == 0).sum()),
    }


def parts() -> dict[str, Callable[[], dict[str, float]]]:
    """What is measured, the most needed first."""
    small = jax.default_backend() == "cpu"
    many = 2**12 if small else 2**17
    return {
        "right": right,
        "uniform": lambda: cells("uniform", many),
        "wide": lambda: cells("wide", many),
        "figure_6a": lambda: figure_6a(100 if small else 1000),
        "program_seconds_by_lanes": lambda: numbers_of_lanes(2**13 if small else 2**20),
    }


def of_one_precision(dtype: str) -> None:
    """Print what was measured in one precision, as a line of JSON."""
    jax.config.update("jax_enable_x64", dtype == "float64")
    begin, result = time.perf_counter(), {}
    for name, part in parts().items():
        if time.perf_counter() - begin < SECONDS:
            result[name] = part()
        else:
            result.setdefault("left_out", []).append(name)
    print(json.dumps(result))


def main() -> None:
    """Run each precision in a process of its own, and save both."""
    if len(sys.argv) > 1:
        of_one_precision(sys.argv[1])
        return
    result = {}
    for dtype in DTYPES:
        command = [sys.executable, "-m", "benchmarks.gpu", dtype]
        printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        result[dtype] = json.loads(printed.splitlines()[-1])
        print(dtype, json.dumps(result[dtype], indent=2), flush=True)
    device = jax.devices()[0].device_kind.lower().replace(" ", "_")
    _measure.save(f"gpu_{device}", result)


if __name__ == "__main__":
    main()
