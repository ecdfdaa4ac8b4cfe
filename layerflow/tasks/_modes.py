"""Independent modes: the task of Eqs. 1 to 7."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from layerflow.base._checks import real_array
from layerflow.tasks._base import Task, factors, linear_map


class Modes(Task):
    """Decoupled modes: f*(x) = sum_i x_i target_i with uncorrelated inputs (Eqs. 1, 2).

    The loss of a network with mode strengths u is exactly

        L = sum_i variance_i (target_i - u_i)^2 / 2.

    Args:
        variance: E[x_i^2] of every input, shape (modes,) or a scalar for all.
        target: S_i of every mode, shape (modes,) or a scalar for all.

    Raises:
        ValueError: If the two do not fit or neither is a vector.

    Example:
        >>> import jax.numpy as jnp, layerflow as lf
        >>> task = lf.Modes(variance=jnp.array([0.5, 0.2, 0.1]), target=1.0)
        >>> print(f"{task.loss(lf.linear_model(jnp.zeros(3))):.2f}")
        0.40
    """

    variance: Float[Array, " modes"]
    target: Float[Array, " modes"]

    def __init__(self, variance: ArrayLike, target: ArrayLike) -> None:
        variance, target = real_array(variance, "variance"), real_array(target, "target")
        lengths = {array.shape[0] for array in (variance, target) if array.ndim == 1}
        if max(variance.ndim, target.ndim) != 1 or len(lengths) != 1:
            raise ValueError(
                f"Modes needs one variance and one target per mode, so vectors of one length (one of the two may be "
                f"a number), but `variance` has shape {variance.shape} and `target` has shape {target.shape}."
            )
        (modes,) = lengths
        self.variance = jnp.broadcast_to(variance, (modes,))
        self.target = jnp.broadcast_to(target, (modes,))

    def __str__(self) -> str:
        """What the task is and its sizes, in a few words."""
        return f"Modes, {self.target.shape[0]} of them"

    def check(self, network: PyTree) -> None:
        """Raise unless `network` is a linear map from the modes to one output."""
        linear_map(network, self, (1, self.target.shape[0]))

    def loss(self, network: PyTree) -> Float[Array, ""]:
        """L = sum_i variance_i (target_i - u_i)^2 / 2."""
        return 0.5 * self.excess(network)

    def excess(self, network: PyTree) -> Float[Array, ""]:
        """E|f(x) - f*(x)|^2 = sum_i variance_i (target_i - u_i)^2: twice the loss, for f* is exact."""
        return jnp.sum(self.variance * (self.target - network.matrix[0]) ** 2)

    def rescale(self, *, input: ArrayLike = 1.0, target: ArrayLike = 1.0) -> "Modes":
        """Inputs times `input` and targets (values of f*) times `target`."""
        input, target = factors(input, target)
        return eqx.tree_at(
            lambda task: (task.variance, task.target),
            self,
            (self.variance * input**2, self.target * target / input),
        )

    def least_loss(self, network: PyTree) -> Float[Array, ""]:
        """Zero: every mode can be learned exactly."""
        self.check(network)
        return jnp.zeros((), self.target.dtype)

    def null_loss(self) -> Float[Array, ""]:
        """L = sum_i variance_i target_i^2 / 2."""
        return 0.5 * jnp.sum(self.variance * self.target**2)
