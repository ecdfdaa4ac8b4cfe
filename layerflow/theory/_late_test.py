"""Grokking in linear regression without noise: how long the test error is behind the training error."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import erf, erfinv
from jaxtyping import Array, ArrayLike, Float

from layerflow.theory._arguments import ensure, not_negative, positive, times, together
from layerflow.theory._estimator import EstimatorErrors, decays, errors_of, limit_of, sizes
from layerflow.theory._marchenko_pastur import lower_edge
from layerflow.theory._roots import root
from layerflow.theory._special import Alike

LATEST = 1e17  # times up to which the quadrature of the errors is exact to rounding


class EstimatorTimes(eqx.Module):
    """When the errors come down to a threshold; infinite if they never do."""

    test: Alike
    train: Alike

    @property
    def delay(self) -> Alike:
        """How much later the test error is, NaN if neither error comes down."""
        return self.test - self.train


def estimator_times(
    threshold: ArrayLike,
    samples_per_input: ArrayLike,
    *,
    signal: ArrayLike = 1.0,
    start: ArrayLike = 0.0,
    decay: ArrayLike = 0.0,
) -> EstimatorTimes:
    """When `estimator_errors` without noise come down to a threshold, from the averages themselves.

    Without noise both errors only fall. An accuracy is a threshold by `variance_of_accuracy`.

    Args:
        threshold: What `test` and `train` are to come down to; positive.
        samples_per_input: a = N / d.
        signal: |w*|, the length of the target.
        start: |w0|, of weights that know nothing of the target.
        decay: nu, adds nu |w|^2 / 2 to the loss.

    All shapes broadcast, and the results have the shape they broadcast to.

    Returns:
        The times `test` and `train`, and their difference `delay`. Infinite where an error stays above the
        threshold, or comes down after t = 1e17 only.

    Raises:
        ValueError: If there are no samples, the threshold is not positive, another argument is negative, or a
            number is not real or not finite.

    Example:
        >>> from layerflow.theory import estimator_times
        >>> times = estimator_times(1e-3 / 3.84, 2.0)
        >>> print(f"{times.train:.3f} {times.test:.3f} {times.delay:.3f}")
        14.353 22.948 8.595

    References:
        Levi, Beck & Bar-Sinai (2024), arXiv:2310.16441.
    """
    arguments = sizes(samples_per_input, signal, 0.0, start)
    return _estimator_times(*together(threshold=_thresholds(threshold), **arguments, decay=decays(decay)))


def edge_errors(
    t: ArrayLike, samples_per_input: ArrayLike, *, signal: ArrayLike = 1.0, start: ArrayLike = 0.0
) -> EstimatorErrors:
    """`estimator_errors` at late times without noise, where only the smallest eigenvalues are left to learn.

        test = (|w*|^2 + |w0|^2) (a / (2 pi eta_-)) sqrt(4 / sqrt(a)) (sqrt(pi) / 2) (2 t)^(-3/2) e^{-2 eta_- t},
        train = eta_- test,    eta_- = (1 - a^(-1/2))^2.

    For more samples than inputs, a > 1. For a = 2 the error itself is 6.8 %, 1.8 % and 0.5 % less at eta_- t = 10, 40
    and 160.

    Args:
        t: Times t > 0, much later than 1 / eta_-.
        samples_per_input: a = N / d > 1.
        signal: |w*|.
        start: |w0|.

    All shapes broadcast, and the results have the shape they broadcast to.

    Returns:
        The leading terms of the errors `test` and `train`.

    Raises:
        ValueError: If there are no more samples than inputs, an argument is negative, or a number is not real or
            not finite.

    Example:
        >>> from layerflow.theory import edge_errors, estimator_errors
        >>> print(f"{edge_errors(200.0, 2.0).test / estimator_errors(200.0, 2.0).test:.3f}")
        1.043

    References:
        Levi, Beck & Bar-Sinai (2024), arXiv:2310.16441.
    """
    t = positive(times(t), "t", "a time of a law of late times")
    arguments = sizes(samples_per_input, signal, 0.0, start)
    arguments["samples_per_input"] = _more_samples(arguments["samples_per_input"])
    return _edge_errors(*together(t=t, **{name: arguments[name] for name in ("samples_per_input", "signal", "start")}))


def edge_delay(samples_per_input: ArrayLike) -> Float[Array, "..."]:
    """The delay between training and test error for thresholds so small that eta_- t >> 1.

        delay = ln(1 / eta_-) / (2 eta_-),    eta_- = (1 - a^(-1/2))^2,

    which no longer depends on the threshold. At usual thresholds it is too long, by a factor 5 at d / N = 0.97 and a
    threshold of 1e-3 / 3.84: `estimator_times` has the delay itself.

    Args:
        samples_per_input: a = N / d > 1, shape (...).

    Returns:
        The delay, shape (...).

    Raises:
        ValueError: If there are no more samples than inputs, or a number is not real or not finite.

    Example:
        >>> from layerflow.theory import edge_delay
        >>> print(f"{edge_delay(2.0):.2f}")
        14.31

    References:
        Levi, Beck & Bar-Sinai (2024), arXiv:2310.16441.
    """
    ratio = positive(samples_per_input, "samples_per_input", "the number of samples per input")
    (ratio,) = together(samples_per_input=_more_samples(ratio))
    lowest = lower_edge(ratio)
    return -0.5 * jnp.log(lowest) / lowest


def critical_delay(threshold: ArrayLike, *, signal: ArrayLike = 1.0, start: ArrayLike = 0.0) -> Float[Array, "..."]:
    """The delay between training and test error for as many samples as inputs, a = 1.

        delay = 1 / (2 pi s^2) - (1 / (2 sqrt(pi) s))^(2/3) / 2,    s = threshold / (|w*|^2 + |w0|^2),

    from test = (2 pi t)^(-1/2) and train = (2 t)^(-3/2) / (2 sqrt(pi)) in those units; for s << 1.

    Args:
        threshold: What the errors are to come down to; positive.
        signal: |w*|.
        start: |w0|.

    All shapes broadcast, and the result has the shape they broadcast to.

    Returns:
        The delay.

    Raises:
        ValueError: If the threshold is not positive, another argument is negative, or a number is not real or not
            finite.

    Example:
        >>> from layerflow.theory import critical_delay
        >>> print(f"{critical_delay(0.01):.1f}")
        1586.9

    References:
        Levi, Beck & Bar-Sinai (2024), arXiv:2310.16441.
    """
    arguments = sizes(1.0, signal, 0.0, start)
    threshold, signal, start = together(
        threshold=_thresholds(threshold), signal=arguments["signal"], start=arguments["start"]
    )
    # In powers of s / threshold, for which 0 is no special case.
    size = (signal**2 + start**2) / threshold
    return size**2 / (2 * math.pi) - 0.5 * jnp.cbrt(size / (2 * math.sqrt(math.pi))) ** 2


def forgetting_time(
    threshold: ArrayLike, samples_per_input: ArrayLike, *, signal: ArrayLike = 1.0, start: ArrayLike, decay: ArrayLike
) -> Float[Array, "..."]:
    """When the test error comes down to a threshold for fewer samples than inputs, a < 1, and some decay.

        t = ln((1 - a) |w0|^2 / (threshold - floor)) / (2 nu),

    `floor` the test error of `estimator_limit`. Only the decay takes a large start away where there are no samples;
    the training error is small long before. For |w0|^2 much above the threshold and nu much below eta_-.

    Args:
        threshold: What `test` is to come down to; positive.
        samples_per_input: a = N / d < 1.
        signal: |w*|.
        start: |w0|.
        decay: nu, positive.

    All shapes broadcast, and the result has the shape they broadcast to.

    Returns:
        The time, infinite for a threshold at or below the floor, and 0 where the start is below it already.

    Raises:
        ValueError: If there are no samples or as many as inputs, the threshold or the decay is not positive,
            another argument is negative, or a number is not real or not finite.

    Example:
        >>> from layerflow.theory import estimator_times, forgetting_time
        >>> print(f"{forgetting_time(0.3, 0.8, start=10.0, decay=1e-3):.1f}")
        2649.5
        >>> print(f"{estimator_times(0.3, 0.8, start=10.0, decay=1e-3).test:.1f}")
        2649.5

    References:
        Liu et al. (2023), arXiv:2210.01117; Levi, Beck & Bar-Sinai (2024), arXiv:2310.16441.
    """
    arguments = sizes(samples_per_input, signal, 0.0, start)
    needs = "For as many samples as inputs or more there is nothing that only decay forgets, so `samples_per_input - 1`"
    ratio = arguments["samples_per_input"]
    few = ensure(ratio - 1, lambda x: x < 0, f"{needs} needs to be negative")
    arguments["samples_per_input"] = ratio + 0 * few
    decay = positive(decay, "decay", "what forgets the start")
    return _forgetting_time(*together(threshold=_thresholds(threshold), **arguments, decay=decay))


def accuracy_of_variance(variance: ArrayLike, tolerance: ArrayLike) -> Float[Array, "..."]:
    """Share of outputs whose squared error is within a tolerance, for Gaussian errors.

        accuracy = erf(sqrt(tolerance / (2 variance))).

    Args:
        variance: Mean squared error, `test` or `train` of `estimator_errors`.
        tolerance: Largest squared error that counts as right; positive.

    All shapes broadcast, and the result has the shape they broadcast to.

    Returns:
        The accuracy, in [0, 1].

    Raises:
        ValueError: If the variance is negative, the tolerance is not positive, or a number is not real or not finite.

    Example:
        >>> from layerflow.theory import accuracy_of_variance
        >>> print(f"{accuracy_of_variance(1.0, 1.0):.4f}")
        0.6827

    References:
        Levi, Beck & Bar-Sinai (2024), arXiv:2310.16441.
    """
    variance = not_negative(variance, "variance", "a mean squared error")
    variance, tolerance = together(variance=variance, tolerance=_tolerances(tolerance))
    exact = variance == 0
    return jnp.where(exact, 1.0, erf(jnp.sqrt(0.5 * tolerance / jnp.where(exact, 1.0, variance))))


def variance_of_accuracy(accuracy: ArrayLike, tolerance: ArrayLike) -> Float[Array, "..."]:
    """The mean squared error with a given accuracy, for Gaussian errors: the inverse of `accuracy_of_variance`.

        variance = tolerance / (2 erfinv(accuracy)^2),    tolerance / 3.8415 at an accuracy of 95 %.

    Args:
        accuracy: Share of outputs whose squared error is within the tolerance, in (0, 1).
        tolerance: Largest squared error that counts as right; positive.

    All shapes broadcast, and the result has the shape they broadcast to.

    Returns:
        The variance.

    Raises:
        ValueError: If the accuracy is not between 0 and 1, the tolerance is not positive, or a number is not real or
            not finite.

    Example:
        >>> from layerflow.theory import variance_of_accuracy
        >>> print(f"{1 / variance_of_accuracy(0.95, 1.0):.4f}")
        3.8415

    References:
        Levi, Beck & Bar-Sinai (2024), arXiv:2310.16441.
    """
    accuracy = positive(accuracy, "accuracy", "a share of outputs")
    below = ensure(
        accuracy - 1, lambda x: x < 0, "A share of outputs is below 1, so `accuracy - 1` needs to be negative"
    )
    accuracy, tolerance = together(accuracy=accuracy + 0 * below, tolerance=_tolerances(tolerance))
    return 0.5 * tolerance / erfinv(accuracy) ** 2


def _thresholds(threshold: ArrayLike) -> Array:
    return positive(threshold, "threshold", "a mean squared error to come down to")


def _tolerances(tolerance: ArrayLike) -> Array:
    return positive(tolerance, "tolerance", "the largest squared error that counts as right")


def _more_samples(ratio: Array) -> Array:
    needs = (
        "The smallest eigenvalue is above 0 for more samples than inputs only, so `samples_per_input - 1` needs to be"
    )
    return ratio + 0 * ensure(ratio - 1, lambda x: x > 0, f"{needs} positive")


@jax.jit
def _estimator_times(
    threshold: Alike, ratio: Alike, signal: Alike, noise: Alike, start: Alike, decay: Alike
) -> EstimatorTimes:
    size = signal**2 + start**2
    ahead = threshold < size
    signal = jnp.where(ahead, signal, 1.0)
    limit = limit_of(ratio, signal, noise, start, decay)
    last = errors_of(jnp.full_like(threshold, LATEST), ratio, signal, noise, start, decay)
    # <e^{-2 eta t}> >= e^{-2 <eta> t}, and the mean of eta that the training error is weighted by is 1 + 1 / a.
    least = jnp.log(jnp.where(ahead, size / threshold, 2.0)) / (2 * (1 + 1 / ratio + decay))
    # Both at once, at times of their own: the program is half as long.
    twice = lambda x: jnp.broadcast_to(x, (2, *x.shape))
    arguments = [twice(x) for x in (ratio, signal, noise, start, decay)]
    ends = jnp.stack([jnp.maximum(limit.test, last.test), jnp.maximum(limit.train, last.train)])
    comes = twice(ahead) & (ends < twice(threshold))

    def below(log_t: Array) -> Array:
        now = errors_of(jnp.exp(log_t), *arguments)
        level = jnp.where(comes, twice(threshold), 1.0)
        return jnp.log(level) - jnp.log(jnp.stack([now.test[0], now.train[1]]))

    found = jnp.exp(root(below, twice(jnp.log(least)), jnp.full_like(arguments[0], math.log(LATEST))))
    test, train = jnp.where(comes, found, jnp.where(twice(ahead), jnp.inf, 0.0))
    return EstimatorTimes(test=test, train=train)


@jax.jit
def _edge_errors(t: Alike, ratio: Alike, signal: Alike, start: Alike) -> EstimatorErrors:
    lowest = lower_edge(ratio)
    train = (signal**2 + start**2) * ratio**0.75 / (2 * math.sqrt(math.pi)) * (2 * t) ** -1.5 * jnp.exp(-2 * lowest * t)
    return EstimatorErrors(test=train / lowest, train=train)


@jax.jit
def _forgetting_time(threshold: Alike, ratio: Alike, signal: Alike, noise: Alike, start: Alike, decay: Alike) -> Alike:
    floor = limit_of(ratio, signal, noise, start, decay).test
    comes = threshold > floor
    over = (1 - ratio) * start**2 / jnp.where(comes, threshold - floor, 1.0)
    return jnp.where(comes, jnp.log(jnp.maximum(over, 1.0)) / (2 * decay), jnp.inf)
