"""Words for what a diagram says of itself, for its card and for its paragraph in a paper."""

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from layerflow.diagrams._array import has_failed
from layerflow.methods import Status

if TYPE_CHECKING:
    import xarray

_USUAL_STEPS = 100_000  # of a cell at most, unless given


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


def stopped_early(diagram: "xarray.Dataset") -> str:
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


def _at_rate(rate: Any) -> str:
    return f" at rate {rate:g}" if isinstance(rate, int | float) else ""


def ends(axis: "xarray.DataArray") -> str:
    """From where to where an axis runs."""
    number = lambda value: f"{value:g}" if isinstance(value, int | float | np.number) else str(value)
    first, last = number(axis.values[0]), number(axis.values[-1])
    return first if axis.size == 1 else f"{first} to {last}"


def followed_failures(diagram: "xarray.Dataset") -> str:
    """What is followed beside networks and failed there, which fails no cell; nothing if all went well."""
    followed = [name for name, one in diagram.data_vars.items() if name != "status" and "flag_meanings" in one.attrs]
    said = {str(name).removesuffix("_status"): diagram[name].values for name in followed}
    return ", ".join(f"{name} {failures_in_words(status)}" for name, status in said.items() if has_failed(status).any())


def failures_in_words(status: np.ndarray) -> str:
    """How many cells failed, and how."""
    codes, counts = np.unique(status[has_failed(status)], return_counts=True)
    how = ", ".join(f"{n} {Status(int(code)).name.lower()}" for code, n in zip(codes, counts, strict=True))
    return f"{counts.sum()} failed" + (f" ({how})" if how else "")


def in_bytes(size: int) -> str:
    """A size with the unit that suits it."""
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    power = min(int(np.log2(max(size, 1)) // 10), len(units) - 1)
    return f"{size / 2 ** (10 * power):.3g} {units[power]}"
