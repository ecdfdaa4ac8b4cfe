"""Functions frozen as what JAX traced of them, so that programs are kept by content.

Two cell functions with the same text trace to the same jaxpr, wherever they were defined, and
arrays that a function closes over become arguments. So running a notebook cell again, or the
same sweep on other data of the same shape, finds its program already compiled.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.extend.core as jec
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from layerflow._checks import is_concrete


class Traced:
    """A function of arrays as traced; equal to another if their text is."""

    def __init__(self, jaxpr: jec.Jaxpr, structure: Any) -> None:
        self.jaxpr = jaxpr
        self.structure = structure
        text = re.sub(r" at 0x[0-9a-f]+", "", jaxpr.pretty_print(use_color=False, source_info=False))
        digest = hashlib.sha256(text.encode())
        for value in _hidden_values(jaxpr):
            digest.update(value)
        self.fingerprint = f"{digest.hexdigest()} {structure}"

    def __call__(self, constants: list[Array], *arguments: PyTree) -> PyTree:
        """The function itself, on what it closed over and its arguments."""
        outputs = jec.jaxpr_as_fun(jec.ClosedJaxpr(self.jaxpr, constants))(*jax.tree.leaves(arguments))
        return jax.tree.unflatten(self.structure, map(jnp.asarray, outputs))  # literals come as NumPy's

    @property
    def outputs(self) -> PyTree:
        """Shapes and dtypes of what the function returns."""
        avals = [variable.aval for variable in self.jaxpr.outvars]
        return jax.tree.unflatten(self.structure, [jax.ShapeDtypeStruct(*_shape_and_dtype(aval)) for aval in avals])

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Traced) and self.fingerprint == other.fingerprint


def trace(function: Callable[..., PyTree], *arguments: PyTree) -> tuple[Traced, list[Array]]:
    """Trace `function` at arguments like these; the arrays it closed over come apart.

    Args:
        function: Takes and returns PyTrees of arrays alone.
        *arguments: Arrays or `jax.ShapeDtypeStruct`.
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
    return Traced(closed.jaxpr, jax.tree.structure(shapes)), [jnp.asarray(constant) for constant in closed.consts]


def split(
    traced: Traced,
) -> tuple[Callable[[list[Array]], list[Array]], Callable[..., list[Array]], list[bool]]:
    """Take a function of a cell apart into what all cells share and what is each cell's own.

    Returns:
        A function of the constants that computes, once, all that depends on no argument; a
        function of those values and the arguments that gives the flat outputs; and, for each
        flat output, whether it depends on an argument.
    """
    jaxpr = traced.jaxpr
    own = set(jaxpr.invars)
    shared_steps, own_steps = [], []
    for step in jaxpr.eqns:
        if step.effects or any(isinstance(v, jec.Var) and v in own for v in step.invars):
            own_steps.append(step)
            own.update(step.outvars)
        else:
            shared_steps.append(step)
    made = {*jaxpr.constvars, *(v for step in shared_steps for v in step.outvars)}
    used = [*(v for step in own_steps for v in step.invars), *jaxpr.outvars]
    handed_on = list(dict.fromkeys(v for v in used if isinstance(v, jec.Var) and v in made))
    shared_part = jaxpr.replace(invars=[], outvars=handed_on, eqns=shared_steps)
    own_part = jaxpr.replace(constvars=handed_on, eqns=own_steps)

    def share(constants: list[Array]) -> list[Array]:
        return list(jec.jaxpr_as_fun(jec.ClosedJaxpr(shared_part, constants))())

    def build(shared: list[Array], *arguments: PyTree) -> list[Array]:
        outputs = jec.jaxpr_as_fun(jec.ClosedJaxpr(own_part, shared))(*jax.tree.leaves(arguments))
        return [jnp.asarray(output) for output in outputs]

    return share, build, [isinstance(v, jec.Var) and v in own for v in jaxpr.outvars]


def _hidden_values(jaxpr: jec.Jaxpr) -> Iterator[bytes]:
    """What stands in the program but not in its text.

    Arrays that inner jitted functions closed over, by value; Python functions that the program
    calls back, by identity, which is theirs as long as the jaxpr that holds them lives.
    """
    for step in jaxpr.eqns:
        for atom in step.invars:
            if isinstance(atom, jec.Literal) and np.ndim(atom.val) > 0:
                yield np.asarray(atom.val).tobytes()
        if "callback" in step.primitive.name:
            yield from (repr(id(value)).encode() for value in step.params.values() if callable(value))
        for value in step.params.values():
            for inner in jax.tree.leaves(value, is_leaf=lambda v: isinstance(v, jec.ClosedJaxpr | jec.Jaxpr)):
                if isinstance(inner, jec.ClosedJaxpr):
                    yield from (_bytes(constant) for constant in inner.consts)
                    yield from _hidden_values(inner.jaxpr)
                elif isinstance(inner, jec.Jaxpr):
                    yield from _hidden_values(inner)


def _shape_and_dtype(aval: Any) -> tuple[tuple[int, ...], Any]:
    return aval.shape, aval.dtype


def _bytes(constant: Any) -> bytes:
    if not is_concrete(constant):
        return repr(id(constant)).encode()
    if jnp.issubdtype(constant.dtype, jax.dtypes.prng_key):
        constant = jax.random.key_data(constant)
    return np.asarray(constant).tobytes()
