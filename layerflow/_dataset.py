"""The type of a diagram. Imported late, for xarray takes its time."""

import xarray

from layerflow import _card


class Diagram(xarray.Dataset):
    """An `xarray.Dataset` of which `print` shows a card: sizes, method, failures, steps, seconds, memory.

    Everything else, its `repr` and its table in a notebook too, is xarray's.
    """

    __slots__ = ()

    def __str__(self) -> str:
        """The card, or xarray's own text where a reduction or a selection left the facts behind."""
        whole = "chunk_bytes" in self.attrs and "status" in self and "num_steps" in self
        return _card.of_diagram(self) if whole and self["status"].dtype.kind == "u" else repr(self)
