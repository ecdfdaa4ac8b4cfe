"""The cells of `benchmarks.lanes` against torchode, torchdiffeq and SciPy. Not part of CI.

    pip install torch torchode torchdiffeq
    python -m benchmarks.lanes_torch

torchode: Tsit5 and `IntegralController` (safety and bounds as in layerflow's controller), a step size for each cell,
all cells in one call, `solve` compiled by `torch.compile` (TorchScript runs too, but is slower and deprecated).
torchdiffeq has no Tsit5, so Dormand-Prince 5, with one step size for all cells, around a compiled velocity. SciPy has
none either, so RK45 (Dormand-Prince) in a loop over some of the cells, its seconds scaled up to all. All are given the
velocity written out by hand. layerflow has one virtual device per core, as on its command line, and torchode one thread
or one per core, whichever is faster; layerflow on one device is held against torchode on one thread. They take turns,
so that other work treats them alike. The others, torchdiffeq on one thread, are measured once.
"""

import functools
import os
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import jax
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torchdiffeq  # pyright: ignore[reportMissingImports]
import torchode  # pyright: ignore[reportMissingImports]
from scipy.integrate import solve_ivp

import layerflow as lf
from benchmarks import _measure, lanes

CORES = sorted({1, len(os.sched_getaffinity(0))})
EVERY = 64  # SciPy solves one cell in so many
LIBRARIES = ("torch", "torchode", "torchdiffeq", "scipy")


