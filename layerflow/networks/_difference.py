"""The diagonal network of two branches, one for each sign."""

import equinox as eqx
from jaxtyping import Array, ArrayLike, Float

from layerflow.base._checks import real_array, whole
from layerflow.networks._fields import constant


def _weights(value: ArrayLike) -> Array:
    return real_array(value, "u` or `v")


class DifferenceNetwork(eqx.Module):
    """The map x -> output_scale * sum_i (u_i^depth - v_i^depth) x_i, of one output.

    A diagonal network of `depth` equal layers has strengths of one sign; two of them, one to be subtracted,
    reach both. Of depth 2 it is the DiagonalNetwork of the layers u + v and u - v, at twice the speed, and
    gradient flow keeps u v. `layerflow.theory.deep_mirror_flow` has its path at greater depths.

    Attributes:
        u, v: The weights of what is added and of what is subtracted, each of shape (inp,).
        depth: Power of the weights, a whole number of at least 1.
        output_scale: A constant factor; training does not move it.

    Raises:
        ValueError: If `u` and `v` are no vectors of one length, or `depth` is no whole number of at least 1.

    Example:
        >>> import jax.numpy as jnp, layerflow as lf
        >>> network = lf.DifferenceNetwork(jnp.array([1.0, 2.0]), jnp.array([2.0, 1.0]))
        >>> network.strengths.tolist()
        [-3.0, 3.0]

    References:
        Woodworth et al. (2020), arXiv:2002.09277.
    """

    u: Float[Array, " inp"] = eqx.field(converter=_weights)
    v: Float[Array, " inp"] = eqx.field(converter=_weights)
    depth: int = eqx.field(default=2, static=True)
    output_scale: float | Float[Array, ""] = constant(default=1.0)

    def __check_init__(self) -> None:
        if self.u.ndim != 1 or self.u.shape != self.v.shape:
            raise ValueError(
                f"The weights of a DifferenceNetwork are two vectors of one length, one number per mode, but `u` has "
                f"shape {self.u.shape} and `v` {self.v.shape}."
            )
        if not whole(self.depth) or self.depth < 1:
            raise ValueError(f"Argument `depth` is a whole number of at least 1, but it is {self.depth!r}.")

    @property
    def strengths(self) -> Float[Array, " inp"]:
        """Strength u_i^depth - v_i^depth of every mode, output scale included."""
        # Of depth 2 as a product, which keeps the digits where u and v are nearly equal.
        if self.depth == 2:
            return self.output_scale * ((self.u - self.v) * (self.u + self.v))
        return self.output_scale * (self.u**self.depth - self.v**self.depth)

    @property
    def matrix(self) -> Float[Array, "1 inp"]:
        """The end-to-end matrix: the strengths as one row."""
        return self.strengths[None, :]

    @property
    def widths(self) -> tuple[int, int]:
        """Number of inputs and of outputs."""
        return (self.u.shape[0], 1)

    def __call__(self, x: Float[Array, " inp"]) -> Float[Array, " 1"]:
        """The output for one input."""
        return self.matrix @ x
