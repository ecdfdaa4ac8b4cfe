"""Figure 4+: scaling laws of the skill model in time, data, parameters and compute.

A hundred thousand skills of frequencies p_k ~ k^-(alpha + 1) are learned one after the other; what is
left of the loss is a power of what is spent, with the exponents

    time, data   -alpha / (alpha + 1)        parameters   -alpha        compute   -alpha / (alpha + 2).

Points are sums over all skills, for compute the least over the number of parameters N at compute
N t; circles are the flow of the diagonal network. Exponents are fitted where the law of infinitely many
skills holds: from when ten skills are learned (fewer are no continuum) to when a thousandth of all are
(later the missing tail of the sum bends the curve down, most at small alpha).

References:
    Nam et al. (2024), arXiv:2404.17563; Nam et al. (2025), arXiv:2502.21009, Section 4.4.
"""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from layerflow import theory
from layerflow._problem import Problem
from layerflow._sweep import sweep
from layerflow.figures._curves import PALETTE
from layerflow.figures._skill_losses import START, TARGET, loss_in_time, losses
from layerflow.figures._words import facts, listed
from layerflow.methods import Flow
from layerflow.networks import DiagonalNetwork
from layerflow.observables import loss
from layerflow.tasks import Modes

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

TITLE = "Scaling laws of the skill model in time, data, parameters and compute"
NOTES = (
    "Points: the loss summed over all skills, for compute its least over the number of parameters. Circles: the flow "
    "of the diagonal network. Lines: the laws for infinitely many skills, constants included; nothing is fitted to "
    "draw them.",
    "Exponents are fitted to the filled points, from when ten skills are learned to when a thousandth of all are; "
    "later the tail that a finite number of skills lacks bends the curves down.",
)

ALPHAS = (0.3, 0.6, 0.9)
RESOURCES = {
    "time": "time t",
    "data": "samples D",
    "parameters": "parameters N",
    "compute": "compute N t",
}
FEWEST, LARGEST_SHARE = 10, 1e-3  # skills learned where the window of a fit begins, and their share where it ends
FLOW_TO = 300.0  # the flow goes to this time; the closed form to all


def compute(grid: int = 25, n_skills: int = 100_000) -> "xarray.Dataset":
    """Loss over four resources, for three exponents of the frequencies.

    Args:
        grid: Points along each resource.
        n_skills: Number of skills.

    Returns:
        Dataset of dimensions resource, alpha and point: `spent`, `loss`, the `law`, and `in_window`; per resource
        and alpha the `predicted` and `fitted` exponents; over `t` the `flow_loss`; over compute the best number of
        parameters, its law and both exponents.
    """
    import xarray

    learned = np.geomspace(2, n_skills / 30, grid)
    window = (learned >= FEWEST) & (learned <= LARGEST_SHARE * n_skills)
    rows = [losses(alpha, learned, n_skills) for alpha in ALPHAS]
    laws = [_laws(alpha) for alpha in ALPHAS]
    spent = np.array([[row[name][0] for row in rows] for name in RESOURCES])
    summed = np.array([[row[name][1] for row in rows] for name in RESOURCES])
    law = [[law[name](row[name][0]) for law, row in zip(laws, rows, strict=True)] for name in RESOURCES]
    best = np.array([row["compute"][2] for row in rows])
    best_law = [law["best"](row["compute"][0]) for law, row in zip(laws, rows, strict=True)]
    predicted = [[float(law[name].exponent) for law in laws] for name in RESOURCES]
    flow = _flow(n_skills)
    every = ("resource", "alpha", "point")
    return xarray.Dataset(
        {
            "spent": (every, spent),
            "loss": (every, summed),
            "law": (every, np.array(law)),
            "in_window": ("point", window),
            "predicted": (every[:2], np.array(predicted)),
            "fitted": (every[:2], _slopes(spent, summed, window)),
            "best_parameters": (every[1:], best),
            "best_law": (every[1:], np.array(best_law)),
            "best_predicted": ("alpha", np.array([float(law["best"].exponent) for law in laws])),
            "best_fitted": ("alpha", _slopes(spent[-1], best, window)),
            "flow_loss": (("alpha", "t"), flow.loss.values),
        },
        {"resource": list(RESOURCES), "alpha": list(ALPHAS), "t": flow.t.values},
        attrs=facts(flow) | {"n_skills": n_skills},
    )


def _laws(alpha: float) -> dict[str, theory.ScalingLaw]:
    """The laws of infinitely many skills."""
    compute_law = theory.compute_law(alpha, START, TARGET)
    return {
        "time": theory.time_law(alpha, START, TARGET),
        "data": theory.data_law(alpha, TARGET),
        "parameters": theory.parameter_law(alpha, TARGET),
        "compute": compute_law.loss,
        "best": compute_law.parameters,
    }


