"""Fresh samples at every step."""

from collections.abc import Callable

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from layerflow.tasks._base import Task
from layerflow.tasks._losses import Criterion, or_nan
from layerflow.tasks._samples import Samples


class Stream(Task):
    """Fresh mini-batches at every step of descent: data without end.

    The loss that observables see is that on one fixed sample.

    Args:
        draw: Function of (key, n) that draws inputs and targets, one row per sample.
        sample: Size of the fixed sample.
        key: Source of the fixed sample.
        loss: "square", "logistic" or "cross-entropy", as in `Samples`; labels are checked on the fixed
            sample, and descent ends NOT_FINITE at a batch whose labels are no such.

    Raises:
        TypeError: If `draw` is no such function.
        ValueError: If inputs and targets differ in length, `sample` is not positive, or labels do not fit `loss`.

    Example:
        >>> import jax, jax.numpy as jnp, layerflow as lf, optax
        >>> def draw(key, n):
        ...     x = jax.random.normal(key, (n, 2))
        ...     return x, x @ jnp.array([[1.0], [2.0]])
        >>> problem = lf.Problem(lf.linear_model(jnp.zeros(2)), lf.Stream(draw))
        >>> path = lf.solve(problem, lf.Descent(optax.sgd, learning_rate=0.1, steps=200, batch=20))
        >>> bool(path.observed["loss"] < 1e-6)
        True
    """

    draw: Callable[[PRNGKeyArray, int], tuple[Array, Array]] = eqx.field(static=True)
    seen: Samples

    def __init__(
        self,
        draw: Callable[[PRNGKeyArray, int], tuple[Array, Array]],
        *,
        sample: int = 1024,
        key: PRNGKeyArray | None = None,
        loss: Criterion = "square",
    ) -> None:
        if not callable(draw):
            raise TypeError(f"Argument `draw` needs a function of (key, n), but it is a {type(draw).__name__}.")
        if sample < 1:
            raise ValueError(f"Argument `sample` counts samples and needs to be at least 1, but it is {sample}.")
        self.draw = draw
        seen = _drawn(draw, jax.random.key(0) if key is None else key, sample)
        self.seen = seen if loss == "square" else Samples(seen.x, seen.y, loss=loss)

    def __str__(self) -> str:
        """What the task is and its sizes, in a few words."""
        judged = "" if self.seen.criterion == "square" else f", {self.seen.criterion} loss"
        return f"Stream of inputs {self.seen.x.shape[1:]} and targets {self.seen.y.shape[1:]}{judged}"

    def check(self, network: PyTree) -> None:
        """Raise unless `network` takes one input and gives one target."""
        self.seen.check(network)

    def loss(self, network: PyTree) -> Float[Array, ""]:
        """L = E|f(x) - y|^2 / 2, or that of the stream's `loss`, on the fixed sample."""
        return self.seen.loss(network)

    def batch(self, key: PRNGKeyArray, step: Array, size: int, replace: bool = False) -> Samples:
        """Fresh samples for one step; they never run out, so `replace` makes no difference."""
        fresh = _drawn(self.draw, jax.random.fold_in(key, step), size)
        # Labels were checked on the fixed sample; a check inside of the loop over steps would call the host.
        return eqx.tree_at(lambda task: (task.x, task.y), self.seen, (fresh.x, or_nan(fresh.y, self.seen.criterion)))


def _drawn(draw: Callable[[PRNGKeyArray, int], tuple[Array, Array]], key: PRNGKeyArray, n: int) -> Samples:
    drawn = draw(key, n)
    if not isinstance(drawn, tuple) or len(drawn) != 2:
        raise TypeError(
            f"The function `draw` needs to return inputs and targets, but returned a {type(drawn).__name__}."
        )
    samples = Samples(*drawn)
    if samples.x.shape[0] != n:
        raise ValueError(f"The function `draw` was asked for {n} samples but returned {samples.x.shape[0]}.")
    return samples
