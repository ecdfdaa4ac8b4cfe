"""What one solve gives back."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from layerflow._problem import Problem, card_lines
from layerflow.base._card import Card, Carded
from layerflow.base._checks import is_concrete
from layerflow.methods import Status


class Trajectory(Carded, eqx.Module):
    """What `solve` returns, and what a summary is a function of.

    Attributes:
        problem: The problem that was solved.
        ts: Where it was measured: gradient-flow time, or steps under Descent. None if only the end was.
        observed: Each observable by name, time first if `ts` was given. NaN from where the
            trajectory failed; the last value beyond an early stop.
        summary: Each summary by name. NaN if the trajectory failed.
        followed_status: The status of what an observable such as `laziness` follows beside the network, by
            the observable's name; where that failed the observable is NaN and all else stands.
        network: Where it ended; NaN if it failed.
        status: A member of `lf.Status`, such as 0 reached t1, 1 converged, 2 stopped at a saddle;
            `Status.failed` says which are failures.
        num_steps: Steps taken, rejected ones included.
        end: Where it stopped, in the units of `ts`.
    """

    problem: Problem
    ts: Float[Array, " t"] | Int[Array, " t"] | None
    observed: dict[str, Array]
    summary: dict[str, Array]
    followed_status: dict[str, Int[Array, ""]]
    network: PyTree
    status: Int[Array, ""]
    num_steps: Int[Array, ""]
    end: Float[Array, ""] | Int[Array, ""]

    def _card(self) -> Card:
        """The problem, what was measured, and how it ended."""
        measured = [(name, _shapes(getattr(self, name))) for name in ("observed", "summary")]
        lines = [*card_lines(self.problem), *measured, ("ended", _ended(self))]
        return Card("Trajectory", tuple(line for line in lines if line[1]))


def _shapes(values: dict[str, Array]) -> str:
    """Every array with its shape."""
    return ", ".join(f"{name} {value.shape}" if value.ndim else name for name, value in values.items())


def _ended(trajectory: Trajectory) -> str:
    """How, where and after how many steps, if there is one trajectory whose numbers are known."""
    if not is_concrete(trajectory.status) or trajectory.status.ndim:
        return ""
    time = "step" if jnp.issubdtype(trajectory.end.dtype, jnp.integer) else "t"
    where = f"at {time} = {float(trajectory.end):g}, {int(trajectory.num_steps)} steps taken"
    return f"{Status(int(trajectory.status)).meaning}, {where}"
