"""Linear networks of any depth and widths; by another name, the linear model."""

import functools
import itertools

import equinox as eqx
from jaxtyping import Array, ArrayLike, Float

from layerflow.base._checks import real_array
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
        check_layers(self.weights, "a LinearNetwork")

    @property
    def matrix(self) -> Float[Array, "out inp"]:
        """The end-to-end matrix, output scale included."""
        return self.output_scale * functools.reduce(lambda product, w: w @ product, self.weights)

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of every layer of units, input first."""
        return (self.weights[0].shape[1], *(w.shape[0] for w in self.weights))

    def features(self, x: Float[Array, " inp"]) -> Float[Array, " hid"]:
        """The last hidden layer, which the last layer of weights reads, for one input."""
        return functools.reduce(lambda signal, w: w @ signal, self.weights[:-1], x)

    @property
    def classifier(self) -> Float[Array, "out hid"]:
        """The last layer of weights, output scale included: outputs are classifier @ features."""
        return self.output_scale * self.weights[-1]

    def __call__(self, x: Float[Array, " inp"]) -> Float[Array, " out"]:
        """The output for one input."""
        return self.output_scale * (self.weights[-1] @ self.features(x))


def check_layers(weights: tuple[Array, ...], kind: str) -> None:
    """Raise unless `weights` are matrices each of which takes what the one before gives."""
    if not weights:
        raise ValueError(f"At least one layer is what makes {kind}, but `weights` is empty.")
    for number, w in enumerate(weights):
        if w.ndim != 2:
            raise ValueError(
                f"Every layer of {kind} is a matrix of shape (out, inp), but `weights[{number}]` has shape {w.shape}. "
                f"For independent modes use DiagonalNetwork."
            )
    for number, (before, after) in enumerate(itertools.pairwise(weights)):
        if after.shape[1] != before.shape[0]:
            raise ValueError(
                f"Layers need to fit: `weights[{number}]` has shape {before.shape} and gives {before.shape[0]} values, "
                f"but `weights[{number + 1}]` has shape {after.shape} and takes {after.shape[1]}. Layers are listed "
                f"first to last, each of shape (out, inp)."
            )


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
    weight = real_array(weight, "weight")
    return LinearNetwork((weight[None, :] if weight.ndim == 1 else weight,))
