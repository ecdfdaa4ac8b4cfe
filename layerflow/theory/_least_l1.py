"""The interpolator of least l1 norm, the rich limit of a diagonal network, and how fast its flow nears it."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from layerflow.theory._host import known

_SUPPORT = 1e-9  # of the largest strength: linear programmes end at zeros that are rounding


def least_l1(x: ArrayLike, y: ArrayLike) -> Float[Array, " inp"]:
    """The interpolator of least l1 norm: the limit of `bregman_projection` from beta(0) = 0 for |C| -> 0.

        min sum_i |beta_i|    over all beta with x beta = y,

    a linear programme, by SciPy: of known numbers, and in double precision whatever comes. Of several solutions it is
    one; data drawn from a density have one only.

    Args:
        x: Inputs, one row per sample, shape (n, inp).
        y: Targets, shape (n,).

    Returns:
        beta, shape (inp,), with at most n entries other than 0.

    Raises:
        ValueError: If no solution reaches y, the shapes do not fit, or a number is not real or not finite.
        TypeError: If a number is traced: under `jax.jit`, `jax.vmap`, `jax.grad` or in the cell of a sweep.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import least_l1
        >>> least_l1(jnp.array([[1.0, 0.5, 0.2]]), jnp.array([1.0])).tolist()
        [1.0, 0.0, 0.0]

    References:
        Woodworth et al. (2020), arXiv:2002.09277.
    """
    inputs, targets = known("The least l1 norm", x=x, y=y)
    _check(inputs, targets.shape == inputs.shape[:1], "y", "(n,)", targets)
    inputs, targets = _of_one_size(inputs, targets)
    size = float(np.abs(targets).max()) or 1.0  # the programme's tolerances are absolute
    from scipy.optimize import linprog

    found: Any = linprog(np.ones(2 * inputs.shape[1]), A_eq=np.hstack([inputs, -inputs]), b_eq=targets / size)
    if found.status != 0:
        raise ValueError(
            f"The least l1 norm is that of the beta with x beta = y, but none was found. Give fewer samples than "
            f"inputs, or samples whose targets agree. SciPy says: {found.message}"
        )
    plus, minus = np.split(size * found.x, 2)
    return jnp.asarray(plus - minus)


def l1_rate(x: ArrayLike, strength: ArrayLike) -> Float[Array, ""]:
    """The exponent by which the flow's limit nears the interpolator of least l1 norm, |C| -> 0 from beta(0) = 0.

        |beta(C) - beta(l1)| ~ |C|^{1 - xi},
        xi = min over nu of max_{i off the support} |x_i . nu|,    x_i . nu = sign beta_i on the support,

    a linear programme, by SciPy. Off the support beta_i is of the order of |C|^{1 - |x_i . nu|}. A solution of as
    many entries as samples usually has xi near 1: its norm is nearly the least long before the point is near.

    Args:
        x: Inputs, one row per sample, shape (n, inp).
        strength: The interpolator of least l1 norm, `least_l1`, shape (inp,). Entries below 1e-9 of the largest count
            as 0.

    Returns:
        xi, from 0 to 1, shape (). It was measured to be the exponent; a proof is not known to us.

    Raises:
        ValueError: If no nu has x_i . nu = sign beta_i with xi <= 1, so that `strength` is not of least l1 norm; if it
            is 0 everywhere or nowhere, the shapes do not fit, or a number is not real or not finite.
        TypeError: If a number is traced: under `jax.jit`, `jax.vmap`, `jax.grad` or in the cell of a sweep.

    Example:
        >>> import jax.numpy as jnp
        >>> from layerflow.theory import l1_rate, least_l1
        >>> x = jnp.array([[1.0, 0.5, 0.2]])
        >>> print(f"{l1_rate(x, least_l1(x, jnp.array([1.0]))):.4f}")
        0.5000

    References:
        Woodworth et al. (2020), arXiv:2002.09277, for the limit.
    """
    inputs, beta = known("The rate of the l1 limit", x=x, strength=strength)
    _check(inputs, beta.shape == inputs.shape[1:], "strength", "(inp,)", beta)
    on = np.abs(beta) > _SUPPORT * np.abs(beta).max()
    if not on.any() or on.all():
        raise ValueError(
            f"A rate compares inputs off the support with those on it, so argument `strength` needs entries that are 0 "
            f"and others that are not, but {on.sum()} of {on.size} are not."
        )
    from scipy.optimize import linprog

    (inputs,) = _of_one_size(inputs)
    columns, n = inputs.T, inputs.shape[0]
    bounded = [np.hstack([sign * columns[~on], -np.ones(((~on).sum(), 1))]) for sign in (1, -1)]
    found: Any = linprog(
        np.append(np.zeros(n), 1.0),
        A_ub=np.vstack(bounded),
        b_ub=np.zeros(2 * (~on).sum()),
        A_eq=np.hstack([columns[on], np.zeros((on.sum(), 1))]),
        b_eq=np.sign(beta[on]),
        bounds=[(None, None)] * n + [(0, None)],
    )
    if found.status != 0 or found.fun > 1 + 1e-9:
        raise ValueError(
            "Argument `strength` needs to be the solution of least l1 norm, `least_l1`, but another with the same "
            "x beta has a smaller one: no nu has x_i . nu = sign beta_i on the support and at most 1 elsewhere."
        )
    return jnp.asarray(found.fun)


def _of_one_size(inputs: np.ndarray, *more: np.ndarray) -> tuple[np.ndarray, ...]:
    """The same equations, each sample divided by its largest input: tolerances of programmes are absolute."""
    sizes = np.abs(inputs).max(axis=1)
    sizes = np.where(sizes > 0, sizes, 1.0)
    return inputs / sizes[:, None], *(rows / sizes for rows in more)


def _check(inputs: np.ndarray, fits: bool, name: str, needs: str, other: np.ndarray) -> None:
    if inputs.ndim != 2 or not fits:
        raise ValueError(
            f"Argument `x` needs shape (n, inp) and `{name}` shape {needs}, but they have shapes {inputs.shape} and "
            f"{other.shape}."
        )
