"""Figure 8+: a heavier later layer shortens grokking in a transformer on modular addition.

Kunin et al. (2024) decrease the variance of the token embeddings, about six in a hundred of all parameters, and with it
the time to grok. Smaller embeddings are an upstream start: the weight is in the layers after them. In the solvable
models, such as one neuron f = a w . x of conserved a^2 - |w|^2, an upstream start lets the first layer turn as soon as
the output is learned, while downstream it hardly turns until late (see Figure delay, where that is worked out); what
theory gives here is the sign, as a transformer under AdamW conserves nothing.

A transformer of one layer learns a + b mod p by AdamW on the whole training set, cross entropy, decoupled decay. The
embeddings of tokens are N(0, scale^2 / width).

References:
    Kunin et al. (2024), arXiv:2406.06158; Nanda et al. (2023), arXiv:2301.05217.
"""

from dataclasses import dataclass

import equinox as eqx
import jax
import matplotlib.figure
import numpy as np
import optax
import xarray
from matplotlib.axes import Axes

import layerflow as lf
from layerflow.figures._curves import GREY, new_figure, panel_title
from layerflow.figures._figure import Claim, Figure, told
from layerflow.figures._grokking import TEST_LINE, TRAIN_LINE, draw_seeds, log_ticks, steps_to
from layerflow.figures._words import rank_correlation

TITLE = "Smaller embeddings, an upstream start, shorten grokking of a transformer on modular addition"
NOTES = (
    "Curves: median over starts, with the range of all. Delay: from the first step at which training accuracy is 0.9 "
    "to the first at which test accuracy is.",
    "Scale 1 is N(0, 1/width), for which an embedding is as long as the others' weights expect. Only the token "
    "embeddings are scaled, not the positions.",
    "Rates are ours and not those of Kunin et al.: AdamW at 1e-3 (quick 3e-3), decay 1 (quick 2), β₂ = 0.98, chosen "
    "so that all starts train and generalise; at other rates, or the prime 31, medians of small scales crossed.",
    "Test accuracy rests for a while at about the share of test pairs (a, b) of which the training set has (b, a).",
    "The quick recipe has the prime 23 in place of 113, width 48 in place of 128 and three quarters of the pairs to "
    "train on: its starts differ much from one another, so it shows the order of medians and not a law.",
)

SCALES = (0.25, 0.75, 2.5, 8.0)
LEVEL = 0.9


@dataclass(frozen=True)
class Recipe:
    """Sizes and rates."""

    prime: int
    width: int
    hid: int
    train: float
    learning_rate: float
    steps: int
    decay: float = 1.0
    heads: int = 4

    def start(self, key: jax.Array) -> lf.Transformer:
        """A transformer of these sizes at its start."""
        sizes = {"width": self.width, "heads": self.heads, "hid": self.hid}
        return lf.Transformer.lecun(key, tokens=3, vocabulary=self.prime + 1, out=self.prime, **sizes)


RECIPES = {
    "full": Recipe(prime=113, width=128, hid=512, train=0.4, learning_rate=1e-3, steps=20_000),
    "quick": Recipe(prime=23, width=48, hid=96, train=0.75, learning_rate=3e-3, steps=2_500, decay=2.0),
}


def compute(
    quick: bool = False, seeds: int = 5, scales: tuple[float, ...] = SCALES, recipe: Recipe | None = None
) -> xarray.Dataset:
    """Train and test accuracy over scale (of the token embeddings, in 1/sqrt(width)), seed and step, and the delay.

    With `quick` the transformer and the prime are small.
    """
    if len(scales) < 2 or min(scales) <= 0:
        raise ValueError(f"Argument `scales` needs two or more positive numbers to compare, but it is {scales}.")
    recipe = RECIPES["quick" if quick else "full"] if recipe is None else recipe
    tasks = lf.modular_arithmetic(jax.random.key(1), recipe.prime, train=recipe.train, form="tokens")
    train, test = (lf.Samples(task.x, task.y, loss="cross-entropy") for task in tasks)

    def tokens(key: jax.Array, scale: jax.Array) -> lf.Problem:
        start = recipe.start(key)
        start = eqx.tree_at(lambda network: network.embedding, start, start.embedding * scale)
        return lf.Problem(start, train, test=test)

    method = lf.Descent(
        optax.adamw, steps=recipe.steps, learning_rate=recipe.learning_rate, weight_decay=recipe.decay, b2=0.98
    )
    diagram = lf.sweep(
        tokens,
        {"scale": np.array(scales)},
        seeds=seeds,
        method=method,
        ts=steps_to(recipe.steps, 80),
        observe={"train": lf.accuracy, "test": lf.on_test(lf.accuracy)},
        summary=lf.grokking_delay(train="train", test="test", level=LEVEL),
    )
    diagram["scale"].attrs["long_name"] = "scale of the token embeddings"
    return diagram.assign_attrs(prime=recipe.prime, embedding_share=_embedding_share(recipe))


