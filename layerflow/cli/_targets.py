"""What the targets of a data file can be: numbers, classes, or classes written as rows of numbers."""

from typing import Literal, get_args

import numpy as np

from layerflow.base._memory import check_room

Targets = Literal["values", "classes", "one-hot", "centred"]

MEANING = {
    "values": "numbers",
    "classes": "classes, so one whole number per sample",
    "one-hot": "one-hot rows, so each holds a single 1 among zeros, two columns at least",
    "centred": "centred one-hot rows, so each is one-hot minus 1/columns, two columns at least",
}


def check_targets(targets: str) -> None:
    """Raise unless `targets` names a kind of targets."""
    if targets not in get_args(Targets):
        names = ", ".join(f'"{name}"' for name in get_args(Targets))
        raise ValueError(f"Argument `targets` is one of {names}, but it is {targets!r}.")


def as_rows(y: np.ndarray, y_test: np.ndarray | None, targets: Targets) -> tuple[np.ndarray, np.ndarray | None]:
    """Targets of shape (n, out) to train on: classes as one-hot rows, all else checked and as it came."""
    _check_kind(y, "y", targets)
    if y_test is not None:
        _check_kind(y_test, "y_test", targets)
    if targets != "classes":
        return y, y_test
    classes = np.unique(y)
    if classes.size < 2:
        raise ValueError(f"Telling classes apart takes two at least, but `y` holds only the class {classes[0]:g}.")
    if y_test is not None and not np.isin(y_test, classes).all():
        row = int(np.argmin(np.isin(y_test[:, 0], classes)))
        raise ValueError(
            f"The classes are those of `y`, {_shown(classes)}, but `y_test` holds {y_test[row, 0]:g} at sample {row}. "
            f"Leave such samples out, or train on some of that class too."
        )
    check_room(
        9 * classes.size * (len(y) + (0 if y_test is None else len(y_test))),  # float64, and the comparison
        f"One-hot rows over the {classes.size:,} classes of `y`",
        'Merge classes, or leave the numbers as they are, targets="values".',
    )
    return _one_hot(y, classes), None if y_test is None else _one_hot(y_test, classes)


def _one_hot(y: np.ndarray, classes: np.ndarray) -> np.ndarray:
    return (y == classes[None, :]).astype(np.float64)


def _check_kind(y: np.ndarray, name: str, targets: Targets) -> None:
    """Raise unless all rows of `y` are of the kind that was said."""
    fits = _fits(y, targets)
    if not fits.all():
        row = int(np.argmin(fits))
        others = " or ".join(f'targets="{kind}"' for kind in get_args(Targets) if _fits(y, kind).all())
        raise ValueError(
            f'With targets="{targets}" the array `{name}` needs {MEANING[targets]}, but sample {row} is '
            f"{_shown(y[row])}. As they are, these targets fit {others}."
        )


def _fits(y: np.ndarray, targets: Targets) -> np.ndarray:
    """Which rows of `y` are of that kind, shape (n,)."""
    n, out = y.shape
    if targets == "values":
        return np.ones(n, bool)
    if targets == "classes":
        return (y == np.round(y)).all(1) & (out == 1)
    nearest = np.round(y if targets == "one-hot" else y + 1 / out)
    hot = ((nearest == 0) | (nearest == 1)).all(1) & (nearest.sum(1) == 1)
    # Thirds and tenths are rounded, and more so where they come from float32; 0 and 1 are not.
    near = (y == nearest) if targets == "one-hot" else (np.abs(y + 1 / out - nearest) <= 1e-6)
    return hot & near.all(1) & (out > 1)


def _shown(row: np.ndarray) -> str:
    """A row of numbers in a few words."""
    numbers = [f"{number:.9g}" for number in row[:10]]
    return f"[{', '.join(numbers)}{', ...' if row.size > 10 else ''}]"
