"""What both halves of Figure 6 share: the horizon, the methods and the picture."""

from typing import TYPE_CHECKING, Literal

import matplotlib.figure
import numpy as np
import optax

from layerflow import plot
from layerflow.methods import Descent, Flow, Method

if TYPE_CHECKING:
    import xarray

MethodName = Literal["flow", "descent"]

LEARNING_RATE = 0.01
STEPS = 3999  # 4000 recorded states


def make_method(name: MethodName) -> Method:
    """Gradient flow to the time that the authors' descent reaches, or that descent."""
    if name == "flow":
        return Flow(t1=LEARNING_RATE * STEPS)
    return Descent(optax.sgd, learning_rate=LEARNING_RATE, steps=STEPS)


def draw(diagram: "xarray.Dataset", title: str) -> matplotlib.figure.Figure:
    """Kernel distance and loss side by side, each the geometric mean over seeds."""
    figure = matplotlib.figure.Figure(figsize=(7.2, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    plot.heatmap(over_seeds(diagram.kernel_distance), x="weight_to_target", log=True, ax=left)
    # Weights off by the tolerance leave a loss of about its square: smaller ones are solver noise.
    loss = over_seeds(diagram.loss)
    least = max(float(loss.min()), 100 * diagram.attrs.get("rtol", 0.0) ** 2)
    plot.heatmap(loss, x="weight_to_target", log=True, vmin=least, ax=right, cmap="cividis")
    right.set_ylabel("")
    for ax, name in ((left, "kernel distance"), (right, "loss")):
        # A bar's label would stand next to the other panel's axis.
        ax.collections[0].colorbar.set_label("")
        ax.set_title(name, fontsize="medium")
    figure.suptitle(title, fontsize="medium")
    return figure


def over_seeds(array: "xarray.DataArray") -> "xarray.DataArray":
    """The geometric mean over seeds, which a logarithmic map of one seed's values estimates."""
    with np.errstate(divide="ignore"):
        logarithms = array.copy(data=np.log(array.values)).mean("seed")
    return logarithms.copy(data=np.exp(logarithms.values)).assign_attrs(array.attrs).rename(array.name)
