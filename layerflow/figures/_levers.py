"""The two tasks of Figure 8, and the levers that take grokking away from each."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

import layerflow as lf
from layerflow.figures._grokking import mirrored, relative_loss

ARGUMENTS = ("target", "gain", "inp", "output", "width", "decay")
LEVERS = ("default", "target up", "weights down", "input down", "output down", "width down", "decay up")
Cell = Callable[..., tuple[lf.Problem, lf.Descent]]


def configurations(factors: tuple[float, ...], decay: float) -> Any:
    """One row for the default and one for each lever, which moves one argument by its factor."""
    table = np.tile([1.0, 1.0, 1.0, 1.0, 1.0, 0.0], (len(LEVERS), 1))
    for row, factor in enumerate((*factors, decay), start=1):
        table[row, row - 1] = factor
    return lf.paired(dict(zip(ARGUMENTS, table.T, strict=True)), labels=LEVERS)


@dataclass(frozen=True)
class Polynomial:
    """Kumar's network (out/N) sum_i s_i phi(w_i . x), phi(z) = z + eps z^2/2, of fixed signs s_i.

    The second half of the units is the first with the opposite sign, so that f = 0 at the start. The target has the
    root mean square `size` on the training set: by itself it depends on the draw of its direction.
    """

    inp: int
    n: int
    hid: int
    steps: int
    size: float
    eps: float = 0.5
    rate: float = 0.3
    factors: tuple[float, ...] = (4.0, 0.25, 0.5, 0.25, 0.25)
    decay: float = 1e-3
    level: float = 0.2
    falling: bool = True
    name: str = "polynomial regression"
    measure: str = "loss over that of the zero function"
    observe: dict[str, Any] = field(
        default_factory=lambda: {"train": relative_loss, "test": lf.on_test(relative_loss)}, repr=False
    )

    def kernel(self, gain: Any, inp: Any, output: Any, width: Any) -> Any:
        """Size of the tangent kernel at the start, over the default's."""
        return (output * inp) ** 2 * width * (1 + (self.eps * gain * inp) ** 2) / (1 + self.eps**2)

    def ratio(self, target: Any, gain: Any, inp: Any, output: Any, width: Any) -> Any:
        """|Df|^2 / (|D^2 f| |y|) over the default's: the curvature goes as output inp^2."""
        return self.kernel(gain, inp, output, width) / (output * inp**2 * target)

    def cell(self, key: PRNGKeyArray, *, lazy: bool = False) -> Cell:
        """The cell of the sweep; `key` is of the data."""
        train, test = lf.polynomial_regression(key, n=self.n, inp=self.inp)
        scale = self.size / jnp.sqrt(2 * train.null_loss())

        def polynomial(
            key: PRNGKeyArray,
            target: Array,
            gain: Array,
            inp: Array,
            output: Array,
            width: Array,
            decay: Array,
        ) -> tuple[lf.Problem, lf.Descent]:
            half = jax.random.normal(key, (self.hid // 2, self.inp))
            start = mirrored(gain * half, _first(width, self.hid // 2), eps=self.eps, scale=output)
            rates = eqx.tree_at(lambda network: network.weights, start, (1.0, None))
            rate = self.rate * self.hid / self.kernel(gain, inp, output, width)
            tasks = [task.rescale(target=target * scale, input=inp) for task in (train, test)]
            # The gradient of one unit is 1/hid of that of a sum, and so is its decay.
            return _problem(start, tasks, decay / self.hid, rates, lazy), _descent(rate, self.steps)

        return polynomial


@dataclass(frozen=True)
class Modular:
    """Gromov's network (out / 2pN) sum_i v_i (w_i . x)^2 on addition modulo p, both layers N(0, std^2)."""

    prime: int
    hid: int
    steps: int
    train: float = 0.7
    std: float = 3.5
    rate: float = 3.0
    factors: tuple[float, ...] = (4.0, 0.65, 0.6, 0.25, 0.5)
    decay: float = 1e-4
    level: float = 0.9
    falling: bool = False
    measure: str = "accuracy"
    observe: dict[str, Any] = field(
        default_factory=lambda: {"train": lf.accuracy, "test": lf.on_test(lf.accuracy)}, repr=False
    )

    @property
    def name(self) -> str:
        """What the task is called."""
        return f"addition modulo {self.prime}"

    def kernel(self, gain: Any, inp: Any, output: Any, width: Any) -> Any:
        """Size of the tangent kernel at the start, over the default's."""
        return output**2 * (gain * inp) ** 4 * width

    def ratio(self, target: Any, gain: Any, inp: Any, output: Any, width: Any) -> Any:
        """|Df|^2 / (|D^2 f| |y|) over the default's: the curvature goes as output gain inp^2."""
        return self.kernel(gain, inp, output, width) / (output * gain * inp**2 * target)

    def cell(self, key: PRNGKeyArray, *, lazy: bool = False) -> Cell:
        """The cell of the sweep; `key` is of the split."""
        train, test = lf.modular_arithmetic(key, self.prime, train=self.train)
        scale = 1 / (2 * self.prime * self.hid)
        # Mean over samples and weights of the kernel of one output, (12 + 16) hid (std^2 scale)^2.
        size = 28 * self.hid * (self.std**2 * scale) ** 2

        def modular(
            key: PRNGKeyArray,
            target: Array,
            gain: Array,
            inp: Array,
            output: Array,
            width: Array,
            decay: Array,
        ) -> tuple[lf.Problem, lf.Descent]:
            weights = lf.MLP.gaussian(
                key, (2 * self.prime, self.hid, self.prime), std=self.std * gain, bias=False
            ).weights
            kept = _first(width, self.hid)
            start = lf.MLP(
                (weights[0] * kept[:, None], weights[1] * kept[None]),
                activation=jnp.square,
                output_scale=output * scale,
            )
            rate = self.rate / (size * self.kernel(gain, inp, output, width))
            tasks = [task.rescale(target=target, input=inp) for task in (train, test)]
            return _problem(start, tasks, decay * size, 1.0, lazy), _descent(rate, self.steps)

        return modular


def _first(share: Array, units: int) -> Float[Array, " units"]:
    """1 for the first units, a share of all, and 0 for the rest: these stay 0, as if they were not there."""
    return jnp.where(jnp.arange(units, dtype=share.dtype) < share * units, 1.0, 0.0)


def _problem(start: lf.MLP, tasks: list[lf.Samples], decay: Array, rates: Any, lazy: bool) -> lf.Problem:
    """The problem of training and testing, or that of its linearised twin."""
    train, test = tasks
    if not lazy:
        return lf.Problem(start, train, test=test, decay=decay, rates=rates)
    twin = lf.linearise(start)
    lazy_rates = 1.0 if rates == 1.0 else eqx.tree_at(lambda twin: twin.weights, twin, rates)
    return lf.Problem(twin, train, test=test, decay=decay, rates=lazy_rates)


def _descent(rate: Any, steps: int) -> lf.Descent:
    return lf.Descent(optax.sgd, learning_rate=rate, steps=steps)


Task = Polynomial | Modular
