"""Neural collapse of unconstrained features under a linear classifier."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class Collapse(eqx.Module):
    """Where features and classifier end, up to one rotation of the feature space, and what is measured there."""

    means: Float[Array, "c hid"]  # the feature of every sample of each class
    classifier: Float[Array, "c hid"]  # one row per class
    feature_gram: Float[Array, "c c"]  # of the class means
    classifier_gram: Float[Array, "c c"]
    nc1: Float[Array, ""]  # variation within classes over that between them
    nc2_equinorm: Float[Array, ""]  # spread of the norms of the centred means
    nc2_equiangular: Float[Array, ""]  # mean of |cos + 1 / (c - 1)| over pairs of centred means
    nc3: Float[Array, ""]  # squared distance of the classifier from the centred means, each of norm 1
    nc4: Float[Array, ""]  # share of samples on which classifier and nearest class mean disagree


def collapsed(classes: int, per_class: int, hid: int, *, centred: bool = False) -> Collapse:
    """The collapsed solution of a linear classifier on unconstrained features, from zero balance.

    Gradient flow of |H W - Y|^2 / 2 in both H (n, hid) and W (hid, c), from zero balance
    H^T H = W W^T (as from small weights), ends at the only balanced factorisation of Y,

        H H^T = (Y Y^T)^{1/2},    W^T W = (Y^T Y)^{1/2},

    so for n = c m one-hot labels with m samples per class every feature equals its class mean, and

        means: Gram matrix m^{-1/2} P,    classifier: Gram matrix m^{1/2} P,

    with P = I for one-hot labels and P = I - 1 1^T / c for centred ones. NC1, NC2 and NC4 are 0. NC3
    with centred means is 0 for centred labels only: for one-hot ones the classifier aligns with the
    *uncentred* means, and NC3 tends to 2 - 2 sqrt(1 - 1/c). The same holds for a two-layer linear
    network on inputs with X X^T = I over the samples. A loss averaged over samples ends there too.

    Args:
        classes: c, at least 2.
        per_class: m, samples per class.
        hid: Dimension of the features, at least c, or c - 1 for centred labels.
        centred: Whether the labels are one-hot less 1 / c.

    Returns:
        Means, classifier, their Gram matrices and the values of NC1 to NC4.

    Raises:
        ValueError: If a number is too small.

    Example:
        >>> from layerflow.theory import collapsed
        >>> float(collapsed(4, 10, hid=4).nc3), float(collapsed(4, 10, hid=3, centred=True).nc3)
        (0.26794..., 0.0)

    References:
        Nam et al., arXiv:2502.21009, (13), (65)-(68); Papyan, Han, Donoho (2020), PNAS; Mixon et al.,
        arXiv:2011.11619.
    """
    if classes < 2 or per_class < 1:
        raise ValueError(
            f"Collapse needs at least two classes and one sample of each, but `classes` is {classes} and `per_class` "
            f"is {per_class}."
        )
    rank = classes - 1 if centred else classes
    if hid < rank:
        raise ValueError(
            f"The features need room for {rank} directions, so `hid` of at least {rank}, but it is {hid}: below, the "
            f"labels cannot be fitted."
        )
    axes = np.zeros((classes, hid))
    axes[:, :rank] = _simplex(classes) if centred else np.eye(classes)
    gram = np.eye(classes) - 1 / classes if centred else np.eye(classes)
    scale = per_class**0.25
    nc3 = 0.0 if centred else 2 - 2 * (1 - 1 / classes) ** 0.5
    values = (axes / scale, axes * scale, gram / scale**2, gram * scale**2, 0.0, 0.0, 0.0, nc3, 0.0)
    return Collapse(*(jnp.asarray(value, jnp.result_type(float)) for value in values))


def _simplex(c: int) -> np.ndarray:
    """Rows in c - 1 dimensions with Gram matrix I - 1 1^T / c (Helmert's basis)."""
    basis = np.zeros((c, c - 1))
    for j in range(1, c):
        basis[:j, j - 1] = 1.0
        basis[j, j - 1] = -j
    return basis / np.linalg.norm(basis, axis=0)[None, :]
