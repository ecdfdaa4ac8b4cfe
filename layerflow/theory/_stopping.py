"""When to stop a noisy linear regression, against the best weight decay."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from layerflow.theory._arguments import not_negative, times, together
from layerflow.theory._estimator import sizes
from layerflow.theory._marchenko_pastur import kept, spectrum
from layerflow.theory._roots import root
from layerflow.theory._special import Alike, log1p_over, phi1, quotient


class Ridge(eqx.Module):
    """Ridge regression at its best."""

    decay: Alike  # the nu that makes the test error least
    test: Alike  # that error, E|w - w*|^2


def best_stopping_time(
    samples_per_input: ArrayLike, *, signal: ArrayLike = 1.0, noise: ArrayLike, start: ArrayLike = 0.0
) -> Float[Array, "..."]:
    """When the test error of `estimator_errors` is least, without weight decay.

    It is where <eta e [(sigma^2 / a) q - (|w*|^2 + |w0|^2) e]> = 0, between the best times of the largest and of the
    smallest eigenvalue, see `direction_stopping_time`; solved by halving.

    Args:
        samples_per_input: a = N / d.
        signal: |w*|, the length of the target.
        noise: sigma, the standard deviation of the noise of the targets.
        start: |w0|, of weights that know nothing of the target.

    All shapes broadcast, and the result has the shape they broadcast to.

    Returns:
        The time, infinite without noise, where the test error only falls.

    Raises:
        ValueError: If there are no samples, another argument is negative, or a number is not real or not finite.

    Example:
        >>> from layerflow.theory import best_stopping_time
        >>> print(f"{best_stopping_time(1.0, noise=0.1):.2f}")
        60.40

    References:
        Advani, Saxe & Sompolinsky (2020), arXiv:1710.03667.
    """
    return _best_stopping_time(*together(**sizes(samples_per_input, signal, noise, start)))


def direction_stopping_time(
    eigenvalue: ArrayLike,
    samples_per_input: ArrayLike,
    *,
    signal: ArrayLike = 1.0,
    noise: ArrayLike,
    start: ArrayLike = 0.0,
) -> Float[Array, "..."]:
    """When the test error of one eigendirection of the inputs is least.

        t = ln(1 + a eta (|w*|^2 + |w0|^2) / sigma^2) / eta.

    From weights 0, directions that are each stopped at their own time have the error of `optimal_ridge`.

    Args:
        eigenvalue: eta >= 0, of X^T X / N.
        samples_per_input: a = N / d.
        signal: |w*|.
        noise: sigma.
        start: |w0|.

    All shapes broadcast, and the result has the shape they broadcast to.

    Returns:
        The time, infinite without noise.

    Raises:
        ValueError: If there are no samples, another argument is negative, or a number is not real or not finite.

    Example:
        >>> from layerflow.theory import direction_stopping_time
        >>> print(f"{direction_stopping_time(2.0, 1.0, noise=0.5):.4f}")
        1.0986

    References:
        Advani, Saxe & Sompolinsky (2020), arXiv:1710.03667.
    """
    eigenvalue = not_negative(eigenvalue, "eigenvalue", "an eigenvalue of X^T X / N")
    return _direction_stopping_time(*together(eigenvalue=eigenvalue, **sizes(samples_per_input, signal, noise, start)))


def optimal_ridge(samples_per_input: ArrayLike, *, signal: ArrayLike = 1.0, noise: ArrayLike) -> Ridge:
    """The weight decay with the least test error at t -> inf, and that error.

        nu = sigma^2 / (a |w*|^2),    test = (sigma^2 / a) m,    m = <1 / (eta + nu)> = 2 / (b + sqrt(b^2 + 4 nu / a)),

    b = 1 - 1 / a + nu. No weights linear in the targets do better without knowing the direction of w*.

    Args:
        samples_per_input: a = N / d.
        signal: |w*|.
        noise: sigma.

    All shapes broadcast, and the results have the shape they broadcast to.

    Returns:
        The `decay`, infinite where there is noise and no signal, and the error `test`.

    Raises:
        ValueError: If there are no samples, another argument is negative, or a number is not real or not finite.

    Example:
        >>> from layerflow.theory import optimal_ridge
        >>> ridge = optimal_ridge(0.5, noise=0.5)
        >>> print(f"{ridge.decay:.4f} {ridge.test:.4f}")
        0.5000 0.6404

    References:
        Advani, Saxe & Sompolinsky (2020), arXiv:1710.03667; Dobriban & Wager (2018), arXiv:1507.03003.
    """
    samples, signal, noise, _ = together(**sizes(samples_per_input, signal, noise))
    return _optimal_ridge(samples, signal, noise)


def critical_stopping_time(*, signal: ArrayLike = 1.0, noise: ArrayLike, start: ArrayLike = 0.0) -> Float[Array, "..."]:
    """`best_stopping_time` of as many samples as inputs, a = 1, for little noise.

        t = (1 + sqrt(2)) / 4 (|w*|^2 + |w0|^2) / sigma^2;

    at signal-to-noise ratios of 10, 100 and 1000 the time itself is 0.8 %, 0.07 % and 0.007 % later. The error there
    goes to 1.02703 sqrt(|w*|^2 + |w0|^2) sigma, more slowly.

    Args:
        signal: |w*|.
        noise: sigma.
        start: |w0|.

    All shapes broadcast, and the result has the shape they broadcast to.

    Returns:
        The time, infinite without noise.

    Raises:
        ValueError: If an argument is negative, or a number is not real or not finite.

    Example:
        >>> from layerflow.theory import critical_stopping_time
        >>> print(f"{critical_stopping_time(noise=0.1):.2f}")
        60.36

    References:
        Advani, Saxe & Sompolinsky (2020), arXiv:1710.03667, who measured that the time grows like the ratio.
    """
    _, signal, noise, start = together(**sizes(1.0, signal, noise, start))
    return _critical_stopping_time(signal, noise, start)


def critical_error(
    t: ArrayLike, *, signal: ArrayLike = 1.0, noise: ArrayLike = 0.0, start: ArrayLike = 0.0
) -> Float[Array, "..."]:
    """Test error of `estimator_errors` at late times for as many samples as inputs, a = 1.

        test = (|w*|^2 + |w0|^2) / sqrt(2 pi t) + (2 / sqrt(pi)) (2 - sqrt(2)) sigma^2 sqrt(t).

    There, and there only, the noise is learned for ever: overtraining grows like sqrt(t).

    Args:
        t: Times t >= 0, late ones.
        signal: |w*|.
        noise: sigma.
        start: |w0|.

    All shapes broadcast, and the result has the shape they broadcast to.

    Returns:
        The leading terms of the error, infinite at t = 0.

    Raises:
        ValueError: If an argument is negative, or a number is not real or not finite.

    Example:
        >>> from layerflow.theory import critical_error, estimator_errors
        >>> law, error = critical_error(1e6, noise=0.5), estimator_errors(1e6, 1.0, noise=0.5).test
        >>> print(f"{law:.2f} {error:.2f}")
        165.25 165.12

    References:
        Advani, Saxe & Sompolinsky (2020), arXiv:1710.03667.
    """
    arguments = sizes(1.0, signal, noise, start)
    return _critical_error(*together(t=times(t), **{name: arguments[name] for name in ("signal", "noise", "start")}))


@jax.jit
def _best_stopping_time(ratio: Alike, signal: Alike, noise: Alike, start: Alike) -> Alike:
    law = spectrum(ratio)
    wanted = ratio * (signal**2 + start**2)
    sought = (noise > 0) & (wanted > 0)
    wanted, unwanted = jnp.where(sought, wanted, 1.0), jnp.where(sought, noise, 1.0) ** 2

    def slope(log_t: Array) -> Array:
        """What of the test error's derivative by t has its sign, the slowest decay taken out."""
        time = jnp.exp(log_t)[..., None]
        e, q = jnp.exp(-law.eta * time), time * phi1(law.eta * time)
        change = unwanted[..., None] * q - wanted[..., None] * e
        return law.mean(law.eta * jnp.exp(-law.above * time) * change)

    fast, slow = law.lowest + 4 / jnp.sqrt(ratio), law.lowest
    low, high = (jnp.log(_own_time(eta, wanted / unwanted)) for eta in (fast, slow))
    found = jnp.exp(root(slope, low, high))
    return jnp.where(sought, found, jnp.where(noise > 0, 0.0, jnp.inf))


