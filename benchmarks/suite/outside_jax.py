"""Backends outside JAX: NumPy, SciPy, torchode and torchdiffeq; all are given the velocity by hand.

torchode: Tsit5 and `IntegralController` (safety and bounds as in layerflow's controller), a step size for each cell,
all cells in one call, `solve` compiled by `torch.compile` (TorchScript runs too, but is slower and deprecated).
torchdiffeq has no Tsit5, so Dormand-Prince 5, with one step size for all cells, around a compiled velocity. SciPy has
none either, so RK45 (Dormand-Prince) in a loop.
"""

import dataclasses
import sys
from typing import Any

import numpy as np

from benchmarks.suite.in_jax import Answers, Prepared
from benchmarks.suite.problems import DT0, POISONS, Given, Problem, invariants


def numpy(problem: Problem, given: Given, rtol: float) -> Prepared:
    """Descent, all cells stacked."""
    del rtol
    return lambda: descended(problem, given, np.float64), finite


def descended(problem: Problem, given: Given, dtype: Any) -> Any:
    """Layers after descent, in a precision."""
    layers = problem.layers(given["w"].astype(dtype))
    scale, rate = given["scale"].astype(dtype)[:, None, None], dtype(problem.rate)
    for _ in range(problem.steps or 0):
        layers = tuple(w + rate * v for w, v in zip(layers, problem.velocity(layers, scale), strict=True))
    return layers


def finite(layers: Any) -> Answers:
    """Invariants, and which cells are finite."""
    found = {name: np.asarray(value) for name, value in invariants(layers).items()}
    entries = found["matrix"].reshape(len(found["matrix"]), -1)
    return found, np.asarray(np.isfinite(entries).all(axis=1))


def scipy(problem: Problem, given: Given, rtol: float) -> Prepared:
    """One cell after the other."""
    from scipy.integrate import solve_ivp

    def solve(cell: dict[str, Any]) -> Any:
        variance = {"variance": POISONS[cell["poison"]]} if "poison" in cell else {}

        def field(_: float, w: np.ndarray) -> np.ndarray:
            return np.concatenate([v.ravel() for v in problem.velocity(problem.layers(w), cell["scale"], **variance)])

        options: dict[str, Any] = {"rtol": rtol, "atol": rtol / 100, "first_step": DT0, "t_eval": problem.ts}
        return solve_ivp(field, (0.0, problem.t1), cell["w"], method="RK45", **options)

    def read(solutions: list[Any]) -> Answers:
        shape = (1 if problem.ts is None else len(problem.ts), given["w"].shape[1])
        ends = [s.y.T[-shape[0] :] if s.success else np.full(shape, np.nan) for s in solutions]
        stacked = np.stack(ends)[:, -1] if problem.ts is None else np.stack(ends)
        return finite(problem.layers(stacked))

    cells = [{name: array[n] for name, array in given.items()} for n in range(len(given["scale"]))]
    return lambda: [solve(cell) for cell in cells], read


def forget() -> None:
    """Let torch forget what it compiled for other problems: after eight of them it would compile no more."""
    if "torch" in sys.modules:
        sys.modules["torch"].compiler.reset()


def velocity_of(problem: Problem, given: Given) -> Any:
    """The velocity of all cells, weights flat, as torch likes it."""
    import torch  # pyright: ignore[reportMissingImports]

    scale = torch.from_numpy(given["scale"])
    variance = torch.from_numpy(POISONS[given["poison"]]) if "poison" in given else None
    if problem.widths == (2, 2, 2) and problem.xx is None:
        targets = scale[:, None] * torch.from_numpy(problem.yx.ravel())
        return lambda w: by_entries(w, targets, variance)
    xx = None if problem.xx is None else torch.from_numpy(problem.xx)
    tensors = dataclasses.replace(problem, yx=torch.from_numpy(problem.yx), xx=xx)
    scales, variances = scale[:, None, None], None if variance is None else variance[:, None, None]
    return lambda w: torch.cat([v.flatten(1) for v in tensors.velocity(tensors.layers(w), scales, variances)], 1)


def by_entries(w: Any, targets: Any, variance: Any) -> Any:
    """The velocity of 2-2-2 entry by entry: torch multiplies many 2 x 2 matrices slowly."""
    import torch  # pyright: ignore[reportMissingImports]

    a, b, c, d, e, f, g, h = w.unbind(1)  # w1 = [a b; c d], w2 = [e f; g h]
    seen = (e * a + f * c, e * b + f * d, g * a + h * c, g * b + h * d)
    if variance is not None:
        seen = tuple(variance * entry for entry in seen)
    m, n, p, q = (target - entry for target, entry in zip(targets.unbind(1), seen, strict=True))
    return torch.stack(
        (
            *(e * m + g * p, e * n + g * q, f * m + h * p, f * n + h * q),
            *(m * a + n * b, m * c + n * d, p * a + q * b, p * c + q * d),
        ),
        1,
    )


def torchode(problem: Problem, given: Given, rtol: float, threads: int = 1) -> Prepared:
    """A step size for each cell."""
    import torch  # pyright: ignore[reportMissingImports]
    import torchode as to  # pyright: ignore[reportMissingImports]

    velocity = velocity_of(problem, given)
    term = to.ODETerm(lambda _, w: velocity(w), with_stats=False)
    control = to.IntegralController(atol=rtol / 100, rtol=rtol, term=term)
    solver = to.AutoDiffAdjoint(to.Tsit5(term=term), control, max_steps=2**14)
    solve = torch.compile(solver.solve)  # torch.compile(solver) would leave `solve` as it is
    start = torch.from_numpy(given["w"])
    begin, end, dt0 = (torch.full((len(start),), t, dtype=torch.float64) for t in (0.0, problem.t1, DT0))
    ts = None if problem.ts is None else torch.from_numpy(problem.ts).expand(len(start), -1)
    asked = to.InitialValueProblem(y0=start, t_start=begin, t_end=end, t_eval=ts)

    def run() -> Any:
        torch.set_num_threads(threads)
        with torch.no_grad():
            return solve(asked, dt0=dt0)

    def read(solution: Any) -> Answers:
        ends = solution.ys if problem.ts is not None else solution.ys[:, -1]
        found, _ = finite(problem.layers(ends.numpy()))
        return found, (solution.status == 0).numpy()

    return run, read


def torchdiffeq(problem: Problem, given: Given, rtol: float) -> Prepared:
    """One step size for all cells."""
    import torch  # pyright: ignore[reportMissingImports]
    from torchdiffeq import odeint  # pyright: ignore[reportMissingImports]

    velocity = torch.compile(velocity_of(problem, given))
    start = torch.from_numpy(given["w"])
    ts = torch.from_numpy(np.array([0.0, problem.t1]) if problem.ts is None else np.append(0.0, problem.ts))
    options = {"method": "dopri5", "rtol": rtol, "atol": rtol / 100, "options": {"first_step": DT0}}

    def run() -> Any:
        torch.set_num_threads(1)
        with torch.no_grad():
            return odeint(lambda _, w: velocity(w), start, ts, **options)

    def read(ends: Any) -> Answers:
        return finite(problem.layers(ends[-1].numpy() if problem.ts is None else ends[1:].numpy().swapaxes(0, 1)))

    return run, read
