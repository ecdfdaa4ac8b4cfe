"""What both halves of Figure 6 share: the horizon, the methods, the line between regimes and the picture."""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import optax

from layerflow.diagrams._array import over_seeds
from layerflow.diagrams._boundary import boundary
from layerflow.figures._words import listed, rank_correlation
from layerflow.methods import Descent, Exact, Flow, Method
from layerflow.observables import kernel_distance, laziness, loss
from layerflow.plot._panels import panels

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

MethodName = Literal["flow", "exact", "descent"]

LEARNING_RATE = 0.01
STEPS = 3999  # 4000 recorded states
LEVEL = 1e-3  # of the kernel distance: below it we call a cell lazy


def make_method(name: MethodName) -> Method:
    """Gradient flow to the time that the authors' descent reaches, its closed form, or that descent."""
    if name != "descent":
        return (Flow if name == "flow" else Exact)(t1=LEARNING_RATE * STEPS)
    return Descent(optax.sgd, learning_rate=LEARNING_RATE, steps=STEPS)


def observables(name: MethodName) -> tuple[Any, ...]:
    """What to measure: laziness follows the path, which only the flow gives."""
    return (kernel_distance, laziness, loss) if name == "flow" else (kernel_distance, loss)


def draw(diagram: "xarray.Dataset", title: str) -> "Figure":
    """Kernel distance, laziness, loss and the seeds' spread, under the line between lazy and rich."""
    # Weights off by the tolerance leave a loss of about its square: smaller ones are solver noise. Two flows
    # that step apart differ by a few tolerances: so is a smaller laziness.
    rtol = diagram.attrs.get("rtol", 0.0)
    loss = over_seeds(diagram.loss, log=True)
    least = max(float(loss.min()), 100 * rtol**2)
    drawn: list[tuple[Any, dict[str, Any]]] = [(over_seeds(diagram.kernel_distance, log=True), {"log": True})]
    if "laziness" in diagram:
        lazy = over_seeds(diagram.laziness, log=True)
        drawn.append((lazy, {"log": True, "vmin": max(float(lazy.min()), 10 * rtol)}))
    drawn.append((loss, {"log": True, "vmin": least, "cmap": "cividis"}))
    if diagram.sizes["seed"] > 1:
        drawn.append((spread(diagram), {"cmap": "magma", "vmin": 0.0}))
    return panels(drawn, x="weight_to_target", title=title, line=line_of(diagram), columns=2)


def line_of(diagram: "xarray.Dataset") -> "xarray.Dataset | None":
    """The line along which the kernel distance is LEVEL; none where the grid is too small to have one."""
    try:
        return boundary(diagram.kernel_distance, LEVEL, x="weight_to_target", log=True)
    except ValueError:
        return None


def spread(diagram: "xarray.Dataset") -> "xarray.DataArray":
    """By how many decades the kernel distance differs from seed to seed, as a standard deviation."""
    decades = np.log10(diagram.kernel_distance).std("seed", ddof=1)
    return decades.assign_attrs(long_name="spread of kernel distance over seeds", units="decades").rename("spread")


def told_apart(diagram: "xarray.Dataset") -> tuple[str, ...]:
    """Sentences on laziness beside the kernel distance, and on the spread over seeds."""
    said = []
    if "laziness" in diagram:
        both = [over_seeds(diagram[name], log=True).values.ravel() for name in ("kernel_distance", "laziness")]
        said.append(
            f"Over the cells, laziness (distance from the linearised flow) and kernel distance have a rank "
            f"correlation of {listed([rank_correlation(*both)], '.2f')}."
        )
    if diagram.sizes["seed"] > 1:
        decades = spread(diagram)
        said.append(
            f"From seed to seed the kernel distance differs by {float(decades.median()):.2g} decades in the median "
            f"cell and {float(decades.max()):.2g} at most."
        )
    return tuple(said)
