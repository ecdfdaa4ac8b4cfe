"""Axes of a sweep and the flat list of cells they span."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from layerflow.base._checks import check_known, check_ordered, check_whole, named_apart, plain

# Standard names of the field, for the labels of axes.
_LABELS = {
    "lam": ("layer imbalance λ", "weight²"),
    "weight_to_target": ("weight-to-target ratio", "1"),
    "target_scale": ("target scale", "1"),
    "learning_rate": ("learning rate", "1"),
    "depth": ("depth", "layers"),
    "width": ("width", "units"),
}


@dataclass(frozen=True)
class Axis:
    """One dimension of a diagram: the values it gives to one or more arguments of the cell function."""

    name: str  # as Python spells it
    arguments: dict[str, Any]  # per argument its values along the axis
    coordinate: np.ndarray
    attrs: dict[str, str] = field(default_factory=dict)
    static: bool = False

    def __len__(self) -> int:
        return len(self.coordinate)


class Static:
    """Values that change shapes or structure; see `static`."""

    def __init__(self, values: Any) -> None:
        self.values = list(values.values() if isinstance(values, Mapping) else values)
        self.labels = [_label(label) for label in (values if isinstance(values, Mapping) else self.values)]


class Paired:
    """Arguments that move together along one axis; see `paired`."""

    def __init__(self, values: Mapping[str, Any], labels: Sequence[Any] | None) -> None:
        if not isinstance(values, Mapping) or not values:
            raise ValueError('lf.paired needs a dict of arguments to values, paired({"a": [1, 2], "b": [3, 4]}).')
        self.values = named_apart({n: checked_values(n, array, many=True) for n, array in values.items()}, "argument")
        lengths = {name: len(array) for name, array in self.values.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"Arguments paired along one axis need values of one length, but have {lengths}.")
        (self.length,) = set(lengths.values())
        check_ordered(labels, "Argument `labels`")
        if labels is not None and len(labels) != self.length:
            raise ValueError(f"lf.paired needs one label per position, {self.length}, but {len(labels)} came.")
        self.labels = None if labels is None else [_label(label) for label in labels]


def _label(label: Any) -> Any:
    """A label that a coordinate can hold: numbers as numbers, of NumPy and JAX too."""
    if isinstance(label, np.generic | jax.Array) and label.ndim == 0 and label.dtype.kind in "biuf":
        return np.asarray(label)[()]
    return label if isinstance(label, int | float | str | bool) else str(label)


def static(values: Mapping[str, Any] | Sequence[Any]) -> Static:
    """An axis whose values change shapes or structure: each compiles once.

    Args:
        values: The values, hashable or not; in a dict by label.

    Raises:
        ValueError: If there are no values.

    Example:
        >>> import layerflow as lf
        >>> lf.static({"funnel": (4, 2, 2), "anti-funnel": (2, 2, 4)}).labels
        ['funnel', 'anti-funnel']
    """
    if not isinstance(values, Mapping | Sequence | np.ndarray | jax.Array) or isinstance(values, str):
        raise TypeError(f"lf.static needs a list of values or a dict of them by label, but it is {values!r}.")
    check_known(values, "the values of lf.static")
    if not isinstance(values, Mapping):
        values = plain(values, "lf.static")
    axis = Static(np.asarray(values) if isinstance(values, jax.Array) else values)
    if not axis.values:
        raise ValueError("lf.static needs at least one value, but it is empty.")
    return axis


def paired(values: Mapping[str, Any], *, labels: Sequence[Any] | None = None) -> Paired:
    """An axis along which several arguments of the cell function move together.

    Args:
        values: For each argument its values, first dimension along the axis; further
            dimensions are handed to the cell.
        labels: Coordinate of each position; numbered if not given.

    Raises:
        ValueError: If lengths differ.

    Example:
        >>> import layerflow as lf
        >>> lf.paired({"gain": [5.0, 1.0], "target": [3.0, 3.0]}, labels=["default", "weights down"]).length
        2
    """
    return Paired(values, labels)


def checked_values(name: str, values: Any, *, many: bool = False) -> np.ndarray:
    """The values of an axis as an array of numbers, or an error."""
    check_ordered(values, f"Axis `{name}`")
    check_known(values, f"the values of axis `{name}`")
    values = plain(values, f"Axis `{name}`")
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"Axis `{name}` needs an array of numbers, but its values do not form one: {error}") from error
    if array.dtype.kind not in "biuf":
        raise TypeError(
            f"Axis `{name}` needs real numbers, but its values have dtype {array.dtype}. Values that are no numbers, "
            f"or that change shapes, go through lf.static."
        )
    if array.ndim == 0:
        raise ValueError(f"Axis `{name}` needs a vector of values, but it is one number. Give it as [{array}].")
    if array.ndim != 1 and not (many and array.ndim > 1):
        raise ValueError(
            f"Axis `{name}` needs a vector of values, but it has shape {array.shape}. For vectors at each position use "
            f'lf.paired({{"{name}": array}}).'
        )
    if array.shape[0] == 0:
        raise ValueError(f"Axis `{name}` is empty: give it at least one value.")
    given, computed = array, jnp.asarray(plain(array, name))  # in the dtype that JAX computes in
    check_known(computed, f"the values of axis `{name}`")
    array = np.asarray(computed)
    check_whole(given, array, f"Axis `{name}`")
    finite = np.isfinite(array)
    if not finite.all():
        bad = np.argwhere(~finite)[0]
        raise ValueError(
            f"Axis `{name}` needs finite values ({array.dtype}), but holds {given[tuple(bad)]} at position "
            f"{int(bad[0])}"
            f"{f' and {int((~finite).sum()) - 1} more' if (~finite).sum() > 1 else ''}."
        )
    return array


def make_axis(name: str, values: Any) -> Axis:
    """An axis from what the user gave."""
    if isinstance(values, Static):
        return Axis(name, {name: values.values}, np.asarray(values.labels), static=True)
    if isinstance(values, Paired):
        # Without labels the positions are told by the values of the argument of this name, or else numbered.
        own = values.values.get(name)
        numbered = np.arange(values.length) if own is None or own.ndim > 1 else own
        return Axis(name, dict(values.values), numbered if values.labels is None else np.asarray(values.labels))
    array = checked_values(name, values)
    long_name, units = _LABELS.get(name, (name, "1"))
    given = getattr(values, "attrs", {})  # an xarray.DataArray brings its own labels
    return Axis(name, {name: array}, array, {"long_name": long_name, "units": units} | dict(given))


@dataclass(frozen=True)
class Grid:
    """All cells of a sweep: static axes outside, the others inside, the last axis fastest."""

    axes: tuple[Axis, ...]

    @property
    def inner(self) -> tuple[Axis, ...]:
        """The axes whose values are arrays."""
        return tuple(axis for axis in self.axes if not axis.static)

    @property
    def outer(self) -> tuple[Axis, ...]:
        """The axes whose values are fixed in a program."""
        return tuple(axis for axis in self.axes if axis.static)

    @property
    def cells(self) -> int:
        """Cells per combination of static values."""
        return math.prod(len(axis) for axis in self.inner)

    @property
    def seeds(self) -> int:
        """Number of seeds."""
        return next((len(axis) for axis in self.axes if axis.name == "seed"), 1)

    def combinations(self) -> Iterator[tuple[dict[str, Any], str]]:
        """Each combination of static values, with words for it."""
        for positions in itertools.product(*(range(len(axis)) for axis in self.outer)):
            chosen = {axis.name: axis.arguments[axis.name][i] for axis, i in zip(self.outer, positions, strict=True)}
            words = ", ".join(
                f"{axis.name}={axis.coordinate[i]}" for axis, i in zip(self.outer, positions, strict=True)
            )
            yield chosen, words

    def values(self, cells: np.ndarray) -> dict[str, np.ndarray]:
        """The arguments of the cell function at some cells, by flat number."""
        positions = np.unravel_index(cells, [len(axis) for axis in self.inner]) if self.inner else ()
        return {
            name: values[where]
            for axis, where in zip(self.inner, positions, strict=True)
            for name, values in axis.arguments.items()
        }

    def words(self, cell: int) -> str:
        """Where a cell lies, for messages."""
        positions = np.unravel_index(cell, [len(axis) for axis in self.inner]) if self.inner else ()
        return (
            ", ".join(f"{a.name}={a.coordinate[i]}" for a, i in zip(self.inner, positions, strict=True))
            or "the one cell"
        )

    def shaped(self, flat: np.ndarray) -> np.ndarray:
        """Values by (combination, cell, ...) as an array over all axes in the user's order."""
        ordered = [*self.outer, *self.inner]
        array = flat.reshape([len(axis) for axis in ordered] + list(flat.shape[2:]))
        back = [ordered.index(axis) for axis in self.axes]
        return array.transpose(back + list(range(len(back), array.ndim)))
