"""Functions of one lane, run for all lanes with the lane as the last axis of every array.

`jax.vmap` puts the lane first: the entries of one small matrix lie together, and a CPU has a handful of numbers to work
on at a time. With the lane last the same entry of all lanes lies together, every operation is one long loop of the
same arithmetic, and small products are written out as sums. So the traced function is run step by step for all lanes;
what has no rule below, `jax.vmap` maps.
"""

import functools
import logging
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from layerflow.base._jax import ClosedJaxpr, Jaxpr, Var, jaxprs_in_params, part, run, set_xla_metadata
from layerflow.base._numerics import FEW
from layerflow.engine._flat import Flat, Step, computed_apart

_log = logging.getLogger(__name__)

_LOOPS = {"while", "scan", "cond"}
_CALLS = {"jit": "jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}
# fmt: off
# What has an entry of its result for each entry of its operands, all of one shape.
ENTRYWISE = {
    "add", "sub", "mul", "div", "rem", "max", "min", "pow", "atan2", "nextafter", "neg", "sign", "abs", "floor",
    "ceil", "round", "is_finite", "exp", "exp2", "expm1", "log", "log2", "log1p", "sqrt", "rsqrt", "cbrt", "square",
    "one_minus_square", "integer_pow", "polynomial", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh",
    "tanh", "asinh", "acosh", "atanh", "logistic", "erf", "erfc", "and", "or", "xor", "not", "eq", "ne", "lt", "le",
    "gt", "ge", "select_n", "clamp", "add_any", "convert_element_type", "stop_gradient",
}
# What speaks of axes by their number, counted from the front, so that one more at the end changes nothing.
_BY_AXIS = {
    "concatenate", "stack", "unstack", "split", "squeeze", "rev", "reduce_sum", "reduce_max", "reduce_min",
    "reduce_prod", "reduce_and", "reduce_or", "cumsum",
}
# What XLA computes together with what it takes, beside these.
_JOINED = {
    "broadcast_in_dim", "reshape", "transpose", "slice", "squeeze", "rev", "concatenate", "reduce_sum", "reduce_max",
    "reduce_min", "reduce_prod", "reduce_and", "reduce_or",
}
# fmt: on
# What each lane looks up in a table that all share: `jax.vmap` loses nothing there.
_LOOKS_UP = {"dynamic_slice", "gather"}


def fits(jaxpr: Jaxpr) -> bool:
    """Whether a program is better off with the lane last: no product is too large to be written out, nothing loops."""
    return not any(
        step.primitive.name in _LOOPS
        or (step.primitive.name == "dot_general" and _large(step))
        or not all(fits(inner) for inner in jaxprs_in_params(step.params))
        for step in jaxpr.eqns
    )


def apart(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """The same function, for `lanes_last` to keep as one that XLA calls; see `_called`."""
    return jax.jit(functools.partial(_kept_apart, function))


def _kept_apart(function: Callable[..., PyTree], *arguments: PyTree) -> PyTree:
    return function(*arguments)


def lanes_last(function: Callable[..., PyTree], axes: PyTree, lanes: int, apart: bool = True) -> Callable[..., PyTree]:
    """What `jax.vmap(function, in_axes=axes, out_axes=-1, axis_size=lanes)` does, lane by lane the same numbers.

    Args:
        function: Of arrays of one lane.
        axes: For each argument, or each part of one, -1 or None if all lanes share it.
        lanes: How many there are.
        apart: Whether to keep apart what is used in several places, as on a CPU; XLA joins nothing inside of it
            on a GPU.

    Returns:
        A function to be jitted, not differentiated: rules that functions have for their derivatives are lost.
    """

    def of_lanes(*arguments: PyTree) -> PyTree:
        shared = shared_leaves(axes, arguments)
        flat, structure = jax.tree.flatten(arguments)
        one = [jax.ShapeDtypeStruct(a.shape if s else a.shape[:-1], a.dtype) for a, s in zip(flat, shared, strict=True)]
        closed, result = jax.make_jaxpr(function, return_shape=True)(*jax.tree.unflatten(structure, one))
        inputs = [a[..., None] if s else a for a, s in zip(flat, shared, strict=True)]
        outputs = _run(closed, inputs, lanes, apart)
        spread = [jnp.broadcast_to(out, (*out.shape[:-1], lanes)) for out in outputs]
        return jax.tree.unflatten(jax.tree.structure(result), spread)

    return of_lanes


def shared_leaves(axes: PyTree, arguments: PyTree) -> list[bool]:
    """Of each array in some arguments, whether all lanes share it: its axis, or that of the part it is in, is None."""
    alike = lambda axis, argument: jax.tree.map(lambda _: axis is None, argument)
    return jax.tree.leaves(jax.tree.map(alike, axes, arguments, is_leaf=lambda axis: axis is None))


def _run(closed: ClosedJaxpr, inputs: list[Array], lanes: int, apart: bool, called: bool = False) -> list[Array]:
    """A program for all lanes. What lanes share has a last axis of length one."""
    flat = Flat(closed, _written_in if apart else called_by)
    alone, inside = computed_apart(flat, _terms_of, _joined, called) if apart else ({}, set())
    known = dict(enumerate(inputs)) | {n: jnp.asarray(one)[..., None] for n, one in flat.constants.items()}
    calls: dict[int, Any] = {}

    def do(steps: list[Step], known: dict[int, Array]) -> None:
        for step in steps:
            read = [known[one] if isinstance(one, int) else _number(one) for one in step.takes]
            outputs = _step(step.own, read, lanes, calls) or _alone(closed.jaxpr, step.own, read, lanes)
            known |= zip(step.gives, outputs, strict=True)

    def computed(value: int, *takes: Array) -> Array:
        own = dict(zip(alone[value].takes, takes, strict=True))
        do(alone[value].steps, own)
        return own[value]

    for step in flat.steps:
        value = step.gives[0] if step.gives else None
        if value in alone:
            takes = [known[one] for one in alone[value].takes]
            known[value] = _called(jax.jit(functools.partial(computed, value)), *takes)
        elif value not in inside:
            do([step], known)
    return [known[one] if isinstance(one, int) else _number(one) for one in flat.outputs]


def _number(literal: Any) -> Array:
    return jnp.asarray(literal.val, literal.aval.dtype)[..., None]


def _written_in(step: Any) -> ClosedJaxpr | None:
    """The program that a step calls, unless it is to stay one that XLA calls."""
    return None if step.params.get("name") == _kept_apart.__name__ else called_by(step)


def called_by(step: Any) -> ClosedJaxpr | None:
    """The program that a step calls, if it calls one once."""
    name = step.primitive.name
    return step.params[_CALLS[name]] if name in _CALLS else None


def _terms_of(step: Step) -> int:
    """Of how many terms the entries of a step's product are sums; 0 if it is no product that is written out."""
    return terms_in(step.own) if _written_out(step.own) else 0


def _written_out(step: Any) -> bool:
    """Whether a step is a product that is computed as a sum of outer products."""
    return step.primitive.name == "dot_general" and not _large(step) and not any(step.params["dimension_numbers"][1])


def _joined(step: Step) -> bool:
    name = step.own.primitive.name
    return name in ENTRYWISE or name in _JOINED


def _step(step: Any, inputs: list[Array], lanes: int, calls: dict[int, Any]) -> list[Array] | None:
    """One step of a program for all lanes, if there is a rule for it."""
    name, how = step.primitive.name, step.params
    if name in _CALLS:
        inner = how[_CALLS[name]]
        run_inner = lambda *inputs: _run(inner, list(inputs), lanes, apart=True, called=True)
        return _called(calls.setdefault(id(inner), jax.jit(run_inner)), *inputs)
    if name in ENTRYWISE:
        return _bound(step, _of_one_shape(inputs))
    if name in _BY_AXIS:
        most = max(array.shape[-1] for array in inputs)
        return _bound(step, [jnp.broadcast_to(array, (*array.shape[:-1], most)) for array in inputs])
    if name in _BY_SHAPE:
        return [_BY_SHAPE[name](*inputs, **how)]
    if _written_out(step):
        a, b = (array.astype(step.outvars[0].aval.dtype) for array in inputs)
        return [_product(a, b, over=how["dimension_numbers"][0])]
    return None


def _called(function: Callable[..., Any], *arrays: Array) -> Any:
    """A function's value by a call in the compiled program.

    What is used in several places XLA otherwise fuses into each, and computes there again.
    """
    with set_xla_metadata(inlineable="false"):
        return function(*arrays)


def _bound(step: Any, inputs: list[Array]) -> list[Array]:
    outputs = step.primitive.bind(*inputs, **step.params)
    return list(outputs) if step.primitive.multiple_results else [outputs]


def _of_one_shape(arrays: list[Array]) -> list[Array]:
    """Arrays broadcast to one shape; a program may hold a number where it means an array of them."""
    rank = max(array.ndim for array in arrays)
    ranked = [array.reshape((1,) * (rank - array.ndim) + array.shape) for array in arrays]
    shape = jnp.broadcast_shapes(*[array.shape for array in ranked])
    return [jnp.broadcast_to(array, shape) for array in ranked]


def _broadcast(array: Array, *, shape: Any, broadcast_dimensions: Any, **_: Any) -> Array:
    return jax.lax.broadcast_in_dim(array, (*shape, array.shape[-1]), (*broadcast_dimensions, len(shape)))


def _reshape(array: Array, *, new_sizes: Any, dimensions: Any, **_: Any) -> Array:
    order = dimensions if dimensions is None else (*dimensions, array.ndim - 1)
    return jax.lax.reshape(array, (*new_sizes, array.shape[-1]), order)


def _transpose(array: Array, *, permutation: Any) -> Array:
    return array.transpose(*permutation, len(permutation))


def _slice(array: Array, *, start_indices: Any, limit_indices: Any, strides: Any) -> Array:
    steps = strides or (1,) * len(start_indices)
    return jax.lax.slice(array, (*start_indices, 0), (*limit_indices, array.shape[-1]), (*steps, 1))


# What gives its result a shape, of one array.
_BY_SHAPE: dict[str, Callable[..., Array]] = {
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "transpose": _transpose,
    "slice": _slice,
}


def _large(step: Any) -> bool:
    """Whether the entries of a product are sums of more terms than are worth writing out; a number's never are."""
    return bool(step.outvars[0].aval.shape) and not 0 < terms_in(step) <= FEW


def terms_in(step: Any) -> int:
    """Of how many terms the entries of a product are sums."""
    (over, _), _ = step.params["dimension_numbers"]
    return math.prod(step.invars[0].aval.shape[i] for i in over)


def _product(a: Array, b: Array, over: Any) -> Array:
    """The product of two arrays over some of their axes, as a sum of outer products."""
    (a, free_a), (b, free_b) = (_terms(array, axes) for array, axes in zip((a, b), over, strict=True))
    if not free_a + free_b:
        return jnp.sum(a * b, axis=0)
    a = a.reshape(*a.shape[:-1], *(1,) * free_b, a.shape[-1])
    b = b.reshape(b.shape[0], *(1,) * free_a, *b.shape[1:])
    return functools.reduce(jnp.add, [a[k] * b[k] for k in range(a.shape[0])])


def _terms(array: Array, over: Any) -> tuple[Array, int]:
    """An array with the axes that a product runs over as its first, in one, and how many are left."""
    front = jnp.moveaxis(array, over, range(len(over)))
    left = front.shape[len(over) :]
    return front.reshape(-1, *left), len(left) - 1


def _alone(jaxpr: Jaxpr, step: Any, inputs: list[Array], lanes: int) -> list[Array]:
    """A step without a rule: once, if all lanes share what it takes; else as `jax.vmap` does it, which is slower."""
    known = {atom: array for atom, array in zip(step.invars, inputs, strict=True) if isinstance(atom, Var)}
    values = list(known.values())
    function = functools.partial(run, part(jaxpr, known, [step], step.outvars))
    shared = [value.shape[-1] < lanes for value in values]
    plain = [value[..., 0] if s else value for value, s in zip(values, shared, strict=True)]
    if all(shared):
        return [out[..., None] for out in function(*plain)]
    if not (step.primitive.name in _LOOKS_UP and inputs[0].shape[-1] < lanes):
        _log.debug("`%s` has no rule for lanes as the last axis, so jax.vmap maps it", step.primitive.name)
    axes = [None if s else -1 for s in shared]
    return list(jax.vmap(function, in_axes=axes, out_axes=-1, axis_size=lanes)(*plain))
