"""Figure 7: aligned and anti-aligned modes, rich or lazy.

The toy model of section 7.1: f = (x/Z) sum_i a_i b_i with a_i, b_i = +-scale, half of the features
a_i b_i / Z aligned with the target and half against it. The paper's figure is a drawing of arrows
without data; this one has the same arrows, in a function space of one dimension, from the flow. Setups:
(a) two units of weights 0.1 and S = 10, (b) two units of weights 1 and S = 0.1, (c) 1000 units,
Z = sqrt(1000) and S = 1. Time is in units of Z/r, r^2 = S^2 + Sigma(0)^2.
"""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from layerflow import theory
from layerflow._problem import Problem
from layerflow._sweep import sweep
from layerflow.engine._grid import static
from layerflow.figures._curves import (
    BLUE,
    VERMILION,
    fine_flow,
    flow_and_theory,
    key_of_styles,
    new_figure,
    panel_title,
    worst,
)
from layerflow.figures._features import SETUPS, Setup
from layerflow.figures._words import listed
from layerflow.networks import LinearNetwork
from layerflow.observables import observable
from layerflow.plot._arrows import BELOW, LEVELS, draw_arrows
from layerflow.tasks import Modes

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Aligned and anti-aligned features: rich dynamics select, lazy dynamics move both a little"
NOTES = (
    "The paper's figure is a drawing without data; setups here: (a) two units, weights 0.1, S = 10; (b) two units, "
    "weights 1, S = 0.1; (c) 1000 units, Z = sqrt(1000), weights 1, S = 1. Half of the units are aligned.",
    "Above: features summed over aligned and over anti-aligned units, as arrows in function space (coordinate of x), "
    "dot: target. Below: broad lines flow, dashed Theorem I.1, dotted the flow with the kernel of the start.",
)

END = 12.0


@observable(long_name="sum of the aligned features")
def aligned(network: PyTree, problem: Problem) -> Float[Array, ""]:
    """(1/Z) sum of a_i b_i over units with a_i b_i S > 0 at the start."""
    return jnp.sum(jnp.where(_features(problem.start) > 0, _features(network), 0.0))


@observable(long_name="sum of the anti-aligned features")
def anti_aligned(network: PyTree, problem: Problem) -> Float[Array, ""]:
    """(1/Z) sum of a_i b_i over units with a_i b_i S < 0 at the start."""
    return jnp.sum(jnp.where(_features(problem.start) < 0, _features(network), 0.0))


@observable(long_name="growth factor γ")
def growth(network: PyTree, problem: Problem) -> Float[Array, ""]:
    """How much the squares of all a_i + b_i have grown."""
    square = lambda network: jnp.sum((network.weights[0][:, 0] + network.weights[1][0]) ** 2)
    return square(network) / square(problem.start)


def _features(network: PyTree) -> Float[Array, " hid"]:
    """a_i b_i / Z of every unit."""
    return network.output_scale * network.weights[0][:, 0] * network.weights[1][0]


def compute(times: int = 300) -> "xarray.Dataset":
    """Features over time by flow, by Theorem I.1 and with the kernel of the start.

    Args:
        times: Number of times, up to t = 12 Z/r.

    Returns:
        Dataset of dimensions setup and t, where t is in units of Z/r.
    """
    starts = {name: _start(setup) for name, setup in SETUPS.items()}

    def toy(setup: str) -> Problem:
        a, b = map(jnp.asarray, starts[setup])
        network = LinearNetwork((a[:, None], b[None, :]), 1 / SETUPS[setup].z)
        return Problem(network, Modes(jnp.ones(1), SETUPS[setup].target), rates=SETUPS[setup].unit)

    ts = np.linspace(0.0, END, times)
    diagram = sweep(
        toy,
        {"setup": static({name: name for name in SETUPS})},
        method=fine_flow(END),
        ts=ts,
        observe=(aligned, anti_aligned, growth),
    )
    diagram["t"].attrs["long_name"] = "time in units of Z/r"
    closed = [_closed_form(setup, *starts[name], ts) for name, setup in SETUPS.items()]
    limits = [theory.scalar_network_limit(*starts[name], setup.target, z=setup.z) for name, setup in SETUPS.items()]
    paths = {name: (("setup", "t"), np.stack([path[name] for path in closed])) for name in closed[0]}
    return diagram.assign(paths).assign(
        final_growth=("setup", np.array([float(limit.growth) for limit in limits]), {"long_name": "γ₊"}),
        target=("setup", np.array([setup.target for setup in SETUPS.values()])),
        width=("setup", np.array([setup.width for setup in SETUPS.values()])),
    )