def velocity(_: Any, w: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Minus the gradient of |w2 w1 - target|^2 / 2, entry by entry: torch multiplies many 2 x 2 matrices slowly."""
    a, b, c, d, e, f, g, h = w.unbind(1)  # w1 = [a b; c d], w2 = [e f; g h]
    first, second = targets.unbind(1)
    m, n, p, q = first - e * a - f * c, -e * b - f * d, -g * a - h * c, second - g * b - h * d
    return torch.stack(
        (
            *(e * m + g * p, e * n + g * q, f * m + h * p, f * n + h * q),
            *(m * a + n * b, m * c + n * d, p * a + q * b, p * c + q * d),
        ),
        1,
    )


def matrices(w: torch.Tensor) -> np.ndarray:
    """End-to-end matrices of all cells."""
    w1, w2 = w.reshape(-1, 2, 2, 2).unbind(1)
    return (w2 @ w1).numpy()


def by_torchode(start: torch.Tensor, targets: torch.Tensor) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """A step size for each cell; gives matrices and which cells succeeded."""
    term = torchode.ODETerm(velocity, with_args=True, with_stats=False)
    control = torchode.IntegralController(atol=lanes.ATOL, rtol=lanes.RTOL, term=term)
    solver = torchode.AutoDiffAdjoint(torchode.Tsit5(term=term), control, max_steps=2**14)
    solve = torch.compile(solver.solve)  # torch.compile(solver) would leave `solve` as it is
    cells = len(start)
    begin, end, dt0 = (torch.full((cells,), t, dtype=torch.float64) for t in (0.0, lanes.T1, lanes.DT0))
    problem = torchode.InitialValueProblem(y0=start, t_start=begin, t_end=end)

    def run() -> tuple[np.ndarray, np.ndarray]:
        solution = solve(problem, dt0=dt0, args=targets)
        return matrices(solution.ys[:, 0]), (solution.status == 0).numpy()

    return run


def by_torchdiffeq(start: torch.Tensor, targets: torch.Tensor) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """One step size for all cells; gives matrices and which are finite."""
    compiled = torch.compile(velocity)
    options = {"method": "dopri5", "rtol": lanes.RTOL, "atol": lanes.ATOL, "options": {"first_step": lanes.DT0}}

    def run(t1: float = lanes.T1) -> tuple[np.ndarray, np.ndarray]:
        ts = torch.tensor([0.0, t1], dtype=torch.float64)
        ends = matrices(torchdiffeq.odeint(lambda t, w: compiled(t, w, targets), start, ts, **options)[-1])
        return ends, np.asarray(np.isfinite(ends).all(axis=(1, 2)))

    return run


def with_threads(run: Callable[[], Any], threads: int) -> Any:
    """Run torch on so many threads, without derivatives."""
    torch.set_num_threads(threads)
    with torch.no_grad():
        return run()


def by_scipy(w1: np.ndarray, w2: np.ndarray, scales: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One cell after the other; gives matrices and which cells succeeded."""

    def field(_: float, w: np.ndarray, target: np.ndarray) -> np.ndarray:
        w1, w2 = w.reshape(2, 2, 2)
        miss = target - w2 @ w1
        return np.concatenate([(w2.T @ miss).ravel(), (miss @ w1.T).ravel()])

    ends, succeeded = [], []
    for first, second, scale in zip(w1, w2, scales, strict=True):
        start = np.concatenate([first.ravel(), second.ravel()])
        options: dict[str, Any] = {
            "rtol": lanes.RTOL,
            "atol": lanes.ATOL,
            "first_step": lanes.DT0,
            "args": (scale * lanes.TARGET,),
        }
        solution = solve_ivp(field, (0.0, lanes.T1), start, method="RK45", **options)
        end = solution.y[:, -1].reshape(2, 2, 2)
        ends.append(end[1] @ end[0])
        succeeded.append(solution.success)
    return np.array(ends), np.array(succeeded)


def compare(kind: str, cells: int = 2**14, repeats: int = 5) -> dict[str, float]:
    """Seconds of layerflow and of each library, and how far apart their answers are."""
    w1, w2, scales = lanes.networks(cells, kind)
    arguments = {"w1": w1, "w2": w2, "scale": scales}
    on = lambda devices: functools.partial(
        lanes.sweep, arguments, on=lf.Machine(devices=devices, chunk=cells // devices)
    )
    ours = {f"layerflow_{n}_devices": on(n) for n in CORES}
    diagram = ours[f"layerflow_{CORES[-1]}_devices"]()
    result: dict[str, float] = {"cells": cells, "layerflow_succeeded": int((diagram.status == 0).sum())}

    def answers(name: str, ends: np.ndarray, succeeded: np.ndarray, every: int = 1) -> dict[str, float]:
        error = np.abs(diagram.matrix.values[::every] - ends).max(axis=(1, 2)) / scales[::every]
        return {f"{name}_succeeded": int(succeeded.sum()), f"{name}_largest_difference": float(error.max())}

    torch.compiler.reset()
    start = torch.from_numpy(np.concatenate([w1.reshape(cells, 4), w2.reshape(cells, 4)], axis=1))
    targets = torch.from_numpy(scales[:, None] * np.diag(lanes.TARGET))
    torchode_run, torchdiffeq_run = by_torchode(start, targets), by_torchdiffeq(start, targets)
    turns = {f"torchode_{n}_threads": functools.partial(with_threads, torchode_run, n) for n in CORES}
    for run in turns.values():
        result |= answers("torchode", *run())
    seconds = {name: [_measure.seconds(run, repeats=1)] for name, run in turns.items()}
    first = min(times[0] for times in seconds.values())
    again = [name for name, times in seconds.items() if times[0] < 2 * first]  # a slower one cannot win
    for name, run in ours.items():
        run()
        seconds[name] = []
    for _ in range(repeats):
        for name, run in ours.items():
            seconds[name].append(_measure.in_programs(run, repeats=1))
        for name in again:
            seconds[name].append(_measure.seconds(turns[name], repeats=1))
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    best = min(medians[name] for name in ours)
    least = {"torchode": min(medians[name] for name in turns)}
    result["torchode_ratio_on_one_core"] = medians["torchode_1_threads"] / medians["layerflow_1_devices"]
    print(kind, medians, flush=True)

    with_threads(lambda: torchdiffeq_run(lanes.DT0), 1)
    begin = time.perf_counter()
    solved = with_threads(torchdiffeq_run, 1)
    least["torchdiffeq"] = time.perf_counter() - begin
    result |= answers("torchdiffeq", *solved)

    begin = time.perf_counter()
    solved = by_scipy(w1[::EVERY], w2[::EVERY], scales[::EVERY])
    measured = len(solved[1])
    least["scipy"] = (time.perf_counter() - begin) * cells / measured
    result |= {"scipy_cells_measured": measured} | answers("scipy", *solved, every=EVERY)

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
