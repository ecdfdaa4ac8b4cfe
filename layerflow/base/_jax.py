"""What layerflow takes of JAX without JAX's promise to keep it.

Programs are jaxprs: they have `invars`, `outvars`, `constvars` and steps, `eqns`, each with a `primitive`, `params`,
`invars`, `outvars`, `effects` and a `ctx`. Who reads them imports from here, and `tests/test_inside_jax.py` says what
of it has moved.
"""

# ruff: noqa: F401, I001 - who reads programs takes them from here
# pyright: reportUnusedImport=false

from collections.abc import Iterable
from typing import Any

import jax

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
