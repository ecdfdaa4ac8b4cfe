"""One cell as traced functions of flat arrays, ready to travel."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PRNGKeyArray, PyTree

from layerflow._movement import at_hand
from layerflow._problem import Problem
from layerflow.engine._trace import Traced, trace
from layerflow.methods import Course, Descent, Method, Path
from layerflow.tasks import Stream, Task

Observables = Mapping[str, Callable[[Any, Problem], Any]]


class Cell(eqx.Module):
    """A problem and the method to solve it by; `task` is the problem's in its cheapest form."""

    problem: Problem
    task: Task
    method: Method

    @classmethod
    def of(cls, problem: Problem, method: Method) -> "Cell":
        """The cell of a problem as the user states it."""
        return cls(problem, problem.task.reduced(problem.start), method)


@dataclass(frozen=True)
class Program:
    """What stays the same when the numbers of a cell change; equal programs compile once."""

    start: Traced
    velocity: Traced
    loss: Traced
    extremes: Traced
    measure: Traced
    unravel: Traced
    method_values: tuple[Any, ...]  # all of the method but its arrays
    method_structure: Any

    @property
    def method(self) -> Method:
        """The method without its arrays."""
        return jax.tree.unflatten(self.method_structure, self.method_values)

    def travel(
        self,
        constants: dict[str, list[Array]],
        leaves: list[Array],
        method: PyTree,
        ts: Array | None,
        key: PRNGKeyArray,
    ) -> Path:
        """Solve the cell whose arrays are `leaves`, by the method whose arrays are `method`."""
        call = lambda name, *arguments: getattr(self, name)(constants[name], *arguments)
        least_loss, null_loss = call("extremes", leaves)
        course = Course(
            start=call("start", leaves),
            velocity=lambda w, key, step: call("velocity", w, leaves, key, step),
            loss=lambda w: call("loss", w, leaves),
            measure=lambda moved: call("measure", moved, leaves),
            unravel=lambda w: call("unravel", w, leaves),
            least_loss=least_loss,
            null_loss=null_loss,
        )
        return eqx.combine(method, self.method).travel(course, ts, key)


@dataclass(frozen=True)
class Frozen:
    """A cell taken apart: a program, the arrays that its functions closed over, and what it measures."""

    program: Program
    constants: dict[str, list[Array]]
    variables: dict[str, jax.ShapeDtypeStruct]  # name and shape of each, in the order of `Path.observed`
    network: Callable[[Array, list[Array]], PyTree]  # from moving weights and leaves back to the user's network


def freeze(static: Cell, structure: Any, leaves: list[Any], observe: Observables, key: Any) -> Frozen:
    """Trace a cell's functions.

    Args:
        static: The cell without its arrays.
        structure: Structure of the arrays of the cell, its method's apart.
        leaves: Those arrays, or `jax.ShapeDtypeStruct`s like them.
        observe: Observables by name.
        key: Shape and kind of the key of a cell.
    """
    cell = _Functions(static, structure, observe)
    w = jax.eval_shape(cell.start, leaves)
    _check_weights(w, static)
    step = jax.ShapeDtypeStruct((), int)
    traced = {
        "start": trace(cell.start, leaves),
        "loss": trace(cell.loss, w, leaves),
        "velocity": trace(cell.velocity, w, leaves, key, step),
        "extremes": trace(cell.extremes, leaves),
        "measure": trace(cell.measure, w, leaves),
        "unravel": trace(cell.unravel, w, leaves),
    }
    values, structure_of_method = jax.tree.flatten(static.method)
    functions = {name: function for name, (function, _) in traced.items()}
    program = Program(**functions, method_values=tuple(values), method_structure=structure_of_method)
    constants = {name: constants for name, (_, constants) in traced.items()}
    variables = dict(zip(cell.names, program.measure.outputs, strict=True))
    return Frozen(program, constants, variables, cell.network)


