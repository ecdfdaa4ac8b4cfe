"""Figure 4, dashed lines: skills emerge in a ReLU network as in the model calibrated on the first skill.

A two-layer ReLU network with biases learns multitask sparse parity, five skills of frequencies
p_k ~ k^-1.6 and target S = 5, with ample time, data or parameters but for one:

    time         fresh samples at every step, measured along the way
    data         D samples, drawn once
    parameters   N hidden units: those beyond are zero, where they stay

The skill model's closed forms have one constant each, which lf.calibrate fits to the curve of the first skill alone:

    time         R_k / S = 1 / (1 + (S / R(0) - 1) e^(-2 S v p_k T / p_1)),    R(0) = std^2 / 3.6, free: v
    data         R_k / S = 1 - sqrt(max(0, 1 - D p_k / D_c)),                  free: D_c
    parameters   R_k / S = clip(N / N_c - (k - 1), 0, 1),                      free: N_c

The other four skills then are predictions. In time the model has a spread of its own: Gaussian layers a_k, b_k ~
N(0, std^2) in place of R(0), whose starts differ by factors and whose half-way points so by shares of 1 / ln(S / R(0)).
The loss here is a half of the authors', so rates are twice theirs and weight decay is half of it.

References:
    Nam et al. (2024), arXiv:2404.17563, Figure 1; Nam et al. (2025), arXiv:2502.21009, Figure 4.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PRNGKeyArray

from layerflow import theory
from layerflow._problem import Problem
from layerflow._sweep import sweep
from layerflow.base._keys import fold
from layerflow.diagrams._calibrate import calibrate
from layerflow.figures._curves import new_figure, panel_title
from layerflow.figures._figure4 import COLOURS, PER_SKILL, SHOTS, SLOWNESS, START_FACTOR
from layerflow.figures._words import facts, listed, verdict
from layerflow.methods import Descent
from layerflow.networks import MLP
from layerflow.observables import on_test, skill_strengths
from layerflow.plot._bands import band
from layerflow.tasks import Samples, SparseParity, Stream, Task

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DTYPE = "float32"
TITLE = "Skills emerge in a ReLU network as in the skill model calibrated on the first skill"
NOTES = (
    "Dashed: two-layer ReLU network on multitask sparse parity, bands one standard deviation over starts and data. "
    "Full: closed forms of the skill model, their one constant fitted to the first skill alone. Bars: where the "
    "calibrated model has its half-way points from Gaussian starts, 10 to 90 % of them.",
    "With --quick batches are smaller, starts and sizes fewer, and training in data and parameters stops before rare "
    "skills have settled: these lie below their lines.",
)


@dataclass(frozen=True)
class Recipe:
    """How the networks of one panel are trained."""

    values: tuple[int, ...]  # of the resource; in time, the last step
    width: int
    steps: int
    batch: int
    rate: float
    std: float
    decay: float = 0.0
    seeds: int = 1


_MANY = (*range(500, 10_000, 500), *range(10_000, 15_001, 1000), *range(20_000, 35_001, 5000))
FULL = {
    "time": Recipe((30_000,), 1000, 30_000, 4000, 0.04, 0.01, seeds=10),
    "data": Recipe(_MANY, 1000, 100_000, 2000, 0.1, 0.001),
    "parameters": Recipe(tuple(range(1, 21)), 20, 500_000, 4000, 0.05, 0.05, 2.5e-4, seeds=50),
}
QUICK = {
    "time": Recipe((16_000,), 1000, 16_000, 250, 0.04, 0.01, seeds=4),
    "data": Recipe((250, 500, 1000, 1500, 2000, 3000, 4000, 6000, 8000, 12_000), 500, 8000, 250, 0.1, 0.01, seeds=2),
    "parameters": Recipe((1, 2, 3, 4, 6, 8, 12, 16, 20), 20, 15_000, 300, 0.005, 0.1, 1e-4, seeds=8),
}
PARITY = SparseParity()
SKILLS, TARGET = PARITY.skills, PARITY.target
PER_SKILL_SAMPLES = 400  # on which strengths are measured
STARTS = 1000  # of the skill model
SPREAD = (0.1, 0.9)  # quantiles over them
MEASURE = on_test(skill_strengths)


class FirstSamples(Task):
    """The first `count` of a set of samples, so that data sets of every size share one program."""

    samples: Samples
    count: Array

    def check(self, network: Any) -> None:
        """Raise unless `network` takes one input and gives one target."""
        self.samples.check(network)

    def loss(self, network: Any) -> Array:
        """L = E|f(x) - y|^2 / 2 over the first samples."""
        errors = jnp.sum((jax.vmap(network)(self.samples.x) - self.samples.y) ** 2, axis=1)
        used = jnp.arange(errors.size) < self.count
        return 0.5 * jnp.sum(jnp.where(used, errors, 0.0)) / self.count

    def batch(self, key: PRNGKeyArray, step: Array, size: int, replace: bool = False) -> Samples:
        """Samples drawn anew from the first, with replacement."""
        rows = jax.random.randint(jax.random.fold_in(key, step), (size,), 0, self.count.astype(int))
        return Samples(self.samples.x[rows], self.samples.y[rows])


def compute(quick: bool = False, seeds: int | None = None) -> "xarray.Dataset":
    """Train networks along each resource, and calibrate the skill model on their first skill.

    Args:
        quick: A recipe for minutes on two cores; the authors' own, for a GPU, if not.
        seeds: Starts and draws for each panel; those of the recipe if not given.

    Returns:
        Dataset with R_k / S of the networks (`in_time`, `in_data`, `in_parameters`) over the resource, `seed_time`
        (and so on) and `skill`, and of the model (`model_in_time`, ...) over a finer mesh, `time_mesh`, and `skill`;
        `model_half_way`, quantiles of the half-way points in time of the model over its starts.
    """
    import xarray

    recipes = QUICK if quick else FULL
    pieces, attributes = [], {}
    for resource, train in (("time", _in_time), ("data", _in_data), ("parameters", _in_parameters)):
        recipe = recipes[resource]
        diagram = train(recipe, recipe.seeds if seeds is None else seeds)
        shares = (diagram.test_skill_strengths / TARGET).rename({"seed": f"seed_{resource}"})
        model, constant = _calibrated(resource, recipe, shares)
        pieces += [shares.rename(f"in_{resource}"), model.rename(f"model_in_{resource}")]
        attributes |= {f"constant_{resource}": constant}
        if resource == "time":
            attributes |= facts(diagram)
            pieces.append(_spread(recipe, constant))
    frequency = ("skill", np.asarray(PARITY.frequency, float))
    merged = xarray.merge([piece.assign_coords(skill=np.arange(1, SKILLS + 1)) for piece in pieces], join="outer")
    return merged.assign_coords(frequency=frequency).assign_attrs(attributes, quick=int(quick))


def _problem(key: jax.Array, start: MLP, task: Task, decay: float = 0.0) -> Problem:
    return Problem(start, task, test=PARITY.by_skill(fold(key, "test"), PER_SKILL_SAMPLES), decay=decay)


def _start(key: jax.Array, recipe: Recipe) -> MLP:
    return MLP.gaussian(fold(key, "start"), (PARITY.inp, recipe.width, 1), std=recipe.std)


def _method(recipe: Recipe, optimiser: Any = optax.sgd) -> Descent:
    return Descent(optimiser, learning_rate=recipe.rate, batch=recipe.batch, steps=recipe.steps)


def _in_time(recipe: Recipe, seeds: int) -> "xarray.Dataset":
    """Fresh samples at every step."""

    def in_time(key: jax.Array) -> Problem:
        return _problem(key, _start(key, recipe), Stream(PARITY.draw, sample=1))

    ts = np.unique(np.geomspace(recipe.steps / 100, recipe.steps, 60).round()).astype(int)
    diagram = sweep(in_time, seeds=seeds, ts=ts, method=_method(recipe), observe=MEASURE, progress=False)
    return diagram.rename(step="time")


def _in_data(recipe: Recipe, seeds: int) -> "xarray.Dataset":
    """Samples drawn once; those of smaller sets are the first of larger ones."""

    def in_data(key: jax.Array, data: jax.Array) -> Problem:
        samples = Samples(*PARITY.draw(fold(key, "data"), recipe.values[-1]))
        return _problem(key, _start(key, recipe), FirstSamples(samples, data))

    axes = {"data": np.array(recipe.values, float)}
    return sweep(in_data, axes, seeds=seeds, method=_method(recipe), observe=MEASURE, progress=False)


def _in_parameters(recipe: Recipe, seeds: int) -> "xarray.Dataset":
    """Hidden units up to a number; zero in all its weights, a unit has no gradient either."""

    def in_parameters(key: jax.Array, parameters: jax.Array) -> Problem:
        start = _start(key, recipe)
        (w1, w2), (b1, b2) = start.weights, jax.tree.leaves(start.biases)
        held = (jnp.arange(recipe.width) < parameters).astype(w1.dtype)
        start = MLP((w1 * held[:, None], w2 * held[None, :]), (held * b1, b2))
        return _problem(key, start, Stream(PARITY.draw, sample=1), recipe.decay)

    axes = {"parameters": np.array(recipe.values, float)}
    method = _method(recipe, optax.adam)
    return sweep(in_parameters, axes, seeds=seeds, method=method, observe=MEASURE, progress=False)


def _calibrated(resource: str, recipe: Recipe, shares: "xarray.DataArray") -> "tuple[xarray.DataArray, float]":
    """The skill model's R_k / S, its constant fitted to the mean curve of the first skill; and that constant."""
    import xarray

    frequency = np.asarray(PARITY.frequency, float)
    start = recipe.std**2 / START_FACTOR / TARGET
    # In time T of the first skill's speed v: the skill k learns p_k / p_1 times as fast.
    model, free, guess = {
        "time": (
            lambda t, v: theory.skill_strengths_in_time(v * t, frequency / frequency[0], start, 1.0),
            "v",
            TARGET * recipe.rate * frequency[0] / SLOWNESS,
        ),
        "data": (
            lambda d, shots: theory.skill_strengths_in_data(d, frequency, 1.0, shots=shots),
            "shots",
            float(SHOTS),
        ),
        "parameters": (
            lambda n, per_skill: theory.skill_strengths_in_parameters(n, SKILLS, 1.0, per_skill=per_skill),
            "per_skill",
            float(PER_SKILL),
        ),
    }[resource]
    name, at = f"{resource}_mesh", np.asarray(shares[resource], float)
    first = shares.mean(f"seed_{resource}").values[:, 0]
    fit = calibrate(lambda t, **free: model(t, **free)[:, 0], (at, first), (free,), parameters={free: guess})
    mesh = np.geomspace(at[0], at[-1], 300)
    return xarray.DataArray(np.asarray(model(mesh, **fit.values)), {name: mesh}, (name, "skill")), fit.values[free]


