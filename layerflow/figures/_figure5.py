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

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import optax
import xarray
from matplotlib.axes import Axes

import layerflow as lf
from layerflow.figures._curves import BLUE, GREEN, GREY, PURPLE, VERMILION, new_figure, panel_title
from layerflow.figures._figure import Claim, Figure
from layerflow.figures._grokking import steps_to
from layerflow.figures._words import facts

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
WATCHED = {"nc": lf.neural_collapse, "rank": lf.feature_rank}


def compute(quick: bool = False, seeds: int = 2) -> xarray.Dataset:
    """Collapse of the solvable model in four cases, and of the network on two kinds of labels.

    NC1 to NC4 and the rank of the features are over `case`, `seed` and `t` for the model (`model_nc1`, ...), and over
    `labels`, `seed` and `epoch` for the network, which with `quick` has half the width and fewer epochs.
    """
    data = lf.digits("centred", train=TRAIN)  # first: they may not be installed
    model = _model(seeds)
    hid, epochs = (256, 400) if quick else (512, 1000)
    network = _network(*data, seeds, hid, epochs)
    curves = model[[*METRICS, "rank"]].rename({name: f"model_{name}" for name in (*METRICS, "rank")})
    ends = model.features.isel(t=[0, -1]).rename(t="when").assign_coords(when=["start", "end"])
    together = network.merge(curves).merge(ends).assign_coords(label=("sample", _labels()))
    return together.assign_attrs(facts(network), hid=hid)


def _labels() -> np.ndarray:
    return np.repeat(np.arange(CLASSES), EACH)


def _model(seeds: int) -> xarray.Dataset:
    """The unconstrained features under their flow."""
    n = CLASSES * EACH
    task = lf.Samples(jnp.eye(n), jax.nn.one_hot(_labels(), CLASSES, dtype=jnp.result_type(float)))

    def unconstrained(key: jax.Array, bias: jax.Array, decay: jax.Array) -> lf.Problem:
        draw = lambda name, *shape: STD * jax.random.normal(lf.fold(key, name), shape)
        start = lf.feature_model(draw("features", HID, n), draw("classifier", CLASSES, HID), jnp.zeros(CLASSES))
        rates = eqx.tree_at(lambda network: network.biases[1], jax.tree.map(lambda _: 1.0, start), bias)
        return lf.Problem(start, task, decay=decay, rates=rates)

    axis = lf.paired(
        {"bias": [b for b, _ in CASES.values()], "decay": [d for _, d in CASES.values()]}, labels=list(CASES)
    )
    ts = np.concatenate([[0.0], np.geomspace(1.0, END, 80)])
    watched = WATCHED | {"features": lf.features}
    return _named(
        lf.sweep(
            unconstrained, {"case": axis}, seeds=seeds, method=lf.Flow(t1=END), ts=ts, observe=watched, progress=False
        )
    )


def _named(diagram: xarray.Dataset) -> xarray.Dataset:
    """NC1 to NC4 by their own names."""
    return diagram.rename({f"nc_{name}": name for name in METRICS}).drop_vars(["status", "num_steps", "end"])


def _network(train: lf.Samples, test: lf.Samples, seeds: int, hid: int, epochs: int) -> xarray.Dataset:
    """The ReLU network on digits, by Adam."""

    def on_digits(key: jax.Array, shuffled: jax.Array) -> lf.Problem:
        start = lf.MLP.lecun(key, (28 * 28, hid, hid, hid, DIGITS), gain=2**0.5)
        at_random = jax.random.permutation(lf.fold(key, "labels"), train.y)
        y = jnp.where(shuffled, at_random, train.y)
        return lf.Problem(start, lf.Samples(train.x, y), test=test, decay=5e-4)

    at = steps_to(epochs, 30)
    each = TRAIN // BATCH
    method = lf.Descent(optax.adam, learning_rate=1e-3, batch=BATCH, steps=each * epochs)
    watched = WATCHED | {"train": lf.accuracy, "test": lf.on_test(lf.accuracy)}
    kinds = lf.paired({"shuffled": [False, True]}, labels=["true", "shuffled"])
    diagram = lf.sweep(
        on_digits, {"labels": kinds}, seeds=seeds, method=method, ts=each * at, observe=watched, progress=False
    )
    return _named(diagram.rename(step="epoch").assign_coords(epoch=at)).drop_vars("shuffled")


def panels(diagram: xarray.Dataset) -> matplotlib.figure.Figure:
    """Above the solvable model, below the network."""
    figure = new_figure(10.0, 6.2)
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


def _draw_features(ax: Axes, ends: xarray.DataArray, label: np.ndarray) -> None:
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
        colour = lf.plot.PALETTE[k]
        ax.plot(*flat(centre + MAGNIFIED * start[label == k]).T, ".", color=colour, markersize=4)
        ax.plot(*flat(end[label == k]).T, "o", color=colour, markersize=8, markeredgecolor="white", zorder=3)
    ax.set(aspect="equal", xlabel="first axis of the class means", ylabel="second axis")


def _draw_metrics(ax: Axes, x: Any, metrics: dict[str, xarray.DataArray]) -> None:
    """NC1 to NC3 on a logarithmic scale; what is zero to rounding is left out."""
    for name, values in metrics.items():
        words, colour, style = _STYLES[name]
        ax.plot(x[1:], values[1:].where(values[1:] > 1e-9), style, color=colour, linewidth=1.6, label=words)
    ax.set(yscale="log", ylabel="NC1 to NC3")


def _level(ax: Axes, rank: int, words: str) -> None:
    ax.axhline(rank, color=GREY, linewidth=0.8, linestyle=":")
    ax.annotate(words, (0.01, rank), xycoords=ax.get_yaxis_transform(), va="bottom", fontsize="small", color=GREY)


def claims(diagram: xarray.Dataset) -> tuple[Claim, ...]:
    """The model ends where theory has it, and the network collapses on either kind of labels."""
    fall = lambda curve, over: (curve.isel({over: 0}) / curve.isel({over: -1})).min("seed")
    last = diagram.isel(t=-1, epoch=-1).mean("seed")
    decay, both = (last.sel(case=case) for case in ("decay", "bias and decay"))
    limit = lf.theory.collapsed(CLASSES, EACH, HID).nc3
    kinds = "with their labels and with shuffled ones"
    return (
        Claim.between(f"NC1 of the model falls by ({', '.join(CASES)})", fall(diagram.model_nc1, "t"), low=100),
        Claim.near(
            "Effective rank of its features with decay, without and with bias",
            (decay.model_rank, both.model_rank),
            (CLASSES, CLASSES - 1),
            atol=0.05,
        ),
        # 2 - 2 sqrt(1 - 1/c), and 0 with a bias.
        Claim.near("Its NC3 in these cases", (decay.model_nc3, both.model_nc3), (limit, 0.0), atol=1e-3),
        Claim.between("Its NC4", last.model_nc4, high=0.0),
        Claim.between(f"NC1 of the network on digits {kinds} falls by", fall(diagram.nc1, "epoch"), low=20),
        Claim.between("The effective rank of its features falls by", fall(diagram["rank"], "epoch"), low=(5, 1.4)),
        # Shuffled labels collapse without generalising (appendix J.1).
        Claim.between("Its accuracy on test images, with their labels", last.test.sel(labels="true"), low=0.85),
        Claim.between("The same with shuffled ones", last.test.sel(labels="shuffled"), high=0.2),
    )


FIGURE = Figure(TITLE, NOTES, compute, panels, claims, dtype="float32")
