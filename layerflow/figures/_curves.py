"""What the figures made of curves share: colours, and the closed form drawn over the flow."""

from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import layerflow as lf

BLUE, VERMILION, GREEN, PURPLE = lf.plot.PALETTE[:4]
LOW_MIDDLE_HIGH = (BLUE, GREEN, VERMILION)  # of three values in order
GREY = "0.35"


def fine_flow(t1: float, *, rtol: float = 1e-9, until: Literal["converged"] | None = None) -> lf.Flow:
    """Gradient flow of a fine tolerance, or of the finest that single precision allows."""
    return lf.Flow(t1=t1, rtol=max(rtol, 8 * float(jnp.finfo(jnp.result_type(float)).eps)), until=until)


def new_figure(width: float, height: float, title: str = "") -> Figure:
    """An empty figure, in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, fontsize="medium")
    return figure


def flow_and_theory(ax: Axes, x: Any, flow: Any, theory: Any, *, colour: Any, label: str | None = None) -> None:
    """The flow as a broad line, the closed form thin and dashed over it, so that both are seen where they agree."""
    ax.plot(x, flow, color=colour, linewidth=3.0, alpha=0.65, solid_capstyle="butt", label=label)
    ax.plot(x, theory, color="black", linewidth=0.9, dashes=(4, 3))


def handle(label: str, *, color: Any = "0.4", **line: Any) -> Line2D:
    """An entry of a legend that stands for lines of several colours."""
    return Line2D([], [], label=label, color=color, **line)


def key_of_styles(
    ax: Axes, *, on: Figure | None = None, flow: str = "flow", theory: str = "closed form", **kwargs: Any
) -> None:
    """A legend of what is labelled in `ax`, then of the two kinds of lines; in the panel or `on` the figure."""
    handles, labels = ax.get_legend_handles_labels()
    handles += [
        Line2D([], [], color=GREY, linewidth=3.0, alpha=0.65),
        Line2D([], [], color="black", linewidth=0.9, dashes=(4, 3)),
    ]
    (on or ax).legend(handles, [*labels, flow, theory], fontsize="small", **{"frameon": False, **kwargs})


def panel_title(ax: Axes, letter: str, words: str) -> None:
    """(a) what the panel shows."""
    ax.set_title(f"({letter}) {words}", fontsize="medium")


def worst(measured: Any, expected: Any) -> float:
    """The largest difference between two arrays, where both are finite."""
    return float(np.nanmax(np.abs(np.asarray(measured) - np.asarray(expected))))
