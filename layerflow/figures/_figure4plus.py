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

from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import xarray
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

import layerflow as lf
from layerflow.figures._curves import handle, new_figure
from layerflow.figures._figure import Claim, Figure, told
from layerflow.figures._skill_losses import START, TARGET, loss_in_time, losses
from layerflow.figures._words import facts

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


def compute(grid: int = 25, n_skills: int = 100_000) -> xarray.Dataset:
    """Loss over resource, alpha and point, its law and exponents; over `t` that of the flow; and the best N."""
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


def _laws(alpha: float) -> dict[str, lf.theory.ScalingLaw]:
    """The laws of infinitely many skills."""
    compute_law = lf.theory.compute_law(alpha, START, TARGET)
    return {
        "time": lf.theory.time_law(alpha, START, TARGET),
        "data": lf.theory.data_law(alpha, TARGET),
        "parameters": lf.theory.parameter_law(alpha, TARGET),
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


def _flow(n_skills: int) -> xarray.Dataset:
    """The loss of the diagonal network along its flow, one mode per skill."""

    def skills(alpha: jax.Array) -> lf.Problem:
        layer = jnp.full(n_skills, START**0.5)
        task = lf.Modes(variance=lf.theory.skill_frequencies(n_skills, alpha), target=TARGET)
        return lf.Problem(lf.DiagonalNetwork((layer, layer)), task)

    ts = np.geomspace(3, FLOW_TO, 9)
    return lf.sweep(
        skills, {"alpha": np.array(ALPHAS)}, method=lf.Flow(t1=FLOW_TO), ts=ts, observe=lf.loss, progress=False
    )


def panels(diagram: xarray.Dataset) -> matplotlib.figure.Figure:
    """One panel per resource, and the best number of parameters over compute."""
    figure = new_figure(10.0, 6.2, f"{TITLE} ({diagram.attrs['n_skills']:,} skills)")
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
    return figure


_COLOURS = lf.plot.PALETTE[: len(ALPHAS)]


def _draw_panel(
    ax: Axes,
    spent: xarray.DataArray,
    values: xarray.DataArray,
    law: xarray.DataArray,
    diagram: xarray.Dataset,
    exponents: tuple[xarray.DataArray, xarray.DataArray],
) -> None:
    """Laws as lines, sums as points, filled where exponents are fitted."""
    window = diagram.in_window.values
    for i, colour in enumerate(_COLOURS):
        predicted, fitted = (told(exponent[i], ".3f") for exponent in exponents)
        ax.plot(spent[i], law[i], color=colour, linewidth=1.2, label=f"{predicted}, fitted {fitted}")
        ax.plot(spent[i][window], values[i][window], ".", color=colour, markersize=6)
        ax.plot(spent[i][~window], values[i][~window], ".", color=colour, markersize=6, markerfacecolor="white")
    ax.set(xscale="log", yscale="log")
    ax.legend(title="exponent", fontsize="x-small", title_fontsize="x-small", frameon=False)


def _key() -> list[Line2D]:
    """Colours and marks."""
    grey: dict[str, Any] = {"color": "0.3", "linestyle": ""}
    return [
        *(handle(f"α = {alpha}", color=colour, linewidth=3) for alpha, colour in zip(ALPHAS, _COLOURS, strict=True)),
        handle("law of infinitely many skills", color="0.3"),
        handle("sum over skills, in the window of the fit", marker=".", **grey),
        handle("sum over skills, outside of it", marker=".", markerfacecolor="white", **grey),
        handle("flow of the diagonal network", marker="o", markersize=7, markerfacecolor="none", **grey),
    ]


def claims(diagram: xarray.Dataset) -> tuple[Claim, ...]:
    """Exponents are the predicted ones, constants too where the tail is light, and flow and sum are one."""
    of = f"for α = {told(diagram.alpha)}"
    resources = [diagram.sel(resource=name) for name in RESOURCES]
    # The heavier the tail of skills, the more a finite number of them bends the curves: most at small alpha.
    lightest = (diagram.loss / diagram.law).isel(alpha=-1).values[:, diagram.in_window.values]
    return (
        *(
            Claim.near(f"Exponents of the loss over {name}, {of}", here.fitted, here.predicted, atol=0.05)
            for name, here in zip(RESOURCES, resources, strict=True)
        ),
        Claim.near(
            f"Exponents of the best number of parameters over compute, {of}",
            diagram.best_fitted,
            diagram.best_predicted,
            atol=0.05,
        ),
        Claim.between(
            f"Least and largest loss over its law at α = {ALPHAS[-1]:g}",
            (lightest.min(initial=np.inf), lightest.max(initial=-np.inf)),
            0.95,
            1.05,
        ),
        # A hundred steps of rtol 1e-6 each.
        Claim.between("Largest relative distance of the flow's loss from the sum's", flow_error(diagram), high=1e-3),
    )


def flow_error(diagram: xarray.Dataset) -> float:
    """Largest relative difference of the flow's loss from the closed form, summed over skills."""
    skills = int(diagram.attrs["n_skills"])
    frequencies = [lf.theory.skill_frequencies(skills, float(alpha)) for alpha in diagram.alpha]
    expected = [[float(loss_in_time(t, frequency)) for t in diagram.t.values] for frequency in frequencies]
    return float(abs(diagram.flow_loss.values / np.array(expected) - 1).max())


FIGURE = Figure(TITLE, NOTES, compute, panels, claims)