def _spread(recipe: Recipe, speed: float) -> "xarray.DataArray":
    """Quantiles, over Gaussian starts of its layers, of where the calibrated model has each skill half-way in time."""
    import xarray

    frequency = np.asarray(PARITY.frequency, float)
    std = recipe.std / TARGET**0.5  # in units of S = 1
    a0, b0 = std * np.random.default_rng(0).normal(size=(2, STARTS, SKILLS, 1))
    mesh = np.geomspace(recipe.values[-1] / 100, 4 * recipe.values[-1], 1000)
    strengths = theory.layer_pair(speed * mesh, a0, b0, 1.0, (frequency / frequency[0])[:, None]).strength
    curves = xarray.DataArray(np.asarray(strengths), {"mesh": mesh}, ("start", "skill", "mesh"), "model_half_way")
    return half_way(curves, "mesh").quantile(SPREAD, "start")


def half_way(curves: "xarray.DataArray", along: str) -> "xarray.DataArray":
    """How much of a resource first gives each skill half its strength; infinite where it never does."""
    import xarray

    def one(curve: np.ndarray, at: np.ndarray) -> float:
        return float(np.interp(0.5, np.maximum.accumulate(curve), at, right=np.inf))

    at = curves[along].values.astype(float)
    return xarray.apply_ufunc(one, curves, input_core_dims=[[along]], kwargs={"at": at}, vectorize=True)


