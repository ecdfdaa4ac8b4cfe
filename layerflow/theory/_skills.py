"""Skills: how the strengths of many skills of unequal frequency grow with time, data and parameters."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from layerflow.base._numerics import safe_root
from layerflow.theory._arguments import counts, ensure, finite, positive, positive_count, times, together
from layerflow.theory._mode import grown_sigmoidally
from layerflow.theory._special import Alike


def skill_frequencies(n_skills: int, alpha: ArrayLike) -> Float[Array, "... skill"]:
    """How often each skill is asked for, by a power law.

        p_k = k^(-(alpha + 1)) / sum_j j^(-(alpha + 1)),    k = 1, ..., n_skills.

    Args:
        n_skills: Number of skills.
        alpha: Exponent, positive, shape (...).

    Returns:
        Frequencies that sum to 1, shape (..., n_skills).

    Raises:
        ValueError: If there is no skill, or `alpha` is not positive.

    Example:
        >>> from layerflow.theory import skill_frequencies
        >>> [f"{p:.4f}" for p in skill_frequencies(5, 0.6)]
        ['0.5927', '0.1955', '0.1022', '0.0645', '0.0451']

    References:
        Nam et al. (2024), arXiv:2404.17563; Michaud et al. (2023), arXiv:2303.13506.
    """
    alpha = positive(alpha, "alpha", "the exponent of the law of frequencies")
    weights = _ranks(n_skills, alpha) ** -(alpha[..., None] + 1)
    return weights / jnp.sum(weights, axis=-1, keepdims=True)


def skill_strengths_in_time(
    t: ArrayLike, frequency: ArrayLike, start: ArrayLike, target: ArrayLike
) -> Float[Array, "... skill"]:
    """Strengths of skills after some training, with data and parameters in plenty.

        R_k(t) = S / (1 + (S / R(0) - 1) e^(-2 S p_k t)):

    each skill is a mode of two equal layers whose input has the variance p_k, and emerges in turn. On
    D samples, of which d_k ask for skill k, replace p_k by d_k / D.

    Args:
        t: Times t >= 0: learning rate times number of steps, shape (...).
        frequency: p_k, in [0, 1], shape (..., skill).
        start, target: R(0) and S, the same for all skills, shape (...).

    The shapes of `t`, `start`, `target` and of `frequency` without its last axis broadcast.

    Returns:
        R_k(t), of the joint shape (..., skill).

    Raises:
        ValueError: If a time is negative or a frequency is not in [0, 1], or a number is not real or
            not finite.

    Example:
        >>> from layerflow.theory import skill_frequencies, skill_strengths_in_time
        >>> strengths = skill_strengths_in_time(2.0, skill_frequencies(5, 0.6), 1e-3, 5.0)
        >>> [f"{strength / 5:.4f}" for strength in strengths]
        ['0.9657', '0.0099', '0.0015', '0.0007', '0.0005']

    References:
        Nam et al. (2024), arXiv:2404.17563; Nam et al. (2025), arXiv:2502.21009, Eqs. 9 and 11.
    """
    t, frequency, start, target = together(
        ("frequency",), t=times(t), frequency=_frequencies(frequency), start=start, target=target
    )
    along = lambda value: jnp.broadcast_to(value[..., None], frequency.shape)
    return grown_sigmoidally(along(t), along(start), along(target), frequency)


def skill_strengths_in_data(
    samples: ArrayLike,
    frequency: ArrayLike,
    target: ArrayLike,
    *,
    start: ArrayLike = 0.0,
    shots: ArrayLike | None = None,
) -> Float[Array, "... skill"]:
    """Strengths of skills after training on D samples to the end.

    A skill of the model is learned from one sample, and else stays as it was. So on average

        R_k = S - (S - R(0)) (1 - p_k)^D.

    Networks need more: with `shots` D_c, as fitted to them,

        R_k = S - (S - R(0)) sqrt(1 - D p_k / D_c)    for D p_k < D_c,    else S.

    Args:
        samples: D >= 0, shape (...).
        frequency: p_k, in [0, 1], shape (..., skill).
        target: S, the same for all skills, shape (...).
        start: R(0), the same for all skills, shape (...).
        shots: D_c, shape (...); one shot if not given.

    The shapes broadcast, that of `frequency` without its last axis.

    Returns:
        R_k, of the joint shape (..., skill).

    Raises:
        ValueError: If `samples` is negative, `shots` is not positive, a frequency is not in [0, 1], or a
            number is not real or not finite.

    Example:
        >>> from layerflow.theory import skill_frequencies, skill_strengths_in_data
        >>> strengths = skill_strengths_in_data(1500, skill_frequencies(5, 0.6), 1.0, shots=800)
        >>> [f"{strength:.3f}" for strength in strengths]
        ['1.000', '0.204', '0.101', '0.062', '0.043']

    References:
        Nam et al. (2024), arXiv:2404.17563: one shot derived, D_c shots as they plot them.
    """
    samples, frequency, target, start, shots_ = together(
        ("frequency",),
        samples=counts(samples, "samples", "a number of samples"),
        frequency=_frequencies(frequency),
        target=target,
        start=start,
        shots=1.0 if shots is None else positive_count(shots, "shots", "the number of samples that teach a skill"),
    )
    if shots is None:
        left = _missed(samples, frequency)
    else:
        left = safe_root(jnp.maximum(1 - samples[..., None] * frequency / shots_[..., None], 0.0))
    return target[..., None] - (target - start)[..., None] * left


def skill_strengths_in_parameters(
    parameters: ArrayLike,
    n_skills: int,
    target: ArrayLike,
    *,
    start: ArrayLike = 0.0,
    per_skill: ArrayLike = 1.0,
) -> Float[Array, "... skill"]:
    """Strengths of skills after training N parameters to the end.

    The most frequent skills are learned, as far as parameters go:

        R_k = R(0) + (S - R(0)) clip(N / N_c - (k - 1), 0, 1).

    Args:
        parameters: N >= 0, shape (...).
        n_skills: Number of skills.
        target: S, the same for all skills, shape (...).
        start: R(0), the same for all skills, shape (...).
        per_skill: N_c, the parameters that a skill takes, shape (...): 1 in the model.

    The shapes broadcast.

    Returns:
        R_k, of the joint shape with the skills as last axis.

    Raises:
        ValueError: If there is no skill, `parameters` is negative, `per_skill` is not positive, or a
            number is not real or not finite.

    Example:
        >>> from layerflow.theory import skill_strengths_in_parameters
        >>> skill_strengths_in_parameters(10, 5, 1.0, per_skill=4).tolist()
        [1.0, 1.0, 0.5, 0.0, 0.0]

    References:
        Nam et al. (2024), arXiv:2404.17563: N_c = 1 derived, others as they plot them.
    """
    parameters, target, start, per_skill = together(
        parameters=counts(parameters, "parameters", "a number of parameters"),
        target=target,
        start=start,
        per_skill=positive_count(per_skill, "per_skill", "the number of parameters that a skill takes"),
    )
    before = _ranks(n_skills, parameters) - 1
    share = jnp.clip((parameters / per_skill)[..., None] - before, 0.0, 1.0)
    return start[..., None] + (target - start)[..., None] * share


def skill_loss(strengths: ArrayLike, frequency: ArrayLike, target: ArrayLike) -> Float[Array, "..."]:
    """Loss of a model of skills.

        L = (1/2) sum_k p_k (S - R_k)^2.

    Args:
        strengths: R_k, shape (..., skill).
        frequency: p_k, in [0, 1], shape (..., skill).
        target: S, the same for all skills, shape (...).

    The shapes broadcast, those of `strengths` and `frequency` without the last axis.

    Returns:
        L, of the joint shape (...).

    Raises:
        ValueError: If a frequency is not in [0, 1], or a number is not real or not finite.

    Example:
        >>> from layerflow.theory import skill_frequencies, skill_loss, skill_strengths_in_time
        >>> frequency = skill_frequencies(5, 0.6)
        >>> print(f"{skill_loss(skill_strengths_in_time(2.0, frequency, 1e-3, 5.0), frequency, 5.0):.5f}")
        5.04658

    References:
        Nam et al. (2024), arXiv:2404.17563.
    """
    strengths, frequency, target = together(
        ("strengths", "frequency"), strengths=strengths, frequency=_frequencies(frequency), target=target
    )
    return 0.5 * jnp.sum(frequency * (target[..., None] - strengths) ** 2, axis=-1)


def expected_skill_loss(
    samples: ArrayLike, frequency: ArrayLike, target: ArrayLike, *, start: ArrayLike = 0.0
) -> Float[Array, "..."]:
    """Loss after training on D samples to the end, averaged over the samples.

        E[L] = (1/2) (S - R(0))^2 sum_k p_k (1 - p_k)^D,

    which is more than the loss at the average strengths, since a skill is learned or not.

    Args:
        samples: D >= 0, shape (...).
        frequency: p_k, in [0, 1], shape (..., skill).
        target, start: S and R(0), the same for all skills, shape (...).

    The shapes broadcast, that of `frequency` without its last axis.

    Returns:
        E[L], of the joint shape (...).

    Raises:
        ValueError: If `samples` is negative, a frequency is not in [0, 1], or a number is not real or
            not finite.

    Example:
        >>> from layerflow.theory import expected_skill_loss, skill_frequencies
        >>> print(f"{expected_skill_loss(0, skill_frequencies(5, 0.6), 5.0):.4f}")
        12.5000

    References:
        Nam et al. (2024), arXiv:2404.17563.
    """
    samples, frequency, target, start = together(
        ("frequency",),
        samples=counts(samples, "samples", "a number of samples"),
        frequency=_frequencies(frequency),
        target=target,
        start=start,
    )
    return 0.5 * (target - start) ** 2 * jnp.sum(frequency * _missed(samples, frequency), axis=-1)


def _frequencies(frequency: ArrayLike) -> Array:
    needs = "Argument `frequency` holds the probabilities of skills and needs numbers in [0, 1]"
    return ensure(finite(frequency, "frequency"), lambda p: (p >= 0) & (p <= 1), needs)


def _ranks(n_skills: int, like: Float[Array, "..."]) -> Float[Array, "... skill"]:
    """1, 2, ..., n_skills along a new last axis."""
    if n_skills < 1:
        raise ValueError(f"Argument `n_skills` is a number of skills and needs to be at least 1, but it is {n_skills}.")
    return jnp.broadcast_to(jnp.arange(1, n_skills + 1, dtype=like.dtype), (*like.shape, n_skills))


@jax.jit
def _missed(samples: Alike, frequency: Float[Array, "*shape skill"]) -> Float[Array, "*shape skill"]:
    """(1 - p)^D, the probability that no sample asks for a skill."""
    certain = frequency == 1
    missed = jnp.exp(samples[..., None] * jnp.log1p(-jnp.where(certain, 0.0, frequency)))
    return jnp.where(certain, jnp.where(samples[..., None] == 0, 1.0, 0.0), missed)
