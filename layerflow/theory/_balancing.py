"""How descent balances the layers of a scalar network, which gradient flow leaves as they are."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from layerflow.theory._arguments import not_negative, together, variances
from layerflow.theory._growth import rates
from layerflow.theory._scalar import divisors, parts, scalar_arguments, signed
from layerflow.theory._special import Alike, or_infinite, phi2, quotient


def balancing(
    a0: ArrayLike, b0: ArrayLike, target: ArrayLike, *, z: ArrayLike = 1.0, variance: ArrayLike = 1.0
) -> Float[Array, "..."]:
    """How fast steps of descent balance the layers of a scalar network, to first order in their size.

        log(C_inf / C_0) = -eta J + O(eta^2),
        J = (E / Z)^2 int (f - S)^2 dt = (E / 2Z) [S log gamma_inf - (r - Sigma_0)]    along the flow.

    J is computed as a sum of terms that are not negative, so that starts near f = S keep their digits.

    Args:
        a0, b0: Weights at the start, shape (..., p).
        target: S, of any sign.
        z: Z, not zero.
        variance: E = E[x^2].

    The shapes broadcast as for `scalar_network`.

    Returns:
        J, shape (...): one over the step size. Infinite if the flow ends at the saddle f = 0 (`ends_at_saddle`).

    Raises:
        ValueError: If a variance is negative, Z is 0, or a number is not real or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import balancing
        >>> print(f"{balancing(jnp.array([1.5**0.5]), jnp.array([0.0]), 1.0):.6f}")
        0.299306

    References:
        The law at width 1 is the first order of the map in Kreisler et al. (2023), arXiv:2305.13064.
    """
    return _balancing(*scalar_arguments(a0=a0, b0=b0, target=target, variance=variance, z=z))


def label_noise_balancing(
    learning_rate: ArrayLike,
    noise: ArrayLike,
    *,
    sharpness: ArrayLike = 0.0,
    z: ArrayLike = 1.0,
    variance: ArrayLike = 1.0,
) -> Float[Array, "..."]:
    """How fast noise of the target balances the layers of a scalar network that has been trained.

        E[C] ~ exp(-rate t),    t = eta k,    rate = eta (E / Z)^2 sigma^2 / (1 - eta sharpness / 2).

    In each step k the target is S + sigma xi with fresh xi of variance 1, so that e^2 in `scalar_descent` never ends,
    and all minima drift to the flattest. The last factor counts how f fluctuates around S; it is 1 for small steps.

    Args:
        learning_rate: eta, of a step, not negative.
        noise: sigma, the standard deviation of the target S. Independent noise of the labels of N samples with
            standard deviation s is sigma = s / sqrt(N E).
        sharpness: That of the minimum, 2 E Sigma / Z, as `flow_sharpness` gives it; 0 is the limit of small steps.
        z: Z, not zero.
        variance: E = E[x^2].

    All shapes broadcast to one shape (...).

    Returns:
        The rate, one over the gradient-flow time, shape (...); infinite where eta times the sharpness is 2 or more,
        where the minimum is not stable.

    Raises:
        ValueError: If a step size, noise, a sharpness or a variance is negative, Z is 0, or a number is not real or
            not finite.

    Example:
        >>> from layerflow.theory import label_noise_balancing
        >>> print(f"{label_noise_balancing(0.02, 0.5, sharpness=2.0):.6f}")
        0.005102

    References:
        Our own, from the map of `scalar_descent`.
    """
    given = {
        "learning_rate": not_negative(learning_rate, "learning_rate", "the size of a step"),
        "noise": not_negative(noise, "noise", "a standard deviation"),
        "sharpness": not_negative(sharpness, "sharpness", "the curvature of a minimum"),
        "variance": variances(variance),
        "z": divisors(z),
    }
    return _label_noise_balancing(*together(**given))


@jax.jit
def _balancing(a0: Float[Array, "*shape p"], b0: Float[Array, "*shape p"], target: Alike, e: Alike, z: Alike) -> Alike:
    a, b = parts(a0, b0, z)
    # The mirror image, f -> -f, leaves J as it is: only S >= 0 is left to do, and at S = 0 only A <= B.
    rising = (target > 0) | ((target == 0) & (a <= b))
    fed, starved = jnp.where(rising, a, b), jnp.where(rising, b, a)
    size = jnp.where(target >= 0, target, -target)
    output = jnp.sum(a0 * signed(b0, z), axis=-1) / jnp.abs(z)
    r, end, _ = rates(size, a, b)
    # With gamma = end / fed, y = log gamma and w = 1 - 1 / gamma it is starved w^2 / 2 + S (y - w): what cancels in
    # S y - (r - Sigma_0) is gone.
    left = size - jnp.where(rising, output, -output)
    w = jnp.where(end > 0, quotient(left, end) * quotient(end + fed, r + 0.5 * (a + b)), 1.0)
    near = jnp.abs(w) < 0.5
    close = -jnp.log1p(-jnp.where(near, w, 0.0))
    away = ~near & (fed > 0) & (end > 0)
    far = jnp.log(jnp.where(away, end, 1.0)) - jnp.log(jnp.where(away, fed, 1.0))
    excess = jnp.where(near, close**2 * phi2(close), far - w)
    integral = 0.5 * e / jnp.abs(z) * (0.5 * starved * w**2 + size * excess)
    return jnp.where((fed == 0) & (size > 0) & (e > 0), jnp.inf, integral)


@jax.jit
def _label_noise_balancing(eta: Alike, noise: Alike, sharpness: Alike, e: Alike, z: Alike) -> Alike:
    stable = 1 - 0.5 * eta * sharpness
    return or_infinite(eta * (e * noise / z) ** 2, stable)
