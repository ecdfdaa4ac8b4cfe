"""A problem: where training starts, what is learned, and the one velocity."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from layerflow.base._card import Card, Carded
from layerflow.base._checks import is_concrete, not_negative, plain_leaves, real_array
from layerflow.networks import LinearisedNetwork, is_weight, linearise
from layerflow.tasks import Task

_DECAY = "Argument `decay` pulls weights towards 0 and needs to be at least 0"


def _as_coefficients(name: str, tree: PyTree) -> PyTree:
    """Numbers as arrays, so that other values do not recompile; a plain 0 or 1 stays and costs nothing."""
    keep = lambda leaf: isinstance(leaf, int | float) and leaf in (0, 1)
    return jax.tree.map(lambda leaf: float(leaf) if keep(leaf) else real_array(leaf, name), tree)


class Problem(Carded, eqx.Module):
    """One training run: a network at its start and a task to learn.

    Training follows

        d weights / dt = -rates * grad(loss + decay/2 |weights|^2).

    Args:
        start: Network at t = 0, any PyTree called on one input: LinearNetwork, any
            `equinox.Module`.
        task: What is learned.
        test: Task to measure on with `on_test`; training does not see it.
        decay: Weight decay, a number or a PyTree prefix of the network: one number per layer is
            `eqx.tree_at(lambda network: network.weights, start, (0.1, 0.2))`.
        rates: Learning rates relative to t, a number or a PyTree prefix of the network;
            None freezes what lies below it.

    Raises:
        TypeError: If `task` is not a task or cannot judge a network like `start`.
        ValueError: If the widths of network and task do not fit, `decay` or `rates` is no prefix, or `decay`
            is negative.

    Example:
        >>> import jax, jax.numpy as jnp, layerflow as lf
        >>> start = lf.gaussian(jax.random.key(0), (2, 3, 1), std=0.1)
        >>> lf.Problem(start, lf.Moments.whitened(yx=jnp.array([[1.0, 2.0]]))).velocity(start).widths
        (2, 3, 1)
    """

    start: PyTree
    task: Task
    test: Task | None
    decay: PyTree
    rates: PyTree

    def __init__(
        self, start: PyTree, task: Task, *, test: Task | None = None, decay: PyTree = 0.0, rates: PyTree = 1.0
    ) -> None:
        for name, given in (("task", task), ("test", test)):
            if not isinstance(given, Task) and not (name == "test" and given is None):
                raise TypeError(
                    f"Argument `{name}` needs a task (Modes, Moments, Samples, or your own subclass of lf.Task), but "
                    f"it is of type {type(given).__name__}.{_how_to_draw(given)}"
                )
        start, task, test = (
            plain_leaves(tree, f"A problem's {name}")
            for name, tree in (("start", start), ("task", task), ("test task", test))
        )
        _check_task("task", task, start)
        if test is not None:
            _check_task("test", test, start)
        self.start, self.task, self.test = start, task, test
        decays = _as_coefficients("decay", decay)
        self.decay = jax.tree.map(lambda leaf: leaf if isinstance(leaf, float) else not_negative(leaf, _DECAY), decays)
        self.rates = _as_coefficients("rates", rates)
        _check_coefficients("decay", self.decay, start)
        _check_coefficients("rates", self.rates, start)

    def _card(self) -> Card:
        """Network, task, and what is not as usual."""
        return Card("Problem", tuple(card_lines(self)))

    def split(self, network: PyTree) -> tuple[PyTree, PyTree]:
        """The moving weights of `network`, and all the rest; `eqx.combine` undoes it."""
        return eqx.partition(network, self._moving(network))

    def velocity(self, network: PyTree, task: Task | None = None) -> PyTree:
        """d weights / dt at `network`, with None in place of everything that does not move.

        Args:
            network: Where to evaluate.
            task: The task to descend on, for example a mini-batch; the problem's own if not given.
        """
        task = self.task if task is None else task
        moving = self._moving(network)
        weights, rest = eqx.partition(network, moving)
        decay = eqx.filter(_per_leaf("decay", self.decay, network), moving)
        rates = eqx.filter(_per_leaf("rates", self.rates, network), moving)

        def downhill(gradient: Array, weight: Array, decay: Any, rate: Any) -> Array:
            # Plain zeros and ones are left out of the program.
            pull = gradient if _is(decay, 0) else gradient + jnp.asarray(decay, weight.dtype) * weight
            return -pull if _is(rate, 1) else -jnp.asarray(rate, weight.dtype) * pull

        gradient = jax.grad(lambda weights: task.loss(eqx.combine(weights, rest)))(weights)
        return jax.tree.map(downhill, gradient, weights, decay, rates)

    @property
    def linearised(self) -> "Problem":
        """The same problem for the lazy twin of the network, from the same start."""
        rates, decay = (LinearisedNetwork(coefficients, 0.0) for coefficients in (self.rates, self.decay))
        return Problem(linearise(self.start), self.task, test=self.test, decay=decay, rates=rates)

    def _moving(self, network: PyTree) -> PyTree:
        """Which leaves of `network` move: its weights, except where the rate is None."""
        rates = _per_leaf("rates", self.rates, network)
        return jax.tree.map(lambda rate, weight: weight and rate is not None, rates, is_weight(network), is_leaf=_none)

    @property
    def decays(self) -> list[Any]:
        """Weight decay of every array of moving weights, in their order; a plain number where it is 0 or 1."""
        decay = _per_leaf("decay", self.decay, self.start)
        return jax.tree.leaves(eqx.filter(decay, self._moving(self.start)))

    @property
    def layer_rates(self) -> list[Any]:
        """Rate of every array of moving weights, in their order; a plain number where it is 0 or 1."""
        rates = _per_leaf("rates", self.rates, self.start)
        return jax.tree.leaves(eqx.filter(rates, self._moving(self.start)))

    @property
    def has_decay(self) -> bool:
        """Whether there is weight decay, as far as can be told without its value."""
        return not all(_is(leaf, 0) for leaf in jax.tree.leaves(self.decay))


def _how_to_draw(given: Any) -> str:
    """What to write for something that draws samples and is no task itself."""
    name = type(given).__name__
    return f" Draw from it: lf.Stream({name}(...).draw)." if callable(getattr(given, "draw", None)) else ""


def _check_task(name: str, task: Task, start: PyTree) -> None:
    """Raise unless the task can judge the network; of the test task, with a word that it is that one."""
    try:
        task.check(start)
    except (TypeError, ValueError) as error:
        if name == "task":
            raise
        raise type(error)(f"The {name} task does not fit the network. {error}") from error


def _none(leaf: Any) -> bool:
    return leaf is None


def _is(leaf: Any, number: int) -> bool:
    """Whether `leaf` is this number and no array."""
    return isinstance(leaf, float) and leaf == number


def _check_coefficients(name: str, prefix: PyTree, network: PyTree) -> None:
    """Raise unless there is one number, or one array of its shape, for every weight."""
    if name == "decay" and prefix is None:
        raise ValueError("Argument `decay` needs numbers; for no decay leave it out or give 0.0.")
    weights = eqx.filter(network, is_weight(network))
    coefficients = _per_leaf(name, prefix, network)
    for weight, number in zip(*(jax.tree.leaves(t, is_leaf=_none) for t in (weights, coefficients)), strict=True):
        if weight is not None and number is not None and jnp.shape(number) not in ((), weight.shape):
            raise ValueError(
                f"Argument `{name}` holds one number per array of weights (or one per weight), but for weights of "
                f"shape {weight.shape} it has shape {jnp.shape(number)}. One number per layer is a tree: "
                f"eqx.tree_at(lambda network: network.weights, start, (0.1, 0.2))."
            )


def _per_leaf(name: str, prefix: PyTree, network: PyTree) -> PyTree:
    """`prefix` spread over the leaves of `network`."""
    try:
        return jax.tree.map(lambda value, below: jax.tree.map(lambda _: value, below), prefix, network, is_leaf=_none)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"Argument `{name}` is a number or a PyTree prefix of the network (one number per layer, say: "
            f"eqx.tree_at(lambda network: network.weights, start, (0.1, 0.2))), but it does not match a "
            f"{type(network).__name__}: {error}"
        ) from error


def card_lines(problem: Problem) -> list[tuple[str, str]]:
    """What the card of a problem says, and that of its solution too."""
    start = problem.start
    moving, rest = problem.split(start)
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree) if hasattr(leaf, "size"))
    kept = f", {count(rest)} more numbers do not move" if count(rest) else ""
    widths = "-".join(map(str, start.widths)) + ", " if hasattr(start, "widths") else ""
    lines = [
        ("network", f"{type(start).__name__}, {widths}{count(moving)} weights{kept}"),
        ("task", str(problem.task)),
    ]
    if problem.test is not None:
        lines.append(("test", str(problem.test)))
    for name, usual in (("decay", 0.0), ("rates", 1.0)):
        value = getattr(problem, name)
        if not (isinstance(value, float) and value == usual):
            lines.append((name, ", ".join(map(_number, jax.tree.leaves(value, is_leaf=lambda leaf: leaf is None)))))
    return lines


def _number(leaf: Any) -> str:
    """A coefficient: its value if it is known and one number."""
    if leaf is None:
        return "frozen"
    if not is_concrete(leaf) or np.ndim(leaf) > 0:
        return f"array of shape {np.shape(leaf)}"
    return f"{float(leaf):g}"
