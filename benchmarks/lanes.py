"""Many flows of different difficulty in one call, against diffrax's own loop in all honest arrangements.

    python -m benchmarks.lanes

Wide: 16,384 two-layer 2-2-2 networks, target scales log-uniform from 0.01 to 100. Uniform: all scales 1. T = 20, Tsit5,
rtol 1e-6, atol 1e-8, first step 0.01, float64. The baselines are `diffeqsolve` under `vmap`, all cells in one call, in
chunks of 512 in the order given, or (an oracle) sorted by scale; they are given the velocity written out by hand.
layerflow is given a cell function and differentiates its loss. Times are of the compiled programs, and of whole calls.
"""

import subprocess
import sys
from typing import Any

import diffrax as dfx
import numpy as np

import layerflow as lf
from benchmarks import _measure
from benchmarks.suite import in_jax
from benchmarks.suite.problems import DT0, Given, Problem, healthy, of_widths, problems

RTOL = 1e-6


def sweep(problem: Problem, given: Given, **how: Any) -> Any:
    """layerflow over all cells."""
    return in_jax.sweep(problem, given, in_jax.method_of(problem, RTOL), **how)


def apart(diagram: Any, ends: Any, given: Given) -> float:
    """Largest distance of end-to-end matrices, relative to the target scale."""
    distances = np.abs(diagram.measured_matrix.values - ends["matrix"]).reshape(len(given["scale"]), -1).max(axis=1)
    return float((distances / given["scale"]).max())


def compare(kind: str) -> dict[str, float]:
    """Seconds of layerflow and of each arrangement of diffrax, and how far apart their answers are."""
    problem = problems()[kind]
    given = problem.draw(problem.cells)
    diagram = sweep(problem, given)
    ours = _measure.in_programs(lambda: sweep(problem, given))
    result = {
        "layerflow_seconds": ours,
        "layerflow_call_seconds": _measure.seconds(lambda: sweep(problem, given).measured_matrix.values),
        "layerflow_succeeded": int((diagram.status == 0).sum()),
    }
    arrangements = {"one_vmap": in_jax.one_vmap, "chunks": in_jax.chunks, "sorted_chunks": in_jax.sorted_chunks}
    for name, prepare in arrangements.items():
        run, read = prepare(problem, given, RTOL)
        ends, succeeded = read(run())
        seconds = _measure.seconds(run, repeats=3)
        result |= {
            f"{name}_seconds": seconds,
            f"{name}_ratio": seconds / ours,
            f"{name}_succeeded": int(succeeded.sum()),
            f"{name}_largest_difference": apart(diagram, ends, given),
            f"{name}_equal_steps": float(np.mean(ends["num_steps"] == diagram.num_steps.values)),
        }
    return result


def wide() -> dict[str, float]:
    """Target scales over four decades."""
    return compare("wide")


def uniform() -> dict[str, float]:
    """All target scales one."""
    return compare("uniform")


def poisoned() -> dict[str, float]:
    """Wide, with one cell in a hundred poisoned: half NaN, half of a negative variance, where weights blow up."""
    problem = problems()["poisoned"]
    dirty = problem.draw(problem.cells)
    clean = dirty | {"poison": np.zeros_like(dirty["poison"])}
    before, beside = sweep(problem, clean), sweep(problem, dirty)
    seconds = {"clean": [], "poisoned": []}
    for _ in range(5):  # in turns, so that a noisy machine treats both alike
        seconds["clean"].append(_measure.in_programs(lambda: sweep(problem, clean), repeats=1))
        seconds["poisoned"].append(_measure.in_programs(lambda: sweep(problem, dirty), repeats=1))
    well = healthy(dirty)
    return {
        "clean_seconds": float(np.median(seconds["clean"])),
        "poisoned_seconds": float(np.median(seconds["poisoned"])),
        "ratio": float(np.median(np.divide(seconds["poisoned"], seconds["clean"]))),
        "failed": int((beside.status >= lf.Status.NOT_FINITE).sum()),
        "equal_bits": float(np.mean(beside.measured_matrix.values[well] == before.measured_matrix.values[well])),
    }


