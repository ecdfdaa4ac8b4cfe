"""Gradient descent by optax."""

import dataclasses
import functools
import inspect
import json
import operator
from collections.abc import Callable
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PRNGKeyArray, PyTree

from layerflow.base._checks import closed_over, is_concrete, plain, require, whole
from layerflow.methods._course import Course, Loop, Path, Peaks, Status, failed, higher, loop_of, masked
from layerflow.methods._flow import Flow
from layerflow.methods._method import STEPS, Method
from layerflow.methods._settings import as_json, is_number, short, told

_FLOW_RTOL = 1e-8  # of the flow that a descent is held against


class Descent(Method):
    """Gradient descent with any optax optimiser.

    The gradient handed to the optimiser is minus the velocity of the problem, so weight decay
    is coupled and `rates` scale each layer.

    Args:
        optimiser: An optax factory such as `optax.sgd` or `optax.adam`; not its result.
        steps: How many steps to take.
        batch: Samples per step; the whole task at every step if not given.
        replace: Draw each batch anew from all samples, in place of running through them in a
            fresh order every epoch.
        adjoint: How the descent differentiates, see `Flow`.
        **hyperparameters: Handed to the factory. Floats and arrays can be axes of a sweep and
            do not recompile; flags, whole numbers and schedules do.

    Raises:
        TypeError: If `optimiser` is not a factory, or does not take these hyperparameters.
        ValueError: If `steps`, `batch` or a learning rate is not positive.

    Example:
        >>> import layerflow as lf, optax
        >>> method = lf.Descent(optax.adam, steps=1000, batch=128, learning_rate=1e-3)
    """

    time = STEPS
    needs = frozenset({"velocity", "loss", "optimiser"})
    told_by = ("optimiser",)

    optimiser: Callable[..., Any] = eqx.field(static=True)
    steps: Int[Array, ""]
    batch: int | None = eqx.field(static=True)
    replace: bool = eqx.field(static=True)
    loop: Loop = eqx.field(static=True)
    hyperparameters: dict[str, Any]

    def __init__(
        self,
        optimiser: Callable[..., Any],
        *,
        steps: ArrayLike,
        batch: int | None = None,
        replace: bool = False,
        adjoint: dfx.AbstractAdjoint | None = None,
        **hyperparameters: Any,
    ) -> None:
        if isinstance(optimiser, tuple) or not callable(optimiser):
            raise TypeError(
                "Argument `optimiser` needs a factory such as optax.sgd, with its numbers as further arguments: "
                "lf.Descent(optax.sgd, learning_rate=0.01, steps=1000), not optax.sgd(0.01)."
            )
        if not isinstance(steps, int) and not hasattr(steps, "dtype"):
            raise TypeError(
                f"Argument `steps` is a whole number, but it is {steps!r}. Round it: steps=round(t1 / rate)."
            )
        self.loop = loop_of(adjoint, steps)  # of the plain number, which under jit the array is no more
        try:
            steps = jnp.asarray(plain(steps, "Argument `steps`"))
        except OverflowError as error:
            most = jnp.iinfo(jnp.result_type(int)).max
            raise ValueError(f"Argument `steps` counts steps, at most {most}, but it is {steps}.") from error
        if not jnp.issubdtype(steps.dtype, jnp.integer) or steps.shape != ():
            raise ValueError(
                f"Argument `steps` is a whole number, but it has dtype {steps.dtype} and shape {steps.shape}. Round a "
                f"fraction: jnp.round(t1 / rate).astype(int)."
            )
        if batch is not None and (not whole(batch) or batch < 1):
            raise ValueError(
                f"Argument `batch` counts samples: a whole number of at least 1, such as int(n), not {batch!r}."
            )
        self.steps = require(steps, steps > 0, f"Argument `steps` needs to be positive, but it is {steps}.")
        self.optimiser, self.batch, self.replace = optimiser, batch, replace
        number = lambda value: isinstance(value, float) or (eqx.is_array_like(value) and hasattr(value, "dtype"))
        given = {name: plain(value, f"Argument `{name}`") for name, value in hyperparameters.items()}
        self.hyperparameters = {name: jnp.asarray(v) if number(v) else v for name, v in given.items()}
        if "learning_rate" in given:
            self.hyperparameters["learning_rate"] = _checked_rate(self.hyperparameters["learning_rate"])
        for name, function in {"optimiser": optimiser, **self.hyperparameters}.items():
            if _hides_traced(function):
                raise TypeError(
                    f"Argument `{name}` is a function that closes over a value of an axis, where the program cannot "
                    f"see it. Write a factory of that number, def decayed(rate): return "
                    f"optax.sgd(optax.exponential_decay(rate, 100, 0.5)), and give it: lf.Descent(decayed, rate=...)."
                )
        try:
            optimiser(**self.hyperparameters)
        except TypeError as error:
            name = getattr(optimiser, "__name__", type(optimiser).__name__)
            takes = ", ".join(inspect.signature(optimiser).parameters)
            raise TypeError(
                f"{name} needs its numbers as further arguments of lf.Descent, such as learning_rate=0.01. It takes "
                f"{takes}, but {', '.join(hyperparameters) or 'nothing'} came: {error}."
            ) from error

    @property
    def end(self) -> Int[Array, ""]:
        """Where the method ends, in the units of `ts`."""
        return self.steps

    @property
    def numbers(self) -> dict[str, Any]:
        """What a prepared sweep may give anew: hyperparameters that are numbers, and steps unless they bound a loop."""
        steps = {} if self.loop.kind == "bounded" else {"steps": self.steps}
        return steps | {name: value for name, value in self.hyperparameters.items() if eqx.is_array(value)}

    def with_numbers(self, **numbers: Any) -> "Descent":
        """The same with other hyperparameters, or steps."""
        given: dict[str, Any] = {"steps": self.steps, **self.hyperparameters, **numbers}
        new = Descent(self.optimiser, batch=self.batch, replace=self.replace, **given)
        return eqx.tree_at(
            lambda method: (method.steps, method.hyperparameters), self, (new.steps, new.hyperparameters)
        )

    @property
    def drawn(self) -> tuple[int, bool] | None:
        """Samples per step, and whether each batch is drawn anew from all; None for the whole task at every step."""
        return None if self.batch is None else (self.batch, self.replace)

    @property
    def forward_mode(self) -> bool:
        """Whether it differentiates in forward mode."""
        return self.loop.kind != "checkpointed"

    @property
    def step_size(self) -> Array | None:
        """The learning rate, where it is a number."""
        rate = self.hyperparameters.get("learning_rate")
        return None if rate is None or callable(rate) else jnp.asarray(rate, float)

    def check_steps_of_flow(self, asking: str) -> None:
        """Raise unless it is plain descent at one constant rate."""
        rest = [name for name in self.hyperparameters if name != "learning_rate"]
        scheduled = callable(self.hyperparameters.get("learning_rate"))
        if self.optimiser is not optax.sgd or rest or scheduled:
            came = short(told(self.optimiser)) + "".join(f" with {name}" for name in rest)
            raise TypeError(
                f"{asking} holds descent against the flow at equal time, learning rate times steps, which only plain "
                f"descent at one constant rate has, but the optimiser is {came}"
                f"{' at a scheduled rate' if scheduled else ''}. Use lf.Descent(optax.sgd, learning_rate=0.1, ...)."
            )

    @property
    def untraced(self) -> Any:
        """What decides the numbers beside the functions that are traced."""
        return type(self), self.batch, self.replace, self.loop

    def facts(self) -> dict[str, Any]:
        """What a record of the run says of the method; what varies from cell to cell is left out."""
        return {
            "optimiser": told(self.optimiser),
            "optimiser_settings": as_json(self.hyperparameters),
            "steps": self.steps,
            "batch": self.batch,
            "replace": self.replace or None,
            **self.hyperparameters,
        }

    @staticmethod
    def in_words(facts: dict[str, Any]) -> str:
        """How cells were solved, from the facts of a diagram."""
        steps, rate = facts.get("steps"), facts.get("learning_rate")
        batch = f", batches of {facts['batch']}" if "batch" in facts else ""
        taken = "" if steps is None else f"{steps} step{'' if steps == 1 else 's'} of "
        at_rate = f" at rate {rate:g}" if isinstance(rate, int | float) else ""
        return f"{taken}{facts['optimiser']}{at_rate}{batch}"

    @staticmethod
    def settings_in_words(facts: dict[str, Any]) -> list[str]:
        """What else of it decides numbers, as far as it is not as usual."""
        given = json.loads(facts.get("optimiser_settings", "{}"))
        rest = {name: value for name, value in given.items() if name != "learning_rate" or not is_number(value)}
        told = [f"{name}={short(value)}" for name, value in rest.items()]
        return told + (["batches drawn with replacement"] if "replace" in facts else [])

    def begin(self, weights: list[Array]) -> PyTree:
        """The state of the optimiser for the weights of a network."""
        return jax.tree.map(jnp.asarray, self.optimiser(**self.hyperparameters).init(weights))

    def descend(
        self, gradient: list[Array], state: PyTree, weights: list[Array], moved: list[Array]
    ) -> tuple[list[Array], PyTree]:
        """The displacement of a network after one step, and the state of the optimiser."""
        with jax.numpy_dtype_promotion("standard"):  # optax counts on it
            updates, state = self.optimiser(**self.hyperparameters).update(gradient, state, weights)
        after: Any = optax.apply_updates(moved, updates)
        return after, state

    def travel(self, course: Course, ts: Int[Array, " t"] | None, key: PRNGKeyArray) -> Path:
        """Descend in one cell; vmapped, all cells step together."""
        descender = _Descender(course, key, self.loop)
        run = descender.load()
        if course.flow is not None:
            return self._beside_flow(descender, run, ts)
        measured = None
        if ts is not None:
            run, (observed, alive) = jax.lax.scan(descender.visit, run, jnp.minimum(ts, self.steps))
            measured = masked(observed, ~alive)
        run = descender.run_to(self.steps, run)
        if measured is None:
            measured = masked(course.measure(run.moved, run.peaks), failed(run.status))
        return self._path(course, run, measured)

    def _beside_flow(self, descender: "_Descender", run: "_Run", ts: Int[Array, " t"] | None) -> Path:
        """Descend first, then follow the flow as far as the descent came, and measure both where they were."""
        course = descender.course
        goals = self.steps[None] if ts is None else jnp.minimum(ts, self.steps)
        run, (moved, peaks, alive) = jax.lax.scan(descender.halt, run, goals)
        run = descender.run_to(self.steps, run)
        flow, status = self._flow(course, jnp.minimum(goals, run.step))
        measured = masked(jax.vmap(course.measure)(moved, peaks, flow), ~alive)
        path = self._path(course, run, measured if ts is not None else [value[0] for value in measured])
        return dataclasses.replace(path, flow=status)

    def _path(self, course: Course, run: "_Run", measured: list[Array]) -> Path:
        """What a descent gives back at its end."""
        bad = failed(run.status)
        status = jnp.where(bad, run.status, Status.REACHED_T1)
        twin = None if run.twin is None else jnp.where(run.twin == Status.RUNNING, status, run.twin)
        weights = jnp.where(bad, jnp.nan, course.start + run.moved)
        return Path(measured, weights, status, run.step, run.step, twin, watched=run.watched)

    def _flow(self, course: Course, steps: Int[Array, " t"]) -> tuple[Float[Array, "t own"], Int[Array, ""]]:
        """The displacement of the flow at the times of some steps, NaN from where it failed, and how it ended."""
        dtype = course.start.dtype
        rate, steps = jnp.asarray(self.step_size, dtype), steps.astype(dtype)
        rtol = max(_FLOW_RTOL, 4 * float(jnp.finfo(dtype).eps))
        adjoint = {"lax": None, "checkpointed": dfx.RecursiveCheckpointAdjoint(), "bounded": dfx.DirectAdjoint()}
        flow = Flow(t1=1.0, rtol=rtol, atol=1.0, adjoint=adjoint[self.loop.kind])
        # Small weights decide when a small start grows: what is absolute is small beside them too.
        largest = jnp.abs(course.start[: course.own]).max(initial=0.0)
        atol = 0.01 * rtol * jnp.where(largest > 0, largest, 1.0)
        places = lambda flow: (flow.t1, flow.controller.atol)
        flow = eqx.tree_at(places, flow, (rate * steps[-1], atol))
        path = flow.travel(course.of_flow, rate * steps, jax.random.key(0))
        return path.observed[0], path.status