def draw(diagram: "xarray.Dataset") -> "Figure":
    """Three panels side by side: time, data, parameters."""
    from matplotlib.lines import Line2D

    figure = new_figure(10.0, 3.9, TITLE)
    axes = figure.subplots(1, 3, sharey=True)
    labels = {"time": "SGD steps T", "data": "samples D", "parameters": "hidden units N"}
    for ax, letter, (resource, label) in zip(axes, "abc", labels.items(), strict=True):
        _draw_panel(ax, diagram, resource)
        panel_title(ax, letter, resource)
        ax.set(xlabel=label, ylim=(-0.08, 1.08))
    for ax in axes[:2]:
        ax.set_xscale("log")
    axes[0].set_ylabel("skill strength R/S")
    axes[0].legend(title="skill", fontsize="small", frameon=False, loc="center left")
    key = [
        Line2D([], [], color="0.4", linewidth=1.8, label="skill model, calibrated on skill 1"),
        Line2D([], [], color="0.4", linewidth=1.4, linestyle="--", label="ReLU network, band: one standard deviation"),
        Line2D([], [], color="0.4", marker="|", markersize=7, label="skill model, 10 to 90 % of starts"),
    ]
    figure.legend(handles=key, fontsize="small", loc="outside lower center", ncols=3, frameon=False)
    _draw_spread(axes[0], diagram)
    return figure


