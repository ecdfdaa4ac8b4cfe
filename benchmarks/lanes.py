"""Many flows of different difficulty in one call, against diffrax's own loop in all honest arrangements.

    python -m benchmarks.lanes [--torch]

Wide: 16,384 two-layer 2-2-2 networks, target scales log-uniform from 0.01 to 100. Uniform: all scales 1. T = 20, Tsit5,
rtol 1e-6, atol 1e-8, first step 0.01, float64. The baselines are `diffeqsolve` under `vmap`, all cells in one call, in
chunks of 512 in the order given, or (an oracle) sorted by scale; they are given the velocity written out by hand.
layerflow is given a cell function and differentiates its loss. Times are of the compiled programs, and of whole calls.
"""

import functools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import layerflow as lf
from benchmarks import _measure

T1, RTOL, ATOL, DT0 = 20.0, 1e-6, 1e-8, 0.01
TARGET = np.diag([1.0, 0.5])
CHUNK = 512
FLOW = {"t1": T1, "rtol": RTOL, "atol": ATOL, "dt0": DT0}
TOLERANCE = 10 * RTOL  # within which answers count as equal, relative to the target


def networks(cells: int, kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both layers and the target scale of every cell."""
    rng = np.random.default_rng(0)
    layers = 0.1 * rng.normal(size=(2, cells, 2, 2))
    scales = 10 ** rng.uniform(-2, 2, cells) if kind == "wide" else np.ones(cells)
    return layers[0], layers[1], scales


def matrix(network: Any, problem: lf.Problem) -> jax.Array:
    """The end-to-end matrix, to compare answers by."""
    del problem
    return network.matrix


def cell(w1: jax.Array, w2: jax.Array, scale: jax.Array, variance: jax.Array = 1.0) -> lf.Problem:
    """One network on whitened inputs of a variance, which poison makes NaN or negative."""
    task = lf.Moments.whitened(yx=TARGET).rescale(target=scale)
    poisoned = eqx.tree_at(lambda task: task.xx, task, task.xx * variance)  # past the checks of lf.Moments
    return lf.Problem(lf.LinearNetwork((w1, w2)), poisoned)


def layerflow(arguments: dict[str, np.ndarray], **options: Any) -> Any:
    """The sweep over all cells."""
    method = lf.Flow(**FLOW)
    return lf.sweep(cell, {"cell": lf.paired(arguments)}, method=method, observe=matrix, progress=False, **options)


def velocity(_: Any, w: tuple[jax.Array, jax.Array], scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Minus the gradient of |w2 w1 - scale target|^2 / 2."""
    w1, w2 = w
    miss = scale * TARGET - w2 @ w1
    return w2.T @ miss, miss @ w1.T


def diffrax(w1: jax.Array, w2: jax.Array, scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The end-to-end matrix of one cell at T, and its steps."""
    solution = dfx.diffeqsolve(
        dfx.ODETerm(velocity),
        dfx.Tsit5(),
        0.0,
        T1,
        DT0,
        (w1, w2),
        args=scale,
        stepsize_controller=dfx.PIDController(rtol=RTOL, atol=ATOL),
        max_steps=2**14,
        throw=False,
    )
    first, second = (w[0] for w in solution.ys)
    return second @ first, solution.stats["num_steps"]


@jax.jit
def one_call(*cells: jax.Array) -> tuple[jax.Array, jax.Array]:
    """All cells under one vmap."""
    return jax.vmap(diffrax)(*cells)


@jax.jit
def in_chunks(*cells: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Chunks one after the other, each under vmap."""
    chunks = [array.reshape(-1, CHUNK, *array.shape[1:]) for array in cells]
    ends, steps = jax.lax.map(lambda chunk: jax.vmap(diffrax)(*chunk), tuple(chunks))
    return ends.reshape(-1, 2, 2), steps.ravel()


def compare(kind: str, cells: int = 2**14) -> dict[str, float]:
    """Seconds of layerflow and of each arrangement of diffrax, and how far apart their answers are."""
    w1, w2, scales = networks(cells, kind)
    arguments = {"w1": w1, "w2": w2, "scale": scales}
    diagram = layerflow(arguments)
    ours = _measure.in_programs(lambda: layerflow(arguments))
    result = {
        "layerflow_seconds": ours,
        "layerflow_call_seconds": _measure.seconds(lambda: layerflow(arguments).matrix.values),
        "layerflow_succeeded": int((diagram.status == 0).sum()),
    }
    order = np.argsort(scales)
    arrangements: dict[str, tuple[Callable[..., Any], Any]] = {
        "one_vmap": (one_call, np.arange(cells)),
        "chunks": (in_chunks, np.arange(cells)),
        "sorted_chunks": (in_chunks, order),
    }
    for name, (run, arranged) in arrangements.items():
        given = [jnp.asarray(array[arranged]) for array in (w1, w2, scales)]
        ends, steps = jax.block_until_ready(run(*given))
        seconds = _measure.seconds(functools.partial(run, *given), repeats=3)
        ends, steps = np.asarray(ends)[np.argsort(arranged)], np.asarray(steps)[np.argsort(arranged)]
        error = np.abs(diagram.matrix.values - ends).max(axis=(1, 2)) / scales
        result |= {
            f"{name}_seconds": seconds,
            f"{name}_ratio": seconds / ours,
            f"{name}_succeeded": int(np.isfinite(ends).all(axis=(1, 2)).sum()),
            f"{name}_largest_difference": float(error.max()),
            f"{name}_equal_steps": float(np.mean(steps == diagram.num_steps.values)),
        }
    return result


def wide() -> dict[str, float]:
    """Target scales over four decades."""
    return compare("wide")


def uniform() -> dict[str, float]:
    """All target scales one."""
    return compare("uniform")


if __name__ == "__main__":
    _measure.run("lanes", wide, uniform)
