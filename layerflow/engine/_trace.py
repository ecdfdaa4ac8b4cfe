"""Functions frozen as what JAX traced of them, so that programs are kept by content.

Two cell functions with the same text trace to the same jaxpr, wherever they were defined, and
arrays that a function closes over become arguments. So running a notebook cell again, or the
same sweep on other data of the same shape, finds its program already compiled.
"""

import dataclasses
import functools
import hashlib
import re
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.extend.core as jec
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from layerflow._checks import is_concrete


class Traced:
    """A function of arrays as traced; equal to another if they do the same."""

    def __init__(self, jaxpr: jec.Jaxpr, structure: Any) -> None:
        self.jaxpr = jaxpr
        self.structure = structure
        self.fingerprint = f"{_digest(jaxpr)} {structure}"

    def __call__(self, constants: list[Array], *arguments: PyTree) -> PyTree:
        """The function itself, on what it closed over and its arguments."""
        outputs = jec.jaxpr_as_fun(jec.ClosedJaxpr(self.jaxpr, constants))(*jax.tree.leaves(arguments))
        return jax.tree.unflatten(self.structure, map(jnp.asarray, outputs))  # literals come as NumPy's

    @property
    def outputs(self) -> PyTree:
        """Shapes and dtypes of what the function returns."""
        avals = [variable.aval for variable in self.jaxpr.outvars]
        return jax.tree.unflatten(self.structure, [jax.ShapeDtypeStruct(*_shape_and_dtype(aval)) for aval in avals])

    @functools.cached_property
    def factorises(self) -> bool:
        """Whether the function calls a matrix factorisation."""
        return _factorises(self.jaxpr)

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


@dataclasses.dataclass(frozen=True)
class Parts:
    """A function of a cell's values and key, taken apart by what its steps depend on.

    Attributes:
        share: (constants) -> what depends on neither, computed once.
        per_key: (shared, key) -> what depends on the key alone, computed once per key.
        per_cell: (shared, keyed, values, key) -> the flat outputs.
        varies: For each flat output, whether it depends on values or key.
        key_factorises, cell_factorises: Whether the parts call a matrix factorisation.
    """

    share: Callable[[list[Array]], list[Array]]
    per_key: Callable[[list[Array], PRNGKeyArray], list[Array]]
    per_cell: Callable[[list[Array], list[Array], PyTree, PRNGKeyArray], list[Array]]
    varies: list[bool]
    key_factorises: bool
    cell_factorises: bool

    @property
    def factorises(self) -> bool:
        """Whether any part that cells need does."""
        return self.key_factorises or self.cell_factorises

    def whole(self, shared: list[Array], values: PyTree, key: PRNGKeyArray) -> list[Array]:
        """The flat outputs of one cell."""
        return self.per_cell(shared, self.per_key(shared, key), values, key)


def split(traced: Traced) -> Parts:
    """Take a traced function of (values, key) apart; `key` is its last argument."""
    jaxpr = traced.jaxpr
    *own, key = jaxpr.invars
    level = dict.fromkeys(jaxpr.constvars, 0) | {key: 1} | dict.fromkeys(own, 2)
    depends = lambda variable: level[variable] if isinstance(variable, jec.Var) else 0
    steps: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
    for step in jaxpr.eqns:
        where = 2 if step.effects else max(map(depends, step.invars), default=0)
        steps[where].append(step)
        level |= dict.fromkeys(step.outvars, where)

    def handed_on(made: int, used_by: list[Any]) -> list[jec.Var]:
        """What steps of one level make and later ones, or the result, use."""
        used = [variable for step in used_by for variable in step.invars] + list(jaxpr.outvars)
        return list(dict.fromkeys(v for v in used if isinstance(v, jec.Var) and level[v] == made and v is not key))

    shared, keyed = handed_on(0, steps[1] + steps[2]), handed_on(1, steps[2])
    share = jaxpr.replace(invars=[], outvars=shared, eqns=steps[0])
    per_key = jaxpr.replace(constvars=shared, invars=[key], outvars=keyed, eqns=steps[1])
    per_cell = jaxpr.replace(constvars=shared + keyed, eqns=steps[2])
    call = lambda part, constants, *arguments: list(jec.jaxpr_as_fun(jec.ClosedJaxpr(part, constants))(*arguments))
    return Parts(
        share=lambda constants: call(share, constants),
        per_key=lambda shared, key: call(per_key, shared, key),
        per_cell=lambda shared, keyed, values, key: [
            jnp.asarray(out) for out in call(per_cell, shared + keyed, *jax.tree.leaves(values), key)
        ],
        varies=[depends(variable) > 0 for variable in jaxpr.outvars],
        key_factorises=_factorises(per_key),
        cell_factorises=_factorises(per_cell),
    )


