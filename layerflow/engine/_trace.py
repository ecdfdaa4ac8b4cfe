"""Functions frozen as what JAX traced of them, so that programs are kept by content.

Two cell functions with the same text trace to the same jaxpr, wherever they were defined, and
arrays that a function closes over become arguments. So running a notebook cell again, or the
same sweep on other data of the same shape, finds its program already compiled.
"""

import dataclasses
import functools
import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from layerflow.base._jax import Jaxpr, Var, jaxprs_in_params, lifted, opened, part, run
from layerflow.engine._identity import identity


class Traced:
    """A function of arrays as traced, equal to another if they do the same; holds none of the arrays it closed over.

    Attributes:
        jaxpr: Its steps, of what it closed over and its arguments.
        constants: How many arrays it closed over, or was given in front of its arguments.
        structure: Of what it returns.
        identity: What it does.
    """

    def __init__(self, jaxpr: Jaxpr, constants: int, structure: Any) -> None:
        self.jaxpr, self.constants, self.structure = jaxpr, constants, structure
        self.identity = identity(self.jaxpr, self.constants, structure)

    def __call__(self, constants: list[Array], *arguments: PyTree) -> PyTree:
        """The function itself, on what it closed over and its arguments."""
        outputs = run(self.jaxpr, *constants, *jax.tree.leaves(arguments))
        return jax.tree.unflatten(self.structure, map(jnp.asarray, outputs))  # literals come as NumPy's

    @property
    def arguments(self) -> list[jax.ShapeDtypeStruct]:
        """Shapes and dtypes of the leaves of its arguments."""
        return [_kind(variable.aval) for variable in self.jaxpr.invars[self.constants :]]

    @property
    def outputs(self) -> PyTree:
        """Shapes and dtypes of what the function returns."""
        return jax.tree.unflatten(self.structure, [_kind(variable.aval) for variable in self.jaxpr.outvars])

    @functools.cached_property
    def parts(self) -> "Parts":
        """Of a function of (values, key): what its steps depend on, one part for each."""
        return _split(self)

    @functools.cached_property
    def factorises(self) -> bool:
        """Whether the function calls a matrix factorisation."""
        return _factorises(self.jaxpr)

    @functools.cached_property
    def keys(self) -> frozenset[str]:
        """Kinds of random keys that it makes or draws by."""
        return _keys(self.jaxpr)

    def __hash__(self) -> int:
        return hash(self.identity)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Traced) and self.identity == other.identity


def trace(function: Callable[..., PyTree], *arguments: PyTree) -> tuple[Traced, list[Array]]:
    """Trace `function` at arguments like these; the arrays it closed over come apart.

    Args:
        function: Takes and returns PyTrees of arrays alone.
        *arguments: Arrays or `jax.ShapeDtypeStruct`.
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
    # With its arrays as arguments like any other: newer versions of JAX keep them in the jaxpr.
    traced = Traced(opened(closed), len(closed.consts), jax.tree.structure(shapes))
    return traced, [jnp.asarray(constant) for constant in closed.consts]


def trace_open(function: Callable[..., PyTree], given: PyTree, *arguments: PyTree) -> tuple[Traced, list[Any]]:
    """As `trace`, where all numbers come apart that the steps of the function do not make themselves.

    In front of the arguments are plain numbers of Python and NumPy that it closed over, then arrays, then the first
    argument, `given`; of these only the last is left to the caller.
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(given, *arguments)
    jaxpr, numbers = lifted(opened(closed))
    apart = [*numbers, *(jnp.asarray(constant) for constant in closed.consts)]
    return Traced(jaxpr, len(apart) + len(jax.tree.leaves(given)), jax.tree.structure(shapes)), apart


