"""Products of small matrices written out as sums of products, which a compiler fuses into what is around them.

XLA on CPU calls a library once for every product of two matrices, which costs more than such products
themselves; and in a batch it can neither fuse nor vectorise them.
"""

import functools
import operator
from typing import Any

import jax.extend.core as jec
import jax.numpy as jnp
from jaxtyping import Array

FEW = 3  # terms in each entry of a product: with more, what fuses is computed over and over


def evaluate(jaxpr: jec.Jaxpr, constants: list[Any], *arguments: Any) -> list[Any]:
    """What a traced function returns, its small products written out."""
    if not _has_small_products(jaxpr):
        return jec.jaxpr_as_fun(jec.ClosedJaxpr(jaxpr, constants))(*arguments)
    values: dict[jec.Var, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *arguments], strict=True))
    read = lambda atom: atom.val if isinstance(atom, jec.Literal) else values[atom]
    for step in jaxpr.eqns:
        inner = _inlined(step)
        if _is_small_product(step):
            outputs = [_written_out(*map(read, step.invars), step.params)]
        elif inner is not None:
            outputs = evaluate(inner.jaxpr, inner.consts, *map(read, step.invars))
        else:
            alone = jaxpr.replace(constvars=[], invars=list(values), outvars=step.outvars, eqns=[step])
            outputs = jec.jaxpr_as_fun(jec.ClosedJaxpr(alone, []))(*values.values())
        values |= zip(step.outvars, outputs, strict=True)
    return list(map(read, jaxpr.outvars))


def _inlined(step: Any) -> jec.ClosedJaxpr | None:
    """The program that a step merely calls."""
    return step.params["jaxpr"] if step.primitive.name in ("jit", "pjit") else None


@functools.cache
def _has_small_products(jaxpr: jec.Jaxpr) -> bool:
    called = [inner.jaxpr for inner in map(_inlined, jaxpr.eqns) if inner is not None]
    return any(map(_is_small_product, jaxpr.eqns)) or any(map(_has_small_products, called))


def _is_small_product(step: Any) -> bool:
    if step.primitive.name != "dot_general":
        return False
    ((left, _), (batch, _)) = step.params["dimension_numbers"]
    return len(left) == 1 and not batch and step.invars[0].aval.shape[left[0]] <= FEW


def _written_out(a: Array, b: Array, parameters: dict[str, Any]) -> Array:
    """sum_k a_ik b_kj, term by term."""
    (((of_a,), (of_b,)), _) = parameters["dimension_numbers"]
    dtype = parameters["preferred_element_type"] or jnp.result_type(a, b)
    a, b = jnp.moveaxis(jnp.asarray(a, dtype), of_a, 0), jnp.moveaxis(jnp.asarray(b, dtype), of_b, 0)
    spread = a.reshape(*a.shape, *[1] * (b.ndim - 1))
    wide = b.reshape(b.shape[0], *[1] * (a.ndim - 1), *b.shape[1:])
    return functools.reduce(operator.add, [spread[k] * wide[k] for k in range(a.shape[0])])
