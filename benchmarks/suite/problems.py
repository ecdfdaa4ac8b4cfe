"""What is solved: many gradient flows, or descents, of linear networks from given starts."""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import layerflow as lf

Given = dict[str, np.ndarray]  # of every cell: flat weights `w`, target `scale` and, maybe, `poison`
Layers = tuple[Any, ...]  # of one network or of many, stacked, as arrays of any library

DT0 = 0.01  # first step of every flow
INVARIANTS = ("matrix", "input_gram", "output_gram")
POISONS = np.array([1.0, np.nan, -1e3])  # variances: healthy, not a number, negative (weights blow up)


@dataclass(frozen=True, eq=False)
class Problem:
    """Linear networks on E[x x^T] = xx and E[y x^T] = scale * yx, with everything that a backend needs to know."""

    name: str
    what: str
    cells: int
    widths: tuple[int, ...]
    draw: Callable[[int], Given]
    yx: np.ndarray
    xx: np.ndarray | None = None  # None: whitened
    data: tuple[np.ndarray, np.ndarray] | None = None  # samples of these moments, which layerflow is given
    t1: float = 20.0
    ts: np.ndarray | None = None  # where answers are wanted, if not at t1 alone
    steps: int | None = None  # of descent, in place of a flow
    rate: float = 0.0
    balanced: bool = False  # starts are lambda-balanced, so that there is a closed form

    @property
    def judge(self) -> str:
        """What answers are held against."""
        if self.balanced:
            return "closed form"
        return "Dopri8, rtol 1e-12" if self.steps is None else "extended precision"

    def within(self, rtol: float) -> float:
        """Largest error that an answer may have, relative to the largest entry of the cell's answer."""
        return 20 * rtol if self.steps is None else 1e-10

    def layers(self, w: Any) -> Layers:
        """Weights by layer, of flat ones."""
        shapes = [(out, inp) for inp, out in itertools.pairwise(self.widths)]
        ends = list(itertools.accumulate(out * inp for out, inp in shapes))
        parts = zip([0, *ends], ends, shapes, strict=False)
        return tuple(w[..., begin:end].reshape(*w.shape[:-1], *shape) for begin, end, shape in parts)

    def cell(self, w: jax.Array, scale: jax.Array, poison: int | jax.Array = 0) -> lf.Problem:
        """One network, as layerflow is given it."""
        start = lf.LinearNetwork(self.layers(w))
        if self.data is not None:
            return lf.Problem(start, lf.Samples(*self.data))
        task = lf.Moments.whitened(yx=self.yx).rescale(target=scale)
        poisoned = task.xx * jnp.asarray(POISONS, task.xx.dtype)[poison]
        return lf.Problem(start, eqx.tree_at(lambda task: task.xx, task, poisoned))  # past the checks of lf.Moments

    def velocity(self, layers: Layers, scale: Any, variance: Any = None) -> Layers:
        """Minus the gradient of the loss, written out by hand for arrays of any library, one network or many."""
        below = list(itertools.accumulate(layers, lambda product, w: w @ product))
        above = list(itertools.accumulate(reversed(layers), lambda product, w: product @ w))[::-1]
        seen = below[-1] if self.xx is None else below[-1] @ self.xx
        miss = scale * self.yx - (seen if variance is None else variance * seen)
        pulled = [product.mT @ miss for product in above[1:]] + [miss]
        return (pulled[0], *(pull @ product.mT for pull, product in zip(pulled[1:], below[:-1], strict=True)))


def invariants(layers: Layers) -> dict[str, Any]:
    """What answers are compared by: the end-to-end matrix, and what is left of layers that a rotation may turn.

    The matrix alone forgets its way once it has arrived; the outer layers remember it.
    """
    matrix = functools.reduce(lambda product, w: w @ product, layers)
    values = (matrix, layers[0].mT @ layers[0], layers[-1] @ layers[-1].mT)
    return dict(zip(INVARIANTS, values, strict=True))


def healthy(given: Given) -> np.ndarray:
    """Which cells can be solved."""
    return given["poison"] == 0 if "poison" in given else np.ones(len(given["scale"]), bool)


def small(cells: int, decades: float = 0.0) -> Given:
    """Networks 2-2-2 from small weights, target scales log-uniform over so many decades to either side of 1."""
    rng = np.random.default_rng(0)
    layers = 0.1 * rng.normal(size=(2, cells, 2, 2))
    return {
        "w": np.concatenate(layers.reshape(2, cells, 4), axis=1),
        "scale": 10 ** rng.uniform(-decades, decades, cells),
    }


