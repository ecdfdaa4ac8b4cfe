"""What engine, sweeps and stores ask of a method: how it travels, and what it needs for that."""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from layerflow._problem import Problem
from layerflow.methods._course import Course, Path
from layerflow.methods._stepper import Stepper


class Time(NamedTuple):
    """What `ts` counts."""

    name: str  # the dimension of a diagram
    label: str
    many: str  # as in "`ts` needs many up to the end"
    end: str  # the argument that ends the method


GRADIENT_FLOW = Time("t", "gradient-flow time", "times", "t1")
STEPS = Time("step", "steps", "steps", "steps")


class Method(eqx.Module):
    """How to travel through weight space, and until when. A new method is a subclass and nothing else.

    Attributes:
        time: What its `ts` count.
        needs: What it calls of a `Course` beside `start` and `measure`: of "velocity", "loss", "exact", and
            "optimiser" for `begin` and `descend`.
        in_lanes: Whether cells take steps of their own, by a `stepper`, so that they can travel in lanes.
        told_by: What its facts hold, without which `in_words` says nothing.
    """

    time: ClassVar[Time] = GRADIENT_FLOW
    needs: ClassVar[frozenset[str]] = frozenset({"velocity", "loss"})
    in_lanes: ClassVar[bool] = False
    told_by: ClassVar[tuple[str, ...]] = ()

    @property
    def end(self) -> Array:
        """Where the method ends, in the units of `ts`."""
        raise NotImplementedError

    @property
    def tolerances(self) -> dict[str, Any]:
        """Relative and absolute tolerance of a step, `rtol` and `atol`, where it has them."""
        return {}

    @property
    def numbers(self) -> dict[str, Any]:
        """What of it a prepared sweep may give anew at each call, by the names of its arguments."""
        return {}

    def with_numbers(self, **numbers: Any) -> "Method":
        """The same with some of its `numbers` anew, or an error of the kind that the method itself raises."""
        raise NotImplementedError

    @property
    def judges_convergence(self) -> bool:
        """Whether it stops where the loss is the least that networks of this shape can reach."""
        return False

    @property
    def drawn(self) -> tuple[int, bool] | None:
        """Samples per step, and whether each batch is drawn anew from all; None for the whole task at every step."""
        return None

    @property
    def forward_mode(self) -> bool:
        """Whether it differentiates in forward mode."""
        return True

    @property
    def stops_at(self) -> tuple[Any, Any] | None:
        """The loss that it stops at and the rtol that may keep it from there, if it has both."""
        return None

    @property
    def unrolled(self) -> bool:
        """Whether its steps are written out, so that they can have the lanes as their last axis."""
        return False

    @property
    def emulated(self) -> bool:
        """Whether XLA compiles it in float64 for a TPU, which emulates that."""
        return True

    @property
    def untraced(self) -> Any:
        """What decides the numbers beside the functions that are traced."""
        return self

    def facts(self) -> dict[str, Any]:
        """What a record of the run says of the method; what varies from cell to cell is left out."""
        raise NotImplementedError

    @staticmethod
    def in_words(facts: dict[str, Any]) -> str:
        """How cells were solved, from the facts of a diagram."""
        raise NotImplementedError

    @staticmethod
    def settings_in_words(facts: dict[str, Any]) -> list[str]:
        """What else of it decides numbers, as far as it is not as usual."""
        return []

    def check_steps_of_flow(self, asking: str) -> None:
        """Raise unless its steps are those of Euler's method along the flow: plain descent at one constant rate."""
        raise TypeError(
            f"{asking} holds descent against the flow, so it needs lf.Descent(optax.sgd, learning_rate=0.1, ...), but "
            f"the method is {type(self).__name__}."
        )

    def check_precision(self, dtype: Any) -> None:
        """Raise if weights of this dtype cannot carry it."""

    def refusal(self, problem: Problem, ts: Array | None, dtype: Any) -> str:
        """Why it has nothing to say of a problem, whose cell ended OUTSIDE."""
        raise NotImplementedError

    def travel(self, course: Course, ts: Float[Array, " t"] | Int[Array, " t"] | None, key: PRNGKeyArray) -> Path:
        """Solve one cell; vmapped, all cells go side by side."""
        raise NotImplementedError

    def stepper(self, course: Course, ts: Float[Array, " t"] | None) -> Stepper:
        """What takes the steps of one cell, where these are taken in lanes."""
        raise NotImplementedError
