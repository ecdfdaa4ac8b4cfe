"""Words for what a diagram says of itself, for its card and for its paragraph in a paper."""

from typing import TYPE_CHECKING, Any

import numpy as np

from layerflow.diagrams._array import has_failed
from layerflow.methods import METHODS, Status

if TYPE_CHECKING:
    import xarray


def method_in_words(facts: dict[str, Any]) -> str:
    """How the cells were solved, from the facts of a diagram."""
    return METHODS[facts["method"]].in_words(facts)


def settings_in_words(facts: dict[str, Any]) -> list[str]:
    """What else of the method decides numbers, as far as it is not as usual."""
    return METHODS[facts["method"]].settings_in_words(facts)


def stopped_early(diagram: "xarray.Dataset") -> str:
    """How many cells met `until`, how the others ended, and when the median cell stopped; nothing if none met it."""
    status = diagram["status"].values
    if "end" not in diagram or not (status == Status.CONVERGED).any():
        return ""
    there = ~has_failed(status) & (status != Status.MISSING)
    met, others = status == Status.CONVERGED, _by_status(status[there & (status != Status.CONVERGED)])
    told = f" ({others})" if others else ""
    median = np.median(diagram["end"].values[there])
    return f"{met.sum():,} of {status.size:,} cells met `until`{told}, the median cell stopped at t = {median:.4g}"


def ends(axis: "xarray.DataArray") -> str:
    """From where to where an axis runs."""
    number = lambda value: f"{value:g}" if isinstance(value, int | float | np.number) else str(value)
    first, last = number(axis.values[0]), number(axis.values[-1])
    return first if axis.size == 1 else f"{first} to {last}"


def followed_failures(diagram: "xarray.Dataset") -> str:
    """What is followed beside networks and failed there, which fails no cell; nothing if all went well."""
    followed = [one for one in diagram.data_vars.values() if {"flag_meanings", "of"} <= one.attrs.keys()]
    said = {one.attrs["of"]: one.values for one in followed}
    return ", ".join(f"{name} {failures_in_words(status)}" for name, status in said.items() if has_failed(status).any())


def failures_in_words(status: np.ndarray) -> str:
    """How many cells failed, and how."""
    failed = status[has_failed(status)]
    return f"{failed.size} failed" + (f" ({_by_status(failed)})" if failed.size else "")


def _by_status(status: np.ndarray) -> str:
    """How many cells ended in each way."""
    codes, counts = np.unique(status, return_counts=True)
    return ", ".join(f"{n} {Status(int(code)).name.lower()}" for code, n in zip(codes, counts, strict=True))


def in_bytes(size: int) -> str:
    """A size with the unit that suits it."""
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    power = min(int(np.log2(max(size, 1)) // 10), len(units) - 1)
    return f"{size / 2 ** (10 * power):.3g} {units[power]}"
