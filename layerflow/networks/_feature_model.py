"""Unconstrained features: a network of two linear layers by another name."""

from jaxtyping import ArrayLike

from layerflow.networks._linear import LinearNetwork
from layerflow.networks._mlp import MLP


def feature_model(features: ArrayLike, classifier: ArrayLike, bias: ArrayLike | None = None) -> LinearNetwork | MLP:
    """The unconstrained feature model f(sample i) = W h_i + b: a linear network on one-hot inputs (Eq. 61).

    Every sample has features of its own, free to move, where a deep network would compute them: the
    columns of the first layer, read by inputs e_i. The task is Samples(jnp.eye(n), y).

    Args:
        features: h_i as columns, shape (hid, n).
        classifier: W, shape (out, hid).
        bias: b, shape (out,); none if not given.

    Returns:
        Network of widths (n, hid, out): a LinearNetwork, or with a bias an MLP without activation.

    Raises:
        ValueError: If one of them is of the wrong shape.

    Example:
        >>> import jax, jax.numpy as jnp, layerflow as lf
        >>> labels = jnp.array([0, 0, 1, 1])
        >>> model = lf.feature_model(jnp.ones((3, 4)), jnp.ones((2, 3)))
        >>> model.widths, float(lf.Samples(jnp.eye(4), jax.nn.one_hot(labels, 2)).loss(model))
        ((4, 3, 2), 6.5)

    References:
        Mixon, Parshall, Pi (2020), arXiv:2011.11619; Nam et al. (2025), arXiv:2502.21009, section 5.
    """
    if bias is None:
        return LinearNetwork((features, classifier))
    return MLP((features, classifier), (None, bias), slope=1.0)
