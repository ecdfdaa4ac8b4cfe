"""Where a sweep runs and with what means."""

import math
from dataclasses import dataclass

import jax
import numpy as np
import psutil

_CACHE_FRIENDLY = 512  # cells; measured on CPU, where a working set beyond the cache costs a factor of two


@dataclass(frozen=True)
class Machine:
    """Where a sweep runs and with what means; changes no result beyond the solver's tolerance.

    Args:
        memory: GiB that the computation may take, results apart; a quarter of what is free if
            not given.
        chunk: Cells per call of the compiled program; chosen from `memory` if not given.

    Raises:
        ValueError: If one is not positive.

    Example:
        >>> import layerflow as lf
        >>> small = lf.Machine(memory=0.5)
    """

    memory: float | None = None
    chunk: int | None = None

    def __post_init__(self) -> None:
        if self.memory is not None and not self.memory > 0:
            raise ValueError(f"Argument `memory` is in GiB and needs to be positive, but it is {self.memory}.")
        if self.chunk is not None and (not isinstance(self.chunk, int | np.integer) or self.chunk < 1):
            raise ValueError(
                f"Argument `chunk` counts cells and needs to be a positive whole number, not {self.chunk}."
            )

    def chunk_size(self, cells: int, bytes_per_cell: int) -> int:
        """Cells per call: even chunks that fit the memory and, on CPU, the cache."""
        if self.chunk is not None:
            return min(self.chunk, cells)
        most = max(1, int(self._budget() // bytes_per_cell))
        if jax.default_backend() == "cpu":
            most = min(most, _CACHE_FRIENDLY)
        return math.ceil(cells / math.ceil(cells / most))

    def check_results(self, size: int) -> None:
        """Raise if results of `size` bytes have no room in the host's memory."""
        free = psutil.virtual_memory().available
        if size > 0.8 * free:
            raise MemoryError(
                f"The diagram alone takes {size / 2**30:.1f} GiB, but {free / 2**30:.1f} GiB are free. "
                f"Take fewer cells, fewer `ts`, or observables of smaller shape."
            )

    def _budget(self) -> float:
        """Bytes that the computation may take."""
        if self.memory is not None:
            return self.memory * 2**30
        stats = jax.devices()[0].memory_stats() or {}
        free = stats.get("bytes_limit", 0) - stats.get("bytes_in_use", 0)
        return 0.25 * (free if free > 0 else psutil.virtual_memory().available)
