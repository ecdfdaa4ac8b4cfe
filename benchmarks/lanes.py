"""Many flows of different difficulty in one call, against diffrax's own loop in all honest arrangements.

    python -m benchmarks.lanes

Wide: 16,384 two-layer 2-2-2 networks, target scales log-uniform from 0.01 to 100. Uniform: all scales 1. T = 20, Tsit5,
rtol 1e-6, atol 1e-8, first step 0.01, float64. The baselines are `diffeqsolve` under `vmap`, all cells in one call, in
chunks of 512 in the order given, or (an oracle) sorted by scale; they are given the velocity written out by hand.
layerflow is given a cell function and differentiates its loss. Times are of the compiled programs, and of whole calls.
"""

import functools
import itertools
import subprocess
import sys
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


def cell(w1: jax.Array, w2: jax.Array, scale: jax.Array, poison: int | jax.Array = 0) -> lf.Problem:
    """One network on whitened inputs, of which poison 1 makes the variance NaN, and 2 negative."""
    task = lf.Moments.whitened(yx=TARGET).rescale(target=scale)
    variance = jnp.array([1.0, jnp.nan, -1e3])[poison]
    poisoned = eqx.tree_at(lambda task: task.xx, task, task.xx * variance)  # past the checks of lf.Moments
    return lf.Problem(lf.LinearNetwork((w1, w2)), poisoned)