def _start(setup: Setup) -> tuple[np.ndarray, np.ndarray]:
    """Both layers: a of random signs, b with the sign of a in every second unit and against it in the others."""
    a = np.asarray(jax.random.rademacher(jax.random.key(0), (setup.width,), float))
    return setup.scale * a, setup.scale * a * np.where(np.arange(setup.width) % 2, -1.0, 1.0)


def _closed_form(setup: Setup, a: np.ndarray, b: np.ndarray, ts: np.ndarray) -> dict[str, np.ndarray]:
    """Theorem I.1 for the sums of features, and the output with the kernel of the start."""
    now = theory.scalar_network(setup.unit * ts, a, b, setup.target, z=setup.z)
    features = np.asarray(now.a * now.b) / setup.z
    frozen = theory.frozen_kernel_output(setup.unit * ts, a, b, setup.target, z=setup.z)
    return {
        "predicted_aligned": features[:, a * b > 0].sum(axis=1),
        "predicted_anti_aligned": features[:, a * b < 0].sum(axis=1),
        "frozen_output": np.asarray(frozen),
    }


def draw(diagram: "xarray.Dataset") -> "Figure":
    """The picture: arrows in function space at start and end, and the same over time."""
    figure = new_figure(10.2, 5.0, TITLE)
    axes = figure.subplots(2, 3, height_ratios=(1.0, 1.7))
    for column, name in enumerate(diagram.setup.values):
        one = diagram.isel(setup=column)
        _draw_arrows(axes[0, column], one)
        _draw_paths(axes[1, column], one)
        panel_title(axes[0, column], "abc"[column], f"{SETUPS[str(name)].words}, S = {float(one.target):g}")
        axes[1, column].set(xlabel="time in units of Z/r", xlim=(0, 8))
    axes[1, 0].set_ylabel("coordinate of x")
    key_of_styles(axes[1, 0], on=figure, theory="Theorem I.1", loc="outside lower center", ncols=6)
    return figure


def _draw_arrows(ax: "Axes", one: "xarray.Dataset") -> None:
    """Both sums as arrows and the output as a dashed line, at the start above and at the end below."""
    both = one[["aligned", "anti_aligned"]].to_array("feature")
    draw_arrows(ax, both, target=one.target)
    for level, output in zip(LEVELS.values(), both.sum("feature").values[[0, -1]], strict=True):
        ax.plot([0.0, output], [level + BELOW] * 2, color="black", linestyle="--", linewidth=1.2)


def _draw_paths(ax: "Axes", one: "xarray.Dataset") -> None:
    """Both sums and the output over time."""
    for flow, closed, colour, words in (
        (one.aligned, one.predicted_aligned, BLUE, "aligned"),
        (one.anti_aligned, one.predicted_anti_aligned, VERMILION, "anti-aligned"),
        (
            one.aligned + one.anti_aligned,
            one.predicted_aligned + one.predicted_anti_aligned,
            "0.55",
            "output f",
        ),
    ):
        flow_and_theory(ax, one.t, flow, closed, colour=colour, label=words)
    ax.plot(one.t, one.frozen_output, color="black", linewidth=1.2, linestyle=":", label="f, kernel of the start")


def agreement(diagram: "xarray.Dataset") -> tuple[str, ...]:
    """Final growth, how far features moved, and how far from the kernel of the start."""
    target = diagram.target
    output = diagram.aligned + diagram.anti_aligned
    off = max(
        worst(diagram[name] / target, diagram[f"predicted_{name}"] / target) for name in ("aligned", "anti_aligned")
    )
    lazy = (abs(output - diagram.frozen_output) / target).max("t").values
    first, last = (diagram.isel(t=moment) for moment in (0, -1))
    up, down = last.aligned / first.aligned, last.anti_aligned / first.anti_aligned
    moved = float((last.aligned - first.aligned)[-1]) / (0.5 * float(diagram.width[-1]))
    return (
        f"Sums of features are within {off:.1e} S of Theorem I.1. Growth at the end (rich, small "
        f"target, NTK): {listed(last.growth.values, '.7g')}; theory γ₊ = {listed(diagram.final_growth.values, '.7g')}.",
        f"Rich: the aligned feature grows {float(up[0]):.4g}-fold and the anti-aligned one shrinks to "
        f"{float(down[0]):.2g} of itself. Lazy: they change by {float(up[1]) - 1:+.1%} and {float(down[1]) - 1:+.1%} "
        f"(small target), {float(up[2]) - 1:+.1%} and {float(down[2]) - 1:+.1%} (NTK).",
        f"NTK: one of {int(diagram.width[-1])} features moves by {moved:.2g}, all of them together by "
        f"{float(output[-1, -1]):.3g}.",
        f"Largest distance of f from its flow with the kernel of the start, in units of S: {listed(lazy, '.2g')}.",
    )
