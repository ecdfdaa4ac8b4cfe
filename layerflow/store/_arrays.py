"""The arrays of a store, opened and found to be what its description says, before anything of them is read."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, ZstdCodec

from layerflow.methods import Status
from layerflow.store._checked import sizes_of
from layerflow.store._place import Place

FLAT = ("combination", "cell")
CODECS = (ZstdCodec(level=1), Crc32cCodec())
_WHOLE_FILES = {"write_empty_chunks": True}
_MOST_BYTES = 2**60  # of an array: beyond any disk
_OWN = {  # type and fill of what is no observable, whose fill is NaN
    "status": ("uint8", int(Status.MISSING)),
    "num_steps": ("int32", 0),
    "end": ("float64", np.nan),
    "verified": ("bool", False),
}


def opened_group(place: Place, *parts: str, mode: Literal["r", "r+", "a"] = "r") -> Any:
    """A group of the store; mode "a" makes it where there is none.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If what is there cannot be read as one.
    """
    how: dict[str, Any] = {"path": "/".join(parts), "mode": mode, "use_consolidated": False}
    opening = lambda: zarr.open_group(place.zarr(read_only=mode == "r"), **how)
    return _in_words(opening, "/".join([*parts, "zarr.json"]), place)


def opened_arrays(place: Place, group: Any, description: Mapping[str, Any]) -> dict[str, Any]:
    """The array of every variable.

    Raises:
        ValueError: If one is missing, or is not of the shape, the chunks, the type and the codecs that the
            description asks for.
    """
    combinations, cells = sizes_of(description)
    sizes = dict.fromkeys([*_axes(description), *description["variables"], *FLAT], -1)  # no dimension is named so
    sizes |= {n: len(c["values"]) for n, c in description["coordinates"].items() if c["along"] == n and n not in sizes}
    arrays: dict[str, Any] = {}
    for name in description["variables"]:
        array = opened_array(place, group, name)
        own, dims = array.shape[2:], array.metadata.dimension_names or ()
        fits = array.shape[:2] == (combinations, cells) and array.chunks == (1, description["chunk"], *own)
        fits = fits and dims[:2] == FLAT and len(dims) == len(array.shape) and len(set(dims)) == len(dims)
        fits = fits and all(
            isinstance(dim, str) and sizes.get(dim, n) == n for dim, n in zip(dims[2:], own, strict=True)
        )
        dtype, fill = _kind_of(name, array.dtype, description["asked"])
        fits = fits and array.dtype == dtype and np.array_equal(array.fill_value, fill, equal_nan=True)
        if not fits:
            raise _unlike(place, name)
        sizes |= dict(zip(dims[2:], own, strict=True))
        arrays[name] = array.with_config(_WHOLE_FILES)
    return arrays


def _kind_of(name: str, dtype: Any, asked: Mapping[str, Any]) -> tuple[Any, Any]:
    """Type and fill of a variable; of an observable the type that it has."""
    if name in _OWN and (name != "verified" or asked["verify"]):
        return _OWN[name]
    # Codes are of what is followed beside a network; observables hold floating point numbers.
    return _OWN["status"] if dtype == np.uint8 else (dtype, np.nan)


def opened_array(place: Place, group: Any, name: str) -> Any:
    """An array of numbers that layerflow may have written, by its metadata; its shape is for others to judge."""
    array = _in_words(lambda: group[name], f"{name}/zarr.json", place)
    if not isinstance(array, zarr.Array) or array.metadata.zarr_format != 3:
        raise _unlike(place, name)
    codecs = tuple(map(type, array.metadata.codecs))
    encoding: Any = array.metadata.chunk_key_encoding
    fits = codecs == (BytesCodec, *map(type, CODECS)) and encoding.to_dict() == _ENCODING
    fits = (
        fits and array.dtype.kind in "biufc" and all(0 < c <= n for c, n in zip(array.chunks, array.shape, strict=True))
    )
    if not fits or math.prod(array.shape) * array.dtype.itemsize > _MOST_BYTES:
        raise _unlike(place, name)
    return array


_ENCODING = {"name": "default", "configuration": {"separator": "/"}}


def numbers_of(read: Callable[[], Any], what: str, mend: str) -> np.ndarray:
    """What reading an array gives; what the layers below raise of a damaged chunk is told in words."""
    try:
        return np.asarray(read())
    except (OSError, MemoryError):  # the disk, the net or the machine, not the chunk
        raise
    except Exception as error:  # a checksum does not fit, or what it covers cannot be unpacked
        raise ValueError(f"A chunk of {what} is damaged: {error}. {mend}") from error


def _axes(description: Mapping[str, Any]) -> list[str]:
    return [axis["name"] for axis in description["asked"]["axes"]]


def _in_words(opening: Callable[[], Any], file: str, place: Place) -> Any:
    """What opening gives; what zarr raises of metadata that are none is told in a line on the file."""
    try:
        opened = opening()
        dict(opened.metadata.attributes)
        return opened
    except (OSError, MemoryError):  # the disk or the net; FileNotFoundError among them
        raise
    except KeyError:
        raise ValueError(f"There is no array {file.removesuffix('/zarr.json')} in the store {place}. {_MEND}") from None
    except Exception as error:  # no JSON, JSON of something else, or numbers that cannot be
        said = f"{type(error).__name__}: {str(error)[:200].rstrip('.')}"
        raise ValueError(f"The file {file} in {place} cannot be read: {said}. {_MEND}") from error


_MEND = "Bring the store back from a copy, or sweep into another folder."


def _unlike(place: Place, name: str) -> ValueError:
    return ValueError(
        f"The array `{name}` of the store {place} is not one that layerflow writes: its zarr.json differs from the "
        f"description of the store in shape, chunks, type, names or codecs. {_MEND}"
    )
