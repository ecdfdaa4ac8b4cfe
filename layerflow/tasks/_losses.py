"""Losses of classification, of one sample each, and what targets they take."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from layerflow.base._checks import is_concrete, require

Criterion = Literal["square", "logistic", "cross-entropy"]


def logistic(outputs: Float[Array, "n ..."], y: Float[Array, "n ..."]) -> Float[Array, " n"]:
    """log(1 + exp(-y f)) of every sample, with y = +-1 and one output."""
    return jax.nn.softplus(-y * outputs).reshape(y.shape[0])


def cross_entropy(outputs: Float[Array, "n classes"], y: Float[Array, "n classes"]) -> Float[Array, " n"]:
    """-sum_k y_k log softmax(f)_k of every sample.

    With m the largest output, -log softmax(f)_k = (f_m - f_k) + log(1 + sum_{j != m} exp(f_j - f_m)): a sum without
    cancellation, so that loss and derivatives keep their digits where the loss is far below rounding of 1.
    """
    largest = outputs == jnp.max(outputs, axis=1, keepdims=True)
    top = largest & (jnp.cumsum(largest, axis=1) == 1)  # the first of equals
    below = jnp.where(top, 0.0, jnp.sum(jnp.where(top, outputs, 0.0), axis=1, keepdims=True) - outputs)
    others = jnp.sum(jnp.where(top, 0.0, jnp.exp(-below)), axis=1, keepdims=True)
    return jnp.sum(y * (below + jnp.log1p(others)), axis=1)


OF_SAMPLE: dict[Criterion, Callable[[Array, Array], Array]] = {"logistic": logistic, "cross-entropy": cross_entropy}


def checked_targets(y: Float[Array, "n ..."], loss: Criterion) -> Float[Array, "n ..."]:
    """Targets as the loss takes them, or an error."""
    if loss == "square":
        return y
    if loss == "logistic":
        return _checked_signs(y)
    if loss == "cross-entropy":
        return _checked_probabilities(y)
    raise ValueError(f'Argument `loss` is "square", "logistic" or "cross-entropy", but it is {loss!r}.')


def or_nan(y: Float[Array, "n ..."], loss: Criterion) -> Float[Array, "n ..."]:
    """Targets as the loss takes them, where no error can be raised: NaN in the rows that it does not take."""
    if loss == "square":
        return y
    rows = y.reshape(y.shape[0], -1)
    right = abs(rows) == 1 if loss == "logistic" else (rows >= 0) & (abs(rows.sum(axis=1, keepdims=True) - 1) <= 1e-3)
    return jnp.where(right.all(axis=1).reshape(-1, *[1] * (y.ndim - 1)), y, jnp.nan)


def _checked_signs(y: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
    """Labels -1 and 1, one to a sample."""
    if y.shape[1:] not in ((), (1,)):
        raise ValueError(
            f'The loss "logistic" is of one output, so `y` needs one label per sample, shape (n,) or (n, 1), but it '
            f'has shape {y.shape}. For more classes than two take loss="cross-entropy".'
        )
    known = np.asarray(y) if is_concrete(y) else y
    return _require_rows(
        y,
        (abs(known) == 1).reshape(-1),
        'The loss "logistic" needs labels -1 and 1',
        "Of labels 0 and 1 write 2 * y - 1, of any numbers jnp.where(y > 0, 1.0, -1.0).",
    )


def _checked_probabilities(y: Float[Array, "n ..."]) -> Float[Array, "n classes"]:
    """Rows of probabilities, of two classes at least."""
    if y.ndim != 2 or y.shape[1] < 2:
        raise ValueError(
            f'The loss "cross-entropy" needs a row of probabilities per sample, so `y` of shape (n, classes) with at '
            f"least two classes, but it has shape {y.shape}. Of numbers of classes write jax.nn.one_hot(y, classes); "
            f'of labels -1 and 1 take loss="logistic".'
        )
    known = np.asarray(y) if is_concrete(y) else y
    rounding = y.shape[1] * float(jnp.finfo(jnp.float32).eps)  # of rows that were computed in float32
    return _require_rows(
        y,
        (known >= 0).all(axis=1) & (abs(known.sum(axis=1) - 1) <= rounding),
        'The loss "cross-entropy" needs rows of probabilities, none negative and of sum 1',
        "Of numbers of classes write jax.nn.one_hot(y, classes), of scores jax.nn.softmax(scores).",
    )


def _require_rows(
    y: Float[Array, "n ..."], right: Bool[Array, " n"] | Bool[np.ndarray, " n"], needs: str, mend: str
) -> Float[Array, "n ..."]:
    """`y` if all of its rows are right, or an error that shows the first that is not."""
    if not isinstance(right, np.ndarray) or right.all():
        return require(y, right, f"{needs}. {mend}")
    row = int(np.argmin(right))
    raise ValueError(f"{needs}, but that of sample {row} is {np.asarray(y)[row]}. {mend}")
