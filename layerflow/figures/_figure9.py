"""Figure 9: the same as Figure 7 in a function space of two dimensions.

Linear networks f = (1/Z) sum_k b_k w_k . x of two inputs, whose features h_k = b_k w_k / Z (Eq. 24) are
arrows in the plane of coordinates of x_1 and x_2 (appendix C.5). The paper's figure is a drawing
without data; here the arrows come from the flow. Units come in pairs (w, b), (w, -b), so that f(0) = 0
and one feature of each pair is aligned with the target, the other against it. Setups are those of
Figure 7; at 40 degrees to the target in (a) and (b), in random directions in (c).

There is no closed form of these paths. What theory says: with the kernel of the start,
f(t) = S - e^{-K t / Z^2} S with K = sum_k (w_k w_k^T + b_k^2 I), to which lazy dynamics come; and from
small weights all (w_k, b_k) grow along (S/|S|, 1), so that the features end at the shares
c_k^2 / sum_j c_j^2 of the target, c_k = w_k . S/|S| + b_k, whatever their direction was.
"""

from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import xarray
from jaxtyping import Array, Float, PyTree
from matplotlib.axes import Axes

import layerflow as lf
from layerflow.figures._curves import GREY, fine_flow, new_figure, panel_title, worst
from layerflow.figures._features import SETUPS, Setup
from layerflow.figures._figure import Claim, Figure

TITLE = "Features in function space: they turn to the target in rich dynamics, and hardly move in lazy ones"
NOTES = (
    "The paper's figure is a drawing without data; setups as in Figure 7, with two inputs. Pale: features at "
    "the start, full: at the end, thin: their way; black dashed: output; grey, to the cross: the flow with the kernel "
    "of the start for as long.",
    "Panel (c) shows 12 of 1000 features, ten times as long as they are; so near do start and end lie.",
)

END, SHOWN, MAGNIFIED = 12.0, 12, 10.0
ANGLE, TARGET_ANGLE = np.deg2rad(10.0), np.deg2rad(50.0)


@lf.observable(dims=("coordinate",), long_name="output f")
def output(network: PyTree, problem: lf.Problem) -> Float[Array, " coordinate"]:  # noqa: ARG001
    """The function, in coordinates of x_1 and x_2."""
    return network.matrix[0]


@lf.observable(dims=("feature", "coordinate"), long_name="features")
def features(network: PyTree, problem: lf.Problem) -> Float[Array, "feature coordinate"]:  # noqa: ARG001
    """The first features h_k = b_k w_k / Z; zero where a network has fewer."""
    first, last = network.weights
    shown = (network.output_scale * last[0][:, None] * first)[:SHOWN]
    return jnp.concatenate([shown, jnp.zeros((SHOWN - len(shown), 2), shown.dtype)])


def compute(times: int = 300) -> xarray.Dataset:
    """Output and features over setup and t, in units of Z/r, by flow, and what theory says of the limits."""
    direction = np.array([np.cos(TARGET_ANGLE), np.sin(TARGET_ANGLE)])
    starts = {name: _start(setup) for name, setup in SETUPS.items()}

    def plane(setup: str) -> lf.Problem:
        w, b = map(jnp.asarray, starts[setup])
        target = jnp.asarray(SETUPS[setup].target * direction)
        network = lf.LinearNetwork((w, b[None, :]), 1 / SETUPS[setup].z)
        return lf.Problem(network, lf.Modes(1.0, target), rates=SETUPS[setup].unit)

    ts = np.linspace(0.0, END, times)
    axes = {"setup": lf.static({name: name for name in SETUPS})}
    diagram = lf.sweep(plane, axes, method=fine_flow(END), ts=ts, observe=(output, features))
    diagram["t"].attrs["long_name"] = "time in units of Z/r"
    targets = {name: setup.target * direction for name, setup in SETUPS.items()}
    frozen = [_frozen(*starts[name], targets[name], setup.z, setup.unit * ts) for name, setup in SETUPS.items()]
    shares = [_shares(*starts[name], direction) for name in SETUPS]
    return diagram.assign(
        frozen_output=(("setup", "t", "coordinate"), np.stack(frozen), {"long_name": "f, kernel of the start"}),
        predicted_share=(("setup", "feature"), np.stack(shares), {"long_name": "share of the target, small weights"}),
        target=(("setup", "coordinate"), np.stack(list(targets.values())), {"long_name": "S"}),
        shown=("setup", np.array([min(setup.width, SHOWN) for setup in SETUPS.values()])),
    )


def _start(setup: Setup) -> tuple[np.ndarray, np.ndarray]:
    """w of shape (width, 2), each direction twice, and b of alternating sign."""
    pairs = setup.width // 2
    angles = np.asarray(2 * np.pi * jax.random.uniform(jax.random.key(3), (pairs,))) if pairs > 1 else np.array([ANGLE])
    w = np.repeat(np.stack([np.cos(angles), np.sin(angles)], axis=1), 2, axis=0)
    return setup.scale * w, setup.scale * np.where(np.arange(setup.width) % 2, -1.0, 1.0)


