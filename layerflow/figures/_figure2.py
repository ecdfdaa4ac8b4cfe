"""Figure 2: the models, drawn from the objects themselves.

Units are dots and weights are lines, read off a network of each kind: a line is a number that training
moves, from the unit it reads to the unit it adds to, and the output is the sum over all paths of the
products along them. The line's width shows the weight's size. The paper draws linear, diagonal linear
and linear networks; here are besides the general connections of Eq. 22 with biases and skips, skills
(Eq. 11) and the unconstrained feature model of its section 5.
"""

from collections.abc import Iterator
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np
import xarray
from jaxtyping import PyTree
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch

import layerflow as lf
from layerflow.figures._curves import BLUE, GREEN, PURPLE, VERMILION, handle, new_figure, panel_title
from layerflow.figures._figure import Claim, Figure

TITLE = "Layerwise linear models: a line is a weight, and the output sums the products along all paths"
NOTES = (
    "Read off objects of LinearNetwork, DiagonalNetwork and LayerwiseNetwork, and of what linear_model, skill_network "
    "and feature_model return. Square: an input that is 1. Width of a line: size of a random weight.",
    "The paper's figure has the first three; the others are those of its Eqs. 22 and 11 and of section 5.",
)

ONE = -1  # the unit whose value is 1, from which biases lead


# Above each panel, and what an input is called.
WORDS = {
    "linear_model": ("linear model (Eq. 5)", "x"),
    "DiagonalNetwork": ("diagonal network (Eq. 3)", "x"),
    "LinearNetwork": ("linear network (Eq. 4)", "x"),
    "LayerwiseNetwork": ("any connections (Eq. 22), biases, skips", "\\phi"),
    "skill_network": ("prebuilt skills (Eq. 11)", "g"),
    "feature_model": ("unconstrained features, one-hot inputs", "e"),
}


class Connection(NamedTuple):
    """A weight, and the units (layer, number) that it leads from and to."""

    source: tuple[int, int]
    target: tuple[int, int]
    weight: float


def models() -> dict[str, PyTree]:
    """One network of each kind, of random weights."""
    keys = iter(jax.random.split(jax.random.key(5), 20))
    drawn = lambda *shape: jax.random.uniform(next(keys), shape, minval=0.2, maxval=1.0)
    some = ((0, 0), (1, 0), (1, 1), (2, 2))
    return {
        "linear_model": lf.linear_model(drawn(3)),
        "DiagonalNetwork": lf.DiagonalNetwork((drawn(3), drawn(3))),
        "LinearNetwork": lf.LinearNetwork((drawn(3, 3), drawn(2, 3))),
        "LayerwiseNetwork": lf.LayerwiseNetwork(
            some, drawn(4), drawn(3), skip=drawn(3), hidden_bias=drawn(3), bias=drawn()
        ),
        "skill_network": lf.skill_network(drawn(4)),
        "feature_model": lf.feature_model(drawn(2, 4), drawn(2, 2)),
    }


def connections(network: PyTree) -> list[Connection]:
    """All connections of a network, each with its weight."""
    if isinstance(network, lf.LinearNetwork):
        return list(_of_matrices(network))
    if isinstance(network, lf.DiagonalNetwork):
        return list(_of_chains(network))
    if isinstance(network, lf.LayerwiseNetwork):
        return list(_of_set(network))
    raise TypeError(f"Diagrams are of linear, diagonal and layerwise networks, not of a {type(network).__name__}.")


def _of_matrices(network: lf.LinearNetwork) -> Iterator[Connection]:
    for layer, w in enumerate(network.weights):
        for (k, i), weight in np.ndenumerate(np.asarray(w)):
            yield Connection((layer, i), (layer + 1, k), float(weight))


def _of_chains(network: lf.DiagonalNetwork) -> Iterator[Connection]:
    """Every mode its own chain; the last layer adds them up."""
    last = len(network.weights) - 1
    for layer, w in enumerate(network.weights):
        for i, weight in enumerate(np.asarray(w)):
            yield Connection((layer, i), (layer + 1, 0 if layer == last else i), float(weight))


def _of_set(network: lf.LayerwiseNetwork) -> Iterator[Connection]:
    for (i, j), weight in zip(network.connections, np.asarray(network.first), strict=True):
        yield Connection((0, i), (1, j), float(weight))
    for j, weight in enumerate(np.asarray(network.last)):
        yield Connection((1, j), (2, 0), float(weight))
    for i, weight in enumerate([] if network.skip is None else np.asarray(network.skip)):
        yield Connection((0, i), (2, 0), float(weight))
    for j, weight in enumerate([] if network.hidden_bias is None else np.asarray(network.hidden_bias)):
        yield Connection((0, ONE), (1, j), float(weight))
    if network.bias is not None:
        yield Connection((0, ONE), (2, 0), float(network.bias))


def through(edges: list[Connection], inp: int) -> np.ndarray:
    """The output for every one-hot input and, last, for the input 0: sums of products along the lines."""
    columns = []
    for one_hot in [*np.eye(inp), np.zeros(inp)]:
        value = {(0, i): x for i, x in enumerate(one_hot)} | {(0, ONE): 1.0}
        for edge in sorted(edges, key=lambda edge: edge.source[0]):
            value[edge.target] = value.get(edge.target, 0.0) + edge.weight * value[edge.source]
        depth = max(edge.target[0] for edge in edges)
        columns.append([value[unit] for unit in sorted(value) if unit[0] == depth])
    return np.array(columns)


