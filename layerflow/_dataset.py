"""The type of a diagram, and the card it shows. Imported late, for xarray takes its time."""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray

from layerflow import _accessor as _accessor  # noqa: PLC0414  where there are diagrams, there is diagram.lf
from layerflow._card import Card
from layerflow._failures import has_failed, status_of
from layerflow._rebuilt import asked_again
from layerflow.methods import Status

_USUAL_STEPS = 100_000  # of a cell at most, unless given


class Diagram(xarray.Dataset):
    """An `xarray.Dataset` of which `print` shows a card: sizes, method, failures, steps, seconds, memory.

    Everything else, its `repr` and its table in a notebook too, is xarray's.
    """

    __slots__ = ()

    def _binary_op(self, other: Any, f: Any, *how: Any, **named: Any) -> Any:
        """What arithmetic makes of a diagram: its `status` is no code any more, and does not look like one."""
        found: Any = super()._binary_op(other, f, *how, **named)
        if isinstance(found, xarray.Dataset) and "status" in found and found["status"].dtype.kind in "iu":
            found["status"] = found["status"].astype(float)
        return found

    @property
    def failed(self) -> xarray.DataArray:
        """Whether each cell failed, a Boolean per cell."""
        return failed_of(self)

    def __str__(self) -> str:
        """The card, or xarray's own text where the facts are no longer there, or no longer those of all cells."""
        try:
            return str(card_of(self)) if _says_all(self) else repr(self)
        except ValueError:  # put together from several sweeps
            return repr(self)


def failed_of(diagram: xarray.Dataset) -> xarray.DataArray:
    """Whether each cell failed, by its status; those that are missing or stopped at their tolerance did not."""
    status = status_of(diagram)
    return xarray.DataArray(has_failed(status.values), status.coords, status.dims, "failed")


def _says_all(diagram: xarray.Dataset) -> bool:
    """Whether a diagram, whole or in part, still has all that a card tells."""
    whole = "chunk_bytes" in diagram.attrs and "status" in diagram and "num_steps" in diagram
    return whole and diagram["status"].dtype in (np.uint8, np.int8)  # the latter in a netCDF file


def card_of(diagram: xarray.Dataset) -> Card:
    """The card of a diagram, whole or in part."""
    attrs, status = diagram.attrs, status_of(diagram)
    if not _says_all(diagram):
        raise ValueError(
            "The diagram does not say how it was made, as computing with it takes its `attrs` away. Ask for the card "
            "of what lf.sweep or lf.open_diagram returned, or of a selection of it."
        )
    if "asked" in attrs:
        asked_again(diagram)  # raises where the facts are not those of all cells
    if status.size == 0:
        return Card(f"Diagram of `{attrs['title']}`: no cells", ())
    sizes = " x ".join(f"{size} {name}" for name, size in status.sizes.items())
    lines = [
        ("axes", ", ".join(map(_range, (diagram[name] for name in status.dims if name in diagram.coords)))),
        ("measured", ", ".join(_measured(diagram))),
        ("method", method_in_words(attrs)),
        ("settings", ", ".join(settings_in_words(attrs))),
        ("cells", _cells(status.values)),
        ("beside", followed_failures(diagram)),
        ("stopped", stopped_early(diagram)),
        ("verified", _verified(diagram)),
        (
            "steps",
            f"{np.median(diagram['num_steps']):.0f} in the median cell, {int(diagram['num_steps'].max())} at most",
        ),
        (
            "seconds",
            f"{attrs['wall_seconds']:.2f}, of which {attrs['compile_seconds']:.2f} for compiling, for the whole sweep",
        ),
        ("memory", f"{_in_bytes(diagram.nbytes)} of results, {_in_bytes(attrs['chunk_bytes'])} to compute a chunk"),
        ("made", f"{attrs['dtype']} on {attrs['device']}, layerflow {attrs['layerflow_version']}, {attrs['created']}"),
    ]
    cells = f"{status.size} cell{'' if status.size == 1 else 's'}"
    title = f"Diagram of `{attrs['title']}`: {f'{sizes} = ' if sizes else ''}{cells}"
    return Card(title, tuple(line for line in lines if line[1]))


def method_in_words(attrs: dict[str, Any]) -> str:
    """How the cells were solved, from the facts of a diagram."""
    if attrs["method"] == "Exact":
        return "closed form" + (f" to t = {attrs['t1']:g}" if "t1" in attrs else "")
    if attrs["method"] == "Flow":
        tolerance = f", rtol {attrs['rtol']:g}" if "rtol" in attrs else ""
        end = f" to t = {attrs['t1']:g}" if "t1" in attrs else ""
        return f"gradient flow{end}, {attrs['solver']}{tolerance}"
    steps, rate = attrs.get("steps"), attrs.get("learning_rate")
    batch = f", batches of {attrs['batch']}" if "batch" in attrs else ""
    taken = "" if steps is None else f"{steps} step{'' if steps == 1 else 's'} of "
    return f"{taken}{attrs['optimiser']}{_at_rate(rate)}{batch}"


