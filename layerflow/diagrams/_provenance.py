"""A paragraph on how a diagram was made."""

import json
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from layerflow.diagrams._array import has_failed, status_of
from layerflow.diagrams._asked import asked_again
from layerflow.diagrams._words import ends, followed_failures, method_in_words, settings_in_words, stopped_early
from layerflow.methods import METHODS, Status

if TYPE_CHECKING:
    import xarray


def provenance(diagram: "xarray.Dataset") -> str:
    """Say in a paragraph for the appendix of a paper what was computed, how, by what, and what failed.

    Args:
        diagram: What `sweep` or `open_diagram` returned.

    Returns:
        The paragraph, in lines of 120 characters, to print or to write to a file.

    Raises:
        ValueError: If the diagram does not say how it was made, or is put together from several sweeps.

    Example:
        >>> import jax.numpy as jnp, layerflow as lf
        >>> def cell(target):
        ...     return lf.Problem(lf.linear_model(jnp.zeros(1)), lf.Modes(jnp.ones(1), target))
        >>> diagram = lf.sweep(cell, {"target": [1.0, 2.0]}, method=lf.Flow(t1=9.0))
        >>> print(lf.provenance(diagram))  # doctest: +ELLIPSIS
        The diagram of `cell` spans target (2 values, 1 to 2): 2 cells. Each was solved by gradient flow to t...
    """
    asked, status, attrs = asked_again(diagram), status_of(diagram).values, diagram.attrs
    sentences = [
        _what(diagram, asked, status),
        _measured(asked, attrs),
        _settings(attrs),
        _seeds(asked, attrs),
        _ended(diagram, status),
        _retries(attrs),
        _made(attrs),
    ]
    return textwrap.fill(" ".join(filter(None, sentences)), 120)


def _what(diagram: "xarray.Dataset", given: dict[str, Any], status: np.ndarray) -> str:
    """Cells, method and what they gave."""
    attrs = diagram.attrs
    axes = ", ".join(_axis(diagram[name]) for name in diagram["status"].dims) or "a single cell"
    measured = ", ".join([*given["observe"], *given["summary"]])
    tolerance = f", atol {attrs['atol']:g}" if "atol" in attrs else ""
    cells = f"{status.size:,} cell{'' if status.size == 1 else 's'}"
    return (
        f"The diagram of `{attrs['title']}` spans {axes}: {cells}. Each was solved by {method_in_words(attrs)}"
        f"{tolerance}, in {attrs['dtype']} on {attrs['device']}, and gave {measured}."
    )


def _axis(axis: Any) -> str:
    return f"{axis.name} ({axis.size} values, {ends(axis)})" if axis.size > 1 else f"{axis.name} ({ends(axis)})"


def _measured(asked: dict[str, Any], attrs: dict[str, Any]) -> str:
    """Where along the path, by what summaries and derivatives, and against what."""
    ts, by = asked["ts"], METHODS[attrs["method"]].time.name
    parts = [
        f"measured at {len(ts)} values of {by} from {ts[0]:g} to {ts[-1]:g}" if ts else "",
        f"summed up by {', '.join(asked['summary'])}" if asked["summary"] else "",
        f"differentiated by {', '.join(asked['derivative'])}" if asked["derivative"] else "",
        "held against closed forms and conservation laws" if asked["verify"] else "",
    ]
    told = ", ".join(filter(None, parts))
    return f"Cells were {told}." if told else ""


def _settings(attrs: dict[str, Any]) -> str:
    """What else of the method decides numbers."""
    told = ", ".join(settings_in_words(attrs))
    return f"Settings that are not the defaults: {told}." if told else ""


def _seeds(asked: dict[str, Any], attrs: dict[str, Any]) -> str:
    """Where random numbers come from."""
    keys, root = asked["keys"], attrs["root"]
    return f"Seed s has the key fold_in(root, s), the same in every cell, with the {keys} root {root}."


def _ended(diagram: "xarray.Dataset", status: np.ndarray) -> str:
    """How many cells ended how."""
    codes, counts = np.unique(status[has_failed(status)], return_counts=True)
    how = ", ".join(f"{n:,} {Status(int(code)).meaning}" for code, n in zip(codes, counts, strict=True))
    missing = int((status == Status.MISSING).sum())
    said = f"{int(counts.sum()):,} cells failed ({how})" if how else "No cell failed"
    said = f"{said}; {missing:,} are not computed yet." if missing else f"{said}."
    early, beside = stopped_early(diagram), followed_failures(diagram)
    return " ".join(filter(None, [early and f"{early}.", said, beside and f"Followed beside networks: {beside}."]))


def _retries(attrs: dict[str, Any]) -> str:
    """What was run again."""
    methods = json.loads(attrs.get("retries", "[]"))
    again = [", ".join([method_in_words(method), *settings_in_words(method)]) for method in methods]
    return f"Cells that had failed before were run again by {'; then by '.join(again)}." if again else ""


def _made(attrs: dict[str, Any]) -> str:
    """By what, when, and how to get the same bits."""
    versions = ", ".join(f"{name} {attrs[f'{name}_version']}" for name in ("layerflow", "jax", "jaxlib", "diffrax"))
    lanes = f" with {attrs['lanes']} lanes" if "lanes" in attrs else ""
    runs = f" in {attrs['runs']} runs" if attrs.get("runs", 1) > 1 else ""
    devices = f"{attrs['devices']} device{'' if attrs['devices'] == 1 else 's'}"
    filled = "filled" in attrs
    chunks, same = ("filled chunks", "as the same call gives") if filled else ("chunks", "which give")
    return (
        f"It was computed with {versions} in {chunks} of {attrs['chunk']} cells{lanes}, {same} the same bits again, "
        f"on {devices} in {attrs['wall_seconds']:,.1f} s{runs}, begun {attrs['created']}. Fingerprint of what was "
        f"traced: {attrs['fingerprint'][:16]}."
    )
