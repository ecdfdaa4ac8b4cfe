"""Modular arithmetic: pairs of numbers, and what they make modulo a prime."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from layerflow.base._checks import check_key, whole
from layerflow.tasks._samples import Samples

Operation = Literal["addition", "subtraction", "multiplication", "division"]
_OPERATIONS = {
    "addition": lambda a, b, p: (a + b) % p,
    "subtraction": lambda a, b, p: (a - b) % p,
    "multiplication": lambda a, b, p: (a * b) % p,
    "division": lambda a, b, p: (a * np.array([pow(int(n), -1, p) for n in b])) % p,
}


def modular_arithmetic(
    key: PRNGKeyArray,
    prime: int,
    *,
    train: float = 0.5,
    operation: Operation = "addition",
    form: Literal["pair", "tokens"] = "pair",
) -> tuple[Samples, Samples]:
    """All pairs (a, b) modulo a prime, split at random into those to train and those to test on.

    Targets are one-hot: y_k = 1 if k = a + b mod p (or a - b, a b, a / b), else 0.

    Args:
        key: Source of the split.
        prime: p.
        train: Share of the pairs to train on, between 0 and 1.
        operation: "addition", "subtraction", "multiplication" or "division", the last without b = 0.
        form: "pair" for an MLP, two one-hot vectors in a row of shape (2 p,); "tokens" for a
            transformer, the three tokens a, b and "=" as one-hot vectors, shape (3, p + 1).

    Returns:
        The training task and the test task, with y of shape (n, p).

    Raises:
        ValueError: If `prime` is none, or the operation, the form or the share is none of these.

    Example:
        >>> import jax, layerflow as lf
        >>> train, test = lf.modular_arithmetic(jax.random.key(0), 7, train=0.8)
        >>> train.x.shape, test.y.shape
        ((39, 14), (10, 7))

    References:
        Power et al. (2022), arXiv:2201.02177; Gromov (2023), arXiv:2301.02679.
    """
    check_key(key)
    _check_prime(prime)
    if operation not in _OPERATIONS:
        raise ValueError(f"Argument `operation` is one of {', '.join(_OPERATIONS)}, but it is {operation!r}.")
    if form not in ("pair", "tokens"):
        raise ValueError(f'Argument `form` is "pair" or "tokens", but it is {form!r}.')
    a, b = np.divmod(np.arange(prime**2), prime)
    if operation == "division":
        a, b = a[b > 0], b[b > 0]
    count = round(train * a.size)
    if not 0 < count < a.size:
        raise ValueError(
            f"Argument `train` is a share of the {a.size} pairs that leaves some to train and some to test on, but it "
            f"is {train}."
        )
    dtype = jnp.result_type(float)
    if form == "pair":
        x = np.concatenate([np.eye(prime)[a], np.eye(prime)[b]], axis=1)
    else:
        x = np.eye(prime + 1)[np.stack([a, b, np.full_like(a, prime)], axis=1)]
    y = np.eye(prime)[_OPERATIONS[operation](a, b, prime)]
    order = jax.random.permutation(key, a.size)
    rows = lambda chosen: Samples(jnp.asarray(x, dtype)[chosen], jnp.asarray(y, dtype)[chosen])
    return rows(order[:count]), rows(order[count:])


def _check_prime(prime: int) -> None:
    divisor = None
    if whole(prime) and prime > 1:
        divisor = next((d for d in range(2, math.isqrt(prime) + 1) if prime % d == 0), 0)
    if divisor != 0:
        why = "" if divisor is None else f", which {divisor} divides"
        raise ValueError(
            f"Argument `prime` needs to be a prime, a whole number such as 23 or 113, but it is {prime!r}{why}."
        )
