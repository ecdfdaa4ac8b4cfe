"""Where a sweep runs and with what means."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from layerflow.base._checks import whole
from layerflow.base._jax import settings_of
from layerflow.base._memory import free_memory

if TYPE_CHECKING:  # to type checkers `jax.Device` is no type
    Device = Any
else:
    Device = jax.Device

_SIDE_BY_SIDE = 512  # cells of one call on CPU that are not in lanes: beyond the cache they cost a factor of two
_ONE_PASS_BYTES = 2**22  # on CPU, what cells beyond that number may hold if they are passed over once
_LANES = 256  # on CPU, of small networks: fewer pay more for each operation, more leave the cache
_LANE_BYTES = 2**20  # on CPU, what all lanes of larger networks may hold
_FEWEST_LANES = 16
_LANES_ON = {"gpu": 2**16, "tpu": 2**14}  # what an H200 holds of small networks at once, and a v5e of larger ones
_CHUNKS_PER_DEVICE = 4  # at least, unless the user names the devices
_FEW = 64  # cells side by side, below which a step takes nearly as long for fewer
_LIGHT_BYTES = 2**12  # of cells that cost as much by the dozen as alone
_FILLED_BYTES = 2**28  # of a chunk, beyond which it is filled by an eighth at most
_CELLS_PER_LANE = 16  # of a chunk: at its end lanes run dry, and at its end a sweep tells how far it came


class Plan(NamedTuple):
    """How a chunk is computed: how many cells it has and, of a flow, how many step side by side.

    One that is `filled` serves sweeps of other numbers of cells and seeds too: what fills a chunk up beyond its cells
    is left out where that can be, and there is room for more seeds than there are.
    """

    size: int
    lanes: int | None
    filled: bool = False
    platform: str = "cpu"  # of the device that it is compiled for; set there

    @classmethod
    def of(cls, size: int, lanes: int | None, filled: bool = False) -> "Plan":
        """A plan with no more lanes than cells."""
        return cls(size, None if lanes is None else min(lanes, size), filled)

    def room(self, seeds: int) -> int:
        """How many seeds a chunk has room for, where a sweep has so many."""
        return min(self.size, room_for(seeds) if self.filled else seeds)


def room_for(seeds: int) -> int:
    """The power of four that so many seeds fill."""
    return 4 ** max(1, math.ceil(math.log(seeds, 4) - 1e-9))


def power_of_two(least: int) -> int:
    """The power of two that so many fill."""
    return 2 ** (least - 1).bit_length()


def _nearly(cells: int, most: int) -> int:
    """The size of even chunks of at most so many cells, filled by an eighth at most."""
    even = math.ceil(cells / math.ceil(cells / most))
    step = max(1, power_of_two(even) // 16)
    return math.ceil(even / step) * step


@dataclass(frozen=True)
class Machine:
    """Where a sweep runs and with what means; changes no result beyond the solver's tolerance.

    Args:
        devices: JAX devices to use, or how many of the local ones; all local devices if not given.
        memory: GiB that the computation may take on each device, results apart; a quarter of what
            is free, shared by the devices of a CPU, if not given.
        chunk: Cells per call of the compiled program; chosen from `memory` if not given.
        lanes: Trajectories of a flow that step side by side; chosen for the device if not given.
        client: A `dask.distributed.Client` whose workers compute the chunks of a sweep with `store=`, in place
            of the devices of this process; one worker process for each device.

    Raises:
        ValueError: If a size is not positive, or there is no such device.
        TypeError: If `devices` are no devices, or `client` is no client.

    Example:
        >>> import layerflow as lf
        >>> small = lf.Machine(memory=0.5, devices=1)
    """

    devices: Sequence[Device] | int | None = None
    memory: float | None = None
    chunk: int | None = None
    lanes: int | None = None
    client: Any = None

    def __post_init__(self) -> None:
        number = isinstance(self.memory, int | float | np.number) and not isinstance(self.memory, bool)
        if self.memory is not None and not (number and self.memory > 0):
            raise ValueError(
                f"Argument `memory` is in GiB and needs to be a positive number, but it is {self.memory!r}."
            )
        for name, counted in (("chunk", "cells"), ("lanes", "trajectories")):
            value = getattr(self, name)
            if value is not None and (not whole(value) or value < 1):
                raise ValueError(
                    f"Argument `{name}` counts {counted} and needs to be a positive whole number, not {value!r}."
                )
        self.local_devices()
        if self.client is not None:
            self._check_client()

    def _check_client(self) -> None:
        try:
            from distributed import Client
        except ImportError as error:
            raise ImportError('A cluster needs dask.distributed: pip install "layerflow[cluster]".') from error
        if not isinstance(self.client, Client) or self.client.asynchronous:
            raise TypeError(
                f"Argument `client` needs a dask.distributed.Client, not asynchronous, but it is {self.client!r}."
            )
        if self.devices is not None:
            raise TypeError("Arguments `devices` and `client` exclude one another: workers have devices of their own.")

    def local_devices(self) -> list[Device]:
        """The devices to use."""
        local = jax.local_devices()
        if self.devices is None:
            return local
        if isinstance(self.devices, int | np.integer) and not isinstance(self.devices, bool):
            if self.devices < 1:
                raise ValueError(f"Argument `devices` counts devices: at least 1, not {self.devices}.")
            if self.devices > len(local):
                raise ValueError(
                    f"Argument `devices` asks for {self.devices} devices, but there are {len(local)}: {local}. To "
                    f'split a CPU, set jax.config.update("jax_num_cpu_devices", 2) before anything is computed.'
                )
            return local[: self.devices]
        chosen = list(self.devices) if isinstance(self.devices, list | tuple) else [self.devices]
        if not chosen or len(set(chosen)) < len(chosen) or not all(isinstance(d, jax.Device) for d in chosen):
            raise TypeError(
                f"Argument `devices` needs JAX devices, each once, such as jax.devices()[:1], or how many, not "
                f"{self.devices!r}."
            )
        return chosen

    def lanes_of(self, bytes_per_lane: int) -> int:
        """Trajectories that step side by side: what fits the cache on CPU, many elsewhere."""
        if self.lanes is not None:
            return self.lanes
        if self._on_cpu:
            return min(_LANES, max(_FEWEST_LANES, 2 ** int(math.log2(max(_LANE_BYTES / bytes_per_lane, 1)))))
        return lanes_on(self.local_devices()[0].platform)

    def chunk_size(self, cells: int, bytes_per_cell: int | float, lanes: int | None, steps: bool = True) -> int:
        """Cells per call: even chunks that fit the memory and, on CPU, the cache, which matters more with `steps`."""
        if self.chunk is not None:
            return min(self.chunk, cells)
        return math.ceil(cells / math.ceil(cells / self._most(bytes_per_cell, lanes, steps)))

    def filled(
        self, cells: int, seeds: int, bytes_per_cell: int | float, lanes: int | None, steps: bool = True
    ) -> Plan:
        """A plan of one of a few sizes, for each is compiled anew; exact where filling would cost more than a fifth.

        The same for another number of cells nearby, and for a few seeds in place of one.
        """
        most = 2 ** int(math.log2(self._most(bytes_per_cell, lanes, steps)))
        each, room = power_of_two(math.ceil(cells / seeds)), room_for(seeds)
        if lanes is None:  # filling is computed like any cell
            if bytes_per_cell > _LIGHT_BYTES:
                return Plan(_nearly(cells, most), None, filled=True)
            if steps:  # and takes its time at each of them; so does each chunk, but little
                some = math.ceil(cells / seeds) * max(1, power_of_two(seeds) // 4)
                return Plan(max(_nearly(some, most), min(power_of_two(some), _FEW), _FEW // 2), None, filled=True)
            return Plan(min(most, max(each * room // 4, _SIDE_BY_SIDE // 4)), None, filled=True)
        if cells < lanes <= _FEWEST_LANES:  # each lane takes its time, whether there is a cell in it or not
            return Plan(cells, cells, filled=True)
        size = min(most, max(each * room, lanes))
        if size * bytes_per_cell > _FILLED_BYTES:  # of room for times, which takes its time to make
            size = _nearly(cells, most)
        return Plan.of(size, lanes if self.lanes is not None else min(lanes, max(size, lanes) // 4), filled=True)

    def _most(self, bytes_per_cell: int | float, lanes: int | None, steps: bool) -> int:
        """The most cells of one call."""
        most = max(1, int(self.budget() // bytes_per_cell))
        if self._on_cpu:
            few = _SIDE_BY_SIDE if steps else max(_SIDE_BY_SIDE, int(_ONE_PASS_BYTES // bytes_per_cell))
            most = min(most, few if lanes is None else _CELLS_PER_LANE * lanes)
        return most

    def devices_for(self, cells: int, size: int) -> list[Device]:
        """The devices that chunks of this size keep busy for longer than it takes to compile for them."""
        calls = math.ceil(cells / size)
        return self.local_devices()[: calls if self.devices is not None else math.ceil(calls / _CHUNKS_PER_DEVICE)]

    def check_results(self, size: int) -> None:
        """Raise if results of `size` bytes have no room in the host's memory."""
        free = free_memory()
        if size > 0.8 * free:
            raise MemoryError(
                f"The diagram alone takes {size / 2**30:.1f} GiB, but {free / 2**30:.1f} GiB are free. "
                f"Take fewer cells, fewer `ts`, or observables of smaller shape."
            )

    def budget(self) -> int | float:
        """Bytes that the computation may take on each device."""
        if self.memory is not None:
            return self.memory * 2**30
        devices = self.local_devices()
        stats = devices[0].memory_stats() or {}
        free = stats.get("bytes_limit", 0) - stats.get("bytes_in_use", 0)
        return 0.25 * (free if free > 0 else free_memory() / len(devices))

    @property
    def _on_cpu(self) -> bool:
        return self.local_devices()[0].platform == "cpu"


def lanes_on(platform: str) -> int:
    """How many trajectories step side by side on an accelerator; counted, not measured."""
    return _LANES_ON.get(platform, _LANES_ON["tpu"])


def default_device() -> Device:
    """Where JAX computes unless told otherwise."""
    (chosen,) = settings_of(["jax_default_device"]).values()  # a device, the name of a platform, or None
    return chosen if isinstance(chosen, jax.Device) else jax.local_devices(backend=chosen)[0]


def check_float64(dtype: Any, device: Device, emulated: bool) -> None:
    """Say what float64 costs where it is emulated; raise if XLA compiles nothing of that for a method."""
    if device.platform != "tpu" or dtype != np.float64:
        return
    way_out = (
        'Turn float64 off before anything is computed, jax.config.update("jax_enable_x64", False), or compute on the '
        'CPU: on=lf.Machine(devices=jax.devices("cpu")).'
    )
    if not emulated:
        raise ValueError(f"A TPU has no float64, and XLA does not compile this method for what emulates it. {way_out}")
    warnings.warn(
        "A TPU has no float64. What emulates it takes five to seven times the operations of a step in float32, as "
        f"counted for small networks. {way_out}",
        stacklevel=2,
    )
