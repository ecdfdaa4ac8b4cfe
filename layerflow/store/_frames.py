"""How much a chunk unpacks to, read off it before it is unpacked: zeros shrink to a part in thirty thousand."""

from typing import Any

from zarr.storage import WrapperStore

from layerflow.base._memory import check_room

_BEGIN = 18  # bytes, of which the header of a frame takes no more
_MAGIC = bytes.fromhex("28b52ffd")


class Bounded(WrapperStore[Any]):
    """A store of zarr whose chunks are refused if what they unpack to has no room in memory."""

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """What lies at a key."""
        found = await super().get(key, prototype, byte_range)
        if found is not None and "/c/" in key:
            size = unpacked_size(bytes(found.as_numpy_array()[:_BEGIN]))
            check_room(size, f"Unpacking the chunk {key} of the store", "It is not one that layerflow writes.")
        return found


def unpacked_size(frame: bytes) -> int:
    """What a zstd frame says that it unpacks to, in bytes (RFC 8878, section 3.1.1.1).

    Raises:
        ValueError: If it is none, or does not say so.
    """
    if len(frame) < 6 or not frame.startswith(_MAGIC):
        raise ValueError("it is no zstd frame")
    flags = frame[4]
    single = bool(flags & 32)
    begin = 5 + (not single) + (0, 1, 2, 4)[flags & 3]
    length = (int(single), 2, 4, 8)[flags >> 6]
    if length == 0:
        raise ValueError("its zstd frame does not say how much it unpacks to")
    return int.from_bytes(frame[begin : begin + length], "little") + (256 if length == 2 else 0)
