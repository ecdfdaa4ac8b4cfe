"""A sweep on disk: a zarr 3 store of flat arrays by combination of static values and cell, chunk by chunk.

Of a chunk `status` is written last, and is the mark that the chunk is whole: a process may be killed between
any two files. Every file has a checksum, and is written even where it holds nothing but fill, so that one
that was lost is told from one that is empty.
"""

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import zarr

from layerflow.base._memory import check_room
from layerflow.diagrams._variables import Variable
from layerflow.engine._grid import Grid
from layerflow.store._arrays import CODECS, FLAT, numbers_of, opened_arrays, opened_group
from layerflow.store._checked import Unlike, check_description, check_name
from layerflow.store._description import FORMAT, Description, grid_of, is_whole, sealed
from layerflow.store._place import Place

_DESCRIPTION = "layerflow"

Chunk = tuple[int, int]  # combination of static values, and number of the chunk among its chunks


class Store:
    """The store at a place, which has to be there; see `create`.

    Args:
        place: Where it lies.
        read_only: Whether nothing may be written.

    Raises:
        FileNotFoundError: If there is no store.
        ValueError: If it is of a later version, or its description or its arrays are not what layerflow writes.
    """

    def __init__(self, place: Place, *, read_only: bool = True) -> None:
        self.place = place
        description = description_at(place)
        if not description:
            raise FileNotFoundError(f"There is no store of layerflow at {place}.")
        self.description: Description = description
        self.grid: Grid = grid_of(description)
        self.arrays: dict[str, Any] = opened_arrays(
            place, opened_group(place, mode="r" if read_only else "r+"), description
        )
        self.combinations, self.cells = self.arrays["status"].shape
        self.size = description["chunk"]

    @classmethod
    def create(cls, place: Place, description: Description, variables: dict[str, Variable], grid: Grid) -> "Store":
        """Make an empty store; its description comes last, as the mark that it is whole."""
        try:
            for name in variables:
                check_name(name)
        except Unlike as wrong:
            raise ValueError(f"The store {place} cannot be made: {wrong}. Name what is measured otherwise.") from None
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
                dimension_names=(*FLAT, *variable.dims),
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

    def check_holds(self, variables: dict[str, Variable]) -> None:
        """Raise unless it has arrays for these variables, and for no others."""
        here = {name: (v.shape, v.dtype, v.dims) for name, v in variables.items()}
        there = {
            name: (array.shape[2:], array.dtype, array.metadata.dimension_names[2:])
            for name, array in self.arrays.items()
        }
        differing = sorted(name for name in {*here, *there} if here.get(name) != there.get(name))
        if differing:
            raise ValueError(
                f"The store {self.place} is of another sweep: its variable `{differing[0]}` is not that of this one, "
                f"in shape, type or dimensions. Name another folder for this one."
            )

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

    def check_there(self, name: str, chunk: Chunk) -> None:
        """Raise if a chunk was written to its end, but the file of a variable is gone."""
        if self.is_done(chunk) and not self.place.exists(*self._file(name, chunk)):
            file = "/".join(self._file(name, chunk))
            raise ValueError(
                f"A chunk of `{name}` in the store {self.place} is lost: there is no file {file}. Call the sweep "
                f"again: it finds such chunks and computes them anew."
            )

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
        self.check_room(name, 0)
        number, begin = chunk[0], chunk[1] * self.size
        return np.asarray(self.arrays[name][number, begin : begin + self.cells_of(chunk)])

    def numbers(self, name: str, read: Callable[[], Any]) -> np.ndarray:
        """What `read` gives of a variable; a damaged chunk is told in words."""
        mend = "Call the sweep again: it finds such chunks and computes them anew."
        return numbers_of(read, f"`{name}` in the store {self.place}", mend)

    def check_room(self, name: str, taken: int) -> None:
        """Raise if a chunk of a variable, and the bytes that are taken of it, have no room in memory."""
        array = self.arrays[name]
        check_room(
            math.prod(array.chunks) * array.dtype.itemsize + taken,
            f"Reading `{name}` of the store {self.place}",
            "Select a part of the diagram before its numbers are used.",
        )

    def _reads(self, chunk: Chunk) -> bool:
        try:
            for name in self.arrays:
                self.read(name, chunk)
        except (OSError, MemoryError):  # the disk, the net or the machine, not the chunk
            raise
        except Exception:  # a checksum does not fit, or what it covers cannot be unpacked
            return False
        return True

    def _written(self, name: str) -> set[Chunk]:
        """The chunks of a variable of which there is a file."""
        # Others may leave files of their own here, as those do that synchronise folders.
        file = re.compile("(0|[1-9][0-9]*)/(0|[1-9][0-9]*)" + "/0" * (self.arrays[name].ndim - 2))
        found = filter(None, map(file.fullmatch, self.place.find(name, "c")))
        chunks = ((int(match[1]), int(match[2])) for match in found)
        return {chunk for chunk in chunks if chunk[0] < self.combinations and chunk[1] * self.size < self.cells}

    def _file(self, name: str, chunk: Chunk) -> tuple[str, ...]:
        """Where the file of a variable and a chunk lies."""
        return (name, "c", *map(str, chunk), *["0"] * (self.arrays[name].ndim - 2))


def description_at(place: Place) -> Description | None:
    """What the store at a place says of itself; None if there is none, nothing if its making was cut off."""
    try:
        attrs = opened_group(place).attrs
    except FileNotFoundError:
        return None
    if _DESCRIPTION not in attrs:
        raise FileExistsError(f"The zarr group {place} is no store of layerflow. Name another folder.")
    description: Any = attrs[_DESCRIPTION]
    if description is None:
        return {}
    if not is_whole(description):
        raise ValueError(
            f"The description of the store {place}, in its zarr.json, was changed since it was written. Bring that "
            f"file back from a copy, or sweep into another folder."
        )
    check_description(place, description, FORMAT)
    return dict(description)