def _own_time(eta: Alike, snr: Alike) -> Alike:
    return snr * log1p_over(snr * eta)


@jax.jit
def _direction_stopping_time(eta: Alike, ratio: Alike, signal: Alike, noise: Alike, start: Alike) -> Alike:
    noisy = noise > 0
    snr = (signal**2 + start**2) / jnp.where(noisy, noise, 1.0) ** 2
    return jnp.where(noisy, _own_time(eta, ratio * snr), jnp.inf)


@jax.jit
def _optimal_ridge(ratio: Alike, signal: Alike, noise: Alike) -> Ridge:
    scale = ratio * signal**2
    decay = jnp.where((scale == 0) & (noise > 0), jnp.inf, quotient(noise**2, scale))
    return Ridge(decay=decay, test=signal**2 * kept(noise**2, scale, ratio))


@jax.jit
def _critical_stopping_time(signal: Alike, noise: Alike, start: Alike) -> Alike:
    noisy = noise > 0
    snr = (signal**2 + start**2) / jnp.where(noisy, noise, 1.0) ** 2
    return jnp.where(noisy, 0.25 * (1 + math.sqrt(2)) * snr, jnp.inf)


@jax.jit
def _critical_error(t: Alike, signal: Alike, noise: Alike, start: Alike) -> Alike:
    size = signal**2 + start**2
    started = t > 0
    root_t = jnp.sqrt(jnp.where(started, t, 1.0))
    left = jnp.where(started, size / (math.sqrt(2 * math.pi) * root_t), jnp.where(size > 0, jnp.inf, 0.0))
    learned = 2 / math.sqrt(math.pi) * (2 - math.sqrt(2)) * noise**2 * jnp.where(started, root_t, 0.0)
    return left + learned
