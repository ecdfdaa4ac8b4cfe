"""Heat maps of one diagram side by side."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerflow.plot._data import label
from layerflow.plot._heatmap import heatmap

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure


def panels(drawn: "Sequence[tuple[xarray.DataArray, Mapping[str, Any]]]", *, x: str, title: str) -> "Figure":
    """Heat maps side by side that share the vertical axis.

    Args:
        drawn: For each panel its values, of two dimensions, and what to tell `heatmap` besides.
        x: Dimension across.
        title: Above all.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6 * max(len(drawn), 1), 3.2), layout="constrained")
    for number, (array, how) in enumerate(drawn):
        first = figure.axes[0] if number else None
        ax = figure.add_subplot(1, len(drawn), number + 1, sharey=first)
        heatmap(array, x=x, ax=ax, **how)
        ax.collections[0].colorbar.set_label("")  # it would stand next to the other panel's axis
        ax.set_title(label(array), fontsize="medium")
        if number:
            ax.set_ylabel("")
            ax.tick_params(labelleft=False)
    figure.suptitle(title, fontsize="medium")
    return figure


def over_seeds(array: "xarray.DataArray", *, log: bool) -> "xarray.DataArray":
    """The mean over seeds: the geometric one for a logarithmic map, which one seed's values estimate."""
    if not log:
        return array.mean("seed", keep_attrs=True)
    with np.errstate(divide="ignore"):
        logarithms = array.copy(data=np.log(array.values)).mean("seed")
    return logarithms.copy(data=np.exp(logarithms.values)).assign_attrs(array.attrs).rename(array.name)
