"""Teachers, tasks whose targets they give, and modes that follow a power law."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, PyTree

from layerflow.base._checks import check_counts, check_key, not_negative, real_array, whole_number
from layerflow.networks import LinearNetwork, linear_model
from layerflow.tasks._modes import Modes
from layerflow.tasks._moments import Moments, inverse_of
from layerflow.tasks._samples import Samples


def teacher(key: PRNGKeyArray, network: PyTree, *, n: int, inp: int, noise: ArrayLike = 0.0) -> Samples:
    """Draw standard normal inputs and let a network give their targets, y = f*(x) + noise * N(0, I).

    Args:
        key: Source of inputs and noise.
        network: The teacher f*, any network that takes a vector.
        n: Samples. Draw the most that are wanted and take `Samples.first` to have their number on an axis.
        inp: Width of the inputs.
        noise: Standard deviation of the noise on every target.

    Returns:
        Task with `x` of shape (n, inp) and one row of `y` per sample.

    Raises:
        ValueError: If there is no sample or input, `noise` is negative, or the teacher does
            not take inputs of this width.

    Example:
        >>> import jax, layerflow as lf
        >>> start = lf.gaussian(jax.random.key(0), (3, 5, 2))
        >>> lf.teacher(jax.random.key(1), start, n=8, inp=3).y.shape
        (8, 2)
    """
    check_key(key)
    check_counts(n=n, inp=inp)
    noise = _deviation(noise)
    x_key, noise_key = jax.random.split(key)
    x = jax.random.normal(x_key, (n, inp))
    try:
        y = jax.vmap(network)(x)
    except (TypeError, ValueError) as error:
        raise ValueError(f"The teacher cannot take an input of shape ({inp},): {error}") from error
    return Samples(x, y + noise * jax.random.normal(noise_key, y.shape, y.dtype))


def sparse_teacher(
    key: PRNGKeyArray, inp: int, *, nonzero: ArrayLike, out: int = 1, size: ArrayLike = 1.0
) -> LinearNetwork:
    """Draw a linear map that sees few of its inputs, as compressed sensing has them to be found.

        y_k = sum_{i in A} (+-size) x_i,    A random, |A| = nonzero, each sign with probability 1/2.

    All outputs see the same inputs A. Of one key, those of a sparser map are among those of a
    denser one, and their signs are the same.

    Args:
        key: Source of inputs and signs.
        inp: Width of the inputs.
        nonzero: How many inputs count, a whole number from 1 to `inp`, shape (); it may be an axis.
        out: Width of the outputs.
        size: Magnitude of the weights, shape ().

    Returns:
        Linear network of one layer, of shape (out, inp).

    Raises:
        ValueError: If a width is below 1, or `nonzero` is none of these numbers.

    Example:
        >>> import jax, layerflow as lf
        >>> w = lf.sparse_teacher(jax.random.key(0), 10, nonzero=3).matrix
        >>> w.shape, int((w != 0).sum()), set(abs(w[w != 0]).tolist())
        ((1, 10), 3, {1.0})

    References:
        Donoho (2006), "Compressed sensing".
    """
    check_key(key)
    check_counts(inp=inp, out=out)
    nonzero = whole_number(nonzero, "nonzero", inp, "non-zero inputs")
    size = real_array(size, "size")
    if size.shape != ():
        raise ValueError(f"Argument `size` is one number, but it has shape {size.shape}.")
    order_key, sign_key = jax.random.split(key)
    seen = jax.random.permutation(order_key, inp) < nonzero
    signs = jax.random.rademacher(sign_key, (out, inp), size.dtype)
    return linear_model(jnp.where(seen[None, :], size * signs, 0.0))


def population(teacher: PyTree, *, noise: ArrayLike = 0.0, xx: ArrayLike | None = None) -> Moments:
    """Second moments of all inputs that there are, and of the targets that a linear teacher W* gives them.

        y = W* x + noise * N(0, I):    E[y x^T] = W* E[x x^T],    E[y y^T] = W* E[x x^T] W*^T + noise^2 I.

    As the test task of a problem it makes `on_test(loss)` the population loss, whatever the number
    of samples to train on; `excess_error` is what of it the teacher does not have.

    Args:
        teacher: Any linear network, with a `matrix` W* of shape (out, inp).
        noise: Standard deviation of the noise on every target, shape ().
        xx: E[x x^T], shape (inp, inp), symmetric; the identity if not given, as of the inputs of `teacher`.

    Returns:
        Task of linear networks, with `floor` = out * noise^2 / 2, the loss of the teacher itself.

    Raises:
        TypeError: If the teacher is not linear.
        ValueError: If `noise` is negative, or `xx` does not fit, is not symmetric or has a negative variance.

    Example:
        >>> import jax, jax.numpy as jnp, layerflow as lf
        >>> teacher = lf.sparse_teacher(jax.random.key(0), 20, nonzero=2)
        >>> task = lf.teacher(jax.random.key(1), teacher, n=10, inp=20, noise=0.1)
        >>> start = lf.linear_model(jnp.zeros(20))
        >>> problem = lf.Problem(start, task, test=lf.population(teacher, noise=0.1))
        >>> print(f"{lf.on_test(lf.loss)(start, problem):.3f} {lf.excess_error(start, problem):.1f}")
        1.005 2.0
    """
    if not hasattr(teacher, "matrix"):
        raise TypeError(
            f"The moments of all inputs are known for targets of a linear teacher, with a `matrix`, but a "
            f"{type(teacher).__name__} has none. Test on many samples: lf.teacher(key, network, n=10_000, inp=inp)."
        )
    w: Array = teacher.matrix
    out, inp = w.shape
    noise = _deviation(noise).astype(w.dtype)
    if noise.shape != ():
        raise ValueError(f"Argument `noise` is one standard deviation for all targets, but has shape {noise.shape}.")
    if xx is None:
        moment = inverse = jnp.eye(inp, dtype=w.dtype)
        yx = w
    else:
        moment = real_array(xx, "xx").astype(w.dtype)
        if moment.shape != (inp, inp):
            raise ValueError(
                f"Argument `xx` is E[x x^T], so for a teacher of {inp} inputs it needs shape ({inp}, {inp}), but it "
                f"has shape {moment.shape}."
            )
        moment, inverse = inverse_of(moment)
        yx = w @ moment
    yy = yx @ w.T + noise**2 * jnp.eye(out, dtype=w.dtype)
    return Moments(moment, yx, yy, inverse=inverse, floor=0.5 * out * noise**2)


def _deviation(noise: ArrayLike) -> Float[Array, "..."]:
    """A standard deviation, or an error."""
    return not_negative(real_array(noise, "noise"), "Argument `noise` is a standard deviation, not negative")


def power_law_modes(modes: int, *, exponent: ArrayLike, target: ArrayLike = 1.0) -> Modes:
    """Modes whose input variances fall as a power of their rank and sum to 1.

        variance_k = k^(-exponent) / sum_j j^(-exponent),    k = 1, ..., modes.

    With exponent = alpha + 1 these are the frequencies of the skills of Nam et al. (2024).

    Args:
        modes: How many.
        exponent: Of the power law, shape ().
        target: S_k of every mode, shape (modes,) or a scalar for all.

    Returns:
        Task of that many modes.

    Raises:
        ValueError: If there is no mode or the shapes do not fit.

    Example:
        >>> import layerflow as lf
        >>> [f"{v:.3f}" for v in lf.power_law_modes(3, exponent=1.6).variance]
        ['0.666', '0.220', '0.115']

    References:
        Nam et al. (2024), arXiv:2404.17563.
    """
    if modes < 1:
        raise ValueError(f"Argument `modes` needs to be at least 1, but it is {modes}.")
    exponent = real_array(exponent, "exponent")
    if exponent.shape != ():
        raise ValueError(f"Argument `exponent` is one number, but it has shape {exponent.shape}.")
    powers = jnp.arange(1, modes + 1, dtype=exponent.dtype) ** -exponent
    return Modes(powers / jnp.sum(powers), target)
