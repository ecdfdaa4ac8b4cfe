"""Polynomial regression: a power of one direction of the inputs."""

import math

import jax
from jaxtyping import PRNGKeyArray

from layerflow.base._checks import check_counts, check_key
from layerflow.tasks._samples import Samples


def polynomial_regression(
    key: PRNGKeyArray, *, n: int, inp: int, test: int = 1000, degree: int = 2
) -> tuple[Samples, Samples]:
    """Targets that are a power of one direction of Gaussian inputs.

        y = (beta . x)^degree / degree!,    x ~ N(0, I / inp),    beta ~ N(0, I).

    Args:
        key: Source of direction and inputs.
        n: Samples to train on.
        inp: Width of the inputs.
        test: Samples to test on.
        degree: Of the power.

    Returns:
        The training task, `x` of shape (n, inp) and `y` of shape (n, 1), and the test task, of `test`
        further samples.

    Raises:
        ValueError: If a number is below 1.

    Example:
        >>> import jax, layerflow as lf
        >>> train, test = lf.polynomial_regression(jax.random.key(0), n=550, inp=100)
        >>> train.x.shape, test.y.shape
        ((550, 100), (1000, 1))

    References:
        Kumar et al. (2024), arXiv:2310.06110, section 4.
    """
    check_key(key)
    check_counts(n=n, inp=inp, test=test, degree=degree)
    direction_key, input_key = jax.random.split(key)
    direction = jax.random.normal(direction_key, (inp, 1))
    x = jax.random.normal(input_key, (n + test, inp)) / inp**0.5
    y = (x @ direction) ** degree / math.factorial(degree)
    return Samples(x[:n], y[:n]), Samples(x[n:], y[n:])
