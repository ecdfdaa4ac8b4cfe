"""A finite sample of inputs and targets."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray, PyTree

from layerflow.base._checks import is_concrete, whole_number
from layerflow.base._numerics import safe_root
from layerflow.networks import LinearisedNetwork, LinearNetwork, is_linear
from layerflow.tasks._base import Task, factors, linear_map
from layerflow.tasks._losses import OF_SAMPLE, Criterion, checked_targets
from layerflow.tasks._moments import Moments, least_of_rank, moments_of, sample_pair, sample_weight
from layerflow.tasks._order import shuffled


def _of_width(network: PyTree) -> str:
    """What the network takes instead, where it says so."""
    return f": its inputs have shape ({network.widths[0]},)" if hasattr(network, "widths") else ""


def _cheapest(network: PyTree, x: Float[Array, "n inp"]) -> Float[Array, "n ..."]:
    """The outputs for all samples; of linear layers whichever product first takes the least arithmetic."""
    if type(network) is LinearisedNetwork:
        return network.first_order(lambda start: _cheapest(start, x))
    if type(network) is LinearNetwork:
        return network.output_scale * jnp.linalg.multi_dot((*network.weights[::-1], x.T)).T
    return jax.vmap(network)(x)


class Samples(Task):
    """A finite sample, for any network.

    The loss is L = (1/n) sum_samples |f(x) - y|^2 / 2, summed over outputs, or with a weight
    for each sample

        L = sum_i weight_i |f(x_i) - y_i|^2 / 2 / sum_i weight_i.

    For classification the same mean is taken, in place of |f(x) - y|^2 / 2, of

        log(1 + exp(-y f(x)))              loss="logistic": one output, labels y = +-1,
        -sum_k y_k log softmax(f(x))_k     loss="cross-entropy": y_k the probability of class k.

    Linear networks are integrated on the second moments of the sample, which give the same square loss,
    unless there are fewer samples than inputs, which cost less than the moments. The losses of
    classification are no functions of moments: there they are integrated on the samples, no closed form
    (`Exact`) holds, and no least loss is known, for on classes that can be separated it is reached at
    infinite weights.

    Args:
        x: Inputs, one row per sample, shape (n, ...).
        y: Targets, shape (n, ...); labels -1 and 1 of shape (n, 1), or (n,) for a network that gives a plain
            number, for "logistic"; rows of probabilities, one-hot or soft, of shape (n, classes), for
            "cross-entropy".
        weight: How much each sample counts, shape (n,); all alike if not given. A subclass with
            a `loss` of its own has to read it there.
        loss: "square", "logistic" or "cross-entropy"; kept as `criterion`.

    Raises:
        ValueError: If `x` and `y` differ in length or hold no sample; if `weight` does not fit, is
            negative or zero throughout; if `loss` is none of these, or `y` holds no such labels.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp, layerflow as lf
        >>> task = lf.Samples(jnp.ones((5, 3)), jnp.zeros((5, 2)))
        >>> network = eqx.nn.MLP(3, 2, width_size=8, depth=1, key=jax.random.key(0))
        >>> task.loss(network).shape
        ()
        >>> task = lf.Samples(jnp.eye(2), jnp.array([[1.0], [-1.0]]), loss="logistic")
        >>> f"{task.loss(lf.linear_model(jnp.zeros(2))):.6f}"  # log 2
        '0.693147'
    """

    x: Float[Array, "n ..."]
    y: Float[Array, "n ..."]
    weight: Float[Array, " n"] | None = None
    criterion: Criterion = eqx.field(static=True, default="square")

    def __init__(self, x: ArrayLike, y: ArrayLike, weight: ArrayLike | None = None, loss: Criterion = "square") -> None:
        self.x, y = sample_pair(x, y)
        self.y = checked_targets(y, loss)
        self.weight = None if weight is None else sample_weight(weight, self.x)
        self.criterion = loss

    def __str__(self) -> str:
        """What the task is and its sizes, in a few words."""
        weighted = "" if self.weight is None else ", weighted"
        judged = "" if self._of_squares else f", {self.criterion} loss"
        return (
            f"Samples, {self.x.shape[0]} of inputs {self.x.shape[1:]} and targets {self.y.shape[1:]}{weighted}{judged}"
        )

    def check(self, network: PyTree) -> None:
        """Raise unless `network` takes one input and gives one target."""
        if is_linear(network) and self.x.ndim == self.y.ndim == 2:
            linear_map(network, self, (self.y.shape[1], self.x.shape[1]))
            return
        if not callable(network):
            raise TypeError(f"A network is called on one input, but {type(network).__name__} is not callable.")
        try:
            output = eqx.filter_eval_shape(network, jax.ShapeDtypeStruct(self.x.shape[1:], self.x.dtype))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"The network needs to take one input of shape {self.x.shape[1:]}, a row of `x`, but it does not"
                f"{_of_width(network)}. It says: {error}"
            ) from error
        if getattr(output, "shape", None) != self.y.shape[1:]:
            raise ValueError(
                f"Widths need to fit: one target, a row of `y`, has shape {self.y.shape[1:]}, but for one input the "
                f"network gives {getattr(output, 'shape', type(output).__name__)}."
                f"{' Give targets one column each: y[:, None].' if self.y.ndim == 1 else ''}"
            )

    def loss(self, network: PyTree) -> Float[Array, ""]:
        """L = (1/n) sum_samples |f(x) - y|^2 / 2, or that of the task's `criterion`, by weight."""
        product = is_linear(network) and (self.few or not self._of_squares) and self.x.ndim == 2
        return self._loss_of(_cheapest(network, self.x) if product else jax.vmap(network)(self.x))

    @property
    def _of_squares(self) -> bool:
        """Whether the loss is that of squares, a function of moments with a least value that is known."""
        return self.criterion == "square"

    def _loss_of(self, outputs: Float[Array, "n ..."]) -> Float[Array, ""]:
        """The loss of outputs for all samples."""
        if self._of_squares:
            return self._half_square(outputs - self.y)
        return self.mean(OF_SAMPLE[self.criterion](outputs, self.y))

    def residual(self, outputs: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
        """Minus the derivative of the loss of every sample by its outputs: y - f, and y - softmax(f) of classes."""
        if self._of_squares:
            return self.y - outputs
        return -jax.grad(lambda outputs: jnp.sum(OF_SAMPLE[self.criterion](outputs, self.y)))(outputs)

    def first(self, n: ArrayLike) -> "Samples":
        """The task of the first n samples.

        Of a whole number n they are cut out. Of an array, such as the value of an axis, all
        samples stay and those after the first n have weight 0: the loss is that of the first n,
        1/n included, and one program serves every n. A step then costs what it costs on all
        samples, on their moments as little as ever. Inputs that are whitened over all samples
        are not over the first n.

        Args:
            n: How many, from 1 to as many as there are, shape ().

        Raises:
            ValueError: If `n` is no whole number of that range; in a sweep, before anything runs.
            TypeError: If a subclass has a `loss` of its own, and `n` is an array.

        Example:
            >>> import jax, jax.numpy as jnp, layerflow as lf
            >>> most, start = lf.random_regression(jax.random.key(0), n=40, inp=3, out=1), lf.linear_model(jnp.zeros(3))
            >>> cell = lambda n: lf.Problem(start, most.first(n))
            >>> diagram = lf.sweep(cell, {"n": [2, 20, 40]}, method=lf.Exact(t1=1e3), progress=False)
            >>> [f"{loss:.2f}" for loss in diagram.loss.values]  # two samples of three inputs are learned by heart
            ['0.00', '0...', '0...']
        """
        count = whole_number(n, "n", self.x.shape[0], "samples")
        if isinstance(count, int):
            task = self._rows(slice(count))
            return task if self.weight is None else task._with_weight(sample_weight(self.weight[:count], task.x))
        if type(self).loss is not Samples.loss:
            raise TypeError(
                f"The first n samples of a {type(self).__name__} cannot be told by weights, for its own `loss` may not "
                f"read them. Give `n` as a whole number, on an axis lf.static([...]), or the weights yourself: "
                f"{type(self).__name__}(x, y, weight=(jnp.arange(len(x)) < n).astype(float))."
            )
        weight = (jnp.arange(self.x.shape[0]) < count).astype(self.x.dtype)
        return self._with_weight(weight if self.weight is None else sample_weight(weight * self.weight, self.x))

    def _with_weight(self, weight: Float[Array, " n"]) -> "Samples":
        return eqx.tree_at(lambda task: task.weight, self, weight, is_leaf=lambda leaf: leaf is None)

    def mean(self, values: Float[Array, " n"]) -> Float[Array, ""]:
        """The mean of one value per sample, by weight."""
        return jnp.mean(values) if self.weight is None else jnp.sum(self.weight * values) / jnp.sum(self.weight)

    def weighed(self, values: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
        """Rows of something of every sample, scaled so that sums of their squares over n are weighted means."""
        if self.weight is None:
            return values
        root = safe_root(self.weight * values.shape[0] / jnp.sum(self.weight))
        return values * root.reshape(-1, *[1] * (values.ndim - 1))

    def _half_square(self, values: Float[Array, "n ..."]) -> Float[Array, ""]:
        """E|value|^2 / 2 of something of every sample."""
        if self.weight is None:
            return 0.5 * jnp.sum(values**2) / values.shape[0]
        squares = jnp.sum(values.reshape(values.shape[0], -1) ** 2, axis=1)
        return 0.5 * self.mean(squares)

    def rescale(self, *, input: ArrayLike = 1.0, target: ArrayLike = 1.0) -> "Samples":
        """Inputs times `input` and targets times `target`, which labels of classes are not rescaled by."""
        input, target = factors(input, target)
        if not self._of_squares and not (is_concrete(target) and np.all(np.asarray(target) == 1)):
            raise TypeError(
                f"Targets of the {self.criterion} loss are labels and have no scale: leave out `target`. Inputs have "
                f"one, rescale(input=...), and so has the network, output_scale."
            )
        return eqx.tree_at(lambda task: (task.x, task.y), self, (self.x * input, self.y * target))

    def batch(self, key: PRNGKeyArray, step: Array, size: int, replace: bool = False) -> "Samples":
        """The batch of one step.

        Args:
            key: The same for all steps of a run.
            step: Number of the step, from 0.
            size: Samples in a batch.
            replace: Draw each sample of each batch anew. Otherwise every epoch runs once through
                the samples in a fresh order, a remainder left out.
        """
        n = self.x.shape[0]
        if self.weight is not None:
            raise ValueError(
                "Mini-batches are drawn from samples that count alike, but these have weights. Leave out `batch` to "
                "descend on all of them; or give `first` a whole number, on an axis lf.static([...]), which cuts."
            )
        if replace:
            return self._rows(jax.random.randint(jax.random.fold_in(key, step), (size,), 0, n))
        if size > n:
            raise ValueError(f"A batch of {size} needs at least as many samples, but the task holds {n}.")
        epoch, number = jnp.divmod(step, n // size)
        return self._rows(shuffled(jax.random.fold_in(key, epoch), number * size + jnp.arange(size), n))

    def _rows(self, rows: Int[Array, " size"] | slice) -> "Samples":
        return eqx.tree_at(lambda task: (task.x, task.y), self, (self.x[rows], self.y[rows]))

    @property
    def moments(self) -> Moments:
        """Second moments of the sample.

        Raises:
            TypeError: If the loss is not that of squares.
        """
        if not self._of_squares:
            raise TypeError(
                f"Second moments say all of a task for the square loss alone, but this one has the {self.criterion} "
                f"loss. Those of the same data are lf.Samples(task.x, task.y).moments."
            )
        return moments_of(Moments, self.x, self.y, self.weight)

    def reduced(self, network: PyTree) -> Task:
        """The moments for a linear network, the samples if they are few and for any other network."""
        return self if self.few else self.in_moments(network)

    def in_moments(self, network: PyTree) -> Task:
        """The moments for a linear network, the samples for any other and for another loss."""
        return self.moments if self._by_moments(network) else self

    @property
    def few(self) -> bool:
        """Whether there are fewer samples than inputs, so that they hold fewer numbers than the moments."""
        return self.x.ndim == 2 and self.x.shape[0] < self.x.shape[1]

    def _by_moments(self, network: PyTree) -> bool:
        return is_linear(network) and type(self).loss is Samples.loss and self._of_squares

    def least_loss(self, network: PyTree) -> Float[Array, ""]:
        """The loss of the best linear map of the network's rank; unknown for other networks and losses."""
        if not self._of_squares and type(self).loss is Samples.loss:
            raise TypeError(
                f"No least loss is known for the {self.criterion} loss, which on classes that can be separated falls "
                f"towards its least value as the weights grow without end: nothing can be called converged there. Give "
                f'a loss to stop at, until=1e-3, in place of until="converged", or leave `until` out and follow to t1.'
            )
        if not (self._by_moments(network) and hasattr(network, "widths")):
            return super().least_loss(network)
        if not self.few:
            return self.moments.least_loss(network)
        self.check(network)
        return least_of_rank(min(network.widths), self.x, self.y, self.weight)

    def null_loss(self) -> Float[Array, ""]:
        """The loss of the zero output: (1/n) sum_samples |y|^2 / 2, by weight, or log 2, or log of how many classes."""
        return self._half_square(self.y) if self._of_squares else self._loss_of(jnp.zeros_like(self.y))
