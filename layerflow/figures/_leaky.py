"""Leaky ReLU networks between linear and ReLU against their theory to first order in 1 - slope, for the dial.

On inputs x ~ N(0, I) a network 3-60-3 starts small and lambda-balanced, and its linear part follows `leaky_map` of the
closed form of balanced networks. With one input, four units meet data that are symmetric or not. Where units come in
pairs (w, a) and (-w, -a) theory is exact: units w / sqrt(2) and their mirror images, of half as many.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray
from jaxtyping import Array, Float, PyTree
from matplotlib.axes import Axes

import layerflow as lf
from layerflow.figures._curves import BLUE, GREEN, GREY, PURPLE, VERMILION, fine_flow
from layerflow.figures._figure import Claim, told

HID, STRENGTH = 60, 1e-3
KEY = 20  # of a start from which no mode has the wrong sign
TARGET = np.diag([1.0, 0.7, 0.5])
SHOWN = (0.0, 0.25, 0.5, 1.0)  # 1 - slope of (d)
TS = np.linspace(0.0, 20.0, 61)
UNITS = (np.array([0.5, 0.3, -0.2, -0.6]), np.array([0.4, -0.1, -0.3, 0.1]))  # of the network with one input
SLOPE = 1.4  # that of its target
SIDES = {"symmetric": 0.5, "asymmetric": 0.8}  # the share of E[x^2] at x > 0
GUESSES = ("first order", "gain", "plain linear")
LINES = {"first order": (GREEN, "-"), "gain": (BLUE, "--"), "plain linear": (VERMILION, ":")}
SMALL = 0.12  # 1 - slope up to which slopes in log-log are taken
LEVELS = (0.01, 0.05)
_DOT: dict[str, Any] = {"linestyle": "none", "markersize": 4, "markeredgewidth": 0.9, "markerfacecolor": "white"}


class Gaussian(lf.Task):
    """Inputs x ~ N(0, I) and linear targets, for a leaky ReLU network of two layers: its loss without samples."""

    target: Float[Array, "out inp"]

    def loss(self, network: PyTree) -> Float[Array, ""]:
        """E|f(x) - y|^2 / 2."""
        w1, w2 = network.weights
        return lf.theory.leaky_loss(w1, w2, self.target, slope=network.slope)


def compute(points: int) -> xarray.Dataset:
    """Losses over 1 - slope and time as shares of the start, of networks and of theory, and those of ReLU in pairs."""
    away = np.geomspace(0.01, 1.0, points)
    few = np.union1d(away[:: (points - 1) // 4], SHOWN)
    return xarray.merge([_one_input(np.union1d(away, SHOWN)), _gaussian(few)], join="outer")


def _gaussian(away: np.ndarray) -> xarray.Dataset:
    """The network 3-60-3 on normal inputs, from one start as it is and one of units in pairs."""
    half = lf.lambda_balanced(jax.random.key(KEY), 0.0, STRENGTH, inp=3, hid=HID // 2, out=3).weights
    w1, w2 = lf.lambda_balanced(jax.random.key(KEY), 0.0, STRENGTH, inp=3, hid=HID, out=3).weights
    both = [
        jnp.stack([w, jnp.concatenate([part, -part], axis) / 2**0.5])
        for axis, (w, part) in enumerate(zip((w1, w2), half, strict=True))
    ]
    target = jnp.asarray(TARGET, w1.dtype)

    def cell(pairs: jax.Array, away: jax.Array) -> lf.Problem:
        return lf.Problem(lf.MLP(tuple(w[pairs] for w in both), slope=1 - away), Gaussian(target))

    def theory(slope: jax.Array) -> jax.Array:
        linear = lambda target, t: lf.theory.balanced_path(w1, w2, 0.0, target, t).matrix
        left = target[None] - lf.theory.leaky_map(linear, target, TS, slope=slope)
        return 0.5 * jnp.sum(left**2, axis=(-2, -1))

    losses = _losses(cell, {"pairs": np.array([0, 1]), "away": away}, TS)
    gain = np.asarray(jax.vmap(theory)(jnp.asarray(1 - away)))
    guesses = np.stack([gain, np.broadcast_to(gain[:1], gain.shape)])  # at slope 1 the gain is that of a linear network
    return xarray.Dataset(
        {
            "gaussian": (("pairs", "away", "time"), losses / losses[..., :1]),
            "gaussian_theory": (("guess", "away", "time"), guesses / gain[:, :1]),
        },
        {"away": away, "time": TS, "guess": list(GUESSES[1:]), "pairs": [False, True]},
    )


def _one_input(away: np.ndarray) -> xarray.Dataset:
    """The largest errors over time of four units with one input, whose data are +x and -x of unequal size."""
    ts, a0, b0, slopes = np.linspace(0.0, 6.0, 61), *map(jnp.asarray, UNITS), jnp.asarray(1 - away)
    shares = np.array(list(SIDES.values()))

    def cell(share: jax.Array, away: jax.Array) -> lf.Problem:
        x = jnp.stack([jnp.sqrt(2 * share), -jnp.sqrt(2 * (1 - share))])[:, None]
        return lf.Problem(lf.MLP((a0[:, None], b0[None]), slope=1 - away), lf.Samples(x, SLOPE * x))

    def first(share: float) -> jax.Array:
        slope = slopes[:, None]
        return lf.theory.leaky_scalar_first_order(
            ts, a0, b0, SLOPE, slope=slope, variance_above=share, variance_below=1 - share
        ).loss

    def gain(slope: jax.Array) -> jax.Array:
        linear = lambda target, t: lf.theory.scalar_network(t, a0, b0, target).output
        return 0.5 * (SLOPE - lf.theory.leaky_map(linear, SLOPE, ts, slope=slope)) ** 2

    network = _losses(cell, {"share": shares, "away": away}, ts)
    with_gain = jax.vmap(gain)(slopes)
    plain = jnp.broadcast_to(with_gain[:1], with_gain.shape)  # at slope 1
    guesses = np.array([[first(share), with_gain, plain] for share in shares.tolist()])
    apart = abs(guesses - network[:, None]).max(axis=-1) / network[:, None, :, 0]
    return xarray.Dataset(
        {"error": (("data", "guess", "away"), apart)}, {"away": away, "data": list(SIDES), "guess": list(GUESSES)}
    )


def _losses(cell: Any, axes: dict[str, Any], ts: np.ndarray) -> np.ndarray:
    """The loss of flows over the axes and time."""
    method = fine_flow(float(ts[-1]), rtol=1e-10)
    paths = lf.sweep(cell, axes, method=method, ts=ts, observe=lf.loss, progress=False)
    return paths.loss.transpose(*axes, "t").values


def gaussian_errors(diagram: xarray.Dataset) -> xarray.DataArray:
    """The largest distance of theory over time, by pairs, guess and 1 - slope."""
    return abs(diagram.gaussian_theory - diagram.gaussian).sel(guess=list(GUESSES[1:])).max("time").dropna("away")


def log_slope(errors: xarray.DataArray) -> float:
    """The exponent of errors in 1 - slope, fitted where that is small."""
    few = errors.sel(away=slice(1e-9, SMALL))
    return float(np.polyfit(np.log(few.away), np.log(few), 1)[0])


def reaches(errors: xarray.DataArray) -> list[float]:
    """The 1 - slope at which errors first reach each of `LEVELS`, infinite if they do not."""
    there = errors.sel(away=slice(1e-9, None))
    way = lambda level: np.interp(np.log(level), np.log(np.maximum.accumulate(there.values)), np.log(there.away))
    return [float(np.exp(way(level))) if there.max() > level else np.inf for level in LEVELS]


def draw_losses(ax: Axes, diagram: xarray.Dataset) -> None:
    """Losses of networks in time over those of the gain."""
    gain, alone = diagram.gaussian_theory.sel(guess="gain"), diagram.gaussian.isel(pairs=0)
    for colour, away in zip((BLUE, GREEN, VERMILION, PURPLE), SHOWN, strict=True):
        ax.plot(diagram.time, gain.sel(away=away), color=colour, linewidth=1.5)
        ax.plot(diagram.time[::3], alone.sel(away=away)[::3], "o", color=colour, label=f"{away:g}", **_DOT)
    ax.plot([], [], color=GREY, linewidth=1.5, label="gain")
    ax.set(xlabel="gradient-flow time t", ylabel="loss, share of its start", yscale="log", ylim=(1e-4, 1.6))
    ax.legend(frameon=False, fontsize="small", title="1 − slope", title_fontsize="small", loc="lower left")


def draw_errors(ax: Axes, diagram: xarray.Dataset, data: str) -> None:
    """Errors over 1 - slope of what theory there is, for one kind of data."""
    for guess, (colour, style) in LINES.items():
        errors = diagram.error.sel(data=data, guess=guess).sel(away=slice(1e-9, None))
        ax.plot(errors.away, errors, color=colour, linestyle=style, linewidth=1.8, label=guess)
    if data == "symmetric":
        wide = gaussian_errors(diagram).sel(guess="gain", away=slice(1e-9, None))
        ax.plot(wide.away, wide.isel(pairs=0), "o", color=BLUE, label="gain, 3-60-3", **_DOT)
        ax.plot(wide.away, wide.isel(pairs=1), "s", color="black", label="the same in pairs", **_DOT)
    for level in LEVELS:
        ax.axhline(level, color=GREY, linewidth=0.7)
        ax.annotate(f"{level:.0%}", (0.0105, level), va="bottom", fontsize="small", color=GREY)
    ax.set(xscale="log", yscale="log", xlim=(0.01, 1.0), ylim=(1e-16, 1.0) if data == "symmetric" else (1e-6, 1.0))
    ax.set(xlabel="1 − slope", ylabel="largest error, share of the first loss")
    ax.legend(frameon=False, fontsize="small", loc="lower right")


def claims(diagram: xarray.Dataset) -> tuple[Claim, ...]:
    """The first order is right to second order and the plain linear network to first; pairs are exact."""
    slopes = lambda data: [log_slope(diagram.error.sel(data=data, guess=guess)) for guess in GUESSES]
    alone, pairs = (gaussian_errors(diagram).isel(pairs=i) for i in (0, 1))
    wide = [log_slope(alone.sel(guess=guess)) for guess in GUESSES[1:]]
    exact = pairs.sel(guess="gain", away=1.0)
    reached = np.array([reaches(diagram.error.sel(data="asymmetric", guess=guess)) for guess in GUESSES])
    gain = reaches(diagram.error.sel(data="symmetric", guess="gain"))[0]
    names = "the first order, the gain and the plain linear network"
    return (
        Claim.near(f"Slopes in log-log of {names}, symmetric data", slopes("symmetric"), (2, 2, 1), atol=0.1),
        Claim.near(f"Slopes in log-log of {names}, asymmetric data", slopes("asymmetric"), (2, 1, 1), atol=0.1),
        Claim.near("Slopes in log-log of the gain and the plain linear network, 3-60-3", wide, (2, 1), atol=0.1),
        Claim.near(f"1 − slope at an error of 1 %, of {names}", reached[:, 0], (0.459, 0.121, 0.0259), rtol=0.02),
        Claim.near(f"1 − slope at an error of 5 %, of {names}", reached[:, 1], (0.656, 0.441, 0.129), rtol=0.02),
        Claim.near("1 − slope at an error of 1 % of the gain, symmetric data", gain, 0.637, rtol=0.02),
        Claim.between("Largest error of the gain for ReLU units in pairs, 3-60-3", exact, high=1e-9),
    )


def remark(diagram: xarray.Dataset) -> str:
    """How far the gain carries on normal inputs."""
    relu = gaussian_errors(diagram).isel(pairs=0).sel(guess="gain", away=1.0)
    return f"At slope 0 the gain is off by at most {told(100 * relu)} % of the first loss in the network 3-60-3."
