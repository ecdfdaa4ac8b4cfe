"""Who solves it, and what there is to install for it."""

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.suite import in_jax, outside_jax
from benchmarks.suite.in_jax import Prepared
from benchmarks.suite.problems import Given, Problem


@dataclass(frozen=True)
class Backend:
    """A way to solve problems: of cells and a tolerance it makes what is timed, and what reads the answers."""

    name: str
    what: str
    prepare: Callable[[Problem, Given, float], Prepared]
    does: Callable[[Problem], bool]
    needs: tuple[str, ...] = ()
    most: int | None = None  # cells that are measured, where more would take too long

    @property
    def missing(self) -> list[str]:
        """What is to be installed."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


def _flow(problem: Problem) -> bool:
    return problem.steps is None


def _descent(problem: Problem) -> bool:
    return problem.steps is not None


def _threaded(problem: Problem, given: Given, rtol: float) -> Prepared:
    return outside_jax.torchode(problem, given, rtol, threads=len(os.sched_getaffinity(0)))


def _any(_: Problem) -> bool:
    return True


BASE = "layerflow"  # what all others are compared with
TORCHODE = ("torch", "torchode")
BACKENDS = {
    backend.name: backend
    for backend in (
        Backend(BASE, "lanes; descent: a scan", in_jax.layerflow, _any),
        Backend("layerflow-lockstep", "lf.solve under one vmap", in_jax.lockstep, _any),
        Backend("layerflow-exact", "closed forms", in_jax.exact, lambda problem: problem.balanced),
        Backend("diffrax", "diffeqsolve under one vmap", in_jax.one_vmap, _flow),
        Backend("diffrax-chunks", f"diffeqsolve in chunks of {in_jax.CHUNK}", in_jax.chunks, _flow),
        Backend("diffrax-sorted", "the same, sorted by scale beforehand", in_jax.sorted_chunks, _flow),
        Backend("torchode", "Tsit5, compiled, a step size for each cell", outside_jax.torchode, _flow, TORCHODE),
        Backend("torchode-threads", "the same on a thread per core", _threaded, _flow, TORCHODE),
        Backend(
            "torchdiffeq",
            "dopri5, compiled velocity, one step size for all cells",
            outside_jax.torchdiffeq,
            _flow,
            ("torch", "torchdiffeq"),
        ),
        Backend("scipy", "RK45, a loop over 256 cells, seconds scaled up", outside_jax.scipy, _flow, ("scipy",), 256),
        Backend("jax", "descent by hand, fori_loop under one vmap", in_jax.scan, _descent),
        Backend("numpy", "descent by hand, cells stacked", outside_jax.numpy, _descent),
    )
}
