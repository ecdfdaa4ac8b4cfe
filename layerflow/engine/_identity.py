"""Identity is content: one digest for the cache of programs and for stores, equal across processes.

Two values have one digest only if they do the same to every number. What cannot be read so equals itself alone, in
this process: it is told apart from all else, and `Identity.strange` names it.
"""

import dataclasses
import os
from typing import Any

from layerflow.base._jax import settings_of
from layerflow.engine._reader import Lasting, Reader


@dataclasses.dataclass(frozen=True)
class Identity:
    """A digest, and what it could only tell by the very object."""

    digest: str
    strange: frozenset[str] = frozenset()  # without any, another process finds the same digest


def identity(*values: Any) -> Identity:
    """The identity of some values together."""
    reader = Reader()
    return Identity(reader.read(values).hex(), frozenset(reader.strange))


def lasting(*values: Any) -> str | None:
    """A digest of values that hold no array and do the same at each call; None of others."""
    reader = Lasting()
    found = reader.read((values, str(settings()), str(settings_of(_WHILE_TRACING)))).hex()
    return None if reader.own else found


def settings() -> dict[str, str]:
    """What of JAX's settings a number may depend on, as they are in this thread, and XLA's flags."""
    mute = ("--xla_dump", "--xla_force_host_platform_device_count")
    flags = " ".join(flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.startswith(mute))
    return {name: str(value) for name, value in settings_of(SETTINGS).items()} | {"XLA_FLAGS": flags}


_WHILE_TRACING = ("jax_numpy_dtype_promotion", "jax_numpy_rank_promotion", "jax_default_matmul_precision")
# fmt: off
SETTINGS = (
    "jax_accurate_erf_inv", "jax_allow_f16_reductions", "jax_bcoo_cusparse_lowering", "jax_compiler_enable_remat_pass",
    "jax_custom_jvp3", "jax_custom_vjp3", "jax_default_prng_impl", "jax_disable_most_optimizations",
    "jax_enable_custom_prng", "jax_enable_x64", "jax_exec_time_optimization_effort", "jax_explicit_x64_dtypes",
    "jax_high_dynamic_range_gumbel", "jax_legacy_prng_key", "jax_memory_fitting_effort", "jax_memory_fitting_level",
    "jax_optimization_level", "jax_pallas_use_mosaic_gpu", "jax_ragged_dot_use_gpu_pallas_triton_lowering",
    "jax_ragged_dot_use_ragged_dot_instruction", "jax_random_seed_offset", "jax_remat3", "jax_scan3",
    "jax_softmax_custom_jvp", "jax_threefry_gpu_kernel_lowering", "jax_threefry_partitionable",
    "jax_use_direct_linearize", "jax_use_hlo_logistic_lowering", "jax_use_magma", "jax_use_rgv3",
)
# fmt: on
