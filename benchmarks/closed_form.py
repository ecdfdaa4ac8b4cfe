"""Figure 6(a) by its closed form against its flow, 10^6 cells in one call, and one trajectory at a thousand times.

    python -m benchmarks.closed_form

Both sides are the same sweep, `Exact` for `Flow`. A sweep traces its functions anew at each call, some hundredths of a
second for either; so the compiled programs are timed by themselves too, all their chunks one after the other.
"""

import time
import unittest.mock
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import layerflow as lf
from benchmarks import _measure
from layerflow import theory
from layerflow.engine import _chunks

GRID = 40


def cell(key: jax.Array, lam: jax.Array, weight_to_target: jax.Array) -> lf.Problem:
    task = lf.random_regression(jax.random.key(1), n=10, inp=2, out=2, whiten=True).moments
    start = lf.lambda_balanced(key, lam, jnp.sqrt(weight_to_target), inp=2, hid=2, out=2)
    return lf.Problem(start, task.rescale(target=1 / weight_to_target))


def sweep(method: Any, grid: int = GRID) -> Any:
    axes = {"lam": np.linspace(-9.0, 9.0, grid), "weight_to_target": np.linspace(1.0, 20.0, grid)}
    return lf.sweep(cell, axes, method=method, observe=(lf.kernel_distance, lf.loss), progress=False)


def in_programs(run: Any) -> float:
    """Median seconds that compiled programs take of `run`."""
    original, spent = _chunks.Batch.run, []

    def timed(*arguments: Any) -> Any:
        begin = time.perf_counter()
        result = jax.block_until_ready(original(*arguments))
        spent.append(time.perf_counter() - begin)
        return result

    totals = []
    with unittest.mock.patch.object(_chunks.Batch, "run", timed):
        for _ in range(7):
            spent.clear()
            run()
            totals.append(sum(spent))
    return float(np.median(totals))


def against_the_flow() -> dict[str, float]:
    """Seconds of both, whole calls and programs alone, and how far apart their kernel distances are."""
    exact, flow = lf.Exact(t1=39.99), lf.Flow(t1=39.99)
    tight = sweep(lf.Flow(t1=39.99, rtol=1e-10))
    ours, theirs = sweep(exact), sweep(flow)
    programs = {"exact": in_programs(lambda: sweep(exact)), "flow": in_programs(lambda: sweep(flow))}
    calls = {
        "exact": _measure.seconds(lambda: sweep(exact).loss.values),
        "flow": _measure.seconds(lambda: sweep(flow).loss.values),
    }
    error = lambda diagram: float(np.abs(diagram.kernel_distance - tight.kernel_distance).max())
    return {
        "exact_program_seconds": programs["exact"],
        "flow_program_seconds": programs["flow"],
        "program_ratio": programs["flow"] / programs["exact"],
        "exact_call_seconds": calls["exact"],
        "flow_call_seconds": calls["flow"],
        "call_ratio": calls["flow"] / calls["exact"],
        "exact_error": error(ours),
        "flow_error": error(theirs),
        "cells_that_succeeded": int((ours.status == 0).sum()),
    }


def million_cells() -> dict[str, float]:
    """Figure 6(a) with a thousand points along each axis, and the memory it took."""
    before = _measure.peak_gib()
    begin = time.perf_counter()
    diagram = sweep(lf.Exact(t1=39.99), 1000)
    return {
        "seconds": time.perf_counter() - begin,
        "peak_gib": _measure.peak_gib(),
        "peak_gib_before": before,
        "cells_that_succeeded": int((diagram.status == 0).sum()),
    }


def thousand_times() -> dict[str, float]:
    """One trajectory of a 4-4-4 network at a thousand times, and the same networks one time each."""
    w1, w2 = lf.lambda_balanced(jax.random.key(0), 0.5, 0.1, inp=4, hid=4, out=4).weights
    yx, ts = jnp.diag(jnp.arange(4.0, 0.0, -1.0)), jnp.linspace(0.0, 40.0, 1000)
    path = jax.jit(lambda ts: theory.balanced_path(w1, w2, 0.5, yx, ts).factor)
    each = jax.jit(jax.vmap(lambda t: theory.balanced_network(w1, w2, 0.5, yx, t).factor))
    jax.block_until_ready((path(ts), each(ts)))
    path_seconds, each_seconds = (_measure.seconds(lambda f=f: f(ts), repeats=21) for f in (path, each))
    return {"path_seconds": path_seconds, "thousand_evaluations_seconds": each_seconds}


if __name__ == "__main__":
    _measure.run("closed_form", against_the_flow, million_cells, thousand_times)