def _embedding_share(recipe: Recipe) -> float:
    """Share of the token embeddings in all parameters."""
    start = jax.eval_shape(recipe.start, jax.random.key(0))
    return start.embedding.size / sum(leaf.size for leaf in jax.tree.leaves(start))


def panels(diagram: xarray.Dataset) -> matplotlib.figure.Figure:
    """A panel of curves for each scale, and the delay over the scale."""
    figure = new_figure(12.0, 3.6, f"{TITLE} (p = {diagram.attrs['prime']})")
    scales = diagram.scale.values
    *axes, last = figure.subplots(1, len(scales) + 1, width_ratios=(*[1.0] * len(scales), 1.7))
    for number, (ax, scale) in enumerate(zip(axes, scales, strict=True)):
        here = diagram.isel(scale=number)
        draw_seeds(ax, diagram.step, here.train, TRAIN_LINE, "train")
        draw_seeds(ax, diagram.step, here.test, TEST_LINE, "test")
        ax.axhline(LEVEL, color="0.6", linewidth=0.8, zorder=0)
        ax.set(xscale="log", ylim=(-0.03, 1.03), xlabel="step")
        ax.set_xticks([10.0**n for n in range(5) if 10**n <= diagram.step[-1]])
        panel_title(ax, "abcdefgh"[number], f"embeddings × {scale:g}")
        if number:
            ax.tick_params(labelleft=False)
    axes[0].set_ylabel("accuracy")
    axes[0].legend(fontsize="small", frameon=False, loc="center left")
    _draw_delays(last, diagram)
    panel_title(last, "abcdefghi"[len(scales)], "delay")
    return figure


def _draw_delays(ax: Axes, diagram: xarray.Dataset) -> None:
    """Delay of each start, and the median; arrows where a start has not generalised by the last step."""
    scales, delay = diagram.scale.values, diagram.grokking_delay.values
    at = np.broadcast_to(scales[:, None], delay.shape)
    seen, end = np.isfinite(delay), float(diagram.step[-1])
    middle = np.median(np.where(seen, delay, np.inf), axis=1)
    ax.plot(at[seen], delay[seen], "o", color=GREY, markersize=5, alpha=0.8, label="one start")
    late = at[~seen]
    if late.size:
        ax.plot(late, np.full(late.shape, end), "^", color=GREY, markersize=6, markerfacecolor="none", label="later")
    shown = np.isfinite(middle)
    ax.plot(scales[shown], middle[shown], "-", color="black", linewidth=1.6, label="median")
    ax.set(xscale="log", yscale="log", xlabel="scale of the token embeddings", ylabel="delay in steps")
    log_ticks(ax, scales, [100, 200, 500, 1000, 2000, 5000, 10_000, 20_000])
    low = float(delay[seen].min()) if seen.any() else 100.0
    ax.set_ylim(0.5 * max(low, 1.0), 3.0 * end)
    ax.annotate("upstream", (0.02, 0.02), xycoords="axes fraction", fontsize="small")
    ax.annotate("downstream", (0.98, 0.02), xycoords="axes fraction", fontsize="small", ha="right")
    ax.legend(fontsize="small", frameon=False, loc="upper center", ncols=3, columnspacing=1.0, handletextpad=0.4)


def claims(diagram: xarray.Dataset) -> tuple[Claim, ...]:
    """The smaller the embeddings the shorter the delay, in medians and in most starts."""
    delay, test = (diagram[f"grokking_{name}"].fillna(np.inf).values for name in ("delay", "test"))
    middle = np.median(delay, axis=1)
    scales = np.broadcast_to(diagram.scale.values[:, None], delay.shape)
    ends = told(diagram.scale[[0, -1]])
    shorter, sooner = middle[0] < 0.6 * middle[-1], np.mean(test[0] < test[-1])
    return (
        Claim(f"Median delays at embeddings × {ends}", shorter, middle[[0, -1]], "the first at most 0.6 of the second"),
        Claim.between(f"Share of starts that generalise sooner at the first of × {ends}", sooner, low=0.75),
        Claim.between("Rank correlation of scale and delay", rank_correlation(scales.ravel(), delay.ravel()), low=0.0),
        Claim.between("Share of starts that train", np.isfinite(diagram.grokking_train).mean(), low=1.0),
    )


def remarks(diagram: xarray.Dataset) -> tuple[str, ...]:
    """All median times, and how many of the parameters are embeddings."""
    delay, trained = (diagram[f"grokking_{name}"].fillna(np.inf).median("seed") for name in ("delay", "train"))
    return (
        f"At embeddings × {told(diagram.scale)} medians of the delay are {told(delay)} steps, of the time to train "
        f"{told(trained)}.",
        f"Embeddings are {100 * diagram.attrs['embedding_share']:.1f}% of all parameters (under 6% in Kunin et al.).",
    )


FIGURE = Figure(TITLE, NOTES, compute, panels, claims, remarks, dtype="float32")
