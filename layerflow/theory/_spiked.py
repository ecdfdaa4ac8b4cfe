"""Matrix students of noisy correlations: what of a few strong modes the noise leaves, and how it is learned."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from layerflow.base._checks import check_counts
from layerflow.base._numerics import safe_root
from layerflow.theory._arguments import ensure, finite, not_negative, positive, times, together
from layerflow.theory._marchenko_pastur import spectrum
from layerflow.theory._special import Alike, quotient
from layerflow.theory._transition import strength_of


class Spike(eqx.Module):
    """A mode of a large matrix as it shows up in noise."""

    observed: Float[Array, "*shape"]  # its singular value with the noise
    overlap: Float[Array, "*shape"]  # product of the cosines between its two singular vectors and the true ones


def spike(strength: ArrayLike, outputs_per_input: ArrayLike = 1.0) -> Spike:
    """A mode of strength s in a large matrix of noise, in units of the noise's sqrt(inp) tau.

    Of s u v^T + tau G, with unit vectors u and v and G of shape (out, inp) standard normal, A = out / inp,

        observed = sqrt((1 + s^2)(A + s^2)) / s,
        overlap = (s^4 - A) / (s^2 sqrt((s^2 + A)(s^2 + 1)))        for s > A^(1/4).

    A weaker mode is lost in the noise: its overlap is 0, and `observed` the noise's largest value 1 + sqrt(A).

    Args:
        strength: s >= 0.
        outputs_per_input: A, positive.

    Both shapes broadcast, and the results have the shape they broadcast to.

    Returns:
        The singular value `observed` and the `overlap`.

    Raises:
        ValueError: If the strength is negative, `outputs_per_input` not positive, or a number not real or not finite.

    Example:
        >>> from layerflow.theory import spike
        >>> seen = spike(3.0)
        >>> print(f"{seen.observed:.4f} {seen.overlap:.4f}")
        3.3333 0.8889

    References:
        Benaych-Georges & Nadakuditi (2012), arXiv:1103.2221.
    """
    strength = not_negative(strength, "strength", "a singular value")
    aspect = positive(outputs_per_input, "outputs_per_input", "the number of outputs per input")
    strength, aspect = together(strength=strength, outputs_per_input=aspect)
    return _spike(strength, jnp.ones_like(strength), aspect)


def student_error(
    t: ArrayLike, lam: ArrayLike, strengths: ArrayLike, start: ArrayLike, *, inp: int, out: int, noise: ArrayLike
) -> Float[Array, "..."]:
    """Squared error of a two-layer student of a noisy correlation, on average over large matrices.

    The task is sum_j s_j u_j v_j^T, with orthonormal u and v. The student sees it with noise of standard deviation
    tau in each entry, on whitened inputs, and starts lambda-balanced, aligned with what it sees and with all strengths
    equal. With rho(t; s) of `balanced_strength`, and observed values and overlaps O of `spike`,

        E|W(t) - task|^2 = sum_j [rho(t; observed_j)^2 - 2 s_j O_j rho(t; observed_j) + s_j^2] + n < rho(t; x)^2 >,

    where x are the other n singular values, those of the noise. A mode that is lost in the noise is only missed, its
    part is s_j^2. N samples with label noise sigma have tau = sigma / sqrt(N).

    Args:
        t: Times t >= 0, shape (...).
        lam: Layer imbalance, shape (...).
        strengths: Singular values s_j of the task, shape (..., mode).
        start: rho(0) of all modes, not negative, shape (...).
        inp, out: Widths, both much larger than the number of modes.
        noise: tau, shape (...).

    The shapes of `t`, `lam`, `start`, `noise` and of `strengths` without its last axis broadcast.

    Returns:
        The error of the matrix, of the joint shape (...).

    Raises:
        ValueError: If there are more modes than inputs or outputs, an argument other than `lam` is negative, or a
            number is not real or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import student_error
        >>> times = jnp.array([0.0, 1.5, 10.0])
        >>> errors = student_error(times, 0.0, jnp.array([3.0]), 1e-3, inp=100, out=100, noise=0.1)
        >>> [f"{error:.3f}" for error in errors]
        ['8.995', '2.420', '100.349']

    References:
        Lampinen & Ganguli (2019), arXiv:1809.10374; Benaych-Georges & Nadakuditi (2012), arXiv:1103.2221;
        Dominé et al. (2025), arXiv:2409.14623.
    """
    check_counts(inp=inp, out=out)
    t, lam, strengths, start, noise = together(
        ("strengths",),
        t=times(t),
        lam=lam,
        strengths=not_negative(strengths, "strengths", "the singular values of the task"),
        start=not_negative(start, "start", "the strength of all modes at t = 0"),
        noise=not_negative(noise, "noise", "the standard deviation of the noise"),
    )
    if strengths.shape[-1] > min(inp, out):
        raise ValueError(
            f"A matrix of shape ({out}, {inp}) has {min(inp, out)} singular values, but argument `strengths` has "
            f"{strengths.shape[-1]}."
        )
    return _student_error(t, lam, strengths, start, noise, inp, out)


def joint_strengths(first: ArrayLike, second: ArrayLike, alignment: ArrayLike) -> Float[Array, "... 2"]:
    """Singular values of two tasks with shared inputs and outputs of their own, one mode each.

    s_A u_A v_A^T on s_B u_B v_B^T, with q = v_A.v_B, is a matrix of two modes, of strengths

        s_+-^2 = (s_A^2 + s_B^2) / 2 +- sqrt((s_A^2 - s_B^2)^2 + 4 s_A^2 s_B^2 q^2) / 2.

    Args:
        first, second: s_A and s_B, not negative.
        alignment: q, in [-1, 1].

    All shapes broadcast to one shape (...).

    Returns:
        s_+ and s_-, shape (..., 2).

    Raises:
        ValueError: If a strength is negative, the alignment is not in [-1, 1], or a number is not real or not finite.

    Example:
        >>> from layerflow.theory import joint_strengths
        >>> print(joint_strengths(1.0, 1.0, 0.5).round(4))
        [1.2247 0.7071]

    References:
        Lampinen & Ganguli (2019), arXiv:1809.10374.
    """
    return _joint_strengths(*_pair(first, second, alignment))


def joint_student_error(
    t: ArrayLike,
    lam: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    alignment: ArrayLike,
    start: ArrayLike,
    *,
    inp: int,
    out: int,
    noise: ArrayLike,
) -> Float[Array, "..."]:
    """`student_error` for each of two tasks that are learned together, as in `joint_strengths`.

    The student has all outputs of both; half of its error is that of a task. What is less than the error of either
    task learned alone is the benefit of learning them together: only well aligned tasks have any.

    Args:
        t: Times t >= 0.
        lam: Layer imbalance.
        first, second: s_A and s_B, not negative.
        alignment: q = v_A.v_B, in [-1, 1].
        start: rho(0) of all modes, not negative.
        inp, out: Widths of one task.
        noise: tau, the standard deviation of the noise of each entry.

    All shapes broadcast, and the result has the shape they broadcast to.

    Returns:
        The error per task.

    Raises:
        ValueError: As `student_error` and `joint_strengths` do.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import joint_student_error, student_error
        >>> times, widths = jnp.linspace(0.0, 10.0, 1001), {"inp": 100, "out": 100, "noise": 0.1}
        >>> alone = student_error(times, 0.0, jnp.array([2.5]), 1e-3, **widths).min()
        >>> together = joint_student_error(times, 0.0, 2.5, 2.5, 1.0, 1e-3, **widths).min()
        >>> print(f"{alone - together:.2f}")
        0.68

    References:
        Lampinen & Ganguli (2019), arXiv:1809.10374.
    """
    first, second, alignment = _pair(first, second, alignment)
    strengths = _joint_strengths(first, second, alignment)
    return 0.5 * student_error(t, lam, strengths, start, inp=inp, out=2 * out, noise=noise)


def _pair(first: ArrayLike, second: ArrayLike, alignment: ArrayLike) -> list[Array]:
    strength = "the singular value of a task"
    needs = "Argument `alignment` is the cosine of two vectors and needs to be in [-1, 1]"
    return together(
        first=not_negative(first, "first", strength),
        second=not_negative(second, "second", strength),
        alignment=ensure(finite(alignment, "alignment"), lambda q: abs(q) <= 1, needs),
    )


@jax.jit
def _spike(strength: Alike, unit: Alike, aspect: Alike) -> Spike:
    """In any units, of which `unit` is sqrt(inp) tau."""
    s2, u2 = strength**2, unit**2
    visible = s2**2 > aspect * u2**2
    safe, width = jnp.where(visible, s2, 1.0), jnp.where(visible, (s2 + u2) * (s2 + aspect * u2), 1.0)
    observed = jnp.where(visible, jnp.sqrt(width / safe), unit * (1 + jnp.sqrt(aspect)))
    overlap = jnp.where(visible, (s2**2 - aspect * u2**2) / (safe * jnp.sqrt(width)), 0.0)
    return Spike(observed, overlap)


@eqx.filter_jit
def _student_error(
    t: Alike, lam: Alike, strengths: Float[Array, "*shape mode"], start: Alike, noise: Alike, inp: int, out: int
) -> Alike:
    unit, aspect = inp**0.5 * noise, jnp.full_like(noise, out / inp)

    def strength(values: Array) -> Array:
        t_, lam_, start_ = (jnp.broadcast_to(x[..., None], values.shape) for x in (t, lam, start))
        return strength_of(t_, lam_, values, start_)

    rows = lambda x: jnp.broadcast_to(x[..., None], strengths.shape)
    seen = _spike(strengths, rows(unit), rows(aspect))
    learned = strength(seen.observed)
    visible = seen.overlap > 0
    modes = jnp.sum(jnp.where(visible, learned * (learned - 2 * strengths * seen.overlap), 0.0) + strengths**2, axis=-1)
    others = min(inp, out) - jnp.sum(visible, axis=-1, dtype=t.dtype)
    # A small start makes a steep rise, for which the usual nodes are too far apart.
    law = spectrum(jnp.maximum(aspect, 1 / aspect), step=0.02, reach=24.0)
    noise_values = (unit * jnp.sqrt(jnp.maximum(aspect, 1.0)))[..., None] * jnp.sqrt(law.eta)
    return modes + others * law.mean(strength(noise_values) ** 2)


@jax.jit
def _joint_strengths(first: Alike, second: Alike, alignment: Alike) -> Float[Array, "*shape 2"]:
    a, b = first**2, second**2
    larger = 0.5 * (a + b + safe_root((a - b) ** 2 + 4 * a * b * alignment**2))
    # The product of both is known: no difference of near numbers.
    smaller = quotient(a * b * (1 - alignment**2), larger)
    return jnp.stack([safe_root(larger), safe_root(smaller)], axis=-1)