def settings_in_words(attrs: dict[str, Any]) -> list[str]:
    """What else of the method decides numbers, as far as it is not as usual."""
    told = [
        f"{attrs.get(of)} with {_listed(attrs[f'{of}_settings'])}" if f"{of}_settings" in attrs else name
        for of, name in (("solver", ""), ("controller", attrs.get("controller", "PIDController")))
    ]
    told = [words for words in told if words not in ("", "PIDController")]
    if "dt0" in attrs:
        told.append(f"{'steps of' if attrs.get('controller') == 'ConstantStepSize' else 'first step'} {attrs['dt0']:g}")
    if attrs.get("max_steps", _USUAL_STEPS) != _USUAL_STEPS:
        told.append(f"at most {attrs['max_steps']:,} steps a cell")
    if "until" in attrs:
        until = attrs["until"]
        told.append(f"until {until}" if isinstance(until, str) else f"until the loss is at most {until:g}")
    if "optimiser_settings" in attrs:
        given = json.loads(attrs["optimiser_settings"])
        rest = {name: value for name, value in given.items() if name != "learning_rate" or not _is_number(value)}
        told += [f"{name}={_short(value)}" for name, value in rest.items()]
    return told + (["batches drawn with replacement"] if "replace" in attrs else [])


def stopped_early(diagram: xarray.Dataset) -> str:
    """How many cells met `until`, and when the median cell stopped; nothing if none did."""
    status = diagram["status"].values
    if "end" not in diagram or not (status == Status.CONVERGED).any():
        return ""
    ended = diagram["end"].values[~has_failed(status) & (status != Status.MISSING)]
    met = int((status == Status.CONVERGED).sum())
    return f"{met:,} of {status.size:,} cells met `until`, the median cell stopped at t = {np.median(ended):.4g}"


def _listed(settings: str) -> str:
    """Settings in a row, from JSON."""
    return ", ".join(f"{name}={_short(value)}" for name, value in json.loads(settings).items())


def _short(value: Any) -> str:
    """A setting as short as its digits allow; a nested one with its own in brackets."""
    if isinstance(value, dict) and "name" in value:
        rest = {key: own for key, own in value.items() if key != "name"}
        return f"{value['name']}({_listed(json.dumps(rest))})"
    return f"{value:g}" if _is_number(value) else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _verified(diagram: xarray.Dataset) -> str:
    """What holding the cells against theory showed; nothing if that was not asked for."""
    if "error_over_tolerance" not in diagram or np.isnan(diagram["error_over_tolerance"]).all():
        return ""
    text = f"{int(diagram['verified'].sum())} cells, worst error {float(diagram['error_over_tolerance'].max()):.2g} of "
    text += "what the tolerance allows"
    return text + (f", worst drift {float(diagram['drift'].max()):.2g}" if "drift" in diagram else "")


def _at_rate(rate: Any) -> str:
    return f" at rate {rate:g}" if isinstance(rate, int | float) else ""


def _measured(diagram: xarray.Dataset) -> Iterable[str]:
    """Every variable with its own dimensions."""
    for name, variable in diagram.data_vars.items():
        if name not in ("status", "num_steps", "end"):
            own = [str(dim) for dim in variable.dims if dim not in diagram["status"].dims]
            yield f"{name} ({', '.join(own)})" if own else str(name)


def _range(axis: xarray.DataArray) -> str:
    """The name of an axis and from where to where it runs."""
    return f"{axis.name} {ends(axis)}"


def ends(axis: xarray.DataArray) -> str:
    """From where to where an axis runs."""
    number = lambda value: f"{value:g}" if isinstance(value, int | float | np.number) else str(value)
    first, last = number(axis.values[0]), number(axis.values[-1])
    return first if axis.size == 1 else f"{first} to {last}"


def _cells(status: np.ndarray) -> str:
    """How many cells are done, failed and, in a store, still missing."""
    missing = int((status == Status.MISSING).sum())
    return f"{status.size - missing} done, {_failures(status)}" + (f", {missing} missing" if missing else "")


def followed_failures(diagram: xarray.Dataset) -> str:
    """What is followed beside networks and failed there, which fails no cell; nothing if all went well."""
    followed = [name for name, one in diagram.data_vars.items() if name != "status" and "flag_meanings" in one.attrs]
    said = {str(name).removesuffix("_status"): diagram[name].values for name in followed}
    return ", ".join(f"{name} {_failures(status)}" for name, status in said.items() if has_failed(status).any())


def _failures(status: np.ndarray) -> str:
    """How many cells failed, and how."""
    codes, counts = np.unique(status[has_failed(status)], return_counts=True)
    how = ", ".join(f"{n} {Status(int(code)).name.lower()}" for code, n in zip(codes, counts, strict=True))
    return f"{counts.sum()} failed" + (f" ({how})" if how else "")


def _in_bytes(size: int) -> str:
    """A size with the unit that suits it."""
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    power = min(int(np.log2(max(size, 1)) // 10), len(units) - 1)
    return f"{size / 2 ** (10 * power):.3g} {units[power]}"