def _slopes(spent: np.ndarray, values: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Slopes of log values over log spent in the window, by least squares along the last axis."""
    if window.sum() < 2:
        return np.full(values.shape[:-1], np.nan)
    x, y = np.log(spent[..., window]), np.log(values[..., window])
    x, y = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
    return (x * y).sum(-1) / (x * x).sum(-1)


def _flow(n_skills: int) -> "xarray.Dataset":
    """The loss of the diagonal network along its flow, one mode per skill."""

    def skills(alpha: jax.Array) -> Problem:
        layer = jnp.full(n_skills, START**0.5)
        task = Modes(variance=theory.skill_frequencies(n_skills, alpha), target=TARGET)
        return Problem(DiagonalNetwork((layer, layer)), task)

    ts = np.geomspace(3, FLOW_TO, 9)
    return sweep(skills, {"alpha": np.array(ALPHAS)}, method=Flow(t1=FLOW_TO), ts=ts, observe=loss, progress=False)


def draw(diagram: "xarray.Dataset") -> "Figure":
    """One panel per resource, and the best number of parameters over compute."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 6.2), layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    for ax, name in zip(axes, RESOURCES, strict=False):
        here = diagram.sel(resource=name)
        _draw_panel(ax, here.spent, here.loss, here.law, diagram, (here.predicted, here.fitted))
        ax.set(xlabel=RESOURCES[name], ylabel="loss")
    for i, colour in enumerate(_COLOURS):
        axes[0].plot(diagram.t, diagram.flow_loss[i], "o", color=colour, markersize=7, markerfacecolor="none")
    here = diagram.sel(resource="compute")
    exponents = (diagram.best_predicted, diagram.best_fitted)
    _draw_panel(axes[4], here.spent, diagram.best_parameters, diagram.best_law, diagram, exponents)
    axes[4].set(xlabel=RESOURCES["compute"], ylabel="best number of parameters N*")
    axes[5].axis("off")
    axes[5].legend(handles=_key(), fontsize="small", loc="center", frameon=False)
    figure.suptitle(f"{TITLE} ({diagram.attrs['n_skills']:,} skills)", fontsize="medium")
    return figure


_COLOURS = PALETTE[: len(ALPHAS)]


def _draw_panel(
    ax: "Axes",
    spent: "xarray.DataArray",
    values: "xarray.DataArray",
    law: "xarray.DataArray",
    diagram: "xarray.Dataset",
    exponents: "tuple[xarray.DataArray, xarray.DataArray]",
) -> None:
    """Laws as lines, sums as points, filled where exponents are fitted."""
    window = diagram.in_window.values
    for i, colour in enumerate(_COLOURS):
        predicted, fitted = (listed([exponent[i]], ".3f") for exponent in exponents)
        ax.plot(spent[i], law[i], color=colour, linewidth=1.2, label=f"{predicted}, fitted {fitted}")
        ax.plot(spent[i][window], values[i][window], ".", color=colour, markersize=6)
        ax.plot(spent[i][~window], values[i][~window], ".", color=colour, markersize=6, markerfacecolor="white")
    ax.set(xscale="log", yscale="log")
    ax.legend(title="exponent", fontsize="x-small", title_fontsize="x-small", frameon=False)


def _key() -> "list[Line2D]":
    """Colours and marks."""
    from matplotlib.lines import Line2D

    colours = [
        Line2D([], [], color=colour, linewidth=3, label=f"α = {alpha}")
        for alpha, colour in zip(ALPHAS, _COLOURS, strict=True)
    ]
    grey: dict[str, Any] = {"color": "0.3", "linestyle": ""}
    return [
        *colours,
        Line2D([], [], color="0.3", label="law of infinitely many skills"),
        Line2D([], [], marker=".", label="sum over skills, in the window of the fit", **grey),
        Line2D([], [], marker=".", markerfacecolor="white", label="sum over skills, outside of it", **grey),
        Line2D([], [], marker="o", markersize=7, markerfacecolor="none", label="flow of the diagonal network", **grey),
    ]


def agreement(diagram: "xarray.Dataset") -> tuple[str, ...]:
    """Fitted exponents beside the predicted ones, constants, and how far flow and sum are apart."""
    flow = f"The flow of all {diagram.attrs['n_skills']:,} modes is within {flow_error(diagram):.1g} of the sum's loss."
    if diagram.in_window.sum() < 2:
        return ("Too few points lie in the window of the fits. Take more skills or a larger grid.", flow)
    worst = float(abs(diagram.fitted - diagram.predicted).max())
    return (
        *(_on_law(diagram, name) for name in RESOURCES),
        f"Best number of parameters over compute: exponents fitted {listed(diagram.best_fitted, '.3f')}, predicted "
        f"{listed(diagram.best_predicted, '.3f')}.",
        f"No exponent of the loss is farther than {worst:.3f} from its prediction. The heavier the tail of skills, the "
        f"more a finite number of them bends the curves: most at α = {ALPHAS[0]:g}.",
        flow,
    )


def _on_law(diagram: "xarray.Dataset", resource: str) -> str:
    """Exponents and constants for one resource."""
    here = diagram.sel(resource=resource)
    ratio = (here.loss / here.law).values[:, diagram.in_window.values]
    return (
        f"Loss over {resource}: exponents fitted {listed(here.fitted, '.3f')}, predicted "
        f"{listed(here.predicted, '.3f')} (α = {listed(here.alpha, 'g')}); the sum is {ratio.min():.2f} to "
        f"{ratio.max():.2f} of the law."
    )


def flow_error(diagram: "xarray.Dataset") -> float:
    """Largest relative difference of the flow's loss from the closed form, summed over skills."""
    skills = int(diagram.attrs["n_skills"])
    frequencies = [theory.skill_frequencies(skills, float(alpha)) for alpha in diagram.alpha]
    expected = [[float(loss_in_time(t, frequency)) for t in diagram.t.values] for frequency in frequencies]
    return float(abs(diagram.flow_loss.values / np.array(expected) - 1).max())
