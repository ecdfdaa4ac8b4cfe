"""What one solve gives back."""

import equinox as eqx
from jaxtyping import Array, Float, Int, PyTree

from layerflow._problem import Problem


class Trajectory(eqx.Module):
    """What `solve` returns, and what a summary is a function of.

    Attributes:
        problem: The problem that was solved.
        ts: Where it was measured: gradient-flow time, or steps under Descent. None if only the end was.
        observed: Each observable by name, time first if `ts` was given. NaN from where the
            trajectory failed; the last value beyond an early stop.
        summary: Each summary by name. NaN if the trajectory failed.
        network: Where it ended; NaN if it failed.
        status: A member of `lf.Status`: 0 went to the end, 1 converged, 2 stopped at a
            saddle, then one code per kind of failure.
        num_steps: Steps taken, rejected ones included.
        end: Where it stopped, in the units of `ts`.
    """

    problem: Problem
    ts: Float[Array, " t"] | Int[Array, " t"] | None
    observed: dict[str, Array]
    summary: dict[str, Array]
    network: PyTree
    status: Int[Array, ""]
    num_steps: Int[Array, ""]
    end: Float[Array, ""] | Int[Array, ""]
