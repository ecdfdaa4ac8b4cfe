"""Figure 5: neural collapse, of unconstrained features and of a network on digits.

The paper's figure is a drawing. Here features collapse by themselves. The solvable model, free features
under a linear classifier (Eq. 13, appendix F), of 4 classes with 12 samples each, in 8 dimensions, from weights of
standard deviation 0.02, follows the gradient flow with and without bias and decay. Its end is known:
zero scatter within classes, means of equal norms at the angles of a simplex, and, for one-hot labels without bias,
NC3 = 2 - 2 sqrt(1 - 1/c), as the classifier then aligns with the means before centring. Beside it a ReLU
network on 1,000 digits, with their labels and with shuffled ones (appendix J.1), by Adam with weight decay.

References:
    Papyan, Han, Donoho (2020), PNAS 117; Mixon, Parshall, Pi (2020), arXiv:2011.11619; Nam et al. (2025),
    arXiv:2502.21009, section 5.2 and appendices F, J.1.
"""

from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from layerflow import theory
from layerflow._problem import Problem
from layerflow._sweep import sweep
from layerflow.base._keys import fold
from layerflow.engine._grid import paired
from layerflow.figures._curves import BLUE, GREEN, GREY, PALETTE, PURPLE, VERMILION, new_figure, panel_title
from layerflow.figures._grokking import steps_to
from layerflow.figures._words import facts, listed, verdict
from layerflow.methods import Descent, Flow
from layerflow.networks import MLP, feature_model
from layerflow.observables import accuracy, feature_rank, features, neural_collapse, on_test
from layerflow.tasks import Samples, digits

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DTYPE = "float32"
TITLE = (
    "Neural collapse of unconstrained features, and of a network on digits, with their labels and with shuffled ones"
)
NOTES = (
    "The paper's figure is a drawing without data. (a): features of the solvable model with bias and decay, in the "
    "plane of the first two axes of its class means; large dots at the end, joined by a simplex, small ones at the "
    "start, at four times their distance from the centre.",
    "Panel (b) is that model with bias and decay, (c) the effective rank of its features in all four cases.",
    "Panels (d) to (f): ReLU network 784-512-512-512-10 on 1,000 digits, centred labels, for 1,000 epochs; "
    "784-256-256-256-10 and 400 epochs with --quick, which do not bring the ranks to their end.",
)

CLASSES, EACH, HID = 4, 12, 8
STD, DECAY, END = 0.02, 2e-3, 4000.0
CASES = {"neither": (0.0, 0.0), "bias": (1.0, 0.0), "decay": (0.0, DECAY), "bias and decay": (1.0, DECAY)}
BATCH, TRAIN = 128, 1000
DIGITS = 10
MAGNIFIED = 4  # features at the start in (a)
METRICS = ("nc1", "nc2_equinorm", "nc2_equiangular", "nc3", "nc4")
WATCHED = {"nc": neural_collapse, "rank": feature_rank}


def compute(quick: bool = False, seeds: int = 2) -> "xarray.Dataset":
    """Collapse of the solvable model in four cases, and of the network on two kinds of labels.

    Args:
        quick: Half the width and fewer epochs for the network.
        seeds: Random starts.

    Returns:
        Dataset with NC1 to NC4 and the rank of the features, of the model over `case`, `seed` and `t`
        (`model_nc1`, ...) and of the network over `labels`, `seed` and `epoch` (`nc1`, ...), the `features` of the
        model at its start and end, and `train` and `test` accuracy.
    """
    data = digits("centred", train=TRAIN)  # first: they may not be installed
    model = _model(seeds)
    hid, epochs = (256, 400) if quick else (512, 1000)
    network = _network(*data, seeds, hid, epochs)
    curves = model[[*METRICS, "rank"]].rename({name: f"model_{name}" for name in (*METRICS, "rank")})
    ends = model.features.isel(t=[0, -1]).rename(t="when").assign_coords(when=["start", "end"])
    together = network.merge(curves).merge(ends).assign_coords(label=("sample", _labels()))
    return together.assign_attrs(facts(network), hid=hid)


def _labels() -> np.ndarray:
    return np.repeat(np.arange(CLASSES), EACH)


