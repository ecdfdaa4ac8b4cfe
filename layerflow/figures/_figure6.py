"""What both halves of Figure 6 share: the methods, the line between regimes, the picture and the authors' numbers."""

from collections.abc import Mapping
from typing import Any, Literal

import matplotlib.figure
import numpy as np
import optax
import xarray

import layerflow as lf
from layerflow.figures._figure import Claim, told
from layerflow.figures._words import rank_correlation

MethodName = Literal["flow", "exact", "descent"]

LEARNING_RATE = 0.01
STEPS = 3999  # 4000 recorded states
LEVEL = 1e-3  # of the kernel distance: below it we call a cell lazy
OBSERVED = (lf.kernel_distance, lf.loss)


def how(name: MethodName) -> dict[str, Any]:
    """By gradient flow to the time that the authors' descent at rate 0.01 reaches, its closed form, or that descent."""
    if name == "descent":
        return {"method": lf.Descent(optax.sgd, learning_rate=LEARNING_RATE, steps=STEPS), "observe": OBSERVED}
    if name == "exact":
        return {"method": lf.Exact(t1=LEARNING_RATE * STEPS), "observe": OBSERVED}
    # Laziness follows the path, which only the flow gives.
    return {"method": lf.Flow(t1=LEARNING_RATE * STEPS), "observe": (lf.kernel_distance, lf.laziness, lf.loss)}


def panels(diagram: xarray.Dataset) -> matplotlib.figure.Figure:
    """The paper's two maps, laziness beside them and the seeds' spread, under the line between lazy and rich."""
    # Weights off by the tolerance leave a loss of about its square: smaller ones are solver noise. Two flows
    # that step apart differ by a few tolerances: so is a smaller laziness.
    rtol = diagram.attrs.get("rtol", 0.0)
    loss = lf.plot.over_seeds(diagram.loss, log=True)
    least = max(float(loss.min()), 100 * rtol**2)
    drawn: list[tuple[Any, dict[str, Any]]] = [(lf.plot.over_seeds(diagram.kernel_distance, log=True), {"log": True})]
    if "laziness" in diagram:
        lazy = lf.plot.over_seeds(diagram.laziness, log=True)
        drawn.append((lazy, {"log": True, "vmin": max(float(lazy.min()), 10 * rtol)}))
    drawn.append((loss, {"log": True, "vmin": least, "cmap": "cividis"}))
    if diagram.sizes["seed"] > 1:
        drawn.append((spread(diagram), {"cmap": "magma", "vmin": 0.0}))
    return lf.plot.panels(drawn, x="weight_to_target", line=line_of(diagram), columns=2)


def line_of(diagram: xarray.Dataset) -> xarray.Dataset | None:
    """The line along which the kernel distance is LEVEL; none where the grid is too small to have one."""
    try:
        return lf.boundary(diagram.kernel_distance, LEVEL, x="weight_to_target", log=True)
    except ValueError:
        return None


def spread(diagram: xarray.Dataset) -> xarray.DataArray:
    """By how many decades the kernel distance differs from seed to seed, as a standard deviation."""
    decades = np.log10(diagram.kernel_distance).std("seed", ddof=1)
    return decades.assign_attrs(long_name="spread of kernel distance over seeds", units="decades").rename("spread")


def as_in_the_recipe(words: str, row: xarray.DataArray, recipe: Mapping[float, float], *, atol: float) -> Claim:
    """A row of the map at the recipe's places, as far as the grid has a cell near, beside the authors' numbers."""
    axis = row[str(row.dims[0])].values
    nearest = {place: int(np.abs(axis - place).argmin()) for place in recipe}
    near = {place: cell for place, cell in nearest.items() if abs(axis[cell] - place) < 0.5 * place}
    words = f"{words} = {told([axis[cell] for cell in near.values()])}"
    return Claim.near(words, row.values[list(near.values())], [recipe[place] for place in near], atol=atol)


def remarks(diagram: xarray.Dataset) -> tuple[str, ...]:
    """How laziness and kernel distance go together, and how far seeds are apart."""
    said = []
    if "laziness" in diagram:
        both = [lf.plot.over_seeds(diagram[name], log=True).values.ravel() for name in ("kernel_distance", "laziness")]
        said.append(
            f"Over the cells, laziness (distance from the linearised flow) and kernel distance have a rank "
            f"correlation of {rank_correlation(*both):.2f}."
        )
    if diagram.sizes["seed"] > 1:
        decades = spread(diagram)
        said.append(
            f"From seed to seed the kernel distance differs by {float(decades.median()):.2g} decades in the median "
            f"cell and {float(decades.max()):.2g} at most."
        )
    return tuple(said)
