"""Sizes for print."""

from contextlib import AbstractContextManager
from typing import Any, Literal

from layerflow.plot._data import PALETTE

_WIDTHS = {1: 3.25, 2: 6.75}  # inches: a column of a journal, and its text from side to side
_HEIGHT = 2.4


def style(columns: Literal[1, 2] = 1) -> AbstractContextManager[None]:
    """Draw and save what is inside in sizes that print well, over one column of a journal or over two.

    Figures are 3.25 or 6.75 inches wide and 2.4 high, unless told otherwise; letters are of 8 points and those
    of ticks and legends of 7; PDF keeps them as text (Type 42), as publishers ask, and pixels are 300 to the
    inch. Lines that are drawn by hand take the colours of Okabe and Ito, which the colour-blind tell apart.

    Args:
        columns: 1 or 2.

    Returns:
        Context, in which to draw and to save.

    Raises:
        ValueError: If `columns` is neither.

    Example:
        >>> import numpy as np, xarray as xr, layerflow as lf
        >>> diagram = xr.DataArray(np.ones((3, 4)), dims=("lam", "scale"), name="loss")
        >>> with lf.plot.style(columns=1):
        ...     ax = lf.plot.heatmap(diagram)
        >>> ax.figure.get_size_inches().tolist()
        [3.25, 2.4]
    """
    import matplotlib as mpl
    from cycler import cycler

    if columns not in _WIDTHS:
        raise ValueError(f"Argument `columns` is 1 or 2, the columns of a journal to draw over, but it is {columns!r}.")
    small, thin = 7, 0.6
    lengths = {"major.size": 2.5, "minor.size": 1.5, "major.width": thin, "minor.width": 0.45, "labelsize": small}
    sizes: dict[Any, Any] = {f"{axis}tick.{name}": value for axis in "xy" for name, value in lengths.items()}
    sizes |= {
        "figure.figsize": (_WIDTHS[columns], _HEIGHT),
        "figure.constrained_layout.h_pad": 0.02,
        "figure.constrained_layout.w_pad": 0.02,
        "font.size": 8,
        "figure.titlesize": 8,
        "axes.titlesize": 8,
        "axes.labelsize": 8,
        "axes.linewidth": thin,
        "axes.prop_cycle": cycler(color=PALETTE),
        "legend.fontsize": small,
        "legend.title_fontsize": small,
        "legend.borderpad": 0.3,
        "legend.labelspacing": 0.2,
        "legend.handlelength": 1.4,
        "legend.handletextpad": 0.5,
        "patch.linewidth": thin,
        "lines.linewidth": 1.2,
        "lines.markersize": 3.5,
        "hatch.linewidth": thin,
        "savefig.dpi": 300,
        "pdf.fonttype": 42,
        "ps.fonttype": 42,
    }
    return mpl.rc_context(sizes)
