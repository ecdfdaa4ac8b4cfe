"""A sweep on disk: a zarr 3 store of flat arrays by combination of static values and cell, chunk by chunk.

Of a chunk `status` is written last, and is the mark that the chunk is whole: a process may be killed between
any two files. Every file has a checksum, and is written even where it holds nothing but fill, so that one
that was lost is told from one that is empty.
"""

import math
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from layerflow._diagram import Variable
from layerflow.engine._grid import Grid
from layerflow.store._description import FORMAT, Description, grid_of, is_whole, sealed
from layerflow.store._place import Place

_DESCRIPTION = "layerflow"
_FLAT = ("combination", "cell")
CODECS = (ZstdCodec(level=1), Crc32cCodec())
_WHOLE_FILES = {"write_empty_chunks": True}

Chunk = tuple[int, int]  # combination of static values, and number of the chunk among its chunks


class Store:
    """The store at a place, which has to be there; see `create`.

    Args:
        place: Where it lies.
        read_only: Whether nothing may be written.

    Raises:
        FileNotFoundError: If there is no store.
        ValueError: If it is of a later version, or its description was damaged.
    """

    def __init__(self, place: Place, *, read_only: bool = True) -> None:
        self.place = place
        description = description_at(place)
        if not description:
            raise FileNotFoundError(f"There is no store of layerflow at {place}.")
        self.description: Description = description
        self.grid: Grid = grid_of(description)
        group: Any = zarr.open_group(place.zarr(read_only=read_only), mode="r" if read_only else "r+")
        self.arrays: dict[str, Any] = {name: group[name].with_config(_WHOLE_FILES) for name in description["variables"]}
        self.combinations, self.cells = self.arrays["status"].shape
        self.size = description["chunk"]

    @classmethod
    def create(cls, place: Place, description: Description, variables: dict[str, Variable], grid: Grid) -> "Store":
        """Make an empty store; its description comes last, as the mark that it is whole."""
        place.clear()  # of what an earlier making left that was cut off
        group = zarr.create_group(place.zarr(), attributes={_DESCRIPTION: None})
        shape = (math.prod(len(axis) for axis in grid.outer), grid.cells)
        for name, variable in variables.items():
            group.create_array(
                name,
                shape=shape + variable.shape,
                chunks=(1, description["chunk"], *variable.shape),
                dtype=variable.dtype,
                fill_value=variable.fill,
                compressors=CODECS,
                dimension_names=(*_FLAT, *variable.dims),
                attributes=variable.attrs,
            )
        group.attrs[_DESCRIPTION] = sealed(description | {"variables": list(variables)})
        return cls(place, read_only=False)

    @property
    def chunks(self) -> list[Chunk]:
        """All chunks, in order."""
        per_combination = math.ceil(self.cells / self.size)
        return [(number, chunk) for number in range(self.combinations) for chunk in range(per_combination)]

    def cells_of(self, chunk: Chunk) -> int:
        """How many cells a chunk has."""
        return min(self.size, self.cells - chunk[1] * self.size)

    def cells_in(self, chunk: Chunk) -> np.ndarray:
        """The cells of a chunk."""
        begin = chunk[1] * self.size
        return np.arange(begin, begin + self.cells_of(chunk))

    def done(self) -> set[Chunk]:
        """The chunks that were written to their end."""
        return self._written("status")

    def check(self) -> set[Chunk]:
        """The chunks that are done and can be read; those of which something was lost or flipped are undone."""
        done = self.done()
        bad = {chunk for name in self.arrays for chunk in done - self._written(name)}
        bad |= {chunk for chunk in done - bad if not self._reads(chunk)}
        for chunk in bad:
            self.place.remove(*self._file("status", chunk))
        return done - bad

    def is_done(self, chunk: Chunk) -> bool:
        """Whether this chunk was written to its end."""
        return self.place.exists(*self._file("status", chunk))

    def write(self, number: int, cells: np.ndarray, values: dict[str, Any]) -> None:
        """Write one chunk: what the diagram holds of its cells; padding beyond them is dropped."""
        begin, end = int(cells[0]), int(cells[-1]) + 1
        # A region that is no whole chunk would be read, changed and written back: two writers lose data.
        assert begin % self.size == 0
        assert end == min(begin + self.size, self.cells)
        for name in sorted(self.arrays, key=lambda name: name == "status"):
            own = np.asarray(values[name])[: len(cells)]
            self.arrays[name][number, begin:end] = own.astype(self.arrays[name].dtype)

    def read(self, name: str, chunk: Chunk) -> np.ndarray:
        """One variable in one chunk."""
        number, begin = chunk[0], chunk[1] * self.size
        return np.asarray(self.arrays[name][number, begin : begin + self.cells_of(chunk)])

    def _reads(self, chunk: Chunk) -> bool:
        try:
            for name in self.arrays:
                self.read(name, chunk)
        except OSError:  # the disk or the net, not the chunk
            raise
        except Exception:  # a checksum does not fit, or what it covers cannot be unpacked
            return False
        return True

    def _written(self, name: str) -> set[Chunk]:
        """The chunks of a variable of which there is a file."""
        parts = [file.split("/") for file in self.place.find(name, "c") if not file.endswith(".partial")]
        return {(int(number), int(chunk)) for number, chunk, *_ in parts}

    def _file(self, name: str, chunk: Chunk) -> tuple[str, ...]:
        """Where the file of a variable and a chunk lies."""
        return (name, "c", *map(str, chunk), *["0"] * (self.arrays[name].ndim - 2))


def description_at(place: Place) -> Description | None:
    """What the store at a place says of itself; None if there is none, nothing if its making was cut off."""
    try:
        group = zarr.open_group(place.zarr(read_only=True), mode="r")
    except FileNotFoundError:
        return None
    except ValueError as error:  # no JSON, or JSON of something else
        raise ValueError(f"The file zarr.json in {place} cannot be read: {error}") from error
    if _DESCRIPTION not in group.attrs:
        raise FileExistsError(f"The zarr group {place} is no store of layerflow. Name another folder.")
    description: Any = group.attrs[_DESCRIPTION]
    if description is None:
        return {}
    if not is_whole(description):
        raise ValueError(
            f"The description of the store {place}, in its zarr.json, was changed since it was written. Bring that "
            f"file back from a copy, or sweep into another folder."
        )
    if description["format"] > FORMAT:
        raise ValueError(f"The store {place} was written by a later version of layerflow. Update layerflow.")
    return dict(description)
