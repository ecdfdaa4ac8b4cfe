"""What the right answer is, and how far another is from it."""

from collections.abc import Mapping
from typing import Any

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.suite.in_jax import Answers, on_device, sorted_chunks, to_host
from benchmarks.suite.outside_jax import descended, finite
from benchmarks.suite.problems import INVARIANTS, Given, Problem, healthy, invariants
from layerflow import theory


def reference(problem: Problem, given: Given) -> dict[str, np.ndarray]:
    """Invariants of all cells: by closed form, by a tight flow of higher order, or in extended precision.

    Of poisoned cells there are none: they are NaN.
    """
    well = healthy(given)
    clean = {name: array[well] for name, array in given.items() if name != "poison"}
    if problem.balanced:
        found, succeeded = closed_form(problem, clean)
    elif problem.steps is not None:
        found, succeeded = finite(descended(problem, clean, np.longdouble))
    else:
        run, read = sorted_chunks(problem, clean, 1e-12, solver=dfx.Dopri8(), max_steps=2**20)
        found, succeeded = read(run())
    if not succeeded.all():
        raise RuntimeError(f"The reference of {problem.name} failed in {int((~succeeded).sum())} cells.")
    right = {name: np.full((len(well), *found[name].shape[1:]), np.nan) for name in INVARIANTS}
    for name, array in right.items():
        array[well] = found[name]
    return right


def closed_form(problem: Problem, given: Given) -> Answers:
    """What theory says of lambda-balanced networks."""

    @jax.jit
    @jax.vmap
    def solve(cell: dict[str, jax.Array]) -> Any:
        w1, w2 = problem.layers(cell["w"])
        lam = (w2.mT @ w2 - w1 @ w1.mT)[0, 0]
        end = theory.balanced_network(w1, w2, lam, cell["scale"] * problem.yx, problem.t1)
        return invariants((end.w1, end.w2)), jnp.isfinite(end.w1).all()

    return to_host(solve(on_device(given)))


def error(found: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray], cells: np.ndarray) -> float:
    """Largest distance of an entry, relative to the largest of the cell's answer, over some cells."""
    entries = lambda answers: np.concatenate(
        [answers[name][cells].reshape(cells.sum(), -1) for name in INVARIANTS], axis=1
    )
    ours, theirs = entries(found), entries(right)
    return float((np.abs(ours - theirs).max(axis=1) / np.abs(theirs).max(axis=1)).max(initial=0.0))