def _frozen(w: np.ndarray, b: np.ndarray, target: np.ndarray, z: float, ts: np.ndarray) -> np.ndarray:
    """f(t) = S - e^{-K t / Z^2} S, from f(0) = 0."""
    rates, axes = np.linalg.eigh((w.T @ w + np.sum(b**2) * np.eye(2)) / z**2)
    return -np.expm1(-np.outer(ts, rates)) * (axes.T @ target) @ axes.T


def _shares(w: np.ndarray, b: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """c_k^2 / sum_j c_j^2 of the first features, c_k = w_k . S/|S| + b_k."""
    squares = (w @ direction + b) ** 2
    shown = (squares / squares.sum())[:SHOWN]
    return np.pad(shown, (0, SHOWN - len(shown)))


def panels(diagram: xarray.Dataset) -> matplotlib.figure.Figure:
    """The picture: a plane of functions for each setup."""
    figure, key = new_figure(10.2, 4.3), []
    for number, ax in enumerate(figure.subplots(1, 3)):
        one = diagram.isel(setup=number)
        setup = SETUPS[str(one.setup.values)]
        factor = MAGNIFIED if setup.width > SHOWN else 1.0
        key = _draw_arrows(ax, factor * one.features[:, : int(one.shown)], one.target)
        ax.plot(*one.output.values.T, color="black", linestyle="--", linewidth=1.4, label="output f")
        frozen = {"color": "0.5", "linewidth": 1.0, "marker": "X", "markersize": 8, "markeredgecolor": "white"}
        ax.plot(*one.frozen_output.values.T, **frozen, markevery=[-1], label="f, kernel of the start")
        panel_title(ax, "abc"[number], f"{setup.words}, S = {setup.target:g}")
        ax.set(xlabel="coordinate of $x_1$", aspect="equal")
        if factor > 1:
            ax.annotate(f"features × {factor:g}", (0.03, 0.93), xycoords="axes fraction", fontsize="small")
    figure.axes[0].set_ylabel("coordinate of $x_2$")
    _add_inset(figure.axes[0], diagram.isel(setup=0))
    labelled, _ = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles=[*key, *labelled], loc="outside lower center", ncols=7, fontsize="small", frameon=False)
    return figure


def _draw_arrows(ax: Axes, features: xarray.DataArray, target: xarray.DataArray, **how: Any) -> list[Any]:
    """The features as arrows; returns what a legend says of their colours."""
    lf.plot.arrows(features, target=target.values, ax=ax, **how).set(xlabel="", ylabel="")
    legend: Any = ax.get_legend()
    legend.remove()
    return [handle for handle in legend.legend_handles if handle.get_label() != "target"]


def _add_inset(ax: Axes, one: xarray.Dataset) -> None:
    """The neighbourhood of the origin, where small weights start."""
    inset = ax.inset_axes((0.53, 0.09, 0.44, 0.44))
    near = 3.0 * float(np.linalg.norm(one.features.values[0], axis=-1).max())
    _draw_arrows(inset, one.features[:, : int(one.shown)], one.target, ends=False)
    inset.set(xlim=(-near, near), ylim=(-near, near), xticks=(-0.02, 0.0, 0.02), yticks=())
    inset.tick_params(labelsize="x-small")
    ax.indicate_inset_zoom(inset, edgecolor=GREY)


def claims(diagram: xarray.Dataset) -> tuple[Claim, ...]:
    """Rich features turn to the target and end at the predicted shares; lazy ones hardly move."""
    target = diagram.target.values
    size = np.linalg.norm(target, axis=-1)
    end = worst(diagram.output.values[:, -1] / size[:, None], target / size[:, None])
    off = np.linalg.norm(diagram.output.values - diagram.frozen_output.values, axis=-1).max(axis=-1) / size
    along = diagram.features.values[0, -1, :2] @ target[0] / size[0] ** 2
    shares = diagram.predicted_share.values[0, :2]
    moved = np.array([_movement(diagram.isel(setup=number)) for number in range(len(size))])
    apart = lambda values, rich, lazy: values[0] > rich and (values[1:] < lazy).all()
    setups = "of rich, small target and NTK"
    way = f"Largest movement of a feature over its size at the start, {setups}"
    far = f"Largest distance of f from its flow with the kernel of the start, over |S|, {setups}"
    return (
        Claim.between("Largest distance of the outputs at the end from the target, over its size", end, high=1e-4),
        Claim.near("Shares of the target that the two rich features end at", along, shares, atol=1e-3),
        Claim(way, apart(moved, 10, 0.1), moved, "above 10, and below 0.1 in both lazy ones"),
        Claim(far, apart(off, 0.1, 1e-3), off, "above 0.1, and below 0.001 in both lazy ones"),
    )


def _movement(one: xarray.Dataset) -> float:
    """The largest |h(t) - h(0)| / |h(0)| over features and times."""
    paths = one.features.values[:, : int(one.shown)]
    return float((np.linalg.norm(paths - paths[0], axis=-1) / np.linalg.norm(paths[0], axis=-1)).max())


FIGURE = Figure(TITLE, NOTES, compute, panels, claims)
