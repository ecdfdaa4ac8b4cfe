"""Linear networks of any depth and widths; by other names, linear and unconstrained feature models."""

import functools

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from layerflow.networks._fields import as_layers, constant


class LinearNetwork(eqx.Module):
    """The map x -> output_scale * w[-1] @ ... @ w[0] @ x (Eq. 4, column convention).

    Attributes:
        weights: One matrix per layer, first layer first, of shapes (hid, inp), ..., (out, hid).
        output_scale: A constant factor, 1/Z in Eq. 15; training does not move it.

    Raises:
        ValueError: If there is no layer, a layer is not a matrix, or the widths of two
            neighbouring layers differ.

    Example:
        >>> import jax.numpy as jnp, layerflow as lf
        >>> network = lf.LinearNetwork((jnp.ones((3, 2)), jnp.ones((1, 3))))
        >>> network.widths
        (2, 3, 1)
        >>> network(jnp.array([1.0, 2.0])).tolist()
        [9.0]
    """

    weights: tuple[Float[Array, "_out _inp"], ...] = eqx.field(converter=as_layers)
    output_scale: float | Float[Array, ""] = constant(default=1.0)

    def __check_init__(self) -> None:
        if not self.weights:
            raise ValueError("A LinearNetwork needs at least one layer, but `weights` is empty.")
        for number, w in enumerate(self.weights):
            if w.ndim != 2:
                raise ValueError(
                    f"Every layer of a LinearNetwork is a matrix of shape (out, inp), but `weights[{number}]` "
                    f"has shape {w.shape}. For independent modes use DiagonalNetwork."
                )
        for number, (before, after) in enumerate(zip(self.weights, self.weights[1:], strict=False)):
            if after.shape[1] != before.shape[0]:
                raise ValueError(
                    f"Layers need to fit: `weights[{number}]` has shape {before.shape} and gives "
                    f"{before.shape[0]} values, but `weights[{number + 1}]` has shape {after.shape} and "
                    f"takes {after.shape[1]}. Layers are listed first to last, each of shape (out, inp)."
                )

    @property
    def matrix(self) -> Float[Array, "out inp"]:
        """The end-to-end matrix, output scale included."""
        return self.output_scale * functools.reduce(lambda product, w: w @ product, self.weights)

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of every layer of units, input first."""
        return (self.weights[0].shape[1], *(w.shape[0] for w in self.weights))

    def __call__(self, x: Float[Array, " inp"]) -> Float[Array, " out"]:
        """The output for one input."""
        return self.output_scale * functools.reduce(lambda signal, w: w @ signal, self.weights, x)


def linear_model(weight: ArrayLike) -> LinearNetwork:
    """The linear model f(x) = theta @ x (Eq. 5), a linear network of one layer.

    Args:
        weight: theta, shape (inp,) for a scalar output or (out, inp).

    Returns:
        Network with one layer.

    Raises:
        ValueError: If `weight` is neither a vector nor a matrix.

    Example:
        >>> import jax.numpy as jnp, layerflow as lf
        >>> lf.linear_model(jnp.zeros(5)).widths
        (5, 1)
    """
    weight = jnp.asarray(weight)
    return LinearNetwork((weight[None, :] if weight.ndim == 1 else weight,))


def feature_model(features: ArrayLike, classifier: ArrayLike) -> LinearNetwork:
    """The unconstrained feature model f(sample i) = W h_i: a linear network on one-hot inputs.

    Every sample has features of its own, free to move, where a deep network would compute them: the
    columns of the first layer, read by inputs e_i. The task is Samples(jnp.eye(n), y).

    Args:
        features: h_i as columns, shape (hid, n).
        classifier: W, shape (out, hid).

    Returns:
        Network of widths (n, hid, out).

    Raises:
        ValueError: If one of the two is no matrix, or they do not fit.

    Example:
        >>> import jax, jax.numpy as jnp, layerflow as lf
        >>> labels = jnp.array([0, 0, 1, 1])
        >>> model = lf.feature_model(jnp.ones((3, 4)), jnp.ones((2, 3)))
        >>> model.widths, float(lf.Samples(jnp.eye(4), jax.nn.one_hot(labels, 2)).loss(model))
        ((4, 3, 2), 6.5)

    References:
        Mixon, Parshall, Pi (2020), arXiv:2011.11619; Nam et al. (2025), arXiv:2502.21009, section 5.
    """
    return LinearNetwork((features, classifier))
