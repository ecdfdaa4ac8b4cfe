"""What layerflow takes of JAX without JAX's promise to keep it.

Programs are jaxprs: they have `invars`, `outvars`, `constvars` and steps, `eqns`, each with a `primitive`, `params`,
`invars`, `outvars`, `effects` and a `ctx`. Who reads them imports from here, and `tests/test_inside_jax.py` says what
of it has moved.
"""

# ruff: noqa: F401, I001 - who reads programs takes them from here
# pyright: reportUnusedImport=false

import functools
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

try:
    from jax._src.core import no_axis_name
    from jax._src.custom_batching import ClosedRule
    from jax._src.linear_util import EqualStore, Store
    from jax._src.named_sharding import UnspecifiedValue
    from jax.core import AbstractValue, Trace, Tracer
    from jax.experimental.xla_metadata import set_xla_metadata
    from jax.extend.core import ClosedJaxpr, DebugInfo, Jaxpr, Literal, TraceTag, Var
    from jax.extend.core import get_opaque_trace_state, jaxpr_as_fun, jaxprs_in_params
    from jax.extend.linear_util import WrappedFun
except ImportError as error:
    raise ImportError(
        f"layerflow needs what jax {jax.__version__} does not have, or has elsewhere: {error}. Install an older JAX or "
        f"a newer layerflow; who mends it begins in layerflow/base/_jax.py."
    ) from error

# What JAX notes while it traces, which no number depends on.
NOTES = (Trace, TraceTag, DebugInfo, Var, Store, EqualStore)


def opened(closed: ClosedJaxpr) -> Jaxpr:
    """A program with the arrays that it closed over as its first arguments."""
    own = closed.jaxpr
    return own.replace(constvars=[], invars=[*own.constvars, *own.invars])


def lifted(jaxpr: Jaxpr) -> tuple[Jaxpr, list[Any]]:
    """A program with the numbers that stand in its own steps as its first arguments, and these numbers.

    Those in programs inside it, as of loops, stay where they are, and so do truth values.
    """

    def is_number(atom: Any) -> bool:
        aval: Any = atom.aval
        return isinstance(atom, Literal) and np.dtype(aval.dtype).kind in "iufc"

    rows = [*(step.invars for step in jaxpr.eqns), jaxpr.outvars]
    found: list[Any] = [atom for row in rows for atom in row if is_number(atom)]
    fresh = _variables(tuple((one.aval.dtype, one.aval.weak_type) for one in found))
    left = iter(fresh)
    swap = lambda row: [next(left) if is_number(atom) else atom for atom in row]
    steps = [
        step.replace(invars=swap(step.invars)) if any(map(is_number, step.invars)) else step for step in jaxpr.eqns
    ]
    whole = jaxpr.replace(eqns=steps, invars=[*fresh, *jaxpr.invars], outvars=swap(jaxpr.outvars))
    return whole, [np.asarray(one.val, one.aval.dtype) for one in found]


@functools.lru_cache(maxsize=1024)
def _variables(kinds: tuple[tuple[Any, bool], ...]) -> list[Var]:
    """Variables for plain numbers; programs may share them, for each has names of its own."""
    like = [jax.ShapeDtypeStruct((), dtype, weak_type=weak) for dtype, weak in kinds]
    return jax.make_jaxpr(lambda *numbers: numbers)(*like).jaxpr.invars


def part(jaxpr: Jaxpr, inputs: Iterable[Var], steps: list[Any], outputs: Iterable[Any]) -> Jaxpr:
    """Some steps of a program, as a program of its own."""
    return jaxpr.replace(constvars=[], invars=list(inputs), eqns=steps, outvars=list(outputs))


def run(jaxpr: Jaxpr, *arguments: Any) -> list[Any]:
    """What a program without constants gives."""
    return list(jaxpr_as_fun(ClosedJaxpr(jaxpr, []))(*arguments))


def settings_of(names: Iterable[str]) -> dict[str, Any]:
    """Those of JAX's settings that there are in this version, as they are in this thread."""
    values = jax.config.values
    return {name: getattr(jax.config, name, values[name]) for name in names if name in values}
