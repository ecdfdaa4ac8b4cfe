"""The last hidden layer: features, their rank, and how far they have collapsed."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from layerflow._problem import Problem
from layerflow.networks import DiagonalNetwork
from layerflow.observables._basic import entropy_rank
from layerflow.observables._network import check_alike, samples_of
from layerflow.observables._observable import observable
from layerflow.tasks import Modes, SkillSamples


@observable(dims=("sample", "feature"), long_name="feature")
def features(network: PyTree, problem: Problem) -> Float[Array, "n hid"]:
    """Features of every sample of the task: the last hidden layer of the network.

    Returns:
        Array of shape (n, hid).

    Raises:
        TypeError: If the network does not offer `features(x)`, the task holds no samples, or these
            have weights.
    """
    h = _features(network, problem)
    check_alike(samples_of(problem, "features"), "features")
    return h


def _features(network: PyTree, problem: Problem) -> Float[Array, "n hid"]:
    """Features of every sample, whatever its weight."""
    if not hasattr(network, "features"):
        raise TypeError(
            f"Features are the last hidden layer of a network that offers them as `features(x)` (LinearNetwork, MLP, "
            f"Transformer), but a {type(network).__name__} does not."
        )
    return jax.vmap(network.features)(samples_of(problem, "features").x)


@observable(long_name="effective rank of the features")
def feature_rank(network: PyTree, problem: Problem) -> Float[Array, ""]:
    """Effective rank of the features of all samples: the exponential of the entropy of their singular values.

    Under neural collapse it falls to the number of classes, or of classes less one for centred labels.

    Returns:
        Array of shape ().

    Raises:
        TypeError: If the network does not offer `features(x)` or the task holds no samples.

    References:
        Roy, Vetterli (2007), "The effective rank".
    """
    return entropy_rank(samples_of(problem, "features").weighed(_features(network, problem)))


@observable(long_name="neural collapse")
def neural_collapse(network: PyTree, problem: Problem) -> dict[str, Float[Array, ""]]:
    """How far features and classifier have collapsed: NC1 to NC4 of Papyan et al. (65)-(68).

    With class means mu_k of the features, their mean mu_g, M the rows mu_k - mu_g, and covariances
    Sigma_W within and Sigma_B between c classes,

        nc1                tr(Sigma_W Sigma_B^+) / c
        nc2_equinorm       std_k |mu_k - mu_g| / mean_k |mu_k - mu_g|
        nc2_equiangular    mean over j != k of |cos_jk + 1 / (c - 1)|, cos between mu_j - mu_g and mu_k - mu_g
        nc3                |W / |W| - M / |M||^2, W the classifier, Frobenius norms
        nc4                share of samples on which the output and the nearest class mean disagree

    and the first two of the classifier's rows too. Classes are where the target is largest. Without
    bias and with one-hot labels nc3 tends to 2 - 2 sqrt(1 - 1/c), not to 0: the classifier aligns with
    the means before centring. A class without a sample has no mean, so all that the means decide, nc1 to
    nc4, is then NaN; leave its output out of the targets to measure the other classes.

    Returns:
        Dict of arrays of shape (): the five above, `classifier_equinorm` and `classifier_equiangular`.

    Raises:
        TypeError: If the network does not offer `features(x)` and `classifier`, or the task holds no samples.
        ValueError: If targets have fewer than two outputs.

    References:
        Papyan, Han, Donoho (2020), PNAS 117; Nam et al. (2025), arXiv:2502.21009, appendix F.
    """
    h, task = _features(network, problem), samples_of(problem, "neural_collapse")
    if not hasattr(network, "classifier"):
        raise TypeError(f"neural_collapse needs a `classifier`, which a {type(network).__name__} does not offer.")
    if task.y.ndim != 2 or task.y.shape[1] < 2:
        raise ValueError(
            f"neural_collapse needs one output per class, so targets of shape (n, classes), but they have shape "
            f"{task.y.shape}."
        )
    classes, label = task.y.shape[1], jnp.argmax(task.y, axis=1)
    member = jax.nn.one_hot(label, classes, dtype=h.dtype)
    member = member if task.weight is None else task.weight[:, None] * member
    means = (member.T @ h) / jnp.sum(member, axis=0)[:, None]
    centred = means - jnp.mean(means, axis=0)[None, :]
    scatter = task.weighed(h - means[label])
    all_there = jnp.all(jnp.any(member > 0, axis=0))
    nearest = jnp.argmin(jnp.sum((h[:, None, :] - means[None, :, :]) ** 2, axis=2), axis=1)
    predicted = jnp.argmax(jax.vmap(network)(task.x), axis=1)
    unit = lambda matrix: matrix / jnp.linalg.norm(matrix)
    equinorm, equiangular = _simplex_gaps(centred)
    w_equinorm, w_equiangular = _simplex_gaps(network.classifier)
    return {
        "nc1": _within_over_between(scatter, centred),
        "nc2_equinorm": equinorm,
        "nc2_equiangular": equiangular,
        "nc3": jnp.sum((unit(network.classifier) - unit(centred)) ** 2),
        "nc4": jnp.where(all_there, task.mean((nearest != predicted).astype(h.dtype)), jnp.nan),
        "classifier_equinorm": w_equinorm,
        "classifier_equiangular": w_equiangular,
    }


def _within_over_between(scatter: Float[Array, "n hid"], centred: Float[Array, "c hid"]) -> Float[Array, ""]:
    """tr(Sigma_W Sigma_B^+) / c from the c by c Gram matrix of the means, without a matrix of features."""
    classes = centred.shape[0]
    # With Sigma_B = M^T M / c and the Gram matrix G = M M^T: Sigma_B^+ = c M^T (G^+)^2 M. The mean of
    # the means is taken off, so one eigenvalue of G is zero but for rounding: a cut-off takes it out.
    inverse = jnp.linalg.pinv(centred @ centred.T, rtol=classes * jnp.finfo(centred.dtype).eps * 10, hermitian=True)
    return jnp.sum((scatter @ (inverse @ centred).T) ** 2) / scatter.shape[0]


def _simplex_gaps(rows: Float[Array, "c hid"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """How far rows are from equal norms, and from the angles of a simplex."""
    classes = rows.shape[0]
    norms = jnp.linalg.norm(rows, axis=1)
    cosines = (rows @ rows.T) / (norms[:, None] * norms[None, :])
    others = 1.0 - jnp.eye(classes, dtype=rows.dtype)
    gap = jnp.sum(others * jnp.abs(cosines + 1 / (classes - 1))) / (classes * (classes - 1))
    return jnp.std(norms) / jnp.mean(norms), gap


@observable(dims=("skill",), long_name="skill strength")
def skill_strengths(network: PyTree, problem: Problem) -> Float[Array, " skill"]:
    """Strength of every skill in the network, R_k = E[f g_k] / E[g_k^2] (Eq. 11).

    Of a skill network on Modes that is a_k b_k; of any network, the covariance of its output with the
    skill on samples of that skill, `SparseParity.by_skill`: measure it with `on_test`.

    Returns:
        Array of shape (skill,), in units of the target.

    Raises:
        TypeError: If the task knows no skills.

    References:
        Nam et al. (2024), arXiv:2404.17563.
    """
    task: Any = problem.task
    if isinstance(task, SkillSamples):
        return jnp.mean(task.outputs(network) * task.g, axis=1)
    if isinstance(task, Modes) and isinstance(network, DiagonalNetwork):
        return network.strengths
    raise TypeError(
        f"skill_strengths needs to know the skills: a DiagonalNetwork on Modes, or any network on "
        f"SparseParity(...).by_skill(key, n), but it is {type(network).__name__} on {type(task).__name__}. If that is "
        f"the test task, measure lf.on_test(lf.skill_strengths)."
    )
