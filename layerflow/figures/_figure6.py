"""What both halves of Figure 6 share: the horizon, the methods and the picture."""

from typing import TYPE_CHECKING, Literal

import optax

from layerflow.methods import Descent, Exact, Flow, Method
from layerflow.plot._panels import over_seeds, panels

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

MethodName = Literal["flow", "exact", "descent"]

LEARNING_RATE = 0.01
STEPS = 3999  # 4000 recorded states


def make_method(name: MethodName) -> Method:
    """Gradient flow to the time that the authors' descent reaches, its closed form, or that descent."""
    if name != "descent":
        return (Flow if name == "flow" else Exact)(t1=LEARNING_RATE * STEPS)
    return Descent(optax.sgd, learning_rate=LEARNING_RATE, steps=STEPS)


def draw(diagram: "xarray.Dataset", title: str) -> "Figure":
    """Kernel distance and loss side by side, each the geometric mean over seeds."""
    # Weights off by the tolerance leave a loss of about its square: smaller ones are solver noise.
    loss = over_seeds(diagram.loss, log=True)
    least = max(float(loss.min()), 100 * diagram.attrs.get("rtol", 0.0) ** 2)
    distance = over_seeds(diagram.kernel_distance, log=True)
    drawn = [(distance, {"log": True}), (loss, {"log": True, "vmin": least, "cmap": "cividis"})]
    return panels(drawn, x="weight_to_target", title=title)