@dataclasses.dataclass(frozen=True)
class Parts:
    """A function of a cell's values and key, taken apart by what its steps depend on.

    Attributes:
        share: (constants) -> what depends on neither, computed once.
        per_key: (shared, key) -> what depends on the key alone, computed once per key.
        per_cell: (shared, keyed, values, key) -> the flat outputs.
        varies: For each flat output, whether it depends on values or key.
        key_factorises, cell_factorises: Whether the parts call a matrix factorisation.
        keys: Kinds of random keys that cells make or draw by.
    """

    share: Callable[[list[Array]], list[Array]]
    per_key: Callable[[list[Array], PRNGKeyArray], list[Array]]
    per_cell: Callable[[list[Array], list[Array], PyTree, PRNGKeyArray], list[Array]]
    varies: list[bool]
    key_factorises: bool
    cell_factorises: bool
    keys: frozenset[str]

    @property
    def factorises(self) -> bool:
        """Whether any part that cells need does."""
        return self.key_factorises or self.cell_factorises

    def whole(self, shared: list[Array], values: PyTree, key: PRNGKeyArray) -> list[Array]:
        """The flat outputs of one cell."""
        return self.per_cell(shared, self.per_key(shared, key), values, key)


def _split(traced: Traced) -> Parts:
    """Take a traced function of (values, key) apart; `key` is its last argument."""
    jaxpr = traced.jaxpr
    constants, (*own, key) = jaxpr.invars[: traced.constants], jaxpr.invars[traced.constants :]
    level = dict.fromkeys(constants, 0) | {key: 1} | dict.fromkeys(own, 2)
    depends = lambda variable: level[variable] if isinstance(variable, Var) else 0
    steps: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
    for step in jaxpr.eqns:
        where = 2 if step.effects else max(map(depends, step.invars), default=0)
        steps[where].append(step)
        level |= dict.fromkeys(step.outvars, where)

    def handed_on(made: int, used_by: list[Any]) -> list[Var]:
        """What steps of one level make and later ones, or the result, use."""
        used = [variable for step in used_by for variable in step.invars] + list(jaxpr.outvars)
        return list(dict.fromkeys(v for v in used if isinstance(v, Var) and level[v] == made and v is not key))

    shared, keyed = handed_on(0, steps[1] + steps[2]), handed_on(1, steps[2])
    share = part(jaxpr, constants, steps[0], shared)
    per_key = part(jaxpr, [*shared, key], steps[1], keyed)
    per_cell = part(jaxpr, [*shared, *keyed, *own, key], steps[2], jaxpr.outvars)
    return Parts(
        share=lambda constants: run(share, *constants),
        per_key=lambda shared, key: run(per_key, *shared, key),
        per_cell=lambda shared, keyed, values, key: [
            jnp.asarray(out) for out in run(per_cell, *shared, *keyed, *jax.tree.leaves(values), key)
        ],
        varies=[depends(variable) > 0 for variable in jaxpr.outvars],
        key_factorises=_factorises(per_key),
        cell_factorises=_factorises(per_cell),
        keys=_keys(per_key) | _keys(per_cell),
    )


# fmt: off
_FACTORISATIONS = {
    "qr", "geqrf", "householder_product", "cholesky", "lu", "svd", "eigh", "eig", "schur", "hessenberg",
    "triangular_solve",
}
# fmt: on


def _factorises(jaxpr: Jaxpr) -> bool:
    """Whether a program calls a matrix factorisation, or something outside that may."""
    return any(
        step.primitive.name in _FACTORISATIONS
        or "custom_call" in step.primitive.name
        or "ffi" in step.primitive.name
        or any(_factorises(inner) for inner in jaxprs_in_params(step.params))
        for step in jaxpr.eqns
    )


def _keys(jaxpr: Jaxpr) -> frozenset[str]:
    """Kinds of random keys in the steps of a program."""
    if jaxpr not in _key_kinds:
        avals: list[Any] = [atom.aval for step in jaxpr.eqns for atom in (*step.invars, *step.outvars)]
        dtypes = {aval.dtype for aval in avals if hasattr(aval, "dtype")}
        own = frozenset(str(dtype) for dtype in dtypes if jnp.issubdtype(dtype, jax.dtypes.prng_key))
        _key_kinds[jaxpr] = own.union(*(_keys(inner) for step in jaxpr.eqns for inner in jaxprs_in_params(step.params)))
    return _key_kinds[jaxpr]


_key_kinds: "weakref.WeakKeyDictionary[Jaxpr, frozenset[str]]" = weakref.WeakKeyDictionary()


def _kind(aval: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype)
