"""What a figure is, and what a claim of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib.figure
import numpy as np
import xarray


@dataclass(frozen=True)
class Claim:
    """What a figure measured, held against what the paper, a theorem or the authors' numbers say.

    `str(claim)` is its sentence. What no criterion is known for is no claim but a remark.
    """

    words: str
    """What is measured."""
    holds: Any
    measured: Any
    """A number, a few numbers, or words."""
    expected: Any
    """What it is to be; numbers with their tolerance in words."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "holds", bool(self.holds))
        for name in ("measured", "expected"):  # plain Python, to be compared and recorded
            value = getattr(self, name)
            object.__setattr__(self, name, value if isinstance(value, str) else _plain(value))

    @classmethod
    def near(cls, words: str, measured: Any, expected: Any, *, atol: float = 0.0, rtol: float = 0.0) -> "Claim":
        """Numbers that are to be close to others, each to within atol + rtol |expected|."""
        values, wanted = np.asarray(measured, float), np.asarray(expected, float)
        holds = values.size and np.allclose(values, wanted, atol=atol, rtol=rtol)
        ends = [told(expected)] + [f"± {atol:g}"] * (atol > 0) + [f"± {100 * rtol:g} %"] * (rtol > 0)
        return cls(words, holds, measured, " ".join(ends))

    @classmethod
    def between(cls, words: str, measured: Any, low: Any = -np.inf, high: Any = np.inf) -> "Claim":
        """Numbers that are to be at least `low` and at most `high`, all of them."""
        values = np.asarray(measured, float)
        holds = values.size and np.all((np.asarray(low) <= values) & (values <= np.asarray(high)))
        ends = [f"at {side} {told(end)}" for side, end in (("least", low), ("most", high)) if np.isfinite(end).all()]
        return cls(words, holds, measured, " and ".join(ends))

    def __str__(self) -> str:
        verdict = "Holds" if self.holds else "Does not hold"
        return f"{self.words}: {told(self.measured)}; expected: {told(self.expected)}. {verdict}."


@dataclass(frozen=True)
class Figure:
    """A figure of the paper: how it is computed and drawn, and what it claims.

    The Dataset holds all that the others need and can be written as NetCDF by scipy.
    """

    title: str
    notes: tuple[str, ...]
    """The caption, and where the figure departs from the paper."""
    compute: Callable[..., xarray.Dataset]
    """Of keywords with defaults, among them, where they make sense, `grid`: points along each axis, `seeds`: random
    starts, `method`, and `quick`: a smaller recipe."""
    panels: Callable[[xarray.Dataset], matplotlib.figure.Figure]
    """Draws the Dataset, without the title."""
    claims: Callable[[xarray.Dataset], tuple[Claim, ...]]
    remarks: Callable[[xarray.Dataset], tuple[str, ...]] = lambda _: ()
    """Sentences on what was measured and is not judged, if any."""
    dtype: Literal["float64", "float32"] = "float64"
    """Precision; single for deep networks, which with `quick=True` take minutes on two cores."""

    def draw(self, data: xarray.Dataset) -> matplotlib.figure.Figure:
        """The panels under the title."""
        picture = self.panels(data)
        picture.suptitle(picture.get_suptitle() or self.title, fontsize="medium")
        return picture


def told(value: Any, form: str | None = None) -> str:
    """A number to three digits, or in `form`, a few of them in a row, or words as they are: 0.5, 1 and −12,000."""
    if isinstance(value, str):
        return value
    usual = lambda number: ",.0f" if 1000 <= abs(number) < 1e6 else ".3g"
    words = [format(number, form or usual(number)).replace("-", "−") for number in np.ravel(value).tolist()]
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]])) or "none"


def _plain(value: Any) -> float | tuple[float, ...]:
    """A float, or a tuple of those."""
    values = np.asarray(value, float)
    return float(values) if values.ndim == 0 else tuple(values.ravel().tolist())