def compute() -> xarray.Dataset:
    """The connections of every model, and how far the sum over paths is from what the network computes.

    Returns:
        Dataset of dimensions connection and model.
    """
    rows, off, count = [], [], []
    for name, network in models().items():
        edges = connections(network)
        inp = network.widths[0]
        outputs = jax.vmap(network)(jnp.concatenate([jnp.eye(inp), jnp.zeros((1, inp))]))
        off.append(float(np.abs(through(edges, inp) - np.asarray(outputs)).max()))
        moving = jax.tree.leaves(eqx.filter(network, lf.networks.is_weight(network)))
        count.append(sum(leaf.size for leaf in moving))
        rows += [(name, *edge.source, *edge.target, edge.weight) for edge in edges]
    columns = dict(zip(("of", "layer", "unit", "to_layer", "to_unit", "weight"), zip(*rows, strict=True), strict=True))
    return xarray.Dataset(
        {name: ("connection", np.array(values)) for name, values in columns.items()}
        | {"num_weights": ("model", np.array(count)), "difference": ("model", np.array(off))},
        {"model": list(models())},
        {"title": "connections of the models"},
    )


def panels(diagram: xarray.Dataset) -> matplotlib.figure.Figure:
    """The picture: a panel for each model."""
    figure = new_figure(9.6, 5.2)
    axes = figure.subplots(2, 3).flat
    for letter, ax, name in zip("abcdef", axes, map(str, diagram.model.values), strict=True):
        words, symbol = WORDS[name]
        _draw_model(ax, diagram.isel(connection=diagram.of.values == name), symbol)
        panel_title(ax, letter, words)
        ax.set_axis_off()
        ax.margins(0.12, 0.12)
    _add_key(figure)
    return figure


def _draw_model(ax: Axes, edges: xarray.Dataset, symbol: str) -> None:
    """Units layer by layer from left to right, and the lines between them."""
    sources = list(zip(edges.layer.values.tolist(), edges.unit.values.tolist(), strict=True))
    targets = list(zip(edges.to_layer.values.tolist(), edges.to_unit.values.tolist(), strict=True))
    place = _places({*sources, *targets})
    for source, target, weight in zip(sources, targets, edges.weight.values, strict=True):
        _draw_line(ax, source, target, place, 0.6 + 2.6 * abs(float(weight)))
    last = max(layer for layer, _ in targets)
    outputs = sum(layer == last for layer, _ in place)
    for (layer, unit), (x, y) in place.items():
        square = unit == ONE
        ax.plot(x, y, "s" if square else "o", color="white", markeredgecolor="black", markersize=11, zorder=3)
        if layer == 0:
            text = "1" if square else f"${symbol}_{unit + 1}$"
            ax.annotate(text, (x, y), (-13, 0), textcoords="offset points", ha="right", va="center")
        if layer == last:
            text = "$f$" if outputs == 1 else f"$f_{unit + 1}$"
            ax.annotate(text, (x, y), (13, 0), textcoords="offset points", ha="left", va="center")


def _places(units: set[tuple[int, int]]) -> dict[tuple[int, int], tuple[float, float]]:
    """Where each unit stands: layers side by side, centred, and the 1 below the inputs."""
    width = {layer: 1 + max(unit for at, unit in units if at == layer) for layer, _ in units}
    height = lambda layer, unit: -(width[layer] if unit == ONE else unit) + 0.5 * (width[layer] - 1)
    return {(layer, unit): (1.6 * layer, height(layer, unit)) for layer, unit in sorted(units)}


def _draw_line(
    ax: Axes,
    source: tuple[int, int],
    target: tuple[int, int],
    place: dict[tuple[int, int], tuple[float, float]],
    width: float,
) -> None:
    """One connection, bent around the hidden units where it leads past them."""
    past = target[0] - source[0] > 1
    colour = PURPLE if source[1] == ONE else GREEN if past else (BLUE, VERMILION)[source[0]]
    bend = 0.0 if not past else 0.32 if source[1] == ONE else -0.32
    line = FancyArrowPatch(place[source], place[target], arrowstyle="-", shrinkA=0, shrinkB=0, zorder=2)
    line.set(connectionstyle=f"arc3,rad={bend}", color=colour, linewidth=width, alpha=0.85)
    ax.add_patch(line)


def _add_key(figure: matplotlib.figure.Figure) -> None:
    named = {"first layer": BLUE, "last layer": VERMILION, "skip connections": GREEN, "biases": PURPLE}
    lines = [handle(name, color=colour, linewidth=2.5) for name, colour in named.items()]
    figure.legend(handles=lines, loc="outside lower center", ncols=4, frameon=False, fontsize="small")


def claims(diagram: xarray.Dataset) -> tuple[Claim, ...]:
    """The lines are the weights, and the sum over paths is the network."""
    lines = [int((diagram.of.values == name).sum()) for name in diagram.model.values]
    return (
        Claim.near("Lines per panel, one for each weight that training moves", lines, diagram.num_weights),
        # Sums of at most twelve products of numbers below 1.
        Claim.between(
            "Largest distance of the network from the sum over all paths of the products along them, on every one-hot "
            "input and on 0",
            diagram.difference.max(),
            high=1e-14,
        ),
    )


FIGURE = Figure(TITLE, NOTES, compute, panels, claims)
