"""Figure 3: exponential against sigmoidal, stage-like saturation of modes.

Three modes of one target and unequal input variances E, learned by a linear model from zero (Eq. 10)
and by a diagonal network of two equal small layers (Eq. 9). Recipe: S = 1, E = 0.5, 0.2, 0.1, t up to
99; the strength at the start, 9.8e-6, is read off the published graphic. The curves drawn there run
at 0.6 (linear) and 0.7 (layerwise) of the speeds that its legend states; here they run at those of
the equations, and `linear_speed=0.6, layerwise_speed=0.7` gives the drawing's.
"""

import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import xarray

import layerflow as lf
from layerflow.figures._curves import (
    fine_flow,
    flow_and_theory,
    key_of_styles,
    new_figure,
    panel_title,
    worst,
)
from layerflow.figures._figure import Claim, Figure

TITLE = "Modes saturate all at once in a linear model, in stages in a layerwise one"
NOTES = (
    "Broad lines: integrated flow; dashed: Eqs. 10 and 9. S = 1 for all modes, and u(0) = 9.8e-6, as read off the "
    "published graphic, where the layerwise model starts.",
    "The published curves run at 0.6 (linear) and 0.7 (layerwise) of the speeds in their legend; these run at the "
    "speeds of the equations.",
)

TARGET, START, END = 1.0, 9.8e-6, 99.0
VARIANCE = np.array([0.5, 0.2, 0.1])


def compute(times: int = 400, linear_speed: float = 1.0, layerwise_speed: float = 1.0) -> xarray.Dataset:
    """Mode strengths over model, t and mode, by flow and by closed form, and when each has half of its target.

    `linear_speed=0.6, layerwise_speed=0.7` gives the speeds of the drawing.
    """
    variances = {"linear": linear_speed * VARIANCE, "layerwise": layerwise_speed * VARIANCE}

    def modes(model: str) -> lf.Problem:
        start = lf.linear_model(jnp.zeros(3)) if model == "linear" else lf.skill_network(jnp.full(3, START))
        return lf.Problem(start, lf.Modes(jnp.asarray(variances[model]), TARGET))

    ts = np.linspace(0.0, END, times)
    diagram = lf.sweep(
        modes,
        {"model": lf.static({name: name for name in variances})},
        method=fine_flow(END),
        ts=ts,
        observe=lf.mode_strengths,
        summary=lf.half_times,
    )
    linear, layerwise = variances.values()
    closed = [
        lf.theory.exponential(ts[:, None], 0.0, TARGET, linear),
        lf.theory.sigmoidal(ts[:, None], START, TARGET, layerwise),
    ]
    halves = [
        lf.theory.exponential_time(0.5, 0.0, TARGET, linear),
        lf.theory.sigmoidal_time(0.5, START, TARGET, layerwise),
    ]
    return diagram.assign(
        closed_form=(("model", "t", "mode"), np.stack(closed), {"long_name": "mode strength, Eqs. 10 and 9"}),
        predicted_half_times=(("model", "mode"), np.stack(halves), {"long_name": "half-time, Eqs. 10 and 9"}),
    ).assign_coords(variance=("mode", VARIANCE, {"long_name": "E", "units": "1"}))


def panels(diagram: xarray.Dataset) -> matplotlib.figure.Figure:
    """The picture."""
    figure = new_figure(7.6, 3.2)
    titles = ("linear model, $\\theta_i$", "diagonal network, $a_i b_i$")
    for number, (ax, words) in enumerate(zip(figure.subplots(1, 2, sharey=True), titles, strict=True)):
        model = diagram.isel(model=number)
        for mode, colour in enumerate(lf.plot.PALETTE[: diagram.sizes["mode"]]):
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


def claims(diagram: xarray.Dataset) -> tuple[Claim, ...]:
    """The flow is that of Eqs. 10 and 9, and modes saturate all at once or in stages."""
    strengths, t = diagram.mode_strengths.values / TARGET, diagram.t.values
    learned = [np.interp(0.9, model[:, 0], t) for model in strengths]
    second = [np.interp(at, t, model[:, 1]) for at, model in zip(learned, strengths, strict=True)]
    then = "Second mode over its target when the first has 90 % of its own, in the"
    return (
        Claim.between(
            "Largest distance of the flow from the exponentials (Eq. 10) and sigmoids (Eq. 9)",
            worst(diagram.mode_strengths, diagram.closed_form),
            high=1e-7,
        ),
        *(
            Claim.near(
                f"Half-times in the {model.model.item()} model", model.half_times, model.predicted_half_times, rtol=0.01
            )
            for model in (diagram.isel(model=0), diagram.isel(model=1))
        ),
        # All at once: 1 - 0.1^(E2/E1).
        Claim.near(f"{then} linear model", second[0], 1 - 0.1 ** (VARIANCE[1] / VARIANCE[0]), atol=0.01),
        Claim.between(f"{then} layerwise model, which learns in stages", second[1], high=0.05),
    )


FIGURE = Figure(TITLE, NOTES, compute, panels, claims)
