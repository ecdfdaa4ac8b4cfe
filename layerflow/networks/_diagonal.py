"""Diagonal linear networks: one scalar chain per mode; and by another name, those on skills."""

import functools

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from layerflow.base._checks import real_array
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


def skill_network(strengths: ArrayLike, *, depth: int = 2) -> DiagonalNetwork:
    """The diagonal network with prebuilt skills, f(x) = sum_k a_k b_k g_k(x) (Eq. 11), of equal layers.

    Its inputs are the values g_k(x) of the skills. Skills that exclude one another are uncorrelated,
    E[g_j g_k] = p_k delta_jk with the frequencies p_k, so the task is Modes(variance=p, target=S) and
    the strength R_k = a_k b_k of each skill learns by itself.

    Args:
        strengths: R_k at t = 0, shape (skill,). All layers of a skill are |R_k|^(1/depth); the last
            has the sign of R_k.
        depth: Number of layers.

    Returns:
        Network with `depth` layers of shape (skill,).

    Raises:
        ValueError: If `strengths` is no vector or `depth` is below 1.

    Example:
        >>> import jax.numpy as jnp, layerflow as lf
        >>> network = lf.skill_network(jnp.full(5, 0.01))
        >>> task = lf.Modes(variance=lf.theory.skill_frequencies(5, 0.6), target=5.0)
        >>> print(f"{lf.Problem(network, task).task.loss(network):.2f}")
        12.45

    References:
        Nam et al. (2024), arXiv:2404.17563; Nam et al. (2025), arXiv:2502.21009, Eq. 11.
    """
    strengths = real_array(strengths, "strengths")
    if strengths.ndim != 1:
        raise ValueError(
            f"Argument `strengths` holds one strength per skill, shape (skill,), but it has shape {strengths.shape}. "
            f"For n skills alike give jnp.full(n, strength)."
        )
    if depth < 1:
        raise ValueError(f"Argument `depth` is a number of layers and needs to be at least 1, but it is {depth}.")
    size = jnp.abs(strengths) ** (1 / depth)
    return DiagonalNetwork((*[size] * (depth - 1), jnp.sign(strengths) * size))
