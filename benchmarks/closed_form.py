"""Figure 6(a) by its closed form against its flow, 10^6 cells in one call, and one trajectory at a thousand times.

    python -m benchmarks.closed_form

Both sides are the same sweep, `Exact` for `Flow`. A sweep traces the user's functions anew at each call, some
hundredths of a second for either; so the compiled programs are timed by themselves too, all their chunks one after the
other. `Flow` runs at its default tolerance, and at the first of rtol = 1e-7, 1e-8, ... that makes it as exact as
`Exact`.
"""

import time
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

import layerflow as lf
from benchmarks import _measure
from benchmarks.suite.problems import figure_6a
from layerflow import theory

GRID, T1 = 40, 39.99


def sweep(method: Any, grid: int = GRID) -> Any:
    axes = {"lam": np.linspace(-9.0, 9.0, grid), "weight_to_target": np.linspace(1.0, 20.0, grid)}
    return lf.sweep(figure_6a, axes, method=method, observe=(lf.kernel_distance, lf.loss), progress=False)


def against_the_flow() -> dict[str, float]:
    """Seconds of `Exact`, of `Flow` at its default tolerance and of `Flow` as exact as `Exact`, with their errors."""
    reference = sweep(lf.Flow(t1=T1, solver=diffrax.Dopri8(), rtol=1e-13, atol=1e-15))
    error = lambda diagram: float(np.abs(diagram.kernel_distance - reference.kernel_distance).max())
    exact = lf.Exact(t1=T1)
    ours = sweep(exact)
    flows = [lf.Flow(t1=T1, rtol=rtol) for rtol in 10.0 ** -np.arange(7.0, 13.0)]
    tight = next((flow for flow in flows if error(sweep(flow)) <= error(ours)), flows[-1])
    methods = {"exact": exact, "flow": lf.Flow(t1=T1), "flow_1e-10": lf.Flow(t1=T1, rtol=1e-10), "tight_flow": tight}
    result: dict[str, float] = {"cells_that_succeeded": int((ours.status == 0).sum())}
    result["tight_flow_rtol"] = float(tight.tolerances["rtol"])
    for name, method in methods.items():
        result[f"{name}_error"] = error(sweep(method))
        result[f"{name}_program_seconds"] = _measure.in_programs(lambda method=method: sweep(method), repeats=15)
        result[f"{name}_call_seconds"] = _measure.seconds(lambda method=method: sweep(method).loss.values, repeats=9)
    for name in ("flow", "flow_1e-10", "tight_flow"):
        for what in ("program", "call"):
            result[f"{name}_{what}_ratio"] = result[f"{name}_{what}_seconds"] / result[f"exact_{what}_seconds"]
    return result


def million_cells() -> dict[str, float]:
    """Figure 6(a) with a thousand points along each axis, and the memory it took."""
    before = _measure.peak_gib()
    begin = time.perf_counter()
    diagram = sweep(lf.Exact(t1=T1), 1000)
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