_FACTORISATIONS = {
    "qr",
    "geqrf",
    "householder_product",
    "cholesky",
    "lu",
    "svd",
    "eigh",
    "eig",
    "schur",
    "hessenberg",
    "triangular_solve",
}


def _factorises(jaxpr: jec.Jaxpr) -> bool:
    """Whether a program calls a matrix factorisation, or something outside that may."""
    return any(
        step.primitive.name in _FACTORISATIONS
        or "custom_call" in step.primitive.name
        or "ffi" in step.primitive.name
        or any(_factorises(inner) for inner, _ in inner_programs(step))
        for step in jaxpr.eqns
    )


def inner_programs(step: Any) -> Iterator[tuple[jec.Jaxpr, list[Any]]]:
    """The programs that one step of a program runs, with what they closed over."""
    for value in step.params.values():
        for inner in jax.tree.leaves(value, is_leaf=lambda v: isinstance(v, jec.ClosedJaxpr | jec.Jaxpr)):
            if isinstance(inner, jec.ClosedJaxpr):
                yield inner.jaxpr, inner.consts
            elif isinstance(inner, jec.Jaxpr):
                yield inner, []


_digests: "weakref.WeakKeyDictionary[jec.Jaxpr, str]" = weakref.WeakKeyDictionary()


def _digest(jaxpr: jec.Jaxpr) -> str:
    """What a program does, the names of its variables aside.

    Jitted functions are traced once, so a program called twice is the same object and is read once.
    """
    if jaxpr not in _digests:
        _digests[jaxpr] = hashlib.sha256(b"\0".join(_words(jaxpr))).hexdigest()
    return _digests[jaxpr]


def _words(jaxpr: jec.Jaxpr) -> Iterator[bytes]:
    """The steps of a program one after the other, every variable by a number and its kind."""
    numbers: dict[jec.Var, int] = {}

    def atom(value: Any) -> bytes:
        if isinstance(value, jec.Literal):
            return b"%r %b" % (str(value.aval), np.asarray(value.val).tobytes())
        if value in numbers:
            return b"%d" % numbers[value]
        numbers[value] = len(numbers)
        return str(value.aval).encode()

    yield from map(atom, [*jaxpr.constvars, *jaxpr.invars])
    for step in jaxpr.eqns:
        yield step.primitive.name.encode()
        yield from map(atom, [*step.invars, *step.outvars])
        for name, value in sorted(step.params.items()):
            yield name.encode()
            # A Python function that the program calls back is told by identity, which is its own as long as
            # the jaxpr that holds it lives.
            back = "callback" in step.primitive.name and callable(value)
            yield repr(id(value)).encode() if back else _word(value)
    yield from map(atom, jaxpr.outvars)


def _word(value: Any) -> bytes:
    """A parameter of a step: a program by what it does and closed over, anything else by its text."""
    if isinstance(value, jec.ClosedJaxpr):
        return b"\0".join([_digest(value.jaxpr).encode(), *map(_bytes, value.consts)])
    if isinstance(value, jec.Jaxpr):
        return _digest(value).encode()
    if isinstance(value, tuple | list):
        return b"(%b)" % b",".join(map(_word, value))
    return re.sub(r" at 0x[0-9a-f]+", "", str(value)).encode()


def _shape_and_dtype(aval: Any) -> tuple[tuple[int, ...], Any]:
    return aval.shape, aval.dtype


def _bytes(constant: Any) -> bytes:
    if not is_concrete(constant):
        return repr(id(constant)).encode()
    if jnp.issubdtype(constant.dtype, jax.dtypes.prng_key):
        constant = jax.random.key_data(constant)
    return np.asarray(constant).tobytes()