class _Functions:
    """A cell as functions of its leaves and of the flat vector w of its moving weights."""

    def __init__(self, static: Cell, structure: Any, observe: Observables) -> None:
        self.static, self.structure, self.observe = static, structure, observe
        self.names: list[str] = []  # of the variables, once `measure` was traced

    def cell(self, leaves: list[Array]) -> Cell:
        return eqx.combine(jax.tree.unflatten(self.structure, leaves), self.static)

    def ravelled(self, leaves: list[Array]) -> tuple[Array, Callable[[Array], PyTree], PyTree]:
        """The weights at the start, the way back to their tree, and all the rest of the network."""
        problem = self.cell(leaves).problem
        weights, rest = problem.split(problem.start)
        return *ravel_pytree(weights), rest

    def start(self, leaves: list[Array]) -> Array:
        return self.ravelled(leaves)[0]

    def unravel(self, w: Array, leaves: list[Array]) -> list[Array]:
        return jax.tree.leaves(self.ravelled(leaves)[1](w))

    def network(self, w: Array, leaves: list[Array]) -> PyTree:
        _, unravel, rest = self.ravelled(leaves)
        return eqx.combine(unravel(w), rest)

    def velocity(self, w: Array, leaves: list[Array], key: PRNGKeyArray, step: Array) -> Array:
        cell, method = self.cell(leaves), self.static.method
        task = cell.task
        if isinstance(method, Descent) and method.batch is not None:
            task = cell.problem.task.batch(key, step, method.batch, method.replace)
        elif isinstance(task, Stream):
            raise TypeError(
                "A Stream gives fresh samples at every step and has no whole to follow: use Descent(..., batch=...), "
                "or fix a sample, lf.Samples(*draw(key, n)), for Flow."
            )
        return ravel_pytree(cell.problem.velocity(self.network(w, leaves), task))[0].astype(w.dtype)

    def loss(self, w: Array, leaves: list[Array]) -> Array:
        loss = self.cell(leaves).task.loss(self.network(w, leaves))
        if jnp.shape(loss) != ():
            raise ValueError(
                f"The `loss` of a task needs to be one number, but that of {type(self.static.task).__name__} has shape "
                f"{jnp.shape(loss)}. Take a mean or a sum."
            )
        return jnp.asarray(loss)

    def extremes(self, leaves: list[Array]) -> tuple[Array, Array]:
        """The least loss and that of the zero function, where convergence is judged by them."""
        cell = self.cell(leaves)
        if getattr(self.static.method, "until", None) != "converged":
            return jnp.zeros(()), jnp.zeros(())
        if cell.problem.has_decay:
            raise ValueError(
                'With weight decay the least loss is not known, so until="converged" cannot be judged. '
                "Give a loss to stop at, until=1e-3, or leave `until` out."
            )
        return cell.task.least_loss(cell.problem.start), cell.task.null_loss()

    def measure(self, moved: Array, leaves: list[Array]) -> list[Array]:
        """All observables where the weights are `start + moved`."""
        start, unravel, rest = self.ravelled(leaves)
        network = eqx.combine(unravel(start + moved), rest)
        with at_hand(network, unravel(moved)):
            measured = _measured(self.observe, network, self.cell(leaves).problem)
        self.names = list(measured)
        return list(measured.values())


def take_apart(cell: Cell) -> tuple[Cell, Any, list[Array], PyTree]:
    """A cell as its static part, the structure and leaves of its arrays, and its method's arrays."""
    arrays, static = eqx.partition(cell, eqx.is_array)
    method = arrays.method
    arrays = eqx.tree_at(lambda cell: cell.method, arrays, None)
    leaves, structure = jax.tree.flatten(arrays)
    return static, structure, leaves, method


def _measured(observe: Observables, network: PyTree, problem: Problem) -> dict[str, Array]:
    """Every observable by the name of its variable, as floating point numbers so that NaN can mark failure."""
    variables: dict[str, Array] = {}
    for name, function in observe.items():
        try:
            value = function(network, problem)
        except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError) as error:
            raise TypeError(
                f"The observable `{name}` hands a JAX array to NumPy or Python, which cannot be compiled. "
                f"Use jax.numpy: {error}"
            ) from error
        parts = {f"{name}_{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
        for variable, part in parts.items():
            if not eqx.is_array_like(part):
                raise TypeError(
                    f"An observable returns an array or a dict of arrays, but `{variable}` returned a "
                    f"{type(part).__name__}."
                )
            if variable in variables:
                raise ValueError(
                    f"Two observables are called `{variable}`. Name them apart: observe={{'a': f, 'b': g}}."
                )
            array = jnp.asarray(part)
            variables[variable] = array if jnp.issubdtype(array.dtype, jnp.inexact) else array.astype(float)
    return variables


def _check_weights(w: jax.ShapeDtypeStruct, static: Cell) -> None:
    if w.size == 0:
        raise ValueError(
            f"Nothing moves: a {type(static.problem.start).__name__} has no floating point arrays outside of "
            f"constants, or all its rates are None."
        )
    if not jnp.issubdtype(w.dtype, jnp.floating):
        raise TypeError(f"Weights need to be real floating point numbers, but their common dtype is {w.dtype}.")
