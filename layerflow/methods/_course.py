"""What a method is told of one cell, and what it gives back."""

import dataclasses
import enum
import functools
import operator
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import diffrax as dfx
import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PRNGKeyArray, PyTree, Shaped

from layerflow.base._checks import is_concrete


class Status(enum.IntEnum):
    """Why a trajectory ended; where it failed, `Status.failed`, its observables are NaN. Codes are never renumbered."""

    REACHED_T1 = 0
    CONVERGED = 1
    SADDLE = 2
    NOT_FINITE = 3
    BLEW_UP = 4
    STALLED = 5
    OUT_OF_STEPS = 6
    SOLVER_FAILED = 7
    OUTSIDE = 8
    AT_TOLERANCE = 9
    MISSING = 255  # of a cell in a store: not computed yet
    RUNNING = -1  # never leaves the engine, as the next
    DOUBTFUL = -2  # whether the closed form holds takes longer to find out than its answer, and was left open

    @property
    def meaning(self) -> str:
        """The status in words."""
        return _MEANINGS[self]

    @property
    def failed(self) -> bool:
        """Whether it is a failure."""
        return self in FAILURES


_MEANINGS = {
    Status.REACHED_T1: "reached t1",
    Status.CONVERGED: "met `until` before t1",
    Status.SADDLE: "at t1 it stood still above the least loss",
    Status.NOT_FINITE: "weights or velocity became NaN or infinite",
    Status.BLEW_UP: "weights grew without bound",
    Status.STALLED: "the step size shrank to nothing",
    Status.OUT_OF_STEPS: "took max_steps steps before t1",
    Status.SOLVER_FAILED: "the solver's implicit stage found no solution",
    Status.OUTSIDE: "outside of what the closed form assumes",
    Status.AT_TOLERANCE: "stayed at the noise of its tolerance, above `until`: lower rtol, or raise until",
    Status.MISSING: "not computed yet",
    Status.RUNNING: "still under way",
    Status.DOUBTFUL: "not judged yet",
}
FAILURES = frozenset(
    {Status.NOT_FINITE, Status.BLEW_UP, Status.STALLED, Status.OUT_OF_STEPS, Status.SOLVER_FAILED, Status.OUTSIDE}
)


def failed(status: Int[Array, "..."]) -> Bool[Array, "..."]:
    """Whether a status is a failure."""
    return functools.reduce(operator.or_, [status == code for code in sorted(FAILURES)])


Peaks = dict[str, Float[Array, "..."]]


class Course(eqx.Module):
    """One cell as a method sees it: functions of the flat vector w of all trainable parameters.

    These are the `own` weights of the network and, where an observable compares the two, after them those of its
    linearised twin. `follow` and `measure` take the displacement, w - start, which has more digits;
    `measure` also the largest values so far of `follow`, called peaks, and where the flow is at that time, if an
    observable asks for it (`flow`, the velocity of the whole task on the network's own weights; None if none does).
    `watch` carries on what summaries watch at every step of a descent. `exact` gives the displacement by
    the closed form, whether its assumptions hold, and whether that was left open, and is there for Exact alone, as are
    `velocity` and `loss` for the others; `begin` and `descend` call the optimiser, for Descent alone.
    """

    start: Float[Array, " size"]
    velocity: Callable[[Float[Array, " size"], PRNGKeyArray, Int[Array, ""]], Float[Array, " size"]]
    loss: Callable[[Float[Array, " size"]], Float[Array, ""]]
    follow: Callable[[Float[Array, " size"]], Peaks]
    measure: Callable[..., list[Float[Array, "..."]]]  # of displacement, peaks and the displacement of the flow
    begin: Callable[[Float[Array, " size"]], list[PyTree]]  # one state of the optimiser per network
    descend: Callable[
        [Float[Array, " size"], Float[Array, " size"], list[PyTree]], tuple[Float[Array, " size"], list[PyTree]]
    ]  # of displacement, velocity and states
    watch: Callable[[PyTree, Float[Array, " size"], Float[Array, " size"]], PyTree]  # of what was seen and the velocity
    watched: PyTree  # what was seen before the first step
    flow: Callable[[Float[Array, " own"]], Float[Array, " own"]] | None
    exact: Callable[[Float[Array, " t"]], tuple[Float[Array, "t size"], Bool[Array, ""], Bool[Array, ""]]]
    least_loss: Float[Array, ""]
    null_loss: Float[Array, ""]
    own: int = eqx.field(static=True)

    @property
    def of_flow(self) -> "Course":
        """The flow of the network alone and of the whole task, measured by where it is."""
        velocity = self.flow
        assert velocity is not None
        parts = ("start", "velocity", "follow", "measure", "watched", "flow")
        alone = (
            self.start[: self.own],
            lambda w, _key, _step: velocity(w),
            lambda _moved: {},
            lambda moved, _peaks: [moved],
            None,
            None,
        )
        return dataclasses.replace(self, **dict(zip(parts, alone, strict=True)))

    @property
    def has_twin(self) -> bool:
        """Whether a twin follows the network."""
        return self.own < self.start.shape[0]

    def of_twin(self, vector: Shaped[Array, " size"]) -> Shaped[Array, " twin"]:
        """What of a flat vector is the twin's."""
        return vector[self.own :]

    def hold_twin(self, lost: Bool[Array, ""], held: ArrayLike, vector: Float[Array, " size"]) -> Float[Array, " size"]:
        """A flat vector with `held` in place of what is the twin's, where that is lost."""
        return jnp.where(lost & (np.arange(self.start.shape[0]) >= self.own), held, vector)


