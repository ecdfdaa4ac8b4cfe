"""From a diagram to what one picture shows."""

from typing import TYPE_CHECKING, Any

import numpy as np

from layerflow.diagrams._array import is_numeric

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
"""The colours of Okabe and Ito, which the colour-blind tell apart."""
_FEW = 6


def tick_at_values(ax: "Axes", direction: str, values: np.ndarray) -> None:
    """Ticks where the values are, if they are few."""
    if len(values) <= _FEW:
        axis = ax.xaxis if direction == "x" else ax.yaxis
        axis.set_ticks(values, [f"{value:.3g}" for value in values])
        axis.set_ticks([], minor=True)


def axes_or_new(ax: "Axes | None") -> "Axes":
    """The given Axes, or those of a new figure."""
    if ax is not None:
        if not hasattr(ax, "plot"):
            raise TypeError(
                f"Argument `ax` needs matplotlib Axes, as figure.subplots() gives, not {type(ax).__name__}."
            )
        return ax
    import matplotlib.pyplot as plt

    _, ax = plt.subplots(layout="constrained")
    return ax


def colours(values: np.ndarray) -> list[Any]:
    """Choose one colour per line: a ramp for numbers, the palette of Okabe and Ito for names.

    Args:
        values: What the lines are of, shape (lines,).

    Returns:
        Colours that matplotlib takes, one per value.

    Example:
        >>> import numpy as np, layerflow as lf
        >>> lf.plot.colours(np.array(["rich", "lazy"])) == list(lf.plot.PALETTE[:2])
        True
    """
    import matplotlib as mpl

    if is_numeric(values) and len(values) > 1:
        return [mpl.colormaps["viridis"](position) for position in np.linspace(0.0, 0.85, len(values))]
    return [PALETTE[i % len(PALETTE)] for i in range(len(values))]
