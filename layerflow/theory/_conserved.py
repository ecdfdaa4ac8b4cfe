"""What gradient flow keeps, and how fast weight decay takes it away."""

import itertools
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from layerflow.theory._matrices import real_arrays, times


def conserved_imbalances(weights: Sequence[ArrayLike]) -> tuple[Float[Array, "hid hid"], ...]:
    """w[l+1]^T w[l+1] - w[l] w[l]^T for every pair of layers of a linear network.

    Gradient flow keeps each for any data, any start and any loss of the product of the layers.

    Args:
        weights: The layers, first applied first, of shapes (out, inp).

    Returns:
        One symmetric matrix per hidden layer.

    Raises:
        ValueError: If the shapes do not chain.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import conserved_imbalances
        >>> [c.tolist() for c in conserved_imbalances([jnp.ones((1, 2)), jnp.ones((3, 1))])]
        [[[1.0]]]

    References:
        Nam et al., arXiv:2502.21009, (48); Arora et al. (2018), arXiv:1802.06509.
    """
    layers = real_arrays(**{f"weights[{place}]": w for place, w in enumerate(weights)})
    for place, (before, after) in enumerate(itertools.pairwise(layers)):
        if before.ndim != 2 or after.ndim != 2 or after.shape[1] != before.shape[0]:
            raise ValueError(
                f"Layers of shape (out, inp) need to chain, but weights[{place}] has shape {before.shape} and "
                f"weights[{place + 1}] has {after.shape}."
            )
    return tuple(after.T @ after - before @ before.T for before, after in itertools.pairwise(layers))


def conserved_difference(a: ArrayLike, b: ArrayLike) -> Float[Array, "..."]:
    """C = a^2 - b^2 of every mode of a diagonal network, kept by gradient flow.

    Args:
        a, b: Both layers, of shapes that broadcast.

    Example:
        >>> from layerflow.theory import conserved_difference
        >>> float(conserved_difference(2.0, 1.0))
        3.0

    References:
        Nam et al., arXiv:2502.21009, (8).
    """
    a, b = real_arrays(a=a, b=b)
    return (a - b) * (a + b)


def conserved_scalar(a: ArrayLike, b: ArrayLike, z: ArrayLike = 1.0) -> Float[Array, ""]:
    """Sigma^2 - f^2 of a scalar network f(x) = (x / Z) sum_i a_i b_i, kept by gradient flow.

        Sigma = sum_i (a_i^2 + b_i^2) / 2Z,    Sigma^2 - f^2 = sum_i (a_i + b_i)^2 sum_i (a_i - b_i)^2 / 4 Z^2.

    Args:
        a, b: Both layers, shape (hid,).
        z: The normaliser Z, shape ().

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import conserved_scalar
        >>> float(conserved_scalar(jnp.array([1.0, 1.0]), jnp.array([1.0, -1.0])))
        4.0

    References:
        Nam et al., arXiv:2502.21009, (82), (88).
    """
    a, b, z = real_arrays(a=a, b=b, z=z)
    return jnp.sum((a + b) ** 2) * jnp.sum((a - b) ** 2) / (4 * z**2)


def decayed(conserved: ArrayLike, decay: ArrayLike, t: ArrayLike, *, degree: int = 2) -> Float[Array, "..."]:
    """A conserved quantity after gradient flow with weight decay for a time t.

    The loss L + (mu / 2) |weights|^2 multiplies every conserved quantity by

        e^{-degree mu t},    degree = 2 for imbalances and differences of squares,

    and degree = 4 for Sigma^2 - f^2, a product of two such. So decay of rate mu makes any network balanced.

    Args:
        conserved: The quantity at t = 0, any shape.
        decay: mu, shape ().
        t: Gradient-flow time, shape ().
        degree: Power of the weights in the quantity.

    Raises:
        ValueError: If the time is negative.

    Example:
        >>> from layerflow.theory import decayed
        >>> float(decayed(1.0, decay=0.5, t=1.0))
        0.36787...
    """
    conserved, decay, t = real_arrays(conserved=conserved, decay=decay, t=t)
    return conserved * jnp.exp(-degree * decay * times(t))
