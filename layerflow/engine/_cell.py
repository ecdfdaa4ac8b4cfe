"""One cell as the user states it."""

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from layerflow._problem import Problem
from layerflow.base._checks import is_concrete
from layerflow.methods import Method
from layerflow.tasks import Task


class Cell(eqx.Module):
    """A problem and the method to solve it by; `task` is the problem's in the form that the method goes by."""

    problem: Problem
    task: Task
    method: Method

    @classmethod
    def of(cls, problem: Problem, method: Method) -> "Cell":
        """The cell of a problem as the user states it."""
        _check_floating(problem.start)
        if method.judges_convergence:
            problem = _plain_zeros(problem)
        form = problem.task.in_moments if "exact" in method.needs else problem.task.reduced
        return cls(problem, form(problem.start), method)


@dataclass(frozen=True)
class Apart:
    """What is static of a cell, and how it is put together again from its arrays and those of its method."""

    static: Cell
    structure: Any
    method_structure: Any

    def cell(self, leaves: list[Array]) -> Cell:
        """The cell, its method without arrays."""
        return eqx.combine(jax.tree.unflatten(self.structure, leaves), self.static)

    def method(self, leaves: list[Any]) -> Method:
        """The method, of its arrays or of anything in their place."""
        return eqx.combine(jax.tree.unflatten(self.method_structure, leaves), self.static.method)

    @property
    def marked_method(self) -> Method:
        """The method with a mark in place of each of its arrays."""
        return self.method([_ARRAY] * self.method_structure.num_leaves)


_ARRAY: Any = jax.ShapeDtypeStruct((), bool)


def _check_floating(network: PyTree) -> None:
    """Raise for a network all of whose numbers are whole."""
    arrays = [leaf for leaf in jax.tree.leaves(network) if eqx.is_array(leaf)]
    whole = [array for array in arrays if jnp.issubdtype(array.dtype, jnp.integer)]
    if whole and len(whole) == len(arrays):
        raise ValueError(
            f"Nothing moves: all arrays of a {type(network).__name__} are of whole numbers, {whole[0].dtype}, and "
            f"weights move by less. Cast them to floating point numbers: "
            f"jax.tree.map(lambda w: w.astype(float), network)."
        )


def _plain_zeros(problem: Problem) -> Problem:
    """The problem without a decay that is zero; `jax.jit` makes an array of a plain zero that it hands on."""
    leaves = jax.tree.leaves(problem.decay)
    if all(is_concrete(leaf) and np.all(leaf == 0) for leaf in leaves):
        return eqx.tree_at(lambda p: p.decay, problem, jax.tree.map(lambda _: 0.0, problem.decay))
    return problem


def take_apart(cell: Cell) -> tuple[Apart, list[Array], list[Array]]:
    """A cell as what is static of it, its arrays, and those of its method."""
    arrays, static = eqx.partition(cell, eqx.is_array)
    method, method_structure = jax.tree.flatten(arrays.method)
    leaves, structure = jax.tree.flatten(eqx.tree_at(lambda cell: cell.method, arrays, None))
    return Apart(static, structure, method_structure), leaves, method