def _model(seeds: int) -> "xarray.Dataset":
    """The unconstrained features under their flow."""
    n = CLASSES * EACH
    task = Samples(jnp.eye(n), jax.nn.one_hot(_labels(), CLASSES, dtype=jnp.result_type(float)))

    def unconstrained(key: jax.Array, bias: jax.Array, decay: jax.Array) -> Problem:
        draw = lambda name, *shape: STD * jax.random.normal(fold(key, name), shape)
        start = feature_model(draw("features", HID, n), draw("classifier", CLASSES, HID), jnp.zeros(CLASSES))
        rates = eqx.tree_at(lambda network: network.biases[1], jax.tree.map(lambda _: 1.0, start), bias)
        return Problem(start, task, decay=decay, rates=rates)

    axis = paired({"bias": [b for b, _ in CASES.values()], "decay": [d for _, d in CASES.values()]}, labels=list(CASES))
    ts = np.concatenate([[0.0], np.geomspace(1.0, END, 80)])
    watched = WATCHED | {"features": features}
    return _named(
        sweep(unconstrained, {"case": axis}, seeds=seeds, method=Flow(t1=END), ts=ts, observe=watched, progress=False)
    )


def _named(diagram: "xarray.Dataset") -> "xarray.Dataset":
    """NC1 to NC4 by their own names."""
    return diagram.rename({f"nc_{name}": name for name in METRICS}).drop_vars(["status", "num_steps", "end"])


def _network(train: Samples, test: Samples, seeds: int, hid: int, epochs: int) -> "xarray.Dataset":
    """The ReLU network on digits, by Adam."""

    def on_digits(key: jax.Array, shuffled: jax.Array) -> Problem:
        start = MLP.lecun(key, (28 * 28, hid, hid, hid, DIGITS), gain=2**0.5)
        at_random = jax.random.permutation(fold(key, "labels"), train.y)
        y = jnp.where(shuffled, at_random, train.y)
        return Problem(start, Samples(train.x, y), test=test, decay=5e-4)

    at = steps_to(epochs, 30)
    each = TRAIN // BATCH
    method = Descent(optax.adam, learning_rate=1e-3, batch=BATCH, steps=each * epochs)
    watched = WATCHED | {"train": accuracy, "test": on_test(accuracy)}
    kinds = paired({"shuffled": [False, True]}, labels=["true", "shuffled"])
    diagram = sweep(
        on_digits, {"labels": kinds}, seeds=seeds, method=method, ts=each * at, observe=watched, progress=False
    )
    return _named(diagram.rename(step="epoch").assign_coords(epoch=at)).drop_vars("shuffled")


def draw(diagram: "xarray.Dataset") -> "Figure":
    """Above the solvable model, below the network."""
    figure = new_figure(10.0, 6.2, TITLE)
    (a, b, c), (d, e, f) = figure.subplots(2, 3)
    d.sharey(e)
    first = diagram.isel(seed=0)
    _draw_features(a, first.features.sel(case="bias and decay"), first.label.values)
    model = first.sel(case="bias and decay")
    _draw_metrics(b, model.t, {name: model[f"model_{name}"] for name in METRICS[:4]})
    for colour, case in zip((BLUE, VERMILION, GREEN, PURPLE), CASES, strict=True):
        c.plot(first.t[1:], first.model_rank.sel(case=case)[1:], color=colour, linewidth=1.6, label=case)
    for rank, words in ((CLASSES, "c"), (CLASSES - 1, "c − 1")):
        _level(c, rank, words)
    for ax, labels in ((d, "true"), (e, "shuffled")):
        runs = first.sel(labels=labels)
        _draw_metrics(ax, runs.epoch, {name: runs[name] for name in METRICS[:4]})
    for colour, labels in ((BLUE, "true"), (VERMILION, "shuffled")):
        f.plot(
            first.epoch[1:], first["rank"].sel(labels=labels)[1:], color=colour, linewidth=1.6, label=f"{labels} labels"
        )
    _level(f, DIGITS - 1, "c − 1")
    for ax, letter, words in zip((a, b, c, d, e, f), "abcdef", _PANELS, strict=True):
        panel_title(ax, letter, words)
    for ax in (b, c):
        ax.set(xscale="log", xlabel="gradient-flow time t")
    for ax in (d, e, f):
        ax.set(xscale="log", xlabel="epoch")
    for ax in (c, f):
        ax.set(ylabel="effective rank of the features", ylim=(0, None))
        ax.legend(frameon=False, fontsize="small")
    b.legend(frameon=False, fontsize="small")
    return figure