def _checked_rate(rate: Any) -> Any:
    """A learning rate that is positive, if it is a number, or an error."""
    if not eqx.is_array_like(rate):
        return rate
    known = np.asarray(rate) if is_concrete(rate) else rate
    came = f", but it is {rate}" if is_concrete(rate) else ""
    needs = f"Argument `learning_rate` is the size of a step and needs to be positive and finite{came}."
    checked = require(rate, (known > 0) & (known < jnp.inf), needs)
    return checked if eqx.is_array(rate) else rate


def _hides_traced(function: Any) -> bool:
    """Whether a function closes over a value that is being traced."""
    return not all(map(is_concrete, closed_over(function).values()))


class _Run(eqx.Module):
    """A descent under way."""

    moved: Float[Array, " size"]  # weights - start, see methods/_flow.py
    optimisers: list[PyTree]  # one state per network, so that a twin changes nothing for its network
    peaks: Peaks
    step: Int[Array, ""]
    status: Int[Array, ""]
    twin: Int[Array, ""] | None
    watched: PyTree


class _Descender:
    """One step of descent at a time in one cell."""

    def __init__(self, course: Course, key: PRNGKeyArray, loop: Loop) -> None:
        self.course, self.key, self.loop = course, key, loop

    def load(self) -> _Run:
        start = self.course.start
        moved, running = jnp.zeros_like(start), jnp.asarray(Status.RUNNING)
        twin = running if self.course.has_twin else None
        follow, watched = self.course.follow(moved), self.course.watched
        return _Run(moved, self.course.begin(start), follow, jnp.asarray(0), running, twin, watched)

    def run_to(self, goal: Int[Array, ""], run: _Run) -> _Run:
        """Go on to step `goal`, or to where the cell fails."""
        active = lambda run: (run.step < goal) & (run.status == Status.RUNNING)
        return self.loop(active, lambda run: self._step(run, active(run)), run)

    def visit(self, run: _Run, goal: Int[Array, ""]) -> tuple[_Run, tuple[list[Array], Bool[Array, ""]]]:
        """Go on to step `goal` and measure there."""
        run = self.run_to(goal, run)
        return run, (self.course.measure(run.moved, run.peaks), ~failed(run.status))

    def halt(self, run: _Run, goal: Int[Array, ""]) -> tuple[_Run, tuple[Array, Peaks, Bool[Array, ""]]]:
        """Go on to step `goal`, and where it is."""
        run = self.run_to(goal, run)
        alive = ~failed(run.status)
        return run, (jnp.where(alive, run.moved, 0.0), run.peaks, alive)

    def _step(self, run: _Run, active: Bool[Array, ""]) -> _Run:
        course = self.course
        velocity = course.velocity(course.start + run.moved, self.key, run.step)
        moved, optimisers = course.descend(run.moved, velocity, run.optimisers)
        finite = jnp.all(jnp.isfinite(moved[: course.own]))
        status = jnp.where(finite, Status.RUNNING, Status.NOT_FINITE)
        watched = course.watch(run.watched, run.moved, velocity)
        after = _Run(moved, optimisers, run.peaks, run.step + 1, status, run.twin, watched)
        after = self._followed(run, after)
        return jax.tree.map(lambda new, old: jnp.where(active, new, old), after, run)

    def _followed(self, before: _Run, run: _Run) -> _Run:
        """With the peaks after a step; a twin that left the numbers stands still from there, and its peaks are NaN."""
        course = self.course
        if before.twin is None:
            return run
        finite = jnp.all(jnp.isfinite(course.of_twin(run.moved)))
        followed = course.follow(course.hold_twin(~finite, before.moved, run.moved))
        finite &= functools.reduce(operator.and_, [jnp.all(jnp.isfinite(v)) for v in jax.tree.leaves(followed)])
        twin = jnp.where((before.twin == Status.RUNNING) & ~finite, Status.NOT_FINITE, before.twin)
        lost = twin != Status.RUNNING
        peaks = jax.tree.map(lambda peak: jnp.where(lost, jnp.nan, peak), higher(run.peaks, followed))
        moved = course.hold_twin(lost, before.moved, run.moved)
        return eqx.tree_at(lambda run: (run.moved, run.peaks, run.twin), run, (moved, peaks, twin))
