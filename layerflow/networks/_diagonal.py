"""Diagonal linear networks: one scalar chain per mode."""

import functools

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from layerflow.networks._fields import as_layers, constant


class DiagonalNetwork(eqx.Module):
    """The map x -> output_scale * sum_i x_i w[-1]_i ... w[0]_i (Eq. 3, any depth), of one output.

    Attributes:
        weights: One vector per layer, each of shape (inp,): a and b of Eq. 3 for depth 2.
        output_scale: A constant factor; training does not move it.

    Raises:
        ValueError: If there is no layer or the layers are not vectors of one length.

    Example:
        >>> import jax.numpy as jnp, layerflow as lf
        >>> network = lf.DiagonalNetwork((jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0])))
        >>> network.strengths.tolist()
        [3.0, 8.0]
    """

    weights: tuple[Float[Array, " inp"], ...] = eqx.field(converter=as_layers)
    output_scale: float | Float[Array, ""] = constant(default=1.0)

    def __check_init__(self) -> None:
        if not self.weights:
            raise ValueError("A DiagonalNetwork needs at least one layer, but `weights` is empty.")
        shapes = [w.shape for w in self.weights]
        if len(shapes[0]) != 1 or any(shape != shapes[0] for shape in shapes):
            raise ValueError(
                f"The layers of a DiagonalNetwork are vectors of one length, one number per mode, "
                f"but `weights` has shapes {', '.join(map(str, shapes))}."
            )

    @property
    def strengths(self) -> Float[Array, " inp"]:
        """Strength u_i = a_i b_i of every mode, output scale included."""
        return self.output_scale * functools.reduce(jnp.multiply, self.weights)

    @property
    def matrix(self) -> Float[Array, "1 inp"]:
        """The end-to-end matrix: the strengths as one row."""
        return self.strengths[None, :]

    @property
    def widths(self) -> tuple[int, int]:
        """Number of inputs and of outputs."""
        return (self.weights[0].shape[0], 1)

    def __call__(self, x: Float[Array, " inp"]) -> Float[Array, " 1"]:
        """The output for one input."""
        return self.matrix @ x
