"""Gradient flow, integrated by diffrax's own steps."""

from typing import Any, Literal

import diffrax as dfx
import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

from layerflow.base._checks import is_concrete, real_array, require
from layerflow.methods._course import Course, Loop, Path, loop_of
from layerflow.methods._method import Method
from layerflow.methods._settings import listed, settings
from layerflow.methods._stepper import Stepper
from layerflow.methods._unrolled import UnrolledStep

_USUAL_STEPS = 100_000  # of a cell at most, unless given


class Flow(Method):
    """Gradient flow d weights / dt = velocity from t = 0 to t1.

    Args:
        t1: End of the flow in units of gradient-flow time, shape (). Descent at rate eta
            with k steps reaches t = eta k.
        solver: Any diffrax solver for ordinary differential equations; implicit ones, for stiff
            problems, need float64.
        rtol: Relative tolerance of a step, 1e-6 if not given; below 5e-7 it needs float64.
        atol: Absolute tolerance of a step, in units of weight; rtol / 100 if not given.
        controller: Any diffrax step size controller, in place of PID control with `rtol` and
            `atol`.
        dt0: First step; chosen by the controller if not given. Fixed steps need it.
        max_steps: A cell that takes more steps than this fails.
        adjoint: How the flow differentiates: `diffrax.ForwardMode()` (the default: `jax.jvp`, `jax.jacfwd`,
            any order), `diffrax.RecursiveCheckpointAdjoint()` (`jax.grad`, `jax.jacrev`, once) or
            `diffrax.DirectAdjoint()` (either mode, any order; slower, and best with a small `max_steps`).
            The derivative is that of the steps taken, which the flow alone chooses: a start that stands
            still takes long ones, so there bound them, controller=diffrax.PIDController(..., dtmax=0.02).
        until: Stop early. A number: when the loss is at most that. "converged": when the loss is
            above the least that networks of this shape can reach by at most rtol/100, and what it
            still falls, |velocity|^2 t, is at most rtol; both relative to the loss of the zero
            function or of the start, whichever is larger. A cell that stands still at t1 above
            the least loss, at a saddle or on a long plateau, has status SADDLE.

    Raises:
        ValueError: If t1, a tolerance, dt0 or max_steps is not positive, or `until` is neither.
        TypeError: If `solver` or `controller` is not diffrax's, or the two do not go together.

    Example:
        >>> import diffrax, layerflow as lf
        >>> method = lf.Flow(t1=40.0, rtol=1e-8)
        >>> stiff = lf.Flow(t1=40.0, solver=diffrax.Kvaerno5())

    References:
        Kidger (2022), "On Neural Differential Equations", for diffrax.
    """

    in_lanes = True
    told_by = ("solver", "controller")

    t1: Float[Array, ""]
    solver: dfx.AbstractSolver[Any]
    controller: dfx.AbstractStepSizeController[Any, Any]
    dt0: Float[Array, ""] | None
    max_steps: Int[Array, ""]
    loop: Loop = eqx.field(static=True)
    until: Literal["converged"] | Float[Array, ""] | None

    def __init__(
        self,
        t1: ArrayLike,
        *,
        solver: dfx.AbstractSolver[Any] | None = None,
        rtol: ArrayLike | None = None,
        atol: ArrayLike | None = None,
        controller: dfx.AbstractStepSizeController[Any, Any] | None = None,
        dt0: ArrayLike | None = None,
        max_steps: ArrayLike = _USUAL_STEPS,
        adjoint: dfx.AbstractAdjoint | None = None,
        until: Literal["converged"] | ArrayLike | None = None,
    ) -> None:
        self.t1 = _positive(t1, "t1", "gradient-flow time")
        self.solver = dfx.Tsit5() if solver is None else solver
        if controller is None:
            relative = 1e-6 if rtol is None else rtol
            absolute = relative / 100 if atol is None else atol
            controller = dfx.PIDController(
                rtol=_positive(relative, "rtol", "a relative error"),
                atol=_positive(absolute, "atol", "an error in units of weight"),
            )
        elif rtol is not None or atol is not None:
            raise TypeError("Tolerances belong to the controller: give `rtol` and `atol` to it, or leave it out.")
        self.controller = controller
        self.dt0 = None if dt0 is None else _positive(dt0, "dt0", "a step of gradient-flow time")
        self.loop = loop_of(adjoint, max_steps)  # of the plain number, which under jit the array is no more
        most = real_array(max_steps, "max_steps")
        if is_concrete(most):  # beyond what is counted in, as many as that
            most = jnp.asarray(np.minimum(most, 2**31 - 1).astype(jnp.result_type(int)))
        max_steps = most.astype(int)
        known = np.asarray(max_steps) if is_concrete(max_steps) else max_steps
        self.max_steps = require(max_steps, known > 0, f"Argument `max_steps` needs to be positive, not {max_steps}.")
        if isinstance(until, str) and until != "converged":
            raise ValueError(f'Argument `until` takes "converged", a loss to stop at, or None, but it is "{until}".')
        self.until = until if until is None or isinstance(until, str) else real_array(until, "until")
        if not isinstance(self.until, str) and jnp.shape(0.0 if self.until is None else self.until) != ():
            raise ValueError(f"Argument `until` is one loss to stop at, but it is {until!r}.")
        if self.until is not None and not isinstance(self.until, str):
            number = ~(np.isnan(self.until) if is_concrete(self.until) else jnp.isnan(self.until))
            self.until = require(self.until, number, "Argument `until` is a loss to stop at, or None, but it is NaN.")
        self._check_solver()

    def _check_solver(self) -> None:
        name = type(self.solver).__name__
        if not isinstance(self.solver, dfx.AbstractSolver):
            raise TypeError(f"Argument `solver` needs a diffrax solver such as diffrax.Tsit5(), but it is a {name}.")
        if not isinstance(self.controller, dfx.AbstractStepSizeController):
            raise TypeError(
                f"Argument `controller` needs a diffrax step size controller such as "
                f"diffrax.PIDController(rtol=1e-6, atol=1e-8), but it is a {type(self.controller).__name__}."
            )
        if self.solver.term_structure not in (dfx.AbstractTerm, dfx.ODETerm):
            raise TypeError(
                f"{name} needs a split equation; gradient flow has one term. Use diffrax.Tsit5() or Kvaerno5()."
            )
        adaptive = isinstance(self.controller, dfx.AbstractAdaptiveStepSizeController)
        if adaptive and not isinstance(self.solver, dfx.AbstractAdaptiveSolver):
            raise TypeError(
                f"{name} does not estimate its error, so nothing can choose its step. Give fixed steps: "
                f"controller=diffrax.ConstantStepSize(), dt0=0.01."
            )
        if isinstance(self.controller, dfx.StepTo) and is_concrete(self.t1) and is_concrete(self.controller.ts):
            first, last = float(self.controller.ts[0]), float(self.controller.ts[-1])
            if first != 0 or last != float(self.t1):
                raise ValueError(
                    f"StepTo needs times from 0 to t1={float(self.t1):g}, but they run from {first:g} to {last:g}."
                )
        if isinstance(self.controller, dfx.ConstantStepSize) and self.dt0 is None:
            raise TypeError("Fixed steps need their size: give `dt0`, for example dt0=0.01.")
        if not adaptive and isinstance(self.solver, dfx.AbstractImplicitSolver):
            raise TypeError(
                f"{name} takes the tolerances of its implicit stages from the controller: use PIDController."
            )

    @property
    def end(self) -> Float[Array, ""]:
        """Where the method ends, in the units of `ts`."""
        return self.t1

    def facts(self) -> dict[str, Any]:
        """What a record of the run says of the method; what varies from cell to cell is left out."""
        numbers = {"t1": self.t1, **self.tolerances, "dt0": self.dt0, "max_steps": self.max_steps, "until": self.until}
        return {
            "solver": type(self.solver).__name__,
            "solver_settings": settings(self.solver),
            "controller": type(self.controller).__name__,
            "controller_settings": settings(self.controller, leave=self.tolerances),
            **numbers,
        }

    @staticmethod
    def in_words(facts: dict[str, Any]) -> str:
        """How cells were solved, from the facts of a diagram."""
        tolerance = f", rtol {facts['rtol']:g}" if "rtol" in facts else ""
        end = f" to t = {facts['t1']:g}" if "t1" in facts else ""
        return f"gradient flow{end}, {facts['solver']}{tolerance}"

    @staticmethod
    def settings_in_words(facts: dict[str, Any]) -> list[str]:
        """What else of it decides numbers, as far as it is not as usual."""
        controller = facts.get("controller", "PIDController")
        told = [
            f"{facts.get(of)} with {listed(facts[f'{of}_settings'])}" if f"{of}_settings" in facts else name
            for of, name in (("solver", ""), ("controller", controller))
        ]
        told = [words for words in told if words not in ("", "PIDController")]
        if "dt0" in facts:
            told.append(f"{'steps of' if controller == 'ConstantStepSize' else 'first step'} {facts['dt0']:g}")
        if facts.get("max_steps", _USUAL_STEPS) != _USUAL_STEPS:
            told.append(f"at most {facts['max_steps']:,} steps a cell")
        if "until" in facts:
            until = facts["until"]
            told.append(f"until {until}" if isinstance(until, str) else f"until the loss is at most {until:g}")
        return told

    @property
    def tolerances(self) -> dict[str, Any]:
        """Relative and absolute tolerance, where the controller has them."""
        return {name: getattr(self.controller, name) for name in ("rtol", "atol") if hasattr(self.controller, name)}

    @property
    def numbers(self) -> dict[str, Any]:
        """What a prepared sweep may give anew: where it ends, its tolerances, its first step, its `until`."""
        every = {"t1": self.t1, **self.tolerances, "dt0": self.dt0, "until": self.until}
        return {name: value for name, value in every.items() if eqx.is_array(value)}

    def with_numbers(self, **numbers: Any) -> "Flow":
        """The same with another end, other tolerances and the like; `atol` follows `rtol` where it was rtol / 100."""
        own = self.numbers
        if "rtol" in numbers and "atol" not in numbers:
            rounding = 4 * float(jnp.finfo(own["atol"].dtype).eps)
            if np.isclose(own["atol"], own["rtol"] / 100, rtol=rounding, atol=0.0):
                own.pop("atol")
        checked = Flow(**{**own, **numbers})
        new = {name: checked.tolerances.get(name, getattr(checked, name, None)) for name in self.numbers}
        places = lambda flow: [getattr(flow.controller if name in self.tolerances else flow, name) for name in new]
        flow = eqx.tree_at(places, self, list(new.values()))
        flow._check_solver()
        return flow

    @property
    def judges_convergence(self) -> bool:
        """Whether it stops where the loss is the least that networks of this shape can reach."""
        return isinstance(self.until, str)

    @property
    def stops_at(self) -> tuple[Any, Any] | None:
        """The loss that it stops at and the rtol that may keep it from there, if it has both."""
        until, rtol = self.until, self.tolerances.get("rtol")
        return None if until is None or rtol is None or self.judges_convergence else (until, rtol)

    @property
    def forward_mode(self) -> bool:
        """Whether it differentiates in forward mode."""
        return self.loop.kind != "checkpointed"

    @property
    def unrolled(self) -> bool:
        """Whether its steps are written out stage by stage."""
        return UnrolledStep.fits(self.solver)

    @property
    def emulated(self) -> bool:
        """Whether XLA compiles it in float64 for a TPU: not implicit stages, whose factorisation is float32."""
        return not isinstance(self.solver, dfx.AbstractImplicitSolver)

    def check_precision(self, dtype: Any) -> None:
        """Raise if weights of this dtype cannot carry the tolerance."""
        if dtype == jnp.float64:
            return
        remedy = 'turn float64 on before anything else, jax.config.update("jax_enable_x64", True)'
        if isinstance(self.solver, dfx.AbstractImplicitSolver):
            raise ValueError(
                f"{type(self.solver).__name__} solves its implicit stages to the tolerance, which {dtype} weights do "
                f"not carry. Use an explicit solver, or {remedy}."
            )
        rtol, least = self.tolerances.get("rtol"), 4 * float(jnp.finfo(dtype).eps)
        if rtol is not None and is_concrete(rtol) and float(rtol) < least:
            raise ValueError(
                f"Tolerance rtol={float(rtol):.1g} is below what {dtype} weights carry, about {least:.1g}. "
                f"Raise `rtol`, or {remedy}."
            )

    def travel(self, course: Course, ts: Float[Array, " t"] | None, key: PRNGKeyArray) -> Path:
        """Integrate one cell; vmapped, all cells step in lockstep until the last one ends."""
        stepper = self.stepper(course, ts)
        running = lambda state: state[0].at.running
        lane, saved = self.loop(running, lambda state: stepper.step(*state), (stepper.load(), stepper.room()))
        return stepper.finish(lane.at, saved)

    def stepper(self, course: Course, ts: Float[Array, " t"] | None) -> Stepper:
        """What takes the steps of one cell."""
        return Stepper(self, course, ts)


def _positive(value: ArrayLike, name: str, what: str) -> Float[Array, ""]:
    array = real_array(value, name)
    if array.shape != ():
        raise ValueError(f"Argument `{name}` is {what}, one number, but it has shape {array.shape}.")
    known = np.asarray(array) if is_concrete(array) else array  # judged without compiling anything
    return require(
        array,
        (known > 0) & (known < jnp.inf),
        f"Argument `{name}` is {what} and needs to be positive and finite, but it is {value}.",
    )
