"""Arguments of what SciPy computes of known numbers: no compiling, mapping or differentiating."""

import jax
import numpy as np
from jaxtyping import ArrayLike

from layerflow.base._checks import is_concrete
from layerflow.theory._arguments import finite


def known(what: str, **values: ArrayLike) -> list[np.ndarray]:
    """The arguments in double precision, or an error where a transformation of JAX's traces one."""
    for name, value in values.items():
        if not is_concrete(value):
            raise TypeError(
                f"{what} is computed by SciPy of known numbers, but argument `{name}` is traced by jax.jit, jax.vmap, "
                f"jax.grad or a sweep. Compute it outside and hand the result in."
            )
    with jax.ensure_compile_time_eval():
        for name, value in values.items():
            finite(value, name)
    # What comes, and not what JAX makes of it, which without jax_enable_x64 has half the digits.
    return [np.asarray(value, np.float64) for value in values.values()]