def against_chunks(problem: Problem, solver: dfx.AbstractSolver[Any] | None = None) -> dict[str, float]:
    """Networks of other shapes, against `diffeqsolve` in chunks of 512."""
    given = problem.draw(problem.cells)
    solver = dfx.Tsit5() if solver is None else solver
    method = lf.Flow(t1=problem.t1, solver=solver, rtol=RTOL, dt0=DT0)
    run = lambda: in_jax.sweep(problem, given, method)
    chunks, read = in_jax.chunks(problem, given, RTOL, solver=solver)
    (ends, _), diagram = read(chunks()), run()
    seconds, mine = _measure.seconds(chunks, repeats=3), _measure.in_programs(run, repeats=3)
    return {
        "layerflow_seconds": mine,
        "chunks_seconds": seconds,
        "ratio": seconds / mine,
        "succeeded": int((diagram.status == 0).sum()),
        "largest_difference": apart(diagram, ends, given),
    }


def width_5() -> dict[str, float]:
    """Networks 5-5-5."""
    return against_chunks(of_widths("5-5-5", "", 4096, (5, 5, 5)))


def width_20() -> dict[str, float]:
    """Networks 20-20-20."""
    return against_chunks(problems()["wide-networks"])


def depth_4() -> dict[str, float]:
    """Four layers of width 2."""
    return against_chunks(problems()["deep"])


def hundred_times() -> dict[str, float]:
    """Values at 100 log-spaced times."""
    return against_chunks(problems()["times"])


def implicit() -> dict[str, float]:
    """An implicit solver."""
    return against_chunks(of_widths("implicit", "", 2048, (2, 2, 2)), dfx.Kvaerno5())


_ON_DEVICES = """
import jax
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_enable_x64", True)
from benchmarks.lanes import sweep
from benchmarks.suite.problems import problems
from benchmarks import _measure
import layerflow as lf
wide = problems()["wide"]
given = wide.draw(2**16)
on = {n: lf.Machine(devices=n, chunk=4096) for n in (1, 2)}
first, second = (sweep(wide, given, on=on[n]) for n in (1, 2))
seconds = {1: [], 2: []}
for _ in range(5):
    for n in (1, 2):
        seconds[n].append(_measure.seconds(lambda: sweep(wide, given, on=on[n]), repeats=1))
equal = bool((first.measured_matrix.values == second.measured_matrix.values).all())
print(sorted(seconds[1])[2], sorted(seconds[2])[2], equal)
"""


def two_devices() -> dict[str, float]:
    """65,536 wide cells on one and on two virtual devices of two cores, whole calls, in a process of their own."""
    printed = subprocess.run([sys.executable, "-c", _ON_DEVICES], capture_output=True, text=True, check=True).stdout
    one, two, equal = printed.split()[-3:]
    one, two = float(one), float(two)
    return {"one_seconds": one, "two_seconds": two, "ratio": one / two, "equal_bits": float(equal == "True")}


def per_cell() -> dict[str, float]:
    """Time per cell at 10^4 and at 10^6 uniform cells, whole calls, and the memory that the process takes."""
    seconds = {}
    for cells in (10**4, 10**6):
        given = problems()["uniform"].draw(cells)
        run = lambda given=given: sweep(problems()["uniform"], given, observe=lf.loss)
        run()
        seconds[cells] = _measure.in_programs(run, repeats=5 if cells < 10**5 else 1)
    small, large = (seconds[cells] / cells for cells in (10**4, 10**6))
    return {
        "microseconds_at_10^4": 1e6 * small,
        "microseconds_at_10^6": 1e6 * large,
        "ratio": large / small,
        "peak_gib": _measure.peak_gib(),
    }


if __name__ == "__main__":
    _measure.run(
        "lanes",
        per_cell,
        wide,
        uniform,
        poisoned,
        width_5,
        width_20,
        depth_4,
        hundred_times,
        implicit,
        two_devices,
    )