def poisoned(cells: int) -> Given:
    """Wide, with one cell in a hundred poisoned: half NaN, half of a negative variance."""
    number = np.arange(cells)
    return small(cells, 2.0) | {"poison": np.where(number % 100 == 7, 1 + number // 100 % 2, 0)}


def gaussian(widths: tuple[int, ...], cells: int, decades: float = 1.0) -> Given:
    """Networks of any shape from weights of order one."""
    rng = np.random.default_rng(0)
    layers = [rng.normal(size=(cells, out, inp)) / np.sqrt(inp) for inp, out in itertools.pairwise(widths)]
    flat = np.concatenate([layer.reshape(cells, -1) for layer in layers], axis=1)
    return {"w": flat, "scale": 10 ** rng.uniform(-decades, decades, cells)}


def of_widths(name: str, what: str, cells: int, widths: tuple[int, ...], **more: Any) -> Problem:
    """Networks of a shape that learn the identity, from weights of order one, to T = 2."""
    draw = functools.partial(gaussian, widths)
    return Problem(name, what, cells, widths, draw, np.eye(widths[-1], widths[0]), t1=2.0, **more)


def task_6a() -> lf.Moments:
    """What the networks of Figure 6(a) learn."""
    return lf.random_regression(jax.random.key(1), n=10, inp=2, out=2, whiten=True).moments


def figure_6a(key: jax.Array, lam: jax.Array, weight_to_target: jax.Array) -> lf.Problem:
    """A cell of Figure 6(a)."""
    start = lf.lambda_balanced(key, lam, jnp.sqrt(weight_to_target), inp=2, hid=2, out=2)
    return lf.Problem(start, task_6a().rescale(target=1 / weight_to_target))


def balanced(cells: int) -> Given:
    """Starts of Figure 6(a), on a grid of imbalances and weight-to-target ratios."""
    side = int(np.ceil(np.sqrt(cells)))
    lam, ratio = np.meshgrid(np.linspace(-9, 9, side), np.linspace(1, 20, side), indexing="ij")
    lam, ratio = lam.ravel()[:cells], ratio.ravel()[:cells]
    key = jax.random.fold_in(jax.random.key(0), 0)
    weights = jax.vmap(lambda *at: figure_6a(key, *at).start.weights)(jnp.asarray(lam), jnp.asarray(ratio))
    return {"w": np.concatenate([np.reshape(w, (cells, 4)) for w in weights], axis=1), "scale": 1 / ratio}


def _small(name: str, what: str, decades: float, cells: int = 2**14, **more: Any) -> Problem:
    draw = functools.partial(small, decades=decades)
    return Problem(name, what, cells, (2, 2, 2), draw, np.diag([1.0, 0.5]), **more)


def _closed_form() -> Problem:
    yx = np.array(task_6a().yx)
    what = "Figure 6(a): lambda-balanced networks 2-2-2"
    return Problem("closed-form", what, 1600, (2, 2, 2), balanced, yx, t1=39.99, balanced=True)


def _samples() -> Problem:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(100_000, 5)) * np.linspace(0.5, 1.5, 5)
    y = x @ rng.normal(size=(5, 5)) + 0.1 * rng.normal(size=(100_000, 5))
    problem = of_widths("samples", "networks 5-5-5 on 100,000 samples, coloured inputs", 4096, (5, 5, 5), data=(x, y))
    draw = functools.partial(gaussian, (5, 5, 5), decades=0.0)
    return dataclasses.replace(problem, draw=draw, xx=x.T @ x / len(x), yx=y.T @ x / len(x))


@functools.cache
def problems() -> dict[str, Problem]:
    """All of them, by name; some are drawn, so float64 is set before."""
    wide = "target scales over four decades"
    every = (
        _small("uniform", "networks 2-2-2 from small weights, all target scales one", 0.0),
        _small("wide", f"the same, {wide}", 2.0),
        Problem(
            "poisoned",
            f"the same, {wide}, one cell in a hundred NaN or blowing up",
            2**14,
            (2, 2, 2),
            poisoned,
            np.diag([1.0, 0.5]),
        ),
        of_widths("wide-networks", "networks 20-20-20, target scales over two decades", 512, (20, 20, 20)),
        of_widths("deep", "networks 2-2-2-2-2, target scales over two decades", 8192, (2,) * 5),
        _samples(),
        of_widths(
            "times",
            "networks 2-2-2 at 100 log-spaced times, target scales over two decades",
            8192,
            (2, 2, 2),
            ts=np.geomspace(1e-2, 2.0, 100),
        ),
        _closed_form(),
        _small(
            "descent", "2000 steps of descent at rate 0.01, networks as in uniform", 0.0, 4096, steps=2000, rate=0.01
        ),
    )
    return {problem.name: problem for problem in every}
