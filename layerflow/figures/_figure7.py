"""Figure 7: aligned and anti-aligned modes, rich or lazy.

The toy model of section 7.1: f = (x/Z) sum_i a_i b_i with a_i, b_i = +-scale, half of the features
a_i b_i / Z aligned with the target and half against it. The paper's figure is a drawing of arrows
without data; this one has the same arrows, in a function space of one dimension, from the flow. Setups:
(a) two units of weights 0.1 and S = 10, (b) two units of weights 1 and S = 0.1, (c) 1000 units,
Z = sqrt(1000) and S = 1. Time is in units of Z/r, r^2 = S^2 + Sigma(0)^2.
"""

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import xarray
from jaxtyping import Array, Float, PyTree
from matplotlib.axes import Axes

import layerflow as lf
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
from layerflow.figures._figure import Claim, Figure

TITLE = "Aligned and anti-aligned features: rich dynamics select, lazy dynamics move both a little"
NOTES = (
    "The paper's figure is a drawing without data; setups here: (a) two units, weights 0.1, S = 10; (b) two units, "
    "weights 1, S = 0.1; (c) 1000 units, Z = sqrt(1000), weights 1, S = 1. Half of the units are aligned.",
    "Above: features summed over aligned and over anti-aligned units, as arrows in function space (coordinate of x), "
    "dot: target. Below: broad lines flow, dashed Theorem I.1, dotted the flow with the kernel of the start.",
)

END = 12.0


@lf.observable(long_name="sum of the aligned features")
def aligned(network: PyTree, problem: lf.Problem) -> Float[Array, ""]:
    """(1/Z) sum of a_i b_i over units with a_i b_i S > 0 at the start."""
    return jnp.sum(jnp.where(_features(problem.start) > 0, _features(network), 0.0))


@lf.observable(long_name="sum of the anti-aligned features")
def anti_aligned(network: PyTree, problem: lf.Problem) -> Float[Array, ""]:
    """(1/Z) sum of a_i b_i over units with a_i b_i S < 0 at the start."""
    return jnp.sum(jnp.where(_features(problem.start) < 0, _features(network), 0.0))


@lf.observable(long_name="growth factor γ")
def growth(network: PyTree, problem: lf.Problem) -> Float[Array, ""]:
    """How much the squares of all a_i + b_i have grown."""
    square = lambda network: jnp.sum((network.weights[0][:, 0] + network.weights[1][0]) ** 2)
    return square(network) / square(problem.start)


def _features(network: PyTree) -> Float[Array, " hid"]:
    """a_i b_i / Z of every unit."""
    return network.output_scale * network.weights[0][:, 0] * network.weights[1][0]


def compute(times: int = 300) -> xarray.Dataset:
    """Features over setup and t, in units of Z/r, by flow, by Theorem I.1 and with the kernel of the start."""
    starts = {name: _start(setup) for name, setup in SETUPS.items()}

    def toy(setup: str) -> lf.Problem:
        a, b = map(jnp.asarray, starts[setup])
        network = lf.LinearNetwork((a[:, None], b[None, :]), 1 / SETUPS[setup].z)
        return lf.Problem(network, lf.Modes(jnp.ones(1), SETUPS[setup].target), rates=SETUPS[setup].unit)

    ts = np.linspace(0.0, END, times)
    diagram = lf.sweep(
        toy,
        {"setup": lf.static({name: name for name in SETUPS})},
        method=fine_flow(END),
        ts=ts,
        observe=(aligned, anti_aligned, growth),
    )
    diagram["t"].attrs["long_name"] = "time in units of Z/r"
    closed = [_closed_form(setup, *starts[name], ts) for name, setup in SETUPS.items()]
    limits = [lf.theory.scalar_network_limit(*starts[name], setup.target, z=setup.z) for name, setup in SETUPS.items()]
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
    now = lf.theory.scalar_network(setup.unit * ts, a, b, setup.target, z=setup.z)
    features = np.asarray(now.a * now.b) / setup.z
    frozen = lf.theory.frozen_kernel_output(setup.unit * ts, a, b, setup.target, z=setup.z)
    return {
        "predicted_aligned": features[:, a * b > 0].sum(axis=1),
        "predicted_anti_aligned": features[:, a * b < 0].sum(axis=1),
        "frozen_output": np.asarray(frozen),
    }


def panels(diagram: xarray.Dataset) -> matplotlib.figure.Figure:
    """The picture: arrows in function space at start and end, and the same over time."""
    figure = new_figure(10.2, 5.0)
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


def _draw_arrows(ax: Axes, one: xarray.Dataset) -> None:
    """Both sums as arrows and the output as a dashed line, at the start above and at the end below."""
    both = one[["aligned", "anti_aligned"]].to_array("feature")
    lf.plot.arrows(both, target=one.target, ax=ax)
    ax.set_xlabel("")
    ax.legend().remove()
    heights = next(np.asarray(line.get_ydata()) for line in ax.lines if line.get_label() == "target")
    for height, output in zip(heights, both.sum("feature").values[[0, -1]], strict=True):
        ax.plot([0.0, output], [height] * 2, color="black", linestyle="--", linewidth=1.2)


def _draw_paths(ax: Axes, one: xarray.Dataset) -> None:
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


def claims(diagram: xarray.Dataset) -> tuple[Claim, ...]:
    """Features grow as Theorem I.1 says; rich ones select, lazy ones hardly move the kernel."""
    target, output = diagram.target, diagram.aligned + diagram.anti_aligned
    sums = ("aligned", "anti_aligned")
    off = max(worst(diagram[name] / target, diagram[f"predicted_{name}"] / target) for name in sums)
    apart = (abs(output - diagram.frozen_output) / target).max("t").values
    grown = diagram[["aligned", "anti_aligned"]].isel(t=-1) / diagram[["aligned", "anti_aligned"]].isel(t=0)
    width = diagram.width[-1]
    moved = diagram.aligned[-1].diff("t").sum() / (width / 2)
    setups = "rich, small target and NTK"
    return (
        Claim.between("Largest distance of sums of features from Theorem I.1, in units of S", off, high=1e-6),
        Claim.near(f"Growth of the aligned features, {setups}", grown.aligned, diagram.final_growth, rtol=1e-6),
        Claim.near("Growth of the anti-aligned ones", grown.anti_aligned, 1 / diagram.final_growth, rtol=1e-4),
        # O(1/p), while all of them together move by S.
        Claim.near("Distance that one of the NTK's features moves, over S", moved / target[-1], 1 / width, rtol=0.05),
        Claim.between("Rich: largest distance of f from its flow with a frozen kernel, in S", apart[0], low=0.9),
        Claim.between("Lazy: the same, small target and NTK", apart[1:], high=1e-3),
    )


FIGURE = Figure(TITLE, NOTES, compute, panels, claims)
