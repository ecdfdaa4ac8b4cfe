"""Devices to compile for, none of which needs to be there."""

import importlib.util
import math
import os
import pathlib
from dataclasses import dataclass
from typing import Any

from benchmarks.accelerators.hlo import Load

WHEELS = {
    "cuda": {"jax_plugins.xla_cuda12": "jax-cuda12-plugin", "nvidia.cuda_nvcc": "nvidia-cuda-nvcc-cu12"},
    "tpu": {"libtpu": "libtpu"},
}
LAUNCH = 2.5e-6  # seconds that a GPU takes to start a kernel
# No accelerator is looked for, and nothing is asked of a cloud's servers.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
    "JAX_ENABLE_COMPILATION_CACHE": "false",  # what is found there is not compiled
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


@dataclass(frozen=True)
class Target:
    """A device to compile for.

    Attributes:
        name: What the command calls it.
        platform: "cuda" or "tpu".
        description: For XLA: of a GPU its properties, of a TPU the name of a topology.
        bandwidth: Of a GPU's memory, bytes a second.
        clock: Of a TPU, cycles a second.
        float64, float32: Of a GPU, operations a second.
    """

    name: str
    platform: str
    description: str
    bandwidth: float = math.inf
    clock: float = math.inf
    float64: float = math.inf
    float32: float = math.inf

    @property
    def missing(self) -> list[str]:
        """The packages that compiling for it needs and that are not installed."""
        return [package for module, package in WHEELS[self.platform].items() if not _installed(module)]

    def seconds(self, load: Load) -> float:
        """An estimate: of a GPU by launches and memory traffic, of a TPU, which launches nothing, by XLA's cycles."""
        if self.platform == "tpu":
            return load.cycles / self.clock
        return LAUNCH * load.launches + load.bytes / self.bandwidth

    def device(self) -> Any:
        """The device, as JAX compiles for it."""
        from jax.experimental import topologies

        how = {"target_config": self.description, "topology": "1x1x1"} if self.platform == "cuda" else {}
        name = self.description if self.platform == "tpu" else ""
        return topologies.get_topology_desc(name, self.platform, **how).devices[0]


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of what it is in
        return False


def ptxas() -> pathlib.Path:
    """NVIDIA's assembler, which says how many registers a kernel takes."""
    found = importlib.util.find_spec("nvidia.cuda_nvcc")
    assert found is not None
    (folder,) = found.submodule_search_locations or [os.devnull]
    return pathlib.Path(folder, "bin", "ptxas")


def _gpu(name: str, device: str, capability: int, bandwidth: float, **more: Any) -> Target:
    """A GPU by NVIDIA's data sheet, and by what CUDA says of such a device."""
    of = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "shared_memory_per_block": 49152,
        "threads_per_core_limit": 2048,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 65535,
        "block_dim_limit_z": 65535,
        "registers_per_core_limit": 65536,
        "registers_per_block_limit": 65536,
        "memory_bandwidth": int(bandwidth),
    }
    lines = "\n".join(f"  {key}: {value}" for key, value in (of | more).items())
    description = f"""
gpu_device_info {{
{lines}
  cuda_compute_capability {{ major: {capability} }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 7 }}
runtime_version {{ major: 12 minor: 8 patch: 0 }}
device_description_str: "{device}"
"""
    float32 = more["core_count"] * more["fpus_per_core"] * more["clock_rate_ghz"] * 1e9
    return Target(name, "cuda", description, bandwidth, float64=float32 / 2, float32=float32)


_HOPPER: dict[str, Any] = {
    "core_count": 132,
    "fpus_per_core": 128,
    "clock_rate_ghz": 1.98,
    "l2_cache_size": 50 * 2**20,
    "shared_memory_per_core": 228 * 2**10,
    "shared_memory_per_block_optin": 227 * 2**10,
}
TARGETS = {
    target.name: target
    for target in (
        _gpu("h200", "NVIDIA H200", 9, 4.8e12, device_memory_size=151 * 10**9, **_HOPPER),
        _gpu("h100", "NVIDIA H100 80GB HBM3", 9, 3.35e12, device_memory_size=85 * 10**9, **_HOPPER),
        _gpu(
            "a100",
            "NVIDIA A100-SXM4-80GB",
            8,
            2.04e12,
            core_count=108,
            fpus_per_core=64,
            clock_rate_ghz=1.41,
            l2_cache_size=40 * 2**20,
            shared_memory_per_core=164 * 2**10,
            shared_memory_per_block_optin=163 * 2**10,
            device_memory_size=85 * 10**9,
        ),
        Target("v5e", "tpu", "v5e:2x2", clock=1.5e9),
    )
}
