"""The lazy twin of a network."""

from collections.abc import Callable

import equinox as eqx
import jax
from jaxtyping import Array, Float, PyTree

from layerflow.networks._diagonal import DiagonalNetwork
from layerflow.networks._difference import DifferenceNetwork
from layerflow.networks._fields import constant, is_weight
from layerflow.networks._layerwise import LayerwiseNetwork
from layerflow.networks._linear import LinearNetwork


class LinearisedNetwork(eqx.Module):
    """A network to first order in how far its weights moved; see `linearise`.

    Attributes:
        weights: The network that moves, which is `start` at the start.
        start: The network it was linearised at; a constant.
    """

    weights: PyTree
    start: PyTree = constant()

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """f0(x) + J(x) (weights - start)."""
        return self.first_order(lambda network: network(x))

    @property
    def matrix(self) -> Float[Array, "out inp"]:
        """The end-to-end matrix to first order, if the network is linear."""
        if not hasattr(self.start, "matrix"):
            raise AttributeError(f"A {type(self.start).__name__} has no end-to-end matrix.")
        return self.first_order(lambda network: network.matrix)

    def first_order(self, function: Callable[[PyTree], Array]) -> Array:
        """A function of the network to first order."""
        moving, rest = eqx.partition(self.start, is_weight(self.start))
        now = eqx.filter(self.weights, is_weight(self.weights))
        moved = jax.tree.map(lambda w, w0: w - w0, now, moving)
        value, change = jax.jvp(lambda weights: function(eqx.combine(weights, rest)), (moving,), (moved,))
        return value + change


def is_linear(network: PyTree) -> bool:
    """Whether `network` is known to be the linear map x -> matrix @ x, and not just to have a `matrix`."""
    if type(network) is LinearisedNetwork:
        return is_linear(network.start)
    if type(network) is LayerwiseNetwork:
        return not network.is_affine
    return type(network) in (LinearNetwork, DiagonalNetwork, DifferenceNetwork)


def linearise(network: PyTree) -> LinearisedNetwork:
    """The lazy twin of a network: the same start and tangent kernel, which then stays as it is.

        f_lin(x) = f0(x) + J(x) (weights - start),    J = d f0 / d weights.

    It trains like any network, and what it does in the flow of the same problem is what "lazy" means
    for the network itself (Chizat et al., 2019).

    Args:
        network: Any network.

    Returns:
        Network whose flow is linear; it has the end-to-end `matrix` that linear networks have.

    Example:
        >>> import jax, jax.numpy as jnp, layerflow as lf
        >>> network = lf.gaussian(jax.random.key(0), (3, 4, 2))
        >>> lazy = lf.linearise(network)
        >>> bool((lazy(jnp.ones(3)) == network(jnp.ones(3))).all())
        True

    References:
        Chizat, Oyallon, Bach (2019), arXiv:1812.07956.
    """
    return LinearisedNetwork(network, network)
