"""`diagram.lf`: what can be asked of a diagram. Imported as soon as xarray is, be it with layerflow or later."""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import xarray
from jaxtyping import ArrayLike

from layerflow._replay import replay, retry
from layerflow._trajectory import Trajectory
from layerflow.base._card import Card
from layerflow.diagrams._array import axes_of, chosen, over_seeds
from layerflow.diagrams._boundary import boundary
from layerflow.diagrams._dataset import card_of, failed_of
from layerflow.diagrams._failures import failures
from layerflow.diagrams._provenance import provenance
from layerflow.methods import Method
from layerflow.plot._curves import curves
from layerflow.plot._heatmap import heatmap
from layerflow.sweeps._cell_function import CellFunction

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes


def _hands_on_to(function: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Append to the docstring of a method that of the function behind it, but for the example."""

    def say(method: Callable[..., Any]) -> Callable[..., Any]:
        said = inspect.cleandoc(function.__doc__ or "").partition("\nExample:")[0].rstrip()
        method.__doc__ = f"{method.__doc__}\n\n`lf.{function.__name__}`, with this diagram given: {said}"
        return method

    return say


@xarray.register_dataset_accessor("lf")
class DiagramAccessor:
    """What can be asked of a diagram, as methods: `lf.failures(diagram)` is `diagram.lf.failures()`.

    Displayed, it is the card of the diagram.

    Example:
        >>> import jax.numpy as jnp, layerflow as lf
        >>> def cell(target):
        ...     return lf.Problem(lf.linear_model(jnp.zeros(1)), lf.Modes(jnp.ones(1), target))
        >>> diagram = lf.sweep(cell, {"target": [1.0, 2.0]}, method=lf.Flow(t1=9.0))
        >>> len(diagram.lf.failures())
        0
    """

    def __init__(self, diagram: xarray.Dataset) -> None:
        self._diagram = diagram

    @property
    def card(self) -> Card:
        """What the diagram is and whether to trust it: sizes, method, failures, steps, seconds, memory."""
        return card_of(self._diagram)

    @property
    def failed(self) -> xarray.DataArray:
        """Whether each cell failed, a Boolean per cell: `diagram.loss.where(~diagram.lf.failed)`."""
        return failed_of(self._diagram)

    def __repr__(self) -> str:
        return str(self.card)

    def _repr_html_(self) -> str:
        return self.card.html

    def plot(self, variable: str | None = None, **how: Any) -> "Axes":
        """Draw a variable: over two axes of the sweep as a heat map, else as curves.

        A heat map shows the mean over seeds, with log=True the geometric one; curves have a band.

        Args:
            variable: Which variable; may be left out if there is one.
            **how: What else `lf.plot.heatmap` or `lf.plot.curves` takes.

        Returns:
            The matplotlib Axes.

        Raises:
            ValueError: As these do; select or reduce what dimensions are left over.
        """
        array, axes = chosen(self._diagram, variable), axes_of(self._diagram)
        long = [dim for dim, size in array.sizes.items() if size > 1 and dim != "seed"]
        if len(long) != 2 or not set(long) <= set(axes):
            return curves(array, **how)
        return heatmap(over_seeds(array, log=how.get("log", False)) if "seed" in array.dims else array, **how)

    @_hands_on_to(boundary)
    def boundary(
        self, level: ArrayLike | str | tuple[str, str], variable: str | None = None, **how: Any
    ) -> xarray.Dataset:
        """Find the line along which a variable takes one value or changes fastest, or between two classes."""
        return boundary(chosen(self._diagram, variable), level, **how)

    @_hands_on_to(failures)
    def failures(self) -> "pandas.DataFrame":
        """The cells that failed."""
        return failures(self._diagram)

    @_hands_on_to(replay)
    def replay(self, cell: CellFunction, /, **how: Any) -> Trajectory:
        """Run one cell alone: `diagram.lf.replay(cell, lam=3.0, seed=1)`."""
        return replay(cell, self._diagram, **how)

    @_hands_on_to(retry)
    def retry(self, cell: CellFunction, method: Method, **how: Any) -> xarray.Dataset:
        """Run the cells that failed again, by another method."""
        return retry(cell, self._diagram, method, **how)

    @_hands_on_to(provenance)
    def provenance(self) -> str:
        """Say how it was made, in a paragraph for the appendix of a paper."""
        return provenance(self._diagram)
