"""Backends that run in JAX: layerflow, diffrax with a velocity by hand, and descent by hand."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import layerflow as lf
from benchmarks.suite.problems import DT0, INVARIANTS, POISONS, Given, Problem, invariants

CHUNK = 512
Answers = tuple[Mapping[str, np.ndarray], np.ndarray]  # invariants of every cell, and which cells succeeded
Prepared = tuple[Callable[[], Any], Callable[[Any], Answers]]  # what is timed, and what reads its result


def measured(network: Any, problem: lf.Problem) -> dict[str, jax.Array]:
    """The invariants as an observable."""
    del problem
    return invariants(network.weights)


def method_of(problem: Problem, rtol: float) -> Any:
    """Flow or descent, as layerflow is asked for it."""
    if problem.steps is not None:
        return lf.Descent(optax.sgd, steps=problem.steps, learning_rate=problem.rate)
    return lf.Flow(t1=problem.t1, rtol=rtol, dt0=DT0)


def sweep(problem: Problem, given: Given, method: Any, **how: Any) -> Any:
    """layerflow over all cells."""
    axes = {"cell": lf.paired(given)}
    how = {"observe": measured, "progress": False} | how
    return lf.sweep(problem.cell, axes, method=method, ts=problem.ts, **how)


def read_diagram(diagram: Any) -> Answers:
    """Answers of a sweep."""
    return {name: diagram[f"measured_{name}"].values for name in INVARIANTS}, diagram.status.values == 0


def layerflow(problem: Problem, given: Given, rtol: float) -> Prepared:
    """Lanes, or a scan where the problem is descent."""
    return functools.partial(sweep, problem, given, method_of(problem, rtol)), read_diagram


def exact(problem: Problem, given: Given, rtol: float) -> Prepared:
    """Closed forms."""
    del rtol
    return functools.partial(sweep, problem, given, lf.Exact(t1=problem.t1)), read_diagram


def lockstep(problem: Problem, given: Given, rtol: float) -> Prepared:
    """`lf.solve` under one vmap."""
    method = method_of(problem, rtol)

    @jax.jit
    @jax.vmap
    def solve(cell: dict[str, jax.Array]) -> Any:
        path = lf.solve(problem.cell(**cell), method, ts=problem.ts, observe=measured)
        return {name: path.observed[f"measured_{name}"] for name in INVARIANTS}, path.status == lf.Status.REACHED_T1

    return functools.partial(solve, on_device(given)), to_host


def on_device(given: Given) -> dict[str, jax.Array]:
    """Arrays of JAX."""
    return {name: jnp.asarray(array) for name, array in given.items()}


def to_host(result: Any) -> Answers:
    """Arrays of NumPy."""
    return jax.device_get(result)


def diffeqsolve(
    problem: Problem, cell: dict[str, jax.Array], rtol: float, solver: Any = None, max_steps: int = 2**14
) -> Any:
    """One cell by diffrax, the velocity by hand."""
    variance = {"variance": jnp.asarray(POISONS)[cell["poison"]]} if "poison" in cell else {}
    return dfx.diffeqsolve(
        dfx.ODETerm(lambda _t, layers, _args: problem.velocity(layers, cell["scale"], **variance)),
        dfx.Tsit5() if solver is None else solver,
        0.0,
        problem.t1,
        DT0,
        problem.layers(cell["w"]),
        saveat=dfx.SaveAt(t1=True) if problem.ts is None else dfx.SaveAt(ts=jnp.asarray(problem.ts)),
        stepsize_controller=dfx.PIDController(rtol=rtol, atol=rtol / 100),
        max_steps=max_steps,
        throw=False,
    )


def answer(problem: Problem, solution: Any) -> Any:
    """Invariants of a solution and its steps, and whether it succeeded."""
    ends = solution.ys if problem.ts is not None else tuple(w[0] for w in solution.ys)
    return invariants(ends) | {"num_steps": solution.stats["num_steps"]}, dfx.is_successful(solution.result)


def one_vmap(problem: Problem, given: Given, rtol: float) -> Prepared:
    """All cells in one call."""
    alone = lambda cell: answer(problem, diffeqsolve(problem, cell, rtol))
    return functools.partial(jax.jit(jax.vmap(alone)), on_device(given)), to_host


def chunks(problem: Problem, given: Given, rtol: float, size: int = CHUNK, **solving: Any) -> Prepared:
    """Chunks of cells one after the other, in the order given."""
    alone = lambda cell: answer(problem, diffeqsolve(problem, cell, rtol, **solving))
    run = jax.jit(lambda cells: jax.lax.map(alone, cells, batch_size=size))
    return functools.partial(run, on_device(given)), to_host


def sorted_chunks(problem: Problem, given: Given, rtol: float, **solving: Any) -> Prepared:
    """The same, sorted by target scale beforehand, which is no part of the time: an oracle."""
    order = np.lexsort((given["scale"], given.get("poison", given["scale"])))
    run, read = chunks(problem, {name: array[order] for name, array in given.items()}, rtol, **solving)
    return run, lambda result: jax.tree.map(lambda array: array[np.argsort(order)], read(result))


def scan(problem: Problem, given: Given, rtol: float) -> Prepared:
    """Descent by hand, all cells in one call."""
    del rtol

    @jax.jit
    @jax.vmap
    def descend(cell: dict[str, jax.Array]) -> Any:
        def step(_: Any, layers: Any) -> Any:
            return jax.tree.map(lambda w, v: w + problem.rate * v, layers, problem.velocity(layers, cell["scale"]))

        ends = jax.lax.fori_loop(0, problem.steps, step, problem.layers(cell["w"]))
        return invariants(ends), jnp.isfinite(ends[0]).all()

    return functools.partial(descend, on_device(given)), to_host