_PANELS = (
    "features of the solvable model",
    "its collapse, bias and decay",
    "rank of its features",
    "network on digits",
    "network on shuffled labels",
    "rank of its features",
)
_STYLES = {
    "nc1": ("NC1, scatter", BLUE, "-"),
    "nc2_equinorm": ("NC2, norms", VERMILION, "-"),
    "nc2_equiangular": ("NC2, angles", GREEN, "--"),
    "nc3": ("NC3, classifier", PURPLE, "-."),
}


def _draw_features(ax: "Axes", ends: "xarray.DataArray", label: np.ndarray) -> None:
    """Features in the plane of the class means at the end, with the simplex that theory has there."""
    start, end = (ends.sel(when=when).values for when in ("start", "end"))
    means = np.stack([end[label == k].mean(axis=0) for k in range(CLASSES)])
    centre = means.mean(axis=0)
    _, _, axes = np.linalg.svd(means - centre, full_matrices=False)
    flat = lambda rows: (rows - centre) @ axes[:2].T
    for j in range(CLASSES):
        for k in range(j):
            ax.plot(*flat(means[[j, k]]).T, color=GREY, linewidth=0.8, linestyle="--", zorder=1)
    for k in range(CLASSES):
        colour = PALETTE[k]
        ax.plot(*flat(centre + MAGNIFIED * start[label == k]).T, ".", color=colour, markersize=4)
        ax.plot(*flat(end[label == k]).T, "o", color=colour, markersize=8, markeredgecolor="white", zorder=3)
    ax.set(aspect="equal", xlabel="first axis of the class means", ylabel="second axis")


def _draw_metrics(ax: "Axes", x: Any, metrics: "dict[str, xarray.DataArray]") -> None:
    """NC1 to NC3 on a logarithmic scale; what is zero to rounding is left out."""
    for name, values in metrics.items():
        words, colour, style = _STYLES[name]
        ax.plot(x[1:], values[1:].where(values[1:] > 1e-9), style, color=colour, linewidth=1.6, label=words)
    ax.set(yscale="log", ylabel="NC1 to NC3")


def _level(ax: "Axes", rank: int, words: str) -> None:
    ax.axhline(rank, color=GREY, linewidth=0.8, linestyle=":")
    ax.annotate(words, (0.01, rank), xycoords=ax.get_yaxis_transform(), va="bottom", fontsize="small", color=GREY)


def agreement(diagram: "xarray.Dataset") -> tuple[str, ...]:
    """How far NC1 to NC4 and the rank fell, in the model against theory, and in the network."""
    fall = lambda curve, over: float((curve.isel({over: 0}) / curve.isel({over: -1})).min())
    last = diagram.isel(t=-1, epoch=-1).mean("seed")
    model_fall = fall(diagram.model_nc1, "t")
    limit = float(theory.collapsed(CLASSES, EACH, HID).nc3)
    nc3 = last.model_nc3.sel(case=["neither", "decay"]).values
    network = diagram.sel(labels="true")
    shuffled = diagram.sel(labels="shuffled")
    ranks = last["rank"].sel(labels=["true", "shuffled"]).values
    first_ranks = diagram["rank"].isel(epoch=0).mean("seed").sel(labels=["true", "shuffled"]).values
    return (
        f"NC1 of the solvable model falls by {model_fall:.0e} or more in all four cases, {verdict(model_fall > 100)}.",
        f"Its features end at effective ranks {listed(last.model_rank, '.2f')} ({', '.join(CASES)}); with {CLASSES} "
        f"classes theory has {CLASSES} without bias and {CLASSES - 1} with it and decay, and small starts add a little "
        f"where nothing decays.",
        f"Without bias its NC3 ends at {listed(nc3, '.4f')}, where 2 − 2√(1 − 1/c) is {limit:.4f}; with bias and decay "
        f"at {float(last.model_nc3.sel(case='bias and decay')):.1e}.",
        f"NC1 of the network on digits falls {fall(network.nc1, 'epoch'):.0f}-fold, and on shuffled labels "
        f"{fall(shuffled.nc1, 'epoch'):.0f}-fold, {verdict(fall(diagram.nc1, 'epoch') > 10)}; its effective rank from "
        f"{listed(first_ranks, '.0f')} to {listed(ranks, '.1f')}, {DIGITS - 1} in full collapse.",
        f"NC4, the share of images on which output and nearest class mean disagree, ends at "
        f"{listed(last.nc4.sel(labels=['true', 'shuffled']), '.3f')}.",
        f"Test accuracies are {listed(last.test.sel(labels=['true', 'shuffled']), '.2f')}: shuffled labels collapse "
        f"without generalising, as appendix J.1 says.",
    )
