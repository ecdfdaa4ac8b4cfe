"""A cell as traced functions of flat arrays, ready to travel."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from layerflow._checks import require
from layerflow.engine._cell import Cell, Wanted
from layerflow.engine._functions import Functions
from layerflow.engine._trace import Traced, trace
from layerflow.methods import (
    Course,
    Descent,
    Exact,
    Method,
    Path,
    failed,
    masked,
)

_GAUGE = 1e-3  # relative change of an observable beyond which it depends on the rotation


class Prepared(NamedTuple):
    """What is computed of a cell once, before it travels: the loss extremes only where convergence is judged."""

    start: Array
    least_loss: Array
    null_loss: Array


@dataclass(frozen=True)
class Program:
    """What stays the same when the numbers of a cell change; equal programs compile once."""

    start: Traced
    velocity: Traced
    loss: Traced
    extremes: Traced
    follow: Traced
    measure: Traced
    summarise: Traced | None
    unravel: Traced
    exact: Traced | None
    gauge: Traced | None
    verify: Traced | None
    method_values: tuple[Any, ...]  # all of the method but its arrays
    method_structure: Any

    @property
    def method(self) -> Method:
        """The method without its arrays."""
        return jax.tree.unflatten(self.method_structure, self.method_values)

    def prepare(self, constants: dict[str, list[Array]], leaves: list[Array]) -> Prepared:
        """What is computed of a cell once, before it travels."""
        return Prepared(self.start(constants["start"], leaves), *self.extremes(constants["extremes"], leaves))

    def course(
        self, constants: dict[str, list[Array]], leaves: list[Array], method: PyTree, prepared: Prepared
    ) -> Course:
        """The cell whose arrays are `leaves` as its method sees it."""
        call = lambda name, *arguments: getattr(self, name)(constants[name], *arguments)
        return Course(
            start=prepared.start,
            velocity=lambda w, key, step: call("velocity", w, leaves, key, step),
            loss=lambda w: call("loss", w, leaves),
            follow=lambda moved: call("follow", moved, leaves),
            measure=lambda moved, peaks: call("measure", moved, peaks, leaves, method),
            unravel=lambda w: call("unravel", w, leaves),
            exact=None if self.exact is None else lambda ts: call("exact", ts, leaves),
            least_loss=prepared.least_loss,
            null_loss=prepared.null_loss,
        )

    def travel(
        self,
        constants: dict[str, list[Array]],
        leaves: list[Array],
        method: PyTree,
        ts: Array | None,
        key: PRNGKeyArray,
    ) -> Path:
        """Solve the cell whose arrays are `leaves`, by the method whose arrays are `method`."""
        course = self.course(constants, leaves, method, self.prepare(constants, leaves))
        path = eqx.combine(method, self.method).travel(course, ts, key)
        return self.judged(constants, leaves, method, ts, path)

    def judged(
        self, constants: dict[str, list[Array]], leaves: list[Array], method: PyTree, ts: Array | None, path: Path
    ) -> Path:
        """A path held against theory and summed up, as far as that is wanted."""
        if self.verify is not None:
            # Beyond an early stop the flow holds its last value: so does what it is held against.
            at = jnp.atleast_1d(path.end if ts is None else jnp.minimum(ts, path.end)).astype(path.weights.dtype)
            arguments = (at, path.observed, path.weights, path.end, leaves, method)
            verified = self.verify(constants["verify"], *arguments)
            path = eqx.tree_at(lambda path: path.verified, path, masked(verified, failed(path.status)))
        if self.summarise is None:
            return path
        seen = (path.observed, path.weights, path.status.astype(int), path.num_steps.astype(int), path.end)
        summaries = masked(self.summarise(constants["summarise"], ts, *seen, leaves), failed(path.status))
        return eqx.tree_at(lambda path: path.summaries, path, summaries)

    @property
    def factorises(self) -> bool:
        """Whether travelling or measuring calls a matrix factorisation."""
        return any(part.factorises for part in self.parts)

    @property
    def parts(self) -> list[Traced]:
        """Everything that was traced."""
        return [part for part in vars(self).values() if isinstance(part, Traced)]


def check_gauge(gaps: list[Array], names: Iterable[str]) -> None:
    """Raise for an observable that depends on a rotation which the closed form does not know."""
    for name, gap in zip(names, gaps, strict=True):
        require(
            gap,
            ~(gap > _GAUGE),
            f"The closed form knows the weights up to a rotation of the hidden units, but `{name}` changes with "
            f"it. Measure what does not (the matrix, Gram matrices, kernels), or use lf.Flow(t1=...).",
        )


@dataclass(frozen=True)
class Frozen:
    """A cell taken apart: a program, the arrays that its functions closed over, and what it measures."""

    program: Program
    constants: dict[str, list[Array]]
    variables: dict[str, jax.ShapeDtypeStruct]  # name and shape of each, in the order of `Path.observed`
    summaries: dict[str, jax.ShapeDtypeStruct]  # likewise, in the order of `Path.summaries`
    verified: dict[str, jax.ShapeDtypeStruct]  # likewise, in the order of `Path.verified`
    network: Callable[[Array, list[Array]], PyTree]  # from all that moves and leaves back to the user's network


def freeze(
    static: Cell, structure: Any, leaves: list[Any], method: PyTree, wanted: Wanted, ts: Any, key: Any
) -> Frozen:
    """Trace a cell's functions.

    Args:
        static: The cell without its arrays.
        structure: Structure of the arrays of the cell, its method's apart.
        leaves: Those arrays, or `jax.ShapeDtypeStruct`s like them.
        method: The method's arrays, or their shapes.
        wanted: What to measure.
        ts: Where to measure, or None.
        key: Shape and kind of the key of a cell.
    """
    cell = Functions(static, structure, wanted)
    w = jax.eval_shape(cell.start, leaves)
    _check_weights(w, static)
    step = jax.ShapeDtypeStruct((), int)
    peaks = jax.eval_shape(cell.follow, w, leaves)
    traced = {
        "start": trace(cell.start, leaves),
        "loss": trace(cell.loss, w, leaves),
        "velocity": trace(cell.velocity, w, leaves, key, step),
        "extremes": trace(cell.extremes, leaves),
        "follow": trace(cell.follow, w, leaves),
        "measure": trace(cell.measure, w, peaks, leaves, method),
        "unravel": trace(cell.unravel, w, leaves),
    }
    measured, summarised, verified = traced["measure"][0].outputs, [], []
    over_ts = () if ts is None else ts.shape
    seen = [jax.ShapeDtypeStruct(over_ts + value.shape, value.dtype) for value in measured]
    end = step if isinstance(static.method, Descent) else jax.ShapeDtypeStruct((), w.dtype)
    if wanted.summary:
        traced["summarise"] = trace(cell.summarise, jax.eval_shape(lambda: ts), seen, w, step, step, end, leaves)
        summarised = traced["summarise"][0].outputs
    _check_apart(cell.names, cell.summary_names)
    if isinstance(static.method, Exact):
        count = 1 if ts is None else ts.shape[0] + 1
        traced["exact"] = trace(cell.exact, jax.ShapeDtypeStruct((count,), w.dtype), leaves)
    if wanted.verify:
        at = jax.ShapeDtypeStruct(over_ts or (1,), w.dtype)
        traced["verify"] = trace(cell.verify, at, seen, w, end, leaves, method)
        verified = traced["verify"][0].outputs
    if cell.up_to_rotation:
        traced["gauge"] = trace(cell.gauge, leaves, method)
    values, structure_of_method = jax.tree.flatten(static.method)
    functions: dict[str, Any] = dict.fromkeys(("summarise", "exact", "gauge", "verify")) | {
        name: function for name, (function, _) in traced.items()
    }
    program = Program(**functions, method_values=tuple(values), method_structure=structure_of_method)
    return Frozen(
        program,
        constants={name: constants for name, (_, constants) in traced.items()},
        variables=dict(zip(cell.names, measured, strict=True)),
        summaries=dict(zip(cell.summary_names, summarised, strict=True)),
        verified=dict(zip(cell.verified_names, verified, strict=True)),
        network=cell.network,
    )


def _check_apart(variables: list[str], summaries: list[str]) -> None:
    for name in variables:
        if name in summaries:
            raise ValueError(f"An observable and a summary both give `{name}`. Name one of them apart: {{'other': f}}.")


def _check_weights(w: jax.ShapeDtypeStruct, static: Cell) -> None:
    if w.size == 0:
        raise ValueError(
            f"Nothing moves: a {type(static.problem.start).__name__} has no floating point arrays outside of "
            f"constants, or all its rates are None."
        )
    if not jnp.issubdtype(w.dtype, jnp.floating):
        raise TypeError(f"Weights need to be real floating point numbers, but their common dtype is {w.dtype}.")
