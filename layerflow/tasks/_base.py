"""What every task offers."""

import abc

import equinox as eqx
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, PyTree

from layerflow.base._checks import plain


class Task(eqx.Module):
    """Something to be learned. Subclass it and give `loss` to make your own.

    Like all of layerflow's classes it is an Equinox module, a frozen dataclass: declare its fields,
    and what varies from cell to cell among them as arrays. The other methods unlock what they are
    called for: `rescale`, `batch` for mini-batches, `least_loss` and `null_loss` for
    until="converged". Kernels and mode strengths need the library's own tasks.

    Example:
        >>> import jax, jax.numpy as jnp, layerflow as lf
        >>> class Absolute(lf.Task):
        ...     x: jax.Array
        ...     y: jax.Array
        ...
        ...     def loss(self, network):
        ...         return jnp.mean(jnp.abs(jax.vmap(network)(self.x) - self.y))
        >>> task = Absolute(jnp.eye(2), jnp.ones((2, 1)))
        >>> float(task.loss(lf.linear_model(jnp.zeros(2))))
        1.0
    """

    @abc.abstractmethod
    def loss(self, network: PyTree) -> Float[Array, ""]:
        """The loss of `network` on all of the task, L = E|f(x) - y|^2 / 2 (Eq. 2)."""

    def __str__(self) -> str:
        """What the task is and its sizes, in a few words."""
        return type(self).__name__

    def check(self, network: PyTree) -> None:
        """Raise an error in the user's words if `network` cannot be trained on this task."""

    def rescale(self, *, input: ArrayLike = 1.0, target: ArrayLike = 1.0) -> "Task":
        """The same task with its inputs and targets multiplied by a factor each."""
        raise TypeError(f"{type(self).__name__} cannot be rescaled: it does not define `rescale`.")

    def batch(self, key: PRNGKeyArray, step: Array, size: int, replace: bool = False) -> "Task":
        """The mini-batch of `size` samples for one step of descent."""
        raise TypeError(
            f"Mini-batches need a task made of samples, but {type(self).__name__} holds none. "
            f"Use Samples, or leave out `batch` to descend on the whole task."
        )

    def reduced(self, network: PyTree) -> "Task":
        """The task with the same loss that is cheapest for networks like `network`."""
        return self

    def in_moments(self, network: PyTree) -> "Task":
        """The task as closed forms take it: for linear networks Moments or Modes, wherever these give the same loss."""
        return self.reduced(network)

    def least_loss(self, network: PyTree) -> Float[Array, ""]:
        """The least loss that networks of the shape of `network` can reach."""
        raise TypeError(
            f"No least loss is known for {type(network).__name__} on {type(self).__name__}, so nothing can be "
            f'called converged there. Give a loss to stop at, until=1e-3, in place of until="converged".'
        )

    def null_loss(self) -> Float[Array, ""]:
        """The loss of the zero function, the scale against which "small" is judged."""
        raise TypeError(f"{type(self).__name__} does not know the loss of the zero function.")


def factors(input: ArrayLike, target: ArrayLike) -> tuple[ArrayLike, ArrayLike]:
    """What `rescale` multiplies inputs and targets by, as JAX takes it."""
    return plain(input, "Argument `input`"), plain(target, "Argument `target`")


def linear_map(network: PyTree, task: Task, shape: tuple[int, int]) -> Float[Array, "out inp"]:
    """The end-to-end matrix of `network`, or an error that says why the task needs one of `shape`."""
    if not hasattr(network, "matrix"):
        raise TypeError(
            f"{type(task).__name__} knows its data by second moments alone, so its network needs to be linear, with "
            f"the property `matrix` (LinearNetwork, DiagonalNetwork), but {type(network).__name__} has none. "
            f"Give the data themselves: Samples(x, y)."
        )
    matrix = network.matrix
    if matrix.shape != shape:
        raise ValueError(
            f"Widths need to fit: the task has {shape[1]} inputs and {shape[0]} outputs, but the network has "
            f"{matrix.shape[1]} and {matrix.shape[0]}."
        )
    return matrix
