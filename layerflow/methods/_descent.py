"""Gradient descent by optax."""

import inspect
from collections.abc import Callable
from typing import Any

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PRNGKeyArray, PyTree

from layerflow._checks import is_concrete, require, whole
from layerflow.methods._course import Course, Loop, Path, Peaks, Status, failed, higher, loop_of, masked
from layerflow.methods._settings import as_json, plain


class Descent(eqx.Module):
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
        ValueError: If `steps` or `batch` is not positive.

    Example:
        >>> import layerflow as lf, optax
        >>> method = lf.Descent(optax.adam, steps=1000, batch=128, learning_rate=1e-3)
    """

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
            raise TypeError(f"Argument `steps` is a whole number, but it is {steps!r}.")
        self.loop = loop_of(adjoint, steps)  # of the plain number, which under jit the array is no more
        steps = jnp.asarray(steps)
        if not jnp.issubdtype(steps.dtype, jnp.integer) or steps.shape != ():
            raise ValueError(
                f"Argument `steps` is a whole number, but it has dtype {steps.dtype} and shape {steps.shape}."
            )
        if batch is not None and (not whole(batch) or batch < 1):
            raise ValueError(f"Argument `batch` counts samples: a whole number of at least 1, not {batch!r}.")
        self.steps = require(steps, steps > 0, f"Argument `steps` needs to be positive, but it is {steps}.")
        self.optimiser, self.batch, self.replace = optimiser, batch, replace
        number = lambda value: isinstance(value, float) or (eqx.is_array_like(value) and hasattr(value, "dtype"))
        self.hyperparameters = {k: jnp.asarray(v) if number(v) else v for k, v in hyperparameters.items()}
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
    def step_size(self) -> Array | None:
        """The learning rate, where it is a number."""
        rate = self.hyperparameters.get("learning_rate")
        return None if rate is None or callable(rate) else jnp.asarray(rate, float)

    def facts(self) -> dict[str, Any]:
        """What a record of the run says of the method; what varies from cell to cell is left out."""
        return {
            "optimiser": plain(self.optimiser),
            "optimiser_settings": as_json(self.hyperparameters),
            "steps": self.steps,
            "batch": self.batch,
            "replace": self.replace or None,
            **self.hyperparameters,
        }

    def check_precision(self, dtype: Any) -> None:
        """Any precision will do."""

    def travel(self, course: Course, ts: Int[Array, " t"] | None, key: PRNGKeyArray) -> Path:
        """Descend in one cell; vmapped, all cells step together."""
        descender = _Descender(self, course, key)
        run = descender.load()
        measured = None
        if ts is not None:
            run, (observed, alive) = jax.lax.scan(descender.visit, run, jnp.minimum(ts, self.steps))
            measured = masked(observed, ~alive)
        run = descender.run_to(self.steps, run)
        bad = failed(run.status)
        if measured is None:
            measured = masked(course.measure(run.moved, run.peaks), bad)
        status = jnp.where(bad, run.status, Status.REACHED_T1)
        return Path(measured, jnp.where(bad, jnp.nan, course.start + run.moved), status, run.step, run.step)


def _hides_traced(function: Any) -> bool:
    """Whether a function closes over a value that is being traced."""
    for cell in getattr(function, "__closure__", None) or ():
        try:
            if not is_concrete(cell.cell_contents):
                return True
        except ValueError:  # a name that its function never bound
            continue
    return False


class _Run(eqx.Module):
    """A descent under way."""

    moved: Float[Array, " size"]  # weights - start, see methods/_flow.py
    optimisers: list[PyTree]  # one state per network, so that a twin changes nothing for its network
    peaks: Peaks
    step: Int[Array, ""]
    status: Int[Array, ""]


class _Descender:
    """One step of descent at a time in one cell."""

    def __init__(self, method: Descent, course: Course, key: PRNGKeyArray) -> None:
        cast = lambda leaf: leaf.astype(course.start.dtype) if eqx.is_inexact_array(leaf) else leaf
        self.optimiser = method.optimiser(**jax.tree.map(cast, method.hyperparameters))
        self.course, self.key, self.loop = course, key, method.loop

    def load(self) -> _Run:
        start = self.course.start
        moved = jnp.zeros_like(start)
        states = [jax.tree.map(jnp.asarray, self.optimiser.init(weights)) for weights in self.course.unravel(start)]
        return _Run(moved, states, self.course.follow(moved), jnp.asarray(0), jnp.asarray(Status.RUNNING))

    def run_to(self, goal: Int[Array, ""], run: _Run) -> _Run:
        """Go on to step `goal`, or to where the cell fails."""
        active = lambda run: (run.step < goal) & (run.status == Status.RUNNING)
        return self.loop(active, lambda run: self._step(run, active(run)), run)

    def visit(self, run: _Run, goal: Int[Array, ""]) -> tuple[_Run, tuple[list[Array], Bool[Array, ""]]]:
        """Go on to step `goal` and measure there."""
        run = self.run_to(goal, run)
        return run, (self.course.measure(run.moved, run.peaks), ~failed(run.status))

    def _step(self, run: _Run, active: Bool[Array, ""]) -> _Run:
        course, unravel = self.course, self.course.unravel
        weights = course.start + run.moved
        gradients = unravel(-course.velocity(weights, self.key, run.step))
        stepped = map(self._updated, gradients, run.optimisers, unravel(weights), unravel(run.moved))
        trees, states = zip(*stepped, strict=True)
        moved, _ = ravel_pytree(trees)
        status = jnp.where(jnp.all(jnp.isfinite(moved)), Status.RUNNING, Status.NOT_FINITE)
        peaks = higher(run.peaks, course.follow(moved))
        after = _Run(moved, list(states), peaks, run.step + 1, status)
        return jax.tree.map(lambda new, old: jnp.where(active, new, old), after, run)

    def _updated(
        self, gradient: list[Array], state: PyTree, weights: list[Array], moved: list[Array]
    ) -> tuple[PyTree, PyTree]:
        """The movement of one network after one step, and the state of its optimiser."""
        with jax.numpy_dtype_promotion("standard"):  # optax counts on it
            updates, state = self.optimiser.update(gradient, state, weights)
        return optax.apply_updates(moved, updates), state
