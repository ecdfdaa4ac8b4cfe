"""The first rows of `benchmarks.lanes` and Figure 6(a) at 10^6 cells, on whatever accelerator is there.

    python -m benchmarks.gpu

In float64 and in float32, each in a process of its own; on a CPU with fewer cells. Results carry the device's name.
"""

import functools
import json
import subprocess
import sys

import jax
import numpy as np

import layerflow as lf
from benchmarks import _measure

DTYPES = ("float64", "float32")


def flows(cells: int, grid: int) -> dict[str, dict[str, float]]:
    """Wide and uniform cells, and Figure 6(a), in the precision that is set."""
    from benchmarks import closed_form, lanes
    from benchmarks.suite.problems import problems

    result = {}
    for kind in ("wide", "uniform"):
        problem = problems()[kind]
        run = functools.partial(lanes.sweep, problem, problem.draw(cells))
        diagram = run()
        result[kind] = {
            "cells": cells,
            "program_seconds": _measure.in_programs(run, repeats=3),
            "call_seconds": _measure.seconds(lambda run=run: run().measured_matrix.values, repeats=3),
            "compile_seconds": diagram.attrs["compile_seconds"],
            "succeeded": int((diagram.status == 0).sum()),
            "lanes": diagram.attrs["lanes"],
            "chunk": diagram.attrs["chunk"],
        }
    figure = lambda: closed_form.sweep(lf.Flow(t1=39.99), grid)
    diagram = figure()
    result["figure_6a"] = {
        "cells": grid**2,
        "call_seconds": _measure.seconds(lambda: figure().loss.values, repeats=1),
        "compile_seconds": diagram.attrs["compile_seconds"],
        "succeeded": int((diagram.status == 0).sum()),
        "smallest_kernel_distance": float(np.nanmin(diagram.kernel_distance)),
    }
    return result


def main() -> None:
    """Run each precision in a process of its own, and save both."""
    if len(sys.argv) > 1:
        jax.config.update("jax_enable_x64", sys.argv[1] == "float64")
        on_cpu = jax.default_backend() == "cpu"
        print(json.dumps(flows(*((4096, 100) if on_cpu else (2**17, 1000)))))
        return
    result = {}
    for dtype in DTYPES:
        command = [sys.executable, "-m", "benchmarks.gpu", dtype]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        result[dtype] = json.loads(printed.splitlines()[-1])
        print(dtype, result[dtype], flush=True)
    device = jax.devices()[0].device_kind.lower().replace(" ", "_")
    _measure.save(f"gpu_{device}", result)


if __name__ == "__main__":
    main()