def _draw_panel(ax: "Axes", diagram: "xarray.Dataset", resource: str) -> None:
    """The model as lines, the networks dashed with their spread."""
    x = diagram[resource]
    networks = diagram[f"in_{resource}"].transpose("skill", f"seed_{resource}", resource)
    for skill, colour in zip(diagram.skill.values, COLOURS, strict=True):
        model = diagram[f"model_in_{resource}"].sel(skill=skill)
        ax.plot(diagram[f"{resource}_mesh"], model, color=colour, linewidth=1.8, label=str(skill))
        members = networks.sel(skill=skill)
        band(x, members, spread="deviation", color=colour, linewidth=1.4, linestyle="--", ax=ax)


def _draw_spread(ax: "Axes", diagram: "xarray.Dataset") -> None:
    """Where the model's starts have each skill half-way, as far as it is within the range."""
    left, right = ax.get_xlim()
    for skill, colour in zip(diagram.skill.values, COLOURS, strict=True):
        low, high = diagram.model_half_way.sel(skill=skill).values
        if low < diagram.time[-1]:
            height = 0.52 if skill % 2 else 0.48  # or bars of neighbours overlap
            ax.plot([low, high], [height, height], color=colour, marker="|", markersize=7, linewidth=1.2, zorder=3)
    ax.set_xlim(left, right)


def agreement(diagram: "xarray.Dataset") -> tuple[str, ...]:
    """Order and half-way points of the skills in networks and model."""
    sentences, middles = [], {}
    for resource, unit in (("time", "steps"), ("data", "samples"), ("parameters", "hidden units")):
        networks = half_way(diagram[f"in_{resource}"], resource)
        model = half_way(diagram[f"model_in_{resource}"], f"{resource}_mesh")
        middle = middles[resource] = networks.median(f"seed_{resource}").values
        seen = np.isfinite(middle) & np.isfinite(model.values)
        in_order = (np.diff(middle[np.isfinite(middle)]) > 0).all() and seen[: seen.sum()].all()
        error = np.abs(model.values[seen] / middle[seen] - 1).max() if seen.any() else np.inf
        sentences.append(
            f"In {resource}, {int(seen.sum())} of {SKILLS} skills are half learned within the range, at "
            f"{listed(middle[seen], ',.0f')} {unit}, in the order of their frequency: {verdict(in_order)}. The model "
            f"has {listed(model.values[seen], ',.0f')}: off by {100 * error:.0f} % at most."
            if seen.any()
            else f"In {resource} no skill is half learned within the range."
        )
    low, high = diagram.model_half_way.values
    inside = ((low < middles["time"]) & (middles["time"] < high))[np.isfinite(middles["time"])]
    sentences.append(
        f"In time, networks are half-way within the spread of the model over its starts for {inside.sum()} of the "
        f"{inside.size} skills, up to {100 * (high / np.sqrt(low * high) - 1).max():.0f} % about its middle."
    )
    constants = [diagram.attrs[f"constant_{name}"] for name in ("data", "parameters")]
    return (
        *sentences,
        f"A skill takes the network {constants[0]:,.0f} samples and {constants[1]:.1f} hidden units (the authors: 800 "
        f"and 4).",
    )
