"""Programs as XLA compiled them: several at once, and the memory that each takes."""

import math
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from layerflow.base._jax import settings_of
from layerflow.base._numerics import undisturbed

_CACHE = "jax_compilation_cache_dir"

# Steps of a program one after the other: of a chunk most are short, and to hand them from thread to thread, as XLA
# does where it sees two to be done at once, took a twentieth of its time.
IN_SEQUENCE = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}


class Compiled(NamedTuple):
    """A compiled program.

    Attributes:
        call: The program itself.
        gives: Shapes and dtypes of what it gives.
        factorises: Whether it calls a matrix factorisation.
        bytes: What it takes while it runs.
    """

    call: Any
    gives: PyTree
    factorises: bool
    bytes: int


def compiled(lower: Mapping[str, Callable[[], Any]], factorises: dict[str, bool]) -> dict[str, Compiled]:
    """Lower programs in their order and compile them, each while the next is lowered.

    One after the other where a compile cache is kept: JAX was seen to crash when it wrote to one from other threads.

    Args:
        lower: What lowers each, by name.
        factorises: Which of them call a matrix factorisation.
    """
    compile_one = undisturbed()(_compile)
    with ThreadPoolExecutor(max(len(lower), 1)) as pool:
        alone = len(lower) == 1 or settings_of([_CACHE])[_CACHE] is not None
        lowered, made = {}, {}
        for name, one in lower.items():
            lowered[name] = one()
            made[name] = compile_one(lowered[name]) if alone else pool.submit(compile_one, lowered[name])
        calls = made if alone else {name: one.result() for name, one in made.items()}
    return {
        name: Compiled(call, lowered[name].out_info, factorises[name], working_set(call))
        for name, call in calls.items()
    }


def _compile(lowered: Any) -> Any:
    """Compile one; an XLA that does not know `IN_SEQUENCE` decides on its own."""
    try:
        return lowered.compile(IN_SEQUENCE)
    except jax.errors.JaxRuntimeError as error:
        if not any(option in str(error) for option in IN_SEQUENCE):
            raise
        return lowered.compile()


def working_set(program: Any) -> int:
    """Bytes that a compiled program takes while it runs."""
    sizes = program.memory_analysis()
    if sizes is None:  # not every backend tells
        return 0
    own = sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes
    return own - sizes.alias_size_in_bytes + _uncounted(program.as_text())


def _uncounted(text: str) -> int:
    """Bytes that a program, as XLA prints it, takes beside what its memory analysis counts.

    From jax 0.12 on, XLA hands some fusions on CPU to a library (YNNPACK) that allocates on its own: at most the
    largest array inside one of them, measured half of that.
    """
    called = re.findall(r"calls=%([\w.-]+),.*__ynn_fusion", text)
    bodies = (re.search(rf"^%{re.escape(name)} \(.*?^}}", text, re.MULTILINE | re.DOTALL) for name in called)
    inside = (array for body in bodies if body for array in _INSIDE.findall(body[0]))
    return max(
        (_width(kind) * math.prod(map(int, filter(None, sizes.split(",")))) for kind, sizes in inside), default=0
    )


# Arrays that the steps of a fusion give, but for its result; arguments and constants are counted.
_INSIDE = re.compile(r"^  %\S+ = (\w+)\[([\d,]*)\]\S* (?!parameter|constant)", re.MULTILINE)


def _width(kind: str) -> int:
    """Bytes of one number of a kind that XLA calls f64, bf16, pred and the like."""
    bits = re.search(r"\d+", kind)
    return max(1, int(bits[0]) // 8) if bits else 1


def bytes_of(shape: Any) -> int:
    """Bytes of an array of such shape and dtype."""
    return shape.size * (shape.dtype.itemsize if jnp.issubdtype(shape.dtype, jnp.number) else 16)