class Path(eqx.Module):
    """What a method gives back of one cell."""

    observed: list[Array]  # time first if `ts` was given
    weights: Float[Array, " size"]
    status: Int[Array, ""]
    num_steps: Int[Array, ""]
    end: Float[Array, ""] | Int[Array, ""]  # where it stopped, in the units of `ts`
    twin: Int[Array, ""] | None = None  # the status of what followed the network
    flow: Int[Array, ""] | None = None  # that of the flow which a descent was held against
    watched: PyTree = None
    summaries: list[Array] = eqx.field(default_factory=list)
    verified: list[Array] = eqx.field(default_factory=list)


def higher(peaks: Peaks, values: Peaks) -> Peaks:
    """The larger of each."""
    return jax.tree.map(jnp.maximum, peaks, values)


def masked(values: list[Array], bad: Bool[Array, "..."]) -> list[Array]:
    """`values` with NaN where `bad`, whose axes come first."""
    spread = lambda value: bad.reshape(bad.shape + (1,) * (value.ndim - bad.ndim))
    return [jnp.where(spread(value), jnp.nan, value) for value in values]


@custom_vmap
def any_cell(flag: Bool[Array, ""]) -> Bool[Array, ""]:
    """Whether `flag` holds in any cell of the batch.

    As the condition of a loop it keeps the loop one loop under vmap: JAX would else copy the
    whole state once a step, to hold finished cells still.
    """
    return flag


@any_cell.def_vmap
def _(axis_size: int, in_batched: list[bool], flag: Array) -> tuple[Array, bool]:  # noqa: ARG001
    return any_cell(jnp.any(flag, axis=0) if in_batched[0] else flag), False


State = TypeVar("State")


@dataclasses.dataclass(frozen=True)
class Loop:
    """How a loop is written down, which decides how it differentiates.

    Attributes:
        kind: "lax" for forward mode of any order, "checkpointed" for reverse mode, "bounded" for both
            modes and any order.
        max_steps: Needed by "bounded".
    """

    kind: Literal["lax", "checkpointed", "bounded"] = "lax"
    max_steps: int | None = None

    def __call__(self, condition: Callable[[State], Array], body: Callable[[State], State], state: State) -> State:
        """`jax.lax.while_loop` that goes on while any cell does; `body` must leave finished cells alone."""
        anyone = lambda state: any_cell(condition(state))
        if self.kind == "lax":
            return eqxi.nondifferentiable_backward(jax.lax.while_loop(anyone, body, state), msg=_FORWARD_ONLY)
        checkpoints = _CHECKPOINTS if self.kind == "checkpointed" else None
        return eqxi.while_loop(anyone, body, state, kind=self.kind, max_steps=self.max_steps, checkpoints=checkpoints)


_FORWARD_ONLY = (
    "This method differentiates in forward mode (jax.jvp, jax.jacfwd). For jax.grad and jax.jacrev give it "
    "adjoint=diffrax.RecursiveCheckpointAdjoint()."
)
_CHECKPOINTS = 100  # states kept for reverse mode; a loop of n steps is run about log(n)/log(100) times more


def loop_of(adjoint: Any, most: Any) -> Loop:
    """The loop that differentiates as asked for."""
    if adjoint is None or isinstance(adjoint, dfx.ForwardMode):
        return Loop("lax")
    if isinstance(adjoint, dfx.RecursiveCheckpointAdjoint):
        return Loop("checkpointed")
    if not isinstance(adjoint, dfx.DirectAdjoint):
        raise TypeError(
            f"Argument `adjoint` needs diffrax.ForwardMode(), diffrax.RecursiveCheckpointAdjoint() or "
            f"diffrax.DirectAdjoint(), but it is {adjoint!r}."
        )
    if not is_concrete(most):
        raise TypeError("With DirectAdjoint the number of steps decides the shape of the program: give a plain number.")
    return Loop("bounded", int(most))