def sweep(arguments: dict[str, np.ndarray], observe: Any = matrix, on: lf.Machine | None = None) -> Any:
    """layerflow over all cells."""
    axes, method = {"cell": lf.paired(arguments)}, lf.Flow(t1=T1, rtol=RTOL, atol=ATOL, dt0=DT0)
    return lf.sweep(cell, axes, method=method, observe=observe, progress=False, on=on)


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
    assert solution.ys is not None
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
    diagram = sweep(arguments)
    ours = _measure.in_programs(lambda: sweep(arguments))
    result = {
        "layerflow_seconds": ours,
        "layerflow_call_seconds": _measure.seconds(lambda: sweep(arguments).matrix.values),
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


def poisoned() -> dict[str, float]:
    """Wide, with one cell in a hundred poisoned: half NaN, half of a negative variance, where weights blow up."""
    w1, w2, scales = networks(2**14, "wide")
    clean = {"w1": w1, "w2": w2, "scale": scales, "poison": np.zeros(len(scales), int)}
    dirty = clean | {"poison": np.where(np.arange(len(scales)) % 100 == 7, 1 + np.arange(len(scales)) // 100 % 2, 0)}
    before, beside = sweep(clean), sweep(dirty)
    seconds = {"clean": [], "poisoned": []}
    for _ in range(5):  # in turns, so that a noisy machine treats both alike
        seconds["clean"].append(_measure.in_programs(lambda: sweep(clean), repeats=1))
        seconds["poisoned"].append(_measure.in_programs(lambda: sweep(dirty), repeats=1))
    healthy = dirty["poison"] == 0
    return {
        "clean_seconds": float(np.median(seconds["clean"])),
        "poisoned_seconds": float(np.median(seconds["poisoned"])),
        "ratio": float(np.median(np.divide(seconds["poisoned"], seconds["clean"]))),
        "failed": int((beside.status >= lf.Status.NOT_FINITE).sum()),
        "equal_bits": float(np.mean(beside.matrix.values[healthy] == before.matrix.values[healthy])),
    }


def against_chunks(
    widths: tuple[int, ...],
    cells: int,
    *,
    ts: np.ndarray | None = None,
    solver: dfx.AbstractSolver[Any] | None = None,
    chunk: int = CHUNK,
) -> dict[str, float]:
    """Networks of other shapes, log-uniform target scales from 0.1 to 10, against `diffeqsolve` in chunks of 512."""
    solver = dfx.Tsit5() if solver is None else solver
    rng = np.random.default_rng(0)
    layers = [rng.normal(size=(cells, b, a)) / np.sqrt(a) for a, b in itertools.pairwise(widths)]
    scales, target = 10 ** rng.uniform(-1, 1, cells), np.eye(widths[-1], widths[0])
    end = 2.0 if ts is None else ts[-1]
    controller = dfx.PIDController(rtol=RTOL, atol=ATOL)

    def network(scale: jax.Array, w: jax.Array) -> lf.Problem:
        sizes = np.cumsum([0, *(b * a for a, b in itertools.pairwise(widths))])
        own = [w[i:j].reshape(b, a) for i, j, (a, b) in zip(sizes, sizes[1:], itertools.pairwise(widths), strict=False)]
        return lf.Problem(lf.LinearNetwork(tuple(own)), lf.Moments.whitened(yx=target).rescale(target=scale))

    flat = np.concatenate([layer.reshape(cells, -1) for layer in layers], axis=1)
    method = lf.Flow(t1=end, solver=solver, rtol=RTOL, atol=ATOL, dt0=DT0)
    axes = {"cell": lf.paired({"scale": scales, "w": flat})}
    run = lambda: lf.sweep(network, axes, method=method, ts=ts, observe=matrix, progress=False)

    def field(_: Any, w: tuple[jax.Array, ...], scale: jax.Array) -> tuple[jax.Array, ...]:
        product = lambda w: functools.reduce(lambda product, layer: layer @ product, w)
        return jax.tree.map(jnp.negative, jax.grad(lambda w: 0.5 * jnp.sum((scale * target - product(w)) ** 2))(w))

    def alone(scale: jax.Array, *w: jax.Array) -> jax.Array:
        save = dfx.SaveAt(t1=True) if ts is None else dfx.SaveAt(ts=jnp.asarray(ts))
        solution = dfx.diffeqsolve(
            dfx.ODETerm(field),
            solver,
            0.0,
            end,
            DT0,
            w,
            args=scale,
            saveat=save,
            stepsize_controller=controller,
            max_steps=2**14,
            throw=False,
        )
        assert solution.ys is not None
        return jax.vmap(lambda *w: functools.reduce(lambda product, layer: layer @ product, w))(*solution.ys)

    arrays = [jnp.asarray(array.reshape(-1, chunk, *array.shape[1:])) for array in (scales, *layers)]
    chunks = jax.jit(lambda *arrays: jax.lax.map(lambda chunk: jax.vmap(alone)(*chunk), arrays))
    theirs, ours = np.asarray(jax.block_until_ready(chunks(*arrays))), run()
    seconds = _measure.seconds(lambda: chunks(*arrays), repeats=3)
    mine = _measure.in_programs(run, repeats=3)
    error = np.abs(theirs.reshape(ours.matrix.shape) - ours.matrix.values).reshape(cells, -1).max(axis=1) / scales
    return {
        "layerflow_seconds": mine,
        "chunks_seconds": seconds,
        "ratio": seconds / mine,
        "succeeded": int((ours.status == 0).sum()),
        "largest_difference": float(error.max()),
    }


def width_5() -> dict[str, float]:
    """Networks 5-5-5."""
    return against_chunks((5, 5, 5), 4096)


def width_20() -> dict[str, float]:
    """Networks 20-20-20."""
    return against_chunks((20, 20, 20), 512, chunk=512)


def depth_4() -> dict[str, float]:
    """Four layers of width 2."""
    return against_chunks((2, 2, 2, 2, 2), 8192)


def hundred_times() -> dict[str, float]:
    """Values at 100 log-spaced times."""
    return against_chunks((2, 2, 2), 8192, ts=np.geomspace(1e-2, 2.0, 100))


def implicit() -> dict[str, float]:
    """An implicit solver."""
    return against_chunks((2, 2, 2), 2048, solver=dfx.Kvaerno5())


_ON_DEVICES = """
import jax
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_enable_x64", True)
from benchmarks.lanes import networks, sweep
from benchmarks import _measure
import layerflow as lf
w1, w2, scales = networks(2**16, "wide")
arguments = {"w1": w1, "w2": w2, "scale": scales}
on = {n: lf.Machine(devices=n, chunk=4096) for n in (1, 2)}
first, second = (sweep(arguments, on=on[n]) for n in (1, 2))
seconds = {1: [], 2: []}
for _ in range(5):
    for n in (1, 2):
        seconds[n].append(_measure.seconds(lambda: sweep(arguments, on=on[n]), repeats=1))
print(sorted(seconds[1])[2], sorted(seconds[2])[2], bool((first.matrix.values == second.matrix.values).all()))
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
        w1, w2, scales = networks(cells, "uniform")
        arguments = {"w1": w1, "w2": w2, "scale": scales}
        run = lambda arguments=arguments: sweep(arguments, observe=lf.loss)
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
