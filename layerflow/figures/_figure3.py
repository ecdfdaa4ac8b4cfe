"""Figure 3: exponential against sigmoidal, stage-like saturation of modes.

Three modes of one target and unequal input variances E, learned by a linear model from zero (Eq. 10)
and by a diagonal network of two equal small layers (Eq. 9). Recipe: S = 1, E = 0.5, 0.2, 0.1, t up to
99; the strength at the start, 9.8e-6, is read off the published graphic. The curves drawn there run
at 0.6 (linear) and 0.7 (layerwise) of the speeds that its legend states; here they run at those of
the equations, and `linear_speed=0.6, layerwise_speed=0.7` gives the drawing's.
"""

from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from layerflow import theory
from layerflow._problem import Problem
from layerflow._sweep import sweep
from layerflow.engine._grid import static
from layerflow.figures._curves import (
    PALETTE,
    fine_flow,
    flow_and_theory,
    key_of_styles,
    new_figure,
    panel_title,
    worst,
)
from layerflow.figures._words import listed
from layerflow.networks import linear_model, skill_network
from layerflow.observables import mode_strengths
from layerflow.summaries import half_times
from layerflow.tasks import Modes

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

TITLE = "Modes saturate all at once in a linear model, in stages in a layerwise one"
NOTES = (
    "Broad lines: integrated flow; dashed: Eqs. 10 and 9. S = 1 for all modes, and u(0) = 9.8e-6, as read off the "
    "published graphic, where the layerwise model starts.",
    "The published curves run at 0.6 (linear) and 0.7 (layerwise) of the speeds in their legend; these run at the "
    "speeds of the equations.",
)

TARGET, START, END = 1.0, 9.8e-6, 99.0
VARIANCE = np.array([0.5, 0.2, 0.1])


def compute(times: int = 400, linear_speed: float = 1.0, layerwise_speed: float = 1.0) -> "xarray.Dataset":
    """Mode strengths over time by flow and by closed form, and when each mode has half of its target.

    Args:
        times: Number of times up to t = 99.
        linear_speed, layerwise_speed: Factors on the speeds; 0.6 and 0.7 give those of the drawing.

    Returns:
        Dataset of dimensions model, t, mode.
    """
    variances = {"linear": linear_speed * VARIANCE, "layerwise": layerwise_speed * VARIANCE}

    def modes(model: str) -> Problem:
        start = linear_model(jnp.zeros(3)) if model == "linear" else skill_network(jnp.full(3, START))
        return Problem(start, Modes(jnp.asarray(variances[model]), TARGET))

    ts = np.linspace(0.0, END, times)
    diagram = sweep(
        modes,
        {"model": static({name: name for name in variances})},
        method=fine_flow(END),
        ts=ts,
        observe=mode_strengths,
        summary=half_times,
    )
    linear, layerwise = variances.values()
    closed = [
        theory.exponential(ts[:, None], 0.0, TARGET, linear),
        theory.sigmoidal(ts[:, None], START, TARGET, layerwise),
    ]
    halves = [theory.exponential_time(0.5, 0.0, TARGET, linear), theory.sigmoidal_time(0.5, START, TARGET, layerwise)]
    return diagram.assign(
        closed_form=(("model", "t", "mode"), np.stack(closed), {"long_name": "mode strength, Eqs. 10 and 9"}),
        predicted_half_times=(("model", "mode"), np.stack(halves), {"long_name": "half-time, Eqs. 10 and 9"}),
    ).assign_coords(variance=("mode", VARIANCE, {"long_name": "E", "units": "1"}))


def draw(diagram: "xarray.Dataset") -> "Figure":
    """The picture."""
    figure = new_figure(7.6, 3.2, TITLE)
    titles = ("linear model, $\\theta_i$", "diagonal network, $a_i b_i$")
    for number, (ax, words) in enumerate(zip(figure.subplots(1, 2, sharey=True), titles, strict=True)):
        model = diagram.isel(model=number)
        for mode, colour in enumerate(PALETTE[: diagram.sizes["mode"]]):
            one = model.isel(mode=mode)
            flow_and_theory(
                ax,
                diagram.t,
                one.mode_strengths / TARGET,
                one.closed_form / TARGET,
                colour=colour,
                label=f"E = {float(one.variance):g}",
            )
        panel_title(ax, "ab"[number], words)
        ax.set(xlabel="gradient-flow time t", xlim=(0, float(diagram.t[-1])), ylim=(-0.02, 1.05))
    figure.axes[0].set_ylabel("strength over target")
    key_of_styles(figure.axes[0], loc="lower right")
    return figure


def agreement(diagram: "xarray.Dataset") -> tuple[str, ...]:
    """How far the flow is from Eqs. 10 and 9, when modes are learned, and how far stages are apart."""
    off = worst(diagram.mode_strengths, diagram.closed_form)
    halves, predicted = diagram.half_times.values, diagram.predicted_half_times.values
    at_ninety = _second_when_first_is_learned(diagram)
    return (
        f"The flow is within {off:.1e} of the exponentials (Eq. 10) and sigmoids (Eq. 9), in units of the target.",
        f"Half-times for E = {listed(diagram.variance.values, '.3g')}: linear {listed(halves[0], '.3g')} (theory "
        f"{listed(predicted[0], '.3g')}), layerwise {listed(halves[1], '.3g')} (theory {listed(predicted[1], '.3g')}).",
        f"When the first mode has 90 % of its target, the second has {at_ninety[0]:.0%} in the linear model, where all "
        f"saturate at once, and {at_ninety[1]:.2%} in the layerwise one, which learns in stages, as the paper says.",
    )


def _second_when_first_is_learned(diagram: "xarray.Dataset") -> list[float]:
    """Strength of the second mode when the first has 90 per cent, in units of the target."""
    strengths = diagram.mode_strengths.values / TARGET
    learned = [np.interp(0.9, model[:, 0], diagram.t.values) for model in strengths]
    return [float(np.interp(t, diagram.t.values, model[:, 1])) for t, model in zip(learned, strengths, strict=True)]
