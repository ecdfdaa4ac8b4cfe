"""What a closed form is: one result of the theory, applied to problems."""

import abc
from typing import Any

import jax
from jaxtyping import Array, Float, PyTree

from layerflow._problem import Problem
from layerflow.methods._assumptions import Assumption

Layers = tuple[Float[Array, "t ..."], ...]


class ClosedForm(abc.ABC):
    """One result of the theory, applied to problems.

    Attributes:
        name: What the result is called.
        up_to_rotation: Whether it knows the weights only up to a rotation of the hidden units.
        decays: Whether it knows what weight decay does.
        rated: Whether it knows what rates of layers do, one positive number each.
    """

    name: str
    up_to_rotation = False
    decays = False
    rated = False

    @abc.abstractmethod
    def unfit(self, problem: Problem) -> str | None:
        """Why the kind of network or task does not fit; None if it does."""

    def assumptions(
        self, problem: Problem, ts: Float[Array, " t"] | None = None, layers: Layers | None = None, quick: bool = False
    ) -> list[Assumption]:
        """What is assumed of the numbers, and what its violation costs.

        Args:
            problem: Whose numbers are judged.
            ts: Where the answer is wanted; its worst time counts. Not given, at any time.
            layers: The answer there, `weights(problem, ts)`.
            quick: Leave open what takes longer to find out than the answer, where a violation is beyond rounding.
        """
        return []

    @abc.abstractmethod
    def weights(self, problem: Problem, ts: Float[Array, " t"]) -> Layers:
        """Every layer at the times `ts`."""


def data_of(problem: Problem) -> Any:
    """The task in the form that linear networks see of it."""
    return problem.task.in_moments(problem.start)


def usual(tree: PyTree, number: float) -> bool:
    """Whether all coefficients are this plain number."""
    leaves = jax.tree.leaves(tree, is_leaf=lambda leaf: leaf is None)
    return all(isinstance(leaf, float) and leaf == number for leaf in leaves)
